"""The ICE agent (RFC 8445, 8838, 8863, 7675), its verbs, its promises and the order of what it says."""

from __future__ import annotations

import pytest

from aioice.core.accepting import MAX_ACCEPTED
from aioice.core.bases import BaseLost, Found
from aioice.core.candidate import Candidate
from aioice.core.checklist import PairState
from aioice.core.events import (
    ConnectionClosed,
    ConnectionState,
    ConsentExpired,
    LocalCandidate,
    SelectedPair,
    StateChanged,
)
from aioice.core.gathering import Gathered, StunServer
from aioice.core.generation import MAX_REMOTE_CANDIDATES
from aioice.core.machine import (
    Accept,
    Close,
    Deliver,
    Done,
    OpenFailed,
    OpenRelay,
    OpenUdp,
    Reason,
    Resolve,
    Resolved,
    Revoke,
    Route,
    SendFailed,
    Transmit,
    Tunables,
    Unroute,
)
from aioice.core.message import Class, Message, Method, parse_message
from tests.core.agent_scene import CONTROLLING, OTHER_PEER, Scene, connected, peer_candidate
from tests.core.check_scene import ELSEWHERE, MAPPED, PEER, TA, check
from tests.core.gather_scene import HOST, HOST6, OTHER, RELAYED, STUN, TURN, TURN_SERVER, stun_answer, turn_answer
from tests.core.pairs import candidate

NEW, CHECKING, CONNECTED, COMPLETED, DISCONNECTED, FAILED, CLOSED = (
    ConnectionState.NEW,
    ConnectionState.CHECKING,
    ConnectionState.CONNECTED,
    ConnectionState.COMPLETED,
    ConnectionState.DISCONNECTED,
    ConnectionState.FAILED,
    ConnectionState.CLOSED,
)
ENDED = LocalCandidate(None)


class TestLocalCandidates:
    def test_the_order_of_what_is_told(self) -> None:
        """The base before its candidate: the runner may look it up."""
        scene = Scene().gather()
        assert scene.kinds() == ["OpenUdp", "Found", "LocalCandidate", "Gathered", "LocalCandidate"]
        found, told, gathered, end = scene.log[1:]
        assert found.candidate is found.base.candidate is told.candidate
        assert (told.candidate.type, told.candidate.host, gathered) == ("host", HOST, Gathered(1))
        assert end.candidate is None
        assert scene.agent.local_candidates == [told.candidate] and scene.agent.state is NEW

    def test_the_end_is_told_once_all_components_are_gathered(self) -> None:
        # RFC 8838 §13
        scene = Scene(components=2).gather()
        assert [told.candidate is None for told in scene.take(LocalCandidate)] == [False]
        scene.gather(component=2)
        assert [told.candidate is None for told in scene.take(LocalCandidate)] == [False, False, True]
        scene.gather(OTHER).end_gathering()
        assert [told.candidate is None for told in scene.take(LocalCandidate)] == [False, False, True, False]

    def test_the_end_when_some_components_are_not_gathered_for(self) -> None:
        scene = Scene(components=2).gather().end_gathering()
        assert scene.take(LocalCandidate)[-1].candidate is None

    def test_a_server_reflexive_candidate_is_told_and_not_paired(self) -> None:
        # RFC 8445 §6.1.2.4: its base stands for it.
        scene = Scene(stun_server=StunServer(*STUN)).gather().ready(peer_candidate(), components=())
        (query,) = [transmit for transmit in scene.sent if transmit.peer == STUN]
        answer = stun_answer(parse_message(query.data))
        scene.agent.handle_datagram(scene.now, query.link, STUN, bytes(answer))
        scene.drain()
        assert [candidate.type for candidate in scene.agent.local_candidates] == ["host", "srflx"]
        assert len(scene.agent.check_list) == 1
        assert len(scene.take(Found)) == 1 and scene.take(LocalCandidate)[-1].candidate is None

    def test_a_socket_of_the_application(self) -> None:
        scene = Scene()
        ours = candidate(HOST, 7000)
        link = scene.agent.adopt(scene.now, ours, 77)
        scene.open[link] = (HOST, 7000)
        scene.drain().end_gathering()
        assert scene.kinds() == ["Found", "LocalCandidate", "LocalCandidate"]
        scene.add(peer_candidate()).connect()
        assert scene.checks[-1].link == link
        assert parse_message(scene.checks[-1].data).attributes["PRIORITY"] >> 8 & 0xFFFF == 77
        scene.close()
        assert scene.take(Close) == [Close(link)]

    def test_paired_with_what_the_peer_has_signalled_already(self) -> None:
        scene = Scene().add(peer_candidate()).connect()
        assert scene.checks == []
        scene.gather()
        assert scene.asked == [PEER]

    def test_numbers_are_never_used_twice(self) -> None:
        scene = Scene()
        numbers = [scene.agent.next_number(), scene.agent.adopt(0.0, candidate(HOST)), scene.agent.next_number()]
        assert len(set(numbers)) == 3

    def test_servers_set_later(self) -> None:
        scene = Scene()
        scene.agent.set_servers(scene.now, StunServer(*STUN), None)
        scene.gather()
        assert [transmit.peer for transmit in scene.sent] == [STUN]

    def test_a_lite_agent_asks_no_server(self) -> None:
        # RFC 8445 §2.5
        scene = Scene(lite=True, stun_server=StunServer(*STUN))
        scene.agent.set_servers(scene.now, StunServer(*STUN), TURN_SERVER)
        scene.gather()
        assert scene.sent == [] and scene.take(OpenUdp) == [OpenUdp(1, HOST)]


