"""Which faults belong together, and how long a ring is given to come right again."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from skyring.bench.chaos.faults import FAULTS, GIVEN_UP, GIVEN_UP_S, LEASE_S, Scene
from skyring.bench.chaos.load import Load, LoadShape
from skyring.bench.chaos.receiver import ChaosReceiver
from skyring.bench.chaos.sandbox import Network, compile_shim
from skyring.bench.chaos.witness import OF_DAMAGE, OF_DISKS, STALLED, entries_of, errors_in
from skyring.bench.chaos.world import World
from skyring.bench.client import Connection
from skyring.bench.errors import BenchError
from skyring.bench.ring_log import read_log
from skyring.testing.proof.checker import Allowance, Violation, check
from skyring.testing.proof.history import Fault, History

__all__ = ["SCENARIOS", "Limits", "Losses", "Outcome", "Scenario", "listed", "run_scenario"]

REQUEST_S = 4.0
NODE_ARGUMENTS = ("--ring:request-timeout-ms", f"{REQUEST_S * 1000:.0f}")
BEGUN_S = 1.05
FAULT_S = LEASE_S + REQUEST_S + BEGUN_S
"""A fault is felt for as long as a lease goes on, and a request that it has swallowed."""
SMALL_DISK = ("--storage:write-buffer-bytes", "262144")
LINGER_S = 2.0
POLL_S = 1.0
CALM_TIMEOUTS_MS = (200, 3_000)
PENDING_MAX = 1_000
SEED_FACTOR = 1_000


class Scenario(NamedTuple):
    """Faults that are injected in turn under load."""

    what: str
    faults: Sequence[str]
    servers: int = 1
    """nats-servers, each of which keeps every log; 0: one node that stands alone."""
    nodes: int = 3
    arguments: Sequence[str] = ()
    disk_bytes: int = 0
    shim: bool = False
    """Do its nodes run with an fsync that can fail?"""

    def expected_errors(self) -> Sequence[str]:
        """What its nodes may say at level ERROR; anything else is a defect."""
        words: tuple[str, ...] = STALLED
        if self.disk_bytes or self.shim:
            words += OF_DISKS
        if any(fault.startswith("damage") for fault in self.faults):
            words += OF_DAMAGE
        return words


class Limits(NamedTuple):
    """What a run is given."""

    seconds: float = 60.0
    """How long faults are injected, each kind at least once."""
    shape: LoadShape = LoadShape()
    pause_s: tuple[float, float] = (1.0, 6.0)
    """Between two faults."""
    settle_s: float = 6.0
    """After the ring is whole again, before it has to be punctual."""
    calm_s: float = 8.0
    """How long it is looked at then."""
    drain_s: float = 30.0
    """So long after the last operation everything has been delivered: 12 s are left of the longest
    time-outs, and a delivery is put off by 1.5 s."""
    late_s: float = 2.0
    """In the calm."""
    is_busy: bool = False
    """Does the machine do so much else that a node may stand still for longer than its lease? Then
    any duplicate is explained."""

    def allowance(self) -> Allowance:
        """What the checker allows: docs/CHAOS.md has the reasons."""
        return Allowance(begun_s=BEGUN_S, fault_s=FAULT_S, late_s=self.late_s)


class Losses(NamedTuple):
    """What damaged files have cost, in all rounds of one kind in which the node has served."""

    rounds: int = 0
    pending: int = 0
    """Acknowledged timers that were to be delivered still."""
    at_risk: int = 0
    """Of these, those of which something stood in the damaged part."""
    lost: int = 0
    old: int = 0
    """Delivered with an older content, after a cancel, or once more."""

    def plus(self, more: Losses) -> Losses:
        """Of both."""
        return Losses(*map(sum, zip(self, more, strict=True)))


@dataclass
class Outcome:
    """What came of a scenario."""

    name: str
    what: str
    history: History
    violations: list[Violation]
    injected: dict[str, int]
    marks: list[Fault] = field(default_factory=list)
    """All that was done, and when."""
    answers: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    drain_s: float = 0.0
    """From the end of the load until everything was delivered."""
    notes: list[str] = field(default_factory=list)
    rounds: dict[str, int] = field(default_factory=dict)
    """Of damaged files: what became of each."""
    losses: dict[str, Losses] = field(default_factory=dict)
    """Of damaged files, by kind."""


SCENARIOS: dict[str, Scenario] = {
    "nodes": Scenario("nodes are killed, frozen, stopped and started", ("kill", "freeze", "leave")),
    "five": Scenario(
        "the same, five nodes and three NATS servers", ("kill", "freeze", "leave"), 3, 5
    ),
    "partition": Scenario("a node is cut off from everybody", ("cut",)),
    "one-way": Scenario("a node hears nothing, or is not heard", ("cut-in", "cut-out")),
    "nats-partition": Scenario(
        "a node is cut off from NATS alone, wholly or one way",
        ("cut-nats", "cut-nats-in", "cut-nats-out"),
    ),
    "nats-r1": Scenario("the only NATS server is killed", ("nats-all",)),
    "nats-r3": Scenario(
        "one of three NATS servers is killed, all three are", ("nats-one", "nats-all"), 3
    ),
    "nats-split": Scenario(
        "one of three NATS servers is cut off from the others", ("nats-split",), 3
    ),
    "receiver": Scenario("the receiver is killed and comes back", ("receiver",)),
    "storm": Scenario(
        "all of these, three NATS servers",
        (
            *("kill", "freeze", "leave", "cut", "cut-in", "cut-out", "cut-nats"),
            *("cut-nats-in", "cut-nats-out", "nats-one", "nats-all", "nats-split", "receiver"),
        ),
        3,
    ),
    "disk-ring": Scenario(
        "the disk of a node of a ring is full, and free again; nodes are killed",
        ("disk-full", "disk-full", "kill"),
        arguments=SMALL_DISK,
        disk_bytes=24 << 20,
    ),
    "disk": Scenario(
        "the disk of a node that stands alone is full, and free again; it is killed",
        ("disk-full", "disk-full", "kill"),
        0,
        1,
        SMALL_DISK,
        24 << 20,
    ),
    "fsync": Scenario(
        "fsync of a node that stands alone fails with EIO, at times for good; it is killed",
        ("fsync", "fsync", "fsync", "fsync-for-good", "kill"),
        0,
        1,
        (*SMALL_DISK, "--storage:reopen-timeout-ms", str(int(GIVEN_UP_S * 1000))),
        shim=True,
    ),
    "damage-ring": Scenario(
        "a node of a ring is killed, one of its files is damaged, and it is started again",
        ("damage-log", "damage-table", "damage-manifest"),
        arguments=("--storage:write-buffer-bytes", "65536"),
    ),
    "short": Scenario(
        "a node is killed, frozen, cut off; NATS is killed", ("kill", "freeze", "nats-all", "cut")
    ),
    "short-disk": Scenario(
        "a node that stands alone is killed, its disk is full, its fsync fails",
        ("kill", "disk-full", "fsync"),
        0,
        1,
        SMALL_DISK,
        24 << 20,
        shim=True,
    ),
}
"""By name, in the order in which they are run. Those that begin with ``short`` are for tests."""


async def run_scenario(
    name: str,
    directory: Path,
    network: Network,
    limits: Limits,
    seed: int,
    progress: Callable[[str], None],
) -> Outcome:
    """Run one of them and look what came of it. What does not start again is a violation.

    Raises:
        BenchError: the shim cannot be compiled.
    """
    scenario = SCENARIOS[name]
    chance = random.Random(f"{seed} {name}")
    history = History()
    trigger = directory / "eio"
    environment: list[str] = []
    if scenario.shim:
        shim = compile_shim(directory)
        environment = [f"LD_PRELOAD={shim}", f"CHAOS_FSYNC_TRIGGER={trigger}"]
    world = World(
        directory,
        network,
        nodes=scenario.nodes,
        servers=scenario.servers,
        arguments=(*NODE_ARGUMENTS, *scenario.arguments),
        disk_bytes=scenario.disk_bytes,
        environment=environment,
    )
    scene = Scene(world, ChaosReceiver(directory, network.home), history, chance, trigger)
    outcome = Outcome(name, scenario.what, history, [], scene.injected, scene.marks)
    if limits.is_busy:
        history.faults.append(Fault("busy machine", time.monotonic(), float("inf")))
    try:
        async with scene.receiver, world:
            servers = {node.name: node.server for node in world.nodes.values()}
            tag = f"{name}-{seed}"
            uri = scene.receiver.uri
            load = Load(servers, uri, history, limits.shape, tag, seed * SEED_FACTOR)
            async with load:
                await _inject(scene, scenario.faults, limits, progress)
                await _calm(scene, load, limits)
                await load.stop()
            outcome.answers, outcome.skipped = dict(load.statuses), load.skipped
            outcome.drain_s = await _drain(scene, limits)
            _look(scene, scenario)
            await _read_log(scene)
    except (BenchError, RuntimeError, TimeoutError) as error:
        # Of the product as well as of this machine: in any case not what was to be seen.
        history.failures.append((time.monotonic(), f"the scenario has ended early: {error}"))
    outcome.violations = check(history, limits.allowance()) + _pending(history)
    return outcome


async def _inject(
    scene: Scene, faults: Sequence[str], limits: Limits, progress: Callable[[str], None]
) -> None:
    began_s = time.monotonic()
    waiting: list[str] = []
    is_first = True
    await asyncio.sleep(2.0)
    while is_first or time.monotonic() - began_s < limits.seconds:
        if not waiting:
            waiting = scene.chance.sample(list(faults), len(faults))
        fault = waiting.pop()
        await FAULTS[fault](scene)
        is_first = is_first and bool(waiting)
        last = scene.marks[-1]
        progress(f"  {last.end_s - began_s:6.1f} s  {last.kind} {', '.join(last.nodes)}")
        await scene.lasting(*limits.pause_s)


async def _calm(scene: Scene, load: Load, limits: Limits) -> None:
    await scene.world.whole()
    await asyncio.sleep(limits.settle_s)
    scene.history.calm_s = time.monotonic()
    load.shorten(CALM_TIMEOUTS_MS)
    await asyncio.sleep(limits.calm_s)


async def _drain(scene: Scene, limits: Limits) -> float:
    """Wait until nothing that was acknowledged is missing and nothing is pending; the seconds."""
    began_s = time.monotonic()
    history = scene.history
    while True:
        history.deliveries = scene.receiver.deliveries(scene.world.network.names())
        pending = await _listed(scene, "/timers", "timers")
        missing = [each for each in check(history) if each.rule == "lost"]
        took_s = time.monotonic() - began_s
        if (not missing and pending == set()) or took_s > limits.drain_s:
            break
        await asyncio.sleep(POLL_S)
    dead = await _listed(scene, "/dead-letters", "dead_letters")
    for path, found in (("/timers", pending), ("/dead-letters", dead)):
        if found is None:
            history.failures.append((time.monotonic(), f"GET {path} is not answered with 200"))
    history.pending, history.dead = pending or set(), dead or set()
    await asyncio.sleep(LINGER_S)  # for what should not come
    history.deliveries = scene.receiver.deliveries(scene.world.network.names())
    return took_s


async def _listed(scene: Scene, path: str, key: str) -> set[str] | None:
    """The ids that a node lists; None if it does not tell."""
    server = scene.world.running()[0].server
    async with Connection(server.host, server.port) as connection:
        status, body = await connection.request("GET", f"{path}?limit={PENDING_MAX}")
    return listed(status, body, key)


def listed(status: int, body: bytes, key: str) -> set[str] | None:
    """The ids in an answer; None if it is none: then nothing is known of what is pending."""
    if status != 200:
        return None
    return {each["id"] for each in json.loads(body)[key]}


def _pending(history: History) -> list[Violation]:
    """What is pending when everything should have been delivered for long."""
    text = "it is pending still when everything should have been delivered"
    return [Violation("pending", each, text) for each in sorted(history.pending)]


async def _read_log(scene: Scene) -> None:
    """Have the history tell what was written into the logs of the ring."""
    world, history = scene.world, scene.history
    if not world.is_ring:
        return
    for name in world.nodes:  # or they would purge entries while these are read
        await world.kill(name)
    history.entries, wrong = entries_of(await read_log(world.nats_url, world.ring))
    history.failures += [(time.monotonic(), text) for text in wrong]
    history.note(time.monotonic(), f"the logs of the ring have {len(history.entries)} entries")
    if not history.entries:
        history.failures.append((time.monotonic(), "the logs of the ring are empty"))


def _look(scene: Scene, scenario: Scenario) -> None:
    """What the processes have to say for themselves."""
    now_s = time.monotonic()
    world, history = scene.world, scene.history
    for name in world.nodes:
        if world.has_ended(name):
            history.failures.append((now_s, f"{name} has ended by itself"))
    defects = world.defects()
    given_up = [line for line in defects if GIVEN_UP in line][: scene.given_up]
    history.failures += [(now_s, line) for line in defects if line not in given_up]
    for name, node in world.nodes.items():
        errors = errors_in(node.server.log, scenario.expected_errors())
        history.failures += [(now_s, f"{name}: {said}") for said in errors]
