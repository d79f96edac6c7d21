"""A gatherer and the world around it: sockets, a STUN and a TURN server, names and the time."""

from __future__ import annotations

import itertools
from typing import Any

from aioice.core.bases import Found
from aioice.core.candidate import Candidate
from aioice.core.credentials import make_integrity_key
from aioice.core.gathering import Gathered, Gatherer
from aioice.core.inquiries import ServerReport
from aioice.core.machine import (
    Address,
    Close,
    CredentialsFetched,
    FetchCredentials,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Reason,
    Resolve,
    Resolved,
    Transmit,
    Tunables,
)
from aioice.core.message import Class, Message, Method, Several, parse_message
from aioice.core.servers import StunServer, TurnServer
from tests.core.pairs import counter

STUN = ("192.0.2.1", 3478)
STUN6 = ("2001:db8::1", 3478)
TURN = ("192.0.2.2", 3478)
HOST, HOST6, OTHER = "198.51.100.1", "2001:db8:1::1", "198.51.100.2"
MAPPED = ("203.0.113.9", 40000)
RELAYED = ("192.0.2.2", 50000)
RELAYED6 = ("2001:db8::2", 50000)
KEY = make_integrity_key("user", "realm", "pass")
TURN_SERVER = TurnServer(*TURN, username="user", password="pass")


def stun_answer(request: Message, mapped: Address | None = MAPPED, name: str = "XOR-MAPPED-ADDRESS") -> Message:
    attributes = {} if mapped is None else {name: mapped}
    return Message(Method.BINDING, Class.RESPONSE, request.transaction_id, attributes)


def turn_answer(request: Message, refuse: int = 0, *relayed: Address, more: dict[str, Any] | None = None) -> Message:
    """What a TURN server with long-term credentials says (RFC 8656 §7)."""
    attributes: dict[str, Any]
    if "MESSAGE-INTEGRITY" not in request.attributes:
        attributes = {"ERROR-CODE": (401, ""), "REALM": "realm", "NONCE": b"nonce"}
        return Message(request.message_method, Class.ERROR, request.transaction_id, attributes)
    assert request.check_message_integrity(KEY)
    if refuse:
        kind, attributes = Class.ERROR, {"ERROR-CODE": (refuse, "")} | (more or {})
    else:
        kind, attributes = Class.RESPONSE, {"LIFETIME": 600}
        if request.message_method == Method.ALLOCATE:
            attributes |= {"XOR-RELAYED-ADDRESS": Several(relayed or (RELAYED,)), "XOR-MAPPED-ADDRESS": MAPPED}
            if "ADDITIONAL-ADDRESS-FAMILY" in request.attributes and len(relayed) < 2:
                attributes["ADDRESS-ERROR-CODE"] = (2, 440, "")
            attributes |= more or {}
    answer = Message(request.message_method, kind, request.transaction_id, attributes)
    answer.add_message_integrity(KEY)
    return answer


def is_request(data: bytes, methods: tuple[Method, ...]) -> bool:
    message = parse_message(data)
    return message.message_class == Class.REQUEST and message.message_method in methods


