"""What follows from what is heard of the pairs: states, consent and failure (RFC 8445, 8863, 7675)."""

from __future__ import annotations

from aioice.core.accepting import MAX_ACCEPTED
from aioice.core.checklist import PairState
from aioice.core.events import ConnectionClosed, ConnectionState, ConsentExpired, SelectedPair
from aioice.core.gathering import StunServer
from aioice.core.machine import Accept, Close, Done, Reason, Revoke, Route, SendFailed, Tunables, Unroute
from aioice.core.message import Class, parse_message
from tests.core.agent_scene import CONTROLLING, OTHER_PEER, Scene, connected, peer_candidate, relayed, through_relay
from tests.core.check_scene import ELSEWHERE, MAPPED, PEER, TA
from tests.core.gather_scene import HOST, OTHER, STUN, stun_answer

CHECKING, CONNECTED, COMPLETED, DISCONNECTED, FAILED, CLOSED = (
    ConnectionState.CHECKING,
    ConnectionState.CONNECTED,
    ConnectionState.COMPLETED,
    ConnectionState.DISCONNECTED,
    ConnectionState.FAILED,
    ConnectionState.CLOSED,
)


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

    def test_how_the_peer_sees_us_when_that_is_reflexive(self) -> None:
        scene = Scene(stun_server=StunServer(*STUN)).gather()
        (query,) = scene.sent
        answer = stun_answer(parse_message(query.data), MAPPED)
        scene.agent.handle_datagram(scene.now, query.link, STUN, bytes(answer))
        scene.drain().add(peer_candidate()).add(None).connect().answer()
        assert scene.pair.local is scene.agent.local_candidates[1]


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

    def test_of_a_relay_that_is_made_anew(self) -> None:
        """The session goes on: its patience begins again, and its data rests."""
        scene = through_relay(relayed(patience=5.0).ready(peer_candidate(), components=()))
        scene.lose(scene.server_link)
        assert scene.agent.state is CHECKING and scene.agent.generation.interrupted
        assert not scene.agent.generation.patience_over and scene.take(Unroute)


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
