"""What every transport has to do, as tests against a real peer.

    class TestPigeon(TransportContract):
        unusable = (Callback(transport="pigeon", method="send", uri="not a loft"),)

        def make(self) -> Transport:
            return Pigeon()

        @pytest.fixture
        def peer(self) -> Peer:
            return Loft()

Each test has an event loop of its own and starts the peer anew. They need pytest, but no plug-in of
it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

from skyring.clock import SystemClock
from skyring.errors import InvalidRequest
from skyring.server import Skyring
from skyring.settings import Settings
from skyring.testing.peer import WAIT_S_MAX, Peer
from skyring.timers.attempt import Attempts
from skyring.transports.base import Callback, DeliveryInfo, Outcome, Transport
from skyring.transports.loading import TransportSpec

__all__ = ["PAYLOADS", "TransportContract", "UnacknowledgedContract"]

PAYLOADS = (
    b"{}",
    b"x",
    b"",
    b"ok",
    b"two words",
    b" blanks around ",
    b"lines\nand\r\nlines\n",
    bytes(range(128)),  # with NUL and all control characters
    "\u00e4\u20ac\U0001f600\ufeff\u2028".encode(),
    b'{"a": "\\u0000", "b": [1.0, null]}',
    b"x" * 300_000,
)
"""UTF-8, as the data of all timers is."""
QUICK_TIMEOUT_MS = 300
RETRY_PAUSE_S = 0.05
DOWN_S = 0.3
"""How long a killed peer stays away in the midst of the deliveries."""


class UnacknowledgedContract:
    """For transports that send, and are not told whether it was taken.

    Of these nobody can ask that nothing be lost with the peer. The others pass
    `TransportContract`.
    """

    payloads: ClassVar[Sequence[bytes]] = PAYLOADS
    """What has to arrive exactly. Leave out only what ``deliver`` rejects."""
    unusable: ClassVar[Iterable[Callback]] = ()
    """Callbacks that ``check`` has to refuse."""
    concurrent: ClassVar[int] = 1_000
    """Deliveries at once."""
    timeout_ms: ClassVar[int] = 30_000
    """Time allowed to a delivery when nothing is amiss."""

    def make(self) -> Transport:
        """A new transport with its options, not opened."""
        raise NotImplementedError

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of each test; a node runs on uvloop's."""
        return asyncio.new_event_loop()

    # Tests

    def test_payloads_arrive_exactly_as_they_are(self, peer: Peer) -> None:
        async def run() -> None:
            async with self._opened(peer) as transport:
                for payload in self.payloads:
                    await self._delivered(transport, peer, payload)
                await self._has_exactly(peer, self.payloads)

        self._run(run)

    def test_callbacks_are_checked(self, peer: Peer) -> None:
        async def run() -> None:
            async with self._opened(peer) as transport:
                transport.check(peer.callback)
                destination = transport.destination(peer.callback)
                assert isinstance(destination, str)
                assert destination == transport.destination(peer.callback)
                for callback in self.unusable:
                    try:
                        transport.check(callback)
                        transport.destination(callback)
                    except (InvalidRequest, ValueError) as error:
                        reason = str(error)
                    else:
                        raise AssertionError(f"not refused: {callback}")
                    assert reason, f"refused without a reason: {callback}"

        self._run(run)

    def test_many_deliveries_at_once_are_safe(self, peer: Peer) -> None:
        async def run() -> None:
            payloads = _numbered(self.concurrent)
            async with self._opened(peer) as transport:
                await asyncio.gather(*(self._delivered(transport, peer, each) for each in payloads))
                await self._has_exactly(peer, payloads)

        self._run(run)

    def test_a_delivery_that_is_cancelled_harms_no_other(self, peer: Peer) -> None:
        async def run() -> None:
            payloads = _numbered(100)
            async with self._opened(peer) as transport:
                tasks = [
                    asyncio.create_task(self._attempt(transport, peer, payload))
                    for payload in payloads
                ]
                for turn in range(10):
                    await asyncio.sleep(0)
                    tasks[3 * turn].cancel()
                await asyncio.wait(tasks)
                for task in tasks:
                    assert task.cancelled() or task.result() == Outcome.delivered()
                sent = {each for each, task in zip(payloads, tasks, strict=True) if _is_done(task)}
                later = [b"later %d" % number for number in range(10)]
                for payload in later:
                    await self._delivered(transport, peer, payload)
                received = await peer.wait(lambda got: {*sent, *later} <= set(got))
                assert set(received) <= {*payloads, *later}

        self._run(run)

    def test_closing_loses_nothing_that_was_accepted(self, peer: Peer) -> None:
        async def run() -> None:
            payloads = _numbered(200)
            async with peer:
                transport = self.make()
                await transport.open()
                tasks = [
                    asyncio.create_task(self._attempt(transport, peer, payload))
                    for payload in payloads
                ]
                await asyncio.sleep(0)
                await transport.close()
                await asyncio.wait(tasks)
                after = await self._attempt(transport, peer, b"after")
                accepted = {
                    each for each, task in zip(payloads, tasks, strict=True) if _is_done(task)
                }
                if after == Outcome.delivered():  # it had nothing to close
                    accepted.add(b"after")
                await peer.wait(lambda received: accepted <= set(received))

        self._run(run)

    def test_opened_and_closed_without_a_delivery(self, peer: Peer) -> None:
        async def run() -> None:
            async with peer:
                for _ in range(3):
                    transport = self.make()
                    await transport.open()
                    await transport.close()
                    await transport.close()

        self._run(run)

    def test_two_live_side_by_side(self, peer: Peer) -> None:
        async def run() -> None:
            async with self._opened(peer) as first:
                second = self.make()
                await second.open()
                await self._delivered(first, peer, b"1")
                await self._delivered(second, peer, b"2")
                await second.close()
                await self._delivered(first, peer, b"3")
                await self._has_exactly(peer, [b"1", b"2", b"3"])

        self._run(run)

    def test_it_delivers_again_after_the_peer_was_away(self, peer: Peer) -> None:
        async def run() -> None:
            async with self._opened(peer) as transport:
                await self._delivered(transport, peer, b"before")
                await peer.kill()
                await self._attempt(transport, peer, b"nobody is there", QUICK_TIMEOUT_MS)
                await peer.start()
                async with asyncio.timeout(WAIT_S_MAX):
                    while b"after" not in await peer.received():
                        await self._attempt(transport, peer, b"after", 10 * QUICK_TIMEOUT_MS)
                        await asyncio.sleep(RETRY_PAUSE_S)

        self._run(run)

    # Helpers

    def _run(self, test: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * WAIT_S_MAX):
                await test()

        with asyncio.Runner(loop_factory=self.make_loop) as runner:
            runner.run(bounded())

    @asynccontextmanager
    async def _opened(self, peer: Peer) -> AsyncIterator[Transport]:
        async with peer:
            transport = self.make()
            await transport.open()
            try:
                yield transport
            finally:
                await transport.close()

    async def _attempt(
        self, transport: Transport, peer: Peer, payload: bytes, timeout_ms: int | None = None
    ) -> Outcome:
        """Deliver as a node does."""
        now_ms = SystemClock().now_ms()
        info = DeliveryInfo(
            id=f"timer-{hash(payload) & 0xFFFFFFFF:x}",
            attempt=1,
            due_ms=now_ms,
            started_ms=now_ms,
            timeout_ms=self.timeout_ms if timeout_ms is None else timeout_ms,
            content_type="text/plain; charset=utf-8",
        )
        return await Attempts().attempt(transport, peer.callback, payload, info)

    async def _delivered(self, transport: Transport, peer: Peer, payload: bytes) -> None:
        assert await self._attempt(transport, peer, payload) == Outcome.delivered()

    async def _delivered_in_the_end(self, transport: Transport, peer: Peer, payload: bytes) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while await self._attempt(transport, peer, payload) != Outcome.delivered():
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _has_exactly(self, peer: Peer, payloads: Sequence[bytes]) -> None:
        """All of them have come, once, and nothing else."""
        received = await peer.wait(lambda got: len(got) >= len(payloads))
        assert Counter(received) == Counter(payloads)


