"""Sets of slots as they travel in gossip: one bit for each slot, the lowest bit first."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["pack_slots", "unpack_slots"]


def pack_slots(slots: Iterable[int]) -> bytes:
    """A set of slots, as short as it can be; b"" for none."""
    bits = 0
    for slot in slots:
        bits |= 1 << slot
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def unpack_slots(packed: bytes, slots: int) -> frozenset[int]:
    """The set that was packed, without what is no slot.

    Args:
        packed: as by `pack_slots`.
        slots: how many slots there are.
    """
    bits = int.from_bytes(packed[: (slots + 7) // 8], "little")
    return frozenset(slot for slot in range(slots) if bits >> slot & 1)
