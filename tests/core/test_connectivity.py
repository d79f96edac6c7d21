"""Connectivity checks as they leave and arrive (RFC 8445 §7)."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.checklist import Pair, PairState
from aioice.core.connectivity import MAX_CANCELLED, MAX_CONFLICTS, NOMINATION_RETRANSMISSIONS
from aioice.core.generation import MAX_EARLY_CHECKS, MAX_PEER_REFLEXIVE
from aioice.core.machine import Close, Reason, Transmit, Tunables
from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.outcomes import ConsentAnswered, ConsentRefused, Dead, Heard, Nominated, PeerChecks, RoleChanged, Valid
from aioice.core.responder import BURST
from tests.core.check_scene import ELSEWHERE, MAPPED, PEER, TA, TIE_BREAKER, Scene, check, unknown_attribute
from tests.core.pairs import advance, base, candidate


class TestOrdinaryChecks:
    def test_what_a_check_says(self) -> None:
        # RFC 8445 §7.1, §7.2.2
        scene = Scene()
        scene.checked()
        assert scene.last.attributes["USERNAME"] == "theirs:ours"
        assert scene.last.attributes["ICE-CONTROLLING"] == TIE_BREAKER
        assert scene.last.attributes["PRIORITY"] == (110 << 24) + (65535 << 8) + 255
        assert "USE-CANDIDATE" not in scene.last.attributes
        assert scene.last.check_message_integrity(b"their password")
        assert "FINGERPRINT" in scene.last.attributes

    def test_role_of_the_controlled_side(self) -> None:
        scene = Scene(controlling=False)
        scene.checked()
        assert scene.last.attributes["ICE-CONTROLLED"] == TIE_BREAKER
        assert "ICE-CONTROLLING" not in scene.last.attributes

    def test_one_tie_breaker_for_all(self) -> None:
        # RFC 8445 §16.1
        scene = Scene(components=2)
        pair = scene.valid()
        scene.checked(at=base(2, component=2))
        scene.checker.nominate(scene.now, scene.generation, pair)
        scene.checker.ask_consent(scene.now, scene.generation, pair, 30.0)
        scene.drain()
        said = [parse_message(transmit.data).attributes["ICE-CONTROLLING"] for transmit in scene.checks]
        assert said == [TIE_BREAKER] * 4

    def test_one_every_ta(self) -> None:
        # RFC 8445 §6.1.4.2, §14.2
        scene = Scene()
        for priority in (1, 3, 2):
            scene.pair(priority=priority)
        scene.go_on()
        assert scene.asked == [5001]
        scene.go_on()
        assert scene.asked == [5001]
        assert scene.checker.poll_timeout() == 100 + TA
        scene.wait(TA)
        assert scene.asked == [5001, 5002]
        scene.wait(TA)
        assert scene.asked == [5001, 5002, 5000]
        # No tick is due while there is nothing to check, only the retransmission of the first.
        assert scene.checker.poll_timeout() == 100.5

    def test_after_a_rest_the_first_leaves_at_once(self) -> None:
        scene = Scene()
        scene.checked()
        scene.wait(0.25)
        scene.pair()
        scene.go_on()
        assert [when for when, _ in scene.sent] == [100.0, 100.25]

    def test_none_before_connect(self) -> None:
        scene = Scene(start=False)
        scene.pair()
        scene.go_on()
        assert scene.sent == [] and scene.checker.poll_timeout() is None
        scene.start()
        assert scene.asked == [5000]

    def test_a_lite_agent_sends_none(self) -> None:
        # RFC 8445 §2.5
        scene = Scene(controlling=False, lite=True)
        scene.pair()
        scene.go_on().wait(1.0)
        assert scene.sent == [] and scene.checker.poll_timeout() is None

    def test_retransmissions_and_the_end(self) -> None:
        # RFC 8489 §6.2.1
        scene = Scene(tunables=Tunables(retry_max=2, retry_rto=0.1))
        pair, _ = scene.checked()
        start = scene.now
        scene.wait(0.69)
        assert [round(when - start, 6) for when, _ in scene.sent] == [0, 0.1, 0.3]
        assert len({transmit.data for _, transmit in scene.sent}) == 1
        assert pair.state is PairState.IN_PROGRESS
        scene.wait(0.02)
        assert (pair.state, pair.why_failed) == (PairState.FAILED, "no answer")
        assert scene.told == [Dead(scene.generation, pair)]
        assert scene.checker.poll_timeout() is None

    def test_the_time_out_grows_with_the_pairs(self) -> None:
        # RFC 8445 §14.3: RTO = max(least, Ta × N)
        scene = Scene()
        for _ in range(50):
            scene.pair()
        scene.go_on().wait(51 * TA)
        times = [when for when, transmit in scene.sent if transmit.peer[1] == 5000]
        assert times == pytest.approx([100.0, 100 + 50 * TA])

    def test_tunables_count_from_the_next_check_on(self) -> None:
        scene = Scene()
        scene.checked()
        scene.checker.tune(Tunables(retry_rto=0.1))
        scene.checked()
        scene.wait(0.15)
        assert scene.asked == [5000, 5001, 5001]


class TestTimeouts:
    def test_an_early_wake_up_does_nothing(self) -> None:
        scene = Scene()
        scene.checked()
        scene.pair()
        scene.checker.handle_timeout(scene.now + TA / 2)
        assert len(scene.drain().sent) == 1

    def test_without_generations(self) -> None:
        scene = Scene()
        scene.checked()
        scene.checker.stop()
        scene.checker.handle_timeout(1000.0)
        assert scene.checker.poll_output() is None and scene.checker.poll_timeout() is None


class TestSuccess:
    def test_the_pair_is_valid(self) -> None:
        # RFC 8445 §7.2.5.3
        scene = Scene()
        pair, transmit = scene.checked()
        scene.wait(0.05).answer(transmit)
        priority = scene.last.attributes["PRIORITY"]
        assert scene.told == [Valid(scene.generation, pair, MAPPED, priority)]
        assert pair.state is PairState.SUCCEEDED and pair.request is None
        assert pair.rtt == pytest.approx(0.05)
        assert scene.checker.poll_timeout() is None

    def test_twice_the_same_answer(self) -> None:
        """The second is nobody's: the agent may ask elsewhere whose it is."""
        scene = Scene()
        pair, transmit = scene.checked()
        scene.answer(transmit)
        answer = Message(Method.BINDING, Class.RESPONSE, transmit.data[8:20], {"XOR-MAPPED-ADDRESS": MAPPED})
        left = scene.checker.handle_stun(scene.now, scene.base, pair.peer, bytes(answer))
        assert left is not None and left.transaction_id == transmit.data[8:20]
        assert len(scene.drain().told) == 1

    def test_no_round_trip_time_after_a_retransmission(self) -> None:
        # Karn
        scene = Scene()
        pair, transmit = scene.checked()
        scene.wait(0.6).answer(transmit)
        assert pair.state is PairState.SUCCEEDED and pair.rtt is None

    def test_pairs_of_its_foundation_thaw(self) -> None:
        # RFC 8445 §7.2.5.3.3
        scene = Scene()
        first, transmit = scene.checked(foundation="f")
        frozen = scene.pair(foundation="f", priority=1)
        other = scene.pair(foundation="g", priority=2)
        assert frozen.state is PairState.FROZEN
        scene.answer(transmit)
        assert frozen.state is PairState.WAITING
        scene.wait(2 * TA)
        assert scene.asked == [5000, other.peer[1], frozen.peer[1]]

    def test_the_other_component_is_checked_at_once(self) -> None:
        scene = Scene(components=2)
        second = base(2, component=2)
        _, transmit = scene.checked(foundation="f")
        pair = scene.pair(at=second, foundation="f")
        assert pair.state is PairState.FROZEN
        scene.answer(transmit)
        assert pair.state is PairState.IN_PROGRESS
        assert scene.asked == [5000, 5001]

    def test_the_other_component_is_not_checked_after_the_end(self) -> None:
        scene = Scene(components=2)
        _, transmit = scene.checked(foundation="f")
        pair = scene.pair(at=base(2, component=2), foundation="f")
        scene.generation.checking = False
        scene.answer(transmit)
        assert pair.state is PairState.WAITING and scene.asked == [5000]

    def test_for_a_pair_that_has_failed_already(self) -> None:
        """An ICMP error that anybody may forge says less than an answer that is signed (RFC 8445 §7.2.5.2.2)."""
        scene = Scene()
        pair, transmit = scene.checked()
        scene.checker.unreachable(scene.now, 1, pair.peer, Reason.REFUSED)
        scene.drain().answer(transmit)
        assert pair.state is PairState.SUCCEEDED
        assert [type(output) for output in scene.told] == [Dead, Valid]

    def test_late_for_a_pair_that_a_new_attempt_froze(self) -> None:
        """RFC 8445 §6.1.2.6: ``connect`` after a failure freezes anew what may still be answered."""
        scene = Scene()
        pair, transmit = scene.checked(foundation="f")
        scene.checker.unreachable(scene.now, 1, pair.peer, Reason.REFUSED)
        scene.pair(foundation="f", priority=pair.remote.priority + 1)
        scene.generation.checks.freeze_anew()
        assert pair.state is PairState.FROZEN
        scene.answer(transmit)
        assert pair.state is PairState.SUCCEEDED
        assert [valid.pair for valid in scene.take(Valid)] == [pair]


