"""Runs one machine on one host: carries out its outputs, brings it reports and datagrams, keeps its timer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from aioice.core.machine import (
    Accept,
    Address,
    ChannelBound,
    ChannelUnbound,
    Close,
    Connected,
    CredentialsFetched,
    Deliver,
    Done,
    FetchCredentials,
    LinkClosed,
    Notify,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Output,
    Reason,
    Resolve,
    Resolved,
    Revoke,
    Route,
    SendFailed,
    Transmit,
    Tunables,
    Unroute,
)

from .host import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioice.core.machine import Machine, Report

    from .host import Host

T = TypeVar("T")

#: Seconds to the next look at a deadline that a wake-up came too early for: loops with millisecond timers round down.
EARLY = 0.001

#: Seconds for openings and look-ups to heed that they are cancelled: they end at once, unless a resolver of the
#: application does not.
CANCEL_TIME = 1.0
#: Turns of the loop in which an aborted stream has ended: one for TCP, another for TLS on top.
TURNS_TO_END = 3


class Owner(Protocol):
    """For whom a machine is run: something public, of whose interface these are no part."""

    def _make_protocol(self, link: int) -> asyncio.DatagramProtocol:
        """What sits on the link's transport. It hands STUN to :meth:`Driver.receive`, tells :meth:`Driver.unreachable`
        which peers cannot be reached and :meth:`Driver.lost` that its transport has ended.
        """

    def _handle_output(self, output: Output) -> None:
        """What the driver does not carry out itself: ``Accept``, ``Revoke``, ``Route``, ``Unroute`` and ``Deliver`` in
        their order, ``Notify`` and ``Done`` last of all, when the timer is armed.
        """

    def _tunables(self) -> Tunables | None:
        """As they are now; None if the machine knows them."""


class Driver:
    """One machine on one host."""

    __slots__ = (
        "machine",
        "host",
        "loop",
        "links",
        "relay_send",
        "_owner",
        "_opening",
        "_tasks",
        "_reports",
        "_last",
        "_timer",
        "_armed",
        "_pumping",
        "_settled",
        "_closed",
        "_streams",
        "_when_idle",
        "_tunables",
        "late",
        "__weakref__",
    )

    def __init__(self, machine: Machine, host: Host, owner: Owner) -> None:
        self.machine = machine
        self.host = host
        self.loop = asyncio.get_running_loop()
        #: What is open now.
        self.links: dict[int, asyncio.DatagramTransport] = {}
        #: ``relay_send(now, link, peer, data)`` sends through a relayed address.
        self.relay_send: Callable[[float, int, Address, bytes], object] | None = None
        self._owner = owner
        self._opening: tuple[tuple[int, asyncio.Task[asyncio.DatagramTransport]], ...] = ()
        self._tasks: tuple[asyncio.Task[Any], ...] = ()
        self._reports: tuple[Report, ...] = ()
        self._last: tuple[Output, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        #: What the timer is armed for: loops with millisecond timers do not remember it exactly.
        self._armed = 0.0
        self._pumping = False
        #: Whether the timer is armed by the machine's present deadline.
        self._settled = False
        self._closed = False
        #: Streams whose transport has not ended, also those that the machine has closed.
        self._streams: tuple[tuple[int, asyncio.DatagramTransport], ...] = ()
        self._when_idle: asyncio.Future[None] | None = None
        self._tunables: Tunables | None = None
        #: By how many seconds the timer fired too late at worst: so long the loop was blocked.
        self.late = 0.0

    # ------------------------------------------------------------------------------------------------------- the way in

    def now(self) -> float:
        return self.loop.time()

    def do(self, verb: Callable[..., T], *args: Any) -> T:
        """Call a verb of the machine with the time and ``args``, and carry out what follows from it."""
        self._tune()
        try:
            return verb(self.loop.time(), *args)
        finally:
            self.pump()

    def _tune(self) -> None:
        """Programs change tunables at run time: the machine learns of it before it arms a timer by them."""
        current = self._owner._tunables()
        if current is not None and current != self._tunables:
            self._tunables = current
            self.machine.handle_report(self.loop.time(), current)

    def receive(self, link: int, peer: Address, data: bytes) -> None:
        """A datagram for the machine came from ``peer`` over ``link``."""
        self.machine.handle_datagram(self.loop.time(), link, peer if len(peer) == 2 else peer[:2], data)
        self.pump()

    def report(self, report: Report) -> None:
        self._reports += (report,)
        self.pump()

    def unreachable(self, link: int, peer: Address, exc: OSError) -> None:
        """What was sent to ``peer`` over ``link`` did not arrive."""
        if link in self.links:
            self.report(SendFailed(link, peer, reason_of(exc)))

    def lost(self, link: int, exc: Exception | None) -> None:
        """The transport of ``link`` has ended; nothing new if the machine had closed it."""
        if self.links.pop(link, None) is not None:
            self.report(LinkClosed(link, reason_of(exc), str(exc or "")))

    def protocol(self, link: int) -> asyncio.BaseProtocol | None:
        """The protocol on the link's transport, if it is open."""
        transport = self.links.get(link)
        protocol = None if transport is None else transport.get_protocol()
        return protocol.inner if isinstance(protocol, _Watched) else protocol

    def _stream_ended(self, link: int, exc: Exception | None) -> None:
        self._streams = tuple(stream for stream in self._streams if stream[0] != link)
        self.lost(link, exc)
        self._tell_idle()

    def read_pending(self) -> None:
        """Hear what has come before speaking: a peer's check that waits to be read makes one of ours needless."""
        for transport in list(self.links.values()):
            read = getattr(transport, "read_pending", None)
            if read is not None:
                read()

    def adopt(self, link: int, transport: asyncio.DatagramTransport) -> None:
        """Take over a link that somebody else opened; the machine gets no report."""
        self.links[link] = transport

    # ------------------------------------------------------------------------------------------------------ the way out

    def pump(self) -> None:
        """Carry out all outputs until the machine is quiet. Within a pump, the outer one does it."""
        self._settled = False
        if self._pumping:
            return
        self._pumping = True
        machine = self.machine
        poll_output = machine.poll_output
        try:
            while True:
                while (output := poll_output()) is not None:
                    if not self._closed:
                        _HANDLERS[type(output)](self, output)
                if self._reports:
                    # Only now: a machine gets no report while its outputs wait.
                    self._settled = False
                    report, self._reports = self._reports[0], self._reports[1:]
                    machine.handle_report(self.loop.time(), report)
                    continue
                if not self._settled:
                    self._settled = True
                    self._arm()
                if not self._last:
                    return
                output, self._last = self._last[0], self._last[1:]
                self._emit(output)
        finally:
            self._pumping = False
            if self._when_idle is not None:
                self._tell_idle()

    def close(self) -> None:
        """Close every link at once and end every task and the timer, whatever the machine thinks.

        What the machine puts out from now on is thrown away.
        """
        self._closed = True
        self._reports = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._opening = ()
        for task in self._tasks:
            task.cancel()
        links = list(self.links.values())
        self.links.clear()
        for transport in links:
            # One of asyncio's own cannot be closed after its loop.
            with contextlib.suppress(RuntimeError):
                transport.abort()

    async def wind_up(self, timeout: float) -> None:
        """Give up what is being opened or looked up, and wait until nothing is left, ``timeout`` seconds at most."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_TIME)
        if not self.idle:
            if self._when_idle is None or self._when_idle.done():
                self._when_idle = self.loop.create_future()
            await asyncio.wait([self._when_idle], timeout=timeout)
            await self._expect_no_more()

    async def _expect_no_more(self) -> None:
        """What is still open goes on behind, and does not warn if the loop ends now.

        Streams do not: what was sent over one has left, and its end deletes what was made over it.
        """
        for transport in self.links.values():
            sock = transport.get_extra_info("socket")
            if isinstance(sock, socket.socket):
                weakref.finalize(self, sock.close)
        for _, transport in self._streams:
            transport.abort()
        for _ in range(TURNS_TO_END if self._streams else 0):
            await asyncio.sleep(0)

    @property
    def idle(self) -> bool:
        """Whether nothing is left: no link, no stream that is still being closed, no task, no timer."""
        return not (self.links or self._streams or self._tasks or self._timer)

    def _tell_idle(self) -> None:
        if self._when_idle is not None and self.idle and not self._when_idle.done():
            self._when_idle.set_result(None)

    # -------------------------------------------------------------------------------------------------------- the timer

    def _arm(self, earliest: float = 0.0) -> None:
        deadline = self.machine.poll_timeout()
        timer = self._timer
        if deadline is None or self._closed:
            if timer is not None:
                timer.cancel()
                self._timer = None
            return
        if timer is not None:
            if self._armed <= deadline:
                # It may come too early then, which costs less than to cancel it now.
                return
            timer.cancel()
        self._armed = deadline if deadline > earliest else earliest
        self._timer = self.loop.call_at(self._armed, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._closed:
            return
        now = self.loop.time()
        if now - self._armed > self.late:
            self.late = now - self._armed
        if now < self._armed:
            self._arm(now + EARLY)
            return
        self._tune()
        try:
            self.machine.handle_timeout(now)
        finally:
            self.pump()

    # ------------------------------------------------------------------------------------------------------ the outputs

    def _transmit(self, output: Transmit) -> None:
        link, peer, data = output
        transport = self.links.get(link)
        if transport is None:
            return
        try:
            transport.sendto(data, peer)
        except Exception as exc:
            self._reports += (SendFailed(link, peer, reason_of(exc)),)

    def _open_udp(self, output: OpenUdp) -> None:
        link = output.link
        try:
            protocol = self._owner._make_protocol(link)
            opening = self.host.open_udp(protocol, output.host)
        except Exception as exc:
            self._open_failed(link, _bind_reason(exc), exc)
            return
        if isinstance(opening, asyncio.DatagramTransport):
            self._opened(link, opening)
        else:
            self._await_link(link, opening, _bind_reason)

    def _open_stream(self, output: OpenStream) -> None:
        link = output.link
        try:
            protocol = self._owner._make_protocol(link)
            opening = self.host.open_stream(_Watched(self, link, protocol), output.peer, output.server_name)
        except Exception as exc:
            self._open_failed(link, reason_of(exc), exc)
            return
        self._await_link(link, opening, reason_of, stream=True)

    def _open_relay(self, output: OpenRelay) -> None:
        from .relay import RelayTransport  # many programs have none

        link = output.link
        self.relay_send = getattr(self.machine, "relay", None)
        try:
            protocol = self._owner._make_protocol(link)
            server = self.protocol(output.via)
            transport = RelayTransport(self, link, output.relayed, output.mapped, protocol, server)
            protocol.connection_made(transport)
        except Exception as exc:
            self._open_failed(link, Reason.OTHER, exc)
            return
        self._opened(link, transport)

    def _await_link(
        self,
        link: int,
        opening: Coroutine[Any, Any, asyncio.DatagramTransport],
        reason: Callable[[BaseException], Reason],
        stream: bool = False,
    ) -> None:
        """Report how the opening ends."""

        def done(task: asyncio.Task[asyncio.DatagramTransport]) -> None:
            wanted = self._give_up_opening(link) is not None
            if task.cancelled():
                return
            exc = task.exception()
            if not wanted:
                if exc is None:
                    # The machine closed the link while its opening was at its last step.
                    task.result().abort()
            elif exc is not None:
                self._open_failed(link, reason(exc), exc)
                self.pump()
            elif task.result().is_closing():
                self.report(OpenFailed(link, Reason.CLOSED, "closed as soon as it was open"))
            else:
                if stream:
                    self._streams += ((link, task.result()),)
                self._opened(link, task.result())
                self.pump()

        self._opening += ((link, self._start(opening, done)),)

    def _give_up_opening(self, link: int) -> asyncio.Task[asyncio.DatagramTransport] | None:
        task = next((task for other, task in self._opening if other == link), None)
        if task is not None:
            self._opening = tuple(entry for entry in self._opening if entry[0] != link)
        return task

    def _start(
        self, work: Coroutine[Any, Any, T], done: Callable[[asyncio.Task[T]], object] | None = None
    ) -> asyncio.Task[T]:
        def ended(task: asyncio.Task[T]) -> None:
            self._tasks = tuple(other for other in self._tasks if other is not task)
            if done is not None:
                done(task)
            self._tell_idle()

        task = self.loop.create_task(work)
        self._tasks += (task,)
        task.add_done_callback(ended)
        return task

    def _open_failed(self, link: int, reason: Reason, exc: BaseException) -> None:
        if not isinstance(exc, OSError):
            self._complain("a link could not be opened", exc)
        self._reports += (OpenFailed(link, reason, str(exc)),)

    def _opened(self, link: int, transport: asyncio.DatagramTransport) -> None:
        self.links[link] = transport
        self._reports += (Opened(link, transport.get_extra_info("sockname")[:2]),)

    def _close_link(self, output: Close) -> None:
        link = output.link
        transport = self.links.pop(link, None)
        if transport is not None:
            transport.close()
            return
        task = self._give_up_opening(link)
        if task is not None:
            task.cancel()

    def _channel_bound(self, output: ChannelBound) -> None:
        from .relay import Channel, RelayTransport

        relay, server = self.links.get(output.link), self.links.get(output.via)
        if isinstance(relay, RelayTransport) and server is not None:
            relay.bind(output.peer, Channel(output.number, server, output.server, self.protocol(output.via)))

    def _channel_unbound(self, output: ChannelUnbound) -> None:
        from .relay import RelayTransport

        relay = self.links.get(output.link)
        if isinstance(relay, RelayTransport):
            relay.unbind(output.peer)

    def _resolve(self, output: Resolve) -> None:
        self._start(self._look_up(output))

    async def _look_up(self, output: Resolve) -> None:
        addresses: tuple[str, ...] = ()
        try:
            addresses = await self.host.resolve(output.name)
        except Exception as exc:
            self._complain("a look-up failed", exc)
        if not self._closed:
            self.report(Resolved(output.query, addresses))

    def _fetch_credentials(self, output: FetchCredentials) -> None:
        self._start(self._fetch(output))

    async def _fetch(self, output: FetchCredentials) -> None:
        try:
            report = CredentialsFetched(output.query, *await self.host.fetch_credentials(output.server))
        except Exception as exc:
            # The application's own fault or its server's: told where it looks for it.
            why = f"the callback for the credentials failed: {type(exc).__name__} {ascii(str(exc))[:200]}"
            report = CredentialsFetched(output.query, None, None, None, why)
        if not self._closed:
            self.report(report)

    def _emit(self, output: Output) -> None:
        try:
            self._owner._handle_output(output)
        except Exception as exc:
            self._complain("exception in a receiver of outputs", exc)

    def _emit_last(self, output: Output) -> None:
        self._last += (output,)

    def _complain(self, message: str, exc: BaseException) -> None:
        self.loop.call_exception_handler({"message": f"aioice: {message}", "exception": exc})


_HANDLERS: dict[type, Callable[[Driver, Any], None]] = {
    Transmit: Driver._transmit,
    OpenUdp: Driver._open_udp,
    OpenStream: Driver._open_stream,
    OpenRelay: Driver._open_relay,
    Close: Driver._close_link,
    Resolve: Driver._resolve,
    FetchCredentials: Driver._fetch_credentials,
    Accept: Driver._emit,
    Revoke: Driver._emit,
    Route: Driver._emit,
    Unroute: Driver._emit,
    Deliver: Driver._emit,
    ChannelBound: Driver._channel_bound,
    ChannelUnbound: Driver._channel_unbound,
    Notify: Driver._emit_last,
    Done: Driver._emit_last,
}


def _bind_reason(exc: BaseException) -> Reason:
    reason = reason_of(exc)
    return reason if reason is Reason.OTHER and not isinstance(exc, OSError) else Reason.BIND


class _Watched(asyncio.DatagramProtocol):
    """Stands before a stream's protocol so that the driver learns of the stream's end."""

    def __init__(self, driver: Driver, link: int, protocol: asyncio.DatagramProtocol) -> None:
        self._driver = driver
        self._link = link
        self.inner = protocol
        self.datagram_received = protocol.datagram_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.inner.connection_made(cast("asyncio.DatagramTransport", transport))

    def stream_connected(self) -> None:
        """TLS begins."""
        if any(link == self._link for link, _ in self._driver._opening):
            self._driver.report(Connected(self._link))

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self.inner.connection_lost(exc)
        finally:
            self._driver._stream_ended(self._link, exc)
