"""Gathering from servers that are near, far, dead, restarted or gone, end to end."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.events import LocalCandidate
from aioice.core.message import Method
from aioice.core.servers import StunServer, TurnServer
from aioice.sim import TurnServer as Server
from aioice.sim import World
from tests.scenarios.support import STUN, TURN, Pair, Peer, pair

TURN2 = ("198.51.100.12", 3478)
UDP = TurnServer(*TURN, username="user", password="secret")
TCP = UDP._replace(transport="tcp")
TLS = UDP._replace(host="turn.example.org", port=5349, transport="tcp", tls=True)
UDP2 = UDP._replace(host=TURN2[0])


def turn_server(world: World, address: tuple[str, int] = TURN, **options: Any) -> Server:
    return world.turn_server(address[0], username="user", password="secret", **options)


def types(peer: Peer) -> list[str]:
    return [candidate.type for candidate in peer.agent.local_candidates]


def verdicts(peer: Peer) -> list[str]:
    return [str(report.verdict) for report in peer.agent.server_reports]


def gathered_at(peer: Peer) -> float:
    peer.gather()
    return round(peer.world.run_until(lambda: peer.gathered), 6)


class TestEnd:
    def test_turn_over_tls_beside_a_fast_stun_server(self) -> None:
        """Five round trips of 40 ms beside one of 10 ms: TCP, two for TLS, the challenge, the allocation."""
        world = World()
        world.names.add("turn.example.org", TURN[0], delay=0.0)
        world.network(delay=0.005)
        nat = world.nat("203.0.113.1")
        host = nat.host("10.0.0.2")
        world.stun_server(STUN[0])
        server = turn_server(world)
        world.path(nat, server.host, delay=0.02)
        peer = Peer(host, True, servers=(StunServer(*STUN), TLS))
        assert gathered_at(peer) == pytest.approx(0.2, abs=0.03)
        assert types(peer) == ["host", "srflx", "relay"]
        round_trips = [report.rtt for report in peer.agent.server_reports if report.rtt]
        assert round_trips == pytest.approx([0.04, 0.01], abs=0.011)

    def test_five_servers_of_which_four_are_dead(self) -> None:
        world = World()
        world.network(delay=0.01)
        turn_server(world)
        world.host("198.51.100.50", refuses=True)
        world.names.silence("nowhere.example.org")
        servers = (
            StunServer("198.51.100.50", 3478),
            StunServer("198.51.100.77", 3478),
            StunServer("nowhere.example.org", 3478),
            UDP2,
            UDP,
        )
        peer = Peer(world.host("192.0.2.1"), True, servers=servers)
        assert gathered_at(peer) <= 1.03
        assert types(peer) == ["host", "relay"]
        world.run(until=60.0)
        assert sorted(verdicts(peer)) == ["answered", "name not found", "timed out", "timed out", "unreachable"]

    def test_all_that_is_certain_ends_at_once(self) -> None:
        world = World()
        world.network(delay=0.01)
        world.host("198.51.100.50", refuses=True)
        closed = ("198.51.100.50", 3478)
        servers = (
            StunServer(*closed),
            TurnServer(*closed, username="user", password="secret"),
            TurnServer(*closed, "tcp", username="user", password="secret"),
            StunServer("unknown.example.org", 3478),
        )
        assert gathered_at(Peer(world.host("192.0.2.1"), True, servers=servers)) <= 0.05

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request", b"\xffwhatever", b"\x40\x00\x00\x04data"])
    def test_what_answers_is_no_stun_server(self, answer: bytes) -> None:
        world = World()
        world.network(delay=0.01)
        socket = world.host("198.51.100.50").bind("198.51.100.50", 3478)
        socket.on_datagram = lambda peer, data: socket.send(peer, answer)
        for host, allowed in (("192.0.2.1", True), ("192.0.2.2", False)):
            servers = (StunServer("198.51.100.50", 3478),)
            peer = Peer(world.host(host), True, servers=servers, remote_filter=lambda host, yes=allowed: yes)
            assert gathered_at(peer) == pytest.approx(0.02 if allowed else 0.04)
            assert verdicts(peer) == ["not a STUN server"]

    def test_a_dead_vpn_interface(self) -> None:
        """F10: its socket reaches nobody; nothing is waited for but 100 ms and three round trips."""
        world = World()
        world.network(delay=0.01)
        server = world.stun_server(STUN[0])
        nat = world.nat("203.0.113.1")
        host = nat.host("10.0.0.2", "10.8.0.2")
        world.drop(lambda packet: packet.src[0] == "10.8.0.2" or packet.dst[0] == "10.8.0.2")
        peer = Peer(host, True, servers=(StunServer(*STUN),))
        assert gathered_at(peer) <= 0.19
        assert types(peer) == ["host", "host", "srflx"] and server.count(Method.BINDING) == 1

    def test_a_late_answer_is_told(self) -> None:
        world = World()
        world.network(delay=0.01)
        server = world.stun_server(STUN[0])
        server.delay = 1.5
        peer = Peer(world.nat("203.0.113.1").host("10.0.0.2"), True, servers=(StunServer(*STUN),))
        assert gathered_at(peer) == pytest.approx(1.0)
        world.run(until=2.0)
        assert types(peer) == ["host", "srflx"]
        assert [event.candidate.type for _, event in peer.all(LocalCandidate) if event.candidate] == types(peer)


class TestKeepAlive:
    def test_a_connection_is_made_long_after_gathering(self) -> None:
        """The NAT forgets after half a minute; the peer signals after five."""
        world = World()
        world.network(delay=0.01)
        world.stun_server(STUN[0])
        hosts = tuple(world.nat(f"203.0.113.{n}", lifetime=30.0).host("10.0.0.2") for n in (1, 2))
        p = pair(world, hosts=(hosts[0], hosts[1]), servers=(StunServer(*STUN),))
        p.gather()
        world.run(until=300.0)
        assert p.connect() <= 0.2
        p.talk()

    def test_and_nothing_is_kept_once_a_pair_is_selected(self) -> None:
        world = World()
        world.network(delay=0.01)
        server = world.stun_server(STUN[0])
        hosts = tuple(world.nat(f"203.0.113.{n}").host("10.0.0.2") for n in (1, 2))
        p = pair(world, hosts=(hosts[0], hosts[1]), servers=(StunServer(*STUN),))
        p.connect()
        p.until_complete()
        world.run(until=world.now + 60.0)
        assert server.count(Method.BINDING) == 2


class TestLoss:
    """The relay of the controlling side is the only way; data flows again by itself."""

    def relayed(self, *servers: TurnServer) -> tuple[World, Server, Pair]:
        world = World()
        world.network(delay=0.01)
        server = turn_server(world)
        p = pair(world, left={"servers": servers, "relay_only": True})
        p.connect()
        p.until_complete()
        p.talk()
        world.run(until=world.now + 60.0)
        return world, server, p

    def again(self, p: Pair) -> float:
        """How long it takes until data flows again."""
        start = p.world.now
        p.world.run_until(lambda: p.left.complete and p.left.routed, 200.0)
        took = p.world.now - start
        p.talk()
        return took

    @pytest.mark.parametrize("server", [UDP, TCP])
    def test_the_server_restarts(self, server: TurnServer) -> None:
        world, turn, p = self.relayed(server)
        old = p.left.agent.local_candidates[0]
        turn.stop()
        turn.start()
        if server is UDP:
            # Nothing tells but an answer to the next request: the permission is renewed after four minutes at most.
            world.run_until(lambda: not p.left.complete, 600.0)
        else:
            world.run_until(lambda: not p.left.complete, 1.0)
        assert self.again(p) <= 0.3
        (new,) = p.left.agent.local_candidates
        assert new is not old and (new.host, new.port) != (old.host, old.port)
        assert [e.candidate for _, e in p.left.all(LocalCandidate) if e.candidate] == [old, new]
        assert p.left.closed == []

    def test_the_server_is_down_for_some_seconds(self) -> None:
        world, turn, p = self.relayed(TCP)
        turn.stop()
        world.run(until=world.now + 10.0)
        assert p.left.closed == []
        turn.start()
        assert self.again(p) <= 15.0

    def test_the_server_does_not_come_back(self) -> None:
        world, turn, p = self.relayed(TCP)
        turn.stop()
        world.run(until=world.now + 60.0)
        assert len(p.left.closed) == 1
        assert p.left.node.done

    def test_two_servers_of_which_one_dies(self) -> None:
        world = World()
        world.network(delay=0.01)
        first, second = turn_server(world), turn_server(world, TURN2)
        p = pair(world, left={"servers": (TCP, UDP2._replace(transport="tcp")), "relay_only": True})
        p.connect()
        p.until_complete()
        p.talk()
        used = p.left.selected[1].local
        assert used == "relay" and len(p.left.agent.local_candidates) == 2
        (first if first.allocations and self.carries(p, first) else second).stop()
        assert self.again(p) <= 0.3

    def carries(self, p: Pair, server: Server) -> bool:
        relayed = {address for allocation in server.allocations.values() for address in allocation.relayed}
        return bool(relayed & set(p.right.routed.values()))

    def test_it_forgets(self) -> None:
        """F41: 438, then 437 for every request."""
        world, turn, p = self.relayed(UDP)
        turn.forget()
        world.run_until(lambda: not p.left.complete, 600.0)
        assert self.again(p) <= 0.3


class TestFamilies:
    @pytest.mark.parametrize("remote", ["192.0.2.9", "2001:db8:9::9"])
    def test_a_relay_of_both_reaches_peers_of_either(self, remote: str) -> None:
        world = World()
        world.network(delay=0.01)
        server = turn_server(world, relay=("198.51.100.3", "2001:db8:3::3"))
        hosts = (world.host("192.0.2.1"), world.host(remote))
        p = pair(world, hosts=hosts, left={"servers": (UDP,), "relay_only": True})
        p.connect()
        p.talk()
        assert server.count(Method.ALLOCATE) == 2
        assert sorted(":" in c.host for c in p.left.agent.local_candidates) == [False, True]


class TestCredentials:
    def test_from_the_application(self) -> None:
        # F43: the user changes, the session goes on.
        world = World()
        world.network(delay=0.01)
        server = turn_server(world)
        peer = Peer(world.host("192.0.2.1"), True, servers=(TurnServer(*TURN, source=7),))
        asked: list[int] = []

        def credentials(number: int) -> tuple[str, str, float | None]:
            asked.append(number)
            return ("user", "secret", world.now + 3600)

        peer.node.credentials = credentials
        assert gathered_at(peer) <= 0.1
        world.run(until=7200.0)
        assert len(asked) == 3 and set(asked) == {7}
        assert types(peer) == ["host", "relay"] and len(server.allocations) == 1

    def test_that_are_not_there(self) -> None:
        world = World()
        turn_server(world)
        peer = Peer(world.host("192.0.2.1"), True, servers=(TurnServer(*TURN, source=7),))
        assert gathered_at(peer) <= 0.1
        assert verdicts(peer) == ["no credentials"]


class TestPolicy:
    def test_no_checks_to_forbidden_addresses(self) -> None:
        world = World()
        world.network(delay=0.01)
        world.stun_server(STUN[0])
        p = pair(
            world,
            hosts=(world.host("192.0.2.1"), world.host("192.0.2.2", "198.18.0.2")),
            left={"remote_filter": lambda host: not host.startswith("198.18."), "servers": (StunServer(*STUN),)},
        )
        p.connect()
        p.until_complete()
        assert {sent.peer[0] for sent in p.left.sent} == {"192.0.2.2", STUN[0]}
        assert all(c.host != "198.18.0.2" for c in p.left.agent.remote_candidates)
        assert p.left.agent.drops["address forbidden by the application"] >= 1

    def test_none_through_a_relay_either(self) -> None:
        world = World()
        world.network(delay=0.01)
        turn_server(world)
        filtered = {"remote_filter": lambda host: False, "servers": (UDP,), "relay_only": True}
        p = pair(world, left=filtered)
        p.gather().exchange().start()
        world.run(until=world.now + 5.0)
        assert not any(sent.message.message_method == Method.CREATE_PERMISSION for sent in p.left.sent)

    def test_a_server_may_be_where_peers_may_not(self) -> None:
        world = World()
        world.network(delay=0.01)
        world.stun_server(STUN[0])
        host = world.nat("203.0.113.1").host("10.0.0.2")
        peer = Peer(host, True, remote_filter=lambda host: False, servers=(StunServer(*STUN),))
        gathered_at(peer)
        assert types(peer) == ["host", "srflx"]

    def test_reflexive_candidates_alone(self) -> None:
        world = World()
        world.network(delay=0.01)
        world.stun_server(STUN[0])
        hosts = tuple(world.nat(f"203.0.113.{n}").host("10.0.0.2") for n in (1, 2))
        p = pair(
            world,
            hosts=(hosts[0], hosts[1]),
            left={"candidate_types": frozenset(("srflx",))},
            servers=(StunServer(*STUN),),
        )
        p.connect()
        p.talk()
        assert types(p.left) == ["srflx"]
        assert all("10.0.0" not in candidate.to_sdp() for candidate in p.left.agent.local_candidates)
