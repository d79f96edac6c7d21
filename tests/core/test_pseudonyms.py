"""Pseudonyms: no secret survives, every signature is judged as before, and no length changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core.candidate import Candidate
from aioice.core.credentials import MD5, SHA256, make_integrity_key, make_userhash
from aioice.core.message import Class, Message, Method, binding_request, parse_message
from aioice.core.pseudonyms import MAX_NAMES, Foundations, Names, Pseudonyms

PASSWORD = "a-password-of-ice-22ch"
OTHER = "another-password-22chr"
ID = bytes(range(12))


def check(key: str = PASSWORD, username: str = "ours:theirs") -> bytes:
    return binding_request(ID, username.encode(), 7, 0x802A, 1, False, key.encode())


def answer(key: str, peer: tuple[str, int] = ("192.0.2.7", 7)) -> bytes:
    message = Message(Method.BINDING, Class.RESPONSE, ID, {"XOR-MAPPED-ADDRESS": peer})
    message.add_message_integrity(key.encode())
    return bytes(message)


class TestNames:
    def test_it_changes_nothing(self) -> None:
        names = Names()
        names.learn("key")
        names.learn_user("name", "password")
        candidate = Candidate.from_sdp("1 1 udp 1 192.0.2.1 1 typ host")
        assert names.candidate(candidate) is candidate
        assert names.address(("192.0.2.1", 1)) == ("192.0.2.1", 1)
        for value in (names.secret("x"), names.text("x"), names.network("x"), names.foundation("x")):
            assert value == "x"
        assert names.packet(b"x") == names.payload(b"x") == b"x"

    @given(st.lists(st.text(min_size=1, max_size=30), unique=True, max_size=60))
    def test_equal_ones_stay_equal_and_others_different(self, names: list[str]) -> None:
        pseudonyms = Pseudonyms()
        long = [name for name in names if len(name.encode()) > 2]
        first = [pseudonyms.secret(name) for name in long]
        assert first == [pseudonyms.secret(name) for name in long]
        assert len(set(first)) == len(first)
        assert [len(name) for name in first] == [len(name.encode()) for name in long]
        assert not set(first) & set(long)

    def test_an_empty_one(self) -> None:
        assert Pseudonyms().secret("") == ""

    def test_there_may_be_more_than_letters_can_tell(self) -> None:
        pseudonyms = Pseudonyms()
        for number in range(70):
            pseudonyms.secret(f"number {number}")
        assert pseudonyms.secret("x") == "-"

    def test_a_flood_of_names_costs_no_memory(self) -> None:
        pseudonyms = Pseudonyms()
        for number in range(MAX_NAMES + 10):
            last = pseudonyms.secret(f"{number:08}")
        assert last == "--------"

    def test_a_secret_in_a_text(self) -> None:
        pseudonyms = Pseudonyms()
        name = pseudonyms.secret(PASSWORD)
        assert pseudonyms.text(f"the server says {PASSWORD}!") == f"the server says {name}!"
        assert pseudonyms.text("from 192.0.2.1") == "from 192.0.2.1"


class TestSignatures:
    def test_what_verified_verifies_with_the_pseudonym(self) -> None:
        pseudonyms = Pseudonyms()
        pseudonyms.learn(PASSWORD)
        data = pseudonyms.packet(check())
        message = parse_message(data)
        assert message.check_message_integrity(pseudonyms.secret(PASSWORD).encode())
        assert message.attributes["USERNAME"] == f"{pseudonyms.secret('ours')}:{pseudonyms.secret('theirs')}"
        assert len(data) == len(check()) and b"ours" not in data

    def test_what_did_not_does_not(self) -> None:
        pseudonyms = Pseudonyms()
        pseudonyms.learn(PASSWORD)
        message = parse_message(pseudonyms.packet(check(OTHER)))
        for name in (PASSWORD, OTHER):
            assert not message.check_message_integrity(pseudonyms.secret(name).encode())

    def test_each_key_keeps_its_own(self) -> None:
        pseudonyms = Pseudonyms()
        pseudonyms.learn(PASSWORD)
        pseudonyms.learn(OTHER)
        message = parse_message(pseudonyms.packet(answer(PASSWORD)))
        assert message.check_message_integrity(pseudonyms.secret(PASSWORD).encode())
        assert not message.check_message_integrity(pseudonyms.secret(OTHER).encode())

    def test_a_wrong_fingerprint_stays_wrong(self) -> None:
        pseudonyms = Pseudonyms()
        pseudonyms.learn(PASSWORD)
        data = check()
        with pytest.raises(ValueError, match="fingerprint"):
            parse_message(pseudonyms.packet(data[:-1] + bytes([data[-1] ^ 1])))

    @pytest.mark.parametrize("algorithm", [MD5, SHA256])
    @pytest.mark.parametrize("hashed", [False, True])
    def test_long_term_credentials(self, algorithm: int, hashed: bool) -> None:
        """RFC 8489 §9.2: the key is made of name, realm and password; the answer is signed with that of the request."""
        pseudonyms = Pseudonyms()
        pseudonyms.learn_user("1700000000:alice", "secret")
        key = make_integrity_key("1700000000:alice", "realm", "secret", algorithm)
        user: dict[str, Any] = {"USERNAME": "1700000000:alice"}
        if hashed:
            user = {"USERHASH": make_userhash("1700000000:alice", "realm")}
        request = Message(Method.ALLOCATE, Class.REQUEST, ID, {**user, "REALM": "realm", "NONCE": b"nonce"})
        response = Message(Method.ALLOCATE, Class.RESPONSE, ID, {"LIFETIME": 600})
        for message in (request, response):
            if algorithm == SHA256:
                message.add_message_integrity_sha256(key)
            else:
                message.add_message_integrity(key)
        name, password = pseudonyms.secret("1700000000:alice"), pseudonyms.secret("secret")
        other = make_integrity_key(name, "realm", password, algorithm)
        changed = [parse_message(pseudonyms.packet(bytes(message))) for message in (request, response)]
        for message in changed:
            if algorithm == SHA256:
                assert message.check_message_integrity_sha256(other)
            else:
                assert message.check_message_integrity(other)
        if hashed:
            assert changed[0].attributes["USERHASH"] == make_userhash(name, "realm")
        else:
            assert changed[0].attributes["USERNAME"] == name

    def test_a_userhash_of_nobody(self) -> None:
        message = Message(Method.ALLOCATE, Class.REQUEST, ID, {"USERHASH": b"h" * 32})
        assert parse_message(Pseudonyms().packet(bytes(message))).attributes["USERHASH"] == bytes(32)

    def test_an_empty_signature_is_nobodys(self) -> None:
        data = Pseudonyms().packet(bytes.fromhex("000100042112a442") + ID + bytes.fromhex("00080000"))
        assert len(data) == 24

    def test_a_realm_that_nobody_knows(self) -> None:
        message = Message(Method.ALLOCATE, Class.REQUEST, ID, {"USERNAME": "a", "REALM": "r"})
        message.add_message_integrity(b"key")
        pseudonyms = Pseudonyms()
        pseudonyms.learn_user("alice", "secret")
        assert not parse_message(pseudonyms.packet(bytes(message))).check_message_integrity(b"key")


class TestPackets:
    def test_application_data_is_not_kept(self) -> None:
        assert Pseudonyms().packet(b"\x80secret") == bytes(7)
        assert Pseudonyms().payload(b"\x40\x00\x00\x01x") == bytes(5)
        frame = b"\x40\x01\x00\x06secret\x01\x02"
        assert Pseudonyms().packet(frame) == b"\x40\x01\x00\x06" + bytes(8)
        assert Pseudonyms().packet(b"\x40\x01") == bytes(2)

    def test_a_relayed_check_is_signed_anew(self) -> None:
        pseudonyms = Pseudonyms()
        pseudonyms.learn(PASSWORD)
        inner = check()
        frame = pseudonyms.packet(b"\x40\x01" + len(inner).to_bytes(2) + inner)
        assert parse_message(frame[4:]).check_message_integrity(pseudonyms.secret(PASSWORD).encode())
        outer = Message(Method.SEND, Class.INDICATION, ID, {"XOR-PEER-ADDRESS": ("192.0.2.1", 1), "DATA": inner})
        data = parse_message(pseudonyms.packet(bytes(outer))).attributes["DATA"]
        assert parse_message(data).check_message_integrity(pseudonyms.secret(PASSWORD).encode())

    def test_messages_in_messages_end_somewhere(self) -> None:
        data = check()
        for _ in range(100):
            data = bytes(Message(Method.SEND, Class.INDICATION, ID, {"DATA": data}))
        result = Pseudonyms().packet(data)
        assert len(result) == len(data) and b"ours" not in result

    def test_tokens(self) -> None:
        message = Message(Method.REFRESH, Class.REQUEST, ID, {"MOBILITY-TICKET": b"ticket", "ACCESS-TOKEN": b"token"})
        attributes = parse_message(Pseudonyms().packet(bytes(message))).attributes
        assert attributes["MOBILITY-TICKET"] == bytes(6) and attributes["ACCESS-TOKEN"] == bytes(5)

    def test_what_is_cut_off_is_not_kept(self) -> None:
        data = bytes.fromhex("000100102112a442") + ID + b"\x00\x06\x00\x20name"
        assert Pseudonyms().packet(data) == data[:24] + bytes(4)

    @given(st.binary(max_size=100), st.booleans(), st.booleans())
    def test_any_bytes(self, data: bytes, stun: bool, addresses: bool) -> None:
        if stun:
            data = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + data
        pseudonyms = Pseudonyms(addresses=addresses)
        pseudonyms.learn(PASSWORD)
        pseudonyms.learn_user("user", "password")
        assert len(pseudonyms.packet(data)) == len(data)


class TestAddresses:
    @pytest.mark.parametrize(
        ("host", "beginning"),
        [
            ("10.1.2.3", "10.0."),
            ("172.20.0.1", "172.16."),
            ("192.168.7.7", "192.168.0."),
            ("100.64.3.3", "100.64.0."),
            ("169.254.3.3", "169.254.0."),
            ("203.0.113.9", "198.18.0."),
            ("2001:db8:7::9", "2001:db8::"),
            ("fe80::77", "fe80::"),
            ("fd12:3456::1", "fd00::"),
            ("turn.example.org", "host-"),
        ],
    )
    def test_they_keep_their_kind(self, host: str, beginning: str) -> None:
        other = Pseudonyms(addresses=True).host(host)
        assert other.startswith(beginning) and other != host

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "::1", "255.255.255.255", "abcd.local", "1.2.3"])
    def test_these_mean_nothing(self, host: str) -> None:
        assert Pseudonyms(addresses=True).host(host) == host

    def test_not_unless_asked_for(self) -> None:
        assert Pseudonyms().host("203.0.113.9") == "203.0.113.9"

    def test_one_for_each_spelling(self) -> None:
        pseudonyms = Pseudonyms(addresses=True)
        assert pseudonyms.host("2001:DB8:0::1") == pseudonyms.host("2001:db8::1")
        assert pseudonyms.address(("192.0.2.1", 5)) == (pseudonyms.host("192.0.2.1"), 5)

    def test_a_network_keeps_its_hosts(self) -> None:
        pseudonyms = Pseudonyms(addresses=True)
        assert pseudonyms.network("10.7.0.0/16") == "10.7.0.0/16"
        assert pseudonyms.network("2001:db8:5::/48") == "2001:db8:5::/48"
        assert pseudonyms.host("10.7.9.9").startswith("10.7.0.")
        assert pseudonyms.host("2001:db8:5::77").startswith("2001:db8:5::")
        assert pseudonyms.network("eth0/1") == "eth0/1"

    def test_in_texts(self) -> None:
        pseudonyms = Pseudonyms(addresses=True)
        assert pseudonyms.text("no way to 203.0.113.9, or 2001:db8::9!") == "no way to [address], or [address]!"
        assert pseudonyms.text("10:15:22") == Foundations().text("10:15:22")

    def test_in_messages(self) -> None:
        pseudonyms = Pseudonyms(addresses=True)
        pseudonyms.learn(PASSWORD)
        for host in ("192.0.2.7", "2001:db8::7"):
            data = pseudonyms.packet(answer(PASSWORD, (host, 7)))
            message = parse_message(data)
            assert message.attributes["XOR-MAPPED-ADDRESS"] == (pseudonyms.host(host), 7)
            assert message.check_message_integrity(pseudonyms.secret(PASSWORD).encode())

    def test_a_malformed_one(self) -> None:
        data = bytes.fromhex("010100082112a442") + ID + bytes.fromhex("0020000401020304")
        assert Pseudonyms(addresses=True).packet(data)[-4:] == bytes(4)

    def test_in_phrases(self) -> None:
        message = Message(
            Method.BINDING, Class.ERROR, ID, {"ERROR-CODE": (403, "not 203.0.113.9"), "REALM": "10.1.2.3"}
        )
        attributes = parse_message(Pseudonyms(addresses=True).packet(bytes(message))).attributes
        assert attributes["ERROR-CODE"] == (403, "not 111.1.111.1") and attributes["REALM"] == "11.1.1.1"
        assert parse_message(Pseudonyms().packet(bytes(message))).attributes["REALM"] == "10.1.2.3"

    def test_of_a_candidate(self) -> None:
        pseudonyms = Pseudonyms(addresses=True)
        candidate = Candidate.from_sdp(
            "hash 1 udp 1 203.0.113.9 9 typ srflx raddr 10.1.2.3 rport 5 ufrag abcd x 10.9.9.9"
        )
        candidate.address = "203.0.113.9"
        other = pseudonyms.candidate(candidate)
        assert (other.host, other.address) == (pseudonyms.host("203.0.113.9"),) * 2
        assert (other.related_address, other.foundation) == (pseudonyms.host("10.1.2.3"), "f1")
        assert other.ufrag == pseudonyms.secret("abcd")
        assert "203.0.113" not in other.to_sdp() and "10.9.9.9" not in other.to_sdp()
        assert pseudonyms.foundation("hash") == "f1" and pseudonyms.foundation("next") == "f2"
        assert Pseudonyms().foundation("hash") == "hash"

    def test_a_candidate_without_them(self) -> None:
        candidate = Candidate.from_sdp("hash 1 udp 1 203.0.113.9 9 typ host ufrag abcd")
        other = Pseudonyms().candidate(candidate)
        assert (other.host, other.foundation, other.ufrag != "abcd") == ("203.0.113.9", "hash", True)


class TestFoundations:
    def test_those_of_the_trace_keep_their_numbers(self) -> None:
        reading = Foundations()
        assert [reading.foundation(text) for text in ("hash", "f1", "f4", "other", "hash")] == [
            "f1",
            "f1",
            "f4",
            "f5",
            "f1",
        ]

    def test_of_a_candidate(self) -> None:
        candidate = Candidate.from_sdp("hash 1 udp 1 203.0.113.9 9 typ host")
        assert Foundations().candidate(candidate).to_sdp().startswith("f1 1 udp")

    def test_a_flood(self) -> None:
        writing = Foundations(reading=False)
        for number in range(MAX_NAMES + 5):
            last = writing.foundation(f"f{number}")
        assert last == f"f{MAX_NAMES}"
