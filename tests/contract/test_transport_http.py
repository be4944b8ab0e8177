"""The built-in transport passes the suite that all transports pass."""

from __future__ import annotations

import pytest

from skyring.testing import Peer, TransportContract
from skyring.transports import Callback, Transport
from skyring.transports.http import Http
from tests.acceptance.receiver import CallbackReceiver


class Receiver(Peer):
    """A web server."""

    def __init__(self) -> None:
        self._server = CallbackReceiver()
        self._is_up = False

    @property
    def callback(self) -> Callback:
        return Callback(transport="http", method="post", uri=self._server.uri)

    async def start(self) -> None:
        self._server = CallbackReceiver(received=self._server.received, port=self._server.port)
        await self._server.__aenter__()
        self._is_up = True

    async def kill(self) -> None:
        if self._is_up:
            self._is_up = False
            await self._server.__aexit__()

    async def pause(self) -> None:
        self._server.hold_again()

    async def resume(self) -> None:
        self._server.release()

    async def received(self) -> list[bytes]:
        return [callback.body for callback in self._server.received]


def unusable(method: str = "post", uri: str = "http://a/") -> Callback:
    return Callback(transport="http", method=method, uri=uri)


class TestHttp(TransportContract):
    unusable = (
        unusable(uri="ftp://a/"),
        unusable(uri="nowhere"),
        unusable(uri=""),
        unusable(method="brew coffee"),
    )

    def make(self) -> Transport:
        return Http()

    def more_transports(self) -> list[Transport]:
        return []  # every node has it

    @pytest.fixture
    def peer(self) -> Peer:
        return Receiver()
