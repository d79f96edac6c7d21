"""What a restart renews (RFC 8445 §9)."""

from __future__ import annotations

import pytest

from aioice.core.agent import Agent, AgentConfig
from aioice.core.candidate import Candidate
from aioice.core.checklist import CheckList, Pair, PairState
from aioice.core.generation import (
    MAX_EARLY_CHECKS,
    MAX_PEER_REFLEXIVE,
    MAX_REMOTE_CANDIDATES,
    EarlyCheck,
    Generation,
)
from aioice.core.machine import LinkClosed, Opened, OpenUdp, Reason, Transmit
from aioice.core.message import Class, Message, Method
from aioice.core.selection import Selection
from tests.core.pairs import advance, base, candidate, counter, drain

PEER = ("192.0.2.1", 5000)


def make(components: int = 1) -> Generation:
    return Generation("ours", "our password", components, CheckList(True, 100), Selection())


def select(generation: Generation, component: int, nominated: bool) -> Pair:
    pair = generation.checks.add(base(component, component=component), candidate(component=component))
    assert pair is not None
    advance(generation.checks, pair, PairState.SUCCEEDED)
    generation.selection.valid(0.0, pair)
    if nominated:
        generation.selection.nominate(pair)
    return pair


class TestCredentials:
    def test_the_keys_sign(self) -> None:
        generation = make()
        generation.set_remote_credentials("theirs", "their password")
        for key, password in ((generation.local_key, b"our password"), (generation.remote_key, b"their password")):
            message = Message(Method.BINDING, Class.REQUEST, b"transaction!")
            message.add_message_integrity(key)
            assert message.check_message_integrity(password)

    def test_username_of_our_checks(self) -> None:
        # RFC 8445 §7.2.2: theirs comes first.
        generation = make()
        assert generation.remote_username is None
        generation.set_remote_credentials("theirs", "password")
        assert generation.username == b"theirs:ours"

    def test_changed_before_the_start(self) -> None:
        generation = make()
        generation.set_local_credentials("new", "new password")
        generation.set_remote_credentials("theirs", "password")
        assert (generation.local_username, generation.local_password) == ("new", "new password")
        assert generation.username == b"theirs:new"
        message = Message(Method.BINDING, Class.REQUEST, b"transaction!")
        message.add_message_integrity(b"new password")
        assert message.check_message_integrity(generation.local_key)


class TestRemoteCandidates:
    def test_found_by_component_and_address(self) -> None:
        # F18, RFC 8445 §7.3.1.3
        generation = make(2)
        second, first = candidate(component=2), candidate(component=1)
        generation.remote_candidates += [second, first]
        assert generation.find_remote(1, PEER) is first
        assert generation.find_remote(2, PEER) is second
        assert generation.find_remote(3, PEER) is None
        assert generation.find_remote(1, ("192.0.2.2", 5000)) is None
        assert generation.find_remote(1, ("192.0.2.1", 5001)) is None

    def test_found_though_it_is_listed_twice(self) -> None:
        generation = make()
        first, second = candidate(), candidate()
        generation.remote_candidates += [first, second]
        assert generation.find_remote(1, PEER, first) is second
        generation.remote_candidates.remove(second)
        assert generation.find_remote(1, PEER, first) is None

    def test_one_of_tcp_at_the_same_address_is_another(self) -> None:
        generation = make()
        tcp, udp = candidate(), candidate()
        tcp.transport, udp.transport = "tcp", "UDP"
        generation.remote_candidates.append(tcp)
        assert generation.find_remote(1, PEER) is None
        generation.remote_candidates.append(udp)
        assert generation.find_remote(1, PEER) is udp

    def test_room_for_those_seen_and_for_those_signalled(self) -> None:
        """Neither takes the place of the other."""
        generation = make()
        generation.remote_candidates += [candidate(port=n + 1, type="prflx") for n in range(MAX_PEER_REFLEXIVE - 1)]
        generation.remote_candidates += [candidate(port=n + 1) for n in range(MAX_REMOTE_CANDIDATES - 1)]
        assert generation.has_room("prflx") and generation.has_room("host")
        generation.remote_candidates.append(candidate(port=9, type="prflx"))
        assert not generation.has_room("prflx") and generation.has_room("srflx")
        generation.remote_candidates.append(candidate(port=9, type="relay"))
        assert not generation.has_room("host")

    def test_found_in_any_spelling(self) -> None:
        generation = make()
        remote = candidate("2001:DB8:0::1")
        generation.remote_candidates.append(remote)
        assert generation.find_remote(1, ("2001:db8::1", 5000)) is remote

    def reflexive(self) -> tuple[Generation, Candidate, Pair, Pair]:
        generation = make()
        old = candidate(type="prflx", priority=10)
        other = candidate(port=6000, priority=20)
        generation.remote_candidates += [old, other]
        low = generation.checks.add(base(), old)
        high = generation.checks.add(base(), other)
        assert low is not None and high is not None
        return generation, old, low, high

    def test_a_peer_reflexive_one_is_signalled_later(self) -> None:
        # F21, RFC 8838 §11
        generation, old, pair, other = self.reflexive()
        assert generation.checks.pairs == [other, pair]
        new = candidate(priority=30)
        generation.replace_remote(old, new)
        assert generation.remote_candidates == [new, other.remote]
        assert pair.remote is new
        assert generation.checks.pairs == [pair, other]
        assert generation.checks.find(1, PEER) is pair

    def test_by_a_name_that_was_listed_before(self) -> None:
        generation, old, pair, _ = self.reflexive()
        named = candidate("name.local", priority=5)
        generation.remote_candidates.append(named)
        named.address = PEER[0]
        generation.replace_remote(old, named)
        assert old not in generation.remote_candidates
        assert generation.remote_candidates.count(named) == 1
        assert pair.remote is named


