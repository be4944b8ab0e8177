"""The receiver of the chaos suite: a process that writes each webhook down, then answers.

What is written to a file stays when the process is killed. One in a hundred webhooks is answered
503 and not taken; of one in two hundred the connection is closed in place of an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from skyring.bench.client import status_or_none
from skyring.bench.errors import BenchError
from skyring.bench.process import exit_with_parent
from skyring.bench.wire import Framer, header
from skyring.testing.proof.history import Delivery

__all__ = ["ChaosReceiver", "main", "read_delivery"]

PORT = 8080
START_S_MAX = 30.0
UNANSWERED_S = 1.0
"""What it has written down so shortly before it was killed may be answered or not."""
STAMP_S = 1.0
"""The header ``webhook-timestamp`` is in whole seconds."""
REFUSED = 10
"""Of a thousand."""
UNANSWERED = 5

_ANSWERS = {200: b"HTTP/1.1 200 OK\r\n", 503: b"HTTP/1.1 503 Service Unavailable\r\n"}
_EMPTY = b"content-length: 0\r\n\r\n"


class _Protocol(asyncio.Protocol):
    def __init__(self, file: int, is_kind: bool) -> None:
        self._file = file
        self._is_kind = is_kind
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = str(transport.get_extra_info("peername")[0])

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            messages = self._framer.feed(data)
        except BenchError:
            self._transport.abort()
            return
        for head, body in messages:
            status = 200 if head.startswith(b"GET ") else self._note(head, body)
            if status == 0:
                self._transport.abort()
                return
            self._transport.write(_ANSWERS[status] + _EMPTY)

    def _note(self, head: bytes, body: bytes) -> int:
        """Write a webhook down; the status that it is answered with, 0 for none."""
        told = {name: header(head, f"webhook-{name}") or "" for name in ("id", "due", "attempt")}
        status = 200 if self._is_kind else _status(f"{told['id']} {told['attempt']}")
        line = {
            **told,
            "stamp": header(head, "webhook-timestamp") or "",
            "at_s": time.monotonic(),
            "clock_ms": time.time_ns() // 1_000_000,
            "peer": self._peer,
            "status": status,
            "body": body.decode("utf-8", "backslashreplace"),
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")
        return status


def _status(key: str) -> int:
    chance = zlib.crc32(key.encode()) % 1_000
    return 503 if chance < REFUSED else 0 if chance < REFUSED + UNANSWERED else 200


def read_delivery(line: str, names: Mapping[str, str], killed_s: Sequence[float] = ()) -> Delivery:
    """One line of the file.

    A delivery has begun when the node says so, to the end of that second: a packet may have been
    on its way for long. It is the clock of the same machine.

    Args:
        names: of the nodes, by address.
        killed_s: when the receiver was killed.
    """
    found = json.loads(line)
    clock_ms, at_s = int(found["clock_ms"]), float(found["at_s"])
    stamp_s = float(found["stamp"]) if found["stamp"].isdigit() else clock_ms / 1000
    began_s = min(at_s, at_s - clock_ms / 1000 + stamp_s + STAMP_S)
    return Delivery(
        id=found["id"],
        content=found["body"],
        began_s=began_s,
        clock_ms=clock_ms,
        due_ms=int(found["due"]) if found["due"].isdigit() else 0,
        node=names.get(found["peer"], found["peer"]),
        taken=found["status"] != 503,
        told=found["status"] == 200
        and not any(at_s <= kill_s < at_s + UNANSWERED_S for kill_s in killed_s),
    )


class ChaosReceiver:
    """The process: the same address and the same file after each start.

    Args:
        directory: for its file.
        host: address to listen on.
        is_kind: does it take everything?
    """

    def __init__(self, directory: Path, host: str, *, is_kind: bool = False) -> None:
        self.path = directory / "webhooks.ndjson"
        self.host = host
        self._is_kind = is_kind
        self._process: subprocess.Popen[bytes] | None = None
        self._killed_s: list[float] = []
        self._lines: list[str] = []
        self._read_bytes = 0

    @property
    def uri(self) -> str:
        """Where webhooks go."""
        return f"http://{self.host}:{PORT}/webhook"

    async def start(self) -> None:
        """Returns when it answers. Raises BenchError if it does not."""
        process = self._process = self._spawn()
        deadline_s = time.monotonic() + START_S_MAX
        while await status_or_none(self.host, PORT, "/", timeout_s=1.0) != 200:
            if process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise BenchError("the receiver does not start")
            await asyncio.sleep(0.05)

    def _spawn(self) -> subprocess.Popen[bytes]:
        kind = str(int(self._is_kind))
        command = [sys.executable, "-m", __name__, self.host, str(PORT), str(self.path), kind]
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL. May be called at any time."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._killed_s.append(time.monotonic())
            if process.stdin is not None:
                process.stdin.close()

    def deliveries(self, names: Mapping[str, str]) -> list[Delivery]:
        """All that has come since the first start, in the order of arrival."""
        return [read_delivery(line, names, self._killed_s) for line in self.lines()]

    def lines(self) -> list[str]:
        """The lines of the file that are complete."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                whole = file.read().rpartition(b"\n")
            self._read_bytes += len(whole[0]) + len(whole[1])
            self._lines += whole[0].decode().splitlines()
        return self._lines

    async def __aenter__(self) -> ChaosReceiver:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.kill()


async def _serve(host: str, port: int, path: str, is_kind: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Protocol(file, is_kind), host, port, backlog=1024)
    exit_with_parent()
    await server.serve_forever()


def main(host: str, port: str, path: str, is_kind: str) -> None:
    """Serve until standard input ends."""
    asyncio.run(_serve(host, int(port), path, is_kind == "1"))


if __name__ == "__main__":
    main(*sys.argv[1:])
