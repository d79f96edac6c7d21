"""Agents on simulated hosts, how they find out about each other, and a puppet that plays a peer packet by packet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aioice.core.agent import Agent, AgentConfig
from aioice.core.candidate import Candidate, candidate_priority
from aioice.core.events import (
    ConnectionClosed,
    ConnectionState,
    ConsentExpired,
    LocalCandidate,
    SelectedPair,
    StateChanged,
)
from aioice.core.gathering import Gathered
from aioice.core.machine import Address, Transmit, Tunables
from aioice.core.message import Class, Message, Method, parse_message
from aioice.sim import Host, Nat, Node, World

LIVE = (ConnectionState.CONNECTED, ConnectionState.COMPLETED)
#: RFC 8863 §4 at RFC 8489's values.
PATIENCE = 39.5
STUN = ("198.51.100.1", 3478)
TURN = ("198.51.100.2", 3478)


class Sent(NamedTuple):
    """A STUN message that an agent has put on a link of its own."""

    time: float
    link: int
    peer: Address
    message: Message


class Selected(NamedTuple):
    """What the last ``SelectedPair`` of a component says."""

    local: str
    remote: str
    nominated: bool


class Told(list[tuple[float, Any]]):
    """The events of a node; somebody may listen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[Any], None]] = []

    def append(self, item: tuple[float, Any]) -> None:
        super().append(item)
        for listener in list(self.listeners):
            listener(item[1])


class Peer:
    """An agent on a host of the simulator."""

    def __init__(
        self,
        host: Host,
        controlling: bool,
        *,
        name: str = "",
        tunables: Tunables | None = None,
        **config: Any,
    ) -> None:
        self.host = host
        self.world = host.world
        self.name = name or ("lead" if controlling else "foll")
        self.username, self.password = self.name, f"{self.name}passwordpassword00"
        self.config = AgentConfig(controlling, **config)
        self.agent = Agent(self.config, self.world.random_bytes, self.username, self.password, tunables)
        self.node: Node = host.run(self.agent)
        self.told = Told()
        self.node.events = self.told
        self._restarts = 0

    # -------------------------------------------------------------------------------------------------------- verbs

    def gather(self, hosts: Sequence[str] | None = None, timeout: float = 5.0) -> None:
        for component in range(1, self.config.components + 1):
            addresses = [] if self.config.relay_only else list(self.host.addresses if hosts is None else hosts)
            self.node.do(self.agent.gather, component, addresses, timeout)

    def connect(self, other: Peer | Puppet, **options: Any) -> None:
        self.node.do(self.agent.connect, other.username, other.password, options.get("lite", False))

    def restart(self) -> None:
        self._restarts += 1
        self.username = f"{self.name}{self._restarts}"
        self.password = f"{self.username}passwordpassword00"
        self.node.do(self.agent.restart, self.username, self.password)

    def add(self, *candidates: Candidate | str | None) -> None:
        """Remote candidates; the end mark is None. Lines are parsed, objects are copied: agents share no state."""
        for candidate in candidates:
            line = candidate.to_sdp() if isinstance(candidate, Candidate) else candidate
            self.node.do(self.agent.add_remote_candidate, None if line is None else Candidate.from_sdp(line))

    def send(self, data: bytes, component: int = 1) -> None:
        self.node.send(component, data)

    def close(self) -> None:
        self.node.do(self.agent.close)

    # -------------------------------------------------------------------------------------------------------- nouns

    @property
    def address(self) -> Address:
        """Of the first host candidate."""
        return next((c.host, c.port) for c in self.agent.local_candidates if c.type == "host")

    @property
    def gathered(self) -> bool:
        return self.of(Gathered) >= self.config.components

    def of(self, kind: type) -> int:
        return sum(isinstance(event, kind) for _, event in self.told)

    def all(self, kind: type) -> list[tuple[float, Any]]:
        return [(time, event) for time, event in self.told if isinstance(event, kind)]

    @property
    def states(self) -> list[tuple[float, str]]:
        return [(time, str(event.state)) for time, event in self.all(StateChanged)]

    @property
    def reason(self) -> str:
        return self.all(StateChanged)[-1][1].reason

    @property
    def live(self) -> bool:
        return self.agent.state in LIVE

    @property
    def complete(self) -> bool:
        return self.agent.state is ConnectionState.COMPLETED

    def time_of(self, *states: str) -> float:
        """When one of these states was first reached."""
        return next(time for time, state in self.states if state in states)

    @property
    def connected_at(self) -> float:
        return self.time_of("connected", "completed")

    @property
    def completed_at(self) -> float:
        return self.time_of("completed")

    @property
    def closed(self) -> list[tuple[float, str]]:
        return [(time, event.reason) for time, event in self.all(ConnectionClosed)]

    @property
    def expired(self) -> list[tuple[float, int]]:
        return [(time, event.component) for time, event in self.all(ConsentExpired)]

    @property
    def sent(self) -> list[Sent]:
        """All STUN messages that went out of sockets."""
        messages = []
        for time, output in self.node.outputs:
            if isinstance(output, Transmit) and output.data[:1] < b"\x40":
                messages.append(Sent(time, output.link, output.peer, parse_message(output.data)))
        return messages

    @property
    def checks(self) -> list[Sent]:
        """The Binding requests to peers, retransmissions and consent included; not those that a relay carries."""
        return [sent for sent in self.sent if is_check(sent.message)]

    def checks_to(self, peer: Address) -> list[Sent]:
        return [check for check in self.checks if check.peer == peer]

    @property
    def selected(self) -> dict[int, Selected]:
        """By component: types of both candidates, and whether the pair is nominated."""
        return {
            event.component: Selected(event.local.type, event.remote.type, event.nominated)
            for _, event in self.all(SelectedPair)
        }

    @property
    def routed(self) -> dict[int, Address]:
        return {component: route.peer for component, route in self.node.routes.items()}

    def received(self, component: int = 1) -> list[bytes]:
        return [data for _, known, data in self.node.delivered if known == component]


