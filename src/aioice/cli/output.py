"""What the sub-commands print with: tables for people, JSON for programs, colours on a terminal only."""

from __future__ import annotations

import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from ..servers import IceServer

#: Exit codes; 2 for a wrong call is argparse's, 130 for Ctrl-C the shell's habit.
SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130

_COLOURS = {"good": "32", "bad": "31", "weak": "33", "faint": "2", "strong": "1"}


def shown(value: object, limit: int = 200) -> str:
    """What came from outside, for people: without control characters, and not too long."""
    text = "" if value is None else str(value)
    text = "".join(c if c.isprintable() and c.isascii() or c in "→×–…" else ascii(c)[1:-1] for c in text[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "..."


def coloured(text: str, colour: str, stream: IO[str] | None = None) -> str:
    stream = sys.stdout if stream is None else stream
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], good: Sequence[bool] | None = None) -> None:
    """Columns as wide as they need; ``good`` says which rows are green and which red."""
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(headers), *cells]) for index in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        return "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    print(coloured(line(headers), "faint"))
    for number, row in enumerate(cells):
        print(line(row) if good is None else coloured(line(row), "good" if good[number] else "bad"))


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def progress(text: str) -> None:
    """A word on long work, to people only."""
    if sys.stderr.isatty():
        print(coloured(f"{text} …", "faint", sys.stderr), file=sys.stderr)


def complain(text: str) -> None:
    print(coloured(f"aioice: {shown(text, 1000)}", "bad", sys.stderr), file=sys.stderr)


# ------------------------------------------------------------------------------------------------------ servers as told


def add_server_options(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "servers" if required else "--server",
        metavar="URI",
        **({"nargs": "+"} if required else {"dest": "servers", "action": "append", "default": []}),
        help="a STUN or TURN server: stun:HOST, turn:HOST:PORT?transport=tcp, turns:HOST",
    )
    parser.add_argument("--username", help="the user name for TURN")
    parser.add_argument(
        "--password", help="the password for TURN; better in AIOICE_PASSWORD, where no other user can see it"
    )


def ice_servers(options: argparse.Namespace) -> list[IceServer]:
    """:raises ValueError: for a URI that is none."""
    from ..servers import IceServer

    password = options.password or os.environ.get("AIOICE_PASSWORD")
    servers = []
    for url in options.servers:
        if url.lower().startswith("turn") and (options.username is None or password is None):
            raise ValueError(f"{shown(url)} needs --username and a password")
        relay = url.lower().startswith("turn")
        servers.append(IceServer(url, options.username if relay else None, password if relay else None))
    return servers


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f} ms"
