"""The log in JetStream: streams that do not fit, answers that do not come, servers that go away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from skyring.errors import StorageError, TooLarge, Unavailable, Uncertain
from skyring.nats import Link, Message
from skyring.nats.jetstream import JetStreamApi
from skyring.ports import free_port
from skyring.storage import jetstream_stream
from skyring.storage.jetstream import JetStreamLog
from skyring.storage.jetstream_read import Reading
from skyring.storage.jetstream_stream import PAUSE_S
from skyring.storage.log import LogConflict
from skyring.testing.nats_server import NatsServer, start_cluster
from skyring.testing.proxy import Proxy
from tests.contract.nats_links import WAIT_S_MAX, Watch, linked

RING = "test"
STREAM = "SKYRING_test"
MAX_PAYLOAD = 10_000


def log_on(link: Link, slots: int = 16, replicas: int = 1, **more: Any) -> JetStreamLog:
    given = {"request_timeout_ms": 5_000, **more}
    return JetStreamLog(link, RING, slots, replicas, **given)


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[tuple[Link, JetStreamLog]]:
    async with linked(url, **settings) as link:
        log = log_on(link)
        await log.open()
        yield link, log


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, f"max_payload: {MAX_PAYLOAD}") as server:
        yield server


async def api(link: Link, what: str, body: object = None) -> dict[str, Any]:
    return await JetStreamApi(link, 5_000).ask(what, body)


async def change(link: Link, **config: Any) -> None:
    """Change the stream behind the back of the log."""
    present = (await api(link, f"STREAM.INFO.{STREAM}"))["config"]
    await api(link, f"STREAM.UPDATE.{STREAM}", {**present, **config})


async def texts(log: JetStreamLog, *slots: int) -> list[bytes]:
    return [message.data async for message in log.read(dict.fromkeys(slots, 0))]


# Streams that do not fit


async def test_nodes_that_start_together_make_one_log(server: NatsServer) -> None:
    async with linked(server.url) as link:
        logs = [log_on(link) for _ in range(8)]
        await asyncio.gather(*(log.open() for log in logs))
        assert len({log.identity for log in logs}) == 1
        assert len(logs[0].identity) == 32


@contextmanager
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server says that no stream is there, and makes none of this name either.

    For some moments servers of a cluster do, when a stream is being made.
    """
    ask = JetStreamApi.ask

    async def ask_in_vain(self: JetStreamApi, what: str, *arguments: Any) -> dict[str, Any]:
        if what.startswith("STREAM.INFO."):
            what += "-hidden"
        return await ask(self, what, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(JetStreamApi, "ask", ask_in_vain)
        yield


async def test_a_log_that_another_node_is_making_is_waited_for(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server.url) as (link, made):
        log = log_on(link)
        with hidden(monkeypatch):
            opening = asyncio.create_task(log.open())
            done, _ = await asyncio.wait([opening], timeout=4 * PAUSE_S)
            assert not done
        async with asyncio.timeout(WAIT_S_MAX):
            await opening
        assert log.identity == made.identity


async def test_a_log_that_is_not_made_for_long_is_no_reason_to_end(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_stream, "MADE_S_MAX", PAUSE_S)
    async with opened(server.url) as (link, _):
        with hidden(monkeypatch), pytest.raises(Unavailable, match="is being made, and not there"):
            await log_on(link).open()


async def test_another_number_of_slots_is_refused(server: NatsServer) -> None:
    async with opened(server.url) as (link, _):
        with pytest.raises(StorageError, match=r"ring test has 16 slots.* set to 32.* --slots 16"):
            await log_on(link, slots=32).open()


async def test_another_format_is_refused(server: NatsServer) -> None:
    async with opened(server.url) as (link, _):
        metadata = (await api(link, f"STREAM.INFO.{STREAM}"))["config"]["metadata"]
        await change(link, metadata={**metadata, "skyring-format": "2"})
        with pytest.raises(StorageError, match="logs of format 2, this program writes 1"):
            await log_on(link).open()


async def test_a_stream_of_somebody_else_is_refused(server: NatsServer) -> None:
    async with linked(server.url) as link:
        await api(link, f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": ["orders.*"]})
        with pytest.raises(StorageError, match="was not made by Skyring"):
            await log_on(link).open()


async def test_a_stream_that_takes_the_subjects_is_in_the_way(server: NatsServer) -> None:
    async with linked(server.url) as link:
        await api(link, "STREAM.CREATE.ALL", {"name": "ALL", "subjects": ["skyring.>"]})
        with pytest.raises(StorageError, match=r"SKYRING_test cannot be used: .*overlap"):
            await log_on(link).open()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"max_age": 10**12}, "max_age is 1000000000000 and must be 0"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject is 1"),
        ({"discard": "old"}, "discard is 'old'"),
        ({"subjects": ["skyring.test.log.*", "more"]}, "its subjects must be"),
    ],
)
async def test_a_stream_that_would_lose_timers_is_refused(
    server: NatsServer, config: dict[str, Any], text: str
) -> None:
    async with opened(server.url) as (link, _):
        await change(link, **config)
        with pytest.raises(StorageError, match=text):
            await log_on(link).open()


