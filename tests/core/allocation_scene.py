"""An allocation, a TURN server of a few lines, and the time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from aioice.core.allocation import Allocated, Allocation, AllocationConfig, State
from aioice.core.credentials import make_integrity_key
from aioice.core.demux import CHANNEL_MIN, is_channel_data
from aioice.core.machine import Address, ChannelBound, ChannelUnbound, Opened, OpenStream, OpenUdp, Transmit, Tunables
from aioice.core.message import Class, Message, Method, Several, parse_message
from aioice.core.peers import Peers, Permitted

SERVER = ("192.0.2.1", 3478)
RELAYED = ("198.51.100.7", 50000)
MAPPED = ("203.0.113.9", 40000)
RELAYED6 = ("2001:db8::7", 50006)
PEER = ("198.51.100.8", 6000)
PEER6 = ("2001:db8::8", 6000)
KEY = make_integrity_key("user", "realm", "pass")
CHECK = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"check-number"

LINK, RELAY = 1, 2


class Seen(NamedTuple):
    """What the server received."""

    when: float
    message: Message | None
    data: bytes


class Server:
    """A TURN server of a few lines. ``override`` gets each authenticated request and may answer otherwise."""

    def __init__(self) -> None:
        self.nonce = b"nonce0"
        self.realm = "realm"
        self.key = KEY
        self.sign = True
        self.open = False
        self.lifetime: int | None = 600
        self.relayed: tuple[Address, ...] = (RELAYED,)
        #: ADDRESS-ERROR-CODE: family, code.
        self.missing: tuple[int, int] | None = None
        self.refuse: dict[Method, int] = {}
        self.silent: set[Method] = set()
        self.override: Callable[[Message], Message | None] | None = None
        self.answers = 0

    def answer(self, request: Message) -> Message | None:
        method = Method(request.message_method)
        if method in self.silent:
            return None
        if not self.open and "MESSAGE-INTEGRITY" not in request.attributes:
            return self.error(request, 401)
        if not self.open and not request.check_message_integrity(self.key):
            return self.error(request, 401)
        if not self.open and request.attributes["NONCE"] != self.nonce:
            return self.error(request, 438)
        if self.override is not None and (answer := self.override(request)) is not None:
            return answer
        if method in self.refuse:
            return self.error(request, self.refuse[method])
        return self.success(request)

    def error(self, request: Message, code: int, phrase: str = "No", **more: Any) -> Message:
        attributes: dict[str, Any] = {"ERROR-CODE": (code, phrase)} | more
        if code in (401, 438):
            attributes |= {"REALM": self.realm, "NONCE": self.nonce}
        return self.finish(Message(request.message_method, Class.ERROR, request.transaction_id, attributes))

    def success(self, request: Message, **more: Any) -> Message:
        attributes: dict[str, Any] = {}
        if request.message_method == Method.ALLOCATE:
            attributes = {"XOR-RELAYED-ADDRESS": Several(self.relayed), "XOR-MAPPED-ADDRESS": MAPPED}
            if self.missing is not None:
                attributes["ADDRESS-ERROR-CODE"] = (*self.missing, "No")
        if request.message_method in (Method.ALLOCATE, Method.REFRESH) and self.lifetime is not None:
            attributes["LIFETIME"] = self.lifetime
        response = Message(request.message_method, Class.RESPONSE, request.transaction_id, attributes)
        response.attributes.update(more)
        return self.finish(response)

    def finish(self, response: Message) -> Message:
        challenge = response.message_class == Class.ERROR and response.error_code in (401, 438)
        if self.sign and not challenge and not self.open:
            response.add_message_integrity(self.key)
        return response


class Scene:
    """An allocation, its server and the time."""

    def __init__(self, tunables: Tunables | None = None, **config: Any) -> None:
        fields: dict[str, Any] = {
            "server": SERVER,
            "username": "user",
            "password": "pass",
            "keepalive": 0,
        }
        self.now = 100.0
        self.server = Server()
        self.config = AllocationConfig(**(fields | config))
        counter = itertools.count()
        self.allocation = Allocation(
            self.config,
            lambda size: next(counter).to_bytes(size, "big"),
            itertools.count(LINK).__next__,
            tunables,
        )
        #: The server's answers come so many seconds later; None: not at all.
        self.delay: float | None = 0.0
        self.opens = True
        self.coming: list[tuple[float, bytes]] = []
        self.seen: list[Seen] = []
        self.outputs: list[Any] = []
        #: What was told of the way past the machine, which nobody takes here.
        self.channels: list[ChannelBound | ChannelUnbound] = []

    # -- what the runner does

    def drain(self) -> None:
        while (output := self.allocation.poll_output()) is not None:
            if isinstance(output, Transmit):
                assert output.link == LINK
                assert output.peer == self.config.server
                self.transmitted(output.data)
                continue
            if isinstance(output, ChannelBound | ChannelUnbound):
                self.channels.append(output)
                continue
            self.outputs.append(output)
            if isinstance(output, OpenUdp | OpenStream) and self.opens:
                self.allocation.handle_report(self.now, Opened(output.link, ("0.0.0.0", 1234)))
        deadline = self.allocation.poll_timeout()
        assert deadline is None or self.allocation.state is not State.DONE

    def transmitted(self, data: bytes) -> None:
        if is_channel_data(data):
            self.seen.append(Seen(self.now, None, data))
            return
        message = parse_message(data)
        self.seen.append(Seen(self.now, message, data))
        if message.message_class == Class.REQUEST and self.delay is not None:
            answer = self.server.answer(message)
            if answer is not None:
                self.coming.append((self.now + self.delay, bytes(answer)))

    def receive(self, data: bytes, peer: Address = SERVER, link: int = LINK) -> None:
        self.allocation.handle_datagram(self.now, link, peer, data)
        self.drain()

    def settle(self) -> None:
        """Deliver what has arrived by now."""
        self.drain()
        while due := [entry for entry in self.coming if entry[0] <= self.now]:
            self.coming.remove(due[0])
            self.receive(due[0][1])

    def run(self, seconds: float) -> None:
        """Let the time pass."""
        end = self.now + seconds
        self.settle()
        while True:
            times = [when for when, _ in self.coming]
            if (deadline := self.allocation.poll_timeout()) is not None:
                times.append(deadline)
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            self.settle()
            self.allocation.handle_timeout(self.now)
            after = self.allocation.poll_timeout()
            assert after is None or after > self.now or self.allocation._outputs
            self.settle()
        self.now = end
        self.settle()

    # -- verbs

    def start(self) -> Scene:
        self.allocation.start(self.now)
        self.settle()
        return self

    def send(self, data: bytes, peer: Address = PEER) -> None:
        self.allocation.send(self.now, peer, data)
        self.drain()

    def close(self) -> None:
        self.allocation.close(self.now)
        self.settle()

    def indicate(self, data: bytes = b"data", peer: Address = PEER, **more: Any) -> None:
        attributes = {"XOR-PEER-ADDRESS": peer, "DATA": data} | more
        self.receive(bytes(Message(Method.DATA, Class.INDICATION, bytes(12), attributes)))

    def icmp(self, peer: Address, icmp_type: int, code: int) -> None:
        attributes = {"XOR-PEER-ADDRESS": peer, "ICMP": bytes((0, 0, icmp_type, code)) + bytes(4)}
        self.receive(bytes(Message(Method.DATA, Class.INDICATION, bytes(12), attributes)))

    # -- questions

    @property
    def peers(self) -> Peers:
        """The child of an allocation that is there."""
        assert self.allocation._peers is not None
        return self.allocation._peers

    def methods(self) -> list[str]:
        """What was sent since the last question."""
        seen, self.seen = self.seen, []
        return [Method(entry.message.message_method).name if entry.message else "channel" for entry in seen]

    def requests(self, method: Method) -> list[Seen]:
        return [entry for entry in self.seen if entry.message is not None and entry.message.message_method == method]

    def take(self, kind: type[Any]) -> list[Any]:
        """The outputs of a kind since the last question."""
        taken = [output for output in self.outputs if isinstance(output, kind)]
        self.outputs = [output for output in self.outputs if not isinstance(output, kind)]
        return taken


def hosts(seen: Seen) -> list[str]:
    """Whom a request is about."""
    assert seen.message is not None
    return [host for host, _ in seen.message.values("XOR-PEER-ADDRESS")]


def ready(tunables: Tunables | None = None, **config: Any) -> Scene:
    scene = Scene(tunables, **config).start()
    assert scene.take(Allocated) == [Allocated(RELAY, RELAYED, MAPPED)]
    scene.outputs.clear()
    scene.seen.clear()
    return scene


def dual(**config: Any) -> Scene:
    """An allocation of both families."""
    scene = Scene(families=(4, 6), **config)
    scene.server.relayed = (RELAYED, RELAYED6)
    scene.start()
    assert scene.take(Allocated) == [Allocated(RELAY, RELAYED, MAPPED), Allocated(RELAY + 1, RELAYED6, MAPPED)]
    scene.outputs.clear()
    scene.seen.clear()
    return scene


def bound(**config: Any) -> Scene:
    scene = ready(**config)
    scene.send(b"first")
    scene.settle()
    assert scene.allocation.channel(scene.now, PEER) == CHANNEL_MIN
    assert scene.take(Permitted) == [Permitted(RELAY, PEER[0])]
    scene.seen.clear()
    return scene


def stream(**config: Any) -> dict[str, Any]:
    return {"transport": "tcp"} | config
