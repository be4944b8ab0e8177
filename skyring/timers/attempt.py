"""One attempt to deliver: the call of a transport, which may be anybody's code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, get_args

from skyring.transports.base import Callback, DeliveryInfo, Outcome, OutcomeKind, Transport, told

__all__ = ["Attempts"]

logger = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 5.0
"""Time allowed to a delivery that was cancelled."""
LEFT_BEHIND_MAX = 1_000
"""Deliveries that do not end though they were cancelled. With more, the transport is called no
more: each of them keeps memory and perhaps a connection."""


class Attempts:
    """Calls transports, and knows the calls that do not end."""

    def __init__(self) -> None:
        self._left_behind: set[asyncio.Task[Outcome]] = set()

    async def attempt(
        self, transport: Transport, callback: Callback, payload: bytes, info: DeliveryInfo
    ) -> Outcome:
        """Call a transport, and make an outcome of whatever it does.

        It is cut off after ``info.timeout_ms`` milliseconds, unless it keeps that time by itself.

        Raises:
            CancelledError: this task is cancelled; a cancellation of the transport's own is none.
        """
        try:
            delivery = transport.deliver(callback, payload, info)
            if transport.keeps_timeout:
                outcome = await delivery
            else:
                outcome = await self._cut_off(delivery, transport.name, info)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            return Outcome.retry("the transport was cancelled by something of its own")
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a transport may be anybody's code; some call sys.exit()
            logger.debug("delivery of %s failed", info.id, exc_info=True)
            return Outcome.retry(told(error))
        if not _is_sound(outcome):
            return Outcome.retry(f"the transport returned no Outcome: {type(outcome).__name__}")
        return outcome

    async def _cut_off(
        self, delivery: Coroutine[Any, Any, Outcome], name: str, info: DeliveryInfo
    ) -> Outcome:
        """In a task of its own, for not every delivery ends when it is cancelled."""
        if len(self._left_behind) >= LEFT_BEHIND_MAX:
            delivery.close()
            return Outcome.retry(f"too many deliveries of the transport {name} do not end")
        task = asyncio.create_task(_caught(delivery), name=f"delivery-{name}")
        try:
            await asyncio.wait([task], timeout=info.timeout_ms / 1000)
        except asyncio.CancelledError:
            await self._end(task, name)
            raise
        if task.done():
            return task.result()
        await self._end(task, name)
        if task.done() and not task.cancelled() and task.exception() is None:
            return task.result()  # it came to its end in the last moment
        return Outcome.retry(f"time-out after {info.timeout_ms} ms")

    async def _end(self, task: asyncio.Task[Outcome], name: str) -> None:
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_TIMEOUT_S)
        if not task.done():
            logger.error("a delivery of the transport %s does not end though cancelled", name)
            self._left_behind.add(task)
            task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[Outcome]) -> None:
        self._left_behind.discard(task)
        if not task.cancelled():
            task.exception()  # it is known already that it failed


async def _caught(delivery: Coroutine[Any, Any, Outcome]) -> Outcome:
    """What is neither Exception nor cancellation would end the event loop from inside a task."""
    try:
        return await delivery
    except (Exception, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return Outcome.retry(told(error))


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
