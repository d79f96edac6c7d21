"""Which pair is nominated, when, and what becomes of a nomination (RFC 8445 §8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aioice.core.connectivity import Checker
from aioice.core.events import SelectedPair
from aioice.core.machine import Route
from aioice.core.message import Message
from aioice.sim import Host, World
from tests.scenarios.support import Address, Pair, Peer, Puppet, host_candidate, is_check, pair, puppeteer


def two_puppets(*, controlling: bool, **config: float) -> tuple[World, Peer, Puppet, Puppet]:
    """An agent and a peer with two addresses, of which the first has the higher priority."""
    world = World()
    world.network(delay=0.025)
    agent = Peer(world.host("192.0.2.1"), controlling, name="agnt", **config)
    host = world.host("192.0.2.2")
    high, low = Puppet(host, port=7000), Puppet(host, port=7001)
    agent.gather()
    world.run_until(lambda: agent.gathered)
    agent.connect(high)
    return world, agent, high, low


def add_both(agent: Peer, high: Puppet, low: Puppet) -> None:
    agent.add(host_candidate(*high.address, preference=65535), host_candidate(*low.address, preference=65000), None)


def nominations(agent: Peer) -> list[tuple[float, int]]:
    return [
        (round(check.time, 6), check.peer[1]) for check in agent.checks if "USE-CANDIDATE" in check.message.attributes
    ]


def heard_from(agent: Peer, *puppets: Puppet) -> None:
    """The peer checks too, as a full agent does."""
    for puppet in puppets:
        puppet.check(agent, controlling=not agent.agent.controlling)


class TestPatience:
    def test_at_once_when_nothing_better_is_left(self) -> None:
        world, agent, high, low = two_puppets(controlling=True)
        add_both(agent, high, low)
        world.run(until=0.2)
        assert nominations(agent) == [(0.05, 7000)]

    def test_a_better_pair_is_waited_for(self) -> None:
        """At most 100 ms, or three round trips of the best valid pair: here 150 ms."""
        world, agent, high, low = two_puppets(controlling=True)
        high.answering = False
        add_both(agent, high, low)
        world.run(until=0.4)
        assert nominations(agent) == [(0.205, 7001)]
        assert agent.routed == {1: low.address}

    def test_the_better_pair_answers_in_time(self) -> None:
        world, agent, high, low = two_puppets(controlling=True)
        high.answering = False
        add_both(agent, high, low)
        world.at(0.1, lambda: heard_from(agent, high))
        world.at(0.1, lambda: setattr(high, "answering", True))
        world.run(until=0.4)
        # Its own check of 0.1 is answered by ours of 0.125, valid at 0.175: 30 ms before the patience ends.
        assert nominations(agent) == [(0.175, 7000)]
        assert agent.routed == {1: high.address}
        # Data went to the first valid pair meanwhile (§12.1).
        routes = [(round(time, 6), out.peer[1]) for time, out in agent.node.outputs if isinstance(out, Route)]
        assert routes == [(0.055, 7001), (0.225, 7000)]

    @pytest.mark.parametrize(("parameter", "when"), [(0.0, 0.205), (0.4, 0.455)])
    def test_the_parameter(self, parameter: float, when: float) -> None:
        """It cannot go below three round trips."""
        world, agent, high, low = two_puppets(controlling=True, direct_patience=parameter)
        high.answering = False
        add_both(agent, high, low)
        world.run(until=0.6)
        assert nominations(agent) == [(when, 7001)]

    def test_fast_paths_wait_100_ms(self) -> None:
        world, agent, high, low = two_puppets(controlling=True)
        world.network(delay=0.001)
        high.answering = False
        add_both(agent, high, low)
        world.run(until=0.6)
        assert nominations(agent) == [(0.107, 7001)]

    def test_nothing_is_nominated_by_the_controlled_side(self) -> None:
        world, agent, high, low = two_puppets(controlling=False)
        add_both(agent, high, low)
        heard_from(agent, high, low)
        world.run(until=10)
        assert nominations(agent) == []
        assert agent.states[-1][1] == "connected"


class TestFailure:
    """§8.1.1: the next valid pair is tried when a nomination fails."""

    def refusing(self, puppet: Puppet, code: int = 500) -> Callable[[Message, Address], bytes]:
        def answer(request: Message, source: Address) -> bytes:
            if "USE-CANDIDATE" in request.attributes:
                return puppet.error(request, code)
            return puppet.answer(request, source)

        return answer

    @pytest.mark.parametrize("code", [400, 500])
    def test_a_refused_nomination(self, code: int) -> None:
        world, agent, high, low = two_puppets(controlling=True)
        high.answerer = self.refusing(high, code)
        add_both(agent, high, low)
        heard_from(agent, high, low)
        world.run(until=1)
        assert nominations(agent) == [(0.05, 7000), (0.1, 7001)]
        assert agent.routed == {1: low.address}
        assert agent.complete
        assert agent.closed == []

    def test_a_nomination_that_is_never_answered(self) -> None:
        """After three transmissions the other valid pair is nominated; data flows on the first one while it lasts."""
        world, agent, high, low = two_puppets(controlling=True)
        high.answerer = lambda request, source: (
            None if "USE-CANDIDATE" in request.attributes else high.answer(request, source)
        )
        add_both(agent, high, low)
        heard_from(agent, high, low)
        world.run(until=3)
        assert {port for _, port in nominations(agent)} == {7000}
        world.run(until=5)
        assert nominations(agent)[-1] == (3.55, 7001)
        assert agent.routed == {1: low.address}

    def test_the_best_pair_goes_silent(self) -> None:
        """It answers its first check and nothing after that: the other pair takes over, nothing is closed."""
        world, agent, high, low = two_puppets(controlling=True)
        add_both(agent, high, low)
        heard_from(agent, high, low)
        world.run_until(lambda: bool(agent.routed), timeout=1)
        high.answering = False
        world.run(until=60)
        assert agent.routed == {1: low.address}
        assert agent.closed == [] and agent.agent.state == "completed"

    def test_the_only_nomination_fails(self) -> None:
        world, agent, puppet = puppeteer(controlling=True)
        puppet.answerer = self.refusing(puppet)
        agent.add(puppet.candidate, None)
        puppet.check(agent, controlling=False)
        world.run(until=60)
        assert agent.node.routes == {}
        assert agent.agent.state in ("failed", "closed")

    def test_another_pair_is_still_being_checked(self) -> None:
        """The first valid pair fails, the other is unanswered as yet: the session lives on."""
        world, agent, high, low = two_puppets(controlling=True)
        low.answering = False
        high.answerer = self.refusing(high)
        add_both(agent, high, low)
        heard_from(agent, high)
        world.run(until=0.2)
        assert nominations(agent) == [(0.05, 7000)]
        assert agent.closed == []
        low.answering = True
        heard_from(agent, low)
        world.run(until=0.6)
        assert agent.routed == {1: low.address}
        assert agent.complete


class TestControlled:
    def nominated(self, agent: Peer) -> list[tuple[float, int]]:
        return [(round(t, 6), e.remote.port) for t, e in agent.all(SelectedPair) if e.nominated]

    def test_the_nomination_may_come_with_the_first_check(self) -> None:
        """An aggressive peer (RFC 5245 §8.1.1.2): valid by our triggered check, nominated with it (§7.3.1.5)."""
        world, agent, high, _ = two_puppets(controlling=False)
        agent.add(high.candidate)
        world.run(until=0.1)
        high.check(agent, nominate=True)
        world.run(until=0.2)
        assert self.nominated(agent) == [(0.125, 7000)]
        assert agent.complete

    def test_nominated_before_it_is_valid(self) -> None:
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=True)
        world.run(until=0.2)
        assert self.nominated(agent) == [(0.075, 7000)]
        assert agent.connected_at == 0.075

    def both(self, first: int, second: int) -> tuple[Peer, list[Puppet]]:
        """The peer nominates both pairs, half a second apart: 0 is the one of higher priority."""
        world, agent, high, low = two_puppets(controlling=False)
        add_both(agent, high, low)
        puppets = [high, low]
        puppets[first].check(agent, nominate=True)
        world.at(0.5, lambda: puppets[second].check(agent, nominate=True))
        world.run(until=1)
        return agent, puppets

    def test_f27_the_better_one_is_kept(self) -> None:
        """livekit/livekit#642: USE-CANDIDATE on a worse pair afterwards."""
        agent, puppets = self.both(0, 1)
        assert agent.routed == {1: puppets[0].address}
        assert [port for _, port in self.nominated(agent)] == [7000]

    def test_f27_the_better_one_wins(self) -> None:
        """RFC 5245 §8.1.1.2: the pair of highest priority; 0.13.0 let the last one win."""
        agent, puppets = self.both(1, 0)
        assert agent.routed == {1: puppets[0].address}
        assert [port for _, port in self.nominated(agent)] == [7001, 7000]

    def test_f27_an_unknown_address_of_low_priority(self) -> None:
        world, agent, high, low = two_puppets(controlling=False)
        agent.add(host_candidate(*high.address), None)
        high.check(agent, nominate=True)
        world.run(until=0.2)
        low.check(agent, nominate=True, priority=1)
        world.run(until=1)
        assert agent.routed == {1: high.address}

    def test_the_same_nomination_again_is_no_news(self) -> None:
        """As a controlling peer does in its consent checks."""
        world, agent, puppet = puppeteer()
        for time in (0.0, 1.0, 2.0):
            world.at(time, lambda: puppet.check(agent, nominate=True))
        world.run(until=3)
        assert len(self.nominated(agent)) == 1


