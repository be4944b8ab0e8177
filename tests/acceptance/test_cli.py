"""The command line as a user has it: real processes only."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from skyring.bench.process import ServerProcess
from skyring.client import Callback, NewTimer, SkyringClient
from skyring.ports import free_port
from skyring.settings import Settings, StorageSettings
from skyring.storage.registry import make_storage
from skyring.timers.record import timer_key, timer_slot

TIMEOUT_S = 60
NOWHERE = "http://127.0.0.1:9/"
SLOTS = Settings().slots


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """Its NDJSON."""
        return [json.loads(line) for line in self.out.splitlines()]


async def skyring(*arguments: str, stdin: str = "", url: str = "") -> Done:
    """Run a command to its end, against ``url`` if it talks to a server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "skyring",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"SKYRING_URL": url},
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    assert b"Traceback" not in err
    return Done(process.returncode, out.decode(), err.decode())


class Listener:
    """``skyring listen``, and the lines that it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.url = ""

    async def line(self, error: bool = False) -> str:
        stream = self._process.stderr if error else self._process.stdout
        assert stream is not None
        async with asyncio.timeout(TIMEOUT_S):
            return (await stream.readline()).decode().rstrip("\n")

    async def greeting(self, error: bool = False) -> None:
        """Wait until it listens, and take its address from what it says."""
        first, second = await self.line(error), await self.line(error)
        self.url = first.rpartition(" ")[2]
        assert f"--to {self.url} " in second

    async def end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        async with asyncio.timeout(TIMEOUT_S):
            return await self._process.wait()


@asynccontextmanager
async def listening(*arguments: str) -> AsyncIterator[Listener]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "skyring", "listen", "-p", "0", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        listener = Listener(process)
        await listener.greeting(error="--json" in arguments)
        yield listener
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all tests that leave each other's timers alone."""
    server = ServerProcess(tmp_path_factory.mktemp("cli"))
    asyncio.run(server.start())
    yield server.url
    assert asyncio.run(server.stop()) == 0
    assert "Traceback" not in server.log


async def create(url: str, *arguments: str) -> str:
    """Create a timer; standard output is its id and nothing else."""
    done = await skyring("timer", "create", *arguments, url=url)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    return done.out.strip()


# The loop


async def test_the_whole_loop(url: str) -> None:
    async with listening() as listener:
        created = await create(url, "--in", "10ms", "--data", "hello", "--to", listener.url)
        _, method, path, shown_id, attempt, late, content = (await listener.line()).split("  ")
        assert (method, path, shown_id) == ("POST", "/", created)
        assert (attempt, content) == ("attempt 1", "hello")
        assert late.startswith("+")
        assert late.endswith(" ms")
        assert await listener.end(signal.SIGINT) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_listener_can_be_ended_as_soon_as_it_has_spoken(number: signal.Signals) -> None:
    async with listening() as listener:
        assert await listener.end(number) == 0


async def test_retries_are_seen(url: str) -> None:
    async with listening("--status", "500", "--json") as listener:
        options = ["--attempts", "2", "--backoff-ms", "1", "--header", "X-Mine: 1"]
        data = '{"n": 123456789012345678901234567890}'
        created = await create(url, "--in", "1ms", "--json", data, "--to", listener.url, *options)
        for attempt in (1, 2):
            seen = json.loads(await listener.line())
            assert (seen["id"], seen["attempt"]) == (created, attempt)
            assert (seen["data"], seen["content_type"]) == (data, "application/json")
            assert seen["late_ms"] >= 0
        assert await listener.end(signal.SIGTERM) == 0


