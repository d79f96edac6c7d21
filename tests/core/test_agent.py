"""The ICE agent (RFC 8445, 8838): its verbs, its inputs, its promises and the order of what it says."""

from __future__ import annotations

import pytest

from aioice.core.bases import BaseLost, Found, Withdrawn
from aioice.core.candidate import Candidate
from aioice.core.checklist import PairState
from aioice.core.demux import is_stun
from aioice.core.events import ConnectionClosed, ConnectionState, LocalCandidate, SelectedPair, StateChanged
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
    Route,
    SendFailed,
    Transmit,
    Tunables,
)
from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.rewrites import AddressRewrite
from tests.core.agent_scene import CONTROLLING, OTHER_PEER, Scene, connected, peer_candidate, relayed, through_relay
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

    def test_with_a_name_in_place_of_the_address(self) -> None:
        scene = Scene()
        names = {HOST: "a.local"}
        scene.agent.hide(scene.now, names)
        names.clear()
        assert [told.host for told in scene.gather().agent.local_candidates] == ["a.local"]

    def test_rewritten_for_one_interface(self) -> None:
        scene = Scene(address_rewrites=(AddressRewrite("203.0.113.5", interface="eth0"),))
        scene.agent.set_interfaces(scene.now, {HOST: "eth0", OTHER: "eth1"})
        assert [told.host for told in scene.gather(HOST, OTHER).agent.local_candidates] == ["203.0.113.5", OTHER]

    def test_of_a_type_that_is_not_wanted(self) -> None:
        """It is not told, but its base is used."""
        scene = Scene(candidate_types=frozenset({"srflx"})).add(peer_candidate())
        scene.agent.adopt(scene.now, candidate(HOST))
        assert scene.drain().take(LocalCandidate) == [] == scene.agent.local_candidates
        assert len(scene.agent.check_list) == 1

    def test_one_that_its_nat_has_replaced(self) -> None:
        scene = Scene(stun_server=StunServer(*STUN)).gather()
        for mapped in (MAPPED, ELSEWHERE):
            query = [transmit for transmit in scene.sent if transmit.peer == STUN][-1]
            answer = stun_answer(parse_message(query.data), mapped)
            scene.agent.handle_datagram(scene.now, query.link, STUN, bytes(answer))
            scene.drain().wait(15.0)
        (withdrawn,) = scene.take(Withdrawn)
        assert (withdrawn.candidate.host, withdrawn.candidate.port) == MAPPED
        reflexive = [told for told in scene.agent.local_candidates if told.type == "srflx"]
        assert [(told.host, told.port) for told in reflexive] == [ELSEWHERE]


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

    def test_pairs_of_sockets_lost_meanwhile_are_not_tried_again(self) -> None:
        scene = Scene(patience=0.0).ready(hosts=(HOST, OTHER))
        scene.lose(scene.link)
        assert [pair.state for pair in scene.agent.check_list if pair.why_failed] == [PairState.FAILED]
        scene.wait(60.0)
        assert scene.agent.state is FAILED
        scene.connect()
        assert [pair.base.candidate.host for pair in scene.agent.check_list] == [OTHER]

    def test_twice_is_once(self) -> None:
        scene = Scene().ready().connect()
        assert len(scene.checks) == 1 and scene.states == [CHECKING]


