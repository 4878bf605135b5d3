"""A sweep: one run for each value of a field, and a report that compares them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.outcome import write_json
from rlvr_trainer.report import render_sweep_report, write_report
from rlvr_trainer.run_dir.layout import SWEEP, RunDir

SWEEP_INFIX = "-sweep-"
"""The part between the recipe's name and the field in the name of a sweep's folder."""

MAX_NAME_LENGTH = 150
"""The limit for a value's folder: file systems allow 255 bytes, and a cut name gets a hash."""


@dataclass(frozen=True)
class Sweep:
    """The field and the values of `--sweep`."""

    field: str
    values: tuple[str, ...]

    def override(self, value: str) -> str:
        """Return the `--set` of one value."""
        return f"{self.field}={value}"

    def run_dir(self, root: Path, value: str) -> Path:
        """Return the run directory of one value, unique to it."""
        name = quote(self.override(value), safe="=,+@")
        if len(name) > MAX_NAME_LENGTH:
            name = f"{name[:MAX_NAME_LENGTH]}-{hashlib.sha256(value.encode()).hexdigest()[:12]}"
        return root / name


def parse_sweep(text: str) -> Sweep:
    """Parse `FIELD=V1,V2,…`. Raises ConfigError.

    A comma within quotes, brackets or braces belongs to its value: `lora.targets=[q,v],[q]`.
    """
    field, _, values = text.partition("=")
    parts = _split(values)
    if not field.strip() or not parts or not all(parts):
        raise ConfigError(f"--sweep {text!r} names no values; write it as section.field=V1,V2")
    if len(set(parts)) < len(parts):
        raise ConfigError(f"--sweep {text!r} names a value twice; name every value once")
    return Sweep(field.strip(), parts)


def _split(values: str) -> tuple[str, ...]:
    listing = f"[{values}]"
    try:
        node = yaml.compose(listing, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if not isinstance(node, yaml.SequenceNode):  # not YAML (`@x`): every comma separates
        return tuple(value.strip() for value in values.split(","))
    return tuple(listing[item.start_mark.index : item.end_mark.index] for item in node.value)


def write_sweep(root: Path, sweep: Sweep) -> list[dict[str, Any]]:
    """Write `sweep.json` and `report.html`, which compare the runs; return the compared runs.

    The evaluation of a failed run is None.
    """
    runs: list[dict[str, Any]] = []
    for value in sweep.values:
        run_dir = RunDir(sweep.run_dir(root, value))
        finished = run_dir.evaluation.exists()
        evaluation = json.loads(run_dir.evaluation.read_text("utf-8")) if finished else None
        name = run_dir.path.name
        runs.append(
            {"field": sweep.field, "value": value, "run_dir": name, "evaluation": evaluation}
        )
    write_json(root / SWEEP, runs)
    write_report(RunDir(root).report, render_sweep_report(runs))
    return runs
