"""The outcome of an evaluation: accuracy before and after, compared row by row, and a verdict.

Pure functions of samples (the lines of `samples.jsonl`), and reading and writing them. `compare`
returns the content of `evaluation.json`, in which shares are between 0 and 1. Sampled completions
(`greedy: false`) count only for pass@k.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import DataError
from rlvr_trainer.evaluation.statistics import (
    is_significant,
    mcnemar_exact,
    pass_at_k,
    wilson_interval,
)
from rlvr_trainer.storage.atomic_files import write_text

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

SampleRecord = Mapping[str, Any]
"""One line of `samples.jsonl`."""


class Summary(TypedDict):
    """One model at one number of shots; shares are between 0 and 1."""

    accuracy: float
    low: float
    high: float
    """The end of the accuracy's 95 % interval, which starts at `low`."""
    format: float
    flexible: float
    mean_length: float
    """Mean number of tokens."""
    num_samples: int
    pass_at_k: NotRequired[dict[str, float]]


class Comparison(TypedDict):
    """Both models at one number of shots, with the rows that changed."""

    before: Summary
    after: Summary
    mcnemar_p: float
    num_samples: int
    gained: int
    lost: int


class Evaluation(TypedDict):
    """The content of `evaluation.json`."""

    num_samples: int
    headline_shots: int
    shots: dict[str, Comparison]
    """Keyed by number of shots, such as `"8"`."""
    verdict: str


class Shares(TypedDict):
    """One model at the headline shots."""

    accuracy: float
    format: float
    flexible: float
    num_samples: float


_FIELDS = frozenset(
    (
        *("model", "shots", "id", "question", "answer", "completion", "extracted"),
        *("format", "correct", "flexible", "num_tokens", "sample", "greedy"),
    )
)


def compare(
    before: Iterable[SampleRecord],
    after: Iterable[SampleRecord],
    *,
    trained_shots: int | None = None,
    k: Sequence[int] = (),
) -> Evaluation:
    """Compare two models by number of shots; return the content of `evaluation.json`.

    The verdict is about `trained_shots`, or the most shots if those were not evaluated: the choice
    does not depend on the results. Raises DataError unless both evaluated the same (shots, id).
    """
    before, after = list(before), list(after)
    greedy_before, greedy_after = _greedy(before), _greedy(after)
    _check_same(greedy_before.keys(), greedy_after.keys())
    summary_before, summary_after = summarise(before, k=k), summarise(after, k=k)
    shots: dict[str, Comparison] = {}
    for key in summary_before:
        pairs = [
            (bool(greedy_before[pair]["correct"]), bool(greedy_after[pair]["correct"]))
            for pair in greedy_before
            if str(pair[0]) == key
        ]
        gained, lost = pairs.count((False, True)), pairs.count((True, False))
        shots[key] = {
            "before": summary_before[key],
            "after": summary_after[key],
            "mcnemar_p": mcnemar_exact(lost, gained),
            "num_samples": len(pairs),
            "gained": gained,
            "lost": lost,
        }
    headline = str(_headline_shots(list(map(int, shots)), trained_shots))
    return {
        "num_samples": len({identity for _, identity in greedy_before}),
        "headline_shots": int(headline),
        "shots": shots,
        "verdict": verdict(shots[headline], shots=int(headline) if len(shots) > 1 else None),
    }


def headline(samples: Iterable[SampleRecord], recipe: Recipe) -> Shares:
    """Return one model's shares at the trained shots, or the most shots if not evaluated."""
    shots = _headline_shots(recipe.evaluated_shots, recipe.prompt.num_shots)
    chosen = [sample for sample in samples if sample["greedy"] and sample["shots"] == shots]

    def share(key: str) -> float:
        return float(sum(sample[key] for sample in chosen) / len(chosen))

    return Shares(
        accuracy=share("correct"),
        format=share("format"),
        flexible=share("flexible"),
        num_samples=float(len(chosen)),
    )


def _headline_shots(evaluated: Sequence[int], trained: int | None) -> int:
    return max(evaluated) if trained is None or trained not in evaluated else trained


