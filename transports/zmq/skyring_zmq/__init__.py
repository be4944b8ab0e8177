"""Delivers timers as ZeroMQ messages: pushed, or requests with a reply each."""

from skyring_zmq.transport import Zmq

__all__ = ["Zmq"]