class TestF24:
    """pion/ice#907: keep-alives must not start checks."""

    def test_one_answer_no_check(self) -> None:
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=True)
        world.run(until=0.5)
        before = len(agent.checks)
        kept = []
        for number in range(10):
            world.at(1.0 + number * 0.2, lambda: kept.append(puppet.check(agent)))
        world.run(until=3.5)
        assert [len(puppet.answers_to(check)) for check in kept] == [1] * 10
        assert len(agent.checks) == before

    def test_valid_but_not_selected(self) -> None:
        """§7.3.1.4: a succeeded pair needs no triggered check either."""
        world, agent, puppet = puppeteer()
        puppet.check(agent)
        world.run(until=0.5)
        before = len(agent.checks)
        for number in range(10):
            world.at(1.0 + number * 0.2, lambda: puppet.check(agent))
        world.run(until=3.5)
        assert len(agent.checks) == before


class AggressiveChecker(Checker):
    """Puts USE-CANDIDATE into every check, as RFC 5245 allowed."""

    __slots__ = ()

    def _request(self, now: float, generation: Any, pair: Any, use_candidate: bool, *args: Any, **named: Any) -> Any:
        return super()._request(now, generation, pair, self.controlling, *args, **named)


class Aggressive(Peer):
    """An agent that nominates aggressively."""

    def __init__(self, host: Host, controlling: bool) -> None:
        super().__init__(host, controlling)
        self.agent._checker.__class__ = AggressiveChecker


