"""Processes of a benchmark: start one, wait until it answers, look at its memory, end it.

`ServerProcess` is a Skyring server, `HelperProcess` one of the small programs of this package.
Both are ended by their own process id and by nothing else. Nothing here waits without a bound.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

from skyring.bench.client import status_or_none
from skyring.bench.errors import BenchError
from skyring.ports import free_port

__all__ = [
    "EVENT_LOOP",
    "HelperProcess",
    "ServerProcess",
    "Usage",
    "exit_with_parent",
    "usage",
]

EVENT_LOOP: Literal["uvloop", "asyncio"] = "asyncio" if sys.platform == "win32" else "uvloop"

READY_POLL_S = 0.005
EXIT_POLL_S = 0.01


@dataclass(frozen=True)
class Usage:
    """What a process has used so far."""

    memory_bytes: int
    """Resident now."""
    memory_peak_bytes: int
    """Resident at its highest since the process began."""
    cpu_s: float
    """Seconds of CPU, user and system together."""


def usage(pid: int) -> Usage | None:
    """What process ``pid`` uses; None where there is no /proc (not Linux) or no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields or "VmHWM" not in fields:
        return None  # a process that has ended but not been waited for
    ticks = stat.rpartition(")")[2].split()[11:13]
    return Usage(
        memory_bytes=int(fields["VmRSS"].split()[0]) * 1024,
        memory_peak_bytes=int(fields["VmHWM"].split()[0]) * 1024,
        cpu_s=sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
    )


async def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(EXIT_POLL_S)
    return True


async def _end(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """SIGTERM, then SIGKILL when ``timeout_s`` have passed; the exit code."""
    try:
        if process.poll() is None:
            process.terminate()
            await _ended(process, timeout_s)
    finally:
        # Also when this task is cancelled: no process outlives its benchmark.
        if process.poll() is None:
            process.kill()
        code = process.wait()
    return code


class ServerProcess:
    """A Skyring server of one's own, on a free port, with its timers under ``directory``.

    It can be started again after `stop` or `kill`: same directory, same port.

        async with ServerProcess(tmp_path) as server:
            ... server.url ...
    """

    def __init__(
        self,
        directory: Path,
        *,
        arguments: Sequence[str] = (),
        command: Sequence[str] | None = None,
        host: str = "127.0.0.1",
        ready_timeout_s: float = 60.0,
    ) -> None:
        """
        Args:
            directory: for the storage (``data``) and what the server says (``server.log``).
            arguments: further options of ``skyring run``; they win over the ones given here.
            command: what to run in place of ``python -m skyring run``.
            ready_timeout_s: time allowed from launch until ``/health/ready`` answers 200.
        """
        self.host = host
        self.port = free_port(host)
        self.storage_path = directory / "data"
        self.log_path = directory / "server.log"
        self._ready_timeout_s = ready_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        start = (sys.executable, "-m", "skyring", "run") if command is None else command
        self._command = [*start, "-p", str(self.port), "--host", host]
        self._command += ["--storage:path", str(self.storage_path), "--log:level", "warning"]
        self._command += arguments

    @property
    def url(self) -> str:
        """Base URL, for example ``http://127.0.0.1:23456``."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise BenchError("the server is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """All that the server has written to standard output and error, over all starts."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def usage(self) -> Usage | None:
        """What the running server uses; None where that cannot be read."""
        return None if self._process is None else usage(self._process.pid)

    def launch(self) -> None:
        """Start the process and return at once; `wait_ready` tells when it serves.

        Raises:
            BenchError: it runs already, or cannot be run.
        """
        if self._process is not None:
            raise BenchError("the server is running already")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = _popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def wait_ready(self) -> None:
        """Return when ``/health/ready`` answers 200.

        Raises:
            BenchError: the server has ended, or is not ready in time; with its last line.
        """
        process = self._process
        if process is None:
            raise BenchError("the server is not running")
        deadline = time.monotonic() + self._ready_timeout_s
        while await status_or_none(self.host, self.port, "/health/ready", timeout_s=2.0) != 200:
            if process.poll() is not None:
                self._process = None
                raise BenchError(f"the server ended with {process.returncode}{self._last_line()}")
            if time.monotonic() >= deadline:
                raise BenchError(
                    f"the server was not ready after {self._ready_timeout_s:g} s{self._last_line()}"
                )
            await asyncio.sleep(READY_POLL_S)

    async def start(self) -> float:
        """Launch, wait until ready, and return the seconds between.

        Raises:
            BenchError: as `launch` and `wait_ready`; nothing is left running.
        """
        began = time.monotonic()
        self.launch()
        try:
            await self.wait_ready()
        except BaseException:
            await self.kill()
            raise
        return time.monotonic() - began

    async def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and SIGKILL after ``timeout_s``. The exit code; negative for a signal."""
        process, self._process = self._process, None
        return 0 if process is None else await _end(process, timeout_s)

    async def ended(self, timeout_s: float = 30.0) -> int:
        """Wait until the process ends by itself; the exit code.

        Raises:
            BenchError: it does not, and is killed.
        """
        process, self._process = self._process, None
        if process is None:
            raise BenchError("the server is not running")
        if not await _ended(process, timeout_s):
            await _end(process, 0)
            raise BenchError(f"the server did not end in {timeout_s:g} s")
        return process.wait()

    async def kill(self) -> int:
        """SIGKILL, and wait until the process is gone; the exit code, 0 when none runs.

        Other than -9 means that the server had ended before.
        """
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        return process.wait()

    def _last_line(self) -> str:
        lines = [line.strip(" │╭╮╰╯─") for line in self.log.splitlines()]
        said = [line for line in lines if line]
        return f": {said[-1]}" if said else ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


class HelperProcess:
    """A module of this package run as ``python -m module FD`` with a listening socket.

    The socket is bound here and handed over, so its port is known at once, nobody else can take
    it, and connections made before the helper is up merely wait. A helper ends when its standard
    input does: it cannot outlive the benchmark, whatever becomes of that.
    """

    def __init__(self, module: str, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port as in a URL."""
        return f"{self.host}:{self.port}"

    def usage(self) -> Usage | None:
        """What the helper uses; None where that cannot be read."""
        return None if self._process is None else usage(self._process.pid)

    async def start(self, timeout_s: float = 30.0) -> None:
        """Start it and return when it answers.

        Raises:
            BenchError: it does not answer in time.
        """
        with socket.socket() as listening:
            listening.bind((self.host, 0))
            listening.listen(1024)
            self.port = listening.getsockname()[1]
            fd = listening.fileno()
            self._process = _popen(
                [sys.executable, "-m", self._module, str(fd)],
                stdin=subprocess.PIPE,
                pass_fds=(fd,),
            )
        status = None
        try:
            status = await status_or_none(self.host, self.port, "/", timeout_s=timeout_s)
        finally:
            if status is None:
                await self.stop()
        if status is None:
            raise BenchError(f"{self._module} did not start within {timeout_s:g} s")

    async def stop(self) -> None:
        """End it; nothing happens when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            await _end(process, timeout_s=5.0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


def _popen(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    # In a session of its own, so that Ctrl-C reaches only the benchmark, which then ends it.
    try:
        return subprocess.Popen(command, start_new_session=True, **options)
    except OSError as error:
        raise BenchError(f"cannot run {command[0]}: {error.strerror}") from error


def exit_with_parent(stdin: IO[bytes] | None = None) -> None:
    """Called by a helper at its start: end this process when its standard input ends."""
    stream = sys.stdin.buffer if stdin is None else stdin

    def wait() -> None:
        stream.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="exit-with-parent", daemon=True).start()
