"""``aioice nat``: what two or more STUN servers show of the NAT's mapping (RFC 4787 §4.1)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .output import FAILURE, SUCCESS, USAGE, complain, milliseconds, print_json, print_table, progress

if TYPE_CHECKING:
    import argparse

    from ..core.machine import Address


SCHEMES = ("stun:", "stuns:", "turn:", "turns:")


class Answer:
    """What one server says; ``error`` if it says nothing."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.address: Address | None = None
        self.mapped: Address | None = None
        self.rtt: float | None = None
        self.error = ""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the command line."""
    parser = commands.add_parser(
        "nat",
        help="show what kind of NAT there is",
        description="Asks STUN servers from one UDP socket which address they see, and compares.",
        epilog="Exit codes: 0 at least one server answered, 1 none did, 2 wrong call. Two servers at different "
        "addresses are needed to tell how the NAT maps.",
    )
    parser.add_argument("servers", nargs="+", metavar="URI", help="stun:HOST[:PORT]; stun: may be left out")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask and compare; returns the exit code."""
    from ..servers import parse_url

    try:
        servers = [parse_url(url if url.lower().startswith(SCHEMES) else f"stun:{url}") for url in options.servers]
        if any(server.scheme != "stun" or server.tls or server.transport != "udp" for server in servers):
            raise ValueError("only STUN servers over UDP (stun:HOST) show the mapping of a UDP socket")
    except ValueError as exc:
        complain(str(exc))
        return USAGE
    names = [(server.host, server.port) for server in servers]
    local, answers = asyncio.run(_ask(names))
    verdict = judge(local, answers)
    if options.json:
        told = [{**vars(answer), "error": answer.error or None} for answer in answers]
        print_json({"local": local, "servers": told, "verdict": verdict})
    else:
        rows = [
            (
                a.server,
                a.address and a.address[0],
                a.mapped and f"{a.mapped[0]}:{a.mapped[1]}",
                milliseconds(a.rtt),
                a.error,
            )
            for a in answers
        ]
        good = [answer.mapped is not None for answer in answers]
        print_table(("server", "address", "sees us at", "round trip", "error"), rows, good)
        print(f"\n{verdict[:1].upper()}{verdict[1:]}.")
    return SUCCESS if any(answer.mapped for answer in answers) else FAILURE


def judge(local: list[Address], answers: list[Answer]) -> str:
    """What the answers show."""
    seen = [answer for answer in answers if answer.mapped is not None]
    if not seen:
        asked = [answer for answer in answers if answer.address is not None]
        return "no server answered: UDP may be blocked" if asked else "no server could be asked"
    mapped = {answer.mapped for answer in seen}
    if mapped <= set(local):
        return "no NAT: the servers see our own address"
    if len({answer.address and answer.address[0] for answer in seen}) < 2:
        return "there is a NAT; how it maps only a second server at another address can tell"
    if len(mapped) == 1:
        return "endpoint-independent mapping: direct connections are likely"
    hosts = {address[0] for address in mapped if address}
    more = f", and it has {len(hosts)} addresses" if len(hosts) > 1 else ""
    return f"address-dependent mapping (a symmetric NAT){more}: to peers behind such NATs a TURN server is needed"


async def _ask(servers: list[tuple[str, int]]) -> tuple[list[Address], list[Answer]]:
    """All from one socket: only so their answers can be compared."""
    from ..ice import StunProtocol, get_host_addresses
    from ..net.host import AsyncioHost

    progress("asking")
    loop = asyncio.get_running_loop()
    host = AsyncioHost(loop)
    protocol = StunProtocol(None)
    transport = host.open_udp(protocol, "0.0.0.0")
    if not isinstance(transport, asyncio.DatagramTransport):
        transport = await transport
    try:
        answers = await asyncio.gather(*(_ask_one(host, protocol, *server) for server in servers))
    finally:
        await protocol.close()
    port = transport.get_extra_info("sockname")[1]
    return [(address, port) for address in get_host_addresses(True, False)], answers


async def _ask_one(host: Any, protocol: Any, name: str, port: int) -> Answer:
    from .. import stun

    answer = Answer(f"{name}:{port}")
    addresses = [address for address in await host.resolve(name) if ":" not in address]
    if not addresses:
        answer.error = "the name is not known, or has no IPv4 address"
        return answer
    answer.address = (addresses[0], port)
    started = asyncio.get_running_loop().time()
    try:
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        response, _ = await protocol.request(request, answer.address, retransmissions=3)
    except stun.TransactionError as exc:
        answer.error = str(exc) or "no answer"
        return answer
    answer.rtt = asyncio.get_running_loop().time() - started
    answer.mapped = response.attributes.get("XOR-MAPPED-ADDRESS") or response.attributes.get("MAPPED-ADDRESS")
    answer.error = "" if answer.mapped else "the answer has no address"
    return answer
