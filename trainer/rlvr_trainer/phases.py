"""Name the phases of a run, which are the steps of the pipeline that emit events."""

from __future__ import annotations

from typing import Literal

Phase = Literal["prepare", "evaluate-base", "train", "evaluate-trained", "report"]
Label = Literal["before", "after"]
"""Label of the samples of the base model, and of those of the trained model."""

TITLES: dict[str, str] = {
    "prepare": "Prepare data",
    "evaluate-base": "Evaluate base model",
    "train": "Train",
    "evaluate-trained": "Evaluate trained model",
    "report": "Compare and report",
}
"""Titles of the phases, in the order in which they run."""

EVALUATION_PHASES: dict[str, Phase] = {"before": "evaluate-base", "after": "evaluate-trained"}
EVALUATION_LABELS: dict[str, Label] = {"evaluate-base": "before", "evaluate-trained": "after"}
