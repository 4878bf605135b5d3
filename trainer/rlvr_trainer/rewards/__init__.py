"""Verifiable rewards: pure functions of a completion and its row.

    >>> format_reward("6 x 7 = 42.\\n#### The final answer is 42")
    0.5
    >>> correctness_reward("6 x 7 = 42.\\n#### The final answer is 42", "42")
    1.0

Only the standard library is imported here, so that a verifier can be used alone.
"""

from rlvr_trainer.rewards.answer import (
    ANSWER_MARKER,
    STOP,
    correctness_reward,
    cut_at_stop,
    extract_answer,
    format_reward,
    is_correct_number,
    last_number,
)
from rlvr_trainer.rewards.number import normalise_answer, parse_number
from rlvr_trainer.rewards.registry import (
    REWARDS,
    Reward,
    Verifier,
    build_judge,
    build_rewards,
    first_failure,
    needs_numbers,
    score,
)

__all__ = [
    "ANSWER_MARKER",
    "REWARDS",
    "STOP",
    "Reward",
    "Verifier",
    "build_judge",
    "build_rewards",
    "correctness_reward",
    "cut_at_stop",
    "extract_answer",
    "first_failure",
    "format_reward",
    "is_correct_number",
    "last_number",
    "needs_numbers",
    "normalise_answer",
    "parse_number",
    "score",
]
