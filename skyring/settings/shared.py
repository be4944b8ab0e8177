"""What makes a node a member of a ring: the way to NATS, and how the slots are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from skyring.settings.group import Group, split

__all__ = ["NatsSettings", "RingSettings"]


def _none(value: object) -> object:
    """Nothing given is no name, no password, no file: a variable may be set and empty."""
    return None if value == "" else value


def _without_secrets(servers: tuple[str, ...]) -> tuple[str, ...]:
    # They would stand in logs, and in the representation of the settings.
    if any("@" in server for server in servers):
        raise ValueError(
            "an address must hold no user name, password or token; they have settings of their"
            " own: nats.user and nats.password, or nats.token"
        )
    return servers


Text: TypeAlias = Annotated[str | None, BeforeValidator(_none)]
Secret: TypeAlias = Annotated[SecretStr | None, BeforeValidator(_none)]
File: TypeAlias = Annotated[Path | None, BeforeValidator(_none)]


class NatsSettings(Group):
    """How a node reaches NATS; with an address it is a member of a ring."""

    main: ClassVar[str | None] = "servers"
    may_be_secret: ClassVar[bool] = True

    servers: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(split), AfterValidator(_without_secrets)
    ] = Field(
        default=(),
        description="nats://host:port, tls://host:port or host:port of NATS servers with JetStream;"
        " can be repeated, or holds several with commas between; none: the node stands alone",
    )
    user: Text = Field(default=None, description="user name, with a password")
    password: Secret = Field(default=None, description="the user's password")
    token: Secret = Field(default=None, description="instead of a user name")
    credentials_file: File = Field(
        default=None, description="instead of a user name: a .creds file with a JWT and a seed"
    )
    nkey_seed_file: File = Field(
        default=None, description="instead of a user name: a file with an nkey seed"
    )
    ca_file: File = Field(
        default=None,
        description="certificates to trust (PEM) instead of the machine's; TLS is then a must",
    )
    monitoring: Text = Field(
        default=None,
        description="http://host:port of a server's monitoring, where the node reads whether NATS"
        " syncs its files at once",
    )
    connect_timeout_ms: int = Field(
        default=2_000, ge=1, le=600_000, description="time allowed to an attempt to connect"
    )
    reconnect_pause_ms: int = Field(
        default=250, ge=1, le=600_000, description="pause before the servers are tried again"
    )
    echo_interval_ms: int = Field(
        default=1_000,
        ge=1,
        le=600_000,
        description="pause between two looks whether the server still answers",
    )
    echo_timeout_ms: int = Field(
        default=3_000,
        ge=1,
        le=600_000,
        description="silence after which a connection is given up and made anew",
    )
    request_timeout_ms: int = Field(
        default=5_000, ge=10, le=600_000, description="time allowed to NATS for one answer"
    )
    pending_bytes_max: int = Field(
        default=8 << 20,
        ge=1 << 10,
        le=1 << 30,
        description="bytes that may wait to be written to the server",
    )


class RingSettings(Group):
    """How the nodes of a ring share the slots."""

    main: ClassVar[str | None] = "name"

    name: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9_-]{1,32}$",
        description="name of the ring; several can use one NATS",
    )
    replicas: int = Field(
        default=1, ge=1, le=5, description="servers that keep the logs; 3 survive the loss of one"
    )
    heartbeat_ms: int = Field(
        default=500, ge=20, le=60_000, description="pause between two heartbeats of a node"
    )
    suspect_ms: int = Field(
        default=1_500, ge=40, le=600_000, description="silence after which a node is asked directly"
    )
    dead_ms: int = Field(
        default=2_500, ge=60, le=600_000, description="silence after which it is taken for dead"
    )
    lease_ms: int = Field(
        default=3_000,
        ge=60,
        le=600_000,
        description="how long a node acts on its claims without an acknowledged heartbeat; the same"
        " on all nodes. What exceeds dead_ms is waited for when slots without a holder are claimed",
    )
    request_timeout_ms: int = Field(
        default=10_000,
        ge=10,
        le=600_000,
        description="how long a request waits for the node that holds its slot",
    )
    waiting_max: int = Field(
        default=10_000,
        ge=1,
        description="requests that wait for other nodes; more are answered 503",
    )
    moves_max: int = Field(
        default=8,
        ge=1,
        le=65_536,
        description="slots taken from living nodes at once; each is without a holder meanwhile",
    )
    standby_ms: int = Field(
        default=5_000,
        ge=0,
        le=86_400_000,
        description="pause between two readings of the logs of those slots that this node would own"
        " if their owner died; 0: they are read when it has died",
    )
    log_bytes_max: int = Field(
        default=-1, ge=-1, description="size of all logs, kept by NATS; -1: what NATS allows"
    )
    log_spare_bytes: int = Field(
        default=256 << 10,
        ge=1 << 10,
        description="what is dead in the log of a slot is removed when it has more than twice what"
        " is live, and so many bytes",
    )
    events: Literal["all", "ring", "none"] = Field(
        default="all",
        description="what is published on skyring.RING.events.*: what happens to timers and to the"
        " ring, to the ring alone, nothing",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.heartbeat_ms < self.suspect_ms < self.dead_ms <= self.lease_ms:
            raise ValueError(
                "heartbeat_ms < suspect_ms < dead_ms <= lease_ms must hold, and does not for"
                f" {self.heartbeat_ms}, {self.suspect_ms}, {self.dead_ms} and {self.lease_ms}"
            )
        return self
