"""The examples run. (That of the browser does in tests/compat, where aiortc is.)"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

ROOT = Path(__file__).parents[1]


async def terminal() -> Process:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
    command = (sys.executable, str(ROOT / "examples" / "chat.py"))
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment)


async def test_chat() -> None:
    """Each reads what the other types, without what would move its terminal; who ends the input ends the chat."""
    one, other = await terminal(), await terminal()
    try:
        assert one.stdin and one.stdout and other.stdin and other.stdout
        other.stdin.write(await one.stdout.readline())
        one.stdin.write(await other.stdout.readline())
        one.stdin.write("Grüß Gott\x1b[2J\n".encode())
        assert (await other.stdout.readline()).decode() == "Grüß Gott?[2J\n"
        other.stdin.write(b"hello\n")
        assert await one.stdout.readline() == b"hello\n"
        other.stdin.close()
        for process in (one, other):
            _, told = await process.communicate()
            assert process.returncode == 0 and told.endswith(b"Ctrl-D ends the chat.\n"), told
    finally:
        for process in (one, other):
            if process.returncode is None:
                process.kill()
                await process.wait()
