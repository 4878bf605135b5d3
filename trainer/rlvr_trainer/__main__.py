"""Run `python -m rlvr_trainer`, the program of pods and of the local job.

    train --run-dir DIR      train a folder's recipe on its data; alone, or as a rank of torchrun
    evaluate --run-dir DIR   evaluate a folder's recipe on its data; one part, or those of a node
    launch --run URI         run a pod: fetch, train on all nodes, commit, report the termination

Exit codes: 0 if the last step is committed, 143 if a signal stopped it after a commit, otherwise
that of the error (`errors.py`).
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from rlvr_trainer import __version__
from rlvr_trainer.error_mapping import to_rlvr_error
from rlvr_trainer.errors import EXIT_PREEMPTED
from rlvr_trainer.evaluation.shards import parse_shard
from rlvr_trainer.launch.pod import Options, add_arguments, launch
from rlvr_trainer.launch.rank_outcomes import record_error, record_preempted, was_launched
from rlvr_trainer.log import configure_logging
from rlvr_trainer.run_dir.layout import DATA, METRICS, read_recipe
from rlvr_trainer.variables import EVENTS_VARIABLE, RUN_DIR_VARIABLE


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
    # torchrun takes `--run` for an abbreviation of its own options; under it, use --run-dir
    train.add_argument(
        *("--run", "--run-dir"),
        dest="run_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="the run directory",
    )
    add_evaluate_arguments(verbs.add_parser("evaluate", help="evaluate on the test rows"))
    add_arguments(verbs.add_parser("launch", help="train as a pod of a job does"))
    options = parser.parse_args(arguments)
    configure_logging()
    if options.verb == "launch":
        return launch(Options.parse(options))
    try:
        return _evaluate(options) if options.verb == "evaluate" else _train(options.run_dir)
    except Exception as error:
        record_error(error)
        cause = to_rlvr_error(error, options.run_dir)
        if cause is not error:
            traceback.print_exc()
        print(f"error: {cause}", file=sys.stderr)
        return cause.exit_code


def _train(run_dir: Path) -> int:
    recipe = read_recipe(run_dir)
    os.environ.setdefault(EVENTS_VARIABLE, str(run_dir / METRICS))
    if os.environ.get("RANK", "0") != "0":
        del os.environ[EVENTS_VARIABLE]  # only rank 0 emits events
    from rlvr_trainer.api import train

    if train(recipe, run_dir, run_dir / DATA):
        return 0
    record_preempted()
    # torchrun would end the other ranks of the node if this one failed
    return 0 if was_launched() else EXIT_PREEMPTED


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    add = parser.add_argument
    add(
        "--run-dir",
        type=Path,
        default=os.environ.get(RUN_DIR_VARIABLE),
        required=RUN_DIR_VARIABLE not in os.environ,
        metavar="DIR",
        help="the run directory; under launch, its own",
    )
    add("--label", choices=("before", "after"), required=True, help="before or after training")
    add("--adapter", default="", metavar="URI", help="a folder or s3://…; default: the base model")
    add("--shard", metavar="R/N", help="one part only; default: the parts of this node")
    add(
        "--shards-per-node",
        type=int,
        default=1,
        metavar="N",
        help="parts that a node evaluates in parallel, one on each GPU (default %(default)s)",
    )


def _evaluate(options: argparse.Namespace) -> int:
    from rlvr_trainer.evaluation.shard_pod import evaluate_on_node

    return evaluate_on_node(
        read_recipe(options.run_dir),
        options.run_dir,
        label=options.label,
        adapter=options.adapter,
        shard=parse_shard(options.shard) if options.shard else None,
        shards_per_node=options.shards_per_node,
    )


if __name__ == "__main__":
    sys.exit(main())
