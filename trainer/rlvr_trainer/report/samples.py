"""Completions before and after training side by side, with what the verifier saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr_trainer.evaluation import count
from rlvr_trainer.report.markup import Child, Markup, element
from rlvr_trainer.report.page import fold, section

Sample = Mapping[str, Any]
Pair = tuple[Sample, Sample]

NUM_SHOWN = {"gained": 5, "lost": 3, "kept": 2, "missed": 2}
"""Pairs of each outcome that stand open; places left over go to the first outcomes."""

OUTCOMES = {
    "gained": "Wrong before, right after",
    "lost": "Right before, wrong after",
    "kept": "Right before and after",
    "missed": "Wrong before and after",
}
MAX_FOLDED = 50
MAX_CHARACTERS = 4000

_EMPTY = element("span", "(empty)", class_="none")


def render_samples(samples: Iterable[Sample], shots: int) -> Markup | None:
    """A dozen pairs open, more of them folded; None without pairs."""
    outcomes = by_outcome(samples)
    if not any(outcomes.values()):
        return None
    shown = choose(outcomes)
    folds = []
    for outcome, pairs in outcomes.items():
        rest = pairs[shown[outcome] :]
        if rest:
            listed = rest[:MAX_FOLDED]
            beyond = len(rest) - len(listed)
            note = f"{len(rest):,} more" if not beyond else f"{len(listed)} of {len(rest):,} more"
            children: list[Child] = [_pair(outcome, pair) for pair in listed]
            if beyond:
                children.append(
                    element("p", f"The other {beyond:,} are in samples.jsonl.", class_="note")
                )
            folds.append(fold(OUTCOMES[outcome], children, note=note))
    opened = [
        _pair(outcome, pair)
        for outcome, pairs in outcomes.items()
        for pair in pairs[: shown[outcome]]
    ]
    total = sum(map(len, outcomes.values()))
    tally = "; ".join(
        f"{OUTCOMES[outcome].lower()}: {len(pairs):,}" for outcome, pairs in outcomes.items()
    )
    return section(
        "Samples",
        element("div", opened, class_="samples"),
        element("div", folds, class_="folds") if folds else None,
        note=f"Of {count(total, 'test row')} at {count(shots, 'shot')}: {tally}.",
    )


def by_outcome(samples: Iterable[Sample]) -> dict[str, list[Pair]]:
    """The greedy samples that both models have, by what became of them, in the file's order."""
    models: dict[str, dict[str, Sample]] = {"before": {}, "after": {}}
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
    """How many pairs of each outcome stand open, a dozen in all where there are as many."""
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


def _pair(outcome: str, pair: Pair) -> Markup:
    before, after = pair
    question, gold = str(before["question"]), str(before["answer"])
    return element(
        "article",
        element("h3", element("b", OUTCOMES[outcome]), element("bdi", str(before["id"]))),
        element("p", _cut(question.strip()), class_="question", dir="auto"),
        element("p", "Answer: ", element("bdi", _cut(gold)), class_="gold"),
        element(
            "div",
            _completion("Before training", before),
            _completion("After training", after),
            class_="pair",
        ),
        class_=f"sample {outcome}",
    )


def _completion(title: str, sample: Sample) -> Markup:
    text = _cut(str(sample["completion"]).strip())
    extracted = sample["extracted"]
    saw: Child = (
        element("span", "no answer", class_="none")
        if extracted is None
        else element("code", element("bdi", _cut(str(extracted))))
    )
    return element(
        "div",
        element("h4", title, " ", _mark(sample["correct"], "correct", "wrong")),
        element("pre", text if text.strip() else _EMPTY, dir="auto"),
        element(
            "p",
            element("span", "Verifier saw ", saw),
            _mark(sample["format"], "right format", "wrong format"),
            _mark(sample["flexible"], "right last number", "wrong last number"),
            element("span", count(int(sample["num_tokens"]), "token")),
            class_="marks",
        ),
        class_="right" if sample["correct"] else None,
    )


def _mark(holds: bool, yes: str, no: str) -> Markup:
    return element("span", f"✓ {yes}" if holds else f"✗ {no}", class_="yes" if holds else "no")


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    beyond = len(text) - MAX_CHARACTERS
    return f"{text[:MAX_CHARACTERS]}\n… {count(beyond, 'character')} more in samples.jsonl"
