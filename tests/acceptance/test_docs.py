"""The documentation is true: its commands are run, its examples sent, its names looked up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from skyring.bench import cli as bench
from skyring.bench.client import status_or_none
from skyring.bench.process import ServerProcess
from skyring.cli import app
from skyring.commands import run
from skyring.options import setting_options
from skyring.ports import free_port
from skyring.settings import DeliverySettings, TransportSettings
from skyring.timers.request import TimerRequest, decode_request, due_of, payload_of
from skyring.transports.base import Callback, RetrySpec
from skyring.transports.loading import installed
from skyring.transports.registry import load_transports
from tests.acceptance.receiver import CallbackReceiver
from tests.acceptance.test_cli import Listener, listening
from tests.documents import blocks, commands, curl, expected_status, section, shell

ROOT = Path(__file__).parents[2]
README, CLI, HTTP = ROOT / "README.md", ROOT / "docs" / "cli.md", ROOT / "docs" / "http.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONS_OF_OTHERS = {
    "--strict",  # mypy
    *("--no-build", "--no-deps"),  # docker compose
    "--no-same-owner",  # tar
    "--cascade",  # kubectl
    *("--reuse-values", "--set"),  # helm
}
TIMEOUT_S = 60
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def masked(text: str) -> str:
    """Without what is different each time."""
    text = re.sub(UUID, "ID", text)
    text = re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", text)
    return re.sub(r"\+\d+ ms", "+N ms", text)


# The README


README_COMMANDS = [command for block in blocks(README, "sh") for command in commands(block)]
CURL = [command for command in README_COMMANDS if command.startswith("curl ")]


async def test_the_commands_of_the_readme(server: ServerProcess) -> None:
    assert shutil.which("curl"), (
        "the README's commands need curl, which is not installed here: apt-get install curl"
    )
    assert len(CURL) == 7
    (answer,) = (block for block in blocks(README, "") if block.startswith("HTTP/"))
    async with listening() as listener:
        addresses = (f"{server.host}:{server.port}", listener.url.split("/")[2])
        first, *others = CURL
        status, shown = await curl(first, *addresses)
        assert status == 201
        assert set(masked(answer).splitlines()) <= set(masked(shown).splitlines())
        for command in others:
            for expected in [expected_status(command)] + [200] * ("-H" in command):
                status, shown = await curl(command, *addresses)
                assert status == expected, (command, shown)
        (documented,) = (block for block in blocks(CLI, "text") if "hello" in block)
        assert masked(await listener.line()) == masked(documented.strip())


OTHER_COMMANDS = {
    "skyring listen -p 8989",
    "pip install '.[cluster]'",
    "skyring cluster --nodes 3",  # tests/acceptance/test_cluster_command.py
    "skyring ring --watch",
    "skyring run --nats nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222 --ring:replicas 3",
}
"""Which the README gives, and other tests run."""


def test_the_other_commands_of_the_readme_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    rest = [shlex.split(command, comments=True) for command in README_COMMANDS]
    rest = [words for words in rest if words[0] != "curl"]
    assert ["make", "run"] in rest
    assert ["make", "test"] in rest
    for words in rest:
        if words[0] == "make":
            assert words[1] in targets
        else:
            assert shlex.join(words).removeprefix(".venv/bin/") in OTHER_COMMANDS


async def test_the_python_of_the_readme(receiver: CallbackReceiver, tmp_path: Path) -> None:
    (source,) = blocks(README, "python")
    port = free_port()
    for old, new in (
        ("listen(3001)", f"listen({port})"),
        ("127.0.0.1:8989", f"127.0.0.1:{receiver.port}"),
        ("timeout=3000", "timeout=500"),
    ):
        assert old in source
        source = source.replace(old, new)
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", source, cwd=tmp_path)
    try:
        (callback,) = await receiver.wait(1)
        assert callback.body == b"hello"
        assert await status_or_none("127.0.0.1", port, "/health/ready", timeout_s=30) == 200
        assert await asyncio.to_thread((tmp_path / "data").is_dir)
    finally:
        program.terminate()
        await program.wait()


# docs/cli.md


@pytest.fixture
def skyring_command(tmp_path: Path) -> str:
    """A PATH on which ``skyring`` is this one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "skyring"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m skyring "$@"\n')
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def console() -> list[tuple[str, str]]:
    """The commands of the page, and what stands below each."""
    found = []
    for block in blocks(CLI, "console"):
        for part in block.removeprefix("$ ").split("\n$ "):
            command, _, output = part.partition("\n")
            found.append((command, output.strip()))
    return found


