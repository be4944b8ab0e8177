"""A real RabbitMQ, as a process of its own.

It takes some 5 seconds to start, so the tests of a module share one, and only those that kill it
start it again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from skyring.ports import free_port

__all__ = ["CERTIFICATE", "MESSAGE_BYTES_MAX", "PASSWORD", "RabbitMq", "running"]

CERTIFICATE = Path(__file__).parents[3] / "tests" / "contract" / "localhost.pem"
"""Names localhost, signed by itself, valid until 2126; its key is in the same file."""
PASSWORD = "s3cret of the guest"
START_S_MAX = 100
POLL_S = 0.02
SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server",)
"""Where Debian has it besides the path; what is on the path there is for root only."""
MESSAGE_BYTES_MAX = 1_000_000
CHANNELS_MAX = 50


@contextmanager
def running(directories: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """The broker of a module: not started yet, and gone in the end."""
    broker = RabbitMq(directories.mktemp("rabbitmq"))
    try:
        yield broker
    finally:
        broker.close()


def find(name: str, package: str, *others: str) -> Path:
    """The path of a program, which the tests cannot do without."""
    for candidate in (*others, shutil.which(name)):
        if candidate is not None and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise AssertionError(f"{name} is not installed: apt-get install {package}")


class RabbitMq:
    """One broker: `start`, then any number of `kill` and `start`, and `close` in the end.

    Everything is under ``directory`` and on ports of 127.0.0.1 that were free.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.tls_port = free_port()
        self.log = directory / "rabbit.log"
        self._directory = directory
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = self._prepare()

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}/"

    @property
    def tls_url(self) -> str:
        return f"amqps://localhost:{self.tls_port}"

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Until it takes connections. Does nothing if it does already."""
        if self._process is not None:
            return
        deadline_s = time.monotonic() + START_S_MAX
        if self._epmd is None:
            # Otherwise the broker starts one, which goes on for ever.
            command = [str(find("epmd", "erlang-base")), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen([*command, "-port", str(self._epmd_port)])
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [find("rabbitmq-server", "rabbitmq-server", *SERVERS)],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while b"Server startup complete" not in self.log.read_bytes()[start:]:
            assert self._process.poll() is None, self.log.read_text()[-5_000:]
            assert time.monotonic() < deadline_s, self.log.read_text()[-5_000:]
            time.sleep(POLL_S)

    def kill(self) -> None:
        """As kill -9 does, even if it is stopped. What it had started ends by itself."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        self.kill()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait()

    def _prepare(self) -> dict[str, str]:
        """Write the configuration; returns the environment that leads to it."""
        at = self._directory
        (at / "plugins").write_text("[].\n")
        (at / "advanced.config").write_text(
            "[{kernel, [{inet_dist_use_interface, {127,0,0,1}}]}].\n"
        )
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
            "ssl_options.certfile": CERTIFICATE,
            "ssl_options.keyfile": CERTIFICATE,
            "default_pass": PASSWORD,
            "max_message_size": MESSAGE_BYTES_MAX,
            "channel_max": CHANNELS_MAX,
            "log.console": "true",
            "log.file": "false",
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (at / "rabbit.conf").write_text("".join(lines))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(at),  # the cookie is put there
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(at / "rabbit.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(at / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(at / "db"),
            "RABBITMQ_LOG_BASE": str(at),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(at / "pid"),
            # The script is replaced by the broker then, and does not stand between us and it.
            "detached": "1",
        }
        with suppress(FileNotFoundError):
            environment["RABBITMQ_SCRIPTS_DIR"] = str(self._lean())
        return environment

    def _lean(self) -> Path:
        """A copy of the installation without plugins, made of links; returns its scripts.

        The broker looks through all that is installed when it starts: without the plugins it
        takes 5 seconds instead of 8.

        Raises:
            FileNotFoundError: it is installed in another way.
        """
        script = find("rabbitmq-server", "rabbitmq-server", *SERVERS).resolve()
        installed, lean = script.parent.parent, self._directory / "rabbitmq"
        libraries = sorted((installed / "plugins").iterdir())
        (lean / "plugins").mkdir(parents=True)
        for library in libraries:
            if not library.name.startswith("rabbitmq_") or "prelaunch" in library.name:
                (lean / "plugins" / library.name).symlink_to(library)
        for name in (script.parent.name, "escript"):
            (lean / name).symlink_to(installed / name)
        return lean / script.parent.name
