from __future__ import annotations

import hashlib
from typing import Any

import pytest

from aioice.core.credentials import (
    MAX_ATTEMPTS,
    MD5,
    SHA256,
    LongTermCredentials,
    Signature,
    make_integrity_key,
    make_userhash,
    md5_allowed,
    opaque_string,
    security_features,
)
from aioice.core.message import Class, Message, Method, parse_message

TRANSACTION = b"transaction!"
BOTH = [(SHA256, b""), (MD5, b"")]
#: Nonces of servers with security features (RFC 8489 §18.1): password algorithms, user name anonymity.
ALGORITHMS_NONCE = b"obMatJos2gAAAnonce"
ANONYMITY_NONCE = b"obMatJos2QAAAnonce"


def request() -> Message:
    return Message(Method.ALLOCATE, Class.REQUEST, TRANSACTION, {"LIFETIME": 600})


def error(code: int, **attributes: Any) -> Message:
    fields = {"ERROR-CODE": (code, "no")} | {name.replace("_", "-"): value for name, value in attributes.items()}
    return Message(Method.ALLOCATE, Class.ERROR, TRANSACTION, fields)


def success() -> Message:
    return Message(Method.ALLOCATE, Class.RESPONSE, TRANSACTION, {"LIFETIME": 600})


def signed(credentials: LongTermCredentials, after: Signature | None = None) -> tuple[Message, Signature]:
    message = request()
    signature = credentials.sign(message, after)
    assert signature is not None
    return parse_message(bytes(message)), signature


def challenged(**attributes: Any) -> LongTermCredentials:
    credentials = LongTermCredentials("user", "pass")
    fields = {"REALM": "realm", "NONCE": b"one"} | attributes
    assert credentials.challenge(error(401, **fields), None)
    return credentials


