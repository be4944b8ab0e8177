"""Times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.commands.durations import (
    DURATION_MS_MAX,
    UNITS_MS,
    format_duration,
    parse_at,
    parse_duration_ms,
)
from skyring.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1ms", 1),
        ("500ms", 500),
        ("5s", 5_000),
        ("1.5s", 1_500),
        ("0.001s", 1),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        (" 1d ", 86_400_000),
        ("1d1h1m1s1ms", 90_061_001),
        ("0.1s", 100),
    ],
)
def test_lengths_of_time(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "5", "s", "5x", "5 5", "-5s", "+5s", "0s", "0ms", "0.5ms", "1e3s", "5s!", "٥s"),
        *("1.s", ".5s", "inf", "nan", "9999999d"),
    ],
)
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration_ms(text)


@given(st.integers(1, 10**9), st.sampled_from(sorted(UNITS_MS)))
def test_a_number_and_a_unit(number: int, unit: str) -> None:
    if number * UNITS_MS[unit] <= DURATION_MS_MAX:
        assert parse_duration_ms(f"{number}{unit}") == number * UNITS_MS[unit]


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        ms = parse_duration_ms(text)
    except ConfigError:
        return
    assert 1 <= ms <= DURATION_MS_MAX


def test_points_in_time() -> None:
    assert parse_at(" 1700000000000 ") == 1_700_000_000_000
    assert parse_at("0") == 0
    assert parse_at("2030-01-31T12:00:00Z") == "2030-01-31T12:00:00Z"
    assert parse_at("-1") == "-1"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (59_999, "59s"),
        (60_000, "1m 00s"),
        (3_599_999, "59m 59s"),
        (3_600_000, "1h 00m"),
        (86_399_999, "23h 59m"),
        (90_000_000, "1d 01h"),
        (-61_000, "-1m 01s"),
    ],
)
def test_shown(ms: int, text: str) -> None:
    assert format_duration(ms) == text
