"""What follows from an outcome."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyring.timers.record import Record, decode_record, encode_record
from skyring.timers.retry import Dead, Gone, Rescheduled, RetryPolicy, backoff_ms, decide
from skyring.transports.base import Callback, Outcome, RetrySpec

POLICY = RetryPolicy(attempts=10, backoff_ms=1_000, max_ms=3_600_000)
NOW_MS = 1_700_000_000_000


def record(attempts: int = 0, retry: RetrySpec | None = None) -> Record:
    return Record(
        created_ms=NOW_MS - 10,
        due_ms=NOW_MS,
        next_ms=NOW_MS,
        timeout_ms=10,
        data_kind="text",
        payload=b"hello",
        callback=Callback("http", "post", "http://127.0.0.1/", retry=retry),
        destination="http:127.0.0.1:80",
        attempts=attempts,
    )


def test_delivered_is_gone() -> None:
    assert decide(record(), Outcome.delivered(), NOW_MS, POLICY, 0.5) == Gone()


def test_rejected_is_a_dead_letter_at_once() -> None:
    after = decide(record(), Outcome.rejected("answer 410"), NOW_MS, POLICY, 0.5)
    assert isinstance(after, Dead)
    assert (after.record.attempts, after.record.last_error) == (1, "answer 410")


def test_failure_is_tried_again_with_the_reason_kept() -> None:
    after = decide(record(), Outcome.retry("answer 500"), NOW_MS, POLICY, 0.5)
    assert isinstance(after, Rescheduled)
    assert after.record.next_ms == NOW_MS + 500
    assert after.record.due_ms == NOW_MS
    assert (after.record.attempts, after.record.last_error) == (1, "answer 500")


def test_the_last_failure_makes_a_dead_letter() -> None:
    assert isinstance(decide(record(8), Outcome.retry("no"), NOW_MS, POLICY, 0), Rescheduled)
    assert isinstance(decide(record(9), Outcome.retry("no"), NOW_MS, POLICY, 0), Dead)


def test_the_receiver_may_ask_for_a_longer_wait_but_not_for_a_shorter_one() -> None:
    longer = decide(record(), Outcome.retry("busy", 9_000), NOW_MS, POLICY, 0.999)
    assert isinstance(longer, Rescheduled)
    assert longer.record.next_ms == NOW_MS + 9_000
    shorter = decide(record(), Outcome.retry("busy", 1), NOW_MS, POLICY, 0.5)
    assert isinstance(shorter, Rescheduled)
    assert shorter.record.next_ms == NOW_MS + 500


def test_a_clock_that_was_set_back_makes_no_retry_early() -> None:
    after = decide(record(), Outcome.retry("no"), NOW_MS - 10_000, POLICY, 0.5)
    assert isinstance(after, Rescheduled)
    assert after.record.next_ms == NOW_MS


def test_a_timer_brings_its_own_policy() -> None:
    own = RetrySpec(attempts=2, backoff_ms=10, max_ms=15)
    after = decide(record(0, own), Outcome.retry("no"), NOW_MS, POLICY, 0.9999)
    assert isinstance(after, Rescheduled)
    assert after.record.next_ms == NOW_MS + 10
    assert isinstance(decide(record(1, own), Outcome.retry("no"), NOW_MS, POLICY, 0), Dead)
    assert POLICY.for_record(record(0, RetrySpec(attempts=3))) == RetryPolicy(3, 1_000, 3_600_000)


@given(
    st.integers(1, 10_000),
    st.integers(1, 10**9),
    st.integers(1, 10**9),
    st.floats(0, 1, exclude_max=True),
)
def test_backoff_is_bounded(attempts: int, first_ms: int, max_ms: int, random: float) -> None:
    wait_ms = backoff_ms(RetryPolicy(10, first_ms, max_ms), attempts, random)
    assert 0 <= wait_ms <= max_ms
    assert wait_ms <= first_ms * 2 ** min(attempts - 1, 62)


@given(
    st.integers(0, 50),
    st.integers(1, 20),
    st.integers(0, 10**7) | st.none(),
    st.floats(0, 1, exclude_max=True),
)
def test_a_failing_timer_ends_and_never_goes_back_in_time(
    attempts: int, attempts_max: int, after_ms: int | None, random: float
) -> None:
    policy = RetryPolicy(attempts_max, 1_000, 60_000)
    after = decide(record(attempts), Outcome.retry("no", after_ms), NOW_MS, policy, random)
    assert not isinstance(after, Gone)
    assert after.record.attempts == attempts + 1
    assert isinstance(after, Dead) == (attempts + 1 >= attempts_max)
    if isinstance(after, Rescheduled):
        assert after.record.next_ms >= NOW_MS + (after_ms or 0)


@given(st.binary(max_size=50), st.text(max_size=20), st.integers(0, 2**40))
def test_records_come_back_as_they_were(payload: bytes, error: str, attempts: int) -> None:
    made = Record(
        1, 2, 3, None, "json", payload, record().callback, "http:x", attempts, error or None
    )
    assert decode_record(encode_record(made)) == made
