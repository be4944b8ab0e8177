"""The tool of Prometheus that checks and tests rules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["promtool"]

RUN_S_MAX = 60


def promtool(*arguments: str | Path) -> str:
    """What it says; it has to be content."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is not installed: tools/install-servers"
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=RUN_S_MAX
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-8_000:]
    return done.stdout + done.stderr
