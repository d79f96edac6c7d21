"""From addresses and servers to candidates (RFC 8445 §5.1.1): a child machine of the agent.

It knows bases, server-reflexive queries and allocations; it does not know pairs. The agent hands it what arrives on
its server links and the answers it asked for, and drains it into its own queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .address import canonical_host
from .candidate import Candidate, candidate_foundation, candidate_priority, local_preferences
from .checklist import Base
from .machine import (
    Close,
    LinkClosed,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Resolve,
    Resolved,
    SendFailed,
    Transmit,
)
from .machine import Done as ChildDone
from .message import Class, Message, Method
from .record import Record
from .requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .allocation import Allocated, Allocation
    from .machine import Address, Reason, Report, Tunables

#: A server that shows no sign of life holds gathering this long, in seconds: two transmissions of a query (RFC 8489
#: §6.2.1) and an answer.
SILENCE = 1.0


class StunServer(Record):
    host: str
    port: int


class TurnServer(Record):
    host: str
    port: int
    transport: str = "udp"
    tls: bool = False
    username: str | None = None
    password: str | None = None


class Found(Record):
    """A candidate; that of the base itself if it is ``base.candidate``."""

    base: Base
    candidate: Candidate


class BaseLost(Record):
    link: int
    detail: str


class RelayRefused(Record):
    """The TURN server does not let us send to this peer."""

    link: int
    peer: Address
    code: int


class RelayPermits(Record):
    """The TURN server relays to this host from now on; what was sent there before may have been lost."""

    link: int
    host: str


class RelayUnreachable(Record):
    """What the TURN server relayed to this peer did not arrive: ICMP says so."""

    link: int
    peer: Address
    reason: Reason


class Gathered(Record):
    """Whoever waits for the candidates of this component need not wait longer; late ones may still be found."""

    component: int


class Job:
    """The gathering of one component."""

    __slots__ = ("component", "silence_ends", "deadline", "opening", "asked", "alive", "reported", "preferences")

    def __init__(self, now: float, component: int, timeout: float) -> None:
        self.component = component
        self.silence_ends = now + min(SILENCE, timeout)
        self.deadline = now + timeout
        #: Sockets being opened: link to address.
        self.opening: dict[int, str] = {}
        #: What is still unanswered: transaction ids, look-ups (server objects) and allocations.
        self.asked: set[object] = set()
        #: Those of them that have shown signs of life.
        self.alive: set[object] = set()
        self.reported = False
        self.preferences: dict[str, int] = {}

    @property
    def finished(self) -> bool:
        return not self.opening and not self.asked

    def due(self) -> float:
        return self.deadline if self.opening or self.asked & self.alive else self.silence_ends


class Gatherer:
    """Gathers for the components of one agent."""

    __slots__ = (
        "stun_server",
        "turn_server",
        "_random",
        "_next_link",
        "_relay_only",
        "_requests",
        "_outputs",
        "_jobs",
        "_bases",
        "_known",
        "_queries",
        "_stun_addresses",
        "_stun_asked",
        "_allocations",
        "_allocating_for",
        "_server_links",
        "_closed",
    )

    def __init__(
        self,
        random: Callable[[int], bytes],
        next_link: Callable[[], int],
        tunables: Tunables,
        *,
        relay_only: bool,
        outputs: list[Any] | None = None,
    ) -> None:
        self.stun_server: StunServer | None = None
        self.turn_server: TurnServer | None = None
        self._random = random
        self._next_link = next_link
        self._relay_only = relay_only
        self._requests = Requests(tunables)
        self._outputs: list[Any] = [] if outputs is None else outputs
        self._jobs: dict[int, Job] = {}
        self._bases: dict[int, Base] = {}
        self._known: list[tuple[int, Address, Address]] = []
        self._queries: dict[int, tuple[Job, StunServer | TurnServer]] = {}
        self._stun_addresses: tuple[str, ...] | None = None
        self._stun_asked: list[tuple[int, Address]] = []
        #: By each of their links.
        self._allocations: dict[int, Allocation] = {}
        self._allocating_for: dict[Allocation, Job] = {}
        #: Links to TURN servers, and whether they are streams: then it is a sign of life that they open.
        self._server_links: dict[int, bool] = {}
        self._closed = False

    # -------------------------------------------------------------------------------------------------------- verbs

    def gather(self, now: float, component: int, hosts: Sequence[str], timeout: float) -> None:
        """Open a socket on each of ``hosts`` and ask the servers; :class:`Gathered` follows within ``timeout``
        seconds. Begun anew, it gives up what it was still opening.
        """
        before = self._jobs.get(component)
        if before is not None:
            for link in before.opening:
                self._outputs.append(Close(link))
        job = self._jobs[component] = Job(now, component, timeout)
        job.preferences = dict(zip(hosts, local_preferences(hosts), strict=True))
        for server in (self.stun_server if hosts else None, self.turn_server):
            if server is not None:
                self._look_up(now, job, server)
        for host in hosts:
            link = self._next_link()
            job.opening[link] = host
            self._outputs.append(OpenUdp(link, host))
        self._report_ends(now)

    def adopt(self, base: Base) -> None:
        """A base that the application opened itself."""
        self._bases[base.link] = base

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Send to ``peer`` from the relayed address behind ``link``."""
        allocation = self._allocations.get(link)
        if allocation is not None:
            allocation.send(now, peer, data)
            self._drain(now, allocation)

    def tune(self, tunables: Tunables) -> None:
        self._requests.tunables = tunables

    def close(self, now: float) -> None:
        """Close all sockets; allocations go on until their deletion is answered or a second has passed."""
        self._closed = True
        self._requests.end_all()
        for job in self._jobs.values():
            for link in job.opening:
                self._outputs.append(Close(link))
            job.opening.clear()
            job.asked.clear()
        for link in self._bases:
            if link not in self._allocations:
                self._outputs.append(Close(link))
        self._bases.clear()
        for allocation in list(self._allocating_for):
            allocation.close(now)
            self._drain(now, allocation)
        self._report_ends(now)

    @property
    def idle(self) -> bool:
        """Nothing more will be found."""
        return all(job.finished for job in self._jobs.values())

    @property
    def done(self) -> bool:
        return self._closed and not self._allocations

    def is_server_link(self, link: int) -> bool:
        return link in self._server_links

    # ---------------------------------------------------------------------------------------------- servers and queries

    def _look_up(self, now: float, job: Job, server: StunServer | TurnServer) -> None:
        try:
            address = canonical_host(server.host)
        except ValueError:
            if isinstance(server, StunServer) and self._stun_addresses is not None:
                return
            query = self._next_link()
            self._queries[query] = (job, server)
            job.asked.add(query)
            self._outputs.append(Resolve(query, server.host))
        else:
            self._resolved(now, job, server, (address,))

    def _resolved(self, now: float, job: Job, server: StunServer | TurnServer, addresses: tuple[str, ...]) -> None:
        if isinstance(server, TurnServer):
            if addresses:
                self._allocate(now, job, server, addresses[0])
            return
        self._stun_addresses = addresses
        for base in self._bases.values():
            if base.candidate.type == "host" and base.candidate.component == job.component:
                self._ask_stun(now, base)

    def _ask_stun(self, now: float, base: Base) -> None:
        """One query for each address of the server in the base's family (RFC 8445 §5.1.1.2)."""
        if self.stun_server is None or base.candidate.component not in self._jobs:
            return
        job = self._jobs[base.candidate.component]
        for host in self._stun_addresses or ():
            if (":" in host) != (":" in base.candidate.host):
                continue
            server = (host, self.stun_server.port)
            if (base.link, server) in self._stun_asked:
                continue
            self._stun_asked.append((base.link, server))
            message = Message(Method.BINDING, Class.REQUEST, self._random(12))
            message.add_fingerprint()
            data = bytes(message)
            self._requests.start(now, message.transaction_id, data, base.link, server, (job, base))
            job.asked.add(message.transaction_id)
            self._outputs.append(Transmit(base.link, server, data))

    def _allocate(self, now: float, job: Job, server: TurnServer, address: str) -> None:
        from .allocation import Allocation, AllocationConfig  # costs a tenth of our import, and few programs need it

        config = AllocationConfig(
            server=(address, server.port),
            transport=server.transport,
            server_name=server.host if server.tls else None,
            username=server.username,
            password=server.password,
        )
        allocation = Allocation(config, self._random, self._next_link, self._requests.tunables)
        self._allocating_for[allocation] = job
        job.asked.add(allocation)
        allocation.start(now)
        self._drain(now, allocation)

    # ------------------------------------------------------------------------------------------------------- the world

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Something came over a server's link."""
        allocation = self._allocations.get(link)
        if allocation is not None:
            self._allocating_for[allocation].alive.add(allocation)
            allocation.handle_datagram(now, link, peer, data)
            self._drain(now, allocation)
        self._report_ends(now)

    def handle_answer(self, now: float, link: int, peer: Address, message: Message) -> None:
        """A STUN answer that is not one to a check: a STUN server's, if we asked."""
        request = self._requests.match(message.transaction_id, link, peer)
        if request is None:
            return
        self._requests.end(request)
        job, base = request.context
        job.asked.discard(message.transaction_id)
        if message.message_class is Class.RESPONSE and not message.unknown_required:
            # An RFC 3489 server knows MAPPED-ADDRESS only (RFC 8489 §11).
            mapped = message.attributes.get("XOR-MAPPED-ADDRESS") or message.attributes.get("MAPPED-ADDRESS")
            if mapped is not None:
                self._found_reflexive(base, mapped, peer)
        self._report_ends(now)

    def _found_reflexive(self, base: Base, mapped: Address, server: Address) -> None:
        host = base.candidate
        if not mapped[1] or mapped == (host.host, host.port):
            return  # redundant (RFC 8445 §5.1.3)
        key = (host.component, mapped, (host.host, host.port))
        if key in self._known:
            return
        self._known.append(key)
        candidate = Candidate(
            foundation=candidate_foundation("srflx", "udp", host.host, server=server[0]),
            component=host.component,
            transport="udp",
            priority=candidate_priority(host.component, "srflx", base.preference),
            host=mapped[0],
            port=mapped[1],
            type="srflx",
            related_address=host.host,
            related_port=host.port,
        )
        self._outputs.append(Found(base, candidate))

    def handle_report(self, now: float, report: Report) -> None:
        if isinstance(report, Resolved):
            if report.query in self._queries:
                job, server = self._queries.pop(report.query)
                job.asked.discard(report.query)
                if not self._closed:
                    self._resolved(now, job, server, report.addresses)
        elif isinstance(report, Opened | OpenFailed | LinkClosed | SendFailed):
            self._link_report(now, report)
        self._report_ends(now)

    def _link_report(self, now: float, report: Opened | OpenFailed | LinkClosed | SendFailed) -> None:
        allocation = self._allocations.get(report.link)
        if allocation is not None:
            if isinstance(report, Opened) and self._server_links.get(report.link):
                self._allocating_for[allocation].alive.add(allocation)
            allocation.handle_report(now, report)
            self._drain(now, allocation)
            return
        if isinstance(report, SendFailed):
            self._end_queries(report.link, report.peer)
        elif isinstance(report, LinkClosed):
            self._end_queries(report.link, None)
            if self._bases.pop(report.link, None) is not None:
                self._outputs.append(BaseLost(report.link, f"{report.reason}: {report.detail}"))
                self._outputs.append(Close(report.link))
        else:
            self._opened(now, report)

    def _end_queries(self, link: int, peer: Address | None) -> None:
        """No answer will come from ``peer``, or from anybody, over this link."""
        for request in self._requests.all():
            if request.link == link and peer in (None, request.peer):
                self._requests.end(request)
                request.context[0].asked.discard(request.transaction_id)

    def _opened(self, now: float, report: Opened | OpenFailed) -> None:
        job = next((job for job in self._jobs.values() if report.link in job.opening), None)
        if job is None:
            if isinstance(report, Opened) and report.link not in self._bases:
                self._outputs.append(Close(report.link))
            return
        host = job.opening.pop(report.link)
        if isinstance(report, OpenFailed):
            return
        preference = job.preferences[host]
        candidate = Candidate(
            foundation=candidate_foundation("host", "udp", report.local[0]),
            component=job.component,
            transport="udp",
            priority=candidate_priority(job.component, "host", preference),
            host=report.local[0],
            port=report.local[1],
            type="host",
        )
        base = self._bases[report.link] = Base(report.link, candidate, preference)
        self._outputs.append(Found(base, candidate))
        self._ask_stun(now, base)

    # ------------------------------------------------------------------------------------------------------ allocations

    def _drain(self, now: float, allocation: Allocation) -> None:
        from .allocation import Allocated, AllocationFailed, AllocationLost, PeerRefused, PeerUnreachable, Permitted

        job = self._allocating_for[allocation]
        while (output := allocation.poll_output()) is not None:
            if isinstance(output, OpenUdp | OpenStream | OpenRelay):
                self._allocations[output.link] = allocation
                if not isinstance(output, OpenRelay):
                    self._server_links[output.link] = isinstance(output, OpenStream)
                self._outputs.append(output)
            elif isinstance(output, Allocated):
                job.asked.discard(allocation)
                self._found_relayed(job, output)
            elif isinstance(output, AllocationFailed):
                job.asked.discard(allocation)
            elif isinstance(output, AllocationLost):
                self._bases.pop(output.relay_link, None)
                self._outputs.append(BaseLost(output.relay_link, output.detail))
            elif isinstance(output, PeerRefused):
                self._outputs.append(RelayRefused(output.relay_link, output.peer, output.code))
            elif isinstance(output, Permitted):
                self._outputs.append(RelayPermits(*output))
            elif isinstance(output, PeerUnreachable):
                self._outputs.append(RelayUnreachable(*output))
            elif isinstance(output, ChildDone):
                del self._allocating_for[allocation]
                for link in [link for link, owner in self._allocations.items() if owner is allocation]:
                    del self._allocations[link]
                    self._server_links.pop(link, None)
            else:
                self._outputs.append(output)

    def _found_relayed(self, job: Job, allocated: Allocated) -> None:
        related: Address = allocated.mapped
        if self._relay_only:
            # The reflexive address is what the policy hides (RFC 9429 §3.5.3, in the form of RFC 8839 §5.1).
            related = ("::" if ":" in allocated.relayed[0] else "0.0.0.0", 9)
        candidate = Candidate(
            foundation=candidate_foundation("relay", "udp", allocated.relayed[0]),
            component=job.component,
            transport="udp",
            priority=candidate_priority(job.component, "relay"),
            host=allocated.relayed[0],
            port=allocated.relayed[1],
            type="relay",
            related_address=related[0],
            related_port=related[1],
        )
        base = self._bases[allocated.relay_link] = Base(allocated.relay_link, candidate, 0xFFFF)
        self._outputs.append(Found(base, candidate))

    # ---------------------------------------------------------------------------------------------------- time, outputs

    def handle_timeout(self, now: float) -> None:
        if not (self._jobs or self._allocations or len(self._requests)):
            return
        again, failed = self._requests.handle_timeout(now)
        for request in again:
            self._outputs.append(Transmit(request.link, request.peer, request.data))
        for request in failed:
            request.context[0].asked.discard(request.transaction_id)
        for allocation in list(self._allocating_for):
            allocation.handle_timeout(now)
            self._drain(now, allocation)
        self._report_ends(now)

    def _report_ends(self, now: float) -> None:
        for job in list(self._jobs.values()):
            if not job.reported and (job.finished or now >= job.due()):
                job.reported = True
                self._outputs.append(Gathered(job.component))
            if job.finished:
                self._jobs = {number: other for number, other in self._jobs.items() if other is not job}

    def poll_output(self) -> Any:
        """As a machine's, with :class:`Found`, :class:`BaseLost` and :class:`Gathered` for the agent between them."""
        return self._outputs.pop(0) if self._outputs else None

    def poll_timeout(self) -> float | None:
        if not (self._jobs or self._allocations or len(self._requests)):
            return None
        times = [job.due() for job in self._jobs.values() if not job.reported]
        if (deadline := self._requests.poll_timeout()) is not None:
            times.append(deadline)
        if self._allocating_for:
            ends = [allocation.poll_timeout() for allocation in self._allocating_for]
            times += [deadline for deadline in ends if deadline is not None]
        return min(times) if times else None
