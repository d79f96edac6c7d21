"""Coverage-guided fuzzing of a whole agent: ``python fuzz/fuzz_agent.py`` (needs atheris).

The bytes of an input choose what happens to the agent: verbs, reports, datagrams good and bad, and the time, in any
order. After each step it must have kept the promises of ``aioice.core.machine``. ``tests/property/test_agents.py`` runs
the same with other choices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

from aioice.core.agent import Agent, AgentConfig
from aioice.core.candidate import Candidate
from aioice.core.events import ConnectionClosed
from aioice.core.gathering import StunServer, TurnServer
from aioice.core.machine import (
    Close,
    Connected,
    CredentialsFetched,
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
    SendFailed,
    Transmit,
    Tunables,
)
from aioice.core.message import Class, Message, Method

T = TypeVar("T")

LOCAL_PASSWORD, REMOTE_PASSWORD = "localpasswordlocalpass", "remotepasswordremote22"
STUN, TURN = ("198.51.100.1", 3478), ("198.51.100.2", 3478)
PEERS = [("192.0.2.2", 7000), ("192.0.2.3", 7001), STUN, TURN, ("2001:db8::1", 9)]
CANDIDATES = [
    None,
    "1 1 udp 2130706431 192.0.2.2 7000 typ host",
    "2 2 udp 2130706430 192.0.2.2 7000 typ host",
    "3 1 udp 1694498815 192.0.2.3 7001 typ srflx raddr 0.0.0.0 rport 0 ufrag remo",
    "4 1 udp 2113937151 somebody.local 7000 typ host",
    "5 1 tcp 2105524479 192.0.2.3 9 typ host tcptype active",
    "6 1 udp 1 2001:DB8:0::1 9 typ relay ufrag othr",
]
#: Beside one of each: over streams, by name, with credentials to be fetched and with none.
SERVERS = (
    StunServer(*STUN),
    TurnServer(*TURN, transport="tcp", tls=True, source=0),
    TurnServer("turn.example", 3478, source=0),
    TurnServer("2001:db8::1", 9),
)
#: So many outputs after one input are a loop that never ends.
LIVELOCK = 3000


class Choices(Protocol):
    """Where the inputs come from."""

    def number(self, low: int, high: int) -> int: ...

    def one_of(self, values: Sequence[T]) -> T: ...

    def blob(self, longest: int) -> bytes: ...


class Runner:
    """Feeds an agent and holds it to its promises after every step."""

    def __init__(self, *, controlling: bool, lite: bool, servers: bool) -> None:
        self.now = 0.0
        config = AgentConfig(
            controlling,
            components=2,
            lite=lite,
            stun_server=StunServer("stun.example", 3478) if servers else None,
            turn_server=TurnServer(*TURN, username="user", password="secret") if servers else None,
            servers=SERVERS if servers else (),
        )
        self.agent = Agent(config, Random(1).randbytes, "locl", LOCAL_PASSWORD)
        #: Links that are open, and those that are being opened.
        self.links: list[int] = []
        self.opening: list[int] = []
        self.queries: list[int] = []
        self.fetches: list[int] = []
        #: Requests that left: transaction id, link and peer.
        self.asked: list[tuple[bytes, int, tuple[str, int]]] = []
        self.outputs: list[Output] = []
        self.closes: list[int] = []
        self.done = 0

    def step(self, verb: Callable[..., object], *args: object) -> None:
        verb(self.now, *args)
        for _ in range(LIVELOCK):
            output = self.agent.poll_output()
            if output is None:
                return
            self._see(output)
        raise AssertionError("outputs without end")

    def _see(self, output: Output) -> None:
        assert not self.done or isinstance(output, Close), f"{output} after Done"
        self.outputs.append(output)
        if isinstance(output, OpenUdp | OpenStream | OpenRelay):
            self.opening.append(output.link)
        elif isinstance(output, Resolve):
            self.queries.append(output.query)
        elif isinstance(output, FetchCredentials):
            self.fetches.append(output.query)
        elif isinstance(output, Transmit):
            assert output.link in self.links, f"{output} on a link that is not open"
            self.asked.append((output.data[8:20], output.link, output.peer))
        elif isinstance(output, Close):
            assert output.link not in self.closes, f"{output} twice"
            self.closes.append(output.link)
            self.opening = [link for link in self.opening if link != output.link]
            self.links = [link for link in self.links if link != output.link]
        elif isinstance(output, Done):
            self.done += 1

    def wake(self) -> None:
        """The time has come: what is due is due later afterwards."""
        deadline = self.agent.poll_timeout()
        if deadline is not None:
            self.now = max(self.now, deadline)
        self.step(self.agent.handle_timeout)
        deadline = self.agent.poll_timeout()
        assert deadline is None or deadline > self.now, f"due at {deadline} after handle_timeout({self.now})"

    def wake_too_early(self) -> None:
        """That changes nothing."""
        deadline = self.agent.poll_timeout()
        if deadline is None or deadline > self.now:
            before = len(self.outputs)
            self.step(self.agent.handle_timeout)
            assert len(self.outputs) == before, self.outputs[before:]
            assert self.agent.poll_timeout() == deadline

    def finish(self, choices: Choices) -> None:
        """After close the queue drains and stays empty, ``Done`` comes once, and every link is closed."""
        self.step(self.agent.close)
        for _ in range(20):
            if self.done:
                break
            self.wake()
        assert self.done == 1
        assert self.agent.poll_timeout() is None
        assert self.opening == self.links == []
        after = len(self.outputs)
        for _ in range(5):
            act(self, choices)
        assert self.outputs[after:] == []
        told = [out for out in self.outputs if isinstance(out, Notify) and isinstance(out.event, ConnectionClosed)]
        assert len(told) == 1


def act(runner: Runner, choices: Choices) -> None:
    """One input of any kind."""
    choices.one_of(ACTIONS)(runner, choices)


def _gather(runner: Runner, choices: Choices) -> None:
    runner.step(runner.agent.gather, choices.number(1, 2), ["192.0.2.1", "2001:db8::5"], 5.0)


def _candidate(runner: Runner, choices: Choices) -> None:
    line = choices.one_of(CANDIDATES)
    runner.step(runner.agent.add_remote_candidate, line if line is None else Candidate.from_sdp(line))


def _connect(runner: Runner, choices: Choices) -> None:
    runner.step(runner.agent.connect, "remo", REMOTE_PASSWORD, choices.number(0, 9) == 0)


def _restart(runner: Runner, choices: Choices) -> None:
    runner.step(runner.agent.restart, choices.one_of(["locl", "loc2"]), LOCAL_PASSWORD)


def _opened(runner: Runner, choices: Choices) -> None:
    if not runner.opening:
        return
    link = runner.opening.pop(choices.number(0, len(runner.opening) - 1))
    if choices.number(0, 3) == 0:
        runner.step(runner.agent.handle_report, OpenFailed(link, choices.one_of(list(Reason)), "no"))
    else:
        runner.links.append(link)
        host = choices.one_of(["192.0.2.1", "192.0.2.1", "2001:db8::5"])
        runner.step(runner.agent.handle_report, Opened(link, (host, 5000 + link)))


def _resolved(runner: Runner, choices: Choices) -> None:
    if runner.queries:
        addresses = choices.one_of([(), ("192.0.2.2",), ("2001:db8::1", "192.0.2.2")])
        runner.step(runner.agent.handle_report, Resolved(runner.queries.pop(), addresses))


def _fetched(runner: Runner, choices: Choices) -> None:
    if runner.fetches:
        user = choices.one_of(["user", None])
        expires = choices.one_of([None, 0.0, runner.now + 100])
        report = CredentialsFetched(runner.fetches.pop(), user, user and "secret", expires, "no")
        runner.step(runner.agent.handle_report, report)


def _connected(runner: Runner, choices: Choices) -> None:
    if runner.opening:
        runner.step(runner.agent.handle_report, Connected(choices.one_of(runner.opening)))


def _allocated(runner: Runner, choices: Choices) -> None:
    """What a TURN server says that wants no credentials."""
    if not runner.asked:
        return
    transaction_id, link, peer = choices.one_of(runner.asked[-8:])
    attributes: dict[str, Any] = {
        "LIFETIME": choices.one_of([0, 1, 600]),
        "XOR-RELAYED-ADDRESS": choices.one_of([("192.0.2.9", 9), ("2001:db8::9", 9)]),
        "XOR-MAPPED-ADDRESS": choices.one_of(PEERS),
    }
    message = Message(choices.one_of([Method.ALLOCATE, Method.REFRESH]), Class.RESPONSE, transaction_id, attributes)
    if link in runner.links:
        runner.step(runner.agent.handle_datagram, link, peer, bytes(message))


def _redirected(runner: Runner, choices: Choices) -> None:
    if not runner.asked:
        return
    transaction_id, link, peer = choices.one_of(runner.asked[-8:])
    attributes: dict[str, Any] = {
        "ERROR-CODE": (choices.one_of([300, 300, 437, 486]), "no"),
        "ALTERNATE-SERVER": choices.one_of(PEERS),
    }
    method = choices.one_of([Method.ALLOCATE, Method.BINDING, Method.REFRESH])
    if link in runner.links:
        message = Message(method, Class.ERROR, transaction_id, attributes)
        runner.step(runner.agent.handle_datagram, link, peer, bytes(message))


def _send_failed(runner: Runner, choices: Choices) -> None:
    link, peer = choices.one_of(runner.links or [1]), choices.one_of(PEERS)
    runner.step(runner.agent.handle_report, SendFailed(link, peer, choices.one_of(list(Reason))))


def _link_closed(runner: Runner, choices: Choices) -> None:
    if runner.links:
        report = LinkClosed(choices.one_of(runner.links), Reason.CLOSED, "gone")
        runner.step(runner.agent.handle_report, report)


def _noise(runner: Runner, choices: Choices) -> None:
    runner.step(
        runner.agent.handle_datagram, choices.one_of(runner.links or [1]), choices.one_of(PEERS), choices.blob(80)
    )


def _stun(runner: Runner, choices: Choices) -> None:
    """A message with any of the attributes that matter, signed with some key or none."""
    attributes: dict[str, Any] = {}
    for name, values in ATTRIBUTES.items():
        if choices.number(0, 1):
            attributes[name] = choices.one_of(values)
    method = choices.one_of([Method.BINDING, Method.BINDING, Method.ALLOCATE, Method.DATA])
    message = Message(method, choices.one_of(list(Class)), choices.blob(12).ljust(12, b"\0"), attributes)
    key = choices.one_of([LOCAL_PASSWORD, REMOTE_PASSWORD, "bad", ""])
    if key:
        message.add_message_integrity(key.encode())
    link, peer = choices.one_of(runner.links or [1]), choices.one_of(PEERS)
    runner.step(runner.agent.handle_datagram, link, peer, bytes(message))


def _check(runner: Runner, choices: Choices) -> None:
    """A good check."""
    role = choices.one_of(["ICE-CONTROLLING", "ICE-CONTROLLED"])
    attributes: dict[str, Any] = {
        "USERNAME": choices.one_of(["locl:remo", "locl:remo", "loc2:remo"]),
        "PRIORITY": choices.one_of([1, 1845501695]),
        role: choices.one_of([0, (1 << 64) - 1]),
    }
    if choices.number(0, 1):
        attributes["USE-CANDIDATE"] = None
    message = Message(Method.BINDING, Class.REQUEST, choices.blob(12).ljust(12, b"\0"), attributes)
    message.add_message_integrity(LOCAL_PASSWORD.encode())
    link, peer = choices.one_of(runner.links or [1]), choices.one_of(PEERS)
    runner.step(runner.agent.handle_datagram, link, peer, bytes(message))


def _answer(runner: Runner, choices: Choices) -> None:
    """An answer to something that was asked, mostly a good one."""
    if not runner.asked:
        return
    transaction_id, link, peer = choices.one_of(runner.asked[-8:])
    kind = choices.one_of([Class.RESPONSE, Class.RESPONSE, Class.ERROR])
    attributes: dict[str, Any] = {"XOR-MAPPED-ADDRESS": choices.one_of(PEERS)}
    if kind is Class.ERROR:
        attributes = {"ERROR-CODE": (choices.one_of([400, 401, 403, 438, 487, 500]), "no")}
    message = Message(Method.BINDING, kind, transaction_id, attributes)
    message.add_message_integrity(REMOTE_PASSWORD.encode())
    source = peer if choices.number(0, 5) else choices.one_of(PEERS)
    if link in runner.links:
        runner.step(runner.agent.handle_datagram, link, source, bytes(message))


def _time_passes(runner: Runner, choices: Choices) -> None:
    runner.now += choices.one_of([0.001, 0.3, 7.0])
    runner.step(runner.agent.handle_timeout)


def _wake(runner: Runner, choices: Choices) -> None:
    runner.wake()


def _tune(runner: Runner, choices: Choices) -> None:
    runner.step(runner.agent.handle_report, Tunables(choices.one_of([0.1, 5.0]), 2, 1, 0.05))


def _role(runner: Runner, choices: Choices) -> None:
    runner.step(runner.agent.set_controlling, choices.number(0, 1) == 1)


ATTRIBUTES: dict[str, list[Any]] = {
    "USERNAME": ["locl:remo", "locl:x", "remo:locl", "loc2:remo", ":", ""],
    "PRIORITY": [0, 1, 1 << 31, (1 << 32) - 1],
    "ICE-CONTROLLING": [0, (1 << 64) - 1],
    "ICE-CONTROLLED": [0, (1 << 64) - 1],
    "USE-CANDIDATE": [None],
    "XOR-MAPPED-ADDRESS": PEERS,
    "ERROR-CODE": [(400, ""), (403, "no"), (420, ""), (487, ""), (500, "")],
}
ACTIONS: list[Callable[[Runner, Choices], None]] = [
    _fetched,
    _connected,
    _allocated,
    _allocated,
    _redirected,
    _gather,
    _candidate,
    _candidate,
    _connect,
    _restart,
    _opened,
    _opened,
    _opened,
    _resolved,
    _send_failed,
    _link_closed,
    _noise,
    _stun,
    _check,
    _check,
    _answer,
    _answer,
    _answer,
    _time_passes,
    _wake,
    _wake,
    _tune,
    _role,
]


class Bytes:
    """Choices by the bytes of an input; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._place

    def number(self, low: int, high: int) -> int:
        value = self._data[self._place] if self.left > 0 else 0
        self._place += 1
        return low + value % (high - low + 1)

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.number(0, len(values) - 1)]

    def blob(self, longest: int) -> bytes:
        size = self.number(0, longest)
        data = self._data[self._place : self._place + size]
        self._place += size
        return data


def one_input(data: bytes) -> None:
    choices = Bytes(data)
    kind = choices.number(0, 7)
    runner = Runner(controlling=bool(kind & 1), lite=kind & 6 == 6, servers=kind & 6 == 2)
    for _ in range(200):
        if choices.left <= 0:
            break
        act(runner, choices)
        runner.wake_too_early()
    runner.finish(choices)


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
