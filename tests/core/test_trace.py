"""Recording an agent and running it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from aioice.core.agent import AgentConfig
from aioice.core.candidate import Candidate
from aioice.core.events import ConnectionState
from aioice.core.machine import Opened, OpenUdp, Transmit, Tunables
from aioice.core.message import binding_request
from aioice.core.trace import (
    DATAGRAM,
    DROP,
    END,
    FILTER,
    OUTPUT,
    RAISED,
    RANDOM,
    SESSION,
    TIMEOUT,
    VERB,
    Recording,
    Replay,
    ReplayError,
    verb_parameters,
)

PASSWORD = "localpasswordlocalpass"
REMOTE = "remotepasswordremotepa"
PEER = ("192.0.2.2", 2000)


def source() -> Callable[[int], bytes]:
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size)


class Session:
    """A recorded agent with one socket, and all that was noted."""

    def __init__(self, config: AgentConfig | None = None, **options: Any) -> None:
        self.events: list[dict[str, Any]] = []
        options.setdefault("tunables", Tunables())
        config = config or AgentConfig(True)
        self.agent: Any = Recording(self.events.append, config, source(), "locl", PASSWORD, **options)
        self.outputs: list[Any] = []

    def gather(self) -> Session:
        self.do("gather", 10.0, 1, ["192.0.2.1"], timeout=5)
        link = next(output.link for output in self.outputs if isinstance(output, OpenUdp))
        self.agent.handle_report(10.0, Opened(link, ("192.0.2.1", 1000)))
        self.drain()
        return self

    def do(self, verb: str, now: float, *args: Any, **named: Any) -> Any:
        result = getattr(self.agent, verb)(now, *args, **named)
        self.drain()
        return result

    def drain(self) -> None:
        while (output := self.agent.poll_output()) is not None:
            self.outputs.append(output)

    def connect(self) -> Session:
        self.do("add_remote_candidate", 10.5, Candidate.from_sdp(f"1 1 udp 7 {PEER[0]} {PEER[1]} typ host"))
        self.do("connect", 11.0, "remt", REMOTE)
        return self

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event["data"] for event in self.events if event["name"] == name]

    @property
    def stored(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(json.dumps(self.events))
        return events


class TestRecording:
    def test_what_is_noted(self) -> None:
        session = Session().gather().connect()
        (first,) = session.named(SESSION)
        assert first["version"] == 1 and first["config"]["controlling"] is True and not first["filtered"]
        assert [data["verb"] for data in session.named(VERB)] == ["gather", "add_remote_candidate", "connect"]
        assert session.named(VERB)[0]["arguments"] == {"component": 1, "hosts": ["192.0.2.1"], "timeout": 5}
        assert session.named(RANDOM)[0] == {"bytes": "0000000000000001"}
        assert session.named(OUTPUT)[0] == {"type": "OpenUdp", "link": 1, "host": "192.0.2.1"}
        assert "Transmit" in [data["type"] for data in session.named(OUTPUT)]

    def test_times(self) -> None:
        """Milliseconds since the first input, or since the origin; the clock's own time stands beside it."""
        session = Session().gather().connect()
        assert [event["time"] for event in session.events if event["name"] == VERB] == [0.0, 500.0, 1000.0]
        assert [data["at"] for data in session.named(VERB)] == [10.0, 10.5, 11.0]
        session = Session(origin=9.0).gather()
        assert session.events[-1]["time"] == 1000.0
        session.do("end_gathering", 0.0)
        assert session.events[-1]["time"] == 0.0

    def test_no_secret(self) -> None:
        session = Session().gather().connect()
        session.do("restart", 12.0, "next", "thenextpasswordthenext")
        text = json.dumps(session.events)
        for secret in (PASSWORD, REMOTE, "thenextpassword", "locl", "remt", b"remt:locl".hex()):
            assert secret not in text

    def test_nouns_pass_through(self) -> None:
        session = Session().gather()
        assert session.agent.state is ConnectionState.NEW
        assert session.agent.is_server_link(1) is False
        assert session.agent.poll_timeout() is None
        assert len(session.agent.local_candidates) == 1
        with pytest.raises(AttributeError):
            _ = session.agent.no_such_noun

    def test_verbs_by_their_signature(self) -> None:
        session = Session()
        assert verb_parameters(session.agent.machine.connect) == (
            "remote_username",
            "remote_password",
            "remote_is_lite",
        )
        assert verb_parameters(session.agent.machine.next_number) is None
        assert verb_parameters("text") is None

    def test_the_result_of_a_verb(self) -> None:
        candidate = Candidate.from_sdp("1 1 udp 7 192.0.2.1 1 typ host")
        assert Session().do("adopt", 1.0, candidate) == 1

    def test_drops(self) -> None:
        session = Session().gather().connect()
        link = session.agent.local_candidates and 1
        for _ in range(2):
            session.agent.handle_datagram(12.0, link, PEER, b"\x00\x01\x00\x00\x21\x12\xa4\x42")
        assert session.named(DROP) == [{"reason": "malformed", "number": 1}] * 2

    def test_a_wrong_call_is_noted_and_raised(self) -> None:
        session = Session()
        with pytest.raises(AttributeError):
            session.do("add_remote_candidate", 1.0, "not a candidate")
        assert session.named(RAISED) == [{"exception": "AttributeError"}]

    def test_the_end(self) -> None:
        session = Session(dropped=lambda: {"data of a stranger": 3}).gather()
        session.do("close", 12.0)
        assert session.events[-1]["name"] == END
        assert session.events[-1]["data"] == {"dropped": {"data of a stranger": 3}}
        session.agent.handle_timeout(13.0)
        assert session.events[-1]["name"] == END
        quiet = Session()
        quiet.do("close", 1.0)
        assert quiet.events[-1]["data"] == {}


