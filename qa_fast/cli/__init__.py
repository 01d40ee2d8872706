"""The command line ``qa-fast``, one module per command.

Nothing heavy is imported at the top of these modules, so that ``--help``, ``--version`` and a mistake
in the arguments answer at once. Bad input is one line on standard error and exit code 2.

- `ask`: one question over texts
- `predict`: every question of a data set, to disk
- `merge`: what several processes of a run have made, put together
- `evaluate`: scores, results and a report
- `compare`: two runs side by side
- `drift`: variants of a model beside it
- `export`: a model as a graph for another runtime
- `options`: the options that commands share, and the panels of `--help`
- `messages`: errors and notes, in the command line's words
- `terminal`: answers for a person to read
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qa_fast import __version__
from qa_fast.files.wording import explain

from . import ask, compare, drift, evaluate, export, merge, predict
from .messages import InputError
from .terminal import visible


class _Group(TyperGroup):
    """Prints every error as one line, without a usage box or a traceback."""

    def main(self, **extra: Any) -> Any:  # type: ignore[override]
        if not extra.pop("standalone_mode", True):
            return super().main(standalone_mode=False, **extra)
        try:
            code = super().main(standalone_mode=False, **extra)
        except (typer.Abort, KeyboardInterrupt):
            sys.exit(130)
        except InputError as error:
            message = str(error)
        except OSError as error:
            # Those of files have become an InputError where they were read or written.
            message = f"standard output: {explain(error)}"
        except Exception as error:
            # Only a usage error of Typer has it.
            if not hasattr(error, "format_message"):
                raise
            message = error.format_message()
            # Without arguments, the help was printed, and nothing is left to say.
            if not message:
                sys.exit(2)
            message += " (see --help)"
        else:
            sys.exit(code if isinstance(code, int) else 0)
        typer.echo(f"qa-fast: error: {visible(' '.join(message.split()))}", err=True)
        sys.exit(2)


EPILOG = (
    "Exit codes: 0 done; 1 a bug, or standard output that nobody reads any more; 2 arguments, "
    "data or files that cannot be used, told in one line of stderr; 130 stopped by Ctrl-C; 143 stopped "
    "by SIGTERM."
)

app = typer.Typer(
    epilog=EPILOG,
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of the command ``qa-fast``."""
    # Standard streams that are closed, as a daemon's may be, are None.
    nothing = Path(os.devnull)
    sys.stdin = sys.stdin or nothing.open()
    sys.stdout = sys.stdout or nothing.open("w")
    sys.stderr = sys.stderr or nothing.open("w")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="qa-fast")
    finally:
        _flush()


def _flush() -> None:
    """Write out what was printed, so that an error of it is told, and not lost at the end of Python."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # By a broken pipe, `head` says that it has enough.
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        typer.echo(f"qa-fast: error: standard output: {explain(error)}", err=True)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qa-fast {__version__}")
        raise typer.Exit


@app.callback()
def _qa_fast(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Extractive question answering: find the part of a text that answers a question."""


app.command(epilog=ask.EPILOG)(ask.ask)
app.command(epilog=predict.EPILOG)(predict.predict)
app.command()(merge.merge)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=drift.EPILOG)(drift.drift)
app.command(epilog=export.EPILOG)(export.export)
