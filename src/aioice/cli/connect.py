"""``aioice connect``: two terminals connect, by copy and paste or a rendezvous; then chat, ping or throughput."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from .output import (
    FAILURE,
    SUCCESS,
    USAGE,
    add_server_options,
    coloured,
    complain,
    ice_servers,
    print_json,
    shown,
)

if TYPE_CHECKING:
    import argparse

    from ..ice import Connection
    from ..servers import IceServer

#: What a datagram is, by its first byte: a line of the chat, ping and answer, ballast, how much of it came, the end.
TEXT, PING, PONG, BALLAST, COUNT, REPORT, BYE = b"tpebcrq"
PINGS = 10
#: Bytes of a datagram of ballast: fits every path (RFC 8200 §5).
BALLAST_SIZE = 1200
#: Seconds that answers are waited for.
WAIT = 2.0
#: A description is read up to here.
MAX_DESCRIPTION = 65536


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the command line."""
    parser = commands.add_parser(
        "connect",
        help="connect to another terminal",
        description="Prints a line to paste into the other terminal, where this runs too, and reads that one's line; "
        "with --rendezvous nothing is pasted. Then what is typed goes to the other side.",
        epilog="Exit codes: 0 connected and ended, 1 not connected or lost, 2 wrong call, 130 Ctrl-C.",
    )
    add_server_options(parser)
    parser.add_argument(
        "--rendezvous",
        metavar="URL",
        help="meet the other terminal, which gives the same URL, at an aioice rendezvous: ws://HOST:PORT/NAME, wss://…",
    )
    parser.add_argument("--ping", action="store_true", help=f"send {PINGS} pings instead of a chat, and end")
    parser.add_argument("--throughput", type=float, metavar="SECONDS", help="send as much as goes through, and end")
    parser.add_argument("--serve", action="store_true", help="answer the other side's pings until it ends")
    parser.add_argument("--trace", metavar="FILE", help="record the session; see aioice trace")
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Connect and talk; returns the exit code."""
    from .websocket import parse_url

    try:
        servers = ice_servers(options)
        if options.rendezvous is not None:
            parse_url(options.rendezvous)
    except ValueError as exc:
        complain(str(exc))
        return USAGE
    try:
        return asyncio.run(_connect(servers, options))
    except (ConnectionError, ValueError) as exc:
        complain(str(exc))
        return FAILURE
    except OSError as exc:
        complain(str(exc))
        return USAGE


# ----------------------------------------------------------------------------------------------------- what is pasted


def describe(connection: Connection) -> str:
    """Credentials and candidates as one word."""
    values = {
        "ufrag": connection.local_username,
        "pwd": connection.local_password,
        "candidates": [candidate.to_sdp() for candidate in connection.local_candidates],
    }
    return b64encode(json.dumps(values, separators=(",", ":")).encode()).decode()


async def apply(connection: Connection, word: str) -> None:
    """:raises ValueError: when the word is no description."""
    from ..ice import Candidate, validate_password, validate_username

    if len(word) > MAX_DESCRIPTION:
        raise ValueError("this is too long for the other terminal's line")
    try:
        values: Any = json.loads(b64decode(word.strip(), validate=True))
        username, password = values["ufrag"], values["pwd"]
        validate_username(username)
        validate_password(password)
        candidates = [Candidate.from_sdp(line) for line in values["candidates"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("this is not the line of another aioice connect") from None
    connection.remote_username, connection.remote_password = username, password
    for candidate in candidates:
        await connection.add_remote_candidate(candidate)
    await connection.add_remote_candidate(None)


class Lines:
    """What is typed, or stands in a file. A thread reads: loops wait for pipes and terminals alone."""

    def __init__(self) -> None:
        self._data = b""
        self._ended = False

    async def readline(self) -> bytes:
        """As a StreamReader's; a line that is longer than anybody types comes in pieces."""
        while b"\n" not in self._data and len(self._data) <= MAX_DESCRIPTION and not self._ended:
            data = await self._read()
            self._data += data
            self._ended = not data
        line, end, self._data = self._data.partition(b"\n")
        return line + end

    @staticmethod
    def _read() -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()

        def told(data: bytes) -> None:
            if not future.done():
                future.set_result(data)

        def read() -> None:
            data = b""
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                data = os.read(sys.stdin.fileno(), MAX_DESCRIPTION)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(told, data)

        # Nobody waits for it at the end, as for the threads of an executor.
        threading.Thread(target=read, daemon=True).start()
        return future


async def _connect(servers: list[IceServer], options: argparse.Namespace) -> int:
    from ..ice import Connection

    # Both control: the conflict settles who does (RFC 8445 §7.3.1.1), so that nobody has to be told.
    connection = Connection(ice_controlling=True, ice_servers=servers, trace=options.trace)
    lines = Lines()
    async with connection:
        _say("gathering candidates …")
        await connection.gather_candidates()
        if options.rendezvous is None:
            word = await _paste(describe(connection), lines)
        else:
            from .rendezvous import meet

            _say("waiting for the other terminal …")
            word = await meet(options.rendezvous, describe(connection))
        await apply(connection, word)
        started = asyncio.get_running_loop().time()
        await connection.connect()
        _say(f"connected after {1000 * (asyncio.get_running_loop().time() - started):.0f} ms")
        session = Session(connection)
        if options.ping:
            result: dict[str, Any] = await session.ping()
        elif options.throughput:
            result = await session.throughput(options.throughput)
        elif options.serve:
            result = await session.serve()
        else:
            result = await session.chat(lines)
        if options.json:
            print_json({**result, "stats": connection.get_stats()})
        return SUCCESS


