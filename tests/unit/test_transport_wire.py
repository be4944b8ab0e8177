"""What transports have in common on the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.transports import (
    Callback,
    DeliveryInfo,
    Outcome,
    delivery_headers,
    envelope,
    outcome_of_answer,
)

INFO = DeliveryInfo(
    id="a", attempt=2, due_ms=1_500, started_ms=2_999, timeout_ms=10, content_type="text/plain"
)
CALLBACK = Callback(transport="t", method="m", uri="u", headers={"x": "y"})


def test_the_facts_of_a_delivery() -> None:
    assert delivery_headers(INFO) == {
        "webhook-id": "a",
        "webhook-timestamp": "2",
        "webhook-attempt": "2",
        "webhook-due": "1500",
    }


@given(st.text())
def test_an_envelope_is_one_line_of_json(data: str) -> None:
    payload = data.encode("utf-8", "replace")
    line = envelope(CALLBACK, payload, INFO)
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == {
        "version": 1,
        "id": "a",
        "attempt": 2,
        "due": 1_500,
        "headers": {"x": "y"},
        "type": "text/plain",
        "data": payload.decode(),
    }


def test_an_envelope_holds_text_only() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        envelope(CALLBACK, b"\xff", INFO)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"", Outcome.retry("the receiver gave no answer")),
        (b" \n", Outcome.retry("the receiver gave no answer")),
        (b"ok", Outcome.delivered()),
        (b" OK\r\n", Outcome.delivered()),
        (b"ok thank you", Outcome.delivered()),
        (b"retry", Outcome.retry("the receiver asks to try again")),
        (b"Retry  disk full \n", Outcome.retry("disk full")),
        (b"reject", Outcome.rejected("the receiver rejects it")),
        (b"reject no such order", Outcome.rejected("no such order")),
        (b"reject \xff", Outcome.rejected("\ufffd")),
    ],
)
def test_answers(answer: bytes, outcome: Outcome) -> None:
    assert outcome_of_answer(answer) == outcome


@given(st.binary())
def test_no_other_answer_is_an_acknowledgement(answer: bytes) -> None:
    outcome = outcome_of_answer(answer)
    words = answer.decode("utf-8", "replace").split()
    assert (outcome.kind == "delivered") == (bool(words) and words[0].lower() == "ok")
    assert len(outcome.reason) < 1_000 or outcome.kind != "delivered"


def test_an_unknown_answer_is_shown_in_part() -> None:
    outcome = outcome_of_answer(b"HTTP/1.1 500 " + b"x" * 100_000)
    assert outcome.kind == "retry"
    assert "HTTP/1.1 500 " in outcome.reason
    assert len(outcome.reason) < 300
