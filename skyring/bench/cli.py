"""``skyring bench``: measure a server that speaks this API."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from skyring.bench.chaos_cli import chaos
from skyring.bench.ring_cli import app as ring_app
from skyring.bench.running import Json, MaxSeconds, Seed, run_benchmark, show_progress

if TYPE_CHECKING:
    from skyring.bench.target import Common

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Measure a server that speaks this API: one that runs already (--url), or one that is"
    " started for the purpose and removed afterwards.",
)
app.add_typer(ring_app, name="ring")
app.command()(chaos)

Url = Annotated[
    str | None,
    typer.Option("--url", help="A running server on this machine.", metavar="URL"),
]
Start = Annotated[
    bool,
    typer.Option("--start", help="Start a server of its own; the default without --url."),
]
ServerArg = Annotated[
    list[str] | None,
    typer.Option(
        "--server-arg",
        metavar="ARG",
        help="Further argument of `skyring run`, such as --storage:sync=never. May be repeated.",
    ),
]
ServerCommand = Annotated[
    str | None,
    typer.Option(
        "--server-command",
        metavar="COMMAND",
        help="Run this in place of `python -m skyring run`, for example another version.",
    ),
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Medians are taken.")]
Connections = Annotated[
    int, typer.Option("--connections", "-c", min=1, max=5000, help="Open connections.")
]
NoBulkIgnored = Annotated[
    bool, typer.Option("--no-bulk", hidden=True, help="This command never uses POST /timers.")
]
Patience = Annotated[
    float,
    typer.Option("--patience", min=1, help="Seconds to wait when nothing more arrives."),
]


class Shape(StrEnum):
    """How the timers of one POST /timers are written."""

    NDJSON = "ndjson"
    ARRAY = "array"


@app.command()
def create(
    url: Url = None,
    start: Start = False,
    connections: Connections = 64,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Load on each of the two in each round.")
    ] = 5.0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="At most so many timers in each round.")
    ] = None,
    rounds: Rounds = 3,
    max_seconds: MaxSeconds = 300.0,
    json: Json = False,
    server_arg: ServerArg = None,
    server_command: ServerCommand = None,
    no_bulk: NoBulkIgnored = False,
) -> None:
    """Creates per second through POST /timer, beside an empty ASGI app on uvicorn.

    The timers are due in 24 days; on a server that runs already they stay there.
    """
    from skyring.bench import create as bench

    common = _common(url, start, rounds, json, server_arg, server_command)
    run_benchmark(
        bench.run(common, connections=connections, seconds=seconds, count=count),
        max_seconds,
        json,
    )


@app.command()
def bulk(
    url: Url = None,
    start: Start = False,
    connections: Connections = 4,
    entries: Annotated[
        int, typer.Option("--entries", min=1, help="Timers in each request.")
    ] = 5_000,
    count: Annotated[int, typer.Option("--count", min=1, help="Timers in each round.")] = 300_000,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="No request of a round begins later.")
    ] = 10.0,
    shape: Annotated[Shape, typer.Option("--shape", help="Lines or one array.")] = Shape.NDJSON,
    rounds: Rounds = 3,
    max_seconds: MaxSeconds = 300.0,
    json: Json = False,
    server_arg: ServerArg = None,
    server_command: ServerCommand = None,
) -> None:
    """Timers per second through POST /timers.

    The timers are due in 24 days; on a server that runs already they stay there.
    """
    from skyring.bench import bulk as bench

    common = _common(url, start, rounds, json, server_arg, server_command)
    run = bench.run(
        common,
        connections=connections,
        entries=entries,
        count=count,
        seconds=seconds,
        shape=shape.value,
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def herd(
    url: Url = None,
    start: Start = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Timers.")] = 20_000,
    ahead: Annotated[
        float | None,
        typer.Option("--ahead", min=0.5, help="Seconds until they are due.", show_default="ample"),
    ] = None,
    patience: Patience = 30.0,
    no_bulk: Annotated[
        bool, typer.Option("--no-bulk", help="Create them one by one, through POST /timer.")
    ] = False,
    connections: Connections = 64,
    rounds: Rounds = 3,
    max_seconds: MaxSeconds = 300.0,
    json: Json = False,
    server_arg: ServerArg = None,
    server_command: ServerCommand = None,
) -> None:
    """Timers due at one instant: delivered per second, lost, duplicated, early."""
    from skyring.bench import herd as bench

    common = _common(url, start, rounds, json, server_arg, server_command)
    run = bench.run(
        common,
        count=count,
        ahead_s=ahead,
        patience_s=patience,
        bulk=not no_bulk,
        connections=connections,
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def steady(
    url: Url = None,
    start: Start = False,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Timers per second.")] = 2_000.0,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="How long, in each round.")
    ] = 10.0,
    timeout_min: Annotated[
        int, typer.Option("--timeout-min", min=1, help="Least time-out, ms.")
    ] = 1_000,
    timeout_max: Annotated[
        int, typer.Option("--timeout-max", min=1, help="Greatest time-out, ms.")
    ] = 2_000,
    connections: Connections = 64,
    patience: Patience = 15.0,
    seed: Seed = 1,
    rounds: Rounds = 3,
    max_seconds: MaxSeconds = 300.0,
    json: Json = False,
    server_arg: ServerArg = None,
    server_command: ServerCommand = None,
    no_bulk: NoBulkIgnored = False,
) -> None:
    """Timers at a steady rate, created and fired at the same time: lateness."""
    from skyring.bench import steady as bench

    common = _common(url, start, rounds, json, server_arg, server_command)
    run = bench.run(
        common,
        rate=rate,
        seconds=seconds,
        timeouts_ms=_range(timeout_min, timeout_max),
        connections=connections,
        patience_s=patience,
        seed=seed,
    )
    run_benchmark(run, max_seconds, json)


@app.command()
def scale(
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="Pending timers, due in hours.")
    ] = 1_000_000,
    pages: Annotated[
        int, typer.Option("--pages", min=0, help="Pages of GET /timers to read.")
    ] = 20,
    page_limit: Annotated[int, typer.Option("--page-limit", min=1, help="Timers a page.")] = 1_000,
    rounds: Rounds = 1,
    max_seconds: MaxSeconds = 900.0,
    json: Json = False,
    server_arg: ServerArg = None,
    server_command: ServerCommand = None,
) -> None:
    """Pending timers: memory, and time until ready after a restart. On a server of its own."""
    from skyring.bench import scale as bench

    common = _common(None, True, rounds, json, server_arg, server_command)
    run_benchmark(
        bench.run(common, count=count, pages=pages, page_limit=page_limit), max_seconds, json
    )


@app.command()
def crash(
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Crashes.")] = 50,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Creates per second.")] = 2_000.0,
    kill_after: Annotated[
        float, typer.Option("--kill-after", min=0.2, help="Latest moment of the kill, seconds.")
    ] = 2.0,
    timeout_min: Annotated[
        int, typer.Option("--timeout-min", min=1, help="Least time-out, ms.")
    ] = 100,
    timeout_max: Annotated[
        int, typer.Option("--timeout-max", min=1, help="Greatest time-out, ms.")
    ] = 2_500,
    bound: Annotated[
        float,
        typer.Option("--bound", min=1, help="Seconds that a timer may take after the restart."),
    ] = 30.0,
    connections: Connections = 64,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 1_800.0,
    json: Json = False,
    server_arg: ServerArg = None,
    server_command: ServerCommand = None,
) -> None:
    """Kill -9 at random moments under load: is every acknowledged timer delivered?

    Always on a server of its own.
    """
    from skyring.bench import crash as bench

    common = _common(None, True, rounds, json, server_arg, server_command)
    run = bench.run(
        common,
        rate=rate,
        kill_after_s_max=kill_after,
        timeouts_ms=_range(timeout_min, timeout_max),
        bound_s=bound,
        connections=connections,
        seed=seed,
    )
    run_benchmark(run, max_seconds, json)


def _range(least_ms: int, greatest_ms: int) -> tuple[int, int]:
    if least_ms > greatest_ms:
        raise typer.BadParameter(f"--timeout-min {least_ms} is above --timeout-max {greatest_ms}")
    return least_ms, greatest_ms


def _common(
    url: str | None,
    start: bool,
    rounds: int,
    json: bool,
    server_arg: list[str] | None,
    server_command: str | None,
) -> Common:
    import shlex

    from skyring.bench.target import Common

    if url is not None and (start or server_arg or server_command):
        raise typer.BadParameter("--url measures a server that runs already; nothing is started")
    return Common(
        url=url,
        rounds=rounds,
        server_arguments=server_arg or (),
        server_command=None if server_command is None else shlex.split(server_command),
        **({} if json else {"progress": show_progress}),
    )
