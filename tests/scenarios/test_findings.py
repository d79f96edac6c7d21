"""Each finding of the diagnosis, by a session in which that is what went wrong; and none where nothing did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aioice.core.diagnosis import Finding, examine
from aioice.core.events import ConnectionState
from aioice.core.gathering import StunServer, TurnServer
from aioice.core.message import Method
from aioice.sim import World
from aioice.sim.hosts import Listener, Stream
from tests.scenarios.support import PATIENCE, STUN, TURN, Pair, Peer, Puppet, behind, pair, puppeteer

LIKE_EVERY_SERVER = {"username": "user", "password": "secret"}


def reason_of(peer: Peer) -> str:
    return peer.reason if peer.states else ""


def findings(peer: Peer, **options: Any) -> list[Finding]:
    found = examine(peer.agent, reason=reason_of(peer), **options)
    for finding in found:
        assert finding.cause and finding.advice and str(finding).startswith(finding.cause[0].upper())
        assert finding.cause.isprintable() and all(line.isprintable() for line in finding.evidence)
    return found


def codes(peer: Peer, **options: Any) -> list[str]:
    return [finding.code for finding in findings(peer, **options)]


def until_failed(p: Pair, peer: Peer) -> None:
    p.world.run_until(lambda: peer.agent.state is ConnectionState.FAILED, timeout=2 * PATIENCE)


def failed(p: Pair, *, exchange: bool = True) -> Pair:
    """Both gather, exchange what they have, and fail."""
    p.gather()
    if exchange:
        p.exchange()
    p.start()
    for peer in p:
        until_failed(p, peer)
    return p


class TestHealthy:
    @pytest.mark.parametrize("options", [{}, {"components": 2}, {"delay": 0.1}])
    def test_at_every_moment(self, options: dict[str, Any]) -> None:
        p = pair(**options)
        assert codes(p.left) == []
        p.gather()
        assert codes(p.left) == []
        p.exchange().start()
        for _ in range(200):
            p.world.run(until=p.world.now + 0.01)
            assert codes(p.left) == codes(p.right) == []
        p.world.run(until=p.world.now + 60)
        assert codes(p.left) == codes(p.right) == []
        p.restart()
        p.until_complete()
        assert codes(p.left) == codes(p.right) == []
        p.left.close()
        assert codes(p.left) == []

    def test_with_servers(self) -> None:
        world = World()
        world.network(delay=0.025)
        world.stun_server(STUN[0])
        world.turn_server(TURN[0], **LIKE_EVERY_SERVER, relay="198.51.100.3")
        _, left = behind(world, "203.0.113.1", "10.0.0.2")
        _, right = behind(world, "203.0.113.2", "10.0.1.2")
        config = {"stun_server": StunServer(*STUN), "turn_server": TurnServer(*TURN, **LIKE_EVERY_SERVER)}
        p = pair(world, hosts=(left, right), **config)
        p.connect()
        p.until_complete()
        assert codes(p.left) == codes(p.right) == []


class TestCandidates:
    def test_none_of_ours(self) -> None:
        p = pair(relay_only=True)
        p.gather().exchange().start()
        until_failed(p, p.left)
        (finding,) = [finding for finding in findings(p.left) if finding.weight == 100]
        assert finding.code == "no-local-candidates" and "relay" in finding.evidence[0]

    def test_none_of_the_peer(self) -> None:
        world, peer, puppet = puppeteer()
        peer.add(None)
        world.run(until=world.now + PATIENCE + 1)
        assert codes(peer) == ["no-remote-candidates"]
        assert reason_of(peer) == findings(peer)[0].cause
        peer.close()
        assert codes(peer) == ["no-remote-candidates"], "also when the failed connection has been closed"

    def test_closed_too_soon(self) -> None:
        """Nobody has waited for the peer's candidates."""
        _, peer, _ = puppeteer()
        peer.close()
        assert codes(peer) == []

    def test_names_only(self) -> None:
        world, peer, _ = puppeteer()
        peer.add("1 1 udp 7 0e2b3c4d-1111.local 1000 typ host", None)
        world.run(until=world.now + PATIENCE + 1)
        (first, *_) = findings(peer)
        assert first.code == "remote-names" and "0e2b3c4d-1111.local" in first.evidence[0]

    def test_no_common_family(self) -> None:
        world, peer, _ = puppeteer()
        peer.add("1 1 udp 7 2001:db8::7 1000 typ host", "2 1 tcp 7 192.0.2.2 9 typ host tcptype active", None)
        world.run(until=world.now + PATIENCE + 1)
        (finding,) = findings(peer)
        assert finding.code == "no-common-kind"
        assert finding.evidence == ("local: 1 × host IPv4", "remote: 1 × host IPv6, 1 × host IPv4/tcp")


