"""Runs one machine on a host of the simulator and holds it to its contract."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ..core.demux import StreamFramer, is_channel_data, is_stun, pad
from ..core.machine import (
    Accept,
    Address,
    Close,
    Connected,
    CredentialsFetched,
    Deliver,
    Done,
    FetchCredentials,
    LinkClosed,
    Machine,
    Notify,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Output,
    Reason,
    Report,
    Resolve,
    Resolved,
    Revoke,
    Route,
    SendFailed,
    Transmit,
    Unroute,
)
from .clock import LIVELOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from .clock import Event
    from .hosts import Host, Socket, Stream
    from .world import World

T = TypeVar("T")


class Link:
    """What a node knows of one link of its machine."""

    __slots__ = ("local", "socket", "stream", "framer", "opening", "relay")

    def __init__(self) -> None:
        self.local: Address | None = None
        self.socket: Socket | None = None
        self.stream: Stream | None = None
        self.framer = StreamFramer()
        self.opening: Event | None = None
        self.relay = False

    def release(self) -> None:
        if self.opening is not None:
            self.opening.cancel()
        if self.socket is not None:
            self.socket.close()
        if self.stream is not None:
            self.stream.close()


class Relaying(Protocol):
    """What a machine offers besides when it opens relays."""

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Application data for ``peer`` leaves through the relay ``link``."""


