"""``skyring dead-letters``: timers whose attempts are used up."""

from __future__ import annotations

from typing import Annotated

import typer

from skyring.commands.session import DEFAULT_URL, Url, talk
from skyring.commands.show import Json, Limit, show_entries

__all__ = ["app"]

app = typer.Typer(help="Timers whose attempts are used up.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the timer.", show_default=False)]


@app.command("list")
def list_dead_letters(limit: Limit = 100, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """List dead letters with the error that ended them."""
    show_entries(url, "/dead-letters", "dead_letters", limit, as_json=json)


@app.command()
def retry(id: Id, url: Url = DEFAULT_URL) -> None:
    """Make a dead letter a timer again, due now, with all its attempts."""
    talk(url, lambda sky: sky.retry_dead_letter(id))


@app.command()
def delete(id: Id, url: Url = DEFAULT_URL) -> None:
    """Delete a dead letter."""
    talk(url, lambda sky: sky.delete_dead_letter(id))
