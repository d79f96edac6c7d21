"""Address realms: the public internet, or what lies behind one gateway; who has which address, and what lies between.

A packet takes the time of one network only, the one in which its source and its target meet, and that of the access
links on its way (:meth:`Attached.shape`); crossing a gateway takes none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.machine import Address
from .links import LOOPBACK, Attached, Conditions, Fate, Packet, Pipe

if TYPE_CHECKING:
    from .gateways import Gateway
    from .hosts import Host, MulticastSocket
    from .world import World


class Network:
    """One address realm, with the conditions that hold between any two of its hosts."""

    def __init__(self, world: World, conditions: Conditions, gateway: Gateway | None = None) -> None:
        self.world = world
        self.conditions = conditions
        #: Where packets for unknown addresses go; None on the public network.
        self.gateway = gateway
        self.attached: dict[str, Attached] = {}
        #: Who has joined which multicast group. Nobody hears anybody on the public network: it is no LAN.
        self.members: dict[Address, list[MulticastSocket]] = {}
        self._pipes: dict[tuple[Attached, Attached], Pipe] = {}

    def attach(self, address: str, attachment: Attached) -> None:
        """``attachment`` has this address from now on."""
        if self.attached.setdefault(address, attachment) is not attachment:
            raise ValueError(f"{address} is taken in this network")
        if self.gateway is not None and not self.gateway.translates(address):
            self.gateway.outside.attach(address, self.gateway.before(attachment))

    def detach(self, address: str) -> None:
        """Nobody has this address any more."""
        del self.attached[address]
        if self.gateway is not None and not self.gateway.translates(address):
            self.gateway.outside.detach(address)

    def route(self, packet: Packet, sender: Attached, src: Address, dst: Address) -> None:
        """Send ``packet`` on its way from ``sender``, who has ``src`` in this network."""
        if sender.access is None:
            self._route(packet, sender, src, dst)
        else:
            sender.access.up.carry(packet, sender.access.up_conditions, self._route, sender, src, dst)

    def _route(self, packet: Packet, sender: Attached, src: Address, dst: Address) -> None:
        packet.seen = src
        target = self.attached.get(dst[0])
        if target is not None:
            origin = packet.origin.host if packet.origin is not None else sender
            path = self.between(sender, origin, target, dst)
            self.pipe(origin, target).carry(packet, path, target.arrive, src, dst)
        elif self.gateway is not None:
            self.gateway.outbound(packet, src, dst)
        else:
            packet.fate = Fate.NOWHERE

    def multicast(self, packet: Packet, sender: Host) -> None:
        """Send ``packet`` to all members of a group: a copy for each, its sender's own sockets among them."""
        members = self.members.get(packet.dst, []) if self.gateway is not None else []
        packet.fate = Fate.DELIVERED if members else Fate.NOWHERE
        for member in list(members):
            copy = replace(packet, copy=True, fate=Fate.IN_FLIGHT)
            self.world.packets.append(copy)
            path = self.between(sender, sender, member.host, member.local)
            self.pipe(sender, member.host).carry(copy, path, member.arrived)

    def pipe(self, origin: Attached, target: Attached) -> Pipe:
        """What the path from ``origin`` to ``target`` remembers."""
        pipe = self._pipes.get((origin, target))
        if pipe is None:
            pipe = self._pipes[origin, target] = Pipe(self.world)
        return pipe

    def between(self, sender: Attached, origin: Attached, target: Attached, dst: Address) -> Conditions:
        """What holds on the way from ``origin``, who is known here as ``sender``, to ``target``."""
        base = LOOPBACK if origin is target else self.conditions
        if not self.world.overrides:
            return base
        for first in (origin, sender):
            for second in (target.final(dst), target):
                changes = self.world.overrides.get((first, second))
                if changes is not None:
                    return replace(base, **changes)
        return base

    def find(self, sender: Attached, origin: Host, src: Address, dst: Address) -> Way | None:
        """The way that a stream takes: to whom, seen from which address; None when nobody is there."""
        target = self.attached.get(dst[0])
        if target is None:
            return self.gateway.find(origin, src, dst) if self.gateway is not None else None
        entered = target.entered(dst)
        return None if entered is None else Way(entered, src, self, sender, origin, target, dst)


class Way:
    """The way of a stream; its conditions are looked up anew for each piece, since tests change them."""

    __slots__ = ("target", "seen", "_network", "_sender", "_origin", "_target", "_dst")

    def __init__(
        self,
        target: Host,
        seen: Address,
        network: Network,
        sender: Attached,
        origin: Host,
        attached: Attached,
        dst: Address,
    ) -> None:
        self.target = target
        self.seen = seen
        self._network = network
        self._sender = sender
        self._origin = origin
        self._target = attached
        self._dst = dst

    @property
    def conditions(self) -> Conditions:
        """Those of the network, and on top the delay and the rate of the access links of both ends."""
        path = self._network.between(self._sender, self._origin, self.target, self._dst)
        for access in (self._origin.access, self._sender.access if self._sender is not self._origin else None):
            path = _and_then(path, access.up_conditions if access is not None else None)
        for access in (self._target.access, self.target.access if self.target is not self._target else None):
            path = _and_then(path, access.down_conditions if access is not None else None)
        return path


def _and_then(path: Conditions, link: Conditions | None) -> Conditions:
    if link is None:
        return path
    rates = [rate for rate in (path.rate, link.rate) if rate]
    loss = max(path.loss, link.loss) if 1 in (path.loss, link.loss) else path.loss
    return replace(path, delay=path.delay + link.delay, rate=min(rates, default=0.0), loss=loss)
