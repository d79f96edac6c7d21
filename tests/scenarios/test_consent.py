"""Consent freshness (RFC 7675): asked in time, kept whatever the round trip, lost in time."""

from __future__ import annotations

import pytest

from aioice.core.machine import Tunables
from aioice.core.message import Message
from aioice.sim import World
from tests.scenarios.support import Address, Pair, Peer, Puppet, pair, puppeteer


def connected(*, controlling: bool = False, tunables: Tunables | None = None) -> tuple[World, Peer, Puppet, float]:
    """An agent that has a nominated pair; all that follows is consent. Returns the time of its last answer."""
    world, agent, puppet = puppeteer(controlling=controlling, tunables=tunables)
    agent.add(puppet.candidate, None)
    puppet.check(agent, controlling=not controlling, nominate=not controlling)
    world.run_until(lambda: agent.complete)
    world.run(until=world.now + 0.1)
    return world, agent, puppet, agent.connected_at


def consent_checks(agent: Peer, since: float) -> list[float]:
    return [check.time for check in agent.checks if check.time > since]


class TestRhythm:
    def test_every_four_to_six_seconds(self) -> None:
        """§5.1: 0.8 to 1.2 of 5 seconds, drawn anew each time; every request is a transaction of its own, sent once."""
        world, agent, _, _ = connected()
        world.run(until=600)
        sent = [check for check in agent.checks if check.time > 1]
        gaps = [b.time - a.time for a, b in zip(sent, sent[1:], strict=False)]
        assert all(4 <= gap <= 6 for gap in gaps)
        assert max(gaps) - min(gaps) > 1
        assert len({check.message.transaction_id for check in sent}) == len(sent)
        assert 100 <= len(sent) <= 150

    def test_f32_counted_from_the_last_send(self) -> None:
        """The answer takes 1.6 s and moves nothing."""
        world, agent, puppet, _ = connected()
        world.network(delay=0.8)
        world.run(until=120)
        sent = consent_checks(agent, 1)
        assert all(4 <= b - a <= 6 for a, b in zip(sent, sent[1:], strict=False))
        assert agent.closed == []

    def test_f31_a_controlling_agent_repeats_use_candidate(self) -> None:
        """openai/openai-agents-js#1353: lite servers answer nothing else."""
        world, agent, _, _ = connected(controlling=True)
        world.run(until=60)
        later = [check.message for check in agent.checks if check.time > 1]
        assert len(later) > 8
        assert all("USE-CANDIDATE" in check.attributes for check in later)

    def test_a_controlled_agent_does_not(self) -> None:
        world, agent, _, _ = connected()
        world.run(until=60)
        assert not any("USE-CANDIDATE" in check.message.attributes for check in agent.checks)

    def test_each_component_has_its_own(self) -> None:
        p = pair(components=2)
        p.connect()
        p.until_complete()
        p.world.run(until=60)
        for peer, other in p.both:
            for port in (50000, 50001):
                later = [check.time for check in peer.checks_to((other.host.addresses[0], port)) if check.time > 1]
                assert all(4 <= b - a <= 6 for a, b in zip(later, later[1:], strict=False))
                assert len(later) >= 9


class TestSlowPath:
    @pytest.mark.parametrize("round_trip", [0.6, 0.8, 1.6, 3.0])
    def test_f32_whatever_the_round_trip(self, round_trip: float) -> None:
        """shinyoshiaki/werift-webrtc#649: 0.13.0 closed a healthy link of 600 ms."""
        world = World()
        world.network(delay=round_trip / 2)
        p = pair(world)
        p.connect()
        p.until_complete()
        world.run(until=200)
        assert [peer.agent.state for peer in p] == ["completed", "completed"]
        assert [peer.states[-1][1] for peer in p] == ["completed", "completed"]
        p.talk()

    def test_half_of_the_answers_are_lost(self) -> None:
        """One answer in 30 seconds is enough."""
        world = World(5)
        world.network(delay=0.1)
        p = pair(world)
        p.connect()
        p.until_complete()
        world.network(delay=0.1, loss=0.3)
        world.run(until=300)
        assert [peer.closed for peer in p] == [[], []]


