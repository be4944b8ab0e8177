"""From a request to the record of a timer, checked in every respect."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from skyring.clock import Clock
from skyring.errors import InvalidRequest, SkyringError
from skyring.settings import DeliverySettings, RetrySettings
from skyring.timers.record import Record
from skyring.timers.request import TimerRequest, due_of, payload_of
from skyring.timers.retry import REASON_CHARS_MAX
from skyring.transports.base import Callback, Transport

__all__ = ["DESTINATION_CHARS_MAX", "Preparer"]

logger = logging.getLogger(__name__)

DESTINATION_CHARS_MAX = 1_000
"""More is no name of a receiver."""


class Preparer:
    """Makes records of requests.

    Args:
        clock: what time it is.
        transports: loaded transports by name.
        delivery: limits that a callback's own ``timeout_ms`` must keep.
        retry: limits that a callback's own ``retry`` must keep.
    """

    def __init__(
        self,
        clock: Clock,
        transports: Mapping[str, Transport],
        delivery: DeliverySettings,
        retry: RetrySettings,
    ) -> None:
        self._clock = clock
        self._transports = transports
        self._delivery = delivery
        self._retry = retry

    def prepare(self, request: TimerRequest) -> Record:
        """The record of a request.

        Raises:
            InvalidRequest: naming the field at fault.
        """
        now_ms = self._clock.ceil_ms()
        due_ms, timeout_ms = due_of(request, now_ms)
        data_kind, payload = payload_of(request)
        callback = request.callback
        transport = self._transports.get(callback.transport)
        if transport is None:
            raise InvalidRequest(
                f"no transport of this name is loaded; there are: {', '.join(self._transports)}",
                "callback.transport",
            )
        destination = _destination(transport, callback)
        if callback.retry is not None or callback.timeout_ms is not None:
            self._check_limits(callback)
        return Record(
            created_ms=now_ms,
            due_ms=due_ms,
            next_ms=due_ms,
            timeout_ms=timeout_ms,
            data_kind=data_kind,
            payload=payload,
            callback=callback,
            destination=destination,
        )

    def _check_limits(self, callback: Callback) -> None:
        own = callback.retry
        limits = [("callback.timeout_ms", callback.timeout_ms, self._delivery.timeout_ms_max)]
        if own is not None:
            limits += [
                ("callback.retry.attempts", own.attempts, self._retry.attempts_max),
                ("callback.retry.backoff_ms", own.backoff_ms, self._retry.max_ms_max),
                ("callback.retry.max_ms", own.max_ms, self._retry.max_ms_max),
            ]
        for field, value, largest in limits:
            if value is not None and not 1 <= value <= largest:
                raise InvalidRequest(f"must be a whole number from 1 to {largest}", field)


def _destination(transport: Transport, callback: Callback) -> str:
    """Have a callback checked by its transport, which may be anybody's code.

    Its ValueError is about the callback, as InvalidRequest is; other errors are faults of its own.
    """
    destination: object
    try:
        transport.check(callback)
        destination = transport.destination(callback)
    except SkyringError:
        raise
    except ValueError as error:
        reason = str(error)[:REASON_CHARS_MAX].encode("utf-8", "replace").decode()
        raise InvalidRequest(reason or "it cannot be used", "callback") from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        logger.exception("the transport %s cannot check a callback", transport.name)
        raise InvalidRequest(
            f"the transport {transport.name} cannot check it ({type(error).__name__})", "callback"
        ) from error
    if type(destination) is not str or not _can_be_kept(destination):
        raise InvalidRequest(f"the transport {transport.name} names no destination", "callback")
    if destination.startswith(transport.name):
        return destination
    return f"{transport.name}:{destination}"  # two transports may use the same words


def _can_be_kept(destination: str) -> bool:
    return len(destination) <= DESTINATION_CHARS_MAX and (
        destination.isascii() or destination.encode("utf-8", "replace").decode() == destination
    )
