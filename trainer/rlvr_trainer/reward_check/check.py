"""Score gold completions and attacks, and find what a model could earn without answering."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rlvr_trainer.recipe.schema import AttackName, Recipe
from rlvr_trainer.reward_check.attacks import ATTACKS, Attacked
from rlvr_trainer.rewards import Case, Reward, Unverifiable, build_judge, build_rewards
from rlvr_trainer.tables import Cell, Table
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout

NUM_ATTACKED = 200
"""Rows that are attacked; all rows are tried with their gold answers."""
NUM_FOR_A_SHARE = 20
"""Rows below which the share of the most common answer says nothing."""
ABOVE_CHANCE = 0.1
"""Share of the rows, above that of the most common answer, that a judge gives no attack."""
LIKELY = 2 / 3
"""Share of the rows from which a guess is a warning."""
GOLD = "gold"

Severity = Literal["error", "warning"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass
class Earned:
    """Scores that a reward gave to completions of one kind."""

    num_positive: int = 0
    """Completions that gain by the reward; of a judge, those that are correct."""
    num_failed: int = 0
    """Completions that the reward could not verify."""
    scores: list[float] = field(default_factory=list)
    failure: str = ""
    """The first failure."""

    @property
    def share(self) -> float:
        """Share of the verified completions that gain."""
        return self.num_positive / len(self.scores) if self.scores else 0.0

    @property
    def mean(self) -> float:
        """Mean score, without the weight."""
        return sum(self.scores) / len(self.scores) if self.scores else 0.0


@dataclass(frozen=True)
class Finding:
    """A reward that does not do what it should."""

    severity: Severity
    reward: str
    """Empty for the sum of the rewards."""
    kinds: tuple[str, ...]
    """`gold`, or the names of the attacks."""
    message: str


@dataclass(frozen=True)
class RewardCheck:
    """Scores of gold completions and attacks by kind and reward, and what they mean."""

    num_gold: int
    num_attacked: int
    chance: float
    """Share of the rows that have the most common answer."""
    earned: Mapping[str, Mapping[str, Earned]]
    """`gold` or attack → reward → its scores."""
    totals: Mapping[str, float]
    """`gold` or attack → mean of the weighted sum."""
    findings: Sequence[Finding]

    def messages(self, severity: Severity) -> list[str]:
        """Return the messages of the findings of a severity."""
        return [finding.message for finding in self.findings if finding.severity == severity]

    def facts(self) -> dict[str, Any]:
        """Return the check as plain data."""
        return {
            "num_gold": self.num_gold,
            "num_attacked": self.num_attacked,
            "chance": self.chance,
            "completions": {
                kind: {
                    "about": _ABOUT[kind],
                    "total": self.totals[kind],
                    "rewards": {
                        name: {"share": one.share, "mean": one.mean, "num_failed": one.num_failed}
                        for name, one in earned.items()
                    },
                }
                for kind, earned in self.earned.items()
            },
            "findings": [vars(finding) for finding in self.findings],
        }

    def table(self) -> Table:
        """Return a row for each kind of completion: share that gains, and mean, by reward."""
        rewards = list(self.earned[GOLD])
        rows = [
            (
                kind,
                *(_cell(earned[name]) for name in rewards),
                f"{self.totals[kind]:.2f}",
                _ABOUT[kind],
            )
            for kind, earned in self.earned.items()
        ]
        return Table(("COMPLETION", *(name.upper() for name in rewards), "TOTAL", ""), rows)


def check_rewards(
    recipe: Recipe,
    layout: PromptLayout,
    rows: Sequence[Row],
    *,
    num_attacked: int = NUM_ATTACKED,
    time_limit_s: float | None = None,
) -> RewardCheck:
    """Score the gold completions of all rows and the attacks on `num_attacked` of them.

    Within a time limit, as many rows as there is time for, at least one. Raises ConfigError for
    code that cannot be loaded.
    """
    rewards = build_rewards(recipe)
    judge = recipe.evaluation.correct_by
    rewards.setdefault(judge, build_judge(recipe))
    weights = {name: reward.weight for name, reward in recipe.rewards.items()}
    check = _Scores(rewards, weights, judge, layout)
    attacked = Attacked(layout, rows)
    shuffled = random.Random(f"reward-check-{recipe.seed}").sample(rows, len(rows))

    started = time.monotonic()
    num_gold = num_done = 0
    for row in _in_time(shuffled, started, time_limit_s and time_limit_s / 2):
        check.add(GOLD, layout.completion(row), row)
        num_gold += 1
    for row in _in_time(shuffled[:num_attacked], started, time_limit_s):
        for kind, attack in ATTACKS.items():
            completion = attack.complete(row, attacked)
            if completion is not None:
                check.add(kind, completion, row)
        num_done += 1
    reported = [
        *_gold_findings(recipe, check),
        *_attack_findings(recipe, check, attacked.chance),
        *_sum_findings(check),
    ]
    accepted = set(recipe.evaluation.accept_attacks)
    findings = [finding for finding in reported if not accepted.issuperset(finding.kinds)]
    return RewardCheck(num_gold, num_done, attacked.chance, check.earned, check.totals(), findings)


def _in_time(rows: Iterable[Row], started: float, limit_s: float | None) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number and limit_s is not None and time.monotonic() - started > limit_s:
            return
        yield row


class _Scores:
    """Scores by kind of completion and reward, as they come."""

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float],
        judge: str,
        layout: PromptLayout,
    ) -> None:
        self.judge = judge
        self.weights = weights
        self.earned: dict[str, dict[str, Earned]] = {}
        self._rewards = rewards
        self._layout = layout
        self._sums: dict[str, list[float]] = {}

    def add(self, kind: str, completion: str, row: Row) -> None:
        """Score a completion with every reward."""
        earned = self.earned.setdefault(kind, {name: Earned() for name in self._rewards})
        case, total = Case(completion, row.columns, self._layout.question(row)), 0.0
        for name, reward in self._rewards.items():
            try:
                score = reward.verify(case)
            except Unverifiable as error:
                earned[name].num_failed += 1
                earned[name].failure = earned[name].failure or str(error)
                continue
            earned[name].scores.append(score)
            weight = self.weights.get(name, 0.0)
            gains = score > 0 if name == self.judge else score * weight > 0
            earned[name].num_positive += gains
            total += weight * score
        self._sums.setdefault(kind, []).append(total)

    def totals(self) -> dict[str, float]:
        """Return the mean weighted sum by kind."""
        return {kind: sum(sums) / len(sums) for kind, sums in self._sums.items()}


def _gold_findings(recipe: Recipe, check: _Scores) -> Iterator[Finding]:
    """Yield a finding for each reward that gold completions do not earn."""
    allowed = recipe.data.max_quarantined_fraction
    for name, earned in check.earned[GOLD].items():
        num_tried = len(earned.scores) + earned.num_failed
        num_wrong = num_tried - earned.num_positive
        is_judge = name == check.judge
        if not num_wrong or (not is_judge and check.weights[name] <= 0):
            continue
        reason = f" ({earned.failure})" if earned.failure else ""
        yield Finding(
            "error" if is_judge and num_wrong > allowed * num_tried else "warning",
            name,
            (GOLD,),
            f"{_field(name, recipe)} gives nothing to the gold completions of {num_wrong:,} of "
            f"{num_tried:,} rows{reason}; lay the answer out as it is read "
            f"(prompt.solution_template), or correct the reward{_or_accept((GOLD,))}",
        )


def _attack_findings(recipe: Recipe, check: _Scores, chance: float) -> Iterator[Finding]:
    """Yield a finding for each reward that attacks earn, or on which it fails."""
    for name, gold in check.earned[GOLD].items():
        is_judge = name == check.judge
        # worked examples and instructions show answers, and a format is earned by any
        shown = recipe.prompt.num_shots or recipe.prompt.system
        ignored = {"prompt"} if shown and not is_judge else set()
        earned = {
            kind: check.earned[kind][name]
            for kind in ATTACKS
            if kind in check.earned and kind not in ignored
        }
        failing = tuple(kind for kind, one in earned.items() if one.num_failed)
        if failing and not gold.num_failed:
            yield Finding(
                "warning",
                name,
                failing,
                f"{_field(name, recipe)} fails on {', '.join(failing)}: "
                f"{earned[failing[0]].failure}; a reward returns a number for any text",
            )
        for severity in SEVERITIES:
            fooling = tuple(
                kind
                for kind, one in earned.items()
                if _judged(kind, one, chance, is_judge=is_judge) == severity
            )
            if fooling:
                shares = ", ".join(f"{kind} ({earned[kind].share:.0%})" for kind in fooling)
                yield Finding(
                    severity,
                    name,
                    fooling,
                    f"{_field(name, recipe)} is earned without the right answer by {shares}; make "
                    f"it stricter{_or_accept(fooling)}",
                )


def _sum_findings(check: _Scores) -> Iterator[Finding]:
    """Yield a finding if completions without an answer earn as much in sum as gold ones.

    It is an error for the empty one. Longer ones may earn a part that is meant to grow with a text.
    """
    totals = check.totals()
    taught = tuple(
        kind
        for kind, attack in ATTACKS.items()
        if attack.gives == "nothing" and totals.get(kind, 0.0) >= totals[GOLD] > 0
    )
    if taught:
        sums = ", ".join(f"{totals[kind]:.2f} to {kind}" for kind in taught)
        yield Finding(
            "error" if "empty" in taught else "warning",
            "",
            taught,
            f"the rewards give {sums} in sum, and {totals[GOLD]:.2f} to gold completions, so that "
            f"training would not teach to answer; change rewards.NAME.weight{_or_accept(taught)}",
        )


def _judged(kind: AttackName, earned: Earned, chance: float, *, is_judge: bool) -> Severity | None:
    """Return how serious it is that a kind of completion gains by a reward; None: not at all.

    A part such as a format is earned by any answer. A list of answers, or the gold answer in
    another form, says something of a judge only.
    """
    gives, above_chance = ATTACKS[kind].gives, earned.share > chance + ABOVE_CHANCE
    if gives == "nothing":
        if is_judge and earned.share > ABOVE_CHANCE:
            return "error"
        return "warning" if earned.num_positive else None
    if not is_judge:
        return None
    if gives == "wrong":
        return "error" if above_chance else None
    if gives == "guess":
        enough = len(earned.scores) >= NUM_FOR_A_SHARE
        return "warning" if enough and earned.share > LIKELY else None
    return "warning" if gives == "list" and above_chance else None


def _or_accept(kinds: Iterable[str]) -> str:
    return f", or accept it: evaluation.accept_attacks: [{', '.join(kinds)}]"


def _field(name: str, recipe: Recipe) -> str:
    return f"rewards.{name}" if name in recipe.rewards else f"evaluation.correct_by = {name}"


_ABOUT: Mapping[str, str] = {
    GOLD: "the gold answer, as the recipe lays it out",
    **{kind: attack.about for kind, attack in ATTACKS.items()},
}


def _cell(earned: Earned) -> Cell:
    failed = f", {earned.num_failed} failed" if earned.num_failed else ""
    return Cell(f"{earned.share:.0%}", f"{earned.mean:.2f}{failed}")
