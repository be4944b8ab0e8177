"""Ids that Skyring makes (UUID version 7, RFC 9562, section 5.7), and those that users may give."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.errors import InvalidRequest
from skyring.timers.ids import POOL_BYTES, RANDOM_CHARS, IdSource
from skyring.timers.request import check_id

NOW_MS = 1_700_000_000_000
POOL_IDS = 2 * POOL_BYTES // RANDOM_CHARS
"""Ids made of one question to the system."""
TIME_MS_MAX = 2**48 - 1


@given(st.integers(0, TIME_MS_MAX))
def test_time_version_and_variant(now_ms: int) -> None:
    made = IdSource().new(now_ms)
    read = UUID(made)
    assert str(read) == made
    assert read.int >> 80 == now_ms
    assert (read.version, read.variant) == (7, RFC_4122)
    check_id(made)


@given(st.binary(min_size=POOL_BYTES, max_size=POOL_BYTES))
def test_all_random_bits_are_used(random: bytes) -> None:
    made = UUID(IdSource(lambda count: random[:count]).new(NOW_MS)).int
    given_bits = int.from_bytes(random[:10], "big") >> 4  # 76 of 80
    rand_a, rand_b = made >> 64 & 0xFFF, made & (1 << 62) - 1
    assert rand_a == given_bits >> 64
    # The two bits of the variant displace two of the given ones.
    assert rand_b == given_bits & (1 << 62) - 1


@pytest.mark.parametrize("count", [POOL_IDS - 1, POOL_IDS, POOL_IDS + 1, 5 * POOL_IDS + 3])
def test_unique_and_whole_over_the_edge_of_the_pool(count: int) -> None:
    source = IdSource()
    made = [source.new(NOW_MS) for _ in range(count)]
    assert len({UUID(one).int for one in made}) == count
    assert {len(one) for one in made} == {36}


def test_no_random_bytes_are_used_twice() -> None:
    asked = []

    def counted(count: int) -> bytes:
        asked.append(count)
        return bytes([0x11 * len(asked)]) * count

    source = IdSource(counted)
    made = [source.new(NOW_MS) for _ in range(2 * POOL_IDS + 1)]
    assert asked == [POOL_BYTES] * 3
    assert [one[-12:] for one in made] == (
        ["1" * 12] * POOL_IDS + ["2" * 12] * POOL_IDS + ["3" * 12]
    )


def test_sources_do_not_share_a_pool() -> None:
    first, second = IdSource(), IdSource()
    made = [source.new(NOW_MS) for _ in range(POOL_IDS) for source in (first, second)]
    assert len(set(made)) == len(made)


@given(st.lists(st.integers(0, TIME_MS_MAX), min_size=2, max_size=20, unique=True))
def test_sorted_as_text_they_are_sorted_by_time(times_ms: list[int]) -> None:
    source = IdSource()
    made = {source.new(now_ms): now_ms for now_ms in times_ms}
    assert [made[one] for one in sorted(made)] == sorted(times_ms)


# Ids of users


@pytest.mark.parametrize("good", ["a", "Z", "0", "_", "a-b", "a.b:c~d_e-f", "x" * 128])
def test_ids_that_are_fine(good: str) -> None:
    check_id(good)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "x" * 129,
        "-a",
        ".a",
        ":a",
        "~a",
        "a b",
        " a",
        "a\n",
        "a/b",
        "a%",
        "ä",
        "a\0",
        "٣",
        "a,b",
    ],
)
def test_ids_that_are_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_id(bad)
    assert caught.value.field == "id"


FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


@given(st.text(max_size=140))
def test_an_id_is_refused_exactly_if_it_breaks_the_rule(timer_id: str) -> None:
    legal = (
        1 <= len(timer_id) <= 128
        and timer_id[0] in FIRST
        and all(char in FIRST + ".:~-" for char in timer_id)
    )
    assert takes(timer_id) == legal


@given(st.text(FIRST + ".:~-", max_size=140))
def test_the_same_for_ids_that_are_nearly_right(timer_id: str) -> None:
    assert takes(timer_id) == (1 <= len(timer_id) <= 128 and timer_id[0] in FIRST)


def takes(timer_id: str) -> bool:
    try:
        check_id(timer_id)
    except InvalidRequest:
        return False
    return True