async def test_other_settings_than_those_of_the_stream_are_told(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server.url) as (link, _):
        await log_on(link, replicas=3, bytes_max=10**6).open()
        warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
        assert warnings == [
            f"the stream {STREAM} has num_replicas = 1, and is set to 3 here; it is left as it is",
            f"the stream {STREAM} has max_bytes = -1, and is set to 1000000 here; it is left as it"
            " is",
        ]


async def test_one_server_cannot_keep_three_replicas(server: NatsServer) -> None:
    async with linked(server.url) as link:
        with pytest.raises(StorageError, match=r"not enough servers for ring\.replicas = 3"):
            await log_on(link, replicas=3).open()


async def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, jetstream=False) as server, linked(server.url) as link:
        with pytest.raises(StorageError, match="NATS has no JetStream here") as raised:
            await log_on(link).open()
        assert "\n" not in str(raised.value)


async def test_an_account_without_jetstream_is_refused(tmp_path: Path) -> None:
    users = "users: [ { user: a, password: b } ]"
    async with (
        NatsServer(tmp_path, f"accounts {{ A: {{ {users} }} }}") as server,
        linked(server.url, user="a", password="b") as link,
    ):
        with pytest.raises(StorageError, match="NATS has no JetStream here"):
            await log_on(link).open()


async def test_while_nats_is_away_nothing_is_done() -> None:
    async with linked(f"nats://127.0.0.1:{free_port()}") as link:
        log = log_on(link)
        for work in (
            log.open(),
            log.append(0, b"", 0),
            log.last(0),
            log.purge(0, 5),
            log.size(0),
            texts(log, 0, 1),
        ):
            with pytest.raises(Unavailable, match="no connection to NATS") as raised:
                await work
            assert not isinstance(raised.value, Uncertain)


# Appending


async def test_what_is_too_large_is_refused_before_it_is_sent(server: NatsServer) -> None:
    async with opened(server.url) as (link, log):
        largest = log.message_bytes_max
        assert MAX_PAYLOAD - 200 < largest < MAX_PAYLOAD
        sequence = await log.append(0, b"x" * largest, 0)
        await change(link, first_seq=0)
        with pytest.raises(TooLarge):
            await log.append(0, b"x" * MAX_PAYLOAD, sequence)
        await log.append(0, b"y" * largest, sequence)
        assert await texts(log, 0) == [b"x" * largest, b"y" * largest]


async def test_a_full_stream_takes_nothing_and_says_so(server: NatsServer) -> None:
    async with linked(server.url) as link:
        log = log_on(link, bytes_max=20_000)
        await log.open()
        last = await log.append(0, b"x" * 9_000, 0)
        last = await log.append(0, b"x" * 9_000, last)
        with pytest.raises(Unavailable, match="maximum bytes exceeded") as raised:
            await log.append(0, b"x" * 9_000, last)
        assert not isinstance(raised.value, Uncertain)
        await log.purge(0, last)
        await log.append(0, b"x", last)


