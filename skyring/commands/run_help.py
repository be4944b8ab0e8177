"""The help of ``skyring run``: a panel for each group of settings.

Written out here because the usual table of options cuts their long names off on a narrow terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperCommand

from skyring.options import SettingOption, setting_options

__all__ = ["HELP", "RunCommand"]

HELP = "Run a node in the foreground; Ctrl-C or SIGTERM stops it."
MORE = (
    "Each setting can also be given with dashes only (--storage-path), as an environment variable"
    " (SKYRING_STORAGE__PATH), or as a key of a TOML file (path under [storage]). The command line"
    " wins over the environment, the environment over the file."
)
OTHERS = [
    ("--config FILE.toml", "file with settings"),
    ("-h, --help", "show this message and exit"),
]


class RunCommand(TyperCommand):
    """A command that prints its own help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        console = Console()
        console.print(Text(ctx.command.get_usage(ctx)), Text(""), Text(HELP), Text(""), sep="\n")
        console.print(Text(MORE, style="dim"), Text(""), sep="\n")
        groups = groupby(setting_options(), lambda option: (option.group, option.group_help))
        for (name, group_help), options in groups:
            entries = [_entry(option) for option in options]
            if not name:
                entries += [_lines(*other) for other in OTHERS]
            console.print(_panel(f"{name}: {group_help}" if name else "Options", entries))


def _panel(title: str, entries: Iterable[RenderableType]) -> Panel:
    return Panel(Group(*entries), title=Text(title), title_align="left", border_style="dim")


def _entry(option: SettingOption) -> RenderableType:
    short = "-p, " if option.path == ("port",) else ""
    default = f"default {option.default}; {option.env}"
    return _lines(f"{short}{option.option} {option.metavar}", option.description, default)


def _lines(name: str, description: str, detail: str = "") -> RenderableType:
    text = Text(description)
    if detail:
        text.append(f" ({detail})", style="dim")
    return Group(Text(name, style="bold cyan"), Padding(text, (0, 0, 0, 4)))
