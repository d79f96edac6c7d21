"""The simulator itself: clock, paths, NATs, servers, and how it holds machines to the contract."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import pytest

from aioice.core.candidate import Candidate
from aioice.core.machine import (
    Accept,
    Address,
    Close,
    Connected,
    Deliver,
    Done,
    LinkClosed,
    Notify,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Output,
    Reason,
    Report,
    Resolve,
    Resolved,
    Revoke,
    Route,
    SendFailed,
    Transmit,
    Tunables,
    Unroute,
)
from aioice.core.message import Class, Message, Method, parse_message
from aioice.sim import Behaviour, Fate, Host, Nat, Node, TurnServer, World
from aioice.sim.hosts import CONNECT_TIMEOUT, Socket

SERVER = ("198.51.100.1", 3478)
TURN = ("198.51.100.2", 3478)
PEER = "192.0.2.9"
REMOTE = Candidate("1", 1, "udp", 1, PEER, 7000, "host")


class Script:
    """A machine that puts out what a test tells it to and remembers what comes in."""

    def __init__(self, *outputs: Output) -> None:
        self.outputs: deque[Output] = deque(outputs)
        self.datagrams: list[tuple[float, int, Address, bytes]] = []
        self.reports: list[tuple[float, Report]] = []
        self.relayed: list[tuple[int, Address, bytes]] = []
        self.deadline: float | None = None
        self.woken: list[float] = []

    def put(self, now: float, *outputs: Output) -> None:
        self.outputs.extend(outputs)

    def wake(self, now: float, deadline: float) -> None:
        self.deadline = deadline

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        self.datagrams.append((now, link, peer, data))

    def handle_report(self, now: float, report: Report) -> None:
        self.reports.append((now, report))

    def handle_timeout(self, now: float) -> None:
        self.woken.append(now)
        self.deadline = None

    def poll_output(self) -> Output | None:
        return self.outputs.popleft() if self.outputs else None

    def poll_timeout(self) -> float | None:
        return self.deadline

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        self.relayed.append((link, peer, data))

    @property
    def messages(self) -> list[Message]:
        return [parse_message(data) for _, _, _, data in self.datagrams if data[0] < 0x40]


def start(host: Host, *outputs: Output) -> tuple[Script, Node]:
    script = Script(*outputs)
    return script, host.run(script)


def ask(method: Method, number: int = 1, **attributes: Any) -> Message:
    named = {name.replace("_", "-"): value for name, value in attributes.items()}
    return Message(method, Class.REQUEST, number.to_bytes(12, "big"), named)


def arrivals(socket: Socket, world: World) -> list[tuple[float, Address, bytes]]:
    """What arrives at a socket from now on."""
    seen: list[tuple[float, Address, bytes]] = []
    socket.on_datagram = lambda peer, data: seen.append((world.now, peer, data))
    return seen


class TestClock:
    def test_order(self) -> None:
        world = World()
        seen: list[object] = []
        world.at(2.0, seen.append, "c")
        world.after(1.0, seen.append, "a")
        world.at(1.0, seen.append, "b")
        world.at(1.5, seen.append, "never").cancel()
        world.run(until=1.75)
        assert (seen, world.now) == (["a", "b"], 1.75)
        world.run(until=3)
        assert (seen, world.now) == (["a", "b", "c"], 3)

    def test_what_is_late_happens_now(self) -> None:
        world = World()
        seen: list[object] = []
        world.run(until=5)
        world.at(1.0, seen.append, 1)
        assert world.run_until(lambda: seen) == 5

    def test_run_until(self) -> None:
        world = World(seed=7)
        seen: list[object] = []
        world.at(2.0, seen.append, 1)
        world.at(9.0, seen.append, 2)
        assert world.run_until(lambda: seen) == 2.0
        with pytest.raises(TimeoutError, match=r"within 5 s \(seed 7\)"):
            world.run_until(lambda: len(seen) > 1, timeout=5)
        assert world.run_until(lambda: len(seen) > 1) == 9.0
        with pytest.raises(TimeoutError, match="nothing will ever happen"):
            world.run_until(lambda: False)

    def test_livelock(self) -> None:
        world = World()

        def again() -> None:
            world.after(0, again)

        again()
        with pytest.raises(AssertionError, match="stands still"):
            world.run(until=1)


class TestPaths:
    def world(self, **conditions: float) -> tuple[World, Socket, list[tuple[float, Address, bytes]]]:
        world = World(seed=1)
        world.network(**conditions)
        source, target = world.host("192.0.2.1").bind("192.0.2.1"), world.host("192.0.2.2").bind("192.0.2.2", 7000)
        return world, source, arrivals(target, world)

    def flood(self, count: int = 200, **conditions: float) -> tuple[World, list[tuple[float, Address, bytes]]]:
        world, source, seen = self.world(**conditions)
        for number in range(count):
            world.at(number / 1000, source.send, ("192.0.2.2", 7000), number.to_bytes(2, "big"))
        world.run(until=10)
        return world, seen

    def test_delay(self) -> None:
        world, source, seen = self.world(delay=0.04)
        source.send(("192.0.2.2", 7000), b"x")
        world.run(until=1)
        assert seen == [(0.04, ("192.0.2.1", 50000), b"x")]
        assert [(packet.fate, packet.arrived) for packet in world.packets] == [(Fate.DELIVERED, 0.04)]

    def test_loss_is_deterministic(self) -> None:
        (first, seen), (second, again) = self.flood(loss=0.1), self.flood(loss=0.1)
        assert first.packets == second.packets
        assert seen == again
        assert 5 < sum(packet.fate is Fate.LOST for packet in first.packets) < 40
        assert len(seen) == sum(packet.fate is Fate.DELIVERED for packet in first.packets)

    def test_seeds_differ(self) -> None:
        lost = set()
        for seed in range(3):
            world = World(seed)
            world.network(loss=0.5)
            socket = world.host("192.0.2.1").bind("0.0.0.0")
            world.host("192.0.2.2")
            for _ in range(50):
                socket.send(("192.0.2.2", 1), b"")
            lost.add(tuple(packet.fate for packet in world.packets))
        assert len(lost) == 3

    def test_random_bytes_do_not_move_the_losses(self) -> None:
        _, seen = self.flood(loss=0.1)
        other, source, again = self.world(loss=0.1)
        assert other.random_bytes(8) == World(seed=1).random_bytes(8) != World(seed=2).random_bytes(8)
        for number in range(200):
            other.at(number / 1000, source.send, ("192.0.2.2", 7000), number.to_bytes(2, "big"))
        other.run(until=10)
        assert again == seen

    def test_jitter_keeps_order(self) -> None:
        _, seen = self.flood(jitter=0.05)
        assert [data for _, _, data in seen] == [number.to_bytes(2, "big") for number in range(200)]
        assert len({time for time, _, _ in seen}) > 10
        assert all(0 <= time - 0.025 - int.from_bytes(data, "big") / 1000 <= 0.0501 for time, _, data in seen)

    def test_reorder(self) -> None:
        _, seen = self.flood(reorder=0.1)
        order = [data for _, _, data in seen]
        assert order != sorted(order)
        assert len(order) == 200

    def test_duplicate(self) -> None:
        world, seen = self.flood(duplicate=0.1)
        copies = [packet for packet in world.packets if packet.copy]
        assert len(seen) == 200 + len(copies)
        assert 5 < len(copies) < 40
        assert all(packet.fate is Fate.DELIVERED for packet in world.packets)

    def test_path_overrides(self) -> None:
        world, source, seen = self.world()
        target = world.public.attached["192.0.2.2"]
        world.path(source.host, target, delay=0.1)
        source.send(("192.0.2.2", 7000), b"slow")
        world.run(until=1)
        assert seen.pop()[0] == 0.1
        world.path(target, source.host, loss=1.0, both=False)
        source.send(("192.0.2.2", 7000), b"still")
        world.run(until=2)
        assert seen.pop()[0] == 1.1
        world.path(source.host, target, loss=1.0)
        source.send(("192.0.2.2", 7000), b"never")
        world.run(until=3)
        assert not seen

    def test_path_override_through_nats(self) -> None:
        """The hosts' own path counts, whatever is between them; else that of their NATs."""
        world = World()
        world.network(delay=0.01)
        nats = [world.nat(f"203.0.113.{n}", filtering="endpoint-independent") for n in (1, 2)]
        hosts = [nat.host("10.0.0.2") for nat in nats]
        sockets = [host.bind("10.0.0.2", 5000) for host in hosts]
        seen = arrivals(sockets[1], world)
        sockets[1].send(("203.0.113.1", 5000), b"punch")
        world.path(nats[0], nats[1], delay=0.2)
        sockets[0].send(("203.0.113.2", 5000), b"")
        world.path(hosts[0], hosts[1], delay=0.1)
        sockets[0].send(("203.0.113.2", 5000), b"")
        world.run(until=1)
        assert [time for time, _, _ in seen] == [0.1, 0.2]

    def test_drop(self) -> None:
        world, source, seen = self.world()
        hook = world.drop(lambda packet: packet.dst[1] == 7000 and packet.data != b"keep", count=1)
        every = world.drop(lambda packet: packet.data == b"bad")
        for data in (b"keep", b"a", b"b", b"bad", b"bad"):
            source.send(("192.0.2.2", 7000), data)
        every.cancel()
        source.send(("192.0.2.2", 7000), b"bad")
        world.run(until=1)
        assert [data for _, _, data in seen] == [b"keep", b"b", b"bad"]
        assert [packet.data for packet in hook.packets] == [b"a"]
        assert [packet.fate for packet in every.packets] == [Fate.DROPPED] * 2

    def test_nobody_there(self) -> None:
        world, source, _ = self.world()
        errors: list[tuple[Address, Reason]] = []
        source.on_error = lambda peer, reason: errors.append((peer, reason))
        source.send(("192.0.2.77", 7000), b"")
        source.send(("192.0.2.2", 7001), b"")
        world.run(until=1)
        assert [packet.fate for packet in world.packets] == [Fate.NOWHERE, Fate.CLOSED_PORT]
        assert errors == []

    def test_refusing_host(self) -> None:
        world, source, _ = self.world()
        world.host("192.0.2.3", refuses=True)
        errors: list[tuple[float, Address, Reason]] = []
        source.on_error = lambda peer, reason: errors.append((world.now, peer, reason))
        source.send(("192.0.2.3", 7001), b"")
        world.run(until=1)
        assert errors == [(0.05, ("192.0.2.3", 7001), Reason.REFUSED)]
        source.send(("192.0.2.3", 7001), b"")
        source.close()
        assert source.send(("192.0.2.3", 7001), b"") is Reason.CLOSED
        world.run(until=2)
        assert len(errors) == 1

    def test_loopback_takes_no_time(self) -> None:
        world = World()
        host = world.host("192.0.2.1")
        seen = arrivals(host.bind("192.0.2.1", 7000), world)
        host.bind("192.0.2.1").send(("192.0.2.1", 7000), b"")
        world.run(until=1)
        assert [time for time, _, _ in seen] == [0.0]

    def test_addresses_come_and_go(self) -> None:
        world, source, _ = self.world()
        host = source.host
        with pytest.raises(ValueError, match="taken"):
            host.add_address("192.0.2.2")
        host.add_address("2001:DB8::1")
        assert host.addresses == ["192.0.2.1", "2001:db8::1"]
        assert host.bind("::").local == ("2001:db8::1", 50001)
        assert source.send(("2001:db8::2", 1), b"") is Reason.UNREACHABLE
        assert source.send(("192.0.2.2", 7000), bytes(65508)) is Reason.TOO_BIG
        host.remove_address("192.0.2.1")
        assert source.send(("192.0.2.2", 7000), b"") is Reason.UNREACHABLE
        assert not world.packets
        with pytest.raises(OSError, match="assign"):
            host.bind("192.0.2.1")
        with pytest.raises(OSError, match="in use"):
            host.bind("2001:db8::1", 50001)


