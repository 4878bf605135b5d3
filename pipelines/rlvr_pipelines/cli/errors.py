"""How errors reach the person: one message, a stable exit code, a traceback only on request."""

from __future__ import annotations

from typing import Any

import click

from rlvr_trainer.errors import RLVRError

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
        except RLVRError as error:
            if ctx.meta.get(DEBUG):
                raise
            _show(str(error))
            ctx.exit(error.exit_code)
        except Exception as error:
            if ctx.meta.get(DEBUG):
                raise
            _show(f"unexpected {type(error).__name__}: {error}\n--debug shows where it comes from")
            ctx.exit(1)


def _show(message: str) -> None:
    first, newline, rest = message.partition("\n")
    click.echo(click.style(f"error: {first}", fg="red") + newline + rest, err=True)
