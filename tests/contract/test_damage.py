"""Files of a standalone node that are damaged: it is reported, and what can be read is served.

A loss that nobody hears of is the defect; an alarm about nothing is another.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google_crc32c import value as crc32c

from skyring.errors import StorageError, StorageLocked, Unavailable
from skyring.settings import StorageSettings
from skyring.storage.base import Storage
from skyring.storage.leveldb import LevelDBStorage
from skyring.storage.leveldb_files import LevelDBFiles
from skyring.storage.leveldb_mark import KEY, NAME, Mark
from skyring.storage.registry import make_storage

SLOTS = 8
COUNT = 300
VALUE = b"v" * 500
WRITE_BUFFER_BYTES = 65_536
"""Small, so that there are table files and not just a log."""
EXIT_S_MAX = 60
TRIES_MAX = 5_000
PAUSE_S = 0.002


def make(path: Path, **more: Any) -> Storage:
    settings = StorageSettings(path=path, write_buffer_bytes=WRITE_BUFFER_BYTES, **more)
    return make_storage(settings, SLOTS)


@asynccontextmanager
async def opened(path: Path, **more: Any) -> AsyncIterator[Storage]:
    storage = make(path, **more)
    await storage.open()
    try:
        await storage.acquire(range(SLOTS))
        yield storage
    finally:
        await storage.close()


async def fill(storage: Storage, count: int = COUNT, first: int = 0) -> None:
    """One group of writes for each record."""
    for number in range(first, first + count):
        await storage.commit(1, [(b"%05d" % number, VALUE)])


async def served(storage: Storage) -> list[int]:
    """The records that are there, each of them whole."""
    pairs = await storage.scan(1, b"", b"\xff", 10 * COUNT)
    assert all(value == VALUE for _, value in pairs)
    for key, value in pairs[:: max(1, len(pairs) // 10)]:
        assert await storage.get(1, key) == value
    return [int(key) for key, _ in pairs]


@pytest.fixture
async def killed(tmp_path: Path) -> Path:
    """What a node leaves that is killed: two table files or more, a log, a manifest, a mark."""
    running, killed = tmp_path / "running", tmp_path / "killed"
    async with opened(running) as storage:
        await fill(storage)
        copy(running, killed)
    assert len(list(killed.glob("*.ldb"))) >= 2
    return killed


def copy(directory: Path, to: Path) -> None:
    """As a kill at one moment would leave it: LevelDB writes no table, nothing changes meanwhile.

    While it does there is a second log, or a table that no manifest knows of yet.
    """
    for _ in range(TRIES_MAX):
        before = lengths(directory)
        if sum(name.endswith(".log") for name in before) == 1:
            with suppress(shutil.Error):
                shutil.copytree(directory, to, dirs_exist_ok=True)
            if lengths(directory) == before == lengths(to):
                return
            shutil.rmtree(to)
        time.sleep(PAUSE_S)
    raise AssertionError("LevelDB does not come to rest")


def lengths(directory: Path) -> dict[str, int]:
    found = {}
    for file in list(directory.iterdir()):
        with suppress(FileNotFoundError):  # LevelDB removes what it needs no more
            found[file.name] = file.stat().st_size
    return found


def file_of(directory: Path, pattern: str, which: int = -1) -> Path:
    return sorted(directory.glob(pattern))[which]


def cut(file: Path, share: float) -> None:
    """Keep this share of a file; 1 is all but a byte."""
    length = file.stat().st_size
    os.truncate(file, min(int(share * length), length - 1))


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was reported."""
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


# A damaged block that LevelDB meets when it merges tables


def overwrite(table: Path, at: int, data: bytes) -> None:
    with table.open("r+b") as file:
        file.seek(at)
        file.write(data)


async def write_on(storage: Storage) -> None:
    """Until LevelDB has merged tables, or writing has ended for good."""
    async with asyncio.timeout(EXIT_S_MAX):
        for number in range(COUNT, 10 * COUNT):
            while True:
                try:
                    await storage.commit(1, [(b"%05d" % number, VALUE), (b"%05d" % 7, VALUE)])
                    break
                except Unavailable:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PAUSE_S):
                            await storage.failed()


