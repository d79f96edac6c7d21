"""STUN messages, and transactions with a STUN server (RFC 8489)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from .core import message as codec
from .core.address import canonical_host
from .core.message import COOKIE, Class, Method
from .core.requests import LAST_WAIT
from .utils import random_transaction_id

if TYPE_CHECKING:
    from .core.machine import Address

    AnyMessage = codec.Message

__all__ = [
    "COOKIE",
    "RETRY_MAX",
    "RETRY_RTO",
    "Class",
    "Message",
    "Method",
    "Transaction",
    "TransactionError",
    "TransactionFailed",
    "TransactionTimeout",
    "parse_message",
]

#: Retransmissions of a request, the first transmission not counted (RFC 8489 §6.2.1: Rc = 7). Programs may change it.
RETRY_MAX = 6
#: Seconds until the first retransmission (RFC 8489 §6.2.1). Programs may change it.
RETRY_RTO = 0.5


class Message(codec.Message):
    """A STUN message, with a random transaction id unless one is given.

    :param attributes: Values by the attributes' names, in the order in which they are sent.
    """

    __slots__ = ()

    def __init__(
        self,
        message_method: Method | int,
        message_class: Class,
        transaction_id: bytes | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message_method, message_class, transaction_id or random_transaction_id(), attributes)


def parse_message(data: bytes, integrity_key: bytes | None = None) -> Message:
    """Read a message. Raises :class:`ValueError`, and nothing else, if the bytes are not one.

    With ``integrity_key``, a MESSAGE-INTEGRITY that was made with another key is an error too; to insist on one, use
    :meth:`Message.check_message_integrity`.
    """
    message = Message.__new__(Message)
    codec.read_message(message, data)
    if integrity_key is not None and "MESSAGE-INTEGRITY" in message.attributes:
        if not message.check_message_integrity(integrity_key):
            raise ValueError("STUN message integrity does not match")
    return message


# ------------------------------------------------------------------------------------------------------- transactions


class TransactionError(Exception):
    """A transaction has failed."""

    response: codec.Message | None = None


class TransactionFailed(TransactionError):
    """The server refused, or its answer cannot be understood."""

    response: codec.Message

    def __init__(self, response: codec.Message) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        error = self.response.attributes.get("ERROR-CODE")
        if error is not None:
            code, reason = error
            # coturn pads the phrase with zero bytes, and counts them.
            return f"STUN transaction failed ({code} - {ascii(reason.rstrip(chr(0))[:128])[1:-1]})"
        if self.response.unknown_required:
            types = ", ".join(f"0x{number:04x}" for number in self.response.unknown_required[:8])
            return f"STUN transaction failed (unknown attributes: {types})"
        return "STUN transaction failed"


class TransactionTimeout(TransactionError):
    """No answer came to any transmission."""

    def __str__(self) -> str:
        return "STUN transaction timed out"


class TransactionSender(Protocol):
    """What a transaction needs of its protocol."""

    def send_stun(self, message: Message, addr: Address) -> None: ...


class Transaction:
    """One request to one server, repeated until it is answered or given up (RFC 8489 §6.2.1).

    The protocol hands answers to :meth:`response_received`; it finds the transaction by its id.

    :param retransmissions: How often to repeat the request, :data:`RETRY_MAX` times by default.
    :param integrity_key: Only an answer that was signed with this key counts.
    :param long_term_credential: But a 401 or a 438 need not be signed (RFC 8489 §9.2.5).
    """

    def __init__(
        self,
        request: Message,
        addr: Address,
        protocol: TransactionSender,
        retransmissions: int | None = None,
        integrity_key: bytes | None = None,
        long_term_credential: bool = False,
    ) -> None:
        self._request = request
        self._addr = addr
        self._server = _canonical(addr)
        self._protocol = protocol
        self._retransmissions = retransmissions
        self._integrity_key = integrity_key
        self._long_term_credential = long_term_credential
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] | None = None
        self._outcome: tuple[codec.Message, Address] | Exception | None = None

    def response_received(self, message: codec.Message, addr: Address) -> None:
        """Take an answer. One that is not authentic, or comes from elsewhere than the request went to, is ignored."""
        if message.message_class not in (Class.RESPONSE, Class.ERROR) or _canonical(addr) != self._server:
            return
        if not self._is_authentic(message):
            return
        if message.message_class == Class.RESPONSE and not message.unknown_required:
            self._end((message, addr))
        else:
            self._end(TransactionFailed(message))

    async def run(self) -> tuple[codec.Message, Address]:
        """Send the request; returns the answer and where it came from.

        Raises :class:`TransactionFailed` or :class:`TransactionTimeout`, or what the protocol's ``send_stun`` raised.
        """
        self._ended = asyncio.get_running_loop().create_future()
        try:
            self._send()
            await self._ended
        finally:
            self._stop()
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def _is_authentic(self, message: codec.Message) -> bool:
        if self._integrity_key is None:
            return True
        if self._long_term_credential and message.message_class == Class.ERROR and message.error_code in (401, 438):
            return True
        return message.check_message_integrity(self._integrity_key)

    def _send(self) -> None:
        """Send the request once more, or give up."""
        self._timer = None
        last = RETRY_MAX if self._retransmissions is None else self._retransmissions
        if self._sent > last:
            self._end(TransactionTimeout())
            return
        doublings = 2**self._sent
        self._sent += 1
        # An answer may come back before ``send_stun`` returns: the timer is there first.
        wait = RETRY_RTO * (doublings if self._sent <= last else min(LAST_WAIT, doublings))
        self._timer = asyncio.get_running_loop().call_later(wait, self._send)
        try:
            self._protocol.send_stun(self._request, self._addr)
        except Exception as exc:
            self._end(exc)

    def _end(self, outcome: tuple[codec.Message, Address] | Exception) -> None:
        """The first outcome counts; the timer ends with it, so that nothing comes after."""
        if self._ended is not None and not self._ended.done():
            self._stop()
            self._outcome = outcome
            self._ended.set_result(None)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _canonical(addr: Address) -> Address:
    """The address in a form that can be compared; a name stays as it is."""
    try:
        return canonical_host(addr[0]), addr[1]
    except ValueError:
        return addr[0], addr[1]
