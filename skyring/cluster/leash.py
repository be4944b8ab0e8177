"""Programs that end with the one that started them, even if that is killed with SIGKILL.

The kernel does it (Linux); elsewhere a program is started as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["leashed"]

LEASH = """\
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs in the new process and becomes the program, so that no code is run between fork and exec.
A parent that ended before the call would be missed by it: that is looked at afterwards.
"""


def leashed(command: Sequence[str]) -> list[str]:
    """The command under which the program ends with the process that calls this.

    It has to be started by the main thread, for it is the thread whose end counts.

    Args:
        command: the absolute path of a program, and its arguments.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), *command]
