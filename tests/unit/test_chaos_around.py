"""What the chaos suite does around its scenarios: where it runs, its clients, what it excuses."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from skyring.bench.chaos import load, sandbox
from skyring.bench.chaos.faults import Scene
from skyring.bench.chaos.receiver import ChaosReceiver
from skyring.bench.chaos.scenarios import Limits
from skyring.bench.chaos.world import World
from skyring.bench.process import ServerProcess
from skyring.testing.proof.checker import check
from skyring.testing.proof.history import Delivery, Fault, History, Operation


def test_whoever_is_not_root_is_told_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sandbox, "SBIN", ())
    said = sandbox.missing_requirement()
    assert said is not None
    assert "run it as root" in said
    assert "apt install" not in said


def test_tools_are_found_that_are_not_in_the_path_of_all_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sandbox, "SBIN", (str(tmp_path / "sbin"),))
    said = sandbox.missing_requirement()
    assert said is not None
    assert "apt install" in said
    (tmp_path / "sbin").mkdir()
    for tool in sandbox.TOOLS:
        program = tmp_path / "sbin" / tool
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    assert sandbox.missing_requirement() is None
    host = sandbox.Host("n1", "10.77.0.10")
    assert host.command(["true"])[0] == str(tmp_path / "sbin" / "nsenter")


def scene(tmp_path: Path) -> Scene:
    """One whose processes are not started."""
    network = sandbox.Network.__new__(sandbox.Network)
    return Scene(
        World(tmp_path, network),
        ChaosReceiver(tmp_path, "127.0.0.1"),
        History(),
        random.Random(1),
        tmp_path / "eio",
    )


def test_what_explains_no_duplicate_is_told_all_the_same(tmp_path: Path) -> None:
    acted = scene(tmp_path)
    with acted.fault("SIGTERM", "n1", explains=False):
        pass
    with acted.fault("kill -9", "n2"):
        pass
    assert [fault.kind for fault in acted.history.faults] == ["kill -9"]
    assert [fault.kind for fault in acted.marks] == ["SIGTERM", "kill -9"]
    assert acted.injected == {"SIGTERM": 1, "kill -9": 1}
    assert "SIGTERM n1" in acted.history.notes[0][1]


def test_a_fault_explains_what_was_delivered_within_a_lease_and_a_request_after_it() -> None:
    for first_s, rules in ((17.9, []), (18.2, ["duplicate"])):
        made = Operation("create", "a", 1.0, "aaa", 500, "n1")
        made.ended("done", 1.1)
        twice = [
            Delivery("a", "aaa", began_s, 1_000, 500, "n1", taken=True, told=True)
            for began_s in (first_s, 30.0)
        ]
        history = History(operations=[made], deliveries=twice)
        history.faults = [Fault("kill -9 of all NATS", 5.0, 10.0)]
        assert [each.rule for each in check(history, Limits().allowance())] == rules


@asynccontextmanager
async def answering(statuses: list[bytes], asked: list[bytes]) -> AsyncIterator[tuple[str, int]]:
    """A server that gives these answers in turn; b"" closes the connection in place of one."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        with suppress(asyncio.IncompleteReadError, OSError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append(head.split(b"\r\n")[0])
                status = statuses.pop(0)
                if not status:
                    break
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n" % status)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[:2]
        await asyncio.gather(*serving)


@pytest.mark.parametrize(
    ("statuses", "answers"),
    [
        ([b"", b"503 Unavailable", b"202 Accepted"], ["unknown", "refused", "done"]),
        ([b"", b"409 Conflict", b"404 Not Found"], ["unknown", "conflict", "missing"]),
        ([b"503 Unavailable"], ["refused"]),
        ([b""] * 5, ["unknown"] * 5),
    ],
    ids=["done", "missing", "refused", "never"],
)
async def test_a_cancel_without_an_answer_is_repeated_until_there_is_one(
    statuses: list[bytes], answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "CANCELS_MAX", 5)
    monkeypatch.setattr(load, "CANCEL_PAUSE_S", 0.0)
    history, asked = History(), list[bytes]()
    async with answering(statuses, asked) as address:
        server = ServerProcess(Path("unused"))
        server.host, server.port = address
        clients = load.Load({"n1": server}, "", history, load.LoadShape(), "t", 1)
        await clients._cancel(load._Known("a", 0.0))
        for each in clients._nodes.values():
            each.close()
    assert asked == [b"DELETE /timer/a HTTP/1.1"] * len(answers)
    assert [(op.kind, op.id) for op in history.operations] == [("cancel", "a")] * len(answers)
    assert [op.answer for op in history.operations] == answers
