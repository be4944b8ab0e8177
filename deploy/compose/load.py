"""Clients that create timers at a steady rate, and a receiver that notes what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, Self

import httpx
import uvicorn

__all__ = ["Arrival", "Load", "Receiver", "Sent", "percentile"]

CLIENTS = 512
"""Connections at most. With few of them creates that wait for the slots of a dead node keep all
others waiting, in this process."""
CREATE_TIMEOUT_S = 60.0


class Sent(NamedTuple):
    """A create, as its client has seen it."""

    id: str
    """"" if it was not acknowledged."""
    status: int
    """0: no answer."""
    took_ms: float


class Arrival(NamedTuple):
    """A delivery."""

    late_ms: float
    attempt: int


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of ordered numbers; 0 without any."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))], 1)


class Load:
    """Creates timers.

    Args:
        url: of the cluster.
        callback: where they are to be delivered.
        per_s: how many a second.
        timeouts_ms: between these they are due.
    """

    def __init__(self, url: str, callback: str, per_s: float, timeouts_ms: tuple[int, int]) -> None:
        self._url = url
        self._callback = callback
        self._pause_s = 1 / per_s
        self._timeouts_ms = timeouts_ms
        self._random = Random(1)
        self._is_enough = False
        self.sent: list[Sent] = []

    def stop(self) -> None:
        """Stop as soon as there are as many as wanted."""
        self._is_enough = True

    async def run(self, count_min: int) -> list[Sent]:
        """At least so many, and until `stop`; all creates."""
        limits = httpx.Limits(max_connections=CLIENTS)
        async with (
            httpx.AsyncClient(limits=limits, timeout=CREATE_TIMEOUT_S) as client,
            asyncio.TaskGroup() as group,
        ):
            next_s = time.monotonic()
            begun = 0
            while begun < count_min or not self._is_enough:
                group.create_task(self._create(client))
                begun += 1
                next_s += self._pause_s
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        return self.sent

    async def _create(self, client: httpx.AsyncClient) -> None:
        timer = {
            "timeout": self._random.randint(*self._timeouts_ms),
            "data": "rehearsal",
            "callback": {"transport": "http", "method": "post", "uri": self._callback},
        }
        began_s = time.monotonic()
        timer_id, status = "", 0
        try:
            answer = await client.post(f"{self._url}/timer", json=timer)
            status = answer.status_code
            if status in (200, 201):
                timer_id = answer.headers["location"].rpartition("/")[2]
        except httpx.HTTPError as error:
            print(f"a create has failed: {error!r}", flush=True)
        if status not in (0, 200, 201):
            print(f"a create was answered {status}: {answer.text[:200]}", flush=True)
        self.sent.append(Sent(timer_id, status, round(1000 * (time.monotonic() - began_s), 1)))


@dataclass
class Receiver:
    """Listens on all addresses of this machine, at a free port."""

    arrived: dict[str, list[Arrival]] = field(default_factory=dict)
    port: int = 0

    def forget(self) -> None:
        """What has come so far."""
        self.arrived.clear()

    async def wait_for(self, ids: set[str], timeout_s: float) -> None:
        """Until all have come, or the time is over."""
        end_s = time.monotonic() + timeout_s
        while not ids <= self.arrived.keys() and time.monotonic() < end_s:
            await asyncio.sleep(0.1)

    async def wait_for_any(self, timeout_s: float) -> None:
        """Until one has come, or the time is over."""
        end_s = time.monotonic() + timeout_s
        while not self.arrived and time.monotonic() < end_s:
            await asyncio.sleep(0.1)

    async def __aenter__(self) -> Self:
        config = uvicorn.Config(
            self._app,
            interface="asgi3",  # which it does not see, for it is a method
            host="0.0.0.0",
            port=0,
            log_level="error",
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.should_exit = True
        await self._serving

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        now_ms = time.time() * 1000
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        while (await receive()).get("more_body"):
            pass
        late_ms = now_ms - int(headers["webhook-due"])
        arrival = Arrival(round(late_ms, 1), int(headers["webhook-attempt"]))
        self.arrived.setdefault(headers["webhook-id"], []).append(arrival)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
