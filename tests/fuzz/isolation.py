"""A network of one's own with nothing but the loopback: what is made up by chance stays inside."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence

__all__ = ["NotIsolated", "bring_up_loopback", "isolated"]

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1
REQUEST = "16sh14x"
"""struct ifreq: the name of an interface, and its flags."""


class NotIsolated(Exception):
    """There is a way out of this network."""


def isolated(command: Sequence[str]) -> list[str]:
    """A command that runs ``command`` with a network of its own. Linux only.

    Processes are its own too: however it ends, none that it has started outlives it. Without root
    a user namespace comes with it.
    """
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    own = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *as_root, *own, "--", *command]


def bring_up_loopback() -> None:
    """Bring up the loopback of this namespace.

    Raises:
        NotIsolated: there are other interfaces.
    """
    names = [name for _, name in socket.if_nameindex()]
    # The kernel puts tunnels without an address into new namespaces, if their modules are loaded.
    if any(_flags(name) & IFF_UP for name in names if name != "lo"):
        raise NotIsolated(f"this network has {', '.join(names)}; start it by `isolated`")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack(REQUEST, b"lo", _flags("lo") | IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


def _flags(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack(REQUEST, name.encode(), 0)
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
    flags: int = struct.unpack(REQUEST, answer)[1]
    return flags & 0xFFFF
