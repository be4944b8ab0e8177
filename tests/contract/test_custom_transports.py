"""The transport contract, with transports as users write them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from skyring import Settings, Skyring
from skyring.clock import ManualClock
from skyring.errors import ConfigError, InvalidRequest, TransportError
from skyring.testing import Delivered, Gate, Recorder, Script, take
from skyring.timers.retry import REASON_CHARS_MAX
from skyring.transports.base import Callback, DeliveryInfo, Outcome, Transport
from tests.contract.recording import dead_letter, is_gone, settings_for, to, until

HOUR_MS = 3_600_000
ONCE = {"attempts": 1}
TWICE = {"attempts": 2, "backoff_ms": 1, "max_ms": 1}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for("memory", tmp_path)


@pytest.fixture
def on_disk(tmp_path: Path) -> Settings:
    return settings_for("leveldb", tmp_path / "db")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def sky(settings: Settings, recorder: Recorder) -> AsyncIterator[Skyring]:
    async with Skyring(settings, transports=[recorder]) as made:
        yield made


async def has_failed(sky: Skyring, timer_id: str) -> bool:
    return bool((await sky.timers.get(timer_id))["attempts"])


# How it is given


async def test_given_as_a_class(settings: Settings) -> None:
    class Pigeon(Transport):
        letters: ClassVar[asyncio.Queue[tuple[str, bytes]]] = asyncio.Queue()

        async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
            await self.letters.put((callback.uri, payload))
            return Outcome.delivered()

    async with Skyring(settings, transports=[Pigeon]) as sky:
        callback = to("roof", transport="pigeon")  # the name of the class in lower case
        await sky.timers.create(timeout=1, data="coo", callback=callback)
        async with asyncio.timeout(30):
            assert await Pigeon.letters.get() == ("roof", b"coo")


async def test_given_as_objects_of_several_names(settings: Settings) -> None:
    class Other(Recorder):
        name = "other"

    first, second = Recorder(), Other()
    async with Skyring(settings, transports=[first, second]) as sky:
        for name in ("other", "recorder"):
            await sky.timers.create(timeout=1, data=name, callback=to(transport=name), id=name)
        await first.wait_for("recorder")
        await second.wait_for("other")
        with pytest.raises(InvalidRequest, match="there are: http, recorder, other"):
            await sky.timers.create(timeout=1, callback=to(transport="third"))
    for transport in (first, second):
        assert transport.events == ["open", "begin", "end", "close"]


def test_a_name_that_is_taken(settings: Settings) -> None:
    class Http(Recorder):
        name = "http"

    for transports in ([Http], [Http()], [Recorder(), Recorder], [Recorder, Recorder]):
        with pytest.raises(ConfigError, match=r"two transports have the name '(http|recorder)'"):
            Skyring(settings, transports=transports)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [object, object(), 5, None, Outcome])
def test_what_is_no_transport(settings: Settings, given: Any) -> None:
    with pytest.raises(ConfigError, match="is not a Transport"):
        Skyring(settings, transports=[given])


# What it makes of a delivery


class Broken(Exception):
    """What somebody else's code may raise."""


async def fail(delivery: Delivered) -> Outcome:
    raise Broken("no paper")


async def time_out_by_itself(delivery: Delivered) -> Outcome:
    raise TimeoutError("the printer is silent")


async def hang(delivery: Delivered) -> Outcome:
    result: Outcome = await asyncio.get_running_loop().create_future()
    return result


async def rubbish(delivery: Delivered) -> Any:
    return {"status": "ok"}


async def nothing(delivery: Delivered) -> Any:
    return None


async def ask_again(delivery: Delivered) -> Outcome:
    return Outcome.retry("busy")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (fail, "Broken: no paper"),
        (ask_again, "busy"),
        (hang, "time-out after 50 ms"),
        (rubbish, "the transport returned no Outcome: dict"),
        (nothing, "the transport returned no Outcome: NoneType"),
    ],
)
async def test_a_failure_is_tried_again_and_the_reason_kept(
    sky: Skyring, recorder: Recorder, script: Script, reason: str
) -> None:
    recorder.script = script
    await sky.timers.create(timeout=1, callback=to(timeout_ms=50, retry=TWICE), id="bad")
    letter = await dead_letter(sky, "bad")
    assert (letter["attempts"], letter["last_error"]) == (2, reason)
    assert [delivery.info.attempt for delivery in recorder.begun] == [1, 2]
    assert len({delivery.info.due_ms for delivery in recorder.begun}) == 1
    recorder.script = take
    await sky.timers.create(timeout=1, callback=to(), id="good")
    await recorder.wait_for("good")


