"""Prepare data: read, quarantine, split, write. The same recipe gives the same bytes."""

from __future__ import annotations

import json
import random
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr_trainer.data.formats import Record
from rlvr_trainer.data.quarantine import Quarantine
from rlvr_trainer.data.sources import read_source
from rlvr_trainer.data.splits import (
    QUARANTINED,
    VERSION,
    Manifest,
    json_lines,
    row_lines,
    sha256,
    write_data,
)
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.rewards import (
    Case,
    Reward,
    build_rewards,
    build_verifier,
    cut_at_stop,
)
from rlvr_trainer.tasks import Row, Split, Task, UnusableRow, load_task
from rlvr_trainer.tasks.chat_template import Outline, TemplateRefused
from rlvr_trainer.tasks.columns import rename_columns
from rlvr_trainer.tasks.prompt import PromptLayout
from rlvr_trainer.tasks.reward_trial import try_rewards
from rlvr_trainer.verifiers import VERIFIERS, Format, Number, Verifier

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe
    from rlvr_trainer.tasks.chat_template import Renderer

CHAT_ROW = (
    "the row is a chat, and prompt.style is text; set prompt.style to chat, or give the row a "
    "question in place of its messages"
)

TOKEN_MARGIN = 16
"""Tokens by which a prompt may differ from the sum of header and question."""


def prepare(
    recipe: Recipe,
    data_dir: Path,
    *,
    count_tokens: Callable[[str], int],
    template: Renderer | None = None,
) -> Manifest:
    """Write the splits, the exemplars and the quarantined rows to `data_dir`; return the manifest.

    - `train.jsonl`, `validation.jsonl`, `test.jsonl`, `exemplars.jsonl`: rows, for `load_rows`
    - `quarantined.jsonl`: location, reason, detail and an excerpt of each unusable row
    - `manifest.json`: counts, hashes, seed, sources, exemplar ids, header tokens by shots

    A row is over-long if its prompt and the longest completion exceed the context: for training
    rows at the trained shots, for test rows at the most shots that are evaluated. Chats are counted
    in the form of `template`, or without one by their contents alone.

    Raises ConfigError (templates, rewards, a header longer than the context, an unwritable folder),
    DataError (unreadable or empty sources, too many unusable rows, unknown ids) and PlatformError
    (a full disk).
    """
    task, read = load_task(recipe.task), Quarantine()
    carved = bool(recipe.data.train) and not recipe.data.test
    train = _unique(_read(task, recipe, "train", read), read)
    test = [] if carved else _unique(_read(task, recipe, "test", read), read)
    read.check(recipe)

    select = recipe.data.select
    if carved:
        train, test = _part(train, recipe.data.test_fraction, f"test-{recipe.seed}", spare=select)
    elif test:
        train = _without_test_questions(train, test, read)
    train = at_most(train, recipe.data.num_train_rows, f"train-{recipe.seed}", spare=select)
    test = at_most(test, recipe.data.num_test_rows, f"test-{recipe.seed}")
    _check_selection(select, train, read)

    exemplars = _choose_exemplars(recipe, train)
    layout = PromptLayout(recipe.prompt, exemplars, template or Outline())
    header_tokens = _count_headers(recipe, layout, count_tokens)
    fits = _LengthLimit(recipe, layout, header_tokens, count_tokens)
    shown = {row.id for row in exemplars}
    train = [row for row in train if row.id not in shown and fits.training(row, read)]
    test = [row for row in test if fits.evaluation(row, read)]
    read.check(recipe)
    _check_selection(select, train, read)

    train, validation = _part(
        train, recipe.data.validation_fraction, f"validation-{recipe.seed}", spare=select
    )
    validation = [row for row in validation if fits.validation(row, read)]
    if select:
        by_id = {row.id: row for row in train}
        train = [by_id[id] for id in select]
    for split, rows in (("train", train), ("test", test)):
        if not rows:
            raise DataError(f"no row is left for the {split} split of {read.describe()}; add rows")
    try_rewards(_loadable_rewards(recipe), layout, train)
    if recipe.data.repeat_to_batch:
        batch = recipe.device_generation_batch_size // recipe.sampling.num_generations
        train = repeat_rows(train, batch)

    splits = {"train": train, "validation": validation, "test": test, "exemplars": exemplars}
    files = {f"{name}.jsonl": row_lines(rows) for name, rows in splits.items()}
    files[QUARANTINED] = json_lines(read.quarantined)
    manifest: Manifest = {
        "version": VERSION,
        "task": recipe.task,
        "seed": recipe.seed,
        "source": read.sources,
        "read": dict(read.num_read),
        "counts": {
            **{name: len(rows) for name, rows in splits.items()},
            "quarantined": len(read.quarantined),
        },
        "quarantined": dict(Counter(row["reason"] for row in read.quarantined)),
        "oddities": {split: dict(+counts) for split, counts in read.oddities.items() if +counts},
        "exemplar_ids": [row.id for row in exemplars],
        "header_tokens": {str(shots): tokens for shots, tokens in header_tokens.items()},
        "max_prompt_tokens": fits.max_prompt_tokens,
        "files": {
            name: {"sha256": sha256(content), "bytes": len(content)}
            for name, content in files.items()
        },
    }
    write_data(data_dir, files, manifest)
    return manifest


