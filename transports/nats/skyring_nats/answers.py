"""What the reply to a message means for the timer. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from skyring.nats import Reply, one_line
from skyring.transports import Outcome, outcome_of_answer

__all__ = ["outcome_of_ack", "outcome_of_reply"]

SERVICE_ERROR = "Nats-Service-Error"
SERVICE_ERROR_CODE = "Nats-Service-Error-Code"
ANSWER_BYTES_READ = 4_096

MESSAGE_TOO_LARGE: Final = 10_054
"""Error of JetStream: the message is larger than the stream's ``max_msg_size``."""


def outcome_of_reply(reply: Reply) -> Outcome:
    """The meaning of a receiver's reply to a request."""
    if reply.is_no_responders:
        return Outcome.retry("nobody listens on the subject (no responders)")
    headers = reply.headers
    if SERVICE_ERROR_CODE in headers or SERVICE_ERROR in headers:
        # The reply of a NATS service that failed has no body, which would mean ok otherwise.
        code = headers.get(SERVICE_ERROR_CODE, "")
        text = headers.get(SERVICE_ERROR, "")
        return Outcome.retry(one_line(f"the service answered with an error: {code} {text}"))
    return outcome_of_answer(reply.data[:ANSWER_BYTES_READ])


def outcome_of_ack(reply: Reply) -> Outcome:
    """The meaning of a reply to what was published for a stream."""
    if reply.is_no_responders:
        return Outcome.retry("no stream takes this subject")
    ack = _json_object(reply.data)
    error = ack.get("error")
    if isinstance(error, dict):
        return _outcome_of_error(error)
    # Somebody else who listens on the subject may have answered before the stream.
    if not isinstance(ack.get("stream"), str) or not isinstance(ack.get("seq"), int):
        return Outcome.retry("the reply is no acknowledgement of a stream")
    return Outcome.delivered()


def _outcome_of_error(error: Mapping[str, Any]) -> Outcome:
    code = error.get("err_code")
    reason = one_line(f"JetStream: {error.get('description', 'error')} ({code})")
    return Outcome.rejected(reason) if code == MESSAGE_TOO_LARGE else Outcome.retry(reason)


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
