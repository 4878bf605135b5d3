"""Print an error as one message and exit with its stable code; --debug adds the traceback."""

from __future__ import annotations

from typing import Any

import click

from rlvr_trainer.error_mapping import to_rlvr_error

DEBUG = "rlvr.debug"
EXIT_INTERRUPTED = 130


class ErrorGroup(click.Group):
    """A group of commands whose errors are printed as messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with the code of the error that it raises."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            raise  # click handles it
        except Exception as error:
            if ctx.meta.get(DEBUG):
                raise
            cause = to_rlvr_error(error, hint="--debug shows where it comes from")
            _show(str(cause))
            ctx.exit(cause.exit_code)


def _show(message: str) -> None:
    first, newline, rest = message.partition("\n")
    click.echo(click.style(f"error: {first}", fg="red") + newline + rest, err=True)
