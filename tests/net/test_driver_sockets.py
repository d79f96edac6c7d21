from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aioice.core.machine import (
    Address,
    Close,
    LinkClosed,
    Opened,
    OpenFailed,
    OpenStream,
    OpenUdp,
    Reason,
    SendFailed,
    Transmit,
)
from aioice.net.driver import Driver
from aioice.net.host import AsyncioHost
from tests.net.bench import Bench, Owner
from tests.net.support import NoReaders, Recorder, closed_port, turns, until

Run = Callable[..., None]


class Tied(Recorder):
    """A protocol that does what a driver expects of one."""

    def __init__(self, bench: Bench, link: int) -> None:
        super().__init__()
        self.bench = bench
        self.link = link

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.bench.driver.receive(self.link, addr, data)

    def peer_unreachable(self, peer: Address, exc: OSError) -> None:
        self.bench.driver.unreachable(self.link, peer, exc)


def real() -> Bench:
    bench = Bench(AsyncioHost(asyncio.get_running_loop()))

    def make(link: int) -> Recorder:
        protocol = bench.made[link] = Tied(bench, link)
        return protocol

    bench.driver = Driver(bench.machine, bench.host, Owner(make, bench.outputs.append))
    return bench


def test_udp_on_real_sockets(run: Run) -> None:
    async def main() -> None:
        bench = real()
        bench.say(OpenUdp(1, "127.0.0.1"), OpenUdp(2, "::1"), OpenUdp(3, "203.0.113.1"))
        one, two, three = bench.machine.reports
        assert isinstance(one, Opened) and isinstance(two, Opened) and isinstance(three, OpenFailed)
        assert three.reason is Reason.BIND
        bench.machine.reports.clear()
        dead = closed_port()
        bench.say(
            Transmit(1, one.local, b"one"),
            Transmit(2, two.local, b"two"),
            Transmit(1, one.local, bytes(70000)),
            Transmit(1, ("127.0.0.1", 70000), b"x"),
            Transmit(1, dead, b"x"),
        )
        assert bench.machine.reports == [
            SendFailed(1, one.local, Reason.TOO_BIG),
            SendFailed(1, ("127.0.0.1", 70000), Reason.OTHER),
        ]
        await until(lambda: len(bench.machine.datagrams) == 2 and len(bench.machine.reports) == 3)
        assert sorted(bench.machine.datagrams) == [(1, one.local, b"one"), (2, two.local, b"two")]
        assert bench.machine.reports[-1] == SendFailed(1, dead, Reason.REFUSED)
        bench.say(Close(1), Close(2))
        assert bench.driver.idle
        await until(lambda: bench.made[1].lost and bench.made[2].lost)

    run(main())


def test_stream_on_real_sockets(run: Run) -> None:
    frame = b"\x01\x01\0\0\x21\x12\xa4\x42" + bytes(12)

    async def main() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def echo_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            writer.write(await reader.read(20))

        server = await asyncio.start_server(echo_once, "127.0.0.1", 0)
        peer = server.sockets[0].getsockname()
        bench = real()
        bench.say(OpenStream(1, peer, None), OpenStream(2, closed_port(kind=socket.SOCK_STREAM), None))
        await until(lambda: len(bench.machine.reports) == 2)
        opened, failed = sorted(bench.machine.reports, key=lambda report: report.link)
        assert isinstance(opened, Opened) and opened.local[0] == "127.0.0.1" and len(opened.local) == 2
        assert isinstance(failed, OpenFailed) and failed.reason is Reason.REFUSED
        bench.say(Transmit(1, peer, frame))
        await until(lambda: bench.machine.datagrams)
        assert bench.machine.datagrams == [(1, peer, frame)]
        # The server hangs up: a report, and the protocol hears of it.
        writers[0].close()
        await until(lambda: len(bench.machine.reports) == 3)
        assert bench.machine.reports[-1] == LinkClosed(1, Reason.CLOSED, "")
        assert bench.made[1].lost == [None]
        assert bench.driver.idle
        # The machine hangs up: no report.
        bench.say(OpenStream(3, peer, None))
        await until(lambda: 3 in bench.driver.links)
        bench.say(Close(3))
        await until(lambda: bench.made[3].lost)
        assert len(bench.machine.reports) == 4
        for writer in writers:
            writer.transport.abort()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)

    run(main())


def test_close_while_a_real_stream_opens(run: Run) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        for waited in range(6):
            bench = real()
            bench.say(OpenStream(1, listener.getsockname(), None))
            await turns(waited)
            bench.driver.close()
            await until(lambda bench=bench: bench.driver.idle)
            assert not [report for report in bench.machine.reports if not isinstance(report, Opened)]
        await asyncio.sleep(0.01)
        listener.close()

    run(main())


def test_udp_on_a_loop_without_readers() -> None:
    async def main() -> None:
        bench = real()
        bench.say(OpenUdp(1, "127.0.0.1"), OpenUdp(2, "203.0.113.1"), OpenUdp(3, "127.0.0.1"), Close(3))
        await until(lambda: len(bench.machine.reports) == 2)
        (failed,) = (report for report in bench.machine.reports if isinstance(report, OpenFailed))
        (opened,) = (report for report in bench.machine.reports if isinstance(report, Opened))
        assert (failed.link, failed.reason) == (2, Reason.BIND)
        bench.say(Transmit(1, opened.local, b"x"))
        await until(lambda: bench.machine.datagrams)
        assert bench.machine.datagrams == [(1, opened.local, b"x")]
        bench.say(Close(1))
        await until(lambda: bench.made[1].lost)
        assert bench.driver.idle

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        runner.run(main())
