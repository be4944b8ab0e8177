"""The command ``skyring``: puts the sub-commands together and turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 used wrongly (an option, a setting or a file that cannot be right).
Modules that take long to import are imported by the command that needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from skyring.commands import cluster, dead_letters, listen, ring, timer, transfer
from skyring.commands.output import say
from skyring.errors import ConfigError, SkyringError
from skyring.version import VERSION

__all__ = ["app", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2


class _Late(NamedTuple):
    """A sub-command whose module is imported when it is used."""

    module: str
    attribute: str
    help: str


LATE = {
    "run": _Late("skyring.commands.run", "build", "Run a node in the foreground."),
    "transports": _Late(
        "skyring.commands.transports", "build", "List the transports of a node and their options."
    ),
    "bench": _Late("skyring.bench.cli", "app", "Measure a server that speaks this API."),
}


class _Root(TyperGroup):
    """The top group. Its help shows stand-ins of the late commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        late = LATE.get(name or "")
        if late is not None:
            found = getattr(import_module(late.module), late.attribute)
            command = typer.main.get_command(found if isinstance(found, typer.Typer) else found())
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=_Root,
    help="setTimeout for distributed systems: post a timer, get a webhook when it is due.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _stand_in() -> None:
    """Never called: resolving a late command puts the real one in its place."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skyring {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


app.command("run", help=LATE["run"].help)(_stand_in)
app.command("cluster")(cluster.cluster)
app.command("listen")(listen.listen)
app.add_typer(timer.app, name="timer")
app.add_typer(dead_letters.app, name="dead-letters")
app.command("ring")(ring.ring)
app.command("export")(transfer.export_timers)
app.command("import")(transfer.import_timers)
app.command("transports", help=LATE["transports"].help)(_stand_in)
app.command("bench", help=LATE["bench"].help)(_stand_in)


def _drop_output() -> None:
    """Let the interpreter not try again at its end what has failed just now."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process.

    Args:
        arguments: what follows the program's name; None takes ``sys.argv``.
    """
    try:
        try:
            app(args=arguments, prog_name="skyring")
        finally:
            # Here, and not when the interpreter ends, so that a full disk is told in one line.
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # whoever read it, such as head, has seen enough
        sys.exit(EXIT_FAILED)
    except OSError as error:
        _drop_output()
        say(f"cannot write the output: {error.strerror or error}")
        sys.exit(EXIT_FAILED)
    except ConfigError as error:
        say(str(error))
        sys.exit(EXIT_USAGE)
    except SkyringError as error:
        say(str(error))
        sys.exit(EXIT_FAILED)
