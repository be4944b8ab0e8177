"""The tcp transport passes the suite that all transports pass, in each of its forms."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from skyring.testing import Peer, TransportContract, UnacknowledgedContract
from skyring.testing.contract import PAYLOADS
from skyring.transports import Callback, Transport
from skyring_tcp import Tcp
from tcp_peer import CERTIFICATE, TcpPeer, quiet

ONE_LINE_PAYLOADS = tuple(payload for payload in PAYLOADS if b"\n" not in payload)


def to(uri: str = "tcp://localhost:7000", method: str = "send") -> Callback:
    return Callback(transport="tcp", method=method, uri=uri)


UNUSABLE = (
    to(method="post"),
    to(method=""),
    to(""),
    to("localhost:7000"),
    to("udp://localhost:7000"),
    to("tcp://localhost"),
    to("tcp://localhost:0"),
    to("tcp://localhost:7000/path"),
)


class TestLength(TransportContract):
    unusable = UNUSABLE

    def make(self) -> Transport:
        return Tcp()

    @pytest.fixture
    def peer(self) -> Peer:
        return TcpPeer()


class TestNewline(TransportContract):
    unusable = UNUSABLE
    payloads = ONE_LINE_PAYLOADS

    def make(self) -> Transport:
        return Tcp(Tcp.Options(framing="newline"))

    @pytest.fixture
    def peer(self) -> Peer:
        return TcpPeer(framing="newline")


class TestEnvelopeInLines(TransportContract):
    """All payloads, also those with line feeds."""

    unusable = UNUSABLE

    def make(self) -> Transport:
        return Tcp(Tcp.Options(framing="newline", content="envelope"))

    @pytest.fixture
    def peer(self) -> Peer:
        return TcpPeer(framing="newline", content="envelope")


class TestTls(TransportContract):
    unusable = UNUSABLE

    def make(self) -> Transport:
        return Tcp(Tcp.Options(ca_file=str(CERTIFICATE)))

    @pytest.fixture
    def peer(self) -> Peer:
        return TcpPeer(tls=True)


class TestUnacknowledged(UnacknowledgedContract):
    unusable = UNUSABLE

    def make(self) -> Transport:
        return Tcp(Tcp.Options(ack="none"))

    @pytest.fixture
    def peer(self) -> Peer:
        return TcpPeer(answer=quiet)


class TestUnacknowledgedWithAnswers(UnacknowledgedContract):
    """A receiver that answers all the same does no harm."""

    def make(self) -> Transport:
        return Tcp(Tcp.Options(ack="none", framing="newline"))

    payloads = ONE_LINE_PAYLOADS

    @pytest.fixture
    def peer(self) -> Peer:
        return TcpPeer(framing="newline")


class TestUnacknowledgedTls(UnacknowledgedContract):
    def make(self) -> Transport:
        return Tcp(Tcp.Options(ack="none", ca_file=str(CERTIFICATE)))

    @pytest.fixture
    def peer(self) -> Peer:
        return TcpPeer(tls=True, answer=quiet)


class OnUvloop:
    """On the event loop of ``skyring run``; the other suites use the one of asyncio."""

    deliveries = 2_000

    def make_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


class TestLengthOnUvloop(OnUvloop, TestLength):
    pass


class TestTlsOnUvloop(OnUvloop, TestTls):
    pass


class TestUnacknowledgedTlsOnUvloop(OnUvloop, TestUnacknowledgedTls):
    pass
