"""Where the servers are, and what they are told about who connects."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from skyring.errors import ConfigError

__all__ = ["AccessOptions", "Server", "credentials", "read_servers"]

DEFAULT_PORT = 4222
HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
SERVERS_MAX = 100
FILE_BYTES_MAX = 65_536
JWT_MARK = "BEGIN NATS USER JWT"
SEED_MARK = "BEGIN USER NKEY SEED"


class AccessOptions(Protocol):
    """The options that say how to get in; every one may be None."""

    @property
    def user(self) -> str | None: ...
    @property
    def password(self) -> SecretStr | None: ...
    @property
    def token(self) -> SecretStr | None: ...
    @property
    def credentials_file(self) -> Path | None: ...
    @property
    def nkey_seed_file(self) -> Path | None: ...


class Server(NamedTuple):
    """A server as the operator named it."""

    url: str
    """Scheme, host and port."""
    needs_tls: bool


def read_servers(
    given: str | Sequence[str], prefix: str, *, needs_tls: bool = False
) -> list[Server]:
    """The servers of a list with commas, or of several such lists.

    Args:
        given: ``nats://host:port``, ``tls://host:port`` or ``host:port``.
        prefix: what the options begin with, such as ``transport.nats``: for the texts of errors.
        needs_tls: is TLS asked for, whatever the scheme says?

    Raises:
        ConfigError: one is malformed; what it holds is not quoted if it may be secret.
    """
    option = f"{prefix}.servers"
    texts = [given] if isinstance(given, str) else given
    urls = [url.strip() for text in texts for url in text.split(",") if url.strip()]
    if not 1 <= len(urls) <= SERVERS_MAX:
        raise ConfigError(f"{option}: 1 to {SERVERS_MAX} have to be given")
    for url in urls:
        if "@" in url:
            raise ConfigError(
                f"{option}: must hold no user name, password or token; they have options of their"
                f" own: {prefix}.user and .password, or .token"
            )
    return [_read_server(url, option, needs_tls) for url in urls]


def _read_server(given: str, option: str, needs_tls: bool) -> Server:
    url = given if "://" in given else f"nats://{given}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{option}: {given!r} is malformed") from None
    if parts.scheme not in ("nats", "tls"):
        raise ConfigError(f"{option}: {given!r} does not begin with nats:// or tls://")
    is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment
    if host is None or HOST.fullmatch(host) is None or port == 0 or not is_bare:
        raise ConfigError(f"{option}: {given!r} is not of the form {parts.scheme}://host:port")
    shown = f"[{host}]" if ":" in host else host
    port = DEFAULT_PORT if port is None else port
    return Server(f"{parts.scheme}://{shown}:{port}", needs_tls or parts.scheme == "tls")


def credentials(options: AccessOptions, prefix: str) -> Mapping[str, Any]:
    """The arguments for `Client.connect` that say who connects. Reads files.

    Args:
        prefix: what the options begin with, such as ``transport.nats``: for the texts of errors.

    Raises:
        ConfigError: they do not go together, or a file cannot be used.
    """
    given = [
        name
        for name in ("user", "token", "credentials_file", "nkey_seed_file")
        if getattr(options, name) is not None
    ]
    if len(given) > 1:
        raise ConfigError(f"{prefix}: {given[0]} and {given[1]} exclude each other")
    if (options.user is None) != (options.password is None):
        raise ConfigError(f"{prefix}: user and password go together")
    if options.user is not None and options.password is not None:
        return {"user": options.user, "password": options.password.get_secret_value()}
    if options.token is not None:
        return {"token": options.token.get_secret_value()}
    if options.credentials_file is not None:
        _check_credentials_file(options.credentials_file, f"{prefix}.credentials_file")
        return {"user_credentials": str(options.credentials_file)}
    if options.nkey_seed_file is not None:
        _check_seed_file(options.nkey_seed_file, f"{prefix}.nkey_seed_file")
        return {"nkeys_seed": str(options.nkey_seed_file)}
    return {}


def _check_credentials_file(path: Path, option: str) -> None:
    text = _read(path, option)
    if JWT_MARK not in text or SEED_MARK not in text:
        raise ConfigError(f"{option}: {path} does not hold a user JWT and an nkey seed")


def _check_seed_file(path: Path, option: str) -> None:
    text = _read(path, option)
    nkeys = importlib.import_module("nkeys")  # only needed here, and it has no types
    try:
        nkeys.from_seed(bytearray(text.strip().encode())).wipe()
    except Exception:  # the library lets errors of all kinds through; none may quote the seed
        raise ConfigError(f"{option}: {path} does not hold an nkey seed") from None


def _read(path: Path, option: str) -> str:
    if importlib.util.find_spec("nkeys") is None:
        raise ConfigError(f"{option}: needs the package nkeys: pip install nkeys")
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror}") from None
