"""Hosts, their sockets and streams, and the networks that carry packets between them.

A :class:`Network` is one address realm: the public internet, or what lies behind one NAT. A packet takes the time of
one network only, the one in which its source and its target meet; crossing a NAT takes none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypedDict

from ..core.address import canonical_host
from ..core.machine import Address, Reason

if TYPE_CHECKING:
    from ..core.machine import Machine
    from .nat import Nat
    from .world import Event, Node, World

#: Ephemeral ports are given out upwards from here, by each host on its own.
FIRST_PORT = 50000
#: How long a stream is tried when nothing answers, not even with a reset.
CONNECT_TIMEOUT = 20.0
#: A datagram of at most 65 507 bytes fits IPv4's total length, together with the IP and UDP headers.
MAX_DATAGRAM = 65507


def is_ipv6(host: str) -> bool:
    return ":" in host


class Fate(StrEnum):
    """What became of a packet."""

    IN_FLIGHT = "in flight"
    DELIVERED = "delivered"
    #: By the loss of its path.
    LOST = "lost"
    #: By a hook of :meth:`World.drop`.
    DROPPED = "dropped"
    #: Nobody has its destination address.
    NOWHERE = "nowhere"
    #: The host is there, but nothing is bound to the port.
    CLOSED_PORT = "closed port"
    #: As CLOSED_PORT, and the host said so (ICMP).
    REFUSED = "refused"
    #: The NAT knows the port, but does not let this sender in.
    FILTERED = "filtered"
    #: The NAT has no mapping at the port.
    UNMAPPED = "unmapped"
    #: The NAT does not send back inside what came from inside.
    NO_HAIRPIN = "no hairpin"


@dataclass(slots=True)
class Packet:
    """One packet in the log: as its sender sent it, and what became of it."""

    time: float
    transport: str
    src: Address
    dst: Address
    data: bytes
    #: The source as the last network on the way saw it: behind a NAT, the mapped address.
    seen: Address
    fate: Fate = Fate.IN_FLIGHT
    arrived: float | None = None
    #: Made by the network: the second of a duplicated packet.
    copy: bool = False
    origin: Socket | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a path treats packets. Times are one way, in seconds; the others are probabilities."""

    delay: float = 0.025
    loss: float = 0.0
    #: Up to this much is added to the delay; packets stay in order.
    jitter: float = 0.0
    duplicate: float = 0.0
    #: Such a packet is held back for up to two delays (at least 10 ms), so that later ones overtake it.
    reorder: float = 0.0


class PathOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Conditions`."""

    delay: float
    loss: float
    jitter: float
    duplicate: float
    reorder: float


#: From a host to itself.
LOOPBACK = Conditions(delay=0.0)


class Attachment(Protocol):
    """What can have an address in a network: a host, or the outer side of a NAT."""

    def receive(self, packet: Packet, src: Address, dst: Address) -> None:
        """``packet`` has arrived at ``dst`` and looks as if it came from ``src``."""

    def final(self, dst: Address) -> Attachment:
        """Who gets what is sent to ``dst``, when that is known: a NAT names the host inside."""


class Network:
    """One address realm, with the conditions that hold between any two of its hosts."""

    def __init__(self, world: World, conditions: Conditions, gateway: Nat | None = None) -> None:
        self.world = world
        self.conditions = conditions
        #: Where packets for unknown addresses go; None on the public network.
        self.gateway = gateway
        self.attached: dict[str, Attachment] = {}
        self._last_arrival: dict[tuple[int, int], float] = {}

    def attach(self, address: str, attachment: Attachment) -> None:
        if self.attached.setdefault(address, attachment) is not attachment:
            raise ValueError(f"{address} is taken in this network")
        if self.gateway is not None and not self.gateway.translates(address):
            self.gateway.outside.attach(address, attachment)

    def detach(self, address: str) -> None:
        del self.attached[address]
        if self.gateway is not None and not self.gateway.translates(address):
            self.gateway.outside.detach(address)

    def route(self, packet: Packet, sender: Attachment, src: Address, dst: Address) -> None:
        """Send ``packet`` on its way from ``sender``, who has ``src`` in this network."""
        packet.seen = src
        target = self.attached.get(dst[0])
        if target is not None:
            self._carry(packet, sender, target, src, dst)
        elif self.gateway is not None:
            self.gateway.outbound(packet, src, dst)
        else:
            packet.fate = Fate.NOWHERE

    def between(self, sender: Attachment, origin: Attachment, target: Attachment, dst: Address) -> Conditions:
        """What holds on the way from ``origin``, who is known here as ``sender``, to ``target``."""
        base = LOOPBACK if origin is target else self.conditions
        for first in (origin, sender):
            for second in (target.final(dst), target):
                changes = self.world.overrides.get((first, second))
                if changes is not None:
                    return replace(base, **changes)
        return base

    def _carry(self, packet: Packet, sender: Attachment, target: Attachment, src: Address, dst: Address) -> None:
        random, now = self.world.random, self.world.now
        origin = packet.origin.host if packet.origin is not None else sender
        path = self.between(sender, origin, target, dst)
        if path.loss and random.random() < path.loss:
            packet.fate = Fate.LOST
            return
        copies = [packet]
        if path.duplicate and random.random() < path.duplicate:
            copies.append(replace(packet, copy=True))
            self.world.packets.append(copies[-1])
        for copy in copies:
            arrival = round(now + path.delay, 9)
            if path.reorder and random.random() < path.reorder:
                arrival += random.random() * max(2 * path.delay, 0.01)
            elif path.jitter:
                way = (id(origin), id(target))
                arrival = max(arrival + random.random() * path.jitter, self._last_arrival.get(way, 0.0))
                self._last_arrival[way] = arrival
            self.world.at(arrival, target.receive, copy, src, dst)

    def find(self, sender: Attachment, origin: Attachment, src: Address, dst: Address) -> Way | None:
        """The way that a stream takes: to whom, seen from which address; None when nobody is there."""
        target = self.attached.get(dst[0])
        if target is None:
            return self.gateway.find(origin, src, dst) if self.gateway is not None else None
        if not isinstance(target, Host):
            return None
        return Way(target, src, self, sender, origin, dst)


class Way:
    """The way of a stream; its conditions are looked up anew for every frame, since tests change them."""

    __slots__ = ("target", "seen", "_network", "_sender", "_origin", "_dst")

    def __init__(
        self, target: Host, seen: Address, network: Network, sender: Attachment, origin: Attachment, dst: Address
    ) -> None:
        self.target = target
        self.seen = seen
        self._network = network
        self._sender = sender
        self._origin = origin
        self._dst = dst

    @property
    def conditions(self) -> Conditions:
        return self._network.between(self._sender, self._origin, self.target, self._dst)


class Host:
    """A computer with addresses, all in one network."""

    def __init__(self, world: World, network: Network, addresses: tuple[str, ...], refuses: bool = False) -> None:
        self.world = world
        self.network = network
        self.addresses: list[str] = []
        #: Whether a datagram to a closed port is answered by ICMP port unreachable; silence otherwise.
        self.refuses = refuses
        self.sockets: dict[Address, Socket] = {}
        self.listeners: dict[Address, Listener] = {}
        self._next_port = FIRST_PORT
        for address in addresses:
            self.add_address(address)

    def __repr__(self) -> str:
        return f"Host({', '.join(self.addresses)})"

    def run(self, machine: Machine) -> Node:
        """Run a machine on this host."""
        return self.world.run_machine(self, machine)

    def add_address(self, address: str) -> None:
        address = canonical_host(address)
        self.network.attach(address, self)
        self.addresses.append(address)

    def remove_address(self, address: str) -> None:
        """The address goes away (an interface is down): what is bound to it stays, but hears and sends nothing."""
        address = canonical_host(address)
        self.addresses.remove(address)
        self.network.detach(address)

    def ephemeral_port(self) -> int:
        port = self._next_port
        self._next_port += 1
        return port

    def bind(self, address: str, port: int | None = None) -> Socket:
        """A datagram socket on one of this host's addresses, or on the first of its family for a wildcard."""
        if address in ("0.0.0.0", "::"):
            address = next((known for known in self.addresses if is_ipv6(known) == is_ipv6(address)), "")
        if address not in self.addresses:
            raise OSError("cannot assign the requested address")
        local = (address, self.ephemeral_port() if port is None else port)
        if local in self.sockets:
            raise OSError(f"{local} is in use")
        self.sockets[local] = socket = Socket(self, local)
        return socket

    def listen(self, listener: Listener) -> None:
        self.listeners[listener.local] = listener

    def connect(self, peer: Address, server_name: str | None, done: Callable[[Stream | None, Reason], None]) -> Event:
        """Open a stream; ``done`` gets it, or None and the reason. The event that is returned can be cancelled."""
        address = next((known for known in self.addresses if is_ipv6(known) == is_ipv6(peer[0])), None)
        if address is None:
            return self.world.after(0, done, None, Reason.UNREACHABLE)
        local = (address, self.ephemeral_port())
        way = self.network.find(self, self, local, peer)
        if way is None or way.conditions.loss >= 1:
            return self.world.after(CONNECT_TIMEOUT, done, None, Reason.TIMED_OUT)
        round_trip = 2 * way.conditions.delay
        listener = way.target.listeners.get(peer)
        if listener is None:
            return self.world.after(round_trip, done, None, Reason.REFUSED)
        if server_name is None:
            return self.world.after(round_trip, listener.open, local, way, None, done)
        if not listener.presents(server_name):
            return self.world.after(2 * round_trip, done, None, Reason.TLS)
        return self.world.after(3 * round_trip, listener.open, local, way, server_name, done)

    def receive(self, packet: Packet, src: Address, dst: Address) -> None:
        packet.arrived = self.world.now
        socket = self.sockets.get(dst) if dst[0] in self.addresses else None
        if socket is not None:
            packet.fate = Fate.DELIVERED
            socket.on_datagram(src, packet.data)
            return
        packet.fate = Fate.REFUSED if self.refuses else Fate.CLOSED_PORT
        if self.refuses and packet.origin is not None:
            way_back = self.world.now - packet.time
            self.world.after(way_back, packet.origin.refused, packet.dst)

    def final(self, dst: Address) -> Attachment:
        return self


class Socket:
    """A datagram socket. Its owner sets the two callbacks."""

    def __init__(self, host: Host, local: Address) -> None:
        self.host = host
        self.local = local
        self.on_datagram: Callable[[Address, bytes], None] = lambda peer, data: None
        self.on_error: Callable[[Address, Reason], None] = lambda peer, reason: None

    def send(self, dst: Address, data: bytes) -> Reason | None:
        """Send a datagram; returns why the system refused it at once, if it did."""
        if self.host.sockets.get(self.local) is not self:
            return Reason.CLOSED
        if is_ipv6(self.local[0]) != is_ipv6(dst[0]) or self.local[0] not in self.host.addresses:
            return Reason.UNREACHABLE
        if len(data) > MAX_DATAGRAM:
            return Reason.TOO_BIG
        world = self.host.world
        packet = Packet(world.now, "udp", self.local, dst, data, self.local, origin=self)
        world.packets.append(packet)
        if world.dropped(packet):
            packet.fate = Fate.DROPPED
        else:
            self.host.network.route(packet, self.host, self.local, dst)
        return None

    def refused(self, dst: Address) -> None:
        if self.host.sockets.get(self.local) is self:
            self.on_error(dst, Reason.REFUSED)

    def close(self) -> None:
        if self.host.sockets.get(self.local) is self:
            del self.host.sockets[self.local]


class Listener:
    """Accepts streams at one address; over TLS when it has a certificate."""

    def __init__(self, local: Address, accept: Callable[[Stream], None], certificate: str | None = None) -> None:
        self.local = local
        self.accept = accept
        #: The host name in the certificate, ``"*"`` for any; None for a listener without TLS.
        self.certificate = certificate

    def presents(self, server_name: str) -> bool:
        return self.certificate is not None and self.certificate in ("*", server_name)

    def open(
        self, local: Address, way: Way, server_name: str | None, done: Callable[[Stream | None, Reason], None]
    ) -> None:
        """The handshake is through: both ends are there from now on."""
        here, there = Stream(way, local, self.local), Stream(way, self.local, way.seen)
        here.other, there.other = there, here
        done(here, Reason.OTHER)
        if server_name is None and self.certificate is not None:
            there.close()
        else:
            self.accept(there)


class Stream:
    """One end of a stream that carries whole frames, in order, and loses none while its path works."""

    def __init__(self, way: Way, local: Address, peer: Address) -> None:
        self._way = way
        self.local = local
        self.peer = peer
        self.other: Stream | None = None
        self.closed = False
        self._last_arrival = 0.0
        self.on_frame: Callable[[bytes], None] = lambda data: None
        self.on_close: Callable[[], None] = lambda: None

    def send(self, data: bytes) -> None:
        if self.closed:
            return
        world, path = self._way.target.world, self._way.conditions
        packet = Packet(world.now, "tcp", self.local, self.peer, data, self.local)
        world.packets.append(packet)
        if path.loss >= 1:
            packet.fate = Fate.LOST
            return
        self._last_arrival = max(self._last_arrival, round(world.now + path.delay, 9))
        world.at(self._last_arrival, self._arrive, packet)

    def _arrive(self, packet: Packet) -> None:
        packet.arrived = self._way.target.world.now
        if self.other is None or self.other.closed:
            packet.fate = Fate.CLOSED_PORT
        else:
            packet.fate = Fate.DELIVERED
            self.other.on_frame(packet.data)

    def close(self) -> None:
        """Close this end; the other hears of it after the frames that are under way."""
        if not self.closed:
            self.closed = True
            world = self._way.target.world
            world.at(max(self._last_arrival, world.now + self._way.conditions.delay), self._end)

    def _end(self) -> None:
        other = self.other
        if other is not None and not other.closed:
            other.closed = True
            other.on_close()
