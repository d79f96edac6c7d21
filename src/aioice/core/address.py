"""IP addresses as text, in the one spelling that sockets use, and as numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv6Address

#: Address families (RFC 8489 §14.1).
IPV4 = 1
IPV6 = 2


@lru_cache(1024)
def parse_host(text: str) -> tuple[int, int]:
    """The family and the number of an IP address; raises :class:`ValueError` if it is none."""
    octets = text.split(".")
    if len(octets) == 4 and all(o.isascii() and o.isdigit() and str(int(o)) == o and int(o) < 256 for o in octets):
        return IPV4, int(octets[0]) << 24 | int(octets[1]) << 16 | int(octets[2]) << 8 | int(octets[3])
    return IPV6, int(_ipv6(text))


@lru_cache(1024)
def canonical_host(text: str) -> str:
    """The one text form of an IP address; raises :class:`ValueError` if it is none."""
    family, number = parse_host(text)
    if family == IPV4:
        return text
    zone = text.partition("%")[2]
    return f"{ipv6_text(number)}%{zone}" if zone else ipv6_text(number)


def ipv4_text(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def ipv6_text(number: int) -> str:
    """As ``inet_ntop`` writes it, so that it equals what sockets say: embedded IPv4 with dots (RFC 5952 §5)."""
    prefix = number >> 32
    if prefix == 0xFFFF or (prefix == 0 and number > 0xFFFF):
        return f"::{'ffff:' if prefix else ''}{ipv4_text(number & 0xFFFFFFFF)}"
    return str(_ipv6(number))


def _ipv6(value: int | str) -> IPv6Address:
    # A tenth of the time that our import takes, and IPv4 hosts need none of it.
    from ipaddress import IPv6Address

    return IPv6Address(value)