class Node:
    """Runs one machine on a host and holds it to the contract: a breach is an AssertionError."""

    def __init__(self, world: World, host: Host, machine: Machine) -> None:
        self.world = world
        self.host = host
        self.machine = machine
        #: All outputs, with their times.
        self.outputs: list[tuple[float, Output]] = []
        self.events: list[tuple[float, Any]] = []
        self.delivered: list[tuple[float, int, bytes]] = []
        self.routes: dict[int, Route] = {}
        self.accepts: dict[tuple[int, Address], int] = {}
        #: Links that are open or being opened.
        self.links: dict[int, Link] = {}
        #: STUN datagrams (and stream frames) that went out and came in.
        self.sent = 0
        self.received = 0
        #: Datagrams that came in and belong to nobody.
        self.unwanted = 0
        #: What the application says when it is asked for the credentials of a server, by its number: user name,
        #: password and when they end, or why there are none. It takes as long as a look-up.
        self.credentials: Callable[[int], tuple[str, str, float | None] | str] = lambda server: "nobody has them"
        #: Why the machine has ended; None while it runs.
        self.done: str | None = None
        self._used_links: set[int] = set()
        self._reports: deque[Report] = deque()
        self._timer: Event | None = None
        self._last_input = "nothing"
        self._drain()

    # ---------------------------------------------------------------------------------------- for the test

    def do(self, verb: Callable[..., T], *args: object) -> T:
        """Call a verb of the machine as its application would: ``verb(now, *args)``."""
        self._last_input = f"{verb.__name__}{args}"
        result = verb(self.world.now, *args)
        self._drain()
        return result

    def report(self, report: Report) -> None:
        """Tell the machine something about the world."""
        self._reports.append(report)
        self._drain()

    def send(self, component: int, data: bytes) -> None:
        """Send application data the way the machine's route says."""
        route = self.routes.get(component)
        if route is None:
            raise ConnectionError(f"component {component} has no route")
        if self.links[route.link].relay:
            self.relay(route.link, route.peer, data)
        else:
            self._transmit(route.link, route.peer, data)
            self._drain()

    def relay(self, link: int, peer: Address, data: bytes) -> None:
        """Send data through a relay, which is the machine's own business."""
        self._call(cast("Relaying", self.machine).relay, link, peer, data)

    # ------------------------------------------------------------------------------------------ the machine's calls

    def _call(self, method: Callable[..., object], *args: object) -> None:
        self._feed(method, *args)
        self._drain()

    def _feed(self, method: Callable[..., object], *args: object) -> None:
        self._last_input = f"{method.__name__}{args}"
        try:
            method(self.world.now, *args)
        except Exception as error:
            raise AssertionError(f"the machine raised {error!r}; {self._context()}") from error

    def _drain(self) -> None:
        count = 0
        while True:
            output = self.machine.poll_output()
            if output is not None:
                count += 1
                self._check(count < LIVELOCK, "outputs without end")
                self._check(self.done is None or isinstance(output, Close), f"{output} after Done")
                self.outputs.append((self.world.now, output))
                self._carry_out(output)
            elif self._reports:
                self._feed(self.machine.handle_report, self._reports.popleft())
            else:
                break
        self._arm()

    def _arm(self) -> None:
        deadline = self.machine.poll_timeout()
        if self._timer is not None:
            if self._timer.time == deadline and self._timer.run is not None:
                return
            self._timer.cancel()
        self._timer = None if deadline is None else self.world.at(deadline, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._call(self.machine.handle_timeout)
        deadline = self.machine.poll_timeout()
        self._check(deadline is None or deadline > self.world.now, f"poll_timeout() is {deadline} after handle_timeout")

    def _check(self, condition: bool, message: str) -> None:
        if not condition:
            raise AssertionError(f"{message}; {self._context()}")

    def _context(self) -> str:
        return f"at {self.world.now} s on {self.host!r} after {self._last_input} (seed {self.world.seed})"

    # ---------------------------------------------------------------------------------- the outputs, carried out

    def _carry_out(self, output: Output) -> None:
        match output:
            case Transmit():
                self._transmit(output.link, output.peer, output.data)
            case OpenUdp():
                self._open_udp(output)
            case OpenStream():
                self._open_stream(output)
            case OpenRelay():
                self._new_link(output.link).relay = True
                self._opened(output.link, output.relayed)
            case Close():
                self._check(output.link in self.links, f"{output} of a link that is not open")
                self.links.pop(output.link).release()
            case Resolve():
                self.world.after(self.world.names.look_up(output.name)[0], self._resolved, output)
            case FetchCredentials():
                self.world.after(self.world.names.delay, self._fetched, output)
            case Accept():
                self.accepts[output.link, output.peer] = output.component
            case Revoke():
                self.accepts.pop((output.link, output.peer), None)
            case Route():
                self._check(output.link in self.links, f"{output} over a link that is not open")
                self.routes[output.component] = output
            case Unroute():
                self.routes.pop(output.component, None)
            case Deliver():
                self._deliver(output.link, output.peer, output.data)
            case Notify():
                self.events.append((self.world.now, output.event))
            case Done():
                self.done = output.reason

    def _transmit(self, number: int, peer: Address, data: bytes) -> None:
        link = self.links.get(number)
        self._check(link is not None and link.local is not None, f"transmission on link {number}, which is not open")
        if link is None:
            return
        self._check(not link.relay, f"transmission on link {number}, which is a relay's")
        self.sent += is_stun(data)
        if link.stream is not None:
            self._check(link.stream.peer == peer, f"transmission to {peer} on a stream to {link.stream.peer}")
            link.stream.send(pad(data))
        elif link.socket is not None:
            reason = link.socket.send(peer, data)
            if reason is not None:
                self._reports.append(SendFailed(number, peer, reason))

    def _new_link(self, number: int) -> Link:
        self._check(number not in self._used_links, f"link {number} is used a second time")
        self._used_links.add(number)
        self.links[number] = link = Link()
        return link

    def _opened(self, number: int, local: Address) -> None:
        self.links[number].local = local
        self._reports.append(Opened(number, local))

    def _failed(self, number: int, reason: Reason, detail: str) -> None:
        del self.links[number]
        self._reports.append(OpenFailed(number, reason, detail))

    def _open_udp(self, output: OpenUdp) -> None:
        link, number = self._new_link(output.link), output.link
        try:
            socket = self.host.bind(output.host)
        except OSError as error:
            self._failed(number, Reason.BIND, str(error))
            return
        socket.on_datagram = lambda peer, data: self._datagram(number, peer, data)
        socket.on_error = lambda peer, reason: self.report(SendFailed(number, peer, reason))
        link.socket = socket
        self._opened(number, socket.local)

    def _open_stream(self, output: OpenStream) -> None:
        link, number = self._new_link(output.link), output.link

        def done(stream: Stream | None, reason: Reason) -> None:
            link.opening = None
            if stream is None:
                self._failed(number, reason, f"stream to {output.peer}")
            else:
                link.stream = stream
                stream.on_data = lambda data: self._stream_data(number, stream, data)
                stream.on_close = lambda: self.report(LinkClosed(number, Reason.CLOSED, "end of stream"))
                self._opened(number, stream.local)
            self._drain()

        def connected() -> None:
            if number in self.links:
                self.report(Connected(number))

        link.opening = self.host.connect(output.peer, output.server_name, done, connected=connected)

    def _resolved(self, output: Resolve) -> None:
        self.report(Resolved(output.query, self.world.names.look_up(output.name)[1]))

    def _fetched(self, output: FetchCredentials) -> None:
        answer = self.credentials(output.server)
        if isinstance(answer, str):
            self.report(CredentialsFetched(output.query, None, None, None, answer))
        else:
            self.report(CredentialsFetched(output.query, *answer))

    # ------------------------------------------------------------------------------------------------ what comes in

    def _stream_data(self, number: int, stream: Stream, data: bytes) -> None:
        try:
            frames = self.links[number].framer.feed(data)
        except ValueError as error:
            stream.close()
            self.report(LinkClosed(number, Reason.NOT_STUN, str(error)))
            return
        for frame in frames:
            if number in self.links:
                self._datagram(number, stream.peer, frame)

    def _datagram(self, number: int, peer: Address, data: bytes) -> None:
        if is_stun(data):
            self.received += 1
        elif (number, peer) in self.accepts:
            self._deliver(number, peer, data)
            return
        elif self._awaited(number, peer):
            pass
        elif not is_channel_data(data) or (self.links[number].stream is None and peer not in self.world.turn_addresses):
            self.unwanted += 1
            return
        self._call(self.machine.handle_datagram, number, peer, data)

    def _awaited(self, number: int, peer: Address) -> bool:
        """As :meth:`aioice.core.agent.Agent.awaits_server`; other machines ask nobody over a link of peers."""
        awaits = getattr(self.machine, "awaits_server", None)
        return awaits is not None and bool(awaits(number, peer))

    def _deliver(self, number: int, peer: Address, data: bytes) -> None:
        component = self.accepts.get((number, peer))
        if component is None:
            self.unwanted += 1
        else:
            self.delivered.append((self.world.now, component, data))