async def test_a_damaged_block_that_is_met_when_tables_are_merged(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = file_of(killed, "*.ldb")
    value_at = table.read_bytes().index(VALUE[:400])
    overwrite(table, value_at, b"\0")  # the block can be read for all that
    async with opened(killed) as storage:
        assert storage.damage.opens == 0
        await write_on(storage)
        assert storage.damage.opens == 1, "it is not opened again and again"
        assert storage.damage.slots == set(range(SLOTS))
        found = await served(storage)
        assert len(found) == 10 * COUNT - 1
    assert any("is damaged" in text and "timers may be lost" in text for text in errors(caplog))
    assert len([text for text in errors(caplog) if "a write failed" in text]) == 1
    assert (killed / "damaged-1" / table.name).exists()


async def test_a_block_that_cannot_be_read_at_all_when_tables_are_merged(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overwrite(file_of(killed, "*.ldb"), 600, b"\xff" * 1_000)
    async with opened(killed) as storage:
        with pytest.raises(StorageError, match="is damaged, or its disk fails; restore it"):
            await write_on(storage)
    assert len([text for text in errors(caplog) if "a write failed" in text]) == 2


# What is cut off


@pytest.mark.parametrize("share", [0, 0.5, 1])
async def test_a_log_that_is_cut_off(
    killed: Path, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    cut(file_of(killed, "*.log"), share)
    async with opened(killed) as storage:
        found = await served(storage)
        (error,) = errors(caplog)
        assert f"ends at group {len(found)}, but group {COUNT} was acknowledged" in error
        assert found == list(range(len(found)))
        assert 0 < len(found) < COUNT
        assert storage.damage.opens == 1
        assert storage.damage.slots == set(range(SLOTS)), "their due index is to be written anew"
        await fill(storage, 1, first=COUNT)
    caplog.clear()
    async with opened(killed) as storage:
        assert await served(storage) == [*found, COUNT]
    assert errors(caplog) == [], "the next group has put the mark right"


async def test_a_log_that_is_gone(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    file_of(killed, "*.log").unlink()
    async with opened(killed) as storage:
        found = await served(storage)
    assert 0 < len(found) < COUNT
    (error,) = errors(caplog)
    assert f"but group {COUNT} was acknowledged" in error


@pytest.mark.parametrize("share", [0.35, 0.7, 1])
async def test_a_manifest_that_is_cut_off(
    killed: Path, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    cut(file_of(killed, "MANIFEST-*"), share)
    before = contents(killed)
    async with opened(killed) as storage:
        found = await served(storage)
        assert storage.damage.opens == 1
        assert storage.damage.slots == set(range(SLOTS))
    assert 0 < len(found) < COUNT
    reported = errors(caplog)
    assert "timers may be lost" in reported[0]
    assert str(killed / "damaged-1") in reported[0]
    kept = contents(killed / "damaged-1")
    assert {name: kept[name] == before[name] for name in kept} == dict.fromkeys(before, True)


def contents(directory: Path) -> dict[str, bytes]:
    files = [file for file in directory.iterdir() if file.is_file() and file.name != "LOCK"]
    return {file.name: file.read_bytes() for file in files}


async def test_a_manifest_of_which_nothing_is_left(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(file_of(killed, "MANIFEST-*"), 0)
    before = contents(killed)
    with pytest.raises(StorageError, match="restore it from a backup"):
        await make(killed).open()
    assert "timers may be lost" in errors(caplog)[0]
    assert contents(killed / "damaged-1") == before


TABLES = pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])


@TABLES
@pytest.mark.parametrize("share", [0, 0.5, 1])
async def test_a_table_that_is_cut_off(killed: Path, which: int, share: float) -> None:
    table = file_of(killed, "*.ldb", which)
    cut(table, share)
    with pytest.raises(StorageError) as refusal:
        await make(killed).open()
    text = str(refusal.value)
    assert table.name in text
    assert "is damaged, or its disk fails; restore it from a backup" in text
    assert "\n" not in text


@TABLES
async def test_the_command_says_in_one_line_that_a_table_is_cut_off(
    killed: Path, which: int
) -> None:
    table = file_of(killed, "*.ldb", which)
    cut(table, 0.5)
    slots = ("--slots", str(SLOTS))
    command = [sys.executable, "-m", "skyring", "run", "-p", "0", "--host", "127.0.0.1", *slots]
    ended = await asyncio.to_thread(
        partial(
            subprocess.run,
            [*command, "--storage:path", str(killed), "--log:level", "error"],
            capture_output=True,
            text=True,
            timeout=EXIT_S_MAX,
        )
    )
    assert ended.returncode == 1
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert line.startswith("skyring: ")
    assert table.name in line


# What is no damage


async def test_nothing_is_reported_of_a_first_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "new") as storage:
        assert await served(storage) == []
        assert storage.damage.opens == 0
    await sound(tmp_path / "new", 0, caplog)


async def sound(path: Path, count: int, caplog: pytest.LogCaptureFixture, **more: Any) -> None:
    """It starts with these records, can be written, and starts again; nothing is reported."""
    for round_ in range(2):
        async with opened(path, **more) as storage:
            assert await served(storage) == list(range(count + round_))
            assert storage.damage.opens == 0
            assert storage.damage.slots == set()
            await fill(storage, 1, first=count + round_)
    assert errors(caplog) == []
    assert not (path / "damaged-1").exists()


async def test_nothing_is_reported_after_a_stop_or_a_kill(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await sound(killed.with_name("running"), COUNT, caplog)
    await sound(killed, COUNT, caplog)


@pytest.mark.parametrize("what", ["older", "empty", "zeros", "deleted"])
async def test_a_mark_that_stayed_behind_reports_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """A kill may come between a group and its mark; after a power cut it may lack more, or all."""
    running, killed = tmp_path / "running", tmp_path / "killed"
    async with opened(running) as storage:
        await fill(storage, COUNT // 2)
        shutil.copy(running / NAME, tmp_path)
        await fill(storage, COUNT - COUNT // 2, first=COUNT // 2)
        copy(running, killed)
    if what == "older":
        shutil.copy(tmp_path / NAME, killed)
    elif what == "empty":
        os.truncate(killed / NAME, 0)
    elif what == "zeros":
        (killed / NAME).write_bytes(bytes((killed / NAME).stat().st_size))
    else:
        (killed / NAME).unlink()
    await sound(killed, COUNT, caplog)


async def test_a_directory_of_the_version_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no mark; from the next group on it has."""
    old = LevelDBStorage(LevelDBFiles(tmp_path, SLOTS, 1 << 20, WRITE_BUFFER_BYTES, 50))
    await old.open()
    await old.acquire([1])
    await fill(old)
    await old.close()
    assert not (tmp_path / NAME).exists()
    await sound(tmp_path, COUNT, caplog)
    mark = Mark(tmp_path)
    assert (mark.read(), mark.group) == (None, COUNT + 2)


async def test_without_sync_nothing_is_promised_and_nothing_reported(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it lead to an alarm when sync is on again."""
    await sound(killed, COUNT, caplog, sync="never")
    again = killed.with_name("again")
    async with opened(killed, sync="never") as storage:
        await fill(storage, 10, first=COUNT + 2)
        copy(killed, again)
    cut(file_of(again, "*.log"), 0.5)
    async with opened(again, sync="never") as storage:
        found = await served(storage)
    assert COUNT + 2 < len(found) < COUNT + 12
    await sound(again, len(found), caplog, sync="never")
    await sound(killed, COUNT + 12, caplog)


async def test_a_backup_that_is_restored_is_not_short_of_anything(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a whole, mark and all; more was acknowledged after it was made."""
    backup = killed.with_name("backup")
    copy(killed, backup)
    async with opened(killed) as storage:
        await fill(storage, first=COUNT)
    shutil.rmtree(killed)
    copy(backup, killed)
    await sound(killed, COUNT, caplog)


async def test_a_second_process_reports_nothing_but_that_it_is_the_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as storage:
        await fill(storage, 10)
        with pytest.raises(StorageLocked):
            await make(tmp_path).open()
        await fill(storage, 10, first=10)
    await sound(tmp_path, 20, caplog)


# The mark itself


@pytest.mark.parametrize("what", ["torn", "flipped", "another version"])
async def test_a_mark_that_cannot_be_read_is_reported_and_all_is_served(
    killed: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    written = (killed / NAME).read_bytes()
    if what == "torn":
        written = written[:100]
    elif what == "flipped":
        written = written[:20] + bytes([written[20] ^ 1]) + written[21:]
    else:
        body = b"\x02" + written[1:-4]
        written = body + crc32c(KEY + body).to_bytes(4, "big")
    (killed / NAME).write_bytes(written)
    async with opened(killed) as storage:
        assert await served(storage) == list(range(COUNT))
        await fill(storage, 1, first=COUNT)
    assert (killed / "damaged-1" / NAME).read_bytes() == written
    (error,) = errors(caplog)
    assert "what was acknowledged last cannot be read" in error
    assert str(killed / "damaged-1") in error
    caplog.clear()
    async with opened(killed) as storage:
        assert await served(storage) == list(range(COUNT + 1))
    assert errors(caplog) == [], "the next group has put the mark right"


async def test_a_mark_that_cannot_be_read_is_reported_once(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if nothing is written meanwhile."""
    os.truncate(killed / NAME, 100)
    for _ in range(2):
        async with opened(killed) as storage:
            assert await served(storage) == list(range(COUNT))
    assert len(errors(caplog)) == 1


async def test_a_mark_that_cannot_be_written_is_told_and_no_more(
    killed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Mark) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), NAME)

    monkeypatch.setattr(Mark, "open", refuse)
    await sound(killed, COUNT, caplog)
    assert any("losses will not be noticed" in text for text in caplog.messages)


async def test_a_mark_that_the_disk_does_not_give_back_is_told_as_such(killed: Path) -> None:
    (killed / NAME).unlink()
    (killed / NAME).mkdir()
    with pytest.raises(StorageError, match=f"its disk fails.*{NAME}"):
        await make(killed).open()


def test_the_copies_of_damaged_files_are_bounded(tmp_path: Path) -> None:
    files = LevelDBFiles(
        tmp_path, slots=4, cache_bytes=1 << 20, write_buffer_bytes=1 << 20, open_files_max=50
    )
    database, _ = files.open()
    database.close()
    for _ in range(15):
        files._keep_files(is_short=False)
    assert len(list(tmp_path.glob("damaged-*"))) == 10