KINDS = list(Behaviour)


class TestNat:
    def seen_from(self, nat: Nat, socket: Socket, dst: Address) -> Address:
        """The address that ``dst`` sees."""
        socket.send(dst, b"")
        return nat.world.packets[-1].seen

    @pytest.mark.parametrize("filtering", KINDS)
    @pytest.mark.parametrize("mapping", KINDS)
    def test_table(self, mapping: Behaviour, filtering: Behaviour) -> None:
        """RFC 4787 §4.1 and §5: every mapping with every filtering."""
        world = World()
        nat = world.nat("203.0.113.1", mapping=mapping, filtering=filtering)
        socket = nat.host("10.0.0.2").bind("10.0.0.2", 5000)
        same, other = world.host("192.0.2.1"), world.host("192.0.2.2")
        contacted, other_port = (same.bind("192.0.2.1", port) for port in (1, 2))
        stranger = other.bind("192.0.2.2", 1)

        external = self.seen_from(nat, socket, contacted.local)
        assert external == ("203.0.113.1", 5000)
        for peer in (contacted, other_port, stranger):
            peer.send(external, b"")
        world.run(until=1)
        fates = [packet.fate for packet in world.packets[1:]]
        passing = {KINDS[0]: 3, KINDS[1]: 2, KINDS[2]: 1}[filtering]
        assert fates == [Fate.DELIVERED] * passing + [Fate.FILTERED] * (3 - passing)

        assert self.seen_from(nat, socket, contacted.local) == external
        assert (self.seen_from(nat, socket, other_port.local) == external) is (mapping is not KINDS[2])
        assert (self.seen_from(nat, socket, stranger.local) == external) is (mapping is KINDS[0])

    @pytest.mark.parametrize(
        "ports, expected", [("preserving", [5000, 5001]), ("sequential", [40000, 40001]), ("random", None)]
    )
    def test_ports(self, ports: str, expected: list[int] | None) -> None:
        """RFC 4787 §4.2."""
        world = World(seed=3)
        nat = world.nat("203.0.113.1", ports=ports)
        sockets = [nat.host(f"10.0.0.{n}").bind("0.0.0.0", 5000) for n in (2, 3)]
        given = [self.seen_from(nat, socket, SERVER)[1] for socket in sockets]
        assert len(set(given)) == 2
        assert all(port >= 1024 for port in given)
        assert expected is None or given == expected

    def test_out_of_ports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aioice.sim.nat.LOWEST_PORT", 65534)
        nat = World().nat("203.0.113.1", mapping="address-and-port-dependent")
        socket = nat.host("10.0.0.2").bind("10.0.0.2")
        assert {self.seen_from(nat, socket, ("192.0.2.1", port))[1] for port in (1, 2)} == {65534, 65535}
        with pytest.raises(RuntimeError, match="no free port"):
            socket.send(("192.0.2.1", 3), b"")

    def test_lifetime(self) -> None:
        """RFC 4787 §4.3: outbound packets keep a mapping, inbound ones only if the NAT is made so."""
        for inbound_refresh in (False, True):
            world = World()
            nat = world.nat("203.0.113.1", lifetime=120, inbound_refresh=inbound_refresh, ports="sequential")
            socket = nat.host("10.0.0.2").bind("10.0.0.2")
            peer = world.host("192.0.2.1").bind("192.0.2.1", 1)
            external = self.seen_from(nat, socket, peer.local)
            world.run(until=100)
            assert self.seen_from(nat, socket, peer.local) == external
            world.run(until=200)
            peer.send(external, b"")
            world.run(until=250)
            peer.send(external, b"")
            world.run(until=251)
            fate, port = (Fate.DELIVERED, 40000) if inbound_refresh else (Fate.UNMAPPED, 40001)
            assert world.packets[-1].fate is fate
            assert self.seen_from(nat, socket, peer.local)[1] == port

    def test_permission_of_one_peer_expires(self) -> None:
        world = World()
        nat = world.nat("203.0.113.1", lifetime=120)
        socket = nat.host("10.0.0.2").bind("10.0.0.2", 5000)
        peers = [world.host(f"192.0.2.{n}").bind("0.0.0.0", 1) for n in (1, 2)]
        socket.send(peers[0].local, b"")
        world.run(until=100)
        socket.send(peers[1].local, b"")
        world.run(until=130)
        for peer in peers:
            peer.send(("203.0.113.1", 5000), b"")
        world.run(until=131)
        assert [packet.fate for packet in world.packets[-2:]] == [Fate.FILTERED, Fate.DELIVERED]

    @pytest.mark.parametrize("hairpinning", [False, True])
    def test_hairpinning(self, hairpinning: bool) -> None:
        """RFC 4787 §6: the receiver sees the external address."""
        world = World()
        nat = world.nat("203.0.113.1", hairpinning=hairpinning, filtering="endpoint-independent", delay=0.002)
        first, second = (nat.host(f"10.0.0.{n}").bind("0.0.0.0", 5000 + n) for n in (2, 3))
        second.send(SERVER, b"")
        seen = arrivals(second, world)
        first.send(("203.0.113.1", 5003), b"")
        world.run(until=1)
        assert seen == ([(0.002, ("203.0.113.1", 5002), b"")] if hairpinning else [])
        assert world.packets[-1].fate is (Fate.DELIVERED if hairpinning else Fate.NO_HAIRPIN)

    def test_inside(self) -> None:
        """Hosts behind one NAT talk directly; the same private address elsewhere is another host."""
        world = World()
        nat, other = world.nat("203.0.113.1", delay=0.002), world.nat("203.0.113.2")
        first, second = nat.host("10.0.0.2").bind("0.0.0.0"), nat.host("10.0.0.3").bind("0.0.0.0", 5000)
        arrivals(other.host("10.0.0.3").bind("0.0.0.0", 5000), world).append((0.0, SERVER, b"nothing"))
        seen = arrivals(second, world)
        first.send(second.local, b"x")
        world.run(until=1)
        assert seen == [(0.002, first.local, b"x")]

    def test_carrier_grade(self) -> None:
        """A NAT behind a NAT: both translate, both filter; two homes meet inside the carrier's network."""
        world = World()
        carrier = world.nat("203.0.113.1", ports="sequential", delay=0.004)
        homes = [carrier.nat(f"100.64.0.{n}", ports="sequential", filtering="endpoint-independent") for n in (1, 2)]
        sockets = [home.host("192.168.0.2").bind("0.0.0.0") for home in homes]
        server = world.host(SERVER[0]).bind(*SERVER)
        seen, inside = arrivals(server, world), arrivals(sockets[1], world)
        for socket in sockets:
            socket.send(SERVER, b"")
        world.run(until=1)
        assert [peer for _, peer, _ in seen] == [("203.0.113.1", 40000), ("203.0.113.1", 40001)]
        server.send(("203.0.113.1", 40001), b"back")
        sockets[0].send(("100.64.0.2", 40000), b"home")
        world.run(until=2)
        assert inside == [(1.004, ("100.64.0.1", 40000), b"home"), (1.025, SERVER, b"back")]

    def test_rebind(self) -> None:
        world = World()
        nat = world.nat("203.0.113.1")
        socket = nat.host("10.0.0.2").bind("10.0.0.2", 5000)
        before = self.seen_from(nat, socket, SERVER)
        nat.rebind()
        assert self.seen_from(nat, socket, SERVER) != before
        assert repr(nat) == "Nat(203.0.113.1, endpoint-independent, address-and-port-dependent)"

    def test_ipv6_is_not_translated(self) -> None:
        world = World()
        carrier = world.nat("203.0.113.1")
        home = carrier.nat("100.64.0.1")
        host = home.host("192.168.0.2", "2001:db8::2")
        inner, outer = host.bind("::", 5000), world.host("2001:db8::9").bind("::", 6000)
        seen, outside = arrivals(inner, world), arrivals(outer, world)
        inner.send(outer.local, b"")
        outer.send(inner.local, b"")
        world.run(until=1)
        assert seen == [(0.025, ("2001:db8::9", 6000), b"")]
        assert outside == [(0.025, ("2001:db8::2", 5000), b"")]
        host.remove_address("2001:db8::2")
        outer.send(inner.local, b"")
        assert world.packets[-1].fate is Fate.NOWHERE

    def test_host_has_left(self) -> None:
        world = World()
        nat = world.nat("203.0.113.1", filtering="endpoint-independent")
        host = nat.host("10.0.0.2")
        host.bind("10.0.0.2", 5000).send(SERVER, b"")
        host.remove_address("10.0.0.2")
        world.host("192.0.2.1").bind("192.0.2.1").send(("203.0.113.1", 5000), b"")
        world.run(until=1)
        assert world.packets[-1].fate is Fate.NOWHERE


