"""``skyring ring``: the ring as a node sees it, drawn in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from skyring.commands.session import DEFAULT_URL, Url, talk
from skyring.errors import NotFound, SkyringError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from skyring.client import SkyringClient
    from skyring.commands.ring_view import Ring

__all__ = ["ring"]

REFRESH_S = 1.0
PIPE_COLUMNS = 100
"""Width of a picture that goes to a file or another program."""


def ring(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Draw it again every second; Ctrl-C ends this.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="What GET /ring answers, one JSON object a line.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Draw the ring: its nodes, who holds which slot, and how safe the log is.

    Any node can be asked. What it does not know of the others is what they have told it within the
    last heartbeats.
    """
    show = _show_json if json else _show
    try:
        talk(url, lambda sky: _watch(sky, json) if watch else show(sky))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _fetch(sky: SkyringClient) -> bytes:
    try:
        return (await sky.request("GET", "/ring")).content
    except NotFound as error:
        raise SkyringError(f"{sky.url} does not know GET /ring: is it an older Skyring?") from error


async def _fetch_ring(sky: SkyringClient) -> Ring:
    from skyring.commands.ring_view import read_ring

    found = read_ring(await _fetch(sky))
    if found.mode != "ring":
        raise SkyringError(
            f"the node {found.node} at {sky.url} stands alone: it holds all {found.slots} slots."
            " A node is a member of a ring when it is given NATS: skyring run --nats HOST:4222;"
            " skyring cluster starts a whole ring here"
        )
    return found


async def _show_json(sky: SkyringClient) -> None:
    content = await _fetch(sky)
    sys.stdout.buffer.write(content.replace(b"\n", b" ").replace(b"\r", b" ").rstrip() + b"\n")
    sys.stdout.flush()


async def _show(sky: SkyringClient) -> None:
    found = await _fetch_ring(sky)
    console = _console()
    console.print(_picture(found, console))


async def _watch(sky: SkyringClient, as_json: bool) -> None:
    import asyncio

    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    if as_json:
        while True:
            await _show_json(sky)
            await asyncio.sleep(REFRESH_S)
    console = _console()
    found = await _fetch_ring(sky)
    if not console.is_terminal:
        while True:
            console.print(_picture(found, console), Text(""), sep="\n")
            sys.stdout.flush()
            await asyncio.sleep(REFRESH_S)
            found = await _fetch_ring(sky)
    with Live(console=console, auto_refresh=False) as live:
        said = Text("Ctrl-C ends this", style="dim")
        while True:
            live.update(Group(_picture(found, console), said), refresh=True)
            await asyncio.sleep(REFRESH_S)
            try:
                found = await _fetch_ring(sky)
                said = Text("Ctrl-C ends this", style="dim")
            except SkyringError as error:  # what was drawn last stays, and says that it is old
                said = Text(f"no newer picture: {error}", style="bold red")


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


def _picture(found: Ring, console: Console) -> RenderableType:
    from skyring.commands.ring_view import Glyphs, draw

    glyphs = Glyphs.ascii() if console.options.ascii_only else Glyphs()
    return draw(found, columns=console.width, glyphs=glyphs)
