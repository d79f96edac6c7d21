"""asyncio's transports over the sockets and streams of simulated hosts."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast

from ..core.machine import Reason
from .links import is_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..core.machine import Address
    from .endpoints import Endpoints
    from .hosts import Host, Listener, Socket, Stream

    Buffer = bytes | bytearray | memoryview


class DatagramTransport(asyncio.DatagramTransport):
    """Over one socket. A ``strict`` one raises for a datagram that is too big, as :mod:`aioice.net`'s own does."""

    def __init__(self, loop: Endpoints, socket: Socket, remote: Address | None = None, *, strict: bool = False) -> None:
        super().__init__()
        self._loop = loop
        self._socket = socket
        self._remote = remote
        self._strict = strict
        self._closing = False
        self._protocol: asyncio.DatagramProtocol
        #: Callbacks run on the host, and with the variables, of who opened the socket.
        self._context = copy_context()
        #: Datagrams that were not sent because the socket was blocked: none ever.
        self.dropped = 0
        loop.endpoints[self] = None
        socket.on_datagram = self._arrived
        socket.on_error = self._failed

    def __repr__(self) -> str:
        return f"<DatagramTransport {self._sockname()} of {self._socket.host!r}{' closing' if self._closing else ''}>"

    def start(self, protocol: asyncio.DatagramProtocol) -> None:
        """Give it a protocol, which is told at once."""
        self._protocol = protocol
        self._contained(protocol.connection_made, self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return self._sockname()
        if name == "peername" and self._remote is not None:
            return self._remote
        return default

    def _sockname(self) -> tuple[Any, ...]:
        host, port = self._socket.local
        if self._socket.wildcard:
            host = "::" if is_ipv6(host) else "0.0.0.0"
        return (host, port, 0, 0) if is_ipv6(host) else (host, port)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.DatagramProtocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        """Send a datagram at once."""
        if self._closing:
            return
        if addr is None:
            if self._remote is None:
                raise ValueError("a transport that is not connected needs an address")
            addr = self._remote
        elif self._remote is not None and tuple(addr[:2]) != self._remote:
            raise ValueError(f"Invalid address: must be None or {self._remote}")
        peer = (addr[0], addr[1])
        reason = self._socket.send(peer, bytes(data))
        if reason is None:
            return
        if reason is Reason.TOO_BIG and self._strict:
            from .endpoints import error_of

            raise error_of(reason)
        self._loop.call_soon(self._tell, peer, reason, context=self._context)

    def close(self) -> None:
        """Close; ``connection_lost`` follows."""
        if not self._closing:
            self.release()
            if not self._loop.is_closed():
                self._loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    abort = close

    def release(self) -> None:
        """Close and tell nobody."""
        self._closing = True
        self._socket.close()
        self._loop.endpoints.pop(self, None)

    def _arrived(self, peer: Address, data: bytes) -> None:
        if self._remote in (None, peer):
            self._loop.call_soon(self._deliver, peer, data, context=self._context)

    def _deliver(self, peer: Address, data: bytes) -> None:
        if not self._closing:
            ipv6 = is_ipv6(peer[0]) and not self._strict
            self._contained(self._protocol.datagram_received, data, (*peer, 0, 0) if ipv6 else peer)

    def _failed(self, peer: Address, reason: Reason) -> None:
        self._loop.call_soon(self._tell, peer, reason, context=self._context)

    def _tell(self, peer: Address, reason: Reason) -> None:
        if self._closing:
            return
        from .endpoints import error_of

        error = error_of(reason)
        self._contained(self._protocol.error_received, error)
        told: Callable[[Address, OSError], None] | None = getattr(self._protocol, "peer_unreachable", None)
        if told is not None:
            self._contained(told, peer, error)

    def _contained(self, callback: Callable[..., object], *args: object) -> None:
        try:
            callback(*args)
        except Exception as exc:
            context = {"message": "exception in a datagram callback", "exception": exc, "transport": self}
            self._loop.call_exception_handler(context)


class StreamTransport(asyncio.Transport):
    """Over one end of a stream. What is written is under way at once: there is nothing to wait for."""

    def __init__(self, loop: Endpoints, stream: Stream, encrypted: bool = False) -> None:
        super().__init__()
        self._loop = loop
        self._stream = stream
        self._encrypted = encrypted
        self._closing = False
        self._lost = False
        self._finished = False
        self._protocol: Any = None
        self._context = copy_context()
        #: What has come while reading was paused; None while it is not. The last may be the end.
        self._paused: deque[bytes | None] | None = None
        loop.endpoints[self] = None
        stream.on_data = self._arrived
        stream.on_eof = stream.on_close = lambda: self._arrived(None)

    def start(self, protocol: Any) -> None:
        """Give it a protocol, which is told at once."""
        self._protocol = protocol
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return _with_scope(self._stream.local)
        if name == "peername":
            return _with_scope(self._stream.peer)
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._protocol)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing and self._paused is None

    def pause_reading(self) -> None:
        if self._paused is None:
            self._paused = deque()

    def resume_reading(self) -> None:
        waiting, self._paused = self._paused or (), None
        for data in waiting:
            self._arrived(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (0, 0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever buffered."""

    def write(self, data: Buffer) -> None:
        if self._finished:
            raise RuntimeError("Cannot call write() after write_eof()")
        if data and not self._closing:
            self._stream.send(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return not self._encrypted

    def write_eof(self) -> None:
        if not self._finished:
            self._finished = True
            self._stream.finish()

    def close(self) -> None:
        """Close; what was written arrives still."""
        if not self._closing:
            self._closing = True
            self._stream.close()
            self._lose(None)

    abort = close

    def release(self) -> None:
        """Close and tell nobody."""
        self._closing = self._lost = True
        self._stream.close()
        self._loop.endpoints.pop(self, None)

    def _lose(self, exc: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.endpoints.pop(self, None)
            if not self._loop.is_closed():
                self._loop.call_soon(self._protocol.connection_lost, exc, context=self._context)

    def _arrived(self, data: bytes | None) -> None:
        self._loop.call_soon(self._deliver, data, context=self._context)

    def _deliver(self, data: bytes | None) -> None:
        if self._closing:
            return
        if self._paused is not None:
            self._paused.append(data)
        elif data is not None:
            self._contained(self._feed, data)
        elif not self._contained(self._protocol.eof_received) or self._stream.closed:
            self.close()

    def _feed(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            protocol.data_received(data)
            return
        while data:
            buffer = cast("memoryview", protocol.get_buffer(len(data)))
            size = min(len(buffer), len(data))
            buffer[:size], data = data[:size], data[size:]
            protocol.buffer_updated(size)

    def _contained(self, callback: Callable[..., Any], *args: object) -> Any:
        try:
            return callback(*args)
        except Exception as exc:
            context = {"message": "exception in a stream's callback", "exception": exc, "transport": self}
            self._loop.call_exception_handler(context)
            self.close()
            return None


class Server(asyncio.AbstractServer):
    """Made by ``create_server`` and :func:`asyncio.start_server` on a simulated loop."""

    def __init__(self, loop: Endpoints, host: Host, protocol_factory: Callable[[], Any], encrypted: bool) -> None:
        self._loop = loop
        self._host = host
        self._factory = protocol_factory
        self._encrypted = encrypted
        self._serving = False
        self._closed = loop.create_future()
        self._context = copy_context()
        self.listeners: list[Listener] = []
        loop.endpoints[self] = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def sockets(self) -> tuple[Any, ...]:
        """One for each address, with ``getsockname()``."""
        return tuple(_Listening(listener.local) for listener in self.listeners)

    def is_serving(self) -> bool:
        return self._serving

    async def start_serving(self) -> None:
        if not self._serving:
            self._serving = True
            for listener in self.listeners:
                self._host.listen(listener)

    async def serve_forever(self) -> None:
        await self.start_serving()
        try:
            await asyncio.shield(self._closed)
        finally:
            self.close()

    def close(self) -> None:
        """Accept no more; what is open stays."""
        self.release()
        if not self._closed.done():
            self._closed.set_result(None)

    def release(self) -> None:
        """Close and tell nobody."""
        self._serving = False
        for listener in self.listeners:
            if self._host.listeners.get(listener.local) is listener:
                del self._host.listeners[listener.local]
        self._loop.endpoints.pop(self, None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    def accept(self, stream: Stream) -> None:
        """A stream has come in."""
        self._loop.call_soon(self._accept, stream, context=self._context)

    def _accept(self, stream: Stream) -> None:
        transport = StreamTransport(self._loop, stream, self._encrypted)
        transport.start(self._factory())


class _Listening:
    """As much of a socket as programs ask a server's for."""

    def __init__(self, local: Address) -> None:
        self._local = local

    def getsockname(self) -> tuple[Any, ...]:
        return _with_scope(self._local)


def _with_scope(address: Address) -> tuple[Any, ...]:
    return (*address, 0, 0) if is_ipv6(address[0]) else address
