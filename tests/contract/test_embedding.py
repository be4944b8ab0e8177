"""Skyring inside another program: the operations, the life of a node, HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from skyring import Settings, Skyring
from skyring.errors import (
    Conflict,
    DeliveryInProgress,
    InvalidRequest,
    NotFound,
    StorageLocked,
    Unavailable,
)
from skyring.http.server import ListenError
from skyring.settings import ShutdownSettings
from skyring.storage.registry import make_storage
from skyring.testing import Delivered, Gate, Recorder, reject, take
from skyring.transports.base import Callback
from tests.contract.recording import dead_letter, settings_for, to

HOUR_MS = 3_600_000


@pytest.fixture(params=["memory", "leveldb"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return settings_for(request.param, tmp_path / "db")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def sky(settings: Settings, recorder: Recorder) -> AsyncIterator[Skyring]:
    async with Skyring(settings, transports=[recorder]) as made:
        yield made


# The operations


async def test_the_whole_way(sky: Skyring, recorder: Recorder) -> None:
    callback = to("there", headers={"a": "b"}, timeout_ms=700)
    timer_id = await sky.timers.create(timeout=1, data="hällo", callback=callback)
    await recorder.wait_for(timer_id)
    ((given, payload, info),) = recorder.begun
    assert given == Callback("recorder", "give", "there", {"a": "b"}, timeout_ms=700)
    assert payload == "hällo".encode()
    assert (info.id, info.attempt, info.timeout_ms) == (timer_id, 1, 700)
    assert info.content_type == "text/plain; charset=utf-8"
    assert info.started_ms >= info.due_ms
    assert info.deadline_ms == info.started_ms + 700


async def test_create_get_update_list_cancel(sky: Skyring, recorder: Recorder) -> None:
    timers = sky.timers
    late = await timers.create(timeout=HOUR_MS, data={"order": 17}, callback=to())
    soon = await timers.create(timeout=HOUR_MS // 2, callback=to(), id="soon")
    assert soon == "soon"
    shown = await timers.get(late)
    assert (shown["id"], shown["state"], shown["timeout"]) == (late, "scheduled", HOUR_MS)
    assert bytes(shown["data"]) == b'{"order":17}'
    assert [timer["id"] for timer in (await timers.list()).timers] == ["soon", late]
    first = await timers.list(limit=1)
    second = await timers.list(limit=1, cursor=first.cursor)
    assert [page.timers[0]["id"] for page in (first, second)] == ["soon", late]
    await timers.update(late, timeout=60_000, data="now text", callback=to("elsewhere"))
    shown = await timers.get(late)
    assert (shown["data"], shown["timeout"]) == ("now text", 60_000)
    assert [timer["id"] for timer in (await timers.list()).timers] == [late, "soon"]
    await timers.cancel(late)
    await timers.cancel("soon")
    assert await timers.list() == ([], None)
    for operation in (timers.get(late), timers.cancel(late)):
        with pytest.raises(NotFound):
            await operation
    with pytest.raises(NotFound):
        await timers.update(late, timeout=1, callback=to())
    assert recorder.begun == []


async def test_an_id_of_one_s_own_is_safe_to_repeat(sky: Skyring) -> None:
    for _ in range(2):
        assert await sky.timers.create(timeout=HOUR_MS, callback=to(), id="mine") == "mine"
    with pytest.raises(Conflict):
        await sky.timers.create(timeout=HOUR_MS, data="other", callback=to(), id="mine")
    assert "data" not in await sky.timers.get("mine")


async def test_moments_and_callbacks_as_python_has_them(sky: Skyring) -> None:
    moment = datetime(2100, 1, 1, 12, 30, 0, 1, tzinfo=UTC)
    callback = Callback("recorder", "give", "here")
    timer_id = await sky.timers.create(at=moment, callback=callback)
    shown = await sky.timers.get(timer_id)
    assert shown["due"] == 4_102_489_800_001  # a microsecond rounded up
    assert shown["callback"] == callback
    await sky.timers.update(timer_id, at="2100-01-01T00:00:00Z", callback=callback)
    assert (await sky.timers.get(timer_id))["due"] == 4_102_444_800_000


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 1, "at": 5}, "at"),
        ({"at": datetime(2100, 1, 1)}, "at"),
        ({"timeout": 1, "data": 5}, "data"),
        ({"timeout": 1, "data": object()}, ""),
        ({"timeout": 1, "data": "\ud800"}, "data"),
        ({"timeout": 1, "callback": {}}, "callback.transport"),
        ({"timeout": 1, "callback": to(transport="pigeon")}, "callback.transport"),
        ({"timeout": 1, "callback": to("nowhere")}, "callback.uri"),
        ({"timeout": 1, "callback": to(retry={"attempts": 0})}, "callback.retry.attempts"),
        ({"timeout": 1, "id": "a b"}, "id"),
    ],
)
async def test_the_same_checks_as_over_http(
    sky: Skyring, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await sky.timers.create(**{"callback": to(), **fields})
    assert caught.value.field == field
    assert await sky.timers.list() == ([], None)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
async def test_a_number_that_json_cannot_write_is_refused_not_changed(
    sky: Skyring, number: float
) -> None:
    with pytest.raises(InvalidRequest):
        await sky.timers.create(timeout=HOUR_MS, data={"a": number}, callback=to())


async def test_dead_letters(sky: Skyring, recorder: Recorder) -> None:
    recorder.script = reject
    for number in range(3):
        await sky.timers.create(timeout=1, callback=to(), id=f"dead-{number}")
    await recorder.wait(lambda: recorder.events.count("end") == 3)
    for number in range(3):  # each is on its way from one state to the other
        with pytest.raises((NotFound, DeliveryInProgress)):
            await sky.timers.cancel(f"dead-{number}")
        await dead_letter(sky, f"dead-{number}")
    page = await sky.timers.dead_letters()
    assert [letter["id"] for letter in page.timers] == ["dead-0", "dead-1", "dead-2"]
    assert {(letter["state"], letter["last_error"]) for letter in page.timers} == {
        ("dead", "not here")
    }
    first = await sky.timers.dead_letters(limit=2)
    rest = await sky.timers.dead_letters(limit=2, cursor=first.cursor)
    assert [letter["id"] for letter in rest.timers] == ["dead-2"]
    assert (await sky.timers.get("dead-1"))["state"] == "dead"
    assert await sky.timers.list() == ([], None)


# The life of a node


async def test_the_defaults_are_those_of_the_settings() -> None:
    assert Skyring().settings == Settings()


async def test_stop_waits_for_the_delivery_under_way(settings: Settings) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    sky = Skyring(settings, transports=[recorder])
    await sky.start()
    await sky.timers.create(timeout=1, callback=to(), id="held")
    await sky.timers.create(timeout=HOUR_MS, callback=to(), id="later")
    await recorder.wait_for("held")
    waiting = asyncio.create_task(sky.wait())
    stopping = asyncio.create_task(sky.stop())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not stopping.done()
    await sky.timers.get("later")  # the storage is open as long as somebody is at work
    gate.open()
    async with asyncio.timeout(30):
        await stopping
        await waiting
        await sky.stop()  # once more does no harm
    assert recorder.events == ["open", "begin", "end", "close"]
    with pytest.raises(Unavailable):
        await sky.timers.create(timeout=1, callback=to())


async def test_what_was_delivered_is_gone_after_a_restart(tmp_path: Path) -> None:
    settings = settings_for("leveldb", tmp_path)
    gate = Gate()
    first = Recorder(gate)
    async with Skyring(settings, transports=[first]) as sky:
        await sky.timers.create(timeout=1, callback=to(), id="held")
        await sky.timers.create(timeout=HOUR_MS, callback=to(), id="later")
        await first.wait_for("held")
        asyncio.get_running_loop().call_soon(gate.open)  # when it is already stopping
    assert first.events == ["open", "begin", "end", "close"]
    assert await stored_keys(settings, b"t/") == [b"t/later"]
    assert len(await stored_keys(settings, b"d/")) == 1


async def stored_keys(settings: Settings, prefix: bytes) -> list[bytes]:
    """What a node has left behind."""
    storage = make_storage(settings.storage, settings.slots)
    await storage.open()
    await storage.acquire(range(settings.slots))
    stop = prefix[:-1] + b"0"  # the character after the slash
    found = [await storage.scan(slot, prefix, stop, 100) for slot in range(settings.slots)]
    await storage.close()
    return [key for pairs in found for key, _ in pairs]


async def test_a_delivery_that_does_not_end_in_time_is_made_again(tmp_path: Path) -> None:
    settings = settings_for("leveldb", tmp_path, shutdown=ShutdownSettings(drain_ms=50))
    silent = Recorder(Gate())
    async with Skyring(settings, transports=[silent]) as sky:
        await sky.timers.create(timeout=1, callback=to(), id="cut")
        await silent.wait_for("cut")
    assert silent.events == ["open", "begin", "cut", "close"]
    second = Recorder()
    async with Skyring(settings, transports=[second]):
        await second.wait_for("cut")
    (delivery,) = second.begun
    assert delivery.info.attempt == 1  # to be cut off is no failure of the receiver
    assert delivery.info.due_ms == silent.begun[0].info.due_ms


async def test_several_in_one_process(tmp_path: Path) -> None:
    recorders = [Recorder() for _ in range(3)]
    nodes = [
        Skyring(settings_for(backend, tmp_path / str(number)), transports=[recorder])
        for number, (backend, recorder) in enumerate(
            zip(["leveldb", "leveldb", "memory"], recorders, strict=True)
        )
    ]
    async with nodes[0], nodes[1], nodes[2]:
        for number, node in enumerate(nodes):
            await node.timers.create(timeout=1, callback=to(), id="same", data=str(number))
        for recorder in recorders:
            await recorder.wait_for("same")
        await nodes[1].stop()
        await nodes[0].timers.create(timeout=1, callback=to(), id="more", data="0")
        await recorders[0].wait_for("more")
    for number, recorder in enumerate(recorders):
        assert {delivery.payload for delivery in recorder.begun} == {str(number).encode()}


async def test_a_directory_has_one_node_and_the_first_goes_on(tmp_path: Path) -> None:
    settings = settings_for("leveldb", tmp_path)
    first, second = Recorder(), Recorder()
    async with Skyring(settings, transports=[first]) as sky:
        with pytest.raises(StorageLocked):
            await Skyring(settings, transports=[second]).start()
        assert "open" not in second.events
        await sky.timers.create(timeout=1, callback=to(), id="on")
        await first.wait_for("on")
    async with Skyring(settings, transports=[second]):
        pass
    assert second.events == ["open", "close"]


# HTTP


def body(**fields: Any) -> dict[str, Any]:
    return {"timeout": HOUR_MS, "callback": to(), **fields}


async def test_listen(sky: Skyring, recorder: Recorder) -> None:
    ports = [await sky.listen(0), await sky.listen(0, host="127.0.0.1")]
    assert len(set(ports)) == 2
    assert 0 not in ports
    for port in ports:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as api:
            assert (await api.get("/health/ready")).json() == {"status": "ready"}
            answer = await api.post("/timer", json=body(timeout=1))
            assert answer.status_code == 201
            await recorder.wait_for(answer.headers["location"].removeprefix("/timer/"))
    await sky.stop()
    for port in ports:
        with socket.socket() as free:  # nobody has it any more
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))


async def test_a_port_that_is_taken_leaves_the_node_as_it_was(
    sky: Skyring, recorder: Recorder
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=str(port)):
            await sky.listen(port)
    assert await sky.listen(port) == port
    await sky.timers.create(timeout=1, callback=to(), id="on")
    await recorder.wait_for("on")


async def test_no_answer_waits_for_an_acknowledgement(sky: Skyring) -> None:
    """Headers and body are written one after the other: Nagle's algorithm would hold the second."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{await sky.listen(0)}") as api:
        assert (await api.get("/ping")).text == "pong"
        (connection,) = sky._servers[0][0]._server.server_state.connections
        assert isinstance(connection, asyncio.Protocol)
        accepted = vars(connection)["transport"].get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_mounted_under_a_prefix(sky: Skyring, recorder: Recorder) -> None:
    app = FastAPI()
    app.mount("/some/clock", sky.asgi())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://mounted") as api:
        created = await api.post("/some/clock/timer", json=body(), headers={"x-timer-id": "a"})
        assert (created.status_code, created.content) == (201, b"")
        location = created.headers["location"]
        assert location == "/some/clock/timer/a"
        assert (await api.get(location)).json()["timeout"] == HOUR_MS
        assert (await api.put(location, json=body(timeout=5 * HOUR_MS))).status_code == 200
        assert (await api.delete(location)).status_code == 202
        assert (await api.get(location)).status_code == 404
        bulk = await api.post("/some/clock/timers", json=[body(timeout=1)])
        await recorder.wait_for(bulk.json()[0]["id"])
        assert (await api.get("/some/clock/ping")).text == "pong"
        assert (await api.patch("/some/clock/timer/a")).headers["allow"] == "DELETE, GET, PUT"
        assert (await api.get("/some/clock/nothing")).json()["code"] == "not-found"
        assert (await api.get("/ping")).status_code == 404  # that is the other app's


