"""The link to NATS: what is listened to, asked and sent over one connection after the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from skyring.errors import ConfigError, TooLarge, Unavailable, Uncertain
from skyring.nats import Link, Message, Received, Session, make_link
from skyring.ports import free_port
from skyring.settings import NatsSettings
from skyring.testing.nats_server import NatsServer
from skyring.testing.proxy import Proxy
from tests.contract.nats_links import WAIT_S_MAX, Watch, link_to, linked

MAX_PAYLOAD = 100_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, f"max_payload: {MAX_PAYLOAD}", jetstream=False) as server:
        yield server


@pytest.fixture
async def link(server: NatsServer) -> AsyncIterator[Link]:
    async with linked(server.url) as link:
        yield link


class Ear:
    """Collects what a subscription gets."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._changed = asyncio.Event()

    def take(self, received: Received) -> None:
        self.received.append(received)
        self._changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while not reached():
                self._changed.clear()
                await self._changed.wait()


async def settled(link: Link) -> None:
    """The server has read all that was sent, and what it sent before has been taken."""
    assert link.session is not None
    await link.session.publish(Message("settled", b""))


# Requests


async def test_a_request_and_its_reply(link: Link) -> None:
    def answer(received: Received) -> None:
        reply = f"{received.headers['k']} {received.subject}".encode()
        link.send(Message(received.reply, reply, {"r": "1"}))

    link.subscribe("ask.*", answer)
    reply = await link.request(Message("ask.me", b"x", {"k": "v"}), 5_000)
    assert (reply.data, reply.headers) == (b"v ask.me", {"r": "1"})
    assert not reply.is_no_responders


async def test_many_requests_at_once_each_get_their_own_reply(link: Link) -> None:
    seen: set[str] = set()

    def answer(received: Received) -> None:
        seen.add(received.reply)
        link.send(Message(received.reply, received.data * 2))

    link.subscribe("ask", answer)
    replies = await asyncio.gather(
        *(link.request(Message("ask", b"%d;" % n), 20_000) for n in range(3_000))
    )
    assert [reply.data for reply in replies] == [b"%d;%d;" % (n, n) for n in range(3_000)]
    assert len(seen) == 3_000


async def test_nobody_listens(link: Link) -> None:
    assert (await link.request(Message("nobody", b""), 5_000)).is_no_responders


async def test_a_request_without_a_connection_was_not_sent() -> None:
    async with linked(f"nats://127.0.0.1:{free_port()}") as link:
        with pytest.raises(Unavailable, match="connection refused") as raised:
            await link.request(Message("a", b""), 5_000)
        assert not isinstance(raised.value, Uncertain)
        with pytest.raises(Unavailable, match="connection refused"):
            link.send(Message("a", b""))


async def test_a_request_that_is_not_answered_is_uncertain(link: Link) -> None:
    ear = Ear()
    link.subscribe("silent", ear.take)
    with pytest.raises(Uncertain, match="no answer within 60 ms"):
        await link.request(Message("silent", b""), 60)
    (received,) = ear.received
    link.send(Message(received.reply, b"too late"))
    await settled(link)
    assert link.session is not None
    assert not link.session._by_address


async def test_a_stall_of_this_process_is_no_silence_of_the_server(link: Link) -> None:
    asking = asyncio.create_task(link.request(Message("nobody", b""), 200))
    for _ in range(3):
        await asyncio.sleep(0)  # it is written
    time.sleep(0.5)  # noqa: ASYNC251  # a stall
    assert (await asking).is_no_responders


async def test_a_request_under_way_when_the_connection_is_lost_is_uncertain(
    server: NatsServer,
) -> None:
    async with Proxy(server.port) as proxy, linked(proxy.url) as link:
        ear = Ear()
        link.subscribe("silent", ear.take)
        asking = asyncio.create_task(link.request(Message("silent", b""), 60_000))
        await ear.until(lambda: bool(ear.received))
        proxy.cut()
        with pytest.raises(Uncertain, match="lost"):
            await asking


async def test_a_request_that_found_no_room_was_not_sent(server: NatsServer) -> None:
    async with linked(server.url, pending_bytes_max=1_024, echo_timeout_ms=60_000) as link:
        await server.pause()
        try:
            ends = await asyncio.gather(
                *(link.request(Message("a", b"x" * 90_000), 200) for _ in range(200)),
                return_exceptions=True,
            )
        finally:
            server.resume()
        kinds = {type(end) for end in ends}
        assert kinds == {Uncertain, Unavailable}
        assert isinstance(ends[-1], Unavailable)
        assert not isinstance(ends[-1], Uncertain)
        assert link.session is not None
        assert not link.session._queue
        assert not link.session._by_address


