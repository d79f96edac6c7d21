"""Queries to STUN servers: how our sockets look from outside, and go on looking (RFC 8445 §5.1.1.2, §5.1.1.4)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .address import canonical_host
from .inquiries import Inquiry, ServerVerdict, explain, verdict_of
from .machine import Reason, Transmit
from .message import Class, Message, Method
from .record import Record
from .requests import Requests
from .servers import Ended, Mapped
from .turn_errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from .checklist import Base
    from .machine import Address, Tunables
    from .servers import StunServer

#: Seconds between two requests that keep a binding alive (RFC 8445 §11: Tr is 15 s at least; NATs keep UDP bindings for
#: 30 s and more).
KEEPALIVE = 15.0
#: An answer to one of those is waited for so long; it is not sent again, the next follows anyway.
KEEPALIVE_TIMEOUT = 10.0


class Query(Record):
    """What a request is about."""

    base: Base
    inquiry: Inquiry


class Binding:
    """A mapping that is kept alive."""

    __slots__ = ("base", "inquiry", "mapped")

    def __init__(self, base: Base, inquiry: Inquiry, mapped: Address) -> None:
        self.base = base
        self.inquiry = inquiry
        self.mapped = mapped


class Reflexive:
    """Asks STUN servers for the gatherer, which drains ``outputs``; ``pace`` starts a transaction in its turn."""

    __slots__ = ("_random", "_outputs", "_pace", "_requests", "_asked", "_waiting", "_bindings", "_keeping", "_keep_at")

    def __init__(
        self,
        random: Callable[[int], bytes],
        tunables: Tunables,
        outputs: list[Any],
        pace: Callable[[float, Callable[[float], bool]], None],
    ) -> None:
        self._random = random
        self._outputs = outputs
        self._pace = pace
        self._requests = Requests(tunables)
        #: Whom each base has asked, which also ends redirections that run in a circle (RFC 8489 §10).
        self._asked: set[tuple[int, Address]] = set()
        #: What waits for its turn.
        self._waiting: list[Inquiry] = []
        self._bindings: list[Binding] = []
        self._keeping = True
        self._keep_at: float | None = None

    # ----------------------------------------------------------------------------------------------------------- verbs

    def ask(self, now: float, base: Base, server: StunServer, address: Address) -> Inquiry | None:
        """Ask for the mapping of ``base``; None if it has been asked already."""
        if (base.link, address) in self._asked:
            return None
        self._asked.add((base.link, address))
        inquiry = Inquiry(server, base.candidate.component, float("inf"), address)
        inquiry.local = (base.shown.host, base.shown.port)
        inquiry.link = base.link
        self._waiting.append(inquiry)
        self._pace(now, partial(self._start, base, inquiry))
        return inquiry

    def _start(self, base: Base, inquiry: Inquiry, now: float) -> bool:
        if inquiry not in self._waiting:
            return False
        self._waiting.remove(inquiry)
        inquiry.started = now
        self._send(now, base, inquiry)
        return True

    def _send(self, now: float, base: Base, inquiry: Inquiry, timeout: float | None = None) -> None:
        assert inquiry.address is not None
        message = Message(Method.BINDING, Class.REQUEST, self._random(12))
        message.add_fingerprint()
        data = bytes(message)
        query = Query(base, inquiry)
        self._requests.start(now, message.transaction_id, data, base.link, inquiry.address, query, timeout=timeout)
        self._outputs.append(Transmit(base.link, inquiry.address, data))

    def keep(self, now: float, keeping: bool) -> None:
        """Whether the bindings must be kept: until a pair has been selected (RFC 8445 §8.3), and after a restart."""
        if keeping and not self._keeping and self._bindings:
            self._refresh(now)
        elif not keeping:
            self._keep_at = None
        self._keeping = keeping

    def _refresh(self, now: float) -> None:
        self._keep_at = now + KEEPALIVE
        for binding in self._bindings:
            self._send(now, binding.base, binding.inquiry, KEEPALIVE_TIMEOUT)

    def tune(self, tunables: Tunables) -> None:
        self._requests.tunables = tunables

    def end(self, link: int, peer: Address | None, reason: Reason, detail: str = "") -> None:
        """No answer will come from ``peer``, or from anybody, over this link."""
        for request in self._requests.all():
            if request.link == link and peer in (None, request.peer):
                self._requests.end(request)
                self._end(request.context.inquiry, verdict_of(reason), explain(reason, detail))
        if peer is None:
            for inquiry in [inquiry for inquiry in self._waiting if inquiry.link == link]:
                self._waiting.remove(inquiry)
                self._end(inquiry, verdict_of(reason), explain(reason, detail))
            self._asked = {asked for asked in self._asked if asked[0] != link}
            self._bindings = [binding for binding in self._bindings if binding.base.link != link]

    def close(self) -> None:
        self._requests.end_all()
        self._waiting.clear()
        self._bindings.clear()
        self._keep_at = None

    def _end(self, inquiry: Inquiry, verdict: ServerVerdict, detail: str = "", code: int = 0) -> None:
        if inquiry.pending:
            inquiry.end(verdict, detail, code)
            self._outputs.append(Ended(inquiry))

    # ------------------------------------------------------------------------------------------------------- the world

    def handle_answer(self, now: float, link: int, peer: Address, message: Message) -> None:
        """A STUN answer that is not one to a check."""
        request = self._requests.match(message.transaction_id, link, peer)
        if request is None:
            return
        self._requests.end(request)
        base, inquiry = request.context
        if inquiry.verdict is ServerVerdict.NOT_STUN:
            inquiry.verdict = ServerVerdict.PENDING  # that was somebody else
        if message.message_class is not Class.RESPONSE:
            self._refused(now, base, inquiry, message)
            return
        # An RFC 3489 server knows MAPPED-ADDRESS only (RFC 8489 §11).
        mapped = message.attributes.get("XOR-MAPPED-ADDRESS") or message.attributes.get("MAPPED-ADDRESS")
        if message.unknown_required or mapped is None or not mapped[1]:
            self._end(inquiry, ServerVerdict.FAILED, "the answer has no address that could be used")
            return
        if inquiry.pending:
            inquiry.rtt = now - request.started
        self._mapped(now, base, inquiry, mapped)
        self._end(inquiry, ServerVerdict.ANSWERED)

    def awaits(self, link: int, peer: Address) -> bool:
        """Whether a server at this address has been asked over the link and is still waited for."""
        return any(
            request.link == link and request.peer == peer and request.context.inquiry.pending
            for request in self._requests.all()
        )

    def not_stun(self, link: int, peer: Address, data: bytes) -> None:
        """Whatever lives at this address is not waited for any longer; what is STUN counts all the same if it comes,
        for addresses are forged easily.
        """
        for request in self._requests.all():
            if request.link == link and request.peer == peer:
                self._end(request.context.inquiry, ServerVerdict.NOT_STUN, f"it answers {data[:16]!a}")

    def _mapped(self, now: float, base: Base, inquiry: Inquiry, mapped: Address) -> None:
        binding = next((b for b in self._bindings if b.base is base and b.inquiry is inquiry), None)
        before = None
        if binding is None:
            if all(b.base is not base or b.mapped != mapped for b in self._bindings):
                self._bindings.append(Binding(base, inquiry, mapped))
        elif binding.mapped != mapped:
            # The NAT has forgotten us, or has a new address.
            before, binding.mapped = binding.mapped, mapped
        self._outputs.append(Mapped(base, mapped, inquiry, before))
        if self._keeping and self._keep_at is None and self._bindings:
            self._keep_at = now + KEEPALIVE

    def _refused(self, now: float, base: Base, inquiry: Inquiry, message: Message) -> None:
        alternate = message.attributes.get("ALTERNATE-SERVER") if message.error_code == 300 else None
        if inquiry.pending and alternate is not None and (":" in alternate[0]) == (":" in base.candidate.host):
            other = (canonical_host(alternate[0]), alternate[1])
            if (base.link, other) not in self._asked:
                self._asked.add((base.link, other))
                inquiry.address = other
                self._send(now, base, inquiry)
                return
        self._end(inquiry, ServerVerdict.REFUSED, describe(message), message.error_code or 0)

    # ---------------------------------------------------------------------------------------------------- time, outputs

    def handle_timeout(self, now: float) -> None:
        again, failed = self._requests.handle_timeout(now)
        for request in again:
            self._outputs.append(Transmit(request.link, request.peer, request.data))
        for request in failed:
            self._end(request.context.inquiry, ServerVerdict.TIMED_OUT, "the server does not answer")
        if self._keep_at is not None and now >= self._keep_at:
            self._refresh(now)

    def poll_timeout(self) -> float | None:
        due = self._requests.poll_timeout()
        if due is None or self._keep_at is None:
            return self._keep_at if due is None else due
        return min(due, self._keep_at)
