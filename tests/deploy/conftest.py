"""Servers that several tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.deploy.shipped import ShippedNats


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShippedNats]:
    made = ShippedNats(tmp_path_factory.mktemp("nats"))
    asyncio.run(made.start())
    yield made
    made.kill()
