"""STUN messages, and transactions with a STUN server (RFC 8489)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from .core import message as codec
from .core.attributes import COOKIE, canonical_host
from .core.message import Class, Method
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

#: Retransmissions of a request after the first transmission (RFC 8489 §6.2.1: Rc = 7), read when a request starts.
RETRY_MAX = 6
#: Seconds before the first retransmission (RFC 8489 §6.2.1), read when a request starts.
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

    With ``integrity_key`` a MESSAGE-INTEGRITY that was made with another key is an error too.
    """
    message = Message.__new__(Message)
    codec.read_message(message, data)
    if integrity_key is not None and "MESSAGE-INTEGRITY" in message.attributes:
        if not message.check_message_integrity(integrity_key):
            raise ValueError("STUN message integrity does not match")
    return message


class TransactionError(Exception):
    """A transaction has failed."""

    response: codec.Message | None = None


class TransactionFailed(TransactionError):
    """The server answered with an error."""

    response: codec.Message

    def __init__(self, response: codec.Message) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        error = self.response.attributes.get("ERROR-CODE")
        if error is None:
            return "STUN transaction failed"
        code, reason = error
        return f"STUN transaction failed ({code} - {ascii(reason)[1:-1]})"


class TransactionTimeout(TransactionError):
    """No answer came to any transmission."""

    def __str__(self) -> str:
        return "STUN transaction timed out"


class TransactionSender(Protocol):
    """What a transaction needs of its protocol."""

    def send_stun(self, message: Message, addr: Address) -> None: ...


class Transaction:
    """One request to one server, repeated until it is answered or given up (RFC 8489 §6.2.1).

    The protocol hands its answer to :meth:`response_received`.
    """

    def __init__(
        self,
        request: Message,
        addr: Address,
        protocol: TransactionSender,
        retransmissions: int | None = None,
        integrity_key: bytes | None = None,
    ) -> None:
        self._request = request
        self._addr = addr
        self._server = (_canonical(addr[0]), addr[1])
        self._protocol = protocol
        self._key = integrity_key
        self._sends = 1 + (RETRY_MAX if retransmissions is None else retransmissions)
        self._sent = 0
        self._rto = RETRY_RTO
        self._timer: asyncio.TimerHandle | None = None
        self._future: asyncio.Future[tuple[codec.Message, Address]] | None = None

    def response_received(self, message: codec.Message, addr: Address) -> None:
        """Take an answer; what is not authentic or comes from another address than the request went to is ignored."""
        if self._future is None or self._future.done() or (_canonical(addr[0]), addr[1]) != self._server:
            return
        if self._key is not None and not message.check_message_integrity(self._key):
            return
        if message.message_class is Class.RESPONSE and not message.unknown_required:
            self._future.set_result((message, addr))
        else:
            self._future.set_exception(TransactionFailed(message))

    async def run(self) -> tuple[codec.Message, Address]:
        """Send the request; returns the answer and where it came from.

        Raises :class:`TransactionFailed` or :class:`TransactionTimeout`.
        """
        self._future = asyncio.get_running_loop().create_future()
        try:
            self._send()
            return await self._future
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _send(self) -> None:
        assert self._future is not None
        if self._future.done():
            return
        if self._sent == self._sends:
            self._future.set_exception(TransactionTimeout())
            return
        self._protocol.send_stun(self._request, self._addr)
        doublings = 2**self._sent
        self._sent += 1
        wait = self._rto * (doublings if self._sent < self._sends else min(LAST_WAIT, doublings))
        self._timer = self._future.get_loop().call_later(wait, self._send)


def _canonical(host: str) -> str:
    try:
        return canonical_host(host)
    except ValueError:
        return host