class TestAnswersThatDoNotCount:
    def test_not_signed_with_the_password_of_the_peer(self) -> None:
        # RFC 8445 §7.2.5: discarded; the request goes on.
        scene = Scene()
        pair, transmit = scene.checked()
        scene.answer(transmit, password="another password").answer(transmit, 487, password="another password")
        assert scene.checker.drops == {"answer not authentic": 2}
        assert pair.state is PairState.IN_PROGRESS and scene.told == []
        scene.answer(transmit)
        assert pair.state is PairState.SUCCEEDED

    def test_not_signed_and_from_elsewhere(self) -> None:
        """Anybody may send that: it tells nothing of the peer."""
        scene = Scene()
        _, transmit = scene.checked()
        scene.answer(transmit, password="another password", peer=ELSEWHERE)
        assert scene.checker.drops == {"answer not authentic": 1}
        assert scene.generation.blamed is None

    def test_signed_with_another_algorithm(self) -> None:
        # RFC 8489 §9.1.4
        scene = Scene()
        pair, transmit = scene.checked()
        transaction_id = parse_message(transmit.data).transaction_id
        answer = Message(Method.BINDING, Class.RESPONSE, transaction_id, {"XOR-MAPPED-ADDRESS": MAPPED})
        answer.add_message_integrity_sha256(b"their password")
        assert scene.hear(answer, peer=pair.peer) is None
        assert scene.checker.drops == {"answer not authentic": 1}
        assert pair.state is PairState.IN_PROGRESS

    @pytest.mark.parametrize("code", [0, 400, 487])
    @pytest.mark.parametrize("by", ["peer", "link"])
    def test_from_elsewhere(self, by: str, code: int) -> None:
        # RFC 8445 §7.2.5.2.1: not symmetric, so it fails.
        scene = Scene()
        pair, transmit = scene.checked()
        if by == "peer":
            scene.answer(transmit, code, peer=ELSEWHERE)
        else:
            scene.answer(transmit, code, at=base(2))
        assert scene.told == [Dead(scene.generation, pair)]
        assert pair.why_failed == "answered from another address"
        assert scene.checker.drops == {"answer from elsewhere": 1}
        assert scene.checker.controlling

    def test_from_elsewhere_to_a_check_that_was_replaced(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.wait(TA).hear(peer=pair.peer)
        scene.wait(0)
        assert len(scene.checks) == 2
        scene.answer(transmit, peer=ELSEWHERE)
        assert pair.state is PairState.IN_PROGRESS
        scene.answer(scene.checks[-1])
        assert pair.state is PairState.SUCCEEDED

    def test_from_elsewhere_to_a_nomination(self) -> None:
        """A valid pair is not given up for it: the nomination may still be answered from where it should."""
        scene = Scene()
        pair = scene.valid()
        scene.checker.nominate(scene.now, scene.generation, pair)
        scene.drain().answer(scene.checks[-1], peer=ELSEWHERE)
        assert pair.state is PairState.SUCCEEDED and scene.take(Dead) == []
        scene.answer(scene.checks[-1])
        assert scene.take(Nominated) == [Nominated(scene.generation, pair)]

    def test_a_success_without_an_address(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.answer(transmit, mapped=None)
        assert scene.checker.drops == {"malformed": 1}
        assert pair.state is PairState.IN_PROGRESS
        scene.answer(transmit)
        assert pair.state is PairState.SUCCEEDED

    @pytest.mark.parametrize("code", [0, 487])
    def test_unknown_attributes(self, code: int) -> None:
        # RFC 8489 §6.3.3, §6.3.4: the transaction has failed.
        scene = Scene()
        pair, transmit = scene.checked()
        scene.answer(transmit, code, unknown=True)
        assert (pair.state, pair.why_failed) == (PairState.FAILED, "answer with unknown attributes")
        assert scene.told == [Dead(scene.generation, pair)]

    @pytest.mark.parametrize("code", [300, 400, 401, 403, 420, 500, 699])
    def test_errors(self, code: int) -> None:
        # RFC 8445 §7.2.5.2.4: any but 487 fails.
        scene = Scene()
        pair, transmit = scene.checked()
        scene.answer(transmit, code)
        assert (pair.state, pair.why_failed) == (PairState.FAILED, f"refused with error {code}")
        assert scene.told == [Dead(scene.generation, pair)]

    def test_an_error_to_a_check_that_was_replaced(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.wait(TA).hear(peer=pair.peer)
        scene.wait(0).answer(transmit, 400)
        assert pair.state is PairState.IN_PROGRESS

    @pytest.mark.parametrize("data", [b"", b"\0" * 19, bytes(20), b"\0\1\0\4\x21\x12\xa4\x42" + bytes(12)])
    def test_what_is_not_stun(self, data: bytes) -> None:
        scene = Scene()
        assert scene.hear(data) is None
        assert scene.checker.drops == {"malformed": 1}

    @pytest.mark.parametrize(
        "method, kind",
        [(Method.BINDING, Class.INDICATION), (Method.ALLOCATE, Class.REQUEST), (Method.SEND, Class.INDICATION)],
    )
    def test_what_is_no_check(self, method: Method, kind: Class) -> None:
        # RFC 8445 §11: a Binding indication keeps a mapping alive; nobody answers.
        scene = Scene()
        message = Message(method, kind, b"transaction!", {"SOFTWARE": "x" * 30})
        assert scene.hear(message) is None and scene.sent == []
        assert scene.checker.drops == {"not a check": 1}


class TestRoleConflict:
    """RFC 8445 §7.2.5.1 and §7.3.1.1."""

    def test_487_makes_us_change_and_ask_again(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.wait(TA).answer(transmit, 487)
        assert scene.told == [RoleChanged(False)]
        assert not scene.checker.controlling
        assert len(scene.checks) == 2 and pair.state is PairState.IN_PROGRESS
        assert scene.last.attributes["ICE-CONTROLLED"] != TIE_BREAKER
        scene.answer(scene.checks[-1])
        assert pair.state is PairState.SUCCEEDED

    def test_the_next_check_keeps_the_pace(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.answer(transmit, 487)
        assert len(scene.checks) == 1 and pair.state is PairState.WAITING
        scene.wait(TA)
        assert len(scene.checks) == 2

    def test_487_to_an_old_role_does_not_change_it_again(self) -> None:
        scene = Scene()
        (one, first), (other, second) = scene.checked(), scene.checked()
        scene.answer(first, 487).answer(second, 487)
        assert scene.told == [RoleChanged(False)]
        scene.wait(2 * TA)
        assert len(scene.checks) == 4
        assert all("ICE-CONTROLLED" in parse_message(t.data).attributes for t in scene.checks[2:])
        assert one.state is other.state is PairState.IN_PROGRESS

    def test_without_end(self) -> None:
        scene = Scene()
        pair, _ = scene.checked()
        for _ in range(MAX_CONFLICTS):
            scene.answer(scene.checks[-1], 487).wait(TA)
            assert pair.state is PairState.IN_PROGRESS
        scene.answer(scene.checks[-1], 487).wait(TA)
        assert (pair.state, pair.why_failed) == (PairState.FAILED, "role conflict without end")
        assert len(scene.checks) == 1 + MAX_CONFLICTS
        assert scene.take(Dead) == [Dead(scene.generation, pair)]

    def test_of_a_nomination(self) -> None:
        """The pair stays valid, and it is no longer for us to nominate it."""
        scene = Scene()
        pair = scene.valid()
        scene.wait(TA).checker.nominate(scene.now, scene.generation, pair)
        scene.drain().answer(scene.checks[-1], 487).wait(TA)
        assert pair.state is PairState.SUCCEEDED and not pair.use_candidate
        assert len(scene.checks) == 2
        assert scene.told[1:] == [RoleChanged(False)]

    def test_to_a_check_that_was_replaced(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.wait(TA).hear(peer=pair.peer)
        scene.wait(0).answer(transmit, 487)
        assert scene.checker.controlling and len(scene.checks) == 2

    def test_to_a_consent_request(self) -> None:
        scene = Scene()
        pair = scene.valid()
        scene.checker.ask_consent(scene.now, scene.generation, pair, 30.0)
        scene.drain().answer(scene.checks[-1], 487)
        assert scene.checker.controlling and pair.state is PairState.SUCCEEDED

    @pytest.mark.parametrize(
        "controlling, theirs, gives_in",
        [
            (True, TIE_BREAKER - 1, "peer"),
            (True, TIE_BREAKER, "peer"),
            (True, TIE_BREAKER + 1, "us"),
            (False, TIE_BREAKER - 1, "us"),
            (False, TIE_BREAKER, "us"),
            (False, TIE_BREAKER + 1, "peer"),
        ],
    )
    def test_the_larger_tie_breaker_controls(self, controlling: bool, theirs: int, gives_in: str) -> None:
        scene = Scene(controlling=controlling)
        role = "ICE-CONTROLLING" if controlling else "ICE-CONTROLLED"
        answer = scene.hear(check(role, theirs))
        assert answer is not None and answer.check_message_integrity(b"our password")
        if gives_in == "peer":
            assert answer.error_code == 487
            assert scene.checker.controlling is controlling and scene.told == [] and scene.checks == []
        else:
            assert answer.message_class is Class.RESPONSE
            assert scene.checker.controlling is not controlling
            assert scene.told == [RoleChanged(not controlling), Heard(scene.base, PEER), PeerChecks(scene.generation)]
            assert ("ICE-CONTROLLING" in scene.last.attributes) is not controlling

    def test_a_lite_agent_never_gives_in(self) -> None:
        scene = Scene(controlling=False, lite=True)
        answer = scene.hear(check("ICE-CONTROLLED", 1))
        assert answer is not None and answer.error_code == 487
        assert not scene.checker.controlling

    def test_the_role_orders_the_pairs(self) -> None:
        # RFC 8445 §7.3.1.1: the priorities are computed anew.
        scene = Scene()
        pair = scene.pair(priority=7)
        before = pair.priority
        scene.checker.set_role(True)
        assert scene.drain().told == []
        scene.checker.set_role(False)
        assert scene.drain().told == [RoleChanged(False)]
        assert pair.priority == before - 1  # G > D counts one (RFC 8445 §6.1.2.3)

    def test_nominations_in_flight_are_void(self) -> None:
        scene = Scene()
        pair = scene.valid()
        selection = scene.generation.selection
        selection.valid(scene.now, pair)
        assert selection.to_nominate(scene.now, scene.generation.checks, [1]) == [pair]
        scene.checker.set_role(False)
        assert selection.to_nominate(scene.now, scene.generation.checks, [1]) == [pair]


class TestRequests:
    """RFC 8445 §7.3, RFC 8489 §9.1.3."""

    def test_an_answer_tells_the_address(self) -> None:
        scene = Scene()
        answer = scene.hear()
        assert answer is not None and answer.message_class is Class.RESPONSE
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == PEER
        assert answer.check_message_integrity(b"our password")
        assert "FINGERPRINT" in answer.attributes
        assert scene.told[0] == Heard(scene.base, PEER)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"password": "another password"},
            {"username": "others:theirs"},
            {"username": "ours:others"},
            {"username": "ours"},
        ],
        ids=str,
    )
    def test_wrong_credentials(self, wrong: dict[str, Any]) -> None:
        scene = Scene()
        answer = scene.hear(check(**wrong))
        assert answer is not None and answer.error_code == 401
        assert "MESSAGE-INTEGRITY" not in answer.attributes
        assert scene.checker.drops == {"request not authentic": 1}
        assert scene.told == [] and scene.checks == [] and scene.generation.checks.pairs == []

    def test_of_whom_we_check(self) -> None:
        """The peer checks, but somebody else than us, or with what it was told wrongly; strangers do not count."""
        scene = Scene()
        pair, _ = scene.checked()
        scene.hear(check(password="another password"), peer=ELSEWHERE)
        assert not scene.generation.misdirected
        scene.hear(check(username="others:theirs"), peer=pair.peer)
        assert scene.generation.misdirected

    @pytest.mark.parametrize("wrong", [{"password": None}, {"username": None}], ids=str)
    def test_no_credentials(self, wrong: dict[str, Any]) -> None:
        scene = Scene()
        answer = scene.hear(check(**wrong))
        assert answer is not None and answer.error_code == 400
        assert "MESSAGE-INTEGRITY" not in answer.attributes
        assert scene.checker.drops == {"request not authentic": 1} and scene.told == []

    def test_few_answers_to_strangers(self) -> None:
        scene = Scene()
        answers = [scene.hear(check(password=None)) for _ in range(BURST + 3)]
        assert [answer is None for answer in answers] == [False] * BURST + [True] * 3
        assert scene.hear() is not None

    @pytest.mark.parametrize(
        "message",
        [check(PRIORITY=False), check(role=""), check(PRIORITY=0), check(PRIORITY=2**31)],
        ids=["no priority", "no role", "priority 0", "priority too high"],
    )
    def test_an_incomplete_check(self, message: Message) -> None:
        # RFC 8445 §7.1; signed, for the peer is the peer.
        scene = Scene()
        answer = scene.hear(message)
        assert answer is not None and answer.error_code == 400
        assert answer.check_message_integrity(b"our password")
        assert scene.told == [] and scene.checks == []

    def test_both_roles(self) -> None:
        scene = Scene()
        assert scene.hear(check(ICE_CONTROLLING=2)) is None
        assert scene.checker.drops == {"malformed": 1} and scene.told == []

    def test_unknown_attributes(self) -> None:
        # RFC 8489 §6.3.1
        scene = Scene()
        answer = scene.hear(unknown_attribute(check(password=None), "our password"))
        assert answer is not None and answer.error_code == 420
        assert list(answer.attributes["UNKNOWN-ATTRIBUTES"]) == [0x7777]
        assert answer.check_message_integrity(b"our password")
        assert scene.told == [] and scene.checks == []

    def test_of_the_previous_generation(self) -> None:
        """RFC 8445 §9: answered, for its pair still carries data, and nothing else follows."""
        scene = Scene()
        new = scene.new_generation("new", "new password")
        scene.checker.use([new, scene.generation])
        answer = scene.hear()
        assert answer is not None and answer.message_class is Class.RESPONSE
        assert answer.check_message_integrity(b"our password")
        assert scene.told == [Heard(scene.base, PEER)]
        assert new.early == () and scene.generation.checks.pairs == []


class TestTriggeredChecks:
    """RFC 8445 §7.3.1.4."""

    def test_at_once(self) -> None:
        scene = Scene()
        other, _ = scene.checked()
        pair = scene.pair()
        scene.hear(peer=pair.peer)
        assert scene.asked == [other.peer[1], pair.peer[1]]
        assert scene.told == [Heard(scene.base, pair.peer), PeerChecks(scene.generation)]
        # The answer leaves first: it makes the path valid for the peer.
        assert parse_message(scene.sent[-2][1].data).message_class is Class.RESPONSE

    def test_the_pace_counts_from_there(self) -> None:
        scene = Scene()
        scene.checked()
        scene.wait(TA / 2)
        triggered = scene.pair()
        ordinary = scene.pair()
        scene.hear(peer=triggered.peer)
        scene.wait(0.9 * TA)
        assert scene.asked[1:] == [triggered.peer[1]]
        scene.wait(0.2 * TA)
        assert scene.asked[1:] == [triggered.peer[1], ordinary.peer[1]]

    def test_one_for_each_request(self) -> None:
        scene = Scene()
        pair = scene.pair()
        scene.hear(peer=pair.peer)
        assert len(scene.checks) == 1

    def test_no_pair_more_often_than_ta(self) -> None:
        scene = Scene()
        pair, _ = scene.checked()
        for _ in range(5):
            assert scene.hear(peer=pair.peer) is not None
        assert len(scene.checks) == 1
        scene.wait(10 * TA)
        assert len(scene.checks) == 2

    def test_nor_when_another_pair_makes_the_timer_come_early(self) -> None:
        scene = Scene()
        early, _ = scene.checked()
        scene.wait(0.1)
        late, _ = scene.checked()
        scene.wait(TA / 4).hear(peer=late.peer)
        scene.hear(peer=early.peer)
        scene.wait(2 * TA)
        assert scene.asked == [early.peer[1], late.peer[1]] * 2
        first, again = [
            when for when, transmit in scene.sent if transmit.peer == late.peer and transmit in scene.checks
        ]
        assert again - first > 0.99 * TA

    def test_a_check_in_progress_is_repaired(self) -> None:
        """A new transaction; the old one is not sent again, but its answer counts."""
        scene = Scene()
        pair, first = scene.checked()
        scene.wait(0.3).hear(peer=pair.peer)
        second = scene.wait(0).checks[-1]
        assert first.data != second.data and pair.state is PairState.IN_PROGRESS
        scene.wait(0.3)
        assert len(scene.checks) == 2  # the first would have been repeated after 0.5 s
        scene.answer(first)
        assert pair.state is PairState.SUCCEEDED
        scene.wait(10.0)
        assert len(scene.checks) == 2

    @pytest.mark.parametrize("checks", [1, 2])
    def test_not_when_its_answer_came_behind_the_peers_checks(self, checks: int) -> None:
        """All wait to be read at the same moment, as with two peers in one process, or on a busy loop."""
        scene = Scene()
        pair, first = scene.checked()
        scene.wait(0.3)
        for _ in range(checks):
            scene.hear(peer=pair.peer)
        scene.answer(first).wait(1.0)
        assert pair.state is PairState.SUCCEEDED and len(scene.checks) == 1

    def test_nor_when_there_is_more_to_check(self) -> None:
        """That, too, waits until all is read."""
        scene = Scene()
        pair, _ = scene.checked()
        scene.wait(0.3).hear(peer=pair.peer)
        scene.pair()
        assert len(scene.go_on().checks) == 1

    def test_what_comes_up_when_the_timer_found_nothing(self) -> None:
        """The machine's promise: after ``handle_timeout`` it has nothing to do at this moment."""
        scene = Scene()
        pair, first = scene.checked()
        scene.wait(0.3).hear(peer=pair.peer)
        scene.answer(first)
        scene.checker.handle_timeout(scene.now)
        other = scene.pair()
        scene.go_on()
        assert scene.asked == [pair.peer[1], other.peer[1]]
        assert (scene.checker.poll_timeout() or 0) > scene.now

    def test_then_no_other_leaves_in_its_place(self) -> None:
        """The others keep their pace."""
        scene = Scene()
        pair, first = scene.checked(foundation="a")
        scene.checked(foundation="b")
        scene.pair(foundation="c")
        scene.wait(TA / 2).hear(peer=pair.peer)
        scene.answer(first).wait(0)
        assert len(scene.checks) == 2
        scene.wait(TA / 2)
        assert len(scene.checks) == 3

    def test_an_answer_to_the_check_that_waits_for_its_turn(self) -> None:
        scene = Scene()
        pair, first = scene.checked()
        scene.hear(peer=pair.peer)
        assert pair.state is PairState.WAITING
        scene.answer(first).wait(1.0)
        assert pair.state is PairState.SUCCEEDED
        assert len(scene.checks) == 1 and len(scene.take(Valid)) == 1

    def test_the_time_out_of_a_replaced_check(self) -> None:
        """Only the last transaction decides."""
        scene = Scene(tunables=Tunables(retry_max=0, retry_rto=1.0))
        pair, _ = scene.checked()
        scene.wait(0.9).hear(peer=pair.peer)
        scene.wait(0.9)
        assert pair.state is PairState.IN_PROGRESS
        scene.wait(0.2)
        assert pair.state is PairState.FAILED

    def test_the_answers_to_a_few_cancelled_checks_count(self) -> None:
        """A peer that repeats itself makes more and more of them."""
        scene = Scene()
        pair, _ = scene.checked()
        for _ in range(MAX_CANCELLED + 2):
            scene.wait(TA).hear(peer=pair.peer)
        assert len(scene.wait(0).checks) == MAX_CANCELLED + 3
        for request in scene.checks[:2]:
            answer = Message(Method.BINDING, Class.RESPONSE, request.data[8:20], {"XOR-MAPPED-ADDRESS": MAPPED})
            assert scene.checker.handle_stun(scene.now, scene.base, pair.peer, bytes(answer)) is not None
        scene.answer(scene.checks[2])
        assert pair.state is PairState.SUCCEEDED

    def test_a_failed_pair_is_checked_anew(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.answer(transmit, 400)
        assert pair.state is PairState.FAILED
        scene.wait(TA).hear(peer=pair.peer)
        assert pair.state is PairState.IN_PROGRESS and len(scene.checks) == 2

    def test_a_frozen_pair_is_checked(self) -> None:
        scene = Scene()
        scene.checked(foundation="f")
        pair = scene.pair(foundation="f", priority=1)
        assert pair.state is PairState.FROZEN
        scene.hear(peer=pair.peer)
        assert pair.state is PairState.IN_PROGRESS

    def test_a_valid_pair_is_not(self) -> None:
        scene = Scene()
        pair = scene.valid()
        scene.wait(TA).hear(peer=pair.peer)
        assert len(scene.checks) == 1

    def test_none_for_a_peer_that_has_never_answered(self) -> None:
        """RFC 8445 §7.3.1.4: not after the time that one check would have had."""
        scene = Scene(tunables=Tunables(retry_max=0, retry_rto=1.0))
        pair = scene.pair()
        scene.hear(peer=pair.peer)
        scene.wait(10.0).hear(peer=pair.peer)
        assert len(scene.checks) == 1 and pair.state is PairState.FAILED

    def test_what_waits_in_the_queue_is_not_checked_twice(self) -> None:
        scene = Scene()
        pair, _ = scene.checked()
        scene.hear(peer=pair.peer)
        assert scene.generation.checks.triggered == (pair,)
        # Right after Ta, a request comes before the timer does.
        scene.now += TA
        scene.hear(peer=pair.peer)
        assert scene.wait(0).generation.checks.triggered == ()
        scene.wait(0.4)
        assert len(scene.checks) == 2

    def test_the_peer_is_told_once_for_each_component(self) -> None:
        scene = Scene(components=2)
        second = base(2, component=2)
        for at in (scene.base, scene.base, second):
            scene.hear(at=at)
        assert scene.generation.heard == (1, 2)
        assert len(scene.take(PeerChecks)) == 2

    def test_of_a_pair_worse_than_the_nominated(self) -> None:
        """Nothing more is checked for a component that is settled, unless a better pair is nominated."""
        scene = Scene(controlling=False)
        best, worse = scene.valid(priority=5), scene.pair(priority=3)
        scene.generation.selection.nominate(best)
        assert scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None), worse.peer) is not None
        assert len(scene.checks) == 1 and not worse.use_candidate
        better = scene.pair(priority=9)
        scene.hear(check("ICE-CONTROLLING"), better.peer)
        assert len(scene.checks) == 1
        scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None), better.peer)
        assert scene.asked[1:] == [better.peer[1]]

    def test_of_a_worse_pair_that_the_peer_picks(self) -> None:
        """It has checked the pair before it nominates it: the one before is dead for it."""
        scene = Scene(controlling=False)
        best, worse = scene.valid(priority=5), scene.pair(priority=3)
        scene.generation.selection.nominate(best)
        scene.hear(check("ICE-CONTROLLING"), worse.peer)
        assert len(scene.checks) == 1
        scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None), worse.peer)
        assert scene.asked[1:] == [worse.peer[1]] and worse.use_candidate
        assert scene.generation.selection.nominate(worse)


