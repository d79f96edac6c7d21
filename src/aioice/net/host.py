"""What a driver needs of the machine it runs on: sockets, streams and names; and the asyncio implementation."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from aioice.core.machine import Reason

from .udp import PortsInUse, open_udp, own_network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from aioice.core.machine import Address

    Opening = asyncio.DatagramTransport | Coroutine[Any, Any, asyncio.DatagramTransport]

#: Names looked up at a time on one loop; further ones wait.
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

    async def fetch_credentials(self, server: int) -> tuple[str, str, float | None]:
        """User name and password for the server of this number, and when they end, by the loop's clock; may raise."""


class AsyncioHost:
    """This machine's sockets on an asyncio loop, or what the loop has in their place.

    ``resolver`` looks mDNS names up, which the system's resolver often cannot; ``ssl_contexts`` has those that are for
    one server, by the name in its certificate and the port; ``credentials`` are asked for by the number of the server.
    A socket on an address of its own gets one of ``ports``, if they are given; one on a wildcard address is a client's,
    which nobody has to let in.
    """

    __slots__ = (
        "_loop",
        "_ssl_context",
        "_ssl_contexts",
        "_resolver",
        "_credentials",
        "_has_readers",
        "_ports",
        "ports_in_use",
        "_network",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Callable[[str], Awaitable[tuple[str, ...]]] | None = None,
        ssl_contexts: Mapping[Address, ssl.SSLContext] | None = None,
        credentials: Callable[[int], Awaitable[tuple[str, str, float | None]]] | None = None,
        ports: range | None = None,
    ) -> None:
        self._loop = loop
        self._ssl_context = ssl_context
        self._ssl_contexts = ssl_contexts
        self._resolver = resolver
        self._credentials = credentials
        self._has_readers = True
        self._ports = ports
        #: The last failure for want of a free port.
        self.ports_in_use: PortsInUse | None = None
        self._network = own_network(loop)

    def open_udp(self, protocol: asyncio.DatagramProtocol, host: str, port: int = 0) -> Opening:
        if self._network is None:
            return self._open_udp(protocol, host, port)
        with self._network:
            return self._open_udp(protocol, host, port)

    def _open_udp(self, protocol: asyncio.DatagramProtocol, host: str, port: int) -> Opening:
        ports = self._ports if self._ports is not None and not port and host not in ("0.0.0.0", "::") else port
        if self._has_readers:
            try:
                return open_udp(self._loop, protocol, host, ports)
            except NotImplementedError:
                self._has_readers = False
            except PortsInUse as exc:
                self.ports_in_use = exc
                raise
        return self._open_endpoint(protocol, host, ports)

    async def _open_endpoint(
        self, protocol: asyncio.DatagramProtocol, host: str, ports: int | range
    ) -> asyncio.DatagramTransport:
        from .endpoint import open_endpoint  # only loops without readers need it

        try:
            return await open_endpoint(self._loop, protocol, host, ports)
        except PortsInUse as exc:
            self.ports_in_use = exc
            raise

    async def open_stream(
        self, protocol: asyncio.DatagramProtocol, peer: Address, server_name: str | None
    ) -> asyncio.DatagramTransport:
        context = None
        if server_name is not None and self._ssl_contexts:
            context = self._ssl_contexts.get((server_name, peer[1]))
        if server_name is not None and context is None:
            if self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()
            context = self._ssl_context
        from .stream import open_stream  # only TURN over TCP and TLS need it

        if self._network is None:
            return await open_stream(self._loop, protocol, peer, context, server_name)
        with self._network:
            return await open_stream(self._loop, protocol, peer, context, server_name)

    async def resolve(self, name: str) -> tuple[str, ...]:
        literal = _literal(name)
        if literal is not None:
            return (literal,)
        network = self._network
        if name.rstrip(".").lower().endswith(".local"):
            if self._resolver is None:
                return ()
            if network is None:
                return _usable(await self._resolver(name))
            with network:
                return _usable(await self._resolver(name))
        if network is not None:
            return await network.resolve(name)
        return await _lookups_on(self._loop).look_up(self._loop, name)

    async def fetch_credentials(self, server: int) -> tuple[str, str, float | None]:
        if self._credentials is None:
            raise LookupError("nobody has them")
        return await self._credentials(server)


class _Lookups:
    """The look-ups of one loop: each name once at a time, and not too many."""

    __slots__ = ("_askers", "_waiting", "_running")

    def __init__(self) -> None:
        #: By the names that wait or are being looked up.
        self._askers: dict[str, list[asyncio.Future[tuple[str, ...]]]] = {}
        self._waiting: list[str] = []
        self._running = 0

    async def look_up(self, loop: asyncio.AbstractEventLoop, name: str) -> tuple[str, ...]:
        future: asyncio.Future[tuple[str, ...]] = loop.create_future()
        if name not in self._askers:
            self._askers[name] = []
            self._waiting.append(name)
        self._askers[name].append(future)
        self._start(loop)
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start what may run. Daemon threads of our own: a name that never answers must neither hold up the end of the
        program, as a thread of the loop's executor does, nor take that executor from others."""
        while self._waiting and self._running < MAX_LOOKUPS:
            name = self._waiting.pop(0)
            if all(future.done() for future in self._askers[name]):
                del self._askers[name]
                continue
            self._running += 1
            try:
                threading.Thread(target=self._run, args=(loop, name), name="aioice-dns", daemon=True).start()
            except RuntimeError:
                # No thread can be had. Whoever asks next must not wait for one that does not run.
                loop.call_soon(self._done, loop, name, ())

    def _run(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        addresses = _getaddrinfo(name)
        try:
            loop.call_soon_threadsafe(self._done, loop, name, addresses)
        except RuntimeError:
            # The loop was closed meanwhile: nobody waits.
            return

    def _done(self, loop: asyncio.AbstractEventLoop, name: str, addresses: tuple[str, ...]) -> None:
        self._running -= 1
        for future in self._askers.pop(name):
            if not future.done():
                future.set_result(addresses)
        self._start(loop)


_lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookups] = WeakKeyDictionary()
_lookups_lock = threading.Lock()


def _lookups_on(loop: asyncio.AbstractEventLoop) -> _Lookups:
    with _lookups_lock:
        # What waited when its loop was closed holds that by its futures.
        for other in [other for other in _lookups if other.is_closed()]:
            del _lookups[other]
        return _lookups.setdefault(loop, _Lookups())


def _getaddrinfo(name: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError):
        # ValueError: not a name at all (a zero byte, a label of over 63 bytes).
        return ()
    return _usable(str(address[0]) for *_, address in found)


def _usable(texts: Iterable[object]) -> tuple[str, ...]:
    """The IP addresses among the texts, once each, but those with a zone: they name nobody without an interface."""
    literals = [_literal(text) for text in texts if isinstance(text, str)]
    return tuple(dict.fromkeys(literal for literal in literals if literal is not None))


def _literal(name: str) -> str | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, name))
        except (OSError, ValueError):
            continue
    return None
