"""Hosts and ports in URIs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.transports import Address, InvalidRequest, read_address


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("example.com:80", Address("example.com", 80), "example.com:80"),
        ("Example.COM:080", Address("example.com", 80), "example.com:80"),
        ("my_host-1:65535", Address("my_host-1", 65_535), "my_host-1:65535"),
        ("127.0.0.1:1", Address("127.0.0.1", 1), "127.0.0.1:1"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("[0:0::0:1]:80", Address("::1", 80), "[::1]:80"),
    ],
)
def test_addresses(text: str, address: Address, shown: str) -> None:
    assert read_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":", "::1:80", "host:80/", "host:80 ", "u@host:80", "host:123456"]
)
def test_what_has_not_the_form_of_an_address(text: str) -> None:
    assert read_address(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *(":80", "host:0", "host:65536", "-a:80", "a..b:80", "a b:80", "127.1:80", "1.2.3.256:80"),
        *("0x7f.1:80", "[::g]:80", "[fe80::1%eth0]:80", "[]:80", "ä:80", "x" * 254 + ":80"),
    ],
)
def test_what_cannot_be_an_address(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^callback\.uri: has no valid"):
        read_address(text)


@given(st.text(max_size=40))
def test_whatever_comes_is_an_address_or_not(text: str) -> None:
    try:
        address = read_address(text)
    except InvalidRequest:
        return
    if address is not None:
        assert read_address(str(address)) == address
