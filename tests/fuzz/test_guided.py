"""The guided fuzzing in short: all targets in one process. `tools/fuzz` does it at length."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

RUNS = 30_000
RUN_S_MAX = 60
WHEELS = (
    sys.platform == "linux"
    and platform.machine() == "x86_64"
    and platform.python_implementation() == "CPython"
    and sys.version_info < (3, 15)
)
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not WHEELS and find_spec("atheris") is None, reason="atheris has no wheel for this machine"
)
def test_no_bytes_do_what_none_may_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.guided", "all", str(tmp_path), f"-runs={RUNS}"]
    done = subprocess.run(
        [*command, "-seed=1"], cwd=ROOT, capture_output=True, text=True, timeout=RUN_S_MAX
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    assert f"Done {RUNS} runs" in done.stderr
    assert len(TARGETS) >= 20
