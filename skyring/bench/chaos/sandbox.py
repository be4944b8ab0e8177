"""Where the chaos suite runs: network, mounts and processes of its own, gone when it ends.

The suite is run again under ``unshare``, in new namespaces for processes, mounts and networks. When
the first process in there ends, however that comes about, the kernel ends all others and takes
the networks, the rules of iptables and the mounts away.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType

from skyring.bench.errors import BenchError
from skyring.cluster.leash import leashed

__all__ = [
    "Host",
    "Network",
    "compile_shim",
    "missing_requirement",
    "mount_disk",
    "run_inside",
]

TOOLS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "iptables": "iptables",
    "cc": "gcc libc6-dev",
}
"""Programs that are needed, and the Debian packages that have them."""
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where ``ip`` and ``iptables`` are; Debian has it not in the PATH of all users (nor of ``su``)."""
NEEDS_ROOT = "the chaos suite makes network namespaces and mounts: run it as root."
COMMAND_S_MAX = 30
SUBNET = "10.77.0"
HOME = f"{SUBNET}.1"
"""The address of the suite itself, its clients and its receiver."""
FIRST_HOST = 10
SHIM_SOURCE = Path(__file__).with_name("fsync_fails.c")


def missing_requirement() -> str | None:
    """Why the suite cannot run here, in one line; None if it can."""
    if sys.platform != "linux":
        return "the chaos suite needs Linux"
    if os.geteuid() != 0:
        return NEEDS_ROOT
    absent = [tool for tool in TOOLS if _where(tool) is None]
    if absent:
        packages = " ".join(sorted({TOOLS[tool] for tool in absent}))
        return f"the chaos suite needs {', '.join(absent)} (Debian: apt install {packages})"
    tried = subprocess.run(
        [_tool("unshare"), "--net", "--mount", "--pid", "--fork", "true"],
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    if tried.returncode != 0:  # root of a container, for instance, which may do less
        return f"{NEEDS_ROOT} {tried.stderr.strip()}".strip()
    return None


def _where(tool: str) -> str | None:
    """The path of a program; None if there is none."""
    return shutil.which(tool, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN)))


def _tool(tool: str) -> str:
    """The path of a program that `missing_requirement` has seen."""
    found = _where(tool)
    assert found is not None, "missing_requirement says so"
    return found


def run_inside(arguments: Sequence[str]) -> int:
    """Run this module's package in namespaces of its own; its exit code.

    Signals that end a program are passed on, so that it can put its files away.
    """
    unshare = [_tool("unshare"), "--net", "--mount", "--pid", "--fork"]
    command = [*unshare, "--kill-child", "--mount-proc"]
    inside = [sys.executable, "-m", "skyring.bench.chaos", *arguments]
    process = subprocess.Popen(leashed([*command, *inside]), start_new_session=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        # To the first process inside: unshare itself would end at once and take it along.
        for child in _children(process.pid):
            os.kill(child, number)

    before = {
        number: signal.signal(number, pass_on)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.kill()
            process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _do(tool: str, *arguments: str) -> None:
    command = [_tool(tool), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


class Host:
    """A network namespace with an address of its own."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def command(self, command: Sequence[str]) -> list[str]:
        """How to run a program there. Its process is the one that is started."""
        return [_tool("nsenter"), f"--net=/run/netns/{self.name}", *command]

    def cut(
        self,
        others: Collection[Host] | None = None,
        *,
        incoming: bool = True,
        outgoing: bool = True,
    ) -> None:
        """Drop packets from and to other hosts, or from and to everybody."""
        peers = [None] if others is None else [each.address for each in others]
        for peer in peers:
            # Its own loopback is none of the network.
            for chain, option, whose, wanted in (
                ("INPUT", "-i", "-s", incoming),
                ("OUTPUT", "-o", "-d", outgoing),
            ):
                if wanted:
                    which = [option, "eth0", *([] if peer is None else [whose, peer])]
                    _do(*self.command([_tool("iptables"), "-w", "-A", chain, *which, "-j", "DROP"]))

    def heal(self) -> None:
        """Drop nothing any more."""
        _do(*self.command([_tool("iptables"), "-w", "-F"]))


class Network:
    """A bridge in the namespace of the suite, and the hosts that hang on it."""

    def __init__(self) -> None:
        # What ip and iptables keep in /run is for this namespace alone.
        _do("mount", "-t", "tmpfs", "tmpfs", "/run")
        _do("ip", "link", "set", "lo", "up")
        _do("ip", "link", "add", "chaos", "type", "bridge")
        _do("ip", "address", "add", f"{HOME}/24", "dev", "chaos")
        _do("ip", "link", "set", "chaos", "up")
        self.home = HOME
        self.hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """The host of this name, made if it is not there."""
        if name in self.hosts:
            return self.hosts[name]
        number = FIRST_HOST + len(self.hosts)
        host = self.hosts[name] = Host(name, f"{SUBNET}.{number}")
        veth = f"veth{number}"
        _do("ip", "netns", "add", name)
        _do("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
        _do("ip", "link", "set", veth, "master", "chaos", "up")
        for command in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{host.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
        ):
            _do(*host.command([_tool("ip"), *command]))
        return host

    def names(self) -> dict[str, str]:
        """The names of the hosts by their addresses."""
        return {host.address: host.name for host in self.hosts.values()}


def mount_disk(directory: Path, size_bytes: int) -> None:
    """A small disk of its own at this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    _do("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory))


def compile_shim(directory: Path) -> Path:
    """The library that makes fsync fail, for LD_PRELOAD.

    Raises:
        BenchError: it cannot be compiled.
    """
    made = directory / "fsync_fails.so"
    _do("cc", "-shared", "-fPIC", "-O2", "-o", str(made), str(SHIM_SOURCE), "-ldl")
    return made