class TestRemoteCandidates:
    def test_paired_with_each_base_of_its_component_and_family(self) -> None:
        scene = Scene(components=2).gather(HOST, HOST6).gather(component=2)
        scene.add(peer_candidate()).add(peer_candidate(2))
        pairs = sorted((pair.base.candidate.host, pair.component) for pair in scene.agent.check_list)
        assert pairs == [(HOST, 1), (HOST, 2)]
        scene.add(candidate("2001:db8::9"))
        assert [pair.base.candidate.host for pair in scene.agent.check_list].count(HOST6) == 1

    @pytest.mark.parametrize("component", [3, 256])
    def test_of_a_component_that_we_do_not_have(self, component: int) -> None:
        scene = Scene().gather().add(peer_candidate(component))
        assert scene.agent.check_list == []

    def test_the_same_twice(self) -> None:
        scene = Scene().gather().add(peer_candidate()).add(peer_candidate())
        assert len(scene.agent.remote_candidates) == len(scene.agent.check_list) == 1

    def test_tcp_is_kept_and_not_paired(self) -> None:
        remote = peer_candidate()
        remote.transport = "TCP"
        scene = Scene().gather().add(remote)
        assert scene.agent.remote_candidates == [remote] and scene.agent.check_list == []

    def test_no_more_than_the_limit(self) -> None:
        scene = Scene()
        for port in range(MAX_REMOTE_CANDIDATES + 3):
            scene.add(peer_candidate(port=6000 + port))
        assert len(scene.agent.remote_candidates) == MAX_REMOTE_CANDIDATES
        assert scene.agent.drops == {"too many remote candidates": 3}

    def test_with_the_ufrag_of_another_session(self) -> None:
        # RFC 8838 §4.1
        scene = Scene().gather().connect()
        scene.add(with_ufrag("others")).add(with_ufrag("theirs", 4001))
        assert [remote.port for remote in scene.agent.remote_candidates] == [4001]
        assert scene.agent.drops == {"candidate of another session": 1}

    def test_with_an_ufrag_before_we_know_whose(self) -> None:
        scene = Scene().gather().add(with_ufrag("others")).add(with_ufrag("theirs", 4001))
        assert len(scene.agent.remote_candidates) == 2
        scene.connect().wait(5 * TA)
        assert [remote.port for remote in scene.agent.remote_candidates] == [4001]
        assert {peer[1] for peer in scene.asked} == {4001}
        assert scene.agent.drops == {"candidate of another session": 1}

    def test_with_the_ufrag_of_the_previous_generation(self) -> None:
        """It is that generation's, which still carries data, and no pair of the new one."""
        scene = connected().restart()
        scene.add(with_ufrag("theirs", 4001))
        assert scene.agent.remote_candidates == [] and scene.agent.check_list == []
        scene.add(with_ufrag("their+new", 4002))
        assert [remote.port for remote in scene.agent.remote_candidates] == [4002]
        assert scene.agent.drops == {}

    def test_after_a_nomination_nothing_more_is_paired(self) -> None:
        # RFC 8445 §8.1.2
        scene = connected().add(peer_candidate(port=4001))
        assert len(scene.agent.remote_candidates) == 2
        assert scene.pair.peer == PEER

    def test_one_that_was_peer_reflexive(self) -> None:
        # RFC 8838 §11
        scene = Scene(controlling=False).gather().connect().hear(role=CONTROLLING)
        assert [remote.type for remote in scene.agent.remote_candidates] == ["prflx"]
        scene.answer()
        remote = peer_candidate()
        scene.add(remote)
        assert scene.agent.remote_candidates == [remote] and scene.pair.remote is remote
        assert scene.take(Route)[-1] == Route(1, scene.link, PEER, remote)

    def test_the_end_prunes_components(self) -> None:
        # RFC 8863 §4: what the peer has no candidate for, it does not use.
        scene = Scene(components=2).gather().gather(component=2).add(peer_candidate()).add(None).connect()
        scene.answer_all()
        assert scene.agent.state is COMPLETED


class TestNames:
    """draft-ietf-mmusic-mdns-ice-candidates"""

    NAME = "5a1b8ed6-1f3e-4b0f-9d1c-0a1b2c3d4e5f.local"

    def named(self, port: int = PEER[1]) -> Candidate:
        return candidate(self.NAME, port, foundation="n")

    def test_looked_up_and_paired(self) -> None:
        scene = Scene().ready(self.named())
        (resolve,) = scene.take(Resolve)
        assert resolve.name == self.NAME and scene.agent.check_list == []
        scene.report(Resolved(resolve.query, (PEER[0],)))
        assert scene.asked == [PEER]
        # §3.3.1: the name stays what is shown.
        assert [remote.host for remote in scene.agent.remote_candidates] == [self.NAME]

    def test_the_address_of_a_family_that_we_have(self) -> None:
        for hosts, answer, wanted in (
            ((HOST,), ("2001:db8::9", "192.0.2.1"), "192.0.2.1"),
            ((HOST, HOST6), ("2001:db8::9", "192.0.2.1"), "2001:db8::9"),
            ((HOST,), ("2001:db8::9",), "2001:db8::9"),
        ):
            scene = Scene()
            scene.names[self.NAME] = answer
            scene.gather(*hosts).add(self.named())
            assert scene.agent.remote_candidates[0].address == wanted

    def test_of_a_candidate_that_we_know_by_its_address(self) -> None:
        scene = Scene()
        scene.names[self.NAME] = (PEER[0],)
        scene.gather().add(peer_candidate()).add(self.named())
        assert [remote.host for remote in scene.agent.remote_candidates] == [PEER[0]]

    def test_of_a_candidate_that_we_have_seen(self) -> None:
        scene = Scene(controlling=False).gather().connect().add(self.named()).hear(role=CONTROLLING)
        assert [remote.type for remote in scene.agent.remote_candidates] == ["host", "prflx"]
        scene.report(Resolved(scene.take(Resolve)[0].query, (PEER[0],)))
        assert [remote.host for remote in scene.agent.remote_candidates] == [self.NAME]
        assert scene.pair.remote.host == self.NAME

    def test_that_nobody_has(self) -> None:
        """While it is looked up there is hope, then there is none."""
        scene = Scene(patience=1.0).ready(self.named())
        scene.wait(5.0)
        assert scene.agent.state is CHECKING
        scene.report(Resolved(scene.take(Resolve)[0].query, ()))
        assert scene.agent.state is FAILED

    def test_not_in_the_policy_that_hides_our_addresses(self) -> None:
        # §3.2
        scene = Scene(relay_only=True).gather(HOST).add(self.named())
        assert scene.agent.remote_candidates == [] and scene.take(Resolve) == []

    def test_not_through_a_relay(self) -> None:
        # §3.3.2: it would show the address to the server.
        scene = Scene(turn_server=TURN_SERVER)
        scene.names[self.NAME] = (PEER[0],)
        scene.gather().add(self.named())
        assert [pair.base.candidate.type for pair in scene.agent.check_list] == ["host"]

    def test_of_a_server_goes_to_the_gatherer(self) -> None:
        scene = Scene(stun_server=StunServer("stun.example", 3478))
        scene.names["stun.example"] = (STUN[0],)
        scene.gather()
        assert [transmit.peer for transmit in scene.sent] == [STUN]


class TestBeforeChecks:
    def test_the_role_may_be_set(self) -> None:
        scene = Scene().gather().add(peer_candidate())
        scene.agent.set_controlling(scene.now, False)
        scene.drain().connect()
        assert not scene.agent.controlling
        assert "ICE-CONTROLLED" in parse_message(scene.checks[-1].data).attributes

    def test_but_not_while_checks_run(self) -> None:
        scene = Scene().ready()
        scene.agent.set_controlling(scene.now, False)
        assert scene.agent.controlling

    def test_and_not_that_of_a_lite_agent(self) -> None:
        # RFC 8445 §6.1.1
        scene = Scene(lite=True)
        assert not scene.agent.controlling
        scene.agent.set_controlling(scene.now, True)
        assert not scene.agent.controlling

    def test_a_full_agent_controls_a_lite_one(self) -> None:
        # RFC 8445 §6.1.1
        assert Scene(controlling=False).ready().agent.controlling is False
        assert Scene(controlling=False).gather().connect(remote_is_lite=True).agent.controlling
        assert not Scene(lite=True).gather().connect(remote_is_lite=True).agent.controlling

    def test_local_credentials_may_be_set(self) -> None:
        scene = Scene().gather()
        scene.agent.set_local_credentials(scene.now, "ours", "our password")
        scene.agent.set_local_credentials(scene.now, "ours", "changed password")
        scene.hear(password="changed password")
        assert len(scene.take(Accept)) == 1
        scene.agent.set_local_credentials(scene.now, "renamed", "changed password")
        scene.hear(OTHER_PEER, username="renamed:theirs", password="changed password")
        assert len(scene.take(Accept)) == 2

    def test_early_checks_are_answered_and_accepted(self) -> None:
        scene = Scene(controlling=False).gather().hear(role=CONTROLLING)
        assert scene.take(Accept) == [Accept(scene.link, PEER, 1)]
        scene.connect()
        assert scene.asked == [PEER] and scene.pair.remote.type == "prflx"


