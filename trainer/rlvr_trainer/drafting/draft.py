"""Choose the settings of a recipe from its rows, each with the reason for it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_trainer.drafting.row_columns import (
    OPTION_COLUMNS,
    answer_kind,
    guess_columns,
    parsed_rows,
)
from rlvr_trainer.drafting.source_splits import Sources, folder_of, read_rows
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.outcome import count
from rlvr_trainer.models.fit import local_facts
from rlvr_trainer.recipe.schema import EMBEDDED_PREFIX, ModelSection
from rlvr_trainer.tasks import Row
from rlvr_trainer.verifiers import VERIFIERS

CHARACTERS_PER_TOKEN = 3.0
"""A cautious estimate: text with numbers has more."""
NUM_GENERATIONS = 8
MIN_ROWS = 20
SHOTS = (8, 4, 2, 1)
STOPS = ("Question:", "Problem:", "Task:", "Exercise:")
CONTEXT = 2048
_PLAIN = re.compile(r"[A-Za-z./][\w./-]*(:[\w./-]+)*")
"""Matches a text that YAML reads as it is, without quotes."""
_NOT_TEXT = ("true", "false", "null", "True", "False", "TRUE", "FALSE", "Null", "NULL")
_INSTRUCT = re.compile(r"instruct|chat|-it\b", re.IGNORECASE)
ASKED = "Solve the problem. End with a line that gives the answer:"
KINDS_ASKED = {"number": "NUMBER", "choice": "LETTER"}
MARKER = "#### The final answer is"


@dataclass(frozen=True)
class Setting:
    """A field of the recipe, and the reason for its value."""

    field: str
    value: Any
    reason: str = ""


@dataclass(frozen=True)
class Draft:
    """A recipe as its settings, and what is not sure about them."""

    settings: Sequence[Setting]
    doubts: Sequence[str]

    def tree(self) -> dict[str, Any]:
        """Return the recipe as a tree."""
        tree: dict[str, Any] = {}
        for setting in self.settings:
            section, _, field = setting.field.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[field] = setting.value
        return tree

    def yaml(self, heading: str) -> str:
        """Return the recipe's file, with a comment for each reason and doubt."""
        return "\n".join([f"# {heading}", *self._lines()]) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from (f"# Not sure: {doubt}." for doubt in self.doubts)
        section = ""
        for setting in self.settings:
            parent, _, field = setting.field.rpartition(".")
            if parent and parent != section:
                yield f"{parent}:"
            section = parent
            indent = "  " if parent else ""
            comment = f"  # {setting.reason}" if setting.reason else ""
            yield f"{indent}{field}: {_as_yaml(setting.value)}{comment}"


def _as_yaml(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML


def draft_recipe(sources: Sources, model: str, folder: Path) -> Draft:
    """Draft a recipe for a file in `folder` from the first rows of a source.

    `model` is a name as in a recipe, a hub id with `@revision`. Raises ConfigError if the rows have
    no question and answer that a verifier can judge, DataError.
    """
    raw = read_rows(sources.train)
    columns = guess_columns(raw)
    rows = parsed_rows(raw, columns.renamed)
    if len(rows) < MIN_ROWS:
        raise ConfigError(
            f"{sources.train} has {len(rows)} rows with a question and an answer, of {len(raw)} "
            f"that were read; a recipe needs {MIN_ROWS} or more"
        )
    kind = _kind(rows)
    doubts = list(columns.doubts)
    settings = [
        Setting("name", _name(sources.train)),
        Setting("task", "question-answer"),
        *_data(sources, columns.renamed, rows, len(raw), folder),
        *_prompt(rows, kind, model, doubts),
    ]
    if kind != "number":
        reward = {"format": {"weight": 0.5}, "correctness": {"verifier": kind}}
        settings.append(Setting("rewards", reward, f"the answers look like {kind}"))
    settings += [*_model(model, rows, doubts), *_training(model, len(rows), doubts)]
    return Draft(settings, doubts)


def _kind(rows: Sequence[Row]) -> str:
    kind = answer_kind(rows)
    known = {verifier.model_fields["verifier"].default for verifier in VERIFIERS}
    if kind not in known:
        raise ConfigError(
            f"the answers, such as {rows[0].answer[:60]!r}, are for none of the verifiers "
            f"({', '.join(sorted(known))}); write a recipe with a reward of your own "
            "(rewards.NAME.function)"
        )
    return kind


def _name(source: str) -> str:
    stem = re.sub(r"[?@].*", "", source).rstrip("/*").rpartition("/")[2].partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower())[:24].strip("-") or "mine"


