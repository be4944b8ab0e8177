"""The reference of the settings is complete and current."""

from __future__ import annotations

from pathlib import Path

import typer

from skyring.cli import app
from skyring.options import setting_options
from skyring.reference import settings_page, settings_reference

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "settings.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), (
        "run: python -m skyring.reference > docs/settings.md"
    )


def test_every_setting_has_a_row_and_a_meaning() -> None:
    rows = settings_reference().splitlines()[2:]
    options = list(setting_options())
    assert len(rows) == len(options)
    for row, option in zip(rows, options, strict=True):
        assert f"`{option.option}`" in row
        assert f"`{option.env}`" in row
        assert f"`{option.key}`" in row
        assert f"`{option.default}`" in row
        assert option.description
        assert option.description in row


def test_every_command_is_described() -> None:
    described = (DOCS / "cli.md").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        for words in [f"skyring {name}", *(f"skyring {name} {other}" for other in inner)]:
            assert words in described