class TestAggressivePeer:
    @pytest.mark.parametrize("loss", [0.0, 0.1])
    @pytest.mark.parametrize("controlling", [True, False])
    def test_both_settle_on_one_pair(self, controlling: bool, loss: float) -> None:
        """livekit/livekit#642: two addresses on each side, the two ends agree in the end."""
        for seed in range(20):
            world = World(seed)
            world.network(delay=0.025, loss=loss, jitter=0.01)
            mine = Peer(world.host("192.0.2.1", "192.0.2.11"), not controlling, name="mine")
            p = Pair(Aggressive(world.host("192.0.2.2", "192.0.2.12"), controlling), mine)
            p.connect()
            p.until_complete()
            world.run(until=4)
            left, right = (peer.node.routes[1] for peer in p)
            locals_ = [peer.node.links[peer.node.routes[1].link].local for peer in p]
            assert (left.peer, right.peer) == (locals_[1], locals_[0])
            p.talk()

    def test_checks_stay_few(self) -> None:
        world = World()
        world.network(delay=0.025)
        aggressive = Aggressive(world.host("192.0.2.2"), True)
        mine = Peer(world.host("192.0.2.1"), False, name="mine")
        p = Pair(aggressive, mine)
        p.connect()
        p.until_complete()
        assert len(mine.checks) == 2
        assert all(is_check(check.message) for check in mine.checks)


class TestInDoubt:
    """F30: the nominated path dies and another one works (RFC 8445 §8.1.1 ends nominations, but data must flow)."""

    def connected(self) -> tuple[World, Pair, Address]:
        """Both sides, on two paths; returns the peer's address on the nominated one."""
        world = World()
        world.network(delay=0.025)
        p = pair(world, hosts=(world.host("192.0.2.1"), world.host("192.0.2.2", "192.0.2.3")))
        p.connect()
        p.until_complete()
        return world, p, p.left.routed[1]

    def test_the_other_path_is_nominated_in_its_place(self) -> None:
        world, p, dead = self.connected()
        world.run(until=10.0)
        world.drop(lambda packet: dead in (packet.src, packet.dst))
        world.run(until=world.now + 16)
        assert p.left.complete and p.right.complete
        assert p.left.routed[1] == (("192.0.2.3" if dead[0] == "192.0.2.2" else "192.0.2.2"), p.left.routed[1][1])
        p.talk()
        world.run(until=world.now + 120)
        p.talk()

    def test_and_back(self) -> None:
        world, p, first = self.connected()
        dead = set()
        world.drop(lambda packet: bool(dead & {packet.src, packet.dst}))
        for _ in range(2):
            dead.add(p.left.routed[1])
            world.run(until=world.now + 16)
            assert p.left.routed[1] not in dead
            p.talk()
            dead.clear()
            world.run(until=world.now + 20)
        assert p.left.routed[1] == first

    def test_where_nothing_else_works(self) -> None:
        """It stays in use, and whichever path answers first goes on when consent has not ended yet."""
        world, p, used = self.connected()
        end = world.now + 20
        world.drop(lambda packet: world.now < end)
        world.run(until=end)
        assert not p.left.live and p.left.routed[1] == used
        world.run(until=world.now + 12)
        assert p.left.complete and p.right.complete
        p.talk()
