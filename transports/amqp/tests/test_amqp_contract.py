"""The transport passes the suite of all transports, against a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from amqp_broker import CERTIFICATE, PASSWORD, RabbitMq, running
from amqp_peer import Consumer, deliver, name, opened
from skyring.testing import Peer, TransportContract
from skyring.transports import Callback, Transport
from skyring_amqp import Amqp


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    with running(tmp_path_factory) as broker:
        yield broker


def to(uri: str, method: str = "publish", **headers: str) -> Callback:
    return Callback(transport="amqp", method=method, uri=uri, headers=headers)


UNUSABLE = (
    to(""),
    to("a/b/c"),
    to("/queue"),
    to("two words"),
    to("100%"),
    to("queue", method="send"),
    to("queue", CC="elsewhere"),
)


class TestQueue(TransportContract):
    unusable = UNUSABLE

    @pytest.fixture
    def peer(self, broker: RabbitMq) -> Peer:
        self.broker = broker
        return Consumer(broker)

    def make(self) -> Transport:
        return Amqp(Amqp.Options.model_validate({"url": self.broker.url, "password": PASSWORD}))


class TestExchange(TestQueue):
    """Over TLS besides."""

    deliveries = 3_000

    @pytest.fixture
    def peer(self, broker: RabbitMq) -> Peer:
        self.broker = broker
        return Consumer(broker, exchange="timers")

    def make(self) -> Transport:
        options = {"url": self.broker.tls_url, "password": PASSWORD, "ca_file": CERTIFICATE}
        return Amqp(Amqp.Options.model_validate(options))


async def test_a_certificate_that_nobody_vouches_for(broker: RabbitMq) -> None:
    await asyncio.to_thread(broker.start)
    async with opened(broker.tls_url) as amqp:
        outcome = await deliver(amqp, name())
        assert outcome.kind == "retry"
        assert "certificate verify failed" in outcome.reason
    address = broker.tls_url.replace("localhost", "127.0.0.1")
    async with opened(address, ca_file=CERTIFICATE) as amqp:
        assert "IP address mismatch" in (await deliver(amqp, name())).reason
    async with opened(broker.tls_url, ca_file=CERTIFICATE) as amqp:
        assert (await deliver(amqp, name())).reason.startswith("no queue takes it")
