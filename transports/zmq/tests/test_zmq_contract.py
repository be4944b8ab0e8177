"""The zmq transport passes the suite that all transports pass, in each of its forms."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop
import zmq
import zmq.asyncio

from skyring.testing import Peer, TransportContract, UnacknowledgedContract
from skyring.transports import Callback, Transport
from skyring_zmq import Zmq
from zmq_peer import ZmqPeer


def to(uri: str = "tcp://localhost:7000", method: str = "request") -> Callback:
    return Callback(transport="zmq", method=method, uri=uri)


UNUSABLE = (
    to(method="send"),
    to(method=""),
    to(""),
    to("localhost:7000"),
    to("inproc://here"),
    to("tcp://*:7000"),
    to("tcp://localhost"),
    to("tcp://localhost:*"),
    to("ipc://relative"),
    to("ipc://*"),
)


class TestRequestToRep(TransportContract):
    unusable = UNUSABLE

    def make(self) -> Transport:
        return Zmq()

    @pytest.fixture
    def peer(self) -> Peer:
        return ZmqPeer("rep")


class TestRequestToRouterWithCurve(TransportContract):
    unusable = UNUSABLE
    server = zmq.curve_keypair()

    def make(self) -> Transport:
        return Zmq(Zmq.Options(server_key=self.server[0].decode()))

    @pytest.fixture
    def peer(self) -> Peer:
        def set_up(socket: zmq.asyncio.Socket) -> None:
            socket.curve_server = 1
            socket.curve_secretkey = self.server[1]

        return ZmqPeer("router", set_up=set_up)


class TestEnvelopeOverIpc(TransportContract):
    unusable = UNUSABLE

    def make(self) -> Transport:
        return Zmq(Zmq.Options(content="envelope"))

    @pytest.fixture
    def peer(self, tmp_path: Path) -> Peer:
        return ZmqPeer(content="envelope", endpoint=f"ipc://{tmp_path}/s")


class TestPush(UnacknowledgedContract):
    unusable = UNUSABLE

    def make(self) -> Transport:
        return Zmq()

    @pytest.fixture
    def peer(self) -> Peer:
        return ZmqPeer("pull")


class TestPushOverIpc(UnacknowledgedContract):
    def make(self) -> Transport:
        return Zmq(Zmq.Options(send_queue_max=1))

    @pytest.fixture
    def peer(self, tmp_path: Path) -> Peer:
        return ZmqPeer("pull", endpoint=f"ipc://{tmp_path}/s")


class OnUvloop:
    """On the event loop of ``skyring run``; the other suites use the one of asyncio."""

    deliveries = 2_000

    def make_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


class TestRequestOnUvloop(OnUvloop, TestRequestToRep):
    pass


class TestPushOnUvloop(OnUvloop, TestPush):
    pass
