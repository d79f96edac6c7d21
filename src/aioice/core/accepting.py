"""From whom application data is taken (RFC 8445 §12.2): who has shown to know our password, or was named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .machine import Accept, Revoke

if TYPE_CHECKING:
    from collections.abc import Collection

    from .machine import Address

#: Data is taken from this many addresses at most.
MAX_ACCEPTED = 256

Source = tuple[int, "Address"]


class Accepting:
    """The sources of one agent, each a link and an address that sends to it; it publishes them."""

    __slots__ = ("_outputs", "_proven", "_heard", "_stale")

    def __init__(self, outputs: list[Any]) -> None:
        self._outputs = outputs
        #: Those that have answered us.
        self._proven: tuple[Source, ...] = ()
        #: The others: a check that was only heard may be a repeated one.
        self._heard: tuple[Source, ...] = ()
        #: Those of them that have not been heard since the restart.
        self._stale: tuple[Source, ...] = ()

    def accept(self, source: Source, component: int, *, proven: bool) -> bool:
        """Take data from there: ``proven`` if it has answered us. False if there are too many."""
        if source in self._stale:
            self._stale = _without(source, self._stale)
        if source in self._proven:
            return True
        known = source in self._heard
        if known and not proven:
            return True
        if known:
            self._heard = _without(source, self._heard)
        elif len(self._proven) + len(self._heard) >= MAX_ACCEPTED:
            if not (proven and self._heard):
                return False
            self._revoke(self._heard[0])
        if proven:
            self._proven += (source,)
        else:
            self._heard += (source,)
        if not known:
            self._outputs.append(Accept(*source, component))
        return True

    def restart(self) -> None:
        """Whoever is not heard from now on is forgotten by :meth:`settle`."""
        self._stale = self._proven + self._heard

    def settle(self, but: Collection[Source]) -> None:
        """The restart is over: who was heard only before it is no longer welcome."""
        for source in self._stale:
            if source not in but:
                self._revoke(source)
        self._stale = ()

    def base_lost(self, link: int) -> None:
        """Nobody sends over this link any more; a relay that is made anew has another."""
        self._proven, self._heard, self._stale = (
            tuple(source for source in sources if source[0] != link)
            for sources in (self._proven, self._heard, self._stale)
        )

    def _revoke(self, source: Source) -> None:
        self._proven = _without(source, self._proven)
        self._heard = _without(source, self._heard)
        self._outputs.append(Revoke(*source))


def _without(source: Source, sources: tuple[Source, ...]) -> tuple[Source, ...]:
    return tuple(other for other in sources if other != source)
