"""The webhook transport against a real socket: what it sends, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import gzip
import string
from collections.abc import AsyncIterator

import pytest

from skyring.errors import InvalidRequest
from skyring.ports import free_port
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring.transports.http import Http
from tests.contract.raw_receiver import OK, WAIT_S_MAX, Exchange, RawReceiver, always, answer

STARTED_MS = 1_700_000_000_123
TIMEOUT_MS = 20_000
DELIVERED = Outcome.delivered()


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    made = Http()
    await made.open()
    yield made
    await made.close()


def info(content_type: str | None = None, timeout_ms: int = TIMEOUT_MS) -> DeliveryInfo:
    return DeliveryInfo(
        id="order-7",
        attempt=3,
        due_ms=1_699_999_999_000,
        started_ms=STARTED_MS,
        timeout_ms=timeout_ms,
        content_type=content_type,
    )


async def post(
    http: Http, url: str, payload: bytes = b"hello", timeout_ms: int = TIMEOUT_MS
) -> Outcome:
    return await http.deliver(Callback("http", "post", url), payload, info(timeout_ms=timeout_ms))


# What is sent


async def test_a_whole_request(http: Http) -> None:
    async with RawReceiver() as receiver:
        callback = Callback("http", "post", receiver.url("/hook?a=1#part"), {"X-Order": "seven"})
        outcome = await http.deliver(callback, b"hello", info("text/plain; charset=utf-8"))
    assert outcome == DELIVERED
    (exchange,) = receiver.exchanges
    assert exchange.request_line == "POST /hook?a=1 HTTP/1.1"
    assert sorted(exchange.header_lines) == [
        "accept: */*",
        "content-length: 5",
        "content-type: text/plain; charset=utf-8",
        f"host: 127.0.0.1:{receiver.port}",
        "user-agent: skyring",
        "webhook-attempt: 3",
        "webhook-due: 1699999999000",
        "webhook-id: order-7",
        "webhook-timestamp: 1700000000",
        "x-order: seven",
    ]
    assert exchange.body == b"hello"


async def test_the_users_headers_go_first(http: Http) -> None:
    own = {
        "Content-Type": "a/b",
        "USER-AGENT": "me",
        "Accept": "c/d",
        "cookie": "k=v",
        "x": "a\t ~",
    }
    async with RawReceiver() as receiver:
        callback = Callback("http", "POST", receiver.url(), own)
        assert await http.deliver(callback, b"{}", info("application/json")) == DELIVERED
    (exchange,) = receiver.exchanges
    sent = {name: exchange.header(name) for name in ("content-type", "user-agent", "accept")}
    assert sent == {"content-type": ["a/b"], "user-agent": ["me"], "accept": ["c/d"]}
    assert exchange.header("cookie") == ["k=v"]
    assert exchange.header("x") == ["a\t ~"]


@pytest.mark.parametrize(
    "payload", [bytes(range(256)), b"\r\n\r\n", b"x" * (1 << 20)], ids=["all", "crlf", "1 MiB"]
)
async def test_payload_bytes_are_exact(http: Http, payload: bytes) -> None:
    async with RawReceiver() as receiver:
        assert await post(http, receiver.url(), payload) == DELIVERED
    assert receiver.exchanges[0].body == payload


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
async def test_methods_without_payload(http: Http, method: str) -> None:
    async with RawReceiver(always(b"HTTP/1.1 204 None\r\n\r\n")) as receiver:
        for _ in range(2):
            callback = Callback("http", method, receiver.url())
            http.check(callback)
            assert await http.deliver(callback, b"", info()) == DELIVERED
    assert receiver.exchanges[0].request_line == f"{method.upper()} /hook HTTP/1.1"
    lengths = receiver.exchanges[0].header("content-length")
    assert lengths == (["0"] if method in ("post", "put", "patch") else [])
    assert receiver.connections == 1


async def test_head_does_not_wait_for_the_body_that_is_announced(http: Http) -> None:
    async with RawReceiver(always(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")) as receiver:
        for _ in range(2):
            callback = Callback("http", "HEAD", receiver.url())
            assert await http.deliver(callback, b"", info()) == DELIVERED
    assert receiver.connections == 1


async def test_every_uri_that_passes_the_check_can_be_sent(http: Http) -> None:
    chars = "".join(char for char in string.printable[:94] if char not in "\\#")
    async with RawReceiver() as receiver:
        for path in (f"/{chars}", f"?{chars}", f"/%zz%00%?{chars}#{chars}", "", "/a/../b"):
            callback = Callback("http", "get", receiver.url(path))
            http.check(callback)
            assert await http.deliver(callback, b"", info()) == DELIVERED
    assert receiver.exchanges[-1].request_line == "GET /b HTTP/1.1"


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    http = Http()
    await http.open()
    async with RawReceiver() as receiver:
        assert await post(http, receiver.url()) == DELIVERED
    await http.close()


# Answers


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_success(http: Http, status: int) -> None:
    async with RawReceiver(always(answer(status))) as receiver:
        assert await post(http, receiver.url()) == DELIVERED


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500, 503, 599])
async def test_failure(http: Http, status: int) -> None:
    async with RawReceiver(always(answer(status))) as receiver:
        assert await post(http, receiver.url()) == Outcome.retry(f"answer {status}")


async def test_gone(http: Http) -> None:
    async with RawReceiver(always(answer(410))) as receiver:
        assert (await post(http, receiver.url())).kind == "rejected"


@pytest.mark.parametrize(
    ("line", "after_ms"),
    [
        ("Retry-After: 120", 120_000),
        ("retry-after: Tue, 14 Nov 2023 22:14:20 GMT", 59_877),
        ("Retry-After: 999999", 3_600_000),
        ("Retry-After: soon", None),
        ("Retry-After: \xff", None),
    ],
)
async def test_retry_after(http: Http, line: str, after_ms: int | None) -> None:
    async with RawReceiver(always(answer(503, line))) as receiver:
        assert await post(http, receiver.url()) == Outcome.retry("answer 503", after_ms)


async def test_redirects_are_not_followed_and_cookies_not_kept(http: Http) -> None:
    async with RawReceiver() as other:
        moved = answer(307, f"Location: {other.url()}", "Set-Cookie: a=b; Path=/")
        async with RawReceiver(always(moved)) as receiver:
            for _ in range(2):
                outcome = await post(http, receiver.url())
                assert outcome == Outcome.retry("answer 307; redirects are not followed")
    assert other.connections == 0
    assert [exchange.header("cookie") for exchange in receiver.exchanges] == [[], []]
    assert [exchange.header("referer") for exchange in receiver.exchanges] == [[], []]


async def test_a_gzip_bomb_is_not_inflated(http: Http) -> None:
    # Inflated it would be far beyond what is read of an answer, and the connection closed for it.
    bomb = answer(200, "Content-Encoding: gzip", body=gzip.compress(bytes(20 << 20)))
    assert len(bomb) < 65_536
    async with RawReceiver(always(bomb)) as receiver:
        for _ in range(2):
            assert await post(http, receiver.url()) == DELIVERED
    assert receiver.connections == 1
    assert receiver.exchanges[0].header("accept-encoding") == []


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "connection closed before the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "connection closed before the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", "end of file before message length"),
        (b"220 mail.example ESMTP\r\n\r\n", "invalid HTTP version"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n", "message head is too large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "invalid content-length"),
    ],
    ids=["nothing", "half a head", "half a body", "no HTTP", "many headers", "bad length"],
)
async def test_answers_that_are_none(http: Http, sent: bytes, reason: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(sent)
        exchange.writer.close()

    async with RawReceiver(script) as receiver:
        outcome = await post(http, receiver.url("/hook?token=secret"))
    assert outcome.kind == "retry"
    assert reason in outcome.reason
    assert "secret" not in outcome.reason
    assert len(receiver.exchanges) == 1


# Answers without end


async def test_an_endless_answer_is_cut_off(http: Http) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    async with RawReceiver(script) as receiver:
        assert await post(http, receiver.url()) == DELIVERED
        await receiver.wait_for(lambda it: it.closed == 1)


async def test_no_more_is_read_than_asked_for() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 100)
        await exchange.wait_for_close()

    http = Http(answer_bytes_max=100)
    await http.open()
    async with RawReceiver(script) as receiver:
        assert await post(http, receiver.url()) == DELIVERED
        await receiver.wait_for(lambda it: it.closed == 1)
    await http.close()


@pytest.mark.parametrize("answer_bytes_max", [0, 1, 2])
async def test_short_answers_keep_the_connection(answer_bytes_max: int) -> None:
    http = Http(answer_bytes_max=answer_bytes_max)
    await http.open()
    async with RawReceiver(always(answer(200))) as receiver:
        for _ in range(5):
            assert await post(http, receiver.url()) == DELIVERED
    assert receiver.connections == 1
    await http.close()


async def test_endless_headers_are_cut_off(http: Http) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await exchange.send(b"a: " + b"x" * 65_536 + b"\r\n")

    async with RawReceiver(script) as receiver:
        outcome = await post(http, receiver.url())
        assert outcome == Outcome.retry("message head is too large")
        await receiver.wait_for(lambda it: it.closed == 1)


async def silent(exchange: Exchange) -> None:
    await exchange.wait_for_close()


async def trickle_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    while True:
        await exchange.send(b"x")
        await asyncio.sleep(0.01)


async def trickle_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        await exchange.send(b"x")
        await asyncio.sleep(0.01)


async def go_on_forever(exchange: Exchange) -> None:
    while True:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("script", [silent, trickle_body, trickle_head, go_on_forever])
async def test_time_out(http: Http, script: object) -> None:
    async with RawReceiver(script) as receiver:  # type: ignore[arg-type]
        async with asyncio.timeout(WAIT_S_MAX / 4):
            outcome = await post(http, receiver.url(), timeout_ms=150)
        assert outcome == Outcome.retry("time-out after 150 ms")
        await receiver.wait_for(lambda it: it.closed == 1)


# Connections


async def test_a_connection_is_used_again(http: Http) -> None:
    async with RawReceiver() as receiver:
        for _ in range(20):
            assert await post(http, receiver.url()) == DELIVERED
    assert receiver.connections == 1


async def test_the_peer_closes_between_requests(http: Http) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK)
        exchange.writer.close()

    async with RawReceiver(script) as receiver:
        for count in range(1, 6):
            assert await post(http, receiver.url()) == DELIVERED
            await receiver.wait_for(lambda it, count=count: it.closed == count)  # type: ignore[misc]
    assert receiver.connections == 5
    assert len(receiver.exchanges) == 5


@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
async def test_a_request_on_a_connection_that_breaks_is_not_repeated(
    http: Http, method: str
) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.send(OK)
        else:
            exchange.writer.transport.abort()

    async with RawReceiver(script) as receiver:
        callback = Callback("http", method, receiver.url())
        assert await http.deliver(callback, b"x", info()) == DELIVERED
        outcome = await http.deliver(callback, b"x", info())
        assert outcome.kind == "retry"
    assert len(receiver.exchanges) == 2


async def test_an_idle_connection_is_closed() -> None:
    http = Http(idle_ms=50)
    await http.open()
    async with RawReceiver() as receiver:
        assert await post(http, receiver.url()) == DELIVERED
        await receiver.wait_for(lambda it: it.closed == 1)
    await http.close()


async def test_connections_to_many_hosts_are_limited() -> None:
    http = Http(connections_max=1)
    await http.open()
    async with RawReceiver() as one, RawReceiver() as other:
        for receiver in (one, other, one, other):
            assert await post(http, receiver.url()) == DELIVERED
        await other.wait_for(lambda it: it.closed == 2)
        assert (one.connections, one.closed) == (1, 0)
        assert [each.header("connection") for each in one.exchanges] == [[], []]
        assert [each.header("connection") for each in other.exchanges] == [["close"], ["close"]]
    await http.close()


async def test_a_thousand_at_once(http: Http) -> None:
    count = 1_000
    all_there = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.number == count:
            all_there.set()
        await all_there.wait()
        await exchange.send(OK)

    async with RawReceiver(script) as receiver:
        payloads = [f"payload {number}".encode() for number in range(count)]
        outcomes = await asyncio.gather(*(post(http, receiver.url(), it) for it in payloads))
    assert outcomes == [DELIVERED] * count
    assert sorted(exchange.body for exchange in receiver.exchanges) == sorted(payloads)


# Nobody there


async def test_connection_refused(http: Http) -> None:
    outcome = await post(http, f"http://127.0.0.1:{free_port()}/?token=secret")
    assert outcome == Outcome.retry("connection refused")


async def test_unknown_host(http: Http) -> None:
    outcome = await post(http, "http://no-such-host.invalid/?token=secret", timeout_ms=5_000)
    assert outcome.kind == "retry"
    # A machine without a resolver may find that out too late.
    assert outcome.reason.startswith(("host name not resolved: ", "time-out after 5000 ms"))


@pytest.mark.parametrize(
    "callback",
    [
        Callback("http", "POST", "nonsense"),
        Callback("http", "NONE", "http://127.0.0.1/"),
        Callback("http", "POST", "http://127.0.0.1/", {"x": "secret\n"}),
    ],
)
async def test_a_callback_that_came_past_the_check(http: Http, callback: Callback) -> None:
    with pytest.raises(InvalidRequest):
        http.check(callback)
    outcome = await http.deliver(callback, b"", info())
    assert outcome == Outcome.rejected("the callback cannot be sent as it is")
