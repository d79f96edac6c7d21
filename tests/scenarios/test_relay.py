"""Pairs over a TURN server, end to end."""

from __future__ import annotations

import pytest

from aioice.core.demux import is_channel_data
from aioice.core.gathering import TurnServer
from aioice.core.machine import Reason
from aioice.core.message import Method
from aioice.sim import TurnServer as Server
from aioice.sim import World
from tests.scenarios.support import TURN, Pair, behind, pair


def relayed(
    *, transport: str = "udp", both: bool = False, relay_only: bool = True, controlling: bool = True, **config: object
) -> tuple[World, Server, Pair]:
    """The left side, which is ``controlling`` or not, reaches the right one over its relay only."""
    world = World()
    world.network(delay=0.025)
    server = world.turn_server(TURN[0], username="user", password="secret", relay="198.51.100.3")
    turn = TurnServer(TURN[0], TURN[1], transport=transport, username="user", password="secret")
    mine = {"turn_server": turn, "relay_only": relay_only}
    left, right = {"controlling": controlling, **mine}, {"controlling": not controlling, **(mine if both else {})}
    return world, server, pair(world, left=left, right=right, **config)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_relay_to_host(transport: str) -> None:
    """The permission, then a check through the server and back: one round trip each (0.13.0: 503 ms on one host)."""
    _, _, p = relayed(transport=transport)
    assert p.connect() <= 0.151
    p.until_complete()
    assert p.left.selected[1] == ("relay", "host", True)
    assert p.right.selected[1] in (("host", "relay", True), ("host", "prflx", True))
    p.talk()


def test_relay_to_relay() -> None:
    """aiortc/aioice#110 (F39)."""
    _, _, p = relayed(both=True)
    p.connect()
    p.until_complete()
    assert [peer.selected[1] for peer in p] == [("relay", "relay", True)] * 2
    p.talk()


def test_two_components() -> None:
    _, _, p = relayed(components=2)
    p.connect()
    p.until_complete()
    assert set(p.left.routed) == {1, 2}
    p.talk()


def test_the_policy_shows_no_address() -> None:
    """RFC 9429 §3.5.3: relayed candidates alone, and no packet to the peer but the server's."""
    world, _, p = relayed()
    p.connect()
    p.talk()
    (candidate,) = p.left.agent.local_candidates
    assert (candidate.type, candidate.related_address, candidate.related_port) == ("relay", "0.0.0.0", 9)
    mine = {packet.dst[0] for packet in world.packets if packet.src[0] == "192.0.2.1"}
    assert mine == {TURN[0]}


def test_data_takes_a_channel() -> None:
    """RFC 8656 §12: four bytes of header, once it is bound."""
    world, _, p = relayed()
    p.connect()
    p.until_complete()
    p.talk()
    before = len(world.packets)
    p.left.send(b"\x80rtp")
    assert is_channel_data(world.packets[before].data)


def test_nominated_after_a_second() -> None:
    """A direct pair might still come (RFC 8445 §8.1.1); none can come over a relay alone."""
    _, _, p = relayed()
    p.connect()
    p.until_complete()
    assert p.left.completed_at - p.left.connected_at <= 1.1


def test_the_relay_is_freed_at_the_end() -> None:
    world, server, p = relayed()
    p.connect()
    p.left.close()
    world.run(until=world.now + 2)
    assert p.left.node.done == "closed"
    assert p.left.node.links == {}
    assert server.count(Method.REFRESH) == 1


def test_f38_one_peer_is_refused() -> None:
    """403 for one address: its pair fails, no storm, others go on (RFC 8656 §9)."""
    _, server, p = relayed()
    p.gather()
    p.left.add("1 1 udp 2130706431 192.0.2.66 9 typ host")
    server.refuse(403, Method.CREATE_PERMISSION, times=1)
    p.left.connect(p.right)
    p.exchange()
    p.right.connect(p.left)
    p.until_complete()
    assert server.count(Method.CREATE_PERMISSION) <= 4
    p.talk()


