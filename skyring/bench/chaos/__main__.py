"""``python -m skyring.bench.chaos``: the chaos suite without the rest of the command line."""

from __future__ import annotations

import typer

from skyring.bench.chaos_cli import chaos

if __name__ == "__main__":
    typer.run(chaos)