def summarise(samples: Iterable[SampleRecord], *, k: Sequence[int] = ()) -> dict[str, Summary]:
    """Return one model's summary by number of shots (`"8"`), fewest first.

    `pass_at_k` has every `k` for which there are enough sampled completions.
    """
    samples = list(samples)
    drawn: dict[int, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        if not sample["greedy"]:
            drawn[sample["shots"]][sample["id"]].append(bool(sample["correct"]))
    by_shots: dict[int, list[SampleRecord]] = defaultdict(list)
    for (shots, _), sample in _greedy(samples).items():
        by_shots[shots].append(sample)
    return {
        str(shots): _summary(by_shots[shots], _pass_at_k(drawn[shots].values(), k))
        for shots in sorted(by_shots)
    }


def verdict(entry: Mapping[str, Any], *, shots: int | None = None) -> str:
    """Return a sentence on a value of `evaluation["shots"]`: rose, fell or not significant."""
    before, after = entry["before"]["accuracy"], entry["after"]["accuracy"]
    rows = count(entry["num_samples"], "test row") + (
        f" at {count(shots, 'shot')}" if shots is not None else ""
    )
    digits = 1 if before == after or percent(before) != percent(after) else 2
    first, second = percent(before, digits), percent(after, digits)
    test = f"McNemar p {p_value(entry['mcnemar_p'])}"
    if entry["gained"] == entry["lost"] == 0:
        return f"No change: accuracy stayed at {first}, every answer on {rows} scored as before."
    if not is_significant(entry["mcnemar_p"]):
        return (
            f"No significant change: accuracy was {first} before and {second} after "
            f"on {rows} ({test})."
        )
    direction = "rose" if after > before else "fell"
    return f"Accuracy {direction} from {first} to {second} on {rows} ({test})."


def headline_entry(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the entry of the shots that the verdict is about."""
    entry: Mapping[str, Any] = evaluation["shots"][str(evaluation["headline_shots"])]
    return entry


def percent(share: float, digits: int = 1) -> str:
    """Format 0.085 as `8.5 %`."""
    return f"{100 * share:.{digits}f} %"


def interval(summary: Mapping[str, Any]) -> str:
    """Format the interval of a summary's accuracy in percent, as `5.4–13.2`."""
    return f"{100 * summary['low']:.1f}–{100 * summary['high']:.1f}"


def signed(value: float) -> str:
    """Format as `+52.5`, with a real minus sign, and without a sign if it rounds to zero."""
    text = f"{value:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "\N{MINUS SIGN}")


def p_value(p: float) -> str:
    """Format as `< 0.001` or `= 0.032`, to follow the name of the test."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def count(number: int, noun: str) -> str:
    """Format as `1 test row` or `1,319 test rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Return the samples of a `samples.jsonl`, in order.

    Raises DataError for a file that cannot be read or a line that is not a sample.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise passing_error(error) or DataError(
            f"{path}: the samples cannot be read ({error}); evaluate again, or name another file"
        ) from error
    return parse_samples(str(path), text)


def write_samples(path: Path, samples: Iterable[SampleRecord]) -> None:
    """Write a `samples.jsonl` atomically."""
    write_text(path, sample_lines(samples))


def sample_lines(samples: Iterable[SampleRecord]) -> str:
    """Return the content of a `samples.jsonl`."""
    return "".join(json.dumps(dict(sample)) + "\n" for sample in samples)


def parse_samples(origin: str, text: str) -> list[dict[str, Any]]:
    """Parse the content of a `samples.jsonl`; errors name `origin`. Raises DataError."""
    return [
        _parse(origin, number, line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _greedy(samples: Iterable[SampleRecord]) -> dict[tuple[int, str], SampleRecord]:
    greedy: dict[tuple[int, str], SampleRecord] = {}
    for sample in samples:
        if not sample["greedy"]:
            continue
        key = (sample["shots"], sample["id"])
        if key in greedy:
            raise DataError(
                f"row {key[1]!r} at {count(key[0], 'shot')} is there twice, and a model has one "
                "greedy sample per row; evaluate into a new file, without samples of other runs"
            )
        greedy[key] = sample
    if not greedy:
        raise DataError(
            "none of the samples is greedy, as the accuracy needs; evaluate at least one test row"
        )
    return greedy


def _check_same(before: Iterable[tuple[int, str]], after: Iterable[tuple[int, str]]) -> None:
    before, after = set(before), set(after)
    problems = [
        f"{len(missing)} missing {where} ({name_rows(missing)})"
        for missing, where in ((after - before, "before"), (before - after, "after"))
        if missing
    ]
    if problems:
        raise DataError(
            f"before and after were not evaluated on the same rows: {' and '.join(problems)}; "
            "evaluate both models with the same recipe and data"
        )


def name_rows(keys: Iterable[tuple[int, str]], most: int = 5) -> str:
    """List the first rows of (shots, id) for a message."""
    names = [f"{identity} at {count(shots, 'shot')}" for shots, identity in sorted(keys)]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _summary(samples: Sequence[SampleRecord], pass_at_k: dict[str, float]) -> Summary:
    n = len(samples)
    num_correct = sum(bool(sample["correct"]) for sample in samples)
    low, high = wilson_interval(num_correct, n)
    summary = Summary(
        accuracy=num_correct / n,
        low=low,
        high=high,
        format=sum(bool(sample["format"]) for sample in samples) / n,
        flexible=sum(bool(sample["flexible"]) for sample in samples) / n,
        mean_length=sum(sample["num_tokens"] for sample in samples) / n,
        num_samples=n,
    )
    if pass_at_k:
        summary["pass_at_k"] = pass_at_k
    return summary


def _pass_at_k(rows: Iterable[Sequence[bool]], k: Sequence[int]) -> dict[str, float]:
    """Return the mean over rows, for each k that is at most the completions of every row."""
    rows = list(rows)
    fewest = min(map(len, rows), default=0)
    return {
        str(size): sum(pass_at_k(len(row), sum(row), size) for row in rows) / len(rows)
        for size in k
        if size <= fewest
    }


def _parse(origin: str, number: int, line: str) -> dict[str, Any]:
    try:
        sample = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{origin}, line {number}: not JSON ({error.msg}); the file was cut off or edited: "
            "evaluate again"
        ) from error
    missing = _FIELDS - sample.keys() if isinstance(sample, dict) else _FIELDS
    if missing:
        raise DataError(
            f"{origin}, line {number}: not a sample, without {', '.join(sorted(missing))}; "
            "name a samples.jsonl"
        )
    return dict(sample)
