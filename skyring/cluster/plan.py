"""Which programs a cluster consists of: their names, addresses, directories and command lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skyring.cluster.nats_server import Sync, nats_config, server_binary
from skyring.errors import ConfigError, SkyringError
from skyring.ports import free_ports, why_taken

__all__ = ["Options", "Plan", "Program", "make_plan"]

HOST = "127.0.0.1"
PORT_MAX = 65_535
EVERYWHERE = "0.0.0.0"
MADE_WITH = "cluster.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for."""

    nodes: int
    port: int
    """Of the first node, the others follow; 0 takes free ones."""
    nats_port: int
    """Of the first NATS server, the others follow; 0 takes free ones."""
    nats_servers: int
    sync: Sync
    directory: Path
    ring: str
    host: str = HOST
    """Address that the nodes listen on."""
    arguments: tuple[str, ...] = ()
    """Further options of ``skyring run``."""


class Program(NamedTuple):
    """One program of the cluster."""

    name: str
    command: tuple[str, ...]
    url: str
    """For its clients."""
    host: str
    health_port: int
    health_path: str
    """It works when a GET of this is answered 200."""
    data: Path


class Plan(NamedTuple):
    """All programs. The nodes are started when NATS works, and stopped before it."""

    nats: tuple[Program, ...]
    nodes: tuple[Program, ...]

    @property
    def programs(self) -> tuple[Program, ...]:
        """NATS and nodes."""
        return (*self.nats, *self.nodes)


def make_plan(options: Options) -> Plan:
    """Choose the ports, and write what the programs need into the directory.

    Raises:
        ConfigError: it cannot be done so.
        SkyringError: a port is taken, or there is no nats-server.
        OSError: the directory cannot be written to.
    """
    if ":" in options.host:
        raise ConfigError(f"the nodes of a cluster listen on IPv4, and not on {options.host}")
    _check_servers(options)
    binary = server_binary()
    given = _given_ports(options.port, options.nodes)
    nats_ports = _ports(options.nats_port, options.nats_servers, "--nats-port", HOST, "nats", given)
    ports = _ports(options.port, options.nodes, "--port", options.host, "node", nats_ports)
    twice = set(nats_ports) & set(ports)
    if twice:
        raise ConfigError(f"--port and --nats-port both come to {min(twice)}")
    nats = _nats_programs(options, binary, nats_ports, avoid={*nats_ports, *ports})
    servers = ",".join(program.url for program in nats)
    monitoring = f"http://{HOST}:{nats[0].health_port}"
    nodes = tuple(
        _node_program(options, number, port, servers, monitoring)
        for number, port in enumerate(ports, 1)
    )
    return Plan(nats, nodes)


def _check_servers(options: Options) -> None:
    """Logs that three servers keep together are lost to one of them alone."""
    path = options.directory / MADE_WITH
    if path.exists():
        try:
            before = int(json.loads(path.read_text(encoding="utf-8"))["nats_servers"])
        except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
            raise SkyringError(f"{path} is damaged: {error}") from error
        if before != options.nats_servers:
            raise ConfigError(
                f"{options.directory} was made with --nats-servers {before}: use that again, or"
                " another --data"
            )
    else:
        content = {"format": 1, "nats_servers": options.nats_servers}
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _nats_programs(
    options: Options, binary: Path, ports: Sequence[int], avoid: set[int]
) -> tuple[Program, ...]:
    count = len(ports)
    others = free_ports(2 * count, HOST, avoid)
    monitoring_ports, route_ports = others[:count], others[count:]
    names = ["nats"] if count == 1 else [f"nats-{number}" for number in range(1, count + 1)]
    programs = []
    for number, (name, port) in enumerate(zip(names, ports, strict=True)):
        directory = (options.directory / name).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "nats.conf"
        content = nats_config(
            name,
            host=HOST,
            port=port,
            monitoring_port=monitoring_ports[number],
            store=directory / "store",
            sync=options.sync,
            cluster="skyring" if count > 1 else "",
            routes=[route for route in route_ports if route != route_ports[number]],
            route_port=route_ports[number],
        )
        config.write_text(content, encoding="utf-8")
        programs.append(
            Program(
                name=name,
                command=(str(binary), "-c", str(config)),
                url=f"nats://{HOST}:{port}",
                host=HOST,
                health_port=monitoring_ports[number],
                health_path="/healthz",
                data=options.directory / name,
            )
        )
    return tuple(programs)


def _node_program(
    options: Options, number: int, port: int, servers: str, monitoring: str
) -> Program:
    name = f"node-{number}"
    data = options.directory / name
    host = HOST if options.host == EVERYWHERE else options.host
    command = (
        *(sys.executable, "-m", "skyring", "run"),
        *("--host", options.host, "--port", str(port), "--node", name),
        *("--nats", servers, "--nats:monitoring", monitoring, "--ring", options.ring),
        *("--ring:replicas", str(min(3, options.nats_servers)), "--storage:path", str(data)),
        *options.arguments,
    )
    return Program(name, command, f"http://{host}:{port}", host, port, "/health/ready", data)


def _given_ports(first: int, count: int) -> range:
    return range(first, first + count) if first else range(0)


def _ports(
    first: int, count: int, option: str, host: str, name: str, others: Sequence[int]
) -> list[int]:
    if first == 0:
        return free_ports(count, host, others)
    if first + count - 1 > PORT_MAX:
        raise ConfigError(f"{option} {first}: there are no {count} ports from there on")
    for number, port in enumerate(_given_ports(first, count), 1):
        reason = why_taken(host, port)
        if reason is not None:
            who = name if name == "nats" and count == 1 else f"{name}-{number}"
            raise SkyringError(
                f"{who} cannot listen on {host}:{port}: {reason}; {option} 0 takes free ports"
            )
    return list(_given_ports(first, count))
