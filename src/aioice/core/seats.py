"""What a component wants from a TURN server, and the ways in which that is tried: the records of those who ask.

What is done with them is the business of :mod:`aioice.core.relays`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .inquiries import Inquiry

if TYPE_CHECKING:
    from .allocation import Allocation
    from .machine import Address
    from .servers import TurnServer


class Seat:
    """A relay that a component wants from one server, in whatever way it is to be had."""

    __slots__ = ("component", "servers", "attempts", "live", "wanted", "failures", "again_at", "retry_at")

    def __init__(self, component: int) -> None:
        self.component = component
        self.servers: list[TurnServer] = []
        self.attempts: list[Attempt] = []
        #: Those of them that have given a relay.
        self.live: list[Attempt] = []
        #: It has had a relay, and is to get another one when that is lost.
        self.wanted = False
        self.failures = 0
        #: When one of the ways that have failed may be tried again, at the earliest.
        self.again_at = 0.0
        #: When it is asked again: for a relay that was lost, or for the first one from a server that had no room.
        self.retry_at: float | None = None


class Attempt:
    """One address of a server, asked over one transport."""

    __slots__ = (
        "seat",
        "server",
        "inquiry",
        "families",
        "name",
        "allocation",
        "tries",
        "visited",
        "opened",
        "since",
        "relays",
        "lost",
    )

    def __init__(self, seat: Seat, server: TurnServer, now: float, families: tuple[int, ...], name: str) -> None:
        self.seat = seat
        self.server = server
        self.inquiry = Inquiry(server, seat.component, now)
        self.families = families
        #: The name in the server's certificate.
        self.name = name
        self.allocation: Allocation | None = None
        #: How often the same answer has come in a row (437 from several ports of ours).
        self.tries = 0
        #: Who has redirected us so far.
        self.visited: tuple[Address, ...] = ()
        #: When its link was open, and since when there is a relay.
        self.opened: float | None = None
        self.since = 0.0
        #: Families of its relays, by link, and of those that have just been lost.
        self.relays: dict[int, int] = {}
        self.lost: list[int] = []

    @property
    def rank(self) -> int:
        """UDP before TCP before TLS: what is stacked on TCP waits for lost segments."""
        return rank_of(self.server)

    @property
    def place(self) -> tuple[int, Address]:
        assert self.inquiry.address is not None
        return self.rank, self.inquiry.address


def user_of(server: TurnServer) -> tuple[Any, ...]:
    return server.username, server.password, server.source


def name_of(server: TurnServer) -> tuple[str, tuple[Any, ...]]:
    """By whatever port and transport it is reached."""
    return server.host.lower(), user_of(server)


def rank_of(server: TurnServer) -> int:
    return 2 if server.tls else 0 if server.transport == "udp" else 1