class TestKeys:
    def test_key_of_the_rfc(self) -> None:
        # RFC 8489 §9.2.2
        assert make_integrity_key("user", "realm", "pass").hex() == "8493fbc53ba582fb4c044c456bdc40eb"

    def test_sha256_key(self) -> None:
        assert len(make_integrity_key("user", "realm", "pass", SHA256)) == 32

    def test_userhash_of_the_rfc(self) -> None:
        # RFC 8489 appendix B.1
        expected = "4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
        assert make_userhash("マトリックス", "example.org").hex() == expected

    @pytest.mark.parametrize(
        ("nonce", "features"),
        [
            (b"", 0),
            (b"plain", 0),
            (b"obMatJos2", 0),
            (b"obMatJos2gAA", 0),
            (b"obMatJos2????x", 0),
            (b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA", 2),
            (ALGORITHMS_NONCE, 0x800000),
            (ANONYMITY_NONCE, 0x400000),
        ],
    )
    def test_security_features(self, nonce: bytes, features: int) -> None:
        assert security_features(nonce) == features


class TestOpaqueString:
    """RFC 8265 §4.2."""

    @pytest.mark.parametrize(
        ("text", "prepared"),
        [
            ("", ""),
            ("pass word!~", "pass word!~"),
            # The example of RFC 8489 appendix B.1, and those of RFC 8265 §4.4.
            ("TheMatrIX", "TheMatrIX"),
            ("correct horse battery staple", "correct horse battery staple"),
            ("π\u00df\u00e5", "π\u00df\u00e5"),
            ("Jack of \u2666s", "Jack of \u2666s"),
            ("foo\u1680bar", "foo bar"),
            ("non\u00a0breaking\u3000wide", "non breaking wide"),
            ("e\u0301", "\u00e9"),
            ("\u212b", "\u00c5"),
            # Neither case nor width changes, and joiners stay.
            ("\uff21\uff71", "\uff21\uff71"),
            ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ],
    )
    def test_prepared(self, text: str, prepared: str) -> None:
        assert opaque_string(text) == prepared
        assert opaque_string(prepared) == prepared

    @pytest.mark.parametrize(
        "char",
        "\0 \n \x7f \x85 \u00ad \u034f \u0378 \u0640 \u1100 \u115f \u180e \u2028 \u202e \u3164 \ud800 \ue000 \ufe0f "
        "\ufeff \ufffe \U000e0001 \U000e0100".split(" "),
    )
    def test_forbidden(self, char: str) -> None:
        with pytest.raises(ValueError, match="not allowed"):
            opaque_string(f"pass{char}word")

    def test_names_and_passwords_are_prepared(self) -> None:
        credentials = LongTermCredentials("us\u00a0er", "e\u0301")
        assert credentials.challenge(error(401, REALM="re\u00a0alm", NONCE=b"one"), None)
        message, _ = signed(credentials)
        assert message.attributes["USERNAME"] == "us er"
        # What the server has sent is echoed as it came, and hashed as it should be.
        assert message.attributes["REALM"] == "re\u00a0alm"
        assert message.check_message_integrity(make_integrity_key("us er", "re alm", "\u00e9"))

    def test_realm_that_cannot_be_prepared(self) -> None:
        message, _ = signed(challenged(REALM="odd\x01realm"))
        assert message.check_message_integrity(make_integrity_key("user", "odd\x01realm", "pass"))

    def test_realm_with_a_trailing_null(self) -> None:
        message, _ = signed(challenged(REALM="realm\0"))
        assert message.attributes["REALM"] == "realm\0"
        assert message.check_message_integrity(make_integrity_key("user", "realm", "pass"))

    def test_what_cannot_be_used_is_told(self) -> None:
        credentials = LongTermCredentials("user", "pass\n")
        assert credentials.fault == r"the character '\n' is not allowed in user names and passwords"
        assert not credentials.challenge(error(401, REALM="realm", NONCE=b"one"), None)
        assert credentials.sign(request()) is None
        credentials.update("user", "pass")
        assert credentials.fault == ""
        assert signed(credentials)[1].nonce == b"one"


class TestForbiddenMd5:
    """Systems that know nothing but what FIPS allows."""

    @pytest.fixture(autouse=True, params=[ValueError, AttributeError])
    def forbidden(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        def md5(*args: Any, **options: Any) -> Any:
            raise request.param("disabled for FIPS")

        monkeypatch.setattr(hashlib, "md5", md5)

    def test_it_is_noticed(self) -> None:
        assert not md5_allowed()

    @pytest.mark.parametrize("offered", [BOTH, BOTH[::-1]])
    def test_sha256_is_taken(self, offered: list[tuple[int, bytes]]) -> None:
        message, _ = signed(challenged(NONCE=ALGORITHMS_NONCE, PASSWORD_ALGORITHMS=offered))
        assert message.attributes["PASSWORD-ALGORITHM"] == (SHA256, b"")

    @pytest.mark.parametrize("more", [{}, {"PASSWORD_ALGORITHMS": [(MD5, b"")]}])
    def test_a_server_without_it_is_named(self, more: dict[str, Any]) -> None:
        credentials = LongTermCredentials("user", "pass")
        assert not credentials.challenge(error(401, REALM="realm", NONCE=b"one", **more), None)
        assert credentials.fault.endswith("MD5 is forbidden on this system")


class TestSigning:
    def test_first_request_goes_unsigned(self) -> None:
        message = request()
        assert LongTermCredentials("user", "pass").sign(message) is None
        assert set(message.attributes) == {"LIFETIME"}

    def test_signs_what_the_server_asked_for(self) -> None:
        message, signature = signed(challenged())
        assert message.attributes["USERNAME"] == "user"
        assert message.attributes["REALM"] == "realm"
        assert message.attributes["NONCE"] == b"one"
        assert message.check_message_integrity(make_integrity_key("user", "realm", "pass"))
        assert signature.attempt == 0

    def test_other_credentials(self) -> None:
        credentials = challenged()
        credentials.update("other", "word")
        message, _ = signed(credentials)
        assert message.attributes["USERNAME"] == "other"
        assert message.check_message_integrity(make_integrity_key("other", "realm", "word"))

    def test_anonymous_user(self) -> None:
        message, _ = signed(challenged(NONCE=ANONYMITY_NONCE))
        assert "USERNAME" not in message.attributes
        assert message.attributes["USERHASH"] == make_userhash("user", "realm")
        # RFC 8489 §14.4: both prepared.
        credentials = LongTermCredentials("us\u00a0er", "pass")
        credentials.challenge(error(401, REALM="re\u00a0alm", NONCE=ANONYMITY_NONCE), None)
        assert signed(credentials)[0].attributes["USERHASH"] == make_userhash("us er", "re alm")

    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [(BOTH, SHA256), (BOTH[::-1], SHA256), ([(MD5, b"")], MD5), ([(77, b"odd"), (SHA256, b"")], SHA256)],
    )
    def test_password_algorithms(self, offered: list[tuple[int, bytes]], chosen: int) -> None:
        credentials = challenged(NONCE=ALGORITHMS_NONCE, PASSWORD_ALGORITHMS=offered)
        message, signature = signed(credentials)
        assert [tuple(entry) for entry in message.attributes["PASSWORD-ALGORITHMS"]] == offered
        assert tuple(message.attributes["PASSWORD-ALGORITHM"]) == (chosen, b"")
        assert "MESSAGE-INTEGRITY" not in message.attributes
        key = make_integrity_key("user", "realm", "pass", chosen)
        assert message.check_message_integrity_sha256(key)
        response = success()
        response.add_message_integrity_sha256(key)
        assert credentials.verify(parse_message(bytes(response)), signature)
        weak = success()
        weak.add_message_integrity(key)
        assert not credentials.verify(parse_message(bytes(weak)), signature)


class TestChallenge:
    def test_no_credentials(self) -> None:
        for credentials in (LongTermCredentials(None, None), LongTermCredentials("user", None)):
            assert not credentials.challenge(error(401, REALM="realm", NONCE=b"one"), None)
            assert credentials.sign(request()) is None

    def test_challenge_without_realm_or_nonce(self) -> None:
        credentials = LongTermCredentials("user", "pass")
        assert not credentials.challenge(error(401, NONCE=b"one"), None)
        assert not credentials.challenge(error(401, REALM="realm"), None)

    def test_wrong_password(self) -> None:
        # RFC 8489 §9.2.5: no second attempt with the same user, realm and password.
        credentials = challenged()
        _, signature = signed(credentials)
        assert not credentials.challenge(error(401, REALM="realm", NONCE=b"two"), signature)

    def test_another_realm(self) -> None:
        credentials = challenged()
        _, signature = signed(credentials)
        assert credentials.challenge(error(401, REALM="elsewhere", NONCE=b"two"), signature)
        message, _ = signed(credentials, signature)
        assert message.check_message_integrity(make_integrity_key("user", "elsewhere", "pass"))

    def test_new_credentials_while_the_old_ones_are_refused(self) -> None:
        # F43
        credentials = challenged()
        _, signature = signed(credentials)
        credentials.update("user", "newer")
        assert credentials.challenge(error(401, REALM="realm", NONCE=b"two"), signature)

    def test_stale_nonce_again_and_again(self) -> None:
        # F34: any number of times, but bounded for a request that gets nowhere.
        credentials = challenged()
        signature = None
        for attempt in range(1, MAX_ATTEMPTS):
            message, signature = signed(credentials, signature)
            assert credentials.challenge(error(438, NONCE=b"nonce%d" % attempt), signature)
        message, signature = signed(credentials, signature)
        assert message.attributes["NONCE"] == b"nonce%d" % (MAX_ATTEMPTS - 1)
        assert not credentials.challenge(error(438, NONCE=b"last"), signature)
        # The next request begins anew, with what was learnt.
        message, signature = signed(credentials)
        assert message.attributes["NONCE"] == b"last"
        assert credentials.challenge(error(438, NONCE=b"more"), signature)

    def test_unknown_algorithms(self) -> None:
        credentials = LongTermCredentials("user", "pass")
        refusal = error(401, REALM="realm", NONCE=ALGORITHMS_NONCE, PASSWORD_ALGORITHMS=[(77, b"")])
        assert not credentials.challenge(refusal, None)

    @pytest.mark.parametrize("code", [401, 438])
    def test_bid_down_by_removal(self, code: int) -> None:
        # RFC 8489 §9.2.5: the nonce says that there were algorithms.
        credentials = LongTermCredentials("user", "pass")
        assert not credentials.challenge(error(code, REALM="realm", NONCE=ALGORITHMS_NONCE), None)
        assert "removed" in credentials.fault

    def test_no_way_back_to_sha1(self) -> None:
        credentials = challenged(NONCE=ALGORITHMS_NONCE, PASSWORD_ALGORITHMS=BOTH)
        _, signature = signed(credentials)
        assert credentials.challenge(error(438, NONCE=b"plain"), signature)
        message, _ = signed(credentials, signature)
        assert message.check_message_integrity_sha256(make_integrity_key("user", "realm", "pass", SHA256))


class TestVerification:
    def test_anything_answers_an_unsigned_request(self) -> None:
        assert LongTermCredentials("user", "pass").verify(success(), None)

    def test_the_answer_to_a_signed_request_is_signed(self) -> None:
        credentials = challenged()
        _, signature = signed(credentials)
        assert not credentials.verify(parse_message(bytes(success())), signature)
        response = success()
        response.add_message_integrity(make_integrity_key("user", "realm", "pass"))
        assert credentials.verify(parse_message(bytes(response)), signature)
        forged = success()
        forged.add_message_integrity(b"guess")
        assert not credentials.verify(parse_message(bytes(forged)), signature)

    def test_another_algorithm(self) -> None:
        # RFC 8489 §9.2.5
        credentials = challenged()
        _, signature = signed(credentials)
        response = success()
        response.add_message_integrity_sha256(make_integrity_key("user", "realm", "pass"))
        assert not credentials.verify(parse_message(bytes(response)), signature)

    @pytest.mark.parametrize(("code", "believed"), [(401, True), (438, True), (400, False), (437, False)])
    def test_unsigned_errors(self, code: int, believed: bool) -> None:
        credentials = challenged()
        _, signature = signed(credentials)
        assert credentials.verify(error(code), signature) is believed

    @pytest.mark.parametrize(("offered", "believed"), [({}, False), ({"PASSWORD-ALGORITHMS": BOTH}, True)])
    @pytest.mark.parametrize("first", [False, True])
    def test_no_answer_tells_of_algorithms_that_are_not_there(
        self, first: bool, offered: dict[str, Any], believed: bool
    ) -> None:
        # RFC 8489 §9.2.5: ignored, whatever it says and whoever signed it.
        credentials = challenged()
        _, signature = signed(credentials)
        response = success()
        response.attributes |= {"NONCE": ALGORITHMS_NONCE} | offered
        response.add_message_integrity(make_integrity_key("user", "realm", "pass"))
        assert credentials.verify(parse_message(bytes(response)), None if first else signature) is believed

    def test_the_key_is_that_of_the_request(self) -> None:
        credentials = challenged()
        _, signature = signed(credentials)
        credentials.update("other", "word")
        response = success()
        response.add_message_integrity(make_integrity_key("user", "realm", "pass"))
        assert credentials.verify(parse_message(bytes(response)), signature)
