"""What the fuzzing has found, each as small as it could be made."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from skyring.storage.replica import Replica, write_replica
from skyring.timers.record import encode_record, view
from skyring.transports.base import Callback, RetrySpec
from tests.fuzz.stored import RECORDS
from tests.fuzz.targets import TARGETS

TEXT = RECORDS[0]


def record_with(**own: int) -> bytes:
    """A record whose own retry policy could not have come from a user."""
    callback = Callback("http", "post", "http://127.0.0.1/", retry=RetrySpec(**own))
    return encode_record(replace(TEXT, callback=callback))


@pytest.mark.parametrize(
    ("target", "data"),
    [
        # A name of the log that is no UTF-8 was an error that no caller knew of.
        ("replica", b"\x92\x01\xa1\xff"),
        ("replica", b"\x9b" + write_replica(Replica(log="fuzz"))[1:] + b"\x91" * 2_000),
        # A record of another node could be one that a delivery cannot count on or write back.
        ("new-record", encode_record(replace(TEXT, attempts=2**64 - 1))),
        ("new-record", record_with(backoff_ms=-(2**62), max_ms=-(2**62), attempts=9)),
        # With blank lines between them, the last entries of a bulk were taken for a single one.
        ("bulk", b"{}\n\n" * 40),
        # A subscription without a number, an INFO that is no object or nested without end: any of
        # these ended the reading of the connection with an error of another kind.
        ("nats", b"\x06MSG a ? 0\r\n\r\n"),
        ("nats", b"\x06INFO " + b"[" * 100_000 + b"\r\n"),
        ("nats", b"\x06INFO []\r\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_as_documented(target: str, data: bytes) -> None:
    TARGETS[target].check(data)


def test_a_text_that_is_no_text_is_shown_as_unreadable() -> None:
    """Another node could have answered with it."""
    shown = view("id", encode_record(replace(TEXT, payload=b"\xff")), "scheduled")
    assert shown["state"] == "unreadable"
