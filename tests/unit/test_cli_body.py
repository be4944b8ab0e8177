"""What the options of ``skyring timer create`` and ``update`` add up to."""

from __future__ import annotations

import time
from io import BytesIO, TextIOWrapper
from pathlib import Path

import msgspec
import pytest

from skyring.commands.body import CallbackOptions, read_data, read_when
from skyring.errors import ConfigError
from skyring.transports.base import Callback, RetrySpec

NOTHING = CallbackOptions(None, None, None, None, None, None, None, None)
OLD = Callback("nats", "publish", "nats://a/b", {"k": "v"}, RetrySpec(3, 10, 20), 500)


def test_the_least_callback() -> None:
    assert NOTHING._replace(to="http://a/").over(None) == Callback("http", "post", "http://a/")


def test_a_callback_leads_somewhere() -> None:
    with pytest.raises(ConfigError, match="--to"):
        NOTHING.over(None)


def test_what_is_not_given_stays() -> None:
    assert NOTHING.over(OLD) == OLD
    changed = NOTHING._replace(to="nats://c", attempts=4, timeout_ms=1).over(OLD)
    assert changed == Callback("nats", "publish", "nats://c", {"k": "v"}, RetrySpec(4, 10, 20), 1)


def test_headers() -> None:
    given = NOTHING._replace(headers=["a: b", "C:d: e ", "empty:"])
    assert given.over(OLD).headers == {"a": "b", "C": "d: e", "empty": ""}


@pytest.mark.parametrize("line", ["", "a", ": b", "  : b"])
def test_headers_that_are_none(line: str) -> None:
    with pytest.raises(ConfigError, match="--header"):
        NOTHING._replace(headers=[line]).over(OLD)


def test_zero_is_given() -> None:
    retry = NOTHING._replace(attempts=0, backoff_ms=0, max_ms=0, timeout_ms=0).over(OLD)
    assert (retry.retry, retry.timeout_ms) == (RetrySpec(0, 0, 0), 0)


def test_when() -> None:
    assert read_when(None, None) == (None, None)
    assert read_when("5s", None) == (5_000, None)
    assert read_when(None, "1700000000000") == (None, 1_700_000_000_000)
    assert read_when(None, "2030-01-31T12:00:00Z") == (None, "2030-01-31T12:00:00Z")
    with pytest.raises(ConfigError, match="not both"):
        read_when("5s", "1700000000000")


def test_beyond_a_relative_time_out_there_is_an_absolute_one() -> None:
    assert read_when("2147483647ms", None) == (2_147_483_647, None)
    before_ms = time.time_ns() // 1_000_000
    relative, at = read_when("2147483648ms", None)
    after_ms = time.time_ns() // 1_000_000
    assert relative is None
    assert isinstance(at, int)
    assert before_ms <= at - 2_147_483_648 <= after_ms


def test_text() -> None:
    assert read_data(None, None) is None
    assert read_data("", None) == ""
    assert read_data("hello", None) == "hello"


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes("ä\r\n".encode())
    assert read_data(f"@{file}", None) == "ä\r\n"
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_data(f"@{file}", None)
    with pytest.raises(ConfigError, match="cannot read"):
        read_data(f"@{tmp_path}", None)
    with pytest.raises(ConfigError, match="cannot read"):
        read_data(f"@{file}-gone", None)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"from a pipe")))
    assert read_data("@-", None) == "from a pipe"


@pytest.mark.parametrize("text", ['{"a": 123456789012345678901234567890}', '"@text"', "{}"])
def test_json_is_kept_as_it_is(text: str) -> None:
    assert read_data(None, text) == msgspec.Raw(text.encode())


@pytest.mark.parametrize(
    "text", ["", "{", "1", "[]", "null", "true", "NaN", '{"a": NaN}', "\udcff"]
)
def test_json_that_is_none_or_no_object(text: str) -> None:
    with pytest.raises(ConfigError, match="--json"):
        read_data(None, text)


def test_data_that_is_not_text() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        read_data("\udcff", None)
    with pytest.raises(ConfigError, match="not both"):
        read_data("a", "{}")
