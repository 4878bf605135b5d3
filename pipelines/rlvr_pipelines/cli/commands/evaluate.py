"""`rlvr evaluate`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import click

from rlvr_pipelines.cli.options import (
    debug_option,
    load,
    output_option,
    print_json,
    recipe_options,
)


@click.command("evaluate")
@recipe_options
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The directory of data and samples.  [default: runs/NAME-evaluate]",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="A trained adapter.  [default: none, the base model]",
)
@output_option
@debug_option
def evaluate_command(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
    adapter: Path | None,
    output: str,
) -> None:
    """Evaluate RECIPE's model, or an adapter, on the test rows.

    \b
    rlvr evaluate arithmetic
    rlvr evaluate arithmetic --adapter runs/arithmetic/adapter
    """
    from rlvr_pipelines.extras import TRAIN, require

    loaded = load(recipe, overrides, seed)
    require(TRAIN, "an evaluation")
    from rlvr_pipelines.local.claim import claim
    from rlvr_pipelines.local.display import LineDisplay
    from rlvr_pipelines.local.event_follower import following
    from rlvr_pipelines.local.run_progress import Event, RunProgress
    from rlvr_trainer import api
    from rlvr_trainer.evaluation.outcome import count, percent, read_samples, summarise
    from rlvr_trainer.run_dir.layout import SAMPLES
    from rlvr_trainer.variables import EVENTS_VARIABLE

    label: Literal["before", "after"] = "after" if adapter else "before"
    progress = RunProgress(["prepare", "evaluate-trained" if adapter else "evaluate-base"])
    # Lines on a terminal, too: the output of libraries would break a live table.
    display = LineDisplay(sys.stderr, progress, f"{loaded.name}  recipe {loaded.hash}")

    def show(event: Event) -> None:
        if progress.update(event):
            display.show(event)

    path = run_dir or Path("runs", f"{loaded.name}-evaluate")
    with claim(path, loaded, reopen=False) as claimed:
        data, folder = claimed.run_dir.data, path / label
        os.environ[EVENTS_VARIABLE] = str(claimed.run_dir.events)
        with display, following(path, show):
            api.prepare(loaded, data)
            api.evaluate(loaded, data, folder, label=label, adapter_dir=adapter)
        samples_file = folder / SAMPLES
    pass_at_k = loaded.evaluation.pass_at_k
    shots = summarise(read_samples(samples_file), k=pass_at_k.k if pass_at_k else ())
    if output == "json":
        print_json({"model": label, "shots": shots, "samples": str(samples_file)})
        return
    for number, summary in shots.items():
        click.echo(
            f"{count(int(number), 'shot')}: accuracy {percent(summary['accuracy'])} "
            f"({percent(summary['low'])} to {percent(summary['high'])}), "
            f"format {percent(summary['format'])}, flexible {percent(summary['flexible'])}, "
            f"{count(summary['num_samples'], 'row')}"
            + "".join(
                f", pass@{k} {percent(share)}" for k, share in summary.get("pass_at_k", {}).items()
            )
        )
    click.echo(f"Samples: {samples_file}")