class TestReplay:
    def test_the_same_again(self) -> None:
        session = Session().gather().connect()
        session.agent.handle_timeout(11.5)
        session.drain()
        session.do("close", 12.0)
        replay = Replay(session.stored).run()
        assert replay.agent.state is ConnectionState.CLOSED
        assert replay.outputs == len(session.outputs) and replay.now == 12.0

    def test_step_by_step(self) -> None:
        session = Session().gather().connect()
        replay = Replay(session.stored)
        states = [str(replay.agent.state) for _ in replay]
        assert states[-1] == "checking" and set(states[:-1]) == {"new"}

    def test_a_check_of_the_peer(self) -> None:
        """It was signed with our password, and is signed with the pseudonym in the trace."""
        session = Session(AgentConfig(False)).gather().connect()
        data = binding_request(bytes(12), b"locl:remt", 7, 0x802A, 1, False, PASSWORD.encode())
        session.agent.handle_datagram(11.2, 1, PEER, data)
        session.drain()
        answers = [output for output in session.outputs if isinstance(output, Transmit) and output.data[0] == 1]
        assert answers
        assert Replay(session.stored).run().outputs == len(session.outputs)

    def test_a_filter(self) -> None:
        asked = []

        def allowed(host: str) -> bool:
            asked.append(host)
            return host == PEER[0]

        session = Session(AgentConfig(True, remote_filter=allowed)).gather().connect()
        session.do("add_remote_candidate", 12.0, Candidate.from_sdp("2 1 udp 7 198.51.100.9 1 typ host"))
        assert [data["allowed"] for data in session.named(FILTER)] == [host == PEER[0] for host in asked]
        replay = Replay(session.stored).run()
        assert len(replay.agent.check_list) == len(session.agent.check_list)
        events = [event for event in session.stored if event["name"] != FILTER]
        with pytest.raises(ReplayError, match="asks for an address"):
            Replay(events).run()

    def test_hidden_addresses(self) -> None:
        session = Session(hide_addresses=True).gather().connect()
        text = json.dumps(session.events)
        assert "192.0.2" not in text and bytes([192, 0, 2]).hex() not in text
        assert Replay(session.stored).run().outputs == len(session.outputs)

    def test_raised_again(self) -> None:
        session = Session()
        with pytest.raises(AttributeError):
            session.do("select", 1.0, 1, 1, None)
        events = session.stored
        Replay(events).run()
        with pytest.raises(ReplayError, match="makes the agent raise"):
            Replay([event for event in events if event["name"] != RAISED]).run()

    def test_late(self) -> None:
        """How much too late a timer fired: the loop was blocked."""
        session = Session().gather().connect()
        due = session.agent.poll_timeout()
        session.agent.handle_timeout(due + 0.75)
        session.drain()
        replay = Replay(session.stored)
        assert [round(replay.late, 3) for _ in replay][-1] == 0.75


def changed(session: Session) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Traces that cannot be what was recorded, with what is said about them."""
    for message, name, key, value in (
        ("puts out", OUTPUT, "link", 99),
        ("random bytes that are none", RANDOM, "bytes", "xy"),
        ("is not known", SESSION, "version", 99),
        ("session cannot be read", SESSION, "config", {"type": "Opened"}),
        ("there is no verb", VERB, "verb", "_drain_children"),
        ("there is no verb", VERB, "verb", "handle_timeout"),
        ("there is no verb", VERB, "verb", "state"),
        ("makes the agent raise", VERB, "arguments", {"nonsense": 1}),
        ("makes the agent raise", VERB, "arguments", None),
        ("without a time", VERB, "at", True),
        ("makes the agent raise", DATAGRAM, "data", {"bytes": "("}),
    ):
        events = session.stored
        next(event for event in events if event["name"] == name)["data"][key] = value
        yield message, events
    for message, events in (
        ("not the trace of an agent", [{"name": SESSION}]),
        ("not the trace of an agent", [{"name": SESSION, "time": "x", "data": {}}]),
        ("empty", []),
        ("begins with its session", session.stored[1:2]),
        ("begins with its one session", [event for event in session.stored if event["name"] == VERB]),
        ("begins with its one session", session.stored[:1] * 2),
        ("does not draw", [*session.stored, {"name": RANDOM, "time": 0, "data": {"bytes": "00"}}]),
        ("draws", [event for event in session.stored if event["name"] != RANDOM]),
        ("puts out None", [*session.stored, {"name": OUTPUT, "time": 0, "data": {"type": "Done"}}]),
    ):
        yield message, events


def test_a_difference_is_an_error() -> None:
    session = Session().gather().connect()
    session.agent.handle_datagram(12.0, 1, PEER, b"\x00\x01\x00\x00\x21\x12\xa4\x42")
    session.agent.handle_timeout(12.1)
    session.drain()
    Replay(session.stored).run()
    assert session.named(TIMEOUT)
    for message, events in changed(session):
        with pytest.raises(ReplayError, match=message):
            Replay(events).run()


def test_a_long_difference_is_told_in_short() -> None:
    session = Session().gather()
    events = session.stored
    next(event for event in events if event["name"] == OUTPUT)["data"]["host"] = "\x1b" * 5000
    with pytest.raises(ReplayError) as caught:
        Replay(events).run()
    assert len(str(caught.value)) < 1000 and "\x1b" not in str(caught.value)


def test_what_is_not_known_is_passed_over() -> None:
    events = [*Session().gather().stored, {"name": "other:event", "time": 1.0, "data": {}}]
    Replay(events).run()
