"""Do the records and the due index on a disk tell the same?"""

from __future__ import annotations

from skyring.errors import RecordUnreadable
from skyring.storage.seal import SealBroken, unseal
from skyring.testing.simulation.disk import Disk
from skyring.timers.record import (
    DUE_PREFIX,
    TIMER_PREFIX,
    decode_record,
    split_due_key,
    timer_slot,
)

__all__ = ["index_faults"]

SLOT_BYTES = 3
"""What the keys of a slot begin with: ``s`` and its number, two bytes."""


def index_faults(disk: Disk, slots: int) -> list[str]:
    """What is wrong: they are written together, so it must be right at any moment, on any replica.

    Args:
        slots: how many slots there are.
    """
    faults: list[str] = []
    records: set[tuple[int, int, str]] = set()
    index: set[tuple[int, int, str]] = set()
    for key, sealed in disk.values.items():
        if not key.startswith(b"s"):
            continue
        slot, rest = int.from_bytes(key[1:SLOT_BYTES], "big"), key[SLOT_BYTES:]
        try:
            value = unseal(key, sealed)
            if rest.startswith(TIMER_PREFIX):
                timer_id = rest[len(TIMER_PREFIX) :].decode()
                records.add((slot, decode_record(value).next_ms, timer_id))
                if timer_slot(timer_id, slots) != slot:
                    faults.append(f"timer {timer_id} is in slot {slot}")
            elif rest.startswith(DUE_PREFIX):
                index.add((slot, *split_due_key(rest)))
        except (SealBroken, RecordUnreadable) as error:
            faults.append(f"{key!r} cannot be read: {error}")
    faults += [f"{each} is not in the due index" for each in sorted(records - index)]
    faults += [f"{each} is only in the due index" for each in sorted(index - records)]
    return faults
