"""Connections, as applications have them, on hosts of the simulator."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from aioice import Connection
from aioice.core.events import ConnectionEvent, SelectedPair
from aioice.sim import Host, World

from .support import STUN, TURN, behind


async def gathered(host: Host, controlling: bool, **options: Any) -> Connection:
    """A connection on ``host`` that has gathered."""
    with host:
        connection = Connection(ice_controlling=controlling, **options)
        await connection.gather_candidates()
    return connection


async def exchange(left: Connection, right: Connection) -> None:
    """What the signalling does: each gets to know the other."""
    for one, other in ((left, right), (right, left)):
        one.remote_username, one.remote_password = other.local_username, other.local_password
        for candidate in other.local_candidates:
            await one.add_remote_candidate(candidate)
        await one.add_remote_candidate(None)


async def introduced(left: Host, right: Host, **options: Any) -> tuple[Connection, Connection]:
    """Two connections that have gathered and know each other."""
    pair = await asyncio.gather(gathered(left, True, **options), gathered(right, False, **options))
    await exchange(*pair)
    return pair


async def connected(left: Host, right: Host, **options: Any) -> tuple[Connection, Connection]:
    """Two connections that are connected."""
    pair = await introduced(left, right, **options)
    await asyncio.gather(*(connection.connect() for connection in pair))
    return pair


async def talk(left: Connection, right: Connection) -> None:
    """Data goes both ways."""
    await left.send(b"to the right")
    await right.send(b"to the left")
    assert (await left.recv(), await right.recv()) == (b"to the left", b"to the right")


async def close(*connections: Connection) -> None:
    await asyncio.gather(*(connection.close() for connection in connections))


def servers() -> dict[str, Any]:
    """The options of a connection that uses :data:`STUN` and :data:`TURN`."""
    return {"stun_server": STUN, "turn_server": TURN, "turn_username": "user", "turn_password": "secret"}


def natted(world: World, left: dict[str, Any] | None = None, right: dict[str, Any] | None = None) -> tuple[Host, Host]:
    """Two hosts behind NATs of their own, and both servers."""
    world.stun_server(STUN[0])
    world.turn_server(TURN[0], username="user", password="secret", relay="198.51.100.3")
    _, one = behind(world, "203.0.113.1", "10.0.1.2", **(left or {}))
    _, other = behind(world, "203.0.113.2", "10.0.2.2", **(right or {}))
    return one, other


async def told(events: AsyncIterator[ConnectionEvent]) -> str:
    """The pair that was selected last, of a connection that is closed."""
    pairs = [event async for event in events if isinstance(event, SelectedPair)]
    assert pairs[-1].nominated
    return pairs[-1].local.type[0] + pairs[-1].remote.type[0]


async def meet(world: World, mapping: tuple[str, str], filtering: tuple[str, str], turn: bool) -> str:
    """What two connections select, and the milliseconds of both ``connect()``; "fail" where neither succeeds."""
    loop = asyncio.get_running_loop()
    sides = [{"mapping": m, "filtering": f} for m, f in zip(mapping, filtering, strict=True)]
    hosts = natted(world, *sides)
    pair = await introduced(*hosts, **(servers() if turn else {"stun_server": STUN}))
    events = [connection.events() for connection in pair]
    begun = loop.time()
    results = await asyncio.gather(*(connection.connect() for connection in pair), return_exceptions=True)
    taken = round((loop.time() - begun) * 1000)
    if results != [None, None]:
        assert [type(result) for result in results] == [ConnectionError, ConnectionError]
        await close(*pair)
        return "fail"
    await asyncio.sleep(3)
    await talk(*pair)
    await close(*pair)
    left, right = [await told(reader) for reader in events]
    assert left == right[::-1]
    return f"{left}{taken:03}"


def lossy_session(seed: int) -> str:
    """A digest of all packets of a minute over a bad network, with relays."""
    world = World(seed)
    world.network(delay=0.03, jitter=0.02, loss=0.1, duplicate=0.05, reorder=0.05)
    hosts = natted(world)

    async def main() -> None:
        pair = await connected(*hosts, **servers())
        await asyncio.sleep(60)
        await close(*pair)

    world.run(main())
    return hashlib.sha256(repr(world.packets).encode()).hexdigest()
