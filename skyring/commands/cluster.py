"""``skyring cluster``: a whole ring on one machine, to see how it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skyring.errors import ConfigError, SkyringError

if TYPE_CHECKING:
    from skyring.cluster.plan import Options
    from skyring.settings import Settings

__all__ = ["cluster"]

OWN = {
    ("node",): "--node",
    ("port",): "--port",
    ("advertise",): "--advertise",
    ("nats", "servers"): "--nats",
    ("ring", "name"): "--ring",
    ("ring", "replicas"): "--ring:replicas",
    ("storage", "path"): "--storage:path",
}
"""Options of the nodes that the cluster gives to each."""
STOP_MARGIN_S = 15.0


def cluster(
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS]", help="Options of skyring run, for every node."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, max=32, help="Nodes to start.")] = 3,
    port: Annotated[
        int,
        typer.Option(
            "-p",
            "--port",
            min=0,
            max=65_535,
            help="Port of the first node, the others follow; 0 takes free ones.",
        ),
    ] = 3000,
    nats_port: Annotated[
        int,
        typer.Option(min=0, max=65_535, help="The same for the NATS servers."),
    ] = 4222,
    nats_servers: Annotated[
        int, typer.Option(min=1, max=3, help="1 or 3, which can lose one of them.")
    ] = 1,
    sync: Annotated[
        Literal["always", "interval"],
        typer.Option(help="When NATS syncs to disk: before it acknowledges, or every two minutes."),
    ] = "always",
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory for all data and logs.")
    ] = Path("cluster"),
    ring: Annotated[str, typer.Option(metavar="NAME", help="Name of the ring.")] = "main",
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Start again what has died.")
    ] = True,
) -> None:
    """Start a ring on this machine: NATS, and some nodes, under one supervisor.

    Ctrl-C stops all of it. What is in --data is used again the next time.

    skyring cluster --nodes 3 --port 3000 -- --log:level debug
    """
    if nats_servers == 2:
        raise ConfigError("--nats-servers: two servers are less safe than one; take 1 or 3")
    arguments = tuple(options or ())
    settings = _read_settings(arguments, ring)
    from skyring.cluster.plan import Options

    code = _run(
        Options(
            nodes=nodes,
            port=port,
            nats_port=nats_port,
            nats_servers=nats_servers,
            sync=sync,
            directory=data,
            ring=ring,
            host=settings.host,
            arguments=arguments,
        ),
        settings,
        restart,
    )
    raise typer.Exit(code)


def _run(options: Options, settings: Settings, restart: bool) -> int:
    import asyncio

    from skyring.cluster.directory import held
    from skyring.cluster.plan import make_plan
    from skyring.cluster.supervisor import Supervisor

    stop_ms = settings.shutdown.ready_delay_ms + settings.shutdown.drain_ms
    try:
        with held(options.directory):
            supervisor = Supervisor(
                make_plan(options),
                options,
                stop_s=stop_ms / 1000 + STOP_MARGIN_S,
                restarts=restart,
            )
            return asyncio.run(supervisor.run())
    except OSError as error:
        where = error.filename or options.directory
        raise SkyringError(f"cannot use {where}: {error.strerror or error}") from error


def _read_settings(arguments: tuple[str, ...], ring: str) -> Settings:
    """What the nodes will make of the options, found out before any is started.

    Raises:
        ConfigError: something is wrong with them.
    """
    from skyring.commands.settings_command import settings_app
    from skyring.options import nest, setting_options
    from skyring.settings import load_settings

    found: list[Settings] = []

    def read(given: dict[str, Any], config_file: Path | None) -> None:
        values = dict(_flat(given))
        for path in values.keys() & OWN.keys():
            raise ConfigError(f"{OWN[path]} is not for the nodes of a cluster: each gets its own")
        values |= {("ring", "name"): ring, ("nats", "servers"): "127.0.0.1"}
        found.append(load_settings(nest(values), config_file))

    app = settings_app("cluster --", "Options of every node.", list(setting_options()), read)
    typer.main.get_command(app).main(
        list(arguments), prog_name="skyring cluster --", standalone_mode=False
    )
    if not found:  # it was asked for help
        raise typer.Exit
    return found[0]


def _flat(
    values: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The opposite of `nest`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, name))
        else:
            yield (*path, name), value
