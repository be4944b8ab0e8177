"""Free ports for servers that are started here: of a cluster, a benchmark or a test."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

from skyring.errors import SkyringError

__all__ = ["HIGHEST", "LOWEST", "free_port", "free_ports", "why_taken"]

LOWEST = 12_000
HIGHEST = 31_999
ATTEMPTS_MAX = 1_000
DIGITS_MAX = 5


def free_port(host: str = "127.0.0.1", avoid: Iterable[int] = ()) -> int:
    """A port that nobody listens on, and that no other caller of this user was given lately.

    It lies below the range from which the system takes the ports of outgoing connections: no
    client gets it while a server restarts, and no client that polls it connects to itself. All
    processes of a user take turns, by a file: between the choice of a port and its use nobody else
    is given the same.

    Args:
        host: address that is to be listened on.
        avoid: ports that are spoken for.

    Raises:
        SkyringError: there is none.
    """
    taken = set(avoid)
    for _ in range(ATTEMPTS_MAX):
        port = _next()
        if port not in taken and why_taken(host, port) is None:
            return port
    raise SkyringError(f"no free port found on {host}")


def free_ports(count: int, host: str = "127.0.0.1", avoid: Iterable[int] = ()) -> list[int]:
    """So many different ones, as `free_port` finds them."""
    found: list[int] = []
    taken = set(avoid)
    for _ in range(count):
        found.append(free_port(host, taken))
        taken.add(found[-1])
    return found


def why_taken(host: str, port: int) -> str | None:
    """Why a port cannot be listened on, in words; None if it can."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def _next() -> int:
    try:
        return _next_of_all()
    except (ImportError, AttributeError, OSError):
        # No such locks here (Windows), or a directory for temporary files that cannot be used.
        return random.randint(LOWEST, HIGHEST)


def _next_of_all() -> int:
    import fcntl

    path = Path(tempfile.gettempdir()) / f"skyring-ports-{os.getuid()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # held for two calls, and given up at close
        last = os.pread(file, DIGITS_MAX, 0)
        port = int(last) + 1 if last.isdigit() else random.randint(LOWEST, HIGHEST)
        if not LOWEST <= port <= HIGHEST:
            port = LOWEST
        os.pwrite(file, b"%05d" % port, 0)
    finally:
        os.close(file)
    return port
