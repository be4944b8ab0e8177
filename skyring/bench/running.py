"""How the commands of ``skyring bench`` run a benchmark, and the options that all of them have."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from skyring.bench.errors import BenchError

if TYPE_CHECKING:
    from skyring.bench.report import Report

__all__ = [
    "Json",
    "MaxSeconds",
    "Seed",
    "bounded",
    "fail",
    "run_benchmark",
    "show_progress",
]

MaxSeconds = Annotated[
    float, typer.Option("--max-seconds", min=1, help="Give up after this time, in all.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Seed = Annotated[int, typer.Option("--seed", help="Of what is random.")]

T = TypeVar("T")


def show_progress(message: str) -> None:
    """One line now and then, on standard error."""
    typer.echo(message, err=True)


def fail(reason: str) -> NoReturn:
    """Say why on standard error, and exit with 1."""
    typer.echo(f"skyring bench: {reason}", err=True)
    raise typer.Exit(1)


def run_benchmark(benchmark: Coroutine[Any, Any, Report], max_seconds: float, json: bool) -> None:
    """Run it, print its report; exits with 1 if it fails, or what it measured does."""
    from skyring.bench.report import print_report, to_json

    try:
        report = bounded(benchmark, max_seconds)
    except BenchError as error:
        fail(str(error))
    if json:
        typer.echo(to_json(report))
    else:
        print_report(report)
    if report.failure is not None:
        fail(report.failure)


def bounded(work: Coroutine[Any, Any, T], max_seconds: float) -> T:
    """Run it in an event loop of its own, for so long at most.

    Raises:
        BenchError: it fails, takes too long, or is ended by a signal.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_bounded(work, max_seconds))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    from skyring.bench.process import EVENT_LOOP

    if EVENT_LOOP == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


async def _bounded(work: Coroutine[Any, Any, T], max_seconds: float) -> T:
    task = asyncio.current_task()
    assert task is not None
    if sys.platform != "win32":
        # A benchmark that is told to end takes the server that it has started with it.
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(max_seconds):
            return await work
    except TimeoutError as error:
        raise BenchError(f"not done after {max_seconds:g} s (--max-seconds)") from error
    except asyncio.CancelledError as error:
        raise BenchError("ended by a signal") from error
