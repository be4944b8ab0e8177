"""Who is let in by the servers of ``deploy/nats``, and who is not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error

from skyring.ports import free_port
from skyring.testing.nats_server import NatsServer
from tests.deploy.shipped import HOST, ShippedNats

WAIT_S_MAX = 30


async def test_the_system_user_sees_all_servers(cluster: ShippedNats) -> None:
    async with cluster.client("system") as (client, _):
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.publish("$SYS.REQ.SERVER.PING", b"", reply=inbox)
        names = set()
        for _ in range(3):
            answer = await answers.next_msg(timeout=WAIT_S_MAX)
            names.add(json.loads(answer.data)["server"]["name"])
        assert names == {"nats-1", "nats-2", "nats-3"}


@pytest.mark.parametrize(
    "given",
    [
        {"password": "wrong"},
        {"password": ""},
        {"user": "nobody"},
        {"user": "system"},
        {"user": None, "password": None},
        {"user": None, "password": None, "token": "secret"},
    ],
)
async def test_who_has_no_password_is_not_let_in(
    cluster: ShippedNats, given: dict[str, Any]
) -> None:
    with pytest.raises(Error, match="Authorization Violation"):
        async with cluster.client("node", **given):
            pytest.fail("it was let in")


async def test_nobody_is_let_in_without_tls(cluster: ShippedNats) -> None:
    reader, writer = await asyncio.open_connection(HOST, cluster.servers[0].port)
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            told = json.loads((await reader.readline()).removeprefix(b"INFO "))
            assert told["tls_required"] is True
            login = {"user": "node", "pass": cluster.passwords["node"], "verbose": False}
            writer.write(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
            assert b"PONG" not in await reader.read(-1)
    finally:
        writer.close()


@pytest.mark.parametrize("shown", ["the certificate of a client", "no certificate"])
async def test_no_stranger_joins_the_cluster(
    cluster: ShippedNats, tmp_path: Path, shown: str
) -> None:
    first, client = cluster.servers[0], cluster.made / "certificates" / "clients" / "stranger"
    files = f'cert_file: "{client}.pem", key_file: "{client}.key", ca_file: "{cluster.ca_file}"'
    config = f"""
        cluster {{
          name: skyring
          listen: "{HOST}:{free_port()}"
          routes: ["nats://localhost:{first.route_port}"]
          {f"tls {{ {files} }}" if shown != "no certificate" else ""}
        }}
    """
    refusal = {"no certificate": "TLS Handshake"}.get(shown, "Authentication") + " Failure"
    seen = len(first.log_lines(refusal))

    async def is_refused() -> bool:
        return len(first.log_lines(refusal)) > seen

    async with NatsServer(tmp_path, config, jetstream=False, name="stranger") as stranger:
        await stranger.until(is_refused)
        routes = (await first.monitoring("/routez"))["routes"]
        assert {route["remote_name"] for route in routes} == {"nats-2", "nats-3"}
