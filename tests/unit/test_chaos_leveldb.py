"""What one damaged place in the files of a LevelDB can cost, held against LevelDB itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import plyvel
import pytest

from skyring.bench.chaos.blows import Aim, aim_at, blows, kind_in, strike
from skyring.bench.chaos.leveldb import (
    BLOCK_BYTES,
    Harm,
    harm_of,
    log_keys,
    table_keys,
    timer_of,
)
from skyring.bench.errors import BenchError
from skyring.storage.leveldb_files import slot_prefix
from skyring.timers.record import dead_key, due_key, timer_key

COUNT = 2_000
VALUE_BYTES = 300


def key(number: int) -> bytes:
    return slot_prefix(number % 256) + timer_key(f"timer-{number}")


def opened(path: Path) -> plyvel.DB:
    return plyvel.DB(
        str(path),
        create_if_missing=True,
        write_buffer_size=65_536,
        compression=None,
        bloom_filter_bits=10,
    )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Tables, a log, and some keys that were removed again."""
    database = opened(tmp_path / "made")
    for number in range(COUNT):
        with database.write_batch() as batch:
            batch.put(key(number), os.urandom(VALUE_BYTES))
            if number % 7 == 0 and number:
                batch.delete(key(number - 3))
    database.close()
    return tmp_path / "made"


def test_the_keys_of_all_files_are_those_that_were_written(database: Path) -> None:
    found: set[bytes] = set()
    for file in database.glob("*.ldb"):
        found |= table_keys(file)
    assert found
    logs = set().union(*(log_keys(file) for file in database.glob("*.log")))
    assert logs
    # Of keys that were removed nothing may be left, when their tables were merged.
    removed = {key(number - 3) for number in range(7, COUNT, 7)}
    assert {key(number) for number in range(COUNT)} - removed <= found | logs
    assert found | logs <= {key(number) for number in range(COUNT)}
    assert logs & removed


def test_a_table_that_was_never_finished_costs_nothing(database: Path) -> None:
    file = database / "999999.ldb"
    file.write_bytes(next(database.glob("*.ldb")).read_bytes()[:5_000])
    assert table_keys(file) == set()
    assert harm_of(Aim(file, "table", "flip", 100, 0)) == Harm(frozenset(), may_refuse=False)


def test_a_timer_is_named_by_its_record_its_dead_letter_and_the_due_index() -> None:
    slot = slot_prefix(7)
    for own in (timer_key("a"), dead_key("a"), due_key(1_700_000_000_000, "a")):
        assert timer_of(slot + own) == "a"
    assert timer_of(slot + b"l/applied") is None
    assert timer_of(b"m/group") is None


def content(database: Path) -> dict[bytes, bytes]:
    with opened(database) as found:
        return dict(found)


@pytest.mark.parametrize("how", ["flip", "truncate"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_a_damaged_log_has_lost_stood_in_the_damaged_part(
    database: Path, tmp_path: Path, how: str, share: float
) -> None:
    shutil.copytree(database, tmp_path / "sound")
    before = content(tmp_path / "sound")
    blow = next(
        each._replace(which=0.99, where=share) for each in blows(6, 1) if each[:2] == ("log", how)
    )
    aim = aim_at(database, blow)
    harm = harm_of(aim)
    size = aim.file.stat().st_size
    strike(database, blow)
    after = content(database)
    changed = {
        timer_of(each)
        for each in before.keys() | after.keys()
        if before.get(each) != after.get(each)
    }
    assert changed  # it is felt,
    assert changed <= harm.timers  # and no more than it may be
    assert not harm.may_refuse
    part = min(size, BLOCK_BYTES) if how == "flip" else size - aim.at
    assert len(harm.timers) <= 2 + 2 * part / VALUE_BYTES


def test_a_bit_in_a_table_costs_the_keys_of_that_table_at_most(database: Path) -> None:
    tables = [file for file in database.glob("*.ldb") if table_keys(file)]
    assert tables
    for file in tables:
        harm = harm_of(Aim(file, "table", "flip", 100, 0))
        assert harm.timers == {timer_of(each) for each in table_keys(file)}
        assert 0 < len(harm.timers) < COUNT
        assert not harm.may_refuse
        end = file.stat().st_size - 1  # where LevelDB finds the rest: nothing can be read
        assert harm_of(Aim(file, "table", "flip", end, 0)).may_refuse
        assert harm_of(Aim(file, "table", "truncate", 100, 0)).may_refuse


def test_a_manifest_that_is_cut_off_has_lost_the_tables_it_named_behind_the_cut(
    database: Path,
) -> None:
    [manifest] = database.glob("MANIFEST-*")
    size = manifest.stat().st_size
    whole = harm_of(Aim(manifest, "manifest", "truncate", size, 0))
    assert whole.timers == frozenset()
    none = harm_of(Aim(manifest, "manifest", "truncate", 0, 0))
    keys = set().union(*(table_keys(file) for file in database.glob("*.ldb")))
    assert none.timers <= {timer_of(each) for each in keys}
    last = harm_of(Aim(manifest, "manifest", "truncate", size - 1, 0))
    assert frozenset() < last.timers <= none.timers
    assert none.may_refuse


def test_what_is_no_file_of_a_leveldb_is_told(tmp_path: Path) -> None:
    (tmp_path / "000005.ldb").write_bytes(bytes(range(100)))
    manifest = tmp_path / "MANIFEST-000002"
    manifest.write_bytes(bytes(range(100)))
    with pytest.raises(BenchError):
        harm_of(Aim(manifest, "manifest", "truncate", 0, 0))
    assert kind_in(tmp_path, "table") == "table"
