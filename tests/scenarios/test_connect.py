"""Two agents connect: how many checks it takes and how long, to the millisecond."""

from __future__ import annotations

import statistics

import pytest

from aioice.core.events import LocalCandidate
from aioice.core.gathering import StunServer
from aioice.core.message import Class
from aioice.sim import World
from tests.scenarios.support import STUN, Pair, Peer, host_candidate, pair, puppeteer

ROUND_TRIP = 0.05


def times(pair_: Pair) -> list[list[float]]:
    return [[round(check.time, 6) for check in peer.checks] for peer in pair_]


class TestClean:
    """25 ms one way, nothing lost."""

    def test_one_round_trip_and_two_checks(self) -> None:
        """Each checks at once and, when the other's check arrives, once more (RFC 8445 §7.3.1.4)."""
        p = pair()
        assert p.connect() == 0.05
        assert times(p) == [[0.0, 0.025, 0.05], [0.0, 0.025]]
        assert p.until_complete() == 0.1
        assert times(p) == [[0.0, 0.025, 0.05], [0.0, 0.025]]
        assert p.left.states == [(0.0, "checking"), (0.05, "connected"), (0.1, "completed")]
        assert p.right.states == [(0.0, "checking"), (0.05, "connected"), (0.075, "completed")]

    def test_only_the_controlling_side_nominates_and_once(self) -> None:
        """RFC 8445 §8.1.1: USE-CANDIDATE is in the last check of the controlling agent alone."""
        p = pair()
        p.connect()
        p.until_complete()
        nominating = [["USE-CANDIDATE" in check.message.attributes for check in peer.checks] for peer in p]
        assert nominating == [[False, False, True], [False, False]]
        assert [peer.selected[1] for peer in p] == [("host", "host", True)] * 2

    def test_data_flows_both_ways_before_the_nomination(self) -> None:
        """RFC 8445 §12.1: on any valid pair."""
        p = pair()
        p.connect()
        assert not p.left.complete
        p.talk()

    def test_checks_carry_what_they_must(self) -> None:
        """RFC 8445 §7.1.1, §7.1.2, §7.2.2: PRIORITY as peer-reflexive, the role, USERNAME of the peer first."""
        p = pair()
        p.connect()
        for (peer, other), role in zip(p.both, ("ICE-CONTROLLING", "ICE-CONTROLLED"), strict=True):
            for check in peer.checks[:2]:
                attributes = check.message.attributes
                assert attributes["USERNAME"] == f"{other.username}:{peer.username}"
                assert attributes["PRIORITY"] >> 24 == 110
                assert attributes["PRIORITY"] & 0xFFFFFF == peer.agent.local_candidates[0].priority & 0xFFFFFF
                assert role in attributes
                assert check.message.check_message_integrity(other.password.encode())
                assert "FINGERPRINT" in attributes

    def test_two_components(self) -> None:
        """The second is frozen until the first has succeeded (§6.1.2.6), then it is checked at once."""
        p = pair(components=2)
        assert p.connect() == 0.1
        p.until_complete()
        # Component 2 in the same instant in which component 1 is valid, besides the latter's nomination.
        assert times(p) == [[0.0, 0.025, 0.05, 0.05, 0.075, 0.1], [0.0, 0.025, 0.05, 0.075]]
        assert set(p.left.routed) == set(p.right.routed) == {1, 2}
        p.talk()

    def test_a_peer_that_starts_later(self) -> None:
        """It answers checks all the same (RFC 8445 §7.3); one round trip after its start it has the pair nominated."""
        p = pair().gather().exchange()
        p.left.connect(p.right)
        p.world.run(until=0.3)
        assert p.left.states == [(0.0, "checking"), (0.1, "completed")]
        p.right.connect(p.left)
        p.until_live()
        assert p.right.states == [(0.3, "checking"), (0.35, "completed")]
        # Two checks are waiting; the second asks for another one, a turn later.
        assert times(p) == [[0.0, 0.05], [0.3, 0.305]]

    def test_checks_that_came_before_the_credentials(self) -> None:
        """They are answered (RFC 8445 §7.3), and their pairs are checked first (§7.3.1.4)."""
        p = pair().gather()
        p.left.add(*p.right.agent.local_candidates, None)
        p.left.connect(p.right)
        p.world.run(until=0.2)
        assert not p.right.checks and not p.right.agent.remote_candidates
        p.right.connect(p.left)
        assert [check.time for check in p.right.checks] == [0.2]
        p.until_live()
        assert p.right.connected_at == 0.25
        assert p.right.selected[1].remote == "prflx"

    def test_both_families(self) -> None:
        world = World()
        world.network(delay=0.025)
        hosts = (world.host("192.0.2.1", "2001:db8::1"), world.host("192.0.2.2", "2001:db8::2"))
        p = pair(world, hosts=hosts)
        assert p.connect() == 0.05
        p.until_complete()
        assert p.left.routed[1][0] == "2001:db8::2"
        assert p.right.routed[1][0] == "2001:db8::1"


