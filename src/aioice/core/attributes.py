"""STUN attributes: what there is, and how their values turn into bytes and back.

The registry holds every attribute of RFC 8489, 8445, 8656, 5780, 6062, 7635 and 8016. A value is read in two steps:
``valid`` judges its bytes when the message comes in, ``decode`` reads them when somebody asks, and cannot fail then.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from .address import IPV4, IPV6, ipv4_text, ipv6_text, parse_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Address

#: RFC 8489 §5.
COOKIE = 0x2112A442
#: What ports are XOR-ed with (RFC 8489 §14.2).
_PORT_MASK = COOKIE >> 16

_U16 = Struct("!H")
_U32 = Struct("!I")
_U64 = Struct("!Q")
_TWO_U16 = Struct("!HH")
_IPV4_ADDRESS = Struct("!HHI")
_IPV6_ADDRESS = Struct("!HH16s")


# -------------------------------------------------------------------------------------------------- values to bytes
# The transaction id only matters to XOR-ed addresses.


def _encode_address(value: Address, transaction_id: bytes) -> bytes:
    family, number = parse_host(value[0])
    if family == IPV4:
        return _IPV4_ADDRESS.pack(IPV4, value[1], number)
    return _IPV6_ADDRESS.pack(IPV6, value[1], number.to_bytes(16, "big"))


def encode_xor_address(value: Address, transaction_id: bytes) -> bytes:
    """RFC 8489 §14.2."""
    family, number = parse_host(value[0])
    if family == IPV4:
        return _IPV4_ADDRESS.pack(IPV4, value[1] ^ _PORT_MASK, number ^ COOKIE)
    mask = COOKIE << 96 | int.from_bytes(transaction_id, "big")
    return _IPV6_ADDRESS.pack(IPV6, value[1] ^ _PORT_MASK, (number ^ mask).to_bytes(16, "big"))


def _encode_bytes(value: bytes, transaction_id: bytes) -> bytes:
    return value


def _encode_text(value: str, transaction_id: bytes) -> bytes:
    return value.encode()


def _encode_flag(value: None, transaction_id: bytes) -> bytes:
    return b""


def _encode_u8(value: int, transaction_id: bytes) -> bytes:
    return bytes((value,))


def _encode_u16(value: int, transaction_id: bytes) -> bytes:
    """The number, and two reserved bytes."""
    return _TWO_U16.pack(value, 0)


def _encode_u32(value: int, transaction_id: bytes) -> bytes:
    return _U32.pack(value)


def _encode_u64(value: int, transaction_id: bytes) -> bytes:
    return _U64.pack(value)


def _encode_error(value: tuple[int, str], transaction_id: bytes) -> bytes:
    code, reason = value
    return bytes((0, 0, code // 100, code % 100)) + reason.encode()


def _encode_family_error(value: tuple[int, int, str], transaction_id: bytes) -> bytes:
    family, code, reason = value
    return bytes((family, 0, code // 100, code % 100)) + reason.encode()


def _encode_types(value: list[int], transaction_id: bytes) -> bytes:
    return b"".join(map(_U16.pack, value))


def _encode_algorithm(value: tuple[int, bytes], transaction_id: bytes) -> bytes:
    number, parameters = value
    return _TWO_U16.pack(number, len(parameters)) + parameters + bytes(-len(parameters) & 3)


def _encode_algorithms(value: list[tuple[int, bytes]], transaction_id: bytes) -> bytes:
    return b"".join(_encode_algorithm(algorithm, transaction_id) for algorithm in value)


# -------------------------------------------------------------------------------------------------- bytes to values
# All get the whole message, where the value starts and how long it is.


def _decode_address(data: bytes, start: int, length: int) -> Address:
    if length == _IPV4_ADDRESS.size:
        _, port, number = _IPV4_ADDRESS.unpack_from(data, start)
        return ipv4_text(number), port
    _, port, packed = _IPV6_ADDRESS.unpack_from(data, start)
    return ipv6_text(int.from_bytes(packed, "big")), port


def _decode_xor_address(data: bytes, start: int, length: int) -> Address:
    if length == _IPV4_ADDRESS.size:
        _, port, number = _IPV4_ADDRESS.unpack_from(data, start)
        return ipv4_text(number ^ COOKIE), port ^ _PORT_MASK
    _, port, packed = _IPV6_ADDRESS.unpack_from(data, start)
    # The magic cookie and the transaction id follow each other in the header.
    number = int.from_bytes(packed, "big") ^ int.from_bytes(data[4:20], "big")
    return ipv6_text(number), port ^ _PORT_MASK


def _decode_bytes(data: bytes, start: int, length: int) -> bytes:
    return data[start : start + length]


def _decode_text(data: bytes, start: int, length: int) -> str:
    """Text that is not UTF-8 does not cost the message; what it turns into is no name that anybody has."""
    return data[start : start + length].decode(errors="replace")


def _decode_flag(data: bytes, start: int, length: int) -> None:
    return None


def _decode_u8(data: bytes, start: int, length: int) -> int:
    return data[start]


def _decode_u16(data: bytes, start: int, length: int) -> int:
    return data[start] << 8 | data[start + 1]


def _decode_number(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _decode_error(data: bytes, start: int, length: int) -> tuple[int, str]:
    """RFC 8489 §14.8: the bits before the class are reserved and ignored."""
    return (data[start + 2] & 7) * 100 + data[start + 3], _decode_text(data, start + 4, length - 4)


def _decode_family_error(data: bytes, start: int, length: int) -> tuple[int, int, str]:
    return (data[start], *_decode_error(data, start, length))


def _decode_types(data: bytes, start: int, length: int) -> list[int]:
    return [number for (number,) in _U16.iter_unpack(data[start : start + length])]


def _decode_algorithms(data: bytes, start: int, length: int) -> list[tuple[int, bytes]]:
    algorithms = []
    position, end = start, start + length
    while position < end:
        number, size = _TWO_U16.unpack_from(data, position)
        position += 4
        algorithms.append((number, data[position : position + size]))
        position += size + 3 & -4
    return algorithms


def _decode_algorithm(data: bytes, start: int, length: int) -> tuple[int, bytes]:
    return _decode_algorithms(data, start, length)[0]


# ------------------------------------------------------------------------------------- what bytes may become values


def _always(data: bytes, start: int, length: int) -> bool:
    return True


def _never(data: bytes, start: int, length: int) -> bool:
    return False


def _is_address(data: bytes, start: int, length: int) -> bool:
    family = data[start + 1] if length else None
    return (length == 8 and family == IPV4) or (length == 20 and family == IPV6)


def _is_port(data: bytes, start: int, length: int) -> bool:
    """RFC 5780 §7.5 leaves it open whether its two bytes of padding count."""
    return length == 2


def _is_error(data: bytes, start: int, length: int) -> bool:
    """RFC 8489 §14.8: from 300 to 699, and the last two digits are no more than that."""
    return length >= 4 and 3 <= data[start + 2] & 7 <= 6 and data[start + 3] < 100


def _are_types(data: bytes, start: int, length: int) -> bool:
    return not length & 1


def _are_algorithms(data: bytes, start: int, length: int) -> bool:
    """RFC 8489 §14.11; whether the padding of the last one counts is not worth a quarrel."""
    position, end = start, start + length
    while position + 4 <= end:
        unpadded = position + 4 + _TWO_U16.unpack_from(data, position)[1]
        position = start + (unpadded - start + 3 & -4)
        if position > end == unpadded:
            return True
    return position == end


def _is_algorithm(data: bytes, start: int, length: int) -> bool:
    return _are_algorithms(data, start, length) and len(_decode_algorithms(data, start, length)) == 1


def _is_sha256(data: bytes, start: int, length: int) -> bool:
    """RFC 8489 §14.6: truncated to 16 bytes at least, in steps of 4."""
    return 16 <= length <= 32 and not length & 3


# ----------------------------------------------------------------------------------------------------------- registry


class Attribute:
    """One attribute: its type, and how its value is judged, read and written."""

    __slots__ = ("type", "name", "informative", "size", "valid", "decode", "encode")

    def __init__(
        self,
        number: int,
        name: str,
        size: int | None,
        valid: Callable[[bytes, int, int], bool],
        decode: Callable[[bytes, int, int], Any],
        encode: Callable[[Any, bytes], bytes],
    ) -> None:
        self.type = number
        self.name = name
        #: Values of this size need no further look; those of another must be ``valid``.
        self.size = size
        self.valid = valid
        self.decode = decode
        self.encode = encode
        #: Comprehension-optional, and nothing is decided by it: malformed, it is ignored as if it were not known.
        self.informative = number >= 0x8000 and name not in _DECISIVE


#: Comprehension-optional attributes that decide about a message all the same.
_DECISIVE = {"PASSWORD-ALGORITHMS", "FINGERPRINT", "ICE-CONTROLLED", "ICE-CONTROLLING"}

_ADDRESS = (None, _is_address, _decode_address, _encode_address)
_XOR_ADDRESS = (None, _is_address, _decode_xor_address, encode_xor_address)
_TEXT = (None, _always, _decode_text, _encode_text)
_BYTES = (None, _always, _decode_bytes, _encode_bytes)
_BYTES_8 = (8, _never, _decode_bytes, _encode_bytes)
_BYTES_20 = (20, _never, _decode_bytes, _encode_bytes)
_BYTES_32 = (32, _never, _decode_bytes, _encode_bytes)
_DIGEST = (32, _is_sha256, _decode_bytes, _encode_bytes)
_FLAG = (0, _never, _decode_flag, _encode_flag)
_8_BITS = (1, _never, _decode_u8, _encode_u8)
_16_BITS = (4, _never, _decode_u16, _encode_u16)
_PORT = (4, _is_port, _decode_u16, _encode_u16)
_32_BITS = (4, _never, _decode_number, _encode_u32)
_64_BITS = (8, _never, _decode_number, _encode_u64)
_ERROR = (None, _is_error, _decode_error, _encode_error)
_FAMILY_ERROR = (None, _is_error, _decode_family_error, _encode_family_error)
_TYPES = (None, _are_types, _decode_types, _encode_types)
_ALGORITHM = (None, _is_algorithm, _decode_algorithm, _encode_algorithm)
_ALGORITHMS = (None, _are_algorithms, _decode_algorithms, _encode_algorithms)

_REGISTRY = (
    Attribute(0x0001, "MAPPED-ADDRESS", *_ADDRESS),
    Attribute(0x0003, "CHANGE-REQUEST", *_32_BITS),
    Attribute(0x0004, "SOURCE-ADDRESS", *_ADDRESS),
    Attribute(0x0005, "CHANGED-ADDRESS", *_ADDRESS),
    Attribute(0x0006, "USERNAME", *_TEXT),
    Attribute(0x0008, "MESSAGE-INTEGRITY", *_BYTES_20),
    Attribute(0x0009, "ERROR-CODE", *_ERROR),
    Attribute(0x000A, "UNKNOWN-ATTRIBUTES", *_TYPES),
    Attribute(0x000C, "CHANNEL-NUMBER", *_16_BITS),
    Attribute(0x000D, "LIFETIME", *_32_BITS),
    Attribute(0x0012, "XOR-PEER-ADDRESS", *_XOR_ADDRESS),
    Attribute(0x0013, "DATA", *_BYTES),
    Attribute(0x0014, "REALM", *_TEXT),
    Attribute(0x0015, "NONCE", *_BYTES),
    Attribute(0x0016, "XOR-RELAYED-ADDRESS", *_XOR_ADDRESS),
    Attribute(0x0017, "REQUESTED-ADDRESS-FAMILY", *_32_BITS),
    Attribute(0x0018, "EVEN-PORT", *_8_BITS),
    Attribute(0x0019, "REQUESTED-TRANSPORT", *_32_BITS),
    Attribute(0x001A, "DONT-FRAGMENT", *_FLAG),
    Attribute(0x001B, "ACCESS-TOKEN", *_BYTES),
    Attribute(0x001C, "MESSAGE-INTEGRITY-SHA256", *_DIGEST),
    Attribute(0x001D, "PASSWORD-ALGORITHM", *_ALGORITHM),
    Attribute(0x001E, "USERHASH", *_BYTES_32),
    Attribute(0x0020, "XOR-MAPPED-ADDRESS", *_XOR_ADDRESS),
    Attribute(0x0022, "RESERVATION-TOKEN", *_BYTES_8),
    Attribute(0x0024, "PRIORITY", *_32_BITS),
    Attribute(0x0025, "USE-CANDIDATE", *_FLAG),
    Attribute(0x0026, "PADDING", *_BYTES),
    Attribute(0x0027, "RESPONSE-PORT", *_PORT),
    Attribute(0x002A, "CONNECTION-ID", *_32_BITS),
    Attribute(0x8000, "ADDITIONAL-ADDRESS-FAMILY", *_32_BITS),
    Attribute(0x8001, "ADDRESS-ERROR-CODE", *_FAMILY_ERROR),
    Attribute(0x8002, "PASSWORD-ALGORITHMS", *_ALGORITHMS),
    Attribute(0x8003, "ALTERNATE-DOMAIN", *_TEXT),
    Attribute(0x8004, "ICMP", *_BYTES_8),
    Attribute(0x8022, "SOFTWARE", *_TEXT),
    Attribute(0x8023, "ALTERNATE-SERVER", *_ADDRESS),
    Attribute(0x8027, "CACHE-TIMEOUT", *_32_BITS),
    Attribute(0x8028, "FINGERPRINT", *_32_BITS),
    Attribute(0x8029, "ICE-CONTROLLED", *_64_BITS),
    Attribute(0x802A, "ICE-CONTROLLING", *_64_BITS),
    Attribute(0x802B, "RESPONSE-ORIGIN", *_ADDRESS),
    Attribute(0x802C, "OTHER-ADDRESS", *_ADDRESS),
    Attribute(0x802E, "THIRD-PARTY-AUTHORIZATION", *_TEXT),
    Attribute(0x8030, "MOBILITY-TICKET", *_BYTES),
    # As a draft of RFC 8656 numbered them (draft-ietf-tram-turnbis): coturn 4.6 knows no others.
    Attribute(0x8032, "DRAFT-ADDITIONAL-ADDRESS-FAMILY", *_32_BITS),
    Attribute(0x8033, "DRAFT-ADDRESS-ERROR-CODE", *_FAMILY_ERROR),
)
BY_TYPE = {attribute.type: attribute for attribute in _REGISTRY}
BY_NAME = {attribute.name: attribute for attribute in _REGISTRY}
