"""``skyring run``: a node in the foreground. Its options are generated from the settings."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import typer

from skyring.commands.output import warn
from skyring.commands.run_help import HELP, RunCommand
from skyring.options import SettingOption, nest, setting_options, unknown_variables
from skyring.settings import load_settings

__all__ = ["build"]


def build() -> typer.Typer:
    """``skyring run``, with an option for every setting."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(
        "run",
        help=HELP,
        cls=RunCommand,
        # One spelling is declared; all others are brought to the same form before comparing.
        context_settings={"token_normalize_func": _one_spelling},
    )(_run_command())
    return app


def _one_spelling(name: str) -> str:
    return name.replace(":", "-").replace("_", "-")


def _run_command() -> Any:
    """The command as a function whose signature has one parameter for each setting."""
    options = list(setting_options())
    paths = {option.parameter: option.path for option in options}

    def run(config: Path | None = None, **given: str | None) -> None:
        values = {paths[name]: value for name, value in given.items() if value is not None}
        _serve(nest(values), config)

    config = typer.Option(None, "--config", metavar="FILE.toml", help="TOML file with settings")
    parameters = [_parameter("config", config, Path | None)]
    parameters += [_parameter(item.parameter, _typer_option(item), str | None) for item in options]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    return run


def _serve(options: dict[str, Any], config_file: Path | None) -> None:
    for warning in unknown_variables(os.environ):
        warn(warning)
    settings = load_settings(options, config_file)
    from skyring.server import serve

    raise typer.Exit(serve(settings))


def _parameter(name: str, option: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation
    )


def _typer_option(option: SettingOption) -> Any:
    names = [option.option]
    if option.path == ("port",):
        names.append("-p")
    return typer.Option(None, *names, metavar=option.metavar, help=option.description)
