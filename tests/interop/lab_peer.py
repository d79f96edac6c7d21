"""One end of a connection, in a process of its own: commands come as lines of JSON, an answer goes for each.

It uses only what aioice 0.13.0 has too, so that the same cases run on both; what only this package has is asked for by
name.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aioice import Candidate, Connection

Answer = dict[str, Any]
#: RFC 8656 §7.4 and issue of politeness: the deletion of a relay may go on behind a closed connection that long.
LINGER = 1.1
TIME_LIMIT = 50


class Peer:
    def __init__(self) -> None:
        self._connection: Any = None
        self._clean: tuple[Any, ...] = ()

    async def gather(self, controlling: bool, options: dict[str, Any]) -> Answer:
        """A new connection with its candidates."""
        for name in ("stun_server", "turn_server"):
            if name in options:
                options[name] = tuple(options[name])
        gc.collect()
        self._clean = _holdings()
        self._connection = Connection(ice_controlling=controlling, **options)
        started = time.perf_counter()
        await self._connection.gather_candidates()
        return {
            "ms": _since(started),
            "ufrag": self._connection.local_username,
            "pwd": self._connection.local_password,
            "candidates": [candidate.to_sdp() for candidate in self._connection.local_candidates],
        }

    async def connect(self, ufrag: str, pwd: str, candidates: list[str]) -> Answer:
        """Milliseconds until it is connected, and the types of the pair that was selected in the end."""
        connection = self._connection
        connection.remote_username, connection.remote_password = ufrag, pwd
        started = time.perf_counter()
        for line in candidates:
            await connection.add_remote_candidate(Candidate.from_sdp(line))
        await connection.add_remote_candidate(None)
        await connection.connect()
        taken = _since(started)
        while getattr(connection, "state", "completed") == "connected":
            await asyncio.sleep(0.01)
        pair = connection._nominated[1]
        return {"ms": taken, "local": pair.local_candidate.type, "remote": pair.remote_candidate.type}

    async def send(self, text: str) -> Answer:
        await self._connection.send(text.encode())
        return {}

    async def receive(self) -> Answer:
        return {"text": (await self._connection.recv()).decode()}

    async def close(self) -> Answer:
        """Milliseconds that it took, and what is still there when the server has had its time."""
        started = time.perf_counter()
        await self._connection.close()
        taken = _since(started)
        self._connection = None
        until = time.perf_counter() + LINGER
        while _holdings() != self._clean and time.perf_counter() < until:
            await asyncio.sleep(0.02)
        left = _holdings()
        return {"ms": taken, "left": "" if left == self._clean else f"{self._clean} -> {left}"}


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _holdings() -> tuple[int, int, int]:
    """Descriptors, tasks and timers; the caller's own are not counted, or always are."""
    loop: Any = asyncio.get_running_loop()
    timers = sum(not handle.cancelled() for handle in loop._scheduled)
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), timers


async def main() -> None:
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(repr(context)))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    peer = Peer()
    while line := await lines.readline():
        name, arguments = json.loads(line)
        verb: Callable[..., Awaitable[Answer]] = getattr(peer, name)
        try:
            answer = await asyncio.wait_for(verb(**arguments), TIME_LIMIT)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if errors:
            answer = {"error": "; ".join(errors)}
            errors.clear()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
