from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core.dnswire import (
    MAX_ENTRIES,
    TYPE_A,
    TYPE_AAAA,
    Packet,
    Question,
    Record,
    build_query,
    build_response,
    encode_name,
    parse,
)

X = encode_name("x.local")


def response(records: str, count: int, id: str = "0000") -> bytes:
    return bytes.fromhex(f"{id}84000000{count:04x}00000000") + bytes.fromhex(records)


def read(data: bytes) -> Packet:
    packet = parse(data)
    assert packet is not None
    return packet


class TestBuild:
    def test_name(self) -> None:
        assert X == encode_name("X.LOCAL.") == b"\x01x\x05local\x00"

    def test_query(self) -> None:
        assert build_query(X, TYPE_AAAA).hex() == "000000000001000000000000" + "0178056c6f63616c00" + "001c0001"

    def test_response(self) -> None:
        record = Record(X, TYPE_A, 1, 120, b"\xc0\x00\x02\x05")
        assert build_response([record]).hex() == (
            "000084000000000100000000" + "0178056c6f63616c00" + "0001800100000078" + "0004c0000205"
        )
        assert read(build_response([record])) == Packet(0, True, [], [record])

    def test_legacy_response(self) -> None:
        record = Record(X, TYPE_A, 1, 10, b"\xc0\x00\x02\x05")
        question = Question(X, TYPE_A, 1, False)
        data = build_response([record], 7, [question], flush=0)
        assert read(data) == Packet(7, True, [question], [record])
        assert data.hex().endswith("00010001" + "0000000a" + "0004c0000205")

    @given(
        st.lists(st.tuples(st.sampled_from(["a.local", "b.local"]), st.integers(0, 2**32 - 1), st.binary()), max_size=9)
    )
    def test_round_trip(self, entries: list[tuple[str, int, bytes]]) -> None:
        records = [Record(encode_name(name), TYPE_A, 1, ttl, rdata) for name, ttl, rdata in entries]
        assert read(build_response(records)).records == records


class TestParse:
    def test_question(self) -> None:
        data = bytes.fromhex("123400000001000000000000" + "0158054c4f43414c00" + "00018001")
        assert read(data) == Packet(0x1234, False, [Question(X, TYPE_A, 1, True)], [])

    def test_compressed(self) -> None:
        """RFC 1035 §4.1.4: a whole name, and the end of one."""
        data = response("0178056c6f63616c00 00018001 00000078 0004 c0000205 c00c 001c8001 00000078 0001 ff", 2)
        assert [record.name for record in read(data).records] == [X, X]
        data = response("0178056c6f63616c00 00018001 00000078 0001 ff 0179c00e 00018001 00000078 0001 ee", 2)
        assert [record.name for record in read(data).records] == [X, encode_name("y.local")]

    def test_not_multicast_dns(self) -> None:
        """RFC 6762 §18.3, §18.11: other opcodes and response codes."""
        assert parse(b"") is None
        assert parse(bytes(11)) is None
        assert parse(bytes.fromhex("000028000000000000000000")) is None
        assert parse(bytes.fromhex("000084030000000000000000")) is None
        assert parse(bytes(12)) == Packet(0, False, [], [])

    @pytest.mark.parametrize("bit", [0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010])
    def test_bits_and_identifiers_that_are_ignored(self, bit: int) -> None:
        """RFC 6762 §18.1, §18.4 to §18.10: AA, TC, RD, RA, Z, AD and CD."""
        data = build_response([Record(X, TYPE_A, 1, 120, b"1234")])
        odd = b"\x12\x34" + (0x8400 ^ bit).to_bytes(2, "big") + data[4:]
        assert read(odd) == read(data)._replace(id=0x1234)

    def test_broken_names_cost_only_themselves(self) -> None:
        good = "0178056c6f63616c00 00018001 00000078 0004 c0000205"
        fixed = " 00018001 00000078 0000 "
        for broken in (
            "c00c",  # points to itself
            "c0ff",  # points forward
            "0179c00c",  # loops
            "3f" + "61" * 63 + ("3f" + "61" * 63) * 3 + "00",  # longer than 255 bytes
        ):
            data = response(broken + fixed + good, 2)
            assert [record.name for record in read(data).records] == [X]
        for target in ("c00c", "c00a"):
            # The first name has a pointer to what is not a name.
            data = response("01ff" + target + fixed + good, 2)
            assert X in [record.name for record in read(data).records]

    def test_pointer_to_an_unknown_label(self) -> None:
        data = (
            bytes.fromhex("404184000000000200000000" + "c000 00018001 00000078 0000")
            + build_response([Record(X, TYPE_A, 1, 120, b"1234")])[12:]
        )
        assert [record.name for record in read(data).records] == [X]

    def test_pointer_to_a_name_that_runs_out_of_the_message(self) -> None:
        data = bytes.fromhex("3f0084000000000200000000") + bytes.fromhex("c000 00018001 00000078 0000")
        assert read(data).records == []

    def test_long_chain_of_pointers(self) -> None:
        chain = "".join(f"{0xC000 + 12 + 11 + 2 * i:04x}" for i in range(30))
        data = response(f"00 00108001 00000078 {2 + len(chain) // 2:04x} 0000" + chain, 2)
        data += bytes.fromhex(f"{0xC000 + len(data) - 2:04x} 00018001 00000078 0000")
        assert len(read(data).records) == 1

    def test_what_comes_before_a_cut_is_kept(self) -> None:
        data = build_response([Record(X, TYPE_A, 1, 120, b"1234"), Record(X, TYPE_A, 1, 120, b"5678")])
        for size in range(12, len(data)):
            assert read(data[:size]).records == read(data).records[: int(size >= 35)]
        unknown = response("0178056c6f63616c00 00018001 00000078 0001 ff 41", 2)
        assert len(read(unknown).records) == 1

    def test_bounded(self) -> None:
        many = build_response([Record(b"\0", TYPE_A, 1, 120, b"")] * (MAX_ENTRIES + 5))
        assert len(read(many).records) == MAX_ENTRIES
        questions = build_response([], questions=[Question(X, TYPE_A, 1, False)] * (MAX_ENTRIES + 5))
        assert len(read(questions).questions) == MAX_ENTRIES
        assert read(questions).records == []

    def test_broken_name_in_a_question(self) -> None:
        data = bytes.fromhex("000000000002000000000000" + "c0ff 00010001" + "0178056c6f63616c00 00010001")
        assert [question.name for question in read(data).questions] == [X]

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        parse(data)

    @given(st.binary(max_size=200), st.integers(0, 9), st.integers(0, 9))
    def test_any_bytes_after_a_header(self, data: bytes, questions: int, records: int) -> None:
        packet = read(bytes.fromhex(f"00008400{questions:04x}{records:04x}00000000") + data)
        assert len(packet.questions) <= questions
        assert len(packet.records) <= records
        names = [question.name for question in packet.questions] + [record.name for record in packet.records]
        assert all(len(name) <= 255 for name in names)
