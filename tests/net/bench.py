"""A driver on a bench: a machine that does as it is told, on a host where nothing is real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aioice.core.machine import (
    Address,
    Output,
    Report,
    Transmit,
    Tunables,
)
from aioice.net.driver import Driver
from tests.net.support import Recorder

PEER = ("192.0.2.1", 7)


class Script:
    """A machine that puts out what it is told to and writes down what it hears."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.deadline: float | None = None
        self.datagrams: list[tuple[int, Address, bytes]] = []
        self.reports: list[Report] = []
        self.timeouts: list[float] = []
        #: Called with each report; may put out more.
        self.react: Callable[[Report], object] = lambda report: None
        self.relayed: list[tuple[int, Address, bytes]] = []

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        assert not self.outputs
        self.datagrams.append((link, peer, data))

    def handle_report(self, now: float, report: Report) -> None:
        assert not self.outputs
        self.reports.append(report)
        self.react(report)

    def handle_timeout(self, now: float) -> None:
        """As the contract has it, nothing happens before the deadline."""
        if self.deadline is not None and now >= self.deadline:
            self.timeouts.append(now)
            self.deadline = None

    def poll_output(self) -> Output | None:
        return self.outputs.pop(0) if self.outputs else None

    def poll_timeout(self) -> float | None:
        return self.deadline

    def say(self, now: float, *outputs: Output) -> int:
        self.outputs += outputs
        return len(outputs)

    def set_deadline(self, now: float, distance: float | None) -> None:
        self.deadline = None if distance is None else now + distance

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        self.relayed.append((link, peer, data))
        self.outputs.append(Transmit(1, ("192.0.2.9", 3478), b"wrapped " + data))


class Wire(asyncio.DatagramTransport):
    """A transport that keeps what it is given."""

    def __init__(self, log: list[Any], name: object) -> None:
        super().__init__()
        self.log = log
        self.name = name
        self.failure: Exception | None = None
        self.protocol: Any = None
        #: Of a stream: learns of its end.
        self.stream: asyncio.DatagramProtocol | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("2001:db8::5", 5000, 0, 0) if name == "sockname" else default

    def get_protocol(self) -> Any:
        return self.protocol

    def sendto(self, data: Any, addr: Any = None) -> None:
        if self.failure is not None:
            raise self.failure
        self.log.append(("send", self.name, data, addr))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.log.append(("close", self.name))
        self._end()

    def abort(self) -> None:
        self.log.append(("abort", self.name))
        self._end()

    def _end(self) -> None:
        if self.stream is not None:
            asyncio.get_running_loop().call_soon(self.stream.connection_lost, None)
            self.stream = None


class Desk:
    """A host that opens what it has been told to, when it has been told to."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Future[Exception | None] | None = None

    def open_udp(self, protocol: asyncio.DatagramProtocol, host: str, port: int = 0) -> Any:
        if self.failure is not None:
            raise self.failure
        if self.gate is not None:
            return self._open(protocol, host)
        wire = Wire(self.log, host)
        protocol.connection_made(wire)
        return wire

    async def open_stream(self, protocol: asyncio.DatagramProtocol, peer: Address, server_name: str | None) -> Any:
        return await self._open(protocol, (peer, server_name))

    async def _open(self, protocol: asyncio.DatagramProtocol, name: object) -> Wire:
        assert self.gate is not None
        failure = await self.gate
        if failure is not None:
            raise failure
        wire = Wire(self.log, name)
        wire.stream = protocol
        protocol.connection_made(wire)
        return wire

    async def resolve(self, name: str) -> tuple[str, ...]:
        if name == "broken":
            raise RuntimeError("resolver")
        return ("192.0.2.77",)


class Owner:
    """Of a driver, by functions."""

    def __init__(
        self,
        make: Callable[[int], Any] = lambda link: Recorder(),
        on_output: Callable[[Output], None] = lambda output: None,
        tunables: Callable[[], Tunables | None] = lambda: None,
    ) -> None:
        self._make_protocol = make
        self._handle_output = on_output
        self._tunables = tunables


class Bench:
    """A driver with its machine, and a host that does nothing real unless another is given."""

    def __init__(self, host: Any = None) -> None:
        self.machine = Script()
        self.host = host if host is not None else Desk()
        self.made: dict[int, Recorder] = {}
        self.outputs: list[Output] = []
        self.on_output: Callable[[Output], None] = self.outputs.append
        self.driver = Driver(self.machine, self.host, Owner(self.make, lambda output: self.on_output(output)))

    def make(self, link: int) -> Recorder:
        protocol = self.made[link] = Recorder()
        return protocol

    def say(self, *outputs: Output) -> None:
        assert self.driver.do(self.machine.say, *outputs) == len(outputs)
