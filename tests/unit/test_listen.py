"""The receiver: what it shows and what it answers."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from skyring.commands.listen import BODY_BYTES_MAX, Arrival, Receiver
from skyring.commands.output import printable

HEADERS = {
    "webhook-id": "a1",
    "webhook-attempt": "2",
    "webhook-due": "1700000000000",
    "content-type": "text/plain",
}


async def send(
    content: bytes, headers: Mapping[str, str] = HEADERS, status: int = 200
) -> tuple[httpx.Response, list[Arrival]]:
    arrivals: list[Arrival] = []
    transport = httpx.ASGITransport(Receiver(status, arrivals.append))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.put("/a/b?c=1", content=content, headers=dict(headers))
    return answer, arrivals


async def test_an_arrival() -> None:
    answer, (arrival,) = await send(b"hello")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (arrival.method, arrival.path, arrival.body) == ("PUT", "/a/b?c=1", b"hello")
    assert (arrival.id, arrival.attempt, arrival.due_ms) == ("a1", 2, 1_700_000_000_000)
    assert arrival.content_type == "text/plain"
    assert arrival.late_ms == arrival.at_ms - 1_700_000_000_000


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500, 599])
async def test_the_status_that_was_asked_for(status: int) -> None:
    answer, arrivals = await send(b"x", status=status)
    assert answer.status_code == status
    assert len(arrivals) == 1


async def test_a_body_over_the_maximum_is_refused() -> None:
    answer, (arrival,) = await send(b"x" * BODY_BYTES_MAX)
    assert answer.status_code == 200
    assert len(arrival.body) == BODY_BYTES_MAX
    answer, arrivals = await send(b"x" * (BODY_BYTES_MAX + 1))
    assert answer.status_code == 413
    assert arrivals == []


@pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "²", "9" * 19])
async def test_headers_that_are_no_numbers(number: str) -> None:
    headers = {"webhook-attempt": number.encode("latin-1"), "webhook-due": number.encode("latin-1")}
    _, (arrival,) = await send(b"", headers)  # type: ignore[arg-type]
    assert (arrival.id, arrival.attempt, arrival.due_ms, arrival.late_ms) == (None,) * 4
    assert arrival.line().endswith("PUT  /a/b?c=1  (no content)")


def arrival(body: bytes, at_ms: int = 1_700_000_000_003) -> Arrival:
    return Arrival(at_ms, "POST", "/", "a1", 2, 1_700_000_000_000, None, body)


def test_the_line() -> None:
    assert arrival(b"hello").line()[12:] == "  POST  /  a1  attempt 2  +3 ms  hello"
    assert "  -2 ms  " in arrival(b"", 1_699_999_999_998).line()


def test_one_line_whatever_was_sent() -> None:
    line = arrival("a\r\nb\x1b[31mred\x9b\u2028\u202e\x00ä".encode() + b"\xff").line()
    assert line.isprintable()
    assert "a\\r\\nb\\x1b[31mred\\x9b\\u2028\\u202e\\x00ä\ufffd" in line


@pytest.mark.parametrize("body", ["x" * 400, "ä" * 400, "😀" * 400])
def test_a_long_body_is_cut(body: str) -> None:
    assert arrival(body.encode()).line().endswith(f"  {body}")
    longer = body + body[0]
    assert arrival(longer.encode()).line().endswith(f"{body}… ({len(longer.encode())} bytes)")


def test_a_long_body_that_is_no_text_is_cut_too() -> None:
    assert arrival(b"\xff" * 401).line().endswith("\ufffd… (401 bytes)")


def test_the_record_has_it_whole() -> None:
    record = arrival(b"x" * 10_000).record()
    assert record["data"] == "x" * 10_000
    assert (record["id"], record["attempt"], record["late_ms"]) == ("a1", 2, 3)


def test_printable_text_is_left_alone() -> None:
    assert printable("ein Text, 日本 😀") == "ein Text, 日本 😀"
