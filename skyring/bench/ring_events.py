"""The events of a ring, kept in a file and looked at by a benchmark."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from skyring.bench.errors import BenchError

__all__ = ["EventWatch", "connect_nats"]

CONNECT_TIMEOUT_S = 10.0

Event = dict[str, Any]


async def connect_nats(url: str) -> Any:
    """A client of nats-py, which goes on trying when NATS goes away.

    Args:
        url: of all servers, with commas between.

    Raises:
        BenchError: nats-py is not installed, or nobody listens.
    """
    try:
        import nats
        from nats.errors import Error
    except ImportError as error:
        raise BenchError("nats-py is missing: pip install 'skyring[cluster]'") from error
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await nats.connect(
                url.split(","),
                error_cb=_ignore,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
            )
    except (Error, OSError, TimeoutError) as error:
        raise BenchError(f"cannot connect to {url}: {error}") from error


async def _ignore(error: Exception) -> None:
    """What goes wrong shows where the connection is used."""


class EventWatch:
    """Hears every event of a ring from `__aenter__` on.

    Args:
        url: of the nats-servers.
        ring: its name.
        take: called with each event.
        file: where they are written to as well, one JSON document a line; None for nowhere.
    """

    def __init__(
        self,
        url: str,
        ring: str,
        take: Callable[[Event], None] | None = None,
        file: Path | None = None,
    ) -> None:
        self._url = url
        self._subject = f"skyring.{ring}.events.*"
        self._take = take
        self._path = file
        self._client: Any = None
        self._file: TextIOWrapper | None = None

    async def __aenter__(self) -> EventWatch:
        self._client = await connect_nats(self._url)
        if self._path is not None:
            self._file = self._path.open("w", encoding="utf-8")
        await self._client.subscribe(self._subject, cb=self._on_message)
        await self._client.flush()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()
        if self._file is not None:
            self._file.close()

    async def _on_message(self, message: Any) -> None:
        if self._file is not None:
            self._file.write(message.data.decode("utf-8", "replace") + "\n")
        if self._take is not None:
            with contextlib.suppress(ValueError):
                self._take(json.loads(message.data))
