"""Free ports: nobody is given one that another was given and has not yet used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from skyring.ports import HIGHEST, LOWEST, free_port, free_ports


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def turn(directory: Path) -> Path:
    return directory / f"skyring-ports-{os.getuid()}"


def test_they_stay_clear_of_those_of_outgoing_connections() -> None:
    assert all(LOWEST <= free_port() <= HIGHEST for _ in range(20))


@pytest.mark.usefixtures("directory")
def test_none_is_given_twice_in_a_row() -> None:
    assert len({free_port() for _ in range(1_000)}) == 1_000
    assert len(set(free_ports(100))) == 100


def test_processes_at_the_same_time_are_given_different_ones(directory: Path) -> None:
    command = [sys.executable, "-c", "from skyring.ports import *; print(*free_ports(250))"]
    environment = {**os.environ, "TMPDIR": str(directory)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    found = [process.communicate()[0].split() for process in processes]
    assert turn(directory).exists()
    assert len({port for ports in found for port in ports}) == 1_000


def test_after_the_highest_comes_the_lowest(directory: Path) -> None:
    turn(directory).write_text(str(HIGHEST))
    assert LOWEST <= free_port() < LOWEST + 100


def test_one_that_is_listened_on_is_left_out(directory: Path) -> None:
    with socket.socket() as listener:
        port = free_port()
        listener.bind(("127.0.0.1", port))
        listener.listen()
        turn(directory).write_text(str(port - 1))
        assert free_port() != port


def test_one_that_is_spoken_for_is_left_out(directory: Path) -> None:
    port = free_port()
    turn(directory).write_text(str(port - 1))
    assert free_port(avoid=[port]) != port


@pytest.mark.parametrize("content", ["", "x", "99999", "0"])
def test_a_file_that_holds_something_else_is_no_harm(directory: Path, content: str) -> None:
    turn(directory).write_text(content)
    assert LOWEST <= free_port() <= HIGHEST


def test_a_file_that_is_somebody_elses_link_is_not_followed(directory: Path) -> None:
    other = directory / "precious"
    other.write_text("precious")
    turn(directory).symlink_to(other)
    assert LOWEST <= free_port() <= HIGHEST
    assert other.read_text() == "precious"
