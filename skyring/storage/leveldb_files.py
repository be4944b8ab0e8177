"""The blocking half of the LevelDB backend: files, locks, damage. It runs on threads.

LevelDB goes on acknowledging writes into a log that it cannot read back after one failed log
write (google/leveldb #577, #578), so after any write error the database is closed, opened again and
verified here before anything more is acknowledged.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import plyvel

from skyring.errors import StorageError, StorageLocked
from skyring.storage.leveldb_mark import NAME as MARK
from skyring.storage.leveldb_mark import Mark
from skyring.storage.seal import SealBroken, seal, unseal

__all__ = [
    "GROUP_KEY",
    "QUARANTINE_PREFIX",
    "UNREADABLE",
    "LevelDBFiles",
    "Scan",
    "plain",
    "quarantined_slots",
    "read_many",
    "read_number",
    "read_record",
    "scan_records",
    "slot_prefix",
    "write_group",
]

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the key layout below."""
FORMAT_KEY = b"m/format"
GROUP_KEY = b"m/group"
"""Number of the last group of writes; it shows after a reopening whether any is missing."""
PROBE_KEY = b"m/probe"
LOCK_PATTERN = re.compile(r"IO error: lock ")
QUARANTINE_PREFIX = b"q/"
"""Damaged records are kept as they were found under this prefix and their old key."""


KEPT_MAX = 10
"""Copies of damaged files; of more than these nobody would learn anything."""
UNREADABLE = "is damaged, or its disk fails; restore it from a backup"
"""What is said of a table that is cut off, for one."""


def slot_prefix(slot: int) -> bytes:
    """What the keys of a slot begin with: ``s`` and two bytes, big-endian."""
    return b"s" + slot.to_bytes(2, "big")


