"""Roles and their conflicts (RFC 8445 §6.1.1, §7.2.5.1, §7.3.1.1)."""

from __future__ import annotations

import pytest

from aioice.core.message import Class, Message
from aioice.sim import World
from tests.scenarios.support import Address, Pair, pair, puppeteer


def conflict(seed: int, *, controlling: bool, loss: float = 0.0) -> Pair:
    world = World(seed)
    world.network(delay=0.025, loss=loss)
    return pair(world, left={"controlling": controlling}, right={"controlling": controlling})


@pytest.mark.parametrize("controlling", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_conflict_is_repaired(seed: int, controlling: bool) -> None:
    """Both start with the same role: the tie-breakers decide, and it costs half a round trip."""
    p = conflict(seed, controlling=controlling)
    assert p.connect() <= 0.1
    p.until_complete()
    assert p.left.agent.controlling is not p.right.agent.controlling
    assert [peer.selected[1].nominated for peer in p] == [True, True]
    assert max(len(peer.checks) for peer in p) <= 4
    p.talk()


@pytest.mark.parametrize("controlling", [True, False])
def test_the_larger_tie_breaker_controls(controlling: bool) -> None:
    """§7.3.1.1, from either role."""
    p = conflict(0, controlling=controlling)
    p.connect()
    role = "ICE-CONTROLLING" if controlling else "ICE-CONTROLLED"
    first = [peer.checks[0].message.attributes[role] for peer in p]
    assert p.left.agent.controlling == (first[0] > first[1])


def test_a_conflict_under_loss() -> None:
    for seed in range(30):
        p = conflict(seed, controlling=seed % 2 == 0, loss=0.1)
        p.connect()
        p.until_complete()
        assert p.left.agent.controlling is not p.right.agent.controlling


def test_one_side_only_knows_of_the_conflict() -> None:
    """The peer starts late: its answers settle the roles before it has checked."""
    p = conflict(3, controlling=True).gather().exchange()
    p.left.connect(p.right)
    p.world.run(until=1.0)
    p.right.connect(p.left)
    p.until_complete()
    assert p.left.agent.controlling is not p.right.agent.controlling


class TestF20:
    """pion/ice#892, elixir-webrtc/ex_ice#71."""

    def after_first(self, answer: str) -> tuple[list[Message], bool]:
        world, agent, puppet = puppeteer(controlling=True)
        answered: list[Message] = []

        def refuse_once(request: Message, source: Address) -> bytes | None:
            answered.append(request)
            return puppet.error(request, 487) if len(answered) == 1 else puppet.answer(request, source)

        puppet.answerer = refuse_once
        agent.add(puppet.candidate, None)
        world.run(until=0.3)
        return answered, agent.agent.controlling

    def test_the_role_changes_and_the_tie_breaker(self) -> None:
        """§7.2.5.1: the other role, a new tie-breaker, and the check again, at once."""
        (first, second), controlling = self.after_first("487")
        assert not controlling
        assert "ICE-CONTROLLING" in first.attributes
        assert "ICE-CONTROLLED" in second.attributes
        assert first.attributes["ICE-CONTROLLING"] != second.attributes["ICE-CONTROLLED"]
        assert first.transaction_id != second.transaction_id

    def test_a_late_487_does_not_flip_the_role_back(self) -> None:
        """The role becomes the opposite of the one in that request, so the second answer changes nothing."""
        world, agent, puppet = puppeteer(controlling=True)
        puppet.answering = False
        agent.add(puppet.candidate)
        world.run(until=0.03)
        puppet.check(agent, controlling=False)
        world.run(until=0.06)
        requests = [message for _, message in puppet.requests]
        assert len(requests) == 1
        world.run(until=0.09)
        requests = [message for _, message in puppet.requests]
        assert len(requests) == 2
        for request in requests:
            assert "ICE-CONTROLLING" in request.attributes
            puppet.socket.send(agent.address, puppet.error(request, 487))
        puppet.answering = True
        world.run(until=0.2)
        assert not agent.agent.controlling
        puppet.check(agent, controlling=True, nominate=True)
        world.run(until=0.4)
        assert not agent.agent.controlling
        assert agent.complete

    def test_the_same_487_twice(self) -> None:
        """A duplicate on the way: the first has ended the request."""
        world, agent, puppet = puppeteer(controlling=True)
        world.network(delay=0.025, duplicate=1.0)
        answered = 0

        def refuse_first(request: Message, source: Address) -> bytes | None:
            nonlocal answered
            answered += 1
            return puppet.error(request, 487) if "ICE-CONTROLLING" in request.attributes else None

        puppet.answerer = refuse_first
        agent.add(puppet.candidate, None)
        world.run(until=0.3)
        assert not agent.agent.controlling

    def test_a_peer_that_always_says_487(self) -> None:
        """0.13.0 sent thousands of checks; two honest agents need one repair."""
        world, agent, puppet = puppeteer(controlling=True)
        puppet.answerer = lambda request, source: puppet.error(request, 487)
        agent.add(puppet.candidate, None)
        world.run(until=60)
        assert len(agent.checks) == 4
        assert agent.states[-1] == (39.5, "failed")
        assert "role conflict without end" in agent.reason

    def test_an_unsigned_487_is_ignored(self) -> None:
        world, agent, puppet = puppeteer(controlling=True)

        def unsigned(request: Message, source: Address) -> bytes:
            return bytes(
                Message(request.message_method, Class.ERROR, request.transaction_id, {"ERROR-CODE": (487, "")})
            )

        puppet.answerer = unsigned
        agent.add(puppet.candidate)
        world.run(until=0.3)
        assert agent.agent.controlling
        assert len(agent.checks) == 1
        assert agent.agent.drops["answer not authentic"] == 1


class TestAsked:
    """What we answer (§7.3.1.1)."""

    @pytest.mark.parametrize("tie_breaker", [0, (1 << 64) - 1])
    @pytest.mark.parametrize("controlling", [True, False])
    def test_same_role(self, controlling: bool, tie_breaker: int) -> None:
        world, agent, puppet = puppeteer(controlling=controlling)
        puppet.tie_breaker = tie_breaker
        check = puppet.check(agent, controlling=controlling)
        world.run(until=0.06)
        (answer,) = puppet.answers_to(check)
        assert answer.check_message_integrity(agent.password.encode())
        # The larger one shall control.
        peer_gives_in = (tie_breaker == 0) == controlling
        if peer_gives_in:
            assert answer.error_code == 487
            assert agent.agent.controlling is controlling
            assert not agent.agent.check_list
        else:
            assert answer.message_class is Class.RESPONSE
            assert agent.agent.controlling is not controlling

    def test_roles_set_before_the_start(self) -> None:
        p = pair()
        p.gather()
        for peer, role in zip(p, (False, True), strict=True):
            peer.node.do(peer.agent.set_controlling, role)
        p.exchange().start()
        p.until_complete()
        assert [peer.agent.controlling for peer in p] == [False, True]
        assert "USE-CANDIDATE" in p.right.checks[-1].message.attributes

    def test_the_role_is_settled_once_checks_run(self) -> None:
        p = pair()
        p.connect()
        p.left.node.do(p.left.agent.set_controlling, False)
        assert p.left.agent.controlling

    def test_priorities_follow_the_role(self) -> None:
        """§6.1.2.3: both sides compute the same priority for a pair, whoever controls."""
        p = conflict(1, controlling=True)
        p.connect()
        p.until_complete()
        left, right = (peer.agent.check_list[0] for peer in p)
        assert left.priority == right.priority
