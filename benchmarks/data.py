"""Datagrams between two peers in one process: how many arrive. Uses only what aioice 0.13.0 has too, but for the batch
API and the callback: the same script runs on both.

python benchmarks/data.py CASE [SECONDS]      prints one JSON object: lists of numbers by name

CASE is PEER-WAY-SIZE with the options after it, joined by ``+``, as in ``aioice-oneway-1200+uvloop``:

* peers: ``aioice``, or bare sockets: ``reader`` and ``adaptive`` (``floor.py``)
* ways: ``oneway`` (await send, await recv), ``batch`` (send_many, recv_many), ``callback`` (send_many,
  set_receiver), ``pingpong``; ``relayout`` and ``relayin`` through a coturn; ``checksum`` sends as many datagrams of
  random sizes up to SIZE as SECONDS says, in bursts, and compares what has arrived with what was sent
* options: ``uvloop``, ``warm`` (the heap has room), ``plain`` (UDP_SEGMENT and UDP_GRO off); for
  ``oneway`` also a number: so many pairs, each of which sends eight datagrams at a time
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import cases

SECONDS = 0.5
#: What is on its way at a time: more than the default receive buffer of a socket holds would be lost.
WINDOW = 64
WINDOW_BYTES = 96 << 10
#: Datagrams that each of several pairs sends at a time.
SHARE = 8

PINS: list[bytes] = []
#: What is done to the heap before a measurement.
prepare_heap: Callable[[], None]


def fresh_heap() -> None:
    """Give back what the heap holds: a large buffer is mapped afresh then, each time."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def warm_heap() -> None:
    """Leave room for large buffers in the heap, below what stays."""
    room = [bytes(100_000) for _ in range(100)]
    PINS.append(bytes(1000))
    room.clear()


