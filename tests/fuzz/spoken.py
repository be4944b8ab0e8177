"""Targets that read what servers and receivers say."""

from __future__ import annotations

import json
from typing import Any

from nats.errors import ProtocolError

from skyring.commands.listen import Arrival, Receiver
from skyring.nats.message import Received, Reply
from skyring.nats.parser import Parser, Take
from skyring.transports.base import Callback, DeliveryInfo, Outcome
from skyring.transports.http_rules import outcome_of
from skyring.transports.wire import delivery_headers, envelope, outcome_of_answer
from tests.fuzz.stored import run
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

KINDS = ("delivered", "retry", "rejected")
STATUSES = (200, 301, 410, 429, 500, 503, 999)
RETRY_AFTER_MS_MAX = 3_600_000
INFO = DeliveryInfo("a", 2, 1_500, 2_999, 10, "text/plain")


class _Sink:
    """Takes what a parser hands on; some subscriptions are its own, others the library's."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.takers: dict[bytes, Take] = {b"1": self._take, b"x": self._take}

    def _take(self, *parts: bytes) -> None:
        self.seen.append(parts)

    async def _process_msg(self, *parts: Any) -> None:
        self.seen.append(parts)

    async def _process_err(self, text: str) -> None:
        self.seen.append(("error", text))

    async def _process_info(self, info: dict[str, object]) -> None:
        assert isinstance(info, dict)
        self.seen.append(("info", sorted(info)))

    async def _process_ping(self) -> None:
        self.seen.append(("ping",))

    async def _process_pong(self) -> None:
        self.seen.append(("pong",))


def check_nats(data: bytes) -> None:
    """A server's words mean the same in pieces of any size; what it cannot say is refused."""
    size, stream = (data[0] % 7 + 1, data[1:]) if data else (1, b"")
    whole = _parsed([stream])
    pieces = _parsed([stream[at : at + size] for at in range(0, len(stream), size)])
    assert whole == pieces, (whole, pieces)


def _parsed(pieces: list[bytes]) -> tuple[list[tuple[Any, ...]], bool]:
    sink = _Sink()
    parser = Parser(sink)
    try:
        for piece in pieces:
            run(parser.parse(piece))
    except ProtocolError:
        return sink.seen, False
    return sink.seen, True


def check_nats_head(data: bytes) -> None:
    """Status and headers of a message: what cannot be read is left out."""
    for message in (Reply(b"", data), Received("s", "", b"", data)):
        headers = message.headers
        assert all(name.isascii() for name in headers)
        assert all("\r\n" not in value for value in headers.values())
    assert Reply(b"", data).is_no_responders in (True, False)


def check_answer(data: bytes) -> None:
    """Whatever a receiver answers is an outcome, and only ``ok`` is an acknowledgement."""
    outcome = outcome_of_answer(data)
    assert outcome.kind in KINDS
    words = data.decode("utf-8", "replace").split(" ")
    assert (outcome.kind == "delivered") == (words[0].strip().lower() == "ok" or _is_ok(data))
    _check_outcome(outcome)


def _is_ok(data: bytes) -> bool:
    return data.decode("utf-8", "replace").strip().lower().split(" ")[0] == "ok"


def check_retry_after(data: bytes) -> None:
    """Whatever stands in Retry-After, the wait is bounded."""
    value = data.decode("latin-1")
    for status in STATUSES:
        outcome = outcome_of(status, value, 1_700_000_000_000, RETRY_AFTER_MS_MAX)
        assert outcome.kind in KINDS
        assert outcome.after_ms is None or 0 <= outcome.after_ms <= RETRY_AFTER_MS_MAX
        _check_outcome(outcome)


def _check_outcome(outcome: Outcome) -> None:
    assert outcome.kind == "delivered" or outcome.reason
    assert outcome.after_ms is None or outcome.kind == "retry"


def check_envelope(data: bytes) -> None:
    """A payload comes out of its envelope as it went in, in one line; only text goes in."""
    half = len(data) // 2
    headers = {"x": data[:half].decode("utf-8", "replace")}
    callback = Callback("t", "m", "u", headers)
    try:
        written = envelope(callback, data, INFO)
    except ValueError:
        try:
            data.decode()
        except UnicodeDecodeError:
            return
        raise
    assert b"\n" not in written
    read = json.loads(written)
    assert read["data"].encode() == data
    assert read["headers"] == headers
    assert (read["version"], read["id"], read["attempt"], read["due"]) == (1, "a", 2, 1_500)


def check_listen(data: bytes) -> None:
    """Whatever comes is shown in one line, and is a line of JSON for programs."""
    shown: list[Arrival] = []
    answers: list[Any] = []
    head, _, body = data.partition(b"\n\n")
    fields = [line.partition(b":") for line in head.split(b"\n")]
    method, path, query = (*(part for part, _, _ in fields[:3]), b"", b"", b"")[:3]
    scope = {
        "type": "http",
        "method": method.decode("latin-1"),
        "path": path.decode("utf-8", "replace"),
        "query_string": query,
        "headers": [(name.lower(), value) for name, _, value in fields[3:]],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        answers.append(message)

    run(Receiver(200, shown.append)(scope, receive, send))
    [arrival] = shown
    assert arrival.line().replace("\t", " ").isprintable()
    json.loads(json.dumps(arrival.record()).encode())
    assert arrival.body == body
    assert answers[0]["status"] == 200


def _arrivals() -> list[bytes]:
    lines = [b"POST", b"/x", b"a=b"]
    lines += [f"{name}:{value}".encode() for name, value in delivery_headers(INFO).items()]
    return [b"\n".join([*lines, b"content-type:text/plain"]) + b"\n\nhello", b"", b"\n\n\n\n"]


STREAM = (
    b'INFO {"server_id":"a","max_payload":1048576}\r\nPING\r\nPONG\r\n+OK\r\n'
    b"MSG a.b 1 5\r\nhello\r\nMSG a.b 1 re.ply 0\r\n\r\nMSG c 7 2\r\nhi\r\n"
    b"HMSG a x 22 24\r\nNATS/1.0 503 No\r\na:b\r\n\r\nhi\r\n-ERR 'Permissions Violation'\r\n"
)

TARGETS = {
    "nats": Target(check_nats, lambda: [b"\x00" + STREAM, b"\x06" + STREAM, b"\x02"], "bytes"),
    "nats-head": Target(
        check_nats_head,
        lambda: [b"NATS/1.0 409 Batch Completed\r\nNats-Pending-Messages: 5\r\n\r\n", b"NATS/1.0"],
        "bytes",
    ),
    "outcome": Target(
        check_answer, lambda: [b"ok\n", b"retry later", b"reject never again", b""], "bytes"
    ),
    "retry-after": Target(
        check_retry_after,
        lambda: [
            b"120",
            b"Sun, 06 Nov 1994 08:49:37 GMT",
            b"Sunday, 06-Nov-94 08:49:37 GMT",
            b"Sun Nov  6 08:49:37 2094",
        ],
        "bytes",
    ),
    "envelope": Target(check_envelope, lambda: [b'{"a":"\\n"}', "zwölf\n".encode()], "bytes"),
    "listen": Target(check_listen, _arrivals, "bytes"),
}
