from __future__ import annotations

import hashlib
import hmac
import socket
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioice.core.address import canonical_host
from aioice.core.attributes import BY_NAME, BY_TYPE
from aioice.core.message import (
    COOKIE,
    Class,
    IntegrityKey,
    Message,
    Method,
    binding_request,
    binding_response,
    parse_message,
)
from fuzz.fuzz_message import one_input

TRANSACTION = bytes(range(12))
KEY = b"localpasswordlocalpass"
IPV4 = ("192.0.2.1", 32853)
IPV6 = ("2001:db8:1234:5678:11:2233:4455:6677", 32853)

# RFC 5769 §2.1 to §2.4.
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RESPONSE4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RESPONSE6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
LONG_TERM_REQUEST = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e"
    "00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
# RFC 8489 appendix B.1, as it stands there, and as erratum 6268 corrects it: the length there counts the header, and
# the algorithm that the key was made with is missing.
_B1_START = (
    "2112a44278ad3433c6ad72c029da412e"
    "001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
    "001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39465354767936347341000000"
    "0014000b6578616d706c652e6f726700"
)
PRINTED_SHA256_REQUEST = bytes.fromhex(
    "0001009c" + _B1_START + "001c0020e4686c8f0edeb59013e07090010a93efccbccc544c0a45d9f830aa6d6f735a01"
)
SHA256_REQUEST = bytes.fromhex(
    "00010090" + _B1_START + "001d000400020000001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65"
)
USER = "マトリックス"
#: After OpaqueString, and after SASLprep, the password is this.
USER_KEY = hashlib.md5(f"{USER}:example.org:TheMatrIX".encode()).digest()
USER_KEY_SHA256 = hashlib.sha256(f"{USER}:example.org:TheMatrIX".encode()).digest()


