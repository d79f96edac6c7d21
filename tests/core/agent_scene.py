"""An agent and the world around it: sockets, names, a TURN server, and a peer who says what the test wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aioice.core.agent import Agent, AgentConfig
from aioice.core.candidate import Candidate
from aioice.core.checklist import Pair
from aioice.core.demux import is_stun
from aioice.core.events import ConnectionState, StateChanged
from aioice.core.machine import (
    Address,
    Close,
    LinkClosed,
    Notify,
    Opened,
    OpenRelay,
    OpenUdp,
    Reason,
    Report,
    Resolve,
    Resolved,
    Transmit,
    Tunables,
)
from aioice.core.message import Class, Message, Method, parse_message
from tests.core.check_scene import MAPPED, PEER, TA, Source, check
from tests.core.gather_scene import HOST, RELAYED, TURN, TURN_SERVER, turn_answer
from tests.core.pairs import candidate

OTHER_PEER = ("192.0.2.2", 4002)
CONTROLLED, CONTROLLING = "ICE-CONTROLLED", "ICE-CONTROLLING"


class Scene:
    """Sockets open at once and names resolve when they are in ``names``; all outputs stand in ``log``, events bare."""

    def __init__(self, *, controlling: bool = True, tunables: Tunables | None = None, **config: Any) -> None:
        self.now = 100.0
        config = {"ta": TA, **config}
        self.agent = Agent(
            AgentConfig(controlling=controlling, **config), Source(), "ours", "our password", tunables or Tunables()
        )
        self.names: dict[str, tuple[str, ...]] = {}
        #: Local addresses by link, of what is open.
        self.open: dict[int, Address] = {}
        self.log: list[Any] = []
        self.sent: list[Transmit] = []
        #: What left through the TURN server.
        self.relayed: list[tuple[Address, bytes]] = []
        #: With which error the TURN server refuses peers.
        self.turn_refuses = 0
        self.turn_answers = True
        self.answered = 0
        self.passwords = ("our password", "their password")
        self.usernames = ("ours", "theirs")

    # -- what the runner does

    def drain(self) -> Scene:
        while (output := self.agent.poll_output()) is not None:
            self.log.append(output.event if isinstance(output, Notify) else output)
            if isinstance(output, OpenUdp):
                self.opened(output.link, (output.host, 1000 + output.link))
            elif isinstance(output, OpenRelay):
                self.opened(output.link, output.relayed)
            elif isinstance(output, Close):
                self.open.pop(output.link, None)
            elif isinstance(output, Resolve) and output.name in self.names:
                self.report(Resolved(output.query, self.names[output.name]))
            elif isinstance(output, Transmit):
                assert output.link in self.open
                self.sent.append(output)
                if output.peer == TURN:
                    self.turn(output)
        return self

    def opened(self, link: int, local: Address) -> None:
        self.open[link] = local
        self.agent.handle_report(self.now, Opened(link, local))

    def turn(self, transmit: Transmit) -> None:
        message = parse_message(transmit.data) if is_stun(transmit.data) else None
        if message is None:
            self.relayed.append((TURN, transmit.data[4:]))
        elif message.message_class is Class.INDICATION:
            self.relayed.append((message.attributes["XOR-PEER-ADDRESS"], message.attributes["DATA"]))
        elif self.turn_answers:
            refuse = self.turn_refuses if message.message_method != Method.ALLOCATE else 0
            answer = bytes(turn_answer(message, refuse))
            self.agent.handle_datagram(self.now, transmit.link, TURN, answer)

    def report(self, report: Report) -> Scene:
        self.agent.handle_report(self.now, report)
        return self.drain()

    def lose(self, link: int) -> Scene:
        return self.report(LinkClosed(link, Reason.OTHER, "it broke"))

    def wait(self, seconds: float) -> Scene:
        """Let the time pass."""
        end = self.now + seconds
        while (deadline := self.agent.poll_timeout()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.agent.handle_timeout(self.now)
            after = self.agent.poll_timeout()
            assert after is None or after > self.now
            self.drain()
        self.now = end
        return self

    # -- verbs

    def gather(self, *hosts: str, component: int = 1) -> Scene:
        self.agent.gather(self.now, component, hosts or (HOST,), 5.0)
        return self.drain()

    def end_gathering(self) -> Scene:
        self.agent.end_gathering(self.now)
        return self.drain()

    def add(self, remote: Candidate | None) -> Scene:
        self.agent.add_remote_candidate(self.now, remote)
        return self.drain()

    def connect(self, *, remote_is_lite: bool = False) -> Scene:
        self.agent.connect(self.now, self.usernames[1], self.passwords[1], remote_is_lite)
        return self.drain()

    def ready(self, *remotes: Candidate, components: Sequence[int] = (1,), hosts: Sequence[str] = (HOST,)) -> Scene:
        """Gathered, described and checking: one remote candidate for each component unless they are named."""
        for component in components:
            self.gather(*hosts, component=component)
        for remote in remotes or [peer_candidate(component) for component in components]:
            self.add(remote)
        return self.add(None).connect()

    def restart(self, username: str = "new", password: str = "new password") -> Scene:
        """Restart both sides; the peer's new name and password go by ours."""
        self.agent.restart(self.now, username, password)
        self.usernames = (username, f"their+{username}")
        self.passwords = (password, f"their {password}")
        return self.drain()

    def close(self) -> Scene:
        self.agent.close(self.now)
        return self.drain()

    # -- what the peer does

    def hear(self, peer: Address = PEER, link: int | None = None, role: str = CONTROLLED, **more: Any) -> Scene:
        """A check of the peer."""
        username, password = ":".join(self.usernames), self.passwords[0]
        message = check(role, **{"username": username, "password": password, **more})
        self.agent.handle_datagram(self.now, self.link if link is None else link, peer, bytes(message))
        return self.drain()

    def answer(
        self, request: Transmit | None = None, code: int = 0, *, mapped: Address = MAPPED, password: str = ""
    ) -> Scene:
        """The peer answers one of our requests, by default the last."""
        request = request or self.checks[-1]
        data = peer_answer(request.data, code, mapped, password or self.passwords[1])
        self.agent.handle_datagram(self.now, request.link, request.peer, data)
        return self.drain()

    def answer_all(self, **more: Any) -> Scene:
        """The peer answers what was asked so far, and what is asked for that."""
        while self.answered < len(self.checks):
            self.answered += 1
            self.answer(self.checks[self.answered - 1], **more)
        return self

    def from_relay(self, peer: Address, data: bytes, link: int | None = None) -> Scene:
        """The TURN server passes something on."""
        attributes = {"XOR-PEER-ADDRESS": peer, "DATA": data}
        message = bytes(Message(Method.DATA, Class.INDICATION, b"indication!!", attributes))
        self.agent.handle_datagram(self.now, self.server_link if link is None else link, TURN, message)
        return self.drain()

    # -- questions

    @property
    def link(self) -> int:
        """The link of the first host candidate."""
        return next(link for link, local in self.open.items() if local[0] == HOST)

    @property
    def server_link(self) -> int:
        return next(link for link in self.open if self.agent.is_server_link(link))

    @property
    def checks(self) -> list[Transmit]:
        """Our requests to peers that did not leave through a relay."""
        sent = [transmit for transmit in self.sent if transmit.peer != TURN and is_stun(transmit.data)]
        return [transmit for transmit in sent if parse_message(transmit.data).message_class is Class.REQUEST]

    @property
    def asked(self) -> list[Address]:
        return [transmit.peer for transmit in self.checks]

    @property
    def pair(self) -> Pair:
        (pair,) = self.agent.check_list
        return pair

    @property
    def states(self) -> list[ConnectionState]:
        return [event.state for event in self.take(StateChanged)]

    @property
    def failure(self) -> str:
        """The reason of the last state."""
        reason: str = self.take(StateChanged)[-1].reason
        return reason

    def take(self, *kinds: type[Any]) -> list[Any]:
        return [output for output in self.log if isinstance(output, kinds)]

    def kinds(self, since: int = 0) -> list[str]:
        """What came out, by name, without what was sent."""
        return [type(output).__name__ for output in self.log[since:] if not isinstance(output, Transmit)]


