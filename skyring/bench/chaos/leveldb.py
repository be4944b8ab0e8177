"""What stands where in the files of a LevelDB: the keys that one damaged place can cost.

A witness that shares no code with LevelDB: it reads the files as doc/log_format.md and
doc/table_format.md of google/leveldb describe them, and only sound ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from skyring.bench.chaos.blows import Aim
from skyring.bench.errors import BenchError
from skyring.timers.record import DEAD_PREFIX, DUE_PREFIX, TIMER_PREFIX, split_due_key

__all__ = ["BLOCK_BYTES", "Harm", "harm_of", "log_keys", "table_keys", "timer_of"]

BLOCK_BYTES = 32_768
"""Of a log or a manifest. A reader that comes upon damage goes on with the next block."""
LOG_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
BATCH_HEADER_BYTES = 12
VALUE = 1
FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
SEQUENCE_BYTES = 8
"""Of an inner key, behind that of the user."""
SLOT_BYTES = 3
"""``s`` and the number of a slot: what the keys of a slot begin with."""


class Harm(NamedTuple):
    """What a blow can cost."""

    timers: frozenset[str]
    """Their ids. Whatever is of another timer is whole."""
    may_refuse: bool
    """Can so little be read that the node may refuse to start?"""


class _Span(NamedTuple):
    start: int
    end: int
    data: bytes


class _Reader:
    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def string(self) -> bytes:
        return self.take(self.varint())


def harm_of(aim: Aim) -> Harm:
    """What a blow at a file can cost; the file is sound still.

    A bit in a log costs the writes that stand in its block, one in a table the keys of that table.
    A log that is cut off has lost what stood behind the cut, a manifest the tables that it names
    there.

    Raises:
        BenchError: the file is not what it should be.
    """
    try:
        return _harm_of(aim)
    except (IndexError, struct.error, KeyError) as error:
        raise BenchError(f"{aim.file} cannot be read: {error!r}") from error


def _harm_of(aim: Aim) -> Harm:
    if aim.kind == "table":
        content = aim.file.read_bytes()
        if not _is_finished(content):
            return Harm(frozenset(), may_refuse=False)
        keys, data_end = _table(content)
        return Harm(_timers(keys), aim.how == "truncate" or aim.at >= data_end)
    first = aim.at - aim.at % BLOCK_BYTES if aim.how == "flip" else aim.at
    if aim.kind == "log":
        end = first + BLOCK_BYTES if aim.how == "flip" else None
        return Harm(_timers(log_keys(aim.file, first, end)), may_refuse=False)
    return Harm(_timers(_forgotten(aim.file, first)), may_refuse=True)


def timer_of(key: bytes) -> str | None:
    """The id of the timer whose record, dead letter or place in the due index this is."""
    key = key[SLOT_BYTES:] if key.startswith(b"s") else b""
    if key.startswith((TIMER_PREFIX, DEAD_PREFIX)):
        return key[len(TIMER_PREFIX) :].decode()
    if key.startswith(DUE_PREFIX):
        return split_due_key(key)[1]
    return None


def _timers(keys: set[bytes]) -> frozenset[str]:
    return frozenset(timer for timer in map(timer_of, keys) if timer is not None)


def log_keys(file: Path, start: int = 0, end: int | None = None) -> set[bytes]:
    """The keys, also removed ones, of all batches of which a part stands in this range of a log."""
    content = file.read_bytes()
    end = len(content) if end is None else end
    found: set[bytes] = set()
    for span in _records(content):
        if span.end > start and span.start < end:
            reader = _Reader(span.data, BATCH_HEADER_BYTES)
            while reader.at < len(span.data):
                kind = reader.take(1)[0]
                found.add(reader.string())
                if kind == VALUE:
                    reader.string()
    return found


def _records(content: bytes) -> Iterator[_Span]:
    """The records of a log or a manifest; one that is not complete at the end is none."""
    at, began, parts = 0, 0, b""
    while at + LOG_HEADER.size <= len(content):
        room = BLOCK_BYTES - at % BLOCK_BYTES
        if room < LOG_HEADER.size:
            at += room
            continue
        _, size, kind = LOG_HEADER.unpack_from(content, at)
        if kind not in (FULL, FIRST, MIDDLE, LAST):
            raise BenchError(f"a record of kind {kind} at {at}")
        if kind in (FULL, FIRST):
            began, parts = at, b""
        at += LOG_HEADER.size
        parts += content[at : at + size]
        at += size
        if kind in (FULL, LAST) and at <= len(content):
            yield _Span(began, at, parts)


def table_keys(file: Path) -> set[bytes]:
    """All keys of a table, also removed ones; none of one that was never finished."""
    content = file.read_bytes()
    return _table(content)[0] if _is_finished(content) else set()


def _is_finished(content: bytes) -> bool:
    """One that is not was being written when the process ended: nothing needs it."""
    return int.from_bytes(content[-8:], "little") == MAGIC


def _table(content: bytes) -> tuple[set[bytes], int]:
    """Its keys, and where its data ends."""
    footer = _Reader(content[-FOOTER_BYTES:])
    footer.varint(), footer.varint()  # of the index of filters
    keys: set[bytes] = set()
    data_end = 0
    for _, handle in _block(content, footer.varint(), footer.varint()):
        where = _Reader(handle)
        at, size = where.varint(), where.varint()
        keys.update(key[:-SEQUENCE_BYTES] for key, _ in _block(content, at, size))
        data_end = max(data_end, at + size)
    return keys, data_end


def _block(content: bytes, at: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if content[at + size] != 0:
        raise BenchError("a block is compressed")
    data = content[at : at + size]
    end = size - 4 * (1 + int.from_bytes(data[-4:], "little"))
    reader, key = _Reader(data), b""
    while reader.at < end:
        shared, new, length = reader.varint(), reader.varint(), reader.varint()
        key = key[:shared] + reader.take(new)
        yield key, reader.take(length)


def _forgotten(manifest: Path, cut: int) -> set[bytes]:
    """The keys of the tables that a manifest does not know when it ends before a place."""
    spans = list(_records(manifest.read_bytes()))
    missing = _live(spans) - _live([span for span in spans if span.end <= cut])
    found: set[bytes] = set()
    for number in missing:
        found |= table_keys(manifest.with_name(f"{number:06}.ldb"))
    return found


def _live(spans: list[_Span]) -> set[int]:
    """The numbers of the tables that there are after some edits."""
    live: set[int] = set()
    for span in spans:
        reader = _Reader(span.data)
        while reader.at < len(span.data):
            tag = reader.varint()
            if tag == 1:  # name of the order of keys
                reader.string()
            elif tag in (2, 3, 4, 9):  # numbers of files, last sequence
                reader.varint()
            elif tag == 5:  # where the next compaction of a level begins
                reader.varint(), reader.string()
            elif tag == 6:
                reader.varint()
                live.discard(reader.varint())
            elif tag == 7:
                reader.varint()
                live.add(reader.varint())
                reader.varint(), reader.string(), reader.string()
            else:
                raise BenchError(f"an edit of kind {tag} in a manifest")
    return live
