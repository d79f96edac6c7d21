"""StunProtocol: what sits on each datagram transport of a connection and tells checks from data."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, cast

from . import stun
from .core.demux import CHANNEL_HEADER_SIZE, MAGIC_COOKIE
from .core.record import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .candidate import Candidate
    from .core.machine import Address
    from .ice import Connection
    from .running import RunningAgent
    from .turn import TurnTransport

protocol_id = itertools.count()


class StunProtocol(asyncio.DatagramProtocol):
    """The protocol of one local base: our socket, a relay's transport, or an endpoint that the application opened.

    Programs that open their own endpoint set :attr:`local_candidate` and append the protocol to
    ``connection._protocols``. It also works as a plain STUN client, with any receiver: see :meth:`request`.
    """

    #: The host or relayed candidate that stands for the transport.
    local_candidate: Candidate
    transport: asyncio.DatagramTransport

    __slots__ = (
        "local_candidate",
        "transport",
        "id",
        "receiver",
        "transactions",
        "link",
        "accepted",
        "dropped",
        "paused",
        "packets_received",
        "bytes_received",
        "_writers",
        "_closed",
        "_lost",
        "__dict__",
    )

    def __init__(self, receiver: Connection | Any) -> None:
        self.id = next(protocol_id)
        self.receiver = receiver
        self.transactions: Mapping[bytes, stun.Transaction] = NOTHING
        #: The number by which the connection's agent knows the transport.
        self.link: int | None = None
        #: Components by the addresses that may send them data.
        self.accepted: dict[Address, int] = {}
        #: Datagrams that were dropped here, by reason.
        self.dropped: Mapping[str, int] = NOTHING
        #: Whether the transport has more to send than it should.
        self.paused = False
        #: Application data that was taken.
        self.packets_received = 0
        self.bytes_received = 0
        self._writers: list[asyncio.Future[None]] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)
        limit_writes(transport, self.receiver)

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        # What core.demux.is_stun asks, without the call (nor one of cast): this runs for each datagram.
        if data[4:8] == MAGIC_COOKIE and data[0] < 0x40:  # type: ignore[operator]
            self._stun_received(cast("bytes", data), addr[:2])
            return
        component = self.accepted.get(addr)
        if component is None:
            # asyncio's own transports give IPv6 addresses with two numbers more.
            component = self.accepted.get(addr[:2])
            if component is None:
                self._drop("data of a stranger")
                if self.link is not None:
                    self.receiver._stranger_received(self.link, addr[:2], cast("bytes", data))
                return
        self.packets_received += 1
        self.bytes_received += len(data)
        self.receiver.data_received(data, component)  # type: ignore[arg-type]

    def batch_received(self, data: bytes, size: int, addr: tuple[Any, ...]) -> None:
        """Datagrams of ``size`` bytes each, but for the last that may be shorter, one behind the other."""
        peer = addr if len(addr) == 2 else addr[:2]
        component = self.accepted.get(peer)
        datagrams = [data[start : start + size] for start in range(0, len(data), size)]
        if component is not None and MAGIC_COOKIE[0] not in data[4::size]:
            # One look at the fifth byte of all of them: none is STUN.
            many: Callable[[list[bytes], int], object] | None = getattr(self.receiver, "datagrams_received", None)
            if many is not None:
                self.packets_received += len(datagrams)
                self.bytes_received += len(data)
                many(datagrams, component)
                return
        for datagram in datagrams:
            if self._lost or self.transport.is_closing():
                return  # what a check among them has ended
            try:
                self.datagram_received(datagram, peer)
            except Exception as exc:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "aioice: exception in the receiver of a datagram", "exception": exc, "protocol": self}
                )

    def _stun_received(self, data: bytes, peer: Address) -> None:
        transaction = self.transactions.get(data[8:20]) if self.transactions else None
        if transaction is not None:
            try:
                transaction.response_received(stun.parse_message(data), peer)
            except ValueError:
                self._drop("malformed")
        elif self.link is not None:
            self.receiver._stun_received(self.link, peer, data)
        else:
            self._drop("STUN before the socket was taken over")

    def _drop(self, why: str) -> None:
        self.dropped = {**self.dropped, why: self.dropped.get(why, 0) + 1}

    def drops(self) -> Mapping[str, int]:
        """What was dropped here and on the way out, by reason."""
        unsent = getattr(getattr(self, "transport", None), "dropped", 0)
        return {**self.dropped, "send queue full": unsent} if unsent else self.dropped

    # --------------------------------------------------------------------------------------------------- back-pressure

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.wake_writers()

    async def room(self) -> None:
        """Wait until the transport takes more, or is no longer the one to send through."""
        writer = asyncio.get_running_loop().create_future()
        self._writers = [*(self._writers or ()), writer]
        await writer

    def wake_writers(self) -> None:
        writers, self._writers = self._writers, None
        for writer in writers or ():
            if not writer.done():
                writer.set_result(None)

    # --------------------------------------------------------------------------------------------------- the transport

    def peer_unreachable(self, peer: Address, exc: OSError) -> None:
        if self.link is not None:
            self.receiver._peer_unreachable(self.link, peer, exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.resume_writing()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        if self.link is not None:
            self.receiver._link_lost(self.link, exc)

    async def close(self) -> None:
        """Close the transport and wait until it is closed."""
        if self._lost:
            return
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
            self.transport.close()
        await asyncio.shield(self._closed)

    async def request(
        self,
        request: stun.Message,
        addr: Address,
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> tuple[stun.AnyMessage, Address]:
        """Ask a STUN server; returns its answer and the address it came from.

        Raises :class:`~aioice.stun.TransactionFailed` for an error answer and :class:`~aioice.stun.TransactionTimeout`
        for none (RFC 8489 §6.2.1). With ``integrity_key`` the request is signed and only a signed answer counts
        (§9.1.4).
        """
        if integrity_key is not None:
            request.add_message_integrity(integrity_key)
        transaction = stun.Transaction(
            request, addr, self, retransmissions=retransmissions, integrity_key=integrity_key
        )
        self.transactions = {**self.transactions, request.transaction_id: transaction}
        try:
            return await transaction.run()
        finally:
            self.transactions = {
                k: other for k, other in self.transactions.items() if other is not transaction
            } or NOTHING

    def send_stun(self, message: stun.Message, addr: Address) -> None:
        self.transport.sendto(bytes(message), addr)

    def __repr__(self) -> str:
        return f"protocol({self.id})"


def limit_writes(transport: Any, connection: Any) -> None:
    """Tell a transport after how many bytes that wait it is to ask for a pause."""
    set_limits, high = getattr(transport, "set_write_buffer_limits", None), getattr(connection, "send_buffer", None)
    if set_limits is not None and high is not None:
        set_limits(high=high)


class ServerProtocol(asyncio.DatagramProtocol):
    """On a TURN server's link everything is the machine's, but for the data of peers that are bound to a channel."""

    __slots__ = ("_connection", "_link", "_channels", "_relays", "_paused")

    def __init__(self, connection: RunningAgent | TurnTransport, link: int) -> None:
        self._connection = connection
        self._link = link
        #: By their numbers, in two bytes: whom to hand the data to, from whom it is, and the server that relays it.
        self._channels: dict[bytes, tuple[asyncio.DatagramProtocol, Address, Address]] | None = None
        #: What leaves through this link, over a channel or not.
        self._relays: tuple[asyncio.DatagramProtocol, ...] = ()
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        limit_writes(transport, self._connection)

    def add_relay(self, relay: asyncio.DatagramProtocol) -> None:
        self._relays += (relay,)
        if self._paused:
            relay.pause_writing()

    def remove_relay(self, relay: asyncio.DatagramProtocol) -> None:
        self._relays = tuple(other for other in self._relays if other is not relay)

    def bind_channel(self, number: int, relay: asyncio.DatagramProtocol, peer: Address, server: Address) -> None:
        if self._channels is None:
            self._channels = {}
        self._channels[number.to_bytes(2, "big")] = (relay, peer, server)

    def unbind_channel(self, number: int) -> None:
        if self._channels is not None:
            self._channels.pop(number.to_bytes(2, "big"), None)

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        data = cast("bytes", data)
        channel = self._channels.get(data[:2]) if self._channels is not None else None
        if channel is not None:
            relay, peer, server = channel
            end = CHANNEL_HEADER_SIZE + int.from_bytes(data[2:4], "big")
            if CHANNEL_HEADER_SIZE <= len(data) >= end and (addr == server or addr[:2] == server):
                relay.datagram_received(data[CHANNEL_HEADER_SIZE:end], peer)
                return
        self._connection._stun_received(self._link, addr[:2], data)

    def pause_writing(self) -> None:
        self._paused = True
        for relay in self._relays:
            relay.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        for relay in self._relays:
            relay.resume_writing()

    def peer_unreachable(self, peer: Address, exc: OSError) -> None:
        self._connection._peer_unreachable(self._link, peer, exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection._link_lost(self._link, exc)
