"""Choose the completions before and after training that the report shows side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlvr_trainer.evaluation.outcome import SampleRecord

Pair = tuple[SampleRecord, SampleRecord]

NUM_SHOWN = {"gained": 5, "lost": 3, "kept": 2, "missed": 2}
"""Pairs of each outcome to show; places left over go to the first outcomes."""

OUTCOMES = {
    "gained": "Wrong before, right after",
    "lost": "Right before, wrong after",
    "kept": "Right before and after",
    "missed": "Wrong before and after",
}
MAX_FOLDED = 50


@dataclass(frozen=True)
class OutcomePairs:
    """The pairs of one outcome."""

    name: str
    title: str
    total: int
    shown: Sequence[Pair]
    folded: Sequence[Pair]

    @property
    def num_left(self) -> int:
        """Return the number of pairs that only samples.jsonl has."""
        return self.total - len(self.shown) - len(self.folded)


def choose_samples(samples: Iterable[SampleRecord]) -> list[OutcomePairs]:
    """Choose a dozen pairs to show and more to fold away; return nothing without pairs."""
    outcomes = by_outcome(samples)
    shown = choose(outcomes)
    if not any(outcomes.values()):
        return []
    return [
        OutcomePairs(
            name,
            OUTCOMES[name],
            len(pairs),
            pairs[: shown[name]],
            pairs[shown[name] :][:MAX_FOLDED],
        )
        for name, pairs in outcomes.items()
    ]


def by_outcome(samples: Iterable[SampleRecord]) -> dict[str, list[Pair]]:
    """Pair the greedy samples of both models, by outcome and in the file's order."""
    models: dict[str, dict[str, SampleRecord]] = {"before": {}, "after": {}}
    for sample in samples:
        if sample["greedy"] and sample["model"] in models:
            models[sample["model"]][sample["id"]] = sample
    outcomes: dict[str, list[Pair]] = {name: [] for name in OUTCOMES}
    for identity, before in models["before"].items():
        after = models["after"].get(identity)
        if after is not None:
            outcomes[_outcome(bool(before["correct"]), bool(after["correct"]))].append(
                (before, after)
            )
    return outcomes


def choose(outcomes: Mapping[str, Sequence[Pair]]) -> dict[str, int]:
    """Return how many pairs of each outcome to show, a dozen in all where there are as many."""
    shown = {name: min(most, len(outcomes[name])) for name, most in NUM_SHOWN.items()}
    left = sum(NUM_SHOWN.values()) - sum(shown.values())
    for name in shown:
        more = min(left, len(outcomes[name]) - shown[name])
        shown[name] += more
        left -= more
    return shown


def _outcome(before: bool, after: bool) -> str:
    if before:
        return "kept" if after else "lost"
    return "gained" if after else "missed"
