from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core import dnswire
from aioice.core.dnswire import TYPE_A, TYPE_AAAA, TYPE_ANY, Question, Record, encode_name
from aioice.core.machine import Done, LinkClosed, Output, Reason, SendFailed, Transmit
from aioice.core.multicast import (
    GROUP_IPV4,
    GROUP_IPV6,
    MAX_ADDRESSES,
    MAX_ANSWERS,
    MAX_NAMES,
    Answered,
    Multicast,
)

PEER = ("192.0.2.5", 5353)
LEGACY = ("192.0.2.5", 40000)


def machine(*links: int) -> Multicast:
    """A machine with IPv4 links; the numbers of IPv6 links are negative."""
    made = Multicast()
    for link in links or (1,):
        made.add_link(link, GROUP_IPV4 if link > 0 else GROUP_IPV6)
    return made


def drain(machine: Multicast) -> list[Output | Answered]:
    outputs = []
    while (output := machine.poll_output()) is not None:
        outputs.append(output)
    return outputs


def questions(name: str, link: int = 1) -> list[Transmit]:
    group = GROUP_IPV4 if link > 0 else GROUP_IPV6
    return [Transmit(link, group, dnswire.build_query(encode_name(name), type)) for type in (TYPE_A, TYPE_AAAA)]


def record(name: str, address: str, ttl: int = 120) -> Record:
    if ":" in address:
        return Record(encode_name(name), TYPE_AAAA, 1, ttl, ipaddress.IPv6Address(address).packed)
    return Record(encode_name(name), TYPE_A, 1, ttl, bytes(map(int, address.split("."))))


def answer(name: str, *addresses: str, ttl: int = 120) -> bytes:
    return dnswire.build_response([record(name, address, ttl) for address in addresses])


def nothing_else(name: str, *types: int, ttl: int = 120) -> Record:
    """RFC 6762 §6.1: the name has records of these types only."""
    return dnswire.nsec(encode_name(name), types or (TYPE_AAAA if name == "six.local" else TYPE_A,), ttl)


def reply(name: str, address: str) -> bytes:
    """What a responder says of a name with one address: there is no other (RFC 6762 §6.2)."""
    return dnswire.build_response([record(name, address)], additional=[nothing_else(name)])


def ask(name: str, type: int = TYPE_A, cls: int = 1, known: list[Record] | None = None) -> bytes:
    known = known or []
    data = bytearray(dnswire.build_response(known, questions=[Question(encode_name(name), type, cls, False)]))
    data[2:4] = b"\0\0"
    return bytes(data)


