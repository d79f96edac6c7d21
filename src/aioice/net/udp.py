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
import struct
import sys
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioice.core.machine import Address

    Buffer = bytes | bytearray | memoryview

#: Reads for each wake-up, each of one datagram or of one batch, and seconds after which no further one is begun:
#: others on the loop get their turn after at most these.
READ_BATCH = 32
READ_TIME = 0.001

#: A wake-up that reads so many datagrams one by one turns UDP_GRO on, for good: what waits as a batch when it is turned
#: off would come as one datagram.
GRO_TRIGGER = 16

#: Datagrams of one turn of the loop that leave at once; further ones to the same peer wait for its end.
EAGER = 2

#: Of linux/udp.h: at most so many datagrams, and bytes with the headers, leave by one system call (UDP_MAX_SEGMENTS).
SEGMENTS = 64
BATCH_BYTES = 65487

#: Any datagram fits. CPython shrinks the buffer in place, which stays cheap below malloc's mmap threshold (128 KiB).
READ_SIZE = 65536

#: Asked of the system, which cuts it to its own limit.
RECEIVE_BUFFER = 4 << 20

#: Datagrams and bytes that wait while the socket is blocked; what comes on top is dropped and counted.
QUEUE_DATAGRAMS = 1024
QUEUE_BYTES = 1 << 20

#: The protocol is asked to pause when more bytes than this wait (or half of the datagrams), and to go on at a quarter.
HIGH_WATER = 1 << 18

#: Seconds in which a closed socket may still send what it accepted.
LINGER = 2.0

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

#: Of linux/udp.h and linux/socket.h, likewise.
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

#: struct cmsghdr with an int.
GRO_ANCILLARY = 64

#: Whether many datagrams may pass by one system call where the system knows how.
HAS_OFFLOAD = sys.platform == "linux"

#: A batch is refused for the size of its datagrams: over the path's MTU, where a datagram alone would be fragmented.
BAD_SIZE = frozenset((errno.EINVAL, errno.EMSGSIZE))

#: The system cannot send batches on this way at all.
NO_BATCHES = frozenset((errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT))


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
    (then use :func:`~aioice.net.endpoint.open_endpoint`).
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