def _data(
    sources: Sources, renamed: Mapping[str, str], rows: Sequence[Row], num_raw: int, folder: Path
) -> Iterator[Setting]:
    yield Setting("data.train", _beside(sources.train, folder))
    if sources.test:
        yield Setting("data.test", _beside(sources.test, folder), "the test rows beside")
    else:
        fraction = 0.2 if len(rows) < 500 else 0.1
        yield Setting("data.test_fraction", fraction, "no test rows beside: a share of these")
    if renamed:
        yield Setting("data.columns", dict(renamed), "names of the columns")
    shots = _num_shots(rows)
    yield Setting("data.num_exemplars", shots)
    questions = {row.question for row in rows}
    bad = (num_raw - len(questions)) / num_raw
    if bad > 0.005:
        allowed = min(1.0, math.ceil(bad * 20 + 0.5) / 20)
        reason = f"{bad:.1%} of the first {num_raw:,} rows are unusable or stand twice"
        yield Setting("data.max_quarantined_fraction", allowed, reason)


def _beside(source: str, folder: Path) -> str:
    """Return a path relative to the recipe's folder if it is in it."""
    if "://" in source:
        return source
    path = Path(source).expanduser().absolute()
    return f"./{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)


def _prompt(rows: Sequence[Row], kind: str, model: str, doubts: list[str]) -> Iterator[Setting]:
    options = next((name for name in OPTION_COLUMNS if name in rows[0].extra), "")
    shown = f"\nOptions: {{{options}}}" if kind == "choice" and options else ""
    if shown:
        doubts.append(f"the options are shown as the column {options} is written")
    no_worked = "" if _worked(rows) else "the rows hold no worked text"
    template = _chat_template(model)
    is_chat = bool(template) if template is not None else bool(_INSTRUCT.search(model))
    if is_chat:
        named = "is named like" if template is None else "has the chat template of"
        yield Setting("prompt.style", "chat", f"the model {named} an instruct model")
        yield Setting("prompt.system", f"{ASKED}\n{MARKER} {KINDS_ASKED.get(kind, 'ANSWER')}")
        if shown:
            yield Setting("prompt.question_template", f"{{question}}{shown}")
    else:
        if template is None:
            doubts.append("whether the model has a chat template (prompt.style: chat)")
        yield from _asked_in_text(rows, shown)
    if no_worked:
        answer = f"{MARKER} {{answer}}"
        yield Setting("prompt.solution_template", answer if is_chat else f"\n{answer}", no_worked)
    reason = "worked examples that show the form of an answer"
    yield Setting("prompt.num_shots", _num_shots(rows), reason)


def _asked_in_text(rows: Sequence[Row], shown: str) -> Iterator[Setting]:
    """Yield the layout of a question, with a stop that no line of the rows begins with."""
    texts = "\n".join(f"\n{row.question}\n{row.solution}" for row in rows)
    free = [stop for stop in STOPS if f"\n{stop}" not in texts]
    stop = free[0] if free else STOPS[0]
    if stop != STOPS[0] or shown:
        template = f"{stop} {{question}}{shown}\nSolution:"
        reason = f"lines of the rows begin with {STOPS[0]}" if stop != STOPS[0] else ""
        yield Setting("prompt.question_template", template, reason)
        yield Setting("prompt.stop", stop)


def _chat_template(model: str) -> str | None:
    """Return the template of a model on this machine, empty without one; None if it is not here."""
    facts = local_facts(_model_section(model))
    return facts.chat_template if facts else None


def _worked(rows: Sequence[Row]) -> bool:
    return 2 * sum(bool(row.solution) for row in rows) >= len(rows)


