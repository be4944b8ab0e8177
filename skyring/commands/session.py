"""The server that a command talks to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

import typer

from skyring.errors import Unavailable

if TYPE_CHECKING:
    from skyring.client import SkyringClient

__all__ = ["DEFAULT_URL", "Url", "talk"]

DEFAULT_URL = "http://127.0.0.1:3000"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
Result = TypeVar("Result")

Url = Annotated[
    str, typer.Option("--url", envvar="SKYRING_URL", metavar="URL", help="The server to talk to.")
]


def talk(
    url: str, ask: Callable[[SkyringClient], Awaitable[Result]], *, timeout_s: float = 10.0
) -> Result:
    """Run ``ask`` with a client of the server at ``url``; what it raises comes out of here.

    Args:
        timeout_s: time allowed for each wait for the server, seconds.
    """
    import httpx

    from skyring.client import SkyringClient

    async def converse() -> Result:
        async with SkyringClient(url, timeout_s=timeout_s) as client:
            return await ask(client)

    try:
        return asyncio.run(converse())
    except Unavailable as error:
        if isinstance(error.__cause__, httpx.ConnectError):
            raise Unavailable(f"{error}; {_advice(url)}") from error
        raise


def _advice(url: str) -> str:
    parts = urlsplit(url)
    if parts.hostname not in LOOPBACK_HOSTS:
        return "is --url (or SKYRING_URL) right, and the server up?"
    return f"start one with: skyring run -p {parts.port or 80}"