def test_checks_leave_again_when_the_permission_is_confirmed() -> None:
    """RFC 8656 §9: what the server has dropped before does not wait for its timer of 500 ms."""
    world, server, p = relayed()
    p.gather()
    server.delays = {Method.CREATE_PERMISSION: 0.1}
    world.drop(lambda packet: packet.dst == TURN and packet.data[:2] == b"\0\x16", count=1)
    # The other side waits to be checked.
    p.left.add(*p.right.agent.local_candidates, None)
    begun = p.start().world.now
    assert p.until_live() - begun == pytest.approx(0.15 + 0.15)


def test_a_peer_that_the_relay_cannot_reach() -> None:
    """RFC 8656 §11.6: a hard ICMP error behind the relay ends the pair's checks, one about sizes does not."""
    world, _, p = relayed()
    p.gather()
    world.host("192.0.2.66", refuses=True)
    p.left.add("1 1 udp 2130706431 192.0.2.66 9 typ host", None)
    p.left.connect(p.right)
    world.run(until=world.now + 0.5)
    (failed,) = p.left.agent.check_list
    assert failed.why_failed == str(Reason.REFUSED)


def test_the_server_dies() -> None:
    """Consent ends it, and closing does not wait for the server."""
    world, server, p = relayed()
    p.connect()
    p.until_complete()
    server.stop()
    begun = world.now
    world.run(until=begun + 120)
    assert len(p.left.closed) == 1
    assert p.left.closed[0][0] - begun <= 36
    assert p.left.node.done is not None


@pytest.mark.parametrize("controlling", [True, False])
def test_the_server_forgets_the_relay(controlling: bool) -> None:
    """F41: UDP tells nobody. A consent request that is still unanswered when the next one is due makes us ask the
    server; a controlling side that has lost its relay goes on at once over the new one, the one whose peer has lost it
    when it has been in doubt about the nominated pair.
    """
    world, server, p = relayed(controlling=controlling)
    p.connect()
    p.until_complete()
    world.run(until=world.now + 20)
    server.forget()
    begun = world.now
    world.run_until(lambda: server.count(Method.ALLOCATE) == 4)
    assert world.now - begun <= 12.1
    world.run(until=begun + (12.5 if controlling else 15.5))
    assert not p.left.closed and not p.right.closed
    p.talk()
    assert p.left.complete and p.right.complete
    assert p.right.routed == {1: (p.left.agent.local_candidates[0].host, p.left.agent.local_candidates[0].port)}
    world.run(until=world.now + 60)
    p.talk()


@pytest.mark.parametrize("controlling", [True, False])
def test_the_nat_before_the_server_has_a_new_address(controlling: bool) -> None:
    """What we send comes to the server from elsewhere, for an allocation that it does not know (437)."""
    world = World()
    world.network(delay=0.025)
    server = world.turn_server(TURN[0], username="user", password="secret", relay="198.51.100.3")
    turn = TurnServer(*TURN, username="user", password="secret")
    nat, host = behind(world, "203.0.113.1", "10.0.0.2")
    left = {"controlling": controlling, "turn_server": turn, "relay_only": True}
    p = pair(world, hosts=(host, world.host("192.0.2.2")), left=left, right={"controlling": not controlling})
    p.connect()
    p.until_complete()
    world.run(until=world.now + 20)
    (old,) = p.left.agent.local_candidates
    nat.rebind()
    world.run(until=world.now + (12.5 if controlling else 15.5))
    (new,) = p.left.agent.local_candidates
    assert (new.type, new.port) == ("relay", p.right.routed[1][1]) and new.port != old.port
    p.talk()
    assert p.left.complete and p.right.complete and len(server.allocations) == 2


def test_the_server_forgets_the_relay_again_and_again() -> None:
    """Of a controlled side: each nomination replaces the one before."""
    world, server, p = relayed(controlling=False)
    p.connect()
    for _ in range(3):
        p.until_complete()
        world.run(until=world.now + 40)
        server.forget()
        world.run(until=world.now + 16)
        p.talk()


def test_restart_over_the_relay() -> None:
    _, server, p = relayed()
    p.connect()
    p.until_complete()
    p.restart()
    p.talk()
    p.until_complete()
    p.talk()
    assert server.count(Method.ALLOCATE) == 2
