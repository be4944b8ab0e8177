"""One program that is kept running: started, started again when it dies, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from skyring.bench.client import status_or_none
from skyring.cluster.leash import leashed
from skyring.cluster.plan import Program

__all__ = ["Child"]

RESTARTS_MAX = 5
RESTARTS_WITHIN_S = 60.0
PAUSE_S = 1.0
HEALTH_S = 2.0
READ_BYTES = 65_536
LINE_BYTES_MAX = 16_384
LOG_BYTES_MAX = 64 << 20
"""A log of this size is set aside, in place of the one that was set aside before."""
EXIT_USAGE = 2


class Child:
    """A program of the cluster.

    Args:
        show: gets each line that it writes.
        tell: gets what happens to it, in words.
        gave_up: called when it has ended and is not started again.
        restarts: shall it be started again when it dies?
    """

    def __init__(
        self,
        program: Program,
        log: Path,
        environment: Mapping[str, str],
        *,
        show: Callable[[str, str], None],
        tell: Callable[[str], None],
        gave_up: Callable[[Child], None],
        restarts: bool,
    ) -> None:
        self.program = program
        self.name = program.name
        self._log = _Log(log, tell)
        self._environment = environment
        self._show = show
        self._tell = tell
        self._gave_up = gave_up
        self._restarts = restarts
        self._deaths: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Run it until `stop`, or until it has died too often; it has ended when this returns."""
        while not self._stopping.is_set():
            code = await self._run()
            if self._stopping.is_set():
                return
            verdict = self._verdict(code)
            self._tell(f"{self.name} has ended, {_told(code)}; {verdict or 'it is started again'}")
            if verdict is not None:
                self._gave_up(self)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), PAUSE_S)

    def stop(self) -> None:
        """SIGTERM; it is not started again."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; it is not started again."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    async def is_healthy(self) -> bool:
        """Does it run, and say that it works?"""
        if self._process is None:
            return False
        program = self.program
        status = await status_or_none(
            program.host, program.health_port, program.health_path, HEALTH_S
        )
        return status == 200

    async def _run(self) -> int:
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *leashed(self.program.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends it in order
            )
        except OSError as error:
            self._tell(f"{self.name} cannot be started: {error.strerror}")
            return 1
        try:
            self._tell(f"{self.name} is process {process.pid}")
            if self._stopping.is_set():  # while it was being started
                process.terminate()
            assert process.stdout is not None
            await self._pump(process.stdout)
            return await process.wait()
        finally:
            self._process = None
            if process.returncode is None:
                process.kill()

    async def _pump(self, output: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await output.read(READ_BYTES):
            self._log.write(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._show(self.name, line.decode(errors="replace").rstrip("\r"))
        if rest:
            self._show(self.name, rest.decode(errors="replace"))

    def _verdict(self, code: int) -> str | None:
        """Why it is not started again; None if it is."""
        now = time.monotonic()
        often = len(self._deaths) == RESTARTS_MAX and now - self._deaths[0] < RESTARTS_WITHIN_S
        self._deaths.append(now)
        if not self._restarts:
            return "it is not started again"
        if code == EXIT_USAGE:
            return "it would end again and is not started"
        if often:
            return f"too often within {RESTARTS_WITHIN_S:g} s, and is not started again"
        return None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


class _Log:
    """A file to which everything is appended; it does not grow for ever."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._has_failed = False

    def write(self, content: bytes) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(content)
                size = file.tell()
            if size > LOG_BYTES_MAX:
                self._path.replace(self._path.with_suffix(".log.1"))
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                self._tell(f"{self._path} cannot be written: {error.strerror}")
            self._has_failed = True


def _told(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