class TestPeerReflexive:
    """RFC 8445 §7.3.1.3."""

    def test_a_stranger_address_becomes_a_candidate(self) -> None:
        scene = Scene()
        scene.hear()
        (remote,) = scene.generation.remote_candidates
        assert (remote.type, remote.host, remote.port, remote.component) == ("prflx", *PEER, 1)
        assert remote.priority == 1234 and remote.transport == "udp"
        (pair,) = scene.generation.checks.pairs
        assert pair.remote is remote and pair.state is PairState.IN_PROGRESS

    def test_foundations_are_unique(self) -> None:
        scene = Scene()
        for port in range(10):
            scene.hear(peer=(PEER[0], 6000 + port))
        assert len({remote.foundation for remote in scene.generation.remote_candidates}) == 10

    def test_a_signalled_candidate_on_another_base(self) -> None:
        scene = Scene()
        pair = scene.pair()
        scene.hear(peer=pair.peer, at=base(2))
        assert scene.generation.remote_candidates == [pair.remote]
        assert len(scene.generation.checks.pairs) == 2

    def test_no_more_than_the_limit(self) -> None:
        scene = Scene(max_pairs=1000)
        for port in range(MAX_PEER_REFLEXIVE + 2):
            assert scene.hear(peer=(PEER[0], 6000 + port)) is not None
        assert len(scene.generation.remote_candidates) == len(scene.checks) == MAX_PEER_REFLEXIVE
        assert scene.checker.drops == {"too many peer-reflexive candidates": 2}

    def test_a_full_check_list(self) -> None:
        # RFC 8445 §6.1.2.5
        scene = Scene(max_pairs=2)
        for _ in range(2):
            scene.valid()
        assert scene.hear() is not None
        assert scene.checker.drops == {"check list full": 1}
        assert len(scene.checks) == 2

    def test_a_component_that_is_not_used(self) -> None:
        # RFC 8863 §4
        scene = Scene(components=2)
        scene.generation.components = (1,)
        assert scene.hear(at=base(2, component=2)) is not None
        assert scene.generation.remote_candidates == [] and scene.checks == []


