"""One attempt to deliver: the call of a transport, which may be anybody's code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import get_args

from skyring.transports.base import Callback, DeliveryInfo, Outcome, OutcomeKind, Transport

__all__ = ["attempt"]

logger = logging.getLogger(__name__)


async def attempt(
    transport: Transport, callback: Callback, payload: bytes, info: DeliveryInfo
) -> Outcome:
    """Call a transport, and make an outcome of whatever it does.

    It is cut off after ``info.timeout_ms`` milliseconds, unless it keeps that time by itself.

    Raises:
        CancelledError: this task is cancelled; a cancellation of the transport's own is a retry.
    """
    try:
        if transport.keeps_timeout:
            outcome = await transport.deliver(callback, payload, info)
        else:
            outcome = await _cut_off(transport.deliver(callback, payload, info), info)
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        return Outcome.retry("the transport was cancelled by something of its own")
    except Exception as error:  # a transport may be anybody's code
        logger.debug("delivery of %s failed", info.id, exc_info=True)
        return Outcome.retry(_told(error))
    if not _is_sound(outcome):
        return Outcome.retry(f"the transport returned no Outcome: {type(outcome).__name__}")
    return outcome


async def _cut_off(delivery: Awaitable[Outcome], info: DeliveryInfo) -> Outcome:
    try:
        async with asyncio.timeout(info.timeout_ms / 1000) as limit:
            return await delivery
    except TimeoutError:
        if limit.expired():  # otherwise it is one of the transport's own
            return Outcome.retry(f"time-out after {info.timeout_ms} ms")
        raise


def _told(error: Exception) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # even its text may be anybody's code
        return name


def _is_cancelled() -> bool:
    """Is it this task that is to end, and not only something that it awaited?"""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_sound(outcome: object) -> bool:
    """Types are not checked when an outcome is made, and a transport may be anybody's code."""
    if not isinstance(outcome, Outcome) or outcome.kind not in get_args(OutcomeKind):
        return False
    reason: object = outcome.reason
    after_ms: object = outcome.after_ms
    return isinstance(reason, str) and (after_ms is None or isinstance(after_ms, int))
