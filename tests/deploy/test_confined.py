"""A ring whose programs have no more system calls than their units of ``deploy/systemd`` allow."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from skyring.bench.client import status_or_none
from skyring.cluster.leash import leashed
from skyring.ports import free_port
from skyring.settings import load_settings
from tests.acceptance.receiver import CallbackReceiver
from tests.deploy.shipped import DEPLOY, HOST, ShippedNats, run
from tests.deploy.units import Unit, confined, read_unit

SYSTEMD = DEPLOY / "systemd"
EXAMPLE = SYSTEMD / "skyring.toml"
WAIT_S_MAX = 60
POLL_S = 0.02


class Machine:
    """Where a unit finds what it names: the same paths below another root.

    Args:
        root: for everything.
        unit: of a node.
    """

    def __init__(self, root: Path, unit: Unit) -> None:
        self.root = root
        self.unit = unit
        self.state = root / "var" / "lib" / "skyring"
        self.state.mkdir(parents=True)
        (root / "etc" / "skyring").mkdir(parents=True)
        self.log = root / "log"

    def install(self, settings: str, environment: Path, ca_file: Path) -> None:
        """Put there what belongs below /etc and /opt."""
        etc = self.root / "etc" / "skyring"
        (etc / "skyring.toml").write_text(settings)
        (etc / "skyring.env").write_bytes(environment.read_bytes())
        (etc / "ca.pem").write_bytes(ca_file.read_bytes())
        program = self.root / "opt" / "skyring" / "bin" / "skyring"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m skyring "$@"\n')
        program.chmod(0o755)

    @property
    def command(self) -> list[str]:
        """What the unit starts."""
        words = shlex.split(self.unit.one("ExecStart"))
        return [f"{self.root}{word}" if word.startswith("/") else word for word in words]

    @property
    def environment(self) -> dict[str, str]:
        """What the unit's file of secrets says."""
        name = self.unit.one("EnvironmentFile").removeprefix("-")
        lines = Path(f"{self.root}{name}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def start(self) -> subprocess.Popen[bytes]:
        """Start the node as the unit does."""
        assert self.unit.one("WorkingDirectory") == "%S/skyring"
        assert self.unit.one("StateDirectory") == "skyring"
        with self.log.open("wb") as log:
            return subprocess.Popen(
                leashed(confined(self.unit, self.command)),
                cwd=self.state,
                env=os.environ | {"PYTHONPATH": str(DEPLOY.parent)} | self.environment,
                umask=int(self.unit.one("UMask"), 8),
                stdout=log,
                stderr=log,
            )

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[subprocess.Popen[bytes]]:
        """The node, from when it is ready."""
        process = self.start()
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                while await status_or_none(HOST, port, "/health/ready", timeout_s=5) != 200:
                    assert process.poll() is None, self.log.read_text()
                    await asyncio.sleep(POLL_S)
            yield process
        finally:
            process.kill()
            process.wait()


def is_confined(pid: int) -> bool:
    """Is there a filter of system calls on this process?"""
    return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()


def moved(text: str, places: Mapping[str, str]) -> str:
    """A text in which each of these stands once, with others in their place."""
    for old, new in places.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_example_is_a_ring_of_three_servers(tmp_path: Path) -> None:
    settings = load_settings({}, EXAMPLE)
    assert settings.nats.servers == tuple(f"tls://nats-{number}:4222" for number in (1, 2, 3))
    assert settings.ring.replicas == 3
    assert not settings.storage.path.is_absolute(), "it would be the same for all nodes"
    file = tmp_path / "skyring.toml"
    file.write_text(moved(EXAMPLE.read_text(), {"# advertise": "advertise"}))
    assert load_settings({}, file).advertise


async def test_a_ring_works_within_its_units(tmp_path: Path) -> None:
    nats = ShippedNats(tmp_path / "nats")
    for server in nats.servers:
        server.unit = read_unit(SYSTEMD / "nats-server.service")
    machine, port = (
        Machine(tmp_path / "machine", read_unit(SYSTEMD / "skyring.service")),
        free_port(),
    )
    # By name, so that the resolver of the system is asked.
    urls = [f"tls://localhost:{server.port}" for server in nats.servers]
    settings = moved(
        EXAMPLE.read_text(),
        {
            '"0.0.0.0"': f'"{HOST}"',
            "port = 3000\n": f"port = {port}\n",
            '"tls://nats-1:4222", "tls://nats-2:4222", "tls://nats-3:4222"': f"{urls}"[1:-1],
            '"/etc/skyring/ca.pem"': f'"{machine.root}/etc/skyring/ca.pem"',
        },
    )
    machine.install(settings, nats.made / "node.env", nats.ca_file)
    try:
        await nats.start()
        async with CallbackReceiver() as receiver, machine.running(port) as process:
            callback = receiver.callback(uri=f"http://localhost:{receiver.port}/hook")
            async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S_MAX) as client:
                answer = await client.post(
                    f"http://{HOST}:{port}/timer", json={"timeout": 1, "callback": callback}
                )
            assert answer.status_code == 201, answer.text
            await receiver.wait(1)
            assert is_confined(process.pid)
            process.terminate()
            assert await asyncio.to_thread(process.wait, WAIT_S_MAX) == 0
    finally:
        nats.kill()
    for each in (machine.log, *(server.log for server in nats.servers)):
        text = each.read_text()
        assert "not permitted" not in text, text
        assert "not supported" not in text, text
        assert "Traceback" not in text, text
    kept = [path for path in machine.state.rglob("*") if path.is_file()]
    assert kept
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in kept)


@pytest.mark.parametrize("name", ["skyring", "nats-server"])
def test_what_a_unit_forbids_fails(name: str, tmp_path: Path) -> None:
    """Otherwise the test before this one would say nothing."""
    attempts = """
import mmap, os, socket
for number, attempt in enumerate((
    lambda: os.chroot("/"),
    lambda: os.setpriority(os.PRIO_PROCESS, 0, 5),
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: socket.socket(socket.AF_PACKET),
    lambda: socket.socket(socket.AF_INET).close(),
)):
    try:
        attempt()
        print(number)
    except OSError:
        pass
"""
    unit = read_unit(SYSTEMD / f"{name}.service")
    done = run(*confined(unit, [sys.executable, "-c", attempts]), cwd=tmp_path)
    assert done == (0, "4\n", "")
