"""Rewards as TRL's reward functions.

TRL calls each reward function separately, and excludes a completion from its group's baseline only
if all of them return None. If one of them fails, all must therefore return None: the first call
scores the batch with all rewards, and the others read their column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rlvr_trainer.errors import RewardError
from rlvr_trainer.rewards import Case, RowFunction, first_failure, score_batch

RewardFunction = Callable[..., list[float | None]]

ROW = "row"
"""The column of the data set that holds a row's columns, as JSON."""
SEEN = "seen"
"""The column of a rollout that holds what verifiers see, if that is not TRL's own text."""
MIN_COMPLETIONS_TO_JUDGE = 64


class BatchScorer:
    """Score a batch of completions once, and count those that could not be verified."""

    def __init__(self, rewards: Mapping[str, RowFunction], max_failures: float) -> None:
        self.rewards = rewards
        self.max_failures = max_failures
        self.num_scored = 0
        self.num_failed = 0
        self._completions: list[str] | None = None
        self._scores: list[dict[str, float] | None] = []

    def reward_functions(self) -> list[RewardFunction]:
        """Return a function for each reward, with the name that TRL's metrics use."""
        return [self._column(name) for name in self.rewards]

    def _column(self, name: str) -> RewardFunction:
        def reward(completions: list[str], **batch: Any) -> list[float | None]:
            return [
                None if scores is None else scores[name]
                for scores in self._score(completions, batch)
            ]

        reward.__name__ = name
        return reward

    def _score(
        self, completions: list[str], batch: Mapping[str, Any]
    ) -> list[dict[str, float] | None]:
        if completions is not self._completions:
            texts = batch.get(SEEN, completions)
            nothing = [None] * len(completions)
            prompts, ids = batch.get("prompts", nothing), batch.get("completion_ids", nothing)
            cases = [
                Case(completion, json.loads(row), prompt or "", tokens and len(tokens))
                for completion, row, prompt, tokens in zip(
                    texts, batch[ROW], prompts, ids, strict=True
                )
            ]
            self._scores = score_batch(self.rewards, cases)
            self._completions = completions
            self._count()
        return self._scores

    def _count(self) -> None:
        self.num_scored += len(self._scores)
        self.num_failed += sum(scores is None for scores in self._scores)
        if self.num_scored >= MIN_COMPLETIONS_TO_JUDGE:
            self.check()

    def check(self, gather: Callable[[Any], list[Any]] = lambda value: [value]) -> None:
        """Raise RewardError if too many of the completions so far could not be verified.

        `gather` collects the values of all ranks, so that all of them raise.
        """
        failure = first_failure(self.rewards) if self.num_failed else ""
        counts = gather((self.num_scored, self.num_failed, failure))
        num_scored, num_failed = (sum(count[index] for count in counts) for index in (0, 1))
        if num_failed > self.max_failures * num_scored:
            first = next(failure for _, _, failure in counts if failure)
            raise RewardError(
                f"{num_failed} of {num_scored} completions could not be verified, over "
                f"training.max_verifier_failures = {self.max_failures}; fix the reward: {first}"
            )
