"""The real process and a real receiver."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyring.bench import process
from skyring.bench.process import ServerProcess
from tests.acceptance.receiver import CallbackReceiver


@pytest.fixture(autouse=True)
def _no_server_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Not even when the test fails between start and stop."""
    started: list[subprocess.Popen[bytes]] = []
    start = process._popen

    def noted(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(process, "_popen", noted)
    yield
    for each in started:
        if each.poll() is None:
            each.kill()
            each.wait()


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture
async def receiver() -> AsyncIterator[CallbackReceiver]:
    async with CallbackReceiver() as made:
        yield made


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with ServerProcess(tmp_path) as made:
        yield made
        assert "Traceback" not in made.log


@pytest.fixture
async def api(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as made:
        yield made
