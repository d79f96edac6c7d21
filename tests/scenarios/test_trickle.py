"""Candidates that come when they come (RFC 8838), peer-reflexive ones, names, and how long failure waits (RFC 8863)."""

from __future__ import annotations

import itertools

import pytest

from aioice.core.candidate import Candidate
from aioice.core.gathering import StunServer, TurnServer
from aioice.core.machine import Resolve, Route, Tunables
from aioice.core.message import Class
from aioice.sim import World
from tests.scenarios.support import STUN, TURN, Pair, Peer, Puppet, behind, host_candidate, pair, puppeteer


class TestTrickle:
    def test_while_gathering(self) -> None:
        """Both connect before they have a single candidate; each is signalled when it is found."""
        p = pair()
        p.trickle().start()
        p.left.gather()
        p.right.gather()
        assert p.until_live() == 0.05

    def test_signalling_takes_time(self) -> None:
        """The first of the two candidates to arrive suffices."""
        p = pair()
        p.signalling = 0.2
        p.trickle().start()
        p.left.gather()
        p.right.gather()
        assert round(p.until_live(), 9) == 0.25
        p.until_complete()

    def test_one_direction_only(self) -> None:
        """The right one never hears of the left one's candidates: peer-reflexive (RFC 8445 §7.3.1.3)."""
        p = pair().gather()
        p.left.add(*p.right.agent.local_candidates, None)
        p.start()
        p.until_complete()
        assert p.right.selected[1] == ("host", "prflx", True)
        assert p.left.selected[1] == ("host", "host", True)
        p.talk()

    def test_a_dead_stun_server_holds_nobody(self) -> None:
        """RFC 8838: host candidates are checked while the server is waited for."""
        world = World()
        world.network(delay=0.025)
        p = pair(world, stun_server=StunServer("198.51.100.77", 3478))
        p.trickle().start()
        p.left.gather()
        p.right.gather()
        assert p.until_live() == 0.05

    def test_the_only_working_candidate_comes_last(self) -> None:
        p = pair().gather()
        for peer in p:
            peer.add(host_candidate("192.0.2.99", 9))
        p.start()
        p.world.run(until=30)
        assert not p.left.live
        p.exchange()
        assert p.until_live() == 30.05


