"""Which storage a node has."""

from __future__ import annotations

from skyring.settings import StorageSettings
from skyring.storage.base import Storage
from skyring.storage.memory import MemoryStorage

__all__ = ["make_storage"]


def make_storage(settings: StorageSettings, slots: int) -> Storage:
    """The storage that the settings name; not yet open."""
    if settings.backend == "memory":
        return MemoryStorage()
    # Whoever keeps timers in memory need not load LevelDB.
    from skyring.storage.leveldb import LevelDBStorage
    from skyring.storage.leveldb_files import LevelDBFiles
    from skyring.storage.leveldb_mark import Mark

    files = LevelDBFiles(
        path=settings.path,
        slots=slots,
        cache_bytes=settings.cache_bytes,
        write_buffer_bytes=settings.write_buffer_bytes,
        open_files_max=settings.open_files_max,
        compression=None if settings.compression == "none" else settings.compression,
        mark=Mark(settings.path),
        # With a log behind it, what comes last and is missing is read again (and sync is "never").
        groups_last=settings.sync == "always",
    )
    return LevelDBStorage(
        files,
        sync=settings.sync == "always",
        group_bytes_max=settings.group_bytes_max,
        pending_bytes_max=settings.pending_bytes_max,
        reopen_timeout_ms=settings.reopen_timeout_ms,
    )
