"""From addresses and servers to candidates (RFC 8445 §5.1.1): a child machine of the agent.

It says when nobody need wait for more candidates; what becomes of what is found stands in :mod:`aioice.core.bases`. How
servers are asked is the business of its children, :mod:`aioice.core.reflexive` for STUN and :mod:`aioice.core.relays`
for TURN; neither is there before there is a server. It does not know pairs: the agent hands it what arrives on its
server links and the answers it asked for, and drains it into its own queue.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from .address import canonical_host
from .bases import Bases, Found
from .candidate import local_preferences
from .hiding import shown_report
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

    from .checklist import Base
    from .inquiries import Inquiry, ServerReport
    from .machine import Address, Report, Tunables
    from .message import Message
    from .questions import Questions
    from .reflexive import Reflexive
    from .relays import Relays
    from .rewrites import AddressRewrite

__all__ = ["Found", "Gathered", "Gatherer", "RelayRefused", "StunServer", "TurnServer"]

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


class Gathered(Record):
    """Whoever waits for the candidates of this component need not wait longer; late ones may still be found."""

    component: int


class Gatherer(Bases):
    """Gathers for the components of one agent."""

    __slots__ = (
        "servers",
        "_random",
        "_next_link",
        "_tunables",
        "_families",
        "_ta",
        "_inner",
        "_jobs",
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
        bases: dict[int, Base],
        *,
        relay_only: bool,
        families: tuple[int, ...] = (4, 6),
        types: Collection[str] | None = None,
        rewrites: Sequence[AddressRewrite] = (),
        ta: float = TA,
        outputs: list[Any] | None = None,
    ) -> None:
        outputs = [] if outputs is None else outputs
        super().__init__(bases, outputs, relay_only=relay_only, types=types, rewrites=rewrites)
        #: Whom :meth:`gather` asks.
        self.servers: Sequence[StunServer | TurnServer] = ()
        self._random = random
        self._next_link = next_link
        self._tunables = tunables
        #: Of relayed addresses; none are asked for without one.
        self._families = families
        self._ta = ta
        #: What the children have to say, in its order.
        self._inner: list[Any] | None = None
        self._jobs: Mapping[int, Job] = NOTHING
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
        for link in (*self._bases, *self._silent):
            if self._relays is None or not self._relays.owns(link):
                self._outputs.append(Close(link))
        self._bases.clear()
        self._silent = NOTHING
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
        for base in self._all_bases:
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
        if not (servers and self._families and self._wants("relay")):
            return  # without a family, a server would be asked for what it likes (RFC 8656 §7.2)
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
        elif link in self._bases or link in self._silent:
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
        if self._lost(link, f"{reason}: {detail}" if detail else str(reason)):
            self._outputs.append(Close(link))

    def _opened(self, now: float, report: Opened | OpenFailed) -> None:
        job = next((job for job in self._jobs.values() if report.link in job.opening), None)
        if job is None:
            known = report.link in self._bases or report.link in self._silent
            if isinstance(report, Opened) and not known:
                self._outputs.append(Close(report.link))
            return
        host = job.opening.pop(report.link)
        if isinstance(report, OpenFailed):
            return
        base = self._host_found(job.component, report.link, report.local, job.preferences[host])
        for server, addresses in job.stun:
            self._ask_from(now, job, base, server, addresses)

    # ----------------------------------------------------------------------------------------------------- the children

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
            self._withdraw(base, answer.before)

    def _asked(self, now: float, asked: Asked) -> None:
        self._pend(asked.inquiry)

    def _ended(self, now: float, ended: Ended) -> None:
        for job in self._jobs.values():
            job.ended(now, ended.inquiry)

    _HANDLERS: ClassVar[dict[type, Callable[[Gatherer, float, Any], object]]] = {
        Mapped: _mapped,
        Asked: _asked,
        Ended: _ended,
        Relayed: lambda self, now, relayed: self._relay_found(relayed),
        RelayLost: lambda self, now, lost: self._lost(lost.link, lost.detail),
    }

    # ---------------------------------------------------------------------------------------------------- time, outputs

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
        if not (self._jobs or self._turns or self._reflexive or self._relays):
            return
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
