"""The tcp transport: answers, connections and their bounds, failures, certificates, the end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from skyring.errors import ConfigError
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_tcp import Tcp
from tcp_peer import (
    BIG,
    CERTIFICATE,
    DUE_MS,
    TcpPeer,
    drained,
    opened,
    packed,
    quiet,
    send,
    serving,
)

# Answers


@pytest.mark.parametrize("framing", ["length", "newline"])
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"ok", Outcome.delivered()),
        (b"", Outcome.retry("the receiver gave no answer")),
        (b" OK \r", Outcome.delivered()),
        (b"retry too busy", Outcome.retry("too busy")),
        (b"reject gone", Outcome.rejected("gone")),
        (b"okay", None),
        (b"\xff\x00", None),
        (b"ok" * 1000, Outcome.retry("the answer is longer than 1024 bytes")),
    ],
)
async def test_answers(framing: str, answer: bytes, outcome: Outcome | None) -> None:
    async with TcpPeer(framing, answer=lambda _: answer) as peer, opened(framing=framing) as tcp:
        got = await send(tcp, peer)
        if outcome is None:
            assert got.kind == "retry"
            assert got.reason.startswith("the receiver answered neither ok, retry nor reject")
        else:
            assert got == outcome


@pytest.mark.parametrize("framing", ["length", "newline"])
@pytest.mark.parametrize("bytes_sent", [0, 2])
async def test_a_connection_that_ends_before_its_answer(framing: str, bytes_sent: int) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(packed(b"ok", framing)[:bytes_sent])
        writer.close()

    async with serving(end) as uri, opened(framing=framing) as tcp:
        for _ in range(3):
            got = await send(tcp, uri)
            assert got == Outcome.retry("the receiver closed the connection before its answer")


async def test_a_receiver_that_closes_after_each_answer() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(packed(b"ok"))
        writer.close()

    async with serving(once) as uri, opened(connections_per_destination_max=2) as tcp:
        for _ in range(20):
            assert set(await asyncio.gather(*(send(tcp, uri) for _ in range(5)))) == {
                Outcome.delivered()
            }


async def test_a_connection_that_is_reset() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # what is left unread makes a reset of the end
        writer.transport.abort()

    async with serving(reset) as uri, opened() as tcp:
        got = await send(tcp, uri)
        assert got.kind == "retry"
        assert "connection" in got.reason


async def test_an_answer_before_the_whole_message_is_no_acknowledgement() -> None:
    done = asyncio.Event()

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(packed(b"ok"))
        await done.wait()
        writer.close()

    async with serving(hasty) as uri, opened() as tcp:
        got = await send(tcp, uri, BIG)
        assert got == Outcome.retry("the receiver answered before it had the whole message")
        done.set()


async def test_a_refusal_before_the_whole_message_is_one() -> None:
    done = asyncio.Event()

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(packed(b"reject too large for me"))
        await done.wait()
        writer.close()

    async with serving(hasty) as uri, opened() as tcp:
        assert await send(tcp, uri, BIG) == Outcome.rejected("too large for me")
        done.set()


async def test_what_comes_after_an_answer_is_taken_for_no_other() -> None:
    async with TcpPeer(answer=quiet) as peer, opened() as tcp:
        for number, extra in enumerate([b"", packed(b"reject no"), b"x", b""], 1):
            task = asyncio.create_task(send(tcp, peer))
            await peer.wait_until(lambda count=number: len(peer.messages) == count)  # type: ignore[misc]
            peer.links[-1].transport.write(packed(b"ok") + extra)
            assert await task == Outcome.delivered()
        assert peer.connections == 3


# The message


async def test_the_envelope() -> None:
    async with TcpPeer(content="envelope") as peer, opened(content="envelope") as tcp:
        callback = Callback("tcp", "send", peer.uri, headers={"authorization": "x"})
        info = DeliveryInfo("id-1", 2, DUE_MS, DUE_MS + 5, 20_000, "application/json")
        assert await tcp.deliver(callback, b'{"a":1}', info) == Outcome.delivered()
        assert json.loads(peer.messages[0]) == {
            "version": 1,
            "id": "id-1",
            "attempt": 2,
            "due": DUE_MS,
            "headers": {"authorization": "x"},
            "type": "application/json",
            "data": '{"a":1}',
        }


async def test_what_cannot_be_sent_is_rejected() -> None:
    async with TcpPeer() as peer:
        async with opened(message_bytes_max=10) as tcp:
            assert await send(tcp, peer, b"x" * 10) == Outcome.delivered()
            got = await send(tcp, peer, b"x" * 11)
            assert got == Outcome.rejected(
                "the message has 11 bytes, more than message_bytes_max=10"
            )
            assert (await send(tcp, "nonsense")).kind == "rejected"
        async with opened(framing="newline") as tcp:
            got = await send(tcp, peer, b"two\nlines")
            assert got.kind == "rejected"
            assert "line feed" in got.reason
        async with opened(content="envelope") as tcp:
            assert (await send(tcp, peer, b"\xff")).kind == "rejected"


async def test_a_big_message() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        assert await send(tcp, peer, BIG) == Outcome.delivered()
        assert peer.messages == [BIG]


# Without acknowledgement


async def test_without_acknowledgement_the_system_has_to_take_it() -> None:
    async with TcpPeer(answer=quiet) as peer, opened(ack="none") as tcp:
        assert await send(tcp, peer, b"first") == Outcome.delivered()
        await peer.wait_until(lambda: len(peer.messages) == 1)
        peer.links[0].transport.pause_reading()
        got = await send(tcp, peer, BIG, timeout_ms=100)
        assert got == Outcome.retry("time-out after 100 ms")
        await peer.wait_until(lambda: len(peer.messages) == 1)
        assert await send(tcp, peer, b"second") == Outcome.delivered()
        await peer.wait_until(lambda: len(peer.messages) == 2)
        await peer.kill()
        await drained(tcp)
        assert await send(tcp, peer) == Outcome.retry("connection refused")


async def test_without_acknowledgement_a_connection_that_breaks_is_told() -> None:
    async with TcpPeer(answer=quiet) as peer, opened(ack="none") as tcp:
        assert await send(tcp, peer, b"first") == Outcome.delivered()
        await peer.wait_until(lambda: len(peer.messages) == 1)
        peer.links[0].transport.pause_reading()
        task = asyncio.create_task(send(tcp, peer, BIG))
        await asyncio.sleep(0.01)
        await peer.kill()
        assert (await task).kind == "retry"


# Certificates


async def test_a_certificate_is_verified() -> None:
    async with TcpPeer(tls=True) as peer:
        async with opened() as tcp:
            got = await send(tcp, peer)
            assert got.kind == "retry"
            assert got.reason.startswith("TLS: certificate not accepted: ")
        async with opened(ca_file=str(CERTIFICATE)) as tcp:
            assert await send(tcp, peer) == Outcome.delivered()
            got = await send(tcp, f"tls://127.0.0.1:{peer.port}")
            assert got.kind == "retry"
            assert "IP address mismatch" in got.reason
    assert peer.messages == [b"hello"]


async def test_tls_to_a_receiver_that_has_none() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"what is that?\n")
        await writer.drain()
        writer.close()

    async with serving(speak) as uri, opened() as tcp:
        got = await send(tcp, uri.replace("tcp", "tls"))
        assert got.kind == "retry"
        assert got.reason.startswith("TLS: ")


async def test_a_tls_handshake_that_hangs() -> None:
    async with TcpPeer() as peer, opened(connect_timeout_ms=100) as tcp:
        await peer.pause()
        got = await send(tcp, peer.uri.replace("tcp", "tls"))
        assert got == Outcome.retry("no connection within 100 ms")
        await peer.wait_until(lambda: not peer.links)


async def test_a_file_of_certificates_that_is_none(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "missing.pem", "No such file"),
        (Path(__file__), "holds no certificates"),
        (tmp_path, "holds no|Is a directory"),
    ):
        tcp = Tcp(Tcp.Options(ca_file=str(path)))
        with pytest.raises(ConfigError, match=rf"transport\.tcp\.ca_file: .*({reason})"):
            await tcp.open()
        await tcp.close()


# The end


async def test_close_waits_for_the_deliveries_under_way() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        await peer.pause()
        under_way = asyncio.create_task(send(tcp, peer))
        await asyncio.sleep(0)
        closing = asyncio.create_task(tcp.close())
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        assert await send(tcp, peer) == Outcome.retry("the tcp transport is closed")
        await peer.resume()
        await closing
        assert await under_way == Outcome.delivered()
        await peer.wait_until(lambda: not peer.links)


async def test_a_close_that_is_cancelled_cuts_off() -> None:
    async with TcpPeer() as peer, opened() as tcp:
        await peer.pause()
        under_way = asyncio.create_task(send(tcp, peer))
        await asyncio.wait([under_way], timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await tcp.close()
        assert (await under_way).kind == "retry"
        await peer.wait_until(lambda: not peer.links)


async def test_without_open_nothing_is_delivered() -> None:
    tcp = Tcp()
    assert await send(tcp, "tcp://127.0.0.1:1") == Outcome.retry("the tcp transport is closed")
    await tcp.close()
    await tcp.close()
