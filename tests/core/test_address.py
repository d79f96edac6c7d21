"""IP addresses as text and as numbers."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core.address import IPV4, IPV6, canonical_host, ipv4_text, ipv6_text, parse_host


class TestParsing:
    @pytest.mark.parametrize(
        "text, family, number",
        [
            ("0.0.0.0", IPV4, 0),
            ("192.0.2.1", IPV4, 0xC0000201),
            ("255.255.255.255", IPV4, 0xFFFFFFFF),
            ("::", IPV6, 0),
            ("2001:DB8:0:0::1", IPV6, 0x20010DB8 << 96 | 1),
            ("::ffff:192.0.2.1", IPV6, 0xFFFFC0000201),
        ],
    )
    def test_family_and_number(self, text: str, family: int, number: int) -> None:
        assert parse_host(text) == (family, number)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "01.2.3.4",
            "1.2.3.4 ",
            "1.2.3.-4",
            "1.2.3.٤",
            "1.2..4",
            "x.local",
            ":",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        for parse in (parse_host, canonical_host):
            with pytest.raises(ValueError):
                parse(text)


class TestText:
    @pytest.mark.parametrize(
        "text, canonical",
        [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("FE80::1%eth0", "fe80::1%eth0"),
            # RFC 5952 §5
            ("::ffff:c000:201", "::ffff:192.0.2.1"),
            ("::c000:201", "::192.0.2.1"),
            ("::1", "::1"),
            ("::ffff", "::ffff"),
        ],
    )
    def test_one_spelling(self, text: str, canonical: str) -> None:
        assert canonical_host(text) == canonical == canonical_host(canonical)

    @given(st.binary(min_size=4, max_size=4))
    def test_ipv4_is_as_sockets_say(self, packed: bytes) -> None:
        text = socket.inet_ntop(socket.AF_INET, packed)
        assert ipv4_text(int.from_bytes(packed)) == text and parse_host(text) == (IPV4, int.from_bytes(packed))

    @given(st.binary(min_size=16, max_size=16) | st.binary(max_size=6).map(lambda low: low.rjust(16, b"\0")))
    def test_ipv6_is_as_sockets_say(self, packed: bytes) -> None:
        text = socket.inet_ntop(socket.AF_INET6, packed)
        assert ipv6_text(int.from_bytes(packed)) == text and parse_host(text) == (IPV6, int.from_bytes(packed))
