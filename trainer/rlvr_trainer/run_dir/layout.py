"""Name the files of a run directory, and read its recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.storage import LocalStorage, Storage

RECIPE = "recipe.json"
DATA = "data"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
METRICS = "metrics.jsonl"
METRICS_PARTS = "metrics"
"""Pieces of metrics.jsonl in S3, while a training runs."""
SAMPLES = "samples.jsonl"
SAMPLE_SHARDS = "samples"
"""Samples of each part of an evaluation in S3."""
EVALUATION = "evaluation.json"
REPORT = "report.html"
SWEEP = "sweep.json"
"""The runs of a sweep, in the folder that holds their run directories."""
ATTEMPTS = "attempts.json"
LOGS = "logs"


@dataclass(frozen=True)
class RunDir:
    """The files of a run directory on a disk."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE

    @property
    def data(self) -> Path:
        """The prepared data."""
        return self.path / DATA

    @property
    def checkpoints(self) -> Path:
        """Committed checkpoints of the training."""
        return self.path / CHECKPOINTS

    @property
    def adapter(self) -> Path:
        """The trained adapter, or all weights."""
        return self.path / ADAPTER

    @property
    def events(self) -> Path:
        """Events, one JSON object a line."""
        return self.path / METRICS

    @property
    def samples(self) -> Path:
        """Per-sample results, before and after."""
        return self.path / SAMPLES

    @property
    def evaluation(self) -> Path:
        """Accuracy before and after; written last, so that a run that has it is complete."""
        return self.path / EVALUATION

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.path / REPORT

    @property
    def logs(self) -> Path:
        """Output of the ranks and of the steps."""
        return self.path / LOGS

    @property
    def log(self) -> Path:
        """Output of the steps."""
        return self.logs / "pipeline.log"

    @property
    def lock(self) -> Path:
        """Locked by the process that runs here."""
        return self.path / ".lock"

    @property
    def pipeline(self) -> Path:
        """Outputs and keys of the steps of an unfinished run."""
        return self.path / ".pipeline"

    @property
    def before(self) -> Path:
        """The base model's samples."""
        return self.pipeline / "before"

    @property
    def after(self) -> Path:
        """The trained model's samples."""
        return self.pipeline / "after"

    @property
    def history(self) -> Path:
        """The events of a training in a cluster."""
        return self.pipeline / "history.jsonl"

    @property
    def remote_id(self) -> Path:
        """The name of the run in a cluster, by which another attempt finds its jobs."""
        return self.path / "run-id"


def read_recipe(run_dir: Path | Storage) -> Recipe:
    """Return the recipe of a run directory. Raises ConfigError, PlatformError."""
    storage = LocalStorage(run_dir) if isinstance(run_dir, Path) else run_dir
    where = f"{storage.uri}/{RECIPE}"
    try:
        tree = json.loads(storage.read_bytes(RECIPE))
    except FileNotFoundError:
        raise ConfigError(
            f"{storage.uri} is not a run directory (no {RECIPE}); name one that `rlvr run` has "
            "written"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read ({error}); name another run directory") from None
    return parse_recipe(tree, origin=where)
