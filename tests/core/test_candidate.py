from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioice.core.candidate import (
    MAX_LINE,
    Candidate,
    candidate_foundation,
    candidate_priority,
    is_end_of_candidates,
    is_mdns_hostname,
    local_preferences,
    pair_priority,
)

# Part 2 of the field cases: what real software sends.
SHAPES = {
    "S01": "842163049 1 udp 2122260223 192.0.2.20 54400 typ host generation 0 ufrag EsAw network-id 1 network-cost 10",
    "S02": "1467250027 1 udp 2113937151 0e2b3c4d-1111-4222-8333-444455556666.local 46243 typ host generation 0 "
    "ufrag EsAw network-cost 999",
    "S03": "842163049 1 udp 1677729535 203.0.113.5 54400 typ srflx raddr 0.0.0.0 rport 0 generation 0 ufrag EsAw "
    "network-cost 999",
    "S04": "2501718406 1 tcp 1518280447 192.0.2.20 9 typ host tcptype active generation 0 ufrag EsAw network-id 1 "
    "network-cost 10",
    "S05": "3385543298 1 udp 2122265343 2001:db8:51ad:1::43c 39982 typ host generation 0 ufrag j7od network-id 2 "
    "network-cost 50",
    "S06": "3022624816 1 udp 8331263 198.51.100.9 61234 typ relay raddr 203.0.113.5 rport 54400 generation 0 "
    "ufrag EsAw network-id 1 network-cost 10",
    "S07": "0 1 UDP 2122252543 192.0.2.10 61665 typ host",
    "S08": "0 2 UDP 2122252542 192.0.2.10 61666 typ host",
    "S09": "3 1 TCP 2105524479 0b371c22-0756-f647-8e84-64e8dad498c2.local 9 typ host tcptype active",
    "S10": "2 1 UDP 92217343 198.51.100.141 43255 typ relay raddr 198.51.100.141 rport 43255",
    "S11": " 1 udp 2113939711 2001:db8:e:c03::7f 19305 typ host generation 0",
    "S12": "Hc0000214 1 UDP 2130706431 192.0.2.20 16574 typ host",
    "S13": "6815297761 1 udp 659136 192.0.2.30 31102 typ host generation 0",
    "S14": "1 1 udp 2015363327 192.0.2.40 56789 typ host",
    "S15": "udpcandidate 1 udp 1076302079 192.0.2.60 40046 typ host",
    "S16": "tcpcandidate 1 tcp 1076276479 192.0.2.60 41000 typ host tcptype passive",
    "S17": "2516015194 1 udp 2130706431 192.0.2.2 44774 typ host",
    "S17b": "2516015194 2 udp 2130706431 192.0.2.2 44774 typ host",
    "S18": "2564523624 1 tcp 2124414975 198.51.100.76 7881 typ host tcptype passive",
    "S19": "1845840045 1 udp 2030043135 203.0.113.8 8555 typ host",
    "S20": "4 1 ssltcp 2113932031 192.0.2.101 443 typ host generation 0",
    "S21": "3 1 TCP 1962934015 198.51.100.54 9000 typ host tcptype passive",
    "S22": "0 1 UDP 2130253311 192.0.2.90 63765 typ host",
    "S23": "2 1 udp 1694498815 203.0.113.165 35431 typ srflx raddr 0.0.0.0 rport 0 generation 0 network-cost 999",
    "S24": "tcpcandidate 1 tcp 115 192.0.2.177 8000 typ host tcptype passive",
    "S25": "1 1 UDP 2122317823 192.0.2.95 50000 typ host",
    "S26": "fffeff7e5895154e80d1 1 udp 2130706175 192.0.2.97 53111 typ host ufrag 9Kx2",
    "S27": "5eLSFkZ0OWTpyM7c 1 UDP 2130706431 192.0.2.98 30000 typ host",
    "S27b": "5eLSFkZ0OWTpyM7c 2 UDP 2130706431 192.0.2.98 30001 typ host",
    "S28": "0123456789abcdef0123456789abcdef 1 udp 2130706431 192.0.2.99 40000 typ host",
}


