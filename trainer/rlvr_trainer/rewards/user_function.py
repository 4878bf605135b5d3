"""Call a user's reward function: by row or by batch, plain or async, with or without a time limit.

- `(completion, row)` returns a number; `row` has all columns.
- `(prompts, completions, **columns)`, TRL's signature, returns a list of numbers. A function with a
  parameter `completions` is one; it gets the columns that it names, or all with `**`.
- An async function of either kind is awaited; all completions of a batch side by side.

With a time limit, the function runs in worker processes, which import its module. A call that
exceeds the limit could not be verified, and its worker is killed. A function by row is called in
several workers side by side; an async one, or one by batch, in one call of one worker.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.rewards.reward import Reward, Unverifiable, number_of
from rlvr_trainer.rewards.user_code import load_user_code
from rlvr_trainer.verifiers import Case
from rlvr_trainer.workers import WorkerFailure, worker_pool
from rlvr_trainer.workers.worker_pool import default_num_workers

MIN_WORKERS = 4
"""Workers of a function by row, if there are fewer cores: it may wait for a service."""
GRACE_S = 2.0
"""Time beyond the limit for a worker to say which of its async calls exceeded it."""


class UserReward(Reward):
    """A reward by a user's function."""

    def __init__(self, field: str, spec: str, timeout_s: float | None = None) -> None:
        """Load the function that `spec` names. Raises ConfigError, which names `field`."""
        function = load_user_code(spec, field=field)
        if not callable(function):
            raise ConfigError(
                f"{field}: {spec!r} is a {type(function).__name__}, not a function; "
                "name a function of (completion, row)"
            )
        super().__init__(f"{field}: {spec}", function)
        self._spec, self._field, self._timeout_s = spec, field, timeout_s

    def _values(self, cases: Sequence[Case]) -> Sequence[Any]:
        if self._timeout_s is None:
            return call(self._function, cases)
        plain = [[case.completion, dict(case.row), case.prompt] for case in cases]
        is_whole = is_async(self._function) or takes_batch(self._function)
        pool = worker_pool(
            "rlvr_trainer.rewards.user_function:served",
            self._spec,
            self._field,
            num_workers=1 if is_whole else max(MIN_WORKERS, default_num_workers()),
        )
        limit_s, grace_s = self._timeout_s, GRACE_S if is_async(self._function) else 0.0
        parts = [plain] if is_whole else [[case] for case in plain]
        results = pool.call([[part, limit_s] for part in parts], limit_s + grace_s)
        outcomes: list[Any] = []
        for part, result in zip(parts, results, strict=True):
            is_failure = isinstance(result, WorkerFailure)
            outcomes += [Unverifiable(str(result))] * len(part) if is_failure else result
        return [
            outcome if isinstance(outcome, float | Unverifiable) else Unverifiable(outcome)
            for outcome in outcomes
        ]


def served(spec: str, field: str) -> Callable[[list[list[Any]], float], list[float | str]]:
    """Return the calls of a function by a worker: numbers, or reasons why there is none."""
    function = load_user_code(spec, field=field)

    def serve(plain: list[list[Any]], limit_s: float) -> list[float | str]:
        cases = [Case(completion, row, prompt) for completion, row, prompt in plain]
        return [_plain(value) for value in call(function, cases, limit_s)]

    return serve


def call(function: Any, cases: Sequence[Case], limit_s: float | None = None) -> Sequence[Any]:
    """Return what the function returns or raises for each case.

    `limit_s` limits async calls, each by itself unless the function takes the batch.
    """
    try:
        if takes_batch(function):
            values = function(**_batch(function, cases))
            if inspect.isawaitable(values):
                (values,) = _awaited([values], limit_s)
            if isinstance(values, BaseException):
                raise values
            values = list(values)
            if len(values) != len(cases):
                raise Unverifiable(
                    f"returned {len(values)} rewards for {len(cases)} completions, not one each"
                )
            return values
    except (Exception, SystemExit) as error:
        return [error] * len(cases)
    values = [_called(function, case) for case in cases]
    waiting = [index for index, value in enumerate(values) if inspect.isawaitable(value)]
    if waiting:
        awaited = _awaited([values[index] for index in waiting], limit_s)
        for index, value in zip(waiting, awaited, strict=True):
            values[index] = value
    return values


def takes_batch(function: Any) -> bool:
    """Return True for a function of TRL's signature."""
    return "completions" in _parameters(function)


def is_async(function: Any) -> bool:
    """Return True for an async function, or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def _called(function: Any, case: Case) -> Any:
    try:
        return function(case.completion, dict(case.row))  # a copy, which it may change
    except (Exception, SystemExit) as error:
        return error


def _batch(function: Any, cases: Sequence[Case]) -> dict[str, list[Any]]:
    """Return the arguments of a function of TRL's signature: a list for each column."""
    names = dict.fromkeys(name for case in cases for name in case.row)
    columns = {name: [case.row.get(name) for case in cases] for name in names}
    columns["prompts"] = [case.prompt for case in cases]
    columns["completions"] = [case.completion for case in cases]
    parameters = _parameters(function)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return columns
    return {name: column for name, column in columns.items() if name in parameters}


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of some built-in functions
        return {}


def _awaited(awaitables: Sequence[Any], limit_s: float | None) -> list[Any]:
    """Return what awaitables return or raise, side by side and each within the limit."""

    async def gather() -> list[Any]:
        limited = [_within(awaitable, limit_s) for awaitable in awaitables]
        return await asyncio.gather(*limited, return_exceptions=True)

    with ThreadPoolExecutor(1) as thread:  # this one may have an event loop
        running: Coroutine[Any, Any, list[Any]] = gather()
        return thread.submit(asyncio.run, running).result()


async def _within(awaitable: Any, limit_s: float | None) -> Any:
    try:
        return await asyncio.wait_for(awaitable, limit_s)
    except TimeoutError as error:
        if limit_s is None:
            raise
        raise Unverifiable(f"took longer than {limit_s:g} s, so it was cancelled") from error


def _plain(value: Any) -> float | str:
    """Return a reward as a number, or the reason why it is none."""
    try:
        if isinstance(value, BaseException):
            raise value
        return number_of(value)
    except (Exception, SystemExit) as error:
        raised = "" if isinstance(error, Unverifiable) else f"raised {type(error).__name__}: "
        return f"{raised}{error}"
