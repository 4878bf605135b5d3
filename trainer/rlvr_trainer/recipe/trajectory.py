"""Compare trainings by all that decides their weights after any step: their trajectory.

A checkpoint holds the recipe that it was trained with and the content of the files that the recipe
names. Another training may resume from it if both decide the same weights. Fields for paths, length
and monitoring may differ. A field that a later release adds has its default in an older recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import CheckpointError, ConfigError
from rlvr_trainer.recipe.named_files import file_digests
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe, TrainingSection

TRAJECTORY = "trajectory.json"
TRAINER_STATE = "trainer_state.json"
NUM_SHOWN_DIFFERENCES = 8

_OPERATION: dict[str, Any] = {
    "name": True,
    "description": True,
    "data": {"max_quarantined_fraction"},
    "evaluation": {"accept_attacks"},
    "training": {
        *("save_steps", "keep_checkpoints", "validation_steps", "num_validation_rows"),
        "max_verifier_failures",
    },
}
"""Fields that decide neither weights nor evaluation results."""

_UNDECIDING: dict[str, Any] = {
    **_OPERATION,
    "evaluation": True,
    "training": _OPERATION["training"] | {"max_steps", "num_epochs"},
}
"""Fields that do not decide weights after a given step; the length may grow."""


@dataclass(frozen=True)
class Trajectory:
    """A recipe, and the content of the files that it names."""

    recipe: Recipe
    files: Mapping[str, str]
    """Field → SHA-256, for files that existed."""

    def to_json(self) -> str:
        """Return the text that `parse_trajectory` reads."""
        tree = {"recipe": self.recipe.model_dump(mode="json"), "files": dict(self.files)}
        return json.dumps(tree, indent=1) + "\n"

    def differences(self, earlier: Trajectory) -> list[str]:
        """Return a line for each difference for which this training cannot continue `earlier`."""
        shortened = _shortened(earlier.recipe.training, self.recipe.training)
        return [*self._differences(earlier, _UNDECIDING), *shortened]

    def result_differences(self, earlier: Trajectory) -> list[str]:
        """Return a line for each difference for which results of `earlier` are not this one's."""
        return self._differences(earlier, _OPERATION)

    def _differences(self, earlier: Trajectory, ignored: dict[str, Any]) -> list[str]:
        there, here = _flat(earlier.recipe, ignored), _flat(self.recipe, ignored)
        edited = []
        for field in there.keys() & here.keys():
            before, now = earlier.files.get(field), self.files.get(field)
            if before and now and _name_in(there[field]) == _name_in(here[field]):
                there[field] = here[field]  # the path does not count
                if before != now:
                    edited.append(f"{field}: the content of {here[field]} has changed")
            elif field in ("data.train", "data.test") and not (
                before or now or "://" in f"{there[field]}{here[field]}"
            ):
                there[field] = here[field]  # files of another machine; rows are compared later
        return [*_changes(there, here), *sorted(edited)]


def trajectory_of(recipe: Recipe) -> Trajectory:
    """Return the recipe's trajectory with the files as they are now."""
    return Trajectory(recipe, file_digests(recipe))


def read_trajectory(checkpoint: Path) -> Trajectory:
    """Return the trajectory that a checkpoint belongs to. Raises CheckpointError."""
    path = checkpoint / TRAJECTORY
    try:
        return parse_trajectory(path.read_text("utf-8"), origin=str(path))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}), so what was trained is unknown; use "
            "another run directory"
        ) from None


def parse_trajectory(text: str, *, origin: str) -> Trajectory:
    """Return the trajectory in a checkpoint's file. Raises CheckpointError."""
    try:
        tree = json.loads(text)
        return Trajectory(parse_recipe(tree["recipe"], origin=origin), dict(tree["files"]))
    except (ValueError, TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(
            f"{origin} cannot be read ({error}); use another run directory"
        ) from None


def check_continues(earlier: Trajectory, trajectory: Trajectory, where: object) -> None:
    """Raise CheckpointError when a training cannot resume from the checkpoints in `where`."""
    different = trajectory.differences(earlier)
    if different:
        raise CheckpointError(
            f"{where} was trained with other settings:\n{listed(different)}\n"
            "Use another run directory, or the same settings and files to continue that run"
        )


def is_last(checkpoint: Path, recipe: Recipe) -> bool:
    """Return True if a checkpoint is of the training's last step. Raises CheckpointError."""
    path = checkpoint / TRAINER_STATE
    try:
        state = json.loads(path.read_text("utf-8"))
        step, max_steps = int(state["global_step"]), int(state["max_steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise passing_error(error) or CheckpointError(
            f"{path} cannot be read ({error}); remove the checkpoint to continue from the one "
            "before"
        ) from None
    if recipe.training.max_steps:
        return step >= recipe.training.max_steps
    earlier = read_trajectory(checkpoint).recipe.training
    return step >= max_steps and recipe.training.num_epochs <= earlier.num_epochs


def training_hash(recipe: Recipe) -> str:
    """Return twelve hex digits of the fields that decide the weights after the last step."""
    tree = recipe.model_dump(mode="json", exclude={**_OPERATION, "evaluation": True})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def recipe_changes(there: Recipe, here: Recipe) -> list[str]:
    """Return `field: VALUE there, VALUE here` for each field but the description."""
    ignored = {"description": True}
    return _changes(_flat(there, ignored), _flat(here, ignored))


def listed(lines: list[str]) -> str:
    """Return the first lines, indented, and how many more there are."""
    more = len(lines) - NUM_SHOWN_DIFFERENCES
    shown = "\n".join(f"  {line}" for line in lines[:NUM_SHOWN_DIFFERENCES])
    return shown + (f"\n  and {more} more" if more > 0 else "")


def _shortened(there: TrainingSection, here: TrainingSection) -> list[str]:
    """Return a line if the training becomes shorter than it was."""
    field = "max_steps" if here.max_steps or there.max_steps else "num_epochs"
    before, now = getattr(there, field), getattr(here, field)
    if before and now and now >= before:
        return []
    return [f"training.{field}: {before} there, {now} here; it may only grow"]


def _flat(recipe: Recipe, ignored: dict[str, Any]) -> dict[str, Any]:
    return _flatten(recipe.model_dump(mode="json", exclude=ignored))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            fields |= _flatten(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{field}: {_show(there, field)} there, {_show(here, field)} here"
        for field in sorted(there.keys() | here.keys())
        if field not in there or field not in here or there[field] != here[field]
    ]


def _show(fields: Mapping[str, Any], field: str) -> str:
    return repr(fields[field]) if field in fields else "nothing"


def _name_in(location: str) -> str:
    """Return the name in `file.py:name` or `package.module:name`."""
    return location.rpartition(":")[2] if ":" in location else ""
