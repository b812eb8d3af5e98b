"""The command group of both command lines: prints errors as one line."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from occ_perception.errors import sentence_for

_WRONG_INPUT = 2
_INTERRUPTED = 130  # the exit code of a program ended by SIGINT, as in shells


class PlainErrors(TyperGroup):
    """Prints errors that a user can fix as one line, with exit code 2; others are defects.

    ``--debug`` shows the traceback of both. Ctrl-C ends a command with exit code 130 and no output.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe raises here, not at exit
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(_INTERRUPTED) from interrupt
        except Exception as error:
            sentence = sentence_for(error)
            if sentence is None or ctx.params.get("debug"):
                raise
            typer.secho(f"error: {sentence}", fg=typer.colors.RED, err=True)
            raise typer.Exit(_WRONG_INPUT) from error
        return result