def attribute(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    return number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + padding * (-len(value) % 4)


def message(body: bytes = b"", kind: int = 0x0001, transaction_id: bytes = TRANSACTION) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + COOKIE.to_bytes(4, "big") + transaction_id + body


def sign(data: bytes, key: bytes = KEY) -> bytes:
    """MESSAGE-INTEGRITY by the book, behind a message."""
    size = (len(data) - 20 + 24).to_bytes(2, "big")
    digest = hmac.new(key, data[:2] + size + data[4:], "sha1").digest()
    return append(data, attribute(0x0008, digest))


def sign_sha256(data: bytes, size: int = 32, key: bytes = KEY) -> bytes:
    body_size = (len(data) - 20 + 4 + size).to_bytes(2, "big")
    digest = hmac.new(key, data[:2] + body_size + data[4:], "sha256").digest()
    return append(data, attribute(0x001C, digest[:size]))


def fingerprint(data: bytes) -> bytes:
    sized = data[:2] + (len(data) - 20 + 8).to_bytes(2, "big") + data[4:]
    return append(data, attribute(0x8028, (crc32(sized) ^ 0x5354554E).to_bytes(4, "big")))


def append(data: bytes, more: bytes) -> bytes:
    return data[:2] + (len(data) - 20 + len(more)).to_bytes(2, "big") + data[4:] + more


def refused(data: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        parse_message(data)
    return str(caught.value)


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
        assert parsed.check_message_integrity(IntegrityKey(PASSWORD))
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
        assert parsed.check_message_integrity_sha256(IntegrityKey(USER_KEY_SHA256))
        assert not parsed.check_message_integrity_sha256(USER_KEY)
        assert not parsed.check_message_integrity(USER_KEY_SHA256)
        assert bytes(parsed) == SHA256_REQUEST

    def test_request_with_sha256_as_printed(self) -> None:
        # RFC 8489 appendix B.1: the digest is right for these bytes, but they are no message
        assert refused(PRINTED_SHA256_REQUEST) == "STUN message length does not match"
        assert IntegrityKey(USER_KEY_SHA256).sha256(PRINTED_SHA256_REQUEST[:-36]) == PRINTED_SHA256_REQUEST[-32:]

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
        prepared = IntegrityKey(key)
        for text in (b"", b"text", bytes(200)):
            assert prepared.sha1(text) == hmac.digest(key, text, "sha1")
            assert prepared.sha256(text) == hmac.digest(key, text, "sha256")

    def test_a_key_does_not_show(self) -> None:
        assert "secret" not in repr(IntegrityKey(b"secret"))

    def test_built(self) -> None:
        built = Message(Method.BINDING, Class.REQUEST, TRANSACTION, {"USERNAME": "user"})
        assert not built.check_message_integrity(KEY)
        assert not built.check_message_integrity_sha256(KEY)
        built.add_message_integrity(KEY)
        assert built.check_message_integrity(KEY)
        assert not built.check_message_integrity(b"other")
        built.attributes["USERNAME"] = "else"
        assert not built.check_message_integrity(KEY)
        built.add_message_integrity(IntegrityKey(KEY))
        assert built.check_message_integrity(KEY)
        built.add_message_integrity_sha256(IntegrityKey(KEY))
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
        without = data[:2] + (len(data) - 28).to_bytes(2, "big") + data[4:-8]
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


#: Name, value as bytes, value.
VALUES: list[tuple[str, str, Any]] = [
    ("MAPPED-ADDRESS", "00018055c0000201", IPV4),
    ("MAPPED-ADDRESS", "0002805520010db8123456780011223344556677", IPV6),
    ("CHANGE-REQUEST", "00000006", 6),
    ("SOURCE-ADDRESS", "00018055c0000201", IPV4),
    ("CHANGED-ADDRESS", "00018055c0000201", IPV4),
    ("USERNAME", "e38390", "バ"),
    ("MESSAGE-INTEGRITY", "00" * 20, bytes(20)),
    ("ERROR-CODE", "00000457526f6c6520436f6e666c696374", (487, "Role Conflict")),
    ("ERROR-CODE", "0000032b", (343, "")),
    ("UNKNOWN-ATTRIBUTES", "00017fff0025", [1, 0x7FFF, 0x25]),
    ("UNKNOWN-ATTRIBUTES", "", []),
    ("CHANNEL-NUMBER", "40010000", 0x4001),
    ("LIFETIME", "00000258", 600),
    ("XOR-PEER-ADDRESS", "0001a147e112a643", IPV4),
    ("DATA", "000102", b"\0\1\2"),
    ("REALM", "7265616c6d", "realm"),
    ("NONCE", "ff00", b"\xff\0"),
    ("XOR-RELAYED-ADDRESS", "0001a147e112a643", IPV4),
    ("REQUESTED-ADDRESS-FAMILY", "02000000", 0x02000000),
    ("EVEN-PORT", "80", 0x80),
    ("REQUESTED-TRANSPORT", "11000000", 0x11000000),
    ("DONT-FRAGMENT", "", None),
    ("ACCESS-TOKEN", "0001", b"\0\1"),
    ("MESSAGE-INTEGRITY-SHA256", "00" * 16, bytes(16)),
    ("PASSWORD-ALGORITHM", "00020000", (2, b"")),
    ("PASSWORD-ALGORITHM", "0007000361626300", (7, b"abc")),
    ("USERHASH", "01" * 32, b"\1" * 32),
    ("XOR-MAPPED-ADDRESS", "0001a147e112a643", IPV4),
    ("XOR-MAPPED-ADDRESS", "0002a1470113a9fa1235547b041424344c5c6c7c", IPV6),
    ("RESERVATION-TOKEN", "0102030405060708", bytes(range(1, 9))),
    ("PRIORITY", "6e0001ff", 0x6E0001FF),
    ("USE-CANDIDATE", "", None),
    ("PADDING", "20202020", b"    "),
    ("RESPONSE-PORT", "12340000", 0x1234),
    ("CONNECTION-ID", "ffffffff", 0xFFFFFFFF),
    ("ADDITIONAL-ADDRESS-FAMILY", "02000000", 0x02000000),
    ("ADDRESS-ERROR-CODE", "020004286e6f", (2, 440, "no")),
    ("PASSWORD-ALGORITHMS", "0002000000010000", [(2, b""), (1, b"")]),
    ("PASSWORD-ALGORITHMS", "000700016100000000010000", [(7, b"a"), (1, b"")]),
    ("ALTERNATE-DOMAIN", "6578616d706c652e6f7267", "example.org"),
    ("ICMP", "0000030400000594", bytes.fromhex("0000030400000594")),
    ("SOFTWARE", "61696f696365", "aioice"),
    ("ALTERNATE-SERVER", "00018055c0000201", IPV4),
    ("CACHE-TIMEOUT", "0000003c", 60),
    ("ICE-CONTROLLED", "932ff9b151263b36", 0x932FF9B151263B36),
    ("ICE-CONTROLLING", "932ff9b151263b36", 0x932FF9B151263B36),
    ("RESPONSE-ORIGIN", "00018055c0000201", IPV4),
    ("OTHER-ADDRESS", "0002805520010db8123456780011223344556677", IPV6),
    ("THIRD-PARTY-AUTHORIZATION", "73", "s"),
    ("MOBILITY-TICKET", "", b""),
]


class TestAttributes:
    @pytest.mark.parametrize(("name", "encoded", "value"), VALUES)
    def test_value(self, name: str, encoded: str, value: Any) -> None:
        data = message(attribute(BY_NAME[name].type, bytes.fromhex(encoded)), kind=0x0101)
        assert bytes(Message(Method.BINDING, Class.RESPONSE, TRANSACTION, {name: value})) == data
        parsed = parse_message(data)
        assert parsed.attributes[name] == value
        assert type(parsed.attributes[name]) is type(value)
        assert bytes(parsed) == data

    def test_all_are_tried(self) -> None:
        assert {name for name, _, _ in VALUES} | {"FINGERPRINT"} == set(BY_NAME)
        assert len(BY_NAME) == len(BY_TYPE) == 45

    @pytest.mark.parametrize(
        ("name", "encoded"),
        [
            ("MAPPED-ADDRESS", "0001"),
            ("MAPPED-ADDRESS", "00"),
            ("MAPPED-ADDRESS", "00028055c0000201"),
            ("MAPPED-ADDRESS", "00038055c0000201"),
            ("XOR-MAPPED-ADDRESS", "00018055c000020100000000"),
            ("XOR-PEER-ADDRESS", "0001805520010db8123456780011223344556677"),
            ("CHANGE-REQUEST", ""),
            ("ERROR-CODE", "000004"),
            ("ERROR-CODE", "00000200"),
            ("ERROR-CODE", "00000700"),
            ("ERROR-CODE", "00000464"),
            ("UNKNOWN-ATTRIBUTES", "00017f"),
            ("CHANNEL-NUMBER", "4001"),
            ("LIFETIME", "0000000000"),
            ("EVEN-PORT", ""),
            ("DONT-FRAGMENT", "00"),
            ("USE-CANDIDATE", "00000000"),
            ("RESERVATION-TOKEN", "01"),
            ("PASSWORD-ALGORITHM", ""),
            ("PASSWORD-ALGORITHM", "0001"),
            ("PASSWORD-ALGORITHM", "0001000000020000"),
            ("PASSWORD-ALGORITHM", "00010004616263"),
            ("PASSWORD-ALGORITHMS", "00010000000200"),
            ("PASSWORD-ALGORITHMS", "0001ffff"),
            ("USERHASH", "00"),
            ("RESPONSE-PORT", "123400"),
            ("CONNECTION-ID", "00"),
            ("ICE-CONTROLLED", "00000000"),
        ],
    )
    def test_malformed(self, name: str, encoded: str) -> None:
        assert refused(message(attribute(BY_NAME[name].type, bytes.fromhex(encoded)))) == f"{name} is malformed"

    def test_reserved_bits_are_ignored(self) -> None:
        # RFC 8489 §14.1 and §14.8
        parsed = parse_message(message(attribute(0x0001, bytes.fromhex("ff018055c0000201"))))
        assert parsed.attributes["MAPPED-ADDRESS"] == IPV4
        assert parse_message(message(attribute(0x0009, bytes.fromhex("fffffc01")))).error_code == 401

    def test_padding_of_the_last_algorithm(self) -> None:
        for parameters in ("616263", "61626300"):
            data = message(attribute(0x001D, bytes.fromhex("00070003" + parameters)))
            assert parse_message(data).attributes["PASSWORD-ALGORITHM"] == (7, b"abc")

    def test_response_port_without_its_padding(self) -> None:
        # RFC 5780 §7.5
        assert parse_message(message(attribute(0x0027, b"\x12\x34"))).attributes["RESPONSE-PORT"] == 0x1234

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PRIORITY", -1),
            ("PRIORITY", 1 << 32),
            ("LIFETIME", "600"),
            ("EVEN-PORT", 256),
            ("XOR-MAPPED-ADDRESS", ("192.0.2.1", 70000)),
            ("XOR-MAPPED-ADDRESS", ("192.0.2", 1)),
            ("MAPPED-ADDRESS", ("example.org", 1)),
            ("DATA", bytes(0x10000)),
            ("DATA", bytes(0xFFFD)),
            ("SOFTWARE", "\ud800"),
        ],
    )
    def test_values_that_cannot_be_sent(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError):
            bytes(Message(Method.BINDING, Class.REQUEST, TRANSACTION, {name: value}))

    def test_unknown_name(self) -> None:
        with pytest.raises(KeyError):
            bytes(Message(Method.BINDING, Class.REQUEST, TRANSACTION, {"NO-SUCH-ATTRIBUTE": 1}))


