"""What an acknowledged timer survives."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import signal
import time
from pathlib import Path

import httpx
import plyvel
import pytest

from skyring.bench.errors import BenchError
from skyring.bench.process import ServerProcess
from skyring.storage.leveldb_files import slot_prefix
from skyring.timers.record import timer_key, timer_slot
from tests.acceptance.receiver import CallbackReceiver

SLOTS = 256


async def test_kill_and_restart_loses_nothing(tmp_path: Path, receiver: CallbackReceiver) -> None:
    """kill -9 in the middle of creates, cancels and deliveries."""
    server = ServerProcess(tmp_path)
    acknowledged: set[str] = set()
    cancelled: set[str] = set()
    for round_ in range(4):
        await server.start()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for worker in range(8):
                group.create_task(
                    _work(server.url, receiver, f"{round_}-{worker}", acknowledged, cancelled, stop)
                )
            async with asyncio.timeout(60):
                while len(acknowledged) < 40 * (round_ + 1):  # each kill finds other work under way
                    await asyncio.sleep(0.01)
            assert await server.kill() == -signal.SIGKILL
            stop.set()
    await server.start()
    wanted = acknowledged - cancelled
    assert len(wanted) > 100
    async with asyncio.timeout(60):
        while not wanted <= {callback.id for callback in receiver.received}:
            await asyncio.sleep(0.05)
    assert await server.stop() == 0
    delivered = [callback.id for callback in receiver.received]
    assert not cancelled & set(delivered)
    assert all(callback.arrived_ms >= callback.due_ms for callback in receiver.received)
    assert "Traceback" not in server.log


async def _work(
    url: str,
    receiver: CallbackReceiver,
    name: str,
    acknowledged: set[str],
    cancelled: set[str],
    stop: asyncio.Event,
) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10) as api:
        for number in range(100_000):
            timer_id = f"{name}-{number}"
            far = number % 5 == 0
            fields = {"timeout": 60_000 if far else 200, "callback": receiver.callback()}
            try:
                answer = await api.post("/timer", json=fields, headers={"x-timer-id": timer_id})
                assert answer.status_code == 201
                if not far:
                    acknowledged.add(timer_id)
                elif (await api.delete(f"/timer/{timer_id}")).status_code == 202:
                    cancelled.add(timer_id)
            except httpx.TransportError:
                return
            if stop.is_set():
                return


async def test_overdue_timers_fire_after_the_start(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    server = ServerProcess(tmp_path)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        answer = await api.post("/timer", json={"timeout": 3_000, "callback": receiver.callback()})
    due_ms = time.time() * 1000 + 3_000
    await server.kill()
    await asyncio.sleep(max(0.0, due_ms / 1000 - time.time()))  # let it become overdue
    assert receiver.received == []
    await server.start()
    (callback,) = await receiver.wait(1)
    assert answer.headers["location"] == f"/timer/{callback.id}"
    await server.stop()


async def test_a_graceful_stop_ends_the_delivery_under_way(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    receiver.hold = True
    server = ServerProcess(tmp_path, arguments=["--log:level", "info"])
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        await api.post("/timer", json={"timeout": 1, "callback": receiver.callback()})
        await receiver.wait(1)
    stopping = asyncio.create_task(server.stop())
    async with asyncio.timeout(10):
        while "stopping" not in server.log:
            await asyncio.sleep(0.01)
    receiver.release()
    assert await stopping == 0
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        assert (await api.get("/timers")).json()["timers"] == []
    await server.stop()
    assert len(receiver.received) == 1


async def test_a_delivery_that_does_not_end_is_made_again(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    receiver.hold = True
    server = ServerProcess(tmp_path, arguments=["--shutdown:drain-ms", "100"])
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        await api.post("/timer", json={"timeout": 1, "callback": receiver.callback()})
        await receiver.wait(1)
    assert await server.stop() == 0
    receiver.release()
    await server.start()
    first, again = await receiver.wait(2)
    assert first.id == again.id
    await server.stop()


async def test_readiness_fails_before_the_port_closes(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, arguments=["--shutdown:ready-delay-ms", "60000"])
    async with httpx.AsyncClient(base_url=server.url) as api:
        await server.start()
        stopping = asyncio.create_task(server.stop(timeout_s=1))
        async with asyncio.timeout(10):
            while (answer := await api.get("/health/ready")).status_code == 200:
                await asyncio.sleep(0.01)
        assert answer.json()["reason"] == "stopping"
        assert (await api.get("/ping")).status_code == 200
        await stopping


async def test_a_second_server_on_the_directory_is_refused(server: ServerProcess) -> None:
    second = ServerProcess(server.storage_path.parent)
    with pytest.raises(BenchError, match=r"ended with 1: skyring: .* is in use by another Skyring"):
        await second.start()


async def test_a_failed_write_is_never_acknowledged_and_the_server_recovers(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    """The disk is full, in effect: no file may grow. Then there is room again."""
    server = ServerProcess(tmp_path)
    await server.start()
    fields = {"timeout": 3_600_000, "data": "x" * 2_000, "callback": receiver.callback()}
    acknowledged, refused = set(), []
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as api:
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        for number in range(300):
            if number == 100:
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (50_000, hard))
            timer_id = f"t{number}"
            answer = await api.post("/timer", json=fields, headers={"x-timer-id": timer_id})
            if answer.status_code == 201:
                acknowledged.add(timer_id)
            else:
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
                refused.append(answer.json()["code"])
        assert refused[0] == "uncertain"
        assert set(refused) <= {"uncertain", "unavailable"}
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (soft, hard))
        async with asyncio.timeout(40):
            while (await api.post("/timer", json={**fields, "timeout": 1})).status_code != 201:
                await asyncio.sleep(0.1)
        await receiver.wait(1)  # and it fires again
    await server.kill()
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        for timer_id in acknowledged:
            assert (await api.get(f"/timer/{timer_id}")).status_code == 200, timer_id
    await server.stop()
    assert "a write failed" in server.log
    assert "Traceback" not in server.log


async def test_a_storage_that_does_not_come_back_ends_the_server(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    """A write fails, and what should be the directory is a file by then."""
    server = ServerProcess(tmp_path, arguments=["--storage:reopen-timeout-ms", "200"])
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as api:
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4_000, hard))
        shutil.rmtree(server.storage_path)
        server.storage_path.write_text("")
        fields = {"timeout": 60_000, "data": "x" * 8_000, "callback": receiver.callback()}
        with pytest.raises(httpx.TransportError):  # noqa: PT012 - until it is gone
            async with asyncio.timeout(30):
                while True:
                    answer = await api.post("/timer", json=fields)
                    assert answer.status_code == 503
                    await asyncio.sleep(0.05)
    assert await server.ended() == 1
    assert "did not come back: cannot create" in server.log
    assert "Traceback" not in server.log


async def test_a_damaged_record_is_put_aside_and_the_rest_is_served(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    server = ServerProcess(tmp_path)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        for name in ("good", "bad", "soon"):
            timeout = 1_500 if name == "soon" else 60_000
            await api.post(
                "/timer",
                json={"timeout": timeout, "data": name, "callback": receiver.callback()},
                headers={"x-timer-id": name},
            )
    await server.stop()
    for name in ("bad", "soon"):
        _flip_a_bit(server.storage_path, name)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        assert (await api.get("/timer/bad")).status_code == 404
        assert (await api.get("/timer/good")).json()["data"] == "good"
        listed = (await api.get("/timers")).json()["timers"]
        assert [timer["id"] for timer in listed] == ["good"]
        async with asyncio.timeout(20):
            while server.log.count("is damaged; it is put aside") < 2:
                await asyncio.sleep(0.05)
    await server.stop()
    assert receiver.received == []
    database = plyvel.DB(str(server.storage_path))
    kept = [key for key, _ in database.iterator(prefix=b"q/")]
    database.close()
    assert len(kept) == 2


def _flip_a_bit(path: Path, timer_id: str) -> None:
    database = plyvel.DB(str(path))
    key = slot_prefix(timer_slot(timer_id, SLOTS)) + timer_key(timer_id)
    value = bytearray(database.get(key))
    value[len(value) // 2] ^= 1
    database.put(key, bytes(value))
    database.close()


async def test_a_damaged_log_is_told_and_kept(tmp_path: Path, receiver: CallbackReceiver) -> None:
    server = ServerProcess(tmp_path)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        for number in range(50):
            await api.post(
                "/timer",
                json={"timeout": 60_000, "data": "x" * 500, "callback": receiver.callback()},
                headers={"x-timer-id": f"t{number}"},
            )
    await server.kill()
    (log,) = server.storage_path.glob("*.log")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0x10
    log.write_bytes(content)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        assert (await api.get("/timer/t0")).status_code == 200
        answer = await api.post("/timer", json={"timeout": 1, "callback": receiver.callback()})
        assert answer.status_code == 201
        await receiver.wait(1)
    await server.stop()
    assert "is damaged" in server.log
    assert (server.storage_path / "damaged-1" / log.name).read_bytes() == content


async def test_another_slot_count_is_refused_in_one_line(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        path = server.storage_path
    other = ServerProcess(tmp_path / "other", arguments=["--storage:path", str(path), "--slots=16"])
    with pytest.raises(BenchError, match=r"ended with 1: .*slots 256.*slots 16"):
        await other.start()


async def test_memory_forgets(tmp_path: Path, receiver: CallbackReceiver) -> None:
    server = ServerProcess(tmp_path, arguments=["--storage:backend", "memdown"])
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        await api.post("/timer", json={"timeout": 60_000, "callback": receiver.callback()})
        await api.post("/timer", json={"timeout": 1, "callback": receiver.callback()})
        await receiver.wait(1)
        async with asyncio.timeout(30):  # what was delivered is gone a moment later
            while len((await api.get("/timers")).json()["timers"]) != 1:
                await asyncio.sleep(0.01)
    await server.stop()
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as api:
        assert json.loads((await api.get("/timers")).content)["timers"] == []
    await server.stop()
