"""Transports of one's own, in a real process: docs/transports.md, the example, what goes wrong."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from skyring.bench.process import ServerProcess
from skyring.settings import DeliverySettings, TransportSettings
from skyring.transports.registry import load_transports
from tests.acceptance.test_docs import ROOT
from tests.documents import blocks, commands, curl, shell

PAGE = ROOT / "docs" / "transports.md"
EXAMPLE = ROOT / "examples" / "journal.py"
WAIT_S = 60
SKYRING = f"{shlex.quote(sys.executable)} -m skyring"
ENTRY: dict[str, Any] = {"transport": "journal", "method": "append", "uri": "today.jsonl"}


def timer(**callback: Any) -> dict[str, Any]:
    return {"timeout": 1, "data": "a\nb", "callback": ENTRY | callback}


async def logged(server: ServerProcess, text: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while text not in server.log:
            await asyncio.sleep(0.01)


async def entries(file: Path) -> list[dict[str, Any]]:
    async with asyncio.timeout(WAIT_S):
        while not file.exists() or not file.read_bytes().endswith(b"\n"):
            await asyncio.sleep(0.01)
    return [json.loads(line) for line in file.read_text().splitlines()]


async def run(arguments: str, **environment: str) -> tuple[int, str, str]:
    return await shell(f"{SKYRING} {arguments}", **environment)


# docs/transports.md


async def test_the_example_of_the_page(tmp_path: Path) -> None:
    source, *_ = blocks(PAGE, "python")
    (tmp_path / "fizzbuzz.py").write_text(source)
    (block,) = (block for block in blocks(PAGE, "sh") if "fizzbuzz" in block)
    start, create = commands(block)
    assert start == "skyring run -t ./fizzbuzz.py"
    async with ServerProcess(tmp_path, arguments=["-t", f"{tmp_path}/fizzbuzz.py"]) as server:
        status, _ = await curl(create, f"127.0.0.1:{server.port}", "nobody")
        assert status == 201
        await logged(server, "FizzBuzz\n")
        assert "Traceback" not in server.log


async def test_the_recorder_of_the_page() -> None:
    (source,) = (block for block in blocks(PAGE, "python") if "Recorder" in block)
    inside: dict[str, Any] = {}
    exec(source, inside)
    await inside["test_a_reminder_is_sent"]()


async def test_the_listing_of_the_page() -> None:
    (block,) = blocks(PAGE, "console")
    command, _, shown = block.partition("\n")
    assert command.startswith("$ skyring transports ")
    code, out, err = await run(command.removeprefix("$ skyring "))
    assert (code, err) == (0, "")
    assert out.partition("\n\n")[0].strip() == shown.strip()


def test_the_page_names_every_plug_in() -> None:
    text = PAGE.read_text()
    plug_ins = sorted(path.parent.name for path in (ROOT / "transports").glob("*/pyproject.toml"))
    assert len(plug_ins) >= 5
    for name in plug_ins:
        assert f"| [`{name}`](../transports/{name}/README.md) |" in text


# The example


async def test_the_example(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    arguments = ["-t", str(EXAMPLE), f"--transport:journal:directory={journal}"]
    async with (
        ServerProcess(tmp_path, arguments=arguments) as server,
        httpx.AsyncClient(base_url=server.url) as api,
    ):
        created = await api.post("/timer", json=timer(headers={"x": "y"}))
        assert created.status_code == 201
        (entry,) = await entries(journal / "today.jsonl")
        assert entry["id"] == created.headers["location"].removeprefix("/timer/")
        assert (entry["data"], entry["headers"], entry["attempt"]) == ("a\nb", {"x": "y"}, 1)
        for wrong in ({"uri": "../out"}, {"uri": "/etc/x"}, {"uri": "."}, {"method": "post"}):
            refused = await api.post("/timer", json=timer(**wrong))
            assert refused.status_code == 400
            assert next(iter(wrong)) in refused.headers["x-skyring-reason"]
        (journal / "stuck").mkdir()
        stuck = await api.post("/timer", json=timer(uri="stuck", retry={"attempts": 1}))
        async with asyncio.timeout(WAIT_S):
            while not (letters := (await api.get("/dead-letters")).json()["dead_letters"]):
                await asyncio.sleep(0.01)
        (letter,) = letters
        assert letter["id"] == stuck.headers["location"].removeprefix("/timer/")
        assert letter["last_error"].startswith("IsADirectoryError: ")
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == ["today.jsonl"]


@pytest.mark.parametrize("place", ["options", "environment", "file"])
async def test_it_can_be_loaded_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    directory = tmp_path / place
    arguments = []
    if place == "options":
        arguments = ["--transport", f"{EXAMPLE}:Journal", "--transport:journal:directory"]
        arguments.append(str(directory))
    elif place == "environment":
        monkeypatch.setenv("SKYRING_TRANSPORT", str(EXAMPLE))
        monkeypatch.setenv("SKYRING_TRANSPORT__JOURNAL__DIRECTORY", str(directory))
    else:
        file = tmp_path / "skyring.toml"
        file.write_text(
            f'[transport]\nload = ["{EXAMPLE}"]\n[transport.journal]\ndirectory = "{directory}"\n'
        )
        arguments = ["--config", str(file)]
    async with (
        ServerProcess(tmp_path, arguments=arguments) as server,
        httpx.AsyncClient(base_url=server.url) as api,
    ):
        assert (await api.post("/timer", json=timer())).status_code == 201
        assert len(await entries(directory / "today.jsonl")) == 1


async def test_a_class_of_a_module_where_the_command_is_given(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(EXAMPLE.read_text())
    code, out, err = await run_in(tmp_path, "transports -t mine:Journal")
    assert (code, err) == (0, "")
    assert "journal  mine:Journal\n" in out


async def run_in(directory: Path, arguments: str) -> tuple[int, str, str]:
    # The console script, unlike python -m, does not look for modules here by itself.
    script = Path(sys.executable).with_name("skyring")
    return await shell(
        f"cd {shlex.quote(str(directory))} && {shlex.quote(str(script))} {arguments}"
    )


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-t no-such-transport", "no transport 'no-such-transport' is installed (installed: "),
        ("-t ./no-such-file.py", "no-such-file.py is not there"),
        ("-t os:path", "os:path is not a Transport"),
        ("-t JOURNAL -t JOURNAL", "two transports have the name 'journal'"),
        ("-t JOURNAL --transport:journal:colour=red", "unknown option transport.journal.colour"),
        ("--transport:journal:directory=x", "no transport 'journal' is loaded (loaded: http)"),
        ("-t JOURNAL --transport:journal:directory", "--transport:journal:directory needs a value"),
        ("-t DEAF", "has no deliver method"),
    ],
)
@pytest.mark.parametrize("command", ["run", "transports"])
async def test_what_cannot_be_loaded_is_one_line(
    tmp_path: Path, command: str, arguments: str, said: str
) -> None:
    deaf = tmp_path / "deaf.py"
    deaf.write_text("from skyring.transports import Transport\nclass Deaf(Transport): pass\n")
    arguments = arguments.replace("JOURNAL", str(EXAMPLE)).replace("DEAF", str(deaf))
    code, out, err = await run(f"{command} {arguments}")
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


async def test_one_that_does_not_open_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    option = f"--transport:journal:directory={tmp_path}/taken"
    data = f"--storage:path {tmp_path}/data"
    code, out, err = await run(f"run -p 0 {data} -t {EXAMPLE} {option}")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "skyring: the transport journal cannot be opened:"
        f" FileExistsError: [Errno 17] File exists: '{tmp_path}/taken'"
    ]


async def test_a_signal_while_one_opens_ends_the_start(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import asyncio\nfrom skyring.transports import Outcome, Transport\n"
        "class Slow(Transport):\n"
        "    async def open(self):\n"
        "        print('opening', flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "    async def deliver(self, callback, payload, info):\n"
        "        return Outcome.delivered()\n"
    )
    server = ServerProcess(tmp_path, arguments=["-t", str(slow), "--log:level", "info"])
    server.launch()
    await logged(server, "opening")
    assert await server.stop() == 0
    assert "stopped before it was ready" in server.log
    assert "Traceback" not in server.log


async def test_a_timer_for_a_transport_that_is_not_loaded(api: httpx.AsyncClient) -> None:
    for timers in (
        await api.post("/timer", json=timer()),
        await api.put("/timer/a", json=timer()),
    ):
        assert timers.status_code == 400
        assert timers.json()["field"] == "callback.transport"
        assert "there are: http" in timers.headers["x-skyring-reason"]
    bulk = await api.post("/timers", json=[timer()])
    assert bulk.json()[0]["status"] == 400
    assert "there are: http" in bulk.text


# The plug-ins


@pytest.mark.parametrize("name", ["tcp", "zmq", "nats", "redis", "amqp"])
def test_a_plug_in_is_installed_and_its_page_names_its_options(name: str) -> None:
    loaded = load_transports(DeliverySettings(), TransportSettings(load=(name,)))[name]
    assert loaded.source.startswith(f"skyring-{name} ")
    text = (ROOT / "transports" / name / "README.md").read_text()
    table = text.partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.M))
    fields = type(loaded.transport).Options.model_fields
    assert rows.keys() == fields.keys()
    for key, shown in rows.items():
        assert fields[key].description, key
        default = fields[key].get_default()
        if isinstance(default, bool):
            default = str(default).lower()
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        assert shown == ("none" if default in (None, "") else f"`{default}`"), key


def test_the_main_package_needs_none_of_them() -> None:
    needed = importlib.metadata.requires("skyring") or []
    names = {re.split(r"[^\w-]", each)[0].lower() for each in needed if "extra ==" not in each}
    assert not names & {"pyzmq", "redis", "aio-pika", "aiormq"}
    assert not {name for name in names if name.startswith("skyring")}
