"""The direction of imports: kernel ← rooms ← node.py ← http/, server.py, cli.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import skyring

ROOT = Path(skyring.__file__).parent

KERNEL = {"errors", "clock", "counting", "settings", "tasks", "tls", "version"}
ROOMS = {"nats", "storage", "transports", "timers", "ring", "telemetry"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "counting": set(),
    "version": set(),
    "tasks": set(),
    "tls": {"errors"},
    "settings": {"errors"},
    "nats": KERNEL,
    "storage": {*KERNEL, "nats"},
    "transports": KERNEL,
    "telemetry": KERNEL,
    "ring": {*KERNEL, "nats", "storage.base"},
    # A room knows the contracts of the others, not their insides.
    "timers": {*KERNEL, "storage.base", "transports.base"},
    "node": {*KERNEL, *ROOMS, "node_ring", "node_metrics"},
    "node_metrics": {*KERNEL, *ROOMS},
    "node_ring": {*KERNEL, *ROOMS, "node_slots"},
    "node_slots": {*KERNEL, *ROOMS},
    "http": {*KERNEL, "node", "timers"},
    "server": {*KERNEL, "node", "http", "telemetry", "timers.facade", "transports.loading"},
}
"""Who may import whom. What is not named here stands above and may import everything."""

PURE = {
    "counting.py",
    "nats/message.py",
    "timers/schedule.py",
    "timers/dispatch.py",
    "timers/retry.py",
    "timers/record.py",
    "timers/request.py",
    "timers/ids.py",
    "timers/together.py",
    "timers/recent.py",
    "timers/wire.py",
    "timers/events.py",
    "timers/counts.py",
    "storage/seal.py",
    "transports/http_rules.py",
    "transports/wire.py",
    "transports/address.py",
    "ring/placement.py",
    "ring/membership.py",
    "ring/ownership.py",
    "ring/slots.py",
    "ring/lease.py",
    "ring/messages.py",
    "ring/replays.py",
    "ring/routing.py",
    "ring/view.py",
}
"""They decide and do no I/O."""


def imports(path: Path) -> Iterator[str]:
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            yield from (alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}: relative import"
            yield str(item.module)


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def test_imports_point_downwards() -> None:
    wrong = []
    for path in files():
        room = room_of(path)
        if room not in ALLOWED:
            continue
        for name in imports(path):
            inside = name.removeprefix("skyring.")
            if inside == name or inside.split(".")[0] == room:
                continue
            if not any(inside == may or inside.startswith(f"{may}.") for may in ALLOWED[room]):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_what_is_pure_does_no_input_and_output() -> None:
    impure = {"asyncio", "socket", "time", "threading", "os.path", "pathlib", "random"}
    for name in PURE:
        found = set(imports(ROOT / name))
        assert not found & impure, f"{name} imports {found & impure}"


def test_only_the_clock_reads_clocks() -> None:
    for path in files():
        if room_of(path) in {
            *ROOMS,
            "node",
            "node_ring",
            "node_slots",
            "node_metrics",
            "http",
            "server",
            "settings",
            "errors",
        }:
            assert "time" not in set(imports(path)), path


def test_only_one_file_uses_leveldb_directly_or_knows_its_errors() -> None:
    users = {path.name for path in files() if "plyvel" in set(imports(path))}
    # And the simulated disk, which stands in for it.
    assert users == {"leveldb.py", "leveldb_files.py", "disk.py"}


def test_files_stay_small() -> None:
    for path in files():
        assert len(path.read_text().splitlines()) <= 400, path
