"""Connection: the asyncio face of one ICE agent."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from . import stun
from .core.address import canonical_host
from .core.agent import Agent
from .core.candidate import (
    Candidate,
    candidate_foundation,
    candidate_priority,
    is_mdns_hostname,
    pair_priority,
)
from .core.events import (
    ConnectionClosed,
    ConnectionEvent,
    ConnectionState,
    ConsentExpired,
    LocalCandidate,
    SelectedPair,
    StateChanged,
)
from .core.gathering import BaseLost, Found, Gathered, Withdrawn
from .core.machine import Accept, Deliver, Done, Notify, Revoke, Route, Tunables, Unroute
from .core.record import NOTHING
from .core.selection import DIRECT_PATIENCE, RELAY_PATIENCE
from .core.servers import StunServer, TurnServer
from .data import CandidatePair, DataPath
from .listeners import Listeners
from .net.driver import Driver
from .net.host import AsyncioHost
from .protocol import ServerProtocol, StunProtocol
from .settings import TransportPolicy, agent_config, host_filter_of, ports_of, validate_password, validate_username
from .utils import random_string

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from .core.diagnosis import Finding
    from .core.inquiries import ServerReport
    from .core.machine import Address, Output
    from .mdns import Publication
    from .net.interfaces import Addresses, Interfaces
    from .policy import AddressRewrite, RemoteFilter
    from .servers import IceServer

__all__ = [
    "Candidate",
    "CandidatePair",
    "Connection",
    "ConnectionClosed",
    "ConnectionEvent",
    "ConnectionState",
    "ConsentExpired",
    "LocalCandidate",
    "SelectedPair",
    "StateChanged",
    "StunProtocol",
    "TransportPolicy",
    "candidate_foundation",
    "candidate_pair_priority",
    "candidate_priority",
    "get_host_addresses",
    "validate_password",
    "validate_username",
]

logger = logging.getLogger(__name__)

#: Seconds between two consent requests, on average (RFC 7675 §5.1); read whenever the timer is armed.
CONSENT_INTERVAL = 5
#: Consent expires after this many intervals without an answer.
CONSENT_FAILURES = 6

#: Seconds that :meth:`Connection.close` waits for a server to confirm that a relay is deleted; the rest goes on behind.
CLOSE_WAIT = 0.08

_LIVE = (ConnectionState.CONNECTED, ConnectionState.COMPLETED, ConnectionState.DISCONNECTED)
connection_id = itertools.count()


@lru_cache(4)
def _shared_tunables(*values: float) -> Tunables:
    return Tunables(values[0], int(values[1]), int(values[2]), values[3])


def _tunables() -> Tunables:
    """What programs may have changed in the modules; one object for all connections."""
    return _shared_tunables(CONSENT_INTERVAL, CONSENT_FAILURES, stun.RETRY_MAX, stun.RETRY_RTO)


def candidate_pair_priority(local: Candidate, remote: Candidate, ice_controlling: bool) -> int:
    """The priority of a pair (RFC 8445 §6.1.2.3)."""
    if ice_controlling:
        return pair_priority(local.priority, remote.priority)
    return pair_priority(remote.priority, local.priority)


def get_host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    """The addresses of this machine from which host candidates are gathered, the best first (RFC 8445 §5.1.1.1).

    Programs replace it to choose others. Left out are loopback, IPv4-mapped, IPv4-compatible, site-local, deprecated
    and tentative addresses, and beside a temporary IPv6 address (RFC 8981) the others of the same interface and prefix.
    Link-local IPv6 addresses, with their zone, are there only if there is nothing else. Where the system does not
    tell its addresses, these are those of the default routes.
    """
    from .net.interfaces import host_addresses

    return host_addresses(use_ipv4, use_ipv6)


_GET_HOST_ADDRESSES = get_host_addresses


def get_interface_names() -> dict[str, str]:
    """The names of the interfaces by their addresses."""
    from .net.interfaces import list_addresses

    return {str(local.address): local.interface for local in list_addresses()}


class Connection(DataPath):
    """An ICE connection for a single data stream.

    :param ice_controlling: Whether the local peer has the controlling role.
    :param components: The number of components, 1 to 256.
    :param stun_server: Host and port of the STUN server or `None`.
    :param turn_server: Host and port of the TURN server or `None`.
    :param turn_username: The username for the TURN server.
    :param turn_password: The password for the TURN server.
    :param turn_ssl: Whether to use TLS for the TURN server.
    :param turn_transport: The transport for the TURN server, `"udp"` or `"tcp"`.
    :param use_ipv4: Whether to use IPv4 candidates.
    :param use_ipv6: Whether to use IPv6 candidates.
    :param transport_policy: Which candidates are used.
    :param local_username: The local username fragment, random if `None` (RFC 8839 §5.4).
    :param local_password: The local password, random if `None`.
    :param ice_lite: Be an ICE-lite agent: host candidates only, checks are answered and not sent (RFC 8445 §2.5).
    :param ta: Seconds between two ordinary checks (RFC 8445 §14.2).
    :param remote_ta: The peer's ``ice-pacing`` in seconds, where it was signalled; the higher of the two counts.
    :param max_pairs: The most candidate pairs that are checked (RFC 8445 §6.1.2.5).
    :param nomination_patience: Seconds that a better pair is waited for once a direct one is valid; at least three
        round trips.
    :param relay_patience: The same while only a relayed pair is valid.
    :param patience: Seconds from :meth:`connect` before failure is declared (RFC 8863 §4); the time-out of a
        transaction if `None`.
    :param ssl_context: For TURN over TLS, in place of the system's trust.
    :param trace: Record the session (:mod:`aioice.trace`): the path of a new file, or a function that gets each event.
    :param trace_hide_addresses: Whether hosts have pseudonyms in the trace, too.
    :param interfaces: The interfaces whose addresses are used for host candidates, all if `None`: names, which may be
        patterns (``["eth0", "wl*"]``), or a function that takes a name and tells (``lambda name: name != "docker0"``).
    :param addresses: The addresses used for host candidates, all if `None`: IP addresses and networks
        (``["192.0.2.0/24", "2001:db8::1"]``), or a function that takes an address and tells.
    :param include_loopback: Gather candidates from loopback addresses, too.
    :param port_range: The lowest and the highest port that the sockets of host candidates may have, any if `None`.
        Sockets to TURN servers have other ports. See :meth:`gather_candidates` for what happens when it is used up.
    :param hide_host_addresses: Show an mDNS name in place of each address of this host, and answer for the names until
        the connection is closed (draft-ietf-mmusic-mdns-ice-candidates): peers on the same network find the address,
        others and the signalling channel don't learn it. Where SDP has a default address in ``c=`` and ``m=``, put
        ``0.0.0.0`` and port 9 there for such a candidate.
    :param ice_servers: STUN and TURN servers to ask beside ``stun_server`` and ``turn_server``: each an
        :class:`~aioice.servers.IceServer` or a mapping in the shape of W3C's RTCIceServer.
    :param candidate_types: The types of candidates to offer, of ``host``, ``srflx`` and ``relay``; all if `None`.
    :param address_rewrites: What the peer is told in place of, or beside, local addresses behind a 1:1 NAT.
    :param remote_filter: Says whether checks may be sent to an address of the peer; or the networks, such as
        ``10.0.0.0/8``, that are forbidden. Servers should forbid what only they can reach.
    :param receive_buffer: Bytes of received datagrams, each counted with 128 more, that wait for :meth:`recv`; what
        comes on top is dropped and counted. 4 MiB if `None`.
    :param send_buffer: Bytes that wait while a socket is blocked, before :meth:`send` waits too. 256 KiB if `None`.
    :raises ValueError: for credentials or numbers that cannot be used.
    :raises OSError: when the trace cannot be written.
    """

    # Thousands of connections live in one process; the dictionary is there for what programs hang on them.
    __slots__ = (
        "remote_is_lite",
        "remote_username",
        "remote_password",
        "stun_server",
        "turn_server",
        "turn_username",
        "turn_password",
        "turn_ssl",
        "turn_transport",
        "_id",
        "_local_username",
        "_local_password",
        "_use_ipv4",
        "_use_ipv6",
        "_transport_policy",
        "_components",
        "_ssl_context",
        "_config",
        "_ice_servers",
        "_agent",
        "_protocols",
        "_local_candidates",
        "_remote_candidates_end",
        "_gather_started",
        "_gather_task",
        "_gathering",
        "_gathered",
        "_dropped",
        "_state_waiters",
        "_listeners",
        "_host_filter",
        "_ports",
        "_hide_host_addresses",
        "_publication",
        "__dict__",
        "__weakref__",
    )

    def __init__(
        self,
        ice_controlling: bool,
        components: int = 1,
        stun_server: tuple[str, int] | None = None,
        turn_server: tuple[str, int] | None = None,
        turn_username: str | None = None,
        turn_password: str | None = None,
        turn_ssl: bool = False,
        turn_transport: str = "udp",
        use_ipv4: bool = True,
        use_ipv6: bool = True,
        transport_policy: TransportPolicy = TransportPolicy.ALL,
        local_username: str | None = None,
        local_password: str | None = None,
        *,
        ice_lite: bool = False,
        ta: float = 0.005,
        remote_ta: float = 0.0,
        max_pairs: int = 100,
        nomination_patience: float = DIRECT_PATIENCE,
        relay_patience: float = RELAY_PATIENCE,
        patience: float | None = None,
        ssl_context: ssl.SSLContext | None = None,
        trace: str | os.PathLike[str] | Callable[[dict[str, Any]], object] | None = None,
        trace_hide_addresses: bool = False,
        interfaces: Interfaces | None = None,
        addresses: Addresses | None = None,
        include_loopback: bool = False,
        port_range: tuple[int, int] | None = None,
        hide_host_addresses: bool = False,
        ice_servers: Iterable[IceServer | Mapping[str, Any]] = (),
        candidate_types: Iterable[str] | None = None,
        address_rewrites: Iterable[AddressRewrite] = (),
        remote_filter: RemoteFilter | None = None,
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
    ) -> None:
        super().__init__(receive_buffer, send_buffer)
        if turn_transport not in ("udp", "tcp"):
            raise ValueError(f'turn_transport must be "udp" or "tcp", not {turn_transport!r}')
        if local_username is not None:
            validate_username(local_username)
        if local_password is not None:
            validate_password(local_password)
        self._host_filter = host_filter_of(interfaces, addresses, include_loopback)
        self._ports = ports_of(port_range)
        self._hide_host_addresses = hide_host_addresses
        #: What answers for the names that stand for our addresses.
        self._publication: Publication | None = None
        #: Whether the peer is an ICE-lite agent.
        self.remote_is_lite = False
        #: The peer's username fragment, to be set before :meth:`connect`.
        self.remote_username: str | None = None
        #: The peer's password, to be set before :meth:`connect`.
        self.remote_password: str | None = None

        self.stun_server = stun_server
        self.turn_server = turn_server
        self.turn_username = turn_username
        self.turn_password = turn_password
        self.turn_ssl = turn_ssl
        self.turn_transport = turn_transport

        self._id = next(connection_id)
        self._local_username = local_username or random_string(4)
        self._local_password = local_password or random_string(22)
        self._use_ipv4 = use_ipv4
        self._use_ipv6 = use_ipv6
        self._transport_policy = transport_policy
        self._components = range(1, components + 1)
        self._ssl_context = ssl_context
        self._ice_servers: tuple[IceServer, ...] = ()
        if ice_servers:
            from .servers import ice_servers_of

            self._ice_servers = ice_servers_of(ice_servers)
        self._config = agent_config(
            controlling=ice_controlling,
            components=components,
            lite=ice_lite,
            ta=max(ta, remote_ta),
            max_pairs=max_pairs,
            direct_patience=nomination_patience,
            relay_patience=relay_patience,
            patience=patience,
            use_ipv4=use_ipv4,
            use_ipv6=use_ipv6,
            transport_policy=transport_policy,
            ice_servers=self._ice_servers,
            candidate_types=candidate_types,
            address_rewrites=address_rewrites,
            remote_filter=remote_filter,
        )
        told = os.environ.get("AIOICE_TRACE") if trace is None else None
        if trace is None and not told:
            self._agent = Agent(self._config, os.urandom, self._local_username, self._local_password, _tunables())
        else:
            self._agent = self._recorded_agent(trace, told, trace_hide_addresses)
        self._protocols: list[StunProtocol] = []
        self._local_candidates: list[Candidate] = []
        self._remote_candidates_end = False
        self._gather_started = False
        self._gather_task: asyncio.Future[None] | None = None
        #: What callers wait for: the gathering, or :meth:`close`.
        self._gathering: asyncio.Future[None] | None = None
        self._gathered: Mapping[int, asyncio.Future[None]] = NOTHING
        #: By the protocols that are gone.
        self._dropped: Mapping[str, int] = NOTHING
        self._state_waiters: tuple[asyncio.Future[None], ...] = ()
        self._listeners = Listeners()

    def _recorded_agent(self, trace: Any, told: str | None, hide_addresses: bool) -> Agent:
        from . import trace as tracing

        values = (self._config, self._local_username, self._local_password, _tunables())
        if trace is not None:
            return tracing.record(trace, *values, hide_addresses=hide_addresses, dropped=self._dropped_outside)
        agent = tracing.record_as_told(told or "", *values, dropped=self._dropped_outside)
        return Agent(self._config, os.urandom, *values[1:]) if agent is None else agent

    # ------------------------------------------------------------------------------------------------------- attributes

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands, by the names of W3C's RTCIceTransportState."""
        return self._agent.state

    @property
    def ice_controlling(self) -> bool:
        """Whether the local peer has the controlling role; it may be set until checks start."""
        return self._agent.controlling

    @ice_controlling.setter
    def ice_controlling(self, value: bool) -> None:
        self._agent.set_controlling(0.0, value)

    @property
    def local_candidates(self) -> list[Candidate]:
        """A copy of the list of local candidates, filled while they are gathered."""
        return self._local_candidates[:]

    @property
    def local_username(self) -> str:
        """The local username fragment; :meth:`restart` changes it."""
        return self._local_username

    @property
    def local_password(self) -> str:
        """The local password; :meth:`restart` changes it."""
        return self._local_password

    @property
    def remote_candidates(self) -> list[Candidate]:
        """A copy of the list of remote candidates, the peer-reflexive ones among them.

        mDNS candidates stand in it by their name (draft-ietf-mmusic-mdns-ice-candidates §3.3.1).
        """
        return self._agent.remote_candidates[:]

    @property
    def server_reports(self) -> list[ServerReport]:
        """What became of asking each STUN and TURN server at each of its addresses, so far; a copy.

        A report has ``url``, ``component``, ``transport``, ``address`` and ``local`` address, ``verdict``
        (:class:`~aioice.core.inquiries.ServerVerdict`), the error ``code`` (0 if there is none), ``detail`` for people,
        the round-trip time ``rtt`` in seconds and the ``candidates``.
        """
        return self._agent.server_reports

    @property
    def dropped(self) -> dict[str, int]:
        """Datagrams that were dropped, by reason."""
        drops = Counter(self._agent.drops)
        drops.update(self._dropped)
        for protocol in self._protocols:
            drops.update(protocol.drops())
        if self._queue.dropped:
            drops["receive queue full"] = self._queue.dropped
        return dict(drops)

    def get_stats(self) -> dict[str, dict[str, Any]]:
        """Statistics by the names and shapes of W3C's webrtc-stats, by id: a snapshot, made when it is asked for.

        There are ``local-candidate``, ``remote-candidate`` and ``candidate-pair`` objects, and one ``transport`` for
        each component. Times are in seconds, timestamps in milliseconds since 1970; bytes and packets are the
        application's. Those of a pair are of its local base, and told of the pair in use alone; a transport that the
        application opened itself does not count what it sends. ``droppedByReason`` is :attr:`dropped`.
        """
        import time

        from .core.stats import Traffic, collect

        traffic = {
            protocol.link: Traffic(
                protocol.local_candidate.component,
                getattr(protocol.transport, "packets_sent", None),
                getattr(protocol.transport, "bytes_sent", None),
                protocol.packets_received,
                protocol.bytes_received,
            )
            for protocol in self._protocols
            if protocol.link is not None
        }
        return collect(self._agent, 1000 * time.time(), traffic, self.dropped)

    @property
    def diagnosis(self) -> list[Finding]:
        """Why the connection failed, was lost or was slow, the weightiest finding first; empty if all is well.

        It is made when it is asked for, at any time; ``docs/diagnosis.md`` lists what there is.
        """
        from .core.diagnosis import examine

        stall = 0.0 if self._driver is None else self._driver.late
        return examine(self._agent, reason=self._failure, stall=stall, dropped=self._dropped_outside())

    def _dropped_outside(self) -> dict[str, int]:
        """What never came to the agent."""
        return {why: number for why, number in self.dropped.items() if why not in self._agent.drops}

    def _told_failure(self) -> str:
        """The reason, and the first finding where it says more."""
        first = next(iter(self.diagnosis), None) if self.state is ConnectionState.FAILED else None
        return self._failure if first is None or first.cause in self._failure else f"{self._failure} ({first.cause})"

    # -------------------------------------------------------------------------------------------------------- gathering

    async def gather_candidates(self) -> None:
        """Gather local candidates; they are in :attr:`local_candidates`, and told as events when they are found.

        Must have been called before :meth:`connect`, which need not wait for it. A server that does not answer holds
        it for about a second; what is found later still becomes a candidate. A second call waits for the first.

        :raises ConnectionError: when the connection is closed; when there is no candidate at all because no port of
            ``port_range`` is free, which is only logged if there are others.
        """
        if self._closed:
            raise ConnectionError("Cannot gather candidates, the connection is closed")
        if not self._gather_started:
            self._gather_started = True
            self._gathering = asyncio.get_running_loop().create_future()
            self._gather_task = asyncio.ensure_future(self._gather())
            self._gather_task.add_done_callback(self._gather_done)
        if self._gathering is not None:
            await asyncio.shield(self._gathering)

    async def gather(self) -> AsyncIterator[Candidate]:
        """Gather like :meth:`gather_candidates`, and yield the candidates as they are found.

        Ends when nothing more will be found: that may be long after :meth:`gather_candidates` would have returned, for
        silent servers are given all the time of a transaction. Called again, it begins with those that are known.

        :raises ConnectionError: when the connection is closed before.
        """
        events, known = self._listeners.reader(), self.local_candidates
        if self._agent.gathering_ended:
            for candidate in known:
                yield candidate
            return
        gathering = asyncio.ensure_future(self.gather_candidates())
        gathering.add_done_callback(
            lambda task: events.put(LocalCandidate(None)) if task.cancelled() or task.exception() else None
        )
        try:
            for candidate in known:
                yield candidate
            async for event in events:
                if isinstance(event, LocalCandidate):
                    if event.candidate is None:
                        break
                    yield event.candidate
            else:
                await gathering
            if gathering.done():
                gathering.result()
        finally:
            gathering.cancel()

    def _gather_done(self, task: asyncio.Future[None]) -> None:
        """A failure is kept for further callers; the caller of the first may have been cancelled and not see it."""
        self._gather_task = None
        exc = asyncio.CancelledError() if task.cancelled() else task.exception()
        if exc is None or self._gathering is None:
            self._end_waiting_for_gathering()
        elif isinstance(exc, asyncio.CancelledError):
            self._gathering.cancel()
        else:
            self._gathering.set_exception(exc)
            self._gathering.exception()

    def _end_waiting_for_gathering(self) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is not None and not gathering.done():
            gathering.set_result(None)

    async def _gather(self) -> None:
        driver = self._running_driver()
        self._read_attributes(driver.now())
        addresses: list[str] = []
        if self._transport_policy is TransportPolicy.ALL:
            addresses = self._host_addresses()
        if any(rewrite.interface is not None for rewrite in self._config.address_rewrites):
            driver.do(self._agent.set_interfaces, get_interface_names())
        components = self._components
        try:
            gathering = [self._gather_component(component, addresses) for component in components]
            if len(gathering) == 1:
                await gathering[0]
            else:
                await asyncio.gather(*gathering)
        finally:
            if self._closed:
                self._close_unadopted()
            else:
                self._adopt_protocols()
                driver.do(self._agent.end_gathering)
        self._tell_ports_in_use()

    def _host_addresses(self) -> list[str]:
        use_ipv4, use_ipv6, chosen = self._use_ipv4, self._use_ipv6, self._host_filter
        if chosen is not None and get_host_addresses is _GET_HOST_ADDRESSES:
            from .net.interfaces import host_addresses

            return host_addresses(use_ipv4, use_ipv6, chosen)
        hosts = get_host_addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6)
        return hosts if chosen is None else chosen.among(hosts)

    async def _hide_hosts(self, addresses: list[str]) -> bool:
        """Give them names before there is a candidate that could show them; False if we were closed meanwhile."""
        if self._publication is None:
            from .mdns import Publication

            self._publication = Publication()
        await self._publication.add([canonical_host(address.partition("%")[0]) for address in addresses])
        if self._closed:
            return False
        self._running_driver().do(self._agent.hide, self._publication.names)
        return True

    def _tell_ports_in_use(self) -> None:
        host = self._running_driver().host
        exc = host.ports_in_use if isinstance(host, AsyncioHost) else None
        if exc is None or self._closed:
            return
        logger.warning("%s A host candidate is missing: %s", self, exc.strerror)
        if not self._local_candidates:
            raise ConnectionError(exc.errno, f"Cannot gather candidates, {exc.strerror}")

    async def _gather_component(self, component: int, addresses: list[str]) -> None:
        told = await self.get_component_candidates(component=component, addresses=addresses)
        if not self._closed:
            # A program that has wrapped or replaced the method says with its result which candidates there are.
            candidates = [c for c in self._local_candidates if c.component != component or c in told]
            self._local_candidates = candidates + [c for c in told if c not in candidates]

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: float = 5
    ) -> list[Candidate]:
        """Gather the candidates of one component from the given addresses.

        Programs wrap this to change the addresses or the time (seconds), or replace it to open their own endpoints.
        """
        if self._closed:
            return []
        driver = self._running_driver()
        if not self._gather_started:
            self._read_attributes(driver.now())
        if self._hide_host_addresses and not await self._hide_hosts(addresses):
            return []
        gathered = driver.loop.create_future()
        self._gathered = {**self._gathered, component: gathered}
        driver.do(self._agent.gather, component, addresses, timeout)
        if not gathered.done():
            await gathered
        return [candidate for candidate in self._local_candidates if candidate.component == component]

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

    def get_default_candidate(self, component: int) -> Candidate | None:
        """The local candidate to be named in the SDP's ``c=`` and ``m=`` lines: the most likely to work, a relayed one
        if there is one (RFC 8839 §4.2.1.2), or None.
        """
        candidates = [candidate for candidate in self._local_candidates if candidate.component == component]
        return min(candidates, key=lambda candidate: candidate.priority, default=None)

    # ------------------------------------------------------------------------------------------------ remote candidates

    async def add_remote_candidate(self, remote_candidate: Candidate | None) -> None:
        """Add a remote candidate, or None for the end of them (RFC 8838 §14); never waits for the network.

        More may be added while :meth:`connect` runs, which fails only after the end. The candidate is copied. One that
        cannot be used is ignored, with a line in the log; so are candidates after :meth:`close`.

        :raises ValueError: after the end of candidates.
        """
        if self._remote_candidates_end:
            raise ValueError("Cannot add remote candidate after end-of-candidates.")
        if self._closed:
            return
        if remote_candidate is None:
            self._remote_candidates_end = True
            self._do(self._agent.add_remote_candidate, None)
            return
        candidate = remote_candidate.copy()
        try:
            candidate.validate()
            if candidate.type not in ("host", "srflx", "relay"):
                raise ValueError(f"type {candidate.type!r} is not known")
            if not is_mdns_hostname(candidate.host):
                candidate.address = canonical_host(candidate.host)
        except ValueError as exc:
            logger.info("%s Remote candidate ignored", self)
            logger.debug("%s It cannot be used: %s", self, exc)
            return
        self._do(self._agent.add_remote_candidate, candidate)

    # ---------------------------------------------------------------------------------------------------------- session

    async def connect(self) -> None:
        """Check pairs of candidates until every component has one that may carry data (RFC 8445 §12.1).

        Returns before the nomination, which goes on and may still replace the pair. Failure is declared after the end
        of the remote candidates, and not before a transaction's time-out has passed (RFC 8863 §4).

        :raises ConnectionError: when gathering has not been started, credentials are missing, no pair works, both
            agents are lite or the connection is closed; it says why, and :attr:`diagnosis` says more.
        """
        if self._closed:
            raise ConnectionError("Cannot connect, the connection is closed")
        if not self._gather_started:
            raise ConnectionError("Local candidates gathering was not performed")
        if self.remote_username is None or self.remote_password is None:
            raise ConnectionError("Remote username or password is missing")
        if self._config.lite and self.remote_is_lite:
            if self.state in _LIVE:
                return
            raise ConnectionError("Neither agent sends checks, both are lite: name the pair by set_selected_pair()")
        driver = self._running_driver()
        self._adopt_protocols()
        driver.read_pending()
        self._failure = ""
        self._agent.set_local_credentials(driver.now(), self.local_username, self.local_password)
        driver.do(self._agent.connect, self.remote_username, self.remote_password, self.remote_is_lite)
        while self.state not in _LIVE:
            if self._closed or self.state is ConnectionState.FAILED:
                raise ConnectionError(f"ICE negotiation failed: {self._told_failure()}")
            waiter = driver.loop.create_future()
            self._state_waiters += (waiter,)
            try:
                await waiter
            finally:
                self._state_waiters = tuple(other for other in self._state_waiters if other is not waiter)

    def restart(self, local_username: str | None = None, local_password: str | None = None) -> None:
        """Start a new generation (RFC 8445 §9).

        The local credentials are new, random ones if not given. Signal them, set the peer's new ones, add its
        candidates and their end anew, and call :meth:`connect` again. The old pair carries data until a pair of the
        new generation is selected.

        :raises ConnectionError: when the connection is closed.
        """
        if self._closed:
            raise ConnectionError("Cannot restart, the connection is closed")
        username, password = local_username or random_string(4), local_password or random_string(22)
        validate_username(username)
        validate_password(password)
        self._local_username, self._local_password = username, password
        self.remote_username = self.remote_password = None
        self._remote_candidates_end = False
        # A subclass may have others in their place.
        self._do(self._agent.restart, self.local_username, self.local_password)

    def set_selected_pair(self, component: int, local_foundation: str, remote_foundation: str) -> None:
        """Use this pair without any check, for a peer that does not speak ICE.

        :raises ValueError: when there are no candidates with these foundations, or the two cannot be a pair.
        """
        protocol = next(
            (
                protocol
                for protocol in self._protocols
                if protocol.local_candidate.component == component
                and protocol.local_candidate.foundation == local_foundation
            ),
            None,
        )
        remotes = [
            c for c in self._agent.remote_candidates if c.component == component and c.foundation == remote_foundation
        ]
        if protocol is None or not remotes:
            side = "local" if protocol is None else "remote"
            raise ValueError(f"Component {component} has no {side} candidate with this foundation")
        self._adopt_protocols()
        remote = next((remote for remote in remotes if self._agent.can_pair(protocol.link, remote)), None)
        if remote is None:
            raise ValueError(f"This pair of component {component} cannot be used: {_why_unusable(remotes[0])}")
        self._do(self._agent.select, component, protocol.link, remote)

    async def close(self) -> None:
        """Close the connection, at any moment and in any state; again is harmless.

        Sockets are closed when it returns. A server that does not confirm the deletion of a relay within 80 ms is
        waited for in the background, for at most a second.
        """
        if not self._closed:
            if self._driver is not None and self._driver.loop.is_closed():
                self._driver.close()  # nothing can be sent any more
            for pair in self._nominated.values():
                pair.protocol.wake_writers()
            self._nominated.clear()  # what was accepted is not taken back, but sent before the sockets close
            self._do(self._agent.close, "closed")
            self._ended("closed", discard=True)
        if self._driver is not None:
            await self._driver.wind_up(CLOSE_WAIT)
        if self._publication is not None:
            await self._publication.close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ----------------------------------------------------------------------------------------------------------- events

    async def get_event(self) -> ConnectionEvent | None:
        """Wait for :class:`ConnectionClosed`; None once that was told. See :meth:`events` for all that happens."""
        return await self._listeners.get_event()

    def events(self) -> AsyncIterator[ConnectionEvent]:
        """All events from now on, in order, the last being :class:`ConnectionClosed`.

        :class:`LocalCandidate` as candidates are found, :class:`StateChanged`, :class:`SelectedPair`,
        :class:`ConsentExpired`. A reader that is more than 1024 behind loses the oldest.
        """
        return self._listeners.reader()

    # ------------------------------------------------------------------------------------------ what the protocols tell

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
            self._driver = Driver(self._agent, host, self._make_protocol, self._handle_output, _tunables)
        return self._driver

    def _read_attributes(self, now: float) -> None:
        """Servers may be set, and credentials overridden by a subclass, until gathering starts."""
        stun_server, turn_server = self.stun_server, self.turn_server
        self._agent.set_servers(
            now,
            StunServer(*stun_server[:2]) if stun_server else None,
            TurnServer(
                *turn_server[:2],
                self.turn_transport,
                self.turn_ssl and self.turn_transport == "tcp",
                self.turn_username,
                self.turn_password,
            )
            if turn_server
            else None,
        )
        self._agent.set_local_credentials(now, self.local_username, self.local_password)

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

    def _do(self, verb: Any, *args: Any) -> None:
        """A verb, also before there is a loop to run the agent on."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            verb(0.0, *args)
        else:
            self._running_driver().do(verb, *args)

    def _make_protocol(self, link: int) -> asyncio.DatagramProtocol:
        if self._agent.is_server_link(link):
            return ServerProtocol(self, link)
        protocol = StunProtocol(self)
        protocol.link = link
        return protocol

    def _handle_output(self, output: Output) -> None:
        handler = self._OUTPUT_HANDLERS.get(type(output))
        if handler is not None:
            handler(self, output)

    def _protocol_of(self, link: int) -> StunProtocol | None:
        protocol = self._driver.protocol(link) if self._driver is not None else None
        return protocol if isinstance(protocol, StunProtocol) else None

    def _route(self, route: Route) -> None:
        protocol = self._protocol_of(route.link)
        if protocol is not None:
            self._use(route.component, protocol, route.remote)

    def _unroute(self, unroute: Unroute) -> None:
        self._stop_using(unroute.component)

    def _accept(self, accept: Accept) -> None:
        protocol = self._protocol_of(accept.link)
        if protocol is not None:
            protocol.accepted[accept.peer] = accept.component

    def _revoke(self, revoke: Revoke) -> None:
        protocol = self._protocol_of(revoke.link)
        if protocol is not None:
            protocol.accepted.pop(revoke.peer, None)

    def _deliver(self, deliver: Deliver) -> None:
        protocol = self._protocol_of(deliver.link)
        if protocol is not None:
            protocol.datagram_received(deliver.data, deliver.peer)

    def _done(self, done: Done) -> None:
        if self._driver is not None:
            self._driver.close()

    def _notify(self, notify: Notify) -> None:
        event = notify.event
        if isinstance(event, ConnectionEvent):
            self._handle_event(event)
        elif isinstance(event, Gathered):
            gathered = self._gathered.get(event.component)
            self._gathered = {n: other for n, other in self._gathered.items() if n != event.component} or NOTHING
            if gathered is not None and not gathered.done():
                gathered.set_result(None)
        elif isinstance(event, Found):
            self._base_found(event)
        elif isinstance(event, BaseLost):
            self._base_lost(event)
        elif isinstance(event, Withdrawn):
            self._local_candidates = [c for c in self._local_candidates if c is not event.candidate]

    def _handle_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, LocalCandidate):
            # An endpoint that the application opened itself may have been listed by it.
            if event.candidate is not None and event.candidate not in self._local_candidates:
                self._local_candidates.append(event.candidate)
        elif isinstance(event, StateChanged):
            self._failure = event.reason
            logger.info("%s %s", self, event.state)
            if event.reason:
                logger.debug("%s %s: %s", self, event.state, event.reason)
            for waiter in self._state_waiters:
                if not waiter.done():
                    waiter.set_result(None)
        elif isinstance(event, ConnectionClosed):
            self._ended(event.reason, discard=False)
        self._listeners.tell(event)

    _OUTPUT_HANDLERS: ClassVar[dict[type, Callable[[Connection, Any], None]]] = {
        Route: _route,
        Unroute: _unroute,
        Accept: _accept,
        Revoke: _revoke,
        Deliver: _deliver,
        Notify: _notify,
        Done: _done,
    }

    def _base_found(self, found: Found) -> None:
        protocol = self._protocol_of(found.base.link)
        if protocol is not None:
            protocol.local_candidate = found.base.shown
            if protocol not in self._protocols:
                self._protocols.append(protocol)

    def _base_lost(self, lost: BaseLost) -> None:
        """A socket or a relay has ended by itself: its candidates are no more."""
        self._local_candidates = [c for c in self._local_candidates if c not in lost.candidates]
        for protocol in [protocol for protocol in self._protocols if protocol.link == lost.link]:
            self._keep_drops(protocol)
            self._protocols.remove(protocol)

    def _ended(self, reason: str, *, discard: bool) -> None:
        """The agent has closed: by :meth:`close`, or because the connection was lost."""
        self._queue.end(f"Connection lost while receiving data: {reason}", discard=discard)
        if self._closed:
            return
        self._closed = True
        self._failure = reason
        self._nominated.clear()
        self._close_unadopted()
        self._local_candidates.clear()
        if self._publication is not None:
            self._publication.end()
        # A program's own way to gather is not cut short: what it opens is closed when it returns.
        self._end_waiting_for_gathering()
        for gathered in self._gathered.values():
            if not gathered.done():
                gathered.set_result(None)
        self._listeners.tell(ConnectionClosed(reason))

    def __repr__(self) -> str:
        return f"Connection({self._id})"


def _why_unusable(remote: Candidate) -> str:
    """Why no local candidate, or not the one that was asked for, can be paired with this one."""
    if str(remote.transport).lower() != "udp":
        return "the remote candidate is not of UDP"
    if is_mdns_hostname(remote.address):
        return "the name of the remote candidate is not resolved"
    return "the two addresses do not go together"


async def _resolve_mdns(name: str) -> tuple[str, ...]:
    from . import mdns

    return await mdns.resolve(name)
