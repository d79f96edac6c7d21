"""What several of these tests need."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

Address = tuple[str, int]


class Recorder(asyncio.DatagramProtocol):
    """Writes down what its transport tells it."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.unreachable: list[tuple[Address, OSError]] = []
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def peer_unreachable(self, peer: Address, exc: OSError) -> None:
        self.unreachable.append((peer, exc))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    @property
    def data(self) -> list[bytes]:
        return [data for data, _ in self.received]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def closed_port(host: str = "127.0.0.1", kind: int = socket.SOCK_DGRAM) -> Address:
    """An address where nobody listens."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
        sock.bind((host, 0))
        return host, sock.getsockname()[1]


class NoReaders(asyncio.SelectorEventLoop):
    """A loop that cannot watch descriptors, as the Proactor loop of Windows."""

    def add_reader(self, *args: Any) -> None:
        raise NotImplementedError

    def add_writer(self, *args: Any) -> None:
        raise NotImplementedError
