"""From addresses and servers to candidates (RFC 8445 §5.1.1): a child machine of the agent.

It owns the bases and says when nobody need wait for more candidates. How servers are asked is the business of its
children, :mod:`aioice.core.reflexive` for STUN and :mod:`aioice.core.relays` for TURN; neither is there before there is
a server. It does not know pairs: the agent hands it what arrives on its server links and the answers it asked for, and
drains it into its own queue.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from .address import canonical_host
from .candidate import Candidate, candidate_foundation, candidate_priority, local_preferences
from .checklist import Base
from .hiding import hidden, is_hidden, no_address, related_address, shown_report
from .machine import (
    Close,
    Connected,
    CredentialsFetched,
    FetchCredentials,
    LinkClosed,
    Opened,
    OpenFailed,
    OpenUdp,
    Reason,
    Resolve,
    Resolved,
    SendFailed,
)
from .message import parse_message
from .record import NOTHING, Record
from .servers import Asked, Ended, Mapped, Relayed, RelayLost, RelayRefused, StunServer, TurnServer
from .waiting import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from .inquiries import Inquiry, ServerReport
    from .machine import Address, Report, Tunables
    from .message import Message
    from .questions import Questions
    from .reflexive import Reflexive
    from .relays import Relays
    from .rewrites import AddressRewrite

__all__ = [
    "BaseLost",
    "Found",
    "Gathered",
    "Gatherer",
    "RelayRefused",
    "StunServer",
    "TurnServer",
    "Withdrawn",
]

#: Seconds between two transactions with servers (RFC 8445 §14.2).
TA = 0.005
#: Seconds for which the addresses of a name are taken as known, and that it has none.
NAME_LIFE = 60.0
UNKNOWN_NAME_LIFE = 5.0
#: Credentials from a callback are not used for a new allocation this close to their end, in seconds.
CREDENTIALS_MARGIN = 30.0
#: Addresses of one name that are asked.
MAX_ADDRESSES = 8
#: Inquiries that are remembered; of those that have ended, the oldest go.
MAX_INQUIRIES = 128


class Found(Record):
    """A candidate as it is told; that of the base itself if it is ``base.shown``."""

    base: Base
    candidate: Candidate


class BaseLost(Record):
    link: int
    detail: str
    #: What has been told of it.
    candidates: tuple[Candidate, ...] = ()


class Withdrawn(Record):
    """The NAT has given its base another address: nothing comes through this one any more."""

    candidate: Candidate


class Gathered(Record):
    """Whoever waits for the candidates of this component need not wait longer; late ones may still be found."""

    component: int


class Gatherer:
    """Gathers for the components of one agent."""

    __slots__ = (
        "servers",
        "interfaces",
        "names",
        "_random",
        "_next_link",
        "_tunables",
        "_relay_only",
        "_families",
        "_types",
        "_rewrites",
        "_ta",
        "_outputs",
        "_inner",
        "_jobs",
        "_bases",
        "_told",
        "_names",
        "_secrets",
        "_reflexive",
        "_relays",
        "_turns",
        "_next_turn",
        "_inquiries",
        "_closed",
    )

    def __init__(
        self,
        random: Callable[[int], bytes],
        next_link: Callable[[], int],
        tunables: Tunables,
        *,
        relay_only: bool,
        families: tuple[int, ...] = (4, 6),
        types: Collection[str] | None = None,
        rewrites: Sequence[AddressRewrite] = (),
        ta: float = TA,
        outputs: list[Any] | None = None,
    ) -> None:
        #: Whom :meth:`gather` asks.
        self.servers: Sequence[StunServer | TurnServer] = ()
        #: Names of interfaces by address, for rewrites that are for one of them.
        self.interfaces: Mapping[str, str] = NOTHING
        #: The names that are shown in place of the addresses of this host, if those are hidden.
        self.names = NOTHING
        self._random = random
        self._next_link = next_link
        self._tunables = tunables
        self._relay_only = relay_only
        #: Of relayed addresses.
        self._families = families
        #: The types of candidates that are wanted; all if None.
        self._types = types
        self._rewrites = rewrites
        self._ta = ta
        self._outputs: list[Any] = [] if outputs is None else outputs
        #: What the children have to say, in its order.
        self._inner: list[Any] | None = None
        self._jobs: Mapping[int, Job] = NOTHING
        self._bases: dict[int, Base] = {}
        #: All but the bases' own: a base, and what is reflected from it or added to it.
        self._told: tuple[tuple[Base, Candidate], ...] = ()
        self._names: Questions | None = None
        self._secrets: Questions | None = None
        self._reflexive: Reflexive | None = None
        self._relays: Relays | None = None
        #: Transactions that wait for their turn.
        self._turns: deque[Callable[[float], bool]] | None = None
        self._next_turn = 0.0
        self._inquiries: tuple[Inquiry, ...] = ()
        self._closed = False

    # -------------------------------------------------------------------------------------------------------- verbs

    def gather(self, now: float, component: int, hosts: Sequence[str], timeout: float) -> None:
        """Open a socket on each of ``hosts`` and ask the servers; :class:`Gathered` follows within ``timeout``
        seconds. Begun anew, it gives up what it was still opening.
        """
        before = self._jobs.get(component)
        job = Job(now, component, timeout)
        self._jobs = {**self._jobs, component: job}
        if before is not None:
            for link in before.opening:
                self._outputs.append(Close(link))
            job.pending = before.pending
        if not (self._wants("host") or self._wants("srflx")):
            hosts = ()
        job.preferences = dict(zip(hosts, local_preferences(hosts), strict=True))
        self._ask_turn(now, component)
        for host in hosts:
            link = self._next_link()
            job.opening[link] = host
            self._outputs.append(OpenUdp(link, host))
        if hosts and self._wants("srflx"):
            for server in self.servers:
                if isinstance(server, StunServer):
                    self._look_up(now, job, server)
        self._settle(now)

    def adopt(self, base: Base) -> None:
        """A base that the application opened itself."""
        self._bases[base.link] = base

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Send to ``peer`` from the relayed address behind ``link``."""
        if self._relays is not None:
            self._relays.relay(now, link, peer, data)
            self._settle(now)

    def probe(self, now: float, link: int) -> None:
        """Nothing comes through this link any more: find out whether a relay behind it is still there."""
        if self._relays is not None:
            self._relays.probe(now, link)
            self._settle(now)

    def keep(self, now: float, keeping: bool) -> None:
        """Whether candidates may still be needed that no pair in use stands on: keep their bindings alive."""
        if self._reflexive is not None:
            self._reflexive.keep(now, keeping)
            self._settle(now)
        if self._relays is not None:
            self._relays.keep(keeping)

    def tune(self, tunables: Tunables) -> None:
        self._tunables = tunables
        for child in (self._reflexive, self._relays):
            if child is not None:
                child.tune(tunables)

    def close(self, now: float) -> None:
        """Close all sockets; allocations go on until their deletion is answered or a second has passed."""
        self._closed = True
        self._turns = None
        for job in self._jobs.values():
            for link in job.opening:
                self._outputs.append(Close(link))
            job.opening.clear()
            job.pending.clear()
        for link in self._bases:
            if self._relays is None or not self._relays.owns(link):
                self._outputs.append(Close(link))
        self._bases.clear()
        self._told = ()
        if self._reflexive is not None:
            self._reflexive.close()
        if self._relays is not None:
            self._relays.close(now)
        self._settle(now)

    # -------------------------------------------------------------------------------------------------------- nouns

    @property
    def idle(self) -> bool:
        """Nothing more will be found soon."""
        return all(job.finished for job in self._jobs.values()) and (self._relays is None or not self._relays.busy)

    @property
    def hopeful(self) -> bool:
        """A relay that was lost is being made anew, now or later."""
        return self._relays is not None and self._relays.hopeful

    @property
    def done(self) -> bool:
        return self._closed and (self._relays is None or self._relays.done)

    def is_server_link(self, link: int) -> bool:
        return self._relays is not None and link in self._relays.server_links

    def awaits_server(self, link: int, peer: Address) -> bool:
        return self._reflexive is not None and self._reflexive.awaits(link, peer)

    @property
    def reports(self) -> list[ServerReport]:
        reports = [inquiry.report() for inquiry in self._inquiries]
        return reports if self.names is NOTHING else [shown_report(report, self.names) for report in reports]

    @property
    def waits(self) -> list[tuple[str, float, float]]:
        """For what servers gathering has waited in vain: their URI, from when and until when."""
        return [
            (inquiry.url, *inquiry.waited)
            for inquiry in self._inquiries
            if inquiry.waited is not None and not inquiry.gave_something
        ]

    def _wants(self, kind: str) -> bool:
        return self._types is None or kind in self._types

    # ------------------------------------------------------------------------------------------------------ asking

    def _look_up(self, now: float, job: Job, server: StunServer) -> None:
        from .inquiries import Inquiry, ServerVerdict

        inquiry = Inquiry(server, job.component, now)
        if server.transport != "udp" or server.tls:
            inquiry.end(ServerVerdict.NOT_SUPPORTED, "STUN over TCP or TLS tells nothing about UDP sockets")
            self._pend(inquiry)
            return
        try:
            literal = canonical_host(server.host)
        except ValueError:
            self._pend(inquiry)
            self._resolve(now, server.host, partial(self._resolved, job, server, inquiry))
        else:
            self._ask_stun(now, job, server, (literal,))

    def _resolve(self, now: float, name: str, receiver: Callable[[float, tuple[str, ...]], None]) -> None:
        try:
            receiver(now, (canonical_host(name),))
        except ValueError:
            if self._names is None:
                self._names = self._questions(Resolve)
            self._names.ask(now, name, receiver)

    def _questions(self, question: Callable[[int, Any], Any]) -> Questions:
        from .questions import Questions

        return Questions(question, self._next_link, self._outputs)

    def _resolved(self, job: Job, server: StunServer, inquiry: Inquiry, now: float, addresses: tuple[str, ...]) -> None:
        if self._closed:
            return
        if addresses:
            self._forget(inquiry)
            self._ask_stun(now, job, server, addresses[:MAX_ADDRESSES])
        else:
            from .inquiries import ServerVerdict

            inquiry.end(ServerVerdict.NAME_NOT_FOUND, "the name has no addresses")
        self._ended(now, Ended(inquiry))

    def _ask_stun(self, now: float, job: Job, server: StunServer, addresses: tuple[str, ...]) -> None:
        """The server's addresses are known: all bases ask, and those that open later will."""
        job.stun.append((server, addresses))
        for base in list(self._bases.values()):
            if base.candidate.type == "host" and base.candidate.component == job.component:
                self._ask_from(now, job, base, server, addresses)

    def _ask_from(self, now: float, job: Job, base: Base, server: StunServer, addresses: tuple[str, ...]) -> None:
        """One query for each address of the server in the base's family (RFC 8445 §5.1.1.2)."""
        if self._reflexive is None:
            from .reflexive import Reflexive

            self._reflexive = Reflexive(self._random, self._tunables, self._from_children(), self._pace)
        for host in addresses:
            if (":" in host) == (":" in base.candidate.host):
                inquiry = self._reflexive.ask(now, base, server, (host, server.port))
                if inquiry is not None:
                    job.links.append(base.link)
                    self._pend(inquiry)

    def _ask_turn(self, now: float, component: int) -> None:
        servers = [server for server in self.servers if isinstance(server, TurnServer)]
        if not servers or not self._wants("relay"):
            return
        if self._relays is None:
            from .relays import Relays  # costs a tenth of our import, and few programs need it

            self._relays = Relays(
                self._random,
                self._next_link,
                self._tunables,
                self._from_children(),
                self._pace,
                self._resolve,
                self._credentials,
                self._families,
            )
        self._relays.ask(now, component, servers)

    def _credentials(self, now: float, source: int, receiver: Callable[[float, Any], None], fresh: bool) -> None:
        if self._secrets is None:
            self._secrets = self._questions(FetchCredentials)
        if fresh:
            self._secrets.forget(source)
        self._secrets.ask(now, source, receiver)

    def _pace(self, now: float, start: Callable[[float], bool]) -> None:
        """Start a transaction, Ta after the last one (RFC 8445 §14); ``start`` says whether it was still wanted."""
        if not self._turns and now >= self._next_turn:
            start(now)
            self._next_turn = now + self._ta
            return
        if self._turns is None:
            self._turns = deque()
        self._turns.append(start)

    def _pend(self, inquiry: Inquiry) -> None:
        """Somebody may wait for it."""
        if len(self._inquiries) >= MAX_INQUIRIES:
            old = next((other for other in self._inquiries if not other.pending), self._inquiries[0])
            self._forget(old)
        self._inquiries += (inquiry,)
        job = self._jobs.get(inquiry.component)
        if job is not None and inquiry.pending:
            job.pending.append(inquiry)

    def _forget(self, inquiry: Inquiry) -> None:
        self._inquiries = tuple(other for other in self._inquiries if other is not inquiry)

    # ------------------------------------------------------------------------------------------------------- the world

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Something came over a link that is not one of the agent's bases."""
        if self._relays is not None and self._relays.owns(link):
            self._relays.handle_datagram(now, link, peer, data)
            self._settle(now)
        elif link in self._bases:
            try:
                message = parse_message(data)
            except ValueError:
                self.not_stun(now, link, peer, data)
                return
            self.handle_answer(now, link, peer, message)

    def handle_answer(self, now: float, link: int, peer: Address, message: Message) -> None:
        """A STUN answer that is not one to a check: a STUN server's, if we asked."""
        if self._reflexive is not None:
            self._reflexive.handle_answer(now, link, peer, message)
            self._settle(now)

    def not_stun(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """What came over a base is no STUN message."""
        if self._reflexive is not None:
            self._reflexive.not_stun(link, peer, data)
            self._settle(now)

    def handle_report(self, now: float, report: Report) -> None:
        if isinstance(report, Resolved):
            if self._names is not None:
                life = NAME_LIFE if report.addresses else UNKNOWN_NAME_LIFE
                self._names.answer(now, report.query, report.addresses, now + life)
        elif isinstance(report, CredentialsFetched):
            self._fetched(now, report)
        elif isinstance(report, Opened | OpenFailed | Connected | LinkClosed | SendFailed):
            if self._relays is not None and self._relays.owns(report.link):
                self._relays.handle_report(now, report)
            elif not isinstance(report, Connected):
                self._link_report(now, report)
        self._settle(now)

    def _fetched(self, now: float, report: CredentialsFetched) -> None:
        if self._secrets is None:
            return
        if report.username is None or report.password is None:
            self._secrets.answer(now, report.query, report.detail or "the callback gave no credentials", now)
        else:
            until = float("inf") if report.expires is None else report.expires - CREDENTIALS_MARGIN
            self._secrets.answer(now, report.query, (report.username, report.password, report.expires), until)

    def _link_report(self, now: float, report: Opened | OpenFailed | LinkClosed | SendFailed) -> None:
        if isinstance(report, SendFailed):
            # A datagram of the application may be too big for a path that takes our queries.
            if self._reflexive is not None and report.reason is not Reason.TOO_BIG:
                self._reflexive.end(report.link, report.peer, report.reason)
        elif isinstance(report, LinkClosed):
            self._base_lost(report.link, report.reason, report.detail)
        else:
            self._opened(now, report)

    def _base_lost(self, link: int, reason: Reason, detail: str) -> None:
        if self._reflexive is not None:
            self._reflexive.end(link, None, reason, detail)
        base = self._bases.pop(link, None)
        if base is not None:
            why = f"{reason}: {detail}" if detail else str(reason)
            self._outputs.append(BaseLost(link, why, self._told_of(base)))
            self._outputs.append(Close(link))

    def _told_of(self, base: Base) -> tuple[Candidate, ...]:
        """The candidates that end with a base."""
        gone = (base.shown, *(candidate for other, candidate in self._told if other is base))
        self._told = tuple((other, candidate) for other, candidate in self._told if other is not base)
        return gone

    def _opened(self, now: float, report: Opened | OpenFailed) -> None:
        job = next((job for job in self._jobs.values() if report.link in job.opening), None)
        if job is None:
            if isinstance(report, Opened) and report.link not in self._bases:
                self._outputs.append(Close(report.link))
            return
        host = job.opening.pop(report.link)
        if isinstance(report, OpenFailed):
            return
        self._host_found(job, report.link, report.local, job.preferences[host])
        for server, addresses in job.stun:
            self._ask_from(now, job, self._bases[report.link], server, addresses)

    # ------------------------------------------------------------------------------------------------------ candidates

    def _host_found(self, job: Job, link: int, local: Address, preference: int) -> None:
        replacement, additions = self._rewritten(local[0])
        name = self.names.get(local[0])
        candidate = Candidate(
            foundation=candidate_foundation("host", "udp", name or local[0]),
            component=job.component,
            transport="udp",
            priority=candidate_priority(job.component, "host", preference),
            host=replacement or local[0],
            port=local[1],
            type="host",
        )
        # What a program tells in place of an address hides it already.
        shown = candidate if name is None or replacement is not None else hidden(candidate, name)
        base = self._bases[link] = Base(link, candidate, preference, shown)
        if self._wants("host"):
            self._outputs.append(Found(base, base.shown))
        for host in additions:
            # A 1:1 NAT keeps the port.
            self._reflexive_found(base, (host, local[1]), host)

    def _rewritten(self, host: str) -> tuple[str | None, list[str]]:
        if not self._rewrites:
            return None, []
        from .rewrites import rewritten

        return rewritten(self._rewrites, host, self.interfaces.get(host))

    def _reflexive_found(self, base: Base, mapped: Address, server: str) -> Candidate | None:
        host = base.candidate
        if not self._wants("srflx"):
            return None
        if mapped == (host.host, host.port) and not is_hidden(base):
            return None  # redundant, but for one whose twin shows a name
        component = host.component
        same = [c for _, c in self._told if c.component == component and c.type == "srflx"]
        beside = [c for other, c in self._told if other is base]
        if any((c.host, c.port) == mapped for c in beside):
            return None  # redundant (RFC 8445 §5.1.3)
        preference, taken = base.preference, {candidate.priority for candidate in same}
        # Two servers may see two addresses of one base; priorities are unique (§5.1.2).
        while preference and candidate_priority(component, "srflx", preference) in taken:
            preference -= 1
        related = related_address(base)
        if not self._wants("host"):
            # The base shows itself for the first time, but not its address.
            related = no_address(host.host)
            if not beside:
                self._outputs.append(Found(base, base.shown))
        candidate = Candidate(
            foundation=candidate_foundation("srflx", "udp", base.shown.host, server=server),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "srflx", preference),
            host=mapped[0],
            port=mapped[1],
            type="srflx",
            related_address=related[0],
            related_port=related[1],
        )
        self._told += ((base, candidate),)
        self._outputs.append(Found(base, candidate))
        return candidate

    def _mapped(self, now: float, answer: Mapped) -> None:
        """A STUN server has told how a base looks to it."""
        base, inquiry = answer.base, answer.inquiry
        job = self._jobs.get(inquiry.component)
        if job is not None and inquiry.rtt is not None:
            job.told(now, inquiry.server.host, base.link, inquiry.rtt)
        assert inquiry.address is not None
        candidate = self._reflexive_found(base, answer.mapped, inquiry.address[0])
        if candidate is not None:
            inquiry.candidates += (candidate,)
        if answer.before is not None:
            for told in self._told:
                other, stale = told
                if other is base and (stale.host, stale.port) == answer.before:
                    self._told = tuple(other for other in self._told if other is not told)
                    self._outputs.append(Withdrawn(stale))

    def _found_relayed(self, now: float, relayed: Relayed) -> None:
        component, host = relayed.inquiry.component, relayed.relayed[0]
        related = relayed.mapped
        hides = self._relay_only or self.names is not NOTHING
        if hides or self._types is not None and "srflx" not in self._types:
            # The reflexive address is what the policy hides (RFC 9429 §3.5.3), and may be that of a hidden base.
            related = no_address(host)
        # UDP before TCP before TLS, and each one once (RFC 8445 §5.1.2).
        preference = 0xFFFF - (relayed.rank << 8)
        taken = [base.candidate.priority for base in self._bases.values()]
        while candidate_priority(component, "relay", preference) in taken:
            preference -= 1
        candidate = Candidate(
            foundation=candidate_foundation("relay", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "relay", preference),
            host=host,
            port=relayed.relayed[1],
            type="relay",
            related_address=related[0],
            related_port=related[1],
        )
        base = self._bases[relayed.relay_link] = Base(relayed.relay_link, candidate, preference)
        relayed.inquiry.candidates += (candidate,)
        self._outputs.append(Found(base, candidate))

    def _relay_lost(self, now: float, lost: RelayLost) -> None:
        base = self._bases.pop(lost.link)
        self._outputs.append(BaseLost(lost.link, lost.detail, (base.candidate,)))

    # ---------------------------------------------------------------------------------------------------- time, outputs

    def _asked(self, now: float, asked: Asked) -> None:
        self._pend(asked.inquiry)

    def _ended(self, now: float, ended: Ended) -> None:
        for job in self._jobs.values():
            job.ended(now, ended.inquiry)

    _HANDLERS: ClassVar[dict[type, Callable[[Gatherer, float, Any], None]]] = {
        Mapped: _mapped,
        Asked: _asked,
        Ended: _ended,
        Relayed: _found_relayed,
        RelayLost: _relay_lost,
    }

    def _from_children(self) -> list[Any]:
        """Where they put what they have to say."""
        if self._inner is None:
            self._inner = []
        return self._inner

    def _settle(self, now: float) -> None:
        """Act on what the children have said, and tell who need not wait any longer."""
        while self._inner:
            output = self._inner.pop(0)
            handler = self._HANDLERS.get(type(output))
            if handler is None:
                self._outputs.append(output)
            else:
                handler(self, now, output)
        for job in list(self._jobs.values()) if self._jobs else ():
            if not job.reported and (job.finished or now >= job.due()):
                job.given_up(now)
                job.reported = True
                self._outputs.append(Gathered(job.component))
            if job.finished:
                self._jobs = {number: other for number, other in self._jobs.items() if other is not job} or NOTHING

    def handle_timeout(self, now: float) -> None:
        if self._turns is not None and now >= self._next_turn:
            while self._turns:
                if self._turns.popleft()(now):
                    self._next_turn = now + self._ta
                    break
            if not self._turns:
                self._turns = None
        for child in (self._reflexive, self._relays):
            if child is not None:
                child.handle_timeout(now)
        self._settle(now)

    def poll_output(self) -> Any:
        """As a machine's, with :class:`Found`, :class:`BaseLost` and :class:`Gathered` for the agent between them."""
        return self._outputs.pop(0) if self._outputs else None

    def poll_timeout(self) -> float | None:
        if not (self._jobs or self._turns or self._reflexive or self._relays):
            return None
        times = [job.due() for job in self._jobs.values() if not job.reported]
        if self._turns:
            times.append(self._next_turn)
        for child in (self._reflexive, self._relays):
            if child is not None and (due := child.poll_timeout()) is not None:
                times.append(due)
        return min(times) if times else None
