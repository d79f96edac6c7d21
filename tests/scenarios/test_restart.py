"""ICE restart (RFC 8445 §9): the old pair carries data until one of the new generation is selected."""

from __future__ import annotations

import pytest

from aioice.core.gathering import StunServer
from aioice.core.machine import Revoke, Route, Unroute
from aioice.core.message import Class
from aioice.sim import World
from tests.scenarios.support import STUN, Pair, Puppet, host_candidate, pair, puppeteer


def connected(**config: object) -> Pair:
    p = pair(**config)
    p.connect()
    p.until_complete()
    p.world.run(until=1.0)
    return p


def gaps(p: Pair) -> list[object]:
    """Moments at which a component had no route."""
    return [out for peer in p for _, out in peer.node.outputs if isinstance(out, Unroute)]


class TestRestart:
    def test_to_a_new_pair(self) -> None:
        """One round trip, as at the start, and the states as at the start."""
        p = connected()
        p.restart()
        assert [peer.agent.state for peer in p] == ["checking", "checking"]
        p.until_complete()
        assert [round(time, 6) for time, _ in p.left.states] == [0.0, 0.05, 0.1, 1.0, 1.05, 1.1]
        assert [state for _, state in p.left.states] == ["checking", "connected", "completed"] * 2
        p.talk()

    def test_the_old_pair_carries_data(self) -> None:
        """From the restart to the selection there is no moment without a route."""
        p = connected()
        p.left.restart()
        p.talk()
        p.right.restart()
        p.talk()
        p.exchange()
        p.talk()
        p.start()
        p.talk()
        p.until_complete()
        p.talk()
        assert gaps(p) == []

    def test_data_moves_when_the_new_pair_is_nominated(self) -> None:
        """Not before: the new first valid pair does not replace a selected one."""
        p = connected()
        p.world.run(until=1.0)
        p.restart()
        p.until_complete()
        moved = [round(time, 6) for time, out in p.left.node.outputs if isinstance(out, Route)]
        assert moved == [0.05, 1.1]

    @pytest.mark.parametrize("both", [False, True])
    def test_the_roles_stay(self, both: bool) -> None:
        """§6.1.1, §9: also those that a conflict has changed."""
        p = connected(right={"controlling": True}) if both else connected()
        roles = [peer.agent.controlling for peer in p]
        assert sorted(roles) == [False, True]
        p.restart()
        p.until_complete()
        assert [peer.agent.controlling for peer in p] == roles
        for peer, role in zip(p, roles, strict=True):
            late = [check.message.attributes for check in peer.checks if check.time >= 1.0]
            assert late and all(("ICE-CONTROLLING" in check) is role for check in late)

    def test_new_credentials_in_the_new_checks(self) -> None:
        p = connected()
        p.restart()
        p.until_complete()
        late = [check.message.attributes["USERNAME"] for check in p.left.checks if check.time >= 1.0]
        assert set(late) == {"right1:left1"}

    def test_both_ufrags_are_answered(self) -> None:
        """Until a pair of the new generation is selected; then the old one draws 401 as any stranger does."""
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=True)
        world.run(until=0.5)
        old = (agent.username, agent.password)
        agent.restart()

        def ask(username: str, password: str) -> object:
            check = puppet.check(agent, username=f"{username}:{puppet.username}", password=password)
            world.run(until=world.now + 0.1)
            (answer,) = puppet.answers_to(check)
            return answer.error_code or answer.message_class

        assert ask(*old) is Class.RESPONSE
        assert ask(agent.username, agent.password) is Class.RESPONSE
        puppet.username, puppet.password = "pup2", "pup2passwordpassword00"
        agent.connect(puppet)
        assert ask(agent.username, agent.password) is Class.RESPONSE
        puppet.check(agent, nominate=True)
        world.run(until=world.now + 0.3)
        assert agent.complete
        assert ask(*old) == 401
        assert ask(agent.username, agent.password) is Class.RESPONSE

    def test_consent_on_the_old_pair_goes_on(self) -> None:
        """Signalling takes two minutes: the old pair lives."""
        p = connected()
        for peer in p:
            peer.restart()
        p.world.run(until=120)
        p.talk()
        assert gaps(p) == []
        p.exchange().start()
        p.until_complete()
        p.talk()

    def test_one_side_restarts_much_earlier(self) -> None:
        p = connected()
        p.left.restart()
        p.world.run(until=60)
        p.talk()
        p.right.restart()
        p.exchange().start()
        p.until_complete()
        p.talk()
        assert gaps(p) == []

    def test_the_old_pair_dies_while_restarting(self) -> None:
        """That is what restarts are for: its end does not close the session."""
        p = connected()
        dead = p.world.drop(lambda packet: True)
        p.world.run(until=10)
        for peer in p:
            peer.restart()
        p.world.run(until=60)
        assert [peer.closed for peer in p] == [[], []]
        assert [peer.node.routes for peer in p] == [{}, {}]
        dead.cancel()
        p.exchange().start()
        p.until_complete()
        p.talk()

    def test_the_old_pair_dies_and_nobody_connects(self) -> None:
        """No zombie: the session ends a transaction's time-out after the data has."""
        p = connected()
        p.world.drop(lambda packet: True)
        p.left.restart()
        p.world.run(until=100)
        ((ended, reason),) = p.left.closed
        assert 69.5 <= ended <= 76.5 and "not followed by connect()" in reason

    def test_the_new_generation_fails(self) -> None:
        """No pair is found; the old one still carries data."""
        p = connected()
        for peer in p:
            peer.restart()
            peer.add(host_candidate("192.0.2.99", 9), None)
        p.start()
        p.world.drop(lambda packet: b"left1" in packet.data or b"right1" in packet.data)
        p.world.run(until=80)
        assert [peer.agent.state for peer in p] == ["failed", "failed"]
        p.talk()

    def test_the_new_generation_fails_and_then_the_old_pair_dies(self) -> None:
        """Nothing is left to wait for: the session ends with the old pair's consent, and says so."""
        p = connected()
        p.left.restart()
        p.left.agent.connect(p.world.now, "nobody", "p" * 22)
        p.left.node.do(p.left.agent.add_remote_candidate, None)
        p.world.run_until(lambda: p.left.agent.state == "failed", timeout=60)
        assert p.left.closed == []
        p.world.drop(lambda packet: True)
        p.world.run(until=p.world.now + 37)
        ((_, reason),) = p.left.closed
        assert "consent expired" in reason

    def test_two_components(self) -> None:
        p = connected(components=2)
        p.restart()
        p.until_complete()
        p.talk()
        assert gaps(p) == []
        assert set(p.left.routed) == {1, 2}

    def test_who_was_heard_only_before_is_revoked(self) -> None:
        """Data is still taken from the address that the new generation uses, no longer from another."""
        p = connected()
        link = next(iter(p.left.node.links))
        p.left.agent._accept(link, ("192.0.2.99", 9), 1, proven=False)
        p.restart()
        p.until_complete()
        revoked = [out for _, out in p.left.node.outputs if isinstance(out, Revoke)]
        assert revoked == [Revoke(link, ("192.0.2.99", 9))]
        p.talk()


