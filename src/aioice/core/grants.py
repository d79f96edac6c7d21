"""What an Allocate request asks for, what its answer grants (RFC 8656 §7.1 to §7.3), and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .record import Record

if TYPE_CHECKING:
    from .machine import Address, Reason
    from .message import Message

#: RFC 8656 §18.8: UDP, in the first of four bytes.
UDP_TRANSPORT = 0x11000000
#: RFC 8656 §18.6, likewise.
FAMILIES = {4: 0x01000000, 6: 0x02000000}


class Grant(Record):
    #: In seconds; with 0 there is nothing.
    lifetime: int
    mapped: Address
    #: By family.
    relayed: dict[int, Address]
    #: Families that were asked for and are not given, with the server's error code; 0 if it tells none.
    missing: dict[int, int]


def wishes(lifetime: int, families: tuple[int, ...]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The attributes of a request, and which of them the server need not know."""
    attributes = {"LIFETIME": lifetime, "REQUESTED-TRANSPORT": UDP_TRANSPORT}
    optional = ["LIFETIME"]
    if len(families) == 2:
        for name in ("ADDITIONAL-ADDRESS-FAMILY", "DRAFT-ADDITIONAL-ADDRESS-FAMILY"):
            attributes[name] = FAMILIES[6]
            optional.append(name)
    elif families:
        attributes["REQUESTED-ADDRESS-FAMILY"] = FAMILIES[families[0]]
        if families == (4,):
            # What a server gives that does not know of families.
            optional.append("REQUESTED-ADDRESS-FAMILY")
    return attributes, tuple(optional)


def granted(message: Message, families: tuple[int, ...]) -> Grant | str:
    """What an answer gives of ``families``, or why that is to be given back."""
    attributes = message.attributes
    for name in ("LIFETIME", "XOR-MAPPED-ADDRESS", "XOR-RELAYED-ADDRESS"):
        if name not in attributes:
            return f"TURN allocation response is missing {name}"
    relayed: dict[int, Address] = {}
    for address in message.values("XOR-RELAYED-ADDRESS"):
        family = 6 if ":" in address[0] else 4
        # coturn gives 0.0.0.0 and port 0 for what it does not have.
        if address[1] and (not families or family in families):
            relayed.setdefault(family, address)
    if attributes["LIFETIME"] and not relayed:
        # RFC 8656 §7.3
        return "the server gives no address of the families that were asked for"
    errors = message.values("ADDRESS-ERROR-CODE") + message.values("DRAFT-ADDRESS-ERROR-CODE")
    reasons = {6 if value[0] == 2 else 4: value[1] for value in errors}
    missing = {family: reasons.get(family, 0) for family in families if family not in relayed}
    return Grant(attributes["LIFETIME"], attributes["XOR-MAPPED-ADDRESS"], relayed, missing)


# --------------------------------------------------------------------------------------------- told by the allocation


class Allocated(NamedTuple):
    """A relayed address is there; ``relay_link`` is the number it has been opened under."""

    relay_link: int
    relayed: Address
    mapped: Address


class FamilyMissing(NamedTuple):
    """There is no relayed address of this family, though there may be one of the other.

    ``code`` is the server's reason (RFC 8656 §7.3: after 440 it is not to be asked again, after 508 not for a minute);
    0 if the server does not know how to give both: another allocation, on its own 5-tuple, may get it.
    """

    family: int
    code: int


class AllocationFailed(NamedTuple):
    """There will be no relayed address; ``code`` and ``response`` are the server's if it refused, else 0 and None.

    The next step is the parent's: :func:`aioice.core.turn_errors.verdict` tells it.
    """

    reason: Reason
    code: int
    detail: str
    response: Message | None = None


class AllocationLost(NamedTuple):
    """The relayed address is no longer there; that of the other family may be."""

    relay_link: int
    detail: str
    code: int = 0
    response: Message | None = None
