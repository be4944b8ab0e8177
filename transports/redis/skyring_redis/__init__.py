"""Skyring transport for Redis streams: a fired timer becomes an entry."""

from skyring_redis.transport import Redis

__all__ = ["Redis"]
