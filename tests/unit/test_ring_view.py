"""The picture of a ring, and the command that draws it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.console import Console

from skyring.cli import main
from skyring.commands.ring_view import Glyphs, draw, read_ring
from skyring.errors import SkyringError

NODES = ("a-3001", "b-3002", "c-3003")


def answer(slots: int = 256, nodes: tuple[str, ...] = NODES, **changed: Any) -> dict[str, Any]:
    """What ``GET /ring`` says when all is well."""
    holders = [nodes[slot % len(nodes)] for slot in range(slots)]
    members = [
        {
            "node": node,
            "state": "alive",
            "address": f"http://127.0.0.1:{3001 + number}",
            "incarnation": 1_763_740_000_000,
            "slots_held": holders.count(node),
            "slots_placed": holders.count(node),
            "timers": 1_234,
            "silent_ms": 120,
            "is_self": number == 0,
        }
        for number, node in enumerate(nodes)
    ]
    return {
        "ring": "main",
        "mode": "ring",
        "node": nodes[0],
        "slots": slots,
        "state": "alive",
        "connected": True,
        "lease_ms": 2_710,
        "log": {"id": "L1", "replicas": 3, "sync": "always"},
        "members": members,
        "slots_detail": [
            {
                "slot": slot,
                "owner": holder,
                "holder": holder,
                "epoch": 4 if holder == nodes[0] else None,
                "lag": 0 if holder == nodes[0] else None,
                "phase": "held",
            }
            for slot, holder in enumerate(holders)
        ],
        "unheld": [],
    } | changed


def drawn(content: dict[str, Any], columns: int = 80, glyphs: Glyphs | None = None) -> str:
    console = Console(width=columns, highlight=False)
    with console.capture() as captured:
        console.print(draw(read_ring(json.dumps(content).encode()), columns=columns, glyphs=glyphs))
    return captured.get()


def cells(picture: str) -> str:
    """The strip of the slots without labels and blanks."""
    rows = picture.partition("slots by holder")[2].splitlines()[1:]
    rows = rows[: rows.index("")]
    return "".join("".join(row.split()[1:]) for row in rows)


def line(picture: str, start: str) -> str:
    (found,) = (each for each in picture.splitlines() if each.startswith(start))
    return found.rstrip()


def test_a_ring_that_is_well() -> None:
    picture = drawn(answer())
    lines = picture.splitlines()
    assert lines[0].rstrip() == "ring main: 256 slots, 3 nodes, 3 alive; seen by a-3001"
    assert line(picture, "A  ").split() == [
        *("A", "a-3001", "alive", "██████████", "86/86", "1,234", "http://127.0.0.1:3001")
    ]
    assert line(picture, "B  ").split() == [
        *("B", "b-3002", "alive", "██████████", "85/85", "1,234", "120ms"),
        "http://127.0.0.1:3002",
    ]
    assert cells(picture) == ("ABC" * 86)[:256]
    assert "log L1: 3 replicas; NATS syncs each write" in picture
    assert line(picture, "a-3001 is") == (
        "a-3001 is alive, connected to NATS; 2.7 s of its lease left"
    )
    for word in ("nobody:", "on their way:", "behind", "garbled"):
        assert word not in picture


def test_what_is_not_as_it_should_be() -> None:
    content = answer(connected=False, lease_ms=0, state="joining", garbled=3, unheld=[0, 1, 2, 7])
    for slot in content["unheld"]:
        content["slots_detail"][slot]["holder"] = None
    content["slots_detail"][4] |= {"holder": "b-3002", "owner": "c-3003"}
    content["slots_detail"][6] |= {"lag": 12}
    content["slots_detail"][9] |= {"lag": 5}
    content["members"][1] |= {"state": "suspect", "slots_held": 0, "timers": None}
    picture = drawn(content)
    assert cells(picture)[:9] == "···AbCA·C"
    assert line(picture, "held by nobody") == "held by nobody: 0-2, 7 (4 slots)"
    assert line(picture, "on their way") == "on their way: 4"
    assert line(picture, "behind") == "behind the log: 2 slots, 17 entries in all"
    assert line(picture, "garbled") == "garbled messages that were dropped: 3"
    assert line(picture, "a-3001 is") == (
        "a-3001 is joining, not connected to NATS; its lease is over"
    )
    assert line(picture, "B  ").split()[2:6] == ["suspect", "░░░░░░░░░░", "0/85", "?"]


def test_who_holds_slots_and_is_no_member_is_named() -> None:
    content = answer(16)
    content["slots_detail"][3]["holder"] = "ghost"
    picture = drawn(content)
    assert cells(picture) == "ABCdBCABCABCABCA"
    assert line(picture, "D  ").split()[:3] == ["D", "ghost", "unknown"]


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
@pytest.mark.parametrize("slots", [1, 7, 256, 1024, 4096, 65_536])
def test_every_slot_has_its_place_whatever_the_width(slots: int, columns: int) -> None:
    nodes = ("a", "b")
    content = answer(slots, nodes)
    for detail in content["slots_detail"]:
        detail["holder"] = detail["owner"] = nodes[detail["slot"] * 2 // slots]
    picture = drawn(content, columns)
    each = -(-slots // 1024)
    found = cells(picture)
    assert len(found) == -(-slots // each)
    assert set(found) <= {"A", "B", "+"}
    assert found.count("+") <= 1
    assert max(len(row) for row in picture.splitlines()) <= columns


def test_more_nodes_than_letters() -> None:
    nodes = tuple(f"n{number:03}" for number in range(100))
    picture = drawn(answer(256, nodes))
    assert cells(picture)[:40] == "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789####"


def test_no_other_characters_where_the_terminal_has_none() -> None:
    content = answer(unheld=[0])
    content["slots_detail"][0]["holder"] = None
    content["members"][0]["slots_held"] = 80
    assert drawn(content, glyphs=Glyphs.ascii()).isascii()


def test_a_ring_of_which_nothing_is_known_yet() -> None:
    content = {"mode": "ring", "node": "a", "slots": 4, "ring": "x", "connected": False}
    picture = drawn(content)
    assert "ring x: 4 slots, 0 nodes, 0 alive" in picture
    detail = [{"slot": slot} for slot in range(4)]
    assert cells(drawn({**content, "slots_detail": detail})) == "····"


def test_names_cannot_play_with_the_terminal() -> None:
    content = answer(4, ("a\x1b[2J", "[bold]b[/]"), ring="x\n\x1b]0;t\x07")
    content["members"][0]["address"] = "\x1b[31m"
    content["log"]["sync"] = "\x1b[0m"
    picture = drawn(content)
    assert "\x1b" not in picture
    assert "\x07" not in picture
    assert "[bold]b[/]" in picture


@pytest.mark.parametrize("content", [b"", b"[]", b'{"mode": 3}', b'{"slots": 1}', b"\xff", b"{"])
def test_what_is_no_ring(content: bytes) -> None:
    with pytest.raises(SkyringError, match="sent no description of a ring"):
        read_ring(content)


# The command


class Stand(ThreadingHTTPServer):
    """Answers ``GET /ring`` with one text after the other, the last for ever."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.asked = 0
        super().__init__(("127.0.0.1", 0), Asked)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Asked(BaseHTTPRequestHandler):
    server: Stand

    def do_GET(self) -> None:
        status, content = self.server.answers[min(self.server.asked, len(self.server.answers) - 1)]
        self.server.asked += 1
        self.send_response(status if self.path == "/ring" else 500)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand((200, json.dumps(answer(), indent=2).encode())) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["ring", *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_it_is_drawn_into_a_pipe(stand: Stand, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--url", stand.url) == 0
    out, err = capfd.readouterr()
    assert cells(out) == ("ABC" * 86)[:256]
    assert "\x1b" not in out
    assert err == ""


def test_as_json_on_one_line(stand: Stand, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--url", stand.url) == 0
    (shown,) = capfd.readouterr().out.splitlines()
    assert json.loads(shown) == answer()


STANDALONE = b'{"mode":"standalone","node":"a-3000","slots":256}'


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (200, STANDALONE, "the node a-3000 at http.* stands alone: it holds all 256 slots"),
        (404, b'{"code":"not-found","status":404}', "does not know GET /ring"),
        (404, b"<html>", "answered 404 Not Found"),
        (200, b"<html>", "sent no description of a ring"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    stand: Stand, capfd: pytest.CaptureFixture[str], status: int, content: bytes, said: str
) -> None:
    stand.answers = [(status, content)]
    for arguments in ([], ["--watch"]):
        assert run(*arguments, "--url", stand.url) == 1
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert re.search(said, err)


def test_a_node_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with Stand((200, b"")) as nobody:
        url = nobody.url
    assert run("--url", url) == 1
    assert "no server can be reached" in capfd.readouterr().err


def test_a_standalone_node_as_json(stand: Stand, capfd: pytest.CaptureFixture[str]) -> None:
    stand.answers = [(200, STANDALONE)]
    assert run("--json", "--url", stand.url) == 0
    assert capfd.readouterr().out.encode() == STANDALONE + b"\n"


def test_watched_in_a_pipe_until_a_signal(stand: Stand) -> None:
    well = json.dumps(answer()).encode()
    other = json.dumps(answer(ring="second")).encode()
    stand.answers = [(200, well), (200, other)]
    command = [sys.executable, "-m", "skyring", "ring", "--watch", "--url", stand.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for name in (b"main", b"second"):
                assert any(b"ring " + name in row for row in process.stdout)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_watched_on_a_terminal_a_node_may_be_away_for_a_while(stand: Stand) -> None:
    well = json.dumps(answer()).encode()
    stand.answers = [(200, well), (503, b"{}"), (200, json.dumps(answer(ring="again")).encode())]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "skyring", "ring", "-w", "--url", stand.url]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "50"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            shown = b""
            for text in (b"main", b"no newer picture", b"again"):
                while text not in shown:
                    shown += os.read(ours, 65_536)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(ours)
    assert b"\x1b[" in shown
