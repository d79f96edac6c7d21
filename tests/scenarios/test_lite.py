"""ICE-lite (RFC 8445 §2.5, §7.3.2, §8.2): as the peer, and as ourselves."""

from __future__ import annotations

import pytest

from aioice.core.events import SelectedPair
from aioice.core.gathering import StunServer
from aioice.core.message import Message
from aioice.sim import World
from tests.scenarios.support import STUN, Address, Pair, Peer, Puppet, behind, pair, puppeteer


class TestLitePeer:
    @pytest.mark.parametrize("controlling", [True, False])
    def test_f28_the_full_agent_controls(self, controlling: bool) -> None:
        """aiortc/aiortc#267: the peer only answers (§6.1.1), and the nomination is a regular one (§8.1.1)."""
        world, agent, puppet = puppeteer(controlling=controlling, connect=False)
        agent.add(puppet.candidate, None)
        agent.connect(puppet, lite=True)
        world.run(until=0.5)
        assert agent.agent.controlling
        assert agent.states == [(0.0, "checking"), (0.05, "connected"), (0.1, "completed")]
        sent = [(check.time, "USE-CANDIDATE" in check.message.attributes) for check in agent.checks]
        assert sent == [(0.0, False), (0.05, True)]
        assert all("ICE-CONTROLLING" in check.message.attributes for check in agent.checks)

    def test_f31_consent_of_a_server_that_wants_use_candidate(self) -> None:
        """openai/openai-agents-js#1353: media died after half a minute."""
        world, agent, puppet = puppeteer(controlling=True, connect=False)
        agent.add(puppet.candidate, None)
        agent.connect(puppet, lite=True)
        world.run(until=1)

        def picky(request: Message, source: Address) -> bytes | None:
            return puppet.answer(request, source) if "USE-CANDIDATE" in request.attributes else None

        puppet.answerer = picky
        world.run(until=120)
        assert agent.complete
        agent.send(b"media")
        world.run(until=121)
        assert puppet.data == [b"media"]

    def test_a_lite_peer_that_does_not_answer(self) -> None:
        world, agent, puppet = puppeteer(controlling=True, connect=False)
        puppet.answering = False
        agent.add(puppet.candidate, None)
        agent.connect(puppet, lite=True)
        world.run(until=60)
        assert agent.states[-1] == (39.5, "failed")


def with_lite(world: World | None = None, components: int = 1) -> tuple[World, Pair]:
    """A full agent behind a NAT and a lite one on a public address."""
    world = world or World()
    world.network(delay=0.025)
    world.stun_server(STUN[0])
    _, host = behind(world, "203.0.113.1", "10.0.0.2", mapping="address-and-port-dependent")
    full = Peer(host, True, name="full", components=components, stun_server=StunServer(*STUN))
    lite = Peer(world.host("192.0.2.2"), False, name="lite", lite=True, components=components)
    return world, Pair(full, lite)