class TransportContract(UnacknowledgedContract):
    """For all transports that are told whether a delivery was taken."""

    deliveries: ClassVar[int] = 10_000
    """Timers that are due while the peer is killed and started again."""

    def more_transports(self) -> Sequence[TransportSpec]:
        """What a node has to load for the callbacks of the peer."""
        return [self.make()]

    def test_a_peer_that_is_gone_is_reported(self, peer: Peer) -> None:
        async def run() -> None:
            async with self._opened(peer) as transport:
                await self._delivered(transport, peer, b"before")
                await peer.kill()
                for _ in range(3):
                    outcome = await self._attempt(transport, peer, b"nobody is there", 2_000)
                    assert outcome.kind == "retry"
                    assert outcome.reason

        self._run(run)

    def test_it_opens_while_the_peer_is_gone(self, peer: Peer) -> None:
        """A node has to start without it: other timers are waiting."""

        async def run() -> None:
            async with peer:
                await peer.kill()
                transport = self.make()
                await transport.open()
                try:
                    outcome = await self._attempt(transport, peer, b"early", QUICK_TIMEOUT_MS)
                    assert outcome.kind == "retry"
                    await peer.start()
                    await self._delivered_in_the_end(transport, peer, b"then")
                finally:
                    await transport.close()

        self._run(run)

    def test_a_silent_peer_is_given_up_in_time(self, peer: Peer) -> None:
        async def run() -> None:
            async with self._opened(peer) as transport:
                await self._delivered(transport, peer, b"before")
                await peer.pause()
                # Far more than the time-out, for a busy machine; far less than for ever.
                async with asyncio.timeout(20):
                    outcome = await self._attempt(transport, peer, b"silence", QUICK_TIMEOUT_MS)
                assert outcome.kind == "retry"
                assert outcome.reason
                await peer.resume()
                await self._delivered_in_the_end(transport, peer, b"again")
                # A late answer to what was given up is not taken for one to what came later.
                later = [b"later %d" % number for number in range(20)]
                for payload in later:
                    await self._delivered(transport, peer, payload)
                await peer.wait(lambda got: {b"again", *later} <= set(got))
                await peer.pause()
                outcome = await self._attempt(transport, peer, b"silence", QUICK_TIMEOUT_MS)
                assert outcome.kind == "retry", "the answer to something else was taken"
                await peer.resume()

        self._run(run)

    def test_nothing_is_lost_when_the_peer_is_killed_and_started_again(self, peer: Peer) -> None:
        async def run() -> None:
            wanted = {b"timer %d" % number for number in range(self.deliveries)}
            settings = Settings.model_validate(
                {
                    "storage": {"backend": "memory"},
                    "delivery": {"timeout_ms": 3_000},
                    "retry": {"attempts": 1_000, "backoff_ms": 50, "max_ms": 1_000},
                }
            )
            async with peer, Skyring(settings, transports=self.more_transports()) as sky:
                for data in wanted:
                    await sky.timers.create(timeout=1, data=data.decode(), callback=peer.callback)
                await peer.wait(lambda received: len(set(received)) > self.deliveries // 4)
                await peer.kill()
                await asyncio.sleep(DOWN_S)
                await peer.start()
                await peer.wait(lambda received: wanted <= set(received))
                async with asyncio.timeout(WAIT_S_MAX):
                    while (await sky.timers.list(limit=1)).timers:
                        await asyncio.sleep(RETRY_PAUSE_S)
                assert (await sky.timers.dead_letters()).timers == []
                assert set(await peer.received()) == wanted

        self._run(run)


def _numbered(count: int) -> list[bytes]:
    return [b"payload %d" % number for number in range(count)]


def _is_done(task: asyncio.Task[Outcome]) -> bool:
    return not task.cancelled() and task.result() == Outcome.delivered()
