"""Commands whose options are generated from the settings, and their help.

The help is written out here, a panel for each group of settings, because the usual table of options
cuts their long names off on a narrow terminal.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperCommand

from skyring.errors import ConfigError
from skyring.options import SettingOption, nest
from skyring.settings import fold_name

__all__ = ["Action", "settings_app"]

Action: TypeAlias = Callable[[dict[str, Any], Path | None], None]
"""Called with what the command line gave, nested as the settings are, and the ``--config`` file."""

MORE = (
    "Each setting can also be given with dashes only (--storage-path), as an environment variable"
    " (SKYRING_STORAGE__PATH), or as a key of a TOML file (path under [storage]). The command line"
    " wins over the environment, the environment over the file."
)
OTHERS = [
    ("--config FILE.toml", "file with settings"),
    ("-h, --help", "show this message and exit"),
]
TRANSPORT_OPTION = re.compile(
    r"--transport:(?P<name>[^:=]+):(?P<key>[^:=]+)(?:=(?P<value>.*))?", re.S
)
TRANSPORT_OPTION_HELP = (
    "--transport:NAME:KEY=VALUE",
    "option of a loaded transport; skyring transports lists them (SKYRING_TRANSPORT__NAME__KEY)",
)
GIVEN = "skyring.transport-options"
"""Where a command's context keeps the options of transports."""


def settings_app(
    name: str, help_text: str, options: Sequence[SettingOption], action: Action
) -> typer.Typer:
    """An app of one command, with an option for each of these settings."""

    class Command(_SettingsCommand):
        summary = help_text
        settings = options

    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(
        name,
        help=help_text,
        cls=Command,
        # One spelling is declared; all others are brought to the same form before comparing.
        context_settings={"token_normalize_func": _one_spelling},
    )(_function(options, action))
    return app


def _one_spelling(name: str) -> str:
    return name.replace(":", "-").replace("_", "-")


def _function(options: Sequence[SettingOption], action: Action) -> Any:
    """The command as a function whose signature has one parameter for each setting."""
    paths = {option.parameter: option.path for option in options}

    def run(context: typer.Context, config: Path | None = None, **given: object) -> None:
        values = {paths[name]: value for name, value in given.items() if value not in (None, [])}
        values.update(context.meta[GIVEN])
        action(nest(values), config)

    config = typer.Option(None, "--config", metavar="FILE.toml", help="TOML file with settings")
    parameters = [
        inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        ),
        _parameter("config", config, Path | None),
    ]
    for item in options:
        annotation = list[str] | None if item.repeated else str | None
        parameters.append(_parameter(item.parameter, _typer_option(item), annotation))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    return run


def _parameter(name: str, option: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation
    )


def _typer_option(option: SettingOption) -> Any:
    names = (option.option, *option.other_names)
    return typer.Option(None, *names, metavar=option.metavar, help=option.description)


class _SettingsCommand(TyperCommand):
    """Prints its own help, and takes the options of transports, which nobody can declare."""

    summary: str
    settings: Sequence[SettingOption]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: dict[tuple[str, ...], str] = {}
        rest = iter(args)
        others = []
        for argument in rest:
            match = TRANSPORT_OPTION.fullmatch(argument)
            if match is None:
                others.append(argument)
                continue
            value = match["value"] if match["value"] is not None else next(rest, None)
            if value is None:
                raise ConfigError(f"{argument} needs a value")
            name = fold_name(match["name"])
            if name == "load":
                raise ConfigError(f"{argument}: no transport has the name load")
            given["transport", name, match["key"].replace("-", "_")] = value
        ctx.meta[GIVEN] = given
        return super().parse_args(ctx, others)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        console = Console()
        console.print(
            Text(ctx.command.get_usage(ctx)), Text(""), Text(self.summary), Text(""), sep="\n"
        )
        console.print(Text(MORE, style="dim"), Text(""), sep="\n")
        by_group = groupby(self.settings, lambda option: (option.group, option.group_help))
        groups = [(name, group_help, list(options)) for (name, group_help), options in by_group]
        if not any(name == "" for name, _, _ in groups):
            groups.insert(0, ("", "", []))
        for name, group_help, options in groups:
            entries = [_entry(option) for option in options]
            if not name:
                entries += [_lines(*other) for other in OTHERS]
            elif name == "transport":
                entries.append(_lines(*TRANSPORT_OPTION_HELP))
            console.print(_panel(f"{name}: {group_help}" if name else "Options", entries))


def _panel(title: str, entries: Iterable[RenderableType]) -> Panel:
    return Panel(Group(*entries), title=Text(title), title_align="left", border_style="dim")


def _entry(option: SettingOption) -> RenderableType:
    names = ", ".join((*option.other_names, option.option))
    default = f"default {option.default}; {option.env}"
    return _lines(f"{names} {option.metavar}", option.description, default)


def _lines(name: str, description: str, detail: str = "") -> RenderableType:
    text = Text(description)
    if detail:
        text.append(f" ({detail})", style="dim")
    return Group(Text(name, style="bold cyan"), Padding(text, (0, 0, 0, 4)))
