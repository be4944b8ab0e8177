"""Fuzz targets under atheris, which owns the whole process.

    python -m tests.fuzz.guided TARGET DIRECTORY [libFuzzer options such as -runs=1000, or a file]

TARGET may be ``all``: the first byte of each input chooses one then. What is new stands in
DIRECTORY/corpus, what fails in DIRECTORY/crash-… and the like.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any = import_module("atheris")  # has no types, and not on all machines a wheel

with atheris.instrument_imports(include=["skyring", "json"]):
    from tests.fuzz.mutation import mutate_format, reseal
    from tests.fuzz.stored import KEY_BYTES, check_seal
    from tests.fuzz.target import Target
    from tests.fuzz.targets import TARGETS

__all__ = ["ALL"]

ALL = "all"
INPUT_BYTES_MAX = 4_096
INPUT_S_MAX = 10
MEMORY_MB_MAX = 1_024


class Guided:
    """One target, or several that are chosen by the first byte of an input."""

    def __init__(self, name: str) -> None:
        self._targets = list(TARGETS.values()) if name == ALL else [TARGETS[name]]
        self._choice_bytes = 1 if name == ALL else 0
        self.seeds = [
            bytes([number])[: self._choice_bytes] + seed
            for number, target in enumerate(self._targets)
            for seed in target.seeds()
        ]

    def check(self, data: bytes) -> None:
        """Raises if these bytes do what no bytes may do."""
        target, _, rest = self._split(data)
        target.check(rest)

    def mutate(self, data: bytes, bytes_max: int, seed: int) -> bytes:
        """Other bytes; three times out of four of the same format, if these have it."""
        if seed % 3 == 0:  # atheris throws those away that take the same way as others
            data = self.seeds[seed % len(self.seeds)]
        target, choice, rest = self._split(data)
        changed = None
        if seed % 4:
            changed = mutate_format(rest, target.format, target.prefix_bytes, seed)
        if changed is None:
            changed = bytes(atheris.Mutate(rest, len(rest)))
            if target.check is check_seal and seed % 2:
                changed = reseal(changed, KEY_BYTES)
        return (choice + changed)[:bytes_max]

    def _split(self, data: bytes) -> tuple[Target, bytes, bytes]:
        choice, rest = data[: self._choice_bytes], data[self._choice_bytes :]
        number = int.from_bytes(choice, "big") % len(self._targets)
        return self._targets[number], bytes([number])[: self._choice_bytes], rest


def main(name: str, directory: Path, options: list[str]) -> None:
    """Run until an input fails, or the options say that it is enough. Does not return."""
    guided = Guided(name)
    directories = [directory / "corpus", directory / "seeds"]
    for each in directories:
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(guided.seeds):
        (directories[1] / str(number)).write_bytes(seed)
    limits = [
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-artifact_prefix={directory}/",
    ]
    if not any(Path(option).is_file() for option in options):
        options = [*options, *map(str, directories)]
    atheris.Setup([sys.argv[0], *limits, *options], guided.check, custom_mutator=guided.mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
