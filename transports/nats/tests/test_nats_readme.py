"""What the README says is so."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nats_peer import deliver, opened, until
from skyring.testing.nats_server import NatsServer
from skyring.transports import Outcome
from skyring_nats import Nats

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path)
    try:
        await server.start()
        yield server
    finally:
        server.kill()


def test_every_option_stands_there() -> None:
    for name, field in Nats.Options.model_fields.items():
        default = "none" if field.default is None else f"`{field.default}`"
        assert f"| `{name}` | {default} |" in README


async def test_the_receiver_works(server: NatsServer) -> None:
    match = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert match is not None
    source = match[1].replace("nats://127.0.0.1:4222", server.url)
    receiver = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stdout=PIPE)
    try:
        async with opened(server.url) as nats:

            async def is_taken() -> bool:
                assert receiver.returncode is None
                outcome = await deliver(nats, "request", "orders.created", b"hello", id="order-17")
                return outcome == Outcome.delivered()

            await until(is_taken)
        assert receiver.stdout is not None
        assert await receiver.stdout.readline() == b"order-17 hello\n"
    finally:
        if receiver.returncode is None:
            receiver.kill()
        await receiver.communicate()
