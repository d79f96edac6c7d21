"""A user-space path between two UDP ports: each datagram is late by half a round trip, or lost.

A process of its own, so that its timing does not depend on what is measured. Reads commands from standard input, one
JSON object a line: ``{"a": [host, port], "b": [host, port], "delay": seconds, "loss": probability, "seed": n}`` opens a
path and answers ``{"a": [host, port], "b": [host, port]}``, the addresses under which ``b`` sees ``a`` and ``a`` sees
``b``. The path before it is closed. Ends with its input.
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
    """Two sockets: ``for_a`` is what ``b`` takes for ``a``, and the other way round."""

    def __init__(self, a: Address, b: Address, delay: float, loss: float, seed: int) -> None:
        self.delay = delay
        self.loss = loss
        self.random = random.Random(seed)
        self.for_a = self._open(a[0])
        self.for_b = self._open(b[0])
        #: What arrives at one socket leaves through the other.
        self.ways = {self.for_b: (self.for_a, b), self.for_a: (self.for_b, a)}
        self.queue: list[tuple[float, int, bytes, socket.socket, Address]] = []
        self._numbers = count()

    @staticmethod
    def _open(host: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((host, 0))
        return sock

    def receive(self, sock: socket.socket) -> None:
        way, target = self.ways[sock]
        while True:
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue
            if self.random.random() >= self.loss:
                heapq.heappush(self.queue, (time.monotonic() + self.delay, next(self._numbers), data, way, target))

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
        self.for_a.close()
        self.for_b.close()


def open_path(command: str) -> Path:
    options = json.loads(command)
    (host_a, port_a), (host_b, port_b) = options["a"], options["b"]
    path = Path((host_a, port_a), (host_b, port_b), options["delay"], options["loss"], options["seed"])
    print(json.dumps({"a": path.for_a.getsockname()[:2], "b": path.for_b.getsockname()[:2]}), flush=True)
    return path


def main() -> None:
    path: Path | None = None
    while True:
        sources: list[TextIO | socket.socket] = [sys.stdin]
        wait = None
        if path is not None:
            wait = path.send_due()
            sources += path.ways
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
