"""Thousands of connections in one process. Uses only what aioice 0.13.0 has too: the same script runs on both.

python benchmarks/many.py CASE NUMBER    prints one JSON object: lists of numbers by name
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import (
    HOST,
    PASSWORD,
    USER,
    Proxy,
    Result,
    connect,
    exchange,
    gather,
    many_files,
    one_address,
    relay_only,
    turn_server,
)

#: Seconds in which idle connections are watched: two intervals of consent.
IDLE = 10.0
#: Pairs that are set up at a time, as a server gets them; all at once are in ``cases.py``.
PORTION = 10
#: Packets each way for which the processor is measured.
PACKETS = 20000

Pairs = list[tuple[Any, Any]]


def memory() -> float:
    """Resident KiB of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024


async def connected(count: int, **options: Any) -> Pairs:
    """So many pairs, a portion at a time."""
    pairs: Pairs = []
    while len(pairs) < count:
        more = await asyncio.gather(*(gather(**options) for _ in range(min(PORTION, count - len(pairs)))))
        for a, b in more:
            await exchange(a, b)
        await asyncio.gather(*(connect(a, b) for a, b in more))
        pairs += more
    return pairs


async def close(pairs: Pairs) -> float:
    """Seconds until all are closed."""
    started = time.perf_counter()
    await asyncio.gather(*(peer.close() for pair in pairs for peer in pair))
    return time.perf_counter() - started


async def lags(seconds: float) -> list[float]:
    """By how many milliseconds the loop wakes a sleeper too late."""
    found = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        await asyncio.sleep(0.01)
        found.append(max(0.0, (time.perf_counter() - started - 0.01) * 1000))
    return sorted(found)


async def idle(pairs: Pairs) -> dict[str, float]:
    """Percent of a processor while nothing but consent is exchanged, and how late the loop is."""
    # The program's own part: what lives long is not looked through again by each full collection.
    gc.collect()
    gc.freeze()
    await asyncio.sleep(6)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(IDLE)
    used = (time.process_time() - cpu) / (time.perf_counter() - wall) * 100
    late = await lags(IDLE)
    return {"cpu": used, "p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1]}


async def crowd(count: int, **options: Any) -> Result:
    """Memory, idle CPU and lag, and the time to close; the seconds and the processor's until all are connected."""
    first = await connected(1, **options)
    before = memory()
    cpu, wall = time.process_time(), time.perf_counter()
    pairs = await connected(count, **options)
    used, passed = time.process_time() - cpu, time.perf_counter() - wall
    kib = (memory() - before) / count
    found = {"all": passed, "connect": used, "kib": kib, **await idle(pairs)}
    found["close"] = await close(pairs + first)
    return {name: [value] for name, value in found.items()}


def relays(count: int) -> Result:
    with turn_server() as port:
        options = {"turn_server": (HOST, port), "turn_username": USER, "turn_password": PASSWORD}
        options["transport_policy"] = relay_only()
        return asyncio.run(crowd(count, relay=options))


# -------------------------------------------------------------------------------------------------- one pair, its data


async def meet(a: Any, b: Any, proxy: Proxy | None) -> None:
    """Tell each of the other's candidate, where it is or beyond a longer path."""
    if proxy is None:
        await exchange(a, b)
        return
    from aioice import Candidate

    (of_a,), (of_b,) = a.local_candidates, b.local_candidates
    seen_a, seen_b = proxy.path(of_a, of_b, 0, 0)
    for peer, candidate, (host, port) in ((b, of_a, seen_a), (a, of_b, seen_b)):
        moved = Candidate(candidate.foundation, 1, "udp", candidate.priority, host, port, "host")
        await peer.add_remote_candidate(moved)
        await peer.add_remote_candidate(None)


async def first_byte(runs: int, far: bool) -> Result:
    """Milliseconds from ``connect`` to the first datagram of the peer, and to the nomination: the later of both peers.

    The old release is connected when its pair is nominated.
    """
    found: Result = {"data": [], "nominated": []}
    proxy = Proxy() if far else None
    for _ in range(runs):
        a, b = await gather()
        await meet(a, b, proxy)
        started = time.perf_counter()

        def passed(since: float = started) -> float:
            return (time.perf_counter() - since) * 1000

        async def talk(peer: Any) -> tuple[float, float]:
            await peer.connect()
            connected = passed()
            await peer.send(b"hello")
            await peer.recv()
            return connected, passed()

        async def nomination(peer: Any) -> float:
            async for _ in peer.events():
                if peer.state == "completed":
                    break
            return passed()

        watched = [asyncio.ensure_future(nomination(peer)) for peer in (a, b) if hasattr(peer, "events")]
        times = await asyncio.gather(talk(a), talk(b))
        found["data"].append(max(data for _, data in times))
        found["nominated"].append(max(await asyncio.gather(*watched) or [connected for connected, _ in times]))
        await close([(a, b)])
    if proxy is not None:
        proxy.close()
    return found


async def packets() -> Result:
    """Microseconds of the processor for a datagram of 100 bytes there and one back, one at a time."""
    ((a, b),) = await connected(1)

    async def echo() -> None:
        for _ in range(PACKETS):
            await b.send(await b.recv())

    echoing = asyncio.ensure_future(echo())
    cpu = time.process_time()
    for _ in range(PACKETS):
        await a.send(bytes(100))
        await a.recv()
    used = time.process_time() - cpu
    await echoing
    await close([(a, b)])
    return {"us": [used / PACKETS / 2 * 1e6]}


#: The number is that of pairs, or of runs.
CASES: dict[str, Callable[[int], Result]] = {
    "crowd": lambda number: asyncio.run(crowd(number)),
    "relays": relays,
    "first-byte": lambda number: asyncio.run(first_byte(number, far=False)),
    "first-byte-far": lambda number: asyncio.run(first_byte(number, far=True)),
    "packet": lambda number: asyncio.run(packets()),
}


def main() -> None:
    one_address()
    many_files()
    print(json.dumps(CASES[sys.argv[1]](int(sys.argv[2]))))


if __name__ == "__main__":
    main()