class TestCredentials:
    def connected_wrongly(self, **wrong: str) -> Pair:
        """The left side has something wrong of the right one."""
        p = pair().gather().exchange()
        p.right.connect(p.left)
        given = {"username": p.right.username, "password": p.right.password, **wrong}
        p.left.node.do(p.left.agent.connect, given["username"], given["password"])
        p.world.run(until=p.world.now + 60)
        return p

    def test_wrong_password(self) -> None:
        """The left side's checks are refused; the right side sees a wrong signature."""
        p = self.connected_wrongly(password="not the right password")
        assert codes(p.left)[0] == "remote-credentials"
        assert codes(p.right)[0] == "local-password"

    def test_a_peer_that_checks_but_refuses_us(self) -> None:
        """Its checks are right and trigger ours without end: that must not keep us from giving up."""
        p = self.connected_wrongly(password="not the right password")
        for peer, code in ((p.left, "remote-credentials"), (p.right, "local-password")):
            assert peer.time_of("failed") <= PATIENCE + 1
            assert peer.agent.state is ConnectionState.FAILED
            assert codes(peer)[0] == code

    def test_a_peer_that_checks_but_never_answers(self) -> None:
        world, peer, puppet = puppeteer()
        puppet.answering = False
        peer.add(puppet.candidate, None)
        for number in range(200):
            world.after(0.5 * number, puppet.check, peer)
        world.run_until(lambda: peer.agent.state is ConnectionState.FAILED, timeout=PATIENCE + 1)
        assert codes(peer) == ["one-way"]
        world.run(until=world.now + 40)
        assert peer.states[-1][1] == "failed"

    def test_wrong_username(self) -> None:
        """The right side's checks name a user that the left side does not take it for."""
        p = self.connected_wrongly(username="nobody")
        for peer in p:
            assert codes(peer)[:2] == ["remote-credentials", "local-username"]

    def test_unsigned_checks_are_not_about_credentials(self) -> None:
        world, peer, puppet = puppeteer()
        peer.add(puppet.candidate)
        puppet.answering = False
        for _ in range(3):
            puppet.check(peer, USERNAME="absent")
        world.run(until=world.now + 3)
        assert "local-password" not in codes(peer) and "local-username" not in codes(peer)

    def test_role_conflict(self) -> None:
        world, peer, puppet = puppeteer(controlling=True)
        puppet.answerer = lambda request, source: puppet.error(request, 487)
        peer.add(puppet.candidate, None)
        world.run(until=world.now + PATIENCE + 1)
        assert codes(peer) == ["role-conflict"]


