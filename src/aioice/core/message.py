"""STUN messages to bytes and back, their integrity and their fingerprint (RFC 8489)."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from hmac import compare_digest
from struct import Struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

from .attributes import BY_NAME, BY_TYPE, COOKIE, COOKIE_BYTES, canonical_host, pack_xor_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .machine import Address

__all__ = [
    "Attributes",
    "Class",
    "IntegrityKey",
    "Message",
    "Method",
    "binding_request",
    "binding_response",
    "canonical_host",
    "parse_message",
]

HEADER_LENGTH = 20
FINGERPRINT_XOR = 0x5354554E
USERNAME = 0x0006
MESSAGE_INTEGRITY = 0x0008
MESSAGE_INTEGRITY_SHA256 = 0x001C
FINGERPRINT = 0x8028
ICE_CONTROLLED = 0x8029
ICE_CONTROLLING = 0x802A

_HEADER = Struct("!HHI12s")
_ATTRIBUTE = Struct("!HH")
_FINGERPRINT = Struct("!HHI")
_REQUEST_TAIL = Struct("!HHIHHQ")


class Class(IntEnum):
    REQUEST = 0x000
    INDICATION = 0x010
    RESPONSE = 0x100
    ERROR = 0x110


class Method(IntEnum):
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


class IntegrityKey:
    """A key with its HMAC states prepared, to be copied for each message."""

    __slots__ = ("key", "_inner", "_outer", "_inner256", "_outer256")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._inner, self._outer = _hmac_states(hashlib.sha1, key)
        self._inner256: Any = None
        self._outer256: Any = None

    def sha1(self, *parts: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        for part in parts:
            inner.update(part)
        outer.update(inner.digest())
        digest: bytes = outer.digest()
        return digest

    def sha256(self, *parts: bytes) -> bytes:
        if self._inner256 is None:
            self._inner256, self._outer256 = _hmac_states(hashlib.sha256, self.key)
        inner, outer = self._inner256.copy(), self._outer256.copy()
        for part in parts:
            inner.update(part)
        outer.update(inner.digest())
        digest: bytes = outer.digest()
        return digest


def _hmac_states(algorithm: Any, key: bytes) -> tuple[Any, Any]:
    """RFC 2104, with the two padded keys hashed in advance."""
    if len(key) > 64:
        key = algorithm(key).digest()
    padded = int.from_bytes(key.ljust(64, b"\0"))
    inner = algorithm((padded ^ int.from_bytes(b"\x36" * 64)).to_bytes(64))
    outer = algorithm((padded ^ int.from_bytes(b"\x5c" * 64)).to_bytes(64))
    return inner, outer


def _prepared(key: bytes | IntegrityKey) -> IntegrityKey:
    return key if isinstance(key, IntegrityKey) else IntegrityKey(key)


class Attributes(dict[str, Any]):
    """The attributes of a parsed message by name, each decoded when it is asked for."""

    __slots__ = ("_data", "_raw")

    def __init__(self, data: bytes, raw: dict[int, tuple[int, int]]) -> None:
        self._data = data
        self._raw = raw

    def __missing__(self, name: str) -> Any:
        attribute = BY_NAME.get(name)
        if attribute is None or attribute.type not in self._raw:
            raise KeyError(name)
        start, end = self._raw[attribute.type]
        value = attribute.unpack(self._data[start:end], self._data[8:20])
        super().__setitem__(name, value)
        return value

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        attribute = BY_NAME.get(name) if isinstance(name, str) else None
        return attribute is not None and attribute.type in self._raw

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def __setitem__(self, name: str, value: Any) -> None:
        self._decode_all()
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._decode_all()
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        self._decode_all()
        return super().pop(name, *default)

    def _decode_all(self) -> None:
        """All of them, in their order in the message: a plain dictionary from then on."""
        if self._raw:
            decoded = {BY_TYPE[number].name: self[BY_TYPE[number].name] for number in self._raw}
            self._raw = {}
            super().clear()
            super().update(decoded)

    def __iter__(self) -> Iterator[str]:
        self._decode_all()
        return super().__iter__()

    def __len__(self) -> int:
        return len(self._raw) or super().__len__()

    def keys(self) -> Any:
        self._decode_all()
        return super().keys()

    def values(self) -> Any:
        self._decode_all()
        return super().values()

    def items(self) -> Any:
        self._decode_all()
        return super().items()

    def __eq__(self, other: object) -> bool:
        self._decode_all()
        return super().__eq__(other)

    def __repr__(self) -> str:
        self._decode_all()
        return super().__repr__()


class Message:
    """A STUN message; ``attributes`` are its attributes by name, in their order."""

    __slots__ = (
        "message_method",
        "message_class",
        "transaction_id",
        "attributes",
        "unknown_required",
        "_covered",
        "_covered256",
    )

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
        #: Types of attributes that must be understood and are not (RFC 8489 §6.3.1).
        self.unknown_required: tuple[int, ...] = ()
        #: What MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 cover: the bytes, and the position of the attribute.
        self._covered: tuple[bytes, int] | None = None
        self._covered256: tuple[bytes, int] | None = None

    @property
    def error_code(self) -> int | None:
        """The code of ERROR-CODE, or None if there is none."""
        error = self.attributes.get("ERROR-CODE")
        return None if error is None else error[0]

    def add_message_integrity(self, key: bytes | IntegrityKey) -> None:
        """Sign with HMAC-SHA1 and add FINGERPRINT; to be the last change (RFC 8489 §14.5)."""
        for name in ("MESSAGE-INTEGRITY", "MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"):
            self.attributes.pop(name, None)
        data = bytes(self)
        self._covered = (data, len(data))
        self.attributes["MESSAGE-INTEGRITY"] = _prepared(key).sha1(_sized(data, len(data), 24))
        self.add_fingerprint()

    def add_message_integrity_sha256(self, key: bytes | IntegrityKey) -> None:
        """Sign with HMAC-SHA256 and add FINGERPRINT; to be the last change (RFC 8489 §14.6)."""
        for name in ("MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"):
            self.attributes.pop(name, None)
        data = bytes(self)
        self._covered256 = (data, len(data))
        self.attributes["MESSAGE-INTEGRITY-SHA256"] = _prepared(key).sha256(_sized(data, len(data), 36))
        self.add_fingerprint()

    def add_fingerprint(self) -> None:
        """Add FINGERPRINT; to be the very last change (RFC 8489 §14.7)."""
        self.attributes.pop("FINGERPRINT", None)
        data = bytes(self)
        self.attributes["FINGERPRINT"] = _fingerprint(data, len(data))

    def check_message_integrity(self, key: bytes | IntegrityKey) -> bool:
        """Whether MESSAGE-INTEGRITY is there and made with ``key``."""
        if self._covered is None:
            return False
        data, position = self._covered
        return compare_digest(self.attributes["MESSAGE-INTEGRITY"], _prepared(key).sha1(_sized(data, position, 24)))

    def check_message_integrity_sha256(self, key: bytes | IntegrityKey) -> bool:
        """Whether MESSAGE-INTEGRITY-SHA256 is there and made with ``key``, truncated or not."""
        if self._covered256 is None:
            return False
        data, position = self._covered256
        value = self.attributes["MESSAGE-INTEGRITY-SHA256"]
        digest = _prepared(key).sha256(_sized(data, position, 4 + len(value)))
        return compare_digest(value, digest[: len(value)])

    def __bytes__(self) -> bytes:
        parts = [b""]
        size = 0
        for name, value in self.attributes.items():
            attribute = BY_NAME[name]
            data = attribute.pack(value, self.transaction_id)
            padding = -len(data) % 4
            parts.append(_ATTRIBUTE.pack(attribute.type, len(data)) + data + bytes(padding))
            size += 4 + len(data) + padding
        method = self.message_method
        kind = (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2 | self.message_class
        parts[0] = _HEADER.pack(kind, size, COOKIE, self.transaction_id)
        return b"".join(parts)

    def __repr__(self) -> str:
        method = self.message_method
        shown = f"Method.{method.name}" if isinstance(method, Method) else hex(method)
        return (
            f"Message(message_method={shown}, message_class=Class.{self.message_class.name}, "
            f"transaction_id={self.transaction_id.hex()}, attributes={self.attributes})"
        )


def _sized(data: bytes, position: int, further: int) -> bytes:
    """The message up to ``position``, its length as if it ended ``further`` bytes later (RFC 8489 §14.5)."""
    return b"%b%b%b" % (data[:2], (position - HEADER_LENGTH + further).to_bytes(2), data[4:position])


def _fingerprint(data: bytes, position: int) -> int:
    return crc32(_sized(data, position, 8)) ^ FINGERPRINT_XOR


def parse_message(data: bytes) -> Message:
    """Read a message; raises :class:`ValueError`, and nothing else, if it is not one.

    The fingerprint is verified, the integrity is not: see :meth:`Message.check_message_integrity`.
    """
    message = Message.__new__(Message)
    read_message(message, data)
    return message


def read_message(message: Message, data: bytes) -> None:
    """Fill a new message from its bytes, as :func:`parse_message`."""
    size = len(data)
    if size < HEADER_LENGTH:
        raise ValueError("shorter than a STUN header")
    kind, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if kind & 0xC000 or cookie != COOKIE:
        raise ValueError("not a STUN message")
    if length + HEADER_LENGTH != size or length & 3:
        raise ValueError("STUN length does not match")
    method = (kind & 0xF) | (kind & 0xE0) >> 1 | (kind & 0x3E00) >> 2
    message.message_method = _METHODS.get(method, method)
    message.message_class = _CLASSES[kind & 0x110]
    message.transaction_id = transaction_id
    message.unknown_required = ()
    message._covered = message._covered256 = None
    message.attributes = Attributes(data, _read_attributes(message, data, size))


def _read_attributes(message: Message, data: bytes, size: int) -> dict[int, tuple[int, int]]:
    """Where each attribute's value is, the first of each type (RFC 8489 §14)."""
    raw: dict[int, tuple[int, int]] = {}
    position = HEADER_LENGTH
    signed = 0
    while position < size:
        number, length = _ATTRIBUTE.unpack_from(data, position)
        start = position + 4
        end = start + length
        if end > size:
            raise ValueError("STUN attribute is longer than the message")
        # RFC 8489 §14.5: after an integrity attribute only stronger ones and the fingerprint count.
        if signed and number != FINGERPRINT and (number != MESSAGE_INTEGRITY_SHA256 or signed > 1):
            position = end + (-length & 3)
            continue
        attribute = BY_TYPE.get(number)
        if attribute is None:
            if number < 0x8000 and number not in message.unknown_required:
                message.unknown_required += (number,)
        elif number not in raw:
            if not attribute.least <= length <= attribute.most or (
                attribute.check is not None and not attribute.check(data[start:end])
            ):
                raise ValueError(f"{attribute.name} is malformed")
            raw[number] = (start, end)
            if number == MESSAGE_INTEGRITY:
                message._covered = (data, position)
                signed = 1
            elif number == MESSAGE_INTEGRITY_SHA256:
                message._covered256 = (data, position)
                signed = 2
            elif number == FINGERPRINT:
                if end != size:
                    raise ValueError("bytes after FINGERPRINT")
                if int.from_bytes(data[start:end]) != _fingerprint(data, position):
                    raise ValueError("FINGERPRINT does not match")
        position = end + (-length & 3)
    if ICE_CONTROLLED in raw and ICE_CONTROLLING in raw:
        raise ValueError("both roles in one message")
    return raw


