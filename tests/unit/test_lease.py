"""The lease: it ends early rather than late, and does not come back by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyring.ring.lease import Lease


def test_it_counts_from_before_the_heartbeat_was_sent() -> None:
    lease = Lease(3_000)
    assert not lease.holds(0)
    lease.renewed(sent_ms=1_000, now_ms=1_400)
    assert lease.holds(3_999)
    assert not lease.holds(4_000)
    assert (lease.left_ms(1_400), lease.left_ms(5_000)) == (2_600, 0)


def test_an_acknowledgement_that_comes_too_late_begins_nothing() -> None:
    lease = Lease(3_000)
    lease.renewed(sent_ms=0, now_ms=3_000)
    assert not lease.holds(3_000)
    assert not lease.has_lapsed(3_000)


def test_a_lapsed_lease_comes_back_only_when_it_was_ended() -> None:
    lease = Lease(3_000)
    lease.renewed(sent_ms=0, now_ms=1)
    assert lease.has_lapsed(3_000)
    lease.renewed(sent_ms=3_001, now_ms=3_002)
    assert not lease.holds(3_002)
    lease.end()
    lease.renewed(sent_ms=3_003, now_ms=3_004)
    assert lease.holds(3_004)


def test_an_older_acknowledgement_does_not_shorten_it() -> None:
    lease = Lease(3_000)
    lease.renewed(sent_ms=1_000, now_ms=1_100)
    lease.renewed(sent_ms=500, now_ms=1_200)
    assert lease.left_ms(1_200) == 2_800


@given(st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 2_000))))
def test_others_who_count_from_hearing_never_take_over_too_early(
    beats: list[tuple[int, int]],
) -> None:
    """Whatever delays there are: while the lease holds, the last heartbeat was heard less than a
    lease ago by everybody who heard it no earlier than it was sent."""
    lease = Lease(1_000)
    now_ms = 0
    sent: list[int] = []
    for pause_ms, ack_ms in beats:
        now_ms += pause_ms
        sent.append(now_ms)
        lease.renewed(now_ms, now_ms + ack_ms)
        now_ms += ack_ms
        if lease.holds(now_ms):
            assert now_ms < max(sent) + 1_000
        if lease.has_lapsed(now_ms):
            lease.end()
