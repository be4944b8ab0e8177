"""A real server against its own OpenAPI document, in a network namespace of its own.

    python -m tests.fuzz.openapi DIRECTORY --cases 10000 --seed 1 [--backend memory] [--ring]

What came of it is written to standard output as JSON; it exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from skyring.bench.process import ServerProcess
from skyring.testing.nats_server import NatsServer
from tests.acceptance.receiver import Answer, CallbackReceiver, Received
from tests.fuzz.cases import Exercise
from tests.fuzz.isolation import bring_up_loopback, isolated

__all__ = ["command"]

PROBE_S_MAX = 30
WORDS_OF_A_DEFECT = ("Traceback", "never retrieved", " CRITICAL ")
ARGUMENTS = ["--retry:attempts", "2", "--retry:backoff-ms", "20", "--delivery:timeout-ms", "500"]
ANSWERS = {"/ok": 200, "/gone": 410, "/fails": 500, "/busy": 503}
ELSEWHERE = [
    "http://127.0.0.1:1/closed",
    "https://127.0.0.1:1/closed",
    "http://[::1]:1/?a=b",
    "http://example.invalid/",
    "http://192.0.2.1/nowhere",
    "not a uri",
]


def command(directory: Path, *options: str) -> list[str]:
    """What runs this module, with nothing but the loopback around it."""
    return isolated([sys.executable, "-m", "tests.fuzz.openapi", str(directory), *options])


def _answer(callback: Received) -> Answer:
    return ANSWERS.get(callback.path, 200), {"retry-after": "0"}


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    directory: Path = options.directory
    arguments = [*ARGUMENTS, "--storage:backend", options.backend]
    nats = NatsServer(directory / "nats") if options.ring else None
    try:
        if nats is not None:
            await nats.start()
            arguments = [*ARGUMENTS, "--nats", nats.url]
        async with (
            CallbackReceiver(_answer) as receiver,
            ServerProcess(directory, arguments=arguments) as server,
        ):
            return await _exercise(server, receiver, options.cases, options.seed)
    finally:
        if nats is not None:
            await nats.stop()


async def _exercise(
    server: ServerProcess, receiver: CallbackReceiver, cases: int, seed: int
) -> dict[str, Any]:
    base = f"http://127.0.0.1:{receiver.port}"
    exercise = Exercise(server.url, [base + path for path in ANSWERS] + ELSEWHERE, seed)
    began_s, pid = time.monotonic(), server.pid
    tally = await asyncio.to_thread(exercise.run, cases)
    took_s = time.monotonic() - began_s
    await _probe(server, receiver)
    used = server.usage()
    wrong = dict(tally.failures)
    if used is None or server.pid != pid:
        wrong["the server"] = "it has ended"
    for line in server.log.splitlines():
        if any(word in line for word in WORDS_OF_A_DEFECT):
            wrong.setdefault("the log", line)
    return {
        "cases": tally.cases,
        "seconds": round(took_s, 1),
        "statuses": dict(sorted(tally.statuses.items())),
        "callbacks": len(receiver.received),
        "memory_mb": 0 if used is None else used.memory_bytes >> 20,
        "wrong": wrong,
    }


async def _probe(server: ServerProcess, receiver: CallbackReceiver) -> None:
    """Does it still deliver, whatever waits? The probe has a destination of its own."""
    async with CallbackReceiver() as probed, httpx.AsyncClient(base_url=server.url) as client:
        body = {"timeout": 50, "data": "probe", "callback": probed.callback()}
        answer = await client.post("/timer", json=body, timeout=PROBE_S_MAX)
        answer.raise_for_status()
        [callback] = await probed.wait(1, PROBE_S_MAX)
        assert callback.id == answer.headers["location"].rpartition("/")[2]
        assert callback.body == b"probe"


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.openapi")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=("leveldb", "memory"), default="leveldb")
    parser.add_argument("--ring", action="store_true")
    options = parser.parse_args(arguments)
    bring_up_loopback()
    report = asyncio.run(_run(options))
    print(json.dumps(report, indent=2))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
