"""STUN attributes: the registry, and their values to bytes and back (RFC 8489 §14, 8445 §16.1, 8656 §18, 5780 §7, 6062
§6, 7635 §6, 8016 §3.4).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Address

COOKIE = 0x2112A442
COOKIE_BYTES = b"\x21\x12\xa4\x42"
IPV4 = 1
IPV6 = 2

_U16 = Struct("!H")
_U32 = Struct("!I")
_U64 = Struct("!Q")
_ADDRESS4 = Struct("!BBHI")
_ADDRESS6 = Struct("!BBH16s")
_TWO_U16 = Struct("!HH")


@lru_cache(1024)
def canonical_host(text: str) -> str:
    """The one text form of an IP address; raises :class:`ValueError` if it is none."""
    return str(ip_address(text))


# Values to bytes. ``mask`` is the transaction id; only XOR-ed addresses use it.


def _pack_address(value: Address, mask: bytes = b"") -> bytes:
    address = ip_address(value[0])
    if address.version == 4:
        return _ADDRESS4.pack(0, IPV4, value[1], int(address))
    return _ADDRESS6.pack(0, IPV6, value[1], address.packed)


def pack_xor_address(value: Address, mask: bytes) -> bytes:
    host, port = value
    if ":" in host:
        xored = int(IPv6Address(host)) ^ int.from_bytes(COOKIE_BYTES + mask)
        return _ADDRESS6.pack(0, IPV6, port ^ COOKIE >> 16, xored.to_bytes(16))
    a, b, c, d = host.split(".")
    return _ADDRESS4.pack(0, IPV4, port ^ COOKIE >> 16, (int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)) ^ COOKIE)


def _pack_bytes(value: bytes, mask: bytes) -> bytes:
    return value


def _pack_text(value: str, mask: bytes) -> bytes:
    return value.encode()


def _pack_flag(value: None, mask: bytes) -> bytes:
    return b""


def _pack_u8(value: int, mask: bytes) -> bytes:
    return bytes((value,))


def _pack_u16(value: int, mask: bytes) -> bytes:
    """Two bytes, and two that are reserved."""
    return _TWO_U16.pack(value, 0)


def _pack_u32(value: int, mask: bytes) -> bytes:
    return _U32.pack(value)


def _pack_u64(value: int, mask: bytes) -> bytes:
    return _U64.pack(value)


def _pack_error(value: tuple[int, str], mask: bytes) -> bytes:
    code, reason = value
    return bytes((0, 0, code // 100, code % 100)) + reason.encode()


def _pack_family_error(value: tuple[int, int, str], mask: bytes) -> bytes:
    family, code, reason = value
    return bytes((family, 0, code // 100, code % 100)) + reason.encode()


def _pack_types(value: list[int], mask: bytes) -> bytes:
    return b"".join(_U16.pack(number) for number in value)


def _pack_algorithm(value: tuple[int, bytes], mask: bytes) -> bytes:
    number, parameters = value
    return _TWO_U16.pack(number, len(parameters)) + parameters + bytes(-len(parameters) % 4)


def _pack_algorithms(value: list[tuple[int, bytes]], mask: bytes) -> bytes:
    return b"".join(_pack_algorithm(algorithm, mask) for algorithm in value)


# Bytes to values: the sizes are checked, so that these do not fail; ``check`` functions do the rest of that.


def _unpack_address(data: bytes, mask: bytes) -> Address:
    if data[1] == IPV4:
        return f"{data[4]}.{data[5]}.{data[6]}.{data[7]}", data[2] << 8 | data[3]
    return str(IPv6Address(data[4:20])), data[2] << 8 | data[3]


def _unpack_xor_address(data: bytes, mask: bytes) -> Address:
    port = (data[2] << 8 | data[3]) ^ COOKIE >> 16
    if data[1] == IPV4:
        return f"{data[4] ^ 0x21}.{data[5] ^ 0x12}.{data[6] ^ 0xA4}.{data[7] ^ 0x42}", port
    return str(IPv6Address(int.from_bytes(data[4:20]) ^ int.from_bytes(COOKIE_BYTES + mask))), port


def _unpack_bytes(data: bytes, mask: bytes) -> bytes:
    return data


def _unpack_text(data: bytes, mask: bytes) -> str:
    """Text is compared or shown, never trusted: what is not UTF-8 must not cost the message, and matches nothing."""
    return data.decode(errors="replace")


def _unpack_flag(data: bytes, mask: bytes) -> None:
    return None


def _unpack_u8(data: bytes, mask: bytes) -> int:
    return data[0]


def _unpack_u16(data: bytes, mask: bytes) -> int:
    return data[0] << 8 | data[1]


def _unpack_number(data: bytes, mask: bytes) -> int:
    return int.from_bytes(data)


def _unpack_error(data: bytes, mask: bytes) -> tuple[int, str]:
    return (data[2] & 7) * 100 + data[3], data[4:].decode(errors="replace")


def _unpack_family_error(data: bytes, mask: bytes) -> tuple[int, int, str]:
    return data[0], (data[2] & 7) * 100 + data[3], data[4:].decode(errors="replace")


def _unpack_types(data: bytes, mask: bytes) -> list[int]:
    return [data[i] << 8 | data[i + 1] for i in range(0, len(data) - 1, 2)]


def _unpack_algorithms(data: bytes, mask: bytes) -> list[tuple[int, bytes]]:
    algorithms = []
    position = 0
    while position < len(data):
        number, size = _TWO_U16.unpack_from(data, position)
        algorithms.append((number, data[position + 4 : position + 4 + size]))
        position += 4 + size + -size % 4
    return algorithms


def _unpack_algorithm(data: bytes, mask: bytes) -> tuple[int, bytes]:
    return _unpack_algorithms(data, mask)[0]


def _is_address(data: bytes) -> bool:
    return (len(data) == 8 and data[1] == IPV4) or (len(data) == 20 and data[1] == IPV6)


def _is_even(data: bytes) -> bool:
    return len(data) % 2 == 0


def _are_algorithms(data: bytes) -> bool:
    position = 0
    while position + 4 <= len(data):
        position += 4 + _TWO_U16.unpack_from(data, position)[1]
        if position < len(data):
            position += -position % 4
    return position == len(data) > 0


def _is_algorithm(data: bytes) -> bool:
    return _are_algorithms(data) and len(_unpack_algorithms(data, b"")) == 1


def _is_sha256(data: bytes) -> bool:
    """RFC 8489 §14.6: truncated to 16 bytes at least, in steps of 4."""
    return 16 <= len(data) <= 32 and len(data) % 4 == 0


class Attribute(NamedTuple):
    """One attribute: how its value is written, read and checked."""

    type: int
    name: str
    pack: Callable[[Any, bytes], bytes]
    unpack: Callable[[bytes, bytes], Any]
    #: Smallest and largest size of the value, and what else must hold.
    least: int
    most: int
    check: Callable[[bytes], bool] | None


_ANY = 0xFFFF
_KINDS: dict[str, tuple[Any, ...]] = {
    "address": (_pack_address, _unpack_address, 8, 20, _is_address),
    "xor address": (pack_xor_address, _unpack_xor_address, 8, 20, _is_address),
    "text": (_pack_text, _unpack_text, 0, _ANY, None),
    "bytes": (_pack_bytes, _unpack_bytes, 0, _ANY, None),
    "8 bytes": (_pack_bytes, _unpack_bytes, 8, 8, None),
    "20 bytes": (_pack_bytes, _unpack_bytes, 20, 20, None),
    "32 bytes": (_pack_bytes, _unpack_bytes, 32, 32, None),
    "sha256": (_pack_bytes, _unpack_bytes, 16, 32, _is_sha256),
    "flag": (_pack_flag, _unpack_flag, 0, 0, None),
    "u8": (_pack_u8, _unpack_u8, 1, 1, None),
    "u16": (_pack_u16, _unpack_u16, 4, 4, None),
    "u32": (_pack_u32, _unpack_number, 4, 4, None),
    "u64": (_pack_u64, _unpack_number, 8, 8, None),
    "error": (_pack_error, _unpack_error, 4, _ANY, None),
    "family error": (_pack_family_error, _unpack_family_error, 4, _ANY, None),
    "types": (_pack_types, _unpack_types, 0, _ANY, _is_even),
    "algorithm": (_pack_algorithm, _unpack_algorithm, 4, _ANY, _is_algorithm),
    "algorithms": (_pack_algorithms, _unpack_algorithms, 4, _ANY, _are_algorithms),
}
_REGISTRY = (
    (0x0001, "MAPPED-ADDRESS", "address"),
    (0x0003, "CHANGE-REQUEST", "u32"),
    (0x0004, "SOURCE-ADDRESS", "address"),
    (0x0005, "CHANGED-ADDRESS", "address"),
    (0x0006, "USERNAME", "text"),
    (0x0008, "MESSAGE-INTEGRITY", "20 bytes"),
    (0x0009, "ERROR-CODE", "error"),
    (0x000A, "UNKNOWN-ATTRIBUTES", "types"),
    (0x000C, "CHANNEL-NUMBER", "u16"),
    (0x000D, "LIFETIME", "u32"),
    (0x0012, "XOR-PEER-ADDRESS", "xor address"),
    (0x0013, "DATA", "bytes"),
    (0x0014, "REALM", "text"),
    (0x0015, "NONCE", "bytes"),
    (0x0016, "XOR-RELAYED-ADDRESS", "xor address"),
    (0x0017, "REQUESTED-ADDRESS-FAMILY", "u32"),
    (0x0018, "EVEN-PORT", "u8"),
    (0x0019, "REQUESTED-TRANSPORT", "u32"),
    (0x001A, "DONT-FRAGMENT", "flag"),
    (0x001B, "ACCESS-TOKEN", "bytes"),
    (0x001C, "MESSAGE-INTEGRITY-SHA256", "sha256"),
    (0x001D, "PASSWORD-ALGORITHM", "algorithm"),
    (0x001E, "USERHASH", "32 bytes"),
    (0x0020, "XOR-MAPPED-ADDRESS", "xor address"),
    (0x0022, "RESERVATION-TOKEN", "8 bytes"),
    (0x0024, "PRIORITY", "u32"),
    (0x0025, "USE-CANDIDATE", "flag"),
    (0x0026, "PADDING", "bytes"),
    (0x0027, "RESPONSE-PORT", "u16"),
    (0x002A, "CONNECTION-ID", "u32"),
    (0x8000, "ADDITIONAL-ADDRESS-FAMILY", "u32"),
    (0x8001, "ADDRESS-ERROR-CODE", "family error"),
    (0x8002, "PASSWORD-ALGORITHMS", "algorithms"),
    (0x8003, "ALTERNATE-DOMAIN", "text"),
    (0x8004, "ICMP", "8 bytes"),
    (0x8022, "SOFTWARE", "text"),
    (0x8023, "ALTERNATE-SERVER", "address"),
    (0x8027, "CACHE-TIMEOUT", "u32"),
    (0x8028, "FINGERPRINT", "u32"),
    (0x8029, "ICE-CONTROLLED", "u64"),
    (0x802A, "ICE-CONTROLLING", "u64"),
    (0x802B, "RESPONSE-ORIGIN", "address"),
    (0x802C, "OTHER-ADDRESS", "address"),
    (0x802E, "THIRD-PARTY-AUTHORIZATION", "text"),
    (0x8030, "MOBILITY-TICKET", "bytes"),
)
BY_TYPE = {number: Attribute(number, name, *_KINDS[kind]) for number, name, kind in _REGISTRY}
BY_NAME = {attribute.name: attribute for attribute in BY_TYPE.values()}
