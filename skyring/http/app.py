"""The HTTP API as one ASGI app: the hot routes in front, FastAPI behind them."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from skyring.errors import SkyringError
from skyring.http.counts import CountedApp, RequestCounts
from skyring.http.hot import HotRoutes
from skyring.http.metrics import add_metrics_route
from skyring.http.openapi import openapi_document
from skyring.http.problems import internal_problem, problem, reply_to_error
from skyring.http.reply import App, Reply, path_of
from skyring.http.routes import build_router, explain_parameters
from skyring.node import Node
from skyring.version import VERSION

__all__ = ["build_app"]

logger = logging.getLogger(__name__)


def build_app(node: Node) -> App:
    """The app of one node."""
    app = FastAPI(
        title="Skyring",
        version=VERSION,
        description="setTimeout for distributed systems",
        redoc_url=None,
    )
    router = build_router(node)
    add_metrics_route(router, node)
    app.include_router(router)
    _explain_errors(app)

    def document() -> dict[str, object]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi_document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    counts = RequestCounts()
    node.metrics.add(counts.readings)
    paths = {"/timer", *(getattr(route, "path", "") for route in app.routes)}
    rest = CountedApp(app, paths - {""}, counts, node.clock)
    return HotRoutes(node.service, node.settings.http, rest, counts, node.clock)


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(SkyringError)
    async def skyring_error(request: Request, error: SkyringError) -> Response:
        return _response(reply_to_error(error))

    @app.exception_handler(RequestValidationError)
    async def wrong_parameters(request: Request, error: RequestValidationError) -> Response:
        return _response(reply_to_error(explain_parameters(list(error.errors()))))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        return _response(internal_problem())

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        status = error.status_code
        methods = _methods_of(path_of(request.scope))
        if methods and status in (404, 405):
            return _response(
                problem(
                    405,
                    "method-not-allowed",
                    f"{request.url.path} takes {methods}, not {request.method}",
                    headers=[(b"allow", methods.encode())],
                )
            )
        code = HTTPStatus(status).phrase.lower().replace(" ", "-")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        allow = [
            (name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()
        ]
        return _response(problem(status, code, detail, headers=allow))


def _methods_of(path: str) -> str:
    """What the paths take that have several routes, in front of FastAPI or behind each other."""
    if path == "/timer":
        return "POST"
    if path == "/timers":
        return "GET, POST"
    if path == "/metrics":
        return "GET, HEAD"
    return "DELETE, GET, PUT" if path.startswith("/timer/") and "/" not in path[7:] else ""


def _response(reply: Reply) -> Response:
    response = Response(reply.body, reply.status)
    response.raw_headers[:] = reply.headers
    return response