class TestMapping:
    """The attributes of a parsed message are used as a dictionary."""

    VALUES = {"USERNAME": "user", "PRIORITY": 1, "USE-CANDIDATE": None, "UNKNOWN-ATTRIBUTES": [1]}

    @pytest.fixture
    def parsed(self) -> Message:
        return parse_message(bytes(Message(Method.BINDING, Class.REQUEST, TRANSACTION, dict(self.VALUES))))

    def test_reading(self, parsed: Message) -> None:
        attributes = parsed.attributes
        assert "PRIORITY" in attributes and "REALM" not in attributes and 1 not in attributes
        assert attributes["USERNAME"] == attributes.get("USERNAME") == "user"
        assert attributes.get("REALM") is None and attributes.get("REALM", "none") == "none"
        assert attributes.get("USE-CANDIDATE", "none") is None
        with pytest.raises(KeyError):
            _ = attributes["REALM"]
        assert len(attributes) == 4 and attributes
        assert list(attributes) == list(attributes.keys()) == list(self.VALUES)
        assert list(attributes.items()) == list(self.VALUES.items())
        assert list(attributes.values()) == list(self.VALUES.values())

    def test_like_a_dictionary(self, parsed: Message) -> None:
        attributes = parsed.attributes
        assert attributes == self.VALUES and self.VALUES == attributes
        assert attributes != {} and attributes != {**self.VALUES, "PRIORITY": 2}
        assert dict(attributes) == {**attributes} == attributes.copy() == self.VALUES
        assert attributes | {"REALM": "r"} == {**self.VALUES, "REALM": "r"}
        assert {"REALM": "r"} | attributes == {"REALM": "r", **self.VALUES}
        assert repr(attributes) == repr(self.VALUES)

    def test_writing(self, parsed: Message) -> None:
        attributes = parsed.attributes
        attributes["PRIORITY"] = 2
        attributes["REALM"] = "realm"
        assert attributes.pop("UNKNOWN-ATTRIBUTES") == [1]
        assert attributes.pop("NONCE", None) is None
        assert attributes.setdefault("PRIORITY", 3) == 2
        del attributes["USE-CANDIDATE"]
        with pytest.raises(KeyError):
            del attributes["USE-CANDIDATE"]
        expected = {"USERNAME": "user", "PRIORITY": 2, "REALM": "realm"}
        assert list(attributes.items()) == list(expected.items())
        assert bytes(parsed) == bytes(Message(Method.BINDING, Class.REQUEST, TRANSACTION, expected))
        attributes.clear()
        assert bytes(parsed) == message()

    def test_deleted_before_it_was_read(self, parsed: Message) -> None:
        del parsed.attributes["PRIORITY"]
        assert "PRIORITY" not in parsed.attributes

    def test_a_list_that_is_changed_in_place(self, parsed: Message) -> None:
        parsed.attributes["UNKNOWN-ATTRIBUTES"].append(2)
        assert parse_message(bytes(parsed)).attributes["UNKNOWN-ATTRIBUTES"] == [1, 2]

    def test_what_is_not_changed_keeps_its_bytes(self) -> None:
        parsed = parse_message(message(attribute(0x8022, b"\xff", b" ") + attribute(0x8099, b"")))
        assert parsed.attributes["SOFTWARE"] == "\ufffd"
        parsed.attributes["PRIORITY"] = 1
        assert bytes(parsed) == message(attribute(0x8022, b"\xff", b" ") + attribute(0x0024, b"\0\0\0\1"))

    def test_another_transaction_id(self) -> None:
        parsed = parse_message(RESPONSE6)
        parsed.transaction_id = TRANSACTION
        again = parse_message(bytes(Message(Method.BINDING, Class.RESPONSE, TRANSACTION, {"XOR-MAPPED-ADDRESS": IPV6})))
        del parsed.attributes["MESSAGE-INTEGRITY"]
        parsed.add_fingerprint()
        assert parse_message(bytes(parsed)).attributes["XOR-MAPPED-ADDRESS"] == IPV6
        assert again.attributes["XOR-MAPPED-ADDRESS"] == IPV6

    def test_another_class(self) -> None:
        parsed = parse_message(message(attribute(0x0024, b"\0\0\0\1")))
        parsed.message_class = Class.ERROR
        assert bytes(parsed) == message(attribute(0x0024, b"\0\0\0\1"), kind=0x0111)

    def test_in_a_message(self, parsed: Message) -> None:
        assert repr(parsed) == (
            "Message(message_method=Method.BINDING, message_class=Class.REQUEST, "
            f"transaction_id={TRANSACTION.hex()}, attributes={self.VALUES})"
        )
        assert parsed.error_code is None

    def test_buffers(self) -> None:
        buffers: list[Any] = [bytearray(REQUEST), memoryview(REQUEST)]
        for buffer in buffers:
            parsed = parse_message(buffer)
            assert parsed.attributes["PRIORITY"] == 0x6E0001FF
            assert parsed.check_message_integrity(PASSWORD)