async def test_a_failure_is_shown_while_the_next_attempt_is_awaited(
    sky: Skyring, recorder: Recorder
) -> None:
    async def later(delivery: Delivered) -> Outcome:
        return Outcome.retry("closed", after_ms=HOUR_MS)

    recorder.script = later
    await sky.timers.create(timeout=1, callback=to(), id="waits")
    await until(sky, lambda: has_failed(sky, "waits"))
    shown = await sky.timers.get("waits")
    assert (shown["state"], shown["last_error"]) == ("scheduled", "closed")
    assert shown["next"] >= shown["due"] + HOUR_MS
    await sky.timers.cancel("waits")


async def test_then_it_works(sky: Skyring, recorder: Recorder) -> None:
    async def at_the_third_attempt(delivery: Delivered) -> Outcome:
        return await (take if delivery.info.attempt == 3 else fail)(delivery)

    recorder.script = at_the_third_attempt
    callback = to(retry={"backoff_ms": 1, "max_ms": 1})
    await sky.timers.create(timeout=1, data="x", callback=callback, id="third")
    await recorder.wait(lambda: recorder.events.count("end") == 3)
    await until(sky, lambda: is_gone(sky, "third"))
    assert [delivery.info.attempt for delivery in recorder.begun] == [1, 2, 3]
    assert {delivery.payload for delivery in recorder.begun} == {b"x"}
    assert (await sky.timers.dead_letters()).timers == []


async def test_a_delivery_that_hangs_is_cut(sky: Skyring, recorder: Recorder) -> None:
    recorder.script = hang
    await sky.timers.create(timeout=1, callback=to(timeout_ms=50, retry=ONCE), id="hangs")
    await dead_letter(sky, "hangs")
    assert recorder.events == ["open", "begin", "cut"]
    assert recorder.begun[0].info.timeout_ms == 50


