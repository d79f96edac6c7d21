"""What follows from what is heard of the pairs of an agent: which carry data, and how far the session is.

Valid, nominated, dead; consent lost; connected, completed, failed: each with its reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .candidate import Candidate, candidate_foundation
from .checklist import PairState
from .events import ConnectionState, StateChanged
from .hiding import related_address
from .machine import Notify

if TYPE_CHECKING:
    from .accepting import Accepting
    from .agent import AgentConfig
    from .checklist import Base, Pair
    from .connectivity import Checker
    from .gathering import Gatherer
    from .generation import Generation
    from .machine import Address, Output, Tunables
    from .outcomes import ConsentAnswered, ConsentRefused, Dead, Nominated, PeerChecks, RoleChanged, Valid
    from .remotes import Remotes
    from .sending import DoubtsChanged, Sending, SendingEnded, Silent


class Session:
    """The part of an agent that draws the conclusions; the whole sets what it is made of."""

    __slots__ = (
        "_config",
        "_tunables",
        "_outputs",
        "_gatherer",
        "_checker",
        "_sending",
        "_remotes",
        "_accepting",
        "_bases",
        "_local_candidates",
        "_ungathered",
        "_generation",
        "_state",
        "_changed",
        "_abandon_at",
        "_closed",
    )

    _config: AgentConfig
    _tunables: Tunables
    _outputs: list[Output]
    _gatherer: Gatherer
    _checker: Checker
    _sending: Sending
    _remotes: Remotes
    _accepting: Accepting
    #: What the gatherer has found, by link.
    _bases: dict[int, Base]
    _local_candidates: list[Candidate]
    #: Components that nobody has begun to gather for.
    _ungathered: tuple[int, ...]
    _generation: Generation

    def __init__(self) -> None:
        self._state = ConnectionState.NEW
        #: Something happened that may let us go on.
        self._changed = False
        #: When a restart is given up whose old pair is dead and that is not followed by :meth:`connect`.
        self._abandon_at: float | None = None
        self._closed = False

    def close(self, now: float, reason: str = "closed") -> None:
        """End everything."""
        raise NotImplementedError

    def _accept(self, link: int, peer: Address, component: int, *, proven: bool) -> None:
        if not self._accepting.accept((link, peer), component, proven=proven):
            self._checker.drops["too many sources"] += 1

    def _progressed(self, now: float, output: RoleChanged | PeerChecks) -> None:
        self._changed = True

    def _valid(self, now: float, valid: Valid) -> None:
        generation, pair = valid.generation, valid.pair
        pair.local = self._local_at(pair, valid)
        self._accept(pair.base.link, pair.peer, pair.component, proven=True)
        if generation.selection.valid(now, pair) and self._sending.use_of(pair.component) is None:
            self._send_on(now, generation, pair)
        self._changed = True

    def _local_at(self, pair: Pair, valid: Valid) -> Candidate:
        """The local candidate that the peer saw, peer-reflexive if it is none of ours (RFC 8445 §7.2.5.3.1)."""
        host, port = valid.mapped
        own = pair.base.candidate
        for base in (pair.base, *self._bases.values()):
            candidate = base.candidate
            if candidate.component == own.component and candidate.host == host and candidate.port == port:
                return base.shown
        for candidate in self._local_candidates:
            if candidate.component == own.component and candidate.host == host and candidate.port == port:
                return candidate
        related = related_address(pair.base)
        return Candidate(
            foundation=candidate_foundation("prflx", "udp", pair.base.shown.host),
            component=own.component,
            transport="udp",
            priority=valid.priority,
            host=self._gatherer.names.get(host, host),
            port=port,
            type="prflx",
            related_address=related[0],
            related_port=related[1],
        )

    def _nominated(self, now: float, nominated: Nominated) -> None:
        generation, pair = nominated
        if not generation.selection.nominate(pair):
            return
        self._send_on(now, generation, pair)
        others = [p for p in generation.checks.of_component(pair.component) if p is not pair]
        # RFC 8445 §8.1.2; a better pair may still be nominated by a peer that nominates aggressively.
        for other in [p for p in others if p.state in (PairState.WAITING, PairState.FROZEN)]:
            generation.checks.remove(other)
        self._checker.stop_repeating([p for p in others if self._checker.controlling or p.priority < pair.priority])
        if generation is self._generation and generation.complete:
            self._checker.use([generation])
            self._accepting.settle(self._sending.forced.values())
        self._changed = True

    def _dead(self, now: float, dead: Dead) -> None:
        generation, pair = dead
        if generation.selection.failed(pair):
            valid = [p for p in generation.checks.of_component(pair.component) if p.state is PairState.SUCCEEDED]
            again = min(valid, key=lambda other: other.valid_since is None, default=None)
            if again is not None:
                if again.valid_since is None:
                    again.request = None  # asked whether it still works: from now on consent tells
                generation.selection.valid(now, again)
        use = self._sending.use_of(pair.component)
        if use is not None and use.pair is pair:
            again = generation.selection.pair_of(pair.component)
            lost_relay = pair.base.candidate.type == "relay" and pair.base.link not in self._bases
            if again is None and lost_relay and generation is self._generation:
                # Whoever closes a host's socket means to end the session, and a lost one was its address.
                self._look_for_others(generation, pair)
            if again is not None:
                self._send_on(now, generation, again)
            elif generation is self._generation and (
                generation.checks.unanswered(pair.component) or self._gatherer.hopeful
            ):
                self._interrupt(now, generation, pair)
            else:
                self._sending.end(use, pair.why_failed)
        self._changed = True

    def _interrupt(self, now: float, generation: Generation, pair: Pair) -> None:
        """The pair in use is dead while others are still being checked, or a lost relay is made anew."""
        generation.interrupted = True
        if self._gatherer.hopeful:
            generation.patience_over = False
            generation.patience_ends = now + self._patience
        self._sending.pause(pair.component)
        self._set_state(ConnectionState.CHECKING, pair.why_failed)

    # ---------------------------------------------------------------------------------------------- sending and consent

    def _send_on(self, now: float, generation: Generation, pair: Pair) -> None:
        if self._config.lite and not generation.complete:
            return  # RFC 8445 §12.1.1: all components begin together, in :meth:`_begin_to_send`
        use = self._sending.use_of(pair.component)
        if use is None or generation is self._generation or use.generation is not self._generation:
            self._sending.use(now, generation, pair)  # else the old generation has been replaced already

    def _begin_to_send(self, now: float, generation: Generation) -> None:
        for pair in generation.selection.pairs:
            use = self._sending.use_of(pair.component)
            if use is None or use.generation is not generation:
                self._send_on(now, generation, pair)

    def _sending_ended(self, now: float, ended: SendingEnded) -> None:
        """The end of the connection, unless a restart is under way and may still succeed."""
        generation = self._generation
        if ended.generation is generation or self._state is ConnectionState.FAILED:
            self.close(now, ended.reason)
            return
        generation.interrupted = True
        if not generation.checking:
            self._set_state(ConnectionState.DISCONNECTED, ended.reason)
            self._abandon_at = now + self._patience

    def _silent(self, now: float, silent: Silent) -> None:
        self._checker.give_up(now, silent.generation, silent.pair, silent.reason)

    def _consent_answered(self, now: float, answer: ConsentAnswered) -> None:
        self._sending.answered(now, answer.pair, answer.transaction_id)

    def _doubts_changed(self, now: float, changed: DoubtsChanged) -> None:
        use = self._sending.use_of(changed.component)
        if use is not None and use.generation is self._generation:
            self._generation.selection.doubt(changed.component, use.doubted)
            if use.doubted:
                self._look_for_others(use.generation, use.pair)
        self._changed = True

    def _look_for_others(self, generation: Generation, pair: Pair) -> None:
        """The pairs that the nomination of this one made superfluous are needed now."""
        self._remotes.pair(self._bases.values())
        for other in generation.checks.of_component(pair.component):
            if other is not pair and other.state is PairState.SUCCEEDED:
                other.valid_since = None
                generation.checks.trigger(other)

    def _consent_refused(self, now: float, refused: ConsentRefused) -> None:
        self._sending.refused(refused.pair)

    # -------------------------------------------------------------------------------------------------------- progress

    @property
    def _patience(self) -> float:
        """RFC 8863 §4."""
        patience = self._config.patience
        return self._tunables.transaction_timeout if patience is None else patience

    def _go_on(self, now: float) -> None:
        """Whatever has changed: check, nominate, tell how far we are."""
        generation = self._generation
        if not generation.checking or self._closed:
            return
        self._checker.go_on(now)
        if self._checker.controlling:
            for pair in generation.selection.to_nominate(now, generation.checks, generation.components):
                self._checker.nominate(now, generation, pair)
            self._hurry_nominations(generation)
        if generation.connected:
            complete = generation.complete
            if complete and self._config.lite:
                self._begin_to_send(now, generation)
            if generation.connected_at is None:
                generation.connected_at = now
            self._gatherer.keep(now, not complete)
            if self._sending.doubted:
                self._set_state(ConnectionState.DISCONNECTED, "consent checks are not answered")
            elif complete or self._state is not ConnectionState.COMPLETED:
                self._set_state(ConnectionState.COMPLETED if complete else ConnectionState.CONNECTED)
        else:
            # A pair that was valid may be dead by now, while that of the generation before carries the data.
            self._set_state(ConnectionState.CHECKING)
            reason = self._hopeless(now)
            if reason:
                generation.checking = False
                self._set_state(ConnectionState.FAILED, reason)
                # RFC 8445 §12.1: data of the components that had a pair ends, too; that of an old generation goes on.
                for use in [use for use in self._sending.uses if use.generation is generation]:
                    self._sending.pause(use.pair.component)
                if generation.interrupted:
                    self.close(now, reason)

    def _hurry_nominations(self, generation: Generation) -> None:
        for component in generation.components:
            pair = generation.selection.nominating(component)
            if pair is not None and generation.checks.succeeded(component) > 1:
                self._checker.hurry(pair)

    def _hopeless(self, now: float) -> str:
        """Why no pair can become valid any more; empty while one can (RFC 8863 §4)."""
        if self._ungathered or not self._gatherer.idle:
            return ""
        if self._gatherer.hopeful and not self._generation.patience_over:
            return ""
        if not self._bases:
            return "no local candidates"
        generation = self._generation
        if self._config.lite or not generation.patience_over or not generation.remote_end or generation.resolving:
            return ""
        return generation.hopeless

    def _set_state(self, state: ConnectionState, reason: str = "") -> None:
        if state is not self._state and self._state is not ConnectionState.CLOSED:
            self._state = state
            self._outputs.append(Notify(StateChanged(state, reason)))
