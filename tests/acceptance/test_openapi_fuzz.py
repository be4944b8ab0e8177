"""A real server against its own OpenAPI document, in short. `tools/fuzz` has the long form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.openapi import command

CASES = 250
RUN_S_MAX = 100
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="callbacks that chance makes up need a network namespace"
)


@pytest.mark.parametrize("where", ["--backend=leveldb", "--ring"])
def test_the_server_keeps_to_its_document(where: str, tmp_path: Path) -> None:
    options = ["--cases", str(CASES), "--seed", "1", where]
    done = subprocess.run(
        command(tmp_path, *options), cwd=ROOT, capture_output=True, text=True, timeout=RUN_S_MAX
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert not report["wrong"], "\n".join(report["wrong"].values())
    assert done.returncode == 0
    assert report["cases"] >= CASES
    assert not any(status.startswith("5") for status in report["statuses"])
    assert {"200", "201", "400", "404"} <= set(report["statuses"])
