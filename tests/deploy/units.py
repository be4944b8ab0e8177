"""What a unit of systemd says, and a process under the restrictions that it names.

There is no systemd here that would run a unit. Those of its restrictions that a program can trip
over are a filter of system calls; it is built here from the same lists, as systemd does it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Unit", "confined", "expand", "read_unit"]

RUN_S_MAX = 30

# <linux/filter.h>, <linux/seccomp.h>, <linux/prctl.h>, <linux/mman.h>
LOAD_WORD, JUMP_EQUAL, JUMP_ANY_BIT, AND, RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER_AT, ARGUMENTS_AT = 0, 16
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
PROT_WRITE, PROT_EXEC = 2, 4


class Unit(NamedTuple):
    """The settings of a unit; a key may stand several times."""

    path: Path
    settings: dict[str, list[str]]

    def one(self, key: str) -> str:
        """The value of a key that stands once."""
        (value,) = self.settings[key]
        return value


def read_unit(path: Path) -> Unit:
    """Read a unit whose lines are not continued."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#;[":
            key, equals, value = line.partition("=")
            assert equals, line
            assert not value.endswith("\\"), line
            settings.setdefault(key, []).append(value)
    return Unit(path, settings)


def expand(filters: Sequence[str]) -> set[str]:
    """The system calls that the values of SystemCallFilter allow, by their names."""
    sets = _sets()
    allowed = set(_members("@default", sets))  # systemd adds it to each list of what is allowed
    for value in filters:
        names = {call for word in value.removeprefix("~").split() for call in _members(word, sets)}
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed


def _sets() -> dict[str, list[str]]:
    """What each @set holds, other sets included, as systemd-analyze lists them."""
    sets: dict[str, list[str]] = {}
    name = ""
    for line in _run("systemd-analyze", "syscall-filter").splitlines():
        if line.startswith("@"):
            name = line
            sets[name] = []
        elif line.startswith(" ") and not line.lstrip().startswith("#"):
            sets[name].append(line.strip())
    assert "@system-service" in sets
    return sets


def _members(word: str, sets: Mapping[str, list[str]]) -> Iterator[str]:
    if not word.startswith("@"):
        yield word
        return
    for inner in sets[word]:
        yield from _members(inner, sets)


def _run(*command: str, text: str = "") -> str:
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=RUN_S_MAX, check=True
    ).stdout


def _numbers() -> dict[str, int]:
    """The number of each system call on this machine, as the C compiler knows them."""
    text = _run("cc", "-E", "-dM", "-", text="#include <sys/syscall.h>\n")
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\n", text)}


class _Step(NamedTuple):
    """One instruction; the jumps are relative to the next one."""

    code: int
    value: int
    if_so: int = 0
    otherwise: int = 0


def _program(unit: Unit) -> Iterator[_Step]:
    numbers = _numbers()
    argument = [ARGUMENTS_AT + 8 * at for at in range(3)]
    refuse = _Step(RETURN, REFUSE | errno.EPERM)
    yield _Step(LOAD_WORD, NUMBER_AT)

    families = [int(getattr(socket, name)) for name in unit.one("RestrictAddressFamilies").split()]
    yield _Step(JUMP_EQUAL, numbers["socket"], 0, len(families) + 3)
    yield _Step(LOAD_WORD, argument[0])
    for at, family in enumerate(families):
        yield _Step(JUMP_EQUAL, family, len(families) - at)
    yield _Step(RETURN, REFUSE | errno.EAFNOSUPPORT)
    yield _Step(RETURN, ALLOW)

    assert unit.one("MemoryDenyWriteExecute") == "yes"
    yield _Step(JUMP_EQUAL, numbers["mmap"], 0, 4)
    yield _Step(LOAD_WORD, argument[2])
    yield _Step(AND, PROT_WRITE | PROT_EXEC)
    yield _Step(JUMP_EQUAL, PROT_WRITE | PROT_EXEC, 0, 1)
    yield refuse
    yield _Step(LOAD_WORD, NUMBER_AT)
    for name in ("mprotect", "pkey_mprotect"):
        yield _Step(JUMP_EQUAL, numbers[name], 0, 3)
        yield _Step(LOAD_WORD, argument[2])
        yield _Step(JUMP_ANY_BIT, PROT_EXEC, 0, 1)
        yield refuse
        yield _Step(LOAD_WORD, NUMBER_AT)

    allowed = sorted(
        numbers[name] for name in expand(unit.settings["SystemCallFilter"]) & set(numbers)
    )
    for number in allowed:
        yield _Step(JUMP_EQUAL, number, 0, 1)
        yield _Step(RETURN, ALLOW)
    yield refuse


def confined(unit: Unit, command: Sequence[str]) -> list[str]:
    """The command under which a program has no more system calls than in the unit.

    Args:
        command: absolute path of a program, and its arguments.
    """
    assert unit.one("SystemCallErrorNumber") == "EPERM"
    assert unit.one("NoNewPrivileges") == "yes"
    program = b"".join(
        struct.pack("=HBBI", step.code, step.if_so, step.otherwise, step.value)
        for step in _program(unit)
    )
    return [sys.executable, "-I", str(Path(__file__).resolve()), program.hex(), *command]


def _confine(program: bytes) -> None:
    """From now on this process, and what it becomes, is under a filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    )
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head)):
        if libc.prctl(*arguments, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    _confine(bytes.fromhex(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
