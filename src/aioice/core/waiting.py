"""How long the candidates of a component are waited for (RFC 8838 §10: late ones are used all the same)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inquiries import Inquiry
    from .servers import StunServer

#: A server that shows no sign of life holds gathering this long, in seconds: two transmissions of a query (RFC 8489
#: §6.2.1) and an answer.
SILENCE = 1.0
#: One that has answered another base, or a base that another server has answered, holds it this many seconds and this
#: many of the round trips that the answer took.
GRACE = 0.1
GRACE_ROUND_TRIPS = 3


class Job:
    """The gathering of one component."""

    __slots__ = (
        "component",
        "deadline",
        "opening",
        "pending",
        "answered",
        "links",
        "stun",
        "reported",
        "preferences",
        "useful_at",
    )

    def __init__(self, now: float, component: int, timeout: float) -> None:
        self.component = component
        self.deadline = now + timeout
        #: Sockets being opened: link to address.
        self.opening: dict[int, str] = {}
        #: Servers that have not answered yet.
        self.pending: list[Inquiry] = []
        #: Who has answered, by name of the server, and who has got an answer, by link of the base: the time, and for
        #: how much longer others are waited for that would tell the same.
        self.answered: dict[str | int, tuple[float, float]] = {}
        #: The bases that ask.
        self.links: list[int] = []
        #: STUN servers whose addresses are known.
        self.stun: list[tuple[StunServer, tuple[str, ...]]] = []
        self.reported = False
        #: When a server last gave something, or the gathering began.
        self.useful_at = now
        self.preferences: dict[str, int] = {}

    def told(self, now: float, server: str, link: int, rtt: float) -> None:
        """The server has told the base behind ``link`` how it looks, in ``rtt`` seconds."""
        for key in (server, link):
            self.answered.setdefault(key, (now, GRACE + GRACE_ROUND_TRIPS * rtt))

    def ended(self, now: float, inquiry: Inquiry) -> None:
        """A server is waited for no longer; one that was the last and gave nothing has cost all the time since."""
        if inquiry not in self.pending:
            return
        self.pending.remove(inquiry)
        if inquiry.gave_something:
            self.useful_at = now
        elif self.finished and not self.reported:
            inquiry.waited_for(self.useful_at, now)

    def given_up(self, now: float) -> None:
        """Gathering goes on without those that have not answered."""
        for inquiry in self.pending:
            inquiry.waited_for(self.useful_at, now)

    @property
    def finished(self) -> bool:
        return not self.opening and not self.pending

    def due(self) -> float:
        """When to wait no longer."""
        if self.opening:
            return self.deadline
        return min(self.deadline, max((self._due(inquiry) for inquiry in self.pending), default=self.deadline))

    def _due(self, inquiry: Inquiry) -> float:
        if inquiry.alive:
            return self.deadline
        due = inquiry.started + SILENCE
        if not inquiry.asks_stun:
            return due
        known = [self.answered[key] for key in (inquiry.server.host, inquiry.link) if key in self.answered]
        if not inquiry.link and self.links and all(link in self.answered for link in self.links):
            # A name: whatever server it turns out to be, all bases have their answer.
            known.append(max(self.answered[link] for link in self.links))
        return min([due, *(max(answered, inquiry.started) + grace for answered, grace in known)])
