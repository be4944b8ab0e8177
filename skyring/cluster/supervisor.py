"""Starts the programs of a cluster, watches over them, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from skyring.cluster.child import Child
from skyring.cluster.plan import Options, Plan, Program
from skyring.cluster.screen import Screen

__all__ = ["Supervisor"]

SUPERVISOR = "cluster"
READY_S = 300.0
"""Time allowed to the programs until all work, first those of NATS, then the nodes."""
REMINDER_S = 15.0
POLL_S = 0.05
NATS_STOP_S = 15.0
KILL_S = 10.0
LOGS = "logs"
EXAMPLE = (
    '{"timeout": 5000, "data": "hello", "callback":'
    ' {"transport": "http", "method": "post", "uri": "http://127.0.0.1:8989/"}}'
)
OWN_VARIABLES = ("SKYRING_NATS", "SKYRING_NODE", "SKYRING_ADVERTISE")
"""What the environment says of these is not for nodes that get them from here."""


class Supervisor:
    """One cluster, from start to end.

    Args:
        stop_s: time allowed to the nodes to end after a signal, seconds.
        restarts: shall what dies be started again?
    """

    def __init__(self, plan: Plan, options: Options, *, stop_s: float, restarts: bool) -> None:
        self._plan = plan
        self._options = options
        self._stop_s = stop_s
        self._restarts = restarts
        self._code = 0
        self._is_ready = False

    async def run(self) -> int:
        """Until a signal, or until nothing is left to supervise; the exit code."""
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        names = [SUPERVISOR, *(program.name for program in self._plan.programs)]
        self._screen = Screen(names, coloured=_wants_colours(), on_end=lambda: self._unread(loop))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)
        }
        logs = self._options.directory / LOGS
        children = [self._child(program, logs, environment) for program in self._plan.programs]
        self._nats, self._nodes = children[: len(self._plan.nats)], children[len(self._plan.nats) :]
        self._given_up: set[Child] = set()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        self._introduce()
        try:
            await self._supervise()
        finally:
            self._screen.close()
        return self._code

    def _child(self, program: Program, logs: Path, environment: dict[str, str]) -> Child:
        return Child(
            program,
            logs / f"{program.name}.log",
            environment,
            show=self._screen.show,
            tell=self._tell,
            gave_up=self._on_give_up,
            restarts=self._restarts,
        )

    async def _supervise(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks: dict[Child, asyncio.Task[None]] = {}
            try:
                began = time.monotonic()
                for children in (self._nats, self._nodes):
                    tasks |= {child: group.create_task(child.keep()) for child in children}
                    await self._wait_healthy(children)
                if not self._stop.is_set():
                    self._is_ready = True
                    self._greet(time.monotonic() - began)
                await self._stop.wait()
            finally:
                await self._end(self._nodes, tasks, self._stop_s)
                await self._end(self._nats, tasks, NATS_STOP_S)

    async def _wait_healthy(self, children: Sequence[Child]) -> None:
        """Return when all work, or when the cluster stops."""
        began = reminded = time.monotonic()
        for child in children:
            while not self._stop.is_set() and not await child.is_healthy():
                now = time.monotonic()
                if now - began > READY_S:
                    self._fail(f"{child.name} does not work after {READY_S:g} s")
                elif now - reminded > REMINDER_S:
                    reminded = now
                    self._tell(f"{child.name} does not work yet")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), POLL_S)

    async def _end(
        self, children: Sequence[Child], tasks: dict[Child, asyncio.Task[None]], timeout_s: float
    ) -> None:
        """SIGTERM for all at once, and SIGKILL for those that are too slow."""
        running = [tasks[child] for child in children if child in tasks]
        if not running:
            return
        for child in children:
            child.stop()
        _, late = await asyncio.wait(running, timeout=timeout_s)
        if not late:
            return
        self._code = 1
        for child in children:
            if tasks[child] in late:
                self._tell(f"{child.name} does not end within {timeout_s:g} s, and is killed")
                child.kill()
        await asyncio.wait(late, timeout=KILL_S)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for child in (*self._nodes, *self._nats):
                child.kill()
            self._tell("all is killed")
            self._screen.close()
            os._exit(1)
        self._tell("stopping, the nodes first; once more kills all at once")
        self._stop.set()

    def _unread(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nobody reads the output any more."""
        self._code = 1
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(self._stop.set)

    def _on_give_up(self, child: Child) -> None:
        self._given_up.add(child)
        if not self._is_ready:
            self._fail(f"{child.name} cannot be started")
        elif self._given_up.issuperset(self._nodes):
            self._fail("no node is left")
        elif self._given_up.issuperset(self._nats):
            self._fail("no NATS is left")

    def _fail(self, reason: str) -> None:
        self._code = 1
        if not self._stop.is_set():
            self._tell(f"{reason}; stopping")
            self._stop.set()

    def _tell(self, message: str) -> None:
        self._screen.show(SUPERVISOR, message)

    def _introduce(self) -> None:
        """The table of all programs."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("name", "URL", "data", "log"):
            table.add_column(name, no_wrap=True)
        logs = self._options.directory / LOGS
        for program in self._plan.programs:
            log = str(logs / f"{program.name}.log")
            table.add_row(program.name, program.url, str(program.data), log)
        text = StringIO()
        Console(file=text, force_terminal=_wants_colours(), width=1_000, soft_wrap=True).print(
            table
        )
        for line in text.getvalue().splitlines():
            self._screen.show_plain(line.rstrip())
        self._screen.show_plain("")

    def _greet(self, seconds: float) -> None:
        """Say that all works, and what to try."""
        options, first = self._options, self._plan.nodes[0].url
        synced = "before it acknowledges" if options.sync == "always" else "every two minutes"
        count = "1 node" if options.nodes == 1 else f"{options.nodes} nodes"
        self._tell(
            f"ready after {seconds:.1f} s: the ring {options.ring}, {count};"
            f" NATS syncs to disk {synced}"
        )
        victim = self._nodes[-1]
        for line in (
            "try in another terminal:",
            f"  skyring ring --watch --url {first}",
            "  skyring listen",
            f"  curl -i {first}/timer -d '{EXAMPLE}'",
            f"  skyring timer list --url {self._plan.nodes[-1].url}",
            f"  kill -9 {victim.pid}   (the others fire its timers, and it is started again)",
            f"Ctrl-C stops all of it; the timers stay in {options.directory}",
        ):
            self._tell(line)


def _wants_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