class TestEarlyChecks:
    def test_the_oldest_goes_first(self) -> None:
        generation = make()
        message = Message(Method.BINDING, Class.REQUEST, b"transaction!")
        for port in range(MAX_EARLY_CHECKS + 5):
            generation.keep_early(EarlyCheck(base(), ("192.0.2.1", port), message))
        assert len(generation.early) == MAX_EARLY_CHECKS
        assert generation.early[0].peer[1] == 5


class TestProgress:
    def test_connected_when_every_component_has_a_valid_pair_and_the_peer_checks(self) -> None:
        # RFC 8445 §12.1
        generation = make(2)
        select(generation, 1, nominated=False)
        generation.heard += (1, 2)
        assert not generation.connected
        select(generation, 2, nominated=False)
        assert generation.connected
        generation.heard = (2,)
        assert not generation.connected
        assert not generation.complete

    def test_a_lite_peer_sends_no_checks(self) -> None:
        generation = make()
        select(generation, 1, nominated=False)
        assert not generation.connected
        generation.remote_is_lite = True
        assert generation.connected

    def test_complete_when_every_component_has_a_nominated_pair(self) -> None:
        generation = make(2)
        select(generation, 1, nominated=True)
        assert not generation.complete
        pair = select(generation, 2, nominated=False)
        assert not generation.complete
        generation.selection.nominate(pair)
        assert generation.complete and generation.connected


class TestForeignCandidates:
    def test_those_of_another_ufrag_are_forgotten_with_their_pairs(self) -> None:
        # RFC 8838 §4.1
        generation = make()
        ours, foreign, silent, named = (candidate(port=port) for port in (1, 2, 3, 4))
        ours.extensions = (("ufrag", "theirs"),)
        foreign.extensions = named.extensions = (("ufrag", "other"),)
        generation.remote_candidates += [ours, foreign, silent, named]
        for remote in (ours, foreign, silent):
            generation.checks.add(base(), remote)
        generation.resolving = {7: named, 8: silent}
        generation.set_remote_credentials("theirs", "password")
        assert generation.drop_foreign() == 2
        assert generation.remote_candidates == [ours, silent]
        assert {pair.remote for pair in generation.checks.pairs} == {ours, silent}
        assert generation.resolving == {8: silent}
        assert generation.drop_foreign() == 0


class TestHopeless:
    def test_while_each_component_has_a_valid_or_an_unanswered_pair(self) -> None:
        generation = make(2)
        select(generation, 1, nominated=False)
        generation.checks.add(base(2, component=2), candidate(component=2))
        assert generation.hopeless == ""

    def test_a_peer_that_is_not_there(self) -> None:
        assert make().hopeless == "the peer gave no candidates and sent no checks"

    def test_no_pairs(self) -> None:
        generation = make()
        generation.remote_candidates.append(candidate("2001:db8::1"))
        assert generation.hopeless == "no remote candidate can be paired with a local one for component 1"

    def test_all_pairs_have_failed(self) -> None:
        generation = make(2)
        select(generation, 1, nominated=True)
        for port, why in ((1, "no answer"), (2, "unreachable"), (3, "no answer")):
            remote = candidate(port=port, component=2)
            generation.remote_candidates.append(remote)
            pair = generation.checks.add(base(2, component=2), remote)
            assert pair is not None
            generation.checks.fail(pair, why)
        assert generation.hopeless == "all 3 pairs of component 2 failed: 2 × no answer, 1 × unreachable"


