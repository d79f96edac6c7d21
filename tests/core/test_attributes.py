from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioice.core.address import canonical_host
from aioice.core.attributes import BY_NAME, BY_TYPE
from aioice.core.message import Class, Message, Method, parse_message
from tests.core.stun_bytes import (
    IPV4,
    IPV6,
    PASSWORD,
    REQUEST,
    RESPONSE6,
    TRANSACTION,
    attribute,
    message,
    refused,
)

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
    ("DRAFT-ADDITIONAL-ADDRESS-FAMILY", "02000000", 0x02000000),
    ("DRAFT-ADDRESS-ERROR-CODE", "020004286e6f", (2, 440, "no")),
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
        assert len(BY_NAME) == len(BY_TYPE) == 47

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

    def test_reserved_bits_of_an_address_error(self) -> None:
        # RFC 8656 §18.12
        parsed = parse_message(message(attribute(0x8001, bytes.fromhex("02fffc286e6f")), kind=0x0103))
        assert parsed.attributes["ADDRESS-ERROR-CODE"] == (2, 440, "no")

    @pytest.mark.parametrize("name", ["USERNAME", "REALM", "NONCE", "SOFTWARE", "ERROR-CODE"])
    def test_the_longest_texts(self, name: str) -> None:
        # RFC 8489 §14.3, §14.8 to §14.10, §14.14: 763 bytes can be read.
        text = b"x" * 763
        value = b"\0\0\4\1" + text if name == "ERROR-CODE" else text
        read = parse_message(message(attribute(BY_NAME[name].type, value), kind=0x0111)).attributes[name]
        assert read == {"NONCE": text, "ERROR-CODE": (401, text.decode())}.get(name, text.decode())

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

    def test_backwards(self, parsed: Message) -> None:
        attributes = parsed.attributes
        assert list(reversed(attributes)) == list(reversed(self.VALUES))
        assert attributes.popitem() == ("UNKNOWN-ATTRIBUTES", [1])
        assert attributes.popitem() == ("USE-CANDIDATE", None)
        attributes.clear()
        with pytest.raises(KeyError):
            attributes.popitem()

    def test_updating(self, parsed: Message) -> None:
        parsed.attributes.update({"PRIORITY": 7}, REALM="r")
        assert list(parsed.attributes.items()) == list({**self.VALUES, "PRIORITY": 7, "REALM": "r"}.items())
        parsed.attributes |= {"PRIORITY": 8}
        assert parsed.attributes["PRIORITY"] == 8 and bytes(parse_message(bytes(parsed))) == bytes(parsed)

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