class TestBuilders:
    @pytest.mark.parametrize("key", [KEY, IntegrityKey(KEY)])
    @pytest.mark.parametrize("username", [b"", b"r:l", b"remo:locl", b"remot:local"])
    @pytest.mark.parametrize("use_candidate", [False, True])
    @pytest.mark.parametrize(("role", "name"), [(0x8029, "ICE-CONTROLLED"), (0x802A, "ICE-CONTROLLING")])
    def test_request(self, key: Any, username: bytes, use_candidate: bool, role: int, name: str) -> None:
        expected: dict[str, Any] = {"USERNAME": username.decode(), "PRIORITY": 0x6E0001FF, name: (1 << 64) - 2}
        if use_candidate:
            expected["USE-CANDIDATE"] = None
        built = Message(Method.BINDING, Class.REQUEST, TRANSACTION, expected)
        built.add_message_integrity(KEY)
        data = binding_request(TRANSACTION, username, 0x6E0001FF, role, (1 << 64) - 2, use_candidate, key)
        assert data == bytes(built)
        assert parse_message(data).check_message_integrity(key)

    @pytest.mark.parametrize("peer", [IPV4, IPV6, ("fe80::1%eth0", 1), ("255.255.255.255", 65535), ("::", 0)])
    def test_response(self, peer: tuple[str, int]) -> None:
        built = Message(Method.BINDING, Class.RESPONSE, TRANSACTION, {"XOR-MAPPED-ADDRESS": peer})
        built.add_message_integrity(KEY)
        assert binding_response(TRANSACTION, peer, IntegrityKey(KEY)) == bytes(built)


