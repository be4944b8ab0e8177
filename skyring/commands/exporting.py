"""The work of ``skyring export``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from skyring.client import SkyringClient
from skyring.commands.output import say
from skyring.commands.stored import Stored, Unreadable, read_listed
from skyring.errors import SkyringError

__all__ = ["Export", "entry_line"]

PAGE_ENTRIES = 1_000
SHOW_EVERY = 500
UNREADABLE_SHOWN_MAX = 100


class _Entry(msgspec.Struct):
    id: str
    at: int
    data: msgspec.Raw
    callback: msgspec.Raw


def entry_line(timer: Stored) -> bytes:
    """One line that ``POST /timers`` takes; it is due when its next attempt would have been."""
    entry = _Entry(timer.id, timer.next, timer.data, timer.callback)
    # A line break can only be white space between the user's tokens: within strings JSON has none.
    line = msgspec.json.encode(entry).replace(b"\n", b" ").replace(b"\r", b" ")
    return line + b"\n"


class Export:
    """All pending timers of a server, or its dead letters, into a file or standard output."""

    def __init__(self, output: str, *, dead_letters: bool = False) -> None:
        self._output = output
        self._path = "/dead-letters" if dead_letters else "/timers"
        self._key = "dead_letters" if dead_letters else "timers"
        self._left_out = 0

    async def run(self, client: SkyringClient) -> int:
        """Write the export; returns how many were left out because the server cannot read them.

        Raises:
            SkyringError: the file cannot be written. It is left as it was before.
        """
        try:
            with _opened(self._output) as file, self._progress() as progress:
                count = await self._copy(client, file, progress)
        except BrokenPipeError:
            raise  # whoever reads our output has seen enough
        except OSError as error:
            raise SkyringError(f"cannot write {self._output}: {error.strerror}") from error
        if self._left_out > UNREADABLE_SHOWN_MAX:
            say(f"{self._left_out - UNREADABLE_SHOWN_MAX} more cannot be read")
        left_out = f", {self._left_out} left out" if self._left_out else ""
        if self._output != "-" or left_out:
            say(f"{count} exported to {self._output}{left_out}")
        return self._left_out

    async def _copy(self, client: SkyringClient, file: IO[bytes], progress: Progress) -> int:
        task = progress.add_task("exported", total=None)
        count = 0
        params = {"limit": PAGE_ENTRIES}
        pages = client.pages(self._path, self._key, read_listed, params)
        async with aclosing(pages):
            async for timer in pages:
                if isinstance(timer, Unreadable):
                    self._leave_out(timer)
                    continue
                file.write(entry_line(timer))
                count += 1
                if count % SHOW_EVERY == 0:
                    progress.update(task, completed=count)
        file.flush()
        progress.update(task, completed=count)
        return count

    def _leave_out(self, record: Unreadable) -> None:
        self._left_out += 1
        if self._left_out <= UNREADABLE_SHOWN_MAX:
            say(f"{record.id} cannot be read, and is left out: {record.last_error}")

    def _progress(self) -> Progress:
        console = Console(stderr=True)
        # Timers and a moving line on the same terminal would spoil each other.
        mixed = self._output == "-" and sys.stdout.isatty()
        return Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.completed:,.0f} timers {task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=mixed or not console.is_terminal,
        )


@contextmanager
def _opened(output: str) -> Iterator[IO[bytes]]:
    """Standard output, or a file that takes its name only when all has gone well."""
    if output == "-":
        yield sys.stdout.buffer
        return
    target = Path(output).resolve()
    if target.exists() and not target.is_file():
        # A device or a pipe cannot be replaced by a file of its name.
        with target.open("wb") as device:
            yield device
        return
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", suffix=".part", delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def _umask() -> int:
    """The permissions that new files lack; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
