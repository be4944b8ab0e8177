"""Processes that a benchmark starts and ends; a few lines of Python stand in for the server."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from skyring.bench.client import request, status_or_none
from skyring.bench.errors import BenchError
from skyring.bench.process import HelperProcess, ServerProcess, usage
from skyring.bench.receiver import Receiver

STAND_IN = """
import http.server, signal, sys
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--broken" in sys.argv:
    sys.exit("the disk is on fire")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if "--unready" in sys.argv else 200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args): pass
port = int(sys.argv[sys.argv.index("-p") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def server(directory: Path, *arguments: str, ready_timeout_s: float = 30.0) -> ServerProcess:
    program = directory / "stand_in.py"
    program.write_text(STAND_IN)
    return ServerProcess(
        directory / "work",
        arguments=arguments,
        command=[sys.executable, str(program)],
        ready_timeout_s=ready_timeout_s,
    )


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_start_stop_and_start_again_on_the_same_port(tmp_path: Path) -> None:
    async with server(tmp_path) as running:
        pid, url = running.pid, running.url
        assert await status_or_none(running.host, running.port, "/", timeout_s=5.0) == 200
        assert await running.stop() == -signal.SIGTERM
        assert gone(pid)
        await running.start()
        assert running.pid != pid
        assert running.url == url
    assert gone(pid)
    assert await status_or_none(running.host, running.port, "/", timeout_s=5.0) is None


async def test_kill(tmp_path: Path) -> None:
    async with server(tmp_path) as running:
        assert await running.kill() == -signal.SIGKILL
        assert await running.kill() == 0
        with pytest.raises(BenchError, match="not running"):
            _ = running.pid


async def test_a_server_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    async with server(tmp_path, "--stubborn") as running:
        assert await running.stop(timeout_s=0.1) == -signal.SIGKILL


async def test_a_server_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    running = server(tmp_path, "--broken")
    with pytest.raises(BenchError, match="ended with 1: the disk is on fire"):
        await running.start()
    assert await running.stop() == 0


async def test_a_server_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    running = server(tmp_path, "--unready", ready_timeout_s=0.5)
    with pytest.raises(BenchError, match=r"not ready after 0\.5 s"):
        await running.start()
    assert running.usage() is None
    assert await status_or_none(running.host, running.port, "/", timeout_s=5.0) is None


async def test_it_runs_only_once(tmp_path: Path) -> None:
    async with server(tmp_path) as running:
        with pytest.raises(BenchError, match="already"):
            running.launch()


async def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    running = ServerProcess(tmp_path, command=[str(tmp_path / "nothing")])
    with pytest.raises(BenchError, match="cannot run"):
        await running.start()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_usage_of_this_process() -> None:
    used = usage(os.getpid())
    assert used is not None
    assert 1 << 20 < used.memory_bytes <= used.memory_peak_bytes
    assert used.cpu_s > 0


def test_usage_of_nobody() -> None:
    assert usage(2**31 - 1) is None


async def test_the_yardstick_answers_201_to_anything() -> None:
    async with HelperProcess("skyring.bench.yardstick") as helper:
        body = b"x" * 300_000
        assert await request(helper.host, helper.port, "POST", "/timer", body) == (201, b"")


async def test_a_helper_that_is_no_module() -> None:
    with pytest.raises(BenchError, match="did not start"):
        await HelperProcess("skyring.bench.errors").start()


async def test_the_receiver_keeps_what_comes_until_it_is_taken() -> None:
    async with Receiver() as receiver:
        for body in (b"one", b"two"):
            status, _ = await request(receiver.host, receiver.port, "POST", "/webhook", body)
            assert status == 200
        await receiver.settled(2, patience_s=5.0, linger_s=0.0)
        assert [delivery.key for delivery in await receiver.take()] == ["one", "two"]
        assert await receiver.take() == []
        assert await receiver.count() == 2
        await receiver.settled(3, patience_s=0.0)