class TestConnecting:
    def test_the_controlling_side(self) -> None:
        scene = Scene().ready()
        before = len(scene.log)
        scene.answer()
        # Data may flow at once (RFC 8445 §12.1): it is accepted before anything is sent, and told last.
        assert scene.kinds(before) == ["Accept", "Route", "SelectedPair"]
        assert "USE-CANDIDATE" in parse_message(scene.checks[-1].data).attributes
        assert scene.agent.state is CHECKING
        scene.answer()
        assert scene.kinds(before)[3:] == ["SelectedPair", "StateChanged"]
        assert [event.nominated for event in scene.take(SelectedPair)] == [False, True]
        assert scene.states == [CHECKING, COMPLETED]
        assert len(scene.take(Route)) == 1

    def test_the_controlled_side(self) -> None:
        """A valid pair counts once the peer is known to be there."""
        scene = Scene(controlling=False).ready().answer()
        assert scene.agent.state is CHECKING and len(scene.take(Route)) == 1
        scene.hear(role=CONTROLLING)
        assert scene.agent.state is CONNECTED
        scene.hear(role=CONTROLLING, USE_CANDIDATE=None)
        assert scene.states == [CHECKING, CONNECTED, COMPLETED]

    def test_a_lite_agent(self) -> None:
        # RFC 8445 §8.2
        scene = Scene(lite=True).ready().hear(role=CONTROLLING)
        assert scene.agent.state is CHECKING
        scene.hear(role=CONTROLLING, USE_CANDIDATE=None)
        assert scene.agent.state is COMPLETED and scene.checks == []
        assert scene.take(Route) == [Route(1, scene.link, PEER, scene.agent.remote_candidates[0])]
        assert scene.agent.poll_timeout() is None
        before = len(scene.log)
        scene.hear(role=CONTROLLING, USE_CANDIDATE=None)
        assert scene.kinds(before) == []

    def test_a_lite_agent_of_several_components(self) -> None:
        """RFC 8445 §12.1.1: it sends nothing before each component has a pair; after a restart, on the old ones."""
        scene = Scene(lite=True, components=2).ready(components=(1, 2))
        one, two = sorted(scene.open)
        for _ in range(2):
            before = len(scene.take(Route))
            scene.hear(role=CONTROLLING, link=one, USE_CANDIDATE=None)
            assert len(scene.take(Route)) == before and scene.agent.state is CHECKING
            scene.hear(role=CONTROLLING, link=two, USE_CANDIDATE=None)
            assert sorted(route.component for route in scene.take(Route)[before:]) == [1, 2]
            assert scene.agent.state is COMPLETED
            scene.restart().add(peer_candidate()).add(peer_candidate(2)).add(None).connect()
        assert scene.take(Unroute) == []

    def test_a_lite_agent_whose_peer_has_fewer_components(self) -> None:
        scene = Scene(lite=True, components=2).gather().gather(component=2).add(peer_candidate()).connect()
        scene.hear(role=CONTROLLING, USE_CANDIDATE=None)
        assert scene.take(Route) == []
        scene.add(None)
        assert [route.component for route in scene.take(Route)] == [1] and scene.agent.state is COMPLETED

    def test_a_lite_agent_does_not_lose_patience(self) -> None:
        # RFC 8863 §4 speaks of those who check.
        for scene in (Scene(lite=True, patience=1.0).ready(), Scene(lite=True, patience=1.0).gather().connect()):
            scene.wait(100.0)
            scene.agent.handle_timeout(scene.now)
            assert scene.drain().add(None).agent.state is CHECKING

    def test_all_components_count(self) -> None:
        scene = Scene(components=2).ready(components=(1, 2))
        scene.answer(scene.checks[0])
        assert [event.component for event in scene.take(SelectedPair)] == [1]
        scene.answer(scene.checks[1])
        assert scene.agent.state is CHECKING
        scene.answer_all()
        assert scene.agent.state is COMPLETED
        assert [accept.component for accept in scene.take(Accept)] == [1, 2]

    def test_one_that_fails_ends_the_data_of_the_other(self) -> None:
        """RFC 8445 §12.1."""
        scene = Scene(components=2, controlling=False, patience=1.0).report(Tunables(retry_max=0, retry_rto=0.5))
        scene.ready(components=(1, 2))
        scene.answer(scene.checks[0])
        assert [route.component for route in scene.take(Route)] == [1]
        scene.wait(3.0)
        assert scene.agent.state is FAILED
        assert [unroute.component for unroute in scene.take(Unroute)] == [1]

    def test_twice_is_once(self) -> None:
        scene = Scene().ready().connect()
        assert len(scene.checks) == 1 and scene.states == [CHECKING]

    def test_how_the_peer_sees_us(self) -> None:
        # RFC 8445 §7.2.5.3.1
        scene = connected()
        local = scene.take(SelectedPair)[-1].local
        assert (local.type, local.host, local.port) == ("prflx", *MAPPED)
        assert (local.related_address, local.related_port) == scene.open[scene.link]
        assert local.priority == parse_message(scene.checks[-1].data).attributes["PRIORITY"]

    def test_how_the_peer_sees_us_when_that_is_a_candidate(self) -> None:
        scene = Scene(components=2).gather(component=2).gather().add(peer_candidate()).add(None).connect()
        ours = scene.agent.local_candidates[1]
        scene.answer(mapped=(ours.host, ours.port))
        assert scene.take(SelectedPair)[-1].local is ours

    def test_the_role_changes(self) -> None:
        # RFC 8445 §7.2.5.1
        scene = Scene().ready().answer(code=487).wait(TA)
        assert not scene.agent.controlling and len(scene.checks) == 2
        scene.answer().hear(role=CONTROLLING, USE_CANDIDATE=None)
        assert scene.agent.state is COMPLETED

    def test_a_better_pair_is_waited_for(self) -> None:
        scene = Scene(direct_patience=0.25).ready(peer_candidate(priority=9), peer_candidate(port=4001, priority=5))
        scene.wait(TA)
        assert len(scene.checks) == 2
        scene.answer()
        scene.wait(0.24)
        assert len(scene.checks) == 2
        scene.wait(0.02)
        assert "USE-CANDIDATE" in parse_message(scene.checks[-1].data).attributes
        assert scene.checks[-1].peer == (PEER[0], 4001)

    def test_a_nomination_that_is_not_answered(self) -> None:
        """It is given up soon once there is another pair to nominate."""
        scene = Scene(direct_patience=0.0).ready(peer_candidate(priority=5), peer_candidate(port=4001, priority=9))
        scene.wait(TA).answer(scene.checks[0]).wait(0.2)
        first = parse_message(scene.checks[-1].data)
        assert "USE-CANDIDATE" in first.attributes
        scene.wait(0.5).answer(next(check for check in scene.checks if check.peer[1] == 4000))
        scene.wait(4.0)
        assert [pair.state for pair in scene.agent.check_list].count(PairState.FAILED) == 1
        assert "USE-CANDIDATE" in parse_message(scene.checks[-1].data).attributes
        scene.answer()
        assert scene.agent.state is COMPLETED and scene.take(Route)[-1].peer == PEER

    def test_a_nomination_ends_the_other_checks(self) -> None:
        # RFC 8445 §8.1.2
        remotes = [peer_candidate(port=port, priority=100 - port % 100) for port in range(4000, 4005)]
        scene = Scene(direct_patience=0.0).ready(*remotes).wait(TA)
        assert scene.asked == [(PEER[0], 4000), (PEER[0], 4001)]
        scene.answer(scene.checks[0]).answer()
        assert scene.agent.state is COMPLETED
        assert [pair.peer[1] for pair in scene.agent.check_list] == [4000, 4001]
        scene.wait(4.0)
        assert (PEER[0], 4001) not in scene.asked[2:]

    def test_a_nomination_by_us_ends_the_checks_of_better_pairs_too(self) -> None:
        remotes = peer_candidate(port=4000, priority=9), peer_candidate(port=4001, priority=5)
        scene = Scene(direct_patience=0.0).ready(*remotes).wait(TA)
        scene.answer(scene.checks[1]).answer().wait(4.0)
        assert scene.agent.state is COMPLETED and scene.asked.count((PEER[0], 4000)) == 1

    def test_a_peer_that_nominates_aggressively(self) -> None:
        """The best of its nominations counts (RFC 5245 §8.1.1.2): what is better is still asked."""
        remotes = peer_candidate(port=4000, priority=9), peer_candidate(port=4001, priority=5)
        scene = Scene(controlling=False).ready(*remotes).wait(TA)
        low = (PEER[0], 4001)
        scene.hear(low, role=CONTROLLING, USE_CANDIDATE=None).hear(PEER, role=CONTROLLING, USE_CANDIDATE=None)
        scene.wait(TA).answer(next(check for check in scene.checks if check.peer == low))
        assert scene.agent.state is COMPLETED
        assert scene.take(Route)[-1].peer == low
        asked = len(scene.checks)
        scene.wait(0.6)
        assert (PEER[0], 4000) in scene.asked[asked:] and low not in scene.asked[asked:]
        scene.answer(next(check for check in scene.checks[::-1] if check.peer == PEER))
        assert scene.take(Route)[-1].peer == PEER
        assert scene.states.count(COMPLETED) == 1

    def test_nominated_twice(self) -> None:
        scene = connected(controlling=False)
        before = len(scene.log)
        scene.hear(role=CONTROLLING, USE_CANDIDATE=None)
        assert scene.kinds(before) == []


