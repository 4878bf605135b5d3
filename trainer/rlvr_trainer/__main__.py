"""`python -m rlvr_trainer`: what a pod and the local job run.

    train --run-dir DIR      train a folder's recipe on its data; alone, or as a rank of torchrun
    launch --run URI         what a pod runs: fetch, train on all nodes, commit, say why it ended

Both end with DESIGN's exit codes: 0 only when the last step is committed, 143 when a signal stopped
it after a commit, otherwise the error's own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from rlvr_trainer import __version__
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, RLVRError
from rlvr_trainer.events import EVENTS_VARIABLE
from rlvr_trainer.launch.pod import Options, add_arguments, launch
from rlvr_trainer.ranks import record_error, record_preempted, was_launched
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import parse_recipe


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlvr_trainer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train the run directory's recipe on its data")
    # torchrun takes `--run` for one of its own options, cut short; under it, write --run-dir
    train.add_argument(
        "--run", "--run-dir", type=Path, required=True, metavar="DIR", help="the run directory"
    )
    add_arguments(verbs.add_parser("launch", help="train as a pod of a job does"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if options.verb == "launch":
        return launch(Options.parse(options))
    try:
        return _train(options.run)
    except RLVRError as error:
        record_error(error)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        record_error(error)
        raise


def _train(run_dir: Path) -> int:
    recipe = _read_recipe(run_dir)
    os.environ.setdefault(EVENTS_VARIABLE, str(run_dir / "metrics.jsonl"))
    if os.environ.get("RANK", "0") != "0":
        del os.environ[EVENTS_VARIABLE]  # one rank speaks for all
    from rlvr_trainer.steps import train

    if train(recipe, run_dir, run_dir / "data"):
        return 0
    record_preempted()
    # torchrun would end the other ranks of the node if this one failed
    return 0 if was_launched() else EXIT_PREEMPTED


def _read_recipe(run_dir: Path) -> Recipe:
    path = run_dir / "recipe.json"
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); a run directory begins with it"
        ) from None
    return parse_recipe(tree, origin=str(path))


if __name__ == "__main__":
    sys.exit(main())
