"""How a UDP transport sends: at once, many by one system call, or later when the socket is blocked; in order always."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from aioice.core.record import NOTHING

from .linux import batch_control, batches_leave

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Buffer = bytes | bytearray | memoryview

#: Datagrams of one turn of the loop that leave at once; further ones to the same peer wait for its end.
EAGER = 2

#: Of linux/udp.h: at most so many datagrams, and bytes with the headers, leave by one system call (UDP_MAX_SEGMENTS).
SEGMENTS = 64
BATCH_BYTES = 65487

#: Datagrams and bytes that wait while the socket is blocked; what comes on top is dropped and counted.
QUEUE_DATAGRAMS = 1024
QUEUE_BYTES = 1 << 20

#: The protocol is asked to pause when more bytes than this wait (or half of the datagrams), and to go on at a quarter.
HIGH_WATER = 1 << 18

#: UDP's 16-bit length, less its own header (and the IPv4 header, which counts there).
MAX_SIZE_IPV4 = 65507
MAX_SIZE_IPV6 = 65527

#: How often a send is tried again after an error, which may be another peer's that waited for the next system call.
RETRIES = 3

#: The system's own queues are full (Linux says so once IP_RECVERR is on): a loss like any other, and no peer's fault.
NO_ROOM = frozenset((errno.ENOBUFS, errno.ENOMEM))

#: A batch is refused for the size of its datagrams: over the path's MTU, where a datagram alone would be fragmented.
BAD_SIZE = frozenset((errno.EINVAL, errno.EMSGSIZE))

#: The system cannot send batches on this way at all.
NO_BATCHES = frozenset((errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT))


class UdpSender(asyncio.DatagramTransport):
    """The sending half of :class:`aioice.net.udp.UdpTransport`."""

    __slots__ = (
        "_loop",
        "_sock",
        "_fd",
        "_protocol",
        "_send",
        "_ipv6",
        "_run",
        "_run_peer",
        "_run_size",
        "_run_most",
        "_batch_below",
        "_eager",
        "_turn_planned",
        "_queue",
        "_queued_bytes",
        "_high_water",
        "_paused",
        "_errors_waiting",
        "_closing",
        "dropped",
        "packets_sent",
        "bytes_sent",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> None:
        super().__init__(NOTHING)  # else asyncio keeps a dictionary for each transport, which nobody reads
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._send = sock.sendto
        self._ipv6 = sock.family == socket.AF_INET6
        #: Datagrams that leave together at the end of the turn, all of one size and to one peer. While there are any,
        #: nothing is queued.
        self._run: list[bytes] | None = None
        self._run_peer: Any = None
        self._run_size = 0
        self._run_most = 0
        #: Only datagrams that are smaller leave in batches; None if the system has not been asked whether it can.
        self._batch_below: int | None = None
        #: How many more datagrams leave at once.
        self._eager = EAGER
        self._turn_planned = False
        self._queue: deque[tuple[bytes, Any]] | None = None
        self._queued_bytes = 0
        self._high_water = HIGH_WATER
        self._paused = False
        #: A send has met an error: there may be more in the error queue.
        self._errors_waiting = False
        self._closing = False
        #: Datagrams that were not sent because the socket was blocked for too long.
        self.dropped = 0
        #: What came by :meth:`send_soon` and :meth:`send_many`.
        self.packets_sent = 0
        self.bytes_sent = 0

    # What the other half does.

    def _finish(self) -> None:
        """Close the socket, now that all is sent."""
        raise NotImplementedError

    def _drain_errors(self) -> int:
        """Read the error queue."""
        raise NotImplementedError

    def _report(self, exc: OSError, addr: Any) -> None:
        """Tell the protocol of an error of this peer."""
        raise NotImplementedError

    def _contain(self, exc: Exception) -> None:
        """Tell the loop of an exception of the protocol."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------------------- public

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

    @property
    def gathers(self) -> bool:
        """Whether there is something to gain by :meth:`send_soon`."""
        return self._most(1) > 1

    def send_soon(self, data: bytes, addr: Any) -> None:
        """As :meth:`sendto`, but from the third in a turn of the loop on they wait for its end, to leave together.

        The order is kept, whatever is sent in between by whichever method and to whomever.
        """
        run = self._run
        if run:
            if addr is self._run_peer or addr == self._run_peer:
                size = len(data)
                if size == self._run_size:
                    run.append(data)
                    if len(run) == self._run_most:
                        self._flush()
                    return
                if 0 < size < self._run_size:
                    # Only the last of a batch may be shorter.
                    run.append(data)
                    self._flush()
                    return
            self._flush()
        elif self._eager:
            self._eager -= 1
            self.packets_sent += 1
            self.bytes_sent += len(data)
            if self._queue or self._closing:
                self.sendto(data, addr)
                return
            try:
                self._send(data, addr)
            except BlockingIOError:
                self._enqueue(data, addr)
            except OSError:
                self._send_again(data, addr)
            return
        most = 1 if self._queue or self._closing else self._most(len(data))
        if most < 2:
            self.packets_sent += 1
            self.bytes_sent += len(data)
            self.sendto(data, addr)
            return
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
                if self._closing:
                    self._finish()
            self._resume()

    # -------------------------------------------------------------------------------------------------------- batches

    def _most(self, size: int) -> int:
        """How many datagrams of this size may leave by one system call."""
        below = self._batch_below
        if below is None:
            below = self._batch_below = BATCH_BYTES if batches_leave(self._sock) else 0
        return min(SEGMENTS, BATCH_BYTES // size) if 0 < size < below else 1

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
            exc = self._try(run, size, addr)
            if exc is None:
                return
            if isinstance(exc, BlockingIOError):
                for data in run:
                    self._enqueue(data, addr)
                return
        for data in run:
            try:
                self.sendto(data, addr)
            except OSError as exc:
                self._refused(exc, addr)

    def _try(self, run: Sequence[bytes], size: int, addr: Any) -> OSError | None:
        """One system call for all. Returns the error that stays, which one that an earlier datagram to another peer has
        left behind does not; it may mean that there are to be no such batches."""
        error: OSError | None = None
        for _ in range(RETRIES):
            try:
                if len(run) == 1:
                    self._send(run[0], addr)
                else:
                    self._sock.sendmsg(run, batch_control(size), 0, addr)
            except BlockingIOError as exc:
                return exc
            except OSError as exc:
                self._errors_waiting = True
                error = exc
                if len(run) > 1 and exc.errno in NO_ROOM:
                    break
            else:
                return None
        if len(run) > 1 and error is not None:
            if error.errno in BAD_SIZE:
                self._batch_below = min(size, self._batch_below or 0)
            elif error.errno in NO_BATCHES:
                self._batch_below = 0
        return error

    def _send_again(self, data: Buffer, addr: Any) -> None:
        """A send failed, perhaps with an error that an earlier datagram to another peer left behind: only an error that
        stays is this datagram's own."""
        self._errors_waiting = True
        exc = self._try([data], 0, addr)  # type: ignore[list-item]
        if exc is None:
            return
        if isinstance(exc, BlockingIOError):
            self._enqueue(data, addr)
        elif exc.errno == errno.EMSGSIZE:
            raise exc
        else:
            self._refused(exc, addr)

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
        if not self._paused and (self._queued_bytes > self._high_water or len(self._queue) > QUEUE_DATAGRAMS // 2):
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
            exc = self._try(run, len(data), addr)
            if exc is not None and len(run) > 1 and not isinstance(exc, BlockingIOError):
                del run[1:]
                exc = self._try(run, len(data), addr)
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
