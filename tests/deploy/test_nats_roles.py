"""What each user of ``deploy/nats`` may do, and what not: three real servers, and real clients."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from nats.aio.msg import Msg

import skyring
from skyring.errors import Unavailable
from skyring.nats import Connection, make_link
from skyring.ring.bus import Answer
from skyring.ring.nats_bus import NatsBus
from skyring.settings import RingSettings
from skyring.storage.jetstream import JetStreamLog
from skyring.storage.log import LogConflict
from skyring.testing.nats_server import NatsServer
from skyring.timers.attempt import Attempts
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_nats import Nats
from tests.deploy.shipped import DEPLOY, RING, ShippedNats, eventually, settled

SLOTS = 8
TIMEOUT_MS = 20_000
ANNOUNCE_TIMEOUT_MS = 2_000
WAIT_S_MAX = 60
PAUSE_S = 0.1
MIB = 1 << 20
LOG_0 = f"skyring.{RING}.log.0"


class Ear:
    """What a bus or a subscription has brought."""

    def __init__(self) -> None:
        self.heard_data: list[bytes] = []
        self._changed = asyncio.Event()

    def heard(self, announcement: bytes) -> None:
        self.heard_data.append(announcement)
        self._changed.set()

    def asked(self, question: bytes, answer: Answer) -> None:
        answer(b"answer to " + question)

    def connected(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        pass

    async def take(self, message: Msg) -> None:
        self.heard(message.data)

    async def until(self, data: bytes) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while data not in self.heard_data:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def log_as_node(cluster: ShippedNats) -> AsyncIterator[JetStreamLog]:
    async with cluster.linked("node") as link:
        log = JetStreamLog(link, RING, SLOTS, 3, TIMEOUT_MS)
        await log.open()
        yield log


@asynccontextmanager
async def bus_as_node(cluster: ShippedNats, name: str, ear: Ear) -> AsyncIterator[NatsBus]:
    bus = NatsBus(make_link(cluster.settings("node"), name), RING, 3, TIMEOUT_MS)
    await bus.open(name, ear)
    bus.serve()
    try:
        await eventually(lambda: bus.is_up)
        yield bus
    finally:
        await bus.close()


async def read(log: JetStreamLog, slots: Iterable[int]) -> set[int]:
    """The sequences in these slots.

    It is tried again, as by a node: a consumer may not be known yet on the server that is asked.
    """
    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            try:
                found = [message async for message in log.read(dict.fromkeys(slots, 0))]
                return {message.sequence for message in found}
            except Unavailable:
                await asyncio.sleep(PAUSE_S)


async def denied_to_publish(
    client: Connection, denied: list[str], subjects: Sequence[str]
) -> set[str]:
    """Which of these subjects the server does not let it publish to."""
    denied.clear()
    for subject in subjects:
        await client.publish(subject, b"x", reply=f"skyring.{RING}.node.a")
    await settled(client)
    said = " ".join(denied)
    return {subject for subject in subjects if f'Publish to "{subject}"' in said}


async def denied_to_listen(
    client: Connection, denied: list[str], subjects: Sequence[str]
) -> set[str]:
    """Which of these subjects the server does not let it subscribe to."""
    denied.clear()
    for subject in subjects:
        await client.subscribe(subject)
    await settled(client)
    said = " ".join(denied)
    return {subject for subject in subjects if f'Subscription to "{subject}"' in said}


T = TypeVar("T")


async def when_led(ask: Callable[[], Awaitable[T]]) -> T:
    """As a node does it: a stream that has just been made has no leader for a while."""
    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(PAUSE_S)


# The node


async def test_a_node_may_do_all_that_the_log_needs(cluster: ShippedNats) -> None:
    before = cluster.refusals("node")
    async with log_as_node(cluster) as log:
        first = await when_led(lambda: log.append(0, b"a", 0))
        second = await log.append(0, b"b" * 2 * MIB, first)  # more than NATS takes by default
        with pytest.raises(LogConflict):
            await log.append(0, b"c", first)
        await log.append(1, b"d", 0)
        for slots in ((0,), range(SLOTS)):  # one is picked out, or all are read
            assert await read(log, slots) >= {first, second}
        await log.purge(0, second)
        assert (await log.size(0)).messages == 1
        await log.check()
    assert cluster.refusals("node") == before


async def test_a_node_may_do_all_that_the_bus_needs(cluster: ShippedNats) -> None:
    before = cluster.refusals("node")
    ear = Ear()
    async with bus_as_node(cluster, "a", ear) as a, bus_as_node(cluster, "b", Ear()) as b:
        await when_led(lambda: a.announce(b"I am a", ANNOUNCE_TIMEOUT_MS))
        await ear.until(b"I am a")
        assert b"I am a" in await b.announcements()
        assert await a.ask("b", b"question", TIMEOUT_MS) == b"answer to question"
        a.emit("claim", b"{}")
    assert cluster.refusals("node") == before


async def replicas_on(server: NatsServer) -> dict[str, int]:
    """The streams of the ring that a server keeps, and how many servers do."""
    about = await server.monitoring("/jsz?streams=true&config=true&accounts=true")
    accounts = {item["name"]: item for item in about.get("account_details") or ()}
    streams = accounts.get("SKYRING", {}).get("stream_detail") or ()
    return {item["name"]: item["config"]["num_replicas"] for item in streams}


async def test_three_servers_keep_each_stream_and_sync_it(cluster: ShippedNats) -> None:
    expected = {f"SKYRING_{RING}": 3, f"SKYRING-GOSSIP_{RING}": 3}
    async with log_as_node(cluster), bus_as_node(cluster, "c", Ear()) as bus:
        await when_led(lambda: bus.announce(b"I am c", ANNOUNCE_TIMEOUT_MS))
    for server in cluster.servers:

        async def has_all(server: NatsServer = server) -> bool:
            return await replicas_on(server) == expected

        await server.until(has_all)
        assert (await server.monitoring("/jsz"))["config"]["sync_always"] is True


async def test_a_node_may_do_nothing_else(cluster: ShippedNats) -> None:
    before = cluster.refusals("node")
    publish = [
        f"$JS.API.STREAM.DELETE.SKYRING_{RING}",
        f"$JS.API.STREAM.UPDATE.SKYRING_{RING}",
        f"$JS.API.STREAM.PURGE.SKYRING-GOSSIP_{RING}",
        f"$JS.API.STREAM.MSG.DELETE.SKYRING_{RING}",
        "$JS.API.STREAM.CREATE.ANOTHER",
        "$JS.API.STREAM.NAMES",
        "$SYS.REQ.SERVER.PING",
        "skyring.another.log.0",
        "timers.x",
    ]
    listen = [f"skyring.{RING}.log.*", f"skyring.{RING}.events.*", "skyring.>", ">", "$JS.>"]
    async with log_as_node(cluster), cluster.client("node") as (client, denied):
        assert await denied_to_publish(client, denied, publish) == set(publish)
        assert await denied_to_listen(client, denied, listen) == set(listen)
    assert len(cluster.refusals("node")) == len(before) + len(publish) + len(listen)


def test_what_is_permitted_is_what_the_program_asks_for() -> None:
    """A new question to JetStream needs a line in accounts.conf; one that is gone needs none."""
    question = r"(?:STREAM|CONSUMER)(?:\.[A-Z]+)+"
    asked = set()
    for room in ("ring", "storage"):
        for path in (Path(skyring.__file__).parent / room).glob("*.py"):
            asked |= set(re.findall(rf'{question}(?=\.{{|")', path.read_text()))
    text = (DEPLOY / "nats" / "accounts.conf").read_text()
    permitted = re.findall(rf'"\$JS\.API\.({question})\.SKYRING(?:-GOSSIP)?_{RING}[".]', text)
    assert set(permitted) == asked
    assert len(asked) == 7
    assert RingSettings().name == RING


# The observer


async def test_an_observer_reads_events_and_heartbeats(cluster: ShippedNats) -> None:
    ear = Ear()
    async with (
        bus_as_node(cluster, "d", Ear()) as bus,
        cluster.client("observer") as (client, denied),
    ):
        await client.subscribe(f"skyring.{RING}.events.*", cb=ear.take)
        await client.subscribe(f"skyring.{RING}.gossip.*", cb=ear.take)
        await settled(client)
        bus.emit("claim", b'{"slots": [1]}')
        await ear.until(b'{"slots": [1]}')
        await bus.announce(b"I am d", TIMEOUT_MS)
        await ear.until(b"I am d")
        assert denied == []


async def test_an_observer_says_nothing_and_hears_nothing_else(cluster: ShippedNats) -> None:
    publish = [
        *(f"skyring.{RING}.{part}" for part in ("gossip.a", "node.a", "events.claim", "log.0")),
        *(f"$JS.API.STREAM.{what}.SKYRING_{RING}" for what in ("DELETE", "PURGE", "INFO")),
        f"$JS.API.STREAM.MSG.GET.SKYRING_{RING}",
        f"$JS.API.CONSUMER.CREATE.SKYRING_{RING}.mine",
        "$JS.API.INFO",
        "_INBOX.somebody",
        "timers.x",
        "x",
    ]
    listen = [f"skyring.{RING}.{part}.*" for part in ("log", "node")]
    listen += ["skyring.>", "_INBOX.>", ">", "$JS.>", "$SYS.>", "timers.>"]
    async with (
        log_as_node(cluster) as log,
        bus_as_node(cluster, "a", Ear()),
        cluster.client("observer") as (client, denied),
    ):
        before = [await log.last(slot) for slot in range(SLOTS)]
        assert await denied_to_publish(client, denied, publish) == set(publish)
        assert await denied_to_listen(client, denied, listen) == set(listen)
        assert [await log.last(slot) for slot in range(SLOTS)] == before


# Delivery and receivers


class Receiver:
    """A program that gets timers over NATS, and answers ok."""

    def __init__(self) -> None:
        self.ear = Ear()

    async def take(self, message: Msg) -> None:
        self.ear.heard(message.data)
        if message.reply:
            await message.respond(b"ok")


@asynccontextmanager
async def transport(cluster: ShippedNats) -> AsyncIterator[Nats]:
    made = Nats(
        Nats.Options.model_validate(
            {
                "servers": ",".join(cluster.urls),
                "user": "delivery",
                "password": cluster.passwords["delivery"],
                "ca_file": cluster.ca_file,
                "inbox_prefix": "_INBOX_DELIVERY",
                "connect_timeout_ms": TIMEOUT_MS,
            }
        )
    )
    await made.open()
    try:
        await eventually(lambda: made._link is not None and made._link.session is not None)
        yield made
    finally:
        await made.close()


async def deliver(transport: Nats, method: str, subject: str, payload: bytes) -> Outcome:
    now_ms = int(time.time() * 1000)
    info = DeliveryInfo(
        id="timer",
        attempt=1,
        due_ms=now_ms,
        started_ms=now_ms,
        content_type=None,
        timeout_ms=TIMEOUT_MS,
    )
    callback = Callback(transport="nats", method=method, uri=subject)
    return await Attempts().attempt(transport, callback, payload, info)


@pytest.mark.parametrize("method", ["publish", "request"])
async def test_timers_are_delivered_to_a_receiver(cluster: ShippedNats, method: str) -> None:
    before = cluster.refusals("delivery")
    receiver = Receiver()
    async with transport(cluster) as nats, cluster.client("receiver") as (client, denied):
        await client.subscribe("timers.>", queue="orders", cb=receiver.take)
        await settled(client)
        payload = f"by {method}".encode()
        assert await deliver(nats, method, "timers.orders", payload) == Outcome.delivered()
        await receiver.ear.until(payload)
        assert denied == []
    assert cluster.refusals("delivery") == before


async def test_timers_are_delivered_into_a_stream_of_a_receiver(cluster: ShippedNats) -> None:
    before = cluster.refusals("delivery")
    async with transport(cluster) as nats, cluster.client("receiver") as (client, denied):
        jetstream = client.jetstream()
        await jetstream.add_stream(name="KEPT", subjects=["timers.kept.*"], num_replicas=3)
        assert await deliver(nats, "jetstream", "timers.kept.1", b"kept") == Outcome.delivered()
        consumer = await jetstream.pull_subscribe("timers.kept.*", durable="worker")
        (message,) = await consumer.fetch(1, timeout=WAIT_S_MAX)
        assert message.data == b"kept"
        await message.ack_sync(timeout=WAIT_S_MAX)
        assert denied == []
    assert cluster.refusals("delivery") == before


async def test_a_timer_cannot_be_delivered_into_the_ring(cluster: ShippedNats) -> None:
    async with log_as_node(cluster) as log, transport(cluster) as nats:
        before = await log.last(0)
        for method in ("publish", "request", "jetstream"):
            outcome = await deliver(nats, method, LOG_0, b"rubbish")
            assert outcome != Outcome.delivered()
            assert f"does not permit to publish to {LOG_0}" in outcome.reason
        assert await log.last(0) == before


async def test_delivery_hears_nothing_but_replies(cluster: ShippedNats) -> None:
    listen = ["timers.>", "skyring.>", ">", "_INBOX.>", "$JS.>"]
    publish = ["$JS.API.STREAM.DELETE.KEPT", "$JS.API.INFO", "_INBOX.somebody", "orders"]
    async with cluster.client("delivery") as (client, denied):
        assert await denied_to_listen(client, denied, listen) == set(listen)
        assert await denied_to_publish(client, denied, publish) == set(publish)


async def test_a_receiver_knows_nothing_of_the_ring(cluster: ShippedNats) -> None:
    async with log_as_node(cluster), cluster.client("receiver") as (client, denied):
        listen = ["skyring.>", ">", "$JS.>", "_INBOX_DELIVERY.>"]
        assert await denied_to_listen(client, denied, listen) == set(listen)
        publish = [LOG_0, "timers.x", "$SYS.REQ.SERVER.PING"]
        assert await denied_to_publish(client, denied, publish) == set(publish)
        # It may ask JetStream, of its own account.
        streams = {info.config.name for info in await client.jetstream().streams_info()}
        assert streams <= {"KEPT"}
