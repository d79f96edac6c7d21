from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from aioice.core.attributes import BY_NAME, BY_TYPE
from aioice.core.message import (
    Class,
    Message,
    Method,
    Several,
    binding_request,
    binding_response,
    parse_message,
)
from tests.core.stun_bytes import (
    IPV4,
    IPV6,
    KEY,
    LONG_TERM_REQUEST,
    PASSWORD,
    PRINTED_SHA256_REQUEST,
    REQUEST,
    RESPONSE4,
    RESPONSE6,
    SHA256_REQUEST,
    TRANSACTION,
    USER,
    USER_KEY,
    USER_KEY_SHA256,
    append,
    attribute,
    fingerprint,
    message,
    refused,
    sign,
    sign_sha256,
    unfingerprinted,
)


class TestVectors:
    def test_request(self) -> None:
        # RFC 5769 §2.1
        parsed = parse_message(REQUEST)
        assert (parsed.message_method, parsed.message_class) == (Method.BINDING, Class.REQUEST)
        assert parsed.transaction_id.hex() == "b7e7a701bc34d686fa87dfae"
        assert parsed.attributes == {
            "SOFTWARE": "STUN test client",
            "PRIORITY": 0x6E0001FF,
            "ICE-CONTROLLED": 0x932FF9B151263B36,
            "USERNAME": "evtj:h6vY",
            "MESSAGE-INTEGRITY": bytes.fromhex("9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"),
            "FINGERPRINT": 0xE57A3BCF,
        }
        assert parsed.check_message_integrity(PASSWORD)
        assert parsed.check_message_integrity(PASSWORD)
        assert not parsed.check_message_integrity(PASSWORD + b"x")
        assert not parsed.check_message_integrity_sha256(PASSWORD)
        assert bytes(parsed) == REQUEST

    @pytest.mark.parametrize(("data", "mapped"), [(RESPONSE4, IPV4), (RESPONSE6, IPV6)])
    def test_responses(self, data: bytes, mapped: tuple[str, int]) -> None:
        # RFC 5769 §2.2 and §2.3
        parsed = parse_message(data)
        assert (parsed.message_method, parsed.message_class) == (Method.BINDING, Class.RESPONSE)
        assert parsed.attributes["SOFTWARE"] == "test vector"
        assert parsed.attributes["XOR-MAPPED-ADDRESS"] == mapped
        assert parsed.check_message_integrity(PASSWORD)
        assert bytes(parsed) == data

    def test_request_with_long_term_credentials(self) -> None:
        # RFC 5769 §2.4
        parsed = parse_message(LONG_TERM_REQUEST)
        assert parsed.attributes["USERNAME"] == USER
        assert parsed.attributes["NONCE"] == b"f//499k954d6OL34oL9FSTvy64sA"
        assert parsed.attributes["REALM"] == "example.org"
        assert "FINGERPRINT" not in parsed.attributes
        assert parsed.check_message_integrity(USER_KEY)
        assert bytes(parsed) == LONG_TERM_REQUEST

    def test_request_with_sha256_and_userhash(self) -> None:
        # RFC 8489 appendix B.1, erratum 6268
        parsed = parse_message(SHA256_REQUEST)
        assert parsed.attributes["USERHASH"] == hashlib.sha256(f"{USER}:example.org".encode()).digest()
        assert parsed.attributes["NONCE"] == b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"
        assert parsed.attributes["REALM"] == "example.org"
        assert parsed.attributes["PASSWORD-ALGORITHM"] == (2, b"")
        assert parsed.check_message_integrity_sha256(USER_KEY_SHA256)
        assert parsed.check_message_integrity_sha256(USER_KEY_SHA256)
        assert not parsed.check_message_integrity_sha256(USER_KEY)
        assert not parsed.check_message_integrity(USER_KEY_SHA256)
        assert bytes(parsed) == SHA256_REQUEST

    def test_request_with_sha256_as_printed(self) -> None:
        # RFC 8489 appendix B.1: the digest is right for these bytes, but they are no message
        assert refused(PRINTED_SHA256_REQUEST) == "STUN message length does not match"
        assert hmac.digest(USER_KEY_SHA256, PRINTED_SHA256_REQUEST[:-36], "sha256") == PRINTED_SHA256_REQUEST[-32:]

    def test_built_again(self) -> None:
        """The vectors but for their padding."""
        parsed = parse_message(SHA256_REQUEST)
        built = Message(Method.BINDING, Class.REQUEST, parsed.transaction_id)
        for name in ("USERHASH", "NONCE", "REALM", "PASSWORD-ALGORITHM"):
            built.attributes[name] = parsed.attributes[name]
        built.add_message_integrity_sha256(USER_KEY_SHA256)
        del built.attributes["FINGERPRINT"]
        assert bytes(built) == SHA256_REQUEST


