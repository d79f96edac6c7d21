"""What stands between two networks: routers, firewalls, and (in :mod:`.nat`) address translators."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ..core.machine import Address, Reason
from .hosts import Host
from .links import Attached, Conditions, Fate, Packet
from .network import Network

if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Unpack

    from .nat import Nat, NatOptions
    from .network import Way
    from .world import World

#: Seconds between two hosts behind the same gateway.
INSIDE_DELAY = 0.0005
#: A stateful firewall forgets a UDP session after this time; the defaults of systems lie between 30 and 180 seconds.
SESSION_LIFETIME = 60.0


class Gateway(Attached):
    """Joins an inner network of its own, which is a LAN, to an outer one."""

    def __init__(self, world: World, outside: Network, delay: float) -> None:
        super().__init__(world)
        self.world = world
        self.outside = outside
        self.inside = Network(world, Conditions(delay=delay), gateway=self)

    def host(self, *addresses: str, refuses: bool = False, name: str = "") -> Host:
        """A host on the inner network."""
        return Host(self.world, self.inside, addresses, refuses, name)

    def nat(self, address: str, **options: Unpack[NatOptions]) -> Nat:
        """A NAT on the inner network; behind another NAT, which is a carrier's then (CGNAT)."""
        return self.world.nat(address, outside=self.inside, **options)

    def router(self, *, delay: float = INSIDE_DELAY) -> Router:
        """A router on the inner network."""
        return Router(self.world, self.inside, delay=delay)

    def firewall(self, **options: Unpack[FirewallOptions]) -> Firewall:
        """A firewall on the inner network."""
        return Firewall(self.world, self.inside, **options)

    def translates(self, host: str) -> bool:
        """Whether the outer network does not know this inner address."""
        raise NotImplementedError

    def before(self, attachment: Attached) -> Attached:
        """Who gets, in the outer network, what is sent to an inner address that is not translated."""
        return self

    def outbound(self, packet: Packet, src: Address, dst: Address) -> None:
        """``packet`` leaves the inner network."""
        raise NotImplementedError

    def find(self, origin: Host, src: Address, dst: Address) -> Way | None:
        """The way of a stream from inside."""
        return self.outside.find(self, origin, src, dst)


class Router(Gateway):
    """A LAN whose hosts have addresses of the outer network: nothing is translated or filtered."""

    def __init__(self, world: World, outside: Network, *, delay: float = INSIDE_DELAY) -> None:
        super().__init__(world, outside, delay)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.inside.attached)})"

    def translates(self, host: str) -> bool:
        return False

    def outbound(self, packet: Packet, src: Address, dst: Address) -> None:
        if self.lets_out(packet.transport, src, dst):
            self.outside.route(packet, self, src, dst)
        else:
            self.block(packet)

    def receive(self, packet: Packet, src: Address, dst: Address) -> None:
        target = self.inside.attached.get(dst[0])
        if target is None:
            packet.fate = Fate.NOWHERE
        elif self.lets_in(packet.transport, src, dst):
            target.arrive(packet, src, dst)
        else:
            self.block(packet)

    def final(self, dst: Address) -> Attached:
        target = self.inside.attached.get(dst[0])
        return self if target is None else target.final(dst)

    def find(self, origin: Host, src: Address, dst: Address) -> Way | None:
        return super().find(origin, src, dst) if self.lets_out("tcp", src, dst) else None

    def entered(self, dst: Address) -> Host | None:
        target = self.inside.attached.get(dst[0])
        return target.entered(dst) if target is not None and self.lets_in("tcp", ("", 0), dst) else None

    def lets_out(self, transport: str, src: Address, dst: Address) -> bool:
        """Whether a packet may leave."""
        return True

    def lets_in(self, transport: str, src: Address, dst: Address) -> bool:
        """Whether a packet may come in."""
        return True

    def block(self, packet: Packet) -> None:
        """A packet may not pass."""
        packet.fate = Fate.BLOCKED


class FirewallOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Firewall`."""

    udp: bool
    tcp: bool
    inbound: str
    ports: Container[int] | None
    lifetime: float
    rejects: bool
    delay: float


class Firewall(Router):
    """A router that lets only some packets through.

    :param udp: whether UDP leaves at all.
    :param tcp: whether streams do.
    :param inbound: what comes in uninvited: ``"stateful"``, nothing: only answers, from the very address and port that
        was written to within ``lifetime``; ``"open"``, all; ``"closed"``, nothing, and no answers to UDP either.
    :param ports: the destination ports that may be reached from inside; all if `None`.
    :param lifetime: seconds for which an answer over UDP may come.
    :param rejects: whether a sender is told by ICMP that its datagram was blocked; silence otherwise.
    :param delay: seconds between two hosts behind it.
    """

    def __init__(
        self,
        world: World,
        outside: Network,
        *,
        udp: bool = True,
        tcp: bool = True,
        inbound: str = "stateful",
        ports: Container[int] | None = None,
        lifetime: float = SESSION_LIFETIME,
        rejects: bool = False,
        delay: float = INSIDE_DELAY,
    ) -> None:
        if inbound not in ("stateful", "open", "closed"):
            raise ValueError('inbound is "stateful", "open" or "closed"')
        super().__init__(world, outside, delay=delay)
        self.udp = udp
        self.tcp = tcp
        self.inbound = inbound
        self.ports = ports
        self.lifetime = lifetime
        self.rejects = rejects
        #: When each inner address last wrote to which outer one.
        self._sessions: dict[tuple[Address, Address], float] = {}

    def lets_out(self, transport: str, src: Address, dst: Address) -> bool:
        answers = self.inbound == "open"
        if not (self.udp if transport == "udp" else self.tcp) or not (
            self.ports is None or dst[1] in self.ports or answers
        ):
            return False
        self._sessions[src, dst] = self.world.now
        return True

    def lets_in(self, transport: str, src: Address, dst: Address) -> bool:
        if self.inbound == "open":
            return self.udp if transport == "udp" else self.tcp
        if transport != "udp" or self.inbound == "closed" or not self.udp:
            return False
        used = self._sessions.get((dst, src))
        if used is None or self.world.now >= used + self.lifetime:
            return False
        self._sessions[dst, src] = self.world.now
        return True

    def block(self, packet: Packet) -> None:
        super().block(packet)
        if self.rejects and packet.origin is not None:
            self.world.after(self.world.now - packet.time, packet.origin.failed, packet.dst, Reason.UNREACHABLE)