def make(host: Any = "192.0.2.1", **changes: Any) -> Candidate:
    fields: dict[str, Any] = {
        "foundation": "f",
        "component": 1,
        "transport": "udp",
        "priority": 2130706431,
        "host": host,
        "port": 5000,
        "type": "host",
    }
    fields.update(changes)
    return Candidate(**fields)


class TestShapes:
    @pytest.mark.parametrize("case", SHAPES)
    @pytest.mark.parametrize("form", ["{}", "candidate:{}", "a=candidate:{}", "a={}\r\n", "a=candidate:{}\n"])
    def test_printed_back_unchanged(self, case: str, form: str) -> None:
        line = SHAPES[case]
        candidate = Candidate.from_sdp(form.format(line))
        assert candidate.to_sdp() == line
        candidate.validate()

    @pytest.mark.parametrize("case", SHAPES)
    def test_printed_back_unchanged_after_all_fields_were_set(self, case: str) -> None:
        """The order is kept as far as the attributes know it."""
        candidate = Candidate.from_sdp(SHAPES[case])
        candidate.port += 1
        candidate.port -= 1
        assert candidate.to_sdp() == SHAPES[case]
        candidate.port = 1234
        again = Candidate.from_sdp(candidate.to_sdp())
        assert again._fields() == candidate._fields()

    @pytest.mark.parametrize(
        "case", [case for case in SHAPES if case not in ("S02", "S09", "S20", "S08", "S17b", "S27b")]
    )
    def test_pairs_where_the_transport_is_supported(self, case: str) -> None:
        remote = Candidate.from_sdp(SHAPES[case])
        host = "2001:db8::1" if ":" in remote.host else "192.0.2.200"
        tcptype = {None: None, "active": "passive", "passive": "active"}[remote.tcptype]
        local = make(host, transport=remote.transport.swapcase(), tcptype=tcptype)
        assert local.can_pair_with(remote)
        assert remote.can_pair_with(local)

    @pytest.mark.parametrize("case", ["S02", "S08", "S09", "S17b", "S20", "S27b"])
    def test_kept_but_not_paired(self, case: str) -> None:
        remote = Candidate.from_sdp(SHAPES[case])
        for tcptype in (None, "active", "passive", "so"):
            local = make(component=1, transport=remote.transport, tcptype=tcptype)
            assert not local.can_pair_with(remote)
            assert not remote.can_pair_with(local)

    def test_fields(self) -> None:
        candidate = Candidate.from_sdp(SHAPES["S06"])
        assert candidate.foundation == "3022624816"
        assert candidate.component == 1
        assert candidate.transport == "udp"
        assert candidate.priority == 8331263
        assert candidate.host == candidate.address == "198.51.100.9"
        assert candidate.port == 61234
        assert candidate.type == "relay"
        assert candidate.related_address == "203.0.113.5"
        assert candidate.related_port == 54400
        assert candidate.tcptype is None
        assert candidate.generation == 0
        assert candidate.extensions == (("ufrag", "EsAw"), ("network-id", "1"), ("network-cost", "10"))
        assert candidate.ufrag == "EsAw"
        assert Candidate.from_sdp(SHAPES["S04"]).tcptype == "active"
        assert Candidate.from_sdp(SHAPES["S23"]).ufrag is None
        assert Candidate.from_sdp(SHAPES["S07"]).ufrag is None

    @pytest.mark.parametrize(
        ("line", "printed"),
        [
            ("candidate: 1 udp 2113939711 2001:db8::7f 19305 typ host generation 0", None),
            (" 1 udp 2113939711 2001:db8::7f 19305 typ host generation 0", None),
            (
                "1 udp 2113939711 2001:db8::7f 19305 typ host generation 0",
                "1 udp 2113939711 2001:db8::7f 19305 typ host generation 0",
            ),
            ("1 udp 2113939711 2001:db8::7f 19305 typ host", "1 udp 2113939711 2001:db8::7f 19305 typ host"),
        ],
    )
    def test_empty_foundation(self, line: str, printed: str | None) -> None:
        """F01"""
        candidate = Candidate.from_sdp(line)
        assert (candidate.foundation, candidate.component, candidate.port) == ("", 1, 19305)
        assert candidate.host == "2001:db8::7f"
        assert candidate.to_sdp() == (printed or " 1 udp 2113939711 2001:db8::7f 19305 typ host generation 0")
        candidate.validate()
        candidate.port = 1
        assert candidate.to_sdp().startswith(" 1 udp 2113939711 2001:db8::7f 1 typ host")

    def test_order_of_extensions_is_kept(self) -> None:
        line = "1936595596 1 tcp 1518214911 1.2.3.4 9 typ host network-id 1 generation 0 tcptype active network-cost 10"
        candidate = Candidate.from_sdp(line)
        assert candidate.to_sdp() == line
        candidate.generation = 1
        assert candidate.to_sdp() == (
            "1936595596 1 tcp 1518214911 1.2.3.4 9 typ host tcptype active generation 1 network-id 1 network-cost 10"
        )

    def test_odd_word_at_the_end_is_kept(self) -> None:
        line = "1 1 udp 1 192.0.2.1 5 typ host generation 0 flag"
        candidate = Candidate.from_sdp(line)
        assert candidate.extensions == (("flag", ""),)
        assert candidate.to_sdp() == line
        candidate.generation = 2
        assert candidate.to_sdp() == "1 1 udp 1 192.0.2.1 5 typ host generation 2 flag"
        assert Candidate.from_sdp("1 1 udp 1 192.0.2.1 5 typ host raddr").related_address is None

    @pytest.mark.parametrize(
        "tail",
        [
            "generation x",
            "generation ５",
            "generation -1",
            f"generation {2**32}",
            "rport 70000",
            "rport 5_0",
            "rport +5",
        ],
    )
    def test_unusable_extension_values_mean_nothing(self, tail: str) -> None:
        line = "1 1 udp 1 192.0.2.1 5 typ srflx " + tail
        candidate = Candidate.from_sdp(line)
        assert candidate.generation is candidate.related_port is None
        assert candidate.extensions == (tuple(tail.split()),)
        assert candidate.to_sdp() == line

    def test_the_first_of_a_repeated_extension_counts(self) -> None:
        line = "1 1 udp 1 192.0.2.1 5 typ host generation 1 generation 2 raddr a raddr b"
        candidate = Candidate.from_sdp(line)
        assert (candidate.generation, candidate.related_address) == (1, "a")
        assert candidate.to_sdp() == line

    def test_blanks_are_one_space(self) -> None:
        candidate = Candidate.from_sdp("\t1  1 udp\t1 192.0.2.1 5 TYP host  generation 1 ")
        assert candidate.generation == 1
        assert candidate.to_sdp() == "1 1 udp 1 192.0.2.1 5 TYP host generation 1"

    def test_unknown_type_and_transport(self) -> None:
        line = "1 1 dccp 1 192.0.2.1 5 typ magic"
        candidate = Candidate.from_sdp(line)
        assert (candidate.transport, candidate.type) == ("dccp", "magic")
        assert candidate.to_sdp() == line
        assert not candidate.can_pair_with(candidate)

    def test_constructed(self) -> None:
        candidate = Candidate(
            "1", 1, "udp", 5, "192.0.2.1", 9, "srflx", "192.0.2.2", 10, "so", 3, extensions=(("a", "b"),)
        )
        assert candidate.to_sdp() == (
            "1 1 udp 5 192.0.2.1 9 typ srflx raddr 192.0.2.2 rport 10 tcptype so generation 3 a b"
        )

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["raddr", "rport", "tcptype", "generation", "ufrag", "x"]),
                st.sampled_from(["0", "1", "active", "192.0.2.1", "70000", "é"]),
            )
        ),
        st.booleans(),
    )
    def test_any_extensions_come_back(self, pairs: list[tuple[str, str]], odd: bool) -> None:
        words = [word for pair in pairs for word in pair] + ["odd"] * odd
        line = " ".join(["f 1 udp 1 192.0.2.1 5 typ host", *words])
        candidate = Candidate.from_sdp(line)
        assert candidate.to_sdp() == line
        candidate._received = None
        assert sorted(candidate.to_sdp().split()) == sorted(line.split())


