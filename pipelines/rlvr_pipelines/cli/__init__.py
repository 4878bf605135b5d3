"""The command line. A command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import click

from rlvr_pipelines.cli.authoring.export_rewards import export
from rlvr_pipelines.cli.authoring.init_command import init_command
from rlvr_pipelines.cli.authoring.reward_command import reward
from rlvr_pipelines.cli.commands.clean import clean
from rlvr_pipelines.cli.commands.compile import compile_command
from rlvr_pipelines.cli.commands.evaluate import evaluate_command
from rlvr_pipelines.cli.commands.logs import logs
from rlvr_pipelines.cli.commands.plan import plan_command
from rlvr_pipelines.cli.commands.publish import publish_command
from rlvr_pipelines.cli.commands.recipes import recipes
from rlvr_pipelines.cli.commands.report import report
from rlvr_pipelines.cli.commands.run import run
from rlvr_pipelines.cli.commands.status import status
from rlvr_pipelines.cli.commands.stop import stop
from rlvr_pipelines.cli.commands.upload import upload
from rlvr_pipelines.cli.exit import ErrorGroup
from rlvr_trainer import __version__


@click.group(cls=ErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rlvr")
def main() -> None:
    """Reinforcement learning with verifiable rewards, from a laptop to a cluster.

    A recipe says what a run trains; `rlvr recipes` lists the shipped ones.
    """


for command in (
    recipes, init_command, reward, plan_command, run, status, logs, stop, clean, evaluate_command,
    report, publish_command, export, compile_command, upload,
):  # fmt: skip
    main.add_command(command)
