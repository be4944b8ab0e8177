"""The directory of a cluster, held by one supervisor at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skyring.errors import SkyringError

__all__ = ["held"]

LOCK = "cluster.lock"


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Make it if it is missing, and hold it.

    Raises:
        SkyringError: another supervisor holds it.
        OSError: it cannot be written to.
    """
    import fcntl

    (directory / "logs").mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a+") as lock:  # which no child inherits
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(32).strip()
            raise SkyringError(
                f"another cluster runs in {directory}" + (f": process {holder}" if holder else "")
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