class TestTwice:
    def test_one_after_the_other(self) -> None:
        p = connected()
        for _ in range(3):
            p.restart()
            p.until_complete()
            p.world.run(until=p.world.now + 1)
        p.talk()
        assert gaps(p) == []

    def test_again_before_the_first_has_got_anywhere(self) -> None:
        """The pair that carries data is two generations old, and still kept alive."""
        p = connected()
        for peer in p:
            peer.restart()
        p.world.run(until=5)
        for peer in p:
            peer.restart()
        p.world.run(until=90)
        p.talk()
        assert gaps(p) == []
        p.exchange().start()
        p.until_complete()
        p.talk()
        assert gaps(p) == []

    def test_again_while_checks_run(self) -> None:
        p = connected()
        p.restart()
        p.world.run(until=p.world.now + 0.03)
        p.restart()
        p.until_complete()
        p.world.run(until=p.world.now + 60)
        assert [check.message.attributes["USERNAME"] for check in p.left.checks][-1] == "right2:left2"
        p.talk()
        assert gaps(p) == []


class TestEarly:
    def test_before_anything(self) -> None:
        """Nothing is in use: simply new credentials."""
        p = pair()
        for peer in p:
            peer.restart()
        p.connect()
        p.until_complete()
        assert {check.message.attributes["USERNAME"] for check in p.left.checks} == {"right1:left1"}

    def test_while_gathering(self) -> None:
        """pion/ice#942: gathering goes on and ends; its candidates belong to the new generation."""
        world = World()
        world.network(delay=0.025)
        world.stun_server(STUN[0])
        p = pair(world, stun_server=StunServer(*STUN))
        for peer in p:
            peer.gather()
        world.run(until=0.02)
        assert not p.left.gathered
        for peer in p:
            peer.restart()
        world.run_until(lambda: p.left.gathered and p.right.gathered)
        p.exchange().start()
        p.until_complete()
        p.talk()

    def test_while_checking(self) -> None:
        p = pair().gather()
        p.left.add(host_candidate("192.0.2.99", 9), None)
        p.left.connect(p.right)
        p.world.run(until=2)
        p.restart()
        p.until_complete()
        p.talk()

    def test_after_failure(self) -> None:
        p = pair(patience=0.5).gather()
        for peer in p:
            peer.add(None)
        p.start()
        p.world.run(until=5)
        assert [peer.agent.state for peer in p] == ["failed", "failed"]
        p.restart()
        p.until_complete()
        p.talk()

    def test_after_the_end(self) -> None:
        p = connected()
        p.left.close()
        p.left.restart()
        assert p.left.agent.poll_output() is None
        assert p.left.node.done == "closed"

    def test_checks_of_the_new_generation_that_come_before_its_credentials(self) -> None:
        """The peer has our new credentials before we have its."""
        p = connected()
        for peer in p:
            peer.restart()
        p.right.add(*p.left.agent.local_candidates, None)
        p.right.connect(p.left)
        p.world.run(until=3)
        p.left.add(*p.right.agent.local_candidates, None)
        p.left.connect(p.right)
        p.until_complete()
        p.talk()
        assert gaps(p) == []