class TestPeerReflexive:
    def test_f21_signalled_later(self) -> None:
        """elixir-webrtc/ex_ice#74: same pair, type and priorities brought up to date (RFC 8838 §11)."""
        world, agent, puppet = puppeteer()
        puppet.check(agent, priority=1)
        world.run(until=0.1)
        (known,) = agent.agent.check_list
        assert (known.remote.type, known.remote.priority) == ("prflx", 1)
        before = known.priority
        agent.add(puppet.candidate)
        assert agent.agent.check_list == [known]
        assert known.remote.type == "host"
        assert known.priority > before
        assert [c.type for c in agent.agent.remote_candidates] == ["host"]
        # Who sends on the pair is told of its new name.
        assert [out.remote.type for _, out in agent.node.outputs if isinstance(out, Route)] == ["prflx", "host"]

    def test_f21_the_list_is_sorted_again(self) -> None:
        world, agent, puppet = puppeteer()
        other = Puppet(world.host("192.0.2.3"))
        puppet.check(agent, priority=1)
        other.check(agent, priority=2)
        world.run(until=0.1)
        assert [p.peer for p in agent.agent.check_list] == [other.address, puppet.address]
        agent.add(puppet.candidate)
        assert [p.peer for p in agent.agent.check_list] == [puppet.address, other.address]

    def test_a_signalled_twin_is_paired_with_every_base(self) -> None:
        """RFC 8838 §11: it is a new candidate for the other addresses of ours."""
        world = World()
        agent = Peer(world.host("192.0.2.1", "192.0.2.11"), False, name="agnt")
        puppet = Puppet(world.host("192.0.2.2"), port=7000)
        agent.gather()
        agent.connect(puppet)
        puppet.check(agent)
        world.run(until=0.03)
        assert len(agent.agent.check_list) == 1
        agent.add(puppet.candidate)
        assert len(agent.agent.check_list) == 2

    def test_f19_priority_is_taken_from_the_check(self) -> None:
        """NATTools/icelib#6."""
        world, agent, puppet = puppeteer()
        puppet.check(agent, priority=12345)
        world.run(until=0.1)
        (remote,) = agent.agent.remote_candidates
        assert (remote.type, remote.priority, (remote.host, remote.port)) == ("prflx", 12345, puppet.address)

    @pytest.mark.parametrize("missing", [{"PRIORITY": "absent"}, {"ICE_CONTROLLING": "absent"}], ids=str)
    def test_f19_what_every_check_must_have(self, missing: dict[str, object]) -> None:
        """RFC 8445 §7.1: PRIORITY and one role, else 400 (RFC 8489 §6.3.1), signed, and nothing changes."""
        world, agent, puppet = puppeteer()
        check = puppet.check(agent, **{name.replace("_", "-"): value for name, value in missing.items()})
        world.run(until=0.1)
        (answer,) = puppet.answers_to(check)
        assert answer.error_code == 400
        assert answer.check_message_integrity(agent.password.encode())
        assert agent.agent.check_list == [] and agent.agent.remote_candidates == []
        assert agent.node.accepts == {}

    def test_f19_both_roles(self) -> None:
        """Malformed: no answer at all."""
        world, agent, puppet = puppeteer()
        check = puppet.check(agent, ICE_CONTROLLED=5)
        world.run(until=0.1)
        assert puppet.answers_to(check) == []
        assert agent.agent.drops["malformed"] == 1
        assert agent.agent.check_list == []

    @pytest.mark.parametrize("order", list(itertools.permutations([1, 2])))
    def test_f18_components_on_one_port(self, order: tuple[int, int]) -> None:
        """AlexxIT/go2rtc#68: component, transport and address are matched together (RFC 8445 §7.3.1.3)."""
        world, agent, puppet = puppeteer()
        agent.add(*(host_candidate(*puppet.address, component=component) for component in order), None)
        puppet.check(agent, nominate=True)
        world.run(until=0.3)
        assert agent.complete
        assert agent.selected[1].remote == "host"

    def test_f18_both_components_in_use(self) -> None:
        world = World()
        world.network(delay=0.025)
        agent = Peer(world.host("192.0.2.1"), True, name="agnt", components=2)
        puppet = Puppet(world.host("192.0.2.2"), port=7000)
        agent.gather()
        agent.connect(puppet)
        agent.add(*(host_candidate(*puppet.address, component=component) for component in (2, 1)), None)
        world.run(until=0.3)
        assert agent.routed == {1: puppet.address, 2: puppet.address}
        assert agent.complete


class TestF17:
    """meetecho/janus-gateway#1692: nothing usable is signalled, yet the peer's own checks arrive."""

    @pytest.mark.parametrize("controlling", [True, False])
    def test_a_check_before_connect(self, controlling: bool) -> None:
        world, agent, puppet = puppeteer(controlling=controlling, connect=False)
        agent.add(None)
        puppet.check(agent, controlling=not controlling, nominate=not controlling)
        world.run(until=0.1)
        agent.connect(puppet)
        world.run(until=1)
        assert agent.complete
        assert agent.connected_at == 0.15

    @pytest.mark.parametrize("controlling", [True, False])
    def test_unresolvable_names(self, controlling: bool) -> None:
        world, agent, puppet = puppeteer(controlling=controlling)
        agent.add("1 1 udp 2113937151 0e2b3c4d-1111-4222-8333-444455556666.local 46243 typ host", None)
        world.at(3.0, lambda: puppet.check(agent, controlling=not controlling, nominate=not controlling))
        world.run(until=4)
        assert agent.complete

    def test_a_component_without_candidates_is_not_given_up_for_a_reflexive_one(self) -> None:
        """Only what is signalled tells which components the peer uses."""
        world = World()
        world.network(delay=0.025)
        agent = Peer(world.host("192.0.2.1"), False, name="agnt", components=2)
        puppet = Puppet(world.host("192.0.2.2"), port=7000)
        agent.gather()
        agent.connect(puppet)
        puppet.check(agent, nominate=True)
        world.run(until=0.2)
        agent.add(None)
        assert not agent.live
        puppet.check(agent, to=("192.0.2.1", 50001), nominate=True)
        world.run(until=0.5)
        assert agent.complete
        assert set(agent.routed) == {1, 2}

    def test_a_component_that_the_peer_does_not_use(self) -> None:
        """RFC 8445 §6.1.2.1: it has candidates for the first alone."""
        p = pair(left={"components": 2}).gather()
        p.exchange().start()
        p.until_complete()
        assert set(p.left.routed) == {1}


