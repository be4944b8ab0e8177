"""The commands in the pages of the documentation, and how they are run."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

__all__ = ["blocks", "commands", "curl", "expected_status", "section", "shell"]

TIMEOUT_S = 60
"""Time allowed to a command."""


def blocks(page: Path, language: str, title: str | None = None) -> list[str]:
    """Fenced blocks of one language, of a page or a section; "" for those that name none."""
    text = page.read_text(encoding="utf-8") if title is None else section(page, title)
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [content for name, content in found if name == language]


def commands(block: str) -> Iterator[str]:
    """The commands of a shell script; one may go over several lines."""
    command = ""
    for line in block.splitlines():
        command += line + "\n"
        try:
            words = shlex.split(command, comments=True)
        except ValueError:
            continue  # a quotation is still open
        if words:
            yield command.strip()
        command = ""
    assert command == "", f"no end of {command}"


def section(page: Path, title: str) -> str:
    text = page.read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


async def shell(command: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def curl(command: str, server: str, receiver: str) -> tuple[int, str]:
    """Run a command of the README against other addresses: status, and headers and body."""
    command = command.replace("127.0.0.1:3000", server).replace("127.0.0.1:8989", receiver)
    assert server in command
    options = "-sS --max-time 30 --noproxy '*' -w '\\n%{http_code}'"
    code, out, err = await shell(f"curl {options} {command.removeprefix('curl ')}")
    assert (code, err) == (0, ""), command
    shown, _, status = out.rpartition("\n")
    return int(status), shown.replace("\r\n", "\n")


def expected_status(command: str) -> int:
    words = shlex.split(command)
    if "-X" in words:
        return {"PUT": 200, "DELETE": 202}[words[words.index("-X") + 1]]
    return 201 if "-d" in words else 200
