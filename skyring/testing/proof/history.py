"""What has happened to the timers of a run, as its clients, receivers and logs have seen it.

All ``_s`` are seconds on one clock that all of them share: simulated time, or the monotonic clock
of the machine. All ``_ms`` are epoch milliseconds by the clock of whoever says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Answer", "Delivery", "Fault", "History", "LogEntry", "Operation", "OperationKind"]

OperationKind: TypeAlias = Literal["create", "update", "cancel", "get"]
Answer: TypeAlias = Literal["done", "missing", "busy", "conflict", "refused", "unknown"]
"""``done``: acknowledged (also when the timer was there already). ``missing``: there is no such
timer. ``busy``: it is being delivered. ``conflict``: it is there with other content, or dead.
``refused``: certainly not done. ``unknown``: no answer, or one that says that it may be done."""


@dataclass(slots=True)
class Operation:
    """What a client has asked for, and been told."""

    kind: OperationKind
    id: str
    """Of the timer; "" if it is not known (a create without an id of the user's own that was not
    acknowledged)."""
    sent_s: float
    content: str = ""
    """What is to be delivered, different for each version of a timer; of a get what was shown."""
    due_ms: int = 0
    """Of a create or an update: the clock of no node that delivers it may show less."""
    node: str = ""
    """Who was asked."""
    answer: Answer = "unknown"
    answered_s: float | None = None
    """None as long as the answer is unknown."""
    may_die: bool = False
    """Is it sent where nothing is ever taken, so that it ends as a dead letter?"""
    is_large: bool = False
    """May it be refused for its size?"""
    due_latest_ms: int = 0
    """Whoever delivers it takes it for due then, at the latest; 0 if that is not known."""

    def ended(self, answer: Answer, now_s: float) -> None:
        """There is an answer. One that is ``unknown`` may come to effect at any later time."""
        self.answer = answer
        self.answered_s = None if answer == "unknown" else now_s


@dataclass(slots=True)
class Delivery:
    """One attempt, as the receiver has seen it."""

    id: str
    content: str
    began_s: float
    clock_ms: int
    """By the clock of the node that delivers, when it began; or of the receiver."""
    due_ms: int = 0
    """As the node says; 0 if it does not."""
    node: str = ""
    """Who delivers; "" if it is not known."""
    taken: bool = False
    """Has the receiver taken it?"""
    told: bool = False
    """Was the node told so?"""


@dataclass(slots=True)
class Fault:
    """Something that was done to the system under test."""

    kind: str
    start_s: float
    end_s: float
    nodes: frozenset[str] = frozenset()
    """Who was hit; nobody named: all."""

    def hits(self, nodes: frozenset[str], start_s: float, end_s: float) -> bool:
        """Was one of these nodes hit between two moments? Of an unnamed node, anything counts."""
        return (
            self.start_s <= end_s
            and self.end_s >= start_s
            and (not self.nodes or "" in nodes or not self.nodes.isdisjoint(nodes))
        )


@dataclass(slots=True)
class LogEntry:
    """One entry of a slot's log, also if it has been removed since."""

    slot: int
    sequence: int
    epoch: int
    writer: str
    """Node and start of the node."""
    is_claim: bool
    time_s: float = 0.0
    """When it was appended."""


@dataclass
class History:
    """All of it."""

    operations: list[Operation] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    entries: list[LogEntry] = field(default_factory=list)
    notes: list[tuple[float, str]] = field(default_factory=list)
    """What else is good to know for whoever reads it."""
    failures: list[tuple[float, str]] = field(default_factory=list)
    """Nodes that have failed although nothing was done to them that explains it."""
    dead: set[str] = field(default_factory=set)
    """Dead letters at the end."""
    pending: set[str] = field(default_factory=set)
    """Timers that are pending at the end."""
    reported: set[str] = field(default_factory=set)
    """Timers whose loss the nodes have reported (damaged files)."""
    calm_s: float | None = None
    """From when on nothing was done to the system, and it had had its time to settle."""
    calm_ms: tuple[int, int] | None = None
    """By the clocks of all nodes: since then, and until they were set to another time. None: they
    were not set."""

    def note(self, now_s: float, text: str) -> None:
        """Write something down."""
        self.notes.append((now_s, text))

    def lines(self, timer_id: str | None = None) -> list[str]:
        """The history in words, in the order of time; of one timer, or of all.

        Faults and notes are always in it.
        """
        found: list[tuple[float, int, str]] = []
        for op in self.operations:
            if timer_id is None or op.id == timer_id:
                asked = f"{op.kind} {op.id or '(no id yet)'} {op.content}".rstrip()
                found.append((op.sent_s, 1, f"{op.node or '?'}  ← {asked} due {op.due_ms}"))
                if op.answered_s is not None:
                    found.append((op.answered_s, 2, f"{op.node or '?'}  → {asked}: {op.answer}"))
        for item in self.deliveries:
            if timer_id is None or item.id == timer_id:
                how = "told" if item.told else "taken, not told" if item.taken else "not taken"
                found.append(
                    (
                        item.began_s,
                        3,
                        f"{item.node or '?'}  delivers {item.id} {item.content}"
                        f" due {item.due_ms} at {item.clock_ms}: {how}",
                    )
                )
        for fault in self.faults:
            where = ", ".join(sorted(fault.nodes)) or "all"
            found.append((fault.start_s, 0, f"FAULT {fault.kind}: {where}, to {fault.end_s:.3f}"))
        found += [(when_s, 4, text) for when_s, text in self.notes]
        found += [(when_s, 4, f"FAILED {text}") for when_s, text in self.failures]
        return [f"{when_s:10.3f}  {text}" for when_s, _, text in sorted(found)]
