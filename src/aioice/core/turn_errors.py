"""What to do about an error of a TURN server: one table (RFC 8656 §7.4, §19; RFC 8489 §6.3.4, §10)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from .machine import Address
    from .message import Message

#: RFC 8656 §7.4: 5-tuples that are tried in all before a server is given up over 437, and for how long.
MAX_TUPLES = 3
MISMATCH_HOLD_OFF = 120
#: RFC 8656 §7.4: at least a minute before a server without capacity is asked again.
CAPACITY_HOLD_OFF = 60
#: RFC 8489 §6.3.4: a server in trouble may be asked again, four times; this far apart at first.
MAX_RETRIES = 4
TROUBLE_HOLD_OFF = 5


class Step(Enum):
    """What the owner of an allocation that has failed, or was lost, does next."""

    #: Ask one of the ``alternates`` instead.
    REDIRECT = "ask the alternate server"
    #: Ask the same server from another address or port of ours, at once.
    NEW_TUPLE = "ask again from another port"
    #: Ask another address, transport or server; this one may be asked again when ``hold_off`` is over.
    HOLD_OFF = "ask others, and this server later"
    #: Ask others; this server would say the same again until somebody has changed something.
    GIVE_UP = "ask others"


class Verdict(NamedTuple):
    step: Step
    #: Seconds for which this server is not to be asked.
    hold_off: float = 0.0
    #: Where a 300 leads, those of the family of the server first, and the name in their certificate if that differs.
    alternates: tuple[Address, ...] = ()
    domain: str | None = None


_VERDICTS: dict[int, tuple[Step, float, str]] = {
    300: (Step.GIVE_UP, 0, "ask the server that it names instead"),
    400: (Step.GIVE_UP, 0, "it takes the request for malformed: check that it is a TURN server"),
    401: (Step.GIVE_UP, 0, "check the user name and the password"),
    403: (Step.GIVE_UP, 0, "its administrator does not allow this"),
    408: (Step.HOLD_OFF, CAPACITY_HOLD_OFF, "try another transport"),
    420: (Step.GIVE_UP, 0, "it does not know what the request needs"),
    437: (Step.HOLD_OFF, MISMATCH_HOLD_OFF, "it knows no allocation of ours at this port, or one of somebody else"),
    438: (Step.HOLD_OFF, CAPACITY_HOLD_OFF, "it takes none of the nonces that it gives: check its clock and its peers"),
    440: (Step.GIVE_UP, 0, "it has no relayed addresses of this family"),
    441: (Step.GIVE_UP, 0, "the allocation belongs to other credentials: a new one is needed"),
    442: (Step.GIVE_UP, 0, "it does not relay UDP"),
    443: (Step.GIVE_UP, 0, "the peer's address is not of the family of the relayed one"),
    446: (Step.GIVE_UP, 0, "it has a connection to this peer already"),
    447: (Step.GIVE_UP, 0, "it cannot connect to this peer"),
    486: (Step.HOLD_OFF, CAPACITY_HOLD_OFF, "this user has too many allocations: close some, or wait a minute"),
    500: (Step.HOLD_OFF, TROUBLE_HOLD_OFF, "it is in trouble: try again in a few seconds"),
    508: (Step.HOLD_OFF, CAPACITY_HOLD_OFF, "it has no capacity left: try again in a minute"),
}
#: What has no row of its own (RFC 8489 §6.3.4).
_TROUBLE = (Step.HOLD_OFF, TROUBLE_HOLD_OFF, "it is in trouble")
_UNKNOWN = (Step.GIVE_UP, 0, "")


def verdict(
    code: int,
    response: Message | None = None,
    *,
    attempt: int = 1,
    lost: bool = False,
    visited: Collection[Address] = (),
) -> Verdict:
    """What to do when a server has refused an allocation, or with ``lost`` refused to keep one, with ``code``.

    ``code`` is 0 if it was not the server that ended it: time-outs, broken streams, and answers that cannot be
    understood. ``attempt`` counts how often this code has come from this server in a row, this time included.
    ``visited`` are the servers that this request has been to: none of them is gone back to (RFC 8489 §10).
    """
    if code == 0:
        return Verdict(Step.NEW_TUPLE if lost else Step.HOLD_OFF)
    if code == 300 and response is not None:
        alternates = tuple(server for server in response.values("ALTERNATE-SERVER") if server not in visited)
        if alternates:
            return Verdict(Step.REDIRECT, 0, alternates, response.attributes.get("ALTERNATE-DOMAIN"))
    if (code == 437 and attempt < MAX_TUPLES) or (lost and code in (437, 441)):
        return Verdict(Step.NEW_TUPLE)
    step, hold_off, _ = _row(code)
    if hold_off == TROUBLE_HOLD_OFF and attempt > MAX_RETRIES:
        hold_off = CAPACITY_HOLD_OFF
    return Verdict(step, hold_off)


def advice(code: int) -> str:
    """What the code means for whoever reads it; empty if nobody knows."""
    return _row(code)[2]


def _row(code: int) -> tuple[Step, float, str]:
    return _VERDICTS.get(code) or (_TROUBLE if code >= 500 else _UNKNOWN)


def describe(message: Message) -> str:
    """An error response for people: its code, the reason phrase with everything odd in it escaped, and what to do."""
    error = message.attributes.get("ERROR-CODE")
    if error is None:
        return "the server refused without an error code"
    code, phrase = error
    # coturn pads the phrase with zero bytes, and counts them.
    text = f"the server refused: {code} ({phrase.rstrip(chr(0))[:128]!a})"
    return f"{text}: {advice(code)}" if advice(code) else text
