"""Who connects, what it may, and TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nats_jwt import new_key, write_credentials
from nats_peer import deliver, delivered_in_the_end, opened
from skyring.testing.nats_server import NatsServer
from skyring.transports import Outcome

PEM = Path(__file__).with_name("nats_localhost.pem")
TLS = f'tls {{ cert_file: "{PEM}", key_file: "{PEM}" }}'
Run = Callable[..., NatsServer]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[[str], NatsServer]]:
    servers: list[NatsServer] = []

    def make(config: str) -> NatsServer:
        servers.append(NatsServer(tmp_path, config, jetstream=False))
        return servers[-1]

    try:
        yield make
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize(
    ("config", "right", "wrong"),
    [
        (
            'authorization { user: "ann", password: "s3cret" }',
            {"user": "ann", "password": "s3cret"},
            {"user": "ann", "password": "s3cret?"},
        ),
        ('authorization { token: "s3cret" }', {"token": "s3cret"}, {"token": "s3cret?"}),
        ('authorization { token: "s3cret" }', {"token": "s3cret"}, {}),
    ],
)
async def test_passwords_and_tokens(
    serve: Run,
    caplog: pytest.LogCaptureFixture,
    config: str,
    right: dict[str, str],
    wrong: dict[str, str],
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(config)
    await server.start()
    async with opened(server.url, **right) as nats:
        assert await deliver(nats) == Outcome.delivered()
    async with opened(server.url, **wrong, reconnect_pause_ms=1) as nats:
        outcome = await deliver(nats)
        assert outcome.kind == "retry"
        assert "no connection to NATS" in outcome.reason
        assert "Authorization Violation" in outcome.reason
        assert "s3cret" not in outcome.reason
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "Authorization Violation" in warnings[0].getMessage()
    assert "s3cret" not in caplog.text


async def test_an_nkey(serve: Run, tmp_path: Path) -> None:
    key, path = new_key(), tmp_path / "seed"
    path.write_bytes(key.seed + b"\n")
    server = serve(f"authorization {{ users = [ {{ nkey: {key.public} }} ] }}")
    await server.start()
    async with opened(server.url, nkey_seed_file=path) as nats:
        assert await deliver(nats) == Outcome.delivered()
        path.write_bytes(new_key().seed)
    async with opened(server.url, nkey_seed_file=path) as nats:
        assert "Authorization Violation" in (await deliver(nats)).reason


async def test_a_credentials_file(serve: Run, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    server = serve(write_credentials(path))
    await server.start()
    async with opened(server.url, credentials_file=path) as nats:
        assert await deliver(nats) == Outcome.delivered()
    write_credentials(path)
    async with opened(server.url, credentials_file=path) as nats:
        assert "Authorization Violation" in (await deliver(nats)).reason


def user_with(permissions: str) -> str:
    user = f"user: a, password: b, permissions: {{ {permissions} }}"
    return f"authorization {{ users: [ {{ {user} }} ] }}"


async def test_permissions_to_publish(serve: Run) -> None:
    server = serve(user_with('publish: ["allowed", "_INBOX.>"], subscribe: ">"'))
    await server.start()
    async with opened(server.url, user="a", password="b") as nats:
        for method in ("publish", "request", "jetstream"):
            for subject in ("Denied.Here", "denied'\"\\<&"):
                outcome = await deliver(nats, method, subject)
                reason = f"the server does not permit to publish to {subject}"
                assert outcome == Outcome.retry(reason)
        outcomes = await asyncio.gather(
            *(deliver(nats, "publish", subject) for subject in ("denied", "allowed") * 50)
        )
        assert [outcome.kind for outcome in outcomes] == ["retry", "delivered"] * 50


async def test_permission_to_get_replies(serve: Run) -> None:
    server = serve(user_with('publish: ">", subscribe: "mine.>"'))
    await server.start()
    async with opened(server.url, user="a", password="b") as nats:
        for method in ("request", "jetstream"):
            outcome = await deliver(nats, method)
            assert outcome.kind == "retry"
            assert "does not permit to get replies" in outcome.reason
        assert await deliver(nats, "publish") == Outcome.delivered()
    async with opened(server.url, user="a", password="b", inbox_prefix="mine.replies") as nats:
        assert "no responders" in (await deliver(nats, "request")).reason


# TLS


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_tls(serve: Run, scheme: str) -> None:
    server = serve(TLS)
    await server.start()
    url = f"{scheme}://localhost:{server.port}"
    async with opened(url, ca_file=PEM) as nats:
        await delivered_in_the_end(nats)
        server.kill()
        assert (await deliver(nats)).kind == "retry"
        await server.start()
        await delivered_in_the_end(nats)
    async with opened(url) as nats:
        outcome = await deliver(nats)
        assert outcome.kind == "retry"
        assert "certificate verify failed" in outcome.reason


@pytest.mark.parametrize("options", [{}, {"ca_file": PEM}])
async def test_a_server_without_tls_is_told_nothing(options: dict[str, Path]) -> None:
    heard = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload": 1000, "headers": true, "auth_required": true}\r\n')
        while data := await reader.read(1_000):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        scheme = "nats" if options else "tls"
        url = f"{scheme}://127.0.0.1:{port}"
        async with opened(url, user="ann", password="s3cret", **options) as nats:
            outcome = await deliver(nats)
            assert "does not ask for TLS" in outcome.reason
        assert not heard
