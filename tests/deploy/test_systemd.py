"""The units of ``deploy/systemd``: as systemd reads them, and as far as it goes without systemd."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from skyring.settings import HttpSettings, ShutdownSettings
from tests.deploy.shipped import DEPLOY, HOST, run
from tests.deploy.stopping import stop_s_max
from tests.deploy.units import Unit, read_unit

SYSTEMD = DEPLOY / "systemd"
NODE, TEMPLATE, NATS = (
    read_unit(SYSTEMD / f"{name}.service") for name in ("skyring", "skyring@", "nats-server")
)
EXPOSURE_MAX = 12
"""In tenths, as systemd-analyze takes it: 12 is 1.2 of 10."""


def installed(unit: Unit, directory: Path) -> Path:
    """A copy whose program exists, as on a machine where it is installed."""
    program = unit.one("ExecStart").split()[0]
    copy = directory / unit.path.name
    copy.write_text(unit.path.read_text().replace(program, sys.executable))
    return copy


@pytest.mark.parametrize("unit", [NODE, TEMPLATE, NATS], ids=lambda unit: unit.path.name)
def test_systemd_understands_every_line(unit: Unit, tmp_path: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", installed(unit, tmp_path), cwd=tmp_path)
    assert done == (0, "", "")


def test_a_line_that_systemd_does_not_know_is_found(tmp_path: Path) -> None:
    copy = installed(NODE, tmp_path)
    copy.write_text(copy.read_text().replace("PrivateTmp=", "PrivateTemp="))
    done = run("systemd-analyze", "verify", "--man=no", copy, cwd=tmp_path)
    assert "PrivateTemp" in done.err


@pytest.mark.parametrize("unit", [NODE, TEMPLATE, NATS], ids=lambda unit: unit.path.name)
def test_a_unit_is_hardened(unit: Unit, tmp_path: Path) -> None:
    def exposure(path: Path) -> int:
        return run(
            *("systemd-analyze", "security", "--offline=true", "--no-pager"),
            *(f"--threshold={EXPOSURE_MAX}", path),
            cwd=tmp_path,
        ).code

    copy = installed(unit, tmp_path)
    assert exposure(copy) == 0
    copy.write_text(copy.read_text().replace("SystemCallFilter=", "#"))
    assert exposure(copy) != 0, "the threshold says nothing"


def test_the_template_differs_in_its_paths_alone() -> None:
    def lines(unit: Unit) -> str:
        text = unit.path.read_text()
        return text[text.index("[Unit]") :]

    of_one = lines(TEMPLATE).replace(" (%i)", "").replace("skyring/%i\n", "skyring\n")
    assert of_one.replace("/etc/skyring/%i.", "/etc/skyring/skyring.") == lines(NODE)


# How a node ends


def test_its_time_to_stop_is_enough_for_a_node() -> None:
    assert int(NODE.one("TimeoutStopSec")) >= stop_s_max(ShutdownSettings())
    assert NODE.one("KillSignal") == "SIGTERM"


def test_the_rule_for_another_time_is_right() -> None:
    """Four times the drain, the delay and half a minute; once more for every transport."""
    for drain_ms in (0, 500, 1_000, 20_000, 600_000):
        shutdown = ShutdownSettings(drain_ms=drain_ms, ready_delay_ms=5_000)
        for loaded in range(5):
            rule_s = (4 + loaded) * drain_ms / 1000 + 5 + 30 + 5 * loaded
            assert rule_s >= stop_s_max(shutdown, transports=1 + loaded)


def test_it_may_open_as_many_files_as_it_needs() -> None:
    http, files = HttpSettings(), int(NODE.one("LimitNOFILE"))
    assert http.connections_max <= files // 2, "the node would lower it"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 'x'", "port: "),
        ("prot = 3000", "unknown setting prot"),
        ("[nats", "is not TOML"),
        ("[nats]\nservers = ['a:4222']\nuser = 'node'", "user and password go together"),
        ("[nats]\nservers = ['a:4222']\nca_file = '/nowhere'", "nats.ca_file"),
        ("[ring]\nlease_ms = 100", "lease_ms"),
    ],
)
def test_what_no_start_makes_better_is_not_tried_again(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "skyring.toml"
    file.write_text(text)
    done = run(sys.executable, "-m", "skyring", "run", "--config", file, cwd=tmp_path)
    assert said in done.err
    assert str(done.code) in NODE.one("RestartPreventExitStatus").split()


def test_what_may_be_better_later_is_tried_again(tmp_path: Path) -> None:
    """A port that another process still has."""
    file = tmp_path / "skyring.toml"
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        file.write_text(f"port = {taken.getsockname()[1]}")
        done = run(sys.executable, "-m", "skyring", "run", "--config", file, cwd=tmp_path)
    assert "cannot listen on" in done.err
    assert done.code == 1
    assert NODE.one("Restart") == "on-failure"
    assert "1" not in NODE.one("RestartPreventExitStatus").split()
