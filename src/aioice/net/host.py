"""What a driver needs of the machine it runs on: sockets, streams and names; and the asyncio implementation."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Protocol

from aioice.core.machine import Reason

from .stream import open_stream
from .udp import open_endpoint, open_udp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from aioice.core.machine import Address

    Opening = asyncio.DatagramTransport | Coroutine[Any, Any, asyncio.DatagramTransport]

#: Names looked up at a time; further ones wait.
MAX_LOOKUPS = 16

_REASONS = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.EHOSTUNREACH: Reason.UNREACHABLE,
    errno.ENETUNREACH: Reason.UNREACHABLE,
    errno.EHOSTDOWN: Reason.UNREACHABLE,
    errno.ENETDOWN: Reason.UNREACHABLE,
    # Linux: a firewall's rule on the way out.
    errno.EPERM: Reason.UNREACHABLE,
    errno.EACCES: Reason.UNREACHABLE,
    errno.EADDRNOTAVAIL: Reason.BIND,
    errno.EADDRINUSE: Reason.BIND,
    errno.ETIMEDOUT: Reason.TIMED_OUT,
    errno.ECONNRESET: Reason.CLOSED,
    errno.ECONNABORTED: Reason.CLOSED,
    errno.EPIPE: Reason.CLOSED,
    errno.EMSGSIZE: Reason.TOO_BIG,
}


def reason_of(exc: BaseException | None) -> Reason:
    """Why a send, a stream's opening or a link failed; None is the orderly end of a stream."""
    if exc is None or isinstance(exc, EOFError):
        return Reason.CLOSED
    if isinstance(exc, ssl.SSLError):
        return Reason.TLS
    if isinstance(exc, socket.gaierror):
        return Reason.NAME_NOT_FOUND
    if isinstance(exc, TimeoutError):
        return Reason.TIMED_OUT
    if isinstance(exc, OSError) and exc.errno is not None:
        return _REASONS.get(exc.errno, Reason.OTHER)
    if isinstance(exc, ValueError):
        # A frame that is none.
        return Reason.NOT_STUN
    if isinstance(exc, ConnectionError):
        # asyncio raises it without a number.
        return Reason.CLOSED
    return Reason.OTHER


class Host(Protocol):
    """A place where machines can run: sockets, a simulated network, ..."""

    def open_udp(self, protocol: asyncio.DatagramProtocol, host: str, port: int = 0) -> Opening:
        """Bind; the transport where that is possible at once, else what gives it when awaited."""

    async def open_stream(
        self, protocol: asyncio.DatagramProtocol, peer: Address, server_name: str | None
    ) -> asyncio.DatagramTransport:
        """Connect to ``peer``, over TLS when ``server_name`` is not None; the transport delivers whole frames."""

    async def resolve(self, name: str) -> tuple[str, ...]:
        """The addresses of ``name``, in the order of preference; none if there are none. Does not raise."""


class AsyncioHost:
    """This machine's sockets on an asyncio loop.

    ``resolver`` looks mDNS names up, which the system's resolver often cannot.
    """

    __slots__ = (
        "_loop",
        "_ssl_context",
        "_resolver",
        "_has_readers",
        "_lookups",
        "_waiting",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Callable[[str], Awaitable[tuple[str, ...]]] | None = None,
    ) -> None:
        self._loop = loop
        self._ssl_context = ssl_context
        self._resolver = resolver
        self._has_readers = True
        self._lookups = 0
        self._waiting: list[tuple[str, asyncio.Future[tuple[str, ...]]]] = []

    def open_udp(self, protocol: asyncio.DatagramProtocol, host: str, port: int = 0) -> Opening:
        if self._has_readers:
            try:
                return open_udp(self._loop, protocol, host, port)
            except NotImplementedError:
                self._has_readers = False
        return open_endpoint(self._loop, protocol, host, port)

    async def open_stream(
        self, protocol: asyncio.DatagramProtocol, peer: Address, server_name: str | None
    ) -> asyncio.DatagramTransport:
        context = None
        if server_name is not None:
            if self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()
            context = self._ssl_context
        return await open_stream(self._loop, protocol, peer, context, server_name)

    async def resolve(self, name: str) -> tuple[str, ...]:
        literal = _literal(name)
        if literal is not None:
            return (literal,)
        if name.rstrip(".").lower().endswith(".local"):
            return await self._resolver(name) if self._resolver is not None else ()
        future: asyncio.Future[tuple[str, ...]] = self._loop.create_future()
        self._waiting.append((name, future))
        self._start_lookups()
        return await future

    def _start_lookups(self) -> None:
        """Start the look-ups that may run. Daemon threads of our own: a name that never answers must neither hold up
        the end of the program, as a thread of the loop's executor does, nor take that executor from others."""
        while self._waiting and self._lookups < MAX_LOOKUPS:
            name, future = self._waiting.pop(0)
            if not future.done():
                self._lookups += 1
                threading.Thread(target=self._look_up, args=(name, future), name="aioice-dns", daemon=True).start()

    def _look_up(self, name: str, future: asyncio.Future[tuple[str, ...]]) -> None:
        addresses = _getaddrinfo(name)
        try:
            self._loop.call_soon_threadsafe(self._looked_up, future, addresses)
        except RuntimeError:
            # The loop was closed meanwhile: nobody waits.
            return

    def _looked_up(self, future: asyncio.Future[tuple[str, ...]], addresses: tuple[str, ...]) -> None:
        self._lookups -= 1
        if not future.done():
            future.set_result(addresses)
        self._start_lookups()


def _getaddrinfo(name: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError):
        # ValueError: not a name at all (a zero byte, a label of over 63 bytes).
        return ()
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def _literal(name: str) -> str | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, name))
        except (OSError, ValueError):
            continue
    return None
