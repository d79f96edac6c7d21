"""The check list: candidate pairs, their states, and which of them is to be checked next (RFC 8445 §6.1.2, §6.1.4)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from .candidate import pair_priority

if TYPE_CHECKING:
    from .candidate import Candidate
    from .machine import Address
    from .requests import Request


class PairState(StrEnum):
    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


#: RFC 8445 §6.1.2.6, figure 6; further: a triggered check (§7.3.1.4) and a role conflict (§7.2.5.1) lead back to
#: WAITING, a nomination that fails makes a succeeded pair fail (§8.1.1), and a dead socket makes any pair fail.
TRANSITIONS = {
    PairState.FROZEN: {PairState.WAITING, PairState.FAILED},
    PairState.WAITING: {PairState.IN_PROGRESS, PairState.FAILED},
    PairState.IN_PROGRESS: {PairState.SUCCEEDED, PairState.FAILED, PairState.WAITING},
    PairState.SUCCEEDED: {PairState.FAILED},
    PairState.FAILED: {PairState.WAITING},
}
UNANSWERED = frozenset({PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS})


class Base:
    """What we send from: a socket's or a relay's address, the host or relayed candidate that stands for it, and its
    link.
    """

    __slots__ = ("link", "candidate", "shown", "preference")

    def __init__(self, link: int, candidate: Candidate, preference: int, shown: Candidate | None = None) -> None:
        self.link = link
        self.candidate = candidate
        #: The candidate as it is told; another one if its address is hidden (:mod:`aioice.core.hiding`).
        self.shown = candidate if shown is None else shown
        #: Local preference of RFC 8445 §5.1.2.1, kept for the candidates that are reflected from this base.
        self.preference = preference


class Pair:
    """A base and a remote candidate."""

    __slots__ = (
        "base",
        "component",
        "remote",
        "peer",
        "priority",
        "state",
        "local",
        "nominated",
        "use_candidate",
        "deliberate",
        "request",
        "sent_at",
        "valid_since",
        "heard_at",
        "rtt",
        "conflicts",
        "cancelled",
        "why_failed",
        "barred",
        "requests_sent",
        "retransmissions",
        "consent_requests_sent",
        "requests_received",
        "responses_received",
        "total_rtt",
    )

    def __init__(self, base: Base, remote: Candidate, controlling: bool) -> None:
        self.base = base
        self.component = base.candidate.component
        self.remote = remote
        self.peer: Address = (remote.address, remote.port)
        self.state = PairState.FROZEN
        #: The local candidate as the peer sees it, once a check has told (§7.2.5.3.1).
        self.local = base.shown
        self.nominated = False
        #: Controlling: the check in flight nominates. Controlled: the peer has asked to nominate.
        self.use_candidate = False
        #: Controlled: the peer has checked the pair without nominating it, so that a nomination is its choice.
        self.deliberate = False
        #: The check in flight whose time-out makes the pair fail.
        self.request: Request | None = None
        self.sent_at = float("-inf")
        #: When a check first succeeded.
        self.valid_since: float | None = None
        #: When the peer first checked it, though no check of ours was ever answered.
        self.heard_at: float | None = None
        #: Round-trip time in seconds, None until it is known.
        self.rtt: float | None = None
        #: Role conflicts answered to checks of this pair.
        self.conflicts = 0
        #: Checks whose place a later one took, and whose answers still count.
        self.cancelled: tuple[Request, ...] = ()
        self.why_failed = ""
        #: The peer's consent was lost: nothing is sent here again with these credentials (RFC 7675 §5.1).
        self.barred = False
        #: Checks and their retransmissions; consent requests; the peer's, each of which got its answer; answers to all
        #: of ours, and the sum of their round-trip times in seconds where they tell one.
        self.requests_sent = 0
        self.retransmissions = 0
        self.consent_requests_sent = 0
        self.requests_received = 0
        self.responses_received = 0
        self.total_rtt = 0.0
        self.priority = 0
        self.prioritize(controlling)

    def prioritize(self, controlling: bool) -> None:
        """RFC 8445 §6.1.2.3."""
        local, remote = self.base.candidate.priority, self.remote.priority
        self.priority = pair_priority(local, remote) if controlling else pair_priority(remote, local)

    @property
    def foundation(self) -> tuple[str, str]:
        return (self.base.candidate.foundation, self.remote.foundation)

    @property
    def relayed(self) -> bool:
        return self.base.candidate.type == "relay" or self.remote.type == "relay"

    def __repr__(self) -> str:
        local, remote = self.base.shown, self.remote
        return f"Pair({local.host}:{local.port} -> {remote.host}:{remote.port}, {self.state})"


def order(pair: Pair) -> tuple[int, int]:
    """Highest priority first; among equals the first component first (RFC 8445 §6.1.4.2)."""
    return (-pair.priority, pair.component)


class CheckList:
    """The pairs of one data stream; its components share the list (RFC 8445 §6.1.2)."""

    __slots__ = (
        "pairs",
        "triggered",
        "_controlling",
        "_max_pairs",
        "_quiet",
        "refused",
    )

    def __init__(self, controlling: bool, max_pairs: int) -> None:
        self.pairs: list[Pair] = []
        self.triggered: tuple[Pair, ...] = ()
        self._controlling = controlling
        self._max_pairs = max_pairs
        #: No pair is to be checked, and nothing has happened since that was found.
        self._quiet = False
        #: Pairs that the limit kept out.
        self.refused = 0

    # ------------------------------------------------------------------------------------------------------ contents

    def find(self, link: int, peer: Address) -> Pair | None:
        for pair in self.pairs:
            if pair.peer == peer and pair.base.link == link:
                return pair
        return None

    def add(self, base: Base, remote: Candidate) -> Pair | None:
        """Pair the two; None if the pair is redundant (§6.1.2.4) or the list is full of better ones (§6.1.2.5)."""
        if self.find(base.link, (remote.address, remote.port)) is not None:
            return None
        pair = Pair(base, remote, self._controlling)
        if len(self.pairs) >= self._max_pairs and not self._make_room(pair):
            self.refused += 1
            return None
        self._insert(pair)
        if self._may_start(pair):
            self.set(pair, PairState.WAITING)
        return pair

    def _make_room(self, pair: Pair) -> bool:
        """Failed pairs go first (RFC 8838 §10), then the worst of those that have not been checked."""
        failed = next((other for other in reversed(self.pairs) if other.state is PairState.FAILED), None)
        if failed is not None:
            self.refused += 1
            self.remove(failed)
            return True
        for worst in reversed(self.pairs):
            if order(worst) <= order(pair):
                return False
            if worst.state in (PairState.FROZEN, PairState.WAITING):
                self.refused += 1
                self.remove(worst)
                return True
        return False

    def _insert(self, pair: Pair) -> None:
        place = len(self.pairs)
        while place and order(pair) < order(self.pairs[place - 1]):
            place -= 1
        self.pairs.insert(place, pair)
        self._quiet = False

    def remove(self, pair: Pair) -> None:
        self.pairs.remove(pair)
        self.untrigger(pair)
        self._quiet = False

    def remote_changed(self, pair: Pair) -> None:
        """The remote candidate of the pair has another type or priority than when it was paired (§7.3.1.3)."""
        self.pairs.remove(pair)
        pair.prioritize(self._controlling)
        self._insert(pair)

    def set_role(self, controlling: bool) -> None:
        """RFC 8445 §7.3.1.1: the role decides the priorities."""
        self._controlling = controlling
        for pair in self.pairs:
            pair.prioritize(controlling)
            pair.use_candidate = False
        self.pairs.sort(key=order)

    def of_component(self, component: int) -> list[Pair]:
        return [pair for pair in self.pairs if pair.component == component]

    def succeeded(self, component: int) -> int:
        """The number of the component's valid pairs."""
        return sum(pair.state is PairState.SUCCEEDED for pair in self.pairs if pair.component == component)

    def unanswered(self, component: int) -> bool:
        """Whether a pair of the component may still become valid."""
        return any(pair.state in UNANSWERED for pair in self.pairs if pair.component == component)

    # -------------------------------------------------------------------------------------------------------- states

    def set(self, pair: Pair, state: PairState) -> None:
        if pair.state is not state:
            assert state in TRANSITIONS[pair.state], (pair, state)
            pair.state = state
            self._quiet = False

    def fail(self, pair: Pair, why: str) -> None:
        self.untrigger(pair)
        pair.request = None
        pair.why_failed = why
        self.set(pair, PairState.FAILED)

    def freeze_anew(self) -> None:
        """The initial states (RFC 8445 §6.1.2.6): of each foundation the pair of the lowest component starts, the best
        among equals. Pairs that failed in an earlier attempt are tried again.
        """
        first: dict[tuple[str, str], Pair] = {}
        self._quiet = False
        unused = (PairState.FROZEN, PairState.WAITING, PairState.FAILED)
        for pair in [pair for pair in self.pairs if pair.state in unused]:
            pair.state = PairState.FROZEN
            pair.heard_at = None
            best = first.setdefault(pair.foundation, pair)
            if pair.component < best.component:
                first[pair.foundation] = pair
        for pair in first.values():
            if self._may_start(pair):
                self.set(pair, PairState.WAITING)

    def _may_start(self, pair: Pair) -> bool:
        """RFC 8838 §12: a new pair waits frozen while one of its foundation is on its way, unless it is the topmost."""
        same = [other for other in self.pairs if other is not pair and other.foundation == pair.foundation]
        states = {other.state for other in same}
        if PairState.SUCCEEDED in states or not (PairState.WAITING in states or PairState.IN_PROGRESS in states):
            return True
        rank = (pair.component, -pair.priority)
        return all(rank < (other.component, -other.priority) for other in same)

    def unfreeze(self, succeeded: Pair) -> list[Pair]:
        """RFC 8445 §7.2.5.3.3; returns the pairs that may now be checked."""
        thawed = [p for p in self.pairs if p.state is PairState.FROZEN and p.foundation == succeeded.foundation]
        for pair in thawed:
            self.set(pair, PairState.WAITING)
        return thawed

    # ----------------------------------------------------------------------------------------------------- scheduling

    def trigger(self, pair: Pair) -> None:
        """RFC 8445 §7.3.1.4: check it before the ordinary ones."""
        if pair.state is PairState.FROZEN or pair.state is PairState.FAILED or pair.state is PairState.IN_PROGRESS:
            self.set(pair, PairState.WAITING)
        if pair not in self.triggered:
            self.triggered += (pair,)
            self._quiet = False

    def untrigger(self, pair: Pair) -> None:
        if pair in self.triggered:
            self.triggered = tuple(other for other in self.triggered if other is not pair)

    def next_check(self) -> Pair | None:
        """RFC 8445 §6.1.4.2: the pair to be checked at the next tick of Ta; None when there is none, then no tick is
        due.
        """
        pair = self._next()
        if self.triggered:
            self.triggered = self.triggered[1:]
        elif pair is not None and pair.state is PairState.FROZEN:
            self.set(pair, PairState.WAITING)
        return pair

    @property
    def has_work(self) -> bool:
        """Whether :meth:`next_check` would return a pair."""
        return not self._quiet and self._next() is not None

    def _next(self) -> Pair | None:
        if self._quiet:
            return None
        if self.triggered:
            return self.triggered[0]
        for pair in self.pairs:
            if pair.state is PairState.WAITING:
                return pair
        busy = {pair.foundation for pair in self.pairs if pair.state is PairState.IN_PROGRESS}
        for pair in self.pairs:
            if pair.state is PairState.FROZEN and pair.foundation not in busy:
                return pair
        self._quiet = True
        return None

    @property
    def active(self) -> int:
        """Pairs that are waiting or in progress: the N of RFC 8445 §14.3."""
        return sum(pair.state is PairState.WAITING or pair.state is PairState.IN_PROGRESS for pair in self.pairs)