async def test_a_stream_that_is_gone_takes_nothing(server: NatsServer) -> None:
    async with opened(server.url) as (link, log):
        await log.append(0, b"a", 0)
        await api(link, f"STREAM.DELETE.{STREAM}")
        with pytest.raises(Unavailable) as raised:
            await log.append(0, b"b", 1)
        assert not isinstance(raised.value, Uncertain)
        with pytest.raises(Unavailable):
            await log.last(0)
        with pytest.raises(StorageError, match="NATS has come back without the log"):
            await log.check()
        await log_on(link).open()
        with pytest.raises(StorageError, match="NATS has come back without the log"):
            await log.check()


async def test_an_append_whose_answer_is_lost_is_uncertain_and_can_be_looked_up(
    server: NatsServer,
) -> None:
    async with (
        Proxy(server.port) as proxy,
        opened(proxy.url, echo_interval_ms=50, echo_timeout_ms=300) as (link, log),
    ):
        watch = Watch(link)
        first = await log.append(0, b"a", 0)
        proxy.swallow_answers()
        with pytest.raises(Uncertain, match="the connection to NATS was lost"):
            await log.append(0, b"b", first)
        await watch.reconnected()
        await log.check()
        last = await log.last(0)
        assert last is not None
        assert last.data == b"b"
        with pytest.raises(LogConflict):
            await log.append(0, b"b", first)


async def test_an_append_that_gets_no_answer_in_time_is_uncertain(server: NatsServer) -> None:
    async with linked(server.url) as link:
        log = log_on(link, request_timeout_ms=100)
        await log.open()
        await server.pause()
        try:
            with pytest.raises(Uncertain, match="no answer within 100 ms"):
                await log.append(0, b"a", 0)
        finally:
            server.resume()
        # The stream may take it behind this question although it was sent before: nobody
        # acknowledged it.
        async with asyncio.timeout(WAIT_S_MAX):
            while (last := await log.last(0)) is None:
                continue
        assert last.data == b"a"


# Restarts


async def test_a_server_that_comes_back_has_everything(server: NatsServer) -> None:
    async with opened(server.url) as (link, log):
        watch = Watch(link)
        last = await log.append(0, b"a", 0)
        server.kill()
        await watch.disconnected()
        with pytest.raises(Unavailable):
            await log.append(0, b"b", last)
        await server.start()
        await watch.reconnected()
        await log.check()
        await log.append(0, b"b", last)
        assert await texts(log, 0) == [b"a", b"b"]


async def test_a_server_that_comes_back_empty_handed_is_refused(server: NatsServer) -> None:
    async with opened(server.url) as (link, log):
        watch = Watch(link)
        await log.append(0, b"a", 0)
        server.kill()
        server.erase()
        await watch.disconnected()
        await server.start()
        await watch.reconnected()
        with pytest.raises(StorageError, match=r"without the log.*restore its data") as raised:
            await log.check()
        assert "\n" not in str(raised.value)


# Reading


async def test_a_connection_that_is_lost_while_reading_is_no_end_of_the_log(
    server: NatsServer,
) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url) as (link, log):
        watch = Watch(link)
        last = 0
        written = [b"%d" % number * 1_000 for number in range(3_000)]
        for text in written:
            last = await log.append(0, text, last)
        found: list[bytes] = []

        async def read() -> None:
            async for message in log.read({0: 0, 1: 0}):
                found.append(message.data)
                if len(found) == 100:
                    proxy.cut()

        with pytest.raises(Unavailable):
            await read()
        assert 100 <= len(found) < len(written)
        assert found == written[: len(found)]
        await watch.reconnected()
        assert await texts(log, 0) == written
        async with asyncio.timeout(WAIT_S_MAX):  # all are removed but the one that was cut off
            while (await api(link, f"CONSUMER.NAMES.{STREAM}"))["total"] > 1:
                continue


async def test_messages_that_are_lost_on_their_way_are_missed(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server.url) as (_, log):
        last = 0
        for number in range(10):
            last = await log.append(0, b"%d" % number, last)
        take = Reading._take

        def drop_one(self: Reading, *message: bytes) -> None:
            if message[3] != b"5":
                take(self, *message)

        monkeypatch.setattr(Reading, "_take", drop_one)
        with pytest.raises(Unavailable, match="lost on their way"):
            await texts(log, 0)


