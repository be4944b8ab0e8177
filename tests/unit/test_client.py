"""The client: what it sends, and what it makes of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import msgspec
import pytest

from skyring import errors
from skyring.client import Callback, NewTimer, RetrySpec, SkyringClient
from skyring.errors import (
    ConfigError,
    InvalidRequest,
    NotFound,
    SkyringError,
    Unavailable,
    Uncertain,
)
from skyring.http.problems import reply_to_error

URL = "http://sky.test"
HOOK = "http://127.0.0.1:8989/"
TIMER: dict[str, Any] = {
    "id": "a",
    "state": "scheduled",
    "due": 2_000,
    "next": 3_000,
    "created": 1_000,
    "attempts": 1,
    "last_error": "answered 500",
    "data": {"n": 1},
    "callback": {"transport": "http", "method": "post", "uri": HOOK},
    "timeout": 1_000,
    "something": "that a later server says",
}

Answer = httpx.Response | type[httpx.TransportError]


class Server:
    """Answers with what it is given, in turn, and keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        raise answer("broken", request=request)

    def client(self) -> SkyringClient:
        return SkyringClient(URL, transport=httpx.MockTransport(self))


def created(status: int = 201, id: str = "a") -> httpx.Response:
    return httpx.Response(status, headers={"location": f"/timer/{id}"})


def refused(error: SkyringError) -> httpx.Response:
    """Just as the server refuses."""
    reply = reply_to_error(error)
    return httpx.Response(reply.status, headers=reply.headers, content=reply.body)


async def test_create_sends_what_was_asked_for_and_nothing_else() -> None:
    server = Server(created(id="b"))
    async with server.client() as sky:
        assert await sky.create(HOOK, timeout_ms=5_000, data="hello") == "b"
    (request,) = server.requests
    assert (request.method, request.url.path) == ("POST", "/timer")
    assert "x-timer-id" not in request.headers
    assert json.loads(request.content) == {
        "timeout": 5_000,
        "data": "hello",
        "callback": {"transport": "http", "method": "post", "uri": HOOK},
    }


async def test_create_with_everything() -> None:
    server = Server(created(200))
    callback = Callback("nats", "publish", "nats://x/y", {"k": "v"}, RetrySpec(attempts=3), 500)
    async with server.client() as sky:
        at = "2030-01-01T00:00:00Z"
        assert await sky.create(callback, at=at, data={"a": [1]}, id="a") == "a"
    (request,) = server.requests
    assert request.headers["x-timer-id"] == "a"
    assert json.loads(request.content) == {
        "at": at,
        "data": {"a": [1]},
        "callback": {
            "transport": "nats",
            "method": "publish",
            "uri": "nats://x/y",
            "headers": {"k": "v"},
            "retry": {"attempts": 3},
            "timeout_ms": 500,
        },
    }


async def test_zero_and_empty_are_values() -> None:
    server = Server(created())
    async with server.client() as sky:
        await sky.create(HOOK, timeout_ms=0, at=0, data="")
    sent = json.loads(server.requests[0].content)
    assert (sent["timeout"], sent["at"], sent["data"]) == (0, 0, "")


async def test_raw_json_is_sent_untouched() -> None:
    server = Server(created())
    async with server.client() as sky:
        await sky.create(HOOK, timeout_ms=1, data=msgspec.Raw(b'{"n":123456789012345678901234.50}'))
    assert b'"data":{"n":123456789012345678901234.50}' in server.requests[0].content


async def test_get_update_cancel() -> None:
    server = Server(httpx.Response(200, json=TIMER), httpx.Response(200), httpx.Response(202))
    async with server.client() as sky:
        timer = await sky.get("a:b")
        await sky.update("a:b", HOOK, timeout_ms=7)
        await sky.cancel("a:b")
    assert (timer.id, timer.state, timer.due_ms, timer.next_ms) == ("a", "scheduled", 2_000, 3_000)
    assert (timer.created_ms, timer.timeout_ms, timer.attempts) == (1_000, 1_000, 1)
    assert timer.last_error == "answered 500"
    assert timer.data == {"n": 1}
    assert timer.callback.uri == HOOK
    assert [request.method for request in server.requests] == ["GET", "PUT", "DELETE"]
    assert {request.url.raw_path for request in server.requests} == {b"/timer/a%3Ab"}
    assert json.loads(server.requests[1].content)["timeout"] == 7


async def test_list_goes_through_all_pages() -> None:
    server = Server(
        httpx.Response(200, json={"timers": [TIMER, {**TIMER, "id": "b"}], "next": "x&y"}),
        httpx.Response(200, json={"timers": [], "next": "z"}),
        httpx.Response(200, json={"timers": [{**TIMER, "id": "c"}], "next": None}),
    )
    async with server.client() as sky:
        found = [timer.id async for timer in sky.list(due_after_ms=0, page_entries=2)]
    assert found == ["a", "b", "c"]
    assert [dict(request.url.params) for request in server.requests] == [
        {"due_after": "0", "limit": "2"},
        {"due_after": "0", "limit": "2", "cursor": "x&y"},
        {"due_after": "0", "limit": "2", "cursor": "z"},
    ]


