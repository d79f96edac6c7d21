"""The simulated network beyond plain paths: rates, MTUs, access links, routers, firewalls, interfaces, names."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from aioice import sim
from aioice.core.machine import Address, LinkClosed, OpenStream, Reason
from aioice.sim import Fate, Firewall, Host, Oversize, Packet, World
from aioice.sim.hosts import CONNECT_TIMEOUT, FIRST_PORT, Listener, Socket, Stream

from .test_sim import start

HERE, THERE = "192.0.2.1", "192.0.2.2"
Seen = list[tuple[float, Address, bytes]]


def arrivals(socket: Socket) -> Seen:
    """What arrives at a socket from now on."""
    seen: Seen = []
    world = socket.host.world
    socket.on_datagram = lambda peer, data: seen.append((round(world.now, 9), peer, data))
    return seen


def errors(socket: Socket) -> list[tuple[float, Address, Reason]]:
    told: list[tuple[float, Address, Reason]] = []
    socket.on_error = lambda peer, reason: told.append((socket.host.world.now, peer, reason))
    return told


def two(**conditions: object) -> tuple[World, Socket, Socket, Seen]:
    world = World(1)
    world.network(**{"delay": 0.01, **conditions})  # type: ignore[arg-type]
    source, target = world.host(HERE).bind(HERE, 5000), world.host(THERE).bind(THERE, 7000)
    return world, source, target, arrivals(target)


def fates(world: World) -> list[Fate]:
    return [packet.fate for packet in world.packets]


class TestRate:
    def test_packets_queue(self) -> None:
        """1000 bytes on the wire at 1 Mbit/s take 8 ms each."""
        world, source, target, seen = two(rate=1e6)
        for _ in range(3):
            source.send(target.local, bytes(972))
        world.run(until=1)
        assert [time for time, _, _ in seen] == [0.018, 0.026, 0.034]

    def test_ipv6_headers_are_larger(self) -> None:
        world = World()
        world.network(delay=0.01, rate=1e6)
        source, target = world.host("2001:db8::1").bind("::"), world.host("2001:db8::2").bind("2001:db8::2", 7000)
        seen = arrivals(target)
        source.send(target.local, bytes(952))
        world.run(until=1)
        assert seen[0][0] == 0.018

    def test_full_queue_drops(self) -> None:
        world, source, target, seen = two(rate=1e6, queue=3000)
        for _ in range(5):
            source.send(target.local, bytes(972))
        world.run(until=1)
        assert fates(world) == [Fate.DELIVERED] * 3 + [Fate.QUEUE_FULL] * 2
        source.send(target.local, bytes(972))
        world.run(until=2)
        assert len(seen) == 4

    def test_streams_wait_and_lose_nothing(self) -> None:
        world = World()
        world.network(delay=0.01, rate=1e6, queue=1000)
        here, there = world.host(HERE), world.host(THERE)
        accepted: list[Stream] = []
        there.listen(Listener((THERE, 80), accepted.append))
        opened: list[Stream | None] = []
        here.connect((THERE, 80), None, lambda stream, reason: opened.append(stream))
        world.run(until=1)
        (stream,) = opened
        assert stream is not None
        pieces: list[float] = []
        accepted[0].on_data = lambda data: pieces.append(round(world.now - 1, 9))
        for _ in range(4):
            stream.send(bytes(960))
        world.run(until=2)
        assert pieces == [0.018, 0.026, 0.034, 0.042]


class TestStreams:
    def open(self, **conditions: Any) -> tuple[World, Stream, Stream]:
        world = World(3)
        world.network(**{"delay": 0.01, **conditions})
        here, there = world.host(HERE), world.host(THERE)
        ends: list[Stream | None] = []
        there.listen(Listener((THERE, 80), ends.append))
        here.connect((THERE, 80), None, lambda stream, reason: ends.append(stream))
        world.run_until(lambda: len(ends) == 2)
        one, other = ends
        assert one is not None and other is not None
        return world, one, other

    def test_loss_delays(self) -> None:
        world, one, other = self.open(loss=0.3)
        assert world.now in (0.02, 1.02, 3.02, 7.02)
        heard: list[tuple[float, bytes]] = []
        other.on_data = lambda data: heard.append((world.now, data))
        begun = world.now
        for number in range(100):
            one.send(bytes([number]))
        world.run(until=begun + 60)
        assert b"".join(data for _, data in heard) == bytes(range(100))
        assert heard[-1][0] - begun > 0.2

    def test_hopeless_handshake(self) -> None:
        world, here, there, _ = two(loss=0.999)
        there.host.listen(Listener((THERE, 80), lambda stream: None))
        told: list[tuple[float, Reason]] = []
        here.host.connect((THERE, 80), None, lambda stream, reason: told.append((world.now, reason)))
        world.run(until=60)
        assert told == [(CONNECT_TIMEOUT, Reason.TIMED_OUT)]

    @pytest.mark.parametrize("cut", ["path", "mine", "theirs"])
    def test_dead_for_ever(self, cut: str) -> None:
        world, one, other = self.open()
        heard: list[bytes] = []
        closed: list[float] = []
        other.on_data, other.on_close = heard.append, lambda: closed.append(world.now)
        interfaces = {"mine": one.host.interfaces[0], "theirs": other.host.interfaces[0]}
        if cut == "path":
            world.network(delay=0.01, loss=1.0)
        else:
            interfaces[cut].down()
        one.send(b"lost")
        world.network(delay=0.01)
        for interface in interfaces.values():
            interface.up()
        one.send(b"out of order")
        one.finish()
        one.close()
        world.run(until=world.now + 60)
        assert (heard, closed) == ([], [])

    def test_refused_meanwhile(self) -> None:
        """The listener goes while the handshake is under way."""
        world, here, there, _ = two()
        told: list[Reason] = []
        listener = Listener((THERE, 80), lambda stream: None)
        there.host.listen(listener)
        here.host.connect((THERE, 80), None, lambda stream, reason: told.append(reason))
        del there.host.listeners[THERE, 80]
        world.run(until=1)
        assert told == [Reason.REFUSED]

    def test_to_oneself(self) -> None:
        world = World()
        host = world.host(HERE)
        host.listen(Listener(("0.0.0.0", 80), lambda stream: stream.send(b"hello")))
        heard: list[tuple[float, bytes]] = []

        def opened(stream: Stream | None, reason: Reason) -> None:
            assert stream is not None
            stream.on_data = lambda data: heard.append((world.now, data))

        for address in (HERE, "127.0.0.1"):
            host.connect((address, 80), None, opened)
        world.run(until=1)
        assert heard == [(0.0, b"hello")] * 2

    def test_no_stun_at_all(self) -> None:
        """A server hangs up, and so does a node."""
        world = World()
        server = world.stun_server("198.51.100.1")
        host = world.host(HERE)
        host.listen(Listener((HERE, 80), lambda stream: stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")))

        def opened(stream: Stream | None, reason: Reason) -> None:
            assert stream is not None
            stream.on_close = lambda: closed.append(world.now)
            stream.send(b"GET / HTTP/1.1\r\n\r\n")

        closed: list[float] = []
        host.connect(server.address, None, opened)
        world.run(until=1)
        assert (len(closed), server.malformed, server.streams) == (1, 1, [])
        script, _ = start(world.host(THERE), OpenStream(1, (HERE, 80), None))
        world.run(until=2)
        last = script.reports[-1][1]
        assert isinstance(last, LinkClosed) and last.reason is Reason.NOT_STUN


class TestMtu:
    def test_fragments_arrive_together(self) -> None:
        """A datagram of 3028 bytes takes three packets, so 40 bytes of further headers: 24.544 ms at 1 Mbit/s."""
        world, source, target, seen = two(rate=1e6, mtu=1500)
        source.send(target.local, bytes(3000))
        world.run(until=1)
        assert seen == [(round(0.01 + (3028 + 40) * 8e-6, 9), source.local, bytes(3000))]

    def test_each_fragment_can_be_lost(self) -> None:
        lost = {}
        for size in (100, 14000):
            world, source, target, _ = two(mtu=1500, loss=0.1)
            for _ in range(300):
                source.send(target.local, bytes(size))
            lost[size] = fates(world).count(Fate.LOST)
        assert 15 < lost[100] < 45
        assert 165 < lost[14000] < 225

    @pytest.mark.parametrize("oversize", ["report", "drop"])
    def test_too_big(self, oversize: str) -> None:
        world, source, target, seen = two(mtu=1280, oversize=oversize)
        told = errors(source)
        source.send(target.local, bytes(1252))
        source.send(target.local, bytes(1253))
        world.run(until=1)
        assert (len(seen), fates(world)) == (1, [Fate.DELIVERED, Fate.TOO_BIG])
        assert told == ([(0.0, target.local, Reason.TOO_BIG)] if oversize == Oversize.REPORT else [])


class TestAccess:
    def test_all_traffic_shares_the_link(self) -> None:
        world, source, target, seen = two()
        other = world.host("192.0.2.3").bind("192.0.2.3", 7000)
        also = arrivals(other)
        source.host.shape("up", rate=1e6, delay=0.005)
        source.send(target.local, bytes(972))
        source.send(other.local, bytes(972))
        world.run(until=1)
        assert (seen[0][0], also[0][0]) == (0.023, 0.031)
        target.send(source.local, b"")
        back = arrivals(source)
        world.run(until=2)
        assert back[0][0] == 1.01

    def test_down(self) -> None:
        world, source, target, seen = two()
        target.host.shape("down", loss=1.0)
        source.send(target.local, b"")
        world.run(until=1)
        assert (seen, fates(world)) == ([], [Fate.LOST])
        target.host.shape()
        source.send(target.local, b"")
        world.run(until=2)
        assert len(seen) == 1

    def test_of_a_nat(self) -> None:
        world = World()
        world.network(delay=0.01)
        nat = world.nat("203.0.113.1")
        nat.shape(delay=0.1)
        inside, outside = nat.host("10.0.0.2").bind("10.0.0.2"), world.host(THERE).bind(THERE, 7000)
        seen, back = arrivals(outside), arrivals(inside)
        outside.on_datagram = lambda peer, data: seen.append((world.now, peer, data)) or outside.send(peer, b"")  # type: ignore[func-returns-value]
        inside.send(outside.local, b"")
        world.run(until=1)
        assert (seen[0][0], back[0][0]) == (0.11, 0.22)

    def test_streams_heed_delay_and_rate(self) -> None:
        world = World()
        world.network(delay=0.01)
        here, there = world.host(HERE), world.host(THERE)
        here.shape(delay=0.02, rate=1e6)
        there.shape("down", delay=0.03)
        there.listen(Listener((THERE, 80), lambda stream: None))
        opened: list[float] = []
        here.connect((THERE, 80), None, lambda stream, reason: opened.append(world.now))
        world.run(until=1)
        assert opened == [0.12]

    def test_directions(self) -> None:
        with pytest.raises(ValueError, match="direction"):
            World().host(HERE).shape("sideways")


def through(firewall: Firewall) -> tuple[World, Socket, Socket, Seen, Seen]:
    """A socket behind the firewall, one outside, and what both hear."""
    world = firewall.world
    world.network(delay=0.01)
    inside, outside = firewall.host("192.0.2.17").bind("0.0.0.0", 5000), world.host(THERE).bind(THERE, 7000)
    return world, inside, outside, arrivals(inside), arrivals(outside)


class TestFirewall:
    def test_stateful(self) -> None:
        world, inside, outside, heard, seen = through(World().firewall(lifetime=30))
        outside.send(inside.local, b"uninvited")
        world.run(until=0.5)
        inside.send(outside.local, b"question")
        world.run(until=1)
        assert seen == [(0.51, inside.local, b"question")]
        outside.send(inside.local, b"answer")
        other = outside.host.bind(THERE, 7001)
        other.send(inside.local, b"another's")
        world.run(until=31.05)
        assert heard == [(1.01, outside.local, b"answer")]
        world.run(until=32)
        outside.send(inside.local, b"late")
        world.run(until=33)
        assert fates(world) == [Fate.BLOCKED, Fate.DELIVERED, Fate.DELIVERED, Fate.BLOCKED, Fate.BLOCKED]

    @pytest.mark.parametrize("rejects", [False, True])
    def test_udp_blocked(self, rejects: bool) -> None:
        world, inside, outside, _, seen = through(World().firewall(udp=False, rejects=rejects))
        told = errors(inside)
        inside.send(outside.local, b"")
        world.run(until=1)
        assert seen == []
        assert [reason for _, _, reason in told] == [Reason.UNREACHABLE] * rejects
        opened: list[Reason] = []
        outside.host.listen(Listener((THERE, 443), lambda stream: None))
        inside.host.connect((THERE, 443), None, lambda stream, reason: opened.append(reason))
        world.run(until=2)
        assert opened == [Reason.OTHER]

    def test_open_and_closed(self) -> None:
        world, inside, outside, heard, _ = through(World().firewall(inbound="open"))
        outside.send(inside.local, b"uninvited")
        world.run(until=1)
        assert len(heard) == 1
        world, inside, outside, heard, _ = through(World().firewall(inbound="closed"))
        inside.send(outside.local, b"")
        outside.send(inside.local, b"answer")
        world.run(until=1)
        assert heard == []
        with pytest.raises(ValueError, match="inbound"):
            World().firewall(inbound="sometimes")

    def test_ports(self) -> None:
        world, inside, outside, _, seen = through(World().firewall(ports={443}))
        inside.send(outside.local, b"")
        inside.send((THERE, 443), b"")
        world.run(until=1)
        assert fates(world) == [Fate.BLOCKED, Fate.CLOSED_PORT]

    def test_streams(self) -> None:
        world, inside, outside, _, _ = through(World().firewall(tcp=False))
        results: list[Reason] = []
        outside.host.listen(Listener((THERE, 80), lambda stream: None))
        inside.host.listen(Listener(("192.0.2.17", 80), lambda stream: None))
        inside.host.connect((THERE, 80), None, lambda stream, reason: results.append(reason))
        outside.host.connect(("192.0.2.17", 80), None, lambda stream, reason: results.append(reason))
        world.run(until=60)
        assert results == [Reason.TIMED_OUT, Reason.TIMED_OUT]

    def test_behind_a_nat(self) -> None:
        world = World()
        nat = world.nat("203.0.113.1", filtering="endpoint-independent")
        inside, outside = nat.firewall().host("10.0.0.2").bind("10.0.0.2", 5000), world.host(THERE).bind(THERE, 7000)
        heard = arrivals(inside)
        inside.send(outside.local, b"")
        other = outside.host.bind(THERE)
        other.send(("203.0.113.1", 5000), b"the NAT would let it in")
        outside.send(("203.0.113.1", 5000), b"answer")
        world.run(until=1)
        assert [data for _, _, data in heard] == [b"answer"]


class TestRouter:
    def test_public_addresses_on_a_lan(self) -> None:
        world = World()
        world.network(delay=0.01)
        lan = world.router()
        one, two, far = lan.host("192.0.2.17"), lan.host("192.0.2.18"), world.host(THERE).bind(THERE, 7000)
        near = two.bind("192.0.2.18", 7000)
        seen, also = arrivals(near), arrivals(far)
        source = one.bind("192.0.2.17", 5000)
        source.send(near.local, b"")
        source.send(far.local, b"")
        far.send(near.local, b"from outside")
        world.run(until=1)
        assert seen == [(0.0005, source.local, b""), (0.01, far.local, b"from outside")]
        assert also == [(0.01, source.local, b"")]
        world.path(one, far.host, delay=0.2)
        source.send(far.local, b"")
        world.run(until=2)
        assert also[1][0] == 1.2

    def test_nobody_there(self) -> None:
        world = World()
        lan = world.router()
        host = lan.host("192.0.2.17")
        source = world.host(THERE).bind(THERE)
        source.send(("192.0.2.17", 9), b"")
        world.run(until=0.5)
        host.interfaces[0].down()
        source.send(("192.0.2.17", 9), b"")
        world.run(until=1)
        assert fates(world) == [Fate.CLOSED_PORT, Fate.NOWHERE]

    def test_streams_reach_in(self) -> None:
        world = World()
        lan = world.router().router()
        results: list[Reason] = []
        lan.host("192.0.2.17").listen(Listener(("192.0.2.17", 80), lambda stream: None))
        world.host(THERE).connect(("192.0.2.17", 80), None, lambda stream, reason: results.append(reason))
        world.run(until=1)
        assert results == [Reason.OTHER]


class TestInterfaces:
    def test_two_networks(self) -> None:
        """Each address sends into its own network; a wildcard chooses the one where the peer is."""
        world = World()
        home, office = world.nat("203.0.113.1"), world.nat("203.0.113.2")
        host = home.host("10.0.0.2")
        vpn = host.join(office, "10.9.0.2", name="tun0")
        assert host.addresses == ["10.0.0.2", "10.9.0.2"]
        assert [(i.name, i.index) for i in host.interfaces] == [("eth0", 2), ("tun0", 3)]
        printer, desk = home.host("10.0.0.9").bind("10.0.0.9", 9), office.host("10.9.0.9").bind("10.9.0.9", 9)
        seen, also = arrivals(printer), arrivals(desk)
        wildcard = host.bind("0.0.0.0", 5000)
        wildcard.send(printer.local, b"")
        wildcard.send(desk.local, b"")
        host.bind("10.9.0.2", 5001).send(printer.local, b"not from there")
        back = arrivals(wildcard)
        desk.send(("10.9.0.2", 5000), b"")
        world.run(until=1)
        assert (seen[0][1], also[0][1]) == (("10.0.0.2", 5000), ("10.9.0.2", 5000))
        assert (len(seen), len(back)) == (1, 1)
        vpn.down()
        vpn.down()
        assert host.addresses == ["10.0.0.2"]
        assert wildcard.send(desk.local, b"") is None
        vpn.add("10.9.0.3")
        vpn.up()
        assert host.addresses == ["10.0.0.2", "10.9.0.2", "10.9.0.3"]
        host.remove_address("10.9.0.2")
        assert host.addresses == ["10.0.0.2", "10.9.0.3"]
        with pytest.raises(ValueError, match="does not have"):
            host.remove_address("10.9.0.2")

    def test_loopback(self) -> None:
        world = World()
        host, other = world.host(HERE), world.host(THERE)
        one, two = host.bind("127.0.0.1", 1000), host.bind("0.0.0.0", 2000)
        seen, also = arrivals(one), arrivals(two)
        two.send(one.local, b"ping")
        one.send(("127.0.0.1", 2000), b"pong")
        other.bind(THERE).send(("127.0.0.1", 1000), b"its own")
        two.send((HERE, 2000), b"to itself")
        world.run(until=1)
        assert seen == [(0.0, ("127.0.0.1", 2000), b"ping")]
        assert also == [(0.0, ("127.0.0.1", 1000), b"pong"), (0.0, (HERE, 2000), b"to itself")]

    def test_ports_are_used_again(self) -> None:
        host = World().host(HERE)
        held = [host.bind(HERE) for _ in range(3)]
        held[1].close()
        host._next_port = 65535
        assert [host.bind(HERE).local[1] for _ in range(3)] == [65535, FIRST_PORT + 1, FIRST_PORT + 3]
        with pytest.raises(OSError, match="in use"):
            host.bind("0.0.0.0", FIRST_PORT)


class TestMulticast:
    GROUP = ("224.0.0.251", 5353)

    def join(self, host: Host) -> tuple[Socket, Seen]:
        member = host.join_group(*self.GROUP, host.addresses[0])
        return member, arrivals(member)

    def test_reaches_the_lan_alone(self) -> None:
        world = World()
        home, office = world.nat("203.0.113.1"), world.nat("203.0.113.2")
        one, mine = self.join(home.host("10.0.0.2"))
        _, near = self.join(home.host("10.0.0.3"))
        _, far = self.join(office.host("10.0.0.2"))
        one.send(self.GROUP, b"who?")
        world.run(until=1)
        assert mine == [(0.0, ("10.0.0.2", 5353), b"who?")]
        assert near == [(0.0005, ("10.0.0.2", 5353), b"who?")]
        assert far == []
        assert [packet.copy for packet in world.packets] == [False, True, True]

    def test_the_public_network_is_no_lan(self) -> None:
        world = World()
        one, mine = self.join(world.host(HERE))
        _, other = self.join(world.host(THERE))
        one.send(self.GROUP, b"who?")
        world.run(until=1)
        assert (mine, other, fates(world)) == ([], [], [Fate.NOWHERE])

    def test_leaving_and_unicast(self) -> None:
        world = World()
        lan = world.router()
        one, _ = self.join(lan.host(HERE))
        two, seen = self.join(lan.host(THERE))
        peer = two.host.bind(THERE, 9)
        heard = arrivals(peer)
        one.send(peer.local, b"unicast")
        drop = world.drop(lambda packet: packet.data == b"dropped")
        one.send(self.GROUP, b"dropped")
        two.close()
        one.send(self.GROUP, b"nobody")
        world.run(until=1)
        assert ([data for _, _, data in heard], seen, len(drop.packets)) == ([b"unicast"], [], 1)
        assert two.send(self.GROUP, b"") is Reason.CLOSED
        one.host.interfaces[0].down()
        assert one.send(self.GROUP, b"") is Reason.UNREACHABLE

    def test_no_such_interface(self) -> None:
        host = World().router().host(HERE)
        for interface in ("127.0.0.1", 1, 3):
            with pytest.raises(OSError, match="no such device"):
                host.join_group(*self.GROUP, interface)
        with pytest.raises(OSError, match="no such device"):
            host.join_group("ff02::fb", 5353, 2)


class TestNames:
    def test_answers_delays_and_failures(self) -> None:
        names = World().names
        names.add("Stun.Example.", "192.0.2.1", "2001:db8::1", delay=0.5)
        names["turn.example"] = ("192.0.2.2",)
        names.fail("gone.example", delay=0.2)
        names.silence("dead.example")
        assert names.look_up("stun.example") == (0.5, ("192.0.2.1", "2001:db8::1"))
        assert names.look_up("TURN.example.") == (0.01, ("192.0.2.2",))
        assert names.look_up("gone.example") == (0.2, ())
        assert names.look_up("dead.example") == (10.0, ())
        names.delay = 0.1
        assert names.look_up("never.heard.of") == (0.1, ())


def test_packets_as_text() -> None:
    world = World()
    nat = world.nat("203.0.113.1")
    world.host("2001:db8::1").bind("::", 5000).send(("2001:db8::2", 9), b"x")
    nat.host("10.0.0.2").bind("10.0.0.2", 5000).send((HERE, 9), b"\x40\x01\x00\x00")
    bad = Packet(0.0, "udp", (HERE, 1), (THERE, 2), b"\x3f\xff\x00\x00\x21\x12\xa4\x42\x00", (HERE, 1))
    world.packets.append(bad)
    assert world.describe() == (
        "3 packets: 2 nowhere, 1 in flight\n"
        "    0.000000 udp [2001:db8::1]:5000 > [2001:db8::2]:9: data, 1 bytes: nowhere\n"
        "    0.000000 udp 10.0.0.2:5000 (as 203.0.113.1:5000) > 192.0.2.1:9: ChannelData 0x4001, 4 bytes: nowhere\n"
        "    0.000000 udp 192.0.2.1:1 > 192.0.2.2:2: STUN that cannot be read, 9 bytes: in flight"
    )
    assert world.describe(last=0) == "3 packets: 2 nowhere, 1 in flight"
    assert World().describe() == "0 packets: none"


def undocumented() -> list[str]:
    missing = []
    for name in sim.__all__:
        thing = getattr(sim, name)
        if not inspect.getdoc(thing):
            missing.append(name)
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            is_code = inspect.isfunction(value.fget if isinstance(value, property) else value)
            if is_code and not member.startswith("_") and not inspect.getdoc(getattr(thing, member)):
                missing.append(f"{name}.{member}")
    return missing


def test_all_that_is_public_is_documented() -> None:
    assert undocumented() == []
