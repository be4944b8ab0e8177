"""A sealed value comes back as it was, or not at all."""

from __future__ import annotations

import pytest
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from skyring.storage.seal import OVERHEAD_BYTES, SealBroken, seal, unseal

KEYS = st.binary(max_size=40)
VALUES = st.binary(max_size=200)


@given(KEYS, VALUES)
def test_comes_back_as_it_was(key: bytes, value: bytes) -> None:
    sealed = seal(key, value)
    assert unseal(key, sealed) == value
    assert len(sealed) == len(value) + OVERHEAD_BYTES


@given(KEYS, VALUES, st.data())
def test_any_flipped_bit_is_noticed(key: bytes, value: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(key, value))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    assert_broken(key, bytes(sealed))


def test_every_single_bit_of_one_record() -> None:
    key, value = b"t/order-17", bytes(range(64))
    sealed = seal(key, value)
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert_broken(key, bytes(flipped))


@given(KEYS, VALUES, st.data())
def test_damage_within_four_bytes_is_noticed(key: bytes, value: bytes, data: st.DataObject) -> None:
    sealed = seal(key, value)
    start = data.draw(st.integers(0, len(sealed) - 1))
    found = sealed[start : start + 4]
    other = data.draw(st.binary(min_size=len(found), max_size=len(found)).filter(found.__ne__))
    assert_broken(key, sealed[:start] + other + sealed[start + 4 :])


@given(KEYS, VALUES, st.data())
def test_a_value_under_another_key_is_noticed(
    key: bytes, value: bytes, data: st.DataObject
) -> None:
    bit = data.draw(st.integers(0, 8 * len(key) - 1)) if key else None
    if bit is not None:
        other = bytearray(key)
        other[bit // 8] ^= 1 << bit % 8
        assert_broken(bytes(other), seal(key, value))
    assert_broken(key + b"x", seal(key, value))


@given(KEYS, VALUES, st.data())
def test_a_cut_or_lengthened_record_is_noticed(
    key: bytes, value: bytes, data: st.DataObject
) -> None:
    sealed = seal(key, value)
    assert_broken(key, sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    assert_broken(key, sealed + data.draw(st.binary(min_size=1, max_size=4)))


@given(st.binary(max_size=OVERHEAD_BYTES - 1))
def test_too_short_for_a_record(sealed: bytes) -> None:
    with pytest.raises(SealBroken, match="too short"):
        unseal(b"key", sealed)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_sound_record_of_another_version_is_not_guessed_at(version: int) -> None:
    body = bytes([version]) + b"value"
    sealed = body + crc32c(b"key" + body).to_bytes(4, "big")
    with pytest.raises(SealBroken, match=f"unknown version {version}") as caught:
        unseal(b"key", sealed)
    assert caught.value.sealed == sealed


def test_the_form_on_disk_stays() -> None:
    """CRC-32C of "123456789" is E3069283 (RFC 3720 has the polynomial)."""
    assert crc32c(b"123456789") == 0xE3069283
    assert seal(b"1234567", b"89") == b"\x0189" + crc32c(b"1234567\x0189").to_bytes(4, "big")


def assert_broken(key: bytes, sealed: bytes) -> None:
    with pytest.raises(SealBroken) as caught:
        unseal(key, sealed)
    assert caught.value.sealed == sealed
