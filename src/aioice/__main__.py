"""The command line: ``python -m aioice`` or ``aioice``."""

from __future__ import annotations

import argparse
import io
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a sub-command; returns its exit code: 0 for success, 1 for failure, 2 for a wrong call, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal has arrows
    try:
        options = _parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except OSError as exc:
        # What cannot be written now is not to be tried again at exit; who closes a pipe has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):
            print(f"aioice: {exc}", file=sys.stderr)
        code = 1
    return code


def _parser() -> argparse.ArgumentParser:
    # Here, so that Ctrl-C finds somebody who takes it.
    from . import __version__
    from .cli import connect, demo, gather, nat, rendezvous, trace, turn

    parser = argparse.ArgumentParser(prog="aioice", description="Interactive Connectivity Establishment (RFC 8445)")
    parser.add_argument("--version", action="version", version=f"aioice {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, gather, connect, rendezvous, turn, nat, trace):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