class TestRelay:
    def test_a_check_leaves_wrapped(self) -> None:
        scene = relayed().add(peer_candidate()).add(None).connect()
        peer, data = scene.relayed[0]
        assert peer == PEER and "USERNAME" in parse_message(data).attributes
        assert scene.checks == []

    def test_and_its_answer_comes_wrapped(self) -> None:
        scene = through_relay(relayed().ready(peer_candidate(), components=()))
        assert scene.agent.state is COMPLETED
        relay = scene.take(OpenRelay)[0].link
        assert scene.take(Route)[0].link == relay
        local = scene.take(SelectedPair)[0].local
        assert (local.type, local.host, local.port) == ("relay", *RELAYED)

    def test_data_is_delivered(self) -> None:
        scene = relayed().ready(peer_candidate(), components=())
        scene.from_relay(PEER, b"hello")
        assert scene.take(Deliver) == [Deliver(scene.take(OpenRelay)[0].link, PEER, b"hello")]

    def test_a_check_of_the_peer(self) -> None:
        scene = relayed().ready(peer_candidate(), components=())
        scene.from_relay(PEER, bytes(check()))
        assert parse_message(scene.relayed[-1][1]).message_class is Class.RESPONSE
        assert scene.take(Accept) == [Accept(scene.take(OpenRelay)[0].link, PEER, 1)]

    def test_data_of_the_application(self) -> None:
        scene = relayed().ready(peer_candidate(), components=())
        scene.agent.relay(scene.now, scene.take(OpenRelay)[0].link, PEER, b"hello")
        assert scene.drain().relayed[-1] == (PEER, b"hello")

    def test_that_refuses_the_peer(self) -> None:
        scene = relayed(patience=0.0)
        scene.turn_refuses = 403
        scene.ready(peer_candidate(), components=()).wait(0.1)
        assert scene.pair.why_failed == "the relay refuses the peer with error 403"
        assert scene.agent.state is FAILED

    def test_that_cannot_reach_the_peer(self) -> None:
        scene = relayed(patience=0.0).ready(peer_candidate(), components=())
        icmp = {"XOR-PEER-ADDRESS": PEER, "ICMP": bytes((0, 0, 3, 3)) + bytes(4)}
        message = Message(Method.DATA, Class.INDICATION, b"indication!!", icmp)
        scene.agent.handle_datagram(scene.now, scene.server_link, TURN, bytes(message))
        scene.drain().wait(0.0)
        assert scene.pair.why_failed == str(Reason.REFUSED)
        assert scene.agent.state is FAILED

    def test_that_has_begun_to_let_checks_through(self) -> None:
        scene = relayed()
        scene.turn_answers = False
        scene.ready(peer_candidate(), components=())
        requests = [parse_message(transmit.data) for transmit in scene.sent if transmit.peer == TURN]
        request = next(request for request in requests if request.message_method is Method.CREATE_PERMISSION)
        before = list(scene.relayed)
        scene.agent.handle_datagram(scene.now, scene.server_link, TURN, bytes(turn_answer(request)))
        assert scene.drain().relayed == before * 2

    def test_that_is_gone(self) -> None:
        scene = relayed().ready(peer_candidate(), components=())
        server = scene.server_link
        scene.lose(server)
        assert scene.pair.state is PairState.FAILED and scene.agent.local_candidates == []
        scene.from_relay(PEER, b"hello", server)
        assert scene.take(Deliver) == []

    def test_that_ends_at_the_wake_up_that_repeats_a_check(self) -> None:
        """As after a host has slept."""
        scene = relayed().ready(peer_candidate(), components=())
        scene.turn_answers = False
        while not scene.take(BaseLost):
            scene.now += 700.0
            scene.agent.handle_timeout(scene.now)
            scene.drain()  # nothing is sent on a link that is closed
        assert scene.pair.state is PairState.FAILED

    def test_what_comes_after_the_end(self) -> None:
        """The allocation is still there until it is deleted."""
        scene = relayed().ready(peer_candidate(), components=())
        scene.turn_answers = False
        scene.close()
        assert scene.take(Done) == []
        scene.from_relay(PEER, b"hello").from_relay(PEER, bytes(check()))
        assert scene.take(Deliver, Accept) == []
        scene.wait(2.0)
        assert scene.take(Done) == [Done("closed")]

    def test_links_of_servers_are_the_machines(self) -> None:
        scene = relayed()
        assert scene.agent.is_server_link(scene.server_link)
        assert not Scene().gather().agent.is_server_link(1)

    def test_a_check_of_a_peer_that_is_forbidden(self) -> None:
        scene = relayed(remote_filter=lambda host: host != ELSEWHERE[0]).ready(peer_candidate(), components=())
        scene.agent.relay(scene.now, scene.take(OpenRelay)[0].link, ELSEWHERE, b"hello")  # a permission is made
        before = len(scene.drain().relayed)
        scene.from_relay(ELSEWHERE, bytes(check()))
        assert len(scene.relayed) == before and scene.take(Accept) == []

    def test_is_asked_when_consent_is_not_answered(self) -> None:
        """It may have forgotten us."""
        scene = through_relay(relayed().ready(peer_candidate(), components=()))
        assert scene.agent.state is COMPLETED
        scene.wait(13.0)
        assert Method.REFRESH in [parse_message(sent.data).message_method for sent in scene.sent if is_stun(sent.data)]