class Scene:
    """Sockets open at once and names resolve at once, unless the test says otherwise; TURN servers answer."""

    def __init__(
        self,
        stun: tuple[str, int] | None = None,
        *servers: StunServer | TurnServer,
        relay_only: bool = False,
        tunables: Tunables | None = None,
        families: tuple[int, ...] = (4,),
        ta: float = 0.0,
        **options: Any,
    ) -> None:
        self.now = 100.0
        links = itertools.count(1)
        self.gatherer = Gatherer(
            counter(),
            links.__next__,
            tunables or Tunables(),
            {},
            relay_only=relay_only,
            families=families,
            ta=ta,
            **options,
        )
        self.gatherer.servers = ([StunServer(*stun)] if stun else []) + list(servers)
        self.opens = True
        self.refused_hosts: set[str] = set()
        self.names: dict[str, tuple[str, ...]] = {}
        self.turn_answers = True
        self.turn_refuses = 0
        #: Where TURN servers are, and what each of them says (see :func:`turn_answer`).
        self.turns: dict[Address, Any] = {TURN: turn_answer}
        #: What an application says when it is asked for credentials, in this order.
        self.credentials: list[CredentialsFetched] = []
        #: Local addresses by link, of what is open.
        self.open: dict[int, Address] = {}
        self.sent: list[tuple[float, Transmit]] = []
        self.outputs: list[Any] = []
        self.when: list[float] = []

    # -- what the runner does

    def report(self, report: Any) -> None:
        self.gatherer.handle_report(self.now, report)
        self.drain()

    def drain(self) -> None:
        while (output := self.gatherer.poll_output()) is not None:
            self.outputs.append(output)
            self.when.append(self.now)
            if isinstance(output, OpenUdp | OpenStream | OpenRelay):
                self.opened(output)
            elif isinstance(output, Close):
                self.open.pop(output.link, None)
            elif isinstance(output, Resolve) and output.name in self.names:
                self.gatherer.handle_report(self.now, Resolved(output.query, self.names[output.name]))
            elif isinstance(output, FetchCredentials) and self.credentials:
                answer = self.credentials.pop(0)._replace(query=output.query)
                self.gatherer.handle_report(self.now, answer)
            elif isinstance(output, Transmit):
                assert output.link in self.open
                self.sent.append((self.now, output))
                if output.peer in self.turns and self.turn_answers:
                    message = parse_message(output.data)
                    if message.message_class == Class.REQUEST:
                        answered = self.turns[output.peer](message, self.turn_refuses)
                        self.gatherer.handle_datagram(self.now, output.link, output.peer, bytes(answered))

    def opened(self, output: OpenUdp | OpenStream | OpenRelay) -> None:
        if not self.opens:
            return
        host = output.host if isinstance(output, OpenUdp) else HOST
        if host in self.refused_hosts:
            self.gatherer.handle_report(self.now, OpenFailed(output.link, Reason.BIND, "no such address"))
            return
        self.open_late(output.link, output.relayed if isinstance(output, OpenRelay) else (host, 1000 + output.link))

    def open_late(self, link: int, local: Address) -> None:
        self.open[link] = local
        self.gatherer.handle_report(self.now, Opened(link, local))

    def run(self, seconds: float) -> Scene:
        """Let the time pass."""
        end = self.now + seconds
        while (deadline := self.gatherer.poll_timeout()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.gatherer.handle_timeout(self.now)
            after = self.gatherer.poll_timeout()
            assert after is None or after > self.now
            self.drain()
        self.now = end
        return self

    # -- verbs

    def gather(self, *hosts: str, component: int = 1, timeout: float = 5.0) -> Scene:
        self.gatherer.gather(self.now, component, hosts, timeout)
        self.drain()
        return self

    def close(self) -> Scene:
        self.gatherer.close(self.now)
        self.drain()
        return self

    def answer(self, query: Transmit, *args: Any, peer: Address | None = None, **more: Any) -> None:
        """The STUN server's answer, as the agent hands it over."""
        message = parse_message(bytes(stun_answer(parse_message(query.data), *args, **more)))
        self.gatherer.handle_answer(self.now, query.link, peer or query.peer, message)
        self.drain()

    # -- questions

    @property
    def queries(self) -> list[Transmit]:
        """What was sent to the STUN server, in any of its addresses."""
        return [transmit for _, transmit in self.sent if transmit.peer in (STUN, STUN6)]

    @property
    def candidates(self) -> list[Candidate]:
        return [output.candidate for output in self.outputs if isinstance(output, Found)]

    @property
    def ends(self) -> list[tuple[int, float]]:
        """Which components were reported, and after how long."""
        return [
            (output.component, round(when - 100.0, 6))
            for output, when in zip(self.outputs, self.when, strict=True)
            if isinstance(output, Gathered)
        ]

    @property
    def reports(self) -> list[ServerReport]:
        return self.gatherer.reports

    @property
    def verdicts(self) -> list[str]:
        return [str(report.verdict) for report in self.reports]

    def asked(self, *methods: Method) -> list[Transmit]:
        """The requests of these methods."""
        return [t for _, t in self.sent if is_request(t.data, methods)]

    def take(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.outputs if isinstance(output, kind)]