class TestResolver:
    def test_asks_at_once_for_both_families_on_every_link(self) -> None:
        """F45"""
        m = machine(1, -2)
        m.resolve(10, 7, "Abc.local", 3)
        assert drain(m) == questions("abc.local") + questions("abc.local", -2)
        assert m.poll_timeout() == 11

    def test_asks_again(self) -> None:
        """F44: after 1, 2, 4 … seconds, until nobody waits any more."""
        m = machine()
        m.resolve(0, 7, "abc.local", 9)
        times = []
        while (when := m.poll_timeout()) is not None and when < 9:
            times.append(when)
            drain(m)
            m.handle_timeout(when)
            assert drain(m) == questions("abc.local")
        assert times == [1, 2, 4, 8]
        m.handle_timeout(9)
        assert drain(m) == [Answered(7, ())]
        assert m.poll_timeout() is None

    def test_answered_the_second_time(self) -> None:
        """F44, X-field: the responder answers the second question only."""
        resolver, responder = machine(), machine()
        responder.publish("abc.local", "192.0.2.5")
        resolver.resolve(0, 7, "abc.local", 3)
        assert len(drain(resolver)) == 2  # Lost.
        resolver.handle_timeout(1)
        for output in drain(resolver):
            assert isinstance(output, Transmit)
            responder.handle_datagram(1, 1, PEER, output.data)
        (reply,) = drain(responder)
        assert isinstance(reply, Transmit)
        resolver.handle_datagram(1.01, 1, PEER, reply.data)
        assert drain(resolver) == [Answered(7, ("192.0.2.5",))]
        assert resolver.poll_timeout() is None

    def test_late_timer(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", None)
        drain(m)
        m.handle_timeout(100)
        assert drain(m) == questions("abc.local")
        assert m.poll_timeout() == 128

    def test_spurious_timer(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", None)
        drain(m)
        m.handle_timeout(0.9)
        assert drain(m) == []
        assert m.poll_timeout() == 1

    def test_time_is_up_before_the_next_question(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", 1)
        drain(m)
        m.handle_timeout(1)
        assert drain(m) == [Answered(7, ())]

    def test_no_time_at_all(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", 0)
        assert drain(m) == [Answered(7, ())]

    def test_ipv6_only(self) -> None:
        """F45"""
        m = machine()
        m.resolve(0, 7, "abc.local", 3)
        drain(m)
        m.handle_datagram(0.1, 1, PEER, answer("ABC.local", "2001:db8:0::5"))
        assert drain(m) == [Answered(7, ("2001:db8::5",))]

    def test_several_addresses_in_order(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", 3)
        drain(m)
        m.handle_datagram(0.1, 1, PEER, answer("abc.local", "2001:db8::5", "192.0.2.5", "2001:db8::5"))
        assert drain(m) == [Answered(7, ("2001:db8::5", "192.0.2.5"))]

    def test_addresses_are_bounded(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", 3)
        drain(m)
        m.handle_datagram(0.1, 1, PEER, answer("abc.local", *[f"192.0.2.{i}" for i in range(50)]))
        (output,) = drain(m)
        assert isinstance(output, Answered)
        assert len(output.addresses) == MAX_ADDRESSES

    def test_queries_share_questions(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", 3)
        m.resolve(0.5, 8, "ABC.LOCAL.", 1)
        assert drain(m) == questions("abc.local")
        m.handle_datagram(0.6, 1, PEER, answer("abc.local", "192.0.2.5"))
        assert drain(m) == [Answered(7, ("192.0.2.5",)), Answered(8, ("192.0.2.5",))]
        assert m.poll_timeout() is None

    def test_latecomer_does_not_wait_for_a_long_interval(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", None)
        for time in (1, 2, 4):
            m.handle_timeout(time)
        drain(m)
        m.resolve(4.5, 8, "abc.local", 2)
        assert (drain(m), m.poll_timeout()) == ([], 5)
        m.handle_timeout(5)
        assert (drain(m), m.poll_timeout()) == (questions("abc.local"), 6)
        m.resolve(5.5, 9, "abc.local", 1)
        assert (drain(m), m.poll_timeout()) == ([], 6)

    def test_latecomer_asks_at_once_when_the_last_question_is_old(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", None)
        for time in (1, 2, 4):
            m.handle_timeout(time)
        drain(m)
        m.resolve(6, 8, "abc.local", 1)
        assert drain(m) == questions("abc.local")

    def test_one_of_two_ends(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", 0.5)
        m.resolve(0, 8, "abc.local", 5)
        drain(m)
        assert m.poll_timeout() == 0.5
        m.handle_timeout(0.5)
        assert drain(m) == [Answered(7, ())]
        assert m.poll_timeout() == 1

    def test_cancel(self) -> None:
        m = machine()
        m.resolve(0, 7, "abc.local", 5)
        m.resolve(0, 8, "abc.local", 5)
        drain(m)
        m.cancel(7)
        m.cancel(7)
        m.handle_datagram(0.1, 1, PEER, answer("abc.local", "192.0.2.5"))
        assert drain(m) == [Answered(8, ("192.0.2.5",))]
        m.resolve(5, 9, "abc.local", 5)
        m.cancel(9)
        assert m.poll_timeout() is None

    def test_answers_are_remembered_as_long_as_responders_are_quiet(self) -> None:
        """RFC 6762 §6: within a second, there is no second answer."""
        m = machine()
        m.resolve(0, 7, "abc.local", 5)
        m.resolve(0, 8, "other.local", 5)
        m.handle_datagram(0.1, 1, PEER, answer("abc.local", "192.0.2.5"))
        drain(m)
        m.resolve(1, 9, "abc.local", 5)
        assert drain(m) == [Answered(9, ("192.0.2.5",))]
        m.resolve(1.1, 10, "abc.local", 5)
        assert drain(m)[-2:] == questions("abc.local")
        m.handle_datagram(1.2, 1, PEER, answer("other.local", "192.0.2.6"))
        assert len(m._recent) == 1

    def test_own_name(self) -> None:
        m = machine()
        m.publish("abc.local", "192.0.2.5")
        m.publish("abc.local", "2001:db8::5")
        m.resolve(0, 7, "Abc.local", 5)
        assert drain(m) == [Answered(7, ("192.0.2.5", "2001:db8::5"))]

    def test_nobody_to_ask(self) -> None:
        m = Multicast()
        m.resolve(0, 7, "abc.local", None)
        assert drain(m) == [Answered(7, ())]
        assert m.poll_timeout() is None

    @pytest.mark.parametrize("name", ["example.com", "a.b.local", "abc.local\n", "", "\ud800.local"])
    def test_other_names(self, name: str) -> None:
        m = machine()
        m.resolve(0, 7, name, None)
        assert drain(m) == [Answered(7, ())]

    def test_names_are_bounded(self) -> None:
        m = machine()
        for query in range(MAX_NAMES):
            m.resolve(0, query, f"n{query}.local", None)
        drain(m)
        m.resolve(0, MAX_NAMES, "more.local", None)
        assert drain(m) == [Answered(MAX_NAMES, ())]
        m.resolve(0, MAX_NAMES + 1, "n0.local", None)
        assert drain(m) == []
        for query in range(MAX_NAMES):
            m.handle_datagram(0.1, 1, PEER, answer(f"n{query}.local", "192.0.2.5"))
        m.resolve(0.1, 1, "more.local", None)
        m.handle_datagram(0.2, 1, PEER, answer("more.local", "192.0.2.5"))
        assert len(m._recent) == MAX_NAMES

    def test_link_that_goes(self) -> None:
        m = machine(1, 2)
        m.resolve(0, 7, "abc.local", None)
        drain(m)
        m.handle_report(0.5, LinkClosed(1, Reason.OTHER, "gone"))
        m.handle_report(0.5, SendFailed(2, GROUP_IPV4, Reason.UNREACHABLE))
        m.handle_timeout(1)
        assert drain(m) == questions("abc.local", 2)
        m.remove_link(2)
        m.remove_link(2)
        m.handle_timeout(2)
        assert drain(m) == []


class TestHostileAnswers:
    def refused(self, data: bytes, peer: tuple[str, int] = PEER) -> Multicast:
        m = machine()
        m.resolve(0, 7, "abc.local", None)
        drain(m)
        m.handle_datagram(0.1, 1, peer, data)
        assert drain(m) == []
        return m

    def test_port(self) -> None:
        """RFC 6762 §6: it must come from port 5353."""
        assert self.refused(answer("abc.local", "192.0.2.5"), LEGACY).dropped == 1

    def test_goodbye(self) -> None:
        """RFC 6762 §10.1"""
        self.refused(answer("abc.local", "192.0.2.5", ttl=0))

    def test_other_name_type_and_class(self) -> None:
        self.refused(answer("other.local", "192.0.2.5"))
        name = encode_name("abc.local")
        self.refused(dnswire.build_response([Record(name, 16, 1, 120, b"1234")]))
        self.refused(dnswire.build_response([Record(name, TYPE_A, 3, 120, b"1234")]))
        self.refused(dnswire.build_response([Record(name, TYPE_A, 1, 120, bytes(16))]))
        self.refused(dnswire.build_response([Record(name, TYPE_AAAA, 1, 120, bytes(4))]))

    def test_question_with_an_answer_in_it(self) -> None:
        self.refused(ask("abc.local", known=[record("abc.local", "192.0.2.5")]))

    def test_address_of_three_bytes(self) -> None:
        """X08"""
        data = bytes.fromhex("0000840000000001000000000178056c6f63616c00000180010000007800037f0000")
        m = machine()
        m.resolve(0, 7, "x.local", None)
        drain(m)
        m.handle_datagram(0.1, 1, PEER, data)
        assert drain(m) == []
        m.handle_datagram(0.2, 1, PEER, data[:7] + b"\2" + data[8:] + answer("x.local", "192.0.2.5")[12:])
        assert drain(m) == [Answered(7, ("192.0.2.5",))]

    @pytest.mark.parametrize("nsec", ["c00c 0001 40", "c0ff 0001 40", "ffff", "c00c 0001 40 0101ff", ""])
    @pytest.mark.parametrize("first", [True, False])
    def test_nsec_with_a_compressed_name(self, nsec: str, first: bool) -> None:
        """X09: as Chromium answers. Whatever the record holds, the address beside it counts."""
        name = encode_name("abc.local")
        rdata = bytes.fromhex(nsec)
        records = [Record(name, 47, 1, 120, rdata), record("abc.local", "192.0.2.5")]
        m = machine()
        m.resolve(0, 7, "abc.local", None)
        drain(m)
        m.handle_datagram(0.1, 1, PEER, dnswire.build_response(records if first else records[::-1]))
        assert drain(m) == [Answered(7, ("192.0.2.5",))]

    def test_answer_of_chromium(self) -> None:
        """X09: the address in the answer section, the NSEC record in the additional one, names compressed."""
        data = bytes.fromhex(
            "000084000000000100000001"
            "03616263056c6f63616c00 0001 8001 00000078 0004 c0000205"
            "c00c 002f 8001 00000078 0005 c00c 0001 40"
        )
        m = machine()
        m.resolve(0, 7, "abc.local", None)
        drain(m)
        m.handle_datagram(0.1, 1, PEER, data)
        assert drain(m) == [Answered(7, ("192.0.2.5",))]

    def test_not_dns(self) -> None:
        assert self.refused(b"junk").dropped == 1


class TestResponder:
    def publisher(self) -> Multicast:
        m = machine(1, -2)
        m.publish("Abc.local", "192.0.2.5")
        m.publish("six.local", "2001:db8::5")
        assert drain(m) == []
        return m

    def test_answers(self) -> None:
        """RFC 6762 §6, §10: to the group, on the link of the question, cache-flush, 120 s."""
        m = self.publisher()
        m.handle_datagram(0, -2, ("fe80::1", 5353), ask("aBC.local"))
        (output,) = drain(m)
        assert output == Transmit(-2, GROUP_IPV6, reply("abc.local", "192.0.2.5"))
        assert output.data.hex() == (
            "000084000000000100000001"
            "03616263056c6f63616c0000018001000000780004c0000205"
            "03616263056c6f63616c00002f800100000078000e03616263056c6f63616c00000140"
        )

    @pytest.mark.parametrize(
        ("name", "type", "expected"),
        [
            ("abc.local", TYPE_A, reply("abc.local", "192.0.2.5")),
            ("abc.local", TYPE_AAAA, dnswire.build_response([nothing_else("abc.local")])),
            ("abc.local", TYPE_ANY, reply("abc.local", "192.0.2.5")),
            ("six.local", TYPE_A, dnswire.build_response([nothing_else("six.local")])),
            ("six.local", TYPE_AAAA, reply("six.local", "2001:db8::5")),
            ("abc.local", 16, dnswire.build_response([nothing_else("abc.local")])),
            ("other.local", TYPE_A, None),
        ],
    )
    def test_only_what_is_asked(self, name: str, type: int, expected: bytes | None) -> None:
        """RFC 6762 §6.1: that there is nothing else is told of our own names alone."""
        m = self.publisher()
        m.handle_datagram(0, 1, PEER, ask(name, type))
        assert drain(m) == ([Transmit(1, GROUP_IPV4, expected)] if expected else [])

    def test_no_other_family_in_wire_form(self) -> None:
        """RFC 6762 §6.1: the own name, block 0, and the bit of AAAA."""
        assert nothing_else("six.local").rdata.hex() == "03736978056c6f63616c00" + "0004" + "00000008"
        both = dnswire.nsec(encode_name("six.local"), (TYPE_AAAA, TYPE_A), 120)
        assert both.rdata.hex() == "03736978056c6f63616c00" + "0004" + "40000008"

    @pytest.mark.parametrize(("type", "order"), [(TYPE_A, [0, 1]), (TYPE_AAAA, [1, 0])])
    def test_addresses_of_the_other_family_come_along(self, type: int, order: list[int]) -> None:
        """RFC 6762 §6.2, and §6: not twice within a second."""
        m = self.publisher()
        m.publish("abc.local", "2001:db8::6")
        records = [record("abc.local", "192.0.2.5"), record("abc.local", "2001:db8::6")]
        first, second = (records[i] for i in order)
        m.handle_datagram(0, 1, PEER, ask("abc.local", type))
        expected = dnswire.build_response([first], additional=[second])
        assert drain(m) == [Transmit(1, GROUP_IPV4, expected)]
        m.handle_datagram(0.5, 1, PEER, ask("abc.local", TYPE_ANY))
        assert drain(m) == []
        m.handle_datagram(0.5, 1, LEGACY, ask("abc.local", 16))
        (output,) = drain(m)
        assert isinstance(output, Transmit)
        packet = dnswire.parse(output.data)
        assert packet is not None
        assert packet.records[0] == nothing_else("abc.local", TYPE_A, TYPE_AAAA, ttl=10)

    def test_a_family_that_is_published_late(self) -> None:
        """What was said to be missing, and is put off, is not said any more."""
        m = self.publisher()
        for time in (0, 0.1):
            m.handle_datagram(time, 1, PEER, ask("abc.local", TYPE_AAAA))
        assert len(drain(m)) == 1
        m.publish("abc.local", "2001:db8::6")
        assert m.poll_timeout() is None
        m.handle_datagram(0.2, 1, PEER, ask("abc.local", TYPE_AAAA))
        expected = dnswire.build_response(
            [record("abc.local", "2001:db8::6")], additional=[record("abc.local", "192.0.2.5")]
        )
        assert drain(m) == [Transmit(1, GROUP_IPV4, expected)]

    def test_any(self) -> None:
        m = self.publisher()
        m.publish("abc.local", "2001:db8::6")
        m.handle_datagram(0, 1, PEER, ask("abc.local", TYPE_ANY, 255))
        assert drain(m) == [Transmit(1, GROUP_IPV4, answer("abc.local", "192.0.2.5", "2001:db8::6"))]

    def test_class(self) -> None:
        m = self.publisher()
        m.handle_datagram(0, 1, PEER, ask("abc.local", TYPE_A, 3))
        assert drain(m) == []

    def test_several_questions_in_one_message(self) -> None:
        """RFC 6762 §6.3"""
        m = self.publisher()
        names = ["abc.local", "other.local", "six.local", "abc.local"]
        data = bytearray(
            dnswire.build_response([], questions=[Question(encode_name(name), TYPE_ANY, 1, False) for name in names])
        )
        data[2:4] = b"\0\0"
        m.handle_datagram(0, 1, PEER, bytes(data))
        records = [record("abc.local", "192.0.2.5"), record("six.local", "2001:db8::5")]
        more = [nothing_else("abc.local"), nothing_else("six.local")]
        expected = dnswire.build_response(records, additional=more)
        assert drain(m) == [Transmit(1, GROUP_IPV4, expected)]

    def test_answers_are_bounded(self) -> None:
        m = machine()
        for i in range(40):
            m.publish(f"{i}.local", "192.0.2.5")
        asked = [Question(encode_name(f"{i}.local"), TYPE_A, 1, False) for i in range(40)]
        data = bytearray(dnswire.build_response([], questions=asked))
        data[2:4] = b"\0\0"
        for peer in (PEER, LEGACY):
            m.handle_datagram(0, 1, peer, bytes(data))
            (output,) = drain(m)
            assert isinstance(output, Transmit)
            packet = dnswire.parse(output.data)
            assert packet is not None
            assert len(packet.records) == MAX_ANSWERS

    def test_not_more_than_once_a_second(self) -> None:
        """RFC 6762 §6: but who asks in the meantime is answered in the end."""
        m = self.publisher()
        told = Transmit(1, GROUP_IPV4, reply("abc.local", "192.0.2.5"))
        m.handle_datagram(0, 1, PEER, ask("abc.local"))
        m.handle_datagram(0.3, 1, PEER, ask("abc.local"))
        m.handle_datagram(0.4, 1, PEER, ask("abc.local"))
        assert drain(m) == [told]
        assert m.poll_timeout() == 1
        m.handle_timeout(0.9)
        assert drain(m) == []
        m.handle_timeout(1)
        assert drain(m) == [told]
        assert m.poll_timeout() is None
        m.handle_datagram(2, 1, PEER, ask("abc.local"))
        assert drain(m) == [told]

    def test_what_was_put_off_together_leaves_together(self) -> None:
        """Another host asks for both families within a second of the last answer."""
        m = self.publisher()
        m.handle_datagram(0, 1, PEER, ask("abc.local"))
        m.handle_datagram(0.3, 1, PEER, ask("abc.local"))
        m.handle_datagram(0.3, 1, PEER, ask("abc.local", TYPE_AAAA))
        told = Transmit(1, GROUP_IPV4, reply("abc.local", "192.0.2.5"))
        assert drain(m) == [told]
        m.handle_timeout(1)
        assert drain(m) == [told]
        assert m.poll_timeout() is None

    def test_links_are_counted_apart(self) -> None:
        m = self.publisher()
        m.handle_datagram(0, 1, PEER, ask("abc.local"))
        m.handle_datagram(0, -2, PEER, ask("abc.local"))
        assert len(drain(m)) == 2

    def test_question_answers_what_was_put_off(self) -> None:
        m = self.publisher()
        for time in (0, 0.5, 1.2):
            m.handle_datagram(time, 1, PEER, ask("abc.local"))
        assert len(drain(m)) == 2
        assert m.poll_timeout() is None

    def test_unicast_when_welcome_and_the_group_has_heard_it(self) -> None:
        """RFC 6762 §5.4"""
        m = self.publisher()
        data = reply("abc.local", "192.0.2.5")
        m.handle_datagram(0, 1, PEER, ask("abc.local", cls=0x8001))
        m.handle_datagram(0.1, 1, PEER, ask("abc.local", cls=0x8001))
        assert drain(m) == [Transmit(1, GROUP_IPV4, data), Transmit(1, PEER, data)]
        assert m.poll_timeout() is None

    def test_known_answer(self) -> None:
        """RFC 6762 §7.1"""
        m = self.publisher()
        m.handle_datagram(0, 1, PEER, ask("abc.local", known=[record("abc.local", "192.0.2.5", 60)]))
        assert drain(m) == []
        m.handle_datagram(0, 1, PEER, ask("abc.local", known=[record("abc.local", "192.0.2.5", 59)]))
        assert len(drain(m)) == 1
        m.handle_datagram(1, 1, PEER, ask("abc.local", known=[record("abc.local", "192.0.2.6", 120)]))
        assert len(drain(m)) == 1

    def test_legacy_querier(self) -> None:
        """RFC 6762 §6.7"""
        m = self.publisher()
        data = bytearray(ask("abc.local"))
        data[:2] = b"\x12\x34"
        m.handle_datagram(0, 1, LEGACY, bytes(data))
        question = Question(encode_name("abc.local"), TYPE_A, 1, False)
        records, more = [record("abc.local", "192.0.2.5", 10)], [nothing_else("abc.local", ttl=10)]
        expected = dnswire.build_response(records, 0x1234, [question], flush=0, additional=more)
        assert drain(m) == [Transmit(1, LEGACY, expected)]

    def test_replaced_address(self) -> None:
        m = self.publisher()
        for time in (0, 0.1):
            m.handle_datagram(time, 1, PEER, ask("abc.local"))
        drain(m)
        m.publish("abc.local", "192.0.2.5")
        assert m.poll_timeout() == 1
        m.publish("abc.local", "192.0.2.6")
        assert m.poll_timeout() is None
        m.handle_datagram(0.2, 1, PEER, ask("abc.local"))
        assert drain(m) == [Transmit(1, GROUP_IPV4, reply("abc.local", "192.0.2.6"))]

    def test_unpublish(self) -> None:
        m = self.publisher()
        for time in (0, 0.1):
            m.handle_datagram(time, 1, PEER, ask("abc.local"))
            m.handle_datagram(time, 1, PEER, ask("six.local", TYPE_AAAA))
        drain(m)
        m.unpublish("ABC.local")
        m.unpublish("abc.local")
        m.unpublish("nonsense")
        m.handle_datagram(1, 1, PEER, ask("abc.local"))
        assert drain(m) == []
        m.handle_timeout(1)
        assert drain(m) == [Transmit(1, GROUP_IPV4, reply("six.local", "2001:db8::5"))]

    def test_link_that_goes(self) -> None:
        m = self.publisher()
        for time in (0, 0.1):
            for link in (1, -2):
                m.handle_datagram(time, link, PEER, ask("abc.local"))
        drain(m)
        m.remove_link(1)
        m.handle_datagram(0.2, 1, PEER, ask("abc.local"))
        m.handle_timeout(1)
        assert drain(m) == [Transmit(-2, GROUP_IPV6, reply("abc.local", "192.0.2.5"))]

    @pytest.mark.parametrize(("name", "address"), [("example.com", "192.0.2.5"), ("abc.local", "nonsense")])
    def test_wrong_calls(self, name: str, address: str) -> None:
        with pytest.raises(ValueError, match=r"example.com|nonsense"):
            Multicast().publish(name, address)


class TestClose:
    def test_close(self) -> None:
        m = machine()
        m.publish("abc.local", "192.0.2.5")
        m.resolve(0, 7, "other.local", None)
        m.resolve(0, 8, "more.local", 5)
        m.close()
        assert drain(m) == [Answered(7, ()), Answered(8, ()), Done("closed")]
        m.close()
        m.add_link(3)
        m.handle_datagram(0, 1, PEER, ask("abc.local"))
        m.handle_datagram(0, 3, PEER, ask("abc.local"))
        m.handle_datagram(0, 1, PEER, answer("other.local", "192.0.2.5"))
        m.handle_timeout(10)
        m.cancel(7)
        assert drain(m) == []
        assert m.poll_timeout() is None
        m.resolve(0, 9, "abc.local", None)
        assert drain(m) == [Answered(9, ())]


NAMES = st.sampled_from(["a.local", "b.local", "A.local.", "example.com"])
DATA = st.one_of(
    st.binary(max_size=60),
    st.builds(ask, NAMES, st.sampled_from([TYPE_A, TYPE_AAAA, TYPE_ANY]), st.sampled_from([1, 255, 0x8001])),
    st.builds(answer, NAMES, st.sampled_from(["192.0.2.5", "2001:db8::5"])),
    st.builds(lambda data, cut: data[:cut], st.builds(answer, NAMES, st.just("192.0.2.5")), st.integers(0, 40)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("datagram"), st.sampled_from([1, 2, 9]), st.sampled_from([PEER, LEGACY]), DATA),
        st.tuples(st.just("resolve"), NAMES, st.sampled_from([None, 0.0, 1.0, 5.0])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("publish"), st.sampled_from(["a.local", "b.local"]), st.sampled_from(["192.0.2.5", "::1"])),
        st.tuples(st.just("unpublish"), NAMES),
        st.tuples(st.just("remove_link"), st.sampled_from([1, 2])),
        st.tuples(st.just("add_link"), st.sampled_from([1, 2])),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0])),
    ),
    max_size=40,
)


@given(STEPS)
def test_promises(steps: list[tuple[Any, ...]]) -> None:
    """No bytes raise, each query ends once, the next time-out is in the future, and nothing remains after the end."""
    m = machine(1, 2)
    now = 0.0
    asked: set[int] = set()
    ended: list[int] = []
    cancelled: set[int] = set()

    def collect() -> None:
        for output in drain(m):
            if isinstance(output, Answered):
                ended.append(output.query)
            else:
                assert isinstance(output, Transmit)
                assert output.link in m._links

    for verb, *arguments in steps:
        match verb:
            case "datagram":
                m.handle_datagram(now, *arguments)
            case "resolve":
                asked.add(len(asked))
                m.resolve(now, len(asked) - 1, *arguments)
            case "cancel":
                (query,) = arguments
                if query in asked and query not in ended:
                    cancelled.add(query)
                m.cancel(query)
            case "wait":
                now += arguments[0]
                m.handle_timeout(now)
                assert (m.poll_timeout() or now + 1) > now
            case _:
                getattr(m, verb)(*arguments)
        collect()
    m.handle_timeout(now + 100)
    collect()
    m.close()
    for output in drain(m)[:-1]:
        assert isinstance(output, Answered)
        ended.append(output.query)
    assert sorted(ended) == sorted(asked - cancelled)
    assert m.poll_timeout() is None
    assert not (m._lookups or m._names or m._sent or m._late or m._published)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    m = machine()
    m.publish("x.local", "192.0.2.5")
    m.resolve(0, 7, "y.local", None)
    m.handle_datagram(0, 1, PEER, data)
    m.handle_datagram(0, 1, PEER, bytes.fromhex("000084000000000300000000") + data)
    m.handle_datagram(0, 1, LEGACY, bytes.fromhex("000000000002000100000000") + data)
