"""Timers on the screen: JSON for one, a table or NDJSON for many."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from skyring.commands.durations import format_duration
from skyring.commands.output import printable, say
from skyring.commands.session import talk

if TYPE_CHECKING:
    from skyring.client import SkyringClient

__all__ = ["Json", "Limit", "show_entries", "show_json"]

PAGE_ENTRIES = 500
PIPE_COLUMNS = 200
"""Width of a table that goes to a file or another program."""

Limit = Annotated[int, typer.Option(min=1, help="Entries to show at most.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]


def show_json(content: bytes) -> None:
    """Pretty JSON on standard output; coloured, and safe to look at, on a terminal."""
    import msgspec

    text = msgspec.json.format(content, indent=2).decode(errors="replace")
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    shown = Text("\n".join(printable(line) for line in text.split("\n")))
    JSONHighlighter().highlight(shown)
    Console().print(shown, soft_wrap=True)


def show_entries(url: str, path: str, key: str, limit: int, *, as_json: bool) -> None:
    """The first ``limit`` entries of a paged route, and a word if there are more."""
    entries = talk(url, lambda sky: _fetch(sky, path, key, limit + 1))
    if as_json:
        for entry in entries[:limit]:
            sys.stdout.buffer.write(entry.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
        sys.stdout.flush()
    else:
        _show_table(entries[:limit])
    if len(entries) > limit:
        say(f"there are more than {limit}; --limit shows more, skyring export all")


async def _fetch(sky: SkyringClient, path: str, key: str, limit: int) -> list[bytes]:
    from contextlib import aclosing

    import msgspec

    found: list[bytes] = []
    decode = msgspec.json.Decoder(list[msgspec.Raw]).decode
    pages = sky.pages(path, key, decode, {"limit": min(limit, PAGE_ENTRIES)})
    async with aclosing(pages):
        async for entry in pages:
            found.append(bytes(entry))
            if len(found) == limit:
                break
    return found


def _show_table(entries: list[bytes]) -> None:
    import msgspec
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from skyring.client import Timer
    from skyring.commands.stored import Unreadable

    now_ms = time.time_ns() // 1_000_000
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("id", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("next attempt", no_wrap=True)
    table.add_column("in", no_wrap=True, justify="right")
    table.add_column("failed", no_wrap=True, justify="right")
    table.add_column("to", overflow="fold")
    table.add_column("last error", overflow="fold")
    for entry in entries:
        cells: tuple[str, ...]
        try:
            timer = msgspec.json.decode(entry, type=Timer)
        except msgspec.ValidationError:
            # Of such a record the server knows no more.
            record = msgspec.json.decode(entry, type=Unreadable)
            cells = (record.id, "unreadable", "", "", "", "", record.last_error)
        else:
            cells = (
                timer.id,
                timer.state,
                _local(timer.next_ms),
                "" if timer.state == "dead" else format_duration(timer.next_ms - now_ms),
                str(timer.attempts),
                timer.callback.uri,
                timer.last_error or "",
            )
        # Text, not markup: what users wrote must not be read as styling.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    console.print(table)


def _local(moment_ms: int) -> str:
    """Time of day here, with the offset; RFC 3339 apart from the blank."""
    try:
        moment = datetime.fromtimestamp(moment_ms / 1000).astimezone()
    except (OverflowError, ValueError, OSError):
        return str(moment_ms)
    return moment.isoformat(sep=" ", timespec="milliseconds")
