"""Bare sockets on asyncio: what Python can reach without ICE, to measure the data path against.

Both are programs as one would write them for a single peer: no STUN to tell from data, no bounds, no errors.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from typing import Any

HOST = "127.0.0.1"
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
READS = 32
GRO_TRIGGER = 16


class Reader:
    """An unconnected socket with a reader callback, behind ``await send`` and ``await recv``."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind((HOST, 0))
        self.peer: Any = None
        self.items: deque[bytes] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.reads = 1
        self.on_datagram: Any = None
        self.loop.add_reader(self.sock, self.readable)

    def readable(self) -> None:
        receive = self.sock.recvfrom
        put = self.on_datagram or self.items.append
        for number in range(self.reads):
            try:
                put(receive(65536)[0])
            except BlockingIOError:
                self.reads = number or 1
                break
        else:
            self.reads = min(2 * self.reads, READS)
            self.full()
        self.wake()

    def full(self) -> None:
        """All reads of a wake-up brought something."""

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def send(self, data: bytes) -> None:
        self.sock.sendto(data, self.peer)

    async def recv(self) -> bytes:
        while not self.items:
            self.waiter = self.loop.create_future()
            await self.waiter
        return self.items.popleft()

    async def close(self) -> None:
        self.loop.remove_reader(self.sock)
        self.sock.close()


class Adaptive(Reader):
    """The same with UDP_SEGMENT and UDP_GRO where there is something to put together."""

    def __init__(self) -> None:
        super().__init__()
        self.run: list[bytes] = []
        self.size = 0
        self.eager = 2
        self.planned = False

    def full(self) -> None:
        if self.reads >= GRO_TRIGGER:
            self.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            self.loop.remove_reader(self.sock)
            self.loop.add_reader(self.sock, self.batches)

    def readable(self) -> None:
        self.eager = 2
        super().readable()

    def batches(self) -> None:
        self.eager = 2
        for number in range(self.reads):
            try:
                data, ancillary, _, _ = self.sock.recvmsg(65536, 64)
            except BlockingIOError:
                self.reads = number or 1
                break
            size = int.from_bytes(ancillary[0][2][:4], sys.byteorder) if ancillary else len(data)
            datagrams = [data[start : start + size] for start in range(0, len(data), size)]
            if self.on_datagram is None:
                self.items.extend(datagrams)
            else:
                for datagram in datagrams:
                    self.on_datagram(datagram)
        else:
            self.reads = min(2 * self.reads, READS)
        self.wake()

    async def send(self, data: bytes) -> None:
        run = self.run
        if run and len(data) == self.size:
            run.append(data)
            if len(run) == 64 or (len(run) + 1) * self.size > 65507:
                self.flush()
            return
        if run:
            self.flush()
        if self.eager:
            self.eager -= 1
            self.sock.sendto(data, self.peer)
            return
        self.run = [data]
        self.size = len(data)
        if not self.planned:
            self.planned = True
            self.loop.call_soon(self.turn_ends)

    def turn_ends(self) -> None:
        self.planned = False
        self.flush()
        self.eager = 2

    def flush(self) -> None:
        if self.run:
            control = [(SOL_UDP, UDP_SEGMENT, self.size.to_bytes(2, sys.byteorder))]
            self.sock.sendmsg(self.run, control, 0, self.peer)
            self.run = []


async def pair(kind: type[Reader]) -> tuple[Reader, Reader]:
    one, other = kind(), kind()
    one.peer, other.peer = other.sock.getsockname(), one.sock.getsockname()
    return one, other