async def test_a_page_that_leads_back_to_itself_ends_the_list() -> None:
    page = {"timers": [], "next": "x"}
    server = Server(httpx.Response(200, json=page), httpx.Response(200, json=page))
    async with server.client() as sky:
        with pytest.raises(SkyringError, match="same page"):
            [timer async for timer in sky.list()]


@pytest.mark.parametrize("page", [{}, {"timers": []}, {"next": None}, {"timers": 1, "next": None}])
async def test_a_page_that_is_none(page: dict[str, Any]) -> None:
    async with Server(httpx.Response(200, json=page)).client() as sky:
        with pytest.raises(SkyringError):
            [timer async for timer in sky.list()]


async def test_dead_letters() -> None:
    dead = {**TIMER, "state": "dead"}
    server = Server(
        httpx.Response(200, json={"dead_letters": [dead], "next": None}),
        httpx.Response(202),
        httpx.Response(202),
    )
    async with server.client() as sky:
        assert [timer.state async for timer in sky.dead_letters()] == ["dead"]
        await sky.retry_dead_letter("a")
        await sky.delete_dead_letter("a")
    assert [(request.method, request.url.path) for request in server.requests[1:]] == [
        ("POST", "/dead-letters/a/retry"),
        ("DELETE", "/dead-letters/a"),
    ]


async def test_create_many_answers_for_each() -> None:
    results = (
        b'{"id":"a","status":201}\n{"id":"b","status":200}\n'
        b'{"status":400,"code":"invalid","reason":"timeout: bad","field":"timeout"}\n'
    )
    server = Server(httpx.Response(200, content=results))
    callback = Callback("http", "post", HOOK)
    async with server.client() as sky:
        made = await sky.create_many(
            [
                NewTimer(callback=callback, timeout_ms=1, id="a"),
                NewTimer(callback=callback, at=5, data=msgspec.Raw(b'{"x":\n1}')),
                NewTimer(callback=callback, timeout_ms=-1),
            ]
        )
    assert [result.accepted for result in made] == [True, True, False]
    assert (made[2].reason, made[2].field) == ("timeout: bad", "timeout")
    (request,) = server.requests
    assert request.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in request.content.splitlines()]
    assert [line.get("id") for line in lines] == ["a", None, None]
    assert lines[1]["data"] == {"x": 1}


async def test_create_many_of_nothing_asks_nobody() -> None:
    async with Server().client() as sky:
        assert list(await sky.create_many([])) == []


async def test_fewer_results_than_entries_are_no_answer() -> None:
    server = Server(httpx.Response(200, content=b'{"id":"a","status":201}\n'))
    async with server.client() as sky:
        with pytest.raises(SkyringError, match="1 of 2"):
            await sky.create_lines([b"{}", b"{}"])


async def test_ping_and_ready() -> None:
    server = Server(
        httpx.Response(200, text="pong"),
        httpx.Response(200, json={}),
        httpx.Response(503, json={"status": "not ready"}),
        httpx.Response(404),
        httpx.ConnectError,
    )
    async with server.client() as sky:
        await sky.ping()
        assert await sky.ready() is True
        assert await sky.ready() is False
        with pytest.raises(SkyringError):
            await sky.ready()
        with pytest.raises(Unavailable):
            await sky.ready()


def every_error() -> Iterable[SkyringError]:
    for name in errors.__all__:
        kind = getattr(errors, name)
        yield InvalidRequest("bad", "callback.uri") if kind is InvalidRequest else kind("why")


@pytest.mark.parametrize("error", list(every_error()), ids=lambda error: type(error).__name__)
async def test_the_server_s_error_comes_out_here(error: SkyringError) -> None:
    async with Server(refused(error)).client() as sky:
        with pytest.raises(SkyringError) as raised:
            await sky.cancel("a")
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)


async def test_the_field_and_the_wait_come_along() -> None:
    server = Server(
        refused(InvalidRequest("must be positive", "timeout")),
        refused(InvalidRequest("the body is not JSON")),
        refused(Unavailable("busy", 7)),
        httpx.Response(429, headers={"retry-after": "9"}),
        httpx.Response(503, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    )
    async with server.client() as sky:
        fields = []
        for _ in range(2):
            with pytest.raises(InvalidRequest) as invalid:
                await sky.cancel("a")
            fields.append(invalid.value.field)
        waits = []
        for _ in range(3):
            with pytest.raises(Unavailable) as unavailable:
                await sky.cancel("a")
            waits.append(unavailable.value.retry_after_s)
    assert fields == ["timeout", ""]
    assert waits == [7, 9, 1]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, html="<h1>Bad gateway</h1>"),
        httpx.Response(301, headers={"location": "http://elsewhere.test/"}),
        httpx.Response(418, json={"code": "teapot", "detail": "short and stout"}),
        httpx.Response(500, json=[1]),
        httpx.Response(400, json={"code": 1}),
        httpx.Response(500, content=b"\xff\xfe"),
    ],
)
async def test_answers_that_no_error_stands_for(answer: httpx.Response) -> None:
    async with Server(answer).client() as sky:
        with pytest.raises(SkyringError) as raised:
            await sky.cancel("a")
    assert type(raised.value) is SkyringError
    assert str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"id": 1}'])
