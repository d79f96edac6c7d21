"""A datagram transport on an own UDP socket.

What asyncio's does not do: it sends and reads many datagrams by one system call (UDP_SEGMENT and UDP_GRO of Linux),
tells *which* peer an ICMP error came for, raises when a datagram is too big, and no error of one peer or exception of a
protocol ever stops it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .linux import (
    ERROR_ANCILLARY,
    GRO_ANCILLARY,
    HAS_ERROR_QUEUE,
    batch_size,
    icmp_errno,
    read_batches,
    report_errors,
)
from .sender import EAGER, UdpSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioice.core.machine import Address

#: Reads for each wake-up, each of one datagram or of one batch, and seconds after which no further one is begun:
#: others on the loop get their turn after at most these.
READ_BATCH = 32
READ_TIME = 0.001

#: A second read that finds nothing is not tried again for one wake-up, then for three, and so on up to these.
MAX_SINGLE = 63

#: A wake-up that reads so many datagrams one by one turns UDP_GRO on, for good: what waits as a batch when it is turned
#: off would come as one datagram.
GRO_TRIGGER = 16

#: Any datagram fits. CPython shrinks the buffer in place, which stays cheap below malloc's mmap threshold (128 KiB).
READ_SIZE = 65536

#: Asked of the system, which cuts it to its own limit.
RECEIVE_BUFFER = 4 << 20

#: Seconds in which a closed socket may still send what it accepted.
LINGER = 2.0


T = TypeVar("T")


class PortsInUse(OSError):
    """No port of the range is free."""


def bind_udp(host: str, port: int | range = 0, *, error_queue: bool = False) -> socket.socket:
    """A non-blocking UDP socket bound to ``host``, an IP address of either family, and to ``port``, or one of them."""
    ipv6 = ":" in host
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if error_queue:
            report_errors(sock, ipv6)
        if isinstance(port, int):
            sock.bind(_socket_address(host, port))
        else:
            _first_free(port, lambda free: sock.bind(_socket_address(host, free)))
    except BaseException:
        sock.close()
        raise
    return sock


def _first_free(ports: range, bind: Callable[[int], T]) -> T:
    """Try each port once, from a random one on: who comes next does not have to pass all that are in use."""
    start = int.from_bytes(os.urandom(4)) % len(ports)
    for port in (*ports[start:], *ports[:start]):
        try:
            return bind(port)
        except OSError as exc:
            # EACCES: ports below 1024. With any other error it is the address that cannot be bound.
            if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise PortsInUse(errno.EADDRINUSE, f"no port from {ports[0]} to {ports[-1]} is free")


class OwnNetwork(Protocol):
    """The ``aioice_network`` of a loop whose sockets and names are not the system's, as in :mod:`aioice.sim`.

    It stands for the computer on which the caller runs; ``with network:`` makes other code run there.
    """

    def __enter__(self) -> object: ...
    def __exit__(self, *args: object) -> None: ...

    def is_closed(self) -> bool:
        """Whether its loop is."""

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
    loop: asyncio.AbstractEventLoop, protocol: asyncio.DatagramProtocol, host: str, port: int | range = 0
) -> asyncio.DatagramTransport:
    """Bind and start to read; ``protocol.connection_made`` has been called when this returns.

    Raises :exc:`OSError` when the address cannot be bound, :exc:`NotImplementedError` when the loop has no readers
    (then use :func:`~aioice.net.endpoint.open_endpoint`).
    """
    network = own_network(loop)
    if network is not None:
        if isinstance(port, int):
            return network.open_udp(protocol, host, port)
        return _first_free(port, lambda free: network.open_udp(protocol, host, free))
    sock = bind_udp(host, port, error_queue=HAS_ERROR_QUEUE)
    try:
        return UdpTransport(loop, sock, protocol)
    except BaseException:
        sock.close()
        raise


class UdpTransport(UdpSender):
    """Takes over a non-blocking UDP socket that is bound; :func:`open_udp` makes both.

    ``protocol`` may have two callbacks beside asyncio's: ``peer_unreachable(peer, exc)``, and ``batch_received(data,
    size, addr)`` for datagrams of ``size`` bytes each, but for the last that may be shorter, one behind the other.
    """

    __slots__ = (
        "_batch",
        "_single",
        "_alone",
        "_gro",
        "_sockname",
        "__weakref__",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> None:
        super().__init__(loop, sock, protocol)
        self._sockname: Any = sock.getsockname()
        #: Reads at the next wake-up: twice as many as long as all bring something, for the one that finds nothing costs
        #: as much.
        self._batch = 1
        #: For how many wake-ups a second read is not tried, and how many of them are left.
        self._single = self._alone = 0
        #: Whether UDP_GRO is on; None if that has not been tried.
        self._gro: bool | None = None
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

    def close(self) -> None:
        """Close after what was queued has been sent. No callback but ``connection_lost`` follows."""
        if self._closing:
            return
        if self._run and not self._loop.is_closed():
            self._flush()
        self._closing = True
        self._loop.remove_reader(self._fd)
        if self._queue and not self._loop.is_closed():
            self._loop.call_later(LINGER, self.abort)
        else:
            self._finish()

    def abort(self) -> None:
        """Close now; what was queued is lost."""
        if self._sock.fileno() < 0:
            return
        self._run = None
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

    # -------------------------------------------------------------------------------------------------------- receiving

    def read_pending(self) -> None:
        """Deliver what has come already; the loop would, at its next turn."""
        if not self._closing:
            self._read_ready()

    def _read_ready(self) -> None:
        self._eager = EAGER
        if self._errors_waiting:
            self._drain_errors()
        if self._gro:
            self._read_batches()
            return
        received = self._protocol.datagram_received
        for count in range(self._batch):
            if self._closing:
                return
            try:
                data, addr = self._sock.recvfrom(READ_SIZE)
            except BlockingIOError:
                self._nothing_more(count)
                return
            except OSError as exc:
                if not self._drain_errors():
                    self._report(exc, None)
                return
            try:
                received(data, addr[:2] if self._ipv6 else addr)
            except Exception as exc:
                self._contain(exc)
        if self._alone:
            self._alone -= 1
            return
        if self._batch >= GRO_TRIGGER and self._gro is None:
            self._gro = read_batches(self._sock)
        self._batch = min(2 * self._batch, READ_BATCH)

    def _nothing_more(self, count: int) -> None:
        """``count`` reads were all there was. Where that is one for each wake-up, as in a conversation, a second one is
        seldom tried."""
        self._alone = min(2 * self._single + 1, MAX_SINGLE) if count == 1 else 0
        self._single = self._alone
        self._batch = count or 1
        if not count:
            # Readable, and no datagram: it is the error queue that woke us.
            self._drain_errors()

    def _read_batches(self) -> None:
        """As :meth:`_read_ready`; the buffer holds the largest batch, for what does not fit would be lost."""
        started = monotonic()  # uvloop's clock stands still within a turn
        for count in range(self._batch):
            if self._closing:
                return
            try:
                data, ancillary, _, addr = self._sock.recvmsg(READ_SIZE, GRO_ANCILLARY)
            except BlockingIOError:
                self._nothing_more(count)
                return
            except OSError as exc:
                if not self._drain_errors():
                    self._report(exc, None)
                return
            size = batch_size(ancillary) if ancillary else 0
            peer = addr[:2] if self._ipv6 else addr
            try:
                if 0 < size < len(data):
                    self._deliver_batch(data, size, peer)
                else:
                    self._protocol.datagram_received(data, peer)
            except Exception as exc:
                self._contain(exc)
            if count and monotonic() - started > READ_TIME:
                return
        if self._alone:
            self._alone -= 1
        else:
            self._batch = min(2 * self._batch, READ_BATCH)

    def _deliver_batch(self, data: bytes, size: int, peer: Address) -> None:
        deliver: Callable[[bytes, int, Address], None] | None = getattr(self._protocol, "batch_received", None)
        if deliver is not None:
            deliver(data, size, peer)
            return
        for start in range(0, len(data), size):
            if self._closing:
                return
            try:
                self._protocol.datagram_received(data[start : start + size], peer)
            except Exception as exc:
                self._contain(exc)

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
            code = icmp_errno(ancillary)
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
