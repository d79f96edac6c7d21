"""What the switch for traces costs while it is off: CPU of sessions, against the same code with the switch cut out.

python benchmarks/trace_off.py [ROUNDS]        prints one JSON object: lists of numbers by name

Both run in turns in one interpreter, over the loopback interface: gather, connect, a hundred datagrams, close.
``ratio`` is that of the quickest tenths of the rounds.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import statistics
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import cases

from aioice import ice
from aioice.net import driver

#: In a round: a short one may be left alone by whatever else the machine does.
SESSIONS = 2
DATAGRAMS = 100
#: Where traces or what they show take a turn, what stands there without them.
CUTS: list[tuple[type, str, dict[str, str]]] = [
    (
        ice.Connection,
        "__init__",
        {
            "super()": "super(Connection, self)",
            'os.environ.get("AIOICE_TRACE") if trace is None else None': "None",
            "if trace is None and not told:": "if True:",
        },
    ),
    (driver.Driver, "_timer_fired", {"if now - self._armed > self.late:": "if False:"}),
]


def cut(owner: type, name: str, changes: dict[str, str]) -> Callable[..., Any]:
    """The method with these places of its source changed; each must be there."""
    method = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(method))
    for old, new in changes.items():
        assert source.count(old) == 1, (name, old)
        source = source.replace(old, new)
    scope: dict[str, Any] = {}
    exec(compile(f"from __future__ import annotations\n{source}", name, "exec"), method.__globals__, scope)
    changed: Callable[..., Any] = scope[name]
    return changed


async def session() -> None:
    a, b = await cases.gather()
    await cases.exchange(a, b)
    await cases.connect(a, b)
    for _ in range(DATAGRAMS):
        await a.send(b"a datagram")
        await b.recv()
    await asyncio.gather(a.close(), b.close())


async def sessions() -> float:
    """CPU seconds."""
    gc.collect()
    started = time.process_time()
    for _ in range(SESSIONS):
        await session()
    return time.process_time() - started


def measure(rounds: int) -> dict[str, list[float]]:
    whole = [(owner, name, getattr(owner, name)) for owner, name, _ in CUTS]
    without = [(owner, name, cut(owner, name, changes)) for owner, name, changes in CUTS]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * rounds + 2):
        side = number % 2 ^ number // 2 % 2  # A B B A: what drifts meets both alike
        for owner, name, method in (whole, without)[side]:
            setattr(owner, name, method)
        took = asyncio.run(sessions())
        if number > 1:
            times[side].append(took)
    for owner, name, method in whole:
        setattr(owner, name, method)
    return {"with": times[0], "without": times[1], "ratio": [quick(times[0]) / quick(times[1])]}


def quick(times: list[float]) -> float:
    """The mean of the quickest tenth."""
    return statistics.fmean(sorted(times)[: max(1, len(times) // 10)])


def main() -> None:
    cases.one_address()
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))


if __name__ == "__main__":
    main()
