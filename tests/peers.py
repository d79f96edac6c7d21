"""Two connections on the loopback interface, and what they leave behind: for the tests of the public face."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aioice import Candidate, Connection, ice
from aioice.ice import ConnectionEvent

HOST = "127.0.0.1"
#: More than anything takes.
PATIENCE = 20
#: More turns of the loop than anything needs that does not wait for the network.
TURNS = 25


def pair(**options: Any) -> tuple[Connection, Connection]:
    """The controlling one first."""
    return Connection(ice_controlling=True, **options), Connection(ice_controlling=False, **options)


def use_hosts(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """In place of those of this machine."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: list(hosts))


async def gather(*connections: Connection) -> None:
    await asyncio.gather(*(connection.gather_candidates() for connection in connections))


def introduce(a: Connection, b: Connection) -> None:
    """Each learns the credentials of the other."""
    for local, remote in ((a, b), (b, a)):
        remote.remote_username, remote.remote_password = local.local_username, local.local_password


async def signal(a: Connection, b: Connection) -> None:
    """Each learns all that it has to know of the other."""
    introduce(a, b)
    for local, remote in ((a, b), (b, a)):
        for found in local.local_candidates:
            await remote.add_remote_candidate(found)
        await remote.add_remote_candidate(None)


async def meet(a: Connection, b: Connection) -> None:
    """Both connect; each must have been told of the other."""
    await asyncio.wait_for(asyncio.gather(a.connect(), b.connect()), PATIENCE)


async def connect(a: Connection, b: Connection) -> None:
    await gather(a, b)
    await signal(a, b)
    await meet(a, b)


async def check_data(a: Connection, b: Connection, *components: int) -> None:
    """A datagram each way on each component."""
    for component in components or (1,):
        for sender, receiver in ((a, b), (b, a)):
            data = f"{id(sender)} on {component}".encode()
            await sender.sendto(data, component)
            assert await asyncio.wait_for(receiver.recvfrom(), PATIENCE) == (data, component)


async def close(*connections: Connection) -> None:
    await asyncio.gather(*(connection.close() for connection in connections))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


async def turns(number: int = TURNS) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def host_candidate(host: str, port: int, component: int = 1, **fields: Any) -> Candidate:
    described = {"foundation": "1", "transport": "udp", "priority": 2130706431, "type": "host", **fields}
    return Candidate(component=component, host=host, port=port, **described)


async def next_of(events: AsyncIterator[ConnectionEvent], kind: type) -> Any:
    """The next event of this kind; the others are dropped."""
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"no {kind.__name__} before the end")


def _timers() -> int:
    """Those that asyncio's own loops have armed; uvloop does not show its own."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return sum(not handle.cancelled() for handle in scheduled)


def holdings() -> tuple[int, set[asyncio.Task[Any]], int]:
    """Descriptors, tasks and armed timers."""
    return len(os.listdir("/proc/self/fd")), asyncio.all_tasks(), _timers()


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[list[Connection]]:
    """No descriptor, task or timer more than before, a few turns of the loop after the end (F50, F51).

    Connections that are put into the list must have nothing open either.
    """
    before = holdings()
    connections: list[Connection] = []
    yield connections
    await turns()
    assert holdings() == before
    for connection in connections:
        assert connection.state == "closed"
        assert not connection._protocols and not connection._nominated and not connection.local_candidates
        assert connection._driver is None or connection._driver.idle
