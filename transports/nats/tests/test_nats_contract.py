"""Every method passes the suite that all transports pass, against a real server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from nats_peer import SUBJECT, NatsPeer, PublishPeer, StreamPeer
from skyring.testing import Peer, TransportContract, UnacknowledgedContract
from skyring.testing.nats_server import NatsServer
from skyring.transports import Callback, Transport
from skyring_nats import Nats


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()  # also when the test has failed


def unusable(method: str = "request", uri: str = SUBJECT) -> Callback:
    return Callback(transport="nats", method=method, uri=uri)


class _Nats:
    """What the three have in common."""

    unusable: ClassVar[Iterable[Callback]] = (
        unusable(method="post"),
        unusable(uri=""),
        unusable(uri="orders.*"),
        unusable(uri="nats://127.0.0.1:4222/orders"),
        unusable(uri="$JS.API.STREAM.DELETE.ORDERS"),
    )
    server: NatsServer

    @pytest.fixture(autouse=True)
    def _take_server(self, server: NatsServer) -> None:
        self.server = server

    def make(self) -> Transport:
        return Nats(Nats.Options(servers=self.server.url))


class TestRequest(_Nats, TransportContract):
    @pytest.fixture
    def peer(self, server: NatsServer) -> Peer:
        return NatsPeer(server)


class TestJetStream(_Nats, TransportContract):
    @pytest.fixture
    def peer(self, server: NatsServer) -> Peer:
        return StreamPeer(server)


class TestPublish(_Nats, UnacknowledgedContract):
    @pytest.fixture
    def peer(self, server: NatsServer) -> Peer:
        return PublishPeer(server)