class TestFailure:
    """RFC 8863 §4."""

    def test_no_answer(self) -> None:
        scene = Scene(tunables=Tunables(retry_max=1, retry_rto=0.5)).ready()
        assert scene.agent.poll_timeout() == 100.5
        scene.wait(1.4)
        assert scene.agent.state is CHECKING
        scene.wait(0.2)
        assert scene.agent.state is FAILED
        assert scene.failure == "all 1 pairs of component 1 failed: 1 × no answer"
        assert scene.take(Done) == [] and scene.agent.poll_timeout() is None

    def test_not_before_the_patience_ends(self) -> None:
        scene = Scene(patience=10.0).ready().answer(code=400)
        assert scene.pair.state is PairState.FAILED
        assert scene.agent.poll_timeout() == 110.0
        scene.wait(9.9)
        assert scene.agent.state is CHECKING
        scene.wait(0.1)
        assert scene.agent.state is FAILED

    def test_nor_without_the_end_of_the_candidates(self) -> None:
        scene = Scene(patience=1.0).gather().connect().wait(60.0)
        assert scene.agent.state is CHECKING and scene.agent.poll_timeout() is None
        scene.add(None)
        assert scene.agent.state is FAILED
        assert scene.failure == "the peer gave no candidates and sent no checks"

    def test_nor_while_we_gather(self) -> None:
        scene = Scene(patience=1.0, components=2).gather().connect().add(None).wait(60.0)
        assert scene.agent.state is CHECKING
        scene.end_gathering()
        assert scene.agent.state is FAILED

    def test_no_local_candidates(self) -> None:
        """No need to wait: nothing can come."""
        scene = Scene().connect()
        scene.agent.gather(scene.now, 1, [], 5.0)
        scene.drain()
        assert scene.agent.state is FAILED and scene.failure == "no local candidates"

    def test_a_valid_pair_after_the_patience_is_enough(self) -> None:
        """A peer that never checks may be one that cannot."""
        scene = Scene(controlling=False, patience=1.0).ready().answer()
        assert scene.agent.state is CHECKING
        scene.wait(1.1)
        assert scene.agent.state is CONNECTED

    def test_connect_again(self) -> None:
        scene = Scene(patience=0.5, tunables=Tunables(retry_max=0, retry_rto=0.1)).ready()
        scene.wait(1.0)
        assert scene.agent.state is FAILED
        scene.hear()
        assert len(scene.checks) == 1
        scene.connect()
        assert len(scene.checks) == 2
        scene.answer_all()
        assert scene.states == [CHECKING, FAILED, CHECKING, CONNECTED, COMPLETED]

    def test_an_answer_to_the_attempt_before(self) -> None:
        """Pairs of one foundation freeze anew, and their requests of before may still be answered."""
        remotes = peer_candidate(foundation="f"), peer_candidate(port=4001, priority=5, foundation="f")
        scene = Scene(patience=0.25).ready(*remotes).wait(TA)
        assert scene.asked == [PEER]
        scene.hear((PEER[0], 4001))
        for request in scene.checks[:]:
            scene.report(SendFailed(request.link, request.peer, Reason.REFUSED))
        scene.wait(0.25)
        assert scene.agent.state is FAILED
        scene.connect()
        assert [pair.state for pair in scene.agent.check_list] == [PairState.IN_PROGRESS, PairState.FROZEN]
        scene.answer(next(check for check in scene.checks if check.peer[1] == 4001))
        assert [event.remote.port for event in scene.take(SelectedPair)] == [4001]

    def test_pairs_of_sockets_lost_meanwhile_are_not_tried_again(self) -> None:
        scene = Scene(patience=0.0).ready(hosts=(HOST, OTHER))
        scene.lose(scene.link)
        assert [pair.state for pair in scene.agent.check_list if pair.why_failed] == [PairState.FAILED]
        scene.wait(60.0)
        assert scene.agent.state is FAILED
        scene.connect()
        assert [pair.base.candidate.host for pair in scene.agent.check_list] == [OTHER]

    def test_unreachable(self) -> None:
        scene = Scene(patience=0.0).ready().wait(0.0)
        scene.report(SendFailed(scene.link, PEER, Reason.REFUSED))
        assert scene.agent.state is FAILED
        assert scene.failure == "all 1 pairs of component 1 failed: 1 × connection refused"

    def test_too_big_says_nothing_about_the_peer(self) -> None:
        """ICMP says it about whatever was sent there last, and anybody may forge it."""
        scene = Scene().ready().report(SendFailed(1, PEER, Reason.TOO_BIG))
        assert scene.pair.state is PairState.IN_PROGRESS


