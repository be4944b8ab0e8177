"""What the database has come to, written down outside of it.

A log or a manifest of LevelDB that has become shorter looks to LevelDB like one that was never
longer: it opens without a word. So the number of the last acknowledged group of writes, and the
length of the manifest at that time, are kept in a small file beside them.

It is written when a group is on the disk, and is not synced itself. A kill of the process leaves
it; after a power cut it may be older than the database, which can hide a loss and never makes one
up.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from skyring.storage.seal import SealBroken, seal, unseal

__all__ = ["Mark"]

NAME = "ACKNOWLEDGED"
KEY = NAME.encode()
LENGTH = 256
"""Of the file, always: a shorter text is filled up with blanks."""


class Mark:
    """A file in the directory of the database, which LevelDB leaves alone.

    Args:
        directory: of the database.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = self._manifest = -1
        self._manifest_name = ""
        self.group = 0
        """The last acknowledged group when the database was used last; 0: nothing is known."""

    def read(self) -> str | None:
        """Before the database is opened: what is wrong with its files, None if nothing is.

        Raises:
            OSError: the mark is there and cannot be read.
        """
        self.group = 0
        try:
            written = (self._directory / NAME).read_bytes()
            if not written.strip(b"\0"):  # it was made, and then the power was cut
                return None
            found = unseal(KEY, written)
        except FileNotFoundError:
            return None
        except SealBroken as error:
            return f"what was acknowledged last cannot be read: {error}"
        noted = json.loads(found)
        self.group = noted["group"]
        manifest = self._directory / noted["manifest"]
        # A new manifest has taken its place if the last start did not come to its first write.
        if manifest.exists() and manifest.stat().st_size < noted["manifest_bytes"]:
            return f"{manifest.name} was {noted['manifest_bytes']} bytes long"
        return None

    def open(self) -> None:
        """When the database is open: be ready to write. Raises OSError."""
        self.close()
        self._manifest_name = (self._directory / "CURRENT").read_text().strip()
        self._manifest = os.open(self._directory / self._manifest_name, os.O_RDONLY | os.O_CLOEXEC)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self._directory / NAME, flags, 0o644)

    def write(self, group: int) -> None:
        """A group is on the disk. A disk that is full makes the mark stay behind, nothing else."""
        with suppress(OSError):
            noted = {
                "group": group,
                "manifest": self._manifest_name,
                "manifest_bytes": os.fstat(self._manifest).st_size,
            }
            os.pwrite(self._file, seal(KEY, json.dumps(noted).encode().ljust(LENGTH)), 0)

    def close(self) -> None:
        """May be called at any time."""
        for file in (self._file, self._manifest):
            if file >= 0:
                os.close(file)
        self._file = self._manifest = -1
