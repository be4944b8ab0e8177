"""A ring as a picture for the terminal: pure, from what ``GET /ring`` answered to what is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skyring.commands.durations import format_duration
from skyring.commands.output import printable
from skyring.errors import SkyringError

__all__ = ["Glyphs", "Log", "Member", "Ring", "Slot", "draw", "read_ring"]

MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
MORE_MARK = "#"
"""For all holders after those that have a mark of their own."""
COLOURS = (
    "cyan",
    "magenta",
    "green",
    "yellow",
    "blue",
    "bright_red",
    "bright_cyan",
    "bright_white",
)
STATES = {"alive": "green", "joining": "cyan", "suspect": "yellow", "dead": "red", "left": "dim"}
SYNC = {
    "always": "NATS syncs each write to disk: survives a power cut",
    "interval": "NATS syncs to disk now and then: survives the kill of a process, not a power cut",
    "unknown": "whether NATS syncs each write to disk is not known (set nats.monitoring)",
}
CELLS_MAX = 1024
"""Cells drawn of the slots; if there are more slots, a cell stands for several."""
BLOCK = 8
ROW_BLOCKS_MAX = 8
LABEL_COLUMNS = 7
WIDE_COLUMNS = 100
"""From this width on the bars are longer."""


class Glyphs(msgspec.Struct, frozen=True):
    """The characters of the picture."""

    held: str = "█"
    """Of a bar: slots that a node holds."""
    placed: str = "░"
    """Of a bar: slots that it should hold, and does not yet."""
    unheld: str = "·"
    several: str = "+"
    """A cell that stands for slots of several holders."""

    @classmethod
    def ascii(cls) -> Glyphs:
        """For a terminal that knows no others."""
        return cls(held="=", placed="-", unheld=".")


class Member(msgspec.Struct, frozen=True):
    """A node, as the one that was asked sees it."""

    node: str
    state: str = ""
    address: str = ""
    incarnation: int = 0
    slots_held: int = 0
    slots_placed: int = 0
    timers: int | None = None
    silent_ms: int | None = None
    is_self: bool = False


class Slot(msgspec.Struct, frozen=True):
    """A slot. Epoch and lag are known to its holder only."""

    slot: int
    owner: str | None = None
    holder: str | None = None
    epoch: int | None = None
    lag: int | None = None
    phase: str | None = None


class Log(msgspec.Struct, frozen=True):
    """Where commits are written before they are acknowledged."""

    id: str = ""
    replicas: int = 1
    sync: str = "unknown"


class Ring(msgspec.Struct, frozen=True):
    """The answer of ``GET /ring``."""

    mode: str
    node: str = ""
    slots: int = 0
    ring: str = ""
    state: str = ""
    connected: bool = True
    lease_ms: int | None = None
    """How long the node may still act on its claims, milliseconds."""
    garbled: int = 0
    """Messages of others that could not be read, and were dropped."""
    log: Log | None = None
    members: tuple[Member, ...] = ()
    slots_detail: tuple[Slot, ...] = ()
    unheld: tuple[int, ...] = ()


_decode = msgspec.json.Decoder(Ring).decode


def read_ring(content: bytes) -> Ring:
    """What a node answered.

    Raises:
        SkyringError: it is no such answer.
    """
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SkyringError(f"the server sent no description of a ring: {error}") from error


def draw(ring: Ring, *, columns: int = 80, glyphs: Glyphs | None = None) -> RenderableType:
    """The whole picture.

    Args:
        columns: width of the terminal, in characters.
    """
    glyphs = Glyphs() if glyphs is None else glyphs
    members = [*sorted(ring.members, key=lambda member: member.node), *_strangers(ring)]
    marks = {
        member.node: (MARKS[number : number + 1] or MORE_MARK, COLOURS[number % len(COLOURS)])
        for number, member in enumerate(members)
    }
    parts: list[RenderableType] = [
        _title(ring),
        Text(""),
        _members(members, marks, glyphs, 20 if columns >= WIDE_COLUMNS else 10),
        Text(""),
        *_strip(ring, marks, glyphs, columns),
        Text(""),
        *_notes(ring),
    ]
    return Group(*parts)


def _strangers(ring: Ring) -> list[Member]:
    """Who holds slots and is no member (any more)."""
    known = {member.node for member in ring.members}
    held = Counter(slot.holder for slot in ring.slots_detail if slot.holder is not None)
    return [
        Member(name, "unknown", slots_held=count)
        for name, count in sorted(held.items())
        if name not in known
    ]


def _title(ring: Ring) -> Text:
    alive = sum(member.state == "alive" for member in ring.members)
    title = Text("ring ").append(printable(ring.ring), style="bold")
    title.append(f": {_count(ring.slots, 'slot')}, {_count(len(ring.members), 'node')}")
    return title.append(f", {alive} alive; seen by {printable(ring.node)}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _members(
    members: Sequence[Member], marks: Mapping[str, tuple[str, str]], glyphs: Glyphs, bar: int
) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "node", "state", "slots"):
        table.add_column(name, no_wrap=True)
    for name in ("held/owned", "timers", "silent"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("address", overflow="fold")
    most = max((max(each.slots_held, each.slots_placed) for each in members), default=0)
    for member in members:
        mark, colour = marks[member.node]
        is_silent = member.silent_ms is not None and not member.is_self
        table.add_row(
            Text(mark, style=f"bold {colour}"),
            Text(printable(member.node), style="bold" if member.is_self else ""),
            Text(printable(member.state), style=STATES.get(member.state, "")),
            Text(_bar(member, most, bar, glyphs), style=colour),
            f"{member.slots_held}/{member.slots_placed}",
            "?" if member.timers is None else f"{member.timers:,}",
            format_duration(member.silent_ms or 0) if is_silent else "",
            Text(printable(member.address)),
        )
    return table


def _bar(member: Member, most: int, columns: int, glyphs: Glyphs) -> str:
    if most <= 0:
        return ""
    held = -(-max(0, member.slots_held) * columns // most)
    placed = -(-max(0, member.slots_placed) * columns // most)
    return glyphs.held * held + glyphs.placed * max(0, placed - held)


def _strip(
    ring: Ring, marks: Mapping[str, tuple[str, str]], glyphs: Glyphs, columns: int
) -> Iterator[Text]:
    """The slots in rows, a cell for each, with the number of the first of a row before it."""
    slots = sorted(ring.slots_detail, key=lambda slot: slot.slot)
    each = max(1, -(-len(slots) // CELLS_MAX))
    cells = [_cell(slots[at : at + each], marks, glyphs) for at in range(0, len(slots), each)]
    blocks = max(1, min(ROW_BLOCKS_MAX, (columns - LABEL_COLUMNS) // (BLOCK + 1)))
    head = "slots by holder" if each == 1 else f"slots by holder, {each} to a cell"
    legend = f"  ({glyphs.unheld} nobody, small: on its way to another)"
    title = Text(head, style="bold", no_wrap=True, overflow="ellipsis")
    yield title.append(legend, style="not bold dim")
    for start in range(0, len(cells), blocks * BLOCK):
        row = Text(f"{slots[start * each].slot:>{LABEL_COLUMNS - 2}}  ", style="dim")
        for at in range(start, min(start + blocks * BLOCK, len(cells)), BLOCK):
            for cell in cells[at : at + BLOCK]:
                row.append(cell)
            row.append(" ")
        row.rstrip()
        yield row


def _cell(slots: Sequence[Slot], marks: Mapping[str, tuple[str, str]], glyphs: Glyphs) -> Text:
    holders = {slot.holder for slot in slots}
    if None in holders:
        return Text(glyphs.unheld, style="bold red not dim")
    if len(holders) > 1:
        return Text(glyphs.several, style="not dim")
    mark, colour = marks[str(holders.pop())]
    if any(_is_moving(slot) for slot in slots):
        return Text(mark.lower(), style=f"underline {colour} not dim")
    return Text(mark, style=f"{colour} not dim")


def _is_moving(slot: Slot) -> bool:
    return slot.holder is not None and slot.owner is not None and slot.holder != slot.owner


def _notes(ring: Ring) -> Iterator[Text]:
    """What the node says of itself, and what is not as it should be."""
    if ring.unheld:
        text = f"held by nobody: {_ranges(ring.unheld)} ({_count(len(ring.unheld), 'slot')})"
        yield Text(text, style="bold red")
    moving = [slot.slot for slot in ring.slots_detail if _is_moving(slot)]
    if moving:
        yield Text(f"on their way: {_ranges(moving)}", style="yellow")
    behind = [slot.lag for slot in ring.slots_detail if slot.lag]
    if behind:
        text = f"behind the log: {_count(len(behind), 'slot')}, {sum(behind):,} entries in all"
        yield Text(text, style="yellow")
    if ring.garbled:
        text = f"garbled messages that were dropped: {ring.garbled:,}"
        yield Text(text, style="yellow")
    if ring.log is not None:
        log = ring.log
        kept = f"log {printable(log.id)}: {_count(log.replicas, 'replica')}; "
        yield Text(kept).append(printable(SYNC.get(log.sync, log.sync)))
    yield _connection(ring)


def _connection(ring: Ring) -> Text:
    text = Text(f"{printable(ring.node)} is ")
    text.append(printable(ring.state or "?"), style=STATES.get(ring.state, ""))
    if ring.connected:
        text.append(", connected to NATS")
    else:
        text.append(", not connected to NATS", style="bold red")
    if ring.lease_ms is not None:
        has_lease = ring.lease_ms > 0
        lease = (
            f"{ring.lease_ms / 1000:.1f} s of its lease left" if has_lease else "its lease is over"
        )
        text.append(f"; {lease}", style="" if has_lease else "bold red")
    return text


def _ranges(numbers: Sequence[int], shown_max: int = 10) -> str:
    """``0-5, 7, 9-11 …``"""
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    shown = [str(low) if low == high else f"{low}-{high}" for low, high in runs[:shown_max]]
    return ", ".join(shown) + (" …" if len(runs) > shown_max else "")