class TestBaseLost:
    def test_its_pairs_are_dead(self) -> None:
        scene = Scene().ready(hosts=(HOST, OTHER))
        lost = scene.link
        scene.lose(lost)
        assert scene.take(Close) == [Close(lost)]
        states = {pair.base.candidate.host: pair.state for pair in scene.agent.check_list}
        assert states[HOST] is PairState.FAILED and states[OTHER] is not PairState.FAILED
        assert [local.host for local in scene.agent.local_candidates] == [OTHER]
        why = [pair.why_failed for pair in scene.agent.check_list if pair.why_failed]
        assert why == ["local socket lost: other error: it broke"]

    def test_the_pair_in_use_with_another_valid(self) -> None:
        scene = Scene(controlling=False).ready(hosts=(HOST, OTHER)).wait(TA)
        for request in scene.checks[:]:
            scene.answer(request)
        first = scene.take(Route)[-1].link
        before = len(scene.log)
        scene.lose(first)
        assert scene.kinds(before) == ["BaseLost", "Close", "Unroute", "Route", "SelectedPair"]
        assert scene.take(Route)[-1].link != first
        assert scene.states == [CHECKING]

    def test_the_pair_in_use_with_others_to_be_checked(self) -> None:
        scene = Scene(controlling=False).ready(hosts=(HOST, OTHER)).wait(TA)
        scene.hear(role=CONTROLLING).answer(scene.checks[0])
        assert scene.agent.state is CONNECTED
        before = len(scene.log)
        scene.lose(scene.take(Route)[-1].link)
        assert sorted(scene.kinds(before)) == ["BaseLost", "Close", "StateChanged", "Unroute"]
        assert scene.agent.state is CHECKING
        scene.answer(scene.checks[1]).hear(link=scene.checks[1].link, role=CONTROLLING)
        assert scene.agent.state is CONNECTED and len(scene.take(Route)) == 2

    def test_and_none_of_them_answers(self) -> None:
        tunables = Tunables(retry_max=1, retry_rto=0.5)
        scene = Scene(controlling=False, tunables=tunables).ready(hosts=(HOST, OTHER)).wait(TA)
        scene.hear(role=CONTROLLING).answer(scene.checks[0])
        scene.lose(scene.take(Route)[-1].link).wait(10.0)
        assert scene.states == [CHECKING, CONNECTED, CHECKING, FAILED, CLOSED]
        assert scene.take(Done) == [Done("closed")]

    def test_the_only_pair(self) -> None:
        scene = connected().lose(1)
        assert scene.agent.state is CLOSED
        assert scene.failure == "local socket lost: other error: it broke"

    def test_a_pair_chosen_without_checks(self) -> None:
        scene = Scene().gather()
        scene.agent.select(scene.now, 1, scene.link, peer_candidate())
        scene.drain().gather(OTHER)
        other = next(link for link, local in scene.open.items() if local[0] == OTHER)
        scene.lose(other)
        assert scene.agent.state is COMPLETED
        scene.lose(scene.link)
        assert scene.agent.state is CLOSED

    def test_twice(self) -> None:
        scene = Scene().gather().gather(OTHER)
        link = scene.link
        scene.lose(link)
        before = len(scene.log)
        scene.lose(link).lose(12345)
        assert scene.log[before:] == []

    def test_a_pair_dies_in_the_generation_before(self) -> None:
        """The end of the old pair is not the end of the connection."""
        scene = connected().restart().gather(OTHER).add(peer_candidate()).connect()
        scene.lose(scene.link)
        assert scene.agent.state is CHECKING and scene.take(Unroute) == [Unroute(1)]
        scene.wait(TA).answer().answer()
        assert scene.agent.state is COMPLETED
        assert scene.open[scene.take(Route)[-1].link][0] == OTHER

    def test_and_the_new_generation_fails(self) -> None:
        """Then nothing is left."""
        scene = connected(patience=0.0).restart().gather(OTHER).add(peer_candidate()).add(None).connect()
        scene.lose(scene.link).wait(TA).answer(code=400).wait(0.0)
        assert scene.states[-2:] == [FAILED, CLOSED]

    def test_or_has_not_begun(self) -> None:
        scene = connected(patience=5.0).gather(OTHER).restart()
        scene.lose(scene.link)
        assert scene.agent.state is DISCONNECTED
        scene.add(peer_candidate()).connect().wait(TA).answer().answer()
        assert scene.wait(6.0).agent.state is COMPLETED

    def test_with_pairs_of_the_old_generation_to_be_checked(self) -> None:
        """They are none of the new one's hopes."""
        scene = Scene(controlling=False).ready(hosts=(HOST, OTHER)).wait(TA).hear(role=CONTROLLING)
        scene.answer(scene.checks[0]).restart()
        scene.lose(scene.take(Route)[-1].link)
        assert scene.agent.state is DISCONNECTED and scene.take(Unroute) == [Unroute(1)]

    def test_and_never_begins(self) -> None:
        scene = connected(patience=5.0).gather(OTHER).restart()
        scene.lose(scene.link).wait(4.9)
        assert scene.agent.state is DISCONNECTED
        scene.wait(0.2)
        assert scene.agent.state is CLOSED and scene.failure == "the restart was not followed by connect()"


class TestRelay:
    def relayed(self, **config: float) -> Scene:
        scene = Scene(turn_server=TURN_SERVER, relay_only=True, **config)
        scene.agent.gather(scene.now, 1, [], 5.0)
        return scene.drain()

    def test_a_check_leaves_wrapped(self) -> None:
        scene = self.relayed().add(peer_candidate()).add(None).connect()
        peer, data = scene.relayed[0]
        assert peer == PEER and "USERNAME" in parse_message(data).attributes
        assert scene.checks == []

    def test_and_its_answer_comes_wrapped(self) -> None:
        scene = self.relayed().ready(peer_candidate(), components=())
        for _ in range(2):
            request = parse_message(scene.relayed[-1][1])
            answer = Message(Method.BINDING, Class.RESPONSE, request.transaction_id, {"XOR-MAPPED-ADDRESS": RELAYED})
            answer.add_message_integrity(b"their password")
            scene.from_relay(PEER, bytes(answer))
        assert scene.agent.state is COMPLETED
        relay = scene.take(OpenRelay)[0].link
        assert scene.take(Route)[0].link == relay
        local = scene.take(SelectedPair)[0].local
        assert (local.type, local.host, local.port) == ("relay", *RELAYED)

    def test_data_is_delivered(self) -> None:
        scene = self.relayed().ready(peer_candidate(), components=())
        scene.from_relay(PEER, b"hello")
        assert scene.take(Deliver) == [Deliver(scene.take(OpenRelay)[0].link, PEER, b"hello")]

    def test_a_check_of_the_peer(self) -> None:
        scene = self.relayed().ready(peer_candidate(), components=())
        scene.from_relay(PEER, bytes(check()))
        assert parse_message(scene.relayed[-1][1]).message_class is Class.RESPONSE
        assert scene.take(Accept) == [Accept(scene.take(OpenRelay)[0].link, PEER, 1)]

    def test_data_of_the_application(self) -> None:
        scene = self.relayed().ready(peer_candidate(), components=())
        scene.agent.relay(scene.now, scene.take(OpenRelay)[0].link, PEER, b"hello")
        assert scene.drain().relayed[-1] == (PEER, b"hello")

    def test_that_refuses_the_peer(self) -> None:
        scene = self.relayed(patience=0.0)
        scene.turn_refuses = 403
        scene.ready(peer_candidate(), components=()).wait(0.1)
        assert scene.pair.why_failed == "the relay refuses the peer with error 403"
        assert scene.agent.state is FAILED

    def test_that_cannot_reach_the_peer(self) -> None:
        scene = self.relayed(patience=0.0).ready(peer_candidate(), components=())
        icmp = {"XOR-PEER-ADDRESS": PEER, "ICMP": bytes((0, 0, 3, 3)) + bytes(4)}
        message = Message(Method.DATA, Class.INDICATION, b"indication!!", icmp)
        scene.agent.handle_datagram(scene.now, scene.server_link, TURN, bytes(message))
        scene.drain().wait(0.0)
        assert scene.pair.why_failed == str(Reason.REFUSED)
        assert scene.agent.state is FAILED

    def test_that_has_begun_to_let_checks_through(self) -> None:
        scene = self.relayed()
        scene.turn_answers = False
        scene.ready(peer_candidate(), components=())
        requests = [parse_message(transmit.data) for transmit in scene.sent if transmit.peer == TURN]
        request = next(request for request in requests if request.message_method is Method.CREATE_PERMISSION)
        before = list(scene.relayed)
        scene.agent.handle_datagram(scene.now, scene.server_link, TURN, bytes(turn_answer(request)))
        assert scene.drain().relayed == before * 2

    def test_that_is_gone(self) -> None:
        scene = self.relayed().ready(peer_candidate(), components=())
        server = scene.server_link
        scene.lose(server)
        assert scene.pair.state is PairState.FAILED and scene.agent.local_candidates == []
        scene.from_relay(PEER, b"hello", server)
        assert scene.take(Deliver) == []

    def test_that_ends_at_the_wake_up_that_repeats_a_check(self) -> None:
        """As after a host has slept."""
        scene = self.relayed().ready(peer_candidate(), components=())
        scene.turn_answers = False
        while not scene.take(BaseLost):
            scene.now += 700.0
            scene.agent.handle_timeout(scene.now)
            scene.drain()  # nothing is sent on a link that is closed
        assert scene.pair.state is PairState.FAILED

    def test_what_comes_after_the_end(self) -> None:
        """The allocation is still there until it is deleted."""
        scene = self.relayed().ready(peer_candidate(), components=())
        scene.turn_answers = False
        scene.close()
        assert scene.take(Done) == []
        scene.from_relay(PEER, b"hello").from_relay(PEER, bytes(check()))
        assert scene.take(Deliver, Accept) == []
        scene.wait(2.0)
        assert scene.take(Done) == [Done("closed")]

    def test_links_of_servers_are_the_machines(self) -> None:
        scene = self.relayed()
        assert scene.agent.is_server_link(scene.server_link)
        assert not Scene().gather().agent.is_server_link(1)