class TestFieldCases:
    def test_priority_of_8_bytes(self) -> None:
        # F04
        data = bytes.fromhex("0001000c2112a442000102030405060708090a0b002400086e7f1eff00000000")
        assert refused(data) == "PRIORITY is malformed"

    def test_empty_mapped_address(self) -> None:
        # F05
        data = bytes.fromhex("010100042112a442000102030405060708090a0b00200000")
        assert refused(data) == "XOR-MAPPED-ADDRESS is malformed"

    @pytest.mark.parametrize("data", [REQUEST, RESPONSE4, RESPONSE6, LONG_TERM_REQUEST, SHA256_REQUEST, message()])
    def test_cut_off(self, data: bytes) -> None:
        # F06
        for size in range(len(data)):
            refused(data[:size])

    def test_attributes_after_integrity(self) -> None:
        # F07
        username = attribute(0x0006, b"locl:remo")
        injected = attribute(0x0025, b"") + attribute(0x7FFF, b"unknown") + attribute(0x0006, b"\xff")
        data = fingerprint(append(sign(message(username)), injected))
        parsed = parse_message(data)
        assert list(parsed.attributes) == ["USERNAME", "MESSAGE-INTEGRITY", "FINGERPRINT"]
        assert parsed.unknown_required == ()
        assert parsed.check_message_integrity(KEY)

    def test_padding_that_is_not_zero(self) -> None:
        # F08
        data = bytes.fromhex(
            "011300302112a442000102030405060708090a0b0009001000000401556e617574686f72697a6564"
            "0014000d6d6574657265642e63612e7072202020001500046e316e32"
        )
        parsed = parse_message(data)
        assert parsed.message_method is Method.ALLOCATE
        assert parsed.attributes["REALM"] == "metered.ca.pr"
        assert parsed.attributes["NONCE"] == b"n1n2"
        assert parsed.error_code == 401
        assert bytes(parsed) == data

    def test_indication_without_username(self) -> None:
        # F09
        parsed = parse_message(bytes.fromhex("001100002112a442000102030405060708090a0b"))
        assert (parsed.message_method, parsed.message_class) == (Method.BINDING, Class.INDICATION)
        assert parsed.attributes == {}

    def test_unknown_method(self) -> None:
        # X02
        data = bytes.fromhex("020000002112a442000102030405060708090a0b")
        parsed = parse_message(data)
        assert (parsed.message_method, parsed.message_class) == (0x080, Class.REQUEST)
        assert not isinstance(parsed.message_method, Method)
        assert bytes(parsed) == data
        assert "message_method=0x80," in repr(parsed)

    def test_every_method_and_class(self) -> None:
        # RFC 8489 appendix A
        for kind in range(0x4000):
            parsed = parse_message(message(kind=kind))
            assert int(parsed.message_method) <= 0xFFF
            assert bytes(Message(parsed.message_method, parsed.message_class, TRANSACTION)) == message(kind=kind)

    def test_wrong_fingerprint(self) -> None:
        # X02
        data = bytearray(REQUEST)
        data[-1] ^= 1
        assert refused(bytes(data)) == "STUN message fingerprint does not match"

    def test_first_of_two(self) -> None:
        # X03
        data = bytes.fromhex("010100182112a442000102030405060708090a0b0020000800013246e112a6430020000800013247e776d744")
        assert parse_message(data).attributes["XOR-MAPPED-ADDRESS"] == ("192.0.2.1", 4948)

    def test_malformed_repetition_is_ignored(self) -> None:
        data = message(attribute(0x0024, b"\0\0\0\1") + attribute(0x0024, b"\0"))
        assert parse_message(data).attributes == {"PRIORITY": 1}

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (message(kind=0xC001), "not a STUN message"),
            (message(kind=0x4001), "not a STUN message"),
            (message(kind=0x8001), "not a STUN message"),
            (bytes(20), "not a STUN message"),
            (message()[:4] + b"\x21\x12\xa4\x43" + TRANSACTION, "not a STUN message"),
            (message() + b"1234", "STUN message length does not match"),
            (message(b"123"), "STUN message length does not match"),
            (fingerprint(message()) + b"1234", "STUN message length does not match"),
            (append(fingerprint(message()), attribute(0x8022, b"more")), "STUN message goes on after its fingerprint"),
            (append(fingerprint(message()), b"\0\0\0\0"), "STUN message goes on after its fingerprint"),
            (fingerprint(fingerprint(message())), "STUN message goes on after its fingerprint"),
            (b"123", "STUN message length is less than 20 bytes"),
            (message(b"\x80\x22\x00\x05abcd"), "STUN attribute is longer than the message"),
            (append(sign(message()), b"\x80\x22\x00\x05abcd"), "STUN attribute is longer than the message"),
            (
                message(attribute(0x8029, bytes(8)) + attribute(0x802A, bytes(8))),
                "STUN request claims both ICE roles",
            ),
            (message(attribute(0x8028, b"abc")), "FINGERPRINT is malformed"),
            (message(attribute(0x0008, bytes(16))), "MESSAGE-INTEGRITY is malformed"),
        ],
    )
    def test_refused(self, data: bytes, why: str) -> None:
        # X04
        assert refused(data) == why

    def test_a_second_role_after_the_integrity_does_not_count(self) -> None:
        data = append(sign(message(attribute(0x8029, bytes(8)))), attribute(0x802A, bytes(8)))
        assert list(parse_message(data).attributes) == ["ICE-CONTROLLED", "MESSAGE-INTEGRITY"]

    def test_both_roles_in_an_answer_mean_nothing(self) -> None:
        body = attribute(0x8029, bytes(8)) + attribute(0x802A, bytes(8))
        assert len(parse_message(message(body, kind=0x0101)).attributes) == 2

    def test_software_that_is_not_utf8(self) -> None:
        data = bytes.fromhex("010100142112a442000102030405060708090a0b002000080001112be1baa54380220004ffff6162")
        parsed = parse_message(data)
        assert parsed.attributes["SOFTWARE"] == "\ufffd\ufffdab"
        assert parsed.attributes["XOR-MAPPED-ADDRESS"] == ("192.168.1.1", 0x112B ^ 0x2112)
        assert bytes(parsed) == data

    def test_reason_that_is_not_utf8(self) -> None:
        parsed = parse_message(message(attribute(0x0009, b"\0\0\4\x57\xff\xfe"), kind=0x0111))
        assert parsed.attributes["ERROR-CODE"] == (487, "\ufffd\ufffd")

    @pytest.mark.parametrize("name", ["USERNAME", "REALM"])
    def test_names_that_are_not_utf8(self, name: str) -> None:
        """They do not cost the message, but match nothing that anybody is called."""
        parsed = parse_message(message(attribute(BY_NAME[name].type, b"locl\xff:remo")))
        assert parsed.attributes[name] == "locl\ufffd:remo"

    def test_malformed_information_is_left_out(self) -> None:
        """As if these attributes, which need not be understood, were not known."""
        body = attribute(0x802B, b"odd") + attribute(0x802C, bytes(8)) + attribute(0x8004, b"") + attribute(0x8001, b"")
        data = message(body + attribute(0x0020, bytes.fromhex("0001a147e112a643")), kind=0x0101)
        assert parse_message(data).attributes == {"XOR-MAPPED-ADDRESS": IPV4}

    @pytest.mark.parametrize("number", [0x8002, 0x8029, 0x802A])
    def test_what_decides_is_not_left_out(self, number: int) -> None:
        assert "malformed" in refused(message(attribute(number, b"abc")))


