"""The work of ``skyring import``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from skyring.client import SkyringClient
from skyring.commands.output import say
from skyring.errors import ConfigError, SkyringError, Unavailable, Uncertain

__all__ = ["Import", "Line", "batches", "check_line"]

BATCH_BYTES_MAX = 16 << 20
LINE_BYTES_MAX = 8 << 20
REASONS_SHOWN_MAX = 100
TRIES = 6
WAIT_S_MAX = 30

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Line(NamedTuple):
    """A line of the file; numbers begin with 1."""

    number: int
    content: bytes


def check_line(line: Line) -> str | None:
    """Why a line cannot be sent, or None. What it says is for the server to judge."""
    try:
        _decode(line.content)
    except msgspec.ValidationError:
        return "is not a JSON object"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"is not JSON: {error}"
    return None


def read_lines(file: IO[bytes]) -> Iterator[Line]:
    """The lines of a file that hold something.

    Raises:
        SkyringError: a line is longer than 8 MiB.
    """
    number = 0
    while content := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(content) > LINE_BYTES_MAX:
            raise SkyringError(f"line {number} is longer than {LINE_BYTES_MAX} bytes")
        if content.strip():
            yield Line(number, content.strip())


def batches(lines: Iterator[Line], entries_max: int) -> Iterator[Sequence[Line]]:
    """Lines in groups that fit into one request, by number and by size."""
    batch: list[Line] = []
    batch_bytes = 0
    for line in lines:
        size = len(line.content) + 1
        if len(batch) == entries_max or (batch and batch_bytes + size > BATCH_BYTES_MAX):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(line)
        batch_bytes += size
    if batch:
        yield batch


class Import:
    """The timers of an NDJSON file, created on a server."""

    def __init__(self, name: str, batch_entries: int) -> None:
        self._name = name
        self._batch_entries = batch_entries
        self._created = 0
        self._existing = 0
        self._refused = 0

    async def run(self, client: SkyringClient) -> int:
        """Create them all; returns how many were refused. Says what became of them.

        Raises:
            ConfigError: the file cannot be read.
            SkyringError: the server failed. What was created before is said all the same.
        """
        with ExitStack() as stack:
            file = self._open(stack)
            try:
                await self._send_all(client, file, stack.enter_context(_progress(file)))
            except BaseException:
                stack.close()
                if self._created or self._existing or self._refused:
                    self._report()
                raise
        self._report()
        return self._refused

    def _open(self, stack: ExitStack) -> IO[bytes]:
        if self._name == "-":
            return sys.stdin.buffer
        try:
            return stack.enter_context(Path(self._name).open("rb"))
        except OSError as error:
            raise ConfigError(f"cannot read {self._name}: {error.strerror}") from error

    async def _send_all(self, client: SkyringClient, file: IO[bytes], progress: Progress) -> None:
        task = next(iter(progress.task_ids))
        for batch in batches(self._good(read_lines(file)), self._batch_entries):
            await self._send(client, batch)
            progress.advance(task, sum(len(line.content) + 1 for line in batch))

    def _good(self, lines: Iterator[Line]) -> Iterator[Line]:
        for line in lines:
            wrong = check_line(line)
            if wrong is None:
                yield line
            else:
                self._refuse(line.number, wrong)

    async def _send(self, client: SkyringClient, batch: Sequence[Line]) -> None:
        contents = [line.content for line in batch]
        with_ids = all("id" in _decode(content) for content in contents)
        for attempt in range(1, TRIES + 1):
            try:
                results = await client.create_lines(contents, repeatable=with_ids)
                break
            except Unavailable as error:
                silent = error.__cause__ is not None
                if attempt == TRIES or silent or (isinstance(error, Uncertain) and not with_ids):
                    first, last = batch[0].number, batch[-1].number
                    raise type(error)(f"lines {first} to {last}: {error}") from error.__cause__
                await asyncio.sleep(min(error.retry_after_s, WAIT_S_MAX))
        for line, result in zip(batch, results, strict=True):
            if result.status == 201:
                self._created += 1
            elif result.status == 200:
                self._existing += 1
            else:
                self._refuse(line.number, f"{result.status} {result.reason or ''}".rstrip())

    def _refuse(self, number: int, reason: str) -> None:
        self._refused += 1
        if self._refused <= REASONS_SHOWN_MAX:
            say(f"line {number}: {reason}")

    def _report(self) -> None:
        if self._refused > REASONS_SHOWN_MAX:
            say(f"{self._refused - REASONS_SHOWN_MAX} more lines were refused")
        counts = f"{self._created} created, {self._existing} existing, {self._refused} refused"
        print(counts, flush=True)


def _progress(file: IO[bytes]) -> Progress:
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    status = os.fstat(file.fileno())
    progress.add_task("importing", total=status.st_size if S_ISREG(status.st_mode) else None)
    return progress
