"""What a simulated loop opens: datagram endpoints, streams, servers and names, all on the running task's host."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl as tls
from typing import TYPE_CHECKING, Any

from ..core.address import canonical_host
from ..core.machine import Reason
from .context import current_host, host_or_none
from .hosts import LOOPBACKS, WILDCARDS, Listener, Socket
from .links import is_ipv6
from .transports import DatagramTransport, Server, StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.machine import Address
    from .hosts import Host, Stream
    from .world import World

    Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]

_ERRNO = {
    Reason.REFUSED: errno.ECONNREFUSED,
    Reason.UNREACHABLE: errno.ENETUNREACH,
    Reason.TIMED_OUT: errno.ETIMEDOUT,
    Reason.TOO_BIG: errno.EMSGSIZE,
    Reason.CLOSED: errno.EBADF,
}
_PROTOCOLS = {socket.SOCK_STREAM: 6, socket.SOCK_DGRAM: 17}


def error_of(reason: Reason, detail: str = "") -> OSError:
    """The exception that an operating system would have for it."""
    if reason is Reason.TLS:
        return tls.SSLCertVerificationError(f"certificate verify failed: {detail}")
    code = _ERRNO.get(reason, errno.EIO)
    return OSError(code, f"{os.strerror(code)}{f': {detail}' if detail else ''}")


class Network:
    """What :mod:`aioice.net` and :mod:`aioice.mdns` use on this loop in place of the system's sockets and resolver.

    It is that of one host: the given one, or the one that it is first used on.
    """

    def __init__(self, loop: Endpoints, host: Host | None) -> None:
        self._loop = loop
        self._host = host

    def __enter__(self) -> Host:
        self._host = self._host or self._loop.here()
        return self._host.__enter__()

    def __exit__(self, *args: object) -> None:
        assert self._host is not None
        self._host.__exit__(*args)

    def is_closed(self) -> bool:
        """Whether its loop is."""
        return self._loop.is_closed()

    def open_udp(self, protocol: asyncio.DatagramProtocol, host: str, port: int = 0) -> DatagramTransport:
        """A datagram transport that is bound; sends that are too big raise, errors name their peer."""
        with self as here:
            transport = DatagramTransport(self._loop, _bind(here, host, port), strict=True)
        transport.start(protocol)
        return transport

    def open_multicast(self, group: str, port: int, interface: str | int) -> Socket:
        """What ``create_datagram_endpoint`` takes as its ``sock``: a member of the group on one interface."""
        with self as here:
            try:
                return here.join_group(group, port, interface)
            except OSError as exc:
                raise OSError(errno.ENODEV, str(exc)) from None

    async def resolve(self, name: str) -> tuple[str, ...]:
        """The addresses of a name; none if it has none."""
        return await self._loop.resolve(name)


class Endpoints(asyncio.BaseEventLoop):
    """The half of :class:`Loop` that opens things."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self._networks: dict[Host, Network] = {}
        #: What is open, in the order of its opening.
        self.endpoints: dict[DatagramTransport | StreamTransport | Server, None] = {}

    @property
    def aioice_network(self) -> Network:
        """Of the host of the running task; if it runs on none, of the host that it is first used on."""
        place = host_or_none()
        if place is None or place.world is not self.world:
            return Network(self, None)
        return self._networks.setdefault(place, Network(self, place))

    async def resolve(self, name: str) -> tuple[str, ...]:
        """The addresses that the world's names say, after the time that it takes; none if there are none."""
        await asyncio.sleep(self.world.names.look_up(name)[0])
        return self.world.names.look_up(name)[1]

    def here(self) -> Host:
        """The host of the running task; :exc:`RuntimeError` if it is on none, or in another world."""
        host = current_host()
        if host.world is not self.world:
            raise RuntimeError(f"{host!r} belongs to another world")
        return host

    def _close_endpoints(self) -> None:
        for endpoint in list(self.endpoints):
            endpoint.release()
        self.endpoints.clear()

    # ------------------------------------------------------------------------------------------------------- datagrams

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """As asyncio's, on the running task's host; ``sock`` may only be one of the simulator's own."""
        remote = None
        if sock is None:
            remote = (await self._resolve(remote_addr, family, socket.SOCK_DGRAM))[0] if remote_addr else None
            local = (await self._resolve(local_addr, family, socket.SOCK_DGRAM))[0] if local_addr else None
            if local is None:
                local = (WILDCARDS[is_ipv6(remote[0]) if remote else family == socket.AF_INET6], 0)
            sock = _bind(self.here(), *local)
        elif not isinstance(sock, Socket):
            raise ValueError("sockets of the operating system do not reach into a simulated network")
        transport = DatagramTransport(self, sock, remote)
        protocol = protocol_factory()
        transport.start(protocol)
        await asyncio.sleep(0)
        return transport, protocol

    # --------------------------------------------------------------------------------------------------------- streams

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: Any = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, Any]:
        """As asyncio's. TLS takes its round trips and compares names; nothing is encrypted."""
        if sock is not None or host is None or port is None:
            raise ValueError("host and port must be given: there are no sockets of the operating system here")
        here, fault = self.here(), None
        server_name = (server_hostname or host) if ssl else None
        for peer in await self._resolve((host, port), family, socket.SOCK_STREAM):
            try:
                stream = await self._connect(here, peer, server_name, local_addr)
            except OSError as exc:
                fault = exc
            else:
                transport, protocol = StreamTransport(self, stream, bool(ssl)), protocol_factory()
                transport.start(protocol)
                return transport, protocol
        assert fault is not None
        raise fault

    async def _connect(
        self, here: Host, peer: Address, server_name: str | None, local: tuple[str, int] | None
    ) -> Stream:
        future: asyncio.Future[Stream] = self.create_future()

        def done(stream: Stream | None, reason: Reason) -> None:
            if future.cancelled():
                if stream is not None:
                    stream.close()
            elif stream is not None:
                future.set_result(stream)
            else:
                future.set_exception(error_of(reason, f"{peer[0]} port {peer[1]}"))

        event = here.connect(peer, server_name, done, local[1] if local else None)
        try:
            return await future
        except asyncio.CancelledError:
            event.cancel()
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close()
            raise

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], Any],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        family: int = 0,
        flags: int = 0,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        start_serving: bool = True,
        **options: Any,
    ) -> Server:
        """As asyncio's. With ``ssl`` it presents a certificate that is good for any name."""
        if sock is not None:
            raise ValueError("sockets of the operating system do not reach into a simulated network")
        here = self.here()
        names = list(WILDCARDS) if not host else [host] if isinstance(host, str) else list(host)
        addresses = [
            found for name in names for found in await self._resolve((name, port or 0), family, socket.SOCK_STREAM)
        ]
        port = addresses[0][1] or here.ephemeral_port()
        server = Server(self, here, protocol_factory, bool(ssl))
        for address, _ in addresses:
            if address not in here.networks and address not in (*LOOPBACKS, *WILDCARDS):
                raise _cannot_assign(address)
            if here.listener((address, port)) is not None:
                raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {address} port {port}")
            server.listeners.append(Listener((address, port), server.accept, "*" if ssl else None))
        if start_serving:
            await server.start_serving()
        return server

    # ----------------------------------------------------------------------------------------------------------- names

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Info]:
        """As asyncio's: what :attr:`World.names` say, after the time that it takes."""
        name = host.decode() if isinstance(host, bytes) else host
        literal = _literal(name)
        if literal is not None:
            found: tuple[str, ...] = (literal,)
        elif not name:
            found = WILDCARDS if flags & socket.AI_PASSIVE else LOOPBACKS
        elif name.rstrip(".").lower() == "localhost":
            found = LOOPBACKS
        else:
            found = await self.resolve(name)
        kinds = [socket.SocketKind(type)] if type else list(_PROTOCOLS)
        infos: list[Info] = []
        for address in found:
            version = socket.AF_INET6 if is_ipv6(address) else socket.AF_INET
            if family in (0, version):
                pair = (address, int(port or 0))
                for kind in kinds:
                    infos.append((version, kind, _PROTOCOLS[kind], "", (*pair, 0, 0) if is_ipv6(address) else pair))
        if not infos:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return infos

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """The first name that has the address, or the address itself; and the port as text."""
        names = self.world.names
        name = next((name for name, addresses in names.items() if sockaddr[0] in addresses), sockaddr[0])
        return (sockaddr[0] if flags & socket.NI_NUMERICHOST else name), str(sockaddr[1])

    async def _resolve(self, address: tuple[str, int], family: int, kind: socket.SocketKind) -> list[Address]:
        infos = await self.getaddrinfo(*address[:2], family=family, type=kind)
        return [(info[4][0], info[4][1]) for info in infos]


def _bind(host: Host, address: str, port: int) -> Socket:
    try:
        return host.bind(canonical_host(address), port or None)
    except OSError as exc:
        if "in use" in str(exc):
            raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {address} port {port}") from None
        raise _cannot_assign(address) from None


def _cannot_assign(address: str) -> OSError:
    return OSError(errno.EADDRNOTAVAIL, f"{os.strerror(errno.EADDRNOTAVAIL)}: {address}")


def _literal(name: str | None) -> str | None:
    try:
        return canonical_host(name) if name else None
    except ValueError:
        return None