class TestDictionary:
    """The attributes of a message that came are read when asked for, and behave as a dictionary."""

    def test_of_a_message_that_came(self) -> None:
        attributes = parse_message(RESPONSE4).attributes
        whole = {**attributes}
        assert list(reversed(attributes)) == list(reversed(whole))
        assert attributes.copy() == whole and type(attributes.copy()) is dict
        assert attributes | {"REALM": "x"} == {**whole, "REALM": "x"}
        assert {"REALM": "x", "SOFTWARE": "mine"} | attributes == {"REALM": "x", **whole}
        assert repr(attributes) == repr(whole)
        last = list(whole)[-1]
        assert attributes.popitem() == (last, whole.pop(last))
        assert attributes == whole

    def test_no_more_of_them(self) -> None:
        with pytest.raises(KeyError):
            parse_message(message()).attributes.popitem()

    def test_a_copy_of_the_bytes(self) -> None:
        assert parse_message(bytearray(RESPONSE4)).attributes == parse_message(RESPONSE4).attributes
        assert bytes(parse_message(memoryview(RESPONSE4))) == RESPONSE4

    @pytest.mark.parametrize("data", [RESPONSE4, RESPONSE6])
    def test_written_anew_for_another_transaction(self, data: bytes) -> None:
        """An address is masked with the transaction id."""
        parsed = parse_message(data)
        values = {name: parsed.attributes[name] for name in ("SOFTWARE", "XOR-MAPPED-ADDRESS")}
        for name in ("MESSAGE-INTEGRITY", "FINGERPRINT"):
            del parsed.attributes[name]
        parsed.transaction_id = b"another one!"
        assert parse_message(bytes(parsed)).attributes == values

    def test_what_is_not_changed_stays_as_it_came(self) -> None:
        """Its padding, too, which may be anything (RFC 8489 §14)."""
        realm = attribute(0x0014, b"realm", padding=b" ")
        parsed = parse_message(message(realm))
        parsed.attributes["NONCE"] = b"new!"
        assert bytes(parsed) == message(realm + attribute(0x0015, b"new!"))

    def test_more_than_a_message_holds(self) -> None:
        built = Message(Method.DATA, Class.INDICATION, TRANSACTION, {"DATA": bytes(0xFFFC), "NONCE": b"x"})
        with pytest.raises(ValueError, match="a STUN message cannot have [0-9]+ bytes"):
            bytes(built)

    @pytest.mark.parametrize("name, value", [("PRIORITY", -1), ("LIFETIME", 1 << 32), ("DATA", bytes(1 << 16))])
    def test_a_value_that_does_not_fit(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"{name} cannot be"):
            bytes(Message(Method.BINDING, Class.REQUEST, TRANSACTION, {name: value}))