class TestConsent:
    """RFC 7675."""

    def test_asked_and_answered(self) -> None:
        scene = connected()
        for _ in range(20):
            scene.wait(5.0).answer_all()
        assert scene.states == [CHECKING, COMPLETED]
        assert 17 <= len(scene.checks) - 2 <= 25

    def test_doubt_and_its_end(self) -> None:
        scene = connected().wait(16.0)
        assert scene.states[-1] is DISCONNECTED
        assert scene.failure == "consent checks are not answered"
        scene.answer()
        assert scene.states == [CHECKING, COMPLETED, DISCONNECTED, COMPLETED]

    def test_doubt_before_the_nomination(self) -> None:
        scene = Scene(controlling=False).ready().answer().hear(role=CONTROLLING).wait(16.0)
        scene.answer()
        assert scene.states == [CHECKING, CONNECTED, DISCONNECTED, CONNECTED]

    def test_expiry(self) -> None:
        scene = connected()
        before = len(scene.log)
        scene.wait(31.0)
        # Nothing is sent any more before the end is told, and that before it is done.
        kinds = [kind for kind in scene.kinds(before) if kind != "ConsentExpired"]
        assert kinds == ["StateChanged", "Unroute", "StateChanged", "ConnectionClosed", "Close", "Done"]
        reason = "consent expired: no answer from the peer for 30.0 s"
        assert scene.failure == reason
        assert [event.reason for event in scene.take(ConsentExpired, ConnectionClosed)] == [reason, reason]
        assert scene.agent.state is CLOSED and scene.agent.poll_timeout() is None and scene.open == {}

    def test_refusal(self) -> None:
        # §5.2
        scene = connected().wait(7.0).answer(code=403)
        assert scene.agent.state is CLOSED and scene.failure == "the peer revoked its consent"

    def test_refusal_by_a_stranger(self) -> None:
        scene = connected().wait(7.0).answer(code=403, password="another password")
        assert scene.agent.state is COMPLETED

    def test_tunables(self) -> None:
        scene = connected()
        scene.report(Tunables(consent_interval=1, consent_failures=2)).wait(7.0)
        assert scene.agent.state is CLOSED

    def test_tunables_reach_the_checks(self) -> None:
        scene = Scene().gather().report(Tunables(retry_max=0, retry_rto=0.25)).ready(peer_candidate(), components=())
        scene.wait(0.3)
        assert scene.pair.state is PairState.FAILED and len(scene.checks) == 1

    def test_a_forged_icmp_message_ends_no_pair_in_use(self) -> None:
        scene = connected().report(SendFailed(1, PEER, Reason.REFUSED))
        assert scene.take(Unroute) == [] and scene.agent.state is COMPLETED

    def two_valid(self) -> Scene:
        """Controlled, with two valid pairs, the first of them in use, none nominated."""
        remotes = peer_candidate(port=4000, priority=9), peer_candidate(port=4001, priority=5)
        scene = Scene(controlling=False).ready(*remotes).wait(TA)
        for request in scene.checks[:]:
            scene.answer(request)
        scene.hear(role=CONTROLLING)
        assert scene.agent.state is CONNECTED and scene.take(Route)[-1].peer == PEER
        return scene

    def test_silence_before_the_nomination_tries_the_next(self) -> None:
        scene = self.two_valid().wait(31.0)
        *_, unroute, route = scene.take(Route, Unroute)
        assert isinstance(unroute, Unroute)  # nothing that waits may go to the silent one (RFC 7675 §5.1)
        assert route.peer == (PEER[0], 4001) and scene.take(ConsentExpired) == []
        scene.wait(31.0)
        assert scene.agent.state is CLOSED
        assert scene.failure == "consent expired: no answer from the peer for 30.0 s"

    def test_completed_stays_when_another_pair_takes_over(self) -> None:
        """The nominated pair is lost, the peer will nominate again."""
        scene = Scene(controlling=False).ready(hosts=(HOST, OTHER)).wait(TA)
        for request in scene.checks[:]:
            scene.answer(request)
        used = scene.take(Route)[-1].link
        scene.hear(link=used, role=CONTROLLING, USE_CANDIDATE=None)
        scene.lose(used)
        assert scene.states == [CHECKING, COMPLETED] and scene.take(Route)[-1].link != used


