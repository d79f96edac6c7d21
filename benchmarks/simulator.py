"""The simulator: CPU seconds of ten virtual minutes of two connected agents, from nothing to closed.

python benchmarks/simulator.py [RUNS]          prints one JSON object: lists of numbers by name
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from aioice import Connection
from aioice.sim import Host, World

SECONDS = 600
STUN = ("198.51.100.1", 3478)


async def gathered(host: Host, controlling: bool) -> Connection:
    with host:
        connection = Connection(ice_controlling=controlling, stun_server=STUN)
        await connection.gather_candidates()
    return connection


async def session(left: Host, right: Host) -> None:
    a, b = await asyncio.gather(gathered(left, True), gathered(right, False))
    for one, other in ((a, b), (b, a)):
        one.remote_username, one.remote_password = other.local_username, other.local_password
        for candidate in other.local_candidates:
            await one.add_remote_candidate(candidate)
        await one.add_remote_candidate(None)
    await asyncio.gather(a.connect(), b.connect())
    await asyncio.sleep(SECONDS)
    await asyncio.gather(a.close(), b.close())


def run(seed: int) -> float:
    started = time.process_time()
    world = World(seed)
    world.network(delay=0.025, jitter=0.005, loss=0.01)
    world.stun_server(STUN[0])
    hosts = [world.nat(f"203.0.113.{number}").host(f"10.0.{number}.2") for number in (1, 2)]
    world.run(session(*hosts))
    assert world.now > SECONDS
    return time.process_time() - started


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    print(json.dumps({"seconds": [run(seed) for seed in range(runs)]}))


if __name__ == "__main__":
    main()
