"""The command line: ``python -m aioice`` or ``aioice``."""

from __future__ import annotations

import argparse
import sys

from . import __version__
from .cli import connect, demo, gather, nat, rendezvous, trace, turn


def main(arguments: list[str] | None = None) -> int:
    """Run a sub-command; returns its exit code: 0 for success, 1 for failure, 2 for a wrong call, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="aioice", description="Interactive Connectivity Establishment (RFC 8445)")
    parser.add_argument("--version", action="version", version=f"aioice {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, gather, connect, rendezvous, turn, nat, trace):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())