class TestRestart:
    """RFC 8445 §9."""

    def test_the_old_pair_carries_data_meanwhile(self) -> None:
        scene = connected()
        before = len(scene.log)
        scene.restart()
        assert scene.kinds(before) == [] and scene.agent.state is COMPLETED
        assert scene.agent.check_list == [] and scene.agent.remote_candidates == []
        scene.wait(6.0)
        assert parse_message(scene.checks[-1].data).attributes["USERNAME"] == "theirs:ours"

    def test_until_one_of_the_new_is_selected(self) -> None:
        scene = connected().restart().add(peer_candidate(port=OTHER_PEER[1])).add(None).connect()
        assert parse_message(scene.checks[-1].data).attributes["USERNAME"] == "their+new:new"
        before = len(scene.log)
        scene.answer()
        assert scene.take(Route)[-1].peer == PEER  # valid is not enough while there is another
        assert scene.kinds(before) == ["Accept"]
        scene.answer()
        assert scene.take(Route)[-1].peer == (PEER[0], OTHER_PEER[1])
        assert scene.states == [CHECKING, COMPLETED, CHECKING, COMPLETED]
        assert scene.take(Revoke) == [Revoke(scene.link, PEER)]

    def test_who_is_heard_again_stays_welcome(self) -> None:
        scene = connected().hear(ELSEWHERE).restart().add(peer_candidate()).add(None).connect()
        scene.answer_all()
        assert scene.take(Revoke) == [Revoke(scene.link, ELSEWHERE)]

    def test_who_was_chosen_without_checks_stays_welcome(self) -> None:
        scene = Scene(components=2).ready(components=(1, 2))
        second = next(link for link, local in scene.open.items() if link != scene.link)
        scene.agent.select(scene.now, 2, second, peer_candidate(2, port=4444))
        scene.drain().wait(TA).answer_all().restart()
        for component in (1, 2):
            scene.add(peer_candidate(component))
        scene.add(None).connect().wait(TA).answer_all().wait(TA).answer_all()
        assert scene.agent.state is COMPLETED
        assert (second, (PEER[0], 4444)) not in [(revoke.link, revoke.peer) for revoke in scene.take(Revoke)]

    def test_the_old_generation_is_answered_until_then(self) -> None:
        scene = connected().restart()
        old = {"username": "ours:theirs", "password": "our password"}
        sent = len(scene.sent)
        scene.hear(**old)
        assert parse_message(scene.sent[sent].data).message_class is Class.RESPONSE
        scene.add(peer_candidate()).add(None).connect().answer_all()
        sent = len(scene.sent)
        scene.hear(**old)
        assert parse_message(scene.sent[sent].data).error_code == 401

    def test_twice(self) -> None:
        """The pair in use is the first generation's, whichever is the last."""
        scene = connected().restart("second").restart("third")
        scene.hear(username="second:their+second", password="second password")
        assert parse_message(scene.sent[-1].data).error_code == 401
        scene.wait(6.0)
        assert parse_message(scene.checks[-1].data).attributes["USERNAME"] == "theirs:ours"
        scene.answer()
        scene.add(peer_candidate()).add(None).connect().answer_all()
        assert scene.agent.state is COMPLETED
        assert parse_message(scene.checks[-1].data).attributes["USERNAME"] == "their+third:third"

    def test_before_anything(self) -> None:
        scene = Scene().restart().ready().answer_all()
        assert scene.agent.state is COMPLETED

    def test_the_old_pair_expires_meanwhile(self) -> None:
        scene = connected().restart().add(peer_candidate()).connect()
        scene.wait(32.0)
        assert scene.take(Unroute) == [Unroute(1)] and len(scene.take(ConsentExpired)) == 1
        assert scene.agent.state is CHECKING
        scene.answer().answer()
        assert scene.agent.state is COMPLETED and scene.take(Route)[-1].peer == PEER

    def test_that_fails_does_not_end_what_works(self) -> None:
        scene = connected(patience=0.0).restart().add(peer_candidate(port=4321)).add(None).connect()
        scene.answer(code=400).wait(0.0)
        assert scene.agent.state is FAILED and scene.take(Unroute) == []

    def test_the_old_peer_may_move_to_another_pair(self) -> None:
        """A nomination of the generation before counts while it carries the data."""
        remotes = peer_candidate(port=4000, priority=9), peer_candidate(port=4001, priority=5)
        scene = Scene(controlling=False).ready(*remotes).wait(TA)
        for request in scene.checks[:]:
            scene.answer(request)
        low = (PEER[0], 4001)
        scene.hear(low, role=CONTROLLING, USE_CANDIDATE=None)
        assert scene.take(Route)[-1].peer == low
        scene.restart()
        before = len(scene.log)
        old = {"username": "ours:theirs", "password": "our password"}
        scene.hear(PEER, role=CONTROLLING, USE_CANDIDATE=None, **old)
        assert scene.kinds(before) == []  # checks of the old generation are answered and no more

    def test_a_nomination_of_the_old_in_flight(self) -> None:
        """It is answered after the new generation has its pair: too late."""
        scene = Scene(components=2).ready(components=(1, 2)).wait(TA)
        scene.answer(scene.checks[0]).answer(scene.checks[1])
        nomination = scene.checks[-1]
        assert "USE-CANDIDATE" in parse_message(nomination.data).attributes
        scene.restart()
        for component in (1, 2):
            scene.add(peer_candidate(component, port=4100 + component))
        asked = len(scene.checks)
        scene.add(None).connect().wait(2 * TA)
        component = 1 if nomination.link == scene.link else 2
        request = next(check for check in scene.checks[asked:] if check.peer[1] == 4100 + component)
        scene.answer(request).answer()
        assert scene.take(Route)[-1].peer[1] == 4100 + component
        routes = len(scene.take(Route))
        scene.answer(nomination, password="their password")
        assert scene.agent.drops == {} and len(scene.take(Route)) == routes

    def test_a_nomination_of_the_old_in_time(self) -> None:
        """The old generation is complete by it; the new one is not."""
        scene = Scene().ready().answer()
        nomination = scene.checks[-1]
        scene.restart().answer(nomination, password="their password")
        assert scene.take(SelectedPair)[-1].nominated
        scene.add(peer_candidate()).add(None).connect().wait(TA).answer().answer()
        assert scene.agent.state is COMPLETED
        assert parse_message(scene.checks[-1].data).attributes["USERNAME"] == "their+new:new"

    def zombie(self) -> Scene:
        """Connected anew before anything is nominated, while the old pair carries the data; then the nomination
        fails.
        """
        scene = connected(patience=5.0).restart().add(peer_candidate()).add(None).connect().hear().answer()
        assert scene.agent.state is CONNECTED
        return scene.answer(code=400)

    def test_fails_after_a_valid_pair(self) -> None:
        scene = self.zombie()
        assert scene.agent.state is CHECKING
        scene.wait(5.0)
        assert scene.agent.state is FAILED and scene.take(Unroute) == []

    def test_fails_after_a_valid_pair_and_the_old_one_expires(self) -> None:
        """No connection lives on without a pair."""
        scene = self.zombie().add(peer_candidate(port=4321)).wait(45.0)
        assert scene.states[-2:] == [FAILED, CLOSED] and scene.open == {}

    def test_a_name_of_the_generation_before(self) -> None:
        """What is found for it is its own; it pairs nothing any more."""
        scene = connected().add(candidate(TestNames.NAME, 4444))
        scene.restart().report(Resolved(scene.take(Resolve)[0].query, (PEER[0],)))
        assert scene.agent.remote_candidates == [] and scene.agent.check_list == []


class TestSelect:
    def test_a_pair_without_checks(self) -> None:
        scene = Scene().gather().add(peer_candidate())
        remote = scene.agent.remote_candidates[0]
        scene.agent.select(scene.now, 1, scene.link, remote)
        before = len(scene.log)
        scene.drain()
        accept, route, told = scene.log[before:]
        assert (accept, route) == (Accept(scene.link, PEER, 1), Route(1, scene.link, PEER, remote))
        assert scene.states == [COMPLETED]
        scene.wait(100.0)
        assert scene.checks == [] and scene.agent.state is COMPLETED

    def test_of_each_component(self) -> None:
        scene = Scene(components=2).gather().gather(component=2)
        scene.agent.select(scene.now, 1, 1, peer_candidate())
        assert scene.drain().states == []
        scene.agent.select(scene.now, 2, 2, peer_candidate(2))
        assert scene.drain().states == [COMPLETED]

    def test_of_what_is_connected(self) -> None:
        scene = connected()
        scene.agent.select(scene.now, 1, scene.link, peer_candidate(port=4321))
        scene.drain().wait(100.0)
        assert scene.states == [CHECKING, COMPLETED]
        assert scene.take(Route)[-1].peer == (PEER[0], 4321)


