"""Records of which a bit was turned over: no timer vanishes without an error in the log."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import plyvel
import pytest

from skyring import Settings, Skyring
from skyring.clock import ManualClock
from skyring.settings import StorageSettings
from skyring.storage.base import Storage
from skyring.storage.registry import make_storage
from skyring.testing import Recorder
from skyring.timers.record import due_key, timer_key, timer_slot
from tests.contract.recording import nothing_pending, to, until

SLOTS = 8
DELAY_MS = 60_000


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Storage]:
    storage = make_storage(StorageSettings(path=path), SLOTS)
    await storage.open()
    try:
        await storage.acquire(range(SLOTS))
        yield storage
    finally:
        await storage.close()


def settings_of(path: Path) -> Settings:
    return Settings(slots=SLOTS, storage=StorageSettings(path=path))


def into_table(path: Path, *, is_last: bool) -> None:
    """Move all that is stored into one table file, in the clear.

    Args:
        is_last: does it end with the last block? Iterators do not tell of damage at the end.
    """
    database = plyvel.DB(str(path), compression=None)
    if not is_last:
        for number in range(100):
            database.put(b"z%d" % number, bytes(100))
    database.compact_range()
    database.close()


def flip(path: Path, part: bytes, which: int = -1) -> None:
    """Turn over a bit of one of these bytes, which stand in one place of one table."""
    (table,) = (file for file in path.glob("*.ldb") if part in file.read_bytes())
    content = bytearray(table.read_bytes())
    assert content.count(part) == 1
    content[content.index(part) + range(len(part))[which]] ^= 4
    table.write_bytes(content)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


def slot_of(timer_id: str) -> int:
    return timer_slot(timer_id, SLOTS)


# The storage


LAST = pytest.mark.parametrize("is_last", [False, True], ids=["middle", "last"])


async def three_records(path: Path, *, is_last: bool) -> None:
    async with opened(path) as storage:
        await storage.commit(2, [(b"a-key", b"a"), (b"b-key", b"b"), (b"c-key", b"c")])
    into_table(path, is_last=is_last)


@LAST
async def test_a_record_that_is_not_found_in_a_damaged_block_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_last: bool
) -> None:
    """LevelDB gives back nothing for it, as for one that was never there."""
    await three_records(tmp_path, is_last=is_last)
    flip(tmp_path, b"b-key")
    async with opened(tmp_path) as storage:
        assert storage.damage.slots == set()
        assert await storage.get(2, b"b-key") is None
        assert storage.damage.records == 1
        assert storage.damage.slots == {2}, "its due index is to be written anew"
        assert any("b-key' is damaged; it is put aside" in text for text in errors(caplog))
        assert await storage.get(2, b"a-key") == b"a"
    async with opened(tmp_path) as storage:
        assert storage.damage.slots == {2}, "also if that was not done before the end"
        assert await storage.get(2, b"c-key") == b"c"


@LAST
@pytest.mark.parametrize("key", [b"a-key", b"b-key", b"c-key"])
async def test_a_scan_tells_of_a_damaged_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: bytes, is_last: bool
) -> None:
    await three_records(tmp_path, is_last=is_last)
    flip(tmp_path, key)
    async with opened(tmp_path) as storage:
        sound = [(name, name[:1]) for name in (b"a-key", b"b-key", b"c-key") if name != key]
        assert await storage.scan(2, b"", b"\xff", 10) == sound
        assert storage.damage.slots == {2}
        assert errors(caplog)


@LAST
async def test_a_scan_tells_of_a_key_that_went_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_last: bool
) -> None:
    """With a bit more or less it stands behind the range that is read."""
    await three_records(tmp_path, is_last=is_last)
    flip(tmp_path, b"c-key", 0)
    async with opened(tmp_path) as storage:
        found = await storage.scan(2, b"a", b"d", 10)
        assert found == [(b"a-key", b"a"), (b"b-key", b"b")]
        assert storage.damage.slots == {2}
        assert errors(caplog)


# A node


async def create(path: Path, clock: ManualClock, *ids: str, is_last: bool) -> int:
    """Timers that are due together; when?"""
    async with Skyring(settings_of(path), transports=[Recorder], clock=clock) as sky:
        for timer_id in ids:
            await sky.timers.create(timeout=DELAY_MS, callback=to(), id=timer_id)
    into_table(path, is_last=is_last)
    return clock.now_ms() + DELAY_MS


@LAST
async def test_a_due_index_with_a_damaged_key_is_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_last: bool
) -> None:
    clock, recorder = ManualClock(), Recorder()
    due_ms = await create(tmp_path, clock, "one", is_last=is_last)
    flip(tmp_path, due_key(due_ms, "one"))  # it leads to a timer "ona" now, which there is not
    async with Skyring(settings_of(tmp_path), transports=[recorder], clock=clock) as sky:
        clock.advance(DELAY_MS)
        await recorder.wait_for("one")
        await until(sky, partial(nothing_pending, sky))
    assert recorder.ids == ["one"]
    assert recorder.begun[0].info.due_ms == due_ms
    assert errors(caplog)


@LAST
async def test_a_timer_whose_key_is_damaged_does_not_vanish_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_last: bool
) -> None:
    """It is lost, and that is told; the timer beside it is delivered."""
    clock, recorder = ManualClock(), Recorder()
    others = (f"other-{number}" for number in range(1_000))
    beside = next(name for name in others if slot_of(name) == slot_of("one"))
    await create(tmp_path, clock, "one", beside, is_last=is_last)
    flip(tmp_path, timer_key("one"))
    async with Skyring(settings_of(tmp_path), transports=[recorder], clock=clock) as sky:
        clock.advance(DELAY_MS)
        await recorder.wait_for(beside)
        await until(sky, partial(nothing_pending, sky))
    assert recorder.ids == [beside]
    assert any("record b" in text and "t/one" in text for text in errors(caplog))


async def test_an_index_that_is_not_that_of_its_record_is_put_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that have lost their newest part can have the index of before an update."""
    clock, recorder = ManualClock(), Recorder()
    due_ms = await create(tmp_path, clock, "one", is_last=False)
    async with opened(tmp_path) as storage:
        entry = await storage.get(slot_of("one"), due_key(due_ms, "one"))
        before = due_key(due_ms - 10_000, "one")
        await storage.commit(slot_of("one"), [(due_key(due_ms, "one"), None), (before, entry)])

    async def is_reported() -> bool:
        return any(text.startswith("timer one ") for text in errors(caplog))

    async with Skyring(settings_of(tmp_path), transports=[recorder], clock=clock) as sky:
        clock.advance(DELAY_MS - 10_000)
        await until(sky, is_reported)
        assert recorder.ids == []
        clock.advance(10_000)
        await recorder.wait_for("one")
    assert recorder.begun[0].info.started_ms == due_ms