async def test_a_dead_letter_is_listed_retried_and_deleted(url: str) -> None:
    async with listening("--status", "500") as listener:
        id = await create(url, "--in", "1ms", "--attempts", "1", "--to", listener.url)
        await listener.line()
        dead = await dead_letter(url, id)
        assert (dead["state"], dead["attempts"]) == ("dead", 1)
        table = await skyring("dead-letters", "list", url=url)
        assert id in table.out
        assert dead["last_error"] in table.out
        assert (await skyring("dead-letters", "retry", id, url=url)).code == 0
        assert id in await listener.line()
        await dead_letter(url, id)
        assert (await skyring("dead-letters", "delete", id, url=url)).code == 0
        gone = await skyring("dead-letters", "delete", id, url=url)
        assert gone.code == 1
        assert id in gone.err


async def dead_letter(url: str, id: str) -> dict[str, Any]:
    """The dead letter, which comes to be a moment after its last attempt was answered."""
    async with asyncio.timeout(TIMEOUT_S), SkyringClient(url) as sky:
        while (await sky.get(id)).state != "dead":
            await asyncio.sleep(0.01)
    done = await skyring("dead-letters", "list", "--json", url=url)
    return next(found for found in done.objects if found["id"] == id)


# Timers


async def test_a_timer_s_life(url: str) -> None:
    options = ["--at", "2100-01-01T00:00:00Z", "--data", "@-", "--header", "X-A: b"]
    done = await skyring(
        *("timer", "create", "--id", "life", "--to", NOWHERE, *options), stdin="ä\n", url=url
    )
    assert (done.code, done.out) == (0, "life\n")
    before = json.loads((await skyring("timer", "get", "life", url=url)).out)
    assert before["data"] == "ä\n"
    assert before["due"] == 4_102_444_800_000
    done = await skyring("timer", "update", "life", "--attempts", "3", url=url)
    assert (done.code, done.out, done.err) == (0, "", "")
    after = json.loads((await skyring("timer", "get", "life", url=url)).out)
    assert after["callback"] == before["callback"] | {"retry": {"attempts": 3}}
    assert [after[key] for key in ("due", "data")] == [before[key] for key in ("due", "data")]
    assert (await skyring("timer", "update", "life", "--in", "40d", url=url)).code == 0
    moved = json.loads((await skyring("timer", "get", "life", url=url)).out)
    assert moved["created"] < moved["due"] - 39 * 86_400_000 < before["due"]
    assert (moved["data"], moved["callback"]) == (after["data"], after["callback"])
    assert (await skyring("timer", "cancel", "life", url=url)).code == 0
    again = await skyring("timer", "cancel", "life", url=url)
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith("skyring: ")
    assert "life" in again.err


async def test_the_same_id_again(url: str) -> None:
    same = ["--at", "2100-01-01T00:00:00Z", "--to", NOWHERE, "--id", "same"]
    assert await create(url, *same) == "same"
    assert await create(url, *same) == "same"
    other = await skyring("timer", "create", *same, "--data", "x", url=url)
    assert (other.code, other.out) == (1, "")
    assert other.err.count("\n") == 1
    await skyring("timer", "cancel", "same", url=url)


async def test_list(url: str) -> None:
    ids = [await create(url, "--in", f"{hour}h", "--to", NOWHERE) for hour in (3, 1, 2)]
    done = await skyring("timer", "list", "--json", url=url)
    listed = [timer["id"] for timer in done.objects]
    assert [id for id in listed if id in ids] == [ids[1], ids[2], ids[0]]
    table = await skyring("timer", "list", url=url)
    assert all(id in table.out for id in ids)
    first = await skyring("timer", "list", "--json", "--limit", "1", url=url)
    assert [timer["id"] for timer in first.objects] == listed[:1]
    assert "more than 1" in first.err
    for id in ids:
        await skyring("timer", "cancel", id, url=url)


