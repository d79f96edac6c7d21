"""Multicast DNS on the running event loop: looks ``.local`` names up and answers for published ones.

Every interface has its own socket in each address family, so that a question leaves through all of them. Sockets are
opened by the first look-up or publication, and again when the interfaces have changed; where that fails, on a host
without multicast, names are just not found.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from .core.candidate import is_mdns_hostname
from .core.machine import Transmit
from .core.multicast import GROUP_IPV4, GROUP_IPV6, PORT, Answered, Multicast
from .net.udp import own_network

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .net.udp import OwnNetwork

__all__ = [
    "MDNS_ADDRESS",
    "MDNS_PORT",
    "MDnsProtocol",
    "create_mdns_hostname",
    "create_mdns_protocol",
    "get_mdns_protocol",
    "is_mdns_hostname",
    "release_mdns_protocol",
    "resolve",
]

logger = logging.getLogger(__name__)

MDNS_ADDRESS = GROUP_IPV4[0]
MDNS_PORT = PORT

#: How long a remote candidate's name is looked up: long enough for the questions after 1 and 2 seconds to be answered.
LOOKUP_TIMEOUT = 3.0

#: Interfaces are listed again after this time. One that comes up in the middle of a look-up is rare.
RESCAN_INTERVAL = 5.0

#: Hosts with more interfaces are container hosts, whose peers are not on the hundredth bridge.
MAX_LINKS = 64

# Linux gives a socket the datagrams of all groups that anybody on the host has joined, unless told not to; Python has
# no names for these options.
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29

# A family, the interface's address (IPv4) or "" and its index (IPv6) or 0.
_Place = tuple[socket.AddressFamily, str, int]

# The interface of the system's choice, where the list of them has none that can be joined.
_DEFAULT_PLACE: _Place = (socket.AF_INET, "0.0.0.0", 0)


def create_mdns_hostname() -> str:
    """A new name that says nothing about the host (draft-ietf-mmusic-mdns-ice-candidates §3.1.1)."""
    import uuid

    return f"{uuid.uuid4()}.local"


async def create_mdns_protocol() -> MDnsProtocol:
    """A resolver and responder on the running loop; close it in the end."""
    return MDnsProtocol()


class MDnsProtocol:
    """Resolver and responder; one serves any number of connections."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._network = own_network(self._loop)
        self._machine = Multicast()
        self._links: dict[_Place, _Link] = {}
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[tuple[str, ...]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._opening = asyncio.Lock()
        self._scanned: float | None = None
        self._closed = False

    async def resolve(self, hostname: str, timeout: float | None = 1.0) -> str | None:
        """The address that ``hostname`` stands for; None when nobody tells it within ``timeout`` seconds."""
        addresses = await self.lookup(hostname, timeout)
        return addresses[0] if addresses else None

    async def lookup(self, hostname: str, timeout: float | None = 1.0) -> tuple[str, ...]:
        """All addresses that the first answer gives."""
        await self._open_links()
        self._numbers += 1
        query = self._numbers
        future = self._waiting[query] = self._loop.create_future()
        try:
            self._machine.resolve(self._loop.time(), query, hostname, timeout)
            self._pump()
            addresses: tuple[str, ...] = await future
            return addresses
        finally:
            del self._waiting[query]
            self._machine.cancel(query)
            self._pump()

    async def publish(self, hostname: str, addr: str) -> None:
        """Answer for ``hostname`` from now on. On a host without multicast nobody asks, which is no error."""
        self._machine.publish(hostname, addr)
        await self._open_links()

    def unpublish(self, hostname: str) -> None:
        """Do not answer for ``hostname`` any more."""
        self._machine.unpublish(hostname)
        self._pump()

    async def close(self) -> None:
        """Close all sockets; what is being looked up is not found."""
        self.end()
        # An opening that is on its way sees the mark, and closes what it has opened.
        async with self._opening:
            links = list(self._links.values())
        for link in links:
            await link.gone.wait()

    def end(self) -> None:
        """As :meth:`close`, but the sockets are gone only a few turns of the loop later."""
        self._closed = True
        self._machine.close()
        self._pump()
        for link in self._links.values():
            link.close()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...], link: int = 0) -> None:
        self._machine.handle_datagram(self._loop.time(), link, (addr[0], addr[1]), data)
        self._pump()

    # ------------------------------------------------------------------------------------------ running the machine

    def _pump(self) -> None:
        links = {link.number: link for link in self._links.values()}
        while (output := self._machine.poll_output()) is not None:
            if isinstance(output, Transmit):
                if output.link in links:
                    links[output.link].send(output.data, output.peer)
            elif isinstance(output, Answered):
                future = self._waiting[output.query]
                if not future.done():
                    future.set_result(output.addresses)
        self._arm(self._machine.poll_timeout())

    def _arm(self, when: float | None) -> None:
        if self._timer is not None:
            if self._timer.when() == when:
                return
            self._timer.cancel()
        self._timer = None if when is None else self._loop.call_at(when, self._on_timer, when)

    def _on_timer(self, when: float) -> None:
        self._timer = None
        # A loop may call somewhat early, by the resolution of its clock.
        self._machine.handle_timeout(max(when, self._loop.time()))
        self._pump()

    # ------------------------------------------------------------------------------------------------------- links

    async def _open_links(self) -> None:
        async with self._opening:
            now = self._loop.time()
            if self._closed or (self._links and self._scanned is not None and now < self._scanned + RESCAN_INTERVAL):
                return
            self._scanned = now
            with self._network or contextlib.nullcontext():
                places = _places()
            for place, link in list(self._links.items()):
                if place not in places and place != _DEFAULT_PLACE:
                    link.close()
                    self.link_lost(link)
            error = await self._open_places(places)
            if not self._links:
                error = await self._open_places([_DEFAULT_PLACE]) or error
            if error is not None and not self._links:
                logger.info("Could not join the mDNS group: %s", error)

    async def _open_places(self, places: Iterable[_Place]) -> OSError | None:
        """Opens what is not open yet; returns the last error."""
        error: OSError | None = None
        for place in places:
            if place in self._links or len(self._links) >= MAX_LINKS or self._closed:
                continue
            try:
                sock = self._open_socket(place)
            except OSError as exc:
                error = exc
                continue
            await self._open_link(place, sock)
        return error

    def _open_socket(self, place: _Place) -> Any:
        if self._network is None:
            return _open_socket(place)
        group, port = GROUP_IPV4 if place[0] == socket.AF_INET else GROUP_IPV6
        return self._network.open_multicast(group, port, place[1] or place[2])

    async def _open_link(self, place: _Place, sock: Any) -> None:
        self._numbers += 1
        link = _Link(self, self._numbers, place)
        try:
            await self._loop.create_datagram_endpoint(lambda: link, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._links[place] = link
        if self._closed:
            link.close()
        else:
            self._machine.add_link(link.number, GROUP_IPV4 if place[0] == socket.AF_INET else GROUP_IPV6)

    def link_lost(self, link: _Link) -> None:
        if self._links.get(link.place) is link:
            del self._links[link.place]
        self._machine.remove_link(link.number)


#: Programs replace it; what they put there tells one address only.
_RESOLVE = MDnsProtocol.resolve


class _Link(asyncio.DatagramProtocol):
    """The group on one interface, in one family."""

    def __init__(self, owner: MDnsProtocol, number: int, place: _Place) -> None:
        self.number = number
        self.place = place
        self.gone = asyncio.Event()
        self._owner = owner
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._owner.datagram_received(data, addr, self.number)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.link_lost(self)
        self.gone.set()

    def send(self, data: bytes, peer: tuple[str, int]) -> None:
        assert self._transport is not None
        # An address that is local to the link needs the link's index.
        addr = peer if self.place[0] == socket.AF_INET else (*peer, 0, self.place[2])
        # An interface that is down costs its own copy of the question only.
        with contextlib.suppress(OSError):
            self._transport.sendto(data, addr)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


def _places() -> list[_Place]:
    """Every interface, in each family that it has an address of."""
    from .net.interfaces import adapters  # not needed before the first name

    places: list[_Place] = []
    for adapter in adapters():
        ipv4 = [ip.ip for ip in adapter.ips if isinstance(ip.ip, str)]
        index = getattr(adapter, "index", None)
        if ipv4:
            places.append((socket.AF_INET, ipv4[0], 0))
        if len(ipv4) < len(adapter.ips) and index is not None:
            places.append((socket.AF_INET6, "", index))
    return places


def _open_socket(place: _Place) -> socket.socket:
    """A socket that sends to the group on one interface and receives what comes to the group there."""
    sock = socket.socket(place[0], socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        # Others on this host have the port too: a browser, the system's own responder.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if place[0] == socket.AF_INET:
            _join_ipv4(sock, place[1])
        else:
            _join_ipv6(sock, place[2])
    except BaseException:
        sock.close()
        raise
    return sock


# Bound to the group, a socket takes no unicast datagrams away from the system's responder, and what comes from beyond
# the link does not get in (RFC 6762 §11). Elsewhere than on Linux one cannot send from such a socket, or not bind it.
_BIND_TO_GROUP = sys.platform == "linux"


def _join_ipv4(sock: socket.socket, address: str) -> None:
    interface = socket.inet_aton(address)
    sock.bind((MDNS_ADDRESS if _BIND_TO_GROUP else "", PORT))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    # RFC 6762 §11: old queriers want to see it.
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(MDNS_ADDRESS) + interface)
    if _BIND_TO_GROUP:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)