def is_check(message: Message) -> bool:
    return message.message_class is Class.REQUEST and "PRIORITY" in message.attributes


class Pair:
    """Two agents and the signalling between them."""

    def __init__(self, left: Peer, right: Peer, signalling: float = 0.0) -> None:
        self.left, self.right = left, right
        self.world = left.world
        #: One-way delay of what is signalled.
        self.signalling = signalling

    def __iter__(self) -> Any:
        return iter((self.left, self.right))

    @property
    def both(self) -> tuple[tuple[Peer, Peer], tuple[Peer, Peer]]:
        return (self.left, self.right), (self.right, self.left)

    def gather(self) -> Pair:
        """Both gather, for as long as it takes."""
        for peer in self:
            peer.gather()
        self.world.run_until(lambda: self.left.gathered and self.right.gathered)
        return self

    def exchange(self, *, end: bool = True) -> Pair:
        """Each gets all candidates that the other has."""
        for peer, other in self.both:
            peer.add(*other.agent.local_candidates, *([None] if end else []))
        return self

    def trickle(self) -> Pair:
        """From now on each candidate is signalled when it is found, and the end mark at the end."""
        for peer, other in self.both:
            peer.told.listeners.append(lambda event, to=other: self._signal(to, event))
        return self

    def _signal(self, to: Peer, event: Any) -> None:
        if isinstance(event, LocalCandidate):
            self.world.after(self.signalling, to.add, event.candidate)

    def start(self) -> Pair:
        """Both connect; time counts from the moment this is called."""
        for peer, other in self.both:
            peer.connect(other)
        return self

    def connect(self, timeout: float = 60.0) -> float:
        """Gather, exchange, start; run until both are connected. Returns how long that took from the start."""
        begun = self.gather().exchange().start().world.now
        return round(self.until_live(timeout) - begun, 9)

    def until_live(self, timeout: float = 60.0) -> float:
        return self.world.run_until(lambda: self.left.live and self.right.live, timeout)

    def until_complete(self, timeout: float = 60.0) -> float:
        return self.world.run_until(lambda: self.left.complete and self.right.complete, timeout)

    def restart(self) -> None:
        """Both restart, exchange what they have again, and connect."""
        for peer in self:
            peer.restart()
        self.exchange().start()

    def talk(self) -> None:
        """Data goes both ways over every component; sent again where the network loses packets."""
        for peer, other in self.both:
            assert peer.node.routes
            for component in sorted(peer.node.routes):
                self._tell(peer, other, component)

    def _tell(self, peer: Peer, other: Peer, component: int) -> None:
        data = f"from {peer.name} {self.world.now}".encode()
        for _ in range(20):
            peer.send(data, component)
            self.world.run(until=self.world.now + 0.2)
            if data in other.received(component):
                return
        raise AssertionError(f"component {component} of {other.name} hears nothing (seed {self.world.seed})")


def pair(
    world: World | None = None,
    *,
    hosts: tuple[Host, Host] | None = None,
    delay: float = 0.025,
    left: dict[str, Any] | None = None,
    right: dict[str, Any] | None = None,
    **config: Any,
) -> Pair:
    """Two agents, on two public hosts unless told otherwise, ``delay`` seconds apart; the left one controls."""
    if world is None:
        world = World()
        world.network(delay=delay)
    if hosts is None:
        hosts = world.host("192.0.2.1"), world.host("192.0.2.2")
    return Pair(
        Peer(hosts[0], **{"controlling": True, "name": "left", **config, **(left or {})}),
        Peer(hosts[1], **{"controlling": False, "name": "right", **config, **(right or {})}),
    )


