"""The ICE agent: one data stream, its components, its generations (RFC 8445, 8838, 8863, 7675).

It owns the gatherer, the checker, the selection and the consent of its components; it publishes from whom data is
accepted and through what it leaves, and never sees that data.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from .accepting import Accepting
from .bases import BaseLost, Found, Withdrawn
from .candidate import Candidate
from .checklist import Base, CheckList, Pair
from .connectivity import Checker
from .demux import is_stun
from .events import ConnectionClosed, ConnectionState, LocalCandidate
from .gathering import Gathered, Gatherer
from .generation import Generation
from .machine import Deliver, Done, Notify, Reason, Resolved, SendFailed, Transmit, Tunables
from .outcomes import ConsentAnswered, ConsentRefused, Dead, Heard, Nominated, PeerChecks, RoleChanged, Valid
from .record import Record
from .remotes import Remotes
from .selection import DIRECT_PATIENCE, RELAY_PATIENCE, Selection
from .sending import DoubtsChanged, Sending, SendingEnded, Silent
from .servers import RelayPermits, RelayRefused, RelayUnreachable, StunServer, TurnServer
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .inquiries import ServerReport
    from .machine import Address, Output, Report
    from .rewrites import AddressRewrite


class AgentConfig(Record):
    """What an agent is told once. Times in seconds."""

    controlling: bool
    components: int = 1
    stun_server: StunServer | None = None
    turn_server: TurnServer | None = None
    #: Further servers to ask.
    servers: tuple[StunServer | TurnServer, ...] = ()
    #: Address families of relays, the most wanted first; without one there are none.
    relay_families: tuple[int, ...] = (4, 6)
    relay_only: bool = False
    #: The types of local candidates that are offered; all if None.
    candidate_types: frozenset[str] | None = None
    address_rewrites: tuple[AddressRewrite, ...] = ()
    #: Whether an address of the peer may be sent checks, by its text; None for all.
    remote_filter: Callable[[str], bool] | None = None
    #: ICE-lite (RFC 8445 §2.5): host candidates only, answers checks and sends none.
    lite: bool = False
    #: Distance of two ordinary checks (RFC 8445 §14.2; docs/rfc.md says why 5 ms).
    ta: float = 0.005
    #: RFC 8445 §6.1.2.5.
    max_pairs: int = 100
    direct_patience: float = DIRECT_PATIENCE
    relay_patience: float = RELAY_PATIENCE
    #: RFC 8863 §4: failure is not declared earlier; None for the time-out of a transaction.
    patience: float | None = None


class Agent(Session):
    """An ICE agent without I/O; see :mod:`aioice.core.machine` for how to run it.

    ``random(n)`` gives n random bytes. The verbs take the time first; each must be followed by a drain of
    :meth:`poll_output`.
    """

    __slots__ = (
        "_random",
        "next_number",
        "_inner",
        "_end_told",
        "_done_told",
    )

    def __init__(
        self,
        config: AgentConfig,
        random: Callable[[int], bytes],
        local_username: str,
        local_password: str,
        tunables: Tunables | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self._random = random
        self._tunables = tunables or Tunables()
        self._outputs = []
        #: A number for a link or a query, never used before.
        self.next_number: Callable[[], int] = count(1).__next__
        #: What the children have to say, in its order.
        inner: list[Any] = []
        self._inner = inner
        self._bases = {}
        self._gatherer = Gatherer(
            random,
            self.next_number,
            self._tunables,
            self._bases,
            relay_only=config.relay_only,
            families=config.relay_families,
            types=config.candidate_types,
            rewrites=config.address_rewrites,
            ta=config.ta,
            outputs=inner,
        )
        self.set_servers(0.0, config.stun_server, config.turn_server)
        controlling = config.controlling and not config.lite
        self._checker = Checker(
            random, self._tunables, controlling=controlling, lite=config.lite, ta=config.ta, outputs=inner
        )
        self._sending = Sending(random, self._tunables, lite=config.lite, outputs=inner)
        self._remotes = Remotes(config, self.next_number, self._bases, self._checker, self._sending, self._outputs)
        self._local_candidates = []
        self._ungathered = tuple(range(1, config.components + 1))
        self._end_told = False
        self._accepting = Accepting(self._outputs)
        self._done_told = False
        self._generation = self._new_generation(local_username, local_password)
        self._checker.use([self._generation])

    def _new_generation(self, username: str, password: str) -> Generation:
        config = self._config
        return Generation(
            username,
            password,
            config.components,
            CheckList(self._checker.controlling, config.max_pairs),
            Selection(config.direct_patience, config.relay_patience),
        )

    # ------------------------------------------------------------------------------------------------------- nouns

    @property
    def state(self) -> ConnectionState:
        return self._state

    @property
    def controlling(self) -> bool:
        return self._checker.controlling

    @property
    def drops(self) -> Counter[str]:
        """Datagrams that were not acted on, by reason."""
        return self._checker.drops

    @property
    def local_candidates(self) -> list[Candidate]:
        return self._local_candidates

    @property
    def gathering_ended(self) -> bool:
        """The end of the local candidates was told; what is found later is told all the same."""
        return self._end_told

    @property
    def server_reports(self) -> list[ServerReport]:
        """How the servers have answered so far, those that have not among them."""
        return self._gatherer.reports

    @property
    def server_waits(self) -> list[tuple[str, float, float]]:
        """For what servers gathering has waited in vain: their URI, from when and until when."""
        return self._gatherer.waits

    @property
    def remote_candidates(self) -> list[Candidate]:
        return self._generation.remote_candidates

    def can_pair(self, link: int | None, remote: Candidate) -> bool:
        """Whether what is behind the link can be one pair with this remote candidate."""
        base = None if link is None else self._bases.get(link)
        return base is not None and base.candidate.can_pair_with(remote)

    @property
    def check_list(self) -> list[Pair]:
        return self._generation.checks.pairs

    @property
    def generation(self) -> Generation:
        """The current one, to look at."""
        return self._generation

    @property
    def components(self) -> int:
        return self._config.components

    @property
    def config(self) -> AgentConfig:
        return self._config

    def pair_in_use(self, component: int) -> Pair | None:
        """The pair that carries the data of a component; None also for one that was chosen without checks."""
        use = self._sending.use_of(component)
        return None if use is None else use.pair

    # ------------------------------------------------------------------------------------------------ verbs: candidates

    def gather(self, now: float, component: int, hosts: Sequence[str], timeout: float) -> None:
        """Find candidates of one component from the addresses ``hosts``; ends in ``Notify(Gathered(component))``."""
        if self._closed:
            return
        self._ungathered = tuple(other for other in self._ungathered if other != component)
        self._gatherer.gather(now, component, hosts, timeout)
        self._drain_children(now)

    def hide(self, now: float, names: Mapping[str, str]) -> None:
        """Show these names in place of the addresses of this host, from now on: of candidates that are found later.

        Whoever runs the agent answers for the names.
        """
        self._gatherer.names = dict(names)  # the caller's may change later, unseen by a trace

    def adopt(self, now: float, candidate: Candidate, preference: int = 0xFFFF) -> int:
        """Take over a host candidate whose socket the application opened itself; returns the number of its link."""
        base = Base(self.next_number(), candidate, preference)
        if not self._closed:
            self._gatherer.adopt(base)
            self._found(now, Found(base, candidate))
            self._drain_children(now)
        return base.link

    def end_gathering(self, now: float) -> None:
        """Nothing more will be gathered or adopted, also for components that neither was done for."""
        self._ungathered = ()
        self._changed = True
        self._drain_children(now)

    def set_servers(self, now: float, stun_server: StunServer | None, turn_server: TurnServer | None) -> None:
        """The servers to ask beside those of the configuration; a lite agent asks none (RFC 8445 §2.5)."""
        if not self._config.lite:
            named = tuple(server for server in (stun_server, turn_server) if server is not None)
            self._gatherer.servers = named + self._config.servers

    def set_interfaces(self, now: float, interfaces: Mapping[str, str]) -> None:
        """The names of the interfaces by their addresses, for the rewrites that are for one."""
        self._gatherer.interfaces = dict(interfaces)

    def set_local_credentials(self, now: float, username: str, password: str) -> None:
        if (username, password) != (self._generation.local_username, self._generation.local_password):
            self._generation.set_local_credentials(username, password)

    def set_controlling(self, now: float, controlling: bool) -> None:
        """The role, until checks start; a lite agent is always controlled (RFC 8445 §6.1.1)."""
        if not (self._generation.checking or self._config.lite):
            self._checker.set_role(controlling)
            self._drain_children(now)

    def add_remote_candidate(self, now: float, candidate: Candidate | None) -> None:
        """A candidate of the peer, or None for the end of them."""
        if not self._closed:
            self._remotes.add(now, candidate)
            self._changed = True
            self._drain_children(now)

    # -------------------------------------------------------------------------------------------------- verbs: session

    def connect(self, now: float, remote_username: str, remote_password: str, remote_is_lite: bool = False) -> None:
        """Start the checks; the state tells how they end."""
        generation = self._generation
        if generation.checking or self._closed:
            return
        if remote_is_lite and not self._config.lite:
            # RFC 8445 §6.1.1: the full agent controls.
            self._checker.set_role(True)
        generation.set_remote_credentials(remote_username, remote_password)
        if foreign := generation.drop_foreign():
            self.drops["candidate of another session"] += foreign
        generation.remote_is_lite = remote_is_lite
        generation.checking = True
        if generation.checking_since is None:
            generation.checking_since = now
        generation.patience_ends = now + self._patience
        self._abandon_at = None
        generation.patience_over = False
        for pair in [pair for pair in generation.checks.pairs if pair.base.link not in self._bases]:
            generation.checks.remove(pair)
        generation.checks.freeze_anew()
        self._set_state(ConnectionState.CHECKING)
        self._checker.start(now, generation)
        self._changed = True
        self._drain_children(now)

    def restart(self, now: float, local_username: str, local_password: str) -> None:
        """A new generation (RFC 8445 §9); the old pair carries data until one of the new generation is selected."""
        if self._closed:
            return
        in_use = [use.generation for use in self._sending.uses]
        previous = [generation for generation in self._checker.generations if generation in in_use]
        self._generation = self._new_generation(local_username, local_password)
        self._checker.use([self._generation, *previous])
        self._accepting.restart()
        self._gatherer.keep(now, True)
        self._drain_children(now)

    def select(self, now: float, component: int, link: int, remote: Candidate) -> None:
        """Use this pair, unchecked: for a peer without ICE."""
        if self._closed:
            return
        self._sending.force(component, link, remote)
        self._accept(link, (remote.address, remote.port), component, proven=True)
        self._drain_children(now)
        if self._state is ConnectionState.NEW and self._sending.forced.keys() >= set(self._generation.components):
            self._set_state(ConnectionState.COMPLETED)

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Send application data from a relayed address."""
        self._gatherer.relay(now, link, peer, data)
        self._drain_children(now)

    def close(self, now: float, reason: str = "closed") -> None:
        """End everything; allocations are deleted in the background, then ``Done`` follows."""
        if self._closed:
            return
        self._closed = True
        self._checker.stop()
        self._sending.close()
        self._drain_children(now)
        self._set_state(ConnectionState.CLOSED, reason)
        self._outputs.append(Notify(ConnectionClosed(reason)))
        self._gatherer.close(now)
        self._drain_children(now)

    # -------------------------------------------------------------------------------------------------------- the world

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        base = self._bases.get(link)
        if base is None or self._remotes.forbids(peer[0]):
            self._gatherer.handle_datagram(now, link, peer, data)
        else:
            if not is_stun(data):
                self._gatherer.not_stun(now, link, peer, data)
            self._handle_stun(now, base, peer, data)
        self._drain_children(now)

    def _handle_stun(self, now: float, base: Base, peer: Address, data: bytes) -> None:
        answer = self._checker.handle_stun(now, base, peer, data)
        if answer is not None:
            self._gatherer.handle_answer(now, base.link, peer, answer)

    def handle_report(self, now: float, report: Report) -> None:
        if isinstance(report, Tunables):
            self._tune(report)
        elif isinstance(report, Resolved) and self._remotes.resolved(report):
            self._changed = True
        else:
            if isinstance(report, SendFailed) and report.reason is not Reason.TOO_BIG:
                self._checker.unreachable(now, report.link, report.peer, report.reason)
            self._gatherer.handle_report(now, report)
        self._drain_children(now)

    def _tune(self, tunables: Tunables) -> None:
        self._tunables = tunables
        self._gatherer.tune(tunables)
        self._checker.tune(tunables)
        self._sending.tune(tunables)

    def is_server_link(self, link: int) -> bool:
        """Whether all that comes over the link is the machine's, as from a TURN server."""
        return self._gatherer.is_server_link(link)

    def awaits_server(self, link: int, peer: Address) -> bool:
        """Whether a STUN server at ``peer`` has been asked over the link: then all that comes from there is ours."""
        return self._gatherer.awaits_server(link, peer)

    # -------------------------------------------------------------------------------------------------------- children

    def _drain_children(self, now: float) -> None:
        """Act on what the children have to say, then go on, until all is quiet."""
        handlers, inner = self._HANDLERS, self._inner
        while True:
            while inner:
                output = inner.pop(0)
                handler = handlers.get(type(output))
                if handler is None:
                    self._outputs.append(output)
                else:
                    handler(self, now, output)
            if not self._changed:
                break
            self._changed = False
            self._go_on(now)
        if self._closed:
            if self._gatherer.done and not self._done_told:
                self._done_told = True
                self._outputs.append(Done("closed"))
        elif not (self._end_told or self._ungathered) and self._gatherer.idle:
            self._end_told = True
            self._outputs.append(Notify(LocalCandidate(None)))
            self._go_on(now)
            self._drain_children(now)

    def _found(self, now: float, found: Found) -> None:
        """A local candidate; its base is paired if it is new (RFC 8445 §6.1.2.4 replaces reflexive ones by their
        base).
        """
        base, candidate = found
        types = self._config.candidate_types
        if candidate is base.shown:
            self._outputs.append(Notify(found))
        if types is None or candidate.type in types:
            self._local_candidates.append(candidate)
            self._outputs.append(Notify(LocalCandidate(candidate)))
        if candidate is base.shown:
            self._remotes.pair([base])
            self._changed = True

    def _base_lost(self, now: float, lost: BaseLost) -> None:
        self._local_candidates[:] = [c for c in self._local_candidates if c not in lost.candidates]
        self._outputs.append(Notify(lost))
        self._checker.base_lost(lost.link)
        self._accepting.base_lost(lost.link)
        lost_pairs = [
            (g, pair) for g in self._checker.generations for pair in g.checks.pairs if pair.base.link == lost.link
        ]
        for generation, pair in lost_pairs:
            generation.checks.fail(pair, f"local socket lost: {lost.detail}")
        for generation, pair in lost_pairs:
            self._dead(now, Dead(generation, pair))
        if any(link == lost.link for link, _ in self._sending.forced.values()):
            self.close(now, f"local socket lost: {lost.detail}")

    def _withdrawn(self, now: float, withdrawn: Withdrawn) -> None:
        self._local_candidates[:] = [c for c in self._local_candidates if c is not withdrawn.candidate]
        self._outputs.append(Notify(withdrawn))

    def _gathered(self, now: float, gathered: Gathered) -> None:
        self._outputs.append(Notify(gathered))

    def _deliver(self, now: float, deliver: Deliver) -> None:
        """A datagram that a relay unwrapped."""
        if is_stun(deliver.data):
            if not self._remotes.forbids(deliver.peer[0]):
                self._handle_stun(now, self._bases[deliver.link], deliver.peer, deliver.data)
        else:
            self._outputs.append(deliver)

    def _transmit(self, now: float, transmit: Transmit) -> None:
        """What leaves from a relayed base leaves wrapped."""
        base = self._bases.get(transmit.link)
        if base is not None and base.candidate.type == "relay":
            self._gatherer.relay(now, *transmit)
        else:
            self._outputs.append(transmit)

    def _relay_refused(self, now: float, refused: RelayRefused) -> None:
        why = f"the relay refuses the peer with error {refused.code}"
        self._checker.refused_by_relay(now, refused.link, refused.peer, why)

    def _relay_permits(self, now: float, permits: RelayPermits) -> None:
        self._checker.permitted(permits.link, permits.host)

    def _relay_unreachable(self, now: float, unreachable: RelayUnreachable) -> None:
        self._checker.unreachable(now, *unreachable)

    def _heard(self, now: float, heard: Heard) -> None:
        self._accept(heard.base.link, heard.peer, heard.base.candidate.component, proven=False)

    # ---------------------------------------------------------------------------------------------------- time, outputs

    def handle_timeout(self, now: float) -> None:
        self._gatherer.handle_timeout(now)
        if self._inner:
            self._drain_children(now)  # nothing may leave from a relay that it has just lost
        if not self._closed:
            generation = self._generation
            self._checker.handle_timeout(now)
            for use, consent in self._sending.to_ask(now):
                if consent.outstanding:
                    # It may be the relay that has forgotten us: a new one can be had before consent expires.
                    self._gatherer.probe(now, use.pair.base.link)
                timeout = consent.time_to_answer
                consent.asked(now, self._checker.ask_consent(now, use.generation, use.pair, timeout))
            if self._abandon_at is not None and now >= self._abandon_at:
                self.close(now, "the restart was not followed by connect()")
            if generation.checking:
                if not generation.patience_over and now >= generation.patience_ends:
                    generation.patience_over = self._changed = True
                due = generation.selection.due
                if due is not None and now >= due:
                    self._changed = True
        self._drain_children(now)

    def poll_output(self) -> Output | None:
        return self._outputs.pop(0) if self._outputs else None

    def poll_timeout(self) -> float | None:
        earliest = self._gatherer.poll_timeout()
        if self._closed:
            return earliest
        generation = self._generation
        due = ends = None
        if generation.checking:
            due = generation.selection.due
            # When failure may be declared for want of pairs; afterwards, the end of a check declares it.
            if self._state is ConnectionState.CHECKING and not (generation.patience_over or self._config.lite):
                ends = generation.patience_ends
        for time in (self._checker.poll_timeout(), self._sending.poll_timeout(), self._abandon_at, due, ends):
            if time is not None and (earliest is None or time < earliest):
                earliest = time
        return earliest

    _HANDLERS: ClassVar[dict[type, Callable[[Agent, float, Any], None]]] = {
        Found: _found,
        BaseLost: _base_lost,
        Withdrawn: _withdrawn,
        Gathered: _gathered,
        Deliver: _deliver,
        Transmit: _transmit,
        RelayRefused: _relay_refused,
        RelayPermits: _relay_permits,
        RelayUnreachable: _relay_unreachable,
        Heard: _heard,
        RoleChanged: Session._progressed,
        PeerChecks: Session._progressed,
        Valid: Session._valid,
        Nominated: Session._nominated,
        Dead: Session._dead,
        ConsentAnswered: Session._consent_answered,
        ConsentRefused: Session._consent_refused,
        SendingEnded: Session._sending_ended,
        DoubtsChanged: Session._doubts_changed,
        Silent: Session._silent,
    }
