"""Which valid pair carries the data of each component: first valid, nominated, selected (RFC 8445 §8, §12.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checklist import UNANSWERED, PairState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .checklist import CheckList, Pair

#: How long a better pair is waited for once one is valid, in seconds: at least this, or three of its round trips
#: (measured: direct paths through two NATs answer within two).
DIRECT_PATIENCE = 0.1
#: The same while only a relayed pair is valid: a direct path is worth a second.
RELAY_PATIENCE = 1.0


class Selection:
    """The pairs in use, one for each component, and the patience before one is nominated."""

    __slots__ = (
        "pairs",
        "doubted",
        "_nominating",
        "_direct_patience",
        "_relay_patience",
        "due",
    )

    def __init__(self, direct_patience: float = DIRECT_PATIENCE, relay_patience: float = RELAY_PATIENCE) -> None:
        #: Of each component the first valid pair, later the selected one.
        self.pairs: tuple[Pair, ...] = ()
        #: Components whose peer does not answer on the pair in use, so that another may be nominated in its place.
        self.doubted: tuple[int, ...] = ()
        self._nominating: tuple[Pair, ...] = ()
        self._direct_patience = direct_patience
        self._relay_patience = relay_patience
        #: When to ask :meth:`to_nominate` again.
        self.due: float | None = None

    def pair_of(self, component: int) -> Pair | None:
        """The pair in use of a component."""
        return _of_component(component, self.pairs)

    def _use(self, pair: Pair) -> None:
        self.pairs = (*[other for other in self.pairs if other.component != pair.component], pair)

    def valid(self, now: float, pair: Pair) -> bool:
        """A check succeeded; returns whether the pair is now the one in use."""
        if pair.valid_since is None:
            pair.valid_since = now
        if self.pair_of(pair.component) is not None:
            return False
        self._use(pair)
        return True

    def doubt(self, component: int, doubted: bool) -> None:
        """Whether the peer has stopped to answer on the pair in use."""
        self.doubted = tuple(other for other in self.doubted if other != component)
        if doubted:
            self.doubted += (component,)

    def settled(self, component: int) -> bool:
        """Whether the pair in use is nominated, and in no doubt."""
        pair = self.pair_of(component)
        return pair is not None and pair.nominated and component not in self.doubted

    def nominate(self, pair: Pair) -> bool:
        """The nomination of a valid pair is settled; returns whether the pair in use or its rank changed.

        A peer that nominates several pairs means the best of them (RFC 5245 §8.1.1.2; RFC 8445 forbids it), unless it
        picks them one by one, or the pair in use is in doubt: then it has left the pair before.
        """
        known, pair.nominated = pair.nominated, True
        self._settle(pair)
        current = self.pair_of(pair.component)
        if known and current is pair:
            return False
        if current is not None and current is not pair and current.nominated:
            if pair.component in self.doubted:
                current.nominated = False  # it may be nominated again
            elif current.priority >= pair.priority and (known or not pair.deliberate):
                return False
        self._use(pair)
        self.doubt(pair.component, False)
        return True

    def _settle(self, pair: Pair) -> None:
        if pair in self._nominating:
            self._nominating = tuple(other for other in self._nominating if other is not pair)

    def nominating(self, component: int) -> Pair | None:
        """The pair whose nomination is in flight."""
        return _of_component(component, self._nominating)

    def failed(self, pair: Pair) -> bool:
        """The pair is dead; returns whether it was in use."""
        self._settle(pair)
        used, self.pairs = self.pairs, tuple(other for other in self.pairs if other is not pair)
        return pair in used

    # ------------------------------------------------------------------------------------ the controlling side's choice

    def to_nominate(self, now: float, checks: CheckList, components: Iterable[int]) -> list[Pair]:
        """The pairs whose nomination must leave now (RFC 8445 §8.1.1); :attr:`due` tells when to ask again."""
        chosen = []
        self.due = None
        for component in components:
            current = self.pair_of(component)
            if current is None or self.settled(component) or self.nominating(component) is not None:
                continue
            pairs = [pair for pair in checks.of_component(component) if not pair.nominated]
            best = next((p for p in pairs if p.state is PairState.SUCCEEDED and p.valid_since is not None), None)
            if best is None:
                continue
            # It replaces another if there is a nominated one, also should that be answered again meanwhile.
            best.deliberate = current.nominated
            better = any(pair.state in UNANSWERED for pair in pairs[: pairs.index(best)])
            since = min(pair.valid_since for pair in pairs if pair.valid_since is not None)
            due = since + self._patience(best)
            if better and now < due:
                self.due = due if self.due is None else min(self.due, due)
                continue
            self._nominating += (best,)
            chosen.append(best)
        return chosen

    def _patience(self, best: Pair) -> float:
        return self._relay_patience if best.relayed else max(self._direct_patience, 3 * (best.rtt or 0))

    def role_changed(self) -> None:
        """Nominations in flight are void: the other side nominates now (RFC 8445 §7.3.1.1)."""
        self._nominating = ()
        self.due = None


def _of_component(component: int, pairs: tuple[Pair, ...]) -> Pair | None:
    for pair in pairs:
        if pair.component == component:
            return pair
    return None