def repeat_rows(rows: Sequence[Row], num_rows: int) -> list[Row]:
    """Repeat the rows in turn until there are at least `num_rows`."""
    return list(islice(cycle(rows), max(num_rows, len(rows))))


def at_most(
    rows: list[Row], num_rows: int | None, seed: str, *, spare: Sequence[str] = ()
) -> list[Row]:
    """Choose `num_rows` rows at random in their order, including those of `spare`."""
    if num_rows is None or num_rows >= len(rows):
        return rows
    spared = set(spare)
    candidates = [row.id for row in rows if row.id not in spared]
    num_others = min(len(candidates), max(0, num_rows - (len(rows) - len(candidates))))
    kept = spared.union(random.Random(seed).sample(candidates, num_others))
    return [row for row in rows if row.id in kept]


def _read(task: Task, recipe: Recipe, split: Split, read: Quarantine) -> list[Row]:
    source = getattr(recipe.data, split)
    read.sources[split] = source or f"task {recipe.task}"
    columns = recipe.data.columns.renamed if source else {}
    oddities = read.oddities.setdefault(split, Counter())
    records = read_source(source, split, oddities) if source else _own_records(task, recipe, split)
    verifiers = _gold_readers(recipe)
    rows = []
    for index, record in enumerate(records):
        id = f"{split}-{index}"
        read.count(id, split, record.location)
        try:
            row = _parse(task, record, id, columns)
            if row.messages and recipe.prompt.style == "text":
                raise UnusableRow("chat", CHAT_ROW)
            rows.append(_judgeable(row, verifiers))
        except UnusableRow as error:
            read.add(id, error.reason, error.detail, record.text or str(record.raw))
    if not read.num_read[split]:
        raise DataError(f"data.{split}: {read.sources[split]} holds no rows; name one that does")
    return rows


def _own_records(task: Task, recipe: Recipe, split: Split) -> Iterator[Record]:
    for index, raw in enumerate(task.default_rows(split, recipe)):
        yield Record(f"{recipe.task} {split}[{index}]", raw)


def _parse(task: Task, record: Record, id: str, columns: Mapping[str, str]) -> Row:
    if record.raw is None:
        raise UnusableRow("malformed", record.problem)
    try:
        row = task.parse(rename_columns(record.raw, columns), id)
        texts = (row.id, row.question, row.answer, row.solution)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"id, question, answer and solution must be text, got {texts}")
        # as later steps read it: Parquet has columns that JSON does not know
        return replace(row, extra=json.loads(json.dumps(dict(row.extra), default=str)))
    except UnusableRow:
        raise
    except Exception as error:  # of a user's task: blame the row, until too many rows fail
        raise UnusableRow("malformed", f"{type(error).__name__}: {error}") from error


def _gold_readers(recipe: Recipe) -> dict[str, Verifier]:
    """Return field → verifier of the rewards and the judge, which read the gold answer."""
    verifiers = {f"rewards.{name}": build_verifier(recipe, name) for name in recipe.rewards}
    judge = recipe.evaluation.correct_by
    if judge not in recipe.rewards:
        verifiers["evaluation.correct_by"] = build_verifier(recipe, judge)
    return {field: verifier for field, verifier in verifiers.items() if verifier}


def _judgeable(row: Row, verifiers: Mapping[str, Verifier]) -> Row:
    """Return the row with its answer as completions should give it. Raises UnusableRow."""
    for field, verifier in verifiers.items():
        problem = verifier.gold_problem(row.columns)
        if problem:
            by_number = isinstance(verifier, Number)
            reason = "answer-not-a-number" if by_number else "answer-not-judged"
            raise UnusableRow(reason, f"{field} cannot judge {problem}; {_advice(field, verifier)}")
        row = replace(row, answer=verifier.gold_answer(row.columns))
    return row


def _advice(field: str, verifier: Verifier) -> str:
    others = ", ".join(
        model.model_fields["verifier"].default
        for model in VERIFIERS
        if model.reads_answer and not isinstance(verifier, model) and model is not Format
    )
    if field == "evaluation.correct_by":
        return f"for other answers name a reward in evaluation.correct_by ({others}, your own)"
    return f"for other answers set {field}.verifier ({others}) or {field}.function to your own"


