"""Connection: the asyncio face of one ICE agent."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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
from .core.machine import Tunables
from .core.selection import DIRECT_PATIENCE, RELAY_PATIENCE
from .core.servers import StunServer, TurnServer
from .data import CandidatePair
from .gather import Gathering
from .protocol import StunProtocol
from .settings import (
    TransportPolicy,
    agent_config,
    check_bytes,
    host_filter_of,
    pacing_of,
    ports_of,
    validate_password,
    validate_username,
)
from .utils import random_string

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from .core.diagnosis import Finding
    from .core.inquiries import ServerReport
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


class Connection(Gathering):
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
        "_config",
        "_remote_candidates_end",
        "_host_filter",
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
        check_bytes(receive_buffer=receive_buffer, send_buffer=send_buffer)
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
        self._ssl_context = ssl_context
        self._ice_servers = ()
        if ice_servers:
            from .servers import ice_servers_of

            self._ice_servers = ice_servers_of(ice_servers)
        self._config = agent_config(
            controlling=ice_controlling,
            components=components,
            lite=ice_lite,
            ta=pacing_of(ta, remote_ta),
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
            self._agent = Agent(self._config, os.urandom, self._local_username, self._local_password, self._tunables())
        else:
            self._agent = self._recorded_agent(trace, told, trace_hide_addresses)
        self._remote_candidates_end = False

    def _recorded_agent(self, trace: Any, told: str | None, hide_addresses: bool) -> Agent:
        from . import trace as tracing

        values = (self._config, self._local_username, self._local_password, self._tunables())
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

    # --------------------------------------------------------------------------------------------- what programs change

    @staticmethod
    def _tunables() -> Tunables:
        """What programs may have changed in the modules; one object for all connections."""
        return _shared_tunables(CONSENT_INTERVAL, CONSENT_FAILURES, stun.RETRY_MAX, stun.RETRY_RTO)

    def _make_stun_protocol(self) -> StunProtocol:
        return StunProtocol(self)

    def _host_addresses(self) -> list[str]:
        """By the functions of this module, which programs replace."""
        if any(rewrite.interface is not None for rewrite in self._config.address_rewrites):
            self._running_driver().do(self._agent.set_interfaces, get_interface_names())
        if self._transport_policy is not TransportPolicy.ALL:
            return []
        use_ipv4, use_ipv6, chosen = self._use_ipv4, self._use_ipv6, self._host_filter
        if chosen is not None and get_host_addresses is _GET_HOST_ADDRESSES:
            from .net.interfaces import host_addresses

            return host_addresses(use_ipv4, use_ipv6, chosen)
        hosts = get_host_addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6)
        return hosts if chosen is None else chosen.among(hosts)

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

        def fits(candidate: Candidate, foundation: str) -> bool:
            return candidate.component == component and candidate.foundation == foundation

        protocol = next((p for p in self._protocols if fits(p.local_candidate, local_foundation)), None)
        remotes = [c for c in self._agent.remote_candidates if fits(c, remote_foundation)]
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

    def __repr__(self) -> str:
        return f"Connection({self._id})"


def _why_unusable(remote: Candidate) -> str:
    """Why no local candidate, or not the one that was asked for, can be paired with this one."""
    if str(remote.transport).lower() != "udp":
        return "the remote candidate is not of UDP"
    if is_mdns_hostname(remote.address):
        return "the name of the remote candidate is not resolved"
    return "the two addresses do not go together"
