"""How errors reach the person: one message, a stable exit code, a traceback only on request."""

from __future__ import annotations

from typing import Any

import click

from rlvr_trainer.error_mapping import to_rlvr_error

DEBUG = "rlvr.debug"
EXIT_INTERRUPTED = 130


class ErrorGroup(click.Group):
    """Commands in the order that they were added; their errors as messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a run, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; end with the exit code of what it raises."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            raise  # click knows what to do
        except Exception as error:
            if ctx.meta.get(DEBUG):
                raise
            cause = to_rlvr_error(error, hint="--debug shows where it comes from")
            _show(str(cause))
            ctx.exit(cause.exit_code)


def _show(message: str) -> None:
    first, newline, rest = message.partition("\n")
    click.echo(click.style(f"error: {first}", fg="red") + newline + rest, err=True)