class TestEarlyChecks:
    """RFC 8445 §7.3: checks may come before the answer does."""

    def test_answered_and_kept(self) -> None:
        scene = Scene(start=False)
        answer = scene.hear(check(username="ours:theirs"))
        assert answer is not None and answer.message_class is Class.RESPONSE
        assert scene.checks == [] and scene.told == [Heard(scene.base, PEER)]
        scene.start()
        assert scene.asked == [PEER[1]]
        assert scene.told[1:] == [PeerChecks(scene.generation)]
        assert scene.generation.early == ()

    def test_of_somebody_else(self) -> None:
        scene = Scene(start=False)
        scene.hear(check(username="ours:others"))
        scene.start()
        assert scene.checks == [] and scene.told == [Heard(scene.base, PEER)]
        assert scene.checker.drops == {"check of another session": 1}

    def test_no_more_than_the_limit(self) -> None:
        scene = Scene(start=False)
        for port in range(MAX_EARLY_CHECKS + 10):
            scene.hear(peer=(PEER[0], 6000 + port))
        scene.start()
        assert scene.asked == list(range(6010, 6010 + MAX_PEER_REFLEXIVE))

    def test_the_nomination_in_it_counts(self) -> None:
        scene = Scene(controlling=False, start=False)
        scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None))
        scene.start().answer(scene.checks[-1])
        assert [type(output) for output in scene.told] == [Heard, PeerChecks, Valid, Nominated]

    def test_on_a_socket_that_is_lost(self) -> None:
        scene = Scene(start=False)
        scene.hear()
        scene.hear(at=base(2), peer=ELSEWHERE)
        scene.checker.base_lost(1)
        scene.start()
        assert scene.asked == [ELSEWHERE[1]]


