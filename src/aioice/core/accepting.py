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

    __slots__ = ("_outputs", "_accepted", "_stale")

    def __init__(self, outputs: list[Any]) -> None:
        self._outputs = outputs
        #: Whether the source has answered us; a check that was only heard may be a repeated one.
        self._accepted: dict[Source, bool] = {}
        #: Those of them that have not been heard since the restart.
        self._stale: tuple[Source, ...] = ()

    def accept(self, source: Source, component: int, *, proven: bool) -> bool:
        """Take data from there: ``proven`` if it has answered us. False if there are too many."""
        if source in self._stale:
            self._stale = tuple(other for other in self._stale if other != source)
        if source in self._accepted:
            self._accepted[source] = self._accepted[source] or proven
            return True
        if len(self._accepted) >= MAX_ACCEPTED:
            heard = next((source for source, answered in self._accepted.items() if not answered), None)
            if not proven or heard is None:
                return False
            self._revoke(heard)
        self._accepted[source] = proven
        self._outputs.append(Accept(*source, component))
        return True

    def restart(self) -> None:
        """Whoever is not heard from now on is forgotten by :meth:`settle`."""
        self._stale = tuple(self._accepted)

    def settle(self, but: Collection[Source]) -> None:
        """The restart is over: who was heard only before it is no longer welcome."""
        for source in self._stale:
            if source not in but:
                self._revoke(source)
        self._stale = ()

    def base_lost(self, link: int) -> None:
        """Nobody sends over this link any more; a relay that is made anew has another."""
        self._accepted = {source: proven for source, proven in self._accepted.items() if source[0] != link}
        self._stale = tuple(source for source in self._stale if source[0] != link)

    def _revoke(self, source: Source) -> None:
        self._accepted.pop(source, None)
        self._outputs.append(Revoke(*source))