async def test_the_commands_of_the_cli_page(
    server: ServerProcess, tmp_path: Path, skyring_command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("letter.txt", "Dear all")
    Path("examples").symlink_to(ROOT / "examples")
    seen = set()
    async with (
        ServerProcess(tmp_path / "new") as new,
        listening() as listener,
        httpx.AsyncClient(base_url=server.url) as api,
    ):
        for command, shown in console():
            program = " ".join(command.split()[1:3])
            seen.add(program)
            if program.startswith(("run", "listen", "cluster", "ring")):
                continue  # they have tests of their own
            command = command.replace("http://127.0.0.1:8989/", listener.url)
            command = command.replace("http://old:3000", server.url)
            command = command.replace("http://new:3000", new.url)
            if program.startswith("dead-letters"):
                await make_dead(api, "order-7")
            code, out, err = await shell(command, PATH=skyring_command, SKYRING_URL=server.url)
            assert code == 0, (command, err)
            assert "Traceback" not in err
            if shown and "created" in shown:
                assert re.sub(r"\d+", "N", out.strip()) == re.sub(r"\d+", "N", shown)
            elif shown:
                assert masked(out.strip()) == masked(shown)
    assert {"timer create", "dead-letters delete", "export --url", "import --url"} <= seen


def write(name: str, content: str) -> None:
    Path(name).write_text(content, encoding="utf-8")


async def make_dead(api: httpx.AsyncClient, timer_id: str) -> None:
    callback = {"transport": "http", "method": "post", "uri": "http://127.0.0.1:9/"}
    body = {"timeout": 1, "callback": {**callback, "retry": {"attempts": 1}}}
    async with asyncio.timeout(TIMEOUT_S):
        while (await api.get(f"/timer/{timer_id}")).json().get("state") != "dead":
            await api.post("/timer", json=body, headers={"x-timer-id": timer_id})
            await asyncio.sleep(0.01)


async def test_the_commands_that_stay_in_the_foreground(
    tmp_path: Path, skyring_command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    foreground = [shown for shown in console() if shown[0].split()[1] in ("run", "listen")]
    foreground = [shown for shown in foreground if not re.search(" (--nats|-s) ", shown[0])]
    assert len(foreground) >= 5
    for number, (command, shown) in enumerate(foreground):
        port = free_port()
        write("skyring.toml", f"port = {port}\n[storage]\npath = 'other'\n")
        command = re.sub(r" -p \d+", "", command).replace("/var", str(tmp_path / str(number)))
        if "--config" not in command:
            command += f" -p {port}"
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f"exec {command}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"PATH": skyring_command},
        )
        try:
            if " run" in command:
                async with asyncio.timeout(TIMEOUT_S):
                    while await status_or_none("127.0.0.1", port, "/ping", timeout_s=5) != 200:
                        assert process.returncode is None, command
                        await asyncio.sleep(0.01)
            else:
                said = await Listener(process).line()
                assert f"http://127.0.0.1:{port}/" in said
                if shown:
                    assert said.replace(str(port), "8989") == shown
            process.terminate()
            async with asyncio.timeout(TIMEOUT_S):
                assert await process.wait() == 0, command
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


# docs/http.md


def json_block(containing: str) -> dict[str, Any]:
    (found,) = (block for block in blocks(HTTP, "json") if containing in block)
    value = json.loads(found)
    assert isinstance(value, dict)
    return value


async def test_the_timer_of_the_page(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    timer = json_block('"callback"')
    request = decode_request(json.dumps(timer).encode())
    assert due_of(request, 0) == (3_000, 3_000)
    assert payload_of(request)[0] == "json"
    load_transports(DeliverySettings(), TransportSettings())["http"].transport.check(
        request.callback
    )
    # The real one leads out into the world.
    timer["callback"]["uri"] = f"http://127.0.0.1:{receiver.port}/hooks/orders"
    created = await api.post("/timer", json=timer | {"timeout": 1})
    assert created.status_code == 201
    (callback,) = await receiver.wait(1)
    assert (callback.path, json.loads(callback.body)) == ("/hooks/orders", timer["data"])
    assert timer["callback"]["headers"].items() <= callback.headers.items()
    table = section(HTTP, "The callback").partition("\n\n")[2]
    for name in re.findall(r"^\| `([\w-]+)` \|", table, re.M):
        assert name in callback.headers, name


async def test_the_problem_document_of_the_page(api: httpx.AsyncClient) -> None:
    shown = json_block('"title"')
    body = {"timeout": 1, "callback": {"transport": "http", "method": "post"}}
    answer = await api.post("/timer", json=body)
    assert answer.status_code == shown["status"]
    assert answer.json() == shown
    assert answer.headers["x-skyring-reason"] == shown["detail"]


def test_every_field_of_a_timer_is_explained() -> None:
    explained = section(HTTP, "A timer")
    for kind, prefix in ((TimerRequest, ""), (Callback, "callback."), (RetrySpec, "")):
        for name in kind.__struct_fields__:
            quoted = f"`{prefix}{name}`" if prefix else f'"{name}"|`{name}`'
            assert re.search(quoted, explained), name


async def test_every_route_is_in_the_table_and_the_other_way_round(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    routes = {
        (method.upper(), path.replace("{timer_id}", "{id}")): {
            parameter["name"]
            for parameter in details.get("parameters", ())
            if parameter["in"] == "query"
        }
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    }
    table: dict[tuple[str, str], set[str]] = {}
    answers: dict[tuple[str, str], set[str]] = {}
    for request, answer in re.findall(r"^\| (`.*?) \| (.*) \|$", section(HTTP, "Requests"), re.M):
        method = ""
        for span in re.findall(r"`([^`]+)`", request):
            first, _, second = span.rpartition(" ")
            method = first or method
            path, _, query = second.partition("?")
            table[method, path] = set(query.split("&")) - {""}
            answers[method, path] = set(re.findall(r"`(\d{3})`", answer))
    assert table == routes
    for (method, path), statuses in answers.items():
        described = document["paths"][path.replace("{id}", "{timer_id}")][method.lower()]
        assert statuses <= described["responses"].keys(), (method, path)


async def test_no_answer_is_described_that_is_never_given(api: httpx.AsyncClient) -> None:
    """FastAPI's own 422 is a 400 here."""
    document = (await api.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, details in methods.items():
            assert "422" not in details["responses"], (method, path)
    assert "HTTPValidationError" not in document["components"]["schemas"]


# All pages


def known_options() -> set[str]:
    def of(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        for inner in getattr(command, "commands", {}).values():
            yield from of(inner)

    options = {"--help", *transport_options()}
    for part in (app, run.build(), bench.app):
        options |= set(of(typer.main.get_command(part)))
    return options | {name for item in setting_options() for name in (item.option, item.alias)}


def transport_options() -> Iterator[str]:
    """Of the example and the plug-ins."""
    specs = [*installed(), str(ROOT / "examples" / "journal.py")]
    for name, loaded in load_transports(DeliverySettings(), TransportSettings(), specs).items():
        for key in type(loaded.transport).Options.model_fields:
            yield f"--transport:{name}:{key.replace('_', '-')}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page != README:  # whose other options are those of curl
        named = set(re.findall(r"(?<=[ `(])--[a-z][a-z:-]*[a-z]", text))
        assert named - known_options() - OPTIONS_OF_OTHERS == set()
    keys = {option.key for option in setting_options()}
    groups = "|".join({option.group for option in setting_options() if option.group})
    assert set(re.findall(rf"`((?:{groups})\.\w+_\w+)`", text)) - keys == set()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
