"""Each benchmark once, small, against the real server: the figures are there and nothing is lost.

Nothing here asserts on speed: that is what the benchmarks themselves are for.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from skyring.bench.client import status_or_none
from skyring.bench.process import ServerProcess

pytestmark = pytest.mark.timeout(180)


async def bench(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON document (empty when there is none) and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "skyring", "bench", *arguments, "--json", "--max-seconds", "150"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out) if out else {}, err.decode()


async def figures(*arguments: str) -> dict[str, Any]:
    code, document, err = await bench(*arguments)
    assert (code, err) == (0, "")
    assert document["command"] == arguments[0]
    assert document["failure"] is None
    assert document["rounds"]
    summary: dict[str, Any] = document["summary"]
    return summary


async def test_create() -> None:
    found = await figures("create", "--count", "300", "--connections", "8", "--rounds", "2")
    assert found["creates_per_s"] > 0
    assert found["yardstick_per_s"] > 0
    assert found["ratio"] > 0
    assert 0 < found["create_p50_ms"] <= found["create_p99_ms"] <= found["create_max_ms"]
    assert (found["not_201"], found["broken"]) == (0, 0)
    assert found["generator_cpu"] > 0


@pytest.mark.parametrize("shape", ["ndjson", "array"])
async def test_bulk(shape: str) -> None:
    found = await figures(
        *("bulk", "--count", "2000", "--entries", "500", "--rounds", "1", "--shape", shape)
    )
    assert found["timers_per_s"] > 0
    assert (found["timers"], found["refused"], found["not_200"], found["broken"]) == (2000, 0, 0, 0)


@pytest.mark.parametrize("how", [(), ("--no-bulk",)], ids=["bulk", "single"])
async def test_herd(how: tuple[str, ...]) -> None:
    found = await figures("herd", "--count", "500", "--rounds", "2", *how)
    assert (found["created"], found["delivered"]) == (1000, 1000)
    assert (found["lost"], found["duplicated"], found["early"], found["unexpected"]) == (0, 0, 0, 0)
    assert found["delivered_per_s"] > 0
    assert found["first_after_ms"] >= 0


async def test_steady() -> None:
    found = await figures(
        *("steady", "--rate", "200", "--seconds", "2", "--rounds", "1"),
        *("--timeout-min", "100", "--timeout-max", "600"),
    )
    assert found["acknowledged"] == 400
    assert (found["lost"], found["duplicated"], found["early"], found["unexpected"]) == (0, 0, 0, 0)
    assert (found["not_201"], found["broken"]) == (0, 0)
    assert 0 <= found["lateness_p50_ms"] <= found["lateness_p99_ms"] <= found["lateness_max_ms"]


async def test_scale() -> None:
    found = await figures("scale", "--count", "6000", "--pages", "4", "--page-limit", "500")
    assert found["timers"] == 6000
    assert found["listed"] == 2000
    assert found["ready_s"] > 0
    assert found["disk_bytes"] > 0
    if sys.platform == "linux":
        assert found["memory_start_bytes"] > 0
        assert found["memory_peak_bytes"] >= found["memory_bytes"] > 0


async def test_crash_loses_nothing() -> None:
    found = await figures(
        *("crash", "--rounds", "2", "--rate", "500", "--kill-after", "1.0"),
        *("--timeout-max", "1500", "--seed", "7"),
    )
    assert found["acknowledged"] > 0
    assert found["delivered_after"] > 0
    assert (found["lost"], found["overdue"], found["early"]) == (0, 0, 0)


async def test_crash_notices_a_server_that_forgets() -> None:
    code, document, err = await bench(
        *("crash", "--rounds", "1", "--rate", "300", "--kill-after", "1.0", "--bound", "1"),
        *(
            "--timeout-min",
            "1000",
            "--timeout-max",
            "1200",
            "--server-arg=--storage:backend=memory",
        ),
    )
    assert code == 1
    assert document["summary"]["lost"] > 0
    assert "acknowledged timers lost" in document["failure"]
    assert document["failure"] in err


async def test_a_server_that_runs_already(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        found = await figures("herd", "--url", server.url, "--count", "100", "--rounds", "1")
        assert found["delivered"] == 100
        # To the benchmark it is not its own: it leaves it running and knows nothing of its CPU.
        assert found["server_cpu"] is None
        assert await status_or_none(server.host, server.port, "/ping", timeout_s=5.0) == 200


async def test_no_server() -> None:
    code, document, err = await bench("steady", "--url", "http://127.0.0.1:1")
    assert code == 1
    assert document == {}
    [line] = err.splitlines()
    assert "no server answers at http://127.0.0.1:1" in line