async def test_a_timer_that_is_none(content: bytes) -> None:
    async with Server(httpx.Response(200, content=content)).client() as sky:
        with pytest.raises(SkyringError, match="does not understand"):
            await sky.get("a")


async def test_created_without_a_location() -> None:
    async with Server(httpx.Response(201)).client() as sky:
        with pytest.raises(SkyringError, match="location"):
            await sky.create(HOOK, timeout_ms=1)


Call = Callable[[SkyringClient], Any]
REPEATED: list[Call] = [
    lambda sky: sky.get("a"),
    lambda sky: sky.ping(),
    lambda sky: sky.create(HOOK, timeout_ms=1, id="a"),
    lambda sky: sky.create_many([NewTimer(callback=Callback("http", "post", HOOK), id="a")]),
]
ONCE: list[Call] = [
    lambda sky: sky.create(HOOK, timeout_ms=1),
    lambda sky: sky.update("a", HOOK, timeout_ms=1),
    lambda sky: sky.cancel("a"),
    lambda sky: sky.retry_dead_letter("a"),
    lambda sky: sky.create_many([NewTimer(callback=Callback("http", "post", HOOK))]),
]
BROKEN = [httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError]


@pytest.mark.parametrize("call", REPEATED)
@pytest.mark.parametrize("broken", BROKEN)
async def test_what_may_be_repeated_is_sent_twice_but_not_thrice(
    call: Call, broken: type[httpx.TransportError]
) -> None:
    server = Server(broken, broken)
    async with server.client() as sky:
        with pytest.raises(Unavailable):
            await call(sky)
    assert len(server.requests) == 2
    assert server.requests[0].content == server.requests[1].content


async def test_the_second_answer_counts() -> None:
    server = Server(httpx.RemoteProtocolError, created(200))
    async with server.client() as sky:
        assert await sky.create(HOOK, timeout_ms=1, id="a") == "a"


async def test_a_server_that_dies_in_between_may_have_done_it() -> None:
    server = Server(httpx.RemoteProtocolError, httpx.ConnectError)
    async with server.client() as sky:
        with pytest.raises(Uncertain):
            await sky.create(HOOK, timeout_ms=1, id="a")


@pytest.mark.parametrize("call", ONCE)
@pytest.mark.parametrize("broken", [*BROKEN, httpx.ReadTimeout])
async def test_a_change_without_an_answer_is_uncertain(
    call: Call, broken: type[httpx.TransportError]
) -> None:
    server = Server(broken)
    async with server.client() as sky:
        with pytest.raises(Uncertain, match="may have been carried out"):
            await call(sky)


@pytest.mark.parametrize("call", [*REPEATED, *ONCE])
@pytest.mark.parametrize("broken", [httpx.ConnectError, httpx.ConnectTimeout])
async def test_a_server_that_cannot_be_reached_has_changed_nothing(
    call: Call, broken: type[httpx.TransportError]
) -> None:
    async with Server(broken).client() as sky:
        with pytest.raises(Unavailable, match=URL) as raised:
            await call(sky)
    assert not isinstance(raised.value, Uncertain)


@pytest.mark.parametrize("id", ["", ".", "..", "ä", "a\r\nx: y", "\udcff"])
async def test_ids_that_cannot_be_sent(id: str) -> None:
    server = Server()
    async with server.client() as sky:
        for call in (sky.get, sky.cancel, sky.retry_dead_letter, sky.delete_dead_letter):
            with pytest.raises(InvalidRequest):
                await call(id)
        with pytest.raises(InvalidRequest):
            await sky.create(HOOK, timeout_ms=1, id=id)
    assert server.requests == []


@pytest.mark.parametrize("data", ["\ud800", {"a": object()}])
async def test_data_that_is_no_json(data: Any) -> None:
    async with Server().client() as sky:
        with pytest.raises(InvalidRequest, match="JSON"):
            await sky.create(HOOK, timeout_ms=1, data=data)


@pytest.mark.parametrize("url", ["", "foo", "127.0.0.1:3000", "ftp://x", "http://", "http://x:y"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        SkyringClient(url)


async def test_a_path_in_the_url_is_a_prefix() -> None:
    server = Server(httpx.Response(404, json={"code": "not-found", "detail": "no timer"}))
    transport = httpx.MockTransport(server)
    async with SkyringClient(f"{URL}/sky/", transport=transport) as sky:
        with pytest.raises(NotFound):
            await sky.get("a")
    assert server.requests[0].url.path == "/sky/timer/a"