class TestNomination:
    """RFC 8445 §8.1.1 and §7.3.1.5."""

    def test_by_us(self) -> None:
        scene = Scene()
        pair = scene.valid()
        scene.checker.nominate(scene.now, scene.generation, pair)
        scene.drain()
        assert "USE-CANDIDATE" in scene.last.attributes
        assert scene.take(Nominated) == []
        scene.answer(scene.checks[-1])
        assert scene.take(Nominated) == [Nominated(scene.generation, pair)]

    def test_the_answer_to_the_plain_check_does_not_nominate(self) -> None:
        """Nor does it end the nomination in flight."""
        scene = Scene()
        pair, first = scene.checked()
        scene.wait(TA).hear(peer=pair.peer)
        scene.answer(scene.wait(0).checks[-1])
        scene.checker.nominate(scene.now, scene.generation, pair)
        scene.drain().answer(first)
        assert len(scene.take(Valid)) == 2 and scene.take(Nominated) == []
        scene.wait(0.6)
        assert len(scene.checks) == 4  # the nomination is repeated
        scene.answer(scene.checks[-1])
        assert scene.take(Nominated) == [Nominated(scene.generation, pair)]

    @pytest.mark.parametrize("hurry", [True, False])
    def test_is_given_up_soon_while_there_are_others(self, hurry: bool) -> None:
        scene = Scene()
        pair = scene.valid()
        scene.checker.nominate(scene.now, scene.generation, pair)
        if hurry:
            scene.checker.hurry(pair)
        scene.drain().wait(4.0)
        assert len(scene.checks) == 1 + (1 + NOMINATION_RETRANSMISSIONS if hurry else 4)
        assert pair.state is (PairState.FAILED if hurry else PairState.SUCCEEDED)

    def test_of_which_none_is_in_flight(self) -> None:
        scene = Scene()
        pair = scene.valid()
        scene.checker.hurry(pair)
        scene.wait(10.0)
        assert len(scene.checks) == 1 and pair.state is PairState.SUCCEEDED

    def test_that_fails(self) -> None:
        scene = Scene()
        pair = scene.valid()
        scene.checker.nominate(scene.now, scene.generation, pair)
        scene.drain().answer(scene.checks[-1], 400)
        assert pair.state is PairState.FAILED and not pair.use_candidate
        assert scene.take(Dead) == [Dead(scene.generation, pair)]

    def test_by_the_peer_of_a_valid_pair(self) -> None:
        scene = Scene(controlling=False)
        pair = scene.valid()
        scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None), pair.peer)
        assert scene.take(Nominated) == [Nominated(scene.generation, pair)]
        assert len(scene.checks) == 1

    def test_by_the_peer_of_a_pair_to_be_checked(self) -> None:
        scene = Scene(controlling=False)
        pair = scene.pair()
        scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None), pair.peer)
        assert scene.take(Nominated) == [] and pair.use_candidate
        assert "USE-CANDIDATE" not in scene.last.attributes
        scene.answer(scene.checks[-1])
        assert scene.take(Nominated) == [Nominated(scene.generation, pair)]

    @pytest.mark.parametrize("code", [400, 0])
    def test_by_the_peer_of_a_pair_whose_check_fails(self, code: int) -> None:
        # RFC 8445 §7.2.5.3.4, §7.3.1.5; 0: no answer
        scene = Scene(controlling=False, tunables=Tunables(retry_max=0, retry_rto=1.0))
        pair = scene.pair()
        scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None), pair.peer)
        if code:
            scene.answer(scene.checks[-1], code)
        scene.wait(20.0)
        assert pair.state is PairState.FAILED and not pair.use_candidate
        assert scene.take(Nominated) == [] and scene.take(Dead) == [Dead(scene.generation, pair)]

    def test_by_a_peer_that_does_not_control(self) -> None:
        scene = Scene()
        pair = scene.valid()
        scene.hear(check("ICE-CONTROLLED", USE_CANDIDATE=None), pair.peer)
        assert scene.take(Nominated) == [] and not pair.use_candidate

    def test_a_controlled_side_that_was_not_asked_does_not_nominate(self) -> None:
        scene = Scene(controlling=False)
        scene.valid()
        assert scene.take(Nominated) == []

    def test_lite(self) -> None:
        # RFC 8445 §7.3.2: the peer's choice is trusted.
        scene = Scene(controlling=False, lite=True)
        scene.hear(check("ICE-CONTROLLING"))
        (pair,) = scene.generation.checks.pairs
        assert pair.state is PairState.WAITING
        assert scene.told == [Heard(scene.base, PEER)]
        for _ in range(2):
            scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None))
        assert pair.state is PairState.SUCCEEDED and scene.checks == []
        local = scene.base.candidate
        valid = Valid(scene.generation, pair, (local.host, local.port), local.priority)
        nominated = Nominated(scene.generation, pair)
        heard = Heard(scene.base, PEER)
        assert scene.told == [heard, heard, valid, nominated, heard, valid, nominated]

    def test_lite_without_room(self) -> None:
        scene = Scene(controlling=False, lite=True, max_pairs=1)
        advance(scene.generation.checks, scene.pair(), PairState.SUCCEEDED)
        assert scene.hear(check("ICE-CONTROLLING", USE_CANDIDATE=None)) is not None
        assert scene.told == [Heard(scene.base, PEER)]

    def test_stops_repeating_the_others(self) -> None:
        # RFC 8445 §8.1.2; an answer still counts.
        scene = Scene()
        pair, transmit = scene.checked()
        scene.checker.stop_repeating([scene.pair(priority=1, foundation="later"), pair])
        scene.wait(0.6)
        assert scene.asked.count(pair.peer[1]) == 1
        scene.answer(transmit)
        assert pair.state is PairState.SUCCEEDED


