"""What befalls the processes: each fault is done, lasts a while, and is undone."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from skyring.bench.chaos.blows import FILES, Blow, How, kind_in, strike
from skyring.bench.chaos.receiver import ChaosReceiver
from skyring.bench.chaos.world import World
from skyring.bench.errors import BenchError
from skyring.testing.nats_server import NatsServer
from skyring.testing.proof.history import Fault, History

__all__ = ["FAULTS", "GIVEN_UP", "GIVEN_UP_S", "LEASE_S", "Scene"]

LEASE_S = 3.0
FOR_EVER = float("inf")
GIVEN_UP_S = 2.0
"""How long a node whose disk fails for good looks whether it comes back (see `scenarios`)."""


REFUSED = re.compile(r"^skyring: .*(damaged|cannot be read)", re.MULTILINE)
"""How a node says that it cannot use its files."""
GIVEN_UP = "the storage did not come back"
"""What a node says then."""


@dataclass
class Scene:
    """What a fault needs."""

    world: World
    receiver: ChaosReceiver
    history: History
    chance: random.Random
    trigger: Path
    """While this file is there, fsync fails on nodes that run with the shim."""
    injected: dict[str, int] = field(default_factory=dict)
    """How often each kind of fault."""
    marks: list[Fault] = field(default_factory=list)
    """All that was done, also what explains nothing."""
    given_up: int = 0
    """How often a node has ended because its disk did not come back, as it says it does."""

    @contextmanager
    def fault(self, kind: str, *names: str, explains: bool = True) -> Iterator[None]:
        """Write down that a fault lasts as long as the body.

        Args:
            names: of the nodes that are hit; nobody named: all.
            explains: may a timer be delivered twice for it?
        """
        fault = Fault(kind, time.monotonic(), FOR_EVER, frozenset(names))
        self.marks.append(fault)
        if explains:
            self.history.faults.append(fault)
        else:
            self.history.note(fault.start_s, f"{kind} {', '.join(names)}".rstrip())
        self.injected[kind] = self.injected.get(kind, 0) + 1
        try:
            yield
        finally:
            fault.end_s = time.monotonic()

    def node(self) -> str:
        """One of the nodes."""
        return self.chance.choice(sorted(self.world.nodes))

    def server(self) -> NatsServer:
        """One of the nats-servers."""
        return self.chance.choice(self.world.nats)

    async def lasting(self, least_s: float, most_s: float) -> None:
        """A while of random length."""
        await asyncio.sleep(self.chance.uniform(least_s, most_s))

    async def until_ended(self, name: str, timeout_s: float) -> bool:
        """Wait until a node ends by itself; does it?"""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.world.has_ended(name):
                return True
            await asyncio.sleep(0.05)
        return False


async def kill(scene: Scene) -> None:
    """kill -9 of a node, which is started again at once or when others have taken over."""
    name = scene.node()
    with scene.fault("kill -9", name):
        code = await scene.world.kill(name)
        if code != -9:
            raise BenchError(f"{name} had ended by itself with {code}")
        await scene.lasting(0.1, 2 * LEASE_S)
        await scene.world.restart(name)


async def freeze(scene: Scene) -> None:
    """SIGSTOP of a node for longer than its lease, SIGCONT."""
    name = scene.node()
    with scene.fault("SIGSTOP", name):
        await scene.world.freeze(name)
        try:
            await scene.lasting(LEASE_S + 1, LEASE_S + 4)
        finally:
            scene.world.thaw(name)


async def leave(scene: Scene) -> None:
    """SIGTERM of a node: it ends its deliveries and leaves the ring; then it joins again."""
    name = scene.node()
    with scene.fault("SIGTERM", name, explains=False):
        code = await scene.world.stop(name)
        if code != 0:
            scene.history.failures.append((time.monotonic(), f"{name} ended with {code}"))
        await scene.lasting(0.1, 2.0)
        await scene.world.restart(name)


_Fault: TypeAlias = Callable[[Scene], Awaitable[None]]


def _cut(kind: str, *, incoming: bool, outgoing: bool, only_nats: bool) -> _Fault:
    async def cut(scene: Scene) -> None:
        name = scene.node()
        host = scene.world.host(name)
        others = [scene.world.host(server.name) for server in scene.world.nats]
        with scene.fault(kind, name):
            try:
                host.cut(others if only_nats else None, incoming=incoming, outgoing=outgoing)
                await scene.lasting(2.0, LEASE_S + 5)
            finally:
                host.heal()

    return cut


async def split_servers(scene: Scene) -> None:
    """One of the nats-servers is cut off from the others, and from nobody else."""
    server = scene.server()
    host = scene.world.host(server.name)
    others = [scene.world.host(each.name) for each in scene.world.nats if each is not server]
    with scene.fault("split of NATS"):
        try:
            host.cut(others)
            await scene.lasting(4.0, 10.0)
        finally:
            host.heal()
        await scene.world.nats_healthy()


async def kill_server(scene: Scene) -> None:
    """kill -9 of one nats-server, which is started again."""
    await _kill_servers(scene, "kill -9 of one NATS", [scene.server()])


async def kill_servers(scene: Scene) -> None:
    """kill -9 of all nats-servers, which are started again."""
    await _kill_servers(scene, "kill -9 of all NATS", scene.world.nats)


async def _kill_servers(scene: Scene, kind: str, servers: list[NatsServer]) -> None:
    with scene.fault(kind):
        for server in servers:
            server.kill()
        await scene.lasting(0.5, 2 * LEASE_S)
        await scene.world.start_nats(servers)


async def kill_receiver(scene: Scene) -> None:
    """kill -9 of the receiver, which is started again. It knows itself whom it has not answered."""
    with scene.fault("receiver", explains=False):
        scene.receiver.kill()
        await scene.lasting(1.0, 6.0)
        await scene.receiver.start()


async def fill_disk(scene: Scene) -> None:
    """The disk of a node is full, and has room again. It may stop; then it is started again."""
    name = scene.node()
    with scene.fault("disk full", name):
        try:
            scene.world.fill_disk(name)
            await scene.lasting(3.0, 8.0)
        finally:
            scene.world.free_disk(name)
        await _restart_if_ended(scene, name)


async def fail_fsync(scene: Scene) -> None:
    """fsync answers EIO for an instant or some seconds."""
    name = scene.node()
    with scene.fault("fsync EIO", name):
        scene.trigger.touch()
        try:
            await scene.lasting(0.02, scene.chance.choice((0.1, 0.8 * GIVEN_UP_S)))
        finally:
            scene.trigger.unlink()
        await _restart_if_ended(scene, name)


async def fail_fsync_for_good(scene: Scene) -> None:
    """fsync answers EIO until the node gives up and ends; then it is started again."""
    name = scene.node()
    with scene.fault("fsync EIO for good", name):
        scene.trigger.touch()
        try:
            if not await scene.until_ended(name, 20 * GIVEN_UP_S):
                text = f"{name} has not ended though fsync fails for good"
                scene.history.failures.append((time.monotonic(), text))
        finally:
            scene.trigger.unlink()
        await _restart_if_ended(scene, name)


def _damage(kind: str) -> _Fault:
    async def damage(scene: Scene) -> None:
        """kill -9 of a node, one of whose files is damaged before it is started again.

        It may refuse to start if it says why; then it begins anew. A log of NATS has it all.
        """
        name, chance = scene.node(), scene.chance
        how: How = chance.choice(("flip", "truncate"))
        place = chance.random(), chance.random(), chance.randrange(8)
        server = scene.world.nodes[name].server
        blow = Blow(kind_in(server.storage_path, kind), how, *place)
        with scene.fault(f"{blow.kind}, {how}", name):
            await scene.world.kill(name)
            what = f"{name}: {strike(server.storage_path, blow)}"
            said = len(server.log)
            try:
                await scene.world.restart(name)
            except BenchError:
                if REFUSED.search(server.log, said) is None:
                    raise
                what = f"{what}; it refused to start, and began anew"
                await scene.world.restart(name, empty=True)
        scene.history.note(time.monotonic(), what)

    return damage


async def _restart_if_ended(scene: Scene, name: str) -> None:
    if not scene.world.has_ended(name):
        return
    code = await scene.world.ended(name)
    scene.given_up += 1
    scene.history.note(time.monotonic(), f"{name} has ended with {code}: its disk failed")
    if code != 1:
        scene.history.failures.append((time.monotonic(), f"{name} ended with {code}"))
    await scene.world.restart(name)


FAULTS: dict[str, _Fault] = {
    "kill": kill,
    "freeze": freeze,
    "leave": leave,
    "cut": _cut("cut off", incoming=True, outgoing=True, only_nats=False),
    "cut-in": _cut("hears nothing", incoming=True, outgoing=False, only_nats=False),
    "cut-out": _cut("is not heard", incoming=False, outgoing=True, only_nats=False),
    "cut-nats": _cut("cut off from NATS", incoming=True, outgoing=True, only_nats=True),
    "cut-nats-in": _cut("hears no NATS", incoming=True, outgoing=False, only_nats=True),
    "cut-nats-out": _cut("NATS hears it not", incoming=False, outgoing=True, only_nats=True),
    "nats-one": kill_server,
    "nats-all": kill_servers,
    "nats-split": split_servers,
    "receiver": kill_receiver,
    "disk-full": fill_disk,
    "fsync": fail_fsync,
    "fsync-for-good": fail_fsync_for_good,
    **{f"damage-{kind}": _damage(kind) for kind in FILES},
}
"""By name."""