class TestRestart:
    """RFC 8445 §9."""

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

    def test_a_name_of_the_generation_before(self) -> None:
        """What is found for it is its own; it pairs nothing any more."""
        scene = connected().add(candidate(TestNames.NAME, 4444))
        scene.restart().report(Resolved(scene.take(Resolve)[0].query, (PEER[0],)))
        assert scene.agent.remote_candidates == [] and scene.agent.check_list == []

    def test_that_is_not_followed_by_connect(self) -> None:
        scene = connected(patience=5.0).gather(OTHER).restart()
        scene.lose(scene.link).wait(4.9)
        assert scene.agent.state is DISCONNECTED
        scene.wait(0.2)
        assert scene.agent.state is CLOSED and scene.failure == "the restart was not followed by connect()"


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

    def test_of_a_socket_that_is_lost(self) -> None:
        scene = Scene().gather()
        scene.agent.select(scene.now, 1, scene.link, peer_candidate())
        scene.drain().gather(OTHER)
        other = next(link for link, local in scene.open.items() if local[0] == OTHER)
        scene.lose(other)
        assert scene.agent.state is COMPLETED
        scene.lose(scene.link)
        assert scene.agent.state is CLOSED


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


class TestReports:
    def test_unreachable(self) -> None:
        scene = Scene(patience=0.0).ready().wait(0.0)
        scene.report(SendFailed(scene.link, PEER, Reason.REFUSED))
        assert scene.agent.state is FAILED
        assert scene.failure == "all 1 pairs of component 1 failed: 1 × connection refused"

    def test_too_big_says_nothing_about_the_peer(self) -> None:
        """ICMP says it about whatever was sent there last, and anybody may forge it."""
        scene = Scene().ready().report(SendFailed(1, PEER, Reason.TOO_BIG))
        assert scene.pair.state is PairState.IN_PROGRESS

    def test_tunables(self) -> None:
        scene = connected()
        scene.report(Tunables(consent_interval=1, consent_failures=2)).wait(7.0)
        assert scene.agent.state is CLOSED

    def test_tunables_reach_the_checks(self) -> None:
        scene = Scene().gather().report(Tunables(retry_max=0, retry_rto=0.25)).ready(peer_candidate(), components=())
        scene.wait(0.3)
        assert scene.pair.state is PairState.FAILED and len(scene.checks) == 1


class TestTime:
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


class TestNouns:
    def test_of_a_connection(self) -> None:
        scene = connected()
        agent = scene.agent
        assert agent.controlling and agent.gathering_ended and agent.drops == {}
        assert (agent.components, agent.config.components) == (1, 1)
        assert agent.generation.checks.pairs == agent.check_list == [agent.pair_in_use(1)]
        assert agent.pair_in_use(2) is None
        assert (agent.server_reports, agent.server_waits) == ([], [])
        assert [local.host for local in agent.local_candidates] == [HOST]

    def test_what_can_be_a_pair(self) -> None:
        scene = Scene().gather()
        assert scene.agent.can_pair(scene.link, peer_candidate())
        assert not scene.agent.can_pair(scene.link, candidate("2001:db8::9"))
        assert not scene.agent.can_pair(None, peer_candidate()) and not scene.agent.can_pair(99, peer_candidate())

    def test_a_server_that_was_asked(self) -> None:
        scene = Scene(stun_server=StunServer(*STUN)).gather()
        assert scene.agent.awaits_server(scene.link, STUN)
        assert not scene.agent.awaits_server(scene.link, PEER)
