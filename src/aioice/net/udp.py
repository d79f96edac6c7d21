"""A datagram transport on an own UDP socket.

What asyncio's does not do: it reads many datagrams for each wake-up, tells *which* peer an ICMP error came for, raises
when a datagram is too big, and no error of one peer or exception of a protocol ever stops it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioice.core.machine import Address

    Buffer = bytes | bytearray | memoryview

#: Datagrams read for each wake-up: others on the loop get their turn after at most these.
READ_BATCH = 32

#: Any datagram fits. CPython shrinks the buffer in place, which stays cheap below malloc's mmap threshold (128 KiB).
READ_SIZE = 65536

#: Asked of the system, which cuts it to its own limit.
RECEIVE_BUFFER = 4 << 20

#: Datagrams and bytes that wait while the socket is blocked; what comes on top is dropped and counted.
QUEUE_DATAGRAMS = 1024
QUEUE_BYTES = 1 << 20

#: UDP's 16-bit length, less its own header (and the IPv4 header, which counts there).
MAX_SIZE_IPV4 = 65507
MAX_SIZE_IPV6 = 65527

#: How often a send is tried again after an error, which may be another peer's that waited for the next system call.
RETRIES = 3

#: The system's own queues are full (Linux says so once IP_RECVERR is on): a loss like any other, and no peer's fault.
NO_ROOM = frozenset((errno.ENOBUFS, errno.ENOMEM))

#: Of linux/in.h and linux/in6.h; Python's socket module does not name them.
IP_RECVERR = 11
IPV6_RECVERR = 25

#: struct sock_extended_err of linux/errqueue.h: errno, origin, type, code, padding, info, data.
EXTENDED_ERROR = struct.Struct("=IBBBBII")
ORIGIN_ICMP = 2
ORIGIN_ICMP6 = 3

#: Room for one extended error; of the quoted packet only the destination is of interest, which comes as the address.
ERROR_ANCILLARY = 512

HAS_ERROR_QUEUE = sys.platform == "linux"


def bind_udp(host: str, port: int = 0, *, error_queue: bool = False) -> socket.socket:
    """A non-blocking UDP socket bound to ``host``, an IP address of either family."""
    ipv6 = ":" in host
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if error_queue:
            sock.setsockopt(*((socket.IPPROTO_IPV6, IPV6_RECVERR) if ipv6 else (socket.IPPROTO_IP, IP_RECVERR)), 1)
        sock.bind(_socket_address(host, port))
    except BaseException:
        sock.close()
        raise
    return sock


class OwnNetwork(Protocol):
    """The ``aioice_network`` of a loop whose sockets and names are not the system's, as in :mod:`aioice.sim`."""

    def open_udp(self, protocol: asyncio.DatagramProtocol, host: str, port: int = 0) -> asyncio.DatagramTransport:
        """As the function of this name."""

    def open_multicast(self, group: str, port: int, interface: str | int) -> Any:
        """A member of a multicast group on one interface (its address or index): a ``sock`` for
        ``create_datagram_endpoint`` of that loop. Raises :exc:`OSError`."""

    async def resolve(self, name: str) -> tuple[str, ...]:
        """The addresses of a name, none if there are none."""


def own_network(loop: asyncio.AbstractEventLoop) -> OwnNetwork | None:
    """The network of a loop that has one; None where it is the system's."""
    network: OwnNetwork | None = getattr(loop, "aioice_network", None)
    return network


def open_udp(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.DatagramProtocol, host: str, port: int = 0
) -> asyncio.DatagramTransport:
    """Bind and start to read; ``protocol.connection_made`` has been called when this returns.

    Raises :exc:`OSError` when the address cannot be bound, :exc:`NotImplementedError` when the loop has no readers
    (then use :func:`open_endpoint`).
    """
    network = own_network(loop)
    if network is not None:
        return network.open_udp(protocol, host, port)
    sock = bind_udp(host, port, error_queue=HAS_ERROR_QUEUE)
    try:
        return UdpTransport(loop, sock, protocol)
    except BaseException:
        sock.close()
        raise