class TestRefused:
    @pytest.mark.parametrize("field", ["70000", "65536", "-1", "+5", "5_000", "５000", "0x5", "1e3", "9" * 30])
    def test_port(self, field: str) -> None:
        """X01, X05"""
        with pytest.raises(ValueError, match="port .* is not a number from 0 to 65535"):
            Candidate.from_sdp(f"1 1 udp 1 192.0.2.1 {field} typ host generation 0")

    @pytest.mark.parametrize("field", ["0", "2147483648", "-1", "x", "٣"])
    def test_priority(self, field: str) -> None:
        with pytest.raises(ValueError, match="priority .* is not a number from 1 to 2147483647"):
            Candidate.from_sdp(f"1 1 udp {field} 192.0.2.1 5 typ host")

    @pytest.mark.parametrize("field", ["0", "257", "-1", "x", "1.0"])
    def test_component(self, field: str) -> None:
        with pytest.raises(ValueError, match="component .* is not a number from 1 to 256"):
            Candidate.from_sdp(f"1 {field} udp 1 192.0.2.1 5 typ host")

    def test_limits_are_inside(self) -> None:
        for line in ("1 1 udp 1 192.0.2.1 0 typ host", "1 256 udp 2147483647 192.0.2.1 65535 typ host"):
            assert Candidate.from_sdp(line).to_sdp() == line

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("1", "too few"),
            ("1 1 udp 1 192.0.2.1 5 typ", "too few"),
            ("1 1 udp 1 192.0.2.1 5 type host", "no 'typ'"),
            ("1 1 udp 1 192.0.2.1 5 host typ", "no 'typ'"),
            ("1 1 udp 1 192.0.2.1  typ host", "priority 'udp'"),
            ("1 1 udp 1 evil\x1b[31m 5 typ host", "control characters"),
            ("1 1 udp 1 192.0.2.1\x00 5 typ host", "control characters"),
            ("1 1 udp 1 192.0.2.1 5 typ host\r\na=ice-pwd:x", "control characters"),
            ("1 1 udp 1 192.0.2.1 5 typ host \ud800 x", "control characters"),
            ("1 1 udp 1 192.0.2.1 5 typ host" + " x" * MAX_LINE, "too long"),
            ("", "end-of-candidates"),
            ("candidate:", "end-of-candidates"),
        ],
    )
    def test_lines(self, line: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            Candidate.from_sdp(line)

    def test_reason_is_escaped_and_short(self) -> None:
        with pytest.raises(ValueError, match="component") as info:
            Candidate.from_sdp(f"1 é{'x' * 1000} udp 1 192.0.2.1 5 typ host")
        assert str(info.value).isascii()
        assert len(str(info.value)) < 250

    @given(st.text())
    @example("a=candidate:a=")
    def test_any_text_is_a_candidate_or_a_value_error(self, text: str) -> None:
        try:
            candidate = Candidate.from_sdp(text)
        except ValueError:
            return
        candidate.validate()

    @given(
        st.lists(
            st.sampled_from(["typ", "host", "1", "udp", "192.0.2.1", "candidate:", "a=", "", "\t", "-1"]), max_size=12
        )
    )
    def test_any_words_come_back(self, words: list[str]) -> None:
        try:
            candidate = Candidate.from_sdp(" ".join(words))
        except ValueError:
            return
        assert Candidate.from_sdp("candidate:" + candidate.to_sdp()).to_sdp() == candidate.to_sdp()
        candidate.validate()


class TestEndOfCandidates:
    @pytest.mark.parametrize(
        "text", [None, "", "candidate:", "a=candidate:\r\n", " ", "\r\n", "a=end-of-candidates", "end-of-candidates"]
    )
    def test_marks(self, text: str | None) -> None:
        """S29"""
        assert is_end_of_candidates(text)

    @pytest.mark.parametrize("text", ["candidate:1", "x", SHAPES["S01"], SHAPES["S11"]])
    def test_others(self, text: str) -> None:
        assert not is_end_of_candidates(text)


class TestPairing:
    def test_component(self) -> None:
        assert not make().can_pair_with(make(component=2))

    def test_transport(self) -> None:
        assert make(transport="UDP").can_pair_with(make(transport="udp"))
        assert not make().can_pair_with(make(transport="tcp", tcptype="active"))

    def test_family(self) -> None:
        assert make("192.0.2.1").can_pair_with(make("198.51.100.1"))
        assert make("2001:db8::1").can_pair_with(make("2001:DB8:0::2"))
        assert not make("192.0.2.1").can_pair_with(make("2001:db8::1"))
        assert not make("2001:db8::1").can_pair_with(make("192.0.2.1"))

    @pytest.mark.parametrize("local", ["fe80::1", "FE80:0::2", "febf:ffff::1"])
    def test_link_local(self, local: str) -> None:
        # RFC 8445 §6.1.2.2
        assert make(local).can_pair_with(make("fe80::9"))
        for other in ("2001:db8::1", "fec0::1", "fe7f::1", "fe8::1", "::1", "169.254.0.1"):
            assert not make(local).can_pair_with(make(other))
            assert not make(other).can_pair_with(make(local))

    @pytest.mark.parametrize(
        ("one", "other"), [("active", "passive"), ("passive", "active"), ("so", "so"), ("ACTIVE", "Passive")]
    )
    def test_tcp(self, one: str, other: str) -> None:
        assert make(transport="tcp", tcptype=one).can_pair_with(make(transport="TCP", tcptype=other))

    @pytest.mark.parametrize(
        ("one", "other"),
        [("active", "active"), ("passive", "passive"), ("so", "active"), ("active", None), (None, None), ("x", "x")],
    )
    def test_tcp_otherwise(self, one: str | None, other: str | None) -> None:
        assert not make(transport="tcp", tcptype=one).can_pair_with(make(transport="tcp", tcptype=other))

    def test_names_and_zones(self) -> None:
        for host in ("abc.local", "example.com", "", "fe80::1%eth0", "300.1.1.1", 5):
            assert not make().can_pair_with(make(host))
            assert not make("fe80::2").can_pair_with(make(host))
            assert not make(host).can_pair_with(make(host))

    def test_resolved_name(self) -> None:
        """F46"""
        candidate = make("abc.local")
        candidate.address = "192.0.2.5"
        assert make().can_pair_with(candidate)
        assert not make("2001:db8::1").can_pair_with(candidate)
        assert candidate.host == "abc.local"
        assert " abc.local " in candidate.to_sdp()

    @given(*[st.one_of(st.none(), st.text(max_size=9), st.integers(), st.sampled_from(["udp", "192.0.2.1"]))] * 2)
    def test_never_raises(self, one: object, other: object) -> None:
        make(one, transport=other).can_pair_with(make(other, transport=one))
        make(one, transport="tcp", tcptype=other).can_pair_with(make(other, transport="tcp", tcptype=one))


class TestAddress:
    def test_canonical(self) -> None:
        assert make("2001:DB8:0:0::0001").address == "2001:db8::1"
        assert make("abc.local").address == "abc.local"
        candidate = make("abc.local")
        candidate.address = "2001:DB8::0:5"
        assert candidate.address == "2001:db8::5"

    def test_follows_the_host(self) -> None:
        candidate = make()
        candidate.host = "192.0.2.9"
        assert candidate.address == "192.0.2.9"

    def test_only_addresses(self) -> None:
        with pytest.raises(ValueError, match="'x' is not an IP address"):
            make().address = "x"


class TestObject:
    def test_copies(self) -> None:
        candidate = Candidate.from_sdp(SHAPES["S02"])
        candidate.address = "192.0.2.5"
        for other in (copy.copy(candidate), copy.deepcopy(candidate), pickle.loads(pickle.dumps(candidate))):
            assert other.to_sdp() == candidate.to_sdp()
            assert other.address == "192.0.2.5"
            assert other != candidate
            other.port = 1
            assert candidate.port == 46243

    def test_a_bare_copy(self) -> None:
        """Without what a program has hung on it."""
        candidate: Any = Candidate.from_sdp(SHAPES["S02"])
        candidate.address = "192.0.2.5"
        candidate.sdp_mid = "0"
        other = candidate.copy()
        assert other.to_sdp() == candidate.to_sdp() and other.address == "192.0.2.5"
        assert not hasattr(other, "sdp_mid")
        other.port = 1
        assert candidate.port == 46243

    def test_identity(self) -> None:
        assert make() != make()
        assert len({make(), make()}) == 2

    def test_programs_may_hang_things_on_it(self) -> None:
        candidate: Any = make()
        candidate.sdp_mid = "0"
        assert copy.copy(candidate).sdp_mid == "0"
        assert weakref.ref(candidate)() is candidate

    def test_subclass(self) -> None:
        class Mine(Candidate):
            pass

        assert type(Mine.from_sdp(SHAPES["S01"])) is Mine

    def test_repr(self) -> None:
        assert repr(Candidate.from_sdp(SHAPES["S13"])) == f"Candidate({SHAPES['S13']})"
        assert repr(make("\x1b[31mé")) == "Candidate(f 1 udp 2130706431 \\x1b[31m\\xe9 5000 typ host)"
        assert len(repr(make("x" * 10000))) < 450


class TestValidate:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("port", 65536),
            ("port", -1),
            ("port", "5000"),
            ("port", None),
            ("priority", 0),
            ("priority", 2**31),
            ("priority", 1.5),
            ("component", 0),
            ("component", 257),
            ("host", ""),
            ("host", None),
            ("host", "a b"),
            ("host", "a\n"),
            ("transport", ""),
            ("type", "\x00"),
            ("foundation", "a b"),
            ("foundation", 7),
        ],
    )
    def test_unusable(self, name: str, value: object) -> None:
        """X01, for candidates that never were a line."""
        with pytest.raises(ValueError, match=f"candidate {name} "):
            make(**{name: value}).validate()

    def test_usable(self) -> None:
        make().validate()
        make("abc.local", foundation="", port=0).validate()