class TestExpiry:
    @pytest.mark.parametrize("controlling", [True, False])
    def test_thirty_seconds_after_the_last_answer(self, controlling: bool) -> None:
        """§5.1; and the event says so, then everything ends."""
        world, agent, puppet, answered = connected(controlling=controlling)
        world.run(until=20)
        puppet.answering = False
        last = consent_checks(agent, 1)[-1] + 0.05
        world.run(until=120)
        assert agent.expired == [(pytest.approx(last + 30), 1)]
        assert agent.closed == [(pytest.approx(last + 30), "consent expired: no answer from the peer for 30.0 s")]
        assert agent.agent.state == "closed"
        assert agent.node.done == "closed"
        assert agent.node.routes == {} and agent.node.links == {}

    def test_disconnected_before(self) -> None:
        """Half of the time without an answer; nothing is sent after the end."""
        world, agent, puppet, answered = connected()
        puppet.answering = False
        world.run(until=120)
        last = agent.checks[1].time if len(agent.checks) < 2 else answered
        told = [(round(time - last, 6), state) for time, state in agent.states[-2:]]
        assert told == [(15.0, "disconnected"), (30.0, "closed")]
        assert all(check.time < last + 30 for check in agent.checks)

    def test_data_may_be_sent_until_then(self) -> None:
        world, agent, puppet, answered = connected()
        puppet.answering = False
        world.run(until=answered + 29)
        agent.send(b"still")
        world.run(until=answered + 31)
        assert puppet.data == [b"still"]
        with pytest.raises(ConnectionError):
            agent.send(b"no more")

    def test_one_answer_brings_it_back(self) -> None:
        world, agent, puppet, answered = connected()
        puppet.answering = False
        world.run(until=answered + 16)
        assert agent.agent.state == "disconnected"
        puppet.answering = True
        world.run(until=answered + 23)
        assert agent.agent.state == "completed"
        world.run(until=100)
        assert agent.closed == []

    def test_an_answer_to_an_older_request_counts(self) -> None:
        """§5.1: to *any* outstanding one."""
        world, agent, puppet, answered = connected()
        held: list[tuple[Message, Address]] = []
        puppet.answerer = lambda request, source: held.append((request, source))  # type: ignore[func-returns-value]
        world.run(until=answered + 25)
        assert len(held) >= 3
        puppet.socket.send(agent.address, puppet.answer(*held[0]))
        world.run(until=answered + 54)
        assert agent.closed == []
        world.run(until=answered + 60)
        assert agent.closed == [(pytest.approx(answered + 25.025 + 30), agent.closed[0][1])]

    def test_a_forged_answer_does_not_count(self) -> None:
        world, agent, puppet, answered = connected()

        def forge(request: Message, source: Address) -> bytes:
            puppet.password, good = "not the right password", puppet.password
            answer = puppet.answer(request, source)
            puppet.password = good
            return answer

        puppet.answerer = forge
        world.run(until=100)
        assert agent.closed[0][0] == pytest.approx(answered + 30)
        assert agent.agent.drops["answer not authentic"] >= 4

    def test_checks_of_the_peer_are_no_consent(self) -> None:
        """They do not show that it wants our data on this path (§5.1)."""
        world, agent, puppet, answered = connected()
        puppet.answering = False
        for time in range(1, 40):
            world.at(time, lambda: puppet.check(agent))
        world.run(until=60)
        assert agent.closed[0][0] == pytest.approx(answered + 30)

    def test_each_component_on_its_own(self) -> None:
        """The first to expire ends the connection, as 0.13.0 does, and names itself."""
        p = pair(components=2)
        p.connect()
        p.until_complete()
        port = p.right.routed[2][1]
        p.world.drop(lambda packet: packet.dst[1] == port or packet.src[1] == port)
        p.world.run(until=60)
        assert [component for _, component in p.left.expired] == [2]
        assert len(p.left.closed) == 1

    def test_both_sides_end(self) -> None:
        p = pair()
        p.connect()
        p.until_complete()
        p.world.run(until=10)
        p.world.drop(lambda packet: True)
        p.world.run(until=60)
        assert [peer.node.done for peer in p] == ["closed", "closed"]
        assert all(34 <= peer.closed[0][0] <= 41 for peer in p)


class TestTunables:
    def test_one_second_and_one_failure(self) -> None:
        """aiortc's tests: never before one request has had the time to be answered."""
        world, agent, puppet, answered = connected(tunables=Tunables(consent_interval=1, consent_failures=1))
        world.run(until=20)
        assert agent.closed == []
        puppet.answering = False
        last = consent_checks(agent, 1)[-1]
        world.run(until=25)
        assert last + 1.05 <= agent.closed[0][0] <= last + 1.2 + 0.5

    def test_a_slow_answer_under_short_tunables(self) -> None:
        """A round trip of 400 ms with an interval of 100 ms: half a second is given (RFC 8489 §6.2.1)."""
        world, agent, puppet, _ = connected(tunables=Tunables(consent_interval=0.1, consent_failures=1))
        world.network(delay=0.2)
        world.run(until=20)
        assert agent.closed == []

    def test_changed_while_connected(self) -> None:
        world, agent, puppet, answered = connected()
        agent.node.report(Tunables(consent_interval=5, consent_failures=2))
        puppet.answering = False
        world.run(until=60)
        assert agent.closed[0][0] == pytest.approx(answered + 10)


class TestRevoked:
    """§5.2: an authenticated 403."""

    def refuse(self, *, signed: bool) -> tuple[World, Peer, float]:
        world, agent, puppet, _ = connected()
        at: list[float] = []

        def refuse(request: Message, source: Address) -> bytes:
            at.append(world.now + 0.025)
            if not signed:
                puppet.password = "not the right password"
            return puppet.error(request, 403)

        puppet.answerer = refuse
        world.run(until=20)
        return world, agent, at[0]

    def test_at_once(self) -> None:
        _, agent, at = self.refuse(signed=True)
        assert agent.expired == [(pytest.approx(at), 1)]
        assert agent.closed == [(pytest.approx(at), "the peer revoked its consent")]
        assert agent.node.routes == {}

    def test_unsigned(self) -> None:
        _, agent, _ = self.refuse(signed=False)
        assert agent.closed == []

    def test_another_error_is_no_answer(self) -> None:
        world, agent, puppet, answered = connected()
        puppet.answerer = lambda request, source: puppet.error(request, 500)
        world.run(until=60)
        assert agent.closed[0][0] == pytest.approx(answered + 30)


class TestClosing:
    def test_a_closed_agent_asks_nothing(self) -> None:
        p: Pair = pair()
        p.connect()
        p.until_complete()
        p.left.close()
        sent = len(p.left.sent)
        assert p.left.agent.poll_timeout() is None
        p.world.run(until=60)
        assert len(p.left.sent) == sent
        # The other one notices.
        assert p.right.states[-2][1] == "disconnected"
        assert len(p.right.closed) == 1