def _question_key(row: Row) -> str:
    """Return a key that is the same for questions that read the same."""
    turns = (message["content"] for message in row.messages if message["role"] != "system")
    asked = "\n".join(turns) or row.question
    visible = "".join(char for char in asked if unicodedata.category(char) != "Cf")
    folded = unicodedata.normalize("NFD", visible).casefold()
    return unicodedata.normalize("NFC", " ".join(folded.split()))


def _unique(rows: Sequence[Row], read: Quarantine) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        same = first.setdefault(_question_key(row), row)
        if same is not row:
            read.add(row.id, "duplicate", _asked_in(same, row, read), row.question)
    return list(first.values())


def _without_test_questions(
    train: Sequence[Row], test: Sequence[Row], read: Quarantine
) -> list[Row]:
    tested = {_question_key(row): row for row in test}
    rows = []
    for row in train:
        same = tested.get(_question_key(row))
        if same is None:
            rows.append(row)
        else:
            read.add(row.id, "also-in-test", _asked_in(same, row, read), row.question)
    return rows


def _asked_in(same: Row, row: Row, read: Quarantine) -> str:
    """Return where the question of `row` stands already."""
    location = read.locations[same.id][1]
    differs = "" if same.answer == row.answer else f", where its answer is {same.answer!r}"
    return f"the question of {location}{differs}"


def _part(
    rows: Sequence[Row], fraction: float, seed: str, *, spare: Sequence[str] = ()
) -> tuple[list[Row], list[Row]]:
    """Split off a random `fraction` of the rows, none of `spare`: (the others, the fraction)."""
    candidates = [row.id for row in rows if row.id not in set(spare)]
    taken = set(random.Random(seed).sample(candidates, round(fraction * len(candidates))))
    return [row for row in rows if row.id not in taken], [row for row in rows if row.id in taken]


def _check_selection(select: Sequence[str], train: Sequence[Row], read: Quarantine) -> None:
    known = {row.id for row in train}
    for id in select:
        if id in known:
            continue
        if id in read.reasons:
            location = read.locations[id][1]
            raise DataError(
                f"data.select: row {id!r} ({location}) is unusable: {read.reasons[id]}; "
                "select another"
            )
        raise DataError(
            f"data.select: {id!r} is not a training row{did_you_mean(id, known)}; ids go from "
            f"train-0 to train-{read.num_read['train'] - 1}"
        )


def _choose_exemplars(recipe: Recipe, train: Sequence[Row]) -> list[Row]:
    """Choose the first `num_exemplars` suitable training rows in the seed's order.

    Rows longer than the median are not suitable: every prompt holds the header, and a context of
    2048 would hardly hold eight of the longest.
    """
    num_exemplars = recipe.data.num_exemplars
    if not num_exemplars:
        return []
    shuffled = list(train)
    random.Random(f"exemplars-{recipe.seed}").shuffle(shuffled)
    select = set(recipe.data.select)
    candidates = [row for row in shuffled if row.id not in select and _asks_once(row)]
    candidates = _rewarded(recipe, candidates)
    if len(candidates) < num_exemplars:
        raise DataError(
            f"data.num_exemplars = {num_exemplars}, but only {len(candidates)} training rows can "
            "be exemplars; add rows or lower it"
        )
    median = statistics.median(_num_characters(row) for row in candidates)
    short = [row for row in candidates if _num_characters(row) <= median]
    return (short if len(short) >= num_exemplars else candidates)[:num_exemplars]


def _asks_once(row: Row) -> bool:
    """Return True unless earlier turns belong to the question: an example is one question."""
    return all(message["role"] == "system" for message in row.messages[:-1])


def _num_characters(row: Row) -> int:
    return len(row.question) + len(row.solution)