async def _paste(word: str, lines: Lines) -> str:
    """Show ours, and return the other terminal's."""
    _say("Paste this line into the other terminal:\n")
    print(word, flush=True)
    _say("\nand its line here:")
    while True:
        line = await lines.readline()
        if not line:
            raise ValueError("the input ended before the other terminal's line")
        if line.strip():
            return line.decode("ascii", "replace").strip()


def _say(text: str) -> None:
    """To people, beside the line that is pasted."""
    print(coloured(text, "faint", sys.stderr), file=sys.stderr)


# ----------------------------------------------------------------------------------------------------- the conversation


class Session:
    """What the two terminals say to each other; each answers the other's pings, whatever else it does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._ballast = [0, 0]
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        """Ends when the other side does, or the connection."""
        while True:
            data = await self._connection.recv()
            kind, rest = data[:1], data[1:]
            if kind == bytes([TEXT]):
                print(f"{coloured('them', 'strong')}  {shown(rest.decode(errors='replace'), 2000)}", flush=True)
            elif kind == bytes([PING]):
                await self._connection.send(bytes([PONG]) + rest)
            elif kind == bytes([BALLAST]):
                self._ballast[0] += 1
                self._ballast[1] += len(data)
            elif kind == bytes([COUNT]):
                await self._connection.send(bytes([REPORT]) + b"%d %d" % tuple(self._ballast))
                self._ballast = [0, 0]
            elif kind in (bytes([PONG]), bytes([REPORT])):
                self._answers.put_nowait(data)
            elif kind == bytes([BYE]):
                return

    async def _end(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await self._reading
        with contextlib.suppress(ConnectionError):
            await self._connection.send(bytes([BYE]))

    async def chat(self, typed: Lines) -> dict[str, Any]:
        """Until either side's input ends."""
        _say("type away; Ctrl-D ends")
        lines = 0
        typing = asyncio.ensure_future(typed.readline())
        try:
            while True:
                await asyncio.wait([typing, self._reading], return_when=asyncio.FIRST_COMPLETED)
                if self._reading.done():
                    self._reading.result()
                    _say("the other side has left")
                    break
                line = typing.result()
                if not line:
                    break
                lines += 1
                await self._connection.send(bytes([TEXT]) + line.rstrip(b"\r\n")[:BALLAST_SIZE])
                typing = asyncio.ensure_future(typed.readline())
        finally:
            typing.cancel()
            await self._end()
        return {"lines": lines}

    async def serve(self) -> dict[str, Any]:
        """Until the other side ends."""
        await self._reading
        return {}

    async def _answer(self, kind: int, rest: bytes = b"") -> bytes | None:
        """The first answer of this kind and beginning."""
        try:
            async with asyncio.timeout(WAIT):
                while True:
                    data = await self._answers.get()
                    if data.startswith(bytes([kind]) + rest):
                        return data
        except TimeoutError:
            return None

    async def ping(self) -> dict[str, Any]:
        """Round trips of application data."""
        loop = asyncio.get_running_loop()
        times = []
        for number in range(PINGS):
            started = loop.time()
            await self._connection.send(bytes([PING]) + b"%d" % number)
            if await self._answer(PONG, b"%d" % number) is not None:
                times.append(loop.time() - started)
                _say(f"ping {number}: {1000 * times[-1]:.2f} ms")
            else:
                _say(f"ping {number}: lost")
        await self._end()
        if not times:
            raise ConnectionError("no ping was answered")
        result = {"sent": PINGS, "received": len(times), "min": min(times), "mean": sum(times) / len(times)}
        _say(f"{len(times)} of {PINGS} came back, in {1000 * result['min']:.2f} ms at best")
        return result

    async def throughput(self, seconds: float) -> dict[str, Any]:
        """As much as leaves; what arrives the other side counts."""
        loop = asyncio.get_running_loop()
        data = bytes([BALLAST]) + bytes(BALLAST_SIZE - 1)
        sent, started = 0, loop.time()
        while loop.time() < started + seconds:
            for _ in range(16):
                await self._connection.send(data)
            sent += 16
            await asyncio.sleep(0)
        took = loop.time() - started
        report = None
        for _ in range(3):
            await self._connection.send(bytes([COUNT]))
            if (report := await self._answer(REPORT)) is not None:
                break
        await self._end()
        if report is None:
            raise ConnectionError("the other side does not tell what arrived")
        try:
            packets, size = map(int, report[1:].split())
        except ValueError:
            raise ConnectionError("the other side does not tell what arrived") from None
        _say(f"{8 * size / took / 1e6:.1f} Mbit/s; {packets} of {sent} datagrams arrived")
        return {"seconds": took, "sent": sent, "received": packets, "bytes": size}