@dataclass(frozen=True)
class LevelDBFiles:
    """How to open the database in one directory."""

    path: Path
    slots: int
    cache_bytes: int
    write_buffer_bytes: int
    open_files_max: int
    compression: Literal["snappy"] | None = None
    mark: Mark | None = None
    """Tells whether writes are missing, or tables; None: that is not looked at."""
    groups_last: bool = True
    """Is an acknowledged group on the disk for good?"""

    def open(self, found: plyvel.CorruptionError | None = None) -> tuple[Any, bool]:
        """The open database, and whether damage was found on the way.

        Args:
            found: damage that is known of.

        Raises:
            StorageLocked: another process holds the directory.
            StorageError: it cannot be created or read, or belongs to other settings.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot create {self.path}: {error.strerror}") from error
        try:
            wrong = None if self.mark is None else self.mark.read()
        except OSError as error:
            raise StorageError(f"{self.path} {UNREADABLE}: {error}") from error
        try:
            if wrong is not None:
                raise plyvel.CorruptionError(wrong)
            if found is not None:
                raise found
            db, damaged = self._open_strictly(), False
        except plyvel.CorruptionError as error:
            db, damaged = self._open_damaged(error, is_short=wrong is not None), True
        try:
            self._check_format(db)
            damaged = self._check_mark(db) or damaged
        except plyvel.Error as error:
            db.close()  # or the lock stays taken
            raise StorageError(f"{self.path} {UNREADABLE}: {plain(error)}") from error
        except BaseException:
            db.close()
            raise
        return db, damaged

    def acknowledged(self, group: int) -> None:
        """A group of writes is on the disk. Takes some microseconds."""
        if self.mark is not None:
            self.mark.write(group)

    def close(self) -> None:
        """Nothing is acknowledged any more. May be called at any time."""
        if self.mark is not None:
            self.mark.close()

    def _check_mark(self, db: Any) -> bool:
        """Does the database end before what was acknowledged? From now on it is noted."""
        if self.mark is None:
            return False
        try:
            found = read_number(db, GROUP_KEY)
        except StorageError:
            found = self.mark.group  # that it is damaged is told elsewhere
        is_short = self.groups_last and found < self.mark.group
        if is_short:
            logger.error(
                "%s is damaged: it ends at group %d, but group %d was acknowledged. What came"
                " between is lost: timers, updates, cancellations, and what was delivered",
                *(self.path, found, self.mark.group),
            )
        try:
            self.mark.open()
            if not is_short:  # that is told again until something is written
                self.mark.write(found)  # LevelDB has synced all that it has found
        except OSError as error:
            logger.warning("losses will not be noticed at the next start: %s", error)
        return is_short

    def verify(self, db: Any, group: int) -> None:
        """After a failed write: is every acknowledged group there, and does writing work again?

        Raises:
            StorageError: an acknowledged write is missing. Going on would hide it.
            plyvel.Error: writing or reading fails still.
        """
        found = read_number(db, GROUP_KEY)
        if found < group:
            raise StorageError(
                f"{self.path} has lost acknowledged writes: it ends at group {found},"
                f" but group {group} was acknowledged"
            )
        db.put(PROBE_KEY, seal(PROBE_KEY, group.to_bytes(8, "big")), sync=True)
        if read_number(db, PROBE_KEY) != group:
            raise StorageError(f"{self.path} does not give back what is written to it")

    def _open_strictly(self, *, paranoid: bool = True) -> Any:
        try:
            return plyvel.DB(
                str(self.path),
                create_if_missing=True,
                paranoid_checks=paranoid,
                lru_cache_size=self.cache_bytes,
                write_buffer_size=self.write_buffer_bytes,
                max_open_files=self.open_files_max,
                bloom_filter_bits=10,
                compression=self.compression,
            )
        except plyvel.IOError as error:
            text = plain(error)
            if LOCK_PATTERN.search(text) is not None:
                raise StorageLocked(
                    f"{self.path} is in use by another Skyring; stop that one, or give this one"
                    " its own directory with --storage:path"
                ) from error
            raise StorageError(f"cannot open {self.path}: {plain(error)}") from error

    def _open_damaged(self, found: Exception, *, is_short: bool) -> Any:
        """Open what can be read, keeping the damaged files for whoever wants to look at them.

        Args:
            is_short: has the manifest become shorter, or can that not be told?
        """
        try:
            kept = self._keep_files(is_short)
        except OSError as error:
            raise StorageError(
                f"{self.path} is damaged ({plain(found)}), and its files cannot be kept: {error}"
            ) from error
        logger.error(
            "%s is damaged (%s): timers may be lost. What can be read is served;"
            " the files as they were found are kept in %s",
            self.path,
            plain(found),
            kept,
        )
        try:
            return self._open_strictly(paranoid=False)
        except plyvel.Error as error:
            raise StorageError(
                f"{self.path} is damaged beyond what can be opened ({plain(error)}); restore it"
                " from a backup, or start with another --storage:path"
            ) from error

    def _keep_files(self, is_short: bool) -> Path:
        number = 1
        while (kept := self.path / f"damaged-{number}").exists():
            if number == KEPT_MAX:
                return kept
            number += 1
        kept.mkdir()
        for file in sorted(self.path.iterdir()):
            if file.is_file() and file.name != "LOCK":
                # Table files are never changed in place and logs are deleted after recovery,
                # so a hard link keeps them as they are at no cost. But LevelDB takes the numbers
                # of files that a short manifest does not know for free, and writes over them.
                if is_short or file.name == MARK:
                    shutil.copyfile(file, kept / file.name)
                else:
                    os.link(file, kept / file.name)
        return kept

    def _check_format(self, db: Any) -> None:
        mine = {"format": FORMAT, "slots": self.slots}
        try:
            stored = read_record(db, FORMAT_KEY)
        except SealBroken as error:
            logger.error(
                "%s has a damaged format record (%s); it is taken to be %s", self.path, error, mine
            )
            stored = None
        if stored is None:
            db.put(FORMAT_KEY, seal(FORMAT_KEY, json.dumps(mine).encode()), sync=True)
            return
        found = json.loads(stored)
        for name, value in mine.items():
            if found.get(name) != value:
                raise StorageError(
                    f"{self.path} was written with {name} {found.get(name)},"
                    f" but this node is set to {name} {value}"
                )


def plain(error: Exception) -> str:
    """LevelDB's words, which plyvel hands on as the picture of some bytes."""
    argument = error.args[0] if error.args else ""
    return argument.decode(errors="replace") if isinstance(argument, bytes) else str(error)


def read_number(db: Any, key: bytes) -> int:
    """The number under a key of ours, 0 if there is none."""
    try:
        value = read_record(db, key)
    except SealBroken as error:
        raise StorageError(f"the record {key!r} is damaged: {error}") from error
    return 0 if value is None else int.from_bytes(value, "big")


