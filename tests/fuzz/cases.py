"""Requests made of the OpenAPI document, and what their answers must be like."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

__all__ = ["Exercise", "Tally"]

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
REQUEST_S_MAX = 30
FAILURES_MAX = 50
"""Kinds of failures that are told."""
IDS_MAX = 200
"""Ids of timers that are used again."""
ROUNDS_MAX = 100
MAKING = 4
"""So many times more requests that make or change timers."""
FAR_MS = 600_000
"""What is due later does not become due while its timer is looked at."""
NAMES = ["a", "order-17", "_.:~-", "x" * 128]
"""Ids of users, which meet again and again."""
METHODS = ["get", "POST", "Put", "PATCH", "delete", "HEAD", "options"]
TIMES: list[dict[str, Any]] = [
    {"timeout": 1},
    {"timeout": 30},
    {"timeout": FAR_MS + 1},
    {"timeout": 2_147_483_647},
    {"at": 0},
    {"at": 253_402_300_799_999},
    {"at": "2999-12-31T23:59:59.999999999+23:59"},
]
BY_ID = [
    ("GET", "/timer/{timer_id}"),
    ("PUT", "/timer/{timer_id}"),
    ("DELETE", "/timer/{timer_id}"),
    ("POST", "/dead-letters/{timer_id}/retry"),
    ("DELETE", "/dead-letters/{timer_id}"),
]
PLANS = st.lists(st.sampled_from(BY_ID), max_size=5)
"""What is done with a timer that was created."""


@dataclass
class Tally:
    """What came of it."""

    cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    """An example for each kind."""


class Exercise:
    """Sends requests to a server, one after the other.

    Args:
        url: of the server.
        uris: where callbacks may lead, besides what chance makes up.
        number: the same gives the same requests, but for ids that the server makes.
    """

    def __init__(self, url: str, uris: list[str], number: int) -> None:
        self._url = url
        self._uris = uris
        self._number = number
        self._schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self._session = requests.Session()
        self._session.trust_env = False
        self._ids = ["a"]
        self._barren: set[tuple[str, GenerationMode]] = set()
        """Operations of which nothing of a kind can be made up, such as a path that is no text."""
        self.tally = Tally()

    def run(self, cases: int) -> Tally:
        """Send so many requests or a few more, of all operations in turn."""
        operations = [
            each.ok() for each in self._schema.get_all_operations() if isinstance(each, Ok)
        ]
        for round_number in range(ROUNDS_MAX):
            share = max(1, (cases - self.tally.cases) // len(operations) // 3)
            for operation, mode in product(operations, GenerationMode):
                makes_timers = operation.body and mode is GenerationMode.POSITIVE
                if self.tally.cases < cases:
                    count = share * (MAKING if makes_timers else 1)
                    self._exercise(operation, mode, count, round_number)
        self._session.close()
        return self.tally

    def _exercise(self, operation: Any, mode: GenerationMode, share: int, number: int) -> None:
        has_input = operation.body or operation.query or operation.path_parameters
        if not has_input and (mode is GenerationMode.NEGATIVE or number):
            return  # there is but one such request
        if (operation.label, mode) in self._barren:
            return

        @seed(f"{self._number}-{number}-{operation.label}-{mode.value}")
        @settings(
            max_examples=share,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode), st.data())
        def one(case: Case[Any], data: st.DataObject) -> None:
            if mode is GenerationMode.POSITIVE:
                self._make_sense(case, data)
            # Whatever the server answers, the same is drawn: hypothesis wants it so.
            plan = data.draw(PLANS) if operation.label == "POST /timer" else []
            response = self._send(case, mode is GenerationMode.NEGATIVE)
            location = response.headers.get("location", [])
            if location:
                self._follow(location[0].rpartition("/")[2], case.body, plan)

        try:
            one()
        except Unsatisfiable:
            self._barren.add((operation.label, mode))

    def _make_sense(self, case: Case[Any], data: st.DataObject) -> None:
        """Nearly all that chance makes up is refused: have some of it taken."""
        for name in case.path_parameters or {}:
            if data.draw(st.booleans()):
                place = data.draw(st.integers(0, 1 << 16))
                case.path_parameters[name] = self._ids[place % len(self._ids)]
        if "x-timer-id" in (case.headers or {}) and data.draw(st.booleans()):
            case.headers["x-timer-id"] = data.draw(st.sampled_from(NAMES))
        bodies = case.body if isinstance(case.body, list) else [case.body]
        for body in bodies:
            if isinstance(body, dict) and isinstance(body.get("callback"), dict):
                self._make_body(body, data)

    def _make_body(self, body: dict[str, Any], data: st.DataObject) -> None:
        if data.draw(st.integers(0, 9)) == 0:
            return
        if data.draw(st.integers(0, 3)):
            body.pop("timeout", None)
            body.pop("at", None)
            body.update(data.draw(st.sampled_from(TIMES)))
        callback = body["callback"]
        callback["transport"] = "http"
        callback["method"] = data.draw(st.sampled_from(METHODS))
        callback["uri"] = data.draw(st.sampled_from(self._uris))
        for name in ("headers", "retry", "timeout_ms"):
            if data.draw(st.integers(0, 3)):
                callback.pop(name, None)

    def _follow(self, timer_id: str, body: Any, plan: list[tuple[str, str]]) -> None:
        """Go on with a timer that was created."""
        self._ids.append(timer_id)
        if len(self._ids) > IDS_MAX:
            self._ids.pop(0)
        is_far = isinstance(body, dict) and body.get("timeout", 0) > FAR_MS
        is_there = True
        for method, path in plan:
            operation = self._schema[path][method]
            content = {"body": body, "media_type": "application/json"} if method == "PUT" else {}
            case = operation.Case(path_parameters={"timer_id": timer_id}, **content)
            status = self._send(case, False).status_code
            if is_far and path == "/timer/{timer_id}":
                expected = {"DELETE": 202}.get(method, 200) if is_there else 404
                if status != expected:
                    self._note(f"{method} {path}: {status} and not {expected}", timer_id)
                is_there = is_there and method != "DELETE"

    def _send(self, case: Case[Any], is_negative: bool) -> Any:
        tally = self.tally
        tally.cases += 1
        response = case.call(self._url, self._session, timeout=REQUEST_S_MAX)
        tally.statuses[f"{response.status_code}"] += 1
        checks = CHECKS
        if is_negative and case.operation.label != "POST /timers":  # which refuses entry by entry
            checks = [*CHECKS, negative_data_rejection]
        try:
            case.validate_response(response, checks)
        except FailureGroup as group:
            kinds = sorted(type(each).__name__ for each in group.exceptions)
            label = f"{case.operation.label}: {response.status_code} {', '.join(kinds)}"
            self._note(label, str(group.message))
        return response

    def _note(self, kind: str, example: str) -> None:
        if len(self.tally.failures) < FAILURES_MAX:
            self.tally.failures.setdefault(kind, example)
