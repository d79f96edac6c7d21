"""STUN messages to bytes and back, their integrity and their fingerprint (RFC 8489)."""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import MutableMapping
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .attributes import BY_NAME, BY_TYPE, COOKIE, encode_xor_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .machine import Address

__all__ = [
    "COOKIE",
    "Attributes",
    "Class",
    "Message",
    "Method",
    "Several",
    "binding_request",
    "binding_response",
    "parse_message",
    "read_message",
]

HEADER_LENGTH = 20
#: RFC 8489 §14.7.
FINGERPRINT_XOR = 0x5354554E

_FINGERPRINT = 0x8028
_INTEGRITY_SIZE = 20
_FULL_SHA256_SIZE = 32

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_FINGERPRINT_ATTRIBUTE = struct.Struct("!II")
#: MESSAGE-INTEGRITY and FINGERPRINT, without the digest.
_USUAL_END = struct.Struct("!I20xII")
_INTEGRITY_HEAD = 0x00080014
_FINGERPRINT_HEAD = 0x80280004
_pack_header = _HEADER.pack
_read_header = _HEADER.unpack_from
_pack_attribute = _ATTRIBUTE.pack
_read_attribute = _ATTRIBUTE.unpack_from


class Class(IntEnum):
    """The class of a message, as its bits in the header (RFC 8489 §5)."""

    REQUEST = 0x000
    INDICATION = 0x010
    RESPONSE = 0x100
    ERROR = 0x110


class Method(IntEnum):
    """RFC 8489 §18.2, RFC 8656 §17 and RFC 6062 §6.1."""

    BINDING = 0x001
    SHARED_SECRET = 0x002
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009
    CONNECT = 0x00A
    CONNECTION_BIND = 0x00B
    CONNECTION_ATTEMPT = 0x00C


_CLASSES: dict[int, Class] = {int(value): value for value in Class}
_METHODS: dict[int, Method] = {int(value): value for value in Method}


def _same(one: bytes, other: bytes) -> bool:
    """In a time that does not depend on where they differ."""
    import hmac  # as hashlib a fifth of our import, and nobody needs it before the first message

    return hmac.compare_digest(one, other)


def _hmac(algorithm: str, key: bytes, text: bytes) -> bytes:
    """As ``hmac.digest``, which takes twice the time for texts as short as ours."""
    inner, outer = _prepared(algorithm, key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(text)
    outer.update(inner.digest())
    digest: bytes = outer.digest()
    return digest


_BLOCK = 64
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


# The states of a hash take four times the memory of the key: thousands of idle connections keep none.
@lru_cache(128)
def _prepared(algorithm: str, key: bytes) -> tuple[Any, Any]:
    """What HMAC hashes before every text is hashed once while the key is busy (RFC 2104 §4)."""
    import hashlib

    start = getattr(hashlib, algorithm)
    if len(key) > _BLOCK:
        key = start(key).digest()
    padded = key.ljust(_BLOCK, b"\0")
    return start(padded.translate(_INNER_PAD)), start(padded.translate(_OUTER_PAD))


# ----------------------------------------------------------------------------------------------------------- messages


class Several(tuple[Any, ...]):
    """The values of an attribute that a message of ours carries more than once, such as XOR-PEER-ADDRESS."""

    __slots__ = ()


class Attributes(MutableMapping[str, Any]):
    """The attributes of a parsed message by name, each decoded when it is asked for."""

    __slots__ = ("untouched", "_data", "_places", "_values")

    def __init__(self, data: bytes, places: dict[str, int]) -> None:
        #: Nothing was set or deleted since the message was parsed.
        self.untouched = True
        self._data = data
        #: Where the values start in the message, in its order; 0 for those that were set since.
        self._places = places
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        values = self._values
        if name in values:
            return values[name]
        start = self._places[name]
        value = values[name] = BY_NAME[name].decode(self._data, start, self._length(start))
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._places else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __setitem__(self, name: str, value: Any) -> None:
        self.untouched = False
        self._places[name] = 0
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self.untouched = False
        self._values.pop(name, None)

    def popitem(self) -> tuple[str, Any]:
        """The last one, as a dictionary does it."""
        name = next(reversed(self._places), "")
        return name, self.pop(name)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._places)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self}

    def __repr__(self) -> str:
        return repr(dict(self))

    def received_message(self, header: bytes) -> bytes | None:
        """The whole message as it came; None if that can no longer be what stands here or in the header."""
        data = self._data
        if self.untouched and header[:2] == data[:2] and header[8:] == data[8:20]:
            return None if any(isinstance(value, list) for value in self._values.values()) else data
        return None

    def received(self, name: str, transaction_id: bytes) -> bytes | None:
        """The attribute as it came, with its padding; None if that can no longer be what it stands for."""
        start = self._places[name]
        if not start or isinstance(self._values.get(name), list) or self._data[8:20] != transaction_id:
            return None
        return self._data[start - 4 : start + (self._length(start) + 3 & -4)]

    def repeated(self, name: str) -> list[Any]:
        """All values of an attribute as they came, those left out that are malformed."""
        attribute, data, found = BY_NAME[name], self._data, []
        position = HEADER_LENGTH
        while position < len(data):
            number, length = _read_attribute(data, position)
            start = position + 4
            if number in _CLOSING:
                break
            if number == attribute.type and (length == attribute.size or attribute.valid(data, start, length)):
                found.append(attribute.decode(data, start, length))
            position = start + (length + 3 & -4)
        return found

    def covered(self, name: str) -> tuple[bytes, bytes] | None:
        """What the integrity attribute of this name protects, and its value."""
        start = self._places.get(name)
        if start is None:
            return None
        data = self._data
        length = self._length(start)
        # RFC 8489 §14.5: hashed as if the message ended with the attribute.
        size = start + length - HEADER_LENGTH
        return b"%b%b%b" % (data[:2], size.to_bytes(2, "big"), data[4 : start - 4]), data[start : start + length]

    def _length(self, start: int) -> int:
        return self._data[start - 2] << 8 | self._data[start - 1]