class TestNode:
    def test_open_udp(self) -> None:
        world = World()
        host = world.host("192.0.2.1", "2001:db8::1")
        hosts = ("192.0.2.1", "::", "192.0.2.7", "0.0.0.0")
        script, node = start(host, *(OpenUdp(link, address) for link, address in enumerate(hosts, 1)))
        assert script.reports == [
            (0.0, Opened(1, ("192.0.2.1", 50000))),
            (0.0, Opened(2, ("2001:db8::1", 50001))),
            (0.0, OpenFailed(3, Reason.BIND, "cannot assign the requested address")),
            (0.0, Opened(4, ("192.0.2.1", 50002))),
        ]
        assert sorted(node.links) == [1, 2, 4]
        node.do(script.put, Close(1), Close(2), Close(4))
        assert not node.links
        assert not host.sockets

    def test_timer(self) -> None:
        world = World()
        script, node = start(world.host("192.0.2.1"))
        node.do(script.wake, 1.5)
        node.do(script.wake, 1.25)
        node.do(script.wake, 1.25)
        world.run(until=9)
        assert script.woken == [1.25]
        node.do(script.wake, 2.0)
        world.run(until=10)
        assert script.woken == [1.25, 9]

    def test_data(self) -> None:
        """Application data by the accept table, STUN to the machine, the rest nowhere."""
        world = World()
        peer = world.host(PEER).bind(PEER, 7000)
        back = arrivals(peer, world)
        script, node = start(world.host("192.0.2.1"), OpenUdp(1, "192.0.2.1"))
        peer.send(("192.0.2.1", 50000), b"early")
        world.run(until=1)
        assert (node.unwanted, node.delivered) == (1, [])
        with pytest.raises(ConnectionError):
            node.send(1, b"out")
        node.do(script.put, Accept(1, peer.local, 1), Route(1, 1, peer.local, REMOTE))
        node.do(script.put, Deliver(1, peer.local, b"unwrapped"))
        for data in (b"in", b"\x40\x00\x00\x00", bytes(ask(Method.BINDING))):
            peer.send(("192.0.2.1", 50000), data)
        node.send(1, b"out")
        world.run(until=2)
        assert node.delivered == [(1.0, 1, b"unwrapped"), (1.025, 1, b"in"), (1.025, 1, b"\x40\x00\x00\x00")]
        assert [data for _, _, data in back] == [b"out"]
        assert [message.message_method for message in script.messages] == [Method.BINDING]
        assert (node.sent, node.received) == (0, 1)
        node.do(script.put, Revoke(1, peer.local), Unroute(1), Transmit(1, peer.local, bytes(ask(Method.BINDING))))
        assert (node.routes, node.accepts, node.sent) == ({}, {}, 1)
        node.do(script.put, Deliver(1, peer.local, b"late"))
        assert node.unwanted == 2

    def test_events_and_end(self) -> None:
        world = World()
        script, node = start(world.host("192.0.2.1"), Notify("hello"))
        world.run(until=1)
        node.do(script.put, Notify("again"), Done("finished"))
        assert node.events == [(0.0, "hello"), (1.0, "again")]
        assert node.done == "finished"
        assert node.outputs[-1] == (1.0, Done("finished"))

    def test_reports(self) -> None:
        world = World()
        world.names["stun.example"] = ("198.51.100.1",)
        host = world.host("192.0.2.1")
        world.host("192.0.2.3", refuses=True)
        script, node = start(host, Resolve(1, "STUN.example"), Resolve(2, "nobody.local"), OpenUdp(1, "192.0.2.1"))
        node.do(script.put, Transmit(1, ("192.0.2.3", 9), b""), Transmit(1, ("2001:db8::9", 9), b""))
        node.report(Tunables(retry_max=1))
        world.run(until=1)
        assert script.reports[1:] == [
            (0.0, SendFailed(1, ("2001:db8::9", 9), Reason.UNREACHABLE)),
            (0.0, Tunables(retry_max=1)),
            (0.01, Resolved(1, ("198.51.100.1",))),
            (0.01, Resolved(2, ())),
            (0.05, SendFailed(1, ("192.0.2.3", 9), Reason.REFUSED)),
        ]

    def test_relay_link(self) -> None:
        world = World()
        script, node = start(world.host("192.0.2.1"), OpenRelay(1, ("198.51.100.2", 50000), ("192.0.2.1", 1), 0))
        assert script.reports == [(0.0, Opened(1, ("198.51.100.2", 50000)))]
        node.do(script.put, Route(1, 1, (PEER, 7000), REMOTE), Accept(1, (PEER, 7000), 1))
        node.do(script.put, Deliver(1, (PEER, 7000), b"in"))
        node.send(1, b"out")
        assert script.relayed == [(1, (PEER, 7000), b"out")]
        assert node.delivered == [(0.0, 1, b"in")]
        with pytest.raises(AssertionError, match="which is a relay's"):
            node.do(script.put, Transmit(1, (PEER, 7000), b""))

    @pytest.mark.parametrize(
        "outputs, message",
        [
            ([Transmit(1, SERVER, b"")], "not open"),
            ([Close(1)], "not open"),
            ([OpenUdp(1, "0.0.0.0"), Close(1), Close(1)], "not open"),
            ([OpenUdp(1, "0.0.0.0"), Close(1), OpenUdp(1, "0.0.0.0")], "second time"),
            ([OpenStream(1, SERVER, None), Transmit(1, SERVER, b"")], "not open"),
            ([Route(1, 1, SERVER, REMOTE)], "not open"),
            ([Done(""), Notify("late")], "after Done"),
        ],
    )
    def test_breaches(self, outputs: list[Output], message: str) -> None:
        with pytest.raises(AssertionError, match=message):
            start(World().host("192.0.2.1"), *outputs)

    def test_late_close_after_done(self) -> None:
        _, node = start(World().host("192.0.2.1"), OpenUdp(1, "0.0.0.0"), Done(""), Close(1))
        assert not node.links

    def test_timer_that_does_not_move(self) -> None:
        class Stuck(Script):
            def handle_timeout(self, now: float) -> None:
                self.deadline = now

        world = World(seed=5)
        script = Stuck()
        world.host("192.0.2.1").run(script).do(script.wake, 1.0)
        with pytest.raises(AssertionError, match=r"poll_timeout\(\) is 1.0 .* \(seed 5\)"):
            world.run(until=2)

    def test_machine_that_raises(self) -> None:
        class Broken(Script):
            def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
                raise KeyError("x")

            def handle_report(self, now: float, report: Report) -> None:
                if isinstance(report, Tunables):
                    raise KeyError("y")

        world = World()
        node = world.host("192.0.2.1").run(Broken(OpenUdp(1, "0.0.0.0")))
        with pytest.raises(AssertionError, match="the machine raised KeyError"):
            node.report(Tunables())
        world.host(PEER).bind(PEER).send(("192.0.2.1", 50000), bytes(ask(Method.BINDING)))
        with pytest.raises(AssertionError, match="the machine raised KeyError"):
            world.run(until=1)

    def test_outputs_without_end(self) -> None:
        class Endless(Script):
            def poll_output(self) -> Output | None:
                return Notify("again")

        with pytest.raises(AssertionError, match="without end"):
            World().host("192.0.2.1").run(Endless())


