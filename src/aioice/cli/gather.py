"""``aioice gather``: all candidates of this machine, and what became of asking each server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .output import (
    FAILURE,
    SUCCESS,
    USAGE,
    add_server_options,
    complain,
    ice_servers,
    milliseconds,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    import argparse

    from ..core.inquiries import ServerReport
    from ..servers import IceServer

#: Verdicts that are nobody's fault.
_FINE = ("answered", "not needed")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the command line."""
    parser = commands.add_parser(
        "gather",
        help="show all candidates and how the servers answer",
        description="Gathers the candidates of this machine and asks the servers.",
        epilog="Exit codes: 0 all servers answered, 1 one did not, or there are no candidates, 2 wrong call.",
    )
    add_server_options(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Gather and print; returns the exit code."""
    try:
        servers = ice_servers(options)
    except ValueError as exc:
        complain(str(exc))
        return USAGE
    candidates, reports = asyncio.run(_gather(servers))
    # A server that has no relay of the other family has all that it is asked for.
    answering = {report.url for report in reports if str(report.verdict) == "answered"}
    fine = [report.url in answering or str(report.verdict) in _FINE for report in reports]
    if options.json:
        print_json({"candidates": [c.to_sdp() for c in candidates], "servers": [_as_json(r) for r in reports]})
    else:
        print("Candidates")
        rows = [
            (
                c.type,
                f"{c.host}:{c.port}",
                f"{c.related_address}:{c.related_port}" if c.related_address else "",
                c.priority,
            )
            for c in sorted(candidates, key=lambda candidate: -candidate.priority)
        ]
        print_table(("type", "address", "related", "priority"), rows)
        if reports:
            print("\nServers")
            print_table(
                ("server", "over", "address", "verdict", "round trip", "detail"),
                [_row(report) for report in reports],
                fine,
            )
    return SUCCESS if candidates and all(fine) else FAILURE


async def _gather(servers: list[IceServer]) -> tuple[list[Any], list[ServerReport]]:
    from ..ice import Connection

    progress("gathering")
    async with Connection(ice_controlling=True, ice_servers=servers) as connection:
        await connection.gather_candidates()
        return connection.local_candidates, connection.server_reports


def _row(report: ServerReport) -> tuple[str, ...]:
    verdict = f"{report.verdict} {report.code}" if report.code else str(report.verdict)
    address = f"{report.address[0]}:{report.address[1]}" if report.address else ""
    return report.url, report.transport, address, verdict, milliseconds(report.rtt), report.detail


def _as_json(report: ServerReport) -> dict[str, Any]:
    return {
        "url": report.url,
        "transport": report.transport,
        "address": list(report.address) if report.address else None,
        "verdict": str(report.verdict),
        "code": report.code or None,
        "detail": report.detail,
        "rtt": report.rtt,
        "candidates": [candidate.to_sdp() for candidate in report.candidates],
    }
