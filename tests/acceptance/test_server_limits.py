"""The limits of the HTTP server, at a real server whose limits are small.

Nothing here asserts how long something took. A connection that has to be closed is waited for, and
the test fails if it never is; what has to go on is seen to go on after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from skyring.bench.process import ServerProcess

WAIT_S_MAX = 20
TRICKLE_S = 0.1
"""Between two bytes: far less than a time-out below, so that no pause is one by itself."""
HEADER_BYTES_MAX = 2_048
CONNECTIONS_MAX = 6
PING = b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n"
LIMIT_MS = 1_000
"""Long enough for a busy machine to send a request in; it is waited for in parallel."""
SMALL = {
    "http:header-timeout-ms": LIMIT_MS,
    "http:body-timeout-ms": LIMIT_MS,
    "http:keep-alive-ms": LIMIT_MS,
    "http:header-bytes-max": HEADER_BYTES_MAX,
}
PATIENT = {"http:connections-max": CONNECTIONS_MAX}


class Connection:
    """A client that sends what it likes, when it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def ask(self, request: bytes = PING) -> int:
        """Send a request and return the status of its answer; the connection stays open."""
        await self.send(request)
        return await self.answer()

    async def answer(self) -> int:
        """The status of the next answer; 0 if the connection is closed instead."""
        async with asyncio.timeout(WAIT_S_MAX):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0
            self.head = head.decode("latin-1").lower()
            length = self.head.partition("content-length: ")[2].split("\r\n")[0]
            await self._reader.readexactly(int(length or 0))
        return int(head.split()[1])

    async def ended(self) -> bytes:
        """What comes until the other side closes; fails if it does not."""
        async with asyncio.timeout(WAIT_S_MAX):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def trickle(self, data: bytes) -> bytes:
        """Send byte after byte until the other side closes; fails if it takes them all."""
        ended = asyncio.create_task(self.ended())
        try:
            for start in range(len(data)):
                with_patience, _ = await asyncio.wait([ended], timeout=TRICKLE_S)
                if with_patience:
                    return await ended
                try:
                    await self.send(data[start : start + 1])
                except ConnectionError:
                    return await ended
        finally:
            ended.cancel()
        pytest.fail("it took all the time that it wanted")