def _num_shots(rows: Sequence[Row]) -> int:
    """Return shots that take at most a tenth of the rows and a third of the context."""
    length = _percentile([len(row.question) + len(row.solution) for row in rows], 0.5)
    example = length / CHARACTERS_PER_TOKEN + 20
    fitting = (n for n in SHOTS if 10 * n <= len(rows) and n * example <= CONTEXT / 3)
    return next(fitting, 0)


def _model_section(model: str) -> ModelSection:
    name, _, revision = model.partition("@")
    if name.startswith((".", "~")):
        name = str(Path(name).expanduser().absolute())
    try:
        return ModelSection(name=name, revision=revision)
    except ValueError:
        raise ConfigError(
            f"--model {model} is on the hub and names no commit; write {name}@COMMIT (a directory "
            "begins with / or ./)"
        ) from None


def _model(model: str, rows: Sequence[Row], doubts: list[str]) -> Iterator[Setting]:
    section = _model_section(model)
    yield Setting("model.name", section.name)
    if section.revision:
        yield Setting("model.revision", section.revision)
    if section.name.startswith(EMBEDDED_PREFIX):
        yield Setting("model.dtype", "fp32", "twice as fast as bf16 on a CPU without AMX")
    facts = local_facts(section)
    positions = (facts.num_positions if facts else None) or CONTEXT
    completion = _completion_tokens(rows)
    header = _num_shots(rows) * (_tokens(rows, 0.5, worked=True) + 20)
    needed = header + _tokens(rows, 1.0, worked=False) + 20 + completion
    context = min(positions, max(512, 2 ** math.ceil(math.log2(needed))))
    yield Setting("model.context_length", context, f"about {needed:,} tokens at the most")
    if needed > context:
        doubts.append(f"the longest rows have about {needed:,} tokens and are set aside")
    yield Setting("sampling.num_generations", NUM_GENERATIONS)
    if _worked(rows):
        reason = "one and a half times the longest worked text but a few"
    else:
        reason = "a guess: the rows hold no worked text"
        doubts.append("how long the model's answers are (sampling.max_completion_tokens)")
    yield Setting("sampling.max_completion_tokens", completion, reason)


def _completion_tokens(rows: Sequence[Row]) -> int:
    if not _worked(rows):
        return 256
    lengths = [len(row.solution) + len(row.answer) for row in rows]
    tokens = 1.5 * _percentile(lengths, 0.98) / CHARACTERS_PER_TOKEN + 16
    return min(1024, 32 * math.ceil(tokens / 32))


def _tokens(rows: Sequence[Row], share: float, *, worked: bool) -> int:
    """Return the estimated tokens of a question, with or without its worked text."""
    lengths = [len(row.question) + len(row.solution) * worked for row in rows]
    return math.ceil(_percentile(lengths, share) / CHARACTERS_PER_TOKEN)


def _percentile(lengths: Sequence[int], share: float) -> int:
    return sorted(lengths)[min(len(lengths) - 1, int(share * len(lengths)))]


def _training(model: str, num_rows: int, doubts: list[str]) -> Iterator[Setting]:
    embedded = model.startswith(EMBEDDED_PREFIX)
    questions = max(1, min(8, num_rows // 20))
    if questions % 2 and questions > 1:
        questions -= 1
    completions = questions * NUM_GENERATIONS
    device = completions if embedded else min(16, completions)
    yield Setting("training.learning_rate", 5e-4 if embedded else 1e-4)
    yield Setting("training.per_device_batch_size", device,
                  f"{count(questions, 'question')} a step, of about {num_rows:,}")  # fmt: skip
    if embedded:
        yield Setting("training.max_steps", 30, "minutes on two CPU cores")
        yield Setting("training.gradient_checkpointing", False)
        yield Setting("training.save_steps", 10)
        yield Setting("training.num_validation_rows", 0)
        doubts.append("whether 30 steps are enough")
    else:
        yield Setting("training.gradient_accumulation_steps", completions // device)
        doubts.append("the learning rate, and whether the batch fits the memory of your GPU")


def default_path(data: str) -> Path:
    """Return where the recipe for these rows is written: beside them."""
    return folder_of(data) / f"{_name(data)}.yaml"
