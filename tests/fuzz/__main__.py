"""The long forms of the fuzzing; `tools/fuzz` runs this."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.openapi import command
from tests.fuzz.targets import TARGETS

__all__: list[str] = []

NICENESS = 10
GRACE_S = 60
CASE_S_MAX = 1.0


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="tools/fuzz", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/fuzz"))
    kinds = parser.add_subparsers(dest="kind", required=True)
    guided = kinds.add_parser("atheris", help="the readers of bytes, guided by coverage")
    guided.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    guided.add_argument("--seconds", type=int, default=120, help="for each target")
    document = kinds.add_parser("openapi", help="a server against its OpenAPI document")
    document.add_argument("--cases", type=int, default=10_000, help="for each seed")
    document.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    document.add_argument("--backend", choices=("leveldb", "memory"), default="leveldb")
    document.add_argument("--ring", action="store_true", help="a ring of one node, with NATS")
    options = parser.parse_args(arguments)
    os.nice(NICENESS)
    if options.kind == "openapi":
        return _openapi(options)
    unknown = set(options.targets).difference(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    return _guided(options.directory, options.targets or list(TARGETS), options.seconds)


def _guided(directory: Path, targets: list[str], seconds: int) -> int:
    found = 0
    for name in targets:
        place = directory / name
        command = [sys.executable, "-m", "tests.fuzz.guided", name, str(place)]
        done = subprocess.run(
            [*command, f"-max_total_time={seconds}"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + GRACE_S,
        )
        if done.returncode:
            found = 1
            print(f"{name}: found something\n{done.stdout[-4_000:]}{done.stderr[-2_000:]}")
            continue
        runs = re.findall(r"Done (\d+) runs", done.stderr)
        coverage = re.findall(r"cov: (\d+)", done.stderr)
        print(f"{name}: {runs[-1]} runs, {coverage[-1]} places reached", flush=True)
    return found


def _openapi(options: argparse.Namespace) -> int:
    found = 0
    for seed in options.seeds:
        arguments = ["--cases", str(options.cases), "--seed", str(seed)]
        arguments += ["--ring"] if options.ring else ["--backend", options.backend]
        place = options.directory / f"openapi-{seed}-{os.getpid()}"
        done = subprocess.run(
            command(place, *arguments),
            stdout=subprocess.PIPE,
            text=True,
            timeout=options.cases * CASE_S_MAX + GRACE_S,
        )
        found |= done.returncode
        if not done.stdout:
            print(f"seed {seed}: it ended with {done.returncode}")
            continue
        report = json.loads(done.stdout)
        wrong = report.pop("wrong")
        print(f"seed {seed}: {json.dumps(report)}", flush=True)
        for kind, example in wrong.items():
            print(f"  {kind}\n{example}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