def _rewarded(recipe: Recipe, rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose gold completion earns the most of each verifier.

    Raises ConfigError if not even a completion without worked text does: then the template and the
    place of the answer disagree, and the exemplars would show what is never rewarded.
    """
    prompt, layout = recipe.prompt, PromptLayout(recipe.prompt, ())
    built = {name: build_verifier(recipe, name) for name in recipe.rewards}
    # one that gives nothing above 0 is a penalty, such as for the length
    verifiers = {name: one for name, one in built.items() if one and one.best > 0}

    def unrewarded(row: Row) -> str:
        """Return the name of a reward that the gold completion does not earn."""
        case = Case(layout.completion(row), row.columns)
        for name, verifier in verifiers.items():
            reward = verifier.reward(case, prompt.place)
            if reward is None or reward < verifier.best:
                return name
        return ""

    for row in rows[:1] if verifiers else ():
        plain = replace(row, solution="")
        text = layout.completion(plain)
        if cut_at_stop(text, prompt.stop) != text:
            raise ConfigError(
                f"prompt.solution_template gives {text!r}, in which a line begins with prompt.stop "
                f"{prompt.stop!r}, so a completion like it is cut there; set another stop"
            )
        name = unrewarded(plain)
        if name:
            raise ConfigError(_why_unrewarded(recipe, name, verifiers[name], row, text))
    return [row for row in rows if not unrewarded(row)]


def _why_unrewarded(recipe: Recipe, name: str, verifier: Verifier, row: Row, text: str) -> str:
    if verifier.reads_answer and recipe.prompt.place.read(text) is not None:
        kind = recipe.answer_kind if isinstance(verifier, Format) else verifier
        if not kind.is_well_formed(row.answer, row.columns):
            return (
                f"rewards.{name} reads a {kind.verifier}, and the answer of row {row.id} is "
                f"{row.answer!r}; leave it out, or set rewards.{name}.verifier to that of such "
                f"answers or rewards.{name}.function to your own"
            )
    elif verifier.reads_answer:
        return (
            f"prompt.solution_template gives {text!r}, in which the answer {row.answer} does not "
            f"stand in its place, {recipe.prompt.place.description}, so that no completion like "
            "it is rewarded; make them agree"
        )
    return (
        f"prompt.solution_template gives {text!r}, which is the gold answer of row {row.id} and "
        f"does not earn rewards.{name} (verifier {verifier.verifier}); make them agree"
    )


def _loadable_rewards(recipe: Recipe) -> dict[str, Reward]:
    """Build the rewards; none if their code exists only in the pods that use them."""
    try:
        return build_rewards(recipe)
    except ConfigError:
        return {}


def _count_headers(
    recipe: Recipe, layout: PromptLayout, count_tokens: Callable[[str], int]
) -> dict[int, int]:
    """Count the header's tokens by shots. Raises ConfigError if it leaves no room."""
    trained, evaluated = recipe.prompt.num_shots, recipe.evaluated_shots
    tokens_by_shots = {}
    for shots in sorted({trained, *evaluated}):
        header = layout.header(shots)
        tokens = tokens_by_shots[shots] = count_tokens(header) if header else 0
        completion = max(
            recipe.sampling.max_completion_tokens if shots == trained else 0,
            recipe.evaluation_max_completion_tokens if shots in evaluated else 0,
        )
        if tokens + completion >= recipe.model.context_length:
            raise ConfigError(
                f"the header of {shots} shots has {tokens} tokens; with a completion of "
                f"{completion} it leaves no room for a question in model.context_length = "
                f"{recipe.model.context_length}; take fewer shots or shorter completions"
            )
    return tokens_by_shots


class _LengthLimit:
    """Filter that quarantines rows whose prompt and longest completion exceed the context."""

    def __init__(
        self,
        recipe: Recipe,
        layout: PromptLayout,
        header_tokens: dict[int, int],
        count_tokens: Callable[[str], int],
    ) -> None:
        self._recipe = recipe
        self._layout = layout
        self._header_tokens = header_tokens
        self._headers = {shots: layout.header(shots) for shots in header_tokens}
        self._count_tokens = count_tokens
        self.max_prompt_tokens = 0
        """Tokens of the longest prompt that fits, up to TOKEN_MARGIN more or less."""

    def training(self, row: Row, read: Quarantine) -> bool:
        completion = self._recipe.sampling.max_completion_tokens
        return self._fits(row, self._recipe.prompt.num_shots, completion, read)

    def validation(self, row: Row, read: Quarantine) -> bool:
        completion = self._recipe.evaluation_max_completion_tokens
        return self._fits(row, self._recipe.prompt.num_shots, completion, read)

    def evaluation(self, row: Row, read: Quarantine) -> bool:
        completion = self._recipe.evaluation_max_completion_tokens
        return self._fits(row, max(self._recipe.evaluated_shots), completion, read)

    def _fits(self, row: Row, shots: int, completion: int, read: Quarantine) -> bool:
        limit = self._recipe.model.context_length - completion
        try:
            text = self._layout.prompt(row, shots)
        except TemplateRefused as error:
            read.add(row.id, "refused-by-template", str(error), row.question)
            return False
        # the header is long and almost always the same: only rows near the limit count it again
        header = self._headers[shots]
        rest = text.removeprefix(header)
        prompt = self._count_tokens(rest)
        if rest != text:
            prompt += self._header_tokens[shots]
            if abs(prompt - limit) <= TOKEN_MARGIN:
                prompt = self._count_tokens(text)
        if prompt > limit:
            detail = (
                f"{prompt} tokens at {shots} shots and a completion of {completion} exceed "
                f"model.context_length = {self._recipe.model.context_length}"
            )
            read.add(row.id, "over-long", detail, row.question)
            return False
        self.max_prompt_tokens = max(self.max_prompt_tokens, prompt)
        return True