async def open_endpoint(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.DatagramProtocol, host: str, port: int = 0
) -> asyncio.DatagramTransport:
    """The same on asyncio's own transport, for loops without readers: slower, and blind to whom an ICMP error is from.

    No error queue, as nobody would drain it, and an undrained one keeps the loop awake.
    """
    sock = bind_udp(host, port)
    try:
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    endpoint = Endpoint(transport, MAX_SIZE_IPV6 if ":" in host else MAX_SIZE_IPV4)
    transport.set_protocol(protocol)
    protocol.connection_made(endpoint)
    return endpoint


class Endpoint(asyncio.DatagramTransport):
    """asyncio's own transport, but for the caller of a send that is too big: that one does not tell it."""

    __slots__ = ("_transport", "_max_size", "__weakref__")

    def __init__(self, transport: asyncio.DatagramTransport, max_size: int) -> None:
        super().__init__()
        self._transport = transport
        self._max_size = max_size

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        if len(data) > self._max_size:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self._transport.sendto(data, addr)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class UdpTransport(asyncio.DatagramTransport):
    """Takes over a non-blocking UDP socket that is bound; :func:`open_udp` makes both.

    ``protocol`` may have ``peer_unreachable(peer, exc)`` beside asyncio's callbacks.
    """

    __slots__ = (
        "_loop",
        "_sock",
        "_fd",
        "_protocol",
        "_send",
        "_receive",
        "_ipv6",
        "_batch",
        "_sockname",
        "_queue",
        "_queued_bytes",
        "_errors_waiting",
        "_closing",
        "dropped",
        "__weakref__",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._send = sock.sendto
        self._receive = sock.recvfrom
        self._ipv6 = sock.family == socket.AF_INET6
        self._sockname: Any = sock.getsockname()
        #: Datagrams to read at the next wake-up: twice as many as long as there are, for the empty read costs as much
        #: as a full one.
        self._batch = 1
        self._queue: deque[tuple[bytes, Any]] | None = None
        self._queued_bytes = 0
        self._errors_waiting = False
        self._closing = False
        #: Datagrams that were not sent because the socket was blocked for too long.
        self.dropped = 0
        loop.add_reader(self._fd, self._read_ready)
        try:
            protocol.connection_made(self)
        except Exception as exc:
            self._contain(exc)

    def __repr__(self) -> str:
        return f"<UdpTransport {self._sockname[0]} port {self._sockname[1]}{' closing' if self._closing else ''}>"

    # ---------------------------------------------------------------------------------------------- asyncio's interface

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return self._sockname
        if name == "socket":
            return self._sock
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if not isinstance(protocol, asyncio.DatagramProtocol):
            raise TypeError("a datagram transport needs a DatagramProtocol")
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self._queued_bytes

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        """Send now, or queue while the socket is blocked.

        A datagram that is too big raises :exc:`OSError` (EMSGSIZE); other errors go to the protocol.
        """
        if self._closing:
            return
        if self._queue:
            self._enqueue(data, addr)
            return
        try:
            self._send(data, addr)
        except BlockingIOError:
            self._enqueue(data, addr)
        except OSError:
            self._send_again(data, addr)

    def close(self) -> None:
        """Close after what was queued has been sent. No callback but ``connection_lost`` follows."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._fd)
        if not self._queue:
            self._finish()

    def abort(self) -> None:
        """Close now; what was queued is lost."""
        if self._sock.fileno() < 0:
            return
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._fd)
        if self._queue:
            self._loop.remove_writer(self._fd)
            self._queue.clear()
            self._queued_bytes = 0
        self._finish()

    def _finish(self) -> None:
        self._sock.close()
        if not self._loop.is_closed():
            self._loop.call_soon(self._protocol.connection_lost, None)

    # ---------------------------------------------------------------------------------------------------------- sending

    def _send_again(self, data: Buffer, addr: Any) -> None:
        """A send failed, perhaps with an error that an earlier datagram to another peer left behind: only an error that
        stays is this datagram's own."""
        self._errors_waiting = True
        exc = self._retry(data, addr)
        if exc is None:
            return
        if isinstance(exc, BlockingIOError):
            self._enqueue(data, addr)
        elif exc.errno == errno.EMSGSIZE:
            raise exc
        else:
            self._refused(exc, addr)

    def _retry(self, data: Buffer, addr: Any) -> OSError | None:
        error: OSError | None = None
        for _ in range(RETRIES):
            try:
                self._send(data, addr)
            except BlockingIOError as exc:
                return exc
            except OSError as exc:
                error = exc
            else:
                return None
        return error

    def _refused(self, exc: OSError, addr: Any) -> None:
        if exc.errno in NO_ROOM:
            self.dropped += 1
        else:
            self._report(exc, addr)

    def _enqueue(self, data: Buffer, addr: Any) -> None:
        size = len(data)
        if size > (MAX_SIZE_IPV6 if self._ipv6 else MAX_SIZE_IPV4):
            raise OSError(errno.EMSGSIZE, "Message too long")
        if self._queue is None:
            self._queue = deque()
        if len(self._queue) >= QUEUE_DATAGRAMS or self._queued_bytes + size > QUEUE_BYTES:
            self.dropped += 1
            return
        if not self._queue:
            self._loop.add_writer(self._fd, self._write_ready)
        self._queue.append((bytes(data), addr))
        self._queued_bytes += size

    def _write_ready(self) -> None:
        queue = self._queue
        if self._closing:
            # The reader is gone that else does it.
            self._drain_errors()
        while queue:
            data, addr = queue[0]
            exc: OSError | None = None
            try:
                self._send(data, addr)
            except BlockingIOError:
                return
            except OSError:
                self._errors_waiting = True
                exc = self._retry(data, addr)
                if isinstance(exc, BlockingIOError):
                    return
            queue.popleft()
            self._queued_bytes -= len(data)
            if exc is not None:
                self._refused(exc, addr)
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._finish()

    # -------------------------------------------------------------------------------------------------------- receiving

    def _read_ready(self) -> None:
        if self._errors_waiting:
            self._drain_errors()
        for count in range(self._batch):
            if self._closing:
                return
            try:
                data, addr = self._receive(READ_SIZE)
            except BlockingIOError:
                self._batch = count or 1
                if not count:
                    # Readable, and no datagram: it is the error queue that woke us.
                    self._drain_errors()
                return
            except OSError as exc:
                if not self._drain_errors():
                    self._report(exc, None)
                return
            try:
                self._protocol.datagram_received(data, addr[:2] if self._ipv6 else addr)
            except Exception as exc:
                self._contain(exc)
        self._batch = min(2 * self._batch, READ_BATCH)

    def _drain_errors(self) -> int:
        """Hand what the error queue holds to the protocol; how many errors there were."""
        self._errors_waiting = False
        count = 0
        while HAS_ERROR_QUEUE and count < READ_BATCH and self._sock.fileno() >= 0:
            try:
                _, ancillary, _, addr = self._sock.recvmsg(0, ERROR_ANCILLARY, socket.MSG_ERRQUEUE)
            except OSError:
                # Blocking: it is empty.
                break
            count += 1
            code = _icmp_errno(ancillary)
            if code and addr:
                self._report(OSError(code, os.strerror(code)), addr)
        if count:
            self._watch_again()
        return count

    def _watch_again(self) -> None:
        """libuv no longer watches a descriptor that had an error."""
        if not self._closing:
            self._loop.remove_reader(self._fd)
            self._loop.add_reader(self._fd, self._read_ready)
        if self._queue:
            self._loop.remove_writer(self._fd)
            self._loop.add_writer(self._fd, self._write_ready)

    # -------------------------------------------------------------------------------------------------------- reporting

    def _report(self, exc: OSError, addr: Any) -> None:
        if self._closing:
            return
        try:
            self._protocol.error_received(exc)
            if addr:
                told: Callable[[Address, OSError], None] | None = getattr(self._protocol, "peer_unreachable", None)
                if told is not None:
                    told((addr[0], addr[1]), exc)
        except Exception as error:
            self._contain(error)

    def _contain(self, exc: Exception) -> None:
        self._loop.call_exception_handler(
            {
                "message": "aioice: exception in a datagram callback",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )


def _socket_address(host: str, port: int) -> Any:
    if "%" in host:
        # A scoped address: only the look-up (of a number, without a network) turns the scope into an index.
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)[0][4]
    return (host, port)


def _icmp_errno(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The error of one entry of the error queue; 0 for what a send has already told its caller."""
    for level, kind, data in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
            code, origin, *_ = EXTENDED_ERROR.unpack_from(data)
            return int(code) if origin in (ORIGIN_ICMP, ORIGIN_ICMP6) else 0
    return 0
