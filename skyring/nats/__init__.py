"""One connection to NATS that is made anew whenever it is lost, and what goes over it."""

from skyring.nats.access import Server, credentials, read_servers
from skyring.nats.connection import Connection, ConnectionLost, check_library
from skyring.nats.link import Link
from skyring.nats.making import make_link
from skyring.nats.message import Message, Received, Reply, one_line
from skyring.nats.session import Refused, Session
from skyring.nats.subscription import Subscription

__all__ = [
    "Connection",
    "ConnectionLost",
    "Link",
    "Message",
    "Received",
    "Refused",
    "Reply",
    "Server",
    "Session",
    "Subscription",
    "check_library",
    "credentials",
    "make_link",
    "one_line",
    "read_servers",
]
