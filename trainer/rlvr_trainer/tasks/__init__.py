"""Provide tasks: sources of rows that can be verified.

A user's task is a class in a file: `task: /path/to/file.py:MyTask`. Most subclass
`QuestionAnswer` and override `parse` or `default_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.rewards.user_code import load_user_code
from rlvr_trainer.tasks.arithmetic import Arithmetic
from rlvr_trainer.tasks.base import Row, Split, Task, UnusableRow
from rlvr_trainer.tasks.gsm8k import GSM8K
from rlvr_trainer.tasks.question_answer import QuestionAnswer

__all__ = [
    "GSM8K",
    "TASKS",
    "Arithmetic",
    "QuestionAnswer",
    "Row",
    "Split",
    "Task",
    "UnusableRow",
    "load_task",
]

TASKS: Mapping[str, Callable[[], Task]] = {
    "gsm8k": GSM8K,
    "arithmetic": Arithmetic,
    "question-answer": QuestionAnswer,
}
"""Built-in tasks by name."""


def load_task(spec: str) -> Task:
    """Return the built-in task, or the user's `package.module:Class` or `file.py:Class`.

    Raises ConfigError.
    """
    if spec in TASKS:
        return TASKS[spec]()
    if ":" not in spec:
        raise ConfigError(
            f"task: {spec!r} is not a built-in task ({', '.join(TASKS)})"
            f"{did_you_mean(spec, TASKS)}; for your own, write package.module:Class or "
            "/path/to/file.py:Class"
        )
    task_class = load_user_code(spec, field="task")
    if not (isinstance(task_class, type) and issubclass(task_class, Task)):
        raise ConfigError(
            f"task: {spec!r} is not a subclass of rlvr_trainer.tasks.Task; derive it from "
            "QuestionAnswer, or from Task"
        )
    try:
        return task_class()
    except Exception as error:
        raise ConfigError(
            f"task: {spec}() raises {type(error).__name__}: {error}; it is made without arguments"
        ) from error
