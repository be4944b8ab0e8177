"""Which HTTP client delivers webhooks: aiohttp or pyreqwest, on one machine.

    python -m pip install aiohttp
    python bench/http_clients.py

Each client runs in a process of its own, under uvloop, and sends POSTs with a body of 100 bytes and
five headers to a raw receiver in another process on the loopback interface. The clients are set up
as the webhook transport needs them: no redirects, no cookies, no decompression, no proxy from the
environment, a total time-out for each request, and no more than 64 KiB of an answer read. Every
figure is the median of the rounds, for which the clients take turns.

While a client works, a ticker on its event loop asks to be woken every millisecond. How late it is
shows how late the client makes everything else that runs on the loop. "CPU" is what the whole
process uses for one request, "loop" what the thread of the event loop uses of it, "MB" what the
process has grown by.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from importlib.metadata import version
from typing import Any, cast

import uvloop

BODY = b'{"order":"0123456789","note":"' + b"x" * 68 + b'"}'
HEADERS = {
    "webhook-id": "0190e0c4-5d7c-7000-8000-0123456789ab",
    "webhook-timestamp": "1700000000",
    "webhook-attempt": "1",
    "webhook-due": "1700000000000",
    "content-type": "application/json",
}
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANSWER_BYTES_MAX = 65_536
TIMEOUT_S = 15
TICK_S = 0.001

Post = Callable[[str], Awaitable[int]]


class Receiver(asyncio.Protocol):
    """Answers each request without parsing it; all of them end with the same body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        end = data.rfind(BODY)
        if end < 0:
            self._tail = data
            return
        self._tail = data[end + len(BODY) :]
        self._transport.write(ANSWER * data.count(BODY))


async def receive() -> None:
    """Serve on a free port of every loopback address; print the port; stop at the end of stdin."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiver, "0.0.0.0", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextlib.asynccontextmanager
async def aiohttp_client(in_flight: int) -> AsyncIterator[Post]:
    import aiohttp

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=in_flight),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
    )

    async def post(url: str) -> int:
        async with session.post(url, data=BODY, headers=HEADERS, allow_redirects=False) as answer:
            left = ANSWER_BYTES_MAX
            while left > 0 and (chunk := await answer.content.read(left)):
                left -= len(chunk)
            status: int = answer.status
            return status

    async with session:
        yield post


@contextlib.asynccontextmanager
async def pyreqwest_client(in_flight: int) -> AsyncIterator[Post]:
    from pyreqwest.client import ClientBuilder

    client = (
        ClientBuilder()
        .follow_redirects(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .referer(False)
        .no_proxy()
        .http1_only()
        .timeout(timedelta(seconds=TIMEOUT_S))
        .pool_max_idle_per_host(in_flight)
        .build()
    )

    async def post(url: str) -> int:
        request = client.post(url).headers(HEADERS).body_bytes(BODY)
        async with request.streamed_read_buffer_limit(ANSWER_BYTES_MAX).build_streamed() as answer:
            return answer.status

    async with client:
        yield post


CLIENTS = {"aiohttp": aiohttp_client, "pyreqwest": pyreqwest_client}


async def tick(late_ms: list[float]) -> None:
    """Note how late each wake-up of the event loop comes, until cancelled."""
    while True:
        asked_s = time.perf_counter()
        await asyncio.sleep(TICK_S)
        late_ms.append(max(0.0, time.perf_counter() - asked_s - TICK_S) * 1000)


async def send(post: Post, urls: Iterator[str], statuses: list[int]) -> None:
    """One of the requests in flight: post to the next URL until none is left."""
    for url in urls:
        statuses.append(await post(url))


async def measure(
    name: str, port: int, requests: int, in_flight: int, hosts: int
) -> dict[str, Any]:
    """One round of one client."""
    urls = [
        f"http://127.0.{host // 250}.{host % 250 + 1}:{port}/hooks/orders" for host in range(hosts)
    ]
    memory_before = memory_mb()
    statuses: list[int] = []
    late_ms: list[float] = []
    async with CLIENTS[name](in_flight) as post:
        await send(post, iter(urls[:1]), [])
        work = (urls[number % hosts] for number in range(requests))
        ticker = asyncio.create_task(tick(late_ms))
        wall_s, cpu_s, loop_s = time.perf_counter(), time.process_time(), time.thread_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(send(post, work, statuses))
        wall_s = time.perf_counter() - wall_s
        cpu_s, loop_s = time.process_time() - cpu_s, time.thread_time() - loop_s
        memory_after = memory_mb()
        ticker.cancel()
    assert statuses.count(200) == requests, f"{name}: only {statuses.count(200)} answers of 200"
    late_ms.sort()
    return {
        "rate": requests / wall_s,
        "cpu_us": cpu_s / requests * 1e6,
        "loop_us": loop_s / requests * 1e6,
        "late_p50_ms": late_ms[len(late_ms) // 2],
        "late_p99_ms": late_ms[len(late_ms) * 99 // 100],
        "memory_mb": memory_after - memory_before,
    }


def memory_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def run_round(*arguments: object) -> dict[str, float]:
    """One round in a fresh process."""
    command = [sys.executable, __file__, "--round", *map(str, arguments)]
    result: dict[str, float] = json.loads(subprocess.check_output(command))
    return result


def compare(port: int, rounds: int, requests: int) -> None:
    """Print one table line for each client and each number of requests in flight and hosts."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvloop", *CLIENTS))
    print(f"Python {platform.python_version()}, {packages}; {requests} requests, {rounds} rounds\n")
    print(
        "| client | in flight | hosts | requests/s | CPU µs | loop µs | late p50 ms | p99 ms | MB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for in_flight, hosts in ((64, 1), (128, 1), (128, 1000)):
        results: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
        for _ in range(rounds):
            for name, taken in results.items():
                taken.append(run_round(name, port, requests, in_flight, hosts))
        for name, taken in results.items():
            middle = {key: statistics.median(one[key] for one in taken) for key in taken[0]}
            cells = [
                name,
                in_flight,
                hosts,
                f"{middle['rate']:,.0f}",
                f"{middle['cpu_us']:.0f}",
                f"{middle['loop_us']:.0f}",
                f"{middle['late_p50_ms']:.1f}",
                f"{middle['late_p99_ms']:.1f}",
                f"{middle['memory_mb']:.0f}",
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare HTTP clients for webhooks.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--round", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        uvloop.run(receive())
    elif options.round is not None:
        name, *numbers = options.round
        port, requests, in_flight, hosts = map(int, numbers)
        print(json.dumps(uvloop.run(measure(name, port, requests, in_flight, hosts))))
    else:
        command = [sys.executable, __file__, "--receive"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as receiver:
            assert receiver.stdout is not None
            compare(int(receiver.stdout.readline()), options.rounds, options.requests)
            receiver.communicate()  # closes its standard input, which ends it


if __name__ == "__main__":
    main()
