"""Does NATS sync its files before it acknowledges? Only its monitoring tells."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Sync", "read_sync"]

Sync: TypeAlias = Literal["always", "interval", "unknown"]
"""``always``: what is acknowledged is on disk; ``interval``: it will be, two minutes later by
default; ``unknown``: nobody tells."""

TIMEOUT_S = 2.0


async def read_sync(monitoring_url: str | None) -> Sync:
    """What a server's ``/varz`` says of its ``sync_interval``.

    Args:
        monitoring_url: ``http://host:port`` of its monitoring; None is unknown.
    """
    if monitoring_url is None:
        return "unknown"
    import httpx  # takes long to import, and most nodes need it for nothing else

    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(f"{monitoring_url.rstrip('/')}/varz")
            config = answer.raise_for_status().json()["jetstream"]["config"]
            return "always" if config.get("sync_always") else "interval"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError):
        return "unknown"
