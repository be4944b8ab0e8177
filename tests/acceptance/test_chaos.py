"""The chaos suite in short: real processes, networks, disks and files, and nothing is lost.

It needs root, iptables and a C compiler, as `make test` sees to, and fails where they are missing.
No time is asserted; a machine that is busy explains repeated deliveries.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from skyring.bench.chaos.scenarios import SCENARIOS

pytestmark = pytest.mark.timeout(300)

END_S_MAX = 30


@asynccontextmanager
async def chaos(directory: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The suite as a process, which is ended by a signal if it runs still."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "skyring.bench.chaos", *arguments),
        *("--short", "--json", "--directory", str(directory), "--max-seconds", "250"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), END_S_MAX)


async def outcomes(directory: Path, *names: str) -> dict[str, Any]:
    """What came of scenarios, by their names."""
    async with chaos(directory, *names) as process:
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found = json.loads(out)["scenarios"]
    assert [each["name"] for each in found] == list(names)
    return {each["name"]: each for each in found}


async def test_nothing_is_lost_whatever_befalls_nodes_networks_disks_and_files(
    tmp_path: Path,
) -> None:
    # Side by side: most of it is waiting.
    ring, alone = await asyncio.gather(
        outcomes(tmp_path / "ring", "short"),
        outcomes(tmp_path / "alone", "short-disk", "damage"),
    )
    for name, found in {**ring, **alone}.items():
        figures = found["figures"]
        assert found["violations"] == [], name
        assert figures["lost"] == 0
        assert figures["acknowledged"] > 50
        assert figures["delivered"] > 20
    for name, found in (("short", ring["short"]), ("short-disk", alone["short-disk"])):
        # Each fault was there, and was felt.
        assert sum(found["figures"]["faults"].values()) >= len(set(SCENARIOS[name].faults))
        assert found["figures"]["refused"] + found["figures"]["unknown"] > 0
    rounds = alone["damage"]["figures"]["rounds"]
    assert sum(rounds.values()) == 12
    assert not any("SILENCE" in verdict or "WRONG" in verdict for verdict in rounds)
    assert any("reported" in verdict or "refuses" in verdict for verdict in rounds)


async def test_no_process_outlives_a_suite_that_is_ended(tmp_path: Path) -> None:
    directory = tmp_path / "ended"
    async with chaos(directory, "short-disk") as process:
        async with asyncio.timeout(60):
            while not running_in(directory):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGKILL)  # nobody can put anything away
        await process.wait()
        async with asyncio.timeout(30):
            while running_in(directory):
                await asyncio.sleep(0.05)


def running_in(directory: Path) -> list[int]:
    """The processes whose command names this directory, but for the suite itself."""
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            command = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            is_server = any(each in command for each in (b"run", b"-c"))
            if entry.isdigit() and is_server and str(directory).encode() in b" ".join(command):
                found.append(int(entry))
    return found
