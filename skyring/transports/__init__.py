"""Transports deliver fired timers."""

from skyring.transports.base import Callback, DeliveryInfo, Outcome, RetrySpec, Transport

__all__ = ["Callback", "DeliveryInfo", "Outcome", "RetrySpec", "Transport"]