async def test_a_caller_that_goes_away_leaves_nothing_behind(link: Link) -> None:
    link.subscribe("silent", lambda received: None)
    asking = asyncio.create_task(link.request(Message("silent", b""), 60_000))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert link.session is not None
    assert not link.session._by_address


async def test_what_is_too_large_is_not_sent(link: Link) -> None:
    ear = Ear()
    link.subscribe("a", ear.take)
    link.send(Message("a", b"x" * MAX_PAYLOAD))
    with pytest.raises(TooLarge, match=str(MAX_PAYLOAD)):
        link.send(Message("a", b"x" * MAX_PAYLOAD, {"k": ""}))
    with pytest.raises(TooLarge, match=str(MAX_PAYLOAD)):
        await link.request(Message("a", b"x" * (MAX_PAYLOAD + 1)), 5_000)
    await settled(link)
    assert [len(received.data) for received in ear.received] == [MAX_PAYLOAD]


async def test_what_waits_to_be_sent_is_bounded(server: NatsServer) -> None:
    async with linked(server.url, pending_bytes_max=200_000, echo_timeout_ms=60_000) as link:
        await server.pause()
        try:

            async def flood() -> None:
                for _ in range(2_000):
                    link.send(Message("a", b"x" * 50_000))
                    await asyncio.sleep(0)

            with pytest.raises(Unavailable, match="too much is waiting"):
                await flood()
            assert link.session is not None
            assert link.session._connection.unsent_bytes < 300_000
        finally:
            server.resume()
        async with asyncio.timeout(WAIT_S_MAX):
            await settled(link)
        link.send(Message("a", b"x"))


# Subscriptions


async def test_messages_come_in_order_as_they_are(link: Link) -> None:
    ear = Ear()
    link.subscribe("a.>", ear.take)
    for number in range(500):
        link.send(Message(f"a.{number}", b"%d" % number), "re" if number % 2 else "")
    await settled(link)
    assert [received.data for received in ear.received] == [b"%d" % n for n in range(500)]
    assert [received.reply for received in ear.received[:3]] == ["", "re", ""]
    assert ear.received[7].subject == "a.7"


