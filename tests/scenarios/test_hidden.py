"""Two agents that hide their addresses behind names, on simulated networks that resolve them or not."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.events import LocalCandidate, SelectedPair
from aioice.core.gathering import StunServer
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