def peer_candidate(component: int = 1, port: int = 0, **more: Any) -> Candidate:
    """One with a port of its own has a foundation of its own, so that it does not freeze."""
    if port:
        more = {"foundation": str(port), **more}
    return candidate(PEER[0], port or PEER[1] + component - 1, component=component, **more)


def peer_answer(request: bytes, code: int, mapped: Address, password: str) -> bytes:
    attributes: dict[str, Any] = {"ERROR-CODE": (code, "")} if code else {"XOR-MAPPED-ADDRESS": mapped}
    kind = Class.ERROR if code else Class.RESPONSE
    message = Message(Method.BINDING, kind, request[8:20], attributes)
    message.add_message_integrity(password.encode())
    return bytes(message)


def connected(controlling: bool = True, **config: Any) -> Scene:
    """One component, one pair, nominated; HOST and PEER are its ends."""
    scene = Scene(controlling=controlling, **config).ready()
    if controlling:
        scene.answer_all()
    else:
        scene.answer().hear(role=CONTROLLING, USE_CANDIDATE=None)
    assert scene.agent.state is ConnectionState.COMPLETED
    scene.answered = len(scene.checks)
    return scene.wait(TA)


def relayed(**config: Any) -> Scene:
    """No candidate but a relayed one."""
    scene = Scene(turn_server=TURN_SERVER, relay_only=True, **config)
    scene.agent.gather(scene.now, 1, [], 5.0)
    return scene.drain()


def through_relay(scene: Scene) -> Scene:
    """The peer answers the check and the nomination that left through the relay."""
    for _ in range(2):
        request = scene.relayed[-1][1]
        scene.from_relay(PEER, peer_answer(request, 0, RELAYED, scene.passwords[1]))
    return scene
