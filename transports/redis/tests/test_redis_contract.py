"""The transport passes the suite of all transports, against a real server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from redis_peer import CERTIFICATE, RedisServer
from skyring.testing import Peer, TransportContract
from skyring.transports import Callback, Transport
from skyring_redis import Redis

PASSWORD = "correct horse"
SHA256_OF_PASSWORD = hashlib.sha256(PASSWORD.encode()).hexdigest()


def to(uri: str, method: str = "xadd", **headers: str) -> Callback:
    return Callback(transport="redis", method=method, uri=uri, headers=headers)


UNUSABLE = (
    to(""),
    to("line\nbreak"),
    to("k" * 513),
    to("timers", method="lpush"),
    to("timers", data="mine"),
)


class TestTcp(TransportContract):
    unusable = UNUSABLE

    @pytest.fixture
    def peer(self, tmp_path: Path) -> Peer:
        self.server = RedisServer(tmp_path)
        return self.server

    def make(self) -> Transport:
        return Redis(Redis.Options(url=self.server.url))


class TestUnixSocketOneByOne(TransportContract):
    """Another way there, and each entry waits for the answer to the one before."""

    unusable = UNUSABLE
    deliveries = 2_000

    @pytest.fixture
    def peer(self, tmp_path: Path) -> Peer:
        self.server = RedisServer(tmp_path)
        return self.server

    def make(self) -> Transport:
        return Redis(
            Redis.Options(
                url=self.server.unix_url, connections_max=1, batch_max=1, maxlen=1_000_000
            )
        )


class TestTls(TransportContract):
    """And with a user of an ACL, who may do nothing but add entries."""

    unusable = UNUSABLE
    deliveries = 3_000

    @pytest.fixture
    def peer(self, tmp_path: Path) -> Peer:
        user = f"timer on #{SHA256_OF_PASSWORD} ~timers +xadd"
        self.server = RedisServer(tmp_path, "--user", *user.split(), tls=True)
        return self.server

    def make(self) -> Transport:
        return Redis(
            Redis.Options.model_validate(
                {
                    "url": self.server.url,
                    "username": "timer",
                    "password": PASSWORD,
                    "ca_file": CERTIFICATE,
                }
            )
        )