class TestConsent:
    """RFC 7675."""

    def ask(self, nominated: bool = False, controlling: bool = True) -> tuple[Scene, Pair, bytes]:
        scene = Scene(controlling=controlling)
        pair = scene.valid()
        pair.nominated = nominated
        transaction_id = scene.checker.ask_consent(scene.now, scene.generation, pair, 3.0)
        scene.drain().told.clear()
        assert scene.checks[-1].data[8:20] == transaction_id
        return scene, pair, transaction_id

    def test_the_answer(self) -> None:
        scene, pair, transaction_id = self.ask()
        scene.answer(scene.checks[-1])
        assert scene.told == [ConsentAnswered(pair, transaction_id)]

    def test_sent_once_and_waited_for(self) -> None:
        scene, pair, _ = self.ask()
        scene.wait(2.9)
        assert len(scene.checks) == 2
        scene.answer(scene.checks[-1])
        assert len(scene.told) == 1

    def test_no_answer_costs_nothing_here(self) -> None:
        scene, pair, _ = self.ask()
        scene.wait(10.0)
        assert scene.told == [] and pair.state is PairState.SUCCEEDED

    @pytest.mark.parametrize(
        "nominated, controlling, said", [(True, True, True), (False, True, False), (True, False, False)]
    )
    def test_repeats_the_nomination(self, nominated: bool, controlling: bool, said: bool) -> None:
        scene, _, _ = self.ask(nominated, controlling)
        assert ("USE-CANDIDATE" in scene.last.attributes) is said

    def test_revoked(self) -> None:
        # §5.2
        scene, pair, _ = self.ask()
        scene.answer(scene.checks[-1], 403)
        assert scene.told == [ConsentRefused(pair)]

    def test_revoked_by_a_stranger(self) -> None:
        scene, pair, _ = self.ask()
        scene.answer(scene.checks[-1], 403, password="another password")
        assert scene.told == []

    @pytest.mark.parametrize("code", [400, 401, 500])
    def test_other_errors_do_not_revoke(self, code: int) -> None:
        scene, pair, _ = self.ask()
        scene.answer(scene.checks[-1], code)
        assert scene.told == [] and pair.state is PairState.SUCCEEDED

    def test_answered_from_elsewhere(self) -> None:
        scene, pair, _ = self.ask()
        scene.answer(scene.checks[-1], peer=ELSEWHERE)
        assert scene.told == [] and pair.state is PairState.SUCCEEDED
        assert scene.checker.drops == {"answer from elsewhere": 1}


