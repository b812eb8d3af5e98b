"""Where errors become one line: the group that the commands of both command lines run in."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from occ_perception.errors import sentence_for

_WRONG_INPUT = 2
_INTERRUPTED = 130  # as shells say that SIGINT ended a program


class PlainErrors(TyperGroup):
    """Turns errors that a user can mend into one line and exit code 2; others are defects.

    ``--debug`` shows the traceback of both. Ctrl-C ends a command with 130, without a word.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a reader that has gone away is noticed here, not at exit
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(_INTERRUPTED) from interrupt
        except Exception as error:
            sentence = sentence_for(error)
            if sentence is None or ctx.params.get("debug"):
                raise
            typer.secho(f"error: {sentence}", fg=typer.colors.RED, err=True)
            raise typer.Exit(_WRONG_INPUT) from error
        return result