class TestPaths:
    def test_silent_peer(self) -> None:
        world, peer, puppet = puppeteer()
        puppet.answering = False
        peer.add(puppet.candidate, None)
        world.run(until=world.now + 2)
        assert codes(peer) == ["peer-silent"], "told before the end, too"
        world.run(until=world.now + PATIENCE)
        (finding,) = findings(peer)
        assert finding.code == "peer-silent" and finding.evidence == ("7 checks on 1 pair got no answer",)

    def test_one_way(self) -> None:
        """All that leaves for the peer is lost, answers and checks."""
        p = pair()
        p.world.drop(lambda packet: packet.src[0] == "192.0.2.1")
        failed(p)
        assert codes(p.left) == ["one-way"]
        assert codes(p.right) == ["peer-silent"]

    def test_closed_ports(self) -> None:
        world = World()
        world.network(delay=0.025)
        peer = Peer(world.host("192.0.2.1"), True, name="agnt")
        puppet = Puppet(world.host("192.0.2.2", refuses=True), port=7000)
        peer.gather()
        world.run_until(lambda: peer.gathered)
        peer.connect(puppet)
        candidate = puppet.candidate
        puppet.socket.close()
        peer.add(candidate, None)
        world.run(until=world.now + PATIENCE + 1)
        (finding,) = findings(peer)
        assert finding.code == "peer-unreachable" and "connection refused" in finding.evidence[0]

    def test_nats_that_need_a_relay(self) -> None:
        kind = "address-and-port-dependent"
        world = World(seed=1)
        world.network(delay=0.025)
        world.stun_server(STUN[0])
        _, left = behind(world, "203.0.113.1", "10.0.0.2", mapping=kind, filtering=kind)
        _, right = behind(world, "203.0.113.2", "10.0.1.2", mapping=kind, filtering=kind)
        p = failed(pair(world, hosts=(left, right), stun_server=StunServer(*STUN)))
        assert codes(p.left) == codes(p.right) == ["no-path"]
        assert "TURN" in findings(p.left)[0].advice

    @pytest.mark.parametrize(("code", "word"), [(403, "allow"), (443, "family")])
    def test_the_relay_refuses(self, code: int, word: str) -> None:
        world = World()
        world.network(delay=0.025)
        server = world.turn_server(TURN[0], **LIKE_EVERY_SERVER, relay="198.51.100.3")
        server.refuse(code, Method.CREATE_PERMISSION, Method.CHANNEL_BIND)
        turn = TurnServer(*TURN, **LIKE_EVERY_SERVER)
        p = pair(world, left={"turn_server": turn, "relay_only": True})
        p.gather().exchange().start()
        until_failed(p, p.left)
        first = findings(p.left)[0]
        assert first.code == "relay-refuses" and str(code) in first.cause and word in first.advice