class TestLateCandidates:
    """w3c/webrtc-pc#1227: a candidate goes to the generation of its ``ufrag`` (RFC 8838 §4.1)."""

    def test_old_and_new(self) -> None:
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=True)
        world.run(until=0.5)
        agent.restart()
        renewed = Puppet(world.host("192.0.2.3"), name="pup2")
        agent.connect(renewed)
        agent.add(host_candidate("192.0.2.7", 9, extensions=(("ufrag", "pupp"),)))
        assert agent.agent.remote_candidates == [] and agent.agent.check_list == []
        agent.add(host_candidate("192.0.2.8", 9, extensions=(("ufrag", "pup2"),)))
        agent.add(host_candidate("192.0.2.9", 9))
        assert [c.host for c in agent.agent.remote_candidates] == ["192.0.2.8", "192.0.2.9"]
        agent.add(host_candidate("192.0.2.10", 9, extensions=(("ufrag", "pup3"),)))
        assert agent.agent.drops["candidate of another session"] == 1

    def test_the_new_one_is_not_known_yet(self) -> None:
        """Candidates of the new generation may come before its credentials; those of the old one are told apart."""
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=True)
        world.run(until=0.5)
        agent.restart()
        agent.add(host_candidate("192.0.2.7", 9, extensions=(("ufrag", "pupp"),)))
        agent.add(host_candidate("192.0.2.8", 9, extensions=(("ufrag", "pup2"),)))
        assert [c.host for c in agent.agent.remote_candidates] == ["192.0.2.8"]

    @pytest.mark.parametrize("others", [0, 3])
    def test_the_credentials_tell_which_ones_were_meant(self, others: int) -> None:
        """What was added before them and has another ufrag is dropped when they come."""
        world, agent, puppet = puppeteer(controlling=True, connect=False)
        for number in range(others):
            agent.add(host_candidate("192.0.2.8", 9 + number, extensions=(("ufrag", f"oth{number}"),)))
        agent.add(host_candidate(*puppet.address, extensions=(("ufrag", "pupp"),)), None)
        agent.connect(puppet)
        world.run(until=0.5)
        assert [c.host for c in agent.agent.remote_candidates] == ["192.0.2.2"]
        assert len(agent.agent.check_list) == 1
        assert agent.agent.drops["candidate of another session"] == others
        assert agent.complete
