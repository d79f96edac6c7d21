"""Through which pair the data of each component leaves, and whether the peer still consents to it (RFC 7675).

It publishes routes and takes them back. Which pair is to be used the agent tells; how a request is made the checker
knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checklist import PairState
from .consent import Consent
from .events import ConsentExpired, SelectedPair
from .machine import Notify, Route, Unroute
from .record import NOTHING, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .candidate import Candidate
    from .checklist import Pair
    from .generation import Generation
    from .machine import Address, Tunables


class SendingEnded(Record):
    """Nothing of the component may be sent any more, for want of consent or of a pair."""

    generation: Generation
    component: int
    reason: str


class DoubtsChanged(Record):
    """A peer has left requests unanswered for long, or has answered again."""

    component: int


class Silent(Record):
    """The peer does not answer on a pair that is not nominated: another may do."""

    generation: Generation
    pair: Pair
    reason: str


class Use:
    """A pair that carries data."""

    __slots__ = ("generation", "pair", "consent", "doubted")

    def __init__(self, generation: Generation, pair: Pair, consent: Consent | None) -> None:
        self.generation = generation
        self.pair = pair
        #: None if we are lite: whoever answers checks only does not ask for consent.
        self.consent = consent
        #: Requests stand unanswered for long.
        self.doubted = False


class Sending:
    """The pairs in use of one agent, one for each component."""

    __slots__ = ("_random", "_tunables", "_lite", "_outputs", "uses", "forced")

    def __init__(
        self, random: Callable[[int], bytes], tunables: Tunables, *, lite: bool, outputs: list[Any] | None = None
    ) -> None:
        self._random = random
        self._tunables = tunables
        self._lite = lite
        self._outputs: list[Any] = [] if outputs is None else outputs
        self.uses: tuple[Use, ...] = ()
        #: Pairs that the application chose without checks.
        self.forced: Mapping[int, tuple[int, Address]] = NOTHING

    def use_of(self, component: int) -> Use | None:
        for use in self.uses:
            if use.pair.component == component:
                return use
        return None

    def _without(self, component: int) -> tuple[Use, ...]:
        return tuple(use for use in self.uses if use.pair.component != component)

    # ----------------------------------------------------------------------------------------------------------- verbs

    def use(self, now: float, generation: Generation, pair: Pair) -> None:
        """Data of the component leaves on this pair from now on; what is told changes if it was nominated meanwhile."""
        use = self.use_of(pair.component)
        if use is None or use.pair is not pair:
            if use is not None and (use.doubted or use.pair.state is PairState.FAILED):
                # What a blocked socket still has for it may not outlive the consent (RFC 7675 §5.1).
                self._outputs.append(Unroute(pair.component))
            consent = None if self._lite else Consent(now, self._random, self._tunables)
            self.uses = (*self._without(pair.component), Use(generation, pair, consent))
            self._outputs.append(Route(pair.component, pair.base.link, pair.peer, pair.remote))
        self._outputs.append(Notify(SelectedPair(pair.component, pair.local, pair.remote, pair.nominated)))

    def force(self, component: int, link: int, remote: Candidate) -> None:
        """Use this pair without checks and without consent."""
        peer = (remote.address, remote.port)
        self.uses = self._without(component)
        self.forced = {**self.forced, component: (link, peer)}
        self._outputs.append(Route(component, link, peer, remote))

    def rename(self, remote: Candidate) -> None:
        """The remote candidate of a pair in use has been signalled by now."""
        for use in self.uses:
            if use.pair.remote is remote:
                self._outputs.append(Route(use.pair.component, use.pair.base.link, use.pair.peer, remote))

    def pause(self, component: int) -> None:
        """Nothing is sent until another pair is there."""
        self.uses = self._without(component)
        self._outputs.append(Unroute(component))

    def end(self, use: Use, reason: str) -> None:
        """There is no pair for the component any more."""
        self.pause(use.pair.component)
        self._outputs.append(SendingEnded(use.generation, use.pair.component, reason))

    def _revoke(self, use: Use, reason: str) -> None:
        """RFC 7675 §5.1: nothing more may be sent on this pair."""
        self._outputs.append(Notify(ConsentExpired(use.pair.component, reason)))
        self.end(use, reason)

    def close(self) -> None:
        for component in sorted({use.pair.component for use in self.uses} | self.forced.keys()):
            self._outputs.append(Unroute(component))
        self.uses = ()
        self.forced = NOTHING

    def tune(self, tunables: Tunables) -> None:
        self._tunables = tunables
        for use in self.uses:
            if use.consent is not None:
                use.consent.tune(tunables)

    # --------------------------------------------------------------------------------------------------------- consent

    def answered(self, now: float, pair: Pair, transaction_id: bytes) -> None:
        use = self.use_of(pair.component)
        if use is not None and use.pair is pair and use.consent is not None:
            use.consent.answered(now, transaction_id)
            self._doubt(use, False)

    def refused(self, pair: Pair) -> None:
        """RFC 7675 §5.2."""
        use = self.use_of(pair.component)
        if use is not None and use.pair is pair:
            self._revoke(use, "the peer revoked its consent")

    def to_ask(self, now: float) -> list[tuple[Use, Consent]]:
        """The pairs whose peers are to be asked now; those who have not answered for too long are left."""
        asking = []
        for use in self.uses:
            consent = use.consent
            if consent is None:
                continue
            if consent.expired(now):
                silence = now - consent.last_answer
                reason = f"consent expired: no answer from the peer for {silence:.1f} s"
                if use.pair.nominated:
                    self._revoke(use, reason)
                else:
                    self._outputs.append(Silent(use.generation, use.pair, reason))
                continue
            if consent.due(now):
                asking.append((use, consent))
            self._doubt(use, use.doubted or consent.doubtful(now))
        return asking

    def _doubt(self, use: Use, doubted: bool) -> None:
        if doubted is not use.doubted:
            use.doubted = doubted
            self._outputs.append(DoubtsChanged(use.pair.component))

    @property
    def doubted(self) -> bool:
        """Whether a peer has left requests unanswered for half of the time that it may."""
        for use in self.uses:
            if use.doubted:
                return True
        return False

    def poll_output(self) -> Any:
        """As a machine's, with :class:`SendingEnded` for the agent between them."""
        return self._outputs.pop(0) if self._outputs else None

    def poll_timeout(self) -> float | None:
        earliest = None
        for use in self.uses:
            if use.consent is not None:
                time = use.consent.poll_timeout(use.doubted)
                if earliest is None or time < earliest:
                    earliest = time
        return earliest
