"""One suite over every storage backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import plyvel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyring.errors import Fenced, StorageError, StorageLocked, Unavailable, Uncertain
from skyring.settings import StorageSettings
from skyring.storage.base import Storage
from skyring.storage.leveldb import LevelDBStorage
from skyring.storage.leveldb_files import LevelDBFiles
from skyring.storage.leveldb_mark import Mark
from skyring.storage.memory import MemoryStorage
from skyring.storage.registry import make_storage
from skyring.storage.threads import Done, Worker

SLOTS = 8
BACKENDS = ["memory", "leveldb", "leveldb-nosync"]


def make(backend: str, path: Path, slots: int = SLOTS) -> Storage:
    if backend == "memory":
        return make_storage(StorageSettings(backend="memory"), slots)
    sync = "never" if backend.endswith("nosync") else "always"
    return make_storage(StorageSettings(path=path, sync=sync), slots)  # type: ignore[arg-type]


@pytest.fixture(params=BACKENDS)
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    made = make(request.param, tmp_path / "db")
    await made.open()
    await made.acquire(range(SLOTS))
    yield made
    await made.close()


async def test_gives_back_what_was_committed(storage: Storage) -> None:
    await storage.commit(1, [(b"a", b"1"), (b"b", b"")])
    assert await storage.get(1, b"a") == b"1"
    assert await storage.get(1, b"b") == b""
    assert await storage.get(1, b"c") is None


async def test_slots_do_not_mix(storage: Storage) -> None:
    await storage.commit(1, [(b"k", b"one")])
    await storage.commit(2, [(b"k", b"two")])
    assert await storage.get(1, b"k") == b"one"
    assert await storage.scan(2, b"", b"\xff", 10) == [(b"k", b"two")]
    assert await storage.get(3, b"k") is None


async def test_later_writes_of_a_commit_win(storage: Storage) -> None:
    await storage.commit(0, [(b"k", b"old")])
    await storage.commit(0, [(b"k", None), (b"k", b"new"), (b"gone", b"x"), (b"gone", None)])
    assert await storage.scan(0, b"", b"\xff", 10) == [(b"k", b"new")]


async def test_deleting_what_is_not_there_is_fine(storage: Storage) -> None:
    await storage.commit(0, [(b"nothing", None)])
    assert await storage.scan(0, b"", b"\xff", 10) == []


async def test_scan_is_ordered_and_bounded(storage: Storage) -> None:
    keys = [bytes([value]) for value in (9, 3, 200, 7, 100, 0)]
    await storage.commit(4, [(key, key * 2) for key in keys])
    found = await storage.scan(4, b"\x03", b"\xc8", 10)
    assert found == [(key, key * 2) for key in (b"\x03", b"\x07", b"\x09", b"\x64")]
    assert await storage.scan(4, b"", b"\xff", 2) == [(b"\0", b"\0\0"), (b"\3", b"\3\3")]


async def test_a_slot_that_is_not_held_is_fenced(storage: Storage) -> None:
    await storage.release([5])
    with pytest.raises(Fenced):
        await storage.commit(5, [(b"k", b"v")])
    with pytest.raises(Fenced):
        await storage.get(5, b"k")
    with pytest.raises(Fenced):
        await storage.scan(5, b"", b"\xff", 1)
    await storage.acquire([5])
    assert await storage.get(5, b"k") is None


async def test_a_closed_storage_is_unavailable(storage: Storage) -> None:
    await storage.close()
    await storage.close()
    with pytest.raises(Unavailable):
        await storage.commit(0, [(b"k", b"v")])
    with pytest.raises(Unavailable):
        await storage.get(0, b"k")


async def test_many_commits_at_once_are_all_there(storage: Storage) -> None:
    await asyncio.gather(
        *(storage.commit(index % SLOTS, [(b"%d" % index, b"v")]) for index in range(2_000))
    )
    values = await asyncio.gather(
        *(storage.get(index % SLOTS, b"%d" % index) for index in range(2_000))
    )
    assert values == [b"v"] * 2_000


KEYS = st.binary(min_size=1, max_size=2)
WRITES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=8)), min_size=1, max_size=5)
COMMITS = st.lists(st.tuples(st.integers(0, 2), WRITES), max_size=20)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(commits=COMMITS, start=KEYS, stop=KEYS, limit=st.integers(1, 6))
def test_behaves_like_a_dict(
    backend: str,
    tmp_path_factory: pytest.TempPathFactory,
    commits: list[tuple[int, list[tuple[bytes, bytes | None]]]],
    start: bytes,
    stop: bytes,
    limit: int,
) -> None:
    async def compare() -> None:
        storage = make(backend, tmp_path_factory.mktemp("model"))
        model: dict[int, dict[bytes, bytes]] = {0: {}, 1: {}, 2: {}}
        await storage.open()
        await storage.acquire(range(SLOTS))
        for slot, writes in commits:
            await storage.commit(slot, writes)
            for key, value in writes:
                if value is None:
                    model[slot].pop(key, None)
                else:
                    model[slot][key] = value
        for slot, expected in model.items():
            inside = sorted(pair for pair in expected.items() if start <= pair[0] < stop)
            assert await storage.scan(slot, start, stop, limit) == inside[:limit]
            for key, value in expected.items():
                assert await storage.get(slot, key) == value
        await storage.close()

    asyncio.run(compare())


# What only a store on disk can do


async def test_is_durable(tmp_path: Path) -> None:
    for round_ in range(3):
        storage = make("leveldb", tmp_path)
        await storage.open()
        await storage.acquire([1])
        assert len(await storage.scan(1, b"", b"\xff", 10)) == round_
        await storage.commit(1, [(b"%d" % round_, b"v")])
        await storage.close()


async def test_one_process_per_directory(tmp_path: Path) -> None:
    first, second = make("leveldb", tmp_path), make("leveldb", tmp_path)
    await first.open()
    with pytest.raises(StorageLocked, match="in use by another Skyring"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


async def test_another_slot_count_is_refused(tmp_path: Path) -> None:
    storage = make("leveldb", tmp_path)
    await storage.open()
    await storage.close()
    with pytest.raises(StorageError, match=r"slots 8.*slots 16"):
        await make("leveldb", tmp_path, 16).open()


async def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(StorageError, match="cannot create"):
        await make("leveldb", path).open()


async def test_a_full_queue_refuses_and_recovers(tmp_path: Path) -> None:
    storage = LevelDBStorage(
        LevelDBFiles(tmp_path, SLOTS, 1 << 20, 1 << 20, 50), pending_bytes_max=1000
    )
    await storage.open()
    await storage.acquire([0])
    accepted = storage.commit(0, [(b"big", b"x" * 2000)])
    with pytest.raises(Unavailable, match="waiting for the disk"):
        await storage.commit(0, [(b"late", b"x")])
    await accepted
    await storage.commit(0, [(b"late", b"x")])
    assert await storage.get(0, b"late") == b"x"
    await storage.close()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_write_that_failed_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """When it is opened again, neither at once nor at the next start; it may be stored or not."""

    class FailsOnce(Worker):
        def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
            super().__init__(loop, name)
            self._writes = "writer" in name

        def submit(self, call: Callable[[], Any], done: Done) -> None:
            def failing() -> None:
                if when == "after":
                    call()
                raise plyvel.IOError(b"IO error: no such luck")

            fails = failures and self._writes
            super().submit(failing if fails else call, done)
            if fails:
                failures.clear()

    failures: list[str] = []
    mark = Mark(tmp_path)
    files = LevelDBFiles(tmp_path, SLOTS, 1 << 20, 1 << 20, 50, mark=mark)
    for start in range(2):
        storage = LevelDBStorage(files, worker=FailsOnce)
        await storage.open()
        await storage.acquire([0])
        for number in range(20):
            await storage.commit(0, [(b"%d" % number, b"%d" % start)])
        failures.append(when)
        with pytest.raises(Uncertain):
            await storage.commit(0, [(b"failed", b"%d" % start)])
        assert storage._recovery is not None
        await storage._recovery
        assert await storage.get(0, b"19") == b"%d" % start
        if start == 0:
            await storage.commit(0, [(b"later", b"")])
        assert storage.damage.opens == 0
        await storage.close()
    assert mark.read() is None
    stored = {"before": (20 + 1 + 20,), "after": (21 + 1 + 20, 21 + 1 + 21)}
    assert mark.group in stored[when]
    reported = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert [text.startswith("a write failed") for text in reported] == [True, True]


async def test_the_memory_model_is_the_default_for_memdown() -> None:
    assert isinstance(
        make_storage(StorageSettings(backend="memdown"), 1),  # type: ignore[arg-type]
        MemoryStorage,
    )