class TestPacing:
    def with_dead_candidates(self, count: int, **config: float) -> Pair:
        p = pair(**config).gather()
        dead = [host_candidate(f"192.0.2.{100 + i}", 9000 + i, preference=65535 - i) for i in range(count)]
        for peer, other in p.both:
            peer.add(*dead, *other.agent.local_candidates, None)
        return p.start()

    def test_four_dead_candidates(self) -> None:
        """One of them has the best pair: it costs the good one a turn of 5 ms, not a time-out."""
        p = self.with_dead_candidates(4)
        assert round(p.until_live(), 9) == 0.055
        assert times(p)[0] == [0.0, 0.005, 0.01, 0.015, 0.02, 0.03]
        assert p.left.routed == {1: p.right.address}
        # Three round trips of patience for the better pair (§8.1.1), then the nomination.
        p.until_complete()
        assert [round(peer.completed_at, 6) for peer in p] == [0.255, 0.23]

    def test_ordinary_checks_leave_every_5_ms(self) -> None:
        _, agent, _ = puppeteer(controlling=True)
        agent.add(*(host_candidate(f"192.0.2.{100 + i}", 9000 + i, preference=65535 - i) for i in range(20)), None)
        agent.world.run(until=0.4)
        assert [round(check.time, 6) for check in agent.checks] == [round(0.005 * i, 6) for i in range(20)]
        assert [check.peer[1] for check in agent.checks] == [9000 + i for i in range(20)]

    def test_a_triggered_check_leaves_at_once_and_takes_a_turn(self) -> None:
        """docs/rfc.md: ahead of the pacing for an address that has just authenticated, but ordinary ones then wait."""
        world, agent, puppet = puppeteer(controlling=True)
        agent.add(*(host_candidate(f"192.0.2.{100 + i}", 9000 + i, preference=65535 - i) for i in range(4)), None)
        world.path(puppet.socket.host, agent.host, delay=0.007)
        puppet.check(agent, controlling=False)
        world.run(until=0.1)
        sent = [(round(check.time, 6), check.peer[1]) for check in agent.checks]
        assert sent == [(0.0, 9000), (0.005, 9001), (0.007, 7000), (0.012, 9002), (0.017, 9003)]

    def test_a_signalled_pacing(self) -> None:
        """RFC 8445 §14.2."""
        _, agent, _ = puppeteer(controlling=True, ta=0.02)
        agent.add(*(host_candidate(f"192.0.2.{100 + i}", 9000 + i, preference=65535 - i) for i in range(9)), None)
        agent.world.run(until=0.4)
        assert [round(check.time, 6) for check in agent.checks] == [round(0.02 * i, 6) for i in range(9)]

    def test_retransmissions(self) -> None:
        """RFC 8489 §6.2.1: seven transmissions, the time-out doubled from 500 ms; RFC 8445 §14.3 keeps the floor."""
        world, agent, puppet = puppeteer(controlling=True, patience=1000.0)
        puppet.answering = False
        agent.add(puppet.candidate, None)
        world.run(until=100)
        assert [check.time for check in agent.checks] == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
        assert len({check.message.transaction_id for check in agent.checks}) == 1

    def test_many_pairs_slow_the_retransmission_down(self) -> None:
        """RFC 8445 §14.3: RTO = max(500 ms, Ta × pairs waiting or in progress)."""
        world, agent, puppet = puppeteer(controlling=True, ta=0.05)
        puppet.answering = False
        agent.add(*(host_candidate("192.0.2.2", 7000 + i, preference=65000 - i) for i in range(20)))
        world.run(until=3)
        sent = [check.time for check in agent.checks_to(puppet.address)]
        assert sent[0] == 0.0
        assert [round(check.time, 6) for check in agent.checks_to(("192.0.2.2", 7019))][:2] == [0.95, 1.95]

    def test_no_wake_up_is_due_but_for_consent(self) -> None:
        p = pair()
        p.connect()
        p.until_complete()
        for peer in p:
            timeout = peer.agent.poll_timeout()
            assert timeout is not None
            # RFC 7675 §5.1: 4 to 6 seconds after the pair came into use.
            assert peer.connected_at + 4 <= timeout <= peer.connected_at + 6
        before = [len(peer.node.outputs) for peer in p]
        p.world.run(until=3.9)
        assert [len(peer.node.outputs) for peer in p] == before

    def test_waiting_for_candidates_needs_no_wake_up(self) -> None:
        """Nothing to check, nothing to do, until patience ends (0.13.0 woke 99 times a second)."""
        _, agent, _ = puppeteer(controlling=True)
        assert agent.agent.poll_timeout() == 39.5

    def test_an_agent_that_has_not_started_sleeps(self) -> None:
        _, agent, _ = puppeteer(connect=False)
        assert agent.agent.poll_timeout() is None


