"""The peer's candidates: which are taken, what their names stand for, and which bases they are paired with (RFC 8838).

It keeps them in the generation that they belong to. What follows from new pairs the agent knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .candidate import Candidate, is_mdns_hostname
from .machine import Resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .agent import AgentConfig
    from .checklist import Base
    from .connectivity import Checker
    from .generation import Generation
    from .machine import Resolved
    from .sending import Sending


class Remotes:
    """The remote candidates of one agent; ``bases`` are the agent's own, by their links."""

    __slots__ = ("_config", "_next_query", "_bases", "_checker", "_sending", "_outputs")

    def __init__(
        self,
        config: AgentConfig,
        next_query: Callable[[], int],
        bases: dict[int, Base],
        checker: Checker,
        sending: Sending,
        outputs: list[Any],
    ) -> None:
        self._config = config
        self._next_query = next_query
        self._bases = bases
        self._checker = checker
        self._sending = sending
        self._outputs = outputs

    # ----------------------------------------------------------------------------------------------------------- verbs

    def add(self, now: float, candidate: Candidate | None) -> None:
        """A candidate was signalled, or None: there are no more. One with an unknown ``ufrag`` is not for us (RFC 8838
        §4.1).
        """
        generation = self._checker.generations[0]
        if candidate is None:
            generation.remote_end = True
            self._settle(generation)
            return
        if candidate.ufrag is not None:
            previous = [g for g in self._checker.generations[1:] if g.remote_username == candidate.ufrag]
            if previous:
                generation = previous[0]
            elif generation.remote_username not in (None, candidate.ufrag):
                self._drop("candidate of another session")
                return
        generation.last_remote_at = now
        self._take(generation, candidate)

    def _take(self, generation: Generation, candidate: Candidate) -> None:
        if not generation.has_room(candidate.type):
            self._drop("too many remote candidates")
        elif candidate.transport.lower() != "udp":
            generation.remote_candidates.append(candidate)  # kept for the application to see; never paired
        elif is_mdns_hostname(candidate.host):
            if self._config.relay_only:
                return  # draft-ietf-mmusic-mdns-ice-candidates §3.2
            generation.remote_candidates.append(candidate)
            query = self._next_query()
            generation.resolving = {**generation.resolving, query: candidate}
            self._outputs.append(Resolve(query, candidate.host))
        else:
            self._reachable(generation, candidate)

    def resolved(self, report: Resolved) -> bool:
        """A name has been looked up; whether it is that of a candidate."""
        generation = next((g for g in self._checker.generations if report.query in g.resolving), None)
        if generation is None:
            return False
        candidate = generation.resolving[report.query]
        generation.resolving = {query: c for query, c in generation.resolving.items() if query != report.query}
        if report.addresses:
            candidate.address = self._within_reach(report.addresses)
            self._reachable(generation, candidate)
        self._settle(generation)
        return True

    def pair(self, bases: Iterable[Base]) -> None:
        """Pair these bases with all candidates of the current generation."""
        generation = self._checker.generations[0]
        for base in bases:
            for remote in generation.remote_candidates:
                self._pair(generation, base, remote)

    def forbids(self, host: str) -> bool:
        """Whether the application wants no checks to be sent there; counted if so."""
        if self._config.remote_filter is None or self._config.remote_filter(host):
            return False
        self._drop("address forbidden by the application")
        return True

    # ------------------------------------------------------------------------------------------------------ candidates

    def _reachable(self, generation: Generation, candidate: Candidate) -> None:
        """The candidate has an address: it is new, or it names one that we saw as peer-reflexive (RFC 8838 §11)."""
        if self.forbids(candidate.address):
            generation.remote_candidates[:] = [c for c in generation.remote_candidates if c is not candidate]
            return
        known = generation.find_remote(candidate.component, (candidate.address, candidate.port), but=candidate)
        if known is not None and known.type == "prflx":
            generation.replace_remote(known, candidate)
            self._sending.rename(candidate)
        elif known is not None:
            if candidate in generation.remote_candidates:
                generation.remote_candidates.remove(candidate)
            return
        elif candidate not in generation.remote_candidates:
            generation.remote_candidates.append(candidate)
        for base in self._bases.values():
            self._pair(generation, base, candidate)

    def _within_reach(self, addresses: tuple[str, ...]) -> str:
        """The first address of a family that we have."""
        ours = {":" in base.candidate.host for base in self._bases.values()}
        return next((address for address in addresses if (":" in address) in ours), addresses[0])

    def _pair(self, generation: Generation, base: Base, remote: Candidate) -> None:
        if generation is not self._checker.generations[0] or remote.component not in generation.components:
            return
        if base.candidate.type == "relay" and is_mdns_hostname(remote.host):
            return  # would show the hidden address to the TURN server (draft-ietf-mmusic-mdns-ice-candidates §3.3.2)
        if base.candidate.can_pair_with(remote) and not generation.selection.settled(remote.component):
            generation.checks.add(base, remote)

    def _settle(self, generation: Generation) -> None:
        if not generation.resolving:
            generation.prune_components()

    def _drop(self, why: str) -> None:
        self._checker.drops[why] += 1
