"""Webhooks: the built-in transport.

The client is pyreqwest (reqwest in Rust): its connections are served by a thread of its own, away
from the event loop. docs/BENCHMARKS.md has the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache

import certifi
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    ClientClosedError,
    RequestError,
    RequestTimeoutError,
)
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from skyring.errors import InvalidRequest
from skyring.transports.base import Callback, DeliveryInfo, Outcome, Transport
from skyring.transports.http_keepalive import KeepAlive
from skyring.transports.http_rules import (
    check_headers,
    check_uri,
    failure_reason,
    method_of,
    outcome_of,
    read_destination,
)
from skyring.transports.wire import delivery_headers

__all__ = ["Http"]

ORIGINS_MAX = 4096
"""Origins whose destination is remembered."""
ORIGIN_CHARS_MAX = 300
ORIGIN_START = len("https://")
UNSENDABLE = Outcome.rejected("the callback cannot be sent as it is")
"""For callbacks that came past `Http.check`. It quotes nothing: a header may be secret."""
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Http(Transport):
    """Delivers a timer as an HTTP/1.1 request; an answer of 2xx takes it.

    Redirects are not followed, cookies not kept, answers not decompressed, and no proxy is taken
    from the environment. Certificates are verified.

    Args:
        answer_bytes_max: bytes read of an answer; if it is longer, its connection is closed.
        retry_after_ms_max: longest Retry-After that is honoured, milliseconds.
        connections_per_host_max: connections to one host that are kept open for reuse.
        connections_max: the same for all hosts together; in passing it can be twice as many.
        idle_ms: how long an unused connection is kept, milliseconds. Many receivers close theirs
            after 5 s; to be earlier saves the deliveries that would cross with it.
        user_agent: sent where the callback names none.
    """

    name = "http"
    keeps_timeout = True

    def __init__(
        self,
        *,
        answer_bytes_max: int = 65_536,
        retry_after_ms_max: int = 3_600_000,
        connections_per_host_max: int = 128,
        connections_max: int = 2_048,
        idle_ms: int = 4_000,
        user_agent: str = "skyring",
    ) -> None:
        self._answer_bytes_max = answer_bytes_max
        self._retry_after_ms_max = retry_after_ms_max
        self._connections_per_host_max = connections_per_host_max
        self._idle_ms = idle_ms
        self._user_agent = user_agent
        self._keep_alive = KeepAlive(connections_max, 2 * idle_ms)
        self._destination_of_origin = lru_cache(ORIGINS_MAX)(read_destination)
        self._client: Client | None = None
        self._closing = False
        self._drained = asyncio.Event()
        self._drained.set()

    async def open(self) -> None:
        """Set up the client; connections are made when they are needed."""
        # Reading the machine's certificates takes some 20 ms.
        self._client = await asyncio.to_thread(self._build_client)

    def check(self, callback: Callback) -> None:
        """Refuse a callback that could not be sent as it is.

        Raises:
            InvalidRequest: naming ``callback.method``, ``callback.uri`` or ``callback.headers``.
        """
        method_of(callback.method)
        check_uri(callback.uri)
        self.destination(callback)
        if callback.headers:
            check_headers(callback.headers)

    def destination(self, callback: Callback) -> str:
        """Host and port, as ``http:host:port``; the same object each time.

        Raises:
            InvalidRequest: naming ``callback.uri``.
        """
        uri = callback.uri
        end = uri.find("/", ORIGIN_START)
        if end < 0:
            end = len(uri)
        if end > ORIGIN_CHARS_MAX:  # most of it is a query
            return read_destination(uri)
        return self._destination_of_origin(uri[:end])

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Send one request, and say what its answer means."""
        client = self._client
        if client is None or self._closing:
            return Outcome.retry("the http transport is closed")
        try:
            destination = self.destination(callback)
        except InvalidRequest:
            return UNSENDABLE
        keep = self._keep_alive.begin(destination, info.started_ms)
        self._drained.clear()
        try:
            return await self._send(self._request(client, callback, payload, info, keep), info)
        except RequestTimeoutError:
            return Outcome.retry(f"time-out after {info.timeout_ms} ms")
        except ClientClosedError:
            return Outcome.retry("cut off, for this node is stopping")
        except RequestError as error:
            causes = error.details["causes"]
            return Outcome.retry(failure_reason([cause["message"] for cause in causes or ()]))
        except (InvalidRequest, ValueError):
            return UNSENDABLE
        finally:
            self._keep_alive.end(destination)
            if not self._keep_alive.in_flight:
                self._drained.set()

    async def close(self) -> None:
        """Wait for the deliveries under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off.
        """
        self._closing = True
        try:
            await self._drained.wait()
        finally:
            client, self._client = self._client, None
            if client is not None:
                await client.close()

    def _request(
        self, client: Client, callback: Callback, payload: bytes, info: DeliveryInfo, keep: bool
    ) -> StreamRequest:
        method = method_of(callback.method)
        headers = _headers(callback.headers, info)
        if not keep:
            headers["connection"] = "close"
        builder = client.request(method, callback.uri)
        if payload:
            builder = builder.body_bytes(payload)
        elif method in METHODS_WITH_BODY:
            # The client leaves it out, and some receivers answer 411.
            headers["content-length"] = "0"
        return (
            builder.headers(headers)
            .timeout(timedelta(milliseconds=info.timeout_ms))
            .streamed_read_buffer_limit(self._answer_bytes_max)
            .build_streamed()
        )

    async def _send(self, request: StreamRequest, info: DeliveryInfo) -> Outcome:
        task = asyncio.current_task()
        cancellings = 0 if task is None else task.cancelling()
        async with request as answer:
            status = answer.status
            if 200 <= status < 300:
                outcome = Outcome.delivered()
            else:
                outcome = outcome_of(
                    status, _retry_after(answer), info.started_ms, self._retry_after_ms_max
                )
        # The client drops a cancellation that comes together with the answer.
        if task is not None and task.cancelling() > cancellings:
            raise asyncio.CancelledError
        return outcome

    def _build_client(self) -> Client:
        try:
            return self._client_builder().build()
        except BuilderError:
            # A small container may have no certificates at all.
            with open(certifi.where(), "rb") as file:
                return self._client_builder().add_root_certificate_pem(file.read()).build()

    def _client_builder(self) -> ClientBuilder:
        return (
            ClientBuilder()
            .follow_redirects(False)
            .referer(False)
            .default_cookie_store(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .no_proxy()
            .http1_only()
            .http1_lower_case_headers()
            .user_agent(self._user_agent)
            .pool_max_idle_per_host(self._connections_per_host_max)
            .pool_idle_timeout(timedelta(milliseconds=self._idle_ms))
        )


def _headers(own: Mapping[str, str], info: DeliveryInfo) -> dict[str, str]:
    """The headers of one delivery; the user's content type goes first."""
    headers = delivery_headers(info)
    if info.content_type is not None and not (
        own and any(name.lower() == "content-type" for name in own)
    ):
        headers["content-type"] = info.content_type
    headers.update(own)
    return headers


def _retry_after(answer: Response) -> str | None:
    try:
        return answer.get_header("retry-after")
    except ValueError:  # not ASCII
        return None