class TestBadNews:
    def test_given_up_by_the_agent(self) -> None:
        scene = Scene()
        pair = scene.valid()
        for _ in range(2):
            scene.checker.give_up(scene.now, scene.generation, pair, "silence")
        scene.drain()
        assert scene.take(Dead) == [Dead(scene.generation, pair)] and pair.why_failed == "silence"

    def test_an_answer_after_that(self) -> None:
        scene = Scene()
        pair, transmit = scene.checked()
        scene.checker.give_up(scene.now, scene.generation, pair, "silence")
        scene.drain().answer(transmit)
        assert pair.state is PairState.FAILED and scene.take(Valid) == []

    def test_nothing_is_sent_again_where_consent_was_lost(self) -> None:
        """RFC 7675 §5.1: not with the same credentials, though the peer checks on."""
        scene = Scene()
        pair = scene.valid()
        scene.checker.give_up(scene.now, scene.generation, pair, "silence")
        known = len(scene.checks)
        answer = scene.hear(peer=pair.peer)
        assert answer is not None and answer.message_class is Class.RESPONSE
        scene.wait(5.0)
        assert len(scene.checks) == known and pair.state is PairState.FAILED

    def test_unreachable(self) -> None:
        scene = Scene()
        pair, _ = scene.checked()
        scene.checker.unreachable(scene.now, 1, pair.peer, Reason.REFUSED)
        assert scene.drain().told == [Dead(scene.generation, pair)]
        assert pair.why_failed == "connection refused"
        scene.wait(1.0)
        assert len(scene.checks) == 1

    def test_unreachable_counts_for_a_check_in_flight_only(self) -> None:
        """An ICMP message is easily forged: it takes no valid pair away."""
        scene = Scene()
        valid, waiting = scene.valid(), scene.pair()
        for peer in (valid.peer, waiting.peer, ELSEWHERE):
            scene.checker.unreachable(scene.now, 1, peer, Reason.REFUSED)
        scene.drain()
        assert scene.take(Dead) == []
        assert (valid.state, waiting.state) == (PairState.SUCCEEDED, PairState.WAITING)

    def test_refused_by_the_relay(self) -> None:
        scene = Scene()
        pair = scene.valid()
        for peer in (pair.peer, pair.peer, ELSEWHERE):
            scene.checker.refused_by_relay(scene.now, 1, peer, "the relay says no")
        scene.drain()
        assert scene.take(Dead) == [Dead(scene.generation, pair)]
        assert (pair.state, pair.why_failed) == (PairState.FAILED, "the relay says no")

    def test_permitted_by_the_relay(self) -> None:
        """RFC 8656 §9: what left before was dropped, so each check in flight leaves once more, the same."""
        scene = Scene()
        scene.valid()
        pair, transmit = scene.checked()
        assert pair.request is not None
        before = pair.request.deadline
        sent = len(scene.sent)
        for link, host in ((2, pair.peer[0]), (1, "203.0.113.250"), (1, pair.peer[0])):
            scene.checker.permitted(link, host)
        scene.drain()
        assert [again for _, again in scene.sent[sent:]] == [transmit]
        assert pair.request.deadline == before

    def test_a_lost_socket_has_no_requests(self) -> None:
        scene = Scene()
        gone, first = scene.checked()
        other = base(2)
        left, second = scene.checked(at=other)
        scene.checker.base_lost(1)
        scene.wait(0.6)
        assert [transmit.link for transmit in scene.checks] == [1, 2, 2]
        scene.answer(second, at=other)
        assert left.state is PairState.SUCCEEDED and gone.state is PairState.IN_PROGRESS


class TestGenerations:
    def test_what_is_in_flight_for_others_is_forgotten(self) -> None:
        scene = Scene()
        old, transmit = scene.checked()
        new = scene.new_generation("new", "new password")
        scene.checker.use([new, scene.generation])
        scene.answer(transmit)
        assert old.state is PairState.SUCCEEDED
        pair = scene.generation.checks.add(scene.base, candidate(port=7777, foundation="f"))
        assert pair is not None
        scene.checker.nominate(scene.now, scene.generation, pair)
        scene.checker.use([new])
        assert scene.drain().checker.poll_timeout() is None

    def test_stop(self) -> None:
        """What was to be sent is sent; nothing is told any more, and nothing is sent again."""
        scene = Scene()
        pair = scene.pair()
        scene.checker.handle_stun(scene.now, scene.base, pair.peer, bytes(check()))
        scene.checker._outputs.append(Close(9))  # others use the same queue
        scene.checker.stop()
        outputs = list(iter(scene.checker.poll_output, None))
        assert [type(output) for output in outputs] == [Transmit, Transmit, Close]
        assert scene.checker.poll_timeout() is None
        assert scene.hear() is not None  # a stranger by now
        assert scene.told == [] and scene.checks == []
