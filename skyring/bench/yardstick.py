"""The yardstick: an empty raw ASGI app on uvicorn, in a process of its own.

It reads the body and answers 201 with no body: the least that any Python server on uvicorn can do
with a ``POST /timer``. Figures of different machines compare only as ratios to it.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["main", "yardstick"]

Message = MutableMapping[str, Any]


async def yardstick(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Read the body, answer 201 with an empty one."""
    while (await receive()).get("more_body"):
        pass
    await send(
        {"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


def main(fd: int) -> None:
    """Serve the yardstick on the listening socket ``fd`` until standard input ends."""
    import socket

    import uvicorn

    from skyring.bench.process import EVENT_LOOP, exit_with_parent

    exit_with_parent()
    config = uvicorn.Config(
        yardstick,
        http="httptools",
        loop="uvloop" if EVENT_LOOP == "uvloop" else "asyncio",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
