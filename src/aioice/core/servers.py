"""STUN and TURN servers as an agent knows them, and what is told of them to whoever gathers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .record import Record

if TYPE_CHECKING:
    from .checklist import Base
    from .inquiries import Inquiry
    from .machine import Address, Reason


class StunServer(Record):
    """``transport`` and ``tls`` as in the URI; only UDP tells the address of a UDP socket."""

    host: str
    port: int
    transport: str = "udp"
    tls: bool = False
    #: What people know it by; made from the rest if empty.
    url: str = ""


class TurnServer(Record):
    host: str
    port: int
    #: ``udp`` or ``tcp``: how to talk to the server.
    transport: str = "udp"
    tls: bool = False
    username: str | None = None
    password: str | None = None
    #: Whom to ask for the credentials (:class:`~aioice.core.machine.FetchCredentials`); None if they are fixed.
    source: int | None = None
    url: str = ""
    #: Which list of URLs it stands in: those of one list with the same host are ways to one server.
    entry: int = -1


# ------------------------------------------------------------------------------ what is told to whoever gathers


class Asked(Record):
    """Another inquiry is under way."""

    inquiry: Inquiry


class Ended(Record):
    """Nobody need wait for this inquiry any more."""

    inquiry: Inquiry


class Mapped(Record):
    """A STUN server has told how ``base`` looks from where it stands; ``before`` is what it told the last time, if that
    was something else.
    """

    base: Base
    mapped: Address
    inquiry: Inquiry
    before: Address | None


class Relayed(Record):
    """A relayed address is there; ``rank`` orders the ways to it, the best has 0."""

    relay_link: int
    relayed: Address
    mapped: Address
    inquiry: Inquiry
    rank: int


class RelayLost(Record):
    link: int
    detail: str


class RelayRefused(Record):
    """The TURN server does not let us send to this peer."""

    link: int
    peer: Address
    code: int


class RelayPermits(Record):
    """The TURN server relays to this host from now on; what was sent there before may have been lost."""

    link: int
    host: str


class RelayUnreachable(Record):
    """What the TURN server relayed to this peer did not arrive: ICMP says so."""

    link: int
    peer: Address
    reason: Reason