class TestHosts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8::0001", "2001:db8::1"),
            ("2001:db8:0:0:0:0:0:1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
            ("::FFFF:C000:0201", "::ffff:192.0.2.1"),
            ("::192.0.2.1", "::192.0.2.1"),
            ("::1", "::1"),
            ("::", "::"),
            ("FE80::1%eth0", "fe80::1%eth0"),
            ("::ffff:192.0.2.1%2", "::ffff:192.0.2.1%2"),
        ],
    )
    def test_canonical(self, text: str, expected: str) -> None:
        assert canonical_host(text) == expected

    @pytest.mark.parametrize(
        "text",
        ["", "host", "192.0.2", "192.0.2.256", "192.0.2.01", "192.0.2.1 ", "+1.2.3.4", "١.2.3.4", ":::", "1::2::3"],
    )
    def test_no_address(self, text: str) -> None:
        with pytest.raises(ValueError):
            canonical_host(text)

    @given(st.binary(min_size=16, max_size=16))
    @example(bytes(10) + b"\xff\xff\0\0\0\5")
    @example(bytes(12) + b"\0\1\0\0")
    @example(bytes(14) + b"\1\0")
    def test_as_the_system_writes_it(self, packed: bytes) -> None:
        text = socket.inet_ntop(socket.AF_INET6, packed)
        assert canonical_host(text) == text
        data = message(attribute(0x0001, b"\0\2\0\1" + packed))
        assert parse_message(data).attributes["MAPPED-ADDRESS"] == (text, 1)

    @given(st.binary(min_size=4, max_size=4))
    def test_ipv4(self, packed: bytes) -> None:
        text = socket.inet_ntop(socket.AF_INET, packed)
        assert canonical_host(text) == text
        data = message(attribute(0x0001, b"\0\1\0\1" + packed))
        assert parse_message(data).attributes["MAPPED-ADDRESS"] == (text, 1)


