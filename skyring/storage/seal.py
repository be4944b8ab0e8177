"""How one record looks on disk: version byte, value, CRC-32C.

The checksum covers the key as well, so a value that turns up under another key is noticed. CRC-32C
is RFC 3720, section 12.1.
"""

from __future__ import annotations

from google_crc32c import value as crc32c

__all__ = ["OVERHEAD_BYTES", "SealBroken", "seal", "unseal"]

VERSION = b"\x01"
CRC_BYTES = 4
OVERHEAD_BYTES = len(VERSION) + CRC_BYTES


class SealBroken(Exception):
    """The bytes are not what was written. ``sealed`` is what was found, b"" if nothing could be."""

    def __init__(self, reason: str, sealed: bytes = b"") -> None:
        super().__init__(reason)
        self.sealed = sealed


def seal(key: bytes, value: bytes) -> bytes:
    """The bytes to store for ``value`` under ``key``."""
    body = VERSION + value
    checksum: int = crc32c(key + body)
    return body + checksum.to_bytes(CRC_BYTES, "big")


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The value that `seal` was given.

    Raises:
        SealBroken: the record is damaged, or of a version that this program does not know.
    """
    if len(sealed) < OVERHEAD_BYTES:
        raise SealBroken("too short", sealed)
    body = sealed[:-CRC_BYTES]
    if crc32c(key + body) != int.from_bytes(sealed[-CRC_BYTES:], "big"):
        raise SealBroken("checksum differs", sealed)
    if body[:1] != VERSION:
        raise SealBroken(f"unknown version {body[0]}", sealed)
    return body[1:]
