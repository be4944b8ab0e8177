"""The simulated disk has the weaknesses of the real one, and LevelDBStorage copes with them."""

from __future__ import annotations

from random import Random

import plyvel
import pytest

from skyring.errors import StorageError
from skyring.storage.leveldb_files import slot_prefix
from skyring.storage.seal import seal
from skyring.testing.simulation.disk import Disk
from skyring.testing.simulation.indexes import index_faults
from skyring.timers.record import Record, due_key, timer_key, timer_slot, writes_put
from skyring.transports import Callback


@pytest.fixture
def disk() -> Disk:
    return Disk(Random(1))


def test_what_is_written_is_there_after_the_process_has_died(disk: Disk) -> None:
    disk.open().put(b"k", b"v")
    assert disk.open().get(b"k") == b"v"


def test_what_is_synced_is_there_after_the_power_was_cut(disk: Disk) -> None:
    database = disk.open()
    database.put(b"k", b"v")
    database.put(b"l", b"w", sync=True)
    disk.cut_power()
    assert [disk.open().get(key) for key in (b"k", b"l")] == [b"v", b"w"]


def test_what_is_not_synced_is_lost_from_some_moment_on() -> None:
    kept = set()
    for seed in range(50):
        disk = Disk(Random(seed))
        database = disk.open()
        database.put(b"0", b"old", sync=True)
        for number in range(4):
            database.put(b"0", b"%d" % number)
            database.put(b"k%d" % number, b"v")
        disk.cut_power()
        found = [disk.open().get(b"k%d" % number) is not None for number in range(4)]
        assert found == sorted(found, reverse=True), "a hole"
        kept.add(sum(found))
    assert kept == {0, 1, 2, 3, 4}


def test_after_a_failed_write_what_is_acknowledged_cannot_be_read_back(disk: Disk) -> None:
    database = disk.open()
    database.put(b"k", b"v", sync=True)
    disk.failing = 1.0
    with pytest.raises(plyvel.IOError):
        database.put(b"failed", b"v", sync=True)
    disk.failing = 0.0
    database.put(b"doomed", b"v", sync=True)
    assert database.get(b"doomed") == b"v"
    again = disk.open()
    assert [again.get(key) for key in (b"k", b"doomed")] == [b"v", None]


def test_a_failed_write_may_be_there() -> None:
    found = set()
    for seed in range(20):
        disk = Disk(Random(seed))
        database = disk.open()
        disk.failing = 1.0
        with pytest.raises(plyvel.IOError):
            database.put(b"k", b"v", sync=True)
        disk.failing = 0.0
        found.add(disk.open().get(b"k"))
    assert found == {None, b"v"}


def test_a_disk_that_fails_cannot_be_opened(disk: Disk) -> None:
    disk.failing = 1.0
    with pytest.raises(StorageError):
        disk.open()


def test_one_database_at_a_time(disk: Disk) -> None:
    old = disk.open()
    disk.open()
    with pytest.raises(plyvel.IOError):
        old.put(b"k", b"v")


def test_iterators(disk: Disk) -> None:
    database = disk.open()
    for key in (b"b", b"a", b"c", b"d"):
        database.put(key, key.upper())
    with database.iterator(start=b"b", stop=b"d") as pairs:
        assert list(pairs) == [(b"b", b"B"), (b"c", b"C")]
    with database.iterator(start=b"b", stop=b"d", reverse=True, include_value=False) as keys:
        assert list(keys) == [b"c", b"b"]


def test_a_new_disk_is_empty(disk: Disk) -> None:
    disk.open().put(b"k", b"v", sync=True)
    disk.wipe()
    assert disk.open().get(b"k") is None


def test_an_index_that_does_not_tell_what_the_records_tell() -> None:
    disk = Disk(Random(1))
    soon = Record(0, 5, 5, None, "text", b"", Callback("sim", "post", "a"), "sim:a")
    timer_id, other = "timer-1", "timer-2"
    for each, writes in ((timer_id, writes_put(timer_id, soon)), (other, writes_put(other, soon))):
        for key, value in writes:
            full = slot_prefix(timer_slot(each, 8)) + key
            assert value is not None
            disk._set(full, seal(full, value))
    assert index_faults(disk, 8) == []
    disk._set(slot_prefix(timer_slot(timer_id, 8)) + due_key(5, timer_id), None)
    disk._set(slot_prefix(timer_slot(other, 8)) + timer_key(other), None)
    faults = index_faults(disk, 8)
    assert [fault.endswith("is not in the due index") for fault in faults] == [True, False]
    assert [fault.endswith("is only in the due index") for fault in faults] == [False, True]