class TestStreams:
    def world(self) -> tuple[World, TurnServer, Host]:
        world = World()
        server = world.turn_server(*TURN, username="u", password="p", certificate="turn.example")
        return world, server, world.host("192.0.2.1")

    @pytest.mark.parametrize(
        "peer, server_name, time, reason",
        [
            (TURN, None, 0.05, None),
            ((TURN[0], 5349), "turn.example", 0.15, None),
            ((TURN[0], 5349), "other.example", 0.1, Reason.TLS),
            (TURN, "turn.example", 0.1, Reason.TLS),
            ((TURN[0], 80), None, 0.05, Reason.REFUSED),
            (("192.0.2.77", 80), None, CONNECT_TIMEOUT, Reason.TIMED_OUT),
            (("2001:db8::1", 80), None, 0.0, Reason.UNREACHABLE),
        ],
    )
    def test_open(self, peer: Address, server_name: str | None, time: float, reason: Reason | None) -> None:
        world, _, host = self.world()
        script, node = start(host, OpenStream(1, peer, server_name))
        world.run(until=30)
        (when, report), before = script.reports[-1], script.reports[:-1]
        assert when == pytest.approx(time)
        # TLS begins after a round trip.
        assert before == ([(0.05, Connected(1))] if server_name else [])
        if reason is None:
            assert report == Opened(1, ("192.0.2.1", 50000))
        else:
            assert isinstance(report, OpenFailed)
            assert report.reason is reason
        assert bool(node.links) is (reason is None)

    def test_plain_to_tls(self) -> None:
        world, _, host = self.world()
        script, node = start(host, OpenStream(1, (TURN[0], 5349), None))
        world.run(until=1)
        assert [report for _, report in script.reports[1:]] == [LinkClosed(1, Reason.CLOSED, "end of stream")]
        node.do(script.put, Transmit(1, (TURN[0], 5349), b"lost"), Close(1))
        assert world.packets == []

    def test_closed_while_opening(self) -> None:
        world, server, host = self.world()
        script, node = start(host, OpenStream(1, TURN, None), Close(1))
        world.run(until=30)
        assert (script.reports, node.links, server.streams) == ([], {}, [])

    def test_close_from_both_ends(self) -> None:
        world, server, host = self.world()
        (first, closing), (second, _) = start(host, OpenStream(1, TURN, None)), start(host, OpenStream(1, TURN, None))
        world.run(until=1)
        assert [stream.peer[1] for stream in server.streams] == [50000, 50001]
        closing.do(first.put, Close(1))
        world.run(until=2)
        assert [stream.peer[1] for stream in server.streams] == [50001]
        server.close_streams()
        world.run(until=3)
        assert len(first.reports) == 1
        assert second.reports[1] == (2.025, LinkClosed(1, Reason.CLOSED, "end of stream"))

    def test_frames(self) -> None:
        """A binding request over the stream, through a NAT, and one on a path that has gone."""
        world, server, _ = self.world()
        nat = world.nat("203.0.113.1", ports="sequential")
        host = nat.host("10.0.0.2")
        script, node = start(host, OpenStream(1, TURN, None))
        world.run(until=1)
        node.do(script.put, Transmit(1, TURN, bytes(ask(Method.BINDING))), Transmit(1, TURN, b"\x40\x00\x00\x00"))
        world.run(until=2)
        assert [time for time, _, _, _ in script.datagrams] == [1.05]
        assert script.messages[0].attributes["XOR-MAPPED-ADDRESS"] == ("203.0.113.1", 40000)
        assert server.unpermitted == 1
        assert [packet.transport for packet in world.packets] == ["tcp"] * 3
        world.path(host, server.host, loss=1.0)
        node.do(script.put, Transmit(1, TURN, b"lost"))
        world.run(until=3)
        assert world.packets[-1].fate is Fate.LOST
        with pytest.raises(AssertionError, match="on a stream to"):
            node.do(script.put, Transmit(1, SERVER, b""))

    def test_data_in_flight_at_close(self) -> None:
        world, server, host = self.world()
        script, node = start(host, OpenStream(1, TURN, None))
        world.run(until=1)
        server.streams[0].send(b"\x40\x00\x00\x00")
        node.do(script.put, Close(1))
        world.run(until=2)
        assert world.packets[-1].fate is Fate.CLOSED_PORT

    def test_no_way(self) -> None:
        """Streams lead to hosts, not to what is behind a NAT."""
        world, _, host = self.world()
        world.nat("203.0.113.1")
        script, _ = start(host, OpenStream(1, ("203.0.113.1", 80), None))
        world.run(until=30)
        assert [time for time, _ in script.reports] == [CONNECT_TIMEOUT]


