"""What can befall the files of a LevelDB: a bit that is turned over, an end that is cut off."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from skyring.bench.errors import BenchError

__all__ = ["FILES", "Aim", "Blow", "How", "aim_at", "blows", "kind_in", "strike"]

FILES = {"log": "*.log", "table": "*.ldb", "manifest": "MANIFEST-*"}
"""Patterns of their names, by their kind."""

How: TypeAlias = Literal["flip", "truncate"]


class Blow(NamedTuple):
    """One place of one kind of file."""

    kind: str
    how: How
    which: float
    """Of the files of this kind, as a share of their number."""
    where: float
    """In it, as a share of its length."""
    bit: int


def blows(count: int, seed: int) -> list[Blow]:
    """The blows of a run: all kinds in turn, the places by chance."""
    chance = random.Random(f"{seed} damage")
    hows: tuple[How, ...] = ("flip", "truncate")
    pairs = [(kind, how) for how in hows for kind in FILES]
    return [
        Blow(*pairs[number % len(pairs)], chance.random(), chance.random(), chance.randrange(8))
        for number in range(count)
    ]


def kind_in(directory: Path, kind: str) -> str:
    """This kind of file, or one that there is: a node that is young has no table yet."""
    there = (each for each in (kind, "log") if _files(directory, each))
    return next(there, "manifest")


def _files(directory: Path, kind: str) -> list[Path]:
    return [file for file in sorted(directory.glob(FILES[kind])) if file.stat().st_size]


class Aim(NamedTuple):
    """Where a blow meets the files of one directory."""

    file: Path
    kind: str
    how: How
    at: int
    bit: int

    def words(self) -> str:
        """What is done, in words."""
        return f"{self.how} {self.file.name} at {self.at}"


def aim_at(directory: Path, blow: Blow) -> Aim:
    """The place that a blow meets.

    Raises:
        BenchError: there is no such file.
    """
    files = _files(directory, blow.kind)
    if not files:
        raise BenchError(f"there is no {FILES[blow.kind]} in {directory}")
    file = files[int(blow.which * len(files))]
    at = int(blow.where * file.stat().st_size)
    return Aim(file, blow.kind, blow.how, at, blow.bit)


def strike(directory: Path, blow: Blow) -> str:
    """Damage a file in place; what was done, in words.

    Raises:
        BenchError: there is no such file.
    """
    aim = aim_at(directory, blow)
    content = bytearray(aim.file.read_bytes())
    if aim.how == "truncate":
        del content[aim.at :]
    else:
        content[aim.at] ^= 1 << aim.bit
    aim.file.write_bytes(content)
    return aim.words()
