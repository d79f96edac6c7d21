"""DNS messages, as far as multicast DNS needs them for addresses (RFC 1035 §4, RFC 6762 §18).

Own code rather than a library: what one record says must never cost the others (RFC 6762 §6.1), and libraries refuse
the whole message. Rdata is not looked into, so a record of any type is stepped over by its length, whatever it holds.

A name is its uncompressed wire form in lower case: equal names are equal bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

#: RFC 1035 §3.2.2, RFC 3596 §2.1, RFC 4034 §4, RFC 1035 §3.2.3.
TYPE_A = 1
TYPE_AAAA = 28
TYPE_NSEC = 47
TYPE_ANY = 255

#: RFC 1035 §3.2.4, §3.2.5.
CLASS_IN = 1
CLASS_ANY = 255

#: RFC 6762 §18.12, §18.13: "unicast answers are welcome" in a question, "forget what you knew" in a record.
TOP_BIT = 0x8000

#: RFC 1035 §4.1.1: QR and AA, and the fields that have to be zero (RFC 6762 §18.3, §18.11): opcode and response code.
FLAGS_RESPONSE = 0x8400
_QR = 0x8000
_OPCODE_RCODE = 0x780F

#: Questions and records that are read from one message. A message about one host has less than ten.
MAX_ENTRIES = 100

_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")

# RFC 1035 §3.1, §4.1.4: sizes of names and labels; from 0xC0 on, the length is a pointer.
_MAX_NAME = 255
_MAX_LABEL = 63
_POINTER = 0xC0

# A name of three labels needs no more than three pointers.
_MAX_JUMPS = 16


class Question(NamedTuple):
    name: bytes
    type: int
    #: The class without its top bit.
    cls: int
    #: An answer by unicast is welcome (RFC 6762 §5.4).
    unicast: bool


class Record(NamedTuple):
    name: bytes
    type: int
    #: The class without its top bit.
    cls: int
    ttl: int
    rdata: bytes


class Packet(NamedTuple):
    id: int
    response: bool
    questions: list[Question]
    records: list[Record]


def encode_name(name: str) -> bytes:
    """The wire form of a host name (ASCII, labels of 1 to 63 characters)."""
    labels = name.removesuffix(".").lower().encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def build_query(name: bytes, type: int) -> bytes:
    """A multicast question (RFC 6762 §18.1: with the identifier 0)."""
    return _HEADER.pack(0, 0, 1, 0, 0, 0) + name + _QUESTION.pack(type, CLASS_IN)


def nsec(name: bytes, types: Iterable[int], ttl: int) -> Record:
    """The record that says: of ``name`` there is nothing but ``types``, which are below 256 (RFC 6762 §6.1).

    Its next domain name, which is the name itself, is not compressed: not everybody reads it otherwise.
    """
    bitmap = bytearray()
    for type in types:
        bitmap.extend(bytes(max(0, type // 8 + 1 - len(bitmap))))
        bitmap[type // 8] |= 0x80 >> type % 8
    return Record(name, TYPE_NSEC, CLASS_IN, ttl, name + bytes([0, len(bitmap)]) + bytes(bitmap))


def build_response(
    records: list[Record],
    id: int = 0,
    questions: list[Question] | None = None,
    flush: int = TOP_BIT,
    additional: list[Record] | None = None,
) -> bytes:
    """A response; the questions are repeated for legacy queriers only (RFC 6762 §6, §6.7)."""
    questions, additional = questions or [], additional or []
    parts = [_HEADER.pack(id, FLAGS_RESPONSE, len(questions), len(records), 0, len(additional))]
    for question in questions:
        parts += question.name, _QUESTION.pack(question.type, question.cls)
    for record in records + additional:
        parts += record.name, _RECORD.pack(record.type, record.cls | flush, record.ttl, len(record.rdata)), record.rdata
    return b"".join(parts)


def parse(data: bytes) -> Packet | None:
    """Everything in the message that can be read; None if it is not a message of multicast DNS at all."""
    if len(data) < _HEADER.size:
        return None
    id, flags, *counts = _HEADER.unpack_from(data)
    if flags & _OPCODE_RCODE:
        return None
    packet = Packet(id, bool(flags & _QR), [], [])
    asked = min(counts[0], MAX_ENTRIES)
    try:
        offset = _read_questions(data, asked, packet.questions)
        if asked == counts[0]:
            _read_records(data, offset, min(sum(counts[1:]), MAX_ENTRIES), packet.records)
    except (IndexError, struct.error):
        pass  # Cut off, or a label of an unknown kind: nobody can tell where the next entry begins.
    return packet


def _read_questions(data: bytes, count: int, questions: list[Question]) -> int:
    offset = _HEADER.size
    for _ in range(count):
        name, offset = _read_name(data, offset)
        type, cls = _QUESTION.unpack_from(data, offset)
        offset += _QUESTION.size
        if name is not None:
            questions.append(Question(name, type, cls & ~TOP_BIT, bool(cls & TOP_BIT)))
    return offset


def _read_records(data: bytes, offset: int, count: int, records: list[Record]) -> None:
    for _ in range(count):
        name, offset = _read_name(data, offset)
        type, cls, ttl, length = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size
        rdata = data[offset : offset + length]
        offset += length
        if len(rdata) < length:
            raise IndexError("the record is cut off")
        if name is not None:
            records.append(Record(name, type, cls & ~TOP_BIT, ttl, rdata))


def _read_name(data: bytes, offset: int) -> tuple[bytes | None, int]:
    """The name at ``offset``, None if it is broken, and where the next field begins."""
    end = _skip_name(data, offset)
    return _expand_name(data, offset), end


def _skip_name(data: bytes, offset: int) -> int:
    while (length := data[offset]) != 0:
        if length >= _POINTER:
            return offset + 2
        if length > _MAX_LABEL:
            raise IndexError("a label of an unknown kind")
        offset += 1 + length
    return offset + 1


def _expand_name(data: bytes, offset: int) -> bytes | None:
    name = bytearray()
    jumps = 0
    limit = offset
    try:
        while (length := data[offset]) != 0:
            if length >= _POINTER:
                offset = (length - _POINTER) << 8 | data[offset + 1]
                jumps += 1
                # RFC 1035 §4.1.4: a pointer points to a prior occurrence; so this ends.
                if offset >= limit or jumps > _MAX_JUMPS:
                    return None
                limit = offset
            elif length > _MAX_LABEL or len(name) + length + 2 > _MAX_NAME:
                return None
            else:
                name += data[offset : offset + 1 + length]
                offset += 1 + length
    except IndexError:
        return None
    return bytes(name).lower() + b"\0"