class TestFoundation:
    def test_same_and_different(self) -> None:
        """RFC 8445 §5.1.1.3"""
        one = candidate_foundation("host", "udp", "192.0.2.1")
        assert one == candidate_foundation("host", "UDP", "192.0.2.1")
        others = {
            candidate_foundation("srflx", "udp", "192.0.2.1"),
            candidate_foundation("host", "tcp", "192.0.2.1"),
            candidate_foundation("host", "udp", "192.0.2.2"),
            candidate_foundation("host", "udp", "192.0.2.1", server="198.51.100.1"),
            candidate_foundation("host", "udp", "192.0.2.1", server="198.51.100.2"),
        }
        assert len(others | {one}) == 6

    def test_form(self) -> None:
        """RFC 8839 §5.1: 1 to 32 ice-chars, and stable."""
        assert candidate_foundation("host", "udp", "192.0.2.1") == "6e7e5e1c50715416"


class TestPriority:
    def test_formula(self) -> None:
        """RFC 8445 §5.1.2.1"""
        assert candidate_priority(1, "host") == 2130706431
        assert candidate_priority(2, "host") == 2130706430
        assert candidate_priority(1, "prflx") == 1862270975
        assert candidate_priority(1, "srflx") == 1694498815
        assert candidate_priority(1, "relay") == 16777215
        assert candidate_priority(256, "relay", 0) == 0
        assert candidate_priority(1, "host", 65534) == 2130706175
        assert candidate_priority(1, "host", local_pref=1) == (126 << 24) + (1 << 8) + 255
        assert candidate_priority(1, "magic") == 16777215

    def test_pair(self) -> None:
        """RFC 8445 §6.1.2.3"""
        assert pair_priority(1, 2) == (1 << 32) + 4
        assert pair_priority(2, 1) == (1 << 32) + 5
        assert pair_priority(3, 3) == (3 << 32) + 6

    @given(*[st.integers(1, 2**31 - 1)] * 2)
    def test_pair_formula(self, g: int, d: int) -> None:
        assert pair_priority(g, d) == 2**32 * min(g, d) + 2 * max(g, d) + (1 if g > d else 0)


