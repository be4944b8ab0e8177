"""The stream that holds the logs of a ring: making it, and making sure that it is the right one."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

from skyring.errors import StorageError, Unavailable
from skyring.nats.jetstream import JetStreamApi, JetStreamError, NoJetStream

__all__ = ["LogStream"]

logger = logging.getLogger(__name__)

FORMAT = "1"
FORMAT_KEY = "skyring-format"
SLOTS_KEY = "skyring-slots"
ID_KEY = "skyring-log-id"
ID_BYTES = 16

NOT_FOUND = 10_059
NAME_IN_USE = 10_058
NOT_ENABLED = (10_076, 10_039)
NO_CLUSTER = (10_074, 10_010)
"""More than one replica, on a server that stands alone."""
NO_PEERS = 10_005
TRY_LATER = (10_008, 10_009)
"""There is no leader now."""

PEERS_S_MAX = 10
"""Servers that are started together need some time to find each other."""
PAUSE_S = 0.25
MADE_S_MAX = 5
"""Between the answer to one node that a stream is there, and the same to all others."""

NO_JETSTREAM = "NATS has no JetStream here; start nats-server with -js, or enable it in the account"
NOTHING_MAY_GO = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "max_age": 0,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
}
"""Any other configuration would lose what was acknowledged."""


class LogStream:
    """The stream of one ring.

    Args:
        api: of JetStream.
        ring: name of the ring.
        slots: how many it has.
        replicas: servers that keep the stream.
        bytes_max: size of the stream; -1 is what NATS allows.
    """

    def __init__(
        self, api: JetStreamApi, ring: str, slots: int, replicas: int, bytes_max: int
    ) -> None:
        self.name = f"SKYRING_{ring}"
        self.subjects = f"skyring.{ring}.log.*"
        self.identity = ""
        self._api = api
        self._ring = ring
        self._slots = slots
        self._replicas = replicas
        self._bytes_max = bytes_max

    async def open(self) -> None:
        """Make it if it is missing, otherwise check it.

        Raises:
            StorageError: it can never be used, or JetStream is missing.
            Unavailable: NATS is away.
        """
        give_up_s = asyncio.get_running_loop().time() + MADE_S_MAX
        while True:
            try:
                config = await self._config()
                if config is None:
                    config = await self._create()
            except NoJetStream:
                raise StorageError(NO_JETSTREAM) from None
            if config is not None:
                self.identity = self._checked(config)
                return
            # Servers of a cluster refuse to make what another node has just asked for, and know
            # nothing of it before all have agreed on it.
            if asyncio.get_running_loop().time() >= give_up_s:
                raise Unavailable(f"the stream {self.name} is being made, and not there yet")
            await asyncio.sleep(PAUSE_S)

    async def check(self) -> None:
        """Is it still there, and the same?

        Raises:
            StorageError: it is not.
            Unavailable: NATS is away.
        """
        config = await self._config()
        if config is None:
            await asyncio.sleep(PAUSE_S)  # a node that stops for good has to be sure
            config = await self._config()
        if config is None or (config.get("metadata") or {}).get(ID_KEY) != self.identity:
            raise StorageError(
                f"NATS has come back without the log of this ring (stream {self.name}); restore its"
                " data and start this node again, or move the storage directories of all nodes"
                " away to begin with none of the timers"
            )

    async def _config(self) -> dict[str, Any] | None:
        """Its configuration; None if there is no such stream."""
        try:
            answer = await self._api.ask(f"STREAM.INFO.{self.name}")
        except JetStreamError as error:
            if error.number == NOT_FOUND:
                return None
            if error.number in NOT_ENABLED:
                raise NoJetStream(str(error)) from error
            raise Unavailable(str(error)) from error
        return _config_of(answer)

    async def _create(self) -> dict[str, Any] | None:
        """Its configuration; None if another node makes it at this very moment."""
        wanted = {
            "name": self.name,
            "description": f"logs of the Skyring ring {self._ring}",
            "subjects": [self.subjects],
            "num_replicas": self._replicas,
            "max_bytes": self._bytes_max,
            "metadata": {
                FORMAT_KEY: FORMAT,
                SLOTS_KEY: str(self._slots),
                ID_KEY: secrets.token_hex(ID_BYTES),
            },
            **NOTHING_MAY_GO,
        }
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + PEERS_S_MAX
        while True:
            try:
                answer = await self._api.ask(f"STREAM.CREATE.{self.name}", wanted)
            except JetStreamError as error:
                if error.number == NAME_IN_USE:
                    return None
                if error.number != NO_PEERS or loop.time() >= give_up_s:
                    raise self._told(error) from error
                await asyncio.sleep(PAUSE_S)
            else:
                logger.info("made the stream %s", self.name)
                return _config_of(answer)

    def _told(self, error: JetStreamError) -> StorageError | Unavailable:
        if error.number in NOT_ENABLED:
            return StorageError(NO_JETSTREAM)
        if error.number in TRY_LATER:
            return Unavailable(str(error))
        if error.number in (*NO_CLUSTER, NO_PEERS):
            return StorageError(
                f"NATS has not enough servers for ring.replicas = {self._replicas}: {error}"
            )
        return StorageError(f"the stream {self.name} cannot be used: {error}")

    def _checked(self, config: dict[str, Any]) -> str:
        """The identity of the log; raises StorageError if this program cannot use it."""
        metadata = config.get("metadata") or {}
        found, slots = metadata.get(FORMAT_KEY), metadata.get(SLOTS_KEY)
        if found is None or not metadata.get(ID_KEY):
            raise StorageError(
                f"the stream {self.name} was not made by Skyring; remove it, or give the ring"
                " another name (--ring)"
            )
        if found != FORMAT:
            raise StorageError(
                f"the ring {self._ring} has logs of format {found}, this program writes {FORMAT};"
                " use the version of Skyring that made it, or another ring (--ring)"
            )
        if slots != str(self._slots):
            raise StorageError(
                f"the ring {self._ring} has {slots} slots, this node is set to {self._slots}; start"
                f" it with --slots {slots}"
            )
        for option, value in NOTHING_MAY_GO.items():
            if config.get(option) != value:
                raise StorageError(
                    f"the stream {self.name} has been changed: {option} is {config.get(option)!r}"
                    f" and must be {value!r}, or timers would be lost"
                )
        if config.get("subjects") != [self.subjects]:
            raise StorageError(
                f"the stream {self.name} has been changed: its subjects must be {self.subjects}"
            )
        for option, value in (
            ("num_replicas", self._replicas),
            ("max_bytes", self._bytes_max),
        ):
            if config.get(option) != value:
                logger.warning(
                    "the stream %s has %s = %s, and is set to %s here; it is left as it is",
                    self.name,
                    option,
                    config.get(option),
                    value,
                )
        identity: str = metadata[ID_KEY]
        return identity


def _config_of(answer: dict[str, Any]) -> dict[str, Any]:
    config = answer.get("config")
    if not isinstance(config, dict):
        raise Unavailable("an answer of JetStream cannot be read")
    return config
