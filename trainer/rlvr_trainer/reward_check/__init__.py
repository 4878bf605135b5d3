"""Check the rewards of a recipe: gold answers earn them, and attacks do not."""

from rlvr_trainer.reward_check.check import RewardCheck, check_rewards
from rlvr_trainer.reward_check.prepared import (
    check_prepared,
    check_recipe,
    raise_errors,
    reward_remarks,
)

__all__ = [
    "RewardCheck",
    "check_prepared",
    "check_recipe",
    "check_rewards",
    "raise_errors",
    "reward_remarks",
]
