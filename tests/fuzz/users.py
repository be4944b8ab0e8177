"""Targets that read what users send."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from skyring.clock import SystemClock
from skyring.errors import InvalidRequest, SkyringError
from skyring.http.counts import RequestCounts
from skyring.http.hot import HotRoutes
from skyring.settings import DeliverySettings, HttpSettings, RetrySettings
from skyring.timers.pages import Page, Pages
from skyring.timers.parts import Part, PartKind
from skyring.timers.preparing import Preparer
from skyring.timers.record import DEAD_PREFIX, DUE_PREFIX, Record, encode_record
from skyring.timers.request import BulkEntry, TimerRequest, check_id, decode_request
from skyring.timers.service import Created, TimerService
from skyring.timers.wire import decode_new_record
from skyring.transports.base import Callback
from skyring.transports.http import Http
from skyring.transports.http_rules import read_destination
from tests.fuzz.stored import run
from tests.fuzz.target import Target, refusal

__all__ = ["TARGETS"]

REFUSED = (400, 413)
GOOD = {
    "timeout": 3_600_000,
    "data": "hello",
    "callback": {"transport": "http", "method": "post", "uri": "http://127.0.0.1:9/"},
}
BODIES = [
    GOOD,
    {**GOOD, "data": {"a": [1, 2.5, None, "ä"]}},
    {"at": 1_900_000_000_000, "callback": GOOD["callback"]},
    {"at": "2030-01-31T12:00:00.0001+02:00", "callback": GOOD["callback"], "data": None},
    {
        "timeout": 1,
        "callback": {
            "transport": "http",
            "method": "PUT",
            "uri": "https://[::1]:8443/a?b#c",
            "headers": {"x-a": "b"},
            "retry": {"attempts": 3, "backoff_ms": 5, "max_ms": 50},
            "timeout_ms": 100,
        },
    },
]


class _Timers:
    """In place of `TimerService`: prepares requests, and stores nothing."""

    def __init__(self) -> None:
        transport = Http()
        self._preparer = Preparer(
            SystemClock(), {transport.name: transport}, DeliverySettings(), RetrySettings()
        )

    def record(self, request: TimerRequest) -> Record:
        return self._preparer.prepare(request)

    async def create(self, request: TimerRequest, timer_id: str | None) -> Created:
        self.record(request)
        return Created("id", True)

    async def create_many(
        self, entries: Sequence[BulkEntry | SkyringError]
    ) -> list[Created | SkyringError]:
        return [self._create(entry) for entry in entries]

    def _create(self, entry: BulkEntry | SkyringError) -> Created | SkyringError:
        if isinstance(entry, SkyringError):
            return entry
        try:
            if isinstance(entry.id, str):
                check_id(entry.id)
            self.record(entry)
        except SkyringError as error:
            return error
        return Created("id", True)


class _Http:
    """The hot routes, called as a server calls them."""

    def __init__(self) -> None:
        self.timers = _Timers()
        settings = HttpSettings(body_bytes_max=2_048, bulk_bytes_max=8_192, bulk_entries_max=50)
        self._app = HotRoutes(
            cast(TimerService, self.timers),
            settings,
            _nothing_else,
            RequestCounts(),
            SystemClock(),
        )

    def post(self, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        """Status and body of the answer."""
        answer: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            answer.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        run(self._app(scope, receive, send))
        start, content = answer
        return start["status"], content["body"]


async def _nothing_else(*args: object) -> None:
    raise AssertionError("another app was asked")


class _NoPages(Pages):
    """The lists of a node that has no timers."""

    async def retry_dead_letter(self, timer_id: str) -> None:
        raise NotImplementedError

    async def delete_dead_letter(self, timer_id: str) -> None:
        raise NotImplementedError

    async def _parts(
        self, kind: PartKind, start: bytes, stop: bytes, limit: int, bytes_max: int
    ) -> Sequence[Part]:
        await asyncio.sleep(0)
        return []


class _Kept:
    """What is costly to make is made once, when it is needed first."""

    http: _Http | None = None

    @classmethod
    def app(cls) -> _Http:
        if cls.http is None:
            cls.http = _Http()
        return cls.http


def check_request(data: bytes) -> None:
    """A body is a request or refused by name; its record is one that other nodes take."""
    timers = _Kept.app().timers
    try:
        record = timers.record(decode_request(data))
    except InvalidRequest:
        pass
    else:
        assert decode_new_record(encode_record(record)) == record
        shown = json.loads(msgspec.json.encode(record.view("id", "scheduled")))
        sent = json.loads(data)
        assert shown.get("data") == sent.get("data")
        assert shown["callback"].get("headers", {}) == (sent["callback"].get("headers") or {})
    status, _ = _Kept.app().post("/timer", data, [])
    assert status in (201, *REFUSED), status


def check_bulk(data: bytes) -> None:
    """A bulk body has one result for each entry, or is refused as a whole."""
    headers = [(b"content-type", b"application/x-ndjson")] if data[:1] == b"\n" else []
    status, body = _Kept.app().post("/timers", data, headers)
    if status in REFUSED:
        assert json.loads(body)["status"] == status
        return
    assert status == 200, status
    if headers or data.lstrip()[:1] != b"[":
        results = [json.loads(line) for line in body.splitlines()]
        assert len(results) == sum(1 for line in data.split(b"\n") if line.strip())
    else:
        results = json.loads(body)
        assert len(results) == len(msgspec.json.decode(data, type=list[msgspec.Raw]))
    assert all(each["status"] in (201, *REFUSED) for each in results), results


def check_cursor(data: bytes) -> None:
    """Any text is a cursor or refused; what lies behind it is searched for within the bounds."""
    text = data.decode("utf-8", "surrogateescape")
    pages = _NoPages(1_000)
    for page in (pages.pending, pages.dead_letters):
        found = refusal(InvalidRequest, _finish, page(10, text))
        if isinstance(found, InvalidRequest):
            assert found.field == "cursor"
        else:
            assert found == Page([], None)


def _finish(coroutine: Any) -> Page:
    while True:
        try:
            coroutine.send(None)
        except StopIteration as ended:
            page: Page = ended.value
            return page


def check_uri(data: bytes) -> None:
    """A callback that is let through leads to one receiver, which has a host and a port."""
    try:
        callback = Callback("http", "post", data.decode())
    except UnicodeDecodeError:
        return
    transport = Http()
    wrong = refusal(InvalidRequest, transport.check, callback)
    if wrong is not None:
        assert wrong.field == "callback.uri"
        return
    destination = transport.destination(callback)
    scheme, _, rest = destination.partition(":")
    host, _, port = rest.rpartition(":")
    assert scheme == "http"
    assert host
    assert 1 <= int(port) <= 65_535
    assert read_destination(f"http://{host}:{port}/") == destination


def _cursors() -> list[bytes]:
    keys = [DUE_PREFIX + bytes(8) + b"a\0", DEAD_PREFIX + b"a", DEAD_PREFIX]
    return [urlsafe_b64encode(key).rstrip(b"=") for key in keys]


def _bulks() -> list[bytes]:
    entries = [json.dumps({"id": f"t-{n}", **body}).encode() for n, body in enumerate(BODIES)]
    return [b"[" + b",".join(entries) + b"]", b"\n".join(entries), b"\n[]\n{}\n", b"[]"]


TARGETS = {
    "request": Target(check_request, lambda: [json.dumps(b).encode() for b in BODIES], "json"),
    "bulk": Target(check_bulk, _bulks, "json"),
    "cursor": Target(check_cursor, _cursors, "bytes"),
    "uri": Target(
        check_uri,
        lambda: [
            b"http://127.0.0.1:80/a?b=c#d",
            b"https://[::ffff:1.2.3.4]:8443",
            b"HTTP://xn--bcher-kva.example:0080/%00",
        ],
        "bytes",
    ),
}
