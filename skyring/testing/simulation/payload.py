"""What is delivered: a content that tells one version of a timer from all others, and padding."""

from __future__ import annotations

from random import Random

__all__ = ["ENVELOPE_BYTES", "content_of", "payload_of"]

ENVELOPE_BYTES = 14_000
"""A payload may be so much smaller than a message; room is kept for what becomes of a timer."""
LARGE_PART = 0.02
PADDING = "."


def payload_of(seed: int, content: str, bytes_max: int) -> str:
    """The payload for a content: always the same one.

    Now and then it is about as large as a message may be, or larger.
    """
    random = Random(f"payload {seed} {content}")
    if random.random() >= LARGE_PART:
        return content
    size = int(bytes_max * random.choice((0.1, 0.5, 1.1)) * random.uniform(0.8, 1.0))
    return f"{content} {size} ".ljust(size, PADDING)


def content_of(payload: str) -> str:
    """The content of a payload; if it is not whole, the payload."""
    content, _, padded = payload.partition(" ")
    size, _, padding = padded.partition(" ")
    if padded and (not size.isdecimal() or len(payload) != int(size) or padding.strip(PADDING)):
        return payload
    return content
