"""Every setting of a node, written once.

The command line, the environment and the TOML file are all generated from the models below:
``storage.path`` is ``--storage:path`` or ``--storage-path``, ``SKYRING_STORAGE__PATH``, and
``path`` under ``[storage]``. The command line wins over the environment, and that over the file.
"""

from __future__ import annotations

from skyring.settings.group import Group
from skyring.settings.loading import load_settings
from skyring.settings.local import (
    DeliverySettings,
    HttpSettings,
    LogSettings,
    RetrySettings,
    ShutdownSettings,
    StorageSettings,
    TimerSettings,
    TransportSettings,
    fold_name,
)
from skyring.settings.node import Settings
from skyring.settings.shared import NatsSettings, RingSettings

__all__ = [
    "DeliverySettings",
    "Group",
    "HttpSettings",
    "LogSettings",
    "NatsSettings",
    "RetrySettings",
    "RingSettings",
    "Settings",
    "ShutdownSettings",
    "StorageSettings",
    "TimerSettings",
    "TransportSettings",
    "fold_name",
    "load_settings",
]
