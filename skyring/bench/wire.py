"""HTTP/1.1 on the wire, no more of it than a benchmark needs. Pure: bytes in, messages out.

A general client or server costs more per message than the server under test. This module cuts a
byte stream into messages and builds requests; it trusts the peer to speak plain HTTP/1.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from skyring.bench.errors import BenchError

__all__ = [
    "BODY_BYTES_MAX",
    "HEAD_BYTES_MAX",
    "Framer",
    "Message",
    "build_request",
    "header",
    "split_url",
    "status_of",
]

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 128 << 20

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked[ \t]*\r\n", re.IGNORECASE)

Message = tuple[bytes, bytes]
"""Head (start line and headers, with the empty line at its end) and body."""


class Framer:
    """Cuts the bytes of one connection, in pieces of any size, into whole messages.

    A message without ``content-length`` and without chunked coding has no body.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._wanted_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether no message has begun to arrive."""
        return not self._buffer

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order; often one, often none.

        Raises:
            BenchError: the bytes are not HTTP, or a message is larger than the maxima.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted_bytes:
                return []
            data = self._buffer
        messages: list[Message] = []
        start = 0
        while start < len(data):
            message, start, self._wanted_bytes = _cut(data, start)
            if message is None:
                break
            messages.append(message)
        self._buffer = data[start:]
        return messages


def _cut(data: bytes, start: int) -> tuple[Message | None, int, int]:
    """The message at ``start``, where it ends, and the buffer length worth waiting for."""
    head_end = data.find(b"\r\n\r\n", start) + 4
    if head_end == 3:
        if len(data) - start > HEAD_BYTES_MAX:
            raise BenchError("the peer sent a message head of more than 64 KiB, or no HTTP at all")
        return None, start, 0
    head = data[start:head_end]
    length = _LENGTH.search(head)
    if length is None:
        if _CHUNKED.search(head) is not None:
            return _cut_chunked(data, start, head_end)
        return (head, b""), head_end, 0
    body_bytes = int(length[1])
    if body_bytes > BODY_BYTES_MAX:
        raise BenchError(f"the peer announced a body of {body_bytes} bytes")
    end = head_end + body_bytes
    if end > len(data):
        return None, start, end - start
    return (head, data[head_end:end]), end, 0


def _cut_chunked(data: bytes, start: int, head_end: int) -> tuple[Message | None, int, int]:
    parts: list[bytes] = []
    at = head_end
    while (line_end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:line_end].partition(b";")[0], 16)
        except ValueError as error:
            raise BenchError("the peer sent a chunk without a readable size") from error
        at = line_end + 2
        if at - head_end + size > BODY_BYTES_MAX:
            raise BenchError("the peer sent a body of more than the maximum")
        if size == 0:
            # Trailer fields, if any, end with an empty line, as a head does.
            end = data.find(b"\r\n\r\n", line_end)
            if end < 0:
                return None, start, 0
            return (data[start:head_end], b"".join(parts)), end + 4, 0
        if at + size + 2 > len(data):
            return None, start, at + size + 2 - start
        parts.append(data[at : at + size])
        at += size + 2
    return None, start, 0


def status_of(head: bytes) -> int:
    """The status code in the head of an answer.

    Raises:
        BenchError: the head is not that of an HTTP/1 answer.
    """
    if head[:7] != b"HTTP/1." or not head[9:12].isdigit():
        raise BenchError(f"the peer does not speak HTTP/1: {head[:40]!r}")
    return int(head[9:12])


def header(head: bytes, name: str) -> str | None:
    """The value of the first header ``name`` (any case), or None."""
    wanted = name.lower().encode()
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == wanted:
            return value.strip().decode("latin-1")
    return None


def build_request(
    method: str,
    host: str,
    path: str,
    body: bytes = b"",
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """One whole request. ``host`` is what the ``host`` header says, with the port."""
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n"
    for name, value in ({} if headers is None else headers).items():
        head += f"{name}: {value}\r\n"
    if body:
        head += f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def split_url(url: str) -> tuple[str, int]:
    """Host and port of a base URL such as ``http://127.0.0.1:3000``.

    Raises:
        BenchError: it is not such a URL. Only plain http is spoken.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BenchError(f"{url!r} is not a URL: {error}") from error
    if parts.scheme != "http" or parts.hostname is None:
        raise BenchError(f"{url!r} is not a URL of the form http://host:port")
    if parts.path not in ("", "/") or parts.query:
        raise BenchError(f"{url!r} has a path; give only http://host:port")
    return parts.hostname, 80 if port is None else port