async def test_a_terminal_gets_colours(url: str) -> None:
    id = await create(url, "--in", "1h", "--to", NOWHERE, "--data", "a\x9b31mb")
    leader, follower = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "skyring", "timer", "get", id, "--url", url),
            stdout=follower,
            env=os.environ | {"TERM": "xterm-256color"},
        )
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.wait() == 0
        shown = os.read(leader, 65_536).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert "\x1b[" in shown
    assert "\x9b" not in shown
    await skyring("timer", "cancel", id, url=url)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--to", NOWHERE], 2),
        (["--in", "5s"], 2),
        (["--in", "5", "--to", NOWHERE], 2),
        (["--in", "5s", "--at", "1", "--to", NOWHERE], 2),
        (["--in", "5s", "--to", NOWHERE, "--json", "{"], 2),
        (["--in", "5s", "--to", NOWHERE, "--header", "x"], 2),
        (["--in", "5s", "--to", NOWHERE, "--attempts", "x"], 2),
        (["--in", "5s", "--to", NOWHERE, "--url", "here"], 2),
        (["--in", "5s", "--to", "nowhere"], 1),
        (["--at", "tomorrow", "--to", NOWHERE], 1),
        (["--in", "5s", "--to", NOWHERE, "--attempts", "0"], 1),
        (["--in", "5s", "--to", NOWHERE, "--header", "Host: x"], 1),
        (["--in", "5s", "--to", NOWHERE, "--id", "a b"], 1),
    ],
)
async def test_timers_that_cannot_be(url: str, arguments: list[str], code: int) -> None:
    done = await skyring("timer", "create", *arguments, url=url)
    assert (done.code, done.out) == (code, "")
    assert done.err


# Export and import


async def fill(url: str) -> None:
    """More than a page of timers, of every kind."""
    timers = [
        NewTimer(
            callback=Callback("http", "put", NOWHERE, {"k": f"{number}"}, timeout_ms=number + 1),
            at=4_000_000_000_000 + number % 7,
            data={"n": number, "text": "ä\n"} if number % 2 else f"text {number}\n",
            id=f"timer-{number}",
        )
        for number in range(2_345)
    ]
    async with SkyringClient(url) as sky:
        assert {result.status for result in await sky.create_many(timers)} == {201}


async def listed(url: str) -> list[Any]:
    """Everything about the timers except when they were created."""
    async with SkyringClient(url) as sky:
        found = [
            (timer.id, timer.due_ms, timer.next_ms, timer.data, timer.callback)
            async for timer in sky.list()
        ]
    return sorted(found, key=lambda timer: timer[0])


async def test_from_server_to_server(server: ServerProcess, tmp_path: Path) -> None:
    await fill(server.url)
    file = tmp_path / "timers.ndjson"
    done = await skyring("export", "-o", str(file), url=server.url)
    assert (done.code, done.out) == (0, "")
    assert "2345" in done.err
    piped = await skyring("export", url=server.url)
    assert (piped.code, piped.err) == (0, "")
    assert piped.out == file.read_text(encoding="utf-8")
    async with ServerProcess(tmp_path / "other") as other:
        done = await skyring("import", str(file), "--batch", "1000", url=other.url)
        assert (done.code, done.err) == (0, "")
        assert done.out == "2345 created, 0 existing, 0 refused\n"
        assert await listed(other.url) == await listed(server.url)
        done = await skyring("import", "-", stdin=piped.out, url=other.url)
        assert (done.code, done.out) == (0, "0 created, 2345 existing, 0 refused\n")
        lines = piped.out.splitlines()
        lines[0] = lines[0].replace('"at":4', '"at":5')
        lines[1] = lines[1][:-20]
        done = await skyring("import", "-", stdin="\n".join(lines), url=other.url)
        assert (done.code, done.out) == (1, "0 created, 2343 existing, 2 refused\n")
        broken, taken = done.err.splitlines()
        assert broken.startswith("skyring: line 2: ")
        assert taken.startswith("skyring: line 1: 409 ")


