"""``skyring export`` and ``skyring import``: all pending timers as NDJSON."""

from __future__ import annotations

from typing import Annotated

import typer

from skyring.commands.session import DEFAULT_URL, Url, talk

__all__ = ["export_timers", "import_timers"]

TIMEOUT_S = 60.0
"""A batch of 16 MiB is written and fsynced before the answer begins."""


def export_timers(
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="File to write; - is the screen.")
    ] = "-",
    dead_letters: Annotated[
        bool,
        typer.Option(
            "--dead-letters", help="Dead letters instead: imported, they are delivered again."
        ),
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Write all pending timers as NDJSON, one timer a line, for skyring import.

    The file appears when it is complete. Timers that are created, changed or fired while this
    runs may be missing or stand twice: let nobody create any, and export again if in doubt.
    Exit code 1 if the server could not read some; the others are exported all the same.
    """
    from skyring.commands.exporting import Export

    left_out = talk(url, Export(output, dead_letters=dead_letters).run, timeout_s=TIMEOUT_S)
    if left_out:
        raise typer.Exit(1)


def import_timers(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to read; - is standard input.")],
    batch: Annotated[
        int, typer.Option(min=1, max=50_000, help="Timers in one request at most.")
    ] = 5_000,
    url: Url = DEFAULT_URL,
) -> None:
    """Create the timers of an NDJSON file.

    Timers keep their ids, so that importing the same file again does no harm. Exit code 1 if any
    line was refused; the others are created all the same.
    """
    from skyring.commands.importing import Import

    refused = talk(url, Import(file, batch).run, timeout_s=TIMEOUT_S)
    if refused:
        raise typer.Exit(1)