class TestServers:
    def gathered(self, prepare: Any = None, **changes: Any) -> Peer:
        """A session with one TURN server that fails, and a STUN server that works, that has then failed for want of a
        path."""
        world = World()
        world.network(delay=0.025)
        world.stun_server(STUN[0])
        world.names["turn.example.org"] = (TURN[0],)
        secrets = {**LIKE_EVERY_SERVER, "certificate": "other.example.org"}
        server = world.turn_server(TURN[0], relay="198.51.100.3", **secrets)
        if prepare is not None:
            prepare(server)
        _, host = behind(world, "203.0.113.1", "10.0.0.2")
        turn = {"host": TURN[0], "port": TURN[1], **LIKE_EVERY_SERVER, **changes}
        peer = Peer(host, True, name="agnt", stun_server=StunServer(*STUN), turn_server=TurnServer(**turn))
        peer.gather()
        world.run(until=world.now + 60)
        puppet = Puppet(world.host("192.0.2.2"), port=7000)
        puppet.answering = False
        peer.add(puppet.candidate, None)
        peer.connect(puppet)
        world.run(until=world.now + 60)
        return peer

    @pytest.mark.parametrize(
        ("code", "prepare", "changes"),
        [
            ("server-credentials", None, {"password": "wrong"}),
            ("server-silent", lambda server: server.silence(), {}),
            ("server-refused", lambda server: server.refuse(486, Method.ALLOCATE), {}),
            ("server-name", None, {"host": "no.such.name"}),
            ("server-unreachable", lambda server: server.stop(), {"transport": "tcp"}),
            ("server-tls", None, {"transport": "tcp", "tls": True, "host": "turn.example.org", "port": 5349}),
        ],
    )
    def test_turn(self, code: str, prepare: Any, changes: dict[str, Any]) -> None:
        """It is named before the missing path, which follows from it."""
        first = findings(self.gathered(prepare, **changes))[0]
        assert first.code == code and "no relayed candidates" in first.cause

    def test_once_for_each_server(self) -> None:
        peer = self.gathered(lambda server: server.silence())
        assert codes(peer) == ["server-silent", "no-path"]

    def test_a_stun_server(self) -> None:
        world = World()
        world.network(delay=0.025)
        p = pair(world, stun_server=StunServer(*STUN))
        p.gather()
        world.run(until=world.now + 60)
        p.exchange().start()
        p.until_complete()
        slow, finding = findings(p.left)
        assert (slow.code, slow.weight) == ("slow-server", 38) and "1.00 s for stun:198.51.100.1:3478" in slow.cause
        assert (finding.code, finding.weight) == ("server-silent", 30)
        assert "STUN server" in finding.cause and "no server-reflexive candidates" in finding.cause

    def test_a_dead_server_that_nobody_waits_for(self) -> None:
        """Trickling, checks run all the while; beside a server that answers, a dead one hardly delays."""
        world = World()
        world.network(delay=0.025)
        p = pair(world, stun_server=StunServer(*STUN)).trickle().start()
        for peer in p:
            peer.gather()
        p.until_complete()
        world.run(until=world.now + 60)
        assert codes(p.left) == ["server-silent"]
        world = World()
        world.network(delay=0.025)
        world.stun_server(STUN[0])
        p = pair(world, servers=(StunServer(*STUN), StunServer("198.51.100.9", 3478)))
        p.connect()
        world.run(until=world.now + 60)
        assert codes(p.left) == ["server-silent"]

    def test_a_dead_relay_that_gathering_waits_for(self) -> None:
        world = World()
        world.network(delay=0.025)
        world.stun_server(STUN[0])
        turn = TurnServer(*TURN, **LIKE_EVERY_SERVER)
        p = pair(world, stun_server=StunServer(*STUN), turn_server=turn)
        p.connect()
        (finding,) = [finding for finding in findings(p.left) if finding.code == "slow-server"]
        assert "turn:198.51.100.2:3478" in finding.cause

    @pytest.mark.parametrize(
        ("code", "server"),
        [
            ("server-failed", StunServer(*STUN)),
            ("server-not-supported", StunServer(*STUN, transport="tcp")),
            ("server-not-stun", TurnServer(STUN[0], 80, **LIKE_EVERY_SERVER, transport="tcp")),
        ],
    )
    def test_what_is_no_such_server(self, code: str, server: StunServer | TurnServer) -> None:
        """One that tells no address, one for which there is no use, and one of the web."""
        world = World()
        world.network(delay=0.025)
        broken = world.stun_server(STUN[0])
        broken.rewrite = lambda request, response: response.attributes.pop("XOR-MAPPED-ADDRESS")

        def web(stream: Stream) -> None:
            stream.on_data = lambda data: stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        broken.host.listen(Listener((STUN[0], 80), web))
        p = pair(world, left={"servers": (server,)})
        p.connect()
        (finding,) = findings(p.left)
        assert (finding.code, finding.weight) == (code, 30)

    def test_what_is_no_such_server_without_a_path(self) -> None:
        world = World()
        world.network(delay=0.025)
        world.drop(lambda packet: packet.src[0] == "192.0.2.1" and packet.dst[0] == "192.0.2.2")
        p = failed(pair(world, left={"servers": (StunServer(*STUN, transport="tcp"),)}))
        assert [(finding.code, finding.weight) for finding in findings(p.left)] == [
            ("one-way", 80),
            ("server-not-supported", 60),
        ]


