"""What the checks of an agent come to, as its checker tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .record import Record

if TYPE_CHECKING:
    from .checklist import Base, Pair
    from .generation import Generation
    from .machine import Address


class Heard(Record):
    """The peer has shown at this address that it knows our password."""

    base: Base
    peer: Address


class PeerChecks(Record):
    """The first check of the peer for a component of this generation."""

    generation: Generation


class Valid(Record):
    """A check of the pair succeeded; the peer saw it come from ``mapped``."""

    generation: Generation
    pair: Pair
    mapped: Address
    priority: int


class Nominated(Record):
    generation: Generation
    pair: Pair


class Dead(Record):
    """The pair failed, as a check or as a nomination."""

    generation: Generation
    pair: Pair


class RoleChanged(Record):
    controlling: bool


class ConsentAnswered(Record):
    pair: Pair
    transaction_id: bytes


class ConsentRefused(Record):
    """An authenticated 403: the peer revokes (RFC 7675 §5.2)."""

    pair: Pair
