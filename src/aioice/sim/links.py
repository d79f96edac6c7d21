"""Packets, and how a path treats them: delay, loss, order, copies, rate and size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypedDict

from ..core.machine import Address, Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVarTuple, Unpack

    from .clock import Clock
    from .hosts import Host, Socket

    Ts = TypeVarTuple("Ts")

#: Of IPv4 and IPv6 without options; UDP's own has eight more bytes, TCP's without options twenty.
IPV4_HEADER, IPV6_HEADER, UDP_HEADER, TCP_HEADER = 20, 40, 8, 20


#: Seconds after which TCP sends again: Linux's minimum, below that of RFC 6298 §2.4.
STREAM_RTO = 0.2
#: So long at most, in seconds, does a piece of a stream wait for its retransmissions.
STREAM_PATIENCE = 120.0


def is_ipv6(host: str) -> bool:
    """Of the two families of addresses in text, which?"""
    return ":" in host


class Fate(StrEnum):
    """What became of a packet."""

    IN_FLIGHT = "in flight"
    DELIVERED = "delivered"
    #: By the loss of its path.
    LOST = "lost"
    #: By a hook of :meth:`World.drop`.
    DROPPED = "dropped"
    #: Its path has a rate, and too much waits already.
    QUEUE_FULL = "queue full"
    #: Larger than the MTU of its path, which does not fragment.
    TOO_BIG = "too big"
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
    #: By a firewall.
    BLOCKED = "blocked"


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
    #: Made by the network: the second of a duplicated packet, one of a multicast packet's.
    copy: bool = False
    origin: Socket | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """In bytes, with the headers of IP and of the transport."""
        return len(self.data) + self.ip_header + (UDP_HEADER if self.transport == "udp" else TCP_HEADER)

    @property
    def ip_header(self) -> int:
        """Bytes of the IP header."""
        return IPV6_HEADER if is_ipv6(self.dst[0]) else IPV4_HEADER


class Oversize(StrEnum):
    """What a path does with a datagram that is larger than its MTU."""

    #: Cut it; it arrives when all of its fragments do, each of which can be lost.
    FRAGMENT = "fragment"
    #: Drop it and say so (ICMP "packet too big"): the sender gets :attr:`Reason.TOO_BIG`, a program ``EMSGSIZE``.
    REPORT = "report"
    #: Drop it and say nothing: a "black hole".
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a path treats packets, one way. Times are in seconds; loss, duplicate and reorder are probabilities."""

    delay: float = 0.025
    loss: float = 0.0
    #: Up to this much is added to the delay; packets stay in order.
    jitter: float = 0.0
    duplicate: float = 0.0
    #: Such a packet is held back for up to two delays (at least 10 ms), so that later ones overtake it.
    reorder: float = 0.0
    #: Bits per second, headers included; 0 for no limit. What comes faster waits in the queue.
    rate: float = 0.0
    #: Bytes that may wait where there is a rate; a datagram that finds no room is dropped.
    queue: int = 65536
    #: The largest IP packet in bytes, headers included; 0 for no limit.
    mtu: int = 0
    oversize: str = Oversize.FRAGMENT


class PathOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Conditions`."""

    delay: float
    loss: float
    jitter: float
    duplicate: float
    reorder: float
    rate: float
    queue: int
    mtu: int
    oversize: str


#: From a host to itself.
LOOPBACK = Conditions(delay=0.0)


class Pipe:
    """One direction of a path, and what it remembers: until when it is busy, and what arrives last."""

    __slots__ = ("_clock", "_busy", "_last_arrival")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._busy = 0.0
        self._last_arrival = 0.0

    def carry(self, packet: Packet, path: Conditions, then: Callable[[Packet, *Ts], object], *args: *Ts) -> None:
        """Call ``then(packet, *args)`` when the packet has arrived; if it does, and twice if it is duplicated."""
        random, size = self._clock.random, packet.size
        loss = path.loss
        if path.mtu and size > path.mtu:
            if path.oversize != Oversize.FRAGMENT:
                self._too_big(packet, path)
                return
            header = packet.ip_header
            fragments = -(-(size - header) // (path.mtu - header))
            size += (fragments - 1) * header
            loss = 1 - (1 - loss) ** fragments
        if loss and random.random() < loss:
            packet.fate = Fate.LOST
            return
        departure = self.departure(size, path) if path.rate else self._clock.now
        if departure is None:
            packet.fate = Fate.QUEUE_FULL
            return
        copies = [packet]
        if path.duplicate and random.random() < path.duplicate:
            copies.append(replace(packet, copy=True))
            self._clock.packets.append(copies[-1])
        for copy in copies:
            arrival = round(departure + path.delay, 9)
            if path.reorder and random.random() < path.reorder:
                arrival += random.random() * max(2 * path.delay, 0.01)
            elif path.jitter:
                arrival = max(arrival + random.random() * path.jitter, self._last_arrival)
                self._last_arrival = arrival
            self._clock.at(arrival, then, copy, *args)

    def departure(self, size: int, path: Conditions, *, patient: bool = False) -> float | None:
        """When the last bit of ``size`` bytes has left; None if the queue has no room for them."""
        begin = max(self._busy, self._clock.now)
        if not patient and (begin - self._clock.now) * path.rate / 8 + size > path.queue:
            return None
        self._busy = begin + size * 8 / path.rate
        return self._busy

    def in_order(self, size: int, path: Conditions) -> float:
        """When ``size`` bytes of a stream arrive: what is lost is sent again, and nothing overtakes."""
        departure = (self.departure(size, path, patient=True) if path.rate else None) or self._clock.now
        departure += waited(self._clock, path.loss, max(STREAM_RTO, 3 * path.delay))
        self._last_arrival = max(self._last_arrival, round(departure + path.delay, 9))
        return self._last_arrival

    def _too_big(self, packet: Packet, path: Conditions) -> None:
        packet.fate = Fate.TOO_BIG
        if path.oversize == Oversize.REPORT and packet.origin is not None:
            way_back = self._clock.now - packet.time
            self._clock.after(way_back, packet.origin.failed, packet.dst, Reason.TOO_BIG)


def waited(clock: Clock, loss: float, rto: float) -> float:
    """The seconds that a segment of TCP loses by retransmissions, which come after ``rto``, twice that, and so on."""
    total = 0.0
    while loss and total < STREAM_PATIENCE and clock.random.random() < loss:
        total += rto
        rto *= 2
    return total


class Access:
    """The link between a host (or a gateway) and its network, which all of its traffic shares."""

    def __init__(self, clock: Clock) -> None:
        self.up, self.down = Pipe(clock), Pipe(clock)
        self.up_conditions = self.down_conditions = LOOPBACK


class Attached:
    """What can have an address in a network: a host, or the outer side of a gateway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.access: Access | None = None

    def shape(self, direction: str = "both", **conditions: Unpack[PathOptions]) -> None:
        """Give the access link conditions of its own: ``"up"`` (what leaves), ``"down"`` or ``"both"``.

        They are added to those of the network beyond it. Their delay is 0 unless it is named; calling it again replaces
        what was said before, and no condition at all takes the link away. Streams heed its delay and rate.
        """
        if direction not in ("up", "down", "both"):
            raise ValueError('the direction is "up", "down" or "both"')
        self.access = self.access or Access(self._clock)
        options: PathOptions = {"delay": 0.0}
        options.update(conditions)
        if direction != "down":
            self.access.up_conditions = Conditions(**options)
        if direction != "up":
            self.access.down_conditions = Conditions(**options)

    def receive(self, packet: Packet, src: Address, dst: Address) -> None:
        """``packet`` has arrived at ``dst`` and looks as if it came from ``src``."""
        raise NotImplementedError

    def final(self, dst: Address) -> Attached:
        """Who gets what is sent to ``dst``, when that is known: a NAT names the host inside."""
        return self

    def entered(self, dst: Address) -> Host | None:
        """The host that a stream to ``dst`` reaches; None if it is kept out."""
        return None

    def arrive(self, packet: Packet, src: Address, dst: Address) -> None:
        """``packet`` has come through the network; the access link is still before it."""
        if self.access is None:
            self.receive(packet, src, dst)
        else:
            self.access.down.carry(packet, self.access.down_conditions, self.receive, src, dst)