async def test_a_subscription_is_kept_over_connections(server: NatsServer) -> None:
    async with linked(server.url) as link:
        ear, watch, ended = Ear(), Watch(link), Ear()
        link.subscribe("a", ear.take)
        subscription = link.subscribe("a", ended.take)
        subscription.end()
        subscription.end()
        for number in range(3):
            link.send(Message("a", b"%d" % number))
            await ear.until(lambda: len(ear.received) == len(watch.events) // 2 + 1)
            server.kill()
            await watch.disconnected()
            await server.start()
            await watch.connected()
        assert [received.data for received in ear.received] == [b"0", b"1", b"2"]
        assert watch.events == ["up", *["down", "up"] * 3]
        assert ended.received == []


async def test_nothing_comes_after_the_end_of_a_subscription(link: Link) -> None:
    ear = Ear()

    def take(received: Received) -> None:
        ear.take(received)
        if len(ear.received) == 5:
            subscription.end()

    subscription = link.subscribe("a", take)
    for _ in range(50):
        link.send(Message("a", b""))
    await settled(link)
    assert len(ear.received) == 5


async def test_what_was_on_its_way_comes_before_a_subscription_is_drained(link: Link) -> None:
    ear = Ear()
    subscription = link.subscribe("a", ear.take)
    for _ in range(50):
        link.send(Message("a", b""))
    await subscription.drain()
    assert len(ear.received) == 50
    link.send(Message("a", b""))
    await settled(link)
    assert len(ear.received) == 50
    await subscription.drain()


async def test_a_subscription_that_loses_its_connection_says_so_when_it_is_drained(
    server: NatsServer, link: Link
) -> None:
    subscription = link.subscribe("a", Ear().take)
    await server.pause()
    draining = asyncio.create_task(subscription.drain())
    await asyncio.sleep(0)
    server.kill()
    with pytest.raises(Unavailable):
        await draining


async def test_one_of_a_queue_gets_each_message(server: NatsServer, link: Link) -> None:
    async with linked(server.url) as other:
        ears = [Ear(), Ear()]
        for each, ear in zip((link, other), ears, strict=True):
            each.subscribe("a", ear.take, "workers")
            await settled(each)
        for number in range(200):
            link.send(Message("a", b"%d" % number))
        for each in (link, other, link, other):
            await settled(each)
        await ears[0].until(lambda: sum(len(ear.received) for ear in ears) == 200)
        assert all(ear.received for ear in ears)


async def test_a_receiver_that_fails_costs_nothing_but_its_message(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()

    def fail(received: Received) -> None:
        raise KeyError(received.data)

    failing = link.subscribe("a", fail)
    link.subscribe("a", ear.take)
    for _ in range(30):
        link.send(Message("a", b""))
    await settled(link)
    assert failing.failures == len(ear.received) == 30
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 10, "a flood of such messages is no flood of the log"
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(("subject", "queue"), [("", ""), ("a b", ""), ("a", "b c"), ("a\r\n", "")])
async def test_subjects_that_cannot_be_listened_to(link: Link, subject: str, queue: str) -> None:
    with pytest.raises(ValueError, match="white space"):
        link.subscribe(subject, lambda received: None, queue)


async def test_a_subscription_that_is_not_permitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = 'user: a, password: b, permissions: { publish: ">", subscribe: ["_INBOX.>", "ok"] }'
    config = f"authorization {{ users: [ {{ {user} }} ] }}"
    async with (
        NatsServer(tmp_path, config, jetstream=False) as server,
        linked(server.url, user="a", password="b") as link,
    ):
        ear = Ear()
        denied = link.subscribe("Denied.Here", ear.take)
        link.subscribe("ok", ear.take)
        link.send(Message("ok", b"1"))
        await settled(link)
        assert len(ear.received) == 1, "the connection is as good as before"
        assert denied.refused is not None
        assert "NATS does not permit to listen on Denied.Here" in caplog.text
        assert (await link.request(Message("nobody", b""), 5_000)).is_no_responders


# TLS


TLS = Path(__file__).parent / "localhost.pem"
WITH_TLS = f'tls {{ cert_file: "{TLS}", key_file: "{TLS}" }}'


async def test_the_end_of_a_connection_with_tls_leaves_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        NatsServer(tmp_path, WITH_TLS, jetstream=False) as server,
        linked(f"tls://localhost:{server.port}", ca_file=TLS) as link,
    ):
        watch = Watch(link)
        assert (await link.request(Message("nobody", b""), 5_000)).is_no_responders
        server.kill()
        await watch.disconnected()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_wrong_credentials_are_told_in_plain_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = f"authorization {{ user: a, password: b }}\n{WITH_TLS}"
    url = "tls://localhost"
    async with (
        NatsServer(tmp_path, config, jetstream=False) as server,
        linked(f"{url}:{server.port}", ca_file=TLS, user="a", password="s3cret") as link,
    ):
        assert link.session is None
        assert "does not accept the credentials (Authorization Violation)" in link.reason
    assert "s3cret" not in caplog.text
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# Watching


async def test_a_watch_that_begins_late_is_told_of_the_connection(link: Link) -> None:
    assert Watch(link).events == ["up"]


async def test_subscriptions_are_in_force_when_a_connection_is_announced(
    server: NatsServer,
) -> None:
    link, ear = link_to(server.url), Ear()
    link.subscribe("a", ear.take)

    def up(session: Session) -> None:
        session.send(Message("a", b"from up"))

    link.watch(up, lambda reason: None)
    await link.start()
    try:
        await ear.until(lambda: bool(ear.received))
    finally:
        await link.stop()


async def test_watchers_that_fail_do_no_harm(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    link = link_to(server.url)

    def fail(anything: object) -> None:
        raise KeyError("watcher")

    link.watch(fail, fail)
    watch = Watch(link)
    await link.start()
    await watch.connected()
    await link.stop()
    assert watch.events == ["up", "down"]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    with pytest.raises(Unavailable, match="stopping"):
        link.send(Message("a", b""))
    await link.stop()


# Settings


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "rubbish").write_text("s3cret")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"servers": ()}, r"nats\.servers: 1 to 100"),
        ({"servers": ("http://a",)}, r"nats\.servers: 'http://a' does not begin"),
        ({"user": "ann"}, r"nats: user and password go together"),
        ({"token": "s3cret", "user": "a", "password": "s3cret"}, r"nats: user and token exclude"),
        ({"ca_file": "none"}, r"nats\.ca_file: .*none: No such file"),
        ({"ca_file": "rubbish"}, r"nats\.ca_file: .*no certificates"),
        ({"credentials_file": "rubbish"}, r"nats\.credentials_file: .* does not hold"),
        ({"nkey_seed_file": "rubbish"}, r"nats\.nkey_seed_file: .* does not hold"),
    ],
)
def test_settings_that_can_never_work(files: Path, given: dict[str, Any], text: str) -> None:
    settings = {"servers": ("127.0.0.1",), **given}
    for name in ("ca_file", "credentials_file", "nkey_seed_file"):
        if name in given:
            settings[name] = files / given[name]
    with pytest.raises(ConfigError, match=text) as raised:
        make_link(NatsSettings.model_validate(settings), "test")
    assert "s3cret" not in str(raised.value)


async def test_a_server_may_be_named_by_host_and_port_alone(server: NatsServer) -> None:
    async with linked(f"127.0.0.1:{server.port}") as link:
        assert link.session is not None
        assert link.session.payload_bytes_max == MAX_PAYLOAD
