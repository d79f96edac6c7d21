"""Requests to one TURN server, through refusals, lost packets and changes of the credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aioice.core.credentials import LongTermCredentials, make_integrity_key
from aioice.core.machine import Tunables
from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.transactions import (
    CREDENTIALS_MARGIN,
    CREDENTIALS_TIME,
    MAX_RENEWALS,
    Answered,
    Refused,
    Sent,
    Silent,
    Transactions,
    WantCredentials,
)
from tests.core.pairs import counter

SERVER = ("192.0.2.1", 3478)
LINK = 7
FAMILY = 0x0017


class Scene:
    """The transactions and a server that knows some users."""

    def __init__(
        self,
        user: tuple[str | None, str | None] = ("user", "pass"),
        *,
        reliable: bool = False,
        renewable: bool = False,
        expires: float | None = None,
    ) -> None:
        self.now = 100.0
        self.transactions = Transactions(
            LongTermCredentials(*user), Tunables(), counter(), SERVER, reliable=reliable, renewable=renewable
        )
        self.users = {"user": "pass"}
        self.nonce = b"one"
        self.silent = False
        #: May answer an authenticated request otherwise.
        self.override: Callable[[Message], Message | None] = lambda request: None
        self.sent: list[tuple[float, Message, bool]] = []
        self.outputs: list[Any] = []
        self.transactions.start(self.now, LINK, expires)

    def drain(self) -> None:
        while (output := self.transactions.poll_output()) is not None:
            if not isinstance(output, Sent):
                self.outputs.append(output)
                continue
            request = parse_message(output.data)
            self.sent.append((self.now, request, output.repeated))
            if not self.silent:
                self.transactions.handle_answer(self.now, self.answer(request))

    def answer(self, request: Message) -> Message:
        name = request.attributes.get("USERNAME")
        key = make_integrity_key(name or "", "realm", self.users.get(name or "", ""))
        if name not in self.users or not request.check_message_integrity(key):
            return self.error(request, 401)
        if request.attributes["NONCE"] != self.nonce:
            return self.error(request, 438)
        answer = self.override(request) or Message(request.message_method, Class.RESPONSE, request.transaction_id)
        if answer.error_code not in (401, 438) and "MESSAGE-INTEGRITY" not in answer.attributes:
            answer.add_message_integrity(key)
        return parse_message(bytes(answer))

    def error(self, request: Message, code: int, **more: Any) -> Message:
        attributes: dict[str, Any] = {"ERROR-CODE": (code, "No")} | more
        if code in (401, 438):
            attributes |= {"REALM": "realm", "NONCE": self.nonce}
        return Message(request.message_method, Class.ERROR, request.transaction_id, attributes)

    def ask(self, subject: Any = "subject", method: Method = Method.REFRESH, **more: Any) -> None:
        attributes = {"LIFETIME": 600} | more.pop("attributes", {})
        self.transactions.ask(self.now, method, attributes, subject, **more)
        self.drain()

    def give(self, *user: Any) -> None:
        self.transactions.set_credentials(self.now, *user)
        self.drain()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.transactions.poll_timeout()) is not None and deadline <= end:
            self.now = deadline
            self.transactions.handle_timeout(self.now)
            after = self.transactions.poll_timeout()
            assert after is None or after > self.now
            self.drain()
        self.now = end

    def take(self, kind: type[Any]) -> list[Any]:
        taken = [output for output in self.outputs if isinstance(output, kind)]
        self.outputs = [output for output in self.outputs if not isinstance(output, kind)]
        return taken

    def names(self) -> list[str | None]:
        """The users in whose name was asked since the last question."""
        sent, self.sent = self.sent, []
        return [request.attributes.get("USERNAME") for _, request, _ in sent]


def authenticated(**options: Any) -> Scene:
    """The server has taken the credentials, for an allocation."""
    scene = Scene(**options)
    scene.ask(method=Method.ALLOCATE)
    assert [answered.exchange.subject for answered in scene.take(Answered)] == ["subject"]
    scene.sent.clear()
    return scene


def refusing(**options: Any) -> Scene:
    """The server does not know the user any more, and a request of hers waits."""
    scene = authenticated(renewable=True, **options)
    scene.users = {"user": "newer", "other": "word"}
    scene.ask("first")
    assert scene.take(WantCredentials) == [WantCredentials()]
    assert scene.names() == ["user"]
    return scene


class TestAttempts:
    def test_signed_from_the_second_on(self) -> None:
        scene = Scene()
        scene.ask()
        scene.ask("another")
        assert scene.names() == [None, "user", "user"]
        assert [answered.exchange.subject for answered in scene.take(Answered)] == ["subject", "another"]

    def test_what_was_repeated_is_told(self) -> None:
        scene = authenticated()
        scene.nonce = b"two"
        scene.ask()
        assert [repeated for _, _, repeated in scene.sent] == [False, True]
        scene.sent.clear()
        scene.silent = True
        scene.ask()
        assert not scene.transactions.idle
        scene.run(1)
        assert [repeated for _, _, repeated in scene.sent] == [False, True]

    def test_silence(self) -> None:
        scene = authenticated()
        scene.silent = True
        scene.ask()
        scene.run(40)
        (silent,) = scene.take(Silent)
        assert (silent.exchange.subject, silent.detail) == ("subject", "the server does not answer")
        assert len(scene.sent) == 7
        assert scene.transactions.idle

    def test_over_a_stream_it_leaves_once(self) -> None:
        scene = authenticated(reliable=True)
        scene.silent = True
        scene.ask()
        scene.run(40)
        assert len(scene.sent) == 1
        assert len(scene.take(Silent)) == 1

    @pytest.mark.parametrize("reliable", [False, True])
    def test_forged_answers(self, reliable: bool) -> None:
        # RFC 8489 §9.2.5
        scene = authenticated(reliable=reliable)

        def forge(request: Message) -> Message:
            answer = Message(request.message_method, Class.RESPONSE, request.transaction_id)
            answer.add_message_integrity(b"guess")
            return answer

        scene.override = forge
        scene.ask()
        if reliable:
            assert [(refused.code, refused.detail) for refused in scene.take(Refused)] == [
                (0, "the answer of the server is not authentic")
            ]
        else:
            scene.run(40)
            assert [silent.detail for silent in scene.take(Silent)] == ["the answers of the server are not authentic"]

    def test_answers_of_no_interest(self) -> None:
        scene = authenticated()
        scene.silent = True
        scene.ask()
        request = scene.sent[0][1]
        stranger = Message(Method.REFRESH, Class.RESPONSE, b"unknown-one!")
        other = Message(Method.CONNECT, Class.RESPONSE, request.transaction_id)
        assert not scene.transactions.handle_answer(scene.now, stranger)
        assert not scene.transactions.handle_answer(scene.now, other)
        assert scene.transactions.handle_answer(scene.now, scene.answer(request))
        scene.drain()
        assert len(scene.take(Answered)) == 1

    def test_refusal(self) -> None:
        scene = authenticated()
        scene.override = lambda request: scene.error(request, 486)
        scene.ask()
        (refused,) = scene.take(Refused)
        assert (refused.exchange.subject, refused.code, refused.message.error_code) == ("subject", 486, 486)

    def test_refusal_without_a_code(self) -> None:
        scene = authenticated()
        scene.override = lambda request: Message(Method.REFRESH, Class.ERROR, request.transaction_id)
        scene.ask()
        assert [refused.code for refused in scene.take(Refused)] == [0]

    def test_nonce_that_is_always_stale(self) -> None:
        scene = authenticated()
        scene.override = lambda request: scene.error(request, 438)
        scene.ask()
        assert [refused.code for refused in scene.take(Refused)] == [438]
        assert len(scene.sent) == 10

    def test_tunables(self) -> None:
        scene = authenticated()
        scene.transactions.tune(Tunables(retry_max=0, retry_rto=0.1))
        scene.silent = True
        scene.ask()
        scene.run(1)
        assert len(scene.take(Silent)) == 1


class TestUnknownAttributes:
    def refuse(self, scene: Scene, *types: int) -> None:
        scene.override = lambda request: (
            scene.error(request, 420, **{"UNKNOWN-ATTRIBUTES": list(types)})
            if "REQUESTED-ADDRESS-FAMILY" in request.attributes
            else None
        )
        scene.ask(attributes={"REQUESTED-ADDRESS-FAMILY": 1 << 24}, optional=("REQUESTED-ADDRESS-FAMILY",))

    def test_again_without(self) -> None:
        scene = authenticated()
        self.refuse(scene, FAMILY, 0x7F00)
        assert ["REQUESTED-ADDRESS-FAMILY" in request.attributes for _, request, _ in scene.sent] == [True, False]
        assert len(scene.take(Answered)) == 1

    @pytest.mark.parametrize("types", [(0x7F00,), (), (FAMILY, 0x000D)])
    def test_what_cannot_be_left_out(self, types: tuple[int, ...]) -> None:
        scene = authenticated()
        self.refuse(scene, *types)
        assert [refused.code for refused in scene.take(Refused)] == [420]
        assert len(scene.sent) == 1

    def test_once(self) -> None:
        scene = authenticated()
        scene.override = lambda request: scene.error(request, 420, **{"UNKNOWN-ATTRIBUTES": [FAMILY, 0x000D]})
        scene.ask(attributes={"REQUESTED-ADDRESS-FAMILY": 1 << 24}, optional=("REQUESTED-ADDRESS-FAMILY", "LIFETIME"))
        assert [refused.code for refused in scene.take(Refused)] == [420]
        assert len(scene.sent) == 2

    def test_without_a_list(self) -> None:
        scene = authenticated()
        scene.override = lambda request: scene.error(request, 420)
        scene.ask(optional=("LIFETIME",))
        assert [refused.code for refused in scene.take(Refused)] == [420]

    def test_of_an_answer(self) -> None:
        scene = Scene()
        scene.silent = True
        scene.ask()
        answer = bytes(Message(Method.REFRESH, Class.RESPONSE, scene.sent[0][1].transaction_id))
        scene.transactions.handle_answer(scene.now, parse_message(answer[:3] + b"\x04" + answer[4:] + b"\x7f\xff\0\0"))
        scene.drain()
        assert [refused.detail for refused in scene.take(Refused)] == [
            "the answer of the server has attributes that must be understood"
        ]


class TestRefusedCredentials:
    def test_that_cannot_be_renewed(self) -> None:
        scene = authenticated()
        scene.users.clear()
        scene.ask()
        assert [refused.code for refused in scene.take(Refused)] == [401]
        assert scene.names() == ["user"]

    def test_another_password(self) -> None:
        # F43
        scene = refusing()
        scene.ask("second")
        assert scene.names() == []
        scene.give("user", "newer")
        assert scene.names() == ["user", "user"]
        assert [answered.exchange.subject for answered in scene.take(Answered)] == ["first", "second"]
        assert scene.take(WantCredentials) == []

    def test_what_waited_counts_as_repeated(self) -> None:
        scene = refusing()
        scene.ask("second")
        scene.give("user", "newer")
        assert [repeated for _, _, repeated in scene.sent] == [True, True]

    @pytest.mark.parametrize("user", [(None, None), ("user", "pass"), ("user", "bad\n")])
    def test_no_better_ones(self, user: tuple[str | None, str | None]) -> None:
        scene = refusing()
        scene.give(*user)
        (refused,) = scene.take(Refused)
        assert (refused.exchange.subject, refused.code) == ("first", 401)
        assert ("not allowed" in refused.detail) == (user[1] == "bad\n")
        assert scene.names() == []

    def test_nobody_answers(self) -> None:
        scene = refusing()
        scene.run(CREDENTIALS_TIME - 0.1)
        assert scene.take(Refused) == []
        scene.run(0.2)
        assert [refused.code for refused in scene.take(Refused)] == [401]
        # They are asked for again while anybody waits for the allocation.
        scene.run(CREDENTIALS_TIME)
        assert scene.take(WantCredentials) == [WantCredentials()]

    def test_new_ones_in_vain(self) -> None:
        scene = refusing()
        for number in range(MAX_RENEWALS):
            scene.give("user", f"guess {number}")
        assert len(scene.take(WantCredentials)) == MAX_RENEWALS - 1
        assert [refused.code for refused in scene.take(Refused)] == [401]
        scene.users["user"] = "guess 1"
        scene.ask()
        assert len(scene.take(Answered)) == 1
        scene.users["user"] = "again"
        scene.ask()
        assert len(scene.take(WantCredentials)) == 1

    def test_another_user_who_may(self) -> None:
        scene = refusing()
        scene.give("other", "word")
        assert scene.names() == ["other"]
        assert len(scene.take(Answered)) == 1

    def test_another_user_who_may_not(self) -> None:
        # RFC 8656 §7.3: the allocation is that of the user who has made it.
        scene = refusing()
        scene.override = lambda request: scene.error(request, 441)
        scene.give("other", "word")
        assert [refused.code for refused in scene.take(Refused)] == [441]
        assert scene.take(WantCredentials) == []

    def test_441_for_the_same_user(self) -> None:
        scene = authenticated(renewable=True)
        scene.override = lambda request: scene.error(request, 441)
        scene.ask()
        assert scene.take(WantCredentials) == [WantCredentials()]
        scene.override = lambda request: None
        scene.users["user"] = "newer"
        scene.give("user", "newer")
        assert len(scene.take(Answered)) == 1

    def test_none_at_first(self) -> None:
        scene = Scene((None, None), renewable=True)
        scene.ask()
        assert scene.take(WantCredentials) == [WantCredentials()]
        scene.give("user", "pass")
        assert len(scene.take(Answered)) == 1

    @pytest.mark.parametrize(
        ("user", "detail"), [(("user", "bad\n"), "not allowed in user names"), ((None, None), "check the user name")]
    )
    def test_none_that_can_be_used(self, user: tuple[str | None, str | None], detail: str) -> None:
        scene = Scene(user)
        scene.ask()
        assert [detail in refused.detail for refused in scene.take(Refused)] == [True]

    def test_algorithms_that_cannot_be_used_are_no_question_of_credentials(self) -> None:
        scene = Scene(renewable=True)
        scene.silent = True
        scene.ask()
        answer = scene.error(scene.sent[0][1], 401, **{"PASSWORD-ALGORITHMS": [(77, b"")]})
        scene.transactions.handle_answer(scene.now, parse_message(bytes(answer)))
        scene.drain()
        (refused,) = scene.take(Refused)
        assert (refused.code, refused.detail) == (
            401,
            "the server has no password algorithm that can be used here: MD5 and SHA-256 are not among them",
        )
        assert scene.take(WantCredentials) == []

    def test_several_requests_are_refused_at_once(self) -> None:
        scene = authenticated(renewable=True)
        scene.users["user"] = "newer"
        scene.silent = True
        scene.ask("first")
        scene.ask("second")
        for _, request, _ in list(scene.sent):
            scene.transactions.handle_answer(scene.now, scene.answer(request))
        scene.drain()
        assert scene.take(WantCredentials) == [WantCredentials()]
        scene.silent = False
        scene.give("user", "newer")
        assert [answered.exchange.subject for answered in scene.take(Answered)] == ["first", "second"]

    def test_refused_after_the_new_ones_have_come(self) -> None:
        scene = authenticated(renewable=True)
        scene.silent = True
        scene.ask()
        request = scene.sent[0][1]
        scene.users["user"] = "newer"
        scene.silent = False
        scene.give("user", "newer")
        scene.transactions.handle_answer(scene.now, scene.answer(request))
        scene.drain()
        assert len(scene.take(Answered)) == 1

    def test_441_after_the_new_ones_have_come(self) -> None:
        scene = authenticated(renewable=True)
        scene.silent = True
        scene.ask()
        request = scene.sent[0][1]
        scene.override = lambda request: scene.error(request, 441)
        answer = scene.answer(request)
        scene.override = lambda request: None
        scene.silent = False
        scene.users["user"] = "newer"
        scene.give("user", "newer")
        scene.transactions.handle_answer(scene.now, answer)
        scene.drain()
        assert len(scene.take(Answered)) == 1


class TestExpiry:
    def test_renewed_before_the_end(self) -> None:
        scene = authenticated(renewable=True, expires=1000.0)
        scene.run(900 - CREDENTIALS_MARGIN - 0.1)
        assert scene.take(WantCredentials) == []
        scene.run(0.2)
        assert scene.take(WantCredentials) == [WantCredentials()]
        # What is asked for meanwhile does not wait.
        scene.ask()
        assert len(scene.take(Answered)) == 1
        scene.users["user"] = "newer"
        scene.give("user", "newer", 2000.0)
        scene.ask()
        assert len(scene.take(Answered)) == 1
        scene.run(2000 - CREDENTIALS_MARGIN - scene.now)
        assert scene.take(WantCredentials) == [WantCredentials()]

    def test_asked_again_after_a_failure(self) -> None:
        scene = authenticated(renewable=True, expires=1000.0)
        scene.run(850)
        assert len(scene.take(WantCredentials)) == 1
        assert scene.take(Refused) == []
        scene.give(None, None)
        scene.run(CREDENTIALS_TIME - 0.1)
        assert scene.take(WantCredentials) == []
        scene.run(0.2)
        assert len(scene.take(WantCredentials)) == 1

    def test_absurd_ends_do_not_spin(self) -> None:
        scene = authenticated(renewable=True, expires=-5.0)
        for _ in range(50):
            scene.run(1)
            if scene.take(WantCredentials):
                scene.give("user", "pass", -5.0)
        assert scene.transactions.poll_timeout() == pytest.approx(101 + 2 * CREDENTIALS_TIME)

    def test_those_of_another_user_wait_until_the_first_are_refused(self) -> None:
        scene = authenticated(renewable=True, expires=1000.0)
        scene.run(850)
        scene.users["other"] = "word"
        scene.give("other", "word", 2000.0)
        scene.ask()
        assert scene.names() == ["user"]
        del scene.users["user"]
        scene.ask()
        assert scene.names() == ["user", "other"]
        assert len(scene.take(Answered)) == 2
        assert scene.take(WantCredentials) == [WantCredentials()]

    def test_nobody_is_asked_who_cannot_answer(self) -> None:
        scene = authenticated(expires=200.0)
        scene.run(500)
        scene.give(None, None)
        scene.give("user", "pass", 300.0)
        assert scene.transactions.poll_timeout() is None


class TestClose:
    def test_nothing_waits_any_more(self) -> None:
        scene = refusing()
        scene.transactions.close()
        assert scene.transactions.poll_timeout() is None
        scene.ask("deletion")
        assert [refused.exchange.subject for refused in scene.take(Refused)] == ["deletion"]
        assert scene.take(WantCredentials) == []

    def test_only_deletions_are_repeated(self) -> None:
        scene = authenticated()
        scene.transactions.close()
        scene.nonce = b"two"
        scene.ask(method=Method.ALLOCATE)
        assert [refused.code for refused in scene.take(Refused)] == [438]
        scene.nonce = b"three"
        scene.ask()
        assert len(scene.take(Answered)) == 1
        scene.override = lambda request: scene.error(request, 420, **{"UNKNOWN-ATTRIBUTES": [0x000D]})
        scene.ask(optional=("LIFETIME",))
        assert [refused.code for refused in scene.take(Refused)] == [420]

    def test_nothing_leaves_again(self) -> None:
        scene = authenticated()
        scene.silent = True
        scene.ask()
        scene.transactions.close()
        scene.run(40)
        assert len(scene.sent) == 1

    def test_all_is_forgotten(self) -> None:
        scene = authenticated()
        scene.silent = True
        scene.ask()
        scene.transactions.end_all()
        assert scene.transactions.idle
        assert scene.transactions.poll_timeout() is None
