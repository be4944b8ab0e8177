"""The bus contract, over the implementation in memory and over a real nats-server."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from skyring.errors import TooLarge, Unavailable, Uncertain
from skyring.nats.jetstream import JetStreamApi
from skyring.nats.making import make_link
from skyring.nats.message import Message, Reply
from skyring.ring.bus import Answer, Bus, NobodyThere
from skyring.ring.memory_bus import MemoryBus, MemoryNetwork
from skyring.ring.nats_bus import NatsBus
from skyring.settings import NatsSettings
from skyring.testing.nats_server import NatsServer

WAIT_S_MAX = 20


class Ear:
    """Notes what a bus tells, and answers."""

    def __init__(self) -> None:
        self.announcements: list[bytes] = []
        self.questions: list[bytes] = []
        self.is_connected = False
        self.reply: Callable[[bytes], bytes | None] = lambda question: b"re:" + question
        self._changed = asyncio.Event()

    def heard(self, announcement: bytes) -> None:
        self.announcements.append(announcement)
        self._changed.set()

    def asked(self, question: bytes, answer: Answer) -> None:
        self.questions.append(question)
        reply = self.reply(question)
        if reply is not None:
            answer(reply)
        self._changed.set()

    def connected(self) -> None:
        self.is_connected = True
        self._changed.set()

    def disconnected(self, reason: str) -> None:
        self.is_connected = False
        self._changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while not reached():
                self._changed.clear()
                await self._changed.wait()


class Medium(ABC):
    """What the buses of one ring share."""

    def __init__(self) -> None:
        self._opened: list[Bus] = []

    async def join(self, node: str) -> tuple[Bus, Ear]:
        """A node that hears, and is heard."""
        bus, ear = self.make(), Ear()
        self._opened.append(bus)
        await bus.open(node, ear)
        await ear.until(lambda: ear.is_connected)
        bus.serve()
        await bus.announcements()  # what was said before this is answered has been taken note of
        return bus, ear

    async def end(self) -> None:
        for bus in self._opened:
            await bus.close()
            await bus.close()

    @abstractmethod
    def make(self) -> Bus: ...

    @abstractmethod
    async def lose(self) -> None:
        """Nobody has a connection any more."""

    @abstractmethod
    async def restore(self) -> None:
        """The connections come back, and what was kept is gone."""


class MemoryMedium(Medium):
    def __init__(self) -> None:
        super().__init__()
        self.network = MemoryNetwork()

    def make(self) -> Bus:
        return MemoryBus(self.network)

    async def lose(self) -> None:
        for bus in self.network.buses:
            bus.disconnect()

    async def restore(self) -> None:
        self.network.kept.clear()
        for bus in self.network.buses:
            bus.connect()


class NatsMedium(Medium):
    def __init__(self, server: NatsServer) -> None:
        super().__init__()
        self.server = server

    def make(self) -> Bus:
        settings = NatsSettings(servers=(self.server.url,), reconnect_pause_ms=10)
        return NatsBus(make_link(settings, "test"), "test", 1, 5_000)

    async def lose(self) -> None:
        self.server.kill()

    async def restore(self) -> None:
        self.server.erase()
        await self.server.start()


@pytest.fixture(params=["memory", "nats"])
async def medium(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Medium]:
    if request.param == "memory":
        yield MemoryMedium()
        return
    server = NatsServer(tmp_path)
    await server.start()
    made = NatsMedium(server)
    try:
        yield made
    finally:
        await made.end()
        server.kill()


async def test_an_announcement_is_heard_by_all_and_kept_for_newcomers(medium: Medium) -> None:
    a, a_ear = await medium.join("a")
    b, b_ear = await medium.join("b")
    assert await a.announcements() == []
    await a.announce(b"a1", 5_000)
    await b.announce(b"b1", 5_000)
    await a.announce(b"a2", 5_000)
    await b_ear.until(lambda: b_ear.announcements == [b"a1", b"b1", b"a2"])
    await a_ear.until(lambda: a_ear.announcements == [b"a1", b"b1", b"a2"])
    c, _ = await medium.join("c")
    assert sorted(await c.announcements()) == [b"a2", b"b1"]


async def test_a_question_is_answered_by_the_one_who_is_asked(medium: Medium) -> None:
    a, a_ear = await medium.join("a")
    _, b_ear = await medium.join("b")
    assert await a.ask("b", b"how?", 5_000) == b"re:how?"
    assert await a.ask("a", b"me?", 5_000) == b"re:me?"
    assert (a_ear.questions, b_ear.questions) == ([b"me?"], [b"how?"])


async def test_many_questions_at_once_get_their_own_answers(medium: Medium) -> None:
    a, _ = await medium.join("a")
    await medium.join("b")
    answers = await asyncio.gather(*(a.ask("b", b"%d" % number, 5_000) for number in range(500)))
    assert answers == [b"re:%d" % number for number in range(500)]


async def test_who_does_not_answer_is_not_waited_for_for_ever(medium: Medium) -> None:
    a, _ = await medium.join("a")
    _, ear = await medium.join("b")
    ear.reply = lambda question: None
    with pytest.raises(Uncertain):
        await a.ask("b", b"?", 200)
    assert ear.questions == [b"?"]


async def test_nobody_of_that_name(medium: Medium) -> None:
    a, _ = await medium.join("a")
    with pytest.raises(NobodyThere):
        await a.ask("nobody", b"?", 5_000)
    silent, ear = medium.make(), Ear()
    await silent.open("shy", ear)
    try:
        with pytest.raises(NobodyThere):
            await a.ask("shy", b"?", 5_000)  # it does not serve yet
    finally:
        await silent.close()


async def test_what_is_too_long_is_refused_before_it_is_sent(medium: Medium) -> None:
    a, _ = await medium.join("a")
    _, ear = await medium.join("b")
    with pytest.raises(TooLarge):
        await a.ask("b", b"x" * (a.payload_bytes_max + 1), 5_000)
    assert len(await a.ask("b", b"x" * (a.payload_bytes_max - 10), 5_000)) > 1_000
    assert len(ear.questions) == 1


async def test_without_a_connection_nothing_is_said(medium: Medium) -> None:
    a, a_ear = await medium.join("a")
    b, b_ear = await medium.join("b")
    await a.announce(b"before", 5_000)
    assert a.is_up
    await medium.lose()
    await a_ear.until(lambda: not a_ear.is_connected)
    await b_ear.until(lambda: not b_ear.is_connected)
    assert not a.is_up
    calls: list[Callable[[], Any]] = [
        lambda: a.announce(b"x", 200),
        lambda: a.announcements(),
        lambda: a.ask("b", b"?", 200),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await call()
    a.emit("kind", b"{}")  # is dropped
    await medium.restore()
    await a_ear.until(lambda: a_ear.is_connected)
    await b_ear.until(lambda: b_ear.is_connected)
    assert await b.announcements() == []
    await a.announce(b"after", 5_000)
    await b_ear.until(lambda: b_ear.announcements[-1] == b"after")
    assert await b.announcements() == [b"after"]
    assert await b.ask("a", b"back?", 5_000) == b"re:back?"


async def test_one_that_takes_no_more_questions_answers_those_that_were_on_their_way(
    medium: Medium,
) -> None:
    a, _ = await medium.join("a")
    b, b_ear = await medium.join("b")
    asked = [asyncio.create_task(a.ask("b", b"%d" % number, 5_000)) for number in range(500)]
    await b_ear.until(lambda: bool(b_ear.questions))
    await b.drain()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    heard = [answer for answer in answers if not isinstance(answer, NobodyThere)]
    assert heard == [b"re:%d" % number for number in range(len(heard))]
    assert len(heard) == len(b_ear.questions)
    with pytest.raises(NobodyThere):
        await a.ask("b", b"?", 5_000)
    await b.announce(b"left", 5_000)
    assert await b.ask("a", b"?", 5_000) == b"re:?", "it can still ask"
    await b.drain()


async def test_one_that_has_closed_is_not_there(medium: Medium) -> None:
    a, _ = await medium.join("a")
    b, _ = await medium.join("b")
    await b.close()

    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            try:
                await a.ask("b", b"?", 5_000)
            except NobodyThere:
                break
            except Uncertain:
                continue  # the server notices a closed connection by and by
    with pytest.raises(Unavailable):
        await b.ask("a", b"?", 200)


async def test_events_are_heard_outside_the_ring(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.start()
    medium = NatsMedium(server)
    try:
        a, _ = await medium.join("a")
        link = make_link(NatsSettings(servers=(server.url,)), "outside")
        heard: list[tuple[str, bytes]] = []
        done = asyncio.Event()

        def note(received: Any) -> None:
            heard.append((received.subject, received.data))
            done.set()

        link.subscribe("skyring.test.events.>", note)
        await link.start()
        try:
            a.emit("claim", b"{}")
            async with asyncio.timeout(WAIT_S_MAX):
                await done.wait()
        finally:
            await link.stop()
        assert heard == [("skyring.test.events.claim", b"{}")]
    finally:
        await medium.end()
        server.kill()


# What JetStream says when announcements are read


class ScriptedLink:
    """Answers the questions to JetStream; it has no connection."""

    session = None

    def __init__(self, **answers: dict[str, Any]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def request(self, message: Message, timeout_ms: int) -> Reply:
        what = "_".join(message.subject.split(".")[2:-1])
        self.asked.append(what)
        return Reply(json.dumps(self._answers.get(what, {})).encode())


NO_LEADER = {"error": {"code": 503, "err_code": 10008, "description": "temporarily unavailable"}}
NO_STREAM = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
NO_MESSAGE = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
SUBJECTS = {"state": {"subjects": {"skyring.test.gossip.a": 1}}}


@pytest.mark.parametrize(
    "answers",
    [
        {"STREAM_INFO": NO_LEADER},
        {"STREAM_INFO": NO_STREAM},
        {"STREAM_INFO": SUBJECTS, "STREAM_MSG_GET": NO_LEADER},
        {"STREAM_INFO": SUBJECTS, "STREAM_MSG_GET": NO_STREAM},
    ],
)
async def test_an_error_is_not_taken_for_nobody(answers: dict[str, Any]) -> None:
    link: Any = ScriptedLink(**answers)
    with pytest.raises(Unavailable, match=r"temporarily unavailable|stream not found"):
        await NatsBus(link, "test", 3, 1_000).announcements()
    assert link.asked[0] == "STREAM_CREATE"


async def test_an_announcement_that_is_just_being_replaced_is_none() -> None:
    link: Any = ScriptedLink(STREAM_INFO=SUBJECTS, STREAM_MSG_GET=NO_MESSAGE)
    assert await NatsBus(link, "test", 3, 1_000).announcements() == []


async def test_announcements_whose_stream_was_deleted_cannot_be_read(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.start()
    medium = NatsMedium(server)
    try:
        a, _ = await medium.join("a")
        b, _ = await medium.join("b")
        await a.announce(b"a1", 5_000)
        assert await b.announcements() == [b"a1"]
        link = make_link(NatsSettings(servers=(server.url,)), "outside")
        await link.start()
        try:
            await JetStreamApi(link, 5_000).ask("STREAM.DELETE.SKYRING-GOSSIP_test")
        finally:
            await link.stop()
        with pytest.raises(Unavailable):
            await b.announcements()
    finally:
        await medium.end()
        server.kill()
