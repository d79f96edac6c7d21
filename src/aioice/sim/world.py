"""The virtual clock with its queue of events, and the nodes that run machines on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple, cast

from ..core.demux import is_channel_data, is_stun
from ..core.machine import (
    Accept,
    Address,
    Close,
    Deliver,
    Done,
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
from .nat import Nat
from .network import Conditions, Host, Network, Packet, Socket, Stream
from .servers import StunServer, TurnServer

if TYPE_CHECKING:
    from typing import Unpack

    from .nat import NatOptions
    from .network import Attachment, PathOptions

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

#: A look-up of a name takes this long.
RESOLVE_DELAY = 0.01
#: So many events without the clock moving, or outputs after one input, are a loop that never ends.
LIVELOCK = 20_000


class Event:
    """Something that happens at a time, unless it is cancelled."""

    __slots__ = ("time", "_number", "run")

    def __init__(self, time: float, number: int, run: Callable[[], object]) -> None:
        self.time = time
        self._number = number
        self.run: Callable[[], object] | None = run

    def cancel(self) -> None:
        self.run = None

    def __lt__(self, other: Event) -> bool:
        return (self.time, self._number) < (other.time, other._number)


class Drop:
    """A hook that swallows datagrams; see :meth:`World.drop`."""

    def __init__(self, predicate: Callable[[Packet], bool], count: int | None) -> None:
        self._predicate = predicate
        self._left = count
        #: What it has swallowed.
        self.packets: list[Packet] = []

    def takes(self, packet: Packet) -> bool:
        if self._left == 0 or not self._predicate(packet):
            return False
        if self._left is not None:
            self._left -= 1
        self.packets.append(packet)
        return True

    def cancel(self) -> None:
        self._left = 0


class World:
    """A virtual clock, the public network, and everything in it."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.now = 0.0
        #: Decides about packets and ports only, so that what machines draw does not change which packet is lost.
        self.random = Random(f"{seed} network")
        self._bytes = Random(f"{seed} bytes")
        self.public = Network(self, Conditions())
        #: What DNS (and mDNS) know: addresses by lower-case name.
        self.names: dict[str, tuple[str, ...]] = {}
        #: Every packet that was sent, in order.
        self.packets: list[Packet] = []
        self.nodes: list[Node] = []
        #: Addresses of servers that speak ChannelData.
        self.turn_addresses: set[Address] = set()
        self.overrides: dict[tuple[Attachment, Attachment], PathOptions] = {}
        self._drops: list[Drop] = []
        self._queue: list[Event] = []
        self._events = 0
        self._instant = 0

    # ------------------------------------------------------------------------------------------ what is in it

    def network(self, **conditions: Unpack[PathOptions]) -> Network:
        """Set the conditions between any two hosts of the public network."""
        self.public.conditions = Conditions(**conditions)
        return self.public

    def host(self, *addresses: str, refuses: bool = False) -> Host:
        """A host on the public network."""
        return Host(self, self.public, addresses, refuses)

    def nat(self, address: str, **options: Unpack[NatOptions]) -> Nat:
        """A NAT on the public network."""
        return Nat(self, self.public, address, **options)

    def stun_server(self, address: str, port: int = 3478) -> StunServer:
        return StunServer(self._server_host(address), address, port)

    def turn_server(
        self,
        address: str,
        port: int = 3478,
        *,
        username: str,
        password: str,
        relay: str | tuple[str, ...] = (),
        tls_port: int = 5349,
        certificate: str = "*",
    ) -> TurnServer:
        """A TURN server over UDP and TCP on ``port``, over TLS on ``tls_port``; its relays are on ``relay``."""
        relays = (relay,) if isinstance(relay, str) else relay or (address,)
        host = self._server_host(address, *relays)
        self.turn_addresses.add((address, port))
        return TurnServer(host, address, port, {username: password}, relays, tls_port, certificate)

    def _server_host(self, *addresses: str) -> Host:
        known = self.public.attached.get(addresses[0])
        host = known if isinstance(known, Host) else self.host(addresses[0])
        for address in addresses:
            if address not in host.addresses:
                host.add_address(address)
        return host

    def path(self, a: Attachment, b: Attachment, *, both: bool = True, **changes: Unpack[PathOptions]) -> None:
        """Other conditions between two hosts (or the NATs before them), both ways unless told otherwise."""
        for way in ((a, b), (b, a)) if both else ((a, b),):
            self.overrides[way] = changes

    def drop(self, predicate: Callable[[Packet], bool], count: int | None = None) -> Drop:
        """Swallow the datagrams for which ``predicate`` holds: all, or the first ``count``."""
        self._drops.append(Drop(predicate, count))
        return self._drops[-1]

    def dropped(self, packet: Packet) -> bool:
        return any(drop.takes(packet) for drop in self._drops)

    def random_bytes(self, size: int) -> bytes:
        """The source of random bytes for machines."""
        return self._bytes.randbytes(size)

    def run_machine(self, host: Host, machine: Machine) -> Node:
        self.nodes.append(Node(self, host, machine))
        return self.nodes[-1]

    # ----------------------------------------------------------------------------------------------- the clock

    def at(self, time: float, callback: Callable[[*Ts], object], *args: *Ts) -> Event:
        """Call ``callback(*args)`` at ``time``, after what is already planned for the same time."""
        self._events += 1
        event = Event(max(time, self.now), self._events, lambda: callback(*args))
        heappush(self._queue, event)
        return event

    def after(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> Event:
        """As :meth:`at`, in ``delay`` seconds; in whole nanoseconds, so that sums of delays are round numbers."""
        return self.at(round(self.now + delay, 9), callback, *args)

    def run(self, until: float) -> None:
        """Let everything happen up to the time ``until``."""
        while self._next() is not None and self._queue[0].time <= until:
            self._step()
        self.now = max(self.now, until)

    def run_until(self, predicate: Callable[[], object], timeout: float = 60.0) -> float:
        """Run until ``predicate`` holds and return that time; raises TimeoutError if it never will."""
        deadline = self.now + timeout
        while not predicate():
            following = self._next()
            if following is None:
                raise TimeoutError(f"nothing will ever happen after {self.now:.3f} s (seed {self.seed})")
            if following.time > deadline:
                raise TimeoutError(f"it did not happen within {timeout} s (seed {self.seed})")
            self._step()
        return self.now

    def _next(self) -> Event | None:
        while self._queue and self._queue[0].run is None:
            heappop(self._queue)
        return self._queue[0] if self._queue else None

    def _step(self) -> None:
        event = heappop(self._queue)
        self._instant = self._instant + 1 if event.time == self.now else 0
        if self._instant > LIVELOCK:
            raise AssertionError(f"the clock stands still at {self.now} s (seed {self.seed})")
        self.now = event.time
        if event.run is not None:
            event.run()


class Link:
    """What a node knows of one link of its machine."""

    __slots__ = ("local", "socket", "stream", "opening", "relay")

    def __init__(self) -> None:
        self.local: Address | None = None
        self.socket: Socket | None = None
        self.stream: Stream | None = None
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
                self.world.after(RESOLVE_DELAY, self._resolved, output)
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
            link.stream.send(data)
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
                stream.on_frame = lambda data: self._datagram(number, stream.peer, data)
                stream.on_close = lambda: self.report(LinkClosed(number, Reason.CLOSED, "end of stream"))
                self._opened(number, stream.local)
            self._drain()

        link.opening = self.host.connect(output.peer, output.server_name, done)

    def _resolved(self, output: Resolve) -> None:
        self.report(Resolved(output.query, self.world.names.get(output.name.lower(), ())))

    # ------------------------------------------------------------------------------------------------ what comes in

    def _datagram(self, number: int, peer: Address, data: bytes) -> None:
        if is_stun(data):
            self.received += 1
        elif (number, peer) in self.accepts:
            self._deliver(number, peer, data)
            return
        elif not is_channel_data(data) or (self.links[number].stream is None and peer not in self.world.turn_addresses):
            self.unwanted += 1
            return
        self._call(self.machine.handle_datagram, number, peer, data)

    def _deliver(self, number: int, peer: Address, data: bytes) -> None:
        component = self.accepts.get((number, peer))
        if component is None:
            self.unwanted += 1
        else:
            self.delivered.append((self.world.now, component, data))
