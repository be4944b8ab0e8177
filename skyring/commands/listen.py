"""``skyring listen``: a small receiver that shows every callback as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from skyring.commands.output import printable, say

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Arrival", "Receiver", "listen"]

BODY_BYTES_MAX = 1 << 20
SHOWN_CHARS_MAX = 400
"""Of a body in a line for people; ``--json`` has it whole."""
GRACE_S = 2
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}

Message = MutableMapping[str, Any]


class Arrival(NamedTuple):
    """One request, as it came."""

    at_ms: int
    """Epoch milliseconds at which its headers were here."""
    method: str
    path: str
    id: str | None
    attempt: int | None
    due_ms: int | None
    content_type: str | None
    body: bytes

    @property
    def late_ms(self) -> int | None:
        """How long after the due time it came, milliseconds; negative would be early."""
        return None if self.due_ms is None else self.at_ms - self.due_ms

    def line(self) -> str:
        """For people: one line, whatever was sent."""
        clock = datetime.fromtimestamp(self.at_ms / 1000).strftime("%H:%M:%S.%f")[:-3]
        parts = [clock, self.method, self.path]
        if self.id is not None:
            parts.append(self.id)
        if self.attempt is not None:
            parts.append(f"attempt {self.attempt}")
        if self.late_ms is not None:
            parts.append(f"{self.late_ms:+} ms")
        return printable("  ".join([*parts, self._shown()]))

    def record(self) -> dict[str, Any]:
        """For programs: what ``--json`` writes."""
        return {
            "at": self.at_ms,
            "method": self.method,
            "path": self.path,
            "id": self.id,
            "attempt": self.attempt,
            "due": self.due_ms,
            "late_ms": self.late_ms,
            "content_type": self.content_type,
            "data": self.body.decode(errors="replace"),
        }

    def _shown(self) -> str:
        if not self.body:
            return "(no content)"
        # No character has more than four bytes.
        part = self.body[: 4 * SHOWN_CHARS_MAX]
        text = part.decode(errors="replace")
        if len(text) <= SHOWN_CHARS_MAX and len(part) == len(self.body):
            return text
        return f"{text[:SHOWN_CHARS_MAX]}… ({len(self.body)} bytes)"


class Receiver:
    """An ASGI app that answers every request with ``status`` and hands it to ``show``."""

    def __init__(self, status: int, show: Callable[[Arrival], None]) -> None:
        self._status = status
        self._show = show

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        at_ms = time.time_ns() // 1_000_000
        body, more = b"", True
        while more and len(body) <= BODY_BYTES_MAX:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > BODY_BYTES_MAX:
            await _answer(send, 413)
            return
        self._show(_arrival(scope, at_ms, body))
        await _answer(send, self._status)


def listen(
    port: Annotated[
        int, typer.Option("-p", "--port", min=0, max=65_535, help="Port; 0 takes a free one.")
    ] = 8989,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    status: Annotated[
        int, typer.Option(min=200, max=599, help="Answer with this status; 500 shows retries.")
    ] = 200,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, for programs.")
    ] = False,
) -> None:
    """Receive callbacks and show each as it comes; Ctrl-C ends it."""
    import socket

    import msgspec

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        say(f"cannot listen on {host}:{port}: {_reason(error)}")
        raise typer.Exit(1) from error
    with listening:

        def show(arrival: Arrival) -> None:
            record = msgspec.json.encode(arrival.record()).decode() if json else None
            print(arrival.line() if record is None else record, flush=True)

        server = _make_server(Receiver(status, show))
        # Who connects from now on waits until the server is up.
        _greet(_url(host, listening.getsockname()[1]), sys.stderr if json else sys.stdout)
        server.run(sockets=[listening])


def _make_server(receiver: Receiver) -> uvicorn.Server:
    """A server that a signal ends, in order and without an error, from now on."""
    import signal

    import uvicorn

    config = uvicorn.Config(
        receiver,
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    # uvicorn takes signals itself while it runs, and afterwards raises them again for this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return server


def _arrival(scope: Message, at_ms: int, body: bytes) -> Arrival:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = scope["query_string"].decode("latin-1")
    return Arrival(
        at_ms=at_ms,
        method=scope["method"],
        path=f"{scope['path']}?{query}" if query else scope["path"],
        id=headers.get("webhook-id"),
        attempt=_number(headers.get("webhook-attempt")),
        due_ms=_number(headers.get("webhook-due")),
        content_type=headers.get("content-type"),
        body=body,
    )


async def _answer(send: Callable[[Message], Awaitable[None]], status: int) -> None:
    # Neither of these may have a body, so neither may announce its length.
    headers = [] if status in (204, 304) else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _number(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        return None
    return int(text)


def _url(host: str, port: int) -> str:
    name = WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


def _greet(url: str, stream: Any) -> None:
    print(f"listening; put this into callback.uri: {url}", file=stream)
    print(
        f"try: skyring timer create --in 3s --data hello --to {url}   (Ctrl-C ends this)",
        file=stream,
        flush=True,
    )


def _reason(error: OSError) -> str:
    import errno

    if error.errno == errno.EADDRINUSE:
        return "another process listens there"
    return (error.strerror or str(error)).partition(" (while")[0]
