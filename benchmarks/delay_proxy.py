"""A user-space path between two UDP ports: each datagram is late by half a round trip, or lost.

A process of its own, so that its timing does not depend on what is measured. Reads commands from standard input, one
JSON object a line: ``{"a": [host, port], "b": [host, port], "delay": seconds, "loss": probability, "seed": n}`` opens a
path and answers ``{"a": [host, port], "b": [host, port]}``, the addresses under which ``b`` sees ``a`` and ``a`` sees
``b``. With ``"server": [host, port]`` in place of the two it leads to a server, from any number of clients, and the
answer is ``{"server": [host, port]}``, where they find it. The path before it is closed. Ends with its input.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import sys
import time
from itertools import count
from typing import TextIO

Address = tuple[str, int]


class Path:
    """Datagrams on their way; :meth:`receive` of a subclass says which way that is."""

    def __init__(self, delay: float, loss: float, seed: int) -> None:
        self.delay = delay
        self.loss = loss
        self.random = random.Random(seed)
        self.sockets: list[socket.socket] = []
        self.queue: list[tuple[float, int, bytes, socket.socket, Address]] = []
        self._numbers = count()

    def open(self, host: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((host, 0))
        self.sockets.append(sock)
        return sock

    def receive(self, sock: socket.socket) -> None:
        while True:
            try:
                data, source = sock.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:
                continue
            if self.random.random() >= self.loss:
                way, target = self.way(sock, source)
                heapq.heappush(self.queue, (time.monotonic() + self.delay, next(self._numbers), data, way, target))

    def way(self, sock: socket.socket, source: Address) -> tuple[socket.socket, Address]:
        """Through which socket, and to whom, goes on what came there."""
        raise NotImplementedError

    def send_due(self) -> float | None:
        """Send what is due; return the time until the next datagram is."""
        while self.queue:
            wait = self.queue[0][0] - time.monotonic()
            if wait > 0:
                return wait
            _, _, data, way, target = heapq.heappop(self.queue)
            try:
                way.sendto(data, target)
            except OSError:
                # The ICMP error of an earlier datagram: the peer has gone.
                continue
        return None

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


class BetweenTwo(Path):
    """Two sockets: ``for_a`` is what ``b`` takes for ``a``, and the other way round."""

    def __init__(self, a: Address, b: Address, delay: float, loss: float, seed: int) -> None:
        super().__init__(delay, loss, seed)
        self.for_a = self.open(a[0])
        self.for_b = self.open(b[0])
        #: What arrives at one socket leaves through the other.
        self.ways = {self.for_b: (self.for_a, b), self.for_a: (self.for_b, a)}

    def way(self, sock: socket.socket, source: Address) -> tuple[socket.socket, Address]:
        return self.ways[sock]


class ToServer(Path):
    """One socket that clients take for the server, and one for each client, which the server takes for it."""

    def __init__(self, server: Address, delay: float, loss: float, seed: int) -> None:
        super().__init__(delay, loss, seed)
        self.server = server
        self.front = self.open(server[0])
        self.clients: dict[Address, socket.socket] = {}
        self.addresses: dict[socket.socket, Address] = {}

    def way(self, sock: socket.socket, source: Address) -> tuple[socket.socket, Address]:
        if sock is not self.front:
            return self.front, self.addresses[sock]
        if source not in self.clients:
            self.clients[source] = self.open(self.server[0])
            self.addresses[self.clients[source]] = source
        return self.clients[source], self.server


def open_path(command: str) -> Path:
    options = json.loads(command)
    quality = (options["delay"], options["loss"], options["seed"])
    path: Path
    if "server" in options:
        path = ToServer(tuple(options["server"]), *quality)
        answer = {"server": path.front.getsockname()[:2]}
    else:
        path = BetweenTwo(tuple(options["a"]), tuple(options["b"]), *quality)
        answer = {"a": path.for_a.getsockname()[:2], "b": path.for_b.getsockname()[:2]}
    print(json.dumps(answer), flush=True)
    return path


def main() -> None:
    path: Path | None = None
    while True:
        sources: list[TextIO | socket.socket] = [sys.stdin]
        wait = None
        if path is not None:
            wait = path.send_due()
            sources += path.sockets
        ready, _, _ = select.select(sources, [], [], wait)
        for source in ready:
            if not isinstance(source, socket.socket):
                command = source.readline()
                if path is not None:
                    path.close()
                    path = None
                if not command:
                    return
                path = open_path(command)
                break
            assert path is not None
            path.receive(source)


if __name__ == "__main__":
    main()
