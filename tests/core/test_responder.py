"""Judging requests and answering errors (RFC 8489 §9.1.3, RFC 8445 §7.3)."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.responder import BURST, MAX_SOURCES, TOTAL_BURST, Strangers, error_answer, is_for

KEY = b"password"
PEER = ("192.0.2.1", 5000)


def request(**attributes: Any) -> Message:
    return Message(
        Method.BINDING, Class.REQUEST, b"transaction!", {name.replace("_", "-"): v for name, v in attributes.items()}
    )


class TestErrorAnswer:
    def test_role_conflict_is_signed(self) -> None:
        # RFC 8445 §7.3.1.1
        answer = parse_message(error_answer(request(), 487, KEY))
        assert (answer.message_method, answer.message_class) == (Method.BINDING, Class.ERROR)
        assert answer.transaction_id == b"transaction!"
        assert answer.attributes["ERROR-CODE"] == (487, "")
        assert list(answer.attributes) == ["ERROR-CODE", "MESSAGE-INTEGRITY", "FINGERPRINT"]
        assert answer.check_message_integrity(KEY)

    @pytest.mark.parametrize("unknown", [(0x7777,), (0x7777, 0x7778), (1, 2, 3)])
    def test_unknown_attributes_are_named(self, unknown: tuple[int, ...]) -> None:
        # RFC 8489 §6.3.1
        answer = parse_message(error_answer(request(), 420, KEY, unknown))
        assert answer.error_code == 420
        assert list(answer.attributes["UNKNOWN-ATTRIBUTES"]) == list(unknown)
        assert answer.check_message_integrity(KEY)

    def test_bad_request_without_a_key(self) -> None:
        # RFC 8489 §9.1.3: 400 and 401 carry no integrity.
        data = error_answer(request(), 400)
        answer = parse_message(data)
        assert answer.error_code == 400
        assert list(answer.attributes) == ["ERROR-CODE", "FINGERPRINT"]
        assert len(data) == 36

    def test_of_a_method_that_is_not_known(self) -> None:
        asked = Message(0x123, Class.REQUEST, b"transaction!")
        assert parse_message(error_answer(asked, 400)).message_method == 0x123


class TestIsFor:
    @pytest.mark.parametrize(
        "username, remote, ours",
        [
            ("ours:theirs", "theirs", True),
            ("ours:theirs", None, True),
            ("ours:", None, True),
            ("ours:other", "theirs", False),
            ("other:theirs", "theirs", False),
            ("ours", None, False),
            ("", None, False),
            (":theirs", "theirs", False),
            ("theirs:ours", "theirs", False),
            ("ours:theirs:more", "theirs", False),
            # RFC 8839 §5.4: the longest that a peer may have.
            ("ours:" + "t" * 256, "t" * 256, True),
        ],
    )
    def test_username(self, username: str, remote: str | None, ours: bool) -> None:
        # RFC 8445 §7.3: the part before the colon is ours.
        assert is_for(request(USERNAME=username), "ours", remote) is ours


class TestStrangers:
    def test_the_answer(self) -> None:
        asked = request(USERNAME="somebody:else", PRIORITY=1)
        data = Strangers().answer(0.0, asked, len(bytes(asked)), PEER, 401)
        assert data is not None
        answer = parse_message(data)
        assert answer.error_code == 401
        assert "MESSAGE-INTEGRITY" not in answer.attributes

    @pytest.mark.parametrize("code", [400, 401])
    def test_never_longer_than_the_request(self, code: int) -> None:
        sizes = [size for size in range(0, 100) if Strangers().answer(0.0, request(), size, PEER, code) is not None]
        assert sizes == list(range(36, 100))

    def test_one_that_is_too_long_costs_nothing(self) -> None:
        strangers = Strangers()
        for _ in range(100):
            assert strangers.answer(0.0, request(), 20, PEER, 400) is None
        assert self.answers(strangers, 0.0) == BURST

    @staticmethod
    def answers(strangers: Strangers, now: float, host: str = PEER[0], tries: int = 50) -> int:
        return sum(strangers.answer(now, request(), 100, (host, port), 400) is not None for port in range(tries))

    def test_a_few_a_second_for_each_source(self) -> None:
        strangers = Strangers()
        assert self.answers(strangers, 10.0) == BURST
        assert self.answers(strangers, 10.0, "192.0.2.2") == BURST
        assert self.answers(strangers, 10.1) == 0
        assert self.answers(strangers, 10.5) == 2
        assert self.answers(strangers, 11.5) == BURST
        assert self.answers(strangers, 1000.0) == BURST

    def test_a_flood_is_answered_at_that_rate(self) -> None:
        strangers = Strangers()
        answered = sum(self.answers(strangers, millisecond / 1024, tries=1) for millisecond in range(10 * 1024))
        assert answered == BURST + 10 * BURST - 1

    def test_the_table_is_bounded(self) -> None:
        strangers = Strangers()
        for number in range(10 * MAX_SOURCES):
            assert self.answers(strangers, float(number), f"host {number}") == BURST
            assert len(strangers._tokens) <= MAX_SOURCES

    def test_the_one_that_was_quiet_for_longest_is_forgotten(self) -> None:
        strangers = Strangers()
        for number in range(MAX_SOURCES):
            self.answers(strangers, 0.0, f"host {number}")
        self.answers(strangers, 0.0, "host 0")
        self.answers(strangers, 0.0, "one more")
        assert len(strangers._tokens) == MAX_SOURCES
        assert "host 0" in strangers._tokens
        assert "host 1" not in strangers._tokens

    def test_many_sources_share_a_limit(self) -> None:
        """More than are remembered, each of whom would be new again whenever it comes."""
        strangers = Strangers()

        def answers(now: float) -> int:
            hosts = [f"host {number}" for number in range(MAX_SOURCES + 1)] * 10
            return sum(self.answers(strangers, now, host, tries=1) for host in hosts)

        assert answers(0.0) == TOTAL_BURST
        assert answers(0.5) == TOTAL_BURST // 2
        assert answers(1000.0) == TOTAL_BURST
