"""What transports have in common on the wire: facts about a delivery, and answers to it.

The names of the headers are those of Standard Webhooks (https://www.standardwebhooks.com), where
it has one.
"""

from __future__ import annotations

import msgspec

from skyring.transports.base import Callback, DeliveryInfo, Outcome

__all__ = ["ENVELOPE_VERSION", "delivery_headers", "envelope", "outcome_of_answer"]

ENVELOPE_VERSION = 1
ANSWER_CHARS_SHOWN = 100


def delivery_headers(info: DeliveryInfo) -> dict[str, str]:
    """The facts about a delivery, for transports whose messages have headers.

    The ``webhook-id`` is the same in every attempt: receivers know repeated deliveries by it.
    """
    return {
        "webhook-id": info.id,
        "webhook-timestamp": str(info.started_ms // 1000),
        "webhook-attempt": str(info.attempt),
        "webhook-due": str(info.due_ms),
    }


def envelope(callback: Callback, payload: bytes, info: DeliveryInfo) -> bytes:
    """Payload and facts as one JSON object, for transports whose messages have no headers.

    It holds ``version`` (1), ``id``, ``attempt``, ``due`` (epoch milliseconds), ``headers`` (those
    of the callback), ``type`` (media type or null) and ``data`` (the payload as a string). It is
    one line: a line break in the payload is escaped.

    Raises:
        ValueError: the payload is not UTF-8.
    """
    return msgspec.json.encode(
        {
            "version": ENVELOPE_VERSION,
            "id": info.id,
            "attempt": info.attempt,
            "due": info.due_ms,
            "headers": callback.headers,
            "type": info.content_type,
            "data": payload.decode(),
        }
    )


def outcome_of_answer(answer: bytes) -> Outcome:
    """What a receiver's answer means, for transports whose receivers answer in words.

    ``ok``: delivered. ``retry REASON``: try again. ``reject REASON``: never again. What is none of
    these, and nothing at all, is no acknowledgement, so it is tried again too.
    """
    text = answer.decode("utf-8", "replace").strip()
    word, _, reason = text.partition(" ")
    match word.lower():
        case "ok":
            return Outcome.delivered()
        case "":  # what is read from a connection that has been closed
            return Outcome.retry("the receiver gave no answer")
        case "retry":
            return Outcome.retry(reason.strip() or "the receiver asks to try again")
        case "reject":
            return Outcome.rejected(reason.strip() or "the receiver rejects it")
    return Outcome.retry(f"the receiver answered neither ok, retry nor reject: {_shown(text)}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= ANSWER_CHARS_SHOWN else text[:ANSWER_CHARS_SHOWN] + "…")
