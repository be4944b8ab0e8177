"""What goes wrong somewhere stays there: the other timers fire."""

from __future__ import annotations

from pathlib import Path

import plyvel
import pytest

from skyring import Settings, Skyring
from skyring.errors import InvalidRequest, NotFound
from skyring.settings import DeliverySettings, HttpSettings, StorageSettings, TimerSettings
from skyring.storage.base import Storage
from skyring.storage.registry import make_storage
from skyring.testing import Gate, Recorder
from skyring.transports.base import Callback
from tests.contract.recording import nothing_pending, settings_for, to, until

HOUR_MS = 3_600_000
COUNT = 4_000


@pytest.mark.parametrize("backend", ["memory", "leveldb"])
async def test_a_silent_destination_with_more_than_memory_holds_up_nobody(
    backend: str, tmp_path: Path
) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    settings = settings_for(
        backend,
        tmp_path,
        timers=TimerSettings(scheduled_max=100),
        delivery=DeliverySettings(in_flight_per_destination_max=2, backlog_delay_ms=HOUR_MS),
    )
    async with Skyring(settings, transports=[recorder]) as sky:
        for index in range(180):
            await sky.timers.create(timeout=1, callback=to("silent"), id=f"silent-{index}")
        for index in range(5):
            await sky.timers.create(timeout=1, callback=to(f"host-{index}"), id=f"quick-{index}")
        await recorder.wait_for(*(f"quick-{index}" for index in range(5)))
        assert recorder.under_way["silent"] == 2
        gate.open()
        await until(sky, lambda: nothing_pending(sky))
    assert len(recorder.ids) == len(set(recorder.ids)) == 185


class Moody(Recorder):
    """Its check is somebody's code, and fails."""

    name = "moody"

    def check(self, callback: Callback) -> None:
        if callback.uri == "raise":
            raise KeyError("oops")

    def destination(self, callback: Callback) -> str:
        return None if callback.uri == "nowhere" else "somewhere"  # type: ignore[return-value]


@pytest.mark.parametrize("uri", ["raise", "nowhere"])
async def test_a_transport_that_cannot_check_refuses_the_timer(uri: str) -> None:
    settings = Settings(storage=StorageSettings(backend="memory"))
    async with Skyring(settings, transports=[Moody]) as sky:
        callback = {"transport": "moody", "method": "m", "uri": uri}
        with pytest.raises(InvalidRequest, match="moody"):
            await sky.timers.create(timeout=1, callback=callback, id="x")
        with pytest.raises(NotFound):
            await sky.timers.get("x")


async def test_a_page_ends_early_when_it_has_many_bytes(tmp_path: Path) -> None:
    settings = settings_for("memory", tmp_path, http=HttpSettings(page_bytes_max=8_192))
    async with Skyring(settings, transports=[Recorder]) as sky:
        for index in range(200):
            await sky.timers.create(
                timeout=HOUR_MS + index, callback=to(), data="x" * 500, id=f"timer-{index:03}"
            )
        seen: list[str] = []
        cursor: str | None = None
        pages = 0
        while True:
            page = await sky.timers.list(limit=200, cursor=cursor)
            assert len(page.timers) <= 8_192 // 500
            seen += [timer["id"] for timer in page.timers]
            pages += 1
            cursor = page.cursor
            if cursor is None:
                break
        assert 200 // 16 < pages < 25
        assert seen == [f"timer-{index:03}" for index in range(200)]
        with pytest.raises(InvalidRequest, match="limit"):
            await sky.timers.list(limit=0)


def on_disk(path: Path) -> Storage:
    return make_storage(StorageSettings(path=path), 8)


async def test_a_block_that_cannot_be_read_is_a_gap_and_not_the_end(tmp_path: Path) -> None:
    keys = [b"%05d" % number for number in range(COUNT)]
    storage = on_disk(tmp_path)
    await storage.open()
    await storage.acquire([1])
    await storage.commit(1, [(key, key * 20) for key in keys])
    await storage.close()
    database = plyvel.DB(str(tmp_path))
    database.compact_range()
    database.close()
    table = max(tmp_path.glob("*.ldb"), key=lambda file: file.stat().st_size)  # noqa: ASYNC240 - a test
    content = bytearray(table.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = b"\xff" * 64
    table.write_bytes(content)

    storage = on_disk(tmp_path)
    await storage.open()
    await storage.acquire([1])
    found = [key for key, _ in await storage.scan(1, b"", b"\xff", COUNT)]
    assert found == sorted(set(found))
    assert COUNT * 0.8 < len(found) < COUNT
    assert found[0] == keys[0]
    assert found[-1] == keys[-1]
    assert storage.damage.slots == {1}
    await storage.close()


async def test_damage_is_remembered_over_a_restart(tmp_path: Path) -> None:
    storage = on_disk(tmp_path)
    await storage.open()
    await storage.acquire([3])
    await storage.commit(3, [(b"k", b"v")])
    await storage.close()
    database = plyvel.DB(str(tmp_path))
    ((key, value),) = list(database.iterator(prefix=b"s"))
    database.put(key, value[:-1] + bytes([value[-1] ^ 1]))
    database.close()
    for _ in range(2):
        storage = on_disk(tmp_path)
        await storage.open()
        await storage.acquire([3])
        assert await storage.get(3, b"k") is None
        assert storage.damage.slots == {3}
        await storage.close()
