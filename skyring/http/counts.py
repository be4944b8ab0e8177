"""Requests, counted by their route and by what they were answered."""

from __future__ import annotations

from collections.abc import Iterable

from skyring.clock import Clock
from skyring.counting import Histogram, Readings
from skyring.http.reply import App, Message, Receive, Scope, Send, path_of

__all__ = ["CountedApp", "RequestCounts", "RouteCounts"]

# Steps of 1, 2, 5: wherever an objective is set, a bound is not far.
DURATION_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
"""What needs no disk is answered in half a millisecond, a create with fsync in two to six. In a
ring it waits for a slot that moves, ten seconds at most (``ring.request_timeout_ms``); its body may
take 30 (``http.body_timeout_ms``)."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""The label of methods that nothing here takes, and of paths that lead nowhere. They come from
outside: with labels of their own anybody could fill the memory."""


class RouteCounts(dict[int, Histogram]):
    """How long requests of one route with one method took, by the status of their answers.

    A status that is new begins with an empty histogram: counting is a look-up and no more.
    """

    def __missing__(self, status: int) -> Histogram:
        histogram = self[status] = Histogram(DURATION_MS)
        return histogram


class RequestCounts:
    """The requests of one node."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteCounts] = {}

    def of(self, method: str, route: str) -> RouteCounts:
        """Where requests of a route are counted.

        Args:
            route: its template: never what a client has made up.
        """
        method = method if method in METHODS else OTHER
        return self._routes.setdefault((method, route), RouteCounts())

    def readings(self) -> Readings:
        """By the names of the metrics."""
        answers: dict[tuple[str, ...], int] = {}
        durations: dict[tuple[str, ...], Histogram] = {}
        for (method, route), counts in self._routes.items():
            for status, duration in counts.items():
                answers[method, route, f"{status}"] = sum(duration.counts)
                durations.setdefault((route,), Histogram(DURATION_MS)).merge(duration)
        return {
            "skyring_http_requests_total": answers,
            "skyring_http_request_duration_seconds": durations,
        }


class CountedApp:
    """Counts what another app answers.

    Args:
        app: answers; it may note in the scope which route it has taken, as FastAPI does.
        paths: of routes that are not noted, and have no parameters.
        counts: where they are counted.
        clock: says how long it took.
    """

    def __init__(self, app: App, paths: Iterable[str], counts: RequestCounts, clock: Clock) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._counts = counts
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = self._clock.monotonic_s()
        status: int | None = None

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if status is not None:
                counts = self._counts.of(scope["method"], self._template(scope))
                counts[status].observe(self._clock.monotonic_s() - began_s)

    def _template(self, scope: Scope) -> str:
        template: str | None = getattr(scope.get("route"), "path", None)
        if template is not None:
            return template
        path = path_of(scope)
        return path if path in self._paths else OTHER
