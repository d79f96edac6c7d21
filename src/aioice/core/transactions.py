"""Authenticated transactions with one TURN server: a child machine of the allocation.

It makes requests, signs them as the server wants it, repeats what must be repeated (RFC 8489 §6.2, §9.2.5; 420 without
the attribute that the server does not know), and holds back what was refused for its credentials while new ones are
being fetched. Each request ends in one :class:`Answered`, :class:`Refused` or :class:`Silent`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .attributes import BY_NAME
from .credentials import opaque_string
from .message import Class, Message, Method
from .record import Record
from .requests import Requests
from .turn_errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from .credentials import LongTermCredentials, Signature
    from .machine import Address, Tunables

#: New credentials are waited for this long, in seconds, and after a failure asked for again in as many.
CREDENTIALS_TIME = 30
#: Credentials are renewed so long before their end.
CREDENTIALS_MARGIN = 60
#: So many new credentials in a row are tried in vain.
MAX_RENEWALS = 2


class Exchange:
    """One request, through all of its attempts."""

    __slots__ = ("method", "attributes", "subject", "optional", "signature", "started", "forged")

    def __init__(self, method: Method, attributes: dict[str, Any], subject: Any, optional: tuple[str, ...]) -> None:
        self.method = method
        self.attributes = attributes
        #: What the owner wants to remember with it.
        self.subject = subject
        #: Attributes that the server need not know; empty once some were left out.
        self.optional = optional
        self.signature: Signature | None = None
        #: When the attempt that is in flight began.
        self.started = 0.0
        #: Answers came that somebody else has made.
        self.forged = False


class Sent(Record):
    """Send this to the server; ``repeated`` if that has not got the request before, or has not taken it."""

    data: bytes
    exchange: Exchange
    repeated: bool


class Answered(Record):
    exchange: Exchange
    message: Message


class Refused(Record):
    """``code`` is 0, and there may be no message, if that is not what the server has said."""

    exchange: Exchange
    code: int
    detail: str
    message: Message | None


class Silent(Record):
    """No answer came, or none that could be believed."""

    exchange: Exchange
    detail: str


class WantCredentials(Record):
    """Call :meth:`Allocation.set_credentials` within 30 s: the server refuses those that we have, or they end soon."""


class Transactions:
    """The requests to one server over one link."""

    __slots__ = (
        "_credentials",
        "_requests",
        "_random",
        "_link",
        "_server",
        "_reliable",
        "_renewable",
        "_outputs",
        "_held",
        "_renewals",
        "_spare",
        "_allocated_as",
        "_wait_ends",
        "_renew_at",
        "_closing",
    )

    def __init__(
        self,
        credentials: LongTermCredentials,
        tunables: Tunables,
        random: Callable[[int], bytes],
        server: Address,
        *,
        reliable: bool,
        renewable: bool,
    ) -> None:
        self._credentials = credentials
        self._requests = Requests(tunables)
        self._random = random
        self._link = -1
        self._server = server
        self._reliable = reliable
        self._renewable = renewable
        self._outputs: deque[Sent | Answered | Refused | Silent | WantCredentials] = deque()
        #: What was refused for its credentials and waits for others.
        self._held: list[Refused] = []
        #: New credentials since the server has last taken any.
        self._renewals = 0
        #: Credentials of another user, for when those of the allocation are refused.
        self._spare: tuple[str, str] | None = None
        #: Whose allocation it is (RFC 8656 §7.3: that user makes all further requests).
        self._allocated_as: str | None = None
        #: Until when we wait for credentials, and when to ask for them.
        self._wait_ends: float | None = None
        self._renew_at: float | None = None
        self._closing = False

    # -------------------------------------------------------------------------------------------------------- verbs

    def start(self, now: float, link: int, expires: float | None) -> None:
        """The link is there; the credentials are good until ``expires``."""
        self._link = link
        if self._renewable and expires is not None:
            self._renew_at = max(expires - CREDENTIALS_MARGIN, now)

    def ask(
        self,
        now: float,
        method: Method,
        attributes: dict[str, Any],
        subject: Any = None,
        optional: tuple[str, ...] = (),
    ) -> None:
        """Make a request; a 420 that names only ``optional`` attributes makes it again without them, once."""
        exchange = Exchange(method, attributes, subject, optional)
        if self._held and not self._closing:
            self._held.append(self._held[0]._replace(exchange=exchange))
        else:
            self._attempt(now, exchange, None)

    def set_credentials(
        self, now: float, username: str | None, password: str | None, expires: float | None = None
    ) -> None:
        """Go on with these; with None, what was refused stays refused, and we ask again later."""
        self._wait_ends = self._renew_at = None
        held, self._held = self._held, []
        try:
            user = None if username is None or password is None else (opaque_string(username), opaque_string(password))
        except ValueError as exc:
            user, held = None, [refused._replace(detail=str(exc)) for refused in held]
        if user is None:
            self._renew_at = now + CREDENTIALS_TIME if self._renewable else None
            self._outputs.extend(held)
            return
        if expires is not None and self._renewable:
            self._renew_at = max(expires - CREDENTIALS_MARGIN, now + CREDENTIALS_TIME)
        if self._allocated_as not in (None, user[0]) and not held:
            self._spare = user
            return
        self._spare = None
        self._credentials.update(*user)
        self._renewals += bool(held)
        for refused in held:
            signature = refused.exchange.signature
            if signature is None or self._credentials.refused_another(signature):
                self._attempt(now, refused.exchange, signature, repeated=True)
            else:
                self._outputs.append(refused)

    def close(self) -> None:
        """From now on only deletions are repeated, and nothing waits for credentials."""
        self._closing = True
        self._held.clear()
        self._wait_ends = self._renew_at = None

    def end_all(self) -> None:
        """Forget every request."""
        self._requests.end_all()
        self.close()

    def tune(self, tunables: Tunables) -> None:
        self._requests.tunables = tunables

    @property
    def idle(self) -> bool:
        """Nothing is in flight."""
        return not len(self._requests)

    @property
    def tunables(self) -> Tunables:
        return self._requests.tunables

    # ----------------------------------------------------------------------------------------------------- the world

    def handle_answer(self, now: float, message: Message) -> bool:
        """An answer came; whether it is one to a request of ours and may be believed."""
        request = self._requests.match(message.transaction_id, self._link, self._server)
        if request is None or message.message_method != request.context.method:
            return False
        exchange: Exchange = request.context
        if not self._credentials.verify(message, exchange.signature):
            # RFC 8489 §9.2.5: a forgery over UDP changes nothing, over a stream it can only be the server's.
            exchange.forged = True
            if self._reliable:
                self._requests.end(request)
                self._refuse(exchange, 0, "the answer of the server is not authentic", message)
            return False
        self._requests.end(request)
        code = (message.error_code or 0) if message.message_class == Class.ERROR else None
        if code in (401, 438):
            self._challenged(now, exchange, code, message)
        elif code == 441:
            self._refused_user(now, exchange, code, message)
        elif code == 420:
            self._unknown_attributes(now, exchange, message)
        elif code is not None:
            self._refuse(exchange, code, describe(message), message)
        elif message.unknown_required:
            self._refuse(exchange, 0, "the answer of the server has attributes that must be understood", message)
        else:
            self._renewals = 0
            if exchange.method is Method.ALLOCATE and exchange.signature is not None:
                self._allocated_as = exchange.signature.username
            self._outputs.append(Answered(exchange, message))
        return True

    def handle_timeout(self, now: float) -> None:
        again, failed = self._requests.handle_timeout(now)
        for request in again:
            if not self._closing:
                self._outputs.append(Sent(request.data, request.context, True))
        for request in failed:
            forged = "the answers of the server are not authentic" if request.context.forged else ""
            self._outputs.append(Silent(request.context, forged or "the server does not answer"))
        if self._wait_ends is not None and now >= self._wait_ends:
            self.set_credentials(now, None, None)
        elif self._renew_at is not None and now >= self._renew_at:
            self._want(now)

    def poll_output(self) -> Sent | Answered | Refused | Silent | WantCredentials | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> float | None:
        earliest = self._requests.poll_timeout()
        for time in (self._wait_ends, self._renew_at):
            if time is not None and (earliest is None or time < earliest):
                earliest = time
        return earliest

    # ------------------------------------------------------------------------------------------------------ attempts

    def _attempt(self, now: float, exchange: Exchange, after: Signature | None, *, repeated: bool = False) -> None:
        message = Message(exchange.method, Class.REQUEST, self._random(12), dict(exchange.attributes))
        exchange.signature = self._credentials.sign(message, after)
        exchange.started = now
        data = bytes(message)
        # RFC 8489 §6.2.2: over a reliable transport a request is sent once.
        timeout = self.tunables.transaction_timeout if self._reliable else None
        self._requests.start(now, message.transaction_id, data, self._link, self._server, exchange, timeout=timeout)
        self._outputs.append(Sent(data, exchange, repeated or after is not None))

    def _challenged(self, now: float, exchange: Exchange, code: int, message: Message) -> None:
        deleting = exchange.method is Method.REFRESH
        again = self._credentials.challenge(message, exchange.signature)
        if again and (deleting or not self._closing):
            self._attempt(now, exchange, exchange.signature, repeated=True)
        elif code == 401:
            self._refused_user(now, exchange, code, message)
        else:
            self._refuse(exchange, code, self._credentials.fault or describe(message), message)

    def _refused_user(self, now: float, exchange: Exchange, code: int, message: Message) -> None:
        """The server does not take the credentials, or not for this allocation."""
        signature, credentials = exchange.signature, self._credentials
        detail = credentials.fault or describe(message)
        if self._closing or (credentials.username is not None and credentials.fault):
            self._refuse(exchange, code, detail, message)
        elif signature is not None and credentials.refused_another(signature):
            self._attempt(now, exchange, signature)
        elif self._spare is not None:
            credentials.update(*self._spare)
            self._spare = None
            self._attempt(now, exchange, signature)
        elif self._renewable and self._renewals < MAX_RENEWALS and self._own(signature):
            self._held.append(Refused(exchange, code, detail, message))
            if self._wait_ends is None:
                self._want(now)
        else:
            self._refuse(exchange, code, detail, message)

    def _own(self, signature: Signature | None) -> bool:
        """Whether other credentials may help: none does if the allocation is another user's than those that we have."""
        return signature is None or self._allocated_as in (None, signature.username)

    def _unknown_attributes(self, now: float, exchange: Exchange, message: Message) -> None:
        """RFC 8656 §7.4: without the attributes that the server does not know, once."""
        unknown = message.attributes.get("UNKNOWN-ATTRIBUTES", [])
        names = {name for name in exchange.attributes if BY_NAME[name].type in unknown}
        if names and names <= set(exchange.optional) and not self._closing:
            exchange.attributes = {name: exchange.attributes[name] for name in exchange.attributes if name not in names}
            exchange.optional = ()
            self._attempt(now, exchange, None, repeated=True)
        else:
            self._refuse(exchange, 420, describe(message), message)

    def _want(self, now: float) -> None:
        self._renew_at = None
        self._wait_ends = now + CREDENTIALS_TIME
        self._outputs.append(WantCredentials())

    def _refuse(self, exchange: Exchange, code: int, detail: str, message: Message | None) -> None:
        self._outputs.append(Refused(exchange, code, detail, message))
