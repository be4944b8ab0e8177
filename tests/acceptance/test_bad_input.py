"""Every bad input gets a 4xx with a reason that names the field, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyring.bench.process import ServerProcess

CALLBACK: dict[str, Any] = {
    "transport": "http",
    "method": "post",
    "uri": "http://127.0.0.1:9/",
}
GOOD: dict[str, Any] = {"timeout": 3_600_000, "callback": CALLBACK}


def body(**changes: Any) -> bytes:
    fields = {**GOOD, **changes}
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


def callback(**changes: Any) -> bytes:
    fields = {**CALLBACK, **changes}
    return body(callback={k: v for k, v in fields.items() if v is not ...})


def raw_data(data: bytes) -> bytes:
    return body(data="HERE").replace(b'"HERE"', data)


CASES: list[tuple[str, bytes, str]] = [
    # what is wrong, the body, the field that the reason has to name
    ("timeout missing", body(timeout=...), "timeout"),
    ("timeout zero", body(timeout=0), "timeout"),
    ("timeout negative", body(timeout=-5), "timeout"),
    ("timeout fractional", body(timeout=1.5), "timeout"),
    ("timeout NaN", body(timeout=float("nan")), "timeout"),
    ("timeout infinite", body(timeout=float("inf")), "timeout"),
    ("timeout 1e400", body().replace(b"3600000", b"1e400"), "timeout"),
    ("timeout a string", body(timeout="1000"), "timeout"),
    ("timeout a boolean", body(timeout=True), "timeout"),
    ("timeout null", body(timeout=None), "timeout"),
    ("timeout too large", body(timeout=2_147_483_648), "timeout"),
    ("timeout far too large", body(timeout=10**30), "timeout"),
    ("both timeout and at", body(at=1_900_000_000_000), "at"),
    ("at a word", body(timeout=..., at="tomorrow"), "at"),
    ("at without offset", body(timeout=..., at="2030-01-01T00:00:00"), "at"),
    ("at no such day", body(timeout=..., at="2030-02-30T00:00:00Z"), "at"),
    ("at negative", body(timeout=..., at=-1), "at"),
    ("at beyond the calendar", body(timeout=..., at=10**18), "at"),
    ("at fractional", body(timeout=..., at=1.5), "at"),
    ("at a boolean", body(timeout=..., at=True), "at"),
    ("data a number", body(data=5), "data"),
    ("data an array", body(data=[1]), "data"),
    ("data a boolean", body(data=True), "data"),
    ("data with NaN", raw_data(b'{"a":NaN}'), "data.a"),
    ("data with 1e400", raw_data(b'{"a":1e400}'), "data"),
    ("data not UTF-8", raw_data(b'"\xff"'), "data"),
    ("data a lone surrogate", raw_data(b'"\\ud800"'), "data"),
    ("data holds a lone surrogate", raw_data(b'{"a":"\\udc00"}'), "data.a"),
    ("data's key a lone surrogate", raw_data(b'{"\\ud800":1}'), "data"),
    ("data encoded surrogate", raw_data(b'"\xed\xa0\x80"'), "data"),
    ("data nested 1,000 deep", raw_data(b'{"a":' * 1_000 + b"1" + b"}" * 1_000), "data"),
    ("data arrays 1,000 deep", raw_data(b'{"a":' + b"[" * 1_000 + b"]" * 1_000 + b"}"), "data"),
    ("data 100,000 deep", raw_data(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "data"),
    ("callback missing", body(callback=...), "callback"),
    ("callback null", body(callback=None), "callback"),
    ("callback a string", body(callback="http://127.0.0.1/"), "callback"),
    ("callback an array", body(callback=[]), "callback"),
    ("transport missing", callback(transport=...), "callback.transport"),
    ("transport a number", callback(transport=1), "callback.transport"),
    ("transport unknown", callback(transport="pigeon"), "callback.transport"),
    ("transport empty", callback(transport=""), "callback.transport"),
    ("method missing", callback(method=...), "callback.method"),
    ("method a number", callback(method=1), "callback.method"),
    ("method unknown", callback(method="teleport"), "callback.method"),
    ("method with a line break", callback(method="post\r\nx: y"), "callback.method"),
    ("uri missing", callback(uri=...), "callback.uri"),
    ("uri a number", callback(uri=1), "callback.uri"),
    ("uri without scheme", callback(uri="127.0.0.1/x"), "callback.uri"),
    ("uri without host", callback(uri="http:///x"), "callback.uri"),
    ("uri of another scheme", callback(uri="file:///etc/passwd"), "callback.uri"),
    ("uri with a bad port", callback(uri="http://127.0.0.1:99999/"), "callback.uri"),
    ("uri with a line break", callback(uri="http://127.0.0.1/\r\nx: y"), "callback.uri"),
    ("uri with a space", callback(uri="http://127.0.0.1/a b"), "callback.uri"),
    ("uri with credentials", callback(uri="http://u:p@127.0.0.1/"), "callback.uri"),
    ("uri too long", callback(uri="http://127.0.0.1/" + "x" * 10_000), "callback.uri"),
    ("headers an array", callback(headers=[]), "callback.headers"),
    ("header a number", callback(headers={"x": 1}), "callback.headers"),
    ("header with CR", callback(headers={"x": "a\rb"}), "callback.headers.x"),
    ("header with LF", callback(headers={"x": "a\nb"}), "callback.headers.x"),
    ("header with NUL", callback(headers={"x": "a\0b"}), "callback.headers.x"),
    ("header name with a space", callback(headers={"a b": "c"}), "callback.headers.a b"),
    ("header name empty", callback(headers={"": "c"}), "callback.headers"),
    ("header Host", callback(headers={"Host": "x"}), "callback.headers.Host"),
    ("header length", callback(headers={"content-length": "5"}), "callback.headers.content-length"),
    (
        "header encoding",
        callback(headers={"Transfer-Encoding": "chunked"}),
        "callback.headers.Transfer-Encoding",
    ),
    ("header webhook", callback(headers={"webhook-id": "x"}), "callback.headers.webhook-id"),
    (
        "header webhook of tomorrow",
        callback(headers={"Webhook-New": "x"}),
        "callback.headers.Webhook-New",
    ),
    ("too many headers", callback(headers={f"x{n}": "y" for n in range(200)}), "callback.headers"),
    ("retry a number", callback(retry=3), "callback.retry"),
    ("retry attempts zero", callback(retry={"attempts": 0}), "callback.retry.attempts"),
    ("retry attempts huge", callback(retry={"attempts": 10**9}), "callback.retry.attempts"),
    ("retry backoff negative", callback(retry={"backoff_ms": -1}), "callback.retry.backoff_ms"),
    ("retry max a string", callback(retry={"max_ms": "1"}), "callback.retry.max_ms"),
    ("retry unknown field", callback(retry={"tries": 1}), "callback.retry.tries"),
    ("time-out of a delivery zero", callback(timeout_ms=0), "callback.timeout_ms"),
    ("time-out of a delivery huge", callback(timeout_ms=10**9), "callback.timeout_ms"),
    ("unknown field", body(color="red"), "color"),
    ("unknown field of callback", callback(url="http://127.0.0.1/"), "callback.url"),
    ("nothing", b"", ""),
    ("half an object", b'{"timeout": 1', ""),
    ("an array", b"[]", ""),
    ("null", b"null", ""),
    ("a string", b'"timer"', ""),
    ("no JSON", b"timeout=5", ""),
    ("no UTF-8", b"\xff\xfe\x00", ""),
    ("nested 1,000 deep", b"[" * 1_000 + b"]" * 1_000, ""),
]


@pytest.fixture(scope="module")
def loop_server(shared_directory: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(shared_directory)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
    assert "Traceback" not in server.log


@pytest.fixture
async def client(loop_server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=loop_server.url, timeout=30) as made:
        yield made


async def no_timers(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/timers")).json() == {"timers": [], "next": None})


def assert_problem(answer: httpx.Response, status: int, field: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert answer.headers["x-skyring-reason"]
    if field:
        assert problem["field"].startswith(field), problem
        assert answer.headers["x-skyring-reason"].startswith(field)


@pytest.mark.parametrize(
    ("content", "field"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_create_refuses(client: httpx.AsyncClient, content: bytes, field: str) -> None:
    assert_problem(await client.post("/timer", content=content), 400, field)
    assert await no_timers(client)


async def test_update_and_bulk_refuse_the_same(client: httpx.AsyncClient) -> None:
    created = await client.post("/timer", content=body(), headers={"x-timer-id": "keep"})
    assert created.status_code == 201
    before = (await client.get("/timer/keep")).json()
    for name, content, field in CASES:
        assert_problem(await client.put("/timer/keep", content=content), 400, field)
        if b"\n" not in content and content:
            bulk = await client.post("/timers", content=b"[" + content + b"]")
            if bulk.status_code == 200:
                (result,) = bulk.json()
                assert result["status"] == 400, name
                assert result.get("field", "").startswith(field), (name, result)
            else:
                assert bulk.status_code == 400, name
    assert (await client.get("/timer/keep")).json() == before
    assert (await client.delete("/timer/keep")).status_code == 202
    assert await no_timers(client)


async def test_unknown_transport_names_the_loaded_ones(client: httpx.AsyncClient) -> None:
    answer = await client.post("/timer", content=callback(transport="pigeon"))
    assert "there are: http" in answer.json()["detail"]


@pytest.mark.parametrize("given", ["a b", "ä", "x" * 129, "", "-x", ".", "a/b", "a\tb", "a%00"])
async def test_an_illegal_id_is_refused(client: httpx.AsyncClient, given: str) -> None:
    headers = [(b"x-timer-id", given.encode("latin-1"))]
    assert_problem(await client.post("/timer", content=body(), headers=headers), 400, "id")
    assert await no_timers(client)


async def test_an_id_of_128_characters_is_fine(client: httpx.AsyncClient) -> None:
    timer_id = "x" * 128
    created = await client.post("/timer", content=body(), headers={"x-timer-id": timer_id})
    assert created.status_code == 201
    assert (await client.delete(f"/timer/{timer_id}")).status_code == 202


@pytest.mark.parametrize("path", ["/timer/unknown", "/timer/" + "0" * 128])
async def test_an_unknown_id_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert_problem(await client.get(path), 404)
    assert_problem(await client.delete(path), 404)
    assert_problem(await client.put(path, content=body()), 404)


@pytest.mark.parametrize("last", ["0" * 129, "a%20b", "%ff", "%00"])
async def test_an_impossible_id_is_refused(client: httpx.AsyncClient, last: str) -> None:
    for method in ("GET", "DELETE", "PUT"):
        assert_problem(await client.request(method, f"/timer/{last}", content=body()), 400, "id")


async def test_a_body_over_the_maximum_is_refused(client: httpx.AsyncClient) -> None:
    large = body(data="x" * (1 << 20))
    assert_problem(await client.post("/timer", content=large), 413)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    assert_problem(await client.post("/timer", content=chunks()), 413)
    assert await no_timers(client)


async def test_the_largest_body_is_taken(client: httpx.AsyncClient) -> None:
    room = (1 << 20) - len(body(data=""))
    created = await client.post("/timer", content=body(data="x" * room))
    assert created.status_code == 201
    assert len((await client.get(created.headers["location"])).json()["data"]) == room
    assert (await client.delete(created.headers["location"])).status_code == 202


async def test_an_announced_giant_is_refused_before_it_comes(loop_server: ServerProcess) -> None:
    reader, writer = await asyncio.open_connection(loop_server.host, loop_server.port)
    writer.write(b"POST /timer HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert answer.startswith(b"HTTP/1.1 413 ")
    writer.close()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%ff", "cursor"),
        ("due_after=-1", "due_after"),
        ("due_before=x", "due_before"),
    ],
)
async def test_a_list_refuses(client: httpx.AsyncClient, query: str, field: str) -> None:
    assert_problem(await client.get(f"/timers?{query}"), 400, field)


async def test_bulk_refuses_what_is_no_list(client: httpx.AsyncClient) -> None:
    for content in (b"[", b"[1", b"[" * 2_000):
        assert_problem(await client.post("/timers", content=content), 400)


async def test_paths_and_methods_that_do_not_exist(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/nothing/here"), 404)
    assert_problem(await client.patch("/timer"), 405)
    assert (await client.get("/timer")).headers["allow"] == "POST"
    assert (await client.patch("/timer/x")).headers["allow"] == "DELETE, GET, PUT"


async def test_dead_letters_that_do_not_exist(client: httpx.AsyncClient) -> None:
    assert_problem(await client.post("/dead-letters/nope/retry"), 404)
    assert_problem(await client.delete("/dead-letters/nope"), 404)
    assert_problem(await client.delete("/dead-letters/%ff"), 400, "id")


@pytest.mark.parametrize(
    "request_", [b"\0\1\2\3\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /%zz HTTP/1.1\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_or_closed(
    loop_server: ServerProcess, request_: bytes
) -> None:
    reader, writer = await asyncio.open_connection(loop_server.host, loop_server.port)
    writer.write(request_ + b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert not answer.startswith(b"HTTP/1.1 5")
    writer.close()


async def test_headers_without_end_are_cut_off(loop_server: ServerProcess) -> None:
    reader, writer = await asyncio.open_connection(loop_server.host, loop_server.port)
    writer.write(b"GET /ping HTTP/1.1\r\n")
    taken = 0
    try:
        while taken < 1 << 20 and not reader.at_eof():
            writer.write(b"x: %s\r\n" % (b"y" * 1_000))
            await writer.drain()
            taken += 1_000
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        answer = b""
    assert taken < 1 << 20
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_an_upgrade_is_named_as_what_is_wrong(client: httpx.AsyncClient) -> None:
    """Some clients try HTTP/2 in this way; their body is lost."""
    headers = {"connection": "upgrade", "upgrade": "h2c"}
    answer = await client.post("/timer", content=body(), headers=headers)
    assert_problem(answer, 400)
    assert "Upgrade" in answer.json()["detail"]
    assert await no_timers(client)


@pytest.mark.parametrize("body_at_once", [True, False])
async def test_what_follows_an_upgrade_is_not_read_as_a_request(
    loop_server: ServerProcess, body_at_once: bool
) -> None:
    content = body()
    head = (
        b"POST /timer HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n"
        b"content-length: %d\r\n\r\n" % len(content)
    )
    reader, writer = await asyncio.open_connection(loop_server.host, loop_server.port)
    writer.write(head + content if body_at_once else head)
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
    if not body_at_once:
        with contextlib.suppress(ConnectionError):
            writer.write(content)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        answer += await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()
