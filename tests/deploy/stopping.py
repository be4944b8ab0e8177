"""How long a node may take to stop: whoever ends it by force must wait longer."""

from __future__ import annotations

from skyring.node import CANCEL_TIMEOUT_S
from skyring.ring.member import RELEASE_S
from skyring.settings import ShutdownSettings

__all__ = ["SPARE_S", "stop_s_max"]

SPARE_S = 5
"""For what has no bound of its own: the files of LevelDB are closed, the process ends."""
REQUESTS_S_MIN = 1
"""The least that the HTTP server waits for requests: whole seconds, and one at least."""


def stop_s_max(shutdown: ShutdownSettings, transports: int = 1) -> float:
    """Seconds from SIGTERM to the end of the process at the latest.

    Args:
        transports: how many are open, webhooks among them; they are closed one after the other.
    """
    drain_s = shutdown.drain_ms / 1000
    return (
        shutdown.ready_delay_ms / 1000
        + (drain_s + RELEASE_S)  # the slots are given to the others
        + max(REQUESTS_S_MIN, drain_s)  # requests are answered
        + (drain_s + CANCEL_TIMEOUT_S)  # deliveries end
        + transports * (drain_s + CANCEL_TIMEOUT_S)
        + SPARE_S
    )