class TestStunServer:
    def test_binding(self) -> None:
        world = World()
        server = world.stun_server(*SERVER)
        nat = world.nat("203.0.113.1", ports="sequential")
        script, node = start(nat.host("10.0.0.2"), OpenUdp(1, "10.0.0.2"))
        node.do(script.put, Transmit(1, SERVER, bytes(ask(Method.BINDING))))
        world.run(until=1)
        assert [(time, peer) for time, _, peer, _ in script.datagrams] == [(0.05, SERVER)]
        (answer,) = script.messages
        assert answer.message_class == Class.RESPONSE
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == ("203.0.113.1", 40000)
        assert (node.sent, node.received) == (1, 1)
        assert server.log == [(0.025, Method.BINDING, 0)]

    def test_told_to_misbehave(self) -> None:
        world = World()
        server = world.stun_server(*SERVER)
        script, node = start(world.host("192.0.2.1"), OpenUdp(1, "192.0.2.1"))

        def outcome() -> tuple[int | None, ...]:
            script.datagrams.clear()
            node.do(script.put, Transmit(1, SERVER, bytes(ask(Method.BINDING))))
            world.run(until=world.now + 1)
            return tuple(message.error_code for message in script.messages)

        server.silence(Method.ALLOCATE)
        assert outcome() == (None,)
        server.silence(Method.BINDING, times=2)
        assert [outcome(), outcome(), outcome()] == [(), (), (None,)]
        server.refuse(500, times=1)
        assert [outcome(), outcome()] == [(500,), (None,)]
        server.refuse(300, attributes={"ALTERNATE-SERVER": TURN})
        assert outcome() == (300,)
        assert script.messages[0].attributes["ALTERNATE-SERVER"] == TURN
        server.recover()
        server.delay = 0.5
        assert outcome() == (None,)
        assert script.datagrams[0][0] == pytest.approx(world.now - 1 + 0.55)
        server.rewrite = lambda request, response: response.attributes.update({"XOR-MAPPED-ADDRESS": ("192.0.2.66", 1)})
        assert outcome() == (None,)
        assert script.messages[0].attributes["XOR-MAPPED-ADDRESS"] == ("192.0.2.66", 1)
        server.stop()
        assert outcome() == ()
        server.start()
        assert outcome() == (None,)
        assert server.count(Method.BINDING) == 10

    def test_odd_messages(self) -> None:
        world = World()
        server = world.stun_server(*SERVER)
        script, node = start(world.host("192.0.2.1"), OpenUdp(1, "192.0.2.1"))
        odd = [
            b"",
            b"\x40\x00\x00\x00",
            bytes(Message(Method.BINDING, Class.INDICATION, bytes(12))),
            bytes(Message(Method.BINDING, Class.RESPONSE, bytes(12))),
            bytes(ask(Method.ALLOCATE)),
        ]
        node.do(script.put, *(Transmit(1, SERVER, data) for data in odd))
        world.run(until=1)
        assert [message.error_code for message in script.messages] == [400]
        assert server.malformed == 2

    def test_unknown_attribute(self) -> None:
        world = World()
        world.stun_server(*SERVER)
        script, node = start(world.host("192.0.2.1"), OpenUdp(1, "192.0.2.1"))
        request = bytes.fromhex("00010008 2112a442 000000000000000000000001 7f000004 00000000")
        node.do(script.put, Transmit(1, SERVER, request))
        world.run(until=1)
        (answer,) = script.messages
        assert answer.error_code == 420
        assert list(answer.attributes["UNKNOWN-ATTRIBUTES"]) == [0x7F00]