class TestAfterwards:
    def test_consent_lost(self) -> None:
        p = pair()
        p.connect()
        p.until_complete()
        p.world.run(until=p.world.now + 20)
        p.right.close()
        p.world.run(until=p.world.now + 60)
        (finding,) = findings(p.left)
        assert finding.code == "consent-lost" and "no answer from the peer for" in finding.cause
        assert finding.evidence == ("component 1: the last round trip took 50 ms, the mean 50 ms",)

    def test_consent_revoked(self) -> None:
        world, peer, puppet = puppeteer(controlling=True)
        peer.add(puppet.candidate)
        puppet.check(peer, controlling=False)
        world.run(until=world.now + 2)
        puppet.answerer = lambda request, source: puppet.error(request, 403)
        world.run(until=world.now + 10)
        assert codes(peer) == ["consent-revoked"]

    def test_slow_for_lost_checks(self) -> None:
        p = pair().gather().exchange()
        p.world.drop(lambda packet: True, count=2)
        p.start()
        p.until_complete()
        assert codes(p.left) == ["slow-loss"]
        assert p.left.connected_at >= 0.5

    def test_slow_for_late_candidates(self) -> None:
        p = pair().gather().start()
        p.world.run(until=p.world.now + 3)
        p.exchange()
        p.until_complete()
        (finding,) = findings(p.left)
        assert finding.code == "slow-candidates" and "3.00 s" in finding.cause

    def test_slow_for_a_long_path(self) -> None:
        p = pair(delay=0.4)
        p.connect()
        p.until_complete()
        p.world.run(until=p.world.now + 20)
        assert codes(p.left) == ["slow-path"]


class TestAround:
    def test_strangers(self) -> None:
        world, peer, puppet = puppeteer(connect=False)
        for _ in range(12):
            puppet.check(peer, password="not the right password")
        world.run(until=world.now + 1)
        (finding,) = findings(peer)
        assert finding.code == "strangers" and finding.evidence == ("12 × request not authentic",)

    def test_data_of_strangers(self) -> None:
        p = pair()
        p.connect()
        assert codes(p.left, dropped={"data of a stranger": 50}) == ["strangers"]
        assert codes(p.left, dropped={"data of a stranger": 5}) == []

    def test_a_blocked_loop(self) -> None:
        p = pair()
        p.connect()
        assert codes(p.left, stall=0.1) == []
        (finding,) = findings(p.left, stall=0.75)
        assert (finding.code, finding.weight) == ("stall", 45) and "750 ms" in finding.cause

    def test_a_loop_that_was_blocked_till_consent_was_lost(self) -> None:
        p = pair()
        p.connect()
        p.until_complete()
        p.right.close()
        p.world.run(until=p.world.now + 60)
        assert codes(p.left, stall=29.0) == ["consent-lost", "stall"]
        assert findings(p.left, stall=29.0)[1].weight == 99


def test_as_dictionary() -> None:
    finding = Finding("code", 1, "the cause", ("evidence",), "the advice")
    assert finding.as_dict() == {
        "code": "code",
        "weight": 1,
        "cause": "the cause",
        "evidence": ["evidence"],
        "advice": "the advice",
    }
    assert str(finding) == "The cause.\nevidence\nTo do: the advice."


def test_every_finding_is_documented_and_tested_here() -> None:
    root = Path(__file__).parents[2]
    source = (root / "src/aioice/core/diagnosis.py").read_text()
    known = set(re.findall(r'^ +"([a-z]+(?:-[a-z]+)+|strangers|stall)",$', source, re.MULTILINE))
    known |= set(re.findall(r'"(consent-[a-z]+|server-[a-z-]+)"', source)) - {"server-reflexive"}
    assert len(known) > 25
    documented = set(re.findall(r"`([a-z-]+)`", (root / "docs/diagnosis.md").read_text()))
    assert known <= documented
    assert known <= set(re.findall(r'"([a-z-]+)"', Path(__file__).read_text()))