def behind(world: World, outside: str, inside: str, **options: Any) -> tuple[Nat, Host]:
    """A host behind a NAT of its own."""
    nat = world.nat(outside, **options)
    return nat, nat.host(inside)


class Puppet:
    """A peer that does what the test says: one socket, one component, no agent.

    It answers checks as long as ``answering`` is set, and remembers everything that comes.
    """

    def __init__(self, host: Host, address: str = "", port: int | None = None, name: str = "pupp") -> None:
        self.world = host.world
        self.name = name
        self.username, self.password = name, f"{name}passwordpassword00"
        self.socket = host.bind(address or host.addresses[0], port)
        self.socket.on_datagram = self._arrived
        self.address = self.socket.local
        #: Every STUN message that came, with its time and source.
        self.seen: list[tuple[float, Address, Message]] = []
        #: Everything else.
        self.data: list[bytes] = []
        self.answering = True
        #: Takes over the answers: gets the request and the source, returns the bytes of the answer or None.
        self.answerer: Callable[[Message, Address], bytes | None] | None = None
        self.tie_breaker = 1 << 62
        self._count = 0

    def _arrived(self, source: Address, data: bytes) -> None:
        if data[:1] >= b"\x40":
            self.data.append(data)
            return
        message = parse_message(data)
        self.seen.append((self.world.now, source, message))
        if message.message_class is Class.REQUEST and self.answering:
            answerer = self.answerer or self.answer
            answer = answerer(message, source)
            if answer is not None:
                self.socket.send(source, answer)

    def answer(self, request: Message, source: Address, **attributes: Any) -> bytes:
        """A success answer, signed."""
        named = _named(attributes) or {"XOR-MAPPED-ADDRESS": source}
        return self._signed(Message(Method.BINDING, Class.RESPONSE, request.transaction_id, named), self.password)

    def error(self, request: Message, code: int, **attributes: Any) -> bytes:
        named = {"ERROR-CODE": (code, ""), **_named(attributes)}
        return self._signed(Message(Method.BINDING, Class.ERROR, request.transaction_id, named), self.password)

    @staticmethod
    def _signed(message: Message, password: str) -> bytes:
        message.add_message_integrity(password.encode())
        return bytes(message)

    def request(
        self,
        peer: Peer,
        *,
        nominate: bool = False,
        controlling: bool = True,
        priority: int | None = None,
        username: str | None = None,
        password: str | None = None,
        **attributes: Any,
    ) -> Message:
        """A check to ``peer``, as bytes that :meth:`send` takes."""
        self._count += 1
        named: dict[str, Any] = {
            "USERNAME": username or f"{peer.username}:{self.username}",
            "PRIORITY": candidate_priority(1, "prflx") if priority is None else priority,
            "ICE-CONTROLLING" if controlling else "ICE-CONTROLLED": self.tie_breaker,
        }
        if nominate:
            named["USE-CANDIDATE"] = None
        named = {name: value for name, value in {**named, **_named(attributes)}.items() if value != "absent"}
        message = Message(Method.BINDING, Class.REQUEST, self._count.to_bytes(12, "big"), named)
        message.add_message_integrity((password or peer.password).encode())
        return message

    def check(self, peer: Peer, *, to: Address | None = None, **options: Any) -> Message:
        """Send a check; the answer is found by :meth:`answers_to`."""
        message = self.request(peer, **options)
        self.socket.send(to or peer.address, bytes(message))
        return message

    def send(self, peer: Peer, data: bytes) -> None:
        self.socket.send(peer.address, data)

    @property
    def requests(self) -> list[tuple[float, Message]]:
        return [(time, message) for time, _, message in self.seen if message.message_class is Class.REQUEST]

    def answers_to(self, request: Message) -> list[Message]:
        return [
            message
            for _, _, message in self.seen
            if message.transaction_id == request.transaction_id and message.message_class is not Class.REQUEST
        ]

    @property
    def candidate(self) -> Candidate:
        return host_candidate(*self.address)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in attributes.items()}


def host_candidate(host: str, port: int, component: int = 1, preference: int = 65535, **more: Any) -> Candidate:
    priority = candidate_priority(component, "host", preference)
    return Candidate(f"h{preference}", component, "udp", priority, host, port, "host", **more)


def puppeteer(
    *, controlling: bool = False, delay: float = 0.025, seed: int = 0, connect: bool = True, **config: Any
) -> tuple[World, Peer, Puppet]:
    """One agent that has gathered (and checks nothing yet), and a puppet that it will connect to."""
    world = World(seed)
    world.network(delay=delay)
    peer = Peer(world.host("192.0.2.1"), controlling, name="agnt", **config)
    puppet = Puppet(world.host("192.0.2.2"), port=7000)
    peer.gather()
    world.run_until(lambda: peer.gathered)
    if connect:
        peer.connect(puppet)
    return world, peer, puppet