class Flow:
    """Keeps the sender from sending more than a window ahead of what has arrived."""

    def __init__(self, size: int) -> None:
        self.window = max(min(WINDOW, WINDOW_BYTES // size), 1)
        self.sent = self.arrived = 0
        self.waiter: asyncio.Future[None] | None = None

    def arrive(self, count: int = 1) -> None:
        self.arrived += count
        waiter = self.waiter
        if waiter is not None and self.sent == self.arrived:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def room(self) -> None:
        if self.sent > self.arrived:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    async def watch(self) -> None:
        """What does not arrive for a while is lost on the way."""
        while True:
            before = self.arrived
            await asyncio.sleep(0.05)
            if self.arrived == before and self.waiter is not None:
                self.sent = self.arrived
                self.arrive(0)


class Clock:
    """Counts what arrives for a while, by the processor's time of this process and by the wall's."""

    def __init__(self, flow: Flow, seconds: float) -> None:
        self.flow, self.seconds = flow, seconds
        self.start()

    def start(self) -> None:
        self.first = self.flow.arrived
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    @property
    def running(self) -> bool:
        return time.perf_counter() - self.wall < self.seconds

    def result(self) -> dict[str, list[float]]:
        arrived = self.flow.arrived - self.first
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        return {"per cpu second": [arrived / cpu], "per second": [arrived / wall], "us": [cpu / arrived * 1e6]}


async def measured(sender: Callable[[], Coroutine[Any, Any, None]], flow: Flow, seconds: float) -> Any:
    """A quarter of the time goes before, so that what adapts has adapted."""
    watching = asyncio.ensure_future(flow.watch())
    clock = Clock(flow, seconds / 4)
    while clock.running:
        await sender()
    prepare_heap()
    clock = Clock(flow, seconds)
    while clock.running:
        await sender()
    watching.cancel()
    return clock.result()


async def one_way(a: Any, b: Any, size: int, seconds: float) -> Any:
    return await many([(a, b)], size, seconds)


async def many(pairs: list[tuple[Any, Any]], size: int, seconds: float) -> Any:
    flow, data = Flow(size), bytes(size)
    share = flow.window if len(pairs) == 1 else SHARE

    async def receive(b: Any) -> None:
        recv = b.recv
        while True:
            await recv()
            flow.arrived += 1
            if flow.arrived == flow.sent:
                flow.arrive(0)

    async def burst() -> None:
        flow.sent += share * len(pairs)
        for a, _ in pairs:
            send = a.send
            for _ in range(share):
                await send(data)
        await flow.room()

    receiving = [asyncio.ensure_future(receive(b)) for _, b in pairs]
    result = await measured(burst, flow, seconds)
    for task in receiving:
        task.cancel()
    return result


async def batch(a: Any, b: Any, size: int, seconds: float) -> Any:
    flow = Flow(size)
    datagrams = [bytes(size)] * flow.window

    async def receive() -> None:
        while True:
            flow.arrive(len(await b.recv_many(64)))

    async def burst() -> None:
        flow.sent += flow.window
        await a.send_many(datagrams)
        await flow.room()

    receiving = asyncio.ensure_future(receive())
    result = await measured(burst, flow, seconds)
    receiving.cancel()
    return result


async def callback(a: Any, b: Any, size: int, seconds: float) -> Any:
    flow = Flow(size)
    datagrams = [bytes(size)] * flow.window

    async def burst() -> None:
        flow.sent += flow.window
        await a.send_many(datagrams)
        await flow.room()

    b.set_receiver(lambda data, component: flow.arrive())
    return await measured(burst, flow, seconds)


async def ping_pong(a: Any, b: Any, size: int, seconds: float) -> Any:
    flow, data = Flow(size), bytes(size)

    async def answer() -> None:
        while True:
            await b.send(await b.recv())

    async def ask() -> None:
        for _ in range(100):
            await a.send(data)
            await a.recv()
            flow.arrived += 1

    answering = asyncio.ensure_future(answer())
    result = await measured(ask, flow, seconds)
    answering.cancel()
    return result


async def bare_ping_pong(a: Any, b: Any, size: int, seconds: float) -> Any:
    """Answers from the reader callback itself."""
    flow, data = Flow(size), bytes(size)
    a.on_datagram = lambda data: (flow.arrive(), a.sock.sendto(data, a.peer))
    b.on_datagram = lambda data: b.sock.sendto(data, b.peer)
    a.sock.sendto(data, a.peer)
    return await measured(lambda: asyncio.sleep(0.05), flow, seconds)


async def checksum(a: Any, b: Any, size: int, count: float) -> Any:
    source, sent, received = random.Random(size), hashlib.sha256(), hashlib.sha256()
    started, left = time.process_time(), int(count)
    while left > 0:
        usual = source.randrange(size)
        burst = [
            source.randbytes(usual if source.random() < 0.9 else source.randrange(size))
            for _ in range(min(source.choice([1, 3, 30]), left))
        ]
        left -= len(burst)
        for data in burst:
            sent.update(len(data).to_bytes(2, "big") + data)
            await a.send(data)
        for _ in burst:
            data = await b.recv()
            received.update(len(data).to_bytes(2, "big") + data)
    if sent.digest() != received.digest():
        sys.exit("what has arrived is not what was sent")
    return {"us": [(time.process_time() - started) / count * 1e6]}


WAYS = {"oneway": one_way, "batch": batch, "callback": callback, "pingpong": ping_pong, "checksum": checksum}


async def aioice(way: str, size: int, seconds: float, **relay: Any) -> Any:
    a, b = await cases.gather(relay=relay)
    await cases.exchange(a, b)
    await cases.connect(a, b)
    if relay:
        # The channel is bound when both have spoken.
        for one, other in ((a, b), (b, a)) * 5:
            await one.send(b"hello")
            await other.recv()
        await asyncio.sleep(0.1)
    if way == "relayin":
        a, b = b, a
    result = await WAYS["oneway" if relay else way](a, b, size, seconds)
    await asyncio.gather(a.close(), b.close())
    return result


async def crowd(count: int, size: int, seconds: float) -> Any:
    from many import close, connected

    cases.many_files()
    pairs = await connected(count)
    result = await many(pairs, size, seconds)
    await close(pairs)
    return result


async def bare(peer: str, way: str, size: int, seconds: float) -> Any:
    import floor

    a, b = await floor.pair(floor.Reader if peer == "reader" else floor.Adaptive)
    result = await (bare_ping_pong if way == "pingpong" else WAYS[way])(a, b, size, seconds)
    await asyncio.gather(a.close(), b.close())
    return result


def main() -> None:
    name, *options = sys.argv[1].split("+")
    peer, way, size = name.split("-")
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    cases.one_address()
    if "plain" in options and peer == "aioice":
        from aioice.net import linux

        linux.HAS_OFFLOAD = False
    factory = None
    if "uvloop" in options:
        import uvloop

        factory = uvloop.new_event_loop
    global prepare_heap
    prepare_heap = warm_heap if "warm" in options else fresh_heap
    with asyncio.Runner(loop_factory=factory) as runner:
        if peer != "aioice":
            result = runner.run(bare(peer, way, int(size), seconds))
        elif way.startswith("relay"):
            with cases.turn_server() as port:
                server = {"turn_server": (cases.HOST, port), "turn_username": cases.USER}
                server |= {"turn_password": cases.PASSWORD, "transport_policy": cases.relay_only()}
                result = runner.run(aioice(way, int(size), seconds, **server))
        elif way == "oneway" and (count := next((int(option) for option in options if option.isdigit()), 0)):
            result = runner.run(crowd(count, int(size), seconds))
        else:
            result = runner.run(aioice(way, int(size), seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
