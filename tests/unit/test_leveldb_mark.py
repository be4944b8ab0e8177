"""The mark of what was acknowledged: it tells of files that are too short, and makes nothing up."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from google_crc32c import value as crc32c

from skyring.storage.leveldb_mark import KEY, LENGTH, NAME, Mark
from skyring.storage.seal import OVERHEAD_BYTES

MANIFEST = "MANIFEST-000002"
MANIFEST_BYTES = 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As LevelDB leaves it when it is open."""
    (tmp_path / "CURRENT").write_text(f"{MANIFEST}\n")
    (tmp_path / MANIFEST).write_bytes(b"m" * MANIFEST_BYTES)
    return tmp_path


def note(directory: Path, *groups: int) -> None:
    """A process that acknowledges these groups, and ends."""
    mark = Mark(directory)
    mark.open()
    for group in groups:
        mark.write(group)
    mark.close()


def read(directory: Path) -> tuple[str | None, int]:
    mark = Mark(directory)
    wrong = mark.read()
    return wrong, mark.group


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert read(tmp_path) == (None, 0)


def test_nothing_is_known_when_it_was_made_and_nothing_acknowledged(directory: Path) -> None:
    """The power may also be cut between the two."""
    note(directory)
    assert (directory / NAME).read_bytes() == b""
    assert read(directory) == (None, 0)


def test_the_last_group_is_known(directory: Path) -> None:
    note(directory, 1, 2, 17)
    assert read(directory) == (None, 17)


def test_a_smaller_number_takes_the_place_of_a_greater(directory: Path) -> None:
    """An older backup has been restored, and goes on from where it ends."""
    note(directory, 1_000_000)
    note(directory, 3)
    assert read(directory) == (None, 3)


def test_it_never_changes_its_length(directory: Path) -> None:
    lengths = set()
    for group in (1, 10, 2**63):
        note(directory, group)
        lengths.add((directory / NAME).stat().st_size)
    assert lengths == {LENGTH + OVERHEAD_BYTES}


def test_a_manifest_that_has_grown_or_is_as_it_was_is_fine(directory: Path) -> None:
    note(directory, 5)
    assert read(directory) == (None, 5)
    with (directory / MANIFEST).open("ab") as manifest:
        manifest.write(b"more")
    assert read(directory) == (None, 5)


def test_a_manifest_that_is_shorter_is_told(directory: Path) -> None:
    note(directory, 5)
    os.truncate(directory / MANIFEST, MANIFEST_BYTES - 1)
    assert read(directory) == (f"{MANIFEST} was {MANIFEST_BYTES} bytes long", 5)


def test_its_length_is_that_of_the_last_group(directory: Path) -> None:
    mark = Mark(directory)
    mark.open()
    mark.write(1)
    with (directory / MANIFEST).open("ab") as manifest:
        manifest.write(b"more")
    mark.write(2)
    mark.close()
    os.truncate(directory / MANIFEST, MANIFEST_BYTES)
    assert read(directory) == (f"{MANIFEST} was {MANIFEST_BYTES + 4} bytes long", 2)


def test_a_manifest_that_was_replaced_is_fine(directory: Path) -> None:
    """LevelDB begins a new one at each start, and removes the one before."""
    note(directory, 5)
    (directory / MANIFEST).unlink()
    (directory / "CURRENT").write_text("MANIFEST-000009\n")
    (directory / "MANIFEST-000009").write_bytes(b"m")
    assert read(directory) == (None, 5)
    note(directory, 6)
    assert read(directory) == (None, 6)


def test_any_flipped_bit_is_noticed(directory: Path) -> None:
    note(directory, 5)
    sound = (directory / NAME).read_bytes()
    for bit in range(8 * len(sound)):
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        (directory / NAME).write_bytes(flipped)
        wrong, group = read(directory)
        assert wrong is not None
        assert group == 0


@pytest.mark.parametrize("length", [1, OVERHEAD_BYTES, LENGTH // 2, LENGTH + OVERHEAD_BYTES - 1])
def test_one_that_is_torn_is_told_and_the_next_group_mends_it(directory: Path, length: int) -> None:
    note(directory, 5)
    os.truncate(directory / NAME, length)
    wrong, group = read(directory)
    assert wrong is not None
    assert wrong.startswith("what was acknowledged last cannot be read: ")
    assert group == 0
    note(directory, 6)
    assert read(directory) == (None, 6)


def test_one_of_a_version_to_come_is_told(directory: Path) -> None:
    body = b"\x02what this program does not know".ljust(LENGTH)
    written = body + crc32c(KEY + body).to_bytes(4, "big")
    (directory / NAME).write_bytes(written)
    assert read(directory) == ("what was acknowledged last cannot be read: unknown version 2", 0)


def test_a_full_disk_makes_it_stay_behind(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Mark(directory)
    mark.open()
    mark.write(5)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", _no_space)
        mark.write(6)
    assert read(directory) == (None, 5)
    mark.write(7)
    mark.close()
    assert read(directory) == (None, 7)


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_it_can_be_opened_and_closed_again_and_again(directory: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    mark = Mark(directory)
    mark.close()
    for group in range(1, 4):
        mark.open()
        mark.open()
        mark.write(group)
    mark.close()
    mark.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert read(directory) == (None, 3)
