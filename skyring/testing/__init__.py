"""For the tests of those who build on Skyring: a transport that records, and the contract suite.

The suite needs pytest.
"""

import contextlib

with contextlib.suppress(ImportError):
    import pytest

    # So that a failing assertion of the suite shows its values, as one in a test file does.
    pytest.register_assert_rewrite("skyring.testing.contract")

from skyring.testing.contract import TransportContract, UnacknowledgedContract
from skyring.testing.peer import Peer
from skyring.testing.processes import pause_process, resume_process
from skyring.testing.recording import Delivered, Gate, Recorder, Script, reject, take

__all__ = [
    "Delivered",
    "Gate",
    "Peer",
    "Recorder",
    "Script",
    "TransportContract",
    "UnacknowledgedContract",
    "pause_process",
    "reject",
    "resume_process",
    "take",
]
