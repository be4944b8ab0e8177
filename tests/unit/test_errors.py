"""The errors are the ones that are drawn, answered and written about."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

import skyring
from skyring import errors
from skyring.bench.errors import BenchError
from skyring.errors import InvalidRequest, SkyringError, Unavailable
from skyring.http.problems import internal_problem, problem, reply_to_error, status_of
from skyring.http.server import ListenError

DOCS = Path(__file__).parents[2] / "docs" / "http.md"
EVERY = [getattr(errors, name) for name in errors.__all__]

STATUSES = {
    "error": 500,
    "config": 500,
    "invalid": 400,
    "not-found": 404,
    "conflict": 409,
    "delivering": 409,
    "too-large": 413,
    "unavailable": 503,
    "uncertain": 503,
    "transport": 500,
    "ring": 500,
    "storage": 500,
    "storage-locked": 500,
    "unreadable": 409,
    "fenced": 503,
}
NEVER_ANSWERED = {"error", "config", "transport", "ring", "storage", "storage-locked"}
"""The root, and what is only raised before there is anybody to answer."""


class Drawn(NamedTuple):
    """A line of the tree in the docstring."""

    name: str
    code: str
    parent: str | None
    meaning: str


def drawn() -> list[Drawn]:
    assert errors.__doc__ is not None
    lines = re.findall(
        r"^    ([ │├└─]*)(\w+) +([\w-]+)(?: +(\S.*))?$", errors.__doc__, re.MULTILINE
    )
    above: list[str] = []
    tree = []
    for branch, name, code, meaning in lines:
        depth = len(branch) // 4
        del above[depth:]
        tree.append(Drawn(name, code, above[-1] if above else None, meaning))
        above.append(name)
    return tree


def make(kind: type[SkyringError]) -> SkyringError:
    return kind("why")


def test_the_tree_is_the_real_one() -> None:
    real = {kind.__name__: (kind.code, kind.__base__.__name__) for kind in EVERY}
    seen = {name: (code, parent or "Exception") for name, code, parent, _ in drawn()}
    assert seen == real
    assert len(drawn()) == len(real)


def test_every_error_of_the_module_is_exported_and_explained() -> None:
    inside = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, SkyringError)
    }
    assert inside == set(errors.__all__)
    assert all(line.meaning for line in drawn()[1:])
    assert all(kind.__doc__ for kind in EVERY)


def test_no_code_stands_for_two_errors() -> None:
    kinds = [*EVERY, ListenError, BenchError]
    codes = [kind.code for kind in kinds if "code" in vars(kind)]
    assert len(codes) == len(set(codes))
    assert {kind.code for kind in EVERY} == STATUSES.keys()


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_a_status_and_an_answer(kind: type[SkyringError]) -> None:
    error = make(kind)
    assert status_of(error) == STATUSES[kind.code]
    reply = reply_to_error(error)
    headers = dict(reply.headers)
    assert reply.status == STATUSES[kind.code]
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-skyring-reason"] == b"why"
    assert headers[b"content-length"] == str(len(reply.body)).encode()
    assert (b"retry-after" in headers) == (reply.status == 503)
    document = msgspec.json.decode(reply.body)
    assert document == {
        "type": f"urn:skyring:problem:{kind.code}",
        "title": document["title"],
        "status": reply.status,
        "detail": "why",
        "code": kind.code,
    }


def test_the_field_at_fault_and_the_wait_are_told() -> None:
    reply = reply_to_error(InvalidRequest("is required", "callback.uri"))
    document = msgspec.json.decode(reply.body)
    assert document["field"] == "callback.uri"
    assert document["detail"] == str(InvalidRequest("is required", "callback.uri"))
    assert document["detail"] == "callback.uri: is required"
    assert "field" not in msgspec.json.decode(reply_to_error(InvalidRequest("no")).body)
    assert dict(reply_to_error(Unavailable("busy", 7)).headers)[b"retry-after"] == b"7"


@pytest.mark.parametrize("detail", ["a\r\nset-cookie: b", "ä\0\x7f€", "\ud800", "x" * 10_000])
def test_a_reason_is_one_line_of_printable_characters(detail: str) -> None:
    reply = problem(400, "invalid", detail, field=detail)
    reason = dict(reply.headers)[b"x-skyring-reason"]
    assert msgspec.json.decode(reply.body)["detail"]
    assert re.fullmatch(rb"[ -~]{1,4000}", reason)


# The documentation


def answered_codes() -> set[str]:
    """What stands in the code: errors with a status, and problems that are made by name."""
    made = {msgspec.json.decode(internal_problem().body)["code"]}
    for path in (Path(skyring.__file__).parent / "http").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == "problem"
                and len(call.args) > 1
                and isinstance(call.args[1], ast.Constant)
            ):
                made.add(str(call.args[1].value))
    return made | (STATUSES.keys() - NEVER_ANSWERED)


def test_every_code_that_can_be_answered_is_in_the_table_with_its_status() -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## Errors")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \| `([\w-]+)` \| \S", section, re.MULTILINE)
    table = {code: int(status) for status, code in rows}
    answered = answered_codes()
    assert "method-not-allowed" in answered
    assert "internal" in answered
    assert answered - table.keys() == set(), "missing in docs/http.md"
    assert table.keys() - answered == set(), "in docs/http.md, but never answered"
    for code, status in table.items():
        assert STATUSES.get(code, status) == status
