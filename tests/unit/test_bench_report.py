"""Tables for people, JSON for machines."""

from __future__ import annotations

import io
import json

from skyring.bench.report import Figure, Report, format_figure, print_report, to_json

FIGURES = (
    Figure("speed", "speed", "rate", headline=True),
    Figure("lost", "lost", total=True),
    Figure("memory", "memory", "bytes"),
)


def report(rounds: int) -> Report:
    figures = [{"speed": 1000.0 * (n + 1), "lost": n % 2, "memory": None} for n in range(rounds)]
    return Report("herd", {"count": 5}, FIGURES, list(figures), notes=["a [note]"])


def table(rounds: int) -> str:
    out = io.StringIO()
    print_report(report(rounds), out)
    return out.getvalue()


def test_json_has_everything() -> None:
    document = json.loads(to_json(report(3)))
    assert document["command"] == "herd"
    assert document["parameters"] == {"count": 5}
    assert document["summary"] == {"speed": 2000.0, "lost": 1, "memory": None}
    assert document["totals"] == ["lost"]
    assert len(document["rounds"]) == 3
    assert document["failure"] is None
    assert document["environment"]["cores"] >= 1
    assert "uvicorn" in document["environment"]["versions"]


def test_a_table_shows_each_round_and_the_median() -> None:
    text = table(3)
    for expected in ("round 1", "round 3", "median", "2,000/s", "3,000/s", "lost (total)", "–"):
        assert expected in text
    assert "a [note]" in text


def test_one_round_has_one_column() -> None:
    text = table(1)
    assert "value" in text
    assert "median" not in text
    assert "(total)" not in text


def test_many_rounds_are_shown_by_their_ends() -> None:
    text = table(20)
    for expected in ("lowest", "highest", "20,000/s", "10,500/s"):
        assert expected in text
    assert "round 7" not in text


def test_units() -> None:
    written = [
        format_figure(kind, 1234.5678)
        for kind in ("count", "rate", "ms", "s", "ratio", "cpu", "bytes")
    ]
    assert written == [
        "1,235",
        "1,235/s",
        "1,235 ms",
        "1,234.57 s",
        "1234.568",
        "123457%",
        "0.0 MB",
    ]
    assert format_figure("ms", 1.234) == "1.23 ms"
    assert format_figure("ms", None) == "–"