class TestComponents:
    def test_what_the_peer_does_not_offer_is_not_waited_for(self) -> None:
        generation = make(2)
        generation.remote_candidates += [candidate(component=1), candidate(component=7)]
        generation.prune_components()
        assert list(generation.components) == [1, 2]
        generation.remote_end = True
        generation.prune_components()
        assert list(generation.components) == [1]

    def test_not_while_names_are_looked_up(self) -> None:
        generation = make(2)
        generation.remote_candidates.append(candidate())
        generation.resolving = {1: candidate("name.local", component=2)}
        generation.remote_end = True
        generation.prune_components()
        assert list(generation.components) == [1, 2]

    def test_a_peer_without_candidates_may_still_check(self) -> None:
        # F17, RFC 8863 §4
        generation = make(2)
        generation.remote_end = True
        generation.prune_components()
        assert list(generation.components) == [1, 2]


class TestAgentsTimer:
    """An agent whose generation does not check (any more) wakes for nothing."""

    @staticmethod
    def agent(components: int = 1) -> Agent:
        agent = Agent(AgentConfig(True, components, patience=1.0), counter(), "ours", "our password")
        for component in range(1, components + 1):
            agent.gather(0.0, component, ["198.51.100.1"], 5.0)
        for output in drain(agent):
            if isinstance(output, OpenUdp):
                agent.handle_report(0.0, Opened(output.link, ("198.51.100.1", 1000 + output.link)))
        return agent

    def test_restart_while_checking(self) -> None:
        agent = self.agent()
        agent.connect(10.0, "theirs", "their password")
        assert agent.poll_timeout() == 11.0
        agent.restart(10.5, "new", "new password")
        assert agent.poll_timeout() is None

    @pytest.mark.parametrize("after", [0.0, 0.5])
    def test_failure_while_a_nomination_is_held_back(self, after: float) -> None:
        agent = self.agent(2)
        agent.connect(10.0, "theirs", "their password")
        better = candidate(port=1, component=1, priority=200, foundation="a")
        for remote in (better, candidate(port=2, component=1, priority=100, foundation="b")):
            agent.add_remote_candidate(10.0, remote)
        agent.add_remote_candidate(10.0, candidate(port=3, component=2, foundation="c"))
        agent.add_remote_candidate(10.0, None)
        pairs = {pair.peer[1]: pair for pair in agent.check_list}
        generation = agent._generation
        advance(generation.checks, pairs[2], PairState.SUCCEEDED)
        pairs[2].rtt = 1.0
        generation.selection.valid(10.9, pairs[2])
        agent.handle_timeout(10.9)
        generation.checks.fail(pairs[3], "no answer")
        agent.handle_timeout(11.0 + after)
        assert agent.state == "failed"
        agent.handle_timeout(20.0)
        deadline = agent.poll_timeout()
        assert deadline is None or deadline > 20.0

    def test_a_lost_socket_is_left_alone_also_by_a_second_attempt(self) -> None:
        agent = self.agent()
        agent.gather(0.0, 1, ["198.51.100.2"], 5.0)
        (link,) = [output.link for output in drain(agent) if isinstance(output, OpenUdp)]
        agent.handle_report(0.0, Opened(link, ("198.51.100.2", 5000)))
        agent.add_remote_candidate(0.0, candidate())
        agent.connect(10.0, "theirs", "their password")
        agent.handle_report(10.0, LinkClosed(link, Reason.OTHER, "gone"))
        agent.add_remote_candidate(10.0, None)
        drain(agent)
        now = 10.0
        while agent.state == "checking":
            deadline = agent.poll_timeout()
            assert deadline is not None and deadline > now
            now = deadline
            agent.handle_timeout(now)
        first = {output.link for output in drain(agent) if isinstance(output, Transmit)}
        agent.connect(now, "theirs", "their password")
        agent.handle_timeout(now + 1)
        second = {output.link for output in drain(agent) if isinstance(output, Transmit)}
        assert first == second == {1}
