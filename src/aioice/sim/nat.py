"""Network address translators, described as RFC 4787 does: by how they map, filter and choose ports."""

from __future__ import annotations

from collections.abc import Container
from enum import StrEnum
from typing import TYPE_CHECKING, TypedDict

from ..core.address import canonical_host
from ..core.machine import Address
from .gateways import INSIDE_DELAY, Gateway
from .hosts import Host
from .links import Attached, Fate, Packet, is_ipv6

if TYPE_CHECKING:
    from .network import Network, Way
    from .world import World

#: RFC 4787 §4.3 REQ-5: a mapping lives two minutes at least; five or more are recommended.
LIFETIME = 300.0
#: The first port of a NAT that does not keep the inner one.
FIRST_PORT = 40000
#: RFC 4787 §4.2.2: the well-known ports are not given out.
LOWEST_PORT = 1024


class Behaviour(StrEnum):
    """RFC 4787 §4.1 (mapping) and §5 (filtering): how much of the remote address counts."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"

    def key(self, remote: Address) -> tuple[object, ...]:
        """The part of ``remote`` that counts."""
        if self is Behaviour.ENDPOINT_INDEPENDENT:
            return ()
        return (remote[0],) if self is Behaviour.ADDRESS_DEPENDENT else remote


class Ports(StrEnum):
    """RFC 4787 §4.2: which external port a new mapping gets."""

    #: The inner one if it is free, else the next free one.
    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"


class NatOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Nat`."""

    mapping: str
    filtering: str
    ports: str
    hairpinning: bool
    lifetime: float
    inbound_refresh: bool
    delay: float


class Mapping:
    """One external port, the inner address it stands for, and whom that has sent to."""

    __slots__ = ("inner", "port", "key", "used", "contacts")

    def __init__(self, inner: Address, port: int, key: tuple[object, ...]) -> None:
        self.inner = inner
        self.port = port
        self.key = key
        #: When it was last refreshed.
        self.used = 0.0
        #: Filter keys of the remote addresses that may answer, with the time of the last packet to them.
        self.contacts: dict[tuple[object, ...], float] = {}


class Nat(Gateway):
    """A NAT with one external address; what is behind it is a network of its own.

    Addresses of the family that the external address does not have are not translated: hosts inside have them in the
    outer network.
    """

    def __init__(
        self,
        world: World,
        outside: Network,
        address: str,
        *,
        mapping: str = Behaviour.ENDPOINT_INDEPENDENT,
        filtering: str = Behaviour.ADDRESS_AND_PORT_DEPENDENT,
        ports: str = Ports.PRESERVING,
        hairpinning: bool = False,
        lifetime: float = LIFETIME,
        inbound_refresh: bool = False,
        delay: float = INSIDE_DELAY,
    ) -> None:
        super().__init__(world, outside, delay)
        self.address = canonical_host(address)
        self.mapping = Behaviour(mapping)
        self.filtering = Behaviour(filtering)
        self.ports = Ports(ports)
        #: RFC 4787 §6 REQ-9: whether inner hosts reach each other by their external addresses.
        self.hairpinning = hairpinning
        self.lifetime = lifetime
        #: RFC 4787 §4.3 REQ-6: outbound packets refresh a mapping, inbound ones may.
        self.inbound_refresh = inbound_refresh
        self._by_key: dict[tuple[object, ...], Mapping] = {}
        self._by_port: dict[int, Mapping] = {}
        self._stream_ports: set[int] = set()
        self._next_port = FIRST_PORT
        outside.attach(self.address, self)

    def __repr__(self) -> str:
        return f"Nat({self.address}, {self.mapping}, {self.filtering})"

    def rebind(self) -> None:
        """Lose all mappings, as in a restart; the ports that are given out from now on differ from the old ones."""
        self._by_key.clear()
        self._by_port.clear()
        if self.ports is Ports.PRESERVING:
            self.ports = Ports.SEQUENTIAL

    def outbound(self, packet: Packet, src: Address, dst: Address) -> None:
        if not self.translates(src[0]):
            self.outside.route(packet, self, src, dst)
            return
        mapping = self._map(src, dst)
        external = (self.address, mapping.port)
        if dst[0] != self.address:
            self.outside.route(packet, self, external, dst)
        elif self.hairpinning:
            # RFC 4787 §6 REQ-9a: the receiver sees the external source address.
            packet.seen = external
            self.world.after(self.inside.conditions.delay, self.receive, packet, external, dst)
        else:
            packet.fate = Fate.NO_HAIRPIN

    def receive(self, packet: Packet, src: Address, dst: Address) -> None:
        """``packet`` arrives from outside (or by hairpin)."""
        packet.arrived = now = self.world.now
        mapping = self._by_port.get(dst[1])
        if mapping is None or self._expired(mapping):
            packet.fate = Fate.UNMAPPED
            return
        contact = mapping.contacts.get(self.filtering.key(src))
        if self.filtering is not Behaviour.ENDPOINT_INDEPENDENT and (contact is None or now >= contact + self.lifetime):
            packet.fate = Fate.FILTERED
            return
        if self.inbound_refresh:
            mapping.used = mapping.contacts[self.filtering.key(src)] = now
        target = self.inside.attached.get(mapping.inner[0])
        if target is None:
            packet.fate = Fate.NOWHERE
        else:
            target.arrive(packet, src, mapping.inner)

    def final(self, dst: Address) -> Attached:
        mapping = self._by_port.get(dst[1])
        target = self.inside.attached.get(mapping.inner[0]) if mapping is not None else None
        return target.final(mapping.inner) if mapping is not None and target is not None else self

    def find(self, origin: Host, src: Address, dst: Address) -> Way | None:
        """The way of a stream from inside; streams have no mappings that expire, and none lead inwards."""
        external = src
        if self.translates(src[0]):
            external = (self.address, self._free_port(src[1], self._stream_ports))
            self._stream_ports.add(external[1])
        return self.outside.find(self, origin, external, dst)

    def translates(self, host: str) -> bool:
        return is_ipv6(host) == is_ipv6(self.address)

    def before(self, attachment: Attached) -> Attached:
        return attachment

    def _expired(self, mapping: Mapping) -> bool:
        return self.world.now >= mapping.used + self.lifetime

    def _map(self, src: Address, dst: Address) -> Mapping:
        """The mapping for what goes from ``src`` to ``dst``, refreshed or made."""
        key = (src, *self.mapping.key(dst))
        mapping = self._by_key.get(key)
        if mapping is None or self._expired(mapping):
            for old in [old for old in self._by_port.values() if self._expired(old)]:
                self._forget(old)
            mapping = Mapping(src, self._free_port(src[1], self._by_port), key)
            self._by_key[key] = self._by_port[mapping.port] = mapping
        mapping.used = mapping.contacts[self.filtering.key(dst)] = self.world.now
        return mapping

    def _forget(self, mapping: Mapping) -> None:
        del self._by_key[mapping.key]
        del self._by_port[mapping.port]

    def _free_port(self, inner: int, taken: Container[int]) -> int:
        if self.ports is Ports.RANDOM:
            port = self.world.random.randrange(LOWEST_PORT, 65536)
        elif self.ports is Ports.PRESERVING:
            port = inner
        else:
            port = self._next_port
        span = 65536 - LOWEST_PORT
        for step in range(span):
            candidate = LOWEST_PORT + (port - LOWEST_PORT + step) % span
            if candidate not in taken:
                self._next_port = candidate + 1
                return candidate
        raise RuntimeError(f"{self!r} has no free port")
