"""``aioice rendezvous``: a WebSocket server at which two terminals that name the same place swap one text each."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from .output import FAILURE, SUCCESS, coloured, complain, print_json, shown

if TYPE_CHECKING:
    import argparse

    from .websocket import WebSocket

PORT = 8765
#: Clients at a time; more are sent away.
MAX_CLIENTS = 1000
#: Seconds that a client may take to say something, and wait for the other one.
PATIENCE, WAIT = 30.0, 900.0
#: Seconds between pings to who waits; one that has been silent for three of them has gone.
PING = 20.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the command line."""
    parser = commands.add_parser(
        "rendezvous",
        help="a meeting point for aioice connect --rendezvous",
        description="Serves a WebSocket at which two terminals that ask for the same path are told each other's "
        "candidates and credentials. Put a proxy with TLS before it for wss://, and use paths that cannot be guessed: "
        "who runs it, or knows the path, can come between the two.",
        epilog="Exit codes: 1 cannot listen, 2 wrong call, 130 Ctrl-C, which ends it.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="0 for any (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print where it listens for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    try:
        asyncio.run(_serve(options))
    except (OSError, OverflowError) as exc:
        complain(f"cannot listen at {shown(options.host)}, port {options.port}: {exc}")
        return FAILURE
    return SUCCESS


async def _serve(options: argparse.Namespace) -> None:
    from .websocket import MAX_HEAD

    server = await asyncio.start_server(Rendezvous(), options.host, options.port, limit=MAX_HEAD)
    host, port = server.sockets[0].getsockname()[:2]
    if options.json:
        print_json({"host": host, "port": port})
    else:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        print(
            f"listening; in two terminals: {coloured(f'aioice connect --rendezvous ws://{authority}/NAME', 'strong')}"
        )
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


async def meet(url: str, text: str) -> str:
    """Leave a text at a rendezvous, and wait for that of the other one.

    :raises ValueError: when the URL is none.
    :raises ConnectionError: when nobody came, or there is no rendezvous.
    """
    from .websocket import connect

    socket = await connect(url)
    try:
        await socket.send(text)
        answer = await socket.receive()
    finally:
        await socket.close()
    if answer is None:
        raise ConnectionError(f"the rendezvous has ended it: {shown(socket.reason) or 'no reason given'}")
    return answer


class _Client:
    """Somebody who waits."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.other: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Rendezvous:
    """Called with each connection: ``asyncio.start_server(Rendezvous(), …)``."""

    def __init__(self, *, clients: int = MAX_CLIENTS, wait: float = WAIT, ping: float = PING) -> None:
        self._room = clients
        self._wait = wait
        self._ping = ping
        self._waiting: dict[str, _Client] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from .websocket import accept

        self._room -= 1
        try:
            if self._room >= 0:
                with contextlib.suppress(OSError):  # TimeoutError is one, too
                    await self._welcome(*await accept(reader, writer))
        except asyncio.CancelledError:
            pass  # the server ends; streams would log it
        finally:
            self._room += 1
            writer.close()

    async def _welcome(self, socket: WebSocket, path: str) -> None:
        from .websocket import LATER, NORMAL

        code, reason = NORMAL, ""
        try:
            async with asyncio.timeout(PATIENCE):
                text = await socket.receive()
            if text is not None:
                other = self._waiting.pop(path, None)
                if other is None:
                    answer = await self._other(socket, path, text)
                else:
                    other.other.set_result(text)
                    answer = other.text
                if answer is not None:
                    await socket.send(answer)
                else:
                    code, reason = LATER, "nobody else came"
        finally:
            await socket.close(code, reason)

    async def _other(self, socket: WebSocket, path: str, text: str) -> str | None:
        """The text of who comes next to the same path; None when nobody does, or this one goes."""
        client = self._waiting[path] = _Client(text)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait
        leaving = asyncio.ensure_future(socket.receive())
        try:
            while not (client.other.done() or leaving.done()) and loop.time() < until:
                either: list[asyncio.Future[Any]] = [client.other, leaving]
                await asyncio.wait(either, timeout=self._ping, return_when=asyncio.FIRST_COMPLETED)
                if loop.time() - socket.heard_at > 3 * self._ping:
                    break
                if not (client.other.done() or leaving.done()):
                    await socket.ping()
            return client.other.result() if client.other.done() else None
        finally:
            if self._waiting.get(path) is client:
                del self._waiting[path]
            leaving.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await leaving