class TestNames:
    """draft-ietf-mmusic-mdns-ice-candidates."""

    NAME = "0e2b3c4d-1111-4222-8333-444455556666.local"
    LINE = f"1467250027 1 udp 2113937151 {NAME} 7000 typ host generation 0 ufrag pupp network-cost 999"

    def test_resolved_late(self) -> None:
        """Listed by its name at once, paired when its address is known, still shown by name."""
        world, agent, puppet = puppeteer(controlling=True)
        world.names[self.NAME] = ("192.0.2.2",)
        agent.add(self.LINE, None)
        assert [c.host for c in agent.agent.remote_candidates] == [self.NAME]
        assert agent.agent.check_list == []
        world.run(until=0.5)
        assert agent.complete
        (remote,) = agent.agent.remote_candidates
        assert remote.to_sdp() == self.LINE
        assert agent.routed == {1: puppet.address}
        assert agent.node.routes[1].remote.host == self.NAME

    def test_case_does_not_matter(self) -> None:
        world, agent, puppet = puppeteer(controlling=True)
        world.names[self.NAME] = ("192.0.2.2",)
        agent.add(self.LINE.replace(".local", ".LOCAL."))
        assert [out.name for _, out in agent.node.outputs if isinstance(out, Resolve)] == [
            self.NAME.replace(".local", ".LOCAL.")
        ]

    def test_f46_its_checks_come_first(self) -> None:
        """pion/ice commit f2ff5ba: one candidate, not a second, peer-reflexive one."""
        world, agent, puppet = puppeteer(delay=0.001)
        world.names[self.NAME] = ("192.0.2.2",)
        agent.add(self.LINE)
        puppet.check(agent, nominate=True)
        world.run(until=0.005)
        assert [c.type for c in agent.agent.remote_candidates] == ["host", "prflx"]
        world.run(until=0.5)
        assert [c.host for c in agent.agent.remote_candidates] == [self.NAME]
        assert agent.agent.check_list[0].remote.host == self.NAME
        assert agent.complete

    def test_f46_its_checks_come_afterwards(self) -> None:
        world, agent, puppet = puppeteer()
        world.names[self.NAME] = ("192.0.2.2",)
        agent.add(self.LINE)
        world.run(until=0.02)
        puppet.check(agent, nominate=True)
        world.run(until=0.5)
        assert [c.host for c in agent.agent.remote_candidates] == [self.NAME]
        assert agent.selected[1].remote == "host"

    def test_never_resolved(self) -> None:
        """Ignored; the others connect."""
        world, agent, puppet = puppeteer(controlling=True)
        agent.add(self.LINE, puppet.candidate, None)
        world.run(until=0.5)
        assert agent.complete

    def test_the_end_mark_waits_for_names(self) -> None:
        world, agent, _ = puppeteer(controlling=True, patience=0.0)
        world.names[self.NAME] = ("192.0.2.99",)
        agent.add(self.LINE, None)
        world.run(until=0.005)
        assert agent.agent.state == "checking"
        world.names.clear()
        world.run(until=1)
        assert agent.states[-1] == (0.01, "failed")

    def test_the_family_that_we_have(self) -> None:
        """A name with addresses of both families on a host that has IPv4 only."""
        world, agent, puppet = puppeteer(controlling=True)
        world.names[self.NAME] = ("2001:db8::2", "192.0.2.2")
        agent.add(self.LINE, None)
        world.run(until=0.5)
        assert agent.complete

    def test_not_over_a_relay(self) -> None:
        """§3.3.2: never paired with a relayed candidate, and ignored altogether by the relay policy."""
        world = World()
        world.turn_server(TURN[0], username="user", password="secret", relay="198.51.100.3")
        server = TurnServer(*TURN, username="user", password="secret")
        world.names[self.NAME] = ("192.0.2.2",)
        agents = [
            Peer(world.host(f"192.0.2.{11 + only}"), True, turn_server=server, relay_only=bool(only))
            for only in (False, True)
        ]
        puppet = Puppet(world.host("192.0.2.2"), port=7000)
        for agent in agents:
            agent.gather()
            world.run_until(lambda: agent.gathered)  # noqa: B023
            agent.add(self.LINE)
            agent.connect(puppet)
        world.run(until=1)
        assert [c.type for c in agents[0].agent.local_candidates] == ["host", "relay"]
        assert [p.local.type for p in agents[0].agent.check_list] == ["host"]
        assert [c.type for c in agents[1].agent.local_candidates] == ["relay"]
        assert agents[1].agent.check_list == [] and agents[1].agent.remote_candidates == []
        assert not [out for _, out in agents[1].node.outputs if isinstance(out, Resolve)]


