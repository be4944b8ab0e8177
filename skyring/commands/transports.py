"""``skyring transports``: what a node would load, from where, with which options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.text import Text

from skyring.commands.settings_command import settings_app
from skyring.options import setting_options
from skyring.settings import load_settings
from skyring.transports.loading import installed
from skyring.transports.registry import Loaded, load_transports

__all__ = ["build"]

HELP = "List the transports that a node with these settings has, from where, and their options."


def build() -> typer.Typer:
    """``skyring transports``, with the options of ``skyring run`` that are about them."""
    options = [option for option in setting_options() if option.group == "transport"]
    return settings_app("transports", HELP, options, _show)


def _show(options: dict[str, Any], config_file: Path | None) -> None:
    settings = load_settings(options, config_file)
    sys.path.append("")  # so that module:Class is looked for where the user is
    loaded = load_transports(settings.delivery, settings.transport)
    console = Console(soft_wrap=True, highlight=False)
    for name, item in loaded.items():
        console.print(Text(name, style="bold cyan").append(f"  {item.source}", style="default"))
        for line in _options(name, item):
            console.print(line)
    others = sorted(installed().keys() - loaded.keys())
    if others:
        console.print(f"\ninstalled, not loaded: {', '.join(others)}", style="dim")


def _options(name: str, loaded: Loaded) -> Iterator[Text]:
    for key, field in type(loaded.transport).Options.model_fields.items():
        value = getattr(loaded.transport.options, key)
        line = Text(f"  --transport:{name}:{key.replace('_', '-')}={_shown(value)}")
        default = "" if _is_default(value, field) else f", default {_shown(field.get_default())}"
        yield line.append(f"  {field.description or ''}{default}", style="dim")


def _is_default(value: object, field: FieldInfo) -> bool:
    if field.is_required() or field.default_factory is not None:
        return True
    return bool(value == field.default)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(str(item) for item in value)
    return "" if value is None else str(value)
