"""A transport of one's own: it writes fired timers into files, one JSON object a line.

skyring run -t ./examples/journal.py --transport:journal:directory=./journal

curl -i http://127.0.0.1:3000/timer -H 'content-type: application/json' -d '{
  "timeout": 1000, "data": "hello",
  "callback": {"transport": "journal", "method": "append", "uri": "greetings.jsonl"}
}'
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from pydantic import Field

from skyring.transports import (
    Callback,
    DeliveryInfo,
    InvalidRequest,
    Outcome,
    Transport,
    envelope,
)


class Journal(Transport):
    """``callback.uri`` is the name of a file in the directory; it is made when it is not there."""

    class Options(Transport.Options):
        """Given as ``--transport:journal:directory=PATH``; `skyring transports` shows them."""

        directory: Path = Field(default=Path("journal"), description="where the files are")

    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._lock = threading.Lock()

    async def open(self) -> None:
        """If this fails, the node does not start, and says why."""
        await asyncio.to_thread(self.options.directory.mkdir, parents=True, exist_ok=True)

    def check(self, callback: Callback) -> None:
        """Refuse, when a timer is created, what could not be delivered when it fires."""
        if callback.method.lower() != "append":
            raise InvalidRequest("is append", "callback.method")
        name = callback.uri
        if Path(name).name != name or name.startswith(".") or not name.isprintable() or not name:
            raise InvalidRequest("is the name of a file, without a directory", "callback.uri")

    def destination(self, callback: Callback) -> str:
        """Files take turns, as web servers do."""
        return f"journal:{callback.uri}"

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Delivered is what is on the disk. An OSError is a retry, with its text as the reason."""
        line = envelope(callback, payload, info) + b"\n"
        # Waiting for a disk would hold up every other timer.
        await asyncio.to_thread(self._append, callback.uri, line)
        return Outcome.delivered()

    def _append(self, name: str, line: bytes) -> None:
        # One line at a time, for a failed one is taken back.
        with self._lock:
            path = self.options.directory / name
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                before = os.fstat(file).st_size
                try:
                    if os.write(file, line) < len(line):
                        raise OSError("there is no room for the whole line")
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, before)
                    raise
            finally:
                os.close(file)