class TestPatience:
    """RFC 8863 §4."""

    def test_f25_a_late_check(self) -> None:
        """meetecho/janus-gateway#321: no remote candidate, the end mark, and a check 3 seconds later."""
        world, agent, puppet = puppeteer()
        agent.add(None)
        world.at(3.0, lambda: puppet.check(agent, nominate=True))
        world.run(until=4)
        assert agent.complete

    def test_no_remote_candidates(self) -> None:
        world, agent, _ = puppeteer()
        agent.add(None)
        world.run(until=100)
        assert agent.states[-1] == (39.5, "failed")
        assert agent.reason == "the peer gave no candidates and sent no checks"

    def test_all_checks_fail_early(self) -> None:
        """Port unreachable after a round trip: a check of the peer may still come."""
        world = World()
        world.network(delay=0.025)
        agent = Peer(world.host("192.0.2.1"), True, name="agnt")
        refusing = world.host("192.0.2.2", refuses=True)
        puppet = Puppet(world.host("192.0.2.3"))
        agent.gather()
        agent.add(host_candidate(refusing.addresses[0], 9), None)
        agent.connect(puppet)
        world.run(until=10)
        assert [p.state for p in agent.agent.check_list] == ["failed"]
        assert len(agent.checks) == 1
        assert agent.agent.state == "checking"
        world.run(until=100)
        assert agent.states[-1] == (39.5, "failed")
        assert agent.reason == "all 1 pairs of component 1 failed: 1 × connection refused"

    def test_checks_outlast_the_patience(self) -> None:
        """A pair that is still in progress is waited for."""
        world, agent, puppet = puppeteer(controlling=True, patience=5.0)
        puppet.answering = False
        agent.add(puppet.candidate, None)
        world.run(until=100)
        assert agent.states[-1] == (39.5, "failed")
        assert agent.reason == "all 1 pairs of component 1 failed: 1 × no answer"

    @pytest.mark.parametrize("patience", [0.0, 5.0, 120.0])
    def test_the_parameter(self, patience: float) -> None:
        world, agent, _ = puppeteer(patience=patience)
        agent.add(None)
        world.run(until=300)
        assert agent.states[-1] == (patience, "failed")

    def test_short_tunables(self) -> None:
        """As aiortc's tests set them: the time-out of a transaction in less than two seconds."""
        world, agent, _ = puppeteer(tunables=Tunables(retry_max=1, retry_rto=0.1))
        agent.add(None)
        world.run(until=10)
        assert agent.states[-1] == (pytest.approx(0.3), "failed")

    def test_without_the_end_mark_there_is_always_hope(self) -> None:
        world, agent, puppet = puppeteer()
        world.run(until=1000)
        assert agent.agent.state == "checking"
        puppet.check(agent, nominate=True)
        world.run(until=1001)
        assert agent.complete

    def test_it_runs_from_connect(self) -> None:
        world, agent, puppet = puppeteer(connect=False)
        agent.add(None)
        world.run(until=100)
        agent.connect(puppet)
        world.run(until=200)
        assert agent.states[-1] == (139.5, "failed")

    def test_nothing_local_fails_at_once(self) -> None:
        """Known to be hopeless."""
        world = World()
        agent = Peer(world.host("192.0.2.1"), True)
        agent.gather([])
        puppet = Puppet(world.host("192.0.2.2"))
        agent.add(puppet.candidate)
        agent.connect(puppet)
        assert agent.states == [(0.0, "checking"), (0.0, "failed")]
        assert agent.reason == "no local candidates"

    def test_a_failed_agent_sleeps_and_still_answers(self) -> None:
        world, agent, puppet = puppeteer(patience=0.0)
        agent.add(None)
        world.run(until=1)
        assert agent.agent.state == "failed"
        assert agent.agent.poll_timeout() is None
        check = puppet.check(agent)
        world.run(until=2)
        assert [answer.message_class for answer in puppet.answers_to(check)] == [Class.RESPONSE]

    def test_one_component_fails(self) -> None:
        """The other has a valid pair whose nomination waits; nothing is due afterwards but consent."""
        world = World()
        world.network(delay=0.025)
        agent = Peer(world.host("192.0.2.1"), True, name="agnt", components=2, patience=0.06, direct_patience=5.0)
        good = Puppet(world.host("192.0.2.2"), port=7000)
        refusing = world.host("192.0.2.3", refuses=True)
        silent = world.host("192.0.2.4")
        agent.gather()
        agent.add(
            host_candidate(silent.addresses[0], 9),
            host_candidate(*good.address, preference=60000),
            host_candidate(refusing.addresses[0], 9, component=2, preference=50000),
            None,
        )
        agent.connect(good)
        world.run(until=3)
        assert agent.agent.state == "failed"
        world.run(until=60)
        assert agent.reason


