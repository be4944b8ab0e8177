"""The options that describe a timer, and the timer that they describe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from skyring.commands.durations import parse_at, parse_duration_ms
from skyring.errors import ConfigError

if TYPE_CHECKING:
    from skyring.transports.base import Callback

__all__ = [
    "AtOption",
    "AttemptsOption",
    "BackoffOption",
    "CallbackOptions",
    "DataOption",
    "HeaderOption",
    "InOption",
    "JsonOption",
    "MaxOption",
    "MethodOption",
    "TimeoutOption",
    "ToOption",
    "TransportOption",
    "read_data",
    "read_when",
]

TIMEOUT_MS_MAX = 2_147_483_647
DATA_BYTES_MAX = 64 << 20
"""Far more than any server takes: only a guard against reading an endless file."""

InOption = Annotated[
    str | None,
    typer.Option("--in", metavar="TIME", help="Due after 500ms, 5s, 10m, 2h, 1d, 1h30m."),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="WHEN", help="Due at 2030-01-31T12:00:00Z, or epoch milliseconds."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Text to deliver; @FILE reads a file, @- standard input."),
]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="JSON", help="JSON object to deliver.")
]
ToOption = Annotated[
    str | None, typer.Option("--to", metavar="URI", help="Where to deliver it: the callback's URI.")
]
MethodOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Method of the callback; post unless given.")
]
TransportOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Transport of the callback; http unless given.")
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="Header to send; may be repeated."),
]
AttemptsOption = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Deliveries before the timer is a dead letter.")
]
BackoffOption = Annotated[
    int | None, typer.Option(metavar="MS", help="Upper bound of the first wait; doubles.")
]
MaxOption = Annotated[
    int | None, typer.Option(metavar="MS", help="Upper bound of any wait between attempts.")
]
TimeoutOption = Annotated[
    int | None, typer.Option(metavar="MS", help="Time allowed for one delivery.")
]


class CallbackOptions(NamedTuple):
    """What was given of a callback; None where nothing was."""

    to: str | None
    method: str | None
    transport: str | None
    headers: Sequence[str] | None
    attempts: int | None
    backoff_ms: int | None
    max_ms: int | None
    timeout_ms: int | None

    def over(self, base: Callback | None) -> Callback:
        """The callback, with what was not given taken from ``base``.

        Raises:
            ConfigError: there is no URI, or a header is none.
        """
        from skyring.transports.base import Callback, RetrySpec

        if base is None:
            if self.to is None:
                raise ConfigError("--to is missing: the URI to deliver to")
            base = Callback(transport="http", method="post", uri=self.to)
        old = base.retry if base.retry is not None else RetrySpec()
        retry = RetrySpec(
            attempts=_first(self.attempts, old.attempts),
            backoff_ms=_first(self.backoff_ms, old.backoff_ms),
            max_ms=_first(self.max_ms, old.max_ms),
        )
        return Callback(
            transport=_first(self.transport, base.transport),
            method=_first(self.method, base.method),
            uri=_first(self.to, base.uri),
            headers=base.headers if not self.headers else _headers(self.headers),
            retry=retry if retry != RetrySpec() else None,
            timeout_ms=_first(self.timeout_ms, base.timeout_ms),
        )


def read_when(after: str | None, at: str | None) -> tuple[int | None, int | str | None]:
    """Relative time-out in milliseconds and absolute time, at most one of which is given.

    Raises:
        ConfigError: both are given, or one cannot be read.
    """
    if after is None:
        return None, None if at is None else parse_at(at)
    if at is not None:
        raise ConfigError("give either --in or --at, not both")
    timeout_ms = parse_duration_ms(after)
    if timeout_ms > TIMEOUT_MS_MAX:
        # A relative time-out reaches 24.8 days; beyond, it takes the clock of this machine.
        return None, time.time_ns() // 1_000_000 + timeout_ms
    return timeout_ms, None


def read_data(data: str | None, json_text: str | None) -> Any:
    """What to deliver: text, an object, or None when nothing was given.

    Raises:
        ConfigError: both are given, the file cannot be read, or the JSON is none.
    """
    if json_text is None:
        return None if data is None else _text(data)
    if data is not None:
        raise ConfigError("give either --data or --json, not both")
    import msgspec

    raw = json_text.encode(errors="surrogateescape")
    try:
        msgspec.json.decode(raw, type=str | dict[str, Any])
    except msgspec.ValidationError as error:
        raise ConfigError("--json must be an object or a string") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"--json is not JSON: {error}") from error
    return msgspec.Raw(raw)


def _text(data: str) -> str:
    if data.startswith("@"):
        return _read_text(data[1:])
    if not data.isascii() and any("\ud800" <= char <= "\udfff" for char in data):
        raise ConfigError("--data is not UTF-8 text")
    return data


def _read_text(name: str) -> str:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(DATA_BYTES_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(DATA_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror}") from error
    if len(content) > DATA_BYTES_MAX:
        raise ConfigError(f"{name} is larger than {DATA_BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text") from error


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigError(f"--header {line!r} is not of the form 'Name: value'")
        headers[name.strip()] = value.strip()
    return headers


def _first(given: Any, otherwise: Any) -> Any:
    return given if given is not None else otherwise
