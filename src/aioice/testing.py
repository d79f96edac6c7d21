"""This machine in place of a simulated host: the simulator's STUN and TURN servers on real sockets.

They are for tests: nothing protects them, so they are bound to loopback unless they are told otherwise.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, cast

from .net.host import reason_of
from .net.udp import UdpTransport, open_udp
from .sim.stun import StunServer
from .sim.turn import TurnServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .core.machine import Address, Reason
    from .sim.hosts import Listener

#: Ports that are tried for one that is free over UDP and TCP alike.
TRIES = 20


class Here:
    """Servers on the running loop, which must have readers (Windows' Proactor loop has none)::

        async with Here() as here:
            server = here.turn_server({"user": "password"})
            connection = Connection(True, turn_server=server.address, turn_username="user", turn_password="password")

    A server takes the same orders as in a :class:`~aioice.sim.World`: it can refuse, delay, forget and lie. The end of
    the block stops all of them.

    :param ssl_context: For TURN over TLS; without it there is none.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._ssl_context = ssl_context
        self._servers: list[StunServer] = []
        self._sockets: list[Datagrams] = []
        #: What servers know by the names of a simulated host and its world.
        self.world = self
        self.listeners = Listeners()

    def stun_server(self, address: str = "127.0.0.1", port: int = 0) -> StunServer:
        """A STUN server over UDP and TCP; ``port`` 0 for a free one, which is in its ``address``."""
        server = StunServer(self, address, port or _free_port(address))
        self._servers.append(server)
        return server

    def turn_server(
        self,
        users: dict[str, str],
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        relays: tuple[str, ...] = (),
        tls_port: int = 0,
    ) -> TurnServer:
        """A TURN server, as :meth:`stun_server`; ``users`` are passwords by name.

        ``relays`` are the addresses of relays, at most one of each family; ``address`` if there are none.
        """
        server = TurnServer(
            self,
            address,
            port or _free_port(address),
            users,
            relays or (address,),
            tls_port or _free_port(address),
            "*",
        )
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Stop all servers."""
        while self._servers:
            self._servers.pop().stop()
        while self._sockets:
            self._sockets.pop().close()

    async def __aenter__(self) -> Here:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await asyncio.sleep(0)

    # ----------------------------------------------------------------------------------- what servers ask of a host

    @property
    def now(self) -> float:
        return self._loop.time()

    def after(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback, *args)

    def random_bytes(self, size: int) -> bytes:
        return os.urandom(size)

    def bind(self, address: str, port: int = 0) -> Datagrams:
        datagrams = Datagrams()
        open_udp(self._loop, datagrams, address, port)
        self._sockets.append(datagrams)
        return datagrams

    def listen(self, listener: Listener) -> None:
        context = self._ssl_context if listener.certificate is not None else None
        if listener.certificate is not None and context is None:
            return
        family = socket.AF_INET6 if ":" in listener.local[0] else socket.AF_INET
        sock = socket.create_server(listener.local, family=family)
        sock.setblocking(False)
        self.listeners[listener.local] = Accepting(self._loop, sock, listener, context)


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket in the shape of a simulated one."""

    def __init__(self) -> None:
        self.on_datagram: Callable[[Address, bytes], None] = lambda peer, data: None
        self.on_error: Callable[[Address, Reason], None] = lambda peer, reason: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("UdpTransport", transport)
        self.local: Address = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.on_datagram(addr[:2], data)

    def peer_unreachable(self, peer: Address, exc: OSError) -> None:
        self.on_error(peer, reason_of(exc))

    def send(self, dst: Address, data: bytes) -> None:
        self._transport.sendto(data, dst)

    def close(self) -> None:
        self._transport.close()


class Bytes(asyncio.Protocol):
    """A TCP or TLS connection in the shape of a simulated stream."""

    def __init__(self, peer: Address, accept: Callable[[Any], None]) -> None:
        self.peer = peer
        self._accept = accept
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_close: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._accept(self)

    def data_received(self, data: bytes) -> None:
        self.on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_close()

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()


class Accepting:
    """A port that accepts streams."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, listener: Listener, context: ssl.SSLContext | None
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._listener = listener
        self._context = context
        self._opening: set[asyncio.Task[None]] = set()
        loop.add_reader(sock, self._ready)

    def _ready(self) -> None:
        try:
            sock, peer = self._sock.accept()
        except OSError:
            return  # it has gone meanwhile
        sock.setblocking(False)
        task = self._loop.create_task(self._open(sock, peer[:2]))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, sock: socket.socket, peer: Address) -> None:
        stream = Bytes(peer, self._listener.accept)
        try:
            await self._loop.connect_accepted_socket(lambda: stream, sock, ssl=self._context)
        except OSError:
            sock.close()  # whoever came speaks no TLS

    def close(self) -> None:
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for task in self._opening:
            task.cancel()


class Listeners(dict["Address", Accepting]):
    """Taken out, they are closed."""

    def pop(self, local: Address, *default: Any) -> Any:
        accepting = super().pop(local, None)
        if accepting is not None:
            accepting.close()
        return accepting


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(TRIES):
        with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family, socket.SOCK_STREAM) as tcp:
            udp.bind((address, 0))
            port: int = udp.getsockname()[1]
            try:
                tcp.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"no port of {address} is free over UDP and TCP")