class Message:
    """A STUN message.

    :param message_method: A :class:`Method`; in a parsed message a plain number if it is not known.
    :param attributes: Values by the attributes' names, in the order in which they are sent.
    """

    __slots__ = ("message_method", "message_class", "transaction_id", "attributes", "unknown_required")

    def __init__(
        self,
        message_method: Method | int,
        message_class: Class,
        transaction_id: bytes,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        self.message_method = message_method
        self.message_class = message_class
        self.transaction_id = transaction_id
        self.attributes: dict[str, Any] = {} if attributes is None else attributes
        #: Types of attributes that must be understood and are not (RFC 8489 §6.3.1); always empty in a message of ours.
        self.unknown_required: tuple[int, ...] = ()

    @property
    def error_code(self) -> int | None:
        """The code of ERROR-CODE, or None if there is none."""
        error = self.attributes.get("ERROR-CODE")
        return None if error is None else error[0]

    def values(self, name: str) -> list[Any]:
        """Every value of an attribute that may stand several times; ``attributes`` knows the first one only."""
        parsed = _parsed(self.attributes)
        if parsed is not None and parsed.untouched:
            return parsed.repeated(name)
        if name not in self.attributes:
            return []
        value = self.attributes[name]
        return list(value) if type(value) is Several else [value]

    def add_message_integrity(self, key: bytes) -> None:
        """Add MESSAGE-INTEGRITY and FINGERPRINT; nothing but :meth:`add_message_integrity_sha256` may follow."""
        attributes = self.attributes
        for name in ("MESSAGE-INTEGRITY", "MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"):
            attributes.pop(name, None)
        body = self._encode(attributes)
        digest = attributes["MESSAGE-INTEGRITY"] = _hmac("sha1", key, self._header(len(body) + 24) + body)
        self._add_fingerprint(b"%b\x00\x08\x00\x14%b" % (body, digest))

    def add_message_integrity_sha256(self, key: bytes) -> None:
        """Add MESSAGE-INTEGRITY-SHA256, in full length, and FINGERPRINT; nothing may follow."""
        attributes = self.attributes
        for name in ("MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"):
            attributes.pop(name, None)
        body = self._encode(attributes)
        digest = attributes["MESSAGE-INTEGRITY-SHA256"] = _hmac("sha256", key, self._header(len(body) + 36) + body)
        self._add_fingerprint(b"%b\x00\x1c\x00\x20%b" % (body, digest))

    def add_fingerprint(self) -> None:
        """Add FINGERPRINT; nothing may follow."""
        self.attributes.pop("FINGERPRINT", None)
        self._add_fingerprint(self._encode(self.attributes))

    def check_message_integrity(self, key: bytes) -> bool:
        """Whether the message carries MESSAGE-INTEGRITY, made with ``key`` (RFC 8489 §14.5)."""
        covered = self._covered("MESSAGE-INTEGRITY")
        if covered is None:
            return False
        text, digest = covered
        return _same(_hmac("sha1", key, text), digest)

    def check_message_integrity_sha256(self, key: bytes, minimum: int = _FULL_SHA256_SIZE) -> bool:
        """Whether the message carries MESSAGE-INTEGRITY-SHA256, made with ``key`` (RFC 8489 §14.6).

        A usage of STUN that allows truncated values says so with ``minimum``, from 16 bytes on; ICE and TURN do not.
        """
        covered = self._covered("MESSAGE-INTEGRITY-SHA256")
        if covered is None:
            return False
        text, digest = covered
        return len(digest) >= minimum and _same(_hmac("sha256", key, text)[: len(digest)], digest)

    def __bytes__(self) -> bytes:
        parsed = _parsed(self.attributes)
        received = None if parsed is None else parsed.received_message(self._header(0))
        if received is not None:
            return received
        body = self._encode(self.attributes)
        return self._header(len(body)) + body

    def __repr__(self) -> str:
        method = self.message_method
        shown = f"Method.{method.name}" if isinstance(method, Method) else hex(method)
        return (
            f"Message(message_method={shown}, message_class=Class.{self.message_class.name}, "
            f"transaction_id={self.transaction_id.hex()}, attributes={self.attributes})"
        )

    def _covered(self, name: str) -> tuple[bytes, bytes] | None:
        parsed = _parsed(self.attributes)
        if parsed is not None and parsed.untouched:
            return parsed.covered(name)
        value = self.attributes.get(name)
        if value is None:
            return None
        names = list(self.attributes)
        body = self._encode(names[: names.index(name)])
        return self._header(len(body) + 4 + len(value)) + body, value

    def _add_fingerprint(self, body: bytes) -> None:
        self.attributes["FINGERPRINT"] = crc32(self._header(len(body) + 8) + body) ^ FINGERPRINT_XOR

    def _header(self, size: int) -> bytes:
        if size > 0xFFFF:
            raise ValueError(f"a STUN message cannot have {size} bytes of attributes")
        method = self.message_method
        # RFC 8489 §5: the two bits of the class stand between those of the method.
        message_type = method & 0xF | (method & 0x70) << 1 | (method & 0xF80) << 2 | self.message_class
        return _pack_header(message_type, size, COOKIE, self.transaction_id)

    def _encode(self, names: Iterable[str]) -> bytes:
        """The attributes of these names."""
        attributes = self.attributes
        transaction_id = self.transaction_id
        parsed = _parsed(attributes)
        parts = []
        for name in names:
            received = None if parsed is None else parsed.received(name, transaction_id)
            parts.append(received or _encode_attribute(name, attributes[name], transaction_id))
        return b"".join(parts)


def _encode_attribute(name: str, value: Any, transaction_id: bytes) -> bytes:
    if type(value) is Several:
        return b"".join(_encode_attribute(name, single, transaction_id) for single in value)
    attribute = BY_NAME[name]
    try:
        data = attribute.encode(value, transaction_id)
        length = len(data)
        encoded = _pack_attribute(attribute.type, length) + data
    except struct.error as exc:
        raise ValueError(f"{name} cannot be {value!a}: {exc}") from None
    return encoded + bytes(-length & 3) if length & 3 else encoded


def _parsed(attributes: object) -> Attributes | None:
    # ``isinstance`` takes its time with an abstract base class.
    return attributes if type(attributes) is Attributes else None


# ------------------------------------------------------------------------------------------------------------ parsing


def parse_message(data: bytes) -> Message:
    """Read a message; raises :class:`ValueError`, and nothing else, if the bytes are not one.

    The fingerprint is verified. The integrity is not: see :meth:`Message.check_message_integrity`.
    """
    message = Message.__new__(Message)
    read_message(message, data)
    return message


def read_message(message: Message, data: bytes) -> None:
    """Fill a new message, or one of a subclass, from its bytes, as :func:`parse_message`."""
    if type(data) is not bytes:
        data = bytes(data)
    size = len(data)
    if size < HEADER_LENGTH:
        raise ValueError("STUN message length is less than 20 bytes")
    message_type, length, cookie, transaction_id = _read_header(data)
    if message_type > 0x3FFF or cookie != COOKIE:
        raise ValueError("not a STUN message")
    if length & 3 or length + HEADER_LENGTH != size:
        raise ValueError("STUN message length does not match")
    places: dict[str, int] = {}
    message.unknown_required = _read_attributes(data, size, places)
    message.message_class = message_class = _CLASSES[message_type & 0x110]
    method = message_type & 0xF | message_type >> 1 & 0x70 | message_type >> 2 & 0xF80
    message.message_method = _METHODS.get(method, method)
    message.transaction_id = transaction_id
    # It is used as a dictionary, and its users may say so.
    attributes: Any = Attributes(data, places)
    message.attributes = attributes
    if message_class is Class.REQUEST and "ICE-CONTROLLING" in places and "ICE-CONTROLLED" in places:
        raise ValueError("STUN request claims both ICE roles")


def _read_attributes(data: bytes, size: int, places: dict[str, int]) -> tuple[int, ...]:
    """Find the first attribute of each type (RFC 8489 §14); returns the unknown types that must be understood."""
    unknown: dict[int, None] | None = None
    position = HEADER_LENGTH
    while position < size:
        number, length = _read_attribute(data, position)
        start = position + 4
        position = start + (length + 3 & -4)
        if position > size:
            raise ValueError("STUN attribute is longer than the message")
        attribute = _BY_TYPE.get(number)
        if attribute is not None:
            name = attribute.name
            if name not in places:
                if length == attribute.size or attribute.valid(data, start, length):
                    places[name] = start
                elif not attribute.informative:
                    raise ValueError(f"{name} is malformed")
        elif number in _CLOSING:
            _read_closing(data, start - 4, size, places)
            break
        elif number < 0x8000:
            if unknown is None:
                unknown = {}
            unknown[number] = None
    return () if unknown is None else tuple(unknown)


#: What protects a message, in the order in which it may come; from the first of them on, nothing else counts.
_CLOSING = {number: (stage, BY_TYPE[number]) for stage, number in enumerate((0x0008, 0x001C, 0x8028), 1)}
_BY_TYPE = {number: attribute for number, attribute in BY_TYPE.items() if number not in _CLOSING}


def _read_closing(data: bytes, position: int, size: int, places: dict[str, int]) -> None:
    """Read on from the first attribute that protects the message (RFC 8489 §14.5 to §14.7)."""
    if position + _USUAL_END.size == size:
        integrity, fingerprint, check = _USUAL_END.unpack_from(data, position)
        if integrity == _INTEGRITY_HEAD and fingerprint == _FINGERPRINT_HEAD:
            _verify_fingerprint(data, size, check)
            places["MESSAGE-INTEGRITY"] = position + 4
            places["FINGERPRINT"] = size - 4
            return
    reached = 0
    while position < size:
        number, length = _read_attribute(data, position)
        start = position + 4
        position = start + (length + 3 & -4)
        if position > size:
            raise ValueError("STUN attribute is longer than the message")
        closing = _CLOSING.get(number)
        if closing is not None and closing[0] > reached:
            reached, attribute = closing
            if length != attribute.size and not attribute.valid(data, start, length):
                raise ValueError(f"{attribute.name} is malformed")
            if number == _FINGERPRINT:
                if position != size:
                    raise ValueError("STUN message goes on after its fingerprint")
                _verify_fingerprint(data, size, int.from_bytes(data[start:], "big"))
            places[attribute.name] = start


def _verify_fingerprint(data: bytes, size: int, check: int) -> None:
    if crc32(data[: size - 8]) ^ FINGERPRINT_XOR != check:
        raise ValueError("STUN message fingerprint does not match")


# ------------------------------------------------------------------------------------------- checks and their answers

_PRIORITY_AND_ROLE = struct.Struct("!HHIHHQ")
_BINDING_REQUEST = 0x0001
_BINDING_RESPONSE = 0x0101
_USE_CANDIDATE = b"\x00\x25\x00\x00"


def binding_request(
    transaction_id: bytes,
    username: bytes,
    priority: int,
    role: int,
    tie_breaker: int,
    use_candidate: bool,
    key: bytes,
) -> bytes:
    """A connectivity check (RFC 8445 §7.2.2); ``role`` is the type of ICE-CONTROLLING or of ICE-CONTROLLED."""
    attributes = b"\x00\x06%b%b%b%b%b" % (
        len(username).to_bytes(2, "big"),
        username,
        bytes(-len(username) & 3),
        _PRIORITY_AND_ROLE.pack(0x0024, 4, priority, role, 8, tie_breaker),
        _USE_CANDIDATE if use_candidate else b"",
    )
    return _signed(_BINDING_REQUEST, transaction_id, attributes, key)


def binding_response(transaction_id: bytes, peer: Address, key: bytes) -> bytes:
    """The success answer to a check from ``peer`` (RFC 8445 §7.3.1.2)."""
    value = encode_xor_address(peer, transaction_id)
    return _signed(_BINDING_RESPONSE, transaction_id, b"\x00\x20\x00%c%b" % (len(value), value), key)


def _signed(message_type: int, transaction_id: bytes, attributes: bytes, key: bytes) -> bytes:
    """The message with MESSAGE-INTEGRITY and FINGERPRINT; each is made as if the message ended with it."""
    size = len(attributes) + 4 + _INTEGRITY_SIZE
    digest = _hmac("sha1", key, _pack_header(message_type, size, COOKIE, transaction_id) + attributes)
    header = _pack_header(message_type, size + 8, COOKIE, transaction_id)
    data = b"%b%b\x00\x08\x00\x14%b" % (header, attributes, digest)
    return data + _FINGERPRINT_ATTRIBUTE.pack(_FINGERPRINT_HEAD, crc32(data) ^ FINGERPRINT_XOR)
