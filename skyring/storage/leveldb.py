"""The default backend: LevelDB through plyvel, one writer, group commit.

Commits of all slots that arrive while a write is under way share the next write and its fsync. The
batch is filled on the event loop, so that the writer thread needs the interpreter only to pick it
up: `plyvel.WriteBatch.write` works without the interpreter lock.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import plyvel

from skyring.errors import Fenced, StorageError, Unavailable, Uncertain
from skyring.storage.base import Storage, Write
from skyring.storage.leveldb_files import (
    GROUP_KEY,
    QUARANTINE_PREFIX,
    UNREADABLE,
    LevelDBFiles,
    plain,
    quarantined_slots,
    read_many,
    read_number,
    scan_records,
    slot_prefix,
    write_group,
)
from skyring.storage.seal import SealBroken, seal
from skyring.storage.threads import Worker

__all__ = ["LevelDBStorage"]

logger = logging.getLogger(__name__)

REOPEN_PAUSE_S = 0.5
READS_PER_CALL_MAX = 256
"""Reads done in one go by the reader thread, so that a long queue does not hold the interpreter."""


class _Group:
    """Writes that are made durable together."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.waiting: list[Future[None]] = []
        self.bytes = 0

    def done(self) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_exception(error)


class LevelDBStorage(Storage):
    """Slots in one LevelDB directory.

    Args:
        files: where the database is and how it is opened.
        sync: True makes every commit wait for fsync.
        group_bytes_max: writes that share one fsync.
        pending_bytes_max: writes that may wait; a commit beyond it raises Unavailable.
        reopen_timeout_ms: how long to try to reopen after a failed write.
        worker: makes the threads that use the files, of a loop and a name.
    """

    def __init__(
        self,
        files: LevelDBFiles,
        *,
        sync: bool = True,
        group_bytes_max: int = 8 << 20,
        pending_bytes_max: int = 128 << 20,
        reopen_timeout_ms: int = 30_000,
        worker: Callable[[asyncio.AbstractEventLoop, str], Worker] = Worker,
    ) -> None:
        super().__init__()
        self._files = files
        self._sync = sync
        self._group_bytes_max = group_bytes_max
        self._pending_bytes_max = pending_bytes_max
        self._reopen_timeout_ms = reopen_timeout_ms
        self._make_worker = worker
        self._db: Any = None  # None while closed, and while a failed write is being looked into
        self._prefixes: dict[int, bytes] = {}
        self._groups: deque[_Group] = deque()  # the last one is being filled
        self._writing = False
        self._group_number = 0  # of the last group that is durable
        self._pending_bytes = 0
        self._recovery: asyncio.Task[None] | None = None
        self._closing = False
        self._reads: list[tuple[bytes, Future[bytes | None]]] = []
        self._reading = 0
        self._put_aside_keys: set[bytes] = set()
        self._slots_with_gaps: set[int] = set()
        self._changed = asyncio.Event()  # set when a write or a read has ended
        self._is_open = False
        self._is_lenient = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = self._make_worker(self._loop, "skyring-leveldb-reader")
        try:
            await self._open_db()
        except BaseException:
            self._reader.close()
            raise
        self._writer = self._make_worker(self._loop, "skyring-leveldb-writer")
        self._beyond_repair: Future[None] = self._loop.create_future()
        self._is_open = True

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._closing = True
        if self._recovery is not None:
            await asyncio.wait([self._recovery])
        while self._writing:
            self._changed.clear()
            await self._changed.wait()
        await self._close_db()
        self._writer.close()
        self._reader.close()
        if not self._beyond_repair.done():
            self._beyond_repair.set_result(None)
        self._beyond_repair.exception()  # whoever wanted to know has asked by now

    def not_ready(self) -> str | None:
        return None if self._db is not None else "the storage is being reopened"

    async def failed(self) -> None:
        await asyncio.shield(self._beyond_repair)

    async def acquire(self, slots: Iterable[int]) -> None:
        self._prefixes.update((slot, slot_prefix(slot)) for slot in slots)

    async def release(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._prefixes.pop(slot, None)

    # Writing

    def commit(self, slot: int, writes: Sequence[Write]) -> Future[None]:
        prefix = self._prefixes.get(slot)
        if prefix is None or self._db is None or self._closing:
            prefix = self._prefix(slot)  # one of these two raises
            self._opened()
        if self._pending_bytes > self._pending_bytes_max:
            raise Unavailable("too many writes are waiting for the disk")
        groups = self._groups
        if groups and groups[-1].bytes <= self._group_bytes_max:
            group = groups[-1]
        else:
            group = self._new_group()
        batch, written_bytes = group.batch, 0
        for key, value in writes:
            full = prefix + key
            if value is None:
                batch.delete(full)
                written_bytes += len(full)
            else:
                batch.put(full, seal(full, value))
                written_bytes += len(full) + len(value)
        group.bytes += written_bytes
        self._pending_bytes += written_bytes
        future = self._loop.create_future()
        group.waiting.append(future)
        return future

    def _new_group(self) -> _Group:
        """The group that is filled from now on."""
        group = _Group(self._db.write_batch(sync=self._sync))
        self._groups.append(group)
        if not self._writing:
            # Later, so that the commits of this turn of the event loop join it.
            self._writing = True
            self._loop.call_soon(self._write)
        return group

    def _write(self) -> None:
        """Hand the oldest group to the writer, one at a time."""
        group = self._groups.popleft()
        number = self._group_number + 1
        group.batch.put(GROUP_KEY, seal(GROUP_KEY, number.to_bytes(8, "big")))
        write = partial(write_group, group.batch, self._files, number)
        self._writer.submit(write, partial(self._written, group))

    def _written(self, group: _Group, _: None, error: Exception | None) -> None:
        if error is not None:
            group.fail(Uncertain(f"the write failed and may be stored or not: {plain(error)}"))
            self._recovery = asyncio.create_task(self._recover(error), name="recovery")
            return
        self._group_number += 1
        self._pending_bytes -= group.bytes
        if self._groups:
            self._write()
        else:
            self._writing = False
            self._changed.set()
        group.done()

    async def _recover(self, error: Exception) -> None:
        """Close, open again, verify. Until that has worked nothing is read or acknowledged."""
        logger.error(
            "a write failed: %s. Nothing is acknowledged until the storage is sound", plain(error)
        )
        try:
            await self._close_db()
            for group in self._groups:
                group.fail(Unavailable(f"the storage is being reopened: {plain(error)}"))
            self._groups.clear()
            self._pending_bytes = 0
            await self._reopen(error)
        except Exception as failure:
            self._beyond_repair.set_exception(failure)
        self._writing = False
        self._recovery = None
        self._changed.set()

    async def _reopen(self, error: Exception) -> None:
        """Open as soon as that works; if a table is damaged, without LevelDB's checksums.

        It would meet the block again whenever it merges tables. Our own checksums decide then.
        """
        damage = error if isinstance(error, plyvel.CorruptionError) else None
        if damage is not None and self._is_lenient:
            raise StorageError(f"{self._files.path} {UNREADABLE}: {plain(error)}")
        deadline = self._loop.time() + self._reopen_timeout_ms / 1000
        while True:
            try:
                await self._open_db(acknowledged=self._group_number, found=damage)
            except (StorageError, plyvel.Error) as again:
                if self._closing or self._loop.time() >= deadline:
                    reason = f"a write failed ({plain(error)}) and the storage did not come back"
                    raise StorageError(f"{reason}: {plain(again)}") from again
                logger.warning("the storage is not sound yet: %s", plain(again))
                await asyncio.sleep(REOPEN_PAUSE_S)
            else:
                self._is_lenient |= damage is not None
                logger.warning("the storage is sound again")
                return

    # Reading

    def get(self, slot: int, key: bytes) -> Future[bytes | None]:
        full = self._prefix(slot) + key
        self._opened()
        future: Future[bytes | None] = self._loop.create_future()
        if not self._reads:
            # Reads of one turn of the loop share one trip to the reader thread.
            self._loop.call_soon(self._start_reads)
        self._reads.append((full, future))
        return future

    def _start_reads(self) -> None:
        reads, self._reads = self._reads, []
        for first in range(0, len(reads), READS_PER_CALL_MAX):
            self._read(reads[first : first + READS_PER_CALL_MAX])

    def _read(self, reads: list[tuple[bytes, Future[bytes | None]]]) -> None:
        db = self._db
        if db is None:
            for _, future in reads:
                if not future.done():
                    future.set_exception(Unavailable("the storage is being reopened"))
            return
        self._reading += 1
        keys = [key for key, _ in reads]
        self._reader.submit(partial(read_many, db, keys), partial(self._end_reads, reads))

    def _end_reads(
        self,
        reads: list[tuple[bytes, Future[bytes | None]]],
        values: list[bytes | SealBroken | plyvel.Error | None],
        error: Exception | None,
    ) -> None:
        self._end_reading()
        if error is not None:
            for _, future in reads:
                if not future.done():
                    future.set_exception(Unavailable(f"reading failed: {error}"))
            return
        broken = []
        for (key, future), value in zip(reads, values, strict=True):
            if isinstance(value, SealBroken):
                broken.append((key, value.sealed))
                value = None
            if future.done():
                continue
            if isinstance(value, plyvel.Error):
                future.set_exception(Unavailable(f"reading failed: {plain(value)}"))
            else:
                future.set_result(value)
        if broken:
            self._put_aside(broken)

    async def scan(
        self, slot: int, start: bytes, stop: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        prefix = self._prefix(slot)
        db = self._opened()
        self._reading += 1
        try:
            found = await self._reader.run(
                lambda: scan_records(db, prefix + start, prefix + stop, limit)
            )
        except plyvel.Error as error:
            raise Unavailable(f"reading failed: {plain(error)}") from error
        finally:
            self._end_reading()
        if found.broken:
            self._put_aside(found.broken)
        if found.has_gap and slot not in self._slots_with_gaps:
            self._slots_with_gaps.add(slot)
            self.damage.slots.add(slot)
        return [(key[len(prefix) :], value) for key, value in found.pairs]

    def _put_aside(self, broken: list[tuple[bytes, bytes]]) -> None:
        """Move damaged records out of the way with the next group of writes."""
        # Two readers may meet the same record. The second must not remove what is there by then.
        broken = [(key, found) for key, found in broken if key not in self._put_aside_keys]
        self._put_aside_keys.update(key for key, _ in broken)
        self.damage.records += len(broken)
        self.damage.slots.update(
            int.from_bytes(key[1:3], "big") for key, _ in broken if key.startswith(b"s")
        )
        for key, _ in broken:
            logger.error("the record %r is damaged; it is put aside and served no more", key)
        if broken and self._db is not None and not self._closing:
            batch = (self._groups[-1] if self._groups else self._new_group()).batch
            for key, found in broken:
                batch.put(QUARANTINE_PREFIX + key, found)
                batch.delete(key)

    def _end_reading(self) -> None:
        self._reading -= 1
        if self._reading == 0:
            self._changed.set()

    # Opening and closing

    async def _open_db(self, acknowledged: int | None = None, found: Any = None) -> None:
        run = self._reader.run
        db, damaged = await run(lambda: self._files.open(found))
        if damaged:
            self.damage.opens += 1
            self.damage.slots.update(range(self._files.slots))
        try:
            if acknowledged is not None:
                await run(lambda: self._files.verify(db, acknowledged))
            self._group_number = await run(lambda: self._read_group_number(db))
            self.damage.slots.update(await run(lambda: quarantined_slots(db)))
        except BaseException as error:
            await run(db.close)
            self._files.close()
            if isinstance(error, plyvel.Error):  # such as that of a table that is cut off
                raise StorageError(f"{self._files.path} {UNREADABLE}: {plain(error)}") from error
            raise
        self._db = db

    def _read_group_number(self, db: Any) -> int:
        try:
            return read_number(db, GROUP_KEY)
        except StorageError as error:  # it only counts, and the next write puts it right
            logger.error("%s", error)
            self.damage.records += 1
            return 0

    async def _close_db(self) -> None:
        """Close once no thread uses the database: closing it under one can crash the process."""
        db, self._db = self._db, None
        while self._reading:
            self._changed.clear()
            await self._changed.wait()
        if db is not None:
            await self._reader.run(db.close)
            self._files.close()

    def _prefix(self, slot: int) -> bytes:
        try:
            return self._prefixes[slot]
        except KeyError:
            raise Fenced(f"slot {slot} is not held") from None

    def _opened(self) -> Any:
        if self._db is None or self._closing:
            raise Unavailable("the storage is closed, or being reopened after a failed write")
        return self._db