async def test_a_delivery_that_does_not_end_when_it_is_cut_holds_up_nothing(
    sky: Skyring,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("skyring.timers.attempt.CANCEL_TIMEOUT_S", 0.05)
    end = asyncio.Event()

    async def clean_up_for_ever(delivery: Delivered) -> Outcome:
        try:
            return await hang(delivery)
        finally:
            await end.wait()

    recorder.script = clean_up_for_ever
    await sky.timers.create(timeout=1, callback=to(timeout_ms=50, retry=ONCE), id="stuck")
    letter = await dead_letter(sky, "stuck")
    assert letter["last_error"] == "time-out after 50 ms"
    assert "does not end though cancelled" in caplog.text
    recorder.script = take
    await sky.timers.create(timeout=1, callback=to(), id="good")
    await recorder.wait_for("good")
    end.set()


async def test_a_time_out_of_the_transport_s_own_is_a_failure_like_any_other(
    sky: Skyring, recorder: Recorder
) -> None:
    recorder.script = time_out_by_itself
    await sky.timers.create(timeout=1, callback=to(timeout_ms=60_000, retry=ONCE), id="own")
    reason = (await dead_letter(sky, "own"))["last_error"]
    assert "60000" not in reason, "60 s have not passed"
    assert "the printer is silent" in reason


async def test_a_rejection_is_a_dead_letter_at_once(sky: Skyring, recorder: Recorder) -> None:
    async def gone(delivery: Delivered) -> Outcome:
        return Outcome.rejected("moved away")

    recorder.script = gone
    await sky.timers.create(timeout=1, data="x", callback=to(), id="gone")
    letter = await dead_letter(sky, "gone")
    assert (letter["attempts"], letter["last_error"]) == (1, "moved away")
    assert letter["data"] == "x"
    assert len(recorder.begun) == 1


@pytest.mark.parametrize("reason", ["x" * 100_000, "a\r\nb\0c", "ä\U0001f600", ""])
async def test_any_reason_can_be_kept_and_shown(
    sky: Skyring, recorder: Recorder, reason: str
) -> None:
    async def explain(delivery: Delivered) -> Outcome:
        return Outcome.rejected(reason)

    recorder.script = explain
    await sky.timers.create(timeout=1, callback=to(), id="why")
    assert (await dead_letter(sky, "why"))["last_error"] == reason[:REASON_CHARS_MAX]


class CannotBeTold(Exception):
    def __str__(self) -> str:
        raise Broken


async def raise_cancelled(delivery: Delivered) -> Outcome:
    """As happens to whoever awaits a task that somebody has cancelled."""
    raise asyncio.CancelledError


async def raise_surrogate(delivery: Delivered) -> Outcome:
    raise Broken("cannot open caf\udce9")  # a file name that is not UTF-8 looks like this


async def raise_what_cannot_be_told(delivery: Delivered) -> Outcome:
    raise CannotBeTold


async def exit_the_program(delivery: Delivered) -> Outcome:
    raise SystemExit("no licence")  # as sys.exit() does


class Panic(BaseException):
    """As extensions in other languages raise it."""


async def panic(delivery: Delivered) -> Outcome:
    raise Panic("index out of range")


def returning(*values: Any) -> Script:
    async def script(delivery: Delivered) -> Any:
        return Outcome(*values)

    script.__name__ = f"returning{values}"
    return script


@pytest.mark.parametrize(
    "script",
    [
        raise_cancelled,
        raise_surrogate,
        raise_what_cannot_be_told,
        exit_the_program,
        panic,
        returning("retry", "\ud800"),
        returning("retry", None),
        returning("retry", 5),
        returning("retry", "late", 10**30),
        returning("retry", "late", 3.6e6),
        returning("retry", "late", "soon"),
        returning("retry", "late", -(10**30)),
        returning("whatever", "?"),
    ],
    ids=lambda script: script.__name__,
)
async def test_no_transport_brings_the_node_down_or_loses_its_timer(
    sky: Skyring, recorder: Recorder, script: Script
) -> None:
    recorder.script = script
    await sky.timers.create(timeout=1, callback=to(), id="bad")
    await until(sky, lambda: has_failed(sky, "bad"))
    listed = (await sky.timers.list()).timers + (await sky.timers.dead_letters()).timers
    assert [timer["id"] for timer in listed] == ["bad"]
    assert isinstance(listed[0]["last_error"], str)
    recorder.script = take
    await sky.timers.create(timeout=1, callback=to(), id="good")
    await recorder.wait_for("good")


async def test_its_check_refuses_when_a_timer_is_created_or_updated(
    sky: Skyring, recorder: Recorder
) -> None:
    with pytest.raises(InvalidRequest, match=r"callback\.uri: leads nowhere"):
        await sky.timers.create(timeout=1, callback=to("nowhere"))
    await sky.timers.create(timeout=HOUR_MS, callback=to("somewhere"), id="a")
    with pytest.raises(InvalidRequest, match=r"callback\.uri: leads nowhere"):
        await sky.timers.update("a", timeout=1, callback=to("nowhere"))
    assert (await sky.timers.get("a"))["callback"].uri == "somewhere"
    assert recorder.begun == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("odd numbers only"), "callback: odd numbers only"),
        (ValueError(), "callback: it cannot be used"),
        (ValueError("\udc80" * 10_000), "callback: ?"),
        (InvalidRequest("too far", "callback.uri"), "callback.uri: too far"),
        (Broken("no dictionary"), r"the transport recorder cannot check it \(Broken\)"),
    ],
)
async def test_what_its_check_raises_is_what_is_wrong_with_the_callback(
    sky: Skyring, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def check(callback: Callback) -> None:
        raise error

    monkeypatch.setattr(recorder, "check", check)
    with pytest.raises(InvalidRequest, match=said):
        await sky.timers.create(timeout=1, callback=to())


class Elsewhere(Recorder):
    """Says where a callback leads to in words of its own."""

    name = "elsewhere"
    word: Any = ""

    def destination(self, callback: Callback) -> str:
        result: str = self.word
        return result


async def test_destinations_of_two_transports_are_never_the_same(tmp_path: Path) -> None:
    settings = settings_for("memory", tmp_path, delivery={"in_flight_per_destination_max": 1})
    gate, other = Gate(), Elsewhere()
    recorder = Recorder(gate)
    other.word = "recorder:"
    async with Skyring(settings, transports=[recorder, other]) as sky:
        await sky.timers.create(timeout=1, callback=to(""), id="hangs")
        await recorder.wait_for("hangs")
        await sky.timers.create(timeout=1, callback=to("", transport="elsewhere"), id="goes-on")
        await other.wait_for("goes-on")
        gate.open()


class Plain(Recorder):
    """Names no destination."""

    name = "plain"
    destination = Transport.destination


async def test_a_transport_without_destinations_has_one_of_its_own(tmp_path: Path) -> None:
    settings = settings_for("memory", tmp_path, delivery={"in_flight_per_destination_max": 1})
    gate, other = Gate(), type("Other", (Plain,), {"name": "other"})()
    plain = Plain(gate)
    async with Skyring(settings, transports=[plain, other]) as sky:
        await sky.timers.create(timeout=1, callback=to(transport="plain"), id="hangs")
        await plain.wait_for("hangs")
        await sky.timers.create(timeout=1, callback=to(transport="other"), id="goes-on")
        await other.wait_for("goes-on")
        gate.open()


@pytest.mark.parametrize("word", [None, 5, "\ud800", "x" * 10_000])
async def test_what_cannot_be_a_destination(settings: Settings, word: Any) -> None:
    transport = Elsewhere()
    transport.word = word
    async with Skyring(settings, transports=[transport]) as sky:
        with pytest.raises(InvalidRequest, match="the transport elsewhere names no destination"):
            await sky.timers.create(timeout=1, callback=to(transport="elsewhere"))


# Opening and closing


class CannotOpen(Recorder):
    name = "cannot-open"

    async def open(self) -> None:
        raise Broken("no printer")


class CannotClose(Recorder):
    name = "cannot-close"

    async def close(self) -> None:
        self.note("close")
        raise Broken("the lid is stuck")


async def test_one_that_fails_to_open_stops_the_start_and_leaves_nothing_open(
    on_disk: Settings,
) -> None:
    before, after = Recorder(), CannotClose()
    sky = Skyring(on_disk, transports=[before, CannotOpen(), after])
    with pytest.raises(
        TransportError, match=r"^the transport cannot-open cannot be opened: Broken: no"
    ):
        await sky.start()
    assert before.events == ["open", "close"]
    assert after.events == []
    again = Recorder()
    async with Skyring(on_disk, transports=[again]) as second:
        await second.timers.create(timeout=1, callback=to(), id="works")
        await again.wait_for("works")


async def test_one_that_fails_to_open_on_entering(on_disk: Settings) -> None:
    with pytest.raises(TransportError, match="no printer"):
        async with Skyring(on_disk, transports=[CannotOpen]):
            pytest.fail("it has not started")
    async with Skyring(on_disk, transports=[Recorder]):
        pass


class Exits(Recorder):
    name = "exits"

    async def open(self) -> None:
        raise SystemExit


class ExitsAtTheEnd(Recorder):
    name = "exits-at-the-end"

    async def close(self) -> None:
        raise SystemExit


async def test_one_that_would_end_the_program(
    on_disk: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TransportError, match="exits cannot be opened: SystemExit"):
        async with Skyring(on_disk, transports=[Exits]):
            pytest.fail("it has not started")
    async with Skyring(on_disk, transports=[ExitsAtTheEnd]):
        pass
    assert "the transport exits-at-the-end did not close" in caplog.text
    async with Skyring(on_disk):  # the directory is free
        pass


class NeverOpens(Recorder):
    name = "never-opens"

    async def open(self) -> None:
        await asyncio.get_running_loop().create_future()


async def test_one_that_does_not_open_in_time(tmp_path: Path) -> None:
    settings = settings_for("memory", tmp_path, delivery={"open_timeout_ms": 50})
    with pytest.raises(TransportError, match="never-opens cannot be opened: not done after 50 ms"):
        async with Skyring(settings, transports=[NeverOpens]):
            pytest.fail("it has not started")


async def test_one_that_fails_to_close_keeps_nothing_else_open(
    on_disk: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = Recorder(), CannotClose()
    sky = Skyring(on_disk, transports=[first, last])
    await sky.start()
    await sky.stop()
    assert "the lid is stuck" in caplog.text
    assert last.events == ["open", "close"]
    assert first.events == ["open", "close"]
    async with Skyring(on_disk, transports=[Recorder]):  # the directory is free
        pass


async def test_a_callback_of_a_transport_that_is_no_longer_loaded(on_disk: Settings) -> None:
    clock = ManualClock()
    async with Skyring(on_disk, transports=[Recorder], clock=clock) as sky:
        await sky.timers.create(timeout=1_000, callback=to(retry=TWICE), id="near")
        await sky.timers.create(timeout=HOUR_MS, callback=to(), id="far")
    clock.advance(1_000)
    async with Skyring(on_disk, clock=clock) as sky:
        await until(sky, lambda: has_failed(sky, "near"))
        clock.advance(1_000)
        letter = await dead_letter(sky, "near")
        assert letter["last_error"] == "the transport recorder is not loaded"
        assert (await sky.timers.get("far"))["state"] == "scheduled"