def read_record(db: Any, key: bytes) -> bytes | None:
    """The value of a key, or None; whatever LevelDB's own block checksum says.

    A block whose checksum fails may well hold this record undamaged, so our own checksum decides.
    A record that is not found there was there, for all that can be told: its key is damaged.

    Raises:
        SealBroken: the record is damaged.
    """
    try:
        sealed = db.get(key, verify_checksums=True)
    except plyvel.CorruptionError as damaged:
        logger.error("what stands near %r is damaged: %s", key, plain(damaged))
        try:
            sealed = db.get(key, fill_cache=False)  # what is in the cache counts as verified
        except plyvel.CorruptionError as error:
            raise SealBroken(plain(error)) from error
        if sealed is None:
            raise SealBroken("not found in a damaged block") from damaged
    return None if sealed is None else unseal(key, sealed)


class Scan(NamedTuple):
    """What a scan has found."""

    pairs: list[tuple[bytes, bytes]]
    broken: list[tuple[bytes, bytes]]
    """Damaged records, as they were found."""
    has_gap: bool
    """Was there a part that could not be read at all?"""


def scan_records(db: Any, start: bytes, stop: bytes, limit: int) -> Scan:
    """Up to ``limit`` sound pairs in ``[start, stop)``, and what is damaged between.

    LevelDB's own checksums cover the keys as well: when one fails, all that can be read is read
    nevertheless, and our own checksums decide. A block that cannot be read at all ends an iterator;
    what lies behind it is then read from the other end.
    """
    pairs: list[tuple[bytes, bytes]] = []
    broken: list[tuple[bytes, bytes]] = []
    try:
        last = _collect(
            db.iterator(start=start, stop=stop, verify_checksums=True), limit, pairs, broken
        )
        if len(pairs) < limit:
            _check_end(db, start if last is None else last + b"\0")
    except plyvel.CorruptionError as error:
        logger.error("records between %r and %r cannot be read: %s", start, stop, plain(error))
    else:
        return Scan(pairs, broken, has_gap=False)
    pairs, broken = [], []
    try:
        # Not to be kept in the cache: what is read from there counts as verified.
        _collect(db.iterator(start=start, stop=stop, fill_cache=False), limit, pairs, broken)
    except plyvel.CorruptionError:
        behind: list[tuple[bytes, bytes]] = []
        after = pairs[-1][0] + b"\0" if pairs else start
        with suppress(plyvel.CorruptionError):
            backwards = db.iterator(start=after, stop=stop, reverse=True, fill_cache=False)
            _collect(backwards, None, behind, broken)
        pairs = (pairs + behind[::-1])[:limit]
    return Scan(pairs, broken, has_gap=True)


def _collect(
    iterator: Any,
    limit: int | None,
    pairs: list[tuple[bytes, bytes]],
    broken: list[tuple[bytes, bytes]],
) -> bytes | None:
    """The last key; None if there was none."""
    key = None
    with iterator:
        for key, sealed in iterator:
            try:
                pairs.append((key, unseal(key, sealed)))
            except SealBroken:
                broken.append((key, sealed))
            if len(pairs) == limit:
                break
    return key


def _check_end(db: Any, after: bytes) -> None:
    """Is there nothing more, or nothing that can be read? An iterator of plyvel does not tell.

    At the end of all data it stops without a look at the status: the last block is passed over.

    Raises:
        plyvel.CorruptionError: what comes next is damaged.
    """
    with closing(db.raw_iterator(verify_checksums=True)) as iterator:
        iterator.seek(after)


def quarantined_slots(db: Any) -> set[int]:
    """Slots that have lost a record at some time, which may have been one of an index."""
    prefix = QUARANTINE_PREFIX + b"s"
    slots = set()
    with suppress(plyvel.CorruptionError), db.iterator(prefix=prefix, include_value=False) as keys:
        for key in keys:
            slots.add(int.from_bytes(key[len(prefix) : len(prefix) + 2], "big"))
    return slots


def write_group(batch: Any, files: LevelDBFiles, number: int) -> None:
    """Write a batch, and note that its group is on the disk. Raises plyvel.Error."""
    batch.write()
    files.acknowledged(number)


def read_many(db: Any, keys: list[bytes]) -> list[bytes | SealBroken | plyvel.Error | None]:
    """The values of some keys, each a record, or what is wrong with it."""
    values: list[bytes | SealBroken | plyvel.Error | None] = []
    for key in keys:
        try:
            values.append(read_record(db, key))
        except (SealBroken, plyvel.Error) as error:
            values.append(error)
    return values
