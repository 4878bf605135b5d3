"""One field, several values: a run for each, and a report that compares them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_pipelines.run_dir import RunDir
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation import write_json
from rlvr_trainer.report import render_sweep_report, write_report

SWEEP_INFIX = "-sweep-"
"""Between the recipe's name and the field, in the name of a sweep's own folder in runs/."""


@dataclass(frozen=True)
class Sweep:
    """A field and its values, as they stand in `--sweep`."""

    field: str
    values: tuple[str, ...]

    def override(self, value: str) -> str:
        """The `--set` of one value."""
        return f"{self.field}={value}"

    def run_dir(self, root: Path, value: str) -> Path:
        """The run directory of one value."""
        return root / self.override(value).replace("/", "_")


def parse_sweep(text: str) -> Sweep:
    """`FIELD=V1,V2,…`. Raises ConfigError."""
    field, equals, values = text.partition("=")
    parts = tuple(value.strip() for value in values.split(","))
    if not equals or not field.strip() or not all(parts):
        raise ConfigError(f"--sweep {text!r} names no values; write it as section.field=V1,V2")
    if len(set(parts)) < len(parts):
        raise ConfigError(f"--sweep {text!r} names a value twice; name each once")
    return Sweep(field.strip(), parts)


def write_sweep(root: Path, sweep: Sweep) -> list[dict[str, Any]]:
    """Write `sweep.json` and `report.html` that compare the runs; returns what is compared.

    The evaluation of a run that failed is None.
    """
    runs: list[dict[str, Any]] = []
    for value in sweep.values:
        run_dir = RunDir(sweep.run_dir(root, value))
        whole = run_dir.evaluation.exists()
        evaluation = json.loads(run_dir.evaluation.read_text("utf-8")) if whole else None
        name = run_dir.path.name
        runs.append(
            {"field": sweep.field, "value": value, "run_dir": name, "evaluation": evaluation}
        )
    write_json(root / "sweep.json", runs)
    write_report(root / "report.html", render_sweep_report(runs))
    return runs