async def test_the_documents_of_a_mounted_app_lead_to_it(sky: Skyring) -> None:
    app = FastAPI()
    app.mount("/some/clock", sky.asgi())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://mounted") as api:
        assert "/some/clock/openapi.json" in (await api.get("/some/clock/docs")).text
        document = (await api.get("/some/clock/openapi.json")).json()
        (server,) = document["servers"]  # or "Try it out" asks the other app
        assert server["url"] == "/some/clock"


async def test_an_app_whose_node_does_not_run_says_so(settings: Settings) -> None:
    sky = Skyring(settings, transports=[Recorder()])
    transport = httpx.ASGITransport(sky.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as api:
        for reason in ("starting", "stopping"):
            ready = await api.get("/health/ready")
            assert (ready.status_code, ready.json()["reason"]) == (503, reason)
            for answer in (
                await api.post("/timer", json=body()),
                await api.get("/timers"),
                await api.get("/timer/a"),
                await api.delete("/timer/a"),
            ):
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
            if reason == "starting":
                await sky.start()
                assert (await api.get("/health/ready")).status_code == 200
                await sky.stop()


async def test_a_delivery_may_create_timers(settings: Settings) -> None:
    """What a program does in its transport is its own affair: nothing waits for itself."""

    async def chain(delivery: Delivered) -> Any:
        count = len(chained.begun)
        if count < 5:
            await node.timers.create(timeout=1, callback=to(), id=f"next-{count}")
        return await take(delivery)

    chained = Recorder(chain)
    async with Skyring(settings, transports=[chained]) as node:
        await node.timers.create(timeout=1, callback=to(), id="next-0")
        await chained.wait_for(*(f"next-{number}" for number in range(5)))


async def test_a_request_that_is_cancelled_is_answered(settings: Settings) -> None:
    """At the end of the event loop nobody else would answer it."""
    sent: list[Any] = []
    waits = asyncio.Event()

    async def receive() -> Any:
        waits.set()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    async with Skyring(settings) as sky:
        app: Any = sky.asgi()
        scope = {"type": "http", "method": "POST", "path": "/timer", "headers": []}
        task: asyncio.Task[None] = asyncio.create_task(app(scope, receive, send))
        await waits.wait()
        task.cancel()
        await asyncio.wait([task])
    assert sent[0]["status"] == 503
    assert b"uncertain" in sent[1]["body"]
