"""A checker, its bases and a peer who knows the password and says what the test wants."""

from __future__ import annotations

import itertools
from typing import Any

from aioice.core.candidate import Candidate
from aioice.core.checklist import Base, CheckList, Pair, PairState
from aioice.core.connectivity import Checker
from aioice.core.generation import Generation
from aioice.core.machine import Address, Transmit, Tunables
from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.selection import Selection
from tests.core.pairs import base, candidate
from tests.core.stun_bytes import append, attribute, sign

PEER = ("192.0.2.1", 4000)
ELSEWHERE = ("192.0.2.99", 5099)
#: What the peer sees of us.
MAPPED = ("203.0.113.9", 40000)
#: The first tie-breaker of the checker under test, half way.
TIE_BREAKER = 1 << 63
#: A binary fraction, so that times add up.
TA = 1 / 64


class Source:
    """Bytes that are different each time; the first eight of them are the tie-breaker."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.fresh = True

    def __call__(self, size: int) -> bytes:
        if size == 8 and self.fresh:
            self.fresh = False
            return TIE_BREAKER.to_bytes(8)
        return next(self.numbers).to_bytes(size)


def check(
    role: str = "ICE-CONTROLLED",
    tie_breaker: int = 1,
    *,
    username: str | None = "ours:theirs",
    password: str | None = "our password",
    transaction_id: bytes = b"theirs......",
    **attributes: Any,
) -> Message:
    """A check of the peer."""
    message = Message(Method.BINDING, Class.REQUEST, transaction_id)
    if username is not None:
        message.attributes["USERNAME"] = username
    if role:
        message.attributes[role] = tie_breaker
    for name, value in {"PRIORITY": 1234, **attributes}.items():
        if value is not False:
            message.attributes[name.replace("_", "-")] = value
    if password is not None:
        message.add_message_integrity(password.encode())
    return message


def unknown_attribute(message: Message, password: str) -> bytes:
    """The message with a comprehension-required attribute that nobody knows (RFC 8489 §14), signed."""
    data = sign(append(bytes(message), attribute(0x7777, b"what")), password.encode())
    assert parse_message(data).unknown_required == (0x7777,)
    return data


class Scene:
    """Everything that leaves is kept in ``sent``, what the checker tells its agent in ``told``."""

    def __init__(
        self,
        *,
        controlling: bool = True,
        lite: bool = False,
        components: int = 1,
        tunables: Tunables | None = None,
        max_pairs: int = 100,
        ta: float = TA,
        start: bool = True,
    ) -> None:
        self.now = 100.0
        self.components = components
        self.max_pairs = max_pairs
        self.checker = Checker(Source(), tunables or Tunables(), controlling=controlling, lite=lite, ta=ta)
        self.generation = self.new_generation()
        self.checker.use([self.generation])
        self.base = base(1)
        self.sent: list[tuple[float, Transmit]] = []
        self.told: list[Any] = []
        self.ports = itertools.count(5000)
        if start:
            self.start()

    def new_generation(self, username: str = "ours", password: str = "our password") -> Generation:
        checks = CheckList(self.checker.controlling, self.max_pairs)
        return Generation(username, password, self.components, checks, Selection())

    def start(self, username: str = "theirs", password: str = "their password") -> Scene:
        self.generation.set_remote_credentials(username, password)
        self.generation.checking = True
        self.checker.start(self.now, self.generation)
        return self.drain()

    # -- what the agent does

    def pair(
        self,
        remote: Candidate | None = None,
        *,
        at: Base | None = None,
        foundation: str | None = None,
        priority: int | None = None,
    ) -> Pair:
        """A new pair, by default with a remote candidate of its own, that is not checked before ``go_on``."""
        at = at or self.base
        component = at.candidate.component
        if remote is None:
            port = next(self.ports)
            remote = candidate(
                port=port,
                component=component,
                priority=priority,
                foundation=str(port) if foundation is None else foundation,
            )
        self.generation.remote_candidates.append(remote)
        pair = self.generation.checks.add(at, remote)
        assert pair is not None
        return pair

    def go_on(self) -> Scene:
        self.checker.go_on(self.now)
        return self.drain()

    def checked(self, **more: Any) -> tuple[Pair, Transmit]:
        """A new pair whose check is in flight."""
        pair = self.pair(**more)
        self.go_on()
        while pair.state is not PairState.IN_PROGRESS:
            self.wait_for_timer()
        assert self.sent[-1][1].peer == pair.peer
        return pair, self.sent[-1][1]

    def valid(self, **more: Any) -> Pair:
        pair, transmit = self.checked(**more)
        self.answer(transmit)
        return pair

    def drain(self) -> Scene:
        while (output := self.checker.poll_output()) is not None:
            if isinstance(output, Transmit):
                self.sent.append((self.now, output))
            else:
                self.told.append(output)
        return self

    def wait(self, seconds: float) -> Scene:
        """Let the time pass."""
        end = self.now + seconds
        while (deadline := self.checker.poll_timeout()) is not None and deadline <= end:
            self.wait_for_timer()
        self.now = end
        return self

    def wait_for_timer(self) -> None:
        deadline = self.checker.poll_timeout()
        assert deadline is not None
        self.now = max(self.now, deadline)
        self.checker.handle_timeout(self.now)
        after = self.checker.poll_timeout()
        assert after is None or after > self.now
        self.drain()

    # -- what the peer does

    def hear(
        self, message: Message | bytes | None = None, peer: Address = PEER, at: Base | None = None
    ) -> Message | None:
        """Hand a message, by default a check, to the checker; returns what was answered, if anything."""
        before = len(self.sent)
        data = bytes(check() if message is None else message)
        assert self.checker.handle_stun(self.now, at or self.base, peer, data) is None
        self.drain()
        heard = [(transmit, parse_message(transmit.data)) for _, transmit in self.sent[before:]]
        for transmit, answer in heard:
            if answer.message_class is not Class.REQUEST and answer.transaction_id == data[8:20]:
                assert (transmit.link, transmit.peer) == ((at or self.base).link, peer)
                return answer
        return None

    def answer(
        self,
        request: Transmit,
        code: int = 0,
        *,
        mapped: Address | None = MAPPED,
        password: str = "their password",
        peer: Address | None = None,
        at: Base | None = None,
        unknown: bool = False,
    ) -> Scene:
        """The peer answers one of our requests, in ``peer``'s name."""
        attributes: dict[str, Any] = {"ERROR-CODE": (code, "")} if code else {}
        if mapped is not None and not code:
            attributes["XOR-MAPPED-ADDRESS"] = mapped
        kind = Class.ERROR if code else Class.RESPONSE
        message = Message(Method.BINDING, kind, request.data[8:20], attributes)
        if unknown:
            data = unknown_attribute(message, password)
        else:
            message.add_message_integrity(password.encode())
            data = bytes(message)
        left = self.checker.handle_stun(self.now, at or self.base, peer or request.peer, data)
        assert left is None
        return self.drain()

    # -- questions

    @property
    def checks(self) -> list[Transmit]:
        """Our requests, retransmissions among them."""
        return [t for _, t in self.sent if parse_message(t.data).message_class is Class.REQUEST]

    @property
    def asked(self) -> list[int]:
        """The ports that were asked, in order."""
        return [transmit.peer[1] for transmit in self.checks]

    @property
    def last(self) -> Message:
        return parse_message(self.checks[-1].data)

    def take(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.told if isinstance(output, kind)]
