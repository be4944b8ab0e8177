"""The READMEs of ``deploy/`` are true: their commands are run, and what they name exists."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from skyring.bench.client import status_or_none
from skyring.ports import free_port
from skyring.testing.nats_server import server_binary
from tests.deploy.shipped import CONFIGURATION, DEPLOY, HOST, ShippedNats, run, settled
from tests.deploy.units import read_unit
from tests.documents import blocks, commands

NATS, SYSTEMD = DEPLOY / "nats" / "README.md", DEPLOY / "systemd" / "README.md"
MADE = ("certificates", "passwords.conf", "node.env")
"""By the scripts, in the folder that they stand in."""
WAIT_S_MAX = 60
POLL_S = 0.02


def script(page: Path, containing: str) -> str:
    """The only script of a page that has this in it, each command on one line."""
    (found,) = (block for block in blocks(page, "sh") if containing in block)
    return found.replace("\\\n", " ")


def table(page: Path, head: str) -> str:
    """A table of a page, by its first line."""
    return page.read_text().partition(head)[2].partition("\n\n")[0]


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH on which ``skyring`` and ``nats-server`` are those of the tests."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in (
        ("skyring", f"{shlex.quote(sys.executable)} -m skyring"),
        ("nats-server", shlex.quote(str(server_binary()))),
    ):
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[ShippedNats]:
    made = ShippedNats(tmp_path / "nats")
    await made.start()
    yield made
    made.kill()


# deploy/nats


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of deploy/nats, in which the first commands were run."""
    copy = tmp_path / "deploy" / "nats"
    shutil.copytree(DEPLOY / "nats", copy, ignore=shutil.ignore_patterns(*MADE))
    done = run("sh", "-ec", script(NATS, "./make-passwords"), cwd=copy)
    assert (done.code, done.err) == (0, "")
    return copy


def test_a_server_is_set_up(folder: Path, tmp_path: Path, programs: str) -> None:
    etc = tmp_path / "etc"
    shutil.copytree(folder / "certificates" / "nats-1", etc / "certificates")
    listed = re.findall(r"`([\w-]+\.conf)`", table(NATS, "| file | from |"))
    assert set(listed) == {*CONFIGURATION, "passwords.conf"}
    for name in listed:
        shutil.copy(folder / name, etc)
    *others, last = commands(script(NATS, "nats-server"))
    unit = read_unit(DEPLOY / "systemd" / "nats-server.service")
    assert unit.one("ExecStart").endswith(f"/{last}"), "the unit starts it in another way"
    done = run("sh", "-ec", "\n".join(others), cwd=etc, PATH=programs)
    assert done.code == 0, done.err
    assert "is valid" in done.err


def test_a_ring_may_have_another_name(folder: Path) -> None:
    before = (folder / "accounts.conf").read_text()
    assert run("sh", "-ec", script(NATS, "sed -i"), cwd=folder).code == 0
    after = (folder / "accounts.conf").read_text()
    assert "main" not in after
    assert after.count("orders") == before.count("main") == len(re.findall(r"[._`]main\b", before))


@asynccontextmanager
async def node(
    page_script: str, nats: ShippedNats, programs: str, directory: Path
) -> AsyncIterator[str]:
    """The node that a script starts, with these servers, when it is ready; its URL."""
    for number, url in enumerate(nats.urls, 1):
        page_script = page_script.replace(f"tls://nats-{number}:4222", url)
    assert "4222" not in page_script
    port = free_port()
    *others, last = commands(page_script)
    options = f"-p {port} --storage:path {shlex.quote(str(directory))}"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-ec", "\n".join([*others, f"exec {last} {options}"])),
        cwd=nats.made,
        env=os.environ | {"PATH": programs, "PYTHONPATH": str(DEPLOY.parent)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while await status_or_none(HOST, port, "/health/ready", timeout_s=5) != 200:
                assert process.returncode is None
                await asyncio.sleep(POLL_S)
        yield f"http://{HOST}:{port}"
        process.terminate()
        async with asyncio.timeout(WAIT_S_MAX):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_node_joins_a_ring(nats: ShippedNats, programs: str, tmp_path: Path) -> None:
    async with (
        node(script(NATS, "--nats "), nats, programs, tmp_path / "data") as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_S_MAX) as api,
    ):
        ring = (await api.get("/ring")).json()
    assert (ring["ring"], ring["log"]["replicas"]) == ("main", 3)
    assert nats.refusals("node") == []


async def test_a_node_delivers_to_a_receiver(
    nats: ShippedNats, programs: str, tmp_path: Path
) -> None:
    async with nats.client("receiver") as (receiver, _):
        heard = await receiver.subscribe("timers.orders")
        await settled(receiver)
        async with (
            node(script(NATS, "-t nats"), nats, programs, tmp_path / "data") as url,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_S_MAX) as api,
        ):
            callback = {"transport": "nats", "method": "publish", "uri": "timers.orders"}
            body = {"timeout": 1, "data": "hello", "callback": callback}
            assert (await api.post("/timer", json=body)).status_code == 201
            assert (await heard.next_msg(timeout=WAIT_S_MAX)).data == b"hello"
    assert nats.refusals("delivery") == []


# deploy/systemd

NOT_RUN = re.compile(r"(/opt/skyring/bin/pip|python3 -m venv|systemctl|journalctl|useradd|curl) ")
"""They change the machine, or need systemd to run."""


def test_the_files_are_installed_where_the_units_look(folder: Path, tmp_path: Path) -> None:
    repository, root = folder.parents[1], tmp_path / "root"
    shutil.copytree(DEPLOY / "systemd", repository / "deploy" / "systemd")
    (root / "etc" / "systemd" / "system").mkdir(parents=True)
    ran = 0
    for page_script in (script(SYSTEMD, "pip install"), script(SYSTEMD, "useradd")):
        for command in commands(page_script):
            if NOT_RUN.match(command) is None:
                # There is no such group here.
                command = re.sub(r"(?<=[ >])/etc", f"{root}/etc", command).replace("-g nats", "")
                done = run("sh", "-ec", command, cwd=repository)
                assert (done.code, done.err) == (0, ""), command
                ran += 1
    assert ran == 10
    unit = read_unit(DEPLOY / "systemd" / "skyring.service")
    secrets = Path(f"{root}{unit.one('EnvironmentFile').removeprefix('-')}")
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    settings = unit.one("ExecStart").split()[-1]
    for readable in (settings, "/etc/skyring/ca.pem"):
        assert stat.S_IMODE(Path(f"{root}{readable}").stat().st_mode) == 0o644
    installed = {path.name for path in (root / "etc" / "systemd" / "system").iterdir()}
    assert installed == {path.name for path in (DEPLOY / "systemd").glob("*.service")}

    server = read_unit(DEPLOY / "systemd" / "nats-server.service")
    program, *arguments = server.one("ExecStart").split()
    name = (root / "etc" / "nats" / "nats.env").read_text().strip()
    given = f"{name} {server.one('Environment')}".replace("%S", "/var/lib").split()
    assert program == "/usr/local/bin/nats-server"
    done = run(
        *(str(server_binary()), "-t", *arguments),
        cwd=Path(f"{root}{server.one('WorkingDirectory')}"),
        **dict(variable.split("=", 1) for variable in given),
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize("page", [NATS, SYSTEMD], ids=lambda page: page.parent.name)
def test_what_a_readme_names_exists(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"^\| `([\w@.-]+\.\w+)` \|", text, re.M):
        assert name in MADE or (page.parent / name).exists(), name
    assert max(map(len, text.splitlines())) <= 120