class TestLiteSelf:
    def test_full_and_lite(self) -> None:
        world, p = with_lite()
        p.gather().exchange()
        p.left.connect(p.right, lite=True)
        p.right.connect(p.left)
        begun = world.now
        p.until_complete()
        assert round(p.left.completed_at - begun, 6) == 0.1
        assert p.right.checks == []
        assert p.left.selected[1] == ("prflx", "host", True)
        assert p.right.selected[1].nominated
        p.talk()

    def test_the_nominated_path_dies(self) -> None:
        """F30: the full agent nominates another pair, and the lite one, which asks for no consent, follows."""
        world = World()
        world.network(delay=0.025)
        hosts = world.host("192.0.2.1"), world.host("192.0.2.2", "192.0.2.3")
        p = pair(world, hosts=hosts, right={"lite": True})
        p.gather().exchange()
        p.left.connect(p.right, lite=True)
        p.right.connect(p.left)
        p.until_complete()
        dead = p.left.routed[1]
        world.drop(lambda packet: dead in (packet.src, packet.dst))
        world.run(until=world.now + 16)
        assert p.left.routed[1] != dead
        p.talk()

    def test_full_and_lite_without_being_told(self) -> None:
        """The full agent does not know; it nominates, and that settles it."""
        _, p = with_lite()
        p.connect()
        p.until_complete()
        p.talk()
        assert p.right.checks == []

    def test_two_components(self) -> None:
        _, p = with_lite(components=2)
        p.connect()
        p.until_complete()
        p.talk()
        assert set(p.right.routed) == {1, 2}

    def test_host_candidates_only(self) -> None:
        """§2.5, whatever servers are configured."""
        world = World()
        server = world.stun_server(STUN[0])
        agent = Peer(world.host("192.0.2.1"), False, lite=True, stun_server=StunServer(*STUN))
        agent.gather()
        world.run(until=5)
        assert [c.type for c in agent.agent.local_candidates] == ["host"]
        assert server.log == []

    def test_it_is_controlled(self) -> None:
        """§6.1.1: a full peer controls; a lite agent cannot take the role."""
        agent = Peer(World().host("192.0.2.1"), True, lite=True)
        assert not agent.agent.controlling
        agent.node.do(agent.agent.set_controlling, True)
        assert not agent.agent.controlling

    def lite(self) -> tuple[World, Peer, Puppet]:
        return puppeteer(lite=True)

    def test_it_answers_and_sends_nothing(self) -> None:
        world, agent, puppet = self.lite()
        check = puppet.check(agent)
        agent.add(puppet.candidate, None)
        world.run(until=100)
        assert len(puppet.answers_to(check)) == 1
        assert agent.checks == []
        assert agent.agent.state == "checking"
        assert agent.agent.poll_timeout() is None

    def test_the_nomination_is_the_peers(self) -> None:
        """§7.3.2: USE-CANDIDATE makes the pair valid and selected."""
        world, agent, puppet = self.lite()
        puppet.check(agent, nominate=True)
        world.run(until=1)
        assert agent.connected_at == 0.025
        assert agent.routed == {1: puppet.address}
        agent.send(b"media")
        puppet.send(agent, b"more")
        world.run(until=2)
        assert puppet.data == [b"media"]
        assert agent.received() == [b"more"]

    def test_repeated_nominations_are_no_news(self) -> None:
        """F31's other side: USE-CANDIDATE in every consent check."""
        world, agent, puppet = self.lite()
        for time in range(10):
            world.at(float(time), lambda: puppet.check(agent, nominate=True))
        world.run(until=11)
        assert [event.nominated for _, event in agent.all(SelectedPair)] == [True]
        assert len(agent.states) == 2

    def test_the_peer_may_move(self) -> None:
        """A pair of higher priority is nominated later."""
        world, agent, puppet = self.lite()
        other = Puppet(world.host("192.0.2.3"))
        puppet.check(agent, nominate=True, priority=1)
        world.run(until=1)
        other.check(agent, nominate=True, priority=1000)
        world.run(until=2)
        assert agent.routed == {1: other.address}

    def test_a_check_before_connect(self) -> None:
        world, agent, puppet = puppeteer(lite=True, connect=False)
        puppet.check(agent, nominate=True)
        world.run(until=1)
        agent.connect(puppet)
        assert agent.complete
        assert agent.routed == {1: puppet.address}

    def test_a_check_of_another_peer_before_connect(self) -> None:
        """Its ufrag is not the one that is signalled then."""
        world, agent, puppet = puppeteer(lite=True, connect=False)
        puppet.check(agent, nominate=True, username=f"{agent.username}:other")
        world.run(until=1)
        agent.connect(puppet)
        assert not agent.live
        assert agent.routed == {}

    def test_a_peer_that_says_it_is_controlled(self) -> None:
        """§7.3.1.1 with §6.1.1: the lite agent keeps its role."""
        world, agent, puppet = self.lite()
        check = puppet.check(agent, controlling=False)
        world.run(until=1)
        assert [answer.error_code for answer in puppet.answers_to(check)] == [487]
        assert not agent.agent.controlling

    def test_two_lite_agents_without_checks(self) -> None:
        """§6.1.1: they have nothing to find out; the application names the pair."""
        p = pair(lite=True).gather().exchange()
        for peer in p:
            link = next(iter(peer.node.links))
            peer.node.do(peer.agent.select, 1, link, peer.agent.remote_candidates[0])
        assert [peer.agent.state for peer in p] == ["completed", "completed"]
        p.talk()


class TestUnannounced:
    """A peer that answers checks and sends none, though nobody said that it is lite."""

    def test_it_is_taken_after_the_patience(self) -> None:
        world, agent, puppet = puppeteer(controlling=False, patience=5.0)
        agent.add(f"1 1 udp 2130706431 {puppet.address[0]} {puppet.address[1]} typ host", None)
        world.run(until=4.9)
        assert agent.agent.state == "checking"
        world.run(until=5.1)
        assert agent.agent.state == "connected"

    def test_not_with_the_wrong_password(self) -> None:
        """Its checks are not ours: it answers, but it will never use the pair."""
        world, agent, puppet = puppeteer(controlling=False, patience=5.0)
        agent.add(f"1 1 udp 2130706431 {puppet.address[0]} {puppet.address[1]} typ host", None)
        puppet.check(agent, password="wrong password of 22 chars")
        world.run(until=4.9)
        assert agent.agent.state == "checking"
        world.run(until=5.1)
        assert agent.agent.state == "failed" and "checks are not for this session" in agent.reason