class Turn:
    """A TURN client by hand: every request is answered before the next leaves."""

    def __init__(self, stream: bool = False, **options: Any) -> None:
        self.world = World()
        self.server = self.world.turn_server(*TURN, username="u", password="p", **options)
        self.host = self.world.host("192.0.2.1", "2001:db8::1")
        self.peer = self.world.host(PEER, "2001:db8::9")
        self.socket = self.peer.bind(PEER, 7000)
        self.seen = arrivals(self.socket, self.world)
        self.script, self.node = start(self.host, OpenStream(1, TURN, None) if stream else OpenUdp(1, "192.0.2.1"))
        self.key = hashlib.md5(b"u:sim:p").digest()
        self.username = "u"
        self.nonce = self.server.nonce.encode()
        self.number = 0
        self.world.run(until=1)

    def send(self, data: bytes) -> None:
        self.node.do(self.script.put, Transmit(1, TURN, data))
        self.world.run(until=self.world.now + 1)

    def request(self, method: Method, again: bool = False, **attributes: Any) -> Message:
        self.number += not again
        message = ask(method, self.number, USERNAME=self.username, REALM="sim", NONCE=self.nonce, **attributes)
        message.add_message_integrity(self.key)
        self.script.datagrams.clear()
        self.send(bytes(message))
        (answer,) = self.script.messages
        assert answer.transaction_id == message.transaction_id
        return answer

    def allocate(self, **attributes: Any) -> Message:
        return self.request(Method.ALLOCATE, REQUESTED_TRANSPORT=17 << 24, **attributes)

    def indicate(self, peer: Address, data: bytes) -> None:
        attributes = {"XOR-PEER-ADDRESS": peer, "DATA": data}
        self.send(bytes(Message(Method.SEND, Class.INDICATION, bytes(12), attributes)))