# ------------------------------------------------------------------------------------------------- the hot path of ICE


def _sign(body: bytes, key: IntegrityKey) -> bytes:
    """MESSAGE-INTEGRITY and FINGERPRINT behind a message whose length field counts the former already."""
    signed = b"%b\x00\x08\x00\x14%b" % (body, key.sha1(body))
    sized = b"%b%b%b" % (signed[:2], (len(signed) - HEADER_LENGTH + 8).to_bytes(2), signed[4:])
    return sized + _FINGERPRINT.pack(FINGERPRINT, 4, crc32(sized) ^ FINGERPRINT_XOR)


def binding_request(
    transaction_id: bytes,
    username: bytes,
    priority: int,
    role: int,
    tie_breaker: int,
    use_candidate: bool,
    key: IntegrityKey,
) -> bytes:
    """A connectivity check (RFC 8445 §7.2.2); ``role`` is the type of ICE-CONTROLLING or ICE-CONTROLLED."""
    attributes = b"%b%b%b%b" % (
        _ATTRIBUTE.pack(USERNAME, len(username)),
        username.ljust(len(username) + (-len(username) & 3), b"\0"),
        _REQUEST_TAIL.pack(0x0024, 4, priority, role, 8, tie_breaker),
        b"\x00\x25\x00\x00" if use_candidate else b"",
    )
    return _sign(_HEADER.pack(0x0001, len(attributes) + 24, COOKIE, transaction_id) + attributes, key)


def binding_response(transaction_id: bytes, peer: Address, key: IntegrityKey) -> bytes:
    """The signed success answer to a check from ``peer`` (RFC 8445 §7.3.1.2)."""
    value = pack_xor_address(peer, transaction_id)
    header = b"\x01\x01" + (len(value) + 28).to_bytes(2) + COOKIE_BYTES + transaction_id
    return _sign(b"%b\x00\x20%b%b" % (header, len(value).to_bytes(2), value), key)
