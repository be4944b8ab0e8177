"""Export and import, against a server that does as it is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.client import SkyringClient
from skyring.commands import exporting, importing
from skyring.commands.exporting import Export, entry_line
from skyring.commands.importing import Import, Line, batches, check_line, read_lines
from skyring.commands.stored import Stored, read_stored
from skyring.errors import ConfigError, SkyringError, Unavailable, Uncertain
from skyring.timers.request import decode_entry

CALLBACK = {"transport": "http", "method": "post", "uri": "http://127.0.0.1/", "retry": {}}
Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> SkyringClient:
    return SkyringClient("http://sky.test", transport=httpx.MockTransport(handler))


def timer(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"t{number}", "next": 1_000 + number, "callback": CALLBACK, **more}


def page(timers: Sequence[dict[str, Any]], cursor: str | None) -> httpx.Response:
    return httpx.Response(200, json={"timers": timers, "next": cursor})


# Export


def test_a_line_creates_the_timer_again() -> None:
    data = b'{"n":\r\n123456789012345678901234567890}'
    callback = json.dumps(CALLBACK, indent=1).encode()
    line = entry_line(Stored("a", 5, msgspec.Raw(callback), msgspec.Raw(data)))
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    entry = decode_entry(line)
    assert (entry.id, entry.at, entry.callback.uri) == ("a", 5, CALLBACK["uri"])
    assert json.loads(bytes(entry.data)) == json.loads(data)


async def test_all_pages_are_written(tmp_path: Path) -> None:
    answers = [page([timer(1), timer(2, data="x\ny")], "c"), page([timer(3)], None)]
    file = tmp_path / "timers"
    async with client(lambda request: answers.pop(0)) as sky:
        await Export(str(file)).run(sky)
    entries = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [(entry["id"], entry["at"]) for entry in entries] == [
        ("t1", 1_001),
        ("t2", 1_002),
        ("t3", 1_003),
    ]
    assert [entry["data"] for entry in entries] == [None, "x\ny", None]
    assert os.listdir(tmp_path) == [file.name]
    assert file.stat().st_mode & 0o600 == 0o600


def unreadable(number: int) -> dict[str, Any]:
    return {"id": f"t{number}", "state": "unreadable", "last_error": "version 09"}


async def test_what_the_server_cannot_read_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [page([timer(1, state="scheduled"), unreadable(2)], "c"), page([timer(3)], None)]
    file = tmp_path / "timers"
    async with client(lambda request: answers.pop(0)) as sky:
        assert await Export(str(file)).run(sky) == 1
    assert [json.loads(line)["id"] for line in file.read_bytes().splitlines()] == ["t1", "t3"]
    assert capsys.readouterr().err.splitlines() == [
        "skyring: t2 cannot be read, and is left out: version 09",
        f"skyring: 2 exported to {file}, 1 left out",
    ]


async def test_only_so_many_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "UNREADABLE_SHOWN_MAX", 2)
    async with client(lambda request: page([unreadable(n) for n in range(5)], None)) as sky:
        assert await Export(str(tmp_path / "timers")).run(sky) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[2] == "skyring: 3 more cannot be read"


async def test_what_is_neither_a_timer_nor_unreadable_is_an_error(tmp_path: Path) -> None:
    odd = [{"id": "t1"}, {"id": "t1", "state": "scheduled", "next": "soon"}, {}]
    async with client(lambda request: page([odd.pop()], None)) as sky:
        while odd:
            with pytest.raises(SkyringError):
                await Export(str(tmp_path / "timers")).run(sky)
    assert os.listdir(tmp_path) == []


def test_an_update_of_what_cannot_be_read_says_so() -> None:
    with pytest.raises(SkyringError, match="cannot read t1: version 09"):
        read_stored(json.dumps(unreadable(1)).encode())


async def test_dead_letters_are_exported_as_timers(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/dead-letters"
        dead = timer(1, state="dead", attempts=3, last_error="500", due=900, created=800)
        return httpx.Response(200, json={"dead_letters": [dead], "next": None})

    file = tmp_path / "dead-letters"
    async with client(answer) as sky:
        assert await Export(str(file), dead_letters=True).run(sky) == 0
    entry = decode_entry(file.read_bytes())
    assert (entry.id, entry.at) == ("t1", 1_001)


async def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "timers"
    file.write_text("of yesterday")
    answers = [page([timer(1)], "c"), httpx.Response(500)]
    async with client(lambda request: answers.pop(0)) as sky:
        with pytest.raises(SkyringError):
            await Export(str(file)).run(sky)
    assert file.read_text() == "of yesterday"
    assert os.listdir(tmp_path) == [file.name]


async def test_an_export_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    async with client(lambda request: page([timer(1)], None)) as sky:
        await Export(str(tmp_path / "link")).run(sky)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text()


async def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    async with client(lambda request: page([], None)) as sky:
        for name in (tmp_path, tmp_path / "no" / "where"):
            with pytest.raises(SkyringError, match="cannot write"):
                await Export(str(name)).run(sky)


# Import


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path: Path) -> None:
    file = tmp_path / "timers"
    file.write_bytes(b"{}\n\n  \r\n {}\r\n{}")
    with file.open("rb") as opened:
        assert list(read_lines(opened)) == [Line(1, b"{}"), Line(4, b"{}"), Line(5, b"{}")]


def test_an_endless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "LINE_BYTES_MAX", 10)
    file = tmp_path / "timers"
    file.write_bytes(b"{}\n123456789\n12345678901\n")
    with file.open("rb") as opened, pytest.raises(SkyringError, match="line 3"):
        list(read_lines(opened))


@pytest.mark.parametrize("content", [b"{", b"nope", b"[]", b"1", b"{}{}", b"\x00"])
def test_a_broken_line_is_seen(content: bytes) -> None:
    assert check_line(Line(1, content)) is not None


def test_a_good_line_is_let_through() -> None:
    assert check_line(Line(1, b'{"id":"a","at":5}')) is None


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 10))
def test_batches_keep_everything_within_bounds(sizes: list[int], entries_max: int) -> None:
    lines = [Line(number, b"x" * size) for number, size in enumerate(sizes, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "BATCH_BYTES_MAX", 100)
        made = list(batches(iter(lines), entries_max))
    assert [line for batch in made for line in batch] == lines
    for batch in made:
        assert 1 <= len(batch) <= entries_max
        assert sum(len(line.content) + 1 for line in batch) <= 100


def results(*statuses: int) -> httpx.Response:
    lines = [{"id": "a", "status": status, "reason": f"because {status}"} for status in statuses]
    return httpx.Response(200, content="".join(json.dumps(line) + "\n" for line in lines))


def written(tmp_path: Path, *lines: str) -> str:
    file = tmp_path / "timers"
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


async def test_what_became_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path, '{"id":"a"}', "nope", '{"id":"b"}', '{"id":"c"}')
    async with client(lambda request: results(201, 200, 409)) as sky:
        assert await Import(name, 10).run(sky) == 2
    out, err = capsys.readouterr()
    assert out == "1 created, 1 existing, 2 refused\n"
    first, second = err.splitlines()
    assert first.startswith("skyring: line 2: is not JSON")
    assert second == "skyring: line 4: 409 because 409"


async def test_in_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(len(request.content.splitlines()))
        return results(*[201] * sent[-1])

    async with client(answer) as sky:
        assert await Import(written(tmp_path, *["{}"] * 7), 3).run(sky) == 0
    assert sent == [3, 3, 1]
    assert capsys.readouterr().out == "7 created, 0 existing, 0 refused\n"


async def test_only_so_many_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with client(lambda request: results()) as sky:
        assert await Import(written(tmp_path, *["nope"] * 105), 10).run(sky) == 105
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 101
    assert err[-1] == "skyring: 5 more lines were refused"


def unavailable(code: str = "unavailable") -> httpx.Response:
    return httpx.Response(503, json={"code": code}, headers={"retry-after": "0"})


@pytest.mark.parametrize("code", ["unavailable", "uncertain"])
async def test_a_busy_server_is_asked_again(tmp_path: Path, code: str) -> None:
    answers = [unavailable(code), unavailable(code), results(200)]
    async with client(lambda request: answers.pop(0)) as sky:
        assert await Import(written(tmp_path, '{"id":"a"}'), 10).run(sky) == 0
    assert answers == []


async def test_but_not_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return results(201) if len(asked) == 1 else unavailable()

    async with client(answer) as sky:
        with pytest.raises(Unavailable, match="lines 2 to 2"):
            await Import(written(tmp_path, "{}", "{}"), 1).run(sky)
    assert len(asked) == 1 + importing.TRIES
    assert capsys.readouterr().out == "1 created, 0 existing, 0 refused\n"


async def test_an_uncertain_batch_without_ids_is_not_repeated(tmp_path: Path) -> None:
    answers = [unavailable("uncertain")]
    async with client(lambda request: answers.pop(0)) as sky:
        with pytest.raises(Uncertain, match="lines 1 to 2"):
            await Import(written(tmp_path, '{"id":"a"}', "{}"), 10).run(sky)


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    async with client(lambda request: results()) as sky:
        with pytest.raises(ConfigError, match="cannot read"):
            await Import(str(tmp_path / "none"), 10).run(sky)