class TestAccepting:
    def test_whom_we_hear(self) -> None:
        scene = Scene().ready().hear(ELSEWHERE).hear(ELSEWHERE)
        assert scene.take(Accept) == [Accept(scene.link, ELSEWHERE, 1)]

    def test_no_more_than_the_limit(self) -> None:
        """Who has answered us takes the place of the first that was only heard: checks can be repeated by anybody."""
        scene = Scene().ready()
        for port in range(MAX_ACCEPTED + 3):
            scene.hear((ELSEWHERE[0], 6000 + port))
        assert len(scene.take(Accept)) == MAX_ACCEPTED
        assert scene.agent.drops["too many sources"] == 3
        scene.answer(scene.checks[0])
        assert scene.take(Revoke) == [Revoke(scene.link, (ELSEWHERE[0], 6000))]
        assert scene.take(Accept)[-1] == Accept(scene.link, PEER, 1)

    def test_who_was_heard_first_and_answered_then_stays(self) -> None:
        scene = Scene().ready().hear().answer_all()
        for port in range(MAX_ACCEPTED):
            scene.hear((ELSEWHERE[0], 6000 + port))
        scene.agent.select(scene.now, 1, scene.link, peer_candidate(port=4321))
        assert scene.drain().take(Revoke) == [Revoke(scene.link, (ELSEWHERE[0], 6000))]

    def test_those_of_a_lost_base_make_room(self) -> None:
        """Relays that are made anew for days must not end with data that nobody takes."""
        scene = Scene().ready(hosts=(HOST, OTHER))
        first, second = (pair.base.link for pair in scene.agent.check_list)
        for port in range(MAX_ACCEPTED):
            scene.hear((ELSEWHERE[0], 6000 + port), link=first)
        scene.lose(first).hear(ELSEWHERE, link=second)
        assert scene.take(Accept)[-1] == Accept(second, ELSEWHERE, 1) and scene.take(Revoke) == []

    def test_no_room_at_all(self) -> None:
        scene = Scene().gather()
        for port in range(MAX_ACCEPTED + 1):
            scene.agent.select(scene.now, 1, scene.link, peer_candidate(port=6000 + port))
        assert len(scene.drain().take(Accept)) == MAX_ACCEPTED and scene.take(Revoke) == []
        assert scene.agent.drops == {"too many sources": 1}

    def test_nobody_who_cannot_sign(self) -> None:
        scene = Scene().ready().hear(ELSEWHERE, password="another password")
        assert scene.take(Accept) == [] and scene.agent.drops == {"request not authentic": 1}


class TestClosing:
    def test_the_order(self) -> None:
        """Routes go first, then the state is told, sockets close, and Done is the last."""
        scene = connected()
        before = len(scene.log)
        scene.close()
        assert scene.kinds(before) == ["Unroute", "StateChanged", "ConnectionClosed", "Close", "Done"]
        assert scene.states[-1] is CLOSED and scene.failure == "closed"
        assert scene.open == {} and scene.agent.poll_timeout() is None

    def test_what_was_to_be_sent_is_sent(self) -> None:
        scene = Scene().gather()
        scene.add(peer_candidate())
        scene.agent.connect(scene.now, "theirs", "their password")
        scene.agent.close(scene.now)
        scene.drain()
        assert scene.asked == [PEER]

    def test_a_relay_is_deleted_first(self) -> None:
        scene = Scene(turn_server=TURN_SERVER, relay_only=True).gather()
        scene.close()
        refresh = parse_message(scene.sent[-1].data)
        assert refresh.message_method is Method.REFRESH and refresh.attributes["LIFETIME"] == 0
        assert scene.kinds()[-1] == "Done" and scene.take(Done) == [Done("closed")]

    def test_once(self) -> None:
        scene = connected().close()
        before = len(scene.log)
        scene.close().wait(100.0)
        assert scene.log[before:] == []

    def test_nothing_happens_afterwards(self) -> None:
        scene = connected().close()
        before = len(scene.log)
        link = scene.agent.adopt(scene.now, candidate(HOST))
        scene.gather().add(peer_candidate(port=4321)).add(None).connect().restart().end_gathering()
        scene.agent.select(scene.now, 1, link, peer_candidate())
        scene.agent.set_controlling(scene.now, False)
        scene.agent.relay(scene.now, 1, PEER, b"data")
        scene.drain().hear(link=1).report(SendFailed(1, PEER, Reason.REFUSED)).report(Tunables())
        scene.report(Resolved(99, ("192.0.2.7",))).lose(1)
        scene.agent.handle_timeout(scene.now + 100)
        scene.drain()
        assert [output for output in scene.log[before:] if not isinstance(output, Close)] == []
        assert scene.agent.state is CLOSED

    def test_a_socket_that_opens_too_late_is_closed(self) -> None:
        scene = Scene()
        scene.agent.gather(scene.now, 1, [HOST, OTHER], 5.0)
        links = [output.link for output in iter(scene.agent.poll_output, None) if isinstance(output, OpenUdp)]
        scene.close()
        assert scene.take(Close) == [Close(link) for link in links]
        scene.opened(links[0], (HOST, 9999))
        scene.drain().report(OpenFailed(links[1], Reason.BIND, ""))
        assert scene.take(Close)[2:] == [Close(links[0])]
        assert scene.kinds()[-2:] == ["Done", "Close"]

    def test_a_name_that_is_found_too_late(self) -> None:
        scene = Scene().gather().add(candidate(TestNames.NAME)).close()
        before = len(scene.log)
        scene.report(Resolved(scene.take(Resolve)[0].query, (PEER[0],)))
        assert scene.log[before:] == []

    def test_in_the_middle_of_checks(self) -> None:
        scene = Scene().ready(*[peer_candidate(port=port) for port in range(4000, 4010)])
        request = scene.checks[0]
        scene.close()
        before = len(scene.log)
        scene.answer(request).wait(60.0)
        assert scene.log[before:] == []

    def test_the_reason(self) -> None:
        scene = Scene().gather()
        scene.agent.close(scene.now, "enough")
        scene.drain()
        assert scene.failure == "enough" and scene.take(ConnectionClosed)[0].reason == "enough"
        assert scene.take(StateChanged)[-1].state is CLOSED


class TestStrangeInput:
    @pytest.mark.parametrize("data", [b"", b"\0", bytes(20), b"\x40\0\0\0", b"GET / HTTP/1.1\r\n"])
    def test_on_any_link(self, data: bytes) -> None:
        scene = Scene(turn_server=TURN_SERVER).ready()
        before = len(scene.log)
        for link in (*scene.open, 99):
            scene.agent.handle_datagram(scene.now, link, ELSEWHERE, data)
            scene.drain()
        assert scene.log[before:] == [] and scene.agent.drops["malformed"] >= 1

    def test_wake_ups_that_nobody_asked_for(self) -> None:
        for scene in (Scene(), Scene().gather(), Scene().ready(), connected()):
            before = len(scene.log)
            scene.agent.handle_timeout(scene.now)
            assert scene.drain().log[before:] == []

    def test_an_answer_that_nobody_asked_for(self) -> None:
        scene = Scene().ready()
        before = len(scene.log)
        answer = Message(Method.BINDING, Class.RESPONSE, b"nobody asked", {"XOR-MAPPED-ADDRESS": MAPPED})
        scene.agent.handle_datagram(scene.now, scene.link, PEER, bytes(answer))
        assert scene.drain().log[before:] == []

    def test_data_of_a_server_link_is_not_a_check(self) -> None:
        scene = Scene(turn_server=TURN_SERVER).gather()
        sent = len(scene.sent)
        scene.agent.handle_datagram(scene.now, scene.server_link, TURN, bytes(check()))
        assert [transmit for transmit in scene.drain().sent[sent:] if isinstance(transmit, Transmit)] == []


def with_ufrag(ufrag: str, port: int = 4000) -> Candidate:
    remote = peer_candidate(port=port)
    return Candidate.from_sdp(f"{remote.to_sdp()} ufrag {ufrag.replace(' ', '+')}")