class Server:
    """A running server, and connections to it that are closed after the test."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Connection:
        process = self.process
        reader, writer = await asyncio.open_connection(process.host, process.port)
        self._writers.append(writer)
        return Connection(reader, writer)

    async def serves(self) -> bool:
        """Does a well-behaved client get its answer?"""
        return await (await self.connect()).ask() == 200

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


def options(limits: dict[str, int]) -> list[str]:
    return [word for name, value in limits.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def small_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    arguments = ["--storage:backend", "memory", *options(SMALL)]
    process = ServerProcess(tmp_path_factory.mktemp("limits"), arguments=arguments)
    asyncio.run(process.start())
    yield process
    assert asyncio.run(process.stop()) == 0
    assert "Traceback" not in process.log


@asynccontextmanager
async def connecting(process: ServerProcess) -> AsyncIterator[Server]:
    made = Server(process)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def small(small_process: ServerProcess) -> AsyncIterator[Server]:
    async with connecting(small_process) as made:
        yield made


@pytest.fixture
async def few(tmp_path: Path) -> AsyncIterator[Server]:
    arguments = ["--storage:backend", "memory", *options(PATIENT)]
    async with ServerProcess(tmp_path, arguments=arguments) as process:
        async with connecting(process) as made:
            yield made
        assert "Traceback" not in process.log


def assert_cut(answer: bytes) -> None:
    """408, or closed without a word."""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 "), answer
    assert answer.count(b"HTTP/1.1") <= 1
    if answer:
        head = answer.lower()
        assert b"\r\nconnection: close\r\n" in head
        assert b"\r\nx-skyring-reason: " in head


# Time


async def cut(server: Server, said: bytes, trickled: bytes = b"", *, after: int = 0) -> bytes:
    """What comes of a connection that says something after requests, and then little by little."""
    connection = await server.connect()
    for _ in range(after):
        assert await connection.ask() == 200
    await connection.send(said)
    answer = await (connection.trickle(trickled) if trickled else connection.ended())
    return answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")


async def assert_all_cut(server: Server, *attempts: Awaitable[bytes]) -> None:
    for answer in await asyncio.gather(*attempts):
        assert_cut(answer)
    assert await server.serves()


BEGUN = b"GET /ping HTTP/1.1\r\nhost: x\r\n"
POSTED = b"POST %b HTTP/1.1\r\nhost: x\r\n%b\r\n"


@pytest.mark.parametrize("after", [0, 2])
async def test_a_client_that_falls_silent_in_its_headers(small: Server, after: int) -> None:
    said = [b"G", b"GET /ping HTTP/1.1", BEGUN]
    if not after:
        said += [b"", b"\r\n"]
    await assert_all_cut(small, *(cut(small, one, after=after) for one in said))


async def test_trickled_headers(small: Server) -> None:
    headers = b"x: y\r\n" * 100
    await assert_all_cut(small, *(cut(small, BEGUN, headers, after=after) for after in (0, 2)))


@pytest.mark.parametrize("path", [b"/timer", b"/timers"])
async def test_bodies_that_come_too_slowly(small: Server, path: bytes) -> None:
    length, chunked = b"content-length: 1000\r\n", b"transfer-encoding: chunked\r\n"
    expecting = length + b"expect: 100-continue\r\n"
    await assert_all_cut(
        small,
        cut(small, POSTED % (path, length)),
        cut(small, POSTED % (path, length) + b'{"time'),
        cut(small, POSTED % (path, length), b"x" * 600),
        cut(small, POSTED % (path, chunked), b"1\r\nx\r\n" * 100),
        cut(small, POSTED % (path, expecting), b"x" * 600),
        cut(small, POSTED % (path, length), b"x" * 600, after=2),
    )


async def test_a_body_that_nobody_reads(small: Server) -> None:
    """The request is answered at once; that it goes on for ever does not keep the connection."""

    async def go_on(trickled: bytes) -> None:
        connection = await small.connect()
        assert await connection.ask(BEGUN + b"content-length: 1000\r\n\r\n") == 200
        await (connection.trickle(trickled) if trickled else connection.ended())

    await asyncio.gather(go_on(b""), go_on(b"x" * 600))
    assert await small.serves()


async def test_an_idle_connection_is_closed(small: Server) -> None:
    connection = await small.connect()
    for _ in range(3):
        assert await connection.ask() == 200
    assert await connection.ended() == b""
    assert await small.serves()


async def test_blank_lines_do_not_make_an_idle_connection_immortal(small: Server) -> None:
    blanks = [b"\r\n", b"\n", b"\r\n\r\n\r\n"]
    await assert_all_cut(
        small,
        *(cut(small, blank, after=1) for blank in blanks),
        cut(small, b"\r\n", b"\r\n" * 300, after=1),
    )


async def test_a_connection_that_is_used_is_not_cut(small: Server) -> None:
    """No alarm of an earlier request goes off in a later one."""
    connection = await small.connect()
    body = b'{"timeout": 0}'
    head = POSTED % (b"/timer", b"content-length: %d\r\n" % len(body))
    loop = asyncio.get_running_loop()
    until = loop.time() + 2.5 * LIMIT_MS / 1000
    while loop.time() < until:
        for piece in (head[:9], head[9:], body[:5]):
            await connection.send(piece)
            await asyncio.sleep(0.01)
        assert await connection.ask(body[5:]) == 400


async def test_a_client_that_does_not_read_its_answers_harms_nobody(small: Server) -> None:
    connection = await small.connect()
    await connection.send(PING * 500)
    assert await small.serves()
    for _ in range(500):
        assert await connection.answer() == 200


# Sizes


def large_request(size: int, where: str) -> bytes:
    """A request whose line and headers have this size."""
    empty = {
        "one header": b"GET /ping HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n",
        "a header name": b"GET /ping HTTP/1.1\r\nhost: x\r\nx%b: x\r\n\r\n",
        "the path": b"GET /ping?%b HTTP/1.1\r\nhost: x\r\n\r\n",
    }[where]
    return empty % (b"y" * (size - len(empty) + 2))


WHERE = pytest.mark.parametrize("where", ["one header", "a header name", "the path"])
HALF = HEADER_BYTES_MAX // 2


@WHERE
@pytest.mark.parametrize("size", [HEADER_BYTES_MAX + 1, 3 * HEADER_BYTES_MAX, 60_000])
async def test_headers_that_are_too_large(small: Server, where: str, size: int) -> None:
    connection = await small.connect()
    request = large_request(size, where)
    assert len(request) == size
    assert await connection.ask(request) == 431
    assert "\r\nx-skyring-reason: " in connection.head
    assert "\r\nconnection: close\r\n" in connection.head
    assert await connection.ended() == b""
    assert await small.serves()


@WHERE
async def test_headers_that_are_too_large_in_pieces(small: Server, where: str) -> None:
    connection = await small.connect()
    request = large_request(3 * HEADER_BYTES_MAX, where)
    for start in range(0, len(request) - 4, HALF):
        try:
            await connection.send(request[start : start + HALF][: len(request) - 4 - start])
        except ConnectionError:
            break
        await asyncio.sleep(0)
    assert await connection.answer() in (431, 0)
    assert await connection.ended() == b""


async def test_headers_without_end(small: Server) -> None:
    connection = await small.connect()
    await connection.send(b"GET /ping HTTP/1.1\r\n")
    assert await connection.ask(b"x: y\r\n" * HEADER_BYTES_MAX) in (431, 0)


@WHERE
async def test_headers_of_the_largest_size_are_taken(small: Server, where: str) -> None:
    connection = await small.connect()
    for _ in range(3):  # each request has the whole size to itself
        assert await connection.ask(large_request(HEADER_BYTES_MAX, where)) == 200
    await connection.send(large_request(HEADER_BYTES_MAX, where) * 3)  # pipelined
    for _ in range(3):
        assert await connection.answer() == 200


async def test_a_body_does_not_count_as_headers(small: Server) -> None:
    connection = await small.connect()
    body = b"x" * (20 * HEADER_BYTES_MAX)
    head = b"POST /timer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    for _ in range(3):
        assert await connection.ask(head + body) == 400


# Connections


async def full(server: Server) -> list[Connection]:
    """As many connections as there may be, each with an answer."""
    held: list[Connection] = []

    async def hold() -> bool:
        connection = await server.connect()
        # Another one may still be in the closing.
        if await connection.ask() == 200:
            held.append(connection)
        return len(held) == CONNECTIONS_MAX

    await eventually(hold)
    return held


async def eventually(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        while not await reached():
            await asyncio.sleep(0.01)


async def test_one_connection_too_many(few: Server) -> None:
    held = await full(few)
    for _ in range(3):
        late = await few.connect()
        assert await late.answer() == 503
        assert "\r\nretry-after: 1\r\n" in late.head
        assert "\r\nx-skyring-reason: too many connections\r\n" in late.head
        assert "\r\nconnection: close\r\n" in late.head
        assert await late.ended() == b""
    for connection in held:
        assert await connection.ask() == 200
    await held[0].send(b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert await held[0].answer() == 200
    assert await held[0].ended() == b""
    await eventually(few.serves)  # there is a place again


async def test_silent_connections_count_and_their_places_come_back(few: Server) -> None:
    silent = [await few.connect() for _ in range(CONNECTIONS_MAX)]
    late = await few.connect()
    assert await late.answer() == 503
    for connection in silent:
        await connection.send(PING)
    assert {await connection.answer() for connection in silent} <= {200, 503}
    await few.close()
    await eventually(few.serves)