class TestTurnServer:
    def test_credentials(self) -> None:
        """RFC 8489 §9.2.4."""
        turn = Turn()
        turn.send(bytes(ask(Method.ALLOCATE, REQUESTED_TRANSPORT=17 << 24)))
        (challenge,) = turn.script.messages
        assert challenge.error_code == 401
        assert challenge.attributes["REALM"] == "sim"
        assert challenge.attributes["NONCE"] == turn.nonce
        assert "MESSAGE-INTEGRITY" not in challenge.attributes

        right, turn.key = turn.key, hashlib.md5(b"u:sim:wrong").digest()
        assert turn.allocate().error_code == 401
        turn.username, turn.key = "nobody", hashlib.md5(b"nobody:sim:None").digest()
        assert turn.allocate().error_code == 401
        turn.username, turn.key = "u", right
        turn.server.expire_nonce()
        stale = turn.allocate()
        assert stale.error_code == 438
        turn.nonce = stale.attributes["NONCE"]
        answer = turn.allocate()
        assert answer.error_code is None
        assert answer.check_message_integrity(turn.key)

        message = ask(Method.REFRESH, 99)
        message.add_message_integrity(turn.key)
        turn.script.datagrams.clear()
        turn.send(bytes(message))
        assert turn.script.messages[0].error_code == 400

    @pytest.mark.parametrize("stream", [False, True])
    def test_whole_session(self, stream: bool) -> None:
        turn = Turn(stream, relay="198.51.100.3")
        answer = turn.allocate()
        relayed = answer.attributes["XOR-RELAYED-ADDRESS"]
        assert relayed == ("198.51.100.3", 50000)
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == ("192.0.2.1", 50000)
        assert answer.attributes["LIFETIME"] == 600

        turn.indicate(turn.socket.local, b"too early")
        turn.socket.send(relayed, b"too early")
        turn.world.run(until=turn.world.now + 1)
        assert (turn.seen, turn.server.unpermitted) == ([], 2)

        assert turn.request(Method.CREATE_PERMISSION, XOR_PEER_ADDRESS=turn.socket.local).error_code is None
        turn.script.datagrams.clear()
        turn.indicate(turn.socket.local, b"send")
        assert [(peer, data) for _, peer, data in turn.seen] == [(relayed, b"send")]
        turn.socket.send(relayed, b"data")
        turn.world.run(until=turn.world.now + 1)
        (indication,) = turn.script.messages
        assert (indication.message_class, indication.message_method) == (Class.INDICATION, Method.DATA)
        assert indication.attributes["XOR-PEER-ADDRESS"] == turn.socket.local
        assert indication.attributes["DATA"] == b"data"

        bound = turn.request(Method.CHANNEL_BIND, CHANNEL_NUMBER=0x4001, XOR_PEER_ADDRESS=turn.socket.local)
        assert bound.error_code is None
        turn.script.datagrams.clear()
        turn.send(b"\x40\x01\x00\x05chan!\x00\x00\x00")
        assert turn.seen[-1][1:] == (relayed, b"chan!")
        turn.socket.send(relayed, b"back")
        turn.world.run(until=turn.world.now + 1)
        assert [data for _, _, _, data in turn.script.datagrams] == [b"\x40\x01\x00\x04back"]

        assert turn.request(Method.REFRESH, LIFETIME=0).attributes["LIFETIME"] == 0
        assert turn.request(Method.REFRESH, LIFETIME=0).error_code == 437
        assert not turn.server.allocations
        turn.indicate(turn.socket.local, b"too late")
        turn.send(b"\x40\x01\x00\x00")
        assert turn.server.unpermitted == 4

    def test_allocate(self) -> None:
        """RFC 8656 §7.2."""
        turn = Turn()
        assert turn.request(Method.ALLOCATE).error_code == 400
        assert turn.request(Method.ALLOCATE, REQUESTED_TRANSPORT=6 << 24).error_code == 442
        assert turn.allocate(REQUESTED_ADDRESS_FAMILY=2 << 24).error_code == 440
        turn.server.quota = 0
        assert turn.allocate().error_code == 486
        turn.server.quota = 1
        first = turn.allocate(LIFETIME=5000)
        assert first.attributes["LIFETIME"] == 3600
        again = turn.request(Method.ALLOCATE, again=True, REQUESTED_TRANSPORT=17 << 24)
        assert again.attributes["XOR-RELAYED-ADDRESS"] == first.attributes["XOR-RELAYED-ADDRESS"]
        assert turn.allocate().error_code == 437
        assert turn.request(Method.REFRESH, LIFETIME=700).attributes["LIFETIME"] == 700
        assert turn.request(Method.REFRESH, REQUESTED_ADDRESS_FAMILY=2 << 24).error_code == 443
        assert turn.request(Method.CONNECT).error_code == 400

    def test_both_families(self) -> None:
        turn = Turn(relay=(TURN[0], "2001:db8::2"))
        answer = turn.allocate(ADDITIONAL_ADDRESS_FAMILY=2 << 24)
        assert answer.error_code is None
        (allocation,) = turn.server.allocations.values()
        assert [host for host, _ in allocation.relayed] == [TURN[0], "2001:db8::2"]
        peer = turn.peer.bind("2001:db8::9", 7000)
        seen = arrivals(peer, turn.world)
        assert turn.request(Method.CREATE_PERMISSION, XOR_PEER_ADDRESS=peer.local).error_code is None
        turn.indicate(peer.local, b"six")
        assert [data for _, _, data in seen] == [b"six"]

    def test_expiry(self) -> None:
        turn = Turn()
        relayed = turn.allocate().attributes["XOR-RELAYED-ADDRESS"]
        turn.request(Method.CHANNEL_BIND, CHANNEL_NUMBER=0x4001, XOR_PEER_ADDRESS=turn.socket.local)
        turn.world.run(until=400)
        turn.indicate(turn.socket.local, b"no permission any more")
        assert turn.seen == []
        turn.request(Method.REFRESH)
        turn.world.run(until=700)
        turn.request(Method.CREATE_PERMISSION, XOR_PEER_ADDRESS=turn.socket.local)
        turn.send(b"\x40\x01\x00\x00")
        assert turn.seen == []
        turn.socket.send(relayed, b"no channel any more")
        turn.world.run(until=710)
        assert turn.script.messages[-1].message_method == Method.DATA
        turn.world.run(until=1100)
        turn.socket.send(relayed, b"no allocation any more")
        turn.world.run(until=1101)
        assert not turn.server.allocations
        turn.socket.send(relayed, b"nor its port")
        turn.world.run(until=1102)
        assert [packet.fate for packet in turn.world.packets[-2:]] == [Fate.DELIVERED, Fate.CLOSED_PORT]

    def test_refused_peers(self) -> None:
        turn = Turn()
        turn.allocate()
        turn.server.forbidden.add(PEER)
        cases: list[tuple[Method, dict[str, Any]]] = [
            (Method.CREATE_PERMISSION, {}),
            (Method.CHANNEL_BIND, {"CHANNEL_NUMBER": 0x4000}),
        ]
        for method, number in cases:
            assert turn.request(method, XOR_PEER_ADDRESS=(PEER, 7000), **number).error_code == 403
            assert turn.request(method, XOR_PEER_ADDRESS=("2001:db8::9", 7000), **number).error_code == 443
            assert turn.request(method, **number).error_code == 400

    def test_channel_numbers(self) -> None:
        """RFC 8656 §12.2, and its cool-down of five minutes."""
        turn = Turn()
        turn.allocate(LIFETIME=3600)

        def bind(number: int, port: int) -> int | None:
            return turn.request(Method.CHANNEL_BIND, CHANNEL_NUMBER=number, XOR_PEER_ADDRESS=(PEER, port)).error_code

        assert bind(0x5000, 1) == 400
        assert [bind(0x4001, 1), bind(0x4001, 1), bind(0x4002, 2)] == [None] * 3
        assert [bind(0x4001, 3), bind(0x4003, 1)] == [400, 400]
        turn.world.run(until=800)
        assert bind(0x4001, 3) == 400
        turn.world.run(until=1000)
        assert bind(0x4001, 3) is None

    def test_wrong_user(self) -> None:
        turn = Turn()
        turn.server.users["other"] = "p"
        turn.allocate()
        turn.username, turn.key = "other", hashlib.md5(b"other:sim:p").digest()
        assert turn.request(Method.REFRESH).error_code == 441

    def test_icmp(self) -> None:
        """RFC 8656 §11.5."""
        turn = Turn(relay=(TURN[0], "2001:db8::2"))
        turn.allocate(ADDITIONAL_ADDRESS_FAMILY=2 << 24)
        turn.peer.refuses = True
        for host in turn.peer.addresses:
            turn.request(Method.CREATE_PERMISSION, XOR_PEER_ADDRESS=(host, 9))
            turn.script.datagrams.clear()
            turn.indicate((host, 9), b"anybody?")
            (indication,) = turn.script.messages
            assert indication.attributes["XOR-PEER-ADDRESS"] == (host, 9)
            assert "ICMP" in indication.attributes
            assert "DATA" not in indication.attributes

    def test_restart(self) -> None:
        """RFC 8656 §8.3: the server has forgotten everything."""
        turn = Turn()
        turn.allocate()
        turn.server.stop()
        turn.server.start()
        stale = turn.request(Method.REFRESH)
        assert stale.error_code == 438
        turn.nonce = stale.attributes["NONCE"]
        assert turn.request(Method.REFRESH).error_code == 437

    def test_refusal_is_signed(self) -> None:
        turn = Turn()
        turn.server.refuse(403, Method.ALLOCATE)
        answer = turn.allocate()
        assert answer.error_code == 403
        assert answer.check_message_integrity(turn.key)
        assert turn.request(Method.BINDING).error_code is None

    def test_stream_ends_the_allocation(self) -> None:
        turn = Turn(stream=True)
        relayed = turn.allocate().attributes["XOR-RELAYED-ADDRESS"]
        turn.node.do(turn.script.put, Close(1))
        turn.world.run(until=10)
        assert not turn.server.allocations
        assert relayed not in turn.server.host.sockets

    def test_machine_gets_channel_data_of_servers_only(self) -> None:
        turn = Turn()
        turn.socket.send(("192.0.2.1", 50000), b"\x40\x01\x00\x00")
        turn.world.run(until=2)
        assert (turn.node.unwanted, turn.script.datagrams) == (1, [])