class TestIntegrity:
    def test_sha256_after_sha1(self) -> None:
        # RFC 8489 §14.5: only this and FINGERPRINT count behind MESSAGE-INTEGRITY
        data = fingerprint(sign_sha256(sign(message(attribute(0x0006, b"user")))))
        parsed = parse_message(data)
        assert list(parsed.attributes) == ["USERNAME", "MESSAGE-INTEGRITY", "MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"]
        assert parsed.check_message_integrity(KEY)
        assert parsed.check_message_integrity_sha256(KEY)
        built = Message(Method.BINDING, Class.REQUEST, TRANSACTION, {"USERNAME": "user"})
        built.add_message_integrity(KEY)
        built.add_message_integrity_sha256(KEY)
        assert bytes(built) == data

    def test_nothing_but_the_fingerprint_counts_after_sha256(self) -> None:
        first = sign_sha256(message())
        data = fingerprint(append(sign_sha256(sign(first)), attribute(0x0025, b"")))
        parsed = parse_message(data)
        assert list(parsed.attributes) == ["MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"]
        assert parsed.check_message_integrity_sha256(KEY)

    def test_second_integrity_does_not_count(self) -> None:
        data = sign(sign(message(), b"one"), b"two")
        assert parse_message(data).check_message_integrity(b"one")
        assert not parse_message(data).check_message_integrity(b"two")

    @pytest.mark.parametrize("size", [16, 20, 24, 28, 32])
    def test_truncated_sha256(self, size: int) -> None:
        # RFC 8489 §14.6: in full, unless the usage of STUN allows less
        parsed = parse_message(sign_sha256(message(), size))
        assert parsed.check_message_integrity_sha256(KEY, minimum=16)
        assert parsed.check_message_integrity_sha256(KEY, minimum=size)
        assert not parsed.check_message_integrity_sha256(KEY, minimum=size + 4)
        assert parsed.check_message_integrity_sha256(KEY) == (size == 32)
        assert not parsed.check_message_integrity_sha256(b"other", minimum=16)

    @pytest.mark.parametrize("size", [0, 4, 12, 15, 17, 30, 31])
    def test_truncated_too_much_or_oddly(self, size: int) -> None:
        assert refused(sign_sha256(message(), size)) == "MESSAGE-INTEGRITY-SHA256 is malformed"

    def test_too_long_sha256(self) -> None:
        assert refused(message(attribute(0x001C, bytes(36)))) == "MESSAGE-INTEGRITY-SHA256 is malformed"

    @pytest.mark.parametrize("key", [b"", b"k", bytes(64), bytes(range(65)), bytes(1000)])
    def test_keys_of_every_size(self, key: bytes) -> None:
        # RFC 2104 §3: a key longer than a block is hashed first
        for software in ("", "text", "x" * 200):
            built = Message(Method.BINDING, Class.REQUEST, TRANSACTION, {"SOFTWARE": software})
            built.add_message_integrity(key)
            text = bytes(built)[:-32]
            text = text[:2] + (len(text) + 4).to_bytes(2, "big") + text[4:]
            assert built.attributes["MESSAGE-INTEGRITY"] == hmac.digest(key, text, "sha1")
            built.add_message_integrity_sha256(key)
            text = bytes(built)[:-44]
            text = text[:2] + (len(text) + 16).to_bytes(2, "big") + text[4:]
            assert built.attributes["MESSAGE-INTEGRITY-SHA256"] == hmac.digest(key, text, "sha256")

    def test_built(self) -> None:
        built = Message(Method.BINDING, Class.REQUEST, TRANSACTION, {"USERNAME": "user"})
        assert not built.check_message_integrity(KEY)
        assert not built.check_message_integrity_sha256(KEY)
        built.add_message_integrity(KEY)
        assert built.check_message_integrity(KEY)
        assert not built.check_message_integrity(b"other")
        built.attributes["USERNAME"] = "else"
        assert not built.check_message_integrity(KEY)
        built.add_message_integrity(KEY)
        assert built.check_message_integrity(KEY)
        built.add_message_integrity_sha256(KEY)
        assert built.check_message_integrity(KEY)
        assert built.check_message_integrity_sha256(KEY)
        built.add_message_integrity(KEY)
        assert "MESSAGE-INTEGRITY-SHA256" not in built.attributes
        assert bytes(built) == fingerprint(sign(message(attribute(0x0006, b"else"))))

    def test_fingerprint(self) -> None:
        built = Message(Method.BINDING, Class.REQUEST, TRANSACTION)
        built.add_fingerprint()
        built.add_fingerprint()
        assert bytes(built) == fingerprint(message())

    def test_parsed_and_changed(self) -> None:
        parsed = parse_message(sign(message(attribute(0x0006, b"user"))))
        parsed.attributes["USERNAME"] = "else"
        assert not parsed.check_message_integrity(KEY)
        parsed.attributes["USERNAME"] = "user"
        assert parsed.check_message_integrity(KEY)
        del parsed.attributes["MESSAGE-INTEGRITY"]
        assert not parsed.check_message_integrity(KEY)
        parsed.add_message_integrity(b"new")
        assert bytes(parsed) == fingerprint(sign(message(attribute(0x0006, b"user")), b"new"))

    @pytest.mark.parametrize("data", [REQUEST, RESPONSE4, RESPONSE6])
    def test_every_changed_byte_is_noticed(self, data: bytes) -> None:
        without = unfingerprinted(data)
        assert parse_message(without).check_message_integrity(PASSWORD)
        for position in range(len(without)):
            for change in (0x01, 0x80, 0xFF):
                changed = bytearray(without)
                changed[position] ^= change
                try:
                    parsed = parse_message(bytes(changed))
                except ValueError:
                    continue
                assert not parsed.check_message_integrity(PASSWORD)


