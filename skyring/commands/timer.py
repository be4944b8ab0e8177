"""``skyring timer``: create, look at, change and cancel timers from a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from skyring.commands import body
from skyring.commands.body import CallbackOptions, read_data, read_when
from skyring.commands.session import DEFAULT_URL, Url, talk
from skyring.commands.show import Json, Limit, show_entries, show_json
from skyring.errors import ConfigError

if TYPE_CHECKING:
    from skyring.client import SkyringClient

__all__ = ["app"]

app = typer.Typer(help="Create, look at, change and cancel timers.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the timer.", show_default=False)]


@app.command()
def create(
    after: body.InOption = None,
    at: body.AtOption = None,
    to: body.ToOption = None,
    data: body.DataOption = None,
    json: body.JsonOption = None,
    method: body.MethodOption = None,
    transport: body.TransportOption = None,
    header: body.HeaderOption = None,
    attempts: body.AttemptsOption = None,
    backoff_ms: body.BackoffOption = None,
    max_ms: body.MaxOption = None,
    timeout_ms: body.TimeoutOption = None,
    id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Your own id; the same timer again is then no second one."),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Create a timer and print its id.

    skyring timer create --in 5s --data hello --to http://127.0.0.1:8989/
    """
    relative_ms, absolute = read_when(after, at)
    if relative_ms is None and absolute is None:
        raise ConfigError("one of --in and --at is needed")
    content = read_data(data, json)
    callback = CallbackOptions(
        to, method, transport, header, attempts, backoff_ms, max_ms, timeout_ms
    ).over(None)
    created = talk(
        url,
        lambda sky: sky.create(callback, timeout_ms=relative_ms, at=absolute, data=content, id=id),
    )
    typer.echo(created)


@app.command()
def get(id: Id, url: Url = DEFAULT_URL) -> None:
    """Print a timer as JSON."""
    show_json(talk(url, lambda sky: sky.get_json(id)))


@app.command()
def cancel(id: Id, url: Url = DEFAULT_URL) -> None:
    """Cancel a timer: it is never delivered afterwards."""
    talk(url, lambda sky: sky.cancel(id))


@app.command()
def update(
    id: Id,
    after: body.InOption = None,
    at: body.AtOption = None,
    to: body.ToOption = None,
    data: body.DataOption = None,
    json: body.JsonOption = None,
    method: body.MethodOption = None,
    transport: body.TransportOption = None,
    header: body.HeaderOption = None,
    attempts: body.AttemptsOption = None,
    backoff_ms: body.BackoffOption = None,
    max_ms: body.MaxOption = None,
    timeout_ms: body.TimeoutOption = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Change a timer. What is not given stays as it is; headers are replaced together.

    skyring timer update ID --in 10m
    """
    relative_ms, absolute = read_when(after, at)
    content = read_data(data, json)
    options = CallbackOptions(
        to, method, transport, header, attempts, backoff_ms, max_ms, timeout_ms
    )
    if all(value is None or value == [] for value in (relative_ms, absolute, content, *options)):
        raise ConfigError("nothing to change was given")

    async def change(sky: SkyringClient) -> None:
        import msgspec

        from skyring.client import Callback
        from skyring.commands.stored import read_stored

        old = read_stored(await sky.get_json(id))
        await sky.update(
            id,
            options.over(msgspec.json.decode(old.callback, type=Callback)),
            timeout_ms=relative_ms,
            at=old.next if relative_ms is None and absolute is None else absolute,
            data=old.data if content is None else content,
        )

    talk(url, change)


@app.command("list")
def list_timers(limit: Limit = 100, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """List pending timers, the next one first."""
    show_entries(url, "/timers", "timers", limit, as_json=json)
