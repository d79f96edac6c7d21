"""The agent of a connection on asyncio: its driver and protocols, and what follows from what it tells.

What is done with its candidates stands in :mod:`.gather`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from .core.events import ConnectionClosed, ConnectionEvent, StateChanged
from .core.machine import Accept, Deliver, Done, Notify, Revoke, Route, Unroute
from .core.record import NOTHING
from .data import DataPath
from .listeners import Listeners
from .net.driver import Driver
from .net.host import AsyncioHost
from .protocol import ServerProtocol, StunProtocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from .core.agent import Agent
    from .core.machine import Address, Output, Tunables
    from .servers import IceServer

#: By the name that programs know.
logger = logging.getLogger("aioice.ice")


class RunningAgent(DataPath):
    """The part of a connection that runs its agent; what has no value here is set by the constructor of the whole."""

    __slots__ = (
        "_agent",
        "_ssl_context",
        "_ice_servers",
        "_ports",
        "_protocols",
        "_dropped",
        "_state_waiters",
        "_listeners",
    )

    _agent: Agent
    _ssl_context: ssl.SSLContext | None
    _ice_servers: tuple[IceServer, ...]
    _ports: range | None

    def __init__(self, receive_buffer: int | None, send_buffer: int | None) -> None:
        super().__init__(receive_buffer, send_buffer)
        self._protocols: list[StunProtocol] = []
        #: By the protocols that are gone.
        self._dropped: Mapping[str, int] = NOTHING
        self._state_waiters: tuple[asyncio.Future[None], ...] = ()
        #: Made for the first who listens.
        self._listeners: Listeners | None = None

    @staticmethod
    def _tunables() -> Tunables:
        """What programs may have changed."""
        raise NotImplementedError

    def _make_stun_protocol(self) -> StunProtocol:
        """Of the class that programs may have replaced."""
        raise NotImplementedError

    def _end_gathering(self) -> None:
        """There is nothing more to wait for."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------------------------------- events

    async def get_event(self) -> ConnectionEvent | None:
        """Wait for :class:`ConnectionClosed`; None once that was told. See :meth:`events` for all that happens."""
        return await self._all_listeners().get_event()

    def events(self) -> AsyncIterator[ConnectionEvent]:
        """All events from now on, in order, the last being :class:`ConnectionClosed`.

        :class:`LocalCandidate` as candidates are found, :class:`StateChanged`, :class:`SelectedPair`,
        :class:`ConsentExpired`. A reader that is more than 1024 behind loses the oldest.
        """
        return self._all_listeners().reader()

    def _all_listeners(self) -> Listeners:
        if self._listeners is None:
            self._listeners = Listeners()
        return self._listeners

    # ------------------------------------------------------------------------------------------------------ on the loop

    def _running_driver(self) -> Driver:
        if self._driver is None:
            loop = asyncio.get_running_loop()
            host = AsyncioHost(
                loop,
                ssl_context=self._ssl_context,
                resolver=_resolve_mdns,
                ssl_contexts=self._ssl_contexts(),
                credentials=self._fetch_credentials if self._ice_servers else None,
                ports=self._ports,
            )
            self._driver = Driver(self._agent, host, self)
        return self._driver

    def _do(self, verb: Any, *args: Any) -> None:
        """A verb, also before there is a loop to run the agent on."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            verb(0.0, *args)
        else:
            self._running_driver().do(verb, *args)

    def _ssl_contexts(self) -> dict[Address, ssl.SSLContext] | None:
        if not any(server.ssl_context for server in self._ice_servers):
            return None
        from .servers import servers_of

        return {
            (server.host.removesuffix("."), server.port): context
            for ice_server in self._ice_servers
            if (context := ice_server.ssl_context) is not None
            for server in servers_of((ice_server,))
        }

    async def _fetch_credentials(self, number: int) -> tuple[str, str, float | None]:
        from .servers import fetch_credentials

        return await fetch_credentials(self._ice_servers[number], self._running_driver().now)

    def _make_protocol(self, link: int) -> asyncio.DatagramProtocol:
        if self._agent.is_server_link(link):
            return ServerProtocol(self, link)
        protocol = self._make_stun_protocol()
        protocol.link = link
        return protocol

    # ---------------------------------------------------------------------------------------------------- the protocols

    def _adopt_protocols(self) -> None:
        """Endpoints that the application opened itself."""
        driver = self._running_driver()
        for protocol in self._protocols[:]:
            if protocol.link is None:
                driver.do(self._adopt, protocol)

    def _adopt(self, now: float, protocol: StunProtocol) -> None:
        """The driver has the transport before the first check is to leave through it."""
        protocol.link = self._agent.adopt(now, protocol.local_candidate)
        self._running_driver().adopt(protocol.link, protocol.transport)

    def _close_unadopted(self) -> None:
        for protocol in self._protocols:
            if protocol.link is None:
                protocol.transport.close()
            self._keep_drops(protocol)
        self._protocols.clear()

    def _keep_drops(self, protocol: StunProtocol) -> None:
        """The protocol goes."""
        for why, number in protocol.drops().items():
            self._dropped = {**self._dropped, why: self._dropped.get(why, 0) + number}

    def _stun_received(self, link: int, peer: Address, data: bytes) -> None:
        if self._driver is not None:
            self._driver.receive(link, peer, data)

    def _stranger_received(self, link: int, peer: Address, data: bytes) -> None:
        """Something that is not STUN, from where no data is taken: a STUN server may not be one."""
        if self._driver is not None and self._agent.awaits_server(link, peer):
            self._driver.receive(link, peer, data)

    def _peer_unreachable(self, link: int, peer: Address, exc: OSError) -> None:
        if self._driver is not None:
            self._driver.unreachable(link, peer, exc)

    def _link_lost(self, link: int, exc: Exception | None) -> None:
        if self._driver is not None:
            self._driver.lost(link, exc)

    # --------------------------------------------------------------------------------------------- what the agent tells

    def _handle_output(self, output: Output) -> None:
        if isinstance(output, Deliver | Accept | Revoke | Route):
            protocol = self._protocol_of(output.link)
            if protocol is None:
                return
            if isinstance(output, Deliver):
                protocol.datagram_received(output.data, output.peer)
            elif isinstance(output, Accept):
                protocol.accepted[output.peer] = output.component
            elif isinstance(output, Revoke):
                protocol.accepted.pop(output.peer, None)
            else:
                self._use(output.component, protocol, output.remote, output.peer)
        elif isinstance(output, Unroute):
            self._stop_using(output.component)
        elif isinstance(output, Notify):
            self._told(output.event)
        elif isinstance(output, Done) and self._driver is not None:
            self._driver.close()

    def _protocol_of(self, link: int) -> StunProtocol | None:
        protocol = self._driver.protocol(link) if self._driver is not None else None
        return protocol if isinstance(protocol, StunProtocol) else None

    def _told(self, event: object) -> None:
        """Something has happened that others may want to know."""
        if isinstance(event, StateChanged):
            self._failure = event.reason
            logger.info("%s %s", self, event.state)
            if event.reason:
                logger.debug("%s %s: %s", self, event.state, event.reason)
            for waiter in self._state_waiters:
                if not waiter.done():
                    waiter.set_result(None)
        elif isinstance(event, ConnectionClosed):
            self._ended(event.reason, discard=False)
        if self._listeners is not None and isinstance(event, ConnectionEvent):
            self._listeners.tell(event)

    def _ended(self, reason: str, *, discard: bool) -> None:
        """The agent has closed: by :meth:`close`, or because the connection was lost."""
        self._queue.end(f"Connection lost while receiving data: {reason}", discard=discard)
        if self._closed:
            return
        self._closed = True
        self._failure = reason
        self._nominated.clear()
        self._close_unadopted()
        self._end_gathering()
        self._all_listeners().tell(ConnectionClosed(reason))


async def _resolve_mdns(name: str) -> tuple[str, ...]:
    from . import mdns

    return await mdns.resolve(name)