class TestUnknownAttributes:
    def test_comprehension_required(self) -> None:
        body = b"".join(attribute(number, b"value") for number in (0x0000, 0x7FFF, 0x8099, 0x0000, 0xC057, 0x0011))
        parsed = parse_message(message(body))
        assert parsed.unknown_required == (0x0000, 0x7FFF, 0x0011)
        assert parsed.attributes == {}

    def test_many(self) -> None:
        """Their number costs no more than their bytes do."""
        numbers = [number for number in range(0x8000) if number not in BY_TYPE][:16000]
        parsed = parse_message(message(b"".join(attribute(number, b"") for number in numbers)))
        assert parsed.unknown_required == tuple(numbers)

    def test_our_own(self) -> None:
        assert Message(Method.BINDING, Class.REQUEST, TRANSACTION).unknown_required == ()


class TestBuilders:
    @pytest.mark.parametrize("username", [b"", b"r:l", b"remo:locl", b"remot:local", b"r" * 256 + b":locl"])
    @pytest.mark.parametrize("use_candidate", [False, True])
    @pytest.mark.parametrize(("role", "name"), [(0x8029, "ICE-CONTROLLED"), (0x802A, "ICE-CONTROLLING")])
    def test_request(self, username: bytes, use_candidate: bool, role: int, name: str) -> None:
        expected: dict[str, Any] = {"USERNAME": username.decode(), "PRIORITY": 0x6E0001FF, name: (1 << 64) - 2}
        if use_candidate:
            expected["USE-CANDIDATE"] = None
        built = Message(Method.BINDING, Class.REQUEST, TRANSACTION, expected)
        built.add_message_integrity(KEY)
        data = binding_request(TRANSACTION, username, 0x6E0001FF, role, (1 << 64) - 2, use_candidate, KEY)
        assert data == bytes(built)
        assert parse_message(data).check_message_integrity(KEY)

    @pytest.mark.parametrize("peer", [IPV4, IPV6, ("fe80::1%eth0", 1), ("255.255.255.255", 65535), ("::", 0)])
    def test_response(self, peer: tuple[str, int]) -> None:
        built = Message(Method.BINDING, Class.RESPONSE, TRANSACTION, {"XOR-MAPPED-ADDRESS": peer})
        built.add_message_integrity(KEY)
        assert binding_response(TRANSACTION, peer, KEY) == bytes(built)


