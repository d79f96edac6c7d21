"""``aioice turn``: is this TURN server of use? Each transport, with an echo from one relayed address to another."""

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

    from ..servers import ServerUrl

#: Echoes over a relay; the first ones travel in indications, until a channel is bound.
ECHOES = 10
#: Seconds for each step.
TIME_LIMIT = 10.0


class Result:
    """What became of one transport; ``error`` says in which step it ended, if it did."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.relayed = ""
        self.mapped = ""
        #: Seconds.
        self.allocation: float | None = None
        self.permission: float | None = None
        self.channel: float | None = None
        self.lost = 0
        self.error = ""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the command line."""
    parser = commands.add_parser(
        "turn",
        help="test TURN servers",
        description="Allocates two relayed addresses over each transport, sends from one to the other and back.",
        epilog="Exit codes: 0 every transport works, 1 one does not, 2 wrong call. A server that may not send to "
        "itself (no loopback, denied peers) fails the echo though it works with others.",
    )
    add_server_options(parser, required=True)
    parser.add_argument("--all", action="store_true", help="over UDP, TCP and TLS, whatever the URIs say")
    parser.add_argument("--insecure", action="store_true", help="do not verify the certificate")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Test and print; returns the exit code."""
    from ..servers import parse_url

    try:
        ice_servers(options)
        urls = [url for text in options.servers for url in _ways(parse_url(text), options.all)]
    except ValueError as exc:
        complain(str(exc))
        return USAGE
    results = asyncio.run(_test_all(urls, options))
    if options.json:
        print_json([vars(result) for result in results])
    else:
        rows = [
            (
                r.name,
                r.relayed,
                r.mapped,
                milliseconds(r.allocation),
                milliseconds(r.permission),
                milliseconds(r.channel),
                r.error or "works",
            )
            for r in results
        ]
        headers = ("server", "relayed address", "sees us at", "allocation", "first echo", "echo", "result")
        print_table(headers, rows, [not result.error for result in results])
    return FAILURE if any(result.error for result in results) else SUCCESS


def _ways(url: ServerUrl, everything: bool) -> list[ServerUrl]:
    from ..servers import ServerUrl as Url

    if url.scheme != "turn":
        raise ValueError("only turn: and turns: are tested here; see aioice gather for STUN")
    if not everything:
        return [url]
    tls_port = 5349 if url.port == 3478 else url.port
    ways = (("udp", False, url.port), ("tcp", False, url.port), ("tcp", True, tls_port))
    return [Url("turn", url.host, port, transport, tls) for transport, tls, port in ways]


async def _test_all(urls: list[ServerUrl], options: argparse.Namespace) -> list[Result]:
    import os

    password = options.password or os.environ.get("AIOICE_PASSWORD")
    results = []
    for url in urls:
        over = "TLS" if url.tls else url.transport.upper()
        result = Result(f"{url.host}:{url.port} over {over}")
        progress(f"testing {result.name}")
        try:
            await _test(url, options.username, password, options.insecure, result)
        except (OSError, TimeoutError, _stun_error()) as exc:
            result.error = f"{result.error}: {exc}" if str(exc) else f"{result.error}: no answer"
        else:
            result.error = ""
        results.append(result)
    return results


def _stun_error() -> type[Exception]:
    from ..stun import TransactionError

    return TransactionError


class _End(asyncio.DatagramProtocol):
    """What comes over one relay."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.error: Exception | None = None

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.error = exc


async def _test(url: ServerUrl, username: str, password: str | None, insecure: bool, result: Result) -> None:
    import ssl

    from ..turn import create_turn_endpoint

    loop = asyncio.get_running_loop()
    context: bool | ssl.SSLContext = url.tls
    if url.tls and insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    ends = []
    try:
        for _ in range(2):
            result.error = "allocation"
            started = loop.time()
            made = create_turn_endpoint(
                _End, (url.host, url.port), username, password, ssl=context, transport=url.transport
            )
            ends.append(await asyncio.wait_for(made, TIME_LIMIT))
            if result.allocation is None:
                result.allocation = loop.time() - started
        (first, one), (second, other) = ends
        near, far = first.get_extra_info("sockname"), second.get_extra_info("sockname")
        mapped = first.get_extra_info("related_address")
        result.relayed, result.mapped = f"{near[0]}:{near[1]}", f"{mapped[0]}:{mapped[1]}"
        result.error = "permission and echo"
        # Each side lets the other in by sending to it (RFC 8656 §9).
        second.sendto(b"", far if near == far else near)
        times = []
        for number in range(ECHOES):
            times.append(await _echo(first, one, second, other, number, result))
            if number == 0:
                result.error = "echo"
        result.permission, result.channel = times[0], min(times[1:])
    finally:
        for transport, _ in ends:
            transport.close()
        await asyncio.sleep(0)


async def _echo(first: Any, one: _End, second: Any, other: _End, number: int, result: Result) -> float:
    """One datagram to the other relay and back; sent again after half a second, as the permission may be on its way."""
    loop = asyncio.get_running_loop()
    near, far = first.get_extra_info("sockname"), second.get_extra_info("sockname")
    data = b"\x00echo %d" % number
    started = loop.time()
    while loop.time() < started + TIME_LIMIT:
        sent = loop.time()
        first.sendto(data, far)
        try:
            async with asyncio.timeout(0.5):
                while (await other.received.get())[0] != data:
                    pass
                second.sendto(data, near)
                while (await one.received.get())[0] != data:
                    pass
            return loop.time() - sent
        except TimeoutError:
            result.lost += 1
            if one.error or other.error:
                raise one.error or other.error or TimeoutError from None
    raise TimeoutError("nothing came back")
