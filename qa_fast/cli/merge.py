"""``qa-fast merge``: put together what the processes of a run have made."""

from __future__ import annotations

from typing import Annotated

import typer

from .messages import input_error, say
from .predict import predict


def merge(
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="The output that the processes were given.")
    ],
) -> None:
    """Put together the results of qa-fast predict --num-shards, and check that no row is missing."""
    from qa_fast.runs.merging import merge as run_merge

    try:
        manifest = run_merge(output)
    except (ValueError, OSError, ImportError) as error:
        # What is missing is made by `predict`, with options of its own.
        raise input_error(error, predict) from error
    say(f"{output}: {manifest['written']} answers of {manifest['rows']} rows")