def _join_ipv6(sock: socket.socket, index: int) -> None:
    group = socket.inet_pton(socket.AF_INET6, GROUP_IPV6[0])
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((GROUP_IPV6[0], PORT, 0, index) if _BIND_TO_GROUP else ("", PORT))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index))
    if _BIND_TO_GROUP:
        # Before Linux 4.20 it is not there; bound to the interface, the socket hears the right one anyway.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)


# ------------------------------------------------------------------------------------------------- one for each loop


class _Shared:
    """What the users of one loop share; of one computer, where a loop has several."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.protocol: MDnsProtocol | None = None
        self.subscribers: dict[int, object] = {}

    def let_go(self, subscriber: object) -> MDnsProtocol | None:
        """The protocol, to be closed by the caller, if this was the last who used it."""
        self.subscribers.pop(id(subscriber), None)
        if self.protocol is None or self.subscribers:
            return None
        protocol, self.protocol = self.protocol, None
        return protocol


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop | OwnNetwork, _Shared] = WeakKeyDictionary()
_shared_lock = threading.Lock()


def _shared_on_this_loop() -> _Shared:
    loop = asyncio.get_running_loop()
    place = own_network(loop) or loop
    with _shared_lock:
        # A loop that was closed before its users let go is held by its own entry.
        for other in [other for other in _shared if other.is_closed()]:
            del _shared[other]
        return _shared.setdefault(place, _Shared())


async def get_mdns_protocol(subscriber: object) -> MDnsProtocol:
    """The running loop's protocol; it lives until every subscriber has called :func:`release_mdns_protocol`."""
    shared = _shared_on_this_loop()
    async with shared.lock:
        if shared.protocol is None:
            shared.protocol = await create_mdns_protocol()
        shared.subscribers[id(subscriber)] = subscriber
        return shared.protocol


