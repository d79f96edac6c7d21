"""One TURN allocation as an asyncio datagram transport."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING, Any, TypeVar

from . import stun
from .core.address import canonical_host
from .core.allocation import (
    Allocated,
    Allocation,
    AllocationConfig,
    AllocationFailed,
    AllocationLost,
    FamilyMissing,
    PeerRefused,
    PeerUnreachable,
    Permitted,
    WantCredentials,
)
from .core.credentials import make_integrity_key
from .core.demux import is_channel_data
from .core.grants import UDP_TRANSPORT
from .core.machine import Deliver, Done, Notify, OpenRelay, Reason, Tunables
from .net.driver import Driver
from .net.host import AsyncioHost
from .protocol import ServerProtocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .core.machine import Address, Output, Report
    from .net.relay import RelayTransport

__all__ = [
    "DEFAULT_ALLOCATION_LIFETIME",
    "DEFAULT_CHANNEL_REFRESH_TIME",
    "UDP_SOCKET_BUFFER_SIZE",
    "UDP_TRANSPORT",
    "TurnTransport",
    "create_turn_endpoint",
    "is_channel_data",
    "make_integrity_key",
]

DEFAULT_CHANNEL_REFRESH_TIME = 500
DEFAULT_ALLOCATION_LIFETIME = 600
UDP_SOCKET_BUFFER_SIZE = 262144

#: Spellings of addresses that a transport remembers.
_MAX_SPELLINGS = 4096

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.DatagramProtocol)


async def create_turn_endpoint(
    protocol_factory: Callable[[], _ProtocolT],
    server_addr: tuple[str, int],
    username: str | None,
    password: str | None,
    lifetime: int = DEFAULT_ALLOCATION_LIFETIME,
    channel_refresh_time: int = DEFAULT_CHANNEL_REFRESH_TIME,
    ssl: bool | ssl.SSLContext | None = None,
    transport: str = "udp",
) -> tuple[TurnTransport, _ProtocolT]:
    """Create a datagram endpoint whose address is one of a TURN server.

    ``server_addr`` is the name or address of the server and its port. ``transport`` is how to talk to it: ``"udp"`` or
    ``"tcp"``, the latter over TLS if ``ssl`` is true or an :class:`ssl.SSLContext`.

    The protocol's ``connection_made`` is called before this returns. Raises :class:`aioice.stun.TransactionFailed` with
    the server's response if that refuses, :class:`aioice.stun.TransactionTimeout` if it does not answer, and
    :class:`ConnectionError` if it cannot be reached.
    """
    loop = asyncio.get_running_loop()
    tls = transport == "tcp" and bool(ssl)
    context = None if isinstance(ssl, bool) else ssl
    host = AsyncioHost(loop, ssl_context=context)
    name, port = server_addr[:2]
    addresses = await host.resolve(name)
    if not addresses:
        raise ConnectionError(f"the name of the TURN server is not known: {name!a}")
    protocol = protocol_factory()
    unreachable: _Unreachable | None = None
    for address in addresses:
        config = AllocationConfig(
            server=(address, port),
            transport="tcp" if transport == "tcp" else "udp",
            server_name=name if tls else None,
            username=username,
            password=password,
            lifetime=lifetime,
            channel_refresh_time=channel_refresh_time,
        )
        endpoint = TurnTransport(config, host, protocol)
        try:
            await endpoint._start()
        except _Unreachable as exc:
            unreachable = exc
        else:
            return endpoint, protocol
    assert unreachable is not None
    raise ConnectionError(f"cannot reach the TURN server: {unreachable}")


class TurnTransport(asyncio.DatagramTransport):
    """Behaves like a datagram transport whose socket is the TURN server's; made by :func:`create_turn_endpoint`."""

    def __init__(self, config: AllocationConfig, host: AsyncioHost, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BaseProtocol = protocol
        self._receiver = protocol
        self._machine = _Machine(config)
        self._allocation = self._machine.allocation
        self._driver = Driver(self._machine, host, self)
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._watch: asyncio.Task[None] | None = None
        self._made = False
        self._closing = False
        self._reason: Exception | None = None
        self._relayed: Address | None = None
        self._mapped: Address | None = None
        self._spellings: dict[Any, Address] = {}
        self._links: list[_ServerLink] = []
        self._relay: RelayTransport | None = None

    # ------------------------------------------------------------------------------------------------- the transport

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send to the peer ``addr`` from the relayed address, at once.

        Permission and channel are arranged as necessary; what cannot be sent is told to the protocol's
        ``error_received``. Nothing happens once the transport is closed or the allocation lost.
        """
        if self._closing:
            return
        peer = self._spellings.get(addr)
        try:
            if peer is None:
                peer = self._canonical(addr)
            assert self._relay is not None  # nobody has this transport before
            self._relay.sendto(data, peer)
        except (OSError, ValueError) as exc:
            self._receiver.error_received(exc)

    def close(self) -> None:
        """Delete the allocation; then, after a second at most, the protocol's ``connection_lost(None)`` is called."""
        if not self._closing:
            self._closing = True
            self._watch = self._loop.create_task(self._watch_end())
            self._driver.do(self._allocation.close)

    def abort(self) -> None:
        """Close without asking the server to delete the allocation."""
        if not self._done.done():
            self._closing = True
            self._driver.close()
            self._end()

    def is_closing(self) -> bool:
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``"sockname"`` is the relayed address, ``"related_address"`` the address that the server sees us at."""
        if name == "sockname":
            return self._relayed
        if name == "related_address":
            return self._mapped
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.DatagramProtocol)
        self._protocol = self._receiver = protocol

    def _canonical(self, addr: Any) -> Address:
        if addr is None:
            raise ValueError("a relayed transport has no peer of its own: sendto() needs an address")
        peer = (canonical_host(addr[0]), addr[1])
        if not 0 < peer[1] <= 0xFFFF:
            raise ValueError("the port of a peer must be from 1 to 65535")
        if len(self._spellings) < _MAX_SPELLINGS:
            self._spellings[addr] = peer
        return peer

    # ------------------------------------------------------------------------------------------------- the allocation

    async def _start(self) -> None:
        """Allocate; what was begun is taken back if that fails or is cancelled."""
        try:
            self._driver.do(self._allocation.start)
            await self._ready
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _tunables() -> Tunables:
        return Tunables(retry_max=stun.RETRY_MAX, retry_rto=stun.RETRY_RTO)

    def _make_protocol(self, link: int) -> asyncio.DatagramProtocol:
        if link in self._machine.relayed:
            return _RelayedEnd(self)
        protocol = _ServerLink(self, link)
        self._links.append(protocol)
        return protocol

    def _stun_received(self, link: int, peer: Address, data: bytes) -> None:
        self._driver.receive(link, peer, data)

    def _peer_unreachable(self, link: int, peer: Address, exc: OSError) -> None:
        self._driver.unreachable(link, peer, exc)

    def _link_lost(self, link: int, exc: Exception | None) -> None:
        self._driver.lost(link, exc)

    def _handle_output(self, output: Output) -> None:
        if isinstance(output, Deliver):
            self._receiver.datagram_received(output.data, output.peer)
        elif isinstance(output, Notify):
            self._on_event(output.event)
        else:
            assert isinstance(output, Done)
            self._end()
            self._driver.close()

    def _on_event(self, event: object) -> None:
        if isinstance(event, Allocated):
            self._relayed = event.relayed
            self._mapped = event.mapped
            self._connection_made()
        elif isinstance(event, AllocationFailed):
            self._settle(_error(event))
        elif isinstance(event, AllocationLost):
            self._closing = True
            self._reason = ConnectionError(f"the TURN allocation is lost: {event.detail}")
        elif isinstance(event, PeerUnreachable):
            self._receiver.error_received(ConnectionError(f"{event.reason}: {event.peer[0]}"))
        else:
            assert isinstance(event, PeerRefused)
            if event.response is not None:
                self._receiver.error_received(stun.TransactionFailed(event.response))
            else:
                text = f"the TURN server does not relay to {event.peer[0]}: error {event.code}"
                self._receiver.error_received(ConnectionError(text))

    def _connection_made(self) -> None:
        if self._ready.done():
            # Who waited for it has just been cancelled, and will close.
            return
        self._made = True
        fault: Exception | None = None
        try:
            self._receiver.connection_made(self)
        except Exception as exc:
            fault = exc
        self._settle(fault)

    def _settle(self, fault: Exception | None) -> None:
        if self._ready.done():
            return
        if fault is not None:
            self._ready.set_exception(fault)
        else:
            self._ready.set_result(None)

    def _end(self) -> None:
        self._closing = True
        if not self._done.done():
            # First of all: whoever waits for the end must not miss it, whatever a transport does when it is aborted.
            self._done.set_result(None)
            if self._made:
                self._loop.call_soon(self._receiver.connection_lost, self._reason)
        self._abort_links()

    async def _watch_end(self) -> None:
        """Wait for the end of the deletion; a loop that ends sooner cancels this, and no socket stays behind."""
        try:
            await self._done
        finally:
            self._driver.close()
            self._abort_links()

    def _abort_links(self) -> None:
        """There is nothing more to say: close sockets now, without a farewell that the loop may not live to see."""
        for link in self._links:
            link.abort()


class _Unreachable(Exception):
    """There may be another address to try."""


def _error(event: AllocationFailed) -> Exception:
    if event.code and event.response is not None:
        return stun.TransactionFailed(event.response)
    if event.reason is Reason.TIMED_OUT:
        return stun.TransactionTimeout()
    if event.reason is Reason.OTHER:
        return ConnectionError(event.detail)
    return _Unreachable(f"{event.reason}: {event.detail}" if event.detail else str(event.reason))


class _Machine:
    """An allocation as a machine of its own: what is meant for a parent becomes events."""

    def __init__(self, config: AllocationConfig) -> None:
        self.allocation = Allocation(config, os.urandom, itertools.count().__next__)
        #: The link of the relayed address.
        self.relayed: tuple[int, ...] = ()

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Send from the relayed address, for the driver."""
        self.allocation.send(now, peer, data)

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        self.allocation.handle_datagram(now, link, peer, data)

    def handle_report(self, now: float, report: Report) -> None:
        self.allocation.handle_report(now, report)

    def handle_timeout(self, now: float) -> None:
        self.allocation.handle_timeout(now)

    def poll_output(self) -> Output | None:
        while isinstance(output := self.allocation.poll_output(), Permitted | FamilyMissing | WantCredentials):
            pass  # no families are asked for, no credentials offered, and no checks repeated here
        if isinstance(output, Allocated | AllocationFailed | AllocationLost | PeerRefused | PeerUnreachable):
            return Notify(output)
        if isinstance(output, OpenRelay):
            self.relayed += (output.link,)
        return output

    def poll_timeout(self) -> float | None:
        return self.allocation.poll_timeout()


class _ServerLink(ServerProtocol):
    """The link to the server."""

    def __init__(self, endpoint: TurnTransport, link: int) -> None:
        super().__init__(endpoint, link)
        self._transport: Any = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        super().connection_lost(exc)


class _RelayedEnd(asyncio.DatagramProtocol):
    """On the relayed address: what has come over a channel, past the machine."""

    def __init__(self, endpoint: TurnTransport) -> None:
        self._endpoint = endpoint

    def connection_made(self, transport: Any) -> None:
        self._endpoint._relay = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._endpoint._receiver.datagram_received(data, addr)
