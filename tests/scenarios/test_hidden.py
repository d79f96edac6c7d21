"""Two agents that hide their addresses behind names, on simulated networks that resolve them or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioice import Candidate, Connection
from aioice.core.diagnosis import examine
from aioice.core.events import LocalCandidate, SelectedPair
from aioice.core.gathering import StunServer
from aioice.core.stats import collect
from aioice.sim import World
from tests.scenarios.support import STUN, Pair, behind, pair


def hide(peers: Pair, *which: int, resolvable: bool = True) -> dict[str, str]:
    """Names for the addresses of these peers; whoever asks the network for one is told."""
    names: dict[str, str] = {}
    for index in which:
        peer = list(peers)[index]
        own = {host: f"{index}-{number}.local" for number, host in enumerate(peer.host.addresses)}
        peer.node.do(peer.agent.hide, own)
        names |= own
    if resolvable:
        peers.world.names |= {name: (host,) for host, name in names.items()}
    return names


def told(peers: Pair) -> str:
    """All candidates that either application has seen of its own side."""
    events = [event for peer in peers for _, event in peer.told]
    shown: list[Any] = [event.candidate for event in events if isinstance(event, LocalCandidate)]
    shown += [event.local for event in events if isinstance(event, SelectedPair)]
    return " ".join(map(repr, shown))


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_one_network(which: tuple[int, ...]) -> None:
    """The names are resolved, and the pair is one of host candidates."""
    world = World()
    world.network(delay=0.025)
    hosts = world.host("192.0.2.1", "2001:db8::1"), world.host("192.0.2.2", "2001:db8::2")
    peers = pair(world, hosts=hosts, components=2)
    names = hide(peers, *which)
    peers.gather().exchange().start().until_complete()
    assert not any(host in told(peers) for host in names)
    for peer in peers:
        shown = repr(collect(peer.agent, 0.0, {}, {}))
        assert not any(host in shown for host in names)
        assert set(peer.selected.values()) == {("host", "host", True)}
    peers.talk()


def test_nobody_resolves_them() -> None:
    """As on a host without multicast: the checks of the other side, whose address is known, make the path."""
    peers = pair()
    names = hide(peers, 0, resolvable=False)
    peers.gather().exchange().start().until_complete()
    assert not any(host in told(peers) for host in names)
    assert peers.left.selected[1].local == "host"
    assert peers.right.selected[1].remote == "prflx"
    peers.talk()


def test_why_it_failed() -> None:
    """The findings tell neither our address nor that which the peer's name has been resolved to."""
    world = World()
    world.network(delay=0.025)
    peers = pair(world, hosts=(world.host("192.0.2.1"), world.host("192.0.2.2", refuses=True)))
    names = hide(peers, 0, 1)
    peers.gather().exchange()
    peers.right.node.do(peers.right.agent.close)
    peers.left.connect(peers.right)
    world.run(until=world.now + 45)
    shown = repr(examine(peers.left.agent)) + repr(collect(peers.left.agent, 0.0, {}, {}))
    assert "peer-unreachable" in shown
    assert not any(host in shown for host in names)


def test_behind_nats() -> None:
    """Reflexive candidates make the path, and tell nothing of what is behind."""
    world = World()
    world.network(delay=0.025)
    world.stun_server(*STUN)
    _, left = behind(world, "203.0.113.1", "10.0.0.1")
    _, right = behind(world, "203.0.113.2", "10.0.0.2")
    peers = pair(world, hosts=(left, right), stun_server=StunServer(*STUN))
    names = hide(peers, 0, 1, resolvable=False)
    peers.gather().exchange().start().until_complete()
    assert not any(host in told(peers) for host in names)
    assert "203.0.113.1" in told(peers) and "203.0.113.2" in told(peers)
    peers.talk()


def test_restart() -> None:
    """The names stay."""
    peers = pair()
    names = hide(peers, 0, 1)
    peers.gather().exchange().start().until_complete()
    before = [peer.agent.local_candidates[:] for peer in peers]
    peers.restart()
    peers.until_complete()
    assert [peer.agent.local_candidates for peer in peers] == before
    assert not any(host in told(peers) for host in names)
    peers.talk()


# -------------------------------------------------------- whole connections, with multicast on the simulated link


async def meet(a: Connection, b: Connection) -> None:
    for one, other in ((a, b), (b, a)):
        one.remote_username, one.remote_password = other.local_username, other.local_password
        for found in other.local_candidates:
            await one.add_remote_candidate(Candidate.from_sdp(found.to_sdp()))
        await one.add_remote_candidate(None)
    await asyncio.gather(a.connect(), b.connect())


@pytest.mark.parametrize("addresses", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_connections_on_one_link(addresses: tuple[str, str]) -> None:
    """Both hide, and find each other by questions and answers over multicast, in either family."""
    world = World()
    lan = world.router()
    hosts = [lan.host(address) for address in addresses]

    async def main() -> list[str]:
        connections = []
        for host, controlling in zip(hosts, (True, False), strict=True):
            with host:
                connections.append(Connection(controlling, hide_host_addresses=True))
                await connections[-1].gather_candidates()
        a, b = connections
        await meet(a, b)
        await until_complete(a, b)
        assert [c._nominated[1].remote_candidate.type for c in connections] == ["host", "host"]
        told = [repr(c.local_candidates) + repr(c._nominated) for c in connections]
        for connection in connections:
            await connection.close()
        return told

    for text, address in zip(world.run(main(), host=hosts[0]), addresses, strict=True):
        assert ".local" in text and address not in text


async def until_complete(*connections: Connection) -> None:
    while any(connection.state != "completed" for connection in connections):
        await asyncio.sleep(0.01)


def test_port_range_on_a_simulated_host() -> None:
    """One port, two connections: the second has none left."""
    world = World()
    world.network()
    host = world.host("192.0.2.1")

    async def main() -> None:
        first, second = (Connection(True, port_range=(7000, 7000)) for _ in range(2))
        await first.gather_candidates()
        assert [found.port for found in first.local_candidates] == [7000]
        with pytest.raises(ConnectionError, match="no port from 7000 to 7000 is free"):
            await second.gather_candidates()
        await first.close()
        await second.close()

    world.run(main(), host=host)