class TestSeveral:
    """Attributes that a message carries more than once (RFC 8489 §14)."""

    PEERS = (("192.0.2.1", 1), ("2001:db8::1", 2), ("192.0.2.3", 3))

    def message(self) -> Message:
        attributes = {"XOR-PEER-ADDRESS": Several(self.PEERS), "LIFETIME": 5}
        return Message(Method.CREATE_PERMISSION, Class.REQUEST, b"transaction!", attributes)

    @pytest.mark.parametrize("signed", [False, True])
    def test_there_and_back(self, signed: bool) -> None:
        message = self.message()
        if signed:
            message.add_message_integrity(b"key")
        assert message.values("XOR-PEER-ADDRESS") == list(self.PEERS)
        parsed = parse_message(bytes(message))
        assert parsed.attributes["XOR-PEER-ADDRESS"] == self.PEERS[0]
        assert parsed.values("XOR-PEER-ADDRESS") == list(self.PEERS)
        assert parsed.values("LIFETIME") == message.values("LIFETIME") == [5]
        assert parsed.values("DATA") == message.values("DATA") == []
        assert not signed or parsed.check_message_integrity(b"key")

    def test_what_follows_the_integrity_does_not_count(self) -> None:
        message = self.message()
        message.add_message_integrity(b"key")
        data = bytes(message)[:-8]
        more = data + data[20:32]
        parsed = parse_message(more[:2] + (len(more) - 20).to_bytes(2, "big") + more[4:])
        assert parsed.values("XOR-PEER-ADDRESS") == list(self.PEERS)

    def test_malformed_ones_are_left_out(self) -> None:
        data = bytes(self.message())
        # The family of the second.
        spoilt = data[:37] + b"\x07" + data[38:]
        assert parse_message(spoilt).values("XOR-PEER-ADDRESS") == [self.PEERS[0], self.PEERS[2]]

    def test_changed_since_it_came(self) -> None:
        parsed = parse_message(bytes(self.message()))
        parsed.attributes["XOR-PEER-ADDRESS"] = self.PEERS[2]
        assert parsed.values("XOR-PEER-ADDRESS") == [self.PEERS[2]]
