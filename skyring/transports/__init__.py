"""Transports deliver fired timers. All that the author of one needs is here."""

from skyring.errors import InvalidRequest
from skyring.tasks import end_tasks
from skyring.tls import client_tls
from skyring.transports.address import Address, read_address
from skyring.transports.base import (
    Callback,
    DeliveryInfo,
    Outcome,
    RetrySpec,
    Transport,
    TransportOptions,
)
from skyring.transports.wire import delivery_headers, envelope, outcome_of_answer

__all__ = [
    "Address",
    "Callback",
    "DeliveryInfo",
    "InvalidRequest",
    "Outcome",
    "RetrySpec",
    "Transport",
    "TransportOptions",
    "client_tls",
    "delivery_headers",
    "end_tasks",
    "envelope",
    "outcome_of_answer",
    "read_address",
]