class UdpTransport(asyncio.DatagramTransport):
    """Takes over a non-blocking UDP socket that is bound; :func:`open_udp` makes both.

    ``protocol`` may have two callbacks beside asyncio's: ``peer_unreachable(peer, exc)``, and ``batch_received(data, size,
    addr)`` for datagrams of ``size`` bytes each, but for the last that may be shorter, one behind the other.
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
        "_gro",
        "_run",
        "_run_peer",
        "_run_size",
        "_run_most",
        "_batch_below",
        "_eager",
        "_turn_planned",
        "_sockname",
        "_queue",
        "_queued_bytes",
        "_high_water",
        "_paused",
        "_errors_waiting",
        "_closing",
        "dropped",
        "packets_sent",
        "bytes_sent",
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
        #: Whether UDP_GRO is on; None if that has not been tried.
        self._gro: bool | None = None if HAS_OFFLOAD else False
        #: Datagrams that leave together at the end of the turn, all of one size and to one peer. While there are any,
        #: nothing is queued.
        self._run: list[bytes] | None = None
        self._run_peer: Any = None
        self._run_size = 0
        self._run_most = 0
        #: Only datagrams that are smaller leave in batches; None if the system has not been asked whether it can.
        self._batch_below: int | None = None if HAS_OFFLOAD else 0
        #: How many more datagrams leave at once.
        self._eager = EAGER
        self._turn_planned = False
        self._queue: deque[tuple[bytes, Any]] | None = None
        self._queued_bytes = 0
        self._high_water = HIGH_WATER
        self._paused = False
        self._errors_waiting = False
        self._closing = False
        #: Datagrams that were not sent because the socket was blocked for too long.
        self.dropped = 0
        #: Datagrams that came by :meth:`send_soon` and :meth:`send_many`, and their bytes.
        self.packets_sent = 0
        self.bytes_sent = 0
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
        return self._queued_bytes + sum(map(len, self._run or ()))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """``high`` bytes may wait for a blocked socket before the protocol is asked to pause; ``low`` is a quarter."""
        self._high_water = HIGH_WATER if high is None else high

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        """Send now, or queue while the socket is blocked.

        A datagram that is too big raises :exc:`OSError` (EMSGSIZE); other errors go to the protocol.
        """
        if self._run:
            self._flush()
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

    def send_soon(self, data: bytes, addr: Any) -> None:
        """As :meth:`sendto`, but from the third in a turn of the loop on they wait for its end, to leave together.

        The order is kept, whatever is sent in between by whichever method and to whomever.
        """
        run = self._run
        if run and len(data) == self._run_size and addr == self._run_peer:
            run.append(data)
            if len(run) == self._run_most:
                self._flush()
            return
        if run and 0 < len(data) < self._run_size and addr == self._run_peer:
            # Only the last of a batch may be shorter.
            run.append(data)
            self._flush()
            return
        most = 1 if self._eager or self._queue or self._closing else self._most(len(data))
        if most < 2:
            if self._eager:
                self._eager -= 1
            self.packets_sent += 1
            self.bytes_sent += len(data)
            self.sendto(data, addr)
            return
        if run:
            self._flush()
        self._run = [data]
        self._run_peer = addr
        self._run_size = len(data)
        self._run_most = most
        if not self._turn_planned:
            self._turn_planned = True
            self._loop.call_soon(self._turn_ends)

    def send_many(self, datagrams: Sequence[bytes], addr: Any) -> int:
        """Send all now; how many were taken: fewer than all if the socket is blocked and the high-water mark reached.

        One that is too big raises :exc:`OSError` (EMSGSIZE); those before it have been sent.
        """
        if self._run:
            self._flush()
        start, count = 0, len(datagrams)
        while start < count and not (self._closing or self._paused):
            size = len(datagrams[start])
            end = start + 1
            if not self._queue:
                stop = min(start + self._most(size), count)
                while end < stop and len(datagrams[end]) == size:
                    end += 1
                if end < stop and 0 < len(datagrams[end]) < size:
                    end += 1
            batch = datagrams[start:end]
            self._count(batch, size)
            if len(batch) == 1:
                self.sendto(batch[0], addr)
            else:
                self._send_batch(batch, size, addr)
            start = end
        return start

    def discard(self, addr: Any) -> None:
        """Forget what waits to be sent to ``addr``."""
        if self._run and self._run_peer == addr:
            self._run = None
        if self._queue:
            kept = [entry for entry in self._queue if entry[1] != addr]
            self._queue.clear()  # not replaced: the writer may be at it
            self._queue.extend(kept)
            self._queued_bytes = sum(len(data) for data, _ in kept)
            if not kept:
                self._loop.remove_writer(self._fd)
            self._resume()

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

    # ---------------------------------------------------------------------------------------------------------- sending

    def _most(self, size: int) -> int:
        """How many datagrams of this size may leave by one system call."""
        below = self._batch_below
        if below is None:
            below = self._batch_below = self._probe_batches()
        return min(SEGMENTS, BATCH_BYTES // size) if 0 < size < below else 1

    def _probe_batches(self) -> int:
        """Never by sending: systems that do not know the option let the whole batch out as one datagram."""
        try:
            self._sock.getsockopt(SOL_UDP, UDP_SEGMENT)
        except OSError:
            return 0
        return BATCH_BYTES

    def _turn_ends(self) -> None:
        self._turn_planned = False
        if self._run:
            self._flush()
        self._eager = EAGER

    def _flush(self) -> None:
        run = self._run
        self._run = None
        if run:
            self._count(run, self._run_size)
            self._send_batch(run, self._run_size, self._run_peer)

    def _count(self, run: Sequence[bytes], size: int) -> None:
        """All but the last are of this size."""
        self.packets_sent += len(run)
        self.bytes_sent += size * (len(run) - 1) + len(run[-1])

    def _send_batch(self, run: Sequence[bytes], size: int, addr: Any) -> None:
        """One system call for all; what cannot leave so leaves one by one."""
        if len(run) > 1:
            control = [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))]
            for _ in range(RETRIES):
                try:
                    self._sock.sendmsg(run, control, 0, addr)
                except BlockingIOError:
                    for data in run:
                        self._enqueue(data, addr)
                except OSError as exc:
                    self._errors_waiting = True
                    if exc.errno in BAD_SIZE:
                        self._batch_below = min(size, self._batch_below or 0)
                    elif exc.errno in NO_BATCHES:
                        self._batch_below = 0
                    elif exc.errno not in NO_ROOM:
                        continue  # it may be another peer's that waited for the next system call
                    break
                return
        for data in run:
            try:
                self.sendto(data, addr)
            except OSError as exc:
                self._refused(exc, addr)

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
        if not self._paused and (
            self._queued_bytes > self._high_water or len(self._queue) > QUEUE_DATAGRAMS // 2
        ):
            self._paused = True
            self._tell(self._protocol.pause_writing)

    def _resume(self) -> None:
        if self._paused and not (
            self._queued_bytes > self._high_water // 4 or len(self._queue or ()) > QUEUE_DATAGRAMS // 4
        ):
            self._paused = False
            self._tell(self._protocol.resume_writing)

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception as exc:
            self._contain(exc)

    def _write_ready(self) -> None:
        queue = self._queue
        if self._closing:
            # The reader is gone that else does it.
            self._drain_errors()
        while queue:
            data, addr = queue[0]
            run = self._head(queue, data, addr)
            exc = self._send_head(run, len(data), addr)
            if isinstance(exc, BlockingIOError):
                self._resume()
                return
            for _ in run:
                self._queued_bytes -= len(queue.popleft()[0])
            if exc is not None:
                self._refused(exc, addr)
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._finish()
            else:
                self._resume()

    def _head(self, queue: deque[tuple[bytes, Any]], first: bytes, addr: Any) -> list[bytes]:
        """What may leave by one system call."""
        run: list[bytes] = []
        for data, peer in islice(queue, self._most(len(first))):
            if peer != addr or len(data) > len(first) or not data and run:
                break
            run.append(data)
            if len(data) < len(first):
                break
        return run

    def _send_head(self, run: list[bytes], size: int, addr: Any) -> OSError | None:
        try:
            if len(run) == 1:
                self._send(run[0], addr)
            else:
                self._sock.sendmsg(run, [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))], 0, addr)
        except BlockingIOError as exc:
            return exc
        except OSError as exc:
            self._errors_waiting = True
            if len(run) > 1 and exc.errno in BAD_SIZE | NO_BATCHES:
                self._batch_below = size if exc.errno in BAD_SIZE else 0
            del run[1:]
            return self._retry(run[0], addr)
        return None

    # -------------------------------------------------------------------------------------------------------- receiving

    def _read_ready(self) -> None:
        self._eager = EAGER
        if self._errors_waiting:
            self._drain_errors()
        if self._gro:
            self._read_batches()
            return
        for count in range(self._batch):
            if self._closing:
                return
            try:
                data, addr = self._receive(READ_SIZE)
            except BlockingIOError:
                self._nothing_more(count)
                return
            except OSError as exc:
                if not self._drain_errors():
                    self._report(exc, None)
                return
            try:
                self._protocol.datagram_received(data, addr[:2] if self._ipv6 else addr)
            except Exception as exc:
                self._contain(exc)
        if self._batch >= GRO_TRIGGER and self._gro is None:
            self._start_batches()
        self._batch = min(2 * self._batch, READ_BATCH)

    def _nothing_more(self, count: int) -> None:
        """``count`` reads were all there was."""
        self._batch = count or 1
        if not count:
            # Readable, and no datagram: it is the error queue that woke us.
            self._drain_errors()

    def _start_batches(self) -> None:
        try:
            self._sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError:
            self._gro = False
        else:
            self._gro = True

    def _read_batches(self) -> None:
        """As :meth:`_read_ready`; the buffer holds the largest batch, for what does not fit would be lost."""
        started = self._loop.time()
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
            size = 0
            for level, kind, value in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    size = int.from_bytes(value[:4], sys.byteorder)
            peer = addr[:2] if self._ipv6 else addr
            try:
                if 0 < size < len(data):
                    self._deliver_batch(data, size, peer)
                else:
                    self._protocol.datagram_received(data, peer)
            except Exception as exc:
                self._contain(exc)
            if count and self._loop.time() - started > READ_TIME:
                return
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
