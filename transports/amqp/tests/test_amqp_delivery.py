"""Messages as they come, and what the transport makes of a broker that does not take them."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest
import uvloop
from pamqp.common import FieldTable

from amqp_broker import MESSAGE_BYTES_MAX, RabbitMq, running
from amqp_peer import Consumer, bound, deliver, name, opened, turns, until, until_delivered
from skyring.transports import Outcome
from skyring_amqp import Amqp


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    with running(tmp_path_factory) as broker:
        yield broker


@pytest.fixture
async def consumer(broker: RabbitMq) -> AsyncIterator[Consumer]:
    async with Consumer(broker) as consumer:
        yield consumer


@pytest.fixture
async def amqp(consumer: Consumer) -> AsyncIterator[Amqp]:
    async with opened(consumer.broker.url) as transport:
        yield transport


# Messages


async def test_a_message_as_it_comes(consumer: Consumer, amqp: Amqp) -> None:
    outcome = await deliver(
        amqp,
        consumer.uri,
        b'{"a":1}',
        headers={"tenant": "\u00e4 b", "Authorization": "Bearer\nx"},
        id="order-17",
        attempt=3,
        due_ms=1_700_000_000_000,
        started_ms=1_700_000_001_000,
        content_type="application/json",
    )
    assert outcome == Outcome.delivered()
    await consumer.wait(lambda received: len(received) == 1)
    (message,) = consumer.messages
    properties = message.header.properties
    assert message.body == b'{"a":1}'
    assert message.exchange == ""
    assert message.routing_key == consumer.queue
    assert properties.message_id == "order-17"
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == 2
    assert properties.timestamp == datetime.fromtimestamp(1_700_000_001, UTC)
    assert properties.headers == {
        "webhook-id": "order-17",
        "webhook-timestamp": "1700000001",
        "webhook-attempt": "3",
        "webhook-due": "1700000000000",
        "tenant": "\u00e4 b",
        "Authorization": "Bearer\nx",
    }


async def test_a_timer_without_data(consumer: Consumer, amqp: Amqp) -> None:
    assert await deliver(amqp, consumer.uri, b"", content_type=None) == Outcome.delivered()
    assert await consumer.wait(lambda received: len(received) == 1) == [b""]
    assert consumer.messages[0].header.properties.content_type is None


async def test_payloads_that_are_no_text_or_large(consumer: Consumer, amqp: Amqp) -> None:
    frame = 131_072  # what RabbitMQ allows; longer ones are cut to pieces
    sizes = (frame - 9, frame - 8, frame - 7, frame, 2 * frame, MESSAGE_BYTES_MAX)
    payloads = [bytes(range(256)), *(os.urandom(size) for size in sizes)]
    outcomes = await asyncio.gather(*(deliver(amqp, consumer.uri, each) for each in payloads))
    assert set(outcomes) == {Outcome.delivered()}
    received = await consumer.wait(lambda received: len(received) == len(payloads))
    assert sorted(received) == sorted(payloads)


async def test_as_many_headers_as_are_allowed(consumer: Consumer, amqp: Amqp) -> None:
    headers = {f"{number:0128}": "x" * 35 for number in range(100)}
    assert await deliver(amqp, consumer.uri, headers=headers) == Outcome.delivered()
    await consumer.wait(lambda received: len(received) == 1)
    received = consumer.messages[0].header.properties.headers
    assert received is not None
    assert headers.items() <= received.items()


async def test_routing_keys_of_a_topic(consumer: Consumer, amqp: Amqp) -> None:
    exchange = await bound(consumer, "topic", "orders.*.paid")
    assert await deliver(amqp, f"{exchange}/orders.17.paid") == Outcome.delivered()
    outcome = await deliver(amqp, f"{exchange}/orders.17.lost")
    assert outcome == Outcome.retry(
        f"no queue takes it: NO_ROUTE for exchange '{exchange}', routing key 'orders.17.lost'"
    )
    await consumer.wait(lambda received: len(received) == 1)
    assert consumer.messages[0].routing_key == "orders.17.paid"


async def test_names_with_special_characters(consumer: Consumer, amqp: Amqp) -> None:
    exchange = f"a/b + c,d@e:#.{name()}"
    await bound(consumer, "direct", "stra\u00dfe/50% a", exchange)
    await bound(consumer, "fanout", "", f"fan{exchange}")
    encoded = exchange.replace("/", "%2F").replace(" ", "%20")
    assert await deliver(amqp, f"{encoded}/stra\u00dfe%2F50%25%20a") == Outcome.delivered()
    assert await deliver(amqp, f"{encoded}/stra%C3%9Fe%2f50%25%20a") == Outcome.delivered()
    assert await deliver(amqp, f"fan{encoded}/") == Outcome.delivered()
    await consumer.wait(lambda received: len(received) == 3)


# Refusals


async def test_a_queue_that_is_not_there_yet(consumer: Consumer, amqp: Amqp) -> None:
    queue = name()
    outcome = await deliver(amqp, queue)
    assert outcome == Outcome.retry(f"no queue takes it: NO_ROUTE for queue '{queue}'")
    await consumer.channel.queue_declare(queue)
    assert await deliver(amqp, queue) == Outcome.delivered()


async def test_a_missing_exchange_harms_no_other(consumer: Consumer, amqp: Amqp) -> None:
    missing = name()
    tasks = [
        asyncio.create_task(deliver(amqp, uri))
        for _ in range(100)
        for uri in (f"{missing}/x", consumer.uri)
    ]
    outcomes = await asyncio.gather(*tasks)
    reason = f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
    assert set(outcomes[0::2]) == {Outcome.retry(reason)}
    assert set(outcomes[1::2]) == {Outcome.delivered()}
    await consumer.channel.exchange_declare(missing, exchange_type="fanout")
    await consumer.channel.queue_bind(consumer.queue, missing)
    assert await deliver(amqp, f"{missing}/x") == Outcome.delivered()
    await consumer.channel.exchange_delete(missing)
    assert await deliver(amqp, f"{missing}/x") == Outcome.retry(reason)
    await consumer.wait(lambda received: len(received) == 101)


async def test_an_exchange_that_nobody_may_publish_to(consumer: Consumer, amqp: Amqp) -> None:
    exchange = name()
    await consumer.channel.exchange_declare(exchange, internal=True)
    for _ in range(3):
        outcome = await deliver(amqp, f"{exchange}/x")
        assert outcome.kind == "retry"
        assert outcome.reason.startswith("ACCESS_REFUSED")
    assert await deliver(amqp, consumer.uri) == Outcome.delivered()


async def test_a_queue_that_is_full(consumer: Consumer, amqp: Amqp) -> None:
    queue = name()
    limits: FieldTable = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await consumer.channel.queue_declare(queue, durable=True, arguments=limits)
    assert await deliver(amqp, queue) == Outcome.delivered()
    outcome = await deliver(amqp, queue)
    assert outcome == Outcome.retry(f"the broker did not take it (nack) for queue '{queue}'")
    await consumer.channel.queue_purge(queue)
    assert await deliver(amqp, queue) == Outcome.delivered()


async def test_payloads_that_are_too_large(consumer: Consumer) -> None:
    payload = b"x" * (MESSAGE_BYTES_MAX + 1)
    async with opened(consumer.broker.url) as amqp:
        outcome = await deliver(amqp, consumer.uri, payload)
        assert outcome.kind == "retry"
        assert outcome.reason.startswith("PRECONDITION_FAILED - message size 1000001 is larger")
        assert await deliver(amqp, consumer.uri) == Outcome.delivered()
    async with opened(consumer.broker.url, message_bytes_max=MESSAGE_BYTES_MAX) as amqp:
        outcome = await deliver(amqp, consumer.uri, payload)
        assert outcome.kind == "rejected"
        assert outcome.reason == "the payload has 1000001 bytes, and 1000000 are allowed"
        assert await deliver(amqp, consumer.uri, payload[1:]) == Outcome.delivered()


# Credentials


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"password": "wr0ng"}, "ACCESS_REFUSED"),
        ({"user": "nobody"}, "ACCESS_REFUSED"),
        ({"vhost": "nowhere"}, "there is no virtual host 'nowhere'"),
    ],
)
async def test_what_the_broker_does_not_know(
    consumer: Consumer, caplog: pytest.LogCaptureFixture, options: dict[str, str], reason: str
) -> None:
    caplog.set_level("DEBUG")
    vhost = options.pop("vhost", "")
    async with opened(consumer.broker.url + vhost, **options) as amqp:
        for _ in range(3):
            outcome = await deliver(amqp, consumer.uri)
            assert outcome.kind == "retry"
            assert reason in outcome.reason
            assert "wr0ng" not in outcome.reason
    assert "wr0ng" not in caplog.text
    warnings = [record for record in caplog.records if record.levelname != "DEBUG"]
    assert [record.levelname for record in warnings] == ["WARNING"]


# Limits


async def test_channels_are_bounded_and_reused(consumer: Consumer) -> None:
    exchanges = [await bound(consumer, "fanout", "") for _ in range(6)]
    async with opened(consumer.broker.url, channels_max=2) as amqp:
        for exchange in exchanges * 5:  # one after the other
            assert await deliver(amqp, f"{exchange}/") == Outcome.delivered()
        outcomes = await asyncio.gather(*(deliver(amqp, f"{each}/") for each in exchanges))
        refused = "all 2 channels are in use, each for another exchange"
        assert outcomes.count(Outcome.delivered()) == 2
        assert outcomes.count(Outcome.retry(refused)) == 4


async def test_the_numbers_of_channels_do_not_run_out(consumer: Consumer, amqp: Amqp) -> None:
    """The broker of these tests allows 50."""
    for turn in range(150):
        for uri in (f"missing-{turn % 2}/x", consumer.uri, f"missing-{(turn + 1) % 2}/x"):
            outcome = await deliver(amqp, uri)
            assert "NOT_FOUND" in outcome.reason or outcome == Outcome.delivered()


async def test_one_message_of_a_timer_at_a_time(consumer: Consumer, amqp: Amqp) -> None:
    assert await deliver(amqp, consumer.uri) == Outcome.delivered()
    await consumer.pause()
    assert (await deliver(amqp, consumer.uri, id="t", timeout_ms=50)).reason.startswith("time-out")
    outcome = await deliver(amqp, consumer.uri, id="t")
    assert outcome == Outcome.retry("the broker has not confirmed the delivery before this one yet")
    await consumer.resume()

    async def taken() -> bool:
        return await deliver(amqp, consumer.uri, b"again", id="t") == Outcome.delivered()

    await until(taken)
    assert await consumer.wait(lambda received: len(received) == 3) == [
        b"hello",
        b"hello",
        b"again",
    ]


async def test_what_is_not_confirmed_is_bounded(consumer: Consumer) -> None:
    async with opened(consumer.broker.url, in_flight_max=10) as amqp:
        assert await deliver(amqp, consumer.uri) == Outcome.delivered()
        await consumer.pause()
        tasks = [asyncio.create_task(deliver(amqp, consumer.uri)) for _ in range(10)]
        await turns(1)
        outcome = await deliver(amqp, consumer.uri)
        assert outcome == Outcome.retry("10 deliveries are under way to the broker")
        await turns(10)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        outcome = await deliver(amqp, consumer.uri)
        assert outcome == Outcome.retry("the broker has not confirmed 10 messages yet")
        await consumer.resume()
        await until_delivered(amqp, consumer.uri)


async def test_nothing_is_left_behind(consumer: Consumer) -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def reached() -> bool:
        return held() <= before and len(asyncio.all_tasks()) <= tasks

    before, tasks = held(), len(asyncio.all_tasks())
    for _ in range(10):
        async with opened(consumer.broker.url) as amqp:
            await asyncio.gather(*(deliver(amqp, consumer.uri) for _ in range(50)))
            await asyncio.gather(*(deliver(amqp, consumer.uri, timeout_ms=1) for _ in range(50)))
            await asyncio.gather(*(deliver(amqp, f"missing-{n}/x") for n in range(10)))
    gc.collect()
    await until(reached)


# The broker is silent


async def test_a_channel_that_the_broker_does_not_open(consumer: Consumer) -> None:
    async with opened(consumer.broker.url, connect_timeout_ms=200) as amqp:
        assert await deliver(amqp, consumer.uri) == Outcome.delivered()
        await consumer.pause()
        outcome = await deliver(amqp, "another/x")
        assert outcome == Outcome.retry("the broker has opened no channel in 0.2 s")
        await consumer.resume()
        await until_delivered(amqp, consumer.uri)


async def test_a_connection_without_a_sign_of_life_is_given_up(consumer: Consumer) -> None:
    async with opened(consumer.broker.url, heartbeat_s=1) as amqp:
        assert await deliver(amqp, consumer.uri) == Outcome.delivered()
        await consumer.pause()
        start = time.monotonic()
        outcome = await deliver(amqp, consumer.uri)
        assert outcome.kind == "retry"
        assert "time-out" not in outcome.reason
        assert time.monotonic() - start < 15, "its own time-out is 20 s"
        await consumer.resume()
        await until_delivered(amqp, consumer.uri)


async def test_closing_while_the_broker_is_silent(consumer: Consumer) -> None:
    async with opened(consumer.broker.url) as amqp:
        assert await deliver(amqp, consumer.uri) == Outcome.delivered()
        await consumer.pause()
        # More than the system holds for a receiver that does not read.
        payload = b"x" * MESSAGE_BYTES_MAX
        tasks = [
            asyncio.create_task(deliver(amqp, consumer.uri, payload, timeout_ms=300))
            for _ in range(50)
        ]
        await turns(3)
        start = time.monotonic()
        await amqp.close()
        assert time.monotonic() - start < 10
        assert {(await task).reason for task in tasks} == {"time-out after 300 ms"}


async def test_closing_in_a_hurry_cuts_off_what_is_under_way(consumer: Consumer) -> None:
    async with opened(consumer.broker.url) as amqp:
        assert await deliver(amqp, consumer.uri) == Outcome.delivered()
        await consumer.pause()
        tasks = [asyncio.create_task(deliver(amqp, consumer.uri)) for _ in range(25)]
        await turns(10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await amqp.close()
        assert {(await task).reason for task in tasks} == {"cut off, for this node is stopping"}


# The broker goes away


def test_with_uvloop(broker: RabbitMq) -> None:
    async def run() -> None:
        async with Consumer(broker) as consumer, opened(broker.url) as amqp:
            outcomes = await asyncio.gather(*(deliver(amqp, consumer.uri) for _ in range(1_000)))
            assert set(outcomes) == {Outcome.delivered()}
            await consumer.wait(lambda received: len(received) == 1_000)
            await consumer.kill()
            assert (await deliver(amqp, consumer.uri)).kind == "retry"
            await consumer.start()
            await until_delivered(amqp, consumer.uri)

    uvloop.run(run())


async def test_a_kill_ends_the_deliveries_under_way_at_once(
    consumer: Consumer, amqp: Amqp, caplog: pytest.LogCaptureFixture
) -> None:
    exchanges = [await bound(consumer, "fanout", "") for _ in range(30)]
    await asyncio.gather(*(deliver(amqp, f"{exchange}/") for exchange in exchanges))
    await consumer.pause()
    payload = b"x" * MESSAGE_BYTES_MAX  # so that most of it cannot even be written
    tasks = [
        asyncio.create_task(deliver(amqp, f"{exchange}/", payload))
        for exchange in exchanges
        for _ in range(2)
    ]
    tasks += [asyncio.create_task(deliver(amqp, consumer.uri)) for _ in range(500)]
    await turns(10)
    start = time.monotonic()
    await consumer.kill()
    outcomes = await asyncio.gather(*tasks)
    assert time.monotonic() - start < 5, "their own time-out is 20 s"
    assert {outcome.kind for outcome in outcomes} == {"retry"}
    assert all(outcome.reason for outcome in outcomes)
    refused = f"cannot connect to amqp:127.0.0.1:{consumer.broker.port}: "
    while not (outcome := await deliver(amqp, consumer.uri)).reason.startswith(refused):
        assert outcome.kind == "retry"
        await asyncio.sleep(0.01)
    assert time.monotonic() - start < 5
    own = [record for record in caplog.records if record.name.startswith("skyring")]
    assert [record.levelname for record in own] == ["WARNING"]
    assert not [record for record in caplog.records if record.name == "asyncio"]
