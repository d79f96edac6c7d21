"""The bases of an agent and the candidates that are made from them (RFC 8445 §5.1.1.2 to §5.1.3).

Which sockets are opened, and which servers are asked, is the business of :mod:`aioice.core.gathering`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .candidate import Candidate, candidate_foundation, candidate_priority
from .checklist import Base
from .hiding import hidden, is_hidden, no_address, related_address
from .record import NOTHING, Record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .machine import Address
    from .rewrites import AddressRewrite
    from .servers import Relayed


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


class Bases:
    """The part of a gatherer that knows what has been found; ``bases`` are those that it tells of, by their links."""

    __slots__ = (
        "interfaces",
        "names",
        "_relay_only",
        "_types",
        "_rewrites",
        "_outputs",
        "_bases",
        "_silent",
        "_told",
    )

    def __init__(
        self,
        bases: dict[int, Base],
        outputs: list[Any],
        *,
        relay_only: bool,
        types: Collection[str] | None,
        rewrites: Sequence[AddressRewrite],
    ) -> None:
        #: Names of interfaces by address, for rewrites that are for one of them.
        self.interfaces: Mapping[str, str] = NOTHING
        #: The names that are shown in place of the addresses of this host, if those are hidden.
        self.names = NOTHING
        self._relay_only = relay_only
        #: The types of candidates that are wanted; all if None.
        self._types = types
        self._rewrites = rewrites
        self._outputs = outputs
        self._bases = bases
        #: Those of which there is nothing to tell yet.
        self._silent: Mapping[int, Base] = NOTHING
        #: All but the bases' own: a base, and what is reflected from it or added to it.
        self._told: tuple[tuple[Base, Candidate], ...] = ()

    def adopt(self, base: Base) -> None:
        """A base that the application opened itself."""
        self._bases[base.link] = base

    def _wants(self, kind: str) -> bool:
        return self._types is None or kind in self._types

    def _host_found(self, component: int, link: int, local: Address, preference: int) -> Base:
        replacement, additions = self._rewritten(local[0])
        name = self.names.get(local[0])
        at = (replacement or local[0], local[1])
        candidate = _candidate("host", component, preference, at, name or local[0])
        # What a program tells in place of an address hides it already.
        shown = candidate if name is None or replacement is not None else hidden(candidate, name)
        base = Base(link, candidate, preference, shown)
        if self._wants("host"):
            self._tell(base)
        else:
            self._silent = {**self._silent, link: base}
        for host in additions:
            # A 1:1 NAT keeps the port.
            self._reflexive_found(base, (host, local[1]), host)
        return base

    def _tell(self, base: Base) -> None:
        self._bases[base.link] = base
        self._outputs.append(Found(base, base.shown))

    @property
    def _all_bases(self) -> list[Base]:
        return [*self._bases.values(), *self._silent.values()]

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
        beside = [c for other, c in self._told if other is base]
        if any((c.host, c.port) == mapped for c in beside):
            return None  # redundant (RFC 8445 §5.1.3)
        related = related_address(base)
        if not self._wants("host"):
            # The base shows itself for the first time, but not its address.
            related = no_address(host.host)
            if base.link in self._silent:
                self._silent = {link: other for link, other in self._silent.items() if other is not base}
                self._tell(base)
        # Two servers may see two addresses of one base.
        preference = _free_preference("srflx", host.component, base.preference, [c for _, c in self._told])
        candidate = _candidate("srflx", host.component, preference, mapped, base.shown.host, related, server)
        self._told += ((base, candidate),)
        self._outputs.append(Found(base, candidate))
        return candidate

    def _relay_found(self, relayed: Relayed) -> None:
        component, related = relayed.inquiry.component, relayed.mapped
        if self._relay_only or self.names is not NOTHING or not self._wants("srflx"):
            # The reflexive address is what the policy hides (RFC 9429 §3.5.3), and may be that of a hidden base.
            related = no_address(relayed.relayed[0])
        # UDP before TCP before TLS (§5.1.2).
        others = [base.candidate for base in self._bases.values()]
        preference = _free_preference("relay", component, 0xFFFF - (relayed.rank << 8), others)
        candidate = _candidate("relay", component, preference, relayed.relayed, relayed.relayed[0], related)
        relayed.inquiry.candidates += (candidate,)
        self._tell(Base(relayed.relay_link, candidate, preference))

    def _withdraw(self, base: Base, address: Address) -> None:
        for told in self._told:
            other, stale = told
            if other is base and (stale.host, stale.port) == address:
                self._told = tuple(other for other in self._told if other is not told)
                self._outputs.append(Withdrawn(stale))

    def _lost(self, link: int, why: str) -> bool:
        """A base ends, if there is one, and all that was told of it."""
        if link in self._silent:
            self._silent = {other: base for other, base in self._silent.items() if other != link}
            return True
        base = self._bases.pop(link, None)
        if base is None:
            return False
        gone = (base.shown, *(candidate for other, candidate in self._told if other is base))
        self._told = tuple((other, candidate) for other, candidate in self._told if other is not base)
        self._outputs.append(BaseLost(link, why, gone))
        return True


def _free_preference(kind: str, component: int, preference: int, others: list[Candidate]) -> int:
    """The next that makes a priority which none of ``others`` has (§5.1.2)."""
    taken = {candidate.priority for candidate in others}
    while preference and candidate_priority(component, kind, preference) in taken:
        preference -= 1
    return preference


def _candidate(
    kind: str,
    component: int,
    preference: int,
    address: Address,
    base: str,
    related: Address | tuple[None, None] = (None, None),
    server: str = "",
) -> Candidate:
    foundation = candidate_foundation(kind, "udp", base, server=server)
    priority = candidate_priority(component, kind, preference)
    return Candidate(foundation, component, "udp", priority, *address, kind, *related)
