"""Verifiable rewards: pure functions of a completion and its row.

    >>> format_reward("6 x 7 = 42.\\n#### The final answer is 42")
    0.5
    >>> correctness_reward("6 x 7 = 42.\\n#### The final answer is 42", "42")
    1.0

`rlvr_trainer.verifiers` is the library of them; here are the rewards of a recipe, the user's own
among them.
"""

from rlvr_trainer.rewards.published import (
    correctness_reward,
    extract_answer,
    format_reward,
    is_correct_number,
)
from rlvr_trainer.rewards.registry import (
    RowFunction,
    build_judge,
    build_reward,
    build_rewards,
    build_verifier,
    first_failure,
    score,
    score_batch,
)
from rlvr_trainer.rewards.reward import Reward, Unverifiable, VerifierReward
from rlvr_trainer.verifiers import ANSWER_MARKER, STOP, Case, cut_at_stop
from rlvr_trainer.verifiers.number import last_number, normalise_answer, parse_number

__all__ = [
    "ANSWER_MARKER",
    "STOP",
    "Case",
    "Reward",
    "RowFunction",
    "Unverifiable",
    "VerifierReward",
    "build_judge",
    "build_reward",
    "build_rewards",
    "build_verifier",
    "correctness_reward",
    "cut_at_stop",
    "extract_answer",
    "first_failure",
    "format_reward",
    "is_correct_number",
    "last_number",
    "normalise_answer",
    "parse_number",
    "score",
    "score_batch",
]