# --------------------------------------------------------------------------------------------------------- properties

hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda address: canonical_host(str(address)))
addresses = st.tuples(hosts, st.integers(0, 65535))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
errors = st.tuples(st.integers(300, 699), texts)
algorithms = st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=9))
u32 = st.integers(0, 0xFFFFFFFF)
values = st.fixed_dictionaries(
    {},
    optional={
        "USERNAME": texts,
        "ERROR-CODE": errors,
        "UNKNOWN-ATTRIBUTES": st.lists(st.integers(0, 0xFFFF)),
        "CHANNEL-NUMBER": st.integers(0, 0xFFFF),
        "LIFETIME": u32,
        "XOR-PEER-ADDRESS": addresses,
        "DATA": st.binary(),
        "NONCE": st.binary(max_size=20),
        "EVEN-PORT": st.integers(0, 255),
        "PASSWORD-ALGORITHM": algorithms,
        "XOR-MAPPED-ADDRESS": addresses,
        "MAPPED-ADDRESS": addresses,
        "USE-CANDIDATE": st.none(),
        "PASSWORD-ALGORITHMS": st.lists(algorithms),
        "ICE-CONTROLLED": st.integers(0, (1 << 64) - 1),
        "ADDRESS-ERROR-CODE": errors.map(lambda error: (1, *error)),
        "SOFTWARE": texts,
    },
)
messages = st.builds(
    Message, st.sampled_from(Method), st.sampled_from(Class), st.binary(min_size=12, max_size=12), values
)


@given(messages, st.booleans(), st.booleans())
def test_round_trip(built: Message, sha1: bool, sha256: bool) -> None:
    if sha1:
        built.add_message_integrity(KEY)
    if sha256:
        built.add_message_integrity_sha256(KEY)
    data = bytes(built)
    parsed = parse_message(data)
    assert bytes(parsed) == data
    assert (parsed.message_method, parsed.message_class) == (built.message_method, built.message_class)
    assert parsed.transaction_id == built.transaction_id
    assert list(parsed.attributes.items()) == list(built.attributes.items())
    assert parsed.unknown_required == ()
    assert parsed.check_message_integrity(KEY) == built.check_message_integrity(KEY) == sha1
    assert parsed.check_message_integrity_sha256(KEY) == built.check_message_integrity_sha256(KEY) == sha256
    # Without the bytes it came from, too.
    again = Message(parsed.message_method, parsed.message_class, parsed.transaction_id, dict(parsed.attributes))
    assert bytes(again) == data


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    one_input(data)


@given(st.binary(max_size=120), st.integers(0, 0x3FFF))
def test_any_bytes_behind_a_header(body: bytes, kind: int) -> None:
    one_input(message(body[: len(body) & ~3], kind))


@given(st.lists(st.tuples(st.sampled_from(sorted(BY_TYPE)) | st.integers(0, 0xFFFF), st.binary(max_size=36))))
def test_any_attributes(attributes: list[tuple[int, bytes]]) -> None:
    one_input(message(b"".join(attribute(number, value) for number, value in attributes)))


@given(messages, st.integers(0, 10_000), st.integers(1, 255))
def test_any_change_of_a_signed_message_is_noticed(built: Message, where: int, change: int) -> None:
    built.add_message_integrity(KEY)
    data = bytearray(bytes(built))
    position = where % len(data)
    data[position] ^= change
    try:
        # The change has made something else of FINGERPRINT: then it stands where nothing else counts.
        assert "FINGERPRINT" not in parse_message(bytes(data)).attributes
        assert position >= len(data) - 8
    except ValueError:
        pass
    # Whoever can make fingerprints still cannot sign.
    covered = data[:-8]
    covered[2:4] = (len(data) - 28).to_bytes(2, "big")
    if position in (2, 3) or position >= len(covered):
        return
    try:
        parsed = parse_message(fingerprint(bytes(covered)))
    except ValueError:
        return
    assert not parsed.check_message_integrity(KEY)