class TestGenerationOfACandidate:
    def test_unknown_ufrag(self) -> None:
        """RFC 8838 §4.1: a candidate of another session is not for us."""
        world, agent, puppet = puppeteer()
        agent.add(host_candidate(*puppet.address, extensions=(("ufrag", "othr"),)))
        assert agent.agent.remote_candidates == []
        assert agent.agent.drops["candidate of another session"] == 1
        agent.add(host_candidate(*puppet.address, extensions=(("ufrag", "pupp"),)))
        assert len(agent.agent.remote_candidates) == 1


class TestUnusable:
    def test_tcp_candidates_are_kept_and_not_paired(self) -> None:
        _, agent, _ = puppeteer()
        agent.add(
            "1 1 tcp 1518280447 192.0.2.2 9 typ host tcptype active", "4 1 ssltcp 2113932031 192.0.2.2 443 typ host"
        )
        assert len(agent.agent.remote_candidates) == 2
        assert agent.agent.check_list == []

    def test_many_candidates(self) -> None:
        """Bounded: 256 candidates, 100 pairs, the best of them."""
        _, agent, _ = puppeteer(connect=False)
        agent.add(*(host_candidate("192.0.2.2", 1000 + i, preference=i) for i in range(300)))
        assert len(agent.agent.remote_candidates) == 256
        assert agent.agent.drops["too many remote candidates"] == 44
        assert [p.peer[1] for p in agent.agent.check_list] == [1255 - i for i in range(100)]

    def test_components_that_we_do_not_have(self) -> None:
        _, agent, _ = puppeteer()
        agent.add(host_candidate("192.0.2.2", 9, component=3), None)
        assert agent.agent.check_list == []
        assert isinstance(agent.agent.remote_candidates[0], Candidate)


def test_nat_and_trickle() -> None:
    """All of it together: symmetric NAT, STUN, trickle both ways with 100 ms of signalling."""
    world = World()
    world.network(delay=0.025)
    world.stun_server(STUN[0])
    _, left = behind(world, "203.0.113.1", "10.0.0.2", mapping="address-and-port-dependent")
    _, right = behind(world, "203.0.113.2", "10.0.1.2", filtering="address-dependent")
    p: Pair = pair(world, hosts=(left, right), stun_server=StunServer(*STUN))
    p.signalling = 0.1
    p.trickle().start()
    p.left.gather()
    p.right.gather()
    assert round(p.until_live(), 9) <= 0.25
    p.until_complete()
    assert p.left.selected[1] == ("prflx", "srflx", True)
    assert p.right.selected[1] == ("srflx", "prflx", True)
    p.talk()