def ranked(hosts: list[str]) -> list[str]:
    preferences = local_preferences(hosts)
    return [host for _, host in sorted(zip(preferences, hosts, strict=True), reverse=True)]


class TestLocalPreferences:
    def test_one(self) -> None:
        assert local_preferences(["192.0.2.1"]) == [65535]
        assert local_preferences(["2001:db8::1"]) == [65535]
        assert local_preferences([]) == []

    def test_one_family(self) -> None:
        """F13: first come, first preferred."""
        assert local_preferences(["192.0.2.1", "192.0.2.2", "192.0.2.3"]) == [65535, 65534, 65533]
        assert local_preferences(["::1", "::2", "::3"]) == [65535, 65534, 65533]

    def test_two_ipv4_and_one_ipv6(self) -> None:
        """F13"""
        assert local_preferences(["192.0.2.1", "192.0.2.2", "2001:db8::1"]) == [65534, 65533, 65535]

    def test_two_ipv4_and_six_ipv6(self) -> None:
        """The example of RFC 8421 §4: an IPv4 address comes after four of IPv6."""
        hosts = ["192.0.2.1", "192.0.2.2", "::1", "::2", "::3", "::4", "::5", "::6"]
        assert ranked(hosts) == ["::1", "::2", "::3", "::4", "192.0.2.1", "::5", "::6", "192.0.2.2"]

    def test_one_ipv4_among_many_ipv6(self) -> None:
        assert ranked(["192.0.2.1", "::1", "::2", "::3", "::4", "::5"]) == [
            "::1",
            "::2",
            "::3",
            "::4",
            "192.0.2.1",
            "::5",
        ]

    def test_as_many_of_each(self) -> None:
        assert ranked(["192.0.2.1", "192.0.2.2", "::1", "::2"]) == ["::1", "::2", "192.0.2.1", "192.0.2.2"]

    @given(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "::1", "::2"]), max_size=40))
    def test_unique_and_in_order(self, hosts: list[str]) -> None:
        preferences = local_preferences(hosts)
        assert sorted(preferences, reverse=True) == list(range(65535, 65535 - len(hosts), -1))
        for family in (":", "."):
            of_family = [preference for preference, host in zip(preferences, hosts, strict=True) if family in host]
            assert of_family == sorted(of_family, reverse=True)


class TestMdnsHostname:
    @pytest.mark.parametrize(
        "name", ["abc.local", "ABC.LOCAL", "a-1.local.", "0.local", "-.local", "a" * 63 + ".local"]
    )
    def test_is(self, name: str) -> None:
        assert is_mdns_hostname(name)

    @pytest.mark.parametrize(
        "name",
        [
            "abc.local\n",
            "abc.local..",
            "a.b.local",
            ".local",
            "local",
            "",
            "abc",
            "abc.localx",
            "a_b.local",
            "a b.local",
            "é.local",
            "abc.lo\u212aal",
            "a" * 64 + ".local",
            "192.0.2.1",
        ],
    )
    def test_is_not(self, name: str) -> None:
        assert not is_mdns_hostname(name)
