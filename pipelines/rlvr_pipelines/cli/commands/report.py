"""`rlvr report`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from rlvr_pipelines.cli.options import debug_option, output_option, print_json, run_dir_argument


@click.command(short_help="Write the evaluation and report of RUN_DIR again.")
@run_dir_argument
@output_option
@debug_option
def report(run_dir: Path, output: str) -> None:
    """Write the evaluation and report of RUN_DIR again, from its samples and events.

    \b
    rlvr report runs/arithmetic
    """
    from rlvr_pipelines.local.results import print_evaluation
    from rlvr_trainer import api
    from rlvr_trainer.evaluation.outcome import read_samples, write_samples
    from rlvr_trainer.run_dir.layout import SAMPLES, RunDir, read_recipe

    files = RunDir(run_dir)
    recipe = read_recipe(run_dir)
    samples = read_samples(files.samples)
    with tempfile.TemporaryDirectory() as folder:
        sides = {label: Path(folder, label) for label in ("before", "after")}
        for label, side in sides.items():
            own = [sample for sample in samples if sample["model"] == label]
            write_samples(side / SAMPLES, own)
        evaluation = api.compare(
            recipe, files.data, sides["before"], sides["after"], files.events, files.path
        )
    if output == "json":
        print_json({"report": str(files.report), "evaluation": evaluation})
        return
    print_evaluation(evaluation, sys.stdout)
    click.echo(f"Report: {files.report}")
