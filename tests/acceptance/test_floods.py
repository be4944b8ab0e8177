"""Connections that send without end are cut off, and the others are served."""

from __future__ import annotations

import asyncio

import httpx

from skyring.bench.process import ServerProcess


async def test_trailers_without_end(server: ServerProcess, api: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"POST /timer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    sent = 0
    try:
        while sent < 1_000_000 and not reader.at_eof():
            writer.write(b"a: b\r\n" * 100)
            await writer.drain()
            sent += 100
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        answer = b""
    assert sent < 1_000_000
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")
    writer.close()
    assert (await api.get("/ping")).status_code == 200


async def test_a_few_trailers_are_fine(server: ServerProcess) -> None:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    body = b'{"timeout": 0}'
    writer.write(
        b"POST /timer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\na: b\r\nc: d\r\n\r\n" % (len(body), body)
    )
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"x-skyring-reason: callback: is required" in answer
    writer.close()
