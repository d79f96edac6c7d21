"""Whole sessions, recorded in the simulator and run again: each output must be the same, and no secret in the trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from aioice.core.gathering import StunServer, TurnServer
from aioice.core.trace import Recording, Replay
from aioice.sim import World
from tests.scenarios import support
from tests.scenarios.support import STUN, TURN, Pair, behind, pair, puppeteer

SECRETS = {"username": "1700000000:alice", "password": "the-turn-password"}


class Recorder:
    """Records every agent of the scenarios; at the end all are run again."""

    def __init__(self, hide: bool) -> None:
        self.hide = hide
        self.traces: list[list[dict[str, Any]]] = []
        self.passwords = [SECRETS["password"], SECRETS["username"]]

    def make(self, config: Any, random: Any, username: str, password: str, tunables: Any = None) -> Any:
        events: list[dict[str, Any]] = []
        self.traces.append(events)
        self.passwords.append(password)
        return Recording(events.append, config, random, username, password, tunables, hide_addresses=self.hide)

    def check(self) -> None:
        assert self.traces
        for events in self.traces:
            text = json.dumps(events)
            for secret in self.passwords:
                assert secret not in text and secret.encode().hex() not in text
            for address in ("192.0.2.", "198.51.100.", "203.0.113.", "10.0.1."):
                assert not self.hide or address not in text
            replay = Replay(json.loads(text)).run()
            assert replay.outputs == sum(event["name"] == "aioice:output" for event in events) > 0


@pytest.fixture(params=[False, True], ids=["shown", "hidden"], autouse=True)
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    recorder = Recorder(request.param)
    monkeypatch.setattr(support, "Agent", recorder.make)
    yield recorder
    recorder.check()


def talked(p: Pair) -> Pair:
    p.connect()
    p.until_complete()
    p.talk()
    p.world.run(until=p.world.now + 30)
    return p


def test_two_components_and_a_restart() -> None:
    p = talked(pair(components=2))
    p.restart()
    p.until_complete()
    p.left.close()
    p.world.run(until=p.world.now + 60)


def test_under_loss() -> None:
    world = World(seed=3)
    world.network(delay=0.03, loss=0.2)
    talked(pair(world)).left.close()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_over_relays(transport: str) -> None:
    """The checks travel in Send and Data indications and in ChannelData, and are signed anew there, too."""
    world = World()
    world.network(delay=0.025)
    server = world.turn_server(TURN[0], **SECRETS, relay="198.51.100.3")
    turn = TurnServer(*TURN, transport=transport, **SECRETS)
    p = pair(world, turn_server=turn, relay_only=True)
    talked(p)
    server.expire_nonce()
    world.run(until=world.now + 700)
    p.talk()
    p.left.close()
    world.run(until=world.now + 5)


def test_wrong_turn_password() -> None:
    world = World()
    world.network(delay=0.025)
    world.turn_server(TURN[0], username=SECRETS["username"], password="another", relay="198.51.100.3")
    p = pair(world, turn_server=TurnServer(*TURN, **SECRETS))
    p.connect()


def test_behind_nats() -> None:
    world = World(seed=1)
    world.network(delay=0.025)
    world.stun_server(STUN[0])
    world.names["stun.example.org"] = (STUN[0],)
    kind = "address-dependent"
    _, left = behind(world, "203.0.113.1", "10.0.0.2", mapping=kind)
    _, right = behind(world, "203.0.113.2", "10.0.1.2", filtering="endpoint-independent")
    talked(pair(world, hosts=(left, right), stun_server=StunServer("stun.example.org", STUN[1])))


def test_names_and_trickle() -> None:
    world, peer, puppet = puppeteer(controlling=True)
    world.names["abcd-1234.local"] = (puppet.address[0],)
    peer.add(f"1 1 udp 7 abcd-1234.local {puppet.address[1]} typ host ufrag pupp")
    world.run(until=world.now + 5)
    peer.add("2 1 udp 7 192.0.2.77 7 typ srflx raddr 0.0.0.0 rport 0 ufrag othr", None)
    world.run(until=world.now + 5)


def test_roles_and_strangers() -> None:
    """Wrong signatures, a flood of names, role conflicts, malformed messages, answers of others."""
    world, peer, puppet = puppeteer(controlling=True)
    peer.add(puppet.candidate)
    for number in range(20):
        puppet.check(peer, username=f"user{number}:x", password="not the right password")
        puppet.check(peer, controlling=number % 2 == 0)
        puppet.send(peer, bytes.fromhex("000100042112a442") + bytes(number))
        world.run(until=world.now + 0.3)
    puppet.answerer = lambda request, source: puppet.error(request, 403)
    world.run(until=world.now + 60)


def test_failure() -> None:
    world, peer, puppet = puppeteer()
    puppet.answering = False
    peer.add(puppet.candidate, None)
    world.run(until=world.now + 60)
    assert str(peer.agent.state) == "failed"