class TestLoss:
    @pytest.mark.parametrize("sender", ["192.0.2.1", "192.0.2.2"])
    def test_a_lost_first_check_costs_half_a_round_trip(self, sender: str) -> None:
        """The other one's check starts a new one at once (RFC 8445 §7.3.1.4); 0.13.0 waited 500 ms."""
        world = World()
        world.network(delay=0.025)
        world.drop(lambda packet: packet.src[0] == sender, count=1)
        p = pair(world)
        assert p.connect() == 0.075

    def test_both_first_checks_lost(self) -> None:
        """Only then the retransmission is needed."""
        world = World()
        world.network(delay=0.025)
        world.drop(lambda packet: True, count=2)
        assert pair(world).connect() == 0.55

    def test_a_lost_answer(self) -> None:
        world = World()
        world.network(delay=0.025)
        world.drop(lambda packet: packet.data[:2] == b"\x01\x01", count=1)
        p = pair(world)
        assert p.connect() == 0.075

    def test_five_percent(self) -> None:
        """50 ms round trip, 5 % loss: both sides connected after 1.16 round trips on average, 90 % within 1.5."""
        taken = []
        for seed in range(400):
            world = World(seed)
            world.network(delay=ROUND_TRIP / 2, loss=0.05)
            taken.append(pair(world).connect() / ROUND_TRIP)
        taken.sort()
        assert taken[0] == 1.0
        assert 1.1 < statistics.mean(taken) < 1.2
        assert round(taken[359], 6) <= 1.5
        # Both first checks are lost: one in 400.
        assert sum(time > 2.5 for time in taken) <= 2

    def test_a_lost_nomination(self) -> None:
        """Sent again after 500 ms; data flows meanwhile."""
        world = World()
        world.network(delay=0.025)
        p = pair(world)
        world.drop(lambda packet: b"\x00\x25\x00\x00" in packet.data, count=1)
        p.connect()
        p.talk()
        assert round(p.until_complete(), 9) == 0.6


class TestIPv6Spelling:
    def test_any_spelling_is_one_candidate(self) -> None:
        """A peer writes its address in another way than we do: the pair is the signalled one, not a reflexive one."""
        world = World()
        p = Pair(
            Peer(world.host("2001:db8::1"), True),
            Peer(world.host("2001:db8::2"), False),
        ).gather()
        line = p.right.agent.local_candidates[0].to_sdp().replace("2001:db8::2", "2001:0DB8:0:0::0002")
        p.left.add(line, None)
        p.right.add(p.left.agent.local_candidates[0].to_sdp(), None)
        p.start()
        p.until_complete()
        assert [c.type for c in p.left.agent.remote_candidates] == ["host"]
        assert p.left.selected[1] == ("host", "host", True)
        assert p.left.agent.remote_candidates[0].to_sdp() == line

    def test_two_spellings_are_one_candidate(self) -> None:
        world = World()
        agent = Peer(world.host("2001:db8::1"), True)
        agent.gather()
        agent.add("1 1 udp 2130706431 2001:db8::2 7000 typ host", "2 1 udp 2130706175 2001:DB8:0::2 7000 typ host")
        assert len(agent.agent.check_list) == 1
        assert len(agent.agent.remote_candidates) == 1


class TestBases:
    """F26: checks leave from bases (RFC 8445 §6.1.2.4)."""

    def reflexive(self) -> Peer:
        world = World()
        world.stun_server(STUN[0])
        nat = world.nat("203.0.113.1")
        agent = Peer(nat.host("10.0.0.2"), True, stun_server=StunServer(*STUN))
        agent.gather()
        world.run_until(lambda: agent.gathered)
        return agent

    def test_a_reflexive_candidate_makes_no_pair_of_its_own(self) -> None:
        agent = self.reflexive()
        assert [c.type for c in agent.agent.local_candidates] == ["host", "srflx"]
        agent.add(host_candidate("192.0.2.2", 7000), None)
        assert [(p.local.type, p.peer) for p in agent.agent.check_list] == [("host", ("192.0.2.2", 7000))]

    def test_candidates_are_told_as_they_are_found(self) -> None:
        """RFC 8838 §10: then the end, once."""
        agent = self.reflexive()
        told = [event.candidate and event.candidate.type for _, event in agent.all(LocalCandidate)]
        assert told == ["host", "srflx", None]


class TestAnswers:
    def test_a_check_is_answered_at_once_and_once(self) -> None:
        world, agent, puppet = puppeteer()
        check = puppet.check(agent)
        world.run(until=0.06)
        (answer,) = puppet.answers_to(check)
        assert answer.message_class is Class.RESPONSE
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == puppet.address
        assert answer.check_message_integrity(agent.password.encode())
        assert puppet.seen[0][0] == 0.05
