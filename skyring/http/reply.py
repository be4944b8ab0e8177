"""An answer, and how it is sent; a request's body, and how it is read. Plain ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from skyring.errors import TooLarge

__all__ = [
    "NO_CONTENT",
    "App",
    "ClientGone",
    "Message",
    "Receive",
    "Reply",
    "Scope",
    "Send",
    "content_reply",
    "header",
    "path_of",
    "read_body",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


NO_CONTENT = (b"content-length", b"0")


class Reply(Struct, frozen=True):
    """One HTTP answer; its headers say how long the body is."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def content_reply(
    status: int,
    content_type: bytes,
    body: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> Reply:
    """An answer with a body."""
    length = (b"content-length", str(len(body)).encode())
    return Reply(status, [(b"content-type", content_type), *headers, length], body)


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def path_of(scope: Scope) -> str:
    """The path of a request, below the one where this app is mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


async def read_body(declared: bytes | None, receive: Receive, body_bytes_max: int) -> bytes:
    """The whole body of a request. How long it may take is the server's matter.

    Args:
        declared: the header ``content-length``.

    Raises:
        TooLarge: it is, or says it will be, over the maximum.
        ClientGone: nobody waits for an answer any more.
    """
    if declared is not None and len(declared) > 3 and int(declared) > body_bytes_max:
        raise TooLarge(f"the body may have {body_bytes_max} bytes, not {int(declared)}")
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and message["type"] == "http.request":
        if len(body) > body_bytes_max:
            raise TooLarge(f"the body may have {body_bytes_max} bytes")
        return body
    return await _read_parts(message, receive, body_bytes_max)


async def _read_parts(message: Message, receive: Receive, body_bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > body_bytes_max:
            raise TooLarge(f"the body may have {body_bytes_max} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
