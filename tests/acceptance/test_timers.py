"""Timers through HTTP: created, seen, changed, delivered."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from skyring.bench.process import ServerProcess
from tests.acceptance.receiver import Answer, CallbackReceiver, Received


async def create(
    api: httpx.AsyncClient, callback: dict[str, object], *, id: str | None = None, **fields: Any
) -> str:
    headers = {} if id is None else {"x-timer-id": id}
    answer = await api.post("/timer", json={"callback": callback, **fields}, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.content == b""
    location = answer.headers["location"]
    assert location.startswith("/timer/")
    return str(location.removeprefix("/timer/"))


async def eventually_gone(api: httpx.AsyncClient, timer_id: str) -> None:
    """A delivered timer is deleted in the moment after its receiver has answered."""
    async with asyncio.timeout(10):
        while (await api.get(f"/timer/{timer_id}")).status_code != 404:
            await asyncio.sleep(0.01)


async def test_the_whole_way(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    before_ms = time.time_ns() / 1e6
    timer_id = await create(api, receiver.callback(), timeout=150, data="hello")
    (callback,) = await receiver.wait(1)
    assert callback.body == b"hello"
    assert (callback.method, callback.path) == ("POST", "/hook")
    assert callback.headers["content-type"] == "text/plain; charset=utf-8"
    assert callback.id == timer_id
    assert callback.attempt == 1
    assert callback.arrived_ms >= before_ms + 150
    assert callback.arrived_ms >= callback.due_ms
    assert abs(int(callback.headers["webhook-timestamp"]) - time.time()) < 60
    await eventually_gone(api, timer_id)


async def test_an_object_is_sent_as_json_with_the_users_headers(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    data = {"a": [1, 2.5, None, "ü"], "big": 12345678901234567890}
    headers = {"Authorization": "Bearer x", "x-empty": ""}
    await create(api, receiver.callback(method="put", headers=headers), timeout=1, data=data)
    (callback,) = await receiver.wait(1)
    assert json.loads(callback.body) == data
    assert callback.method == "PUT"
    assert callback.headers["content-type"] == "application/json"
    assert callback.headers["authorization"] == "Bearer x"
    assert callback.headers["x-empty"] == ""


async def test_no_data_is_an_empty_body_and_a_content_type_may_be_chosen(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    await create(api, receiver.callback(), timeout=1)
    await receiver.wait(1)
    await create(api, receiver.callback(headers={"Content-Type": "text/csv"}), timeout=1, data="a")
    empty, chosen = await receiver.wait(2)
    assert empty.body == b""
    assert "content-type" not in empty.headers
    assert chosen.headers["content-type"] == "text/csv"


async def test_at_in_the_past_fires_at_once(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    await create(api, receiver.callback(), at=1)
    await create(api, receiver.callback(), at="2001-01-01T00:00:00+01:00")
    first, second = await receiver.wait(2)
    assert {first.due_ms, second.due_ms} == {1, 978_303_600_000}


async def test_get_shows_a_timer(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    callback = receiver.callback(headers={"a": "b"}, retry={"attempts": 3})
    timer_id = await create(api, callback, timeout=60_000, data={"x": 1})
    shown = (await api.get(f"/timer/{timer_id}")).json()
    assert shown["due"] == shown["next"] == shown["created"] + 60_000
    assert abs(shown["created"] - time.time() * 1000) < 60_000
    del shown["due"], shown["next"], shown["created"]
    assert shown == {
        "id": timer_id,
        "state": "scheduled",
        "attempts": 0,
        "last_error": None,
        "timeout": 60_000,
        "data": {"x": 1},
        "callback": callback,
    }


async def test_create_with_an_id_is_safe_to_repeat(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    fields = {"timeout": 60_000, "data": "x", "callback": receiver.callback()}
    headers = {"x-timer-id": "order-1"}
    answers = await asyncio.gather(
        *(api.post("/timer", json=fields, headers=headers) for _ in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert {answer.headers["location"] for answer in answers} == {"/timer/order-1"}
    other = await api.post("/timer", json={**fields, "data": "y"}, headers=headers)
    assert other.status_code == 409
    assert other.json()["code"] == "conflict"
    assert (await api.get("/timer/order-1")).json()["data"] == "x"


async def test_update_replaces_everything(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    timer_id = await create(api, receiver.callback(), timeout=60_000, data="old")
    changed = {"timeout": 50, "data": "new", "callback": receiver.callback(headers={"n": "1"})}
    answer = await api.put(f"/timer/{timer_id}", json=changed)
    assert (answer.status_code, answer.content) == (200, b"")
    (callback,) = await receiver.wait(1)
    assert (callback.id, callback.body, callback.headers["n"]) == (timer_id, b"new", "1")
    await eventually_gone(api, timer_id)
    assert (await api.put(f"/timer/{timer_id}", json=changed)).status_code == 404


async def test_an_update_can_put_a_timer_off(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    timer_id = await create(api, receiver.callback(), timeout=300, data="soon")
    await create(api, receiver.callback(), timeout=700, data="mark")
    fields = {"timeout": 60_000, "data": "later", "callback": receiver.callback()}
    assert (await api.put(f"/timer/{timer_id}", json=fields)).status_code == 200
    (callback,) = await receiver.wait(1)
    assert callback.body == b"mark"  # 400 ms after the first would have fired
    assert (await api.get(f"/timer/{timer_id}")).json()["data"] == "later"


async def test_cancel(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    timer_id = await create(api, receiver.callback(), timeout=300, data="no")
    await create(api, receiver.callback(), timeout=700, data="mark")
    answer = await api.delete(f"/timer/{timer_id}")
    assert (answer.status_code, answer.content) == (202, b"")
    assert (await api.delete(f"/timer/{timer_id}")).status_code == 404
    (callback,) = await receiver.wait(1)
    assert callback.body == b"mark"


async def test_too_late_for_a_change_while_it_is_being_delivered(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    receiver.hold = True
    fields = {"timeout": 1, "callback": receiver.callback()}
    await api.post("/timer", json=fields, headers={"x-timer-id": "held"})
    await receiver.wait(1)
    assert (await api.get("/timer/held")).json()["state"] == "delivering"
    cancel = await api.delete("/timer/held")
    assert (cancel.status_code, cancel.json()["code"]) == (409, "delivering")
    assert (await api.put("/timer/held", json=fields)).status_code == 409
    again = await api.post("/timer", json=fields, headers={"x-timer-id": "held"})
    assert again.status_code == 200
    receiver.release()
    await eventually_gone(api, "held")
    assert len(receiver.received) == 1


async def test_cancel_against_fire(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    """Either 202 and no delivery, or a delivery and no 202; over many tries both happen."""
    ids = [
        await create(api, receiver.callback(), timeout=400 + 2 * index, id=f"race-{index}")
        for index in range(150)
    ]
    start_s = time.monotonic()
    # Each cancel is sent about when its timer is due; half of them a little before.
    accepted = []
    for index, timer_id in enumerate(ids):
        due = (await api.get(f"/timer/{timer_id}")).json().get("due")
        if due is not None:
            early_ms = 2 if index % 2 else 0
            await asyncio.sleep(max(0.0, (due - early_ms) / 1000 - time.time()))
        answer = await api.delete(f"/timer/{timer_id}")
        assert answer.status_code in (202, 404, 409)
        accepted.append(answer.status_code == 202)
    assert time.monotonic() - start_s < 60
    await create(api, receiver.callback(), timeout=300, id="mark")
    async with asyncio.timeout(30):
        while "mark" not in {callback.id for callback in receiver.received}:
            await receiver.wait(len(receiver.received) + 1)
    delivered = {callback.id for callback in receiver.received}
    for timer_id, cancelled in zip(ids, accepted, strict=True):
        assert cancelled != (timer_id in delivered), timer_id
    assert len(receiver.received) == len(delivered)


async def test_bulk_array(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    entries: list[Any] = [
        {"timeout": 1, "data": str(index), "callback": receiver.callback()} for index in range(300)
    ]
    entries[7] = {"timeout": 0, "callback": receiver.callback()}
    entries[8] = 5
    entries[9] = {"id": "mine", "timeout": 60_000, "callback": receiver.callback()}
    entries[10] = {"id": "mine", "timeout": 60_000, "callback": receiver.callback()}
    entries[11] = {"id": "mine", "timeout": 60_001, "callback": receiver.callback()}
    entries[12] = {"id": "not legal", "timeout": 1, "callback": receiver.callback()}
    answer = await api.post("/timers", json=entries)
    assert answer.status_code == 200
    results = answer.json()
    statuses = [result["status"] for result in results]
    assert statuses[7:9] == [400, 400]
    assert results[7]["field"] == "timeout"
    assert sorted(statuses[9:12]) == [200, 201, 409] or sorted(statuses[9:12]) == [201, 409, 409]
    assert statuses[12] == 400
    assert statuses[:7] + statuses[13:] == [201] * 294
    await receiver.wait(294)
    sent = {int(callback.body): callback.id for callback in receiver.received}
    assert all(sent[n] == results[n]["id"] for n in [*range(7), *range(13, 300)])


async def test_bulk_lines(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    line = json.dumps({"timeout": 60_000, "callback": receiver.callback()})
    body = f"{line}\n\n{line}\r\nbroken\n{line}"
    answer = await api.post(
        "/timers", content=body, headers={"content-type": "application/x-ndjson"}
    )
    assert answer.headers["content-type"] == "application/x-ndjson"
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [result["status"] for result in results] == [201, 201, 400, 201]


async def test_a_list_in_pages_by_due_time(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    now_ms = int(time.time() * 1000)
    dues = [now_ms + 60_000 + 1_000 * ((number * 37) % 101) for number in range(101)]
    await api.post("/timers", json=[{"at": due, "callback": receiver.callback()} for due in dues])
    seen: list[int] = []
    cursor: str | None = None
    pages = 0
    for _ in range(20):
        pages += 1
        page = (
            await api.get("/timers", params={"limit": 10, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [timer["due"] for timer in page["timers"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert pages == 11
    assert seen == sorted(dues)
    part = await api.get(
        "/timers", params={"due_after": now_ms + 70_000, "due_before": now_ms + 80_000}
    )
    assert [timer["due"] for timer in part.json()["timers"]] == sorted(
        due for due in dues if now_ms + 70_000 <= due < now_ms + 80_000
    )


async def test_retries_until_it_is_taken(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    answers = iter([500, 302, 404])

    def fail_three_times(callback: Received) -> Answer:
        return next(answers, 204), {"location": receiver.uri}

    receiver.answer = fail_three_times
    retry = {"attempts": 5, "backoff_ms": 20, "max_ms": 50}
    timer_id = await create(api, receiver.callback(retry=retry), timeout=1, data="x")
    callbacks = await receiver.wait(4)
    assert [callback.attempt for callback in callbacks] == [1, 2, 3, 4]
    assert {callback.id for callback in callbacks} == {timer_id}
    assert {callback.body for callback in callbacks} == {b"x"}
    assert len({callback.due_ms for callback in callbacks}) == 1
    await eventually_gone(api, timer_id)
    assert (await api.get("/dead-letters")).json() == {"dead_letters": [], "next": None}


async def test_between_attempts_the_timer_tells_why(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    receiver.answer = lambda callback: (503, {"retry-after": "3600"})
    timer_id = await create(api, receiver.callback(), timeout=1)
    await receiver.wait(1)
    async with asyncio.timeout(10):
        while (shown := (await api.get(f"/timer/{timer_id}")).json())["attempts"] == 0:
            await asyncio.sleep(0.01)
    assert shown["state"] == "scheduled"
    assert "503" in shown["last_error"]
    # Retry-After was honoured: the default backoff would be a second at the most.
    assert shown["next"] > time.time() * 1000 + 3_000_000
    assert shown["due"] == receiver.received[0].due_ms
    assert (await api.delete(f"/timer/{timer_id}")).status_code == 202


async def dead_letters(api: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        while True:
            listed: list[dict[str, Any]] = (await api.get("/dead-letters")).json()["dead_letters"]
            if len(listed) == count:
                return listed
            await asyncio.sleep(0.01)


async def test_dead_letters(api: httpx.AsyncClient, receiver: CallbackReceiver) -> None:
    receiver.answer = lambda callback: (410 if callback.body == b"gone" else 500, {})
    retry = {"attempts": 2, "backoff_ms": 1, "max_ms": 1}
    used_up = await create(api, receiver.callback(retry=retry), timeout=1, data="x")
    gone = await create(api, receiver.callback(), timeout=1, data="gone")
    letters = {letter["id"]: letter for letter in await dead_letters(api, 2)}
    assert letters[used_up]["attempts"] == 2
    assert "500" in letters[used_up]["last_error"]
    assert letters[gone]["attempts"] == 1
    assert "410" in letters[gone]["last_error"]
    assert {letter["state"] for letter in letters.values()} == {"dead"}
    assert (await api.get(f"/timer/{gone}")).json()["state"] == "dead"
    assert (await api.delete(f"/timer/{gone}")).status_code == 404
    same = {"timeout": 1, "data": "gone", "callback": receiver.callback()}
    taken = await api.post("/timer", json=same, headers={"x-timer-id": gone})
    assert taken.status_code == 409
    assert "dead letter" in taken.json()["detail"]

    receiver.answer = lambda callback: (200, {})
    before = len(receiver.received)
    assert (await api.post(f"/dead-letters/{used_up}/retry")).status_code == 202
    again = (await receiver.wait(before + 1))[-1]
    assert (again.id, again.attempt, again.body) == (used_up, 1, b"x")
    assert (await api.delete(f"/dead-letters/{gone}")).status_code == 202
    assert await dead_letters(api, 0) == []
    assert (await api.post(f"/dead-letters/{gone}/retry")).status_code == 404


async def test_nobody_listens(api: httpx.AsyncClient) -> None:
    callback: dict[str, object] = {
        "transport": "http",
        "method": "post",
        "uri": "http://127.0.0.1:9/",
        "retry": {"attempts": 1},
    }
    timer_id = await create(api, callback, timeout=1)
    (letter,) = await dead_letters(api, 1)
    assert letter["id"] == timer_id
    assert letter["last_error"]


async def test_a_silent_receiver_is_given_up_and_does_not_hold_up_others(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    async with CallbackReceiver(hold=True) as silent:
        retry = {"attempts": 1}
        for _ in range(200):  # more than one host gets at once
            await create(api, silent.callback(timeout_ms=700, retry=retry), timeout=1)
        await silent.wait(1)
        await create(api, receiver.callback(), timeout=1)
        await receiver.wait(1)
        letters = await dead_letters(api, 100)  # the first page
        assert {letter["last_error"] for letter in letters} == {"time-out after 700 ms"}


async def test_twenty_thousand_at_once(
    api: httpx.AsyncClient, server: ServerProcess, receiver: CallbackReceiver
) -> None:
    due_ms = int(time.time() * 1000) + 3_000
    entry = {"at": due_ms, "callback": receiver.callback()}
    ids: set[str] = set()
    for _ in range(4):
        answer = await api.post("/timers", json=[entry] * 5_000)
        ids |= {result["id"] for result in answer.json()}
    assert len(ids) == 20_000
    callbacks = await receiver.wait(20_000, timeout_s=90)
    assert {callback.id for callback in callbacks} == ids
    assert min(callback.arrived_ms for callback in callbacks) >= due_ms
    async with asyncio.timeout(30):
        while (await api.get("/timers", params={"limit": 1})).json()["timers"]:
            await asyncio.sleep(0.05)
    assert len(receiver.received) == 20_000


async def test_health_and_documents(api: httpx.AsyncClient) -> None:
    assert (await api.get("/ping")).text == "pong"
    assert (await api.get("/health/live")).status_code == 200
    assert (await api.get("/health/ready")).json() == {"status": "ready"}
    assert (await api.get("/docs")).status_code == 200
    document = (await api.get("/openapi.json")).json()
    assert set(document["paths"]["/timer/{timer_id}"]) == {"get", "put", "delete"}
    assert set(document["paths"]["/timer"]) == {"post"}
    assert set(document["paths"]["/timers"]) == {"get", "post"}


@pytest.mark.parametrize("piece_bytes", [1, 7])
async def test_a_request_in_pieces(
    server: ServerProcess, receiver: CallbackReceiver, piece_bytes: int
) -> None:
    content = json.dumps({"timeout": 60_000, "callback": receiver.callback()}).encode()
    whole = (
        b"POST /timer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content) + content
    )
    reader, writer = await asyncio.open_connection(server.host, server.port)
    for _ in range(2):  # the connection is kept
        for start in range(0, len(whole), piece_bytes):
            writer.write(whole[start : start + piece_bytes])
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert answer.startswith(b"HTTP/1.1 201 ")
    writer.write(whole * 5)  # pipelined
    for _ in range(5):
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert answer.startswith(b"HTTP/1.1 201 ")
    writer.close()