async def test_a_record_that_cannot_be_read_is_left_out_of_an_export(tmp_path: Path) -> None:
    """As a later version of Skyring, or a disk, may leave it: one of them, and two good ones."""
    server = ServerProcess(tmp_path / "server")
    await server.start()
    for id in ("good", "odd", "fine"):
        await create(server.url, "--in", "1h", "--to", NOWHERE, "--id", id)
    await server.stop()
    storage = make_storage(StorageSettings(path=server.storage_path), SLOTS)
    await storage.open()
    slot = timer_slot("odd", SLOTS)
    await storage.acquire([slot])
    await storage.commit(slot, [(timer_key("odd"), b"\x09nonsense")])
    await storage.close()
    await server.start()
    try:
        file = tmp_path / "timers.ndjson"
        done = await skyring("export", "-o", str(file), url=server.url)
        assert (done.code, done.out) == (1, "")
        assert done.err.splitlines() == [
            "skyring: odd cannot be read, and is left out: version 09",
            f"skyring: 2 exported to {file}, 1 left out",
        ]
        lines = file.read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["id"] for line in lines} == {"good", "fine"}
        listed = await skyring("timer", "list", url=server.url)
        assert listed.code == 0
        assert "unreadable" in listed.out
    finally:
        await server.stop()


async def test_dead_letters_move_and_are_delivered_again(
    server: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "dead-letters.ndjson"
    async with listening("--status", "500") as refusing:
        where = ("--attempts", "1", "--to", refusing.url)
        id = await create(server.url, "--in", "1ms", "--data", "x", *where)
        await refusing.line()
        await dead_letter(server.url, id)
        done = await skyring("export", "--dead-letters", "-o", str(file), url=server.url)
        assert (done.code, done.out) == (0, "")
        async with ServerProcess(tmp_path / "other") as other:
            done = await skyring("import", str(file), url=other.url)
            assert (done.code, done.out) == (0, "1 created, 0 existing, 0 refused\n")
            assert id in await refusing.line()
            assert (await dead_letter(other.url, id))["attempts"] == 1


async def test_an_interrupted_export_leaves_nothing_behind(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()  # until the other side is gone
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, asyncio.timeout(TIMEOUT_S):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "skyring", "export", "--url", address),
            *("-o", str(tmp_path / "timers.ndjson")),
            stderr=asyncio.subprocess.PIPE,
        )
        await asked.wait()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err == b""
    assert os.listdir(tmp_path) == []


# Errors of use and of circumstance


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["nonsense"],
        ["run", "--storage:paht", "x"],
        ["run", "--port", "70000"],
        ["timer", "get"],
        ["listen", "-p", "x"],
        ["import"],
        ["import", "no-such-file"],
    ],
)
async def test_wrong_use(arguments: list[str]) -> None:
    done = await skyring(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err


async def test_help_and_version() -> None:
    for arguments in ([], ["timer"], ["timer", "create"], ["run"], ["listen"], ["bench"]):
        done = await skyring(*arguments, "--help")
        assert (done.code, done.err) == (0, "")
        assert "Usage: skyring" in done.out
    done = await skyring("--version")
    assert done.code == 0
    assert done.out.startswith("skyring ")


@pytest.mark.parametrize("command", ["run", "listen"])
async def test_a_port_in_use(command: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        more = ["--storage:path", str(tmp_path), "--log:level", "error"]
        done = await skyring(command, "-p", port, *(more if command == "run" else []))
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert port in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["timer", "get", "a"],
        ["timer", "list"],
        ["timer", "create", "--in", "5s", "--to", NOWHERE],
        ["dead-letters", "list"],
        ["export"],
        ["export", "-o", "export.ndjson"],
        ["import", "-"],
    ],
)
async def test_a_server_that_is_not_there(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.chdir(tmp_path)
    port = free_port()
    done = await skyring(*arguments, url=f"http://127.0.0.1:{port}", stdin="{}\n")
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert f"http://127.0.0.1:{port}" in done.err
    assert f"skyring run -p {port}" in done.err
    assert os.listdir(tmp_path) == []


async def test_the_top_level_loads_no_more_than_it_needs() -> None:
    heavy = ["fastapi", "httpx", "msgspec", "plyvel", "pydantic", "pyreqwest", "uvicorn"]
    program = f"import sys, skyring.cli; print([m for m in {heavy} if m in sys.modules])"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"[]\n"
