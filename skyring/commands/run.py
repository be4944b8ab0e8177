"""``skyring run``: a node in the foreground. Its options are generated from the settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer

from skyring.commands.output import warn
from skyring.commands.settings_command import settings_app
from skyring.options import setting_options, unknown_variables
from skyring.settings import load_settings

__all__ = ["build"]

HELP = "Run a node in the foreground; Ctrl-C or SIGTERM stops it."


def build() -> typer.Typer:
    """``skyring run``, with an option for every setting."""
    return settings_app("run", HELP, list(setting_options()), _serve)


def _serve(options: dict[str, Any], config_file: Path | None) -> None:
    for warning in unknown_variables(os.environ):
        warn(warning)
    settings = load_settings(options, config_file)
    sys.path.append("")  # so that module:Class is looked for where the user is
    from skyring.server import serve

    raise typer.Exit(serve(settings))
