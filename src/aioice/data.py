"""The data of a connection: what is received, and through which pairs it leaves.

It knows the pairs in use, the queue and the receiver. How pairs are found, and when consent ends, it is told.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

from .core.events import ConnectionState
from .net.queue import ReceiveQueue
from .net.sender import HIGH_WATER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .core.candidate import Candidate
    from .core.machine import Address
    from .net.driver import Driver
    from .net.sender import Buffer
    from .protocol import StunProtocol

#: Bytes of received datagrams (each counted with 128 more) that wait for ``recv``; beyond them datagrams are dropped
#: and counted.
RECEIVE_BUFFER = 4 * 1024 * 1024
#: Bytes that wait while a socket is blocked, before :meth:`DataPath.send` waits too.
SEND_BUFFER = HIGH_WATER


class CandidatePair:
    """The pair that carries the data of a component."""

    __slots__ = ("protocol", "remote_candidate", "remote_addr", "send_soon")

    def __init__(self, protocol: StunProtocol, remote_candidate: Candidate) -> None:
        self.protocol = protocol
        self.remote_candidate = remote_candidate
        self.remote_addr: Address = (remote_candidate.address, remote_candidate.port)
        #: ``send_soon(data, addr)`` of the transport in use.
        self.send_soon: Callable[[bytes, Address], object]

    def open(self, peer: Address) -> CandidatePair:
        """The transport carries data to ``peer`` from now on; ours count it, and gather what leaves together."""
        self.remote_addr = peer
        transport: Any = self.protocol.transport
        self.send_soon = getattr(transport, "send_soon", transport.sendto)
        return self

    @property
    def component(self) -> int:
        return self.local_candidate.component

    @property
    def local_candidate(self) -> Candidate:
        return self.protocol.local_candidate

    @property
    def local_addr(self) -> Address:
        return (self.local_candidate.host, self.local_candidate.port)

    def __repr__(self) -> str:
        remote = self.remote_candidate
        return f"CandidatePair({self.local_addr} -> {(remote.host, remote.port)})"


class DataPath:
    """The half of a connection that every datagram passes."""

    __slots__ = ("_nominated", "_was_connected", "_queue", "_receiver", "send_buffer", "_driver", "_closed", "_failure")

    def __init__(self, receive_buffer: int | None, send_buffer: int | None) -> None:
        #: The pair in use of each component; there from the first valid pair on, replaced by the nominated one.
        self._nominated: dict[int, CandidatePair] = {}
        self._was_connected = False
        self._queue = ReceiveQueue(RECEIVE_BUFFER if receive_buffer is None else receive_buffer)
        self._receiver: Callable[[bytes, int], object] | None = None
        #: What the transports are told of when they open.
        self.send_buffer = SEND_BUFFER if send_buffer is None else send_buffer
        #: There as soon as there is a loop.
        self._driver: Driver | None = None
        self._closed = False
        #: Why nothing can be sent, as far as that is known.
        self._failure = ""

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands, by the names of W3C's RTCIceTransportState."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- the verbs

    async def recv(self) -> bytes:
        """The next datagram, of whatever component; a cancelled call loses none.

        :raises ConnectionError: when not connected, or when the connection has ended and all that came before is read.
        """
        queue = self._queue
        data = queue.pop()
        if data is None:
            driver = self._driver
            if driver is not None and self._nominated and self._receiver is None:
                waiter = queue.waiter(driver.loop)
            else:
                waiter = self._waiter()
            try:
                data, _ = await waiter
            except asyncio.CancelledError:
                queue.give_up(waiter)
                raise
        return data

    async def recvfrom(self) -> tuple[bytes, int]:
        """The next datagram and its component; a cancelled call loses none.

        :raises ConnectionError: as :meth:`recv`.
        """
        item = self._queue.get_nowait()
        if item is None:
            waiter = self._waiter()
            try:
                item = await waiter
            except asyncio.CancelledError:
                self._queue.give_up(waiter)
                raise
        return item

    async def recv_many(self, max: int = 64) -> list[bytes]:
        """The datagrams that have come, of whatever component, ``max`` at most; waits for one if there are none.

        :raises ConnectionError: as :meth:`recv`.
        """
        if max < 1:
            raise ValueError("max must be at least 1")
        datagrams = self._queue.pop_many(max)
        if not datagrams:
            first = await self.recv()
            datagrams = [first, *self._queue.pop_many(max - 1)]
        return datagrams

    def _waiter(self) -> asyncio.Future[tuple[bytes, int]]:
        """For the next datagram, unless there is nothing to wait for."""
        if self._receiver is not None:
            raise RuntimeError("the datagrams go to the receiver that was set by set_receiver()")
        connected = self._nominated or (self._was_connected and self.state is not ConnectionState.FAILED)
        if not (connected or self._closed):
            raise ConnectionError("Cannot receive data, not connected")
        return self._queue.waiter()

    def set_receiver(self, receiver: Callable[[bytes, int], object] | None) -> None:
        """Have ``receiver(data, component)`` called for each datagram, from the loop: the shortest way for protocols.

        It gets at once what has come before. None lets :meth:`recv` have the datagrams again. What it raises goes to
        the loop's exception handler. That the connection has ended tell the events.

        :raises RuntimeError: while :meth:`recv` waits.
        """
        if receiver is not None and self._queue.awaited:
            raise RuntimeError("recv() is waiting for a datagram")
        self._receiver = receiver
        while self._receiver is not None and (item := self._queue.get_nowait()) is not None:
            self._hand_over(self._receiver, *item)

    async def send(self, data: Buffer) -> None:
        """Send a datagram on the first component: bytes, or what else is a buffer of bytes.

        Waits only while more than ``send_buffer`` bytes wait for a blocked socket. A datagram of many in one turn of
        the loop may leave at the end of that turn; :meth:`close` sends it before. Order is kept.

        :raises ConnectionError: when not connected; with ``errno.EMSGSIZE`` when the datagram is too big.
        """
        pair = self._nominated.get(1)
        if pair is None or pair.protocol.paused:
            pair = await self._pair_with_room(1)
        try:
            pair.send_soon(data if type(data) is bytes else bytes(memoryview(data)), pair.remote_addr)
        except OSError as exc:
            raise _not_sent(data, exc) from exc

    async def sendto(self, data: Buffer, component: int) -> None:
        """Send a datagram on a component.

        :raises ConnectionError: as :meth:`send`.
        """
        pair = self._nominated.get(component)
        if pair is None or pair.protocol.paused:
            pair = await self._pair_with_room(component)
        try:
            pair.send_soon(data if type(data) is bytes else bytes(memoryview(data)), pair.remote_addr)
        except OSError as exc:
            raise _not_sent(data, exc) from exc

    def send_nowait(self, data: Buffer, component: int = 1) -> bool:
        """As :meth:`sendto`, but where that would wait nothing is sent and False returned.

        :raises ConnectionError: as :meth:`send`.
        """
        pair = self._pair(component)
        if pair.protocol.paused:
            return False
        try:
            pair.send_soon(data if type(data) is bytes else bytes(memoryview(data)), pair.remote_addr)
        except OSError as exc:
            raise _not_sent(data, exc) from exc
        return True

    async def send_many(self, datagrams: Iterable[Buffer], component: int = 1) -> None:
        """Send datagrams in their order, at once and together where they are of one size; waits as :meth:`send`.

        :raises ConnectionError: as :meth:`send`; those before one that is too big have been sent.
        """
        waiting = [data if type(data) is bytes else bytes(memoryview(data)) for data in datagrams]
        pair = self._pair(component)
        while waiting:
            if pair.protocol.paused:
                pair = await self._pair_with_room(component)
            send_many = getattr(pair.protocol.transport, "send_many", None)
            try:
                taken = send_many(waiting, pair.remote_addr) if send_many is not None else 0
                if not taken and not pair.protocol.paused:
                    # It cannot take many, or is closing, which may last: as with :meth:`send`, that loses them.
                    pair.send_soon(waiting[0], pair.remote_addr)
                    taken = 1
                del waiting[:taken]
            except OSError as exc:
                raise _not_sent(max(waiting, key=len), exc) from exc

    def _pair(self, component: int) -> CandidatePair:
        pair = self._nominated.get(component)
        if pair is None:
            raise ConnectionError(f"Cannot send data, not connected{self._why_not()}")
        return pair

    async def _pair_with_room(self, component: int) -> CandidatePair:
        """The pair in use, when its transport takes more."""
        pair = self._pair(component)
        while pair.protocol.paused:
            await pair.protocol.room()
            pair = self._pair(component)
        return pair

    def _why_not(self) -> str:
        return f": {self._failure}" if self._failure else ""

    # ------------------------------------------------------------------------------------------- what is received

    def data_received(self, data: bytes, component: int) -> None:
        """Application data came from an address that may send it."""
        if self._receiver is None:
            self._queue.put(data, component)
        else:
            self._hand_over(self._receiver, data, component)

    def datagrams_received(self, datagrams: list[bytes], component: int) -> None:
        """Many that came together."""
        if self._receiver is None and getattr(self.data_received, "__func__", None) is _DATA_RECEIVED:
            self._queue.put_many(datagrams, component)
            return
        for data in datagrams:
            self._hand_over(self.data_received, data, component)

    def _hand_over(self, receiver: Callable[[bytes, int], object], data: bytes, component: int) -> None:
        try:
            receiver(data, component)
        except Exception as exc:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"aioice: exception in the receiver of {self}", "exception": exc}
            )

    # ------------------------------------------------------------------------------------------------ pairs in use

    def _use(self, component: int, protocol: StunProtocol, remote: Candidate, peer: Address) -> None:
        """Data of the component leaves on this pair from now on."""
        self._wake_writers(component)
        self._nominated[component] = CandidatePair(protocol, remote).open(peer)
        self._was_connected = True

    def _wake_writers(self, component: int) -> None:
        """Who waits for room on the pair in use shall look which is in use now."""
        pair = self._nominated.get(component)
        if pair is not None:
            pair.protocol.wake_writers()

    def _stop_using(self, component: int) -> None:
        """The peer may no longer want what still waits to be sent (RFC 7675 §5.1)."""
        self._wake_writers(component)
        pair = self._nominated.pop(component, None)
        if pair is not None and (discard := getattr(pair.protocol.transport, "discard", None)) is not None:
            discard(pair.remote_addr)


_DATA_RECEIVED = DataPath.data_received


def _not_sent(data: Buffer, exc: OSError) -> ConnectionError:
    return ConnectionError(exc.errno or errno.EIO, f"Cannot send {len(data)} bytes: {exc.strerror}")
