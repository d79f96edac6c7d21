"""What an error of a TURN server means, row by row (RFC 8656 §7.4, §19; RFC 8489 §10)."""

from __future__ import annotations

import pytest

from aioice.core.machine import Address
from aioice.core.message import Class, Message, Method, Several, parse_message
from aioice.core.turn_errors import MAX_RETRIES, Step, Verdict, advice, describe, verdict

FIRST, SECOND, SIXTH = ("192.0.2.5", 3478), ("192.0.2.6", 3478), ("2001:db8::5", 3478)


def redirection(*servers: Address, domain: str | None = None) -> Message:
    attributes = {"ERROR-CODE": (300, "Try Alternate"), "ALTERNATE-SERVER": Several(servers)}
    if domain is not None:
        attributes["ALTERNATE-DOMAIN"] = domain
    return parse_message(bytes(Message(Method.ALLOCATE, Class.ERROR, bytes(12), attributes)))


class TestVerdict:
    @pytest.mark.parametrize("code", [400, 401, 403, 420, 440, 441, 442, 443, 446, 447, 499])
    def test_the_server_would_say_the_same_again(self, code: int) -> None:
        assert verdict(code) == Verdict(Step.GIVE_UP)

    @pytest.mark.parametrize(
        ("code", "seconds"), [(408, 60), (438, 60), (486, 60), (508, 60), (500, 5), (599, 5), (437, 0)]
    )
    def test_not_the_same_server_again_so_soon(self, code: int, seconds: int) -> None:
        assert verdict(code).hold_off == seconds

    def test_another_port_three_times_and_then_not_for_two_minutes(self) -> None:
        steps = [verdict(437, attempt=attempt) for attempt in (1, 2, 3, 4)]
        assert [found.step for found in steps] == [Step.NEW_TUPLE, Step.NEW_TUPLE, Step.HOLD_OFF, Step.HOLD_OFF]
        assert steps[2].hold_off == 120

    def test_a_server_in_trouble_is_asked_four_times(self) -> None:
        assert [verdict(500, attempt=attempt).hold_off for attempt in range(1, MAX_RETRIES + 2)] == [5, 5, 5, 5, 60]

    @pytest.mark.parametrize("code", [0, 437, 441])
    def test_what_was_lost_is_allocated_anew(self, code: int) -> None:
        assert verdict(code, lost=True, attempt=9) == Verdict(Step.NEW_TUPLE)

    def test_no_answer_at_all(self) -> None:
        assert verdict(0) == Verdict(Step.HOLD_OFF)


class TestRedirection:
    def test_all_alternates_are_told(self) -> None:
        found = verdict(300, redirection(FIRST, SIXTH, domain="other.example.org"))
        assert found == Verdict(Step.REDIRECT, 0, (FIRST, SIXTH), "other.example.org")
        assert verdict(300, redirection(FIRST), lost=True).step is Step.REDIRECT

    def test_not_in_circles(self) -> None:
        assert verdict(300, redirection(FIRST, SECOND), visited={FIRST}).alternates == (SECOND,)
        assert verdict(300, redirection(FIRST), visited=[FIRST]) == Verdict(Step.GIVE_UP)

    def test_to_nowhere(self) -> None:
        assert verdict(300) == Verdict(Step.GIVE_UP)
        assert verdict(300, Message(Method.ALLOCATE, Class.ERROR, bytes(12), {})) == Verdict(Step.GIVE_UP)


class TestDescription:
    def refusal(self, code: int, phrase: str) -> str:
        return describe(Message(Method.ALLOCATE, Class.ERROR, bytes(12), {"ERROR-CODE": (code, phrase)}))

    def test_is_escaped(self) -> None:
        assert self.refusal(499, "\x1b[31m\n☠") == r"the server refused: 499 ('\x1b[31m\n\u2620')"

    def test_padding_of_the_reason_is_not_shown(self) -> None:
        assert self.refusal(499, "Forbidden\0\0\0") == "the server refused: 499 ('Forbidden')"

    def test_says_what_to_do(self) -> None:
        assert self.refusal(401, "No") == "the server refused: 401 ('No'): check the user name and the password"
        for code in (300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 500, 508, 599):
            assert advice(code)
        assert advice(499) == ""

    def test_without_a_code(self) -> None:
        assert describe(Message(Method.ALLOCATE, Class.ERROR, bytes(12))) == "the server refused without an error code"
