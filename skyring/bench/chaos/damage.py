"""LevelDB files that are truncated or have a bit turned over while their node is not running.

A node that stands alone takes timers and is killed. What it leaves is copied for each round, one
place of one file is damaged, and a node is started on it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from skyring.bench.chaos.blows import Blow, aim_at, blows, strike
from skyring.bench.chaos.leveldb import Harm, harm_of
from skyring.bench.chaos.load import Load, LoadShape
from skyring.bench.chaos.receiver import ChaosReceiver
from skyring.bench.chaos.sandbox import Network
from skyring.bench.chaos.scenarios import Losses, Outcome, listed
from skyring.bench.chaos.witness import OF_DAMAGE, errors_in
from skyring.bench.chaos.world import World
from skyring.bench.client import Connection
from skyring.bench.errors import BenchError
from skyring.testing.proof.checker import Allowance, Violation, check
from skyring.testing.proof.history import Delivery, Fault, History

__all__ = ["blows", "run_damage"]

ARGUMENTS = ("--storage:write-buffer-bytes", "65536")
"""Small, so that there are table files and not just a log."""
ALLOWANCE = Allowance(begun_s=1.05)
SHAPE = LoadShape(rate_per_s=150.0, timeouts_ms=(300, 4_000))
QUIET_S = 1.0
ROUND_S_MAX = 15.0
POLL_S = 0.1
REPORTED = re.compile(
    r" (ERROR|CRITICAL) .*(damaged|lost|cannot be read)|skyring: .*(damaged|cannot use)"
)
"""A line of the log that says that timers may be lost."""
NOBODY = "nobody has asked"
"""How the checker begins to speak of a payload that no client has given."""
LOSSES = ("lost", "content", "after cancel", "duplicate")
"""Rules that are broken when records are missing: creates, updates, cancels, ends of deliveries."""
REFUSES = "the node refuses, and says why"
SETTLED_S = 2.0
"""So long after a delivery was taken its timer is gone from the disk."""


class _Round(NamedTuple):
    what: str
    verdict: str
    violations: list[Violation]
    lost: int = 0
    old: int = 0
    at_risk: frozenset[str] = frozenset()


async def run_damage(
    directory: Path,
    network: Network,
    chosen: Sequence[Blow],
    seed: int,
    load_s: float,
    progress: Callable[[str], None],
) -> Outcome:
    """Damage files, one place in each round, and look what is delivered and what is reported.

    Raises:
        BenchError: the undamaged node does not start.
    """
    history = History()
    verdicts: Counter[str] = Counter()
    losses: dict[str, Losses] = {}
    violations: list[Violation] = []
    notes: list[str] = []
    async with ChaosReceiver(directory, network.home, is_kind=True) as receiver:
        sound = await _make(directory / "sound", network, receiver, history, seed, load_s)
        history.deliveries = receiver.deliveries(network.names())
        # Before anything was damaged nothing is excused; what is missing is to be delivered still.
        before = check(history, ALLOWANCE)
        violations += [each for each in before if each.rule != "lost"]
        pending = {each.timer for each in before} - {each.timer for each in violations}
        await asyncio.sleep(SHAPE.timeouts_ms[1] / 1000)  # then all of it is due, in each round
        for number, blow in enumerate(chosen):
            place = directory / f"round-{number}"
            shutil.copytree(sound, place / "n1" / "data")
            found = await _round(place, network, receiver, history, blow)
            verdicts[f"{blow.kind}, {blow.how}: {found.verdict}"] += 1
            if found.verdict != REFUSES:
                kind = f"{blow.kind}, {blow.how}"
                risk = len(pending & found.at_risk)
                one = Losses(1, len(pending), risk, found.lost, found.old)
                losses[kind] = losses.get(kind, Losses()).plus(one)
            violations += found.violations
            told = f"{number}: {found.what}: {found.verdict}"
            notes.append(told)
            progress(f"  {told}")
            if not found.violations:
                shutil.rmtree(place)
    what = "a node that stands alone is killed, and its files are damaged"
    outcome = Outcome("damage", what, history, violations, {"damaged": len(chosen)})
    outcome.rounds, outcome.notes = dict(sorted(verdicts.items())), notes
    outcome.losses = dict(sorted(losses.items()))
    return outcome


async def _make(
    directory: Path,
    network: Network,
    receiver: ChaosReceiver,
    history: History,
    seed: int,
    load_s: float,
) -> Path:
    """What a killed node leaves."""
    async with World(directory, network, nodes=1, servers=0, arguments=ARGUMENTS) as world:
        servers = {name: node.server for name, node in world.nodes.items()}
        load = Load(servers, receiver.uri, history, SHAPE, f"damage-{seed}", seed)
        async with load:
            await asyncio.sleep(load_s)
            await load.stop()
        history.faults.append(Fault("kill -9", time.monotonic(), float("inf")))
        await world.kill("n1")
    return world.nodes["n1"].server.storage_path


async def _round(
    place: Path, network: Network, receiver: ChaosReceiver, sound: History, blow: Blow
) -> _Round:
    harm = harm_of(aim_at(place / "n1" / "data", blow))
    what = strike(place / "n1" / "data", blow)
    seen = len(receiver.lines())
    history = History(operations=sound.operations, faults=sound.faults)
    world = World(place, network, nodes=1, servers=0, arguments=ARGUMENTS)
    try:
        async with world:
            is_quiet = await _until_quiet(world, receiver)
            has_ended = world.has_ended("n1")
    except BenchError:
        has_ended = is_quiet = True
    node = world.nodes["n1"]
    came = receiver.deliveries(network.names())[seen:]
    history.deliveries = sound.deliveries + came
    is_reported = any(map(REPORTED.search, node.server.log.splitlines()))
    defects = [line for line in node.defects() if not REPORTED.search(line)]
    defects += errors_in(node.server.log, OF_DAMAGE)
    if has_ended and not is_reported:
        defects.append(f"n1 has ended, and its last words are {node.server.log[-300:]!r}")
    if not (is_quiet or has_ended):
        defects.append(f"timers are pending still after {ROUND_S_MAX:.0f} s")
    history.failures = [(0.0, line) for line in defects]
    return _judge(what, history, came, has_ended, is_reported, harm)


def _judge(
    what: str,
    history: History,
    came: list[Delivery],
    has_ended: bool,
    is_reported: bool,
    harm: Harm,
) -> _Round:
    """What stood in the damaged part may be missing if the node has reported damage in this round.

    Nothing else is excused. A node that refuses to start, and may, has nothing to deliver.
    """
    found = check(history, ALLOWANCE) + _again(history, came)
    losses = [each for each in found if each.rule in LOSSES and NOBODY not in each.text]
    wrong = [each for each in found if each not in losses]
    if has_ended and is_reported and not harm.may_refuse:
        text = "the node does not serve what can be read still"
        wrong.append(Violation("refused", "", text))
    if not has_ended:
        elsewhere = [each for each in losses if each.timer not in harm.timers]
        wrong += [
            each._replace(text=f"{each.text}, and nothing of it stood in the damaged part")
            for each in elsewhere
        ]
    lost = len({each.timer for each in losses if each.rule == "lost"})
    old = len({each.timer for each in losses if each.rule != "lost"})
    how = "lost" if lost else "old"
    if wrong:
        verdict = "WRONG"
    elif has_ended and is_reported:
        verdict = REFUSES
    elif not losses:
        verdict = "nothing lost, reported" if is_reported else "nothing lost"
    elif is_reported:
        verdict = f"{how}, reported"
    else:
        verdict = f"{how.upper()} IN SILENCE"
    if not is_reported:
        wrong += [each for each in losses if has_ended or each.timer in harm.timers]
    if losses:
        what = f"{what} ({len(came)} delivered, {lost} lost, {old} as they were before)"
    named = [each._replace(text=f"{what}: {each.text}") for each in wrong]
    return _Round(what, verdict, named, lost, old, harm.timers)


def _again(history: History, came: list[Delivery]) -> list[Violation]:
    """What was delivered long before the kill, and has come again.

    The checker takes the kill for an explanation, which it is only for what was under way.
    """
    killed_s = min((fault.start_s for fault in history.faults), default=0.0)
    ended = {
        (item.id, item.content)
        for item in history.deliveries
        if item.told and item.began_s < killed_s - SETTLED_S
    }
    text = "it had been delivered before the kill, and came again"
    return [
        Violation("duplicate", item.id, text) for item in came if (item.id, item.content) in ended
    ]


async def _until_quiet(world: World, receiver: ChaosReceiver) -> bool:
    """Until nothing is pending and nothing has come for a while; does that come about?"""
    server = world.nodes["n1"].server
    began_s = quiet_s = time.monotonic()
    count = len(receiver.lines())
    async with Connection(server.host, server.port) as connection:
        while time.monotonic() - began_s < ROUND_S_MAX:
            await asyncio.sleep(POLL_S)
            if len(receiver.lines()) != count:
                count, quiet_s = len(receiver.lines()), time.monotonic()
            elif time.monotonic() - quiet_s > QUIET_S:
                try:
                    status, body = await connection.request("GET", "/timers?limit=1")
                except BenchError:
                    return True  # it has ended
                if listed(status, body, "timers") == set():
                    return True
    return False
