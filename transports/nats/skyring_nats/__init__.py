"""Skyring delivers timers through NATS."""

from skyring_nats.transport import Nats

__all__ = ["Nats"]
