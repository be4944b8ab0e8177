"""Delivers timers as framed messages over TCP or TLS, one answer each."""

from skyring_tcp.transport import Tcp

__all__ = ["Tcp"]