async def test_what_is_purged_during_a_reading_is_no_gap(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyring.storage.jetstream_read.BATCH_MAX", 10)
    async with opened(server.url) as (_, log):
        last = {0: 0, 1: 0}
        for number in range(60):
            for slot in last:
                last[slot] = await log.append(slot, b"%d" % number, last[slot])
        found: list[tuple[int, bytes]] = []
        async with asyncio.timeout(WAIT_S_MAX):
            async for message in log.read({0: 0, 1: 0}):
                if not found:
                    await log.purge(0, last[0] + 1)  # nothing of it is left
                    await log.purge(1, last[1])
                found.append((message.slot, message.data))
        assert found[-1] == (1, b"59")
        numbers = [int(data) for slot, data in found if slot == 1]
        assert numbers == sorted(set(numbers))


async def test_a_silent_server_ends_the_reading(server: NatsServer) -> None:
    async with linked(server.url, echo_timeout_ms=60_000) as link:
        log = log_on(link, request_timeout_ms=500)
        await log.open()
        last = 0
        for number in range(20):
            last = await log.append(0, b"%d" % number * 4_000, last)
        reading = log.read({0: 0})
        await server.pause()
        try:
            with pytest.raises(Unavailable):
                async with asyncio.timeout(WAIT_S_MAX):
                    _ = [message async for message in reading]
        finally:
            server.resume()


# Three servers


async def test_a_cluster_loses_nothing_with_one_server(tmp_path: Path) -> None:
    servers = await start_cluster(tmp_path, 3)
    try:
        urls = ",".join(server.url for server in servers)
        async with linked(urls, echo_timeout_ms=1_000) as link:
            log = log_on(link, replicas=3)
            await log.open()
            written = await _written_while(log, link, servers)
            await log.check()
            found = await _read_for_sure(log, *written)
            assert len(found) == sum(map(len, written.values()))
            for slot, expected in written.items():
                assert [text for text in found if text.startswith(b"%d-" % slot)] == expected
    finally:
        for server in servers:
            server.kill()


async def _written_while(
    log: JetStreamLog, link: Link, servers: list[NatsServer]
) -> dict[int, list[bytes]]:
    """Append to some slots while the leader of the stream is killed; what was acknowledged."""
    info = await api(link, f"STREAM.INFO.{STREAM}")
    leader = info["cluster"]["leader"]
    written: dict[int, list[bytes]] = {slot: [] for slot in range(8)}
    killed = asyncio.Event()

    async def write(slot: int) -> None:
        last = 0
        for number in range(60):
            text = b"%d-%d" % (slot, number)
            last = await _append_for_sure(log, slot, text, last)
            written[slot].append(text)
            if number == 20 and not killed.is_set():
                killed.set()
                next(server for server in servers if server.name == leader).kill()

    async with asyncio.timeout(60):
        await asyncio.gather(*map(write, written))
    return written


async def _append_for_sure(log: JetStreamLog, slot: int, text: bytes, last: int) -> int:
    """As the replicated storage does it: never on a guess."""
    while True:
        try:
            return await log.append(slot, text, last)
        except (LogConflict, Unavailable):
            await asyncio.sleep(0.05)
        try:
            found = await log.last(slot)
        except Unavailable:
            continue
        if found is not None and found.sequence != last:
            assert found.data == text, "nobody else writes"
            return found.sequence


async def _read_for_sure(log: JetStreamLog, *slots: int) -> list[bytes]:
    async with asyncio.timeout(60):
        while True:
            try:
                return await texts(log, *slots)
            except Unavailable:  # there is no leader yet
                await asyncio.sleep(0.05)


async def test_messages_of_strangers_do_no_harm(server: NatsServer) -> None:
    async with opened(server.url) as (link, log):
        link.send(Message("skyring.test.log.99", b"no such slot"))
        link.send(Message("skyring.test.log.x", b"no slot"))
        last = await log.append(0, b"a", 0)
        assert await texts(log, *range(16)) == [b"a"]
        assert last == 3
