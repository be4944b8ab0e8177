"""A simulated disk, and LevelDB on it, with the weaknesses that were measured on the real one.

- What was not synced is lost with the power, from some moment on, and not when the process dies.
- A write that failed may be there after the files have been opened again.
- After one failed write LevelDB goes on acknowledging into a log that it cannot read back
  (google/leveldb #577, #578), until the files are opened again.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import plyvel

from skyring.errors import StorageError
from skyring.storage.leveldb_files import LevelDBFiles, plain
from skyring.storage.threads import Done, Worker
from skyring.testing.simulation.loop import SimulatedLoop

__all__ = ["Disk", "SimulatedFiles", "SimulatedWorker"]

LATENCY_S_MAX = 0.000_5


class Disk:
    """What survives a process, and in part the loss of power.

    Args:
        random: for latencies and for what a crash leaves.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.latency_s_max = LATENCY_S_MAX
        self.failing = 0.0
        """Part of the writes that fail."""
        self._unsynced: list[list[tuple[bytes, bytes | None]]] = []
        """What each write since the last sync has overwritten."""
        self._doomed: list[list[tuple[bytes, bytes | None]]] = []
        """The same of those that an open database took and cannot read back."""
        self._database: _Database | None = None

    def open(self) -> _Database:
        """Open the database; whoever had it open before is dead."""
        if self.failing and self.random.random() < self.failing:
            raise StorageError("cannot open the database: input/output error")
        self.close()
        self._database = _Database(self)
        return self._database

    def close(self) -> None:
        """The process is gone, or has closed the database."""
        if self._database is not None:
            self._database.is_open = False
            self._database = None
        self._undo(self._doomed, 0)

    def cut_power(self) -> None:
        """Lose what was not synced, from some moment on."""
        self.close()
        self._undo(self._unsynced, self.random.randint(0, len(self._unsynced)))

    def wipe(self) -> None:
        """A new disk."""
        self.close()
        self.values.clear()
        self.keys.clear()
        self._unsynced.clear()

    def write(self, database: _Database, batch: _Batch, sync: bool) -> None:
        """Write a batch.

        Raises:
            plyvel.IOError: it failed; it may be there when the files are opened again.
        """
        if self.failing and self.random.random() < self.failing:
            database.is_broken = True
            if self.random.random() < 0.5:
                self._unsynced.append(self.apply(batch))
            raise plyvel.IOError(b"IO error: simulated")
        undo = self.apply(batch)
        if database.is_broken:
            self._doomed.append(undo)
        elif sync:
            self._unsynced.clear()
        else:
            self._unsynced.append(undo)

    def apply(self, batch: _Batch) -> list[tuple[bytes, bytes | None]]:
        """Change what is there; what undoes it."""
        undo = []
        for key, value in batch.writes:
            undo.append((key, self.values.get(key)))
            self._set(key, value)
        return undo

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self.values.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]
            return
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = value

    def _undo(self, undos: list[list[tuple[bytes, bytes | None]]], kept: int) -> None:
        while len(undos) > kept:
            for key, value in reversed(undos.pop()):
                self._set(key, value)


class _Batch:
    """As of plyvel."""

    def __init__(self, database: _Database, sync: bool) -> None:
        self._database = database
        self._sync = sync
        self.writes: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.writes.append((key, value))

    def delete(self, key: bytes) -> None:
        self.writes.append((key, None))

    def write(self) -> None:
        self._database.check()
        self._database.disk.write(self._database, self, self._sync)


class _Database:
    """As of plyvel, as far as it is used."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.is_open = True
        self.is_broken = False

    def check(self) -> None:
        if not self.is_open:
            raise plyvel.IOError(b"IO error: the database is closed")

    def get(
        self, key: bytes, verify_checksums: bool = False, fill_cache: bool = True
    ) -> bytes | None:
        self.check()
        return self.disk.values.get(key)

    def put(self, key: bytes, value: bytes, sync: bool = False) -> None:
        batch = self.write_batch(sync=sync)
        batch.put(key, value)
        batch.write()

    def write_batch(self, sync: bool = False) -> _Batch:
        return _Batch(self, sync)

    def iterator(
        self,
        start: bytes = b"",
        stop: bytes = b"\xff" * 40,
        reverse: bool = False,
        prefix: bytes | None = None,
        include_value: bool = True,
        verify_checksums: bool = False,
        fill_cache: bool = True,
    ) -> _Iterator:
        self.check()
        if prefix is not None:
            start, stop = prefix, prefix + b"\xff" * 40
        keys = self.disk.keys
        return _Iterator(self.disk, start, bisect_left(keys, start), stop, reverse, include_value)

    def raw_iterator(self, verify_checksums: bool = False) -> _RawIterator:
        self.check()
        return _RawIterator()

    def close(self) -> None:
        if self.is_open:
            self.disk.close()


class _Iterator:
    """Iterates over what is there while it is used at one go."""

    def __init__(
        self, disk: Disk, start: bytes, first: int, stop: bytes, reverse: bool, values: bool
    ) -> None:
        self._disk = disk
        self._first = first
        self._stop = stop
        self._reverse = reverse
        self._has_values = values

    def __enter__(self) -> _Iterator:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        keys = self._disk.keys
        indices = range(self._first, bisect_left(keys, self._stop))
        for index in reversed(indices) if self._reverse else indices:
            key = keys[index]
            yield (key, self._disk.values[key]) if self._has_values else key


class _RawIterator:
    """Only asked whether what comes next is damaged; it never is."""

    def seek(self, key: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class SimulatedFiles(LevelDBFiles):
    """The files of LevelDB, on a simulated disk."""

    def __new__(cls, disk: Disk, slots: int) -> SimulatedFiles:
        return super().__new__(cls)

    def __init__(self, disk: Disk, slots: int) -> None:
        object.__setattr__(self, "disk", disk)
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "path", "the simulated disk")

    def open(self, found: plyvel.CorruptionError | None = None) -> tuple[Any, bool]:
        """As of `LevelDBFiles`."""
        disk: Disk = self.disk  # type: ignore[attr-defined]
        database = disk.open()
        try:
            self._check_format(database)
        except plyvel.Error as error:
            database.close()
            raise StorageError(f"cannot use {self.path}: {plain(error)}") from error
        return database, False


class SimulatedWorker(Worker):
    """One thread that uses the disk: one call after the other, each in its time.

    Args:
        disk: how slow it is.
        loop: whose time it is.
        name: of the thread.
    """

    def __init__(self, disk: Disk, loop: asyncio.AbstractEventLoop, name: str) -> None:
        assert isinstance(loop, SimulatedLoop)
        self._disk = disk
        self._loop = loop
        self._writes = "writer" in name
        self._free_s = 0.0

    def submit(self, call: Callable[[], Any], done: Done) -> None:
        disk = self._disk
        began_s = max(self._loop.time(), self._free_s)
        middle_s = self._free_s = began_s + disk.random.uniform(0, disk.latency_s_max)
        if self._writes:
            self._free_s += disk.random.uniform(0, disk.latency_s_max)
        elif disk.random.random() < 0.5:  # read at once, and told late
            self._loop.call_at(middle_s, done, *_outcome(call))
            return
        self._loop.call_at(middle_s, self._call, call, done, self._free_s)

    def close(self) -> None:
        pass

    def _call(self, call: Callable[[], Any], done: Done, end_s: float) -> None:
        result, error = _outcome(call)
        if self._writes:
            # A process that is killed between the two has written, and does not know it.
            self._loop.call_at(end_s, done, result, error)
        else:
            done(result, error)


def _outcome(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as failure:
        return None, failure