async def release_mdns_protocol(subscriber: object) -> None:
    shared = _shared_on_this_loop()
    async with shared.lock:
        protocol = shared.let_go(subscriber)
        if protocol is not None:
            await protocol.close()


class Publication:
    """The names that stand for the addresses of one user, on the running loop: each address has one of its own, and is
    answered for until the end.
    """

    def __init__(self) -> None:
        #: By address.
        self.names: dict[str, str] = {}
        self._shared = _shared_on_this_loop()
        self._loop = asyncio.get_running_loop()
        self._protocol: MDnsProtocol | None = None
        self._adding = asyncio.Lock()
        self._ended = False
        #: What nobody else uses any more.
        self._left: MDnsProtocol | None = None

    async def add(self, addresses: Iterable[str]) -> None:
        """Give the addresses names, and answer for them from now on. Without multicast there is nobody to answer."""
        async with self._adding:
            for address in addresses:
                self.names.setdefault(address, create_mdns_hostname())
            if self._protocol is None:
                self._protocol = await get_mdns_protocol(self)
                if self._ended:
                    self.end()
            for address, name in self.names.items():
                if self._protocol is not None:
                    await self._protocol.publish(name, address)

    def end(self) -> None:
        """Answer for none of them any more."""
        self._ended = True
        protocol, self._protocol = self._protocol, None
        if protocol is not None and not self._loop.is_closed():
            for name in self.names.values():
                protocol.unpublish(name)
            self._left = self._shared.let_go(self)
            if self._left is not None:
                self._left.end()

    async def close(self) -> None:
        """As :meth:`end`; what only this one has used is closed when it returns."""
        self.end()
        if not self._loop.is_closed():
            async with self._adding:  # one that is on its way sees the mark
                left, self._left = self._left, None
            if left is not None:
                await left.close()


async def resolve(name: str, timeout: float | None = LOOKUP_TIMEOUT) -> tuple[str, ...]:
    """The addresses of a remote candidate's name, by the running loop's protocol; none when nobody tells them."""
    subscriber = object()
    try:
        protocol = await get_mdns_protocol(subscriber)
        if getattr(protocol.resolve, "__func__", None) is _RESOLVE:
            return await protocol.lookup(name, timeout)
        address = await protocol.resolve(name, timeout=timeout)
    finally:
        await release_mdns_protocol(subscriber)
    return () if address is None else (address,)
