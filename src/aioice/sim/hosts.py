"""Hosts with their interfaces, datagram sockets, listeners and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.address import canonical_host
from ..core.machine import Address, Reason
from .context import enter, leave
from .links import Attached, Fate, Packet, Pipe, is_ipv6, waited

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    from ..core.machine import Machine
    from .clock import Event
    from .gateways import Gateway
    from .network import Network, Way
    from .node import Node
    from .world import World

    T = TypeVar("T")

#: Ephemeral ports are given out upwards from here, by each host on its own.
FIRST_PORT = 50000
LAST_PORT = 65535
#: How long a stream is tried when nothing answers, not even with a reset.
CONNECT_TIMEOUT = 20.0
#: Seconds after which a lost handshake is tried again (RFC 6298 §2.1).
SYN_RTO = 1.0
#: A datagram of at most 65 507 bytes fits IPv4's total length, together with the IP and UDP headers.
MAX_DATAGRAM = 65507
#: Every host has them, and hears itself there only.
LOOPBACKS = ("127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::")


class Interface:
    """How a host is attached to one network; made by :meth:`Host.join`."""

    def __init__(self, host: Host, network: Network, name: str, index: int) -> None:
        self.host = host
        self.network = network
        self.name = name
        #: As the operating system counts them; loopback is 1.
        self.index = index
        self.addresses: list[str] = []
        self.is_up = True

    def add(self, address: str) -> None:
        """The interface gets one more address."""
        address = canonical_host(address)
        if self.is_up:
            self._attach(address)
        self.addresses.append(address)

    def remove(self, address: str) -> None:
        """The address goes away: what is bound to it stays, but hears and sends nothing."""
        address = canonical_host(address)
        self.addresses.remove(address)
        if self.is_up:
            self._detach(address)

    def down(self) -> None:
        """The cable is pulled: all addresses go, until :meth:`up`."""
        if self.is_up:
            self.is_up = False
            for address in self.addresses:
                self._detach(address)

    def up(self) -> None:
        """The interface works again, with the addresses that it had."""
        if not self.is_up:
            self.is_up = True
            for address in self.addresses:
                self._attach(address)

    def _attach(self, address: str) -> None:
        self.network.attach(address, self.host)
        self.host.networks[address] = self.network

    def _detach(self, address: str) -> None:
        self.network.detach(address)
        del self.host.networks[address]


class Host(Attached):
    """A computer with addresses on one or several networks.

    ``with host:`` makes it the place where the current task, and all that it starts, opens its sockets.
    """

    def __init__(
        self, world: World, network: Network, addresses: tuple[str, ...], refuses: bool = False, name: str = ""
    ) -> None:
        super().__init__(world)
        self.world = world
        self.network = network
        self.name = name
        #: By the addresses that work now.
        self.networks: dict[str, Network] = {}
        self.interfaces = [Interface(self, network, "eth0", 2)]
        #: Whether a datagram to a closed port is answered by ICMP port unreachable; silence otherwise.
        self.refuses = refuses
        self.sockets: dict[Address, Socket] = {}
        self.listeners: dict[Address, Listener] = {}
        self._wildcards: dict[tuple[bool, int], Socket] = {}
        self._next_port = FIRST_PORT
        for address in addresses:
            self.add_address(address)

    def __repr__(self) -> str:
        return f"Host({', '.join(([self.name] if self.name else []) + self.addresses)})"

    # ----------------------------------------------------------------------------------------------- what runs on it

    def run(self, machine: Machine) -> Node:
        """Run a machine on this host."""
        return self.world.run_machine(self, machine)

    def create_task(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """A task that runs on this host; from within a coroutine on the simulated loop."""
        from .loop import create_task

        return create_task(self, coroutine, name)

    def __enter__(self) -> Host:
        enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        leave(self)

    # -------------------------------------------------------------------------------------------------- its interfaces

    @property
    def addresses(self) -> list[str]:
        """Those that work now, without loopback."""
        return list(self.networks)

    def join(self, place: Network | Gateway, *addresses: str, name: str = "") -> Interface:
        """Attach the host to one more network, or to what is behind a gateway, by an interface of its own."""
        from .network import Network

        index = self.interfaces[-1].index + 1
        network = place if isinstance(place, Network) else place.inside
        interface = Interface(self, network, name or f"eth{index - 2}", index)
        self.interfaces.append(interface)
        for address in addresses:
            interface.add(address)
        return interface

    def add_address(self, address: str) -> None:
        """One more address of the first interface."""
        self.interfaces[0].add(address)

    def remove_address(self, address: str) -> None:
        """The address goes away: what is bound to it stays, but hears and sends nothing."""
        address = canonical_host(address)
        for interface in self.interfaces:
            if address in interface.addresses:
                interface.remove(address)
                return
        raise ValueError(f"{self!r} does not have {address}")

    def source_for(self, peer: str) -> str | None:
        """The address from which the host sends to ``peer`` when nothing else is said: of an interface whose network
        has the peer in it, else of the first with an address of the family."""
        if peer in LOOPBACKS or peer in self.networks:
            return peer
        known = [address for address in self.networks if is_ipv6(address) == is_ipv6(peer)]
        near = [address for address in known if peer in self.networks[address].attached]
        return next(iter(near or known), None)

    # ------------------------------------------------------------------------------------------------------- datagrams

    def ephemeral_port(self) -> int:
        """A port that no socket of the host has."""
        for _ in range(FIRST_PORT, LAST_PORT + 1):
            port = self._next_port
            self._next_port = FIRST_PORT if port >= LAST_PORT else port + 1
            if not any(address[1] == port for address in (*self.sockets, *self.listeners)):
                return port
        raise OSError("no port is free")

    def bind(self, address: str, port: int | None = None) -> Socket:
        """A datagram socket; on one of this host's addresses, or a wildcard, which hears all of its family and sends
        from the one that fits. Raises :exc:`OSError` when the address is not the host's or the port is taken.
        """
        wildcard = address in WILDCARDS
        if wildcard:
            address = next((known for known in self.networks if is_ipv6(known) == is_ipv6(address)), "")
        if address not in self.networks and address not in LOOPBACKS:
            raise OSError("cannot assign the requested address")
        local = (address, port or self.ephemeral_port())
        if local in self.sockets or (is_ipv6(address), local[1]) in self._wildcards:
            raise OSError(f"{local} is in use")
        self.sockets[local] = socket = Socket(self, local, wildcard)
        if wildcard:
            self._wildcards[is_ipv6(address), local[1]] = socket
        return socket

    def join_group(self, group: str, port: int, interface: str | int) -> MulticastSocket:
        """A socket that sends to a multicast group through one interface (an address or an index of this host) and
        hears what comes to the group there. Raises :exc:`OSError` for an interface that cannot."""
        for known in self.interfaces:
            sources = [address for address in known.addresses if is_ipv6(address) == is_ipv6(group)]
            if known.is_up and sources and interface in (known.index, *known.addresses, *WILDCARDS):
                return MulticastSocket(self, (sources[0], port), known, (group, port))
        raise OSError("no such device")

    def receive(self, packet: Packet, src: Address, dst: Address) -> None:
        packet.arrived = self.world.now
        if dst[0] in self.networks or dst[0] in LOOPBACKS:
            socket = self.sockets.get(dst) or self._wildcards.get((is_ipv6(dst[0]), dst[1]))
        else:
            socket = None
        if socket is not None:
            packet.fate = Fate.DELIVERED
            socket.on_datagram(src, packet.data)
            return
        packet.fate = Fate.REFUSED if self.refuses else Fate.CLOSED_PORT
        if self.refuses and packet.origin is not None:
            way_back = self.world.now - packet.time
            self.world.after(way_back, packet.origin.failed, packet.dst, Reason.REFUSED)

    def forget(self, socket: Socket) -> None:
        """The socket is closed."""
        if self.sockets.get(socket.local) is socket:
            del self.sockets[socket.local]
        if self._wildcards.get((is_ipv6(socket.local[0]), socket.local[1])) is socket:
            del self._wildcards[is_ipv6(socket.local[0]), socket.local[1]]

    # --------------------------------------------------------------------------------------------------------- streams

    def listen(self, listener: Listener) -> None:
        """Accept streams."""
        self.listeners[listener.local] = listener

    def listener(self, address: Address) -> Listener | None:
        """Who accepts streams to ``address``; a listener on a wildcard does for all."""
        wildcard = WILDCARDS[is_ipv6(address[0])]
        return self.listeners.get(address) or self.listeners.get((wildcard, address[1]))

    def entered(self, dst: Address) -> Host | None:
        return self

    def connect(
        self,
        peer: Address,
        server_name: str | None,
        done: Callable[[Stream | None, Reason], None],
        local_port: int | None = None,
        connected: Callable[[], object] | None = None,
    ) -> Event:
        """Open a stream; ``done`` gets it, or None and the reason. The event that is returned can be cancelled.

        ``server_name`` is for TLS, which takes two round trips more and looks at the listener's certificate; it begins
        when ``connected`` is called.
        """
        from .network import Way

        address = self.source_for(peer[0])
        if address is None:
            return self.world.after(0, done, None, Reason.UNREACHABLE)
        local = (address, local_port or self.ephemeral_port())
        network = self.networks.get(address, self.network)
        way: Way | None
        if address in LOOPBACKS or peer[0] in self.networks:
            way = Way(self, local, network, self, self, self, peer)
        else:
            way = network.find(self, self, local, peer)
        if way is None or way.conditions.loss >= 1:
            return self.world.after(CONNECT_TIMEOUT, done, None, Reason.TIMED_OUT)
        round_trip, path = 2 * way.conditions.delay, way.conditions
        # Of each round trip both ways can be lost.
        lost = waited(self.world, 1 - (1 - path.loss) ** 2, SYN_RTO)
        if lost >= CONNECT_TIMEOUT:
            return self.world.after(CONNECT_TIMEOUT, done, None, Reason.TIMED_OUT)
        listener = way.target.listener(peer)
        if listener is None:
            return self.world.after(lost + round_trip, done, None, Reason.REFUSED)
        if server_name is None:
            return self.world.after(lost + round_trip, listener.open, self, local, peer, way, None, done)
        if connected is not None:
            self.world.after(lost + round_trip, connected)
        if not listener.presents(server_name):
            return self.world.after(lost + 2 * round_trip, done, None, Reason.TLS)
        return self.world.after(lost + 3 * round_trip, listener.open, self, local, peer, way, server_name, done)


class Socket:
    """A datagram socket. Its owner sets the two callbacks."""

    def __init__(self, host: Host, local: Address, wildcard: bool = False) -> None:
        self.host = host
        #: Where it is bound; for a wildcard, the first address of the host.
        self.local = local
        self.wildcard = wildcard
        self.on_datagram: Callable[[Address, bytes], None] = lambda peer, data: None
        self.on_error: Callable[[Address, Reason], None] = lambda peer, reason: None

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self.host.sockets.get(self.local) is self

    def send(self, dst: Address, data: bytes) -> Reason | None:
        """Send a datagram; returns why the system refused it at once, if it did."""
        if not self.is_open:
            return Reason.CLOSED
        host = self.host
        source = host.source_for(dst[0]) if self.wildcard else self.local[0]
        loopback = dst[0] in LOOPBACKS or dst[0] in host.networks
        if source is None or is_ipv6(source) != is_ipv6(dst[0]):
            return Reason.UNREACHABLE
        if not loopback and source not in host.networks:
            return Reason.UNREACHABLE
        if len(data) > MAX_DATAGRAM:
            return Reason.TOO_BIG
        local = (source, self.local[1])
        packet = Packet(host.world.now, "udp", local, dst, data, local, origin=self)
        host.world.packets.append(packet)
        if host.world.dropped(packet):
            packet.fate = Fate.DROPPED
        elif dst[0] in LOOPBACKS:
            host.world.at(host.world.now, host.receive, packet, local, dst)
        else:
            host.networks[source].route(packet, host, local, dst)
        return None

    def failed(self, dst: Address, reason: Reason) -> None:
        """ICMP says that what was sent to ``dst`` did not arrive."""
        if self.is_open:
            self.on_error(dst, reason)

    def close(self) -> None:
        """Hear and send no more; the port is free."""
        self.host.forget(self)


class MulticastSocket(Socket):
    """A socket in a multicast group on one interface; it hears the group only. Several may share a port."""

    def __init__(self, host: Host, local: Address, interface: Interface, group: Address) -> None:
        super().__init__(host, local)
        self._interface = interface
        self._members = interface.network.members.setdefault(group, [])
        self._members.append(self)

    @property
    def is_open(self) -> bool:
        return self in self._members

    def send(self, dst: Address, data: bytes) -> Reason | None:
        if not self.is_open:
            return Reason.CLOSED
        if self.local[0] not in self.host.networks:
            return Reason.UNREACHABLE
        world, network = self.host.world, self._interface.network
        packet = Packet(world.now, "udp", self.local, dst, data, self.local, origin=self)
        world.packets.append(packet)
        if world.dropped(packet):
            packet.fate = Fate.DROPPED
        elif dst in network.members:
            network.multicast(packet, self.host)
        else:
            network.route(packet, self.host, self.local, dst)
        return None

    def arrived(self, packet: Packet) -> None:
        """A datagram came to the group."""
        packet.arrived = self.host.world.now
        if self.is_open and self.local[0] in self.host.networks:
            packet.fate = Fate.DELIVERED
            self.on_datagram(packet.src, packet.data)
        else:
            packet.fate = Fate.CLOSED_PORT

    def close(self) -> None:
        if self in self._members:
            self._members.remove(self)


class Listener:
    """Accepts streams at one address; over TLS when it has a certificate."""

    def __init__(self, local: Address, accept: Callable[[Stream], None], certificate: str | None = None) -> None:
        self.local = local
        self.accept = accept
        #: The host name in the certificate, ``"*"`` for any; None for a listener without TLS.
        self.certificate = certificate

    def presents(self, server_name: str) -> bool:
        """Whether its certificate is good for this name."""
        return self.certificate is not None and self.certificate in ("*", server_name)

    def open(
        self,
        origin: Host,
        local: Address,
        peer: Address,
        way: Way,
        server_name: str | None,
        done: Callable[[Stream | None, Reason], None],
    ) -> None:
        """The handshake is through: both ends are there from now on."""
        if way.target.listener(peer) is not self:
            done(None, Reason.REFUSED)
            return
        here, there = Stream(way, origin, local, peer), Stream(way, way.target, peer, way.seen)
        here.other, there.other = there, here
        done(here, Reason.OTHER)
        if server_name is None and self.certificate is not None:
            there.close()
        else:
            self.accept(there)


class Stream:
    """One end of a stream of bytes, which come in order and are not lost while its path works.

    Loss delays them. What is sent while nothing gets through at all is lost, and all that follows with it: the stream
    is dead from then on, which its owner finds out by the silence.
    """

    def __init__(self, way: Way, host: Host, local: Address, peer: Address) -> None:
        self._way = way
        self._world = way.target.world
        self._pipe = Pipe(self._world)
        self._dead = False
        self.host = host
        self.local = local
        self.peer = peer
        self.other: Stream | None = None
        self.closed = False
        self.on_data: Callable[[bytes], None] = lambda data: None
        #: The other end has sent all that it will send.
        self.on_eof: Callable[[], None] = lambda: None
        #: The other end has closed; none of the others is called again.
        self.on_close: Callable[[], None] = lambda: None

    def send(self, data: bytes) -> None:
        """Send bytes; each call arrives as one piece, when its last byte does."""
        if self.closed:
            return
        world, path = self._world, self._way.conditions
        packet = Packet(world.now, "tcp", self.local, self.peer, data, self.local)
        world.packets.append(packet)
        self._dead = self._dead or path.loss >= 1 or not (self._attached and self.other and self.other._attached)
        if self._dead:
            packet.fate = Fate.LOST
            return
        world.at(self._pipe.in_order(packet.size, path), self._arrive, packet)

    @property
    def _attached(self) -> bool:
        """Whether the host still has the address."""
        return self.local[0] in self.host.networks or self.local[0] in LOOPBACKS

    def finish(self) -> None:
        """Send nothing more, but go on hearing."""
        if not self.closed and not self._dead:
            self._world.at(self._pipe.in_order(0, self._way.conditions), self._finished)

    def close(self) -> None:
        """Close this end; the other hears of it after the bytes that are under way."""
        if self.closed:
            return
        self.closed = True
        if not self._dead and self._attached:
            self._world.at(self._pipe.in_order(0, self._way.conditions), self._end)

    def _arrive(self, packet: Packet) -> None:
        packet.arrived = self._world.now
        if self.other is None or self.other.closed:
            packet.fate = Fate.CLOSED_PORT
        else:
            packet.fate = Fate.DELIVERED
            self.other.on_data(packet.data)

    def _finished(self) -> None:
        if self.other is not None and not self.other.closed:
            self.other.on_eof()

    def _end(self) -> None:
        other = self.other
        if other is not None and not other.closed:
            other.closed = True
            other.on_close()
