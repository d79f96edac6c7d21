"""STUN messages made byte by byte, without the codec, and those of the RFCs."""

from __future__ import annotations

import hashlib
import hmac
from zlib import crc32

import pytest

from aioice.core.message import COOKIE, parse_message

TRANSACTION = bytes(range(12))
KEY = b"localpasswordlocalpass"
IPV4 = ("192.0.2.1", 32853)
IPV6 = ("2001:db8:1234:5678:11:2233:4455:6677", 32853)

# RFC 5769 §2.1 to §2.4.
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RESPONSE4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RESPONSE6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
LONG_TERM_REQUEST = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e"
    "00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
# RFC 8489 appendix B.1, as it stands there, and as erratum 6268 corrects it: the length there counts the header, and
# the algorithm that the key was made with is missing.
_B1_START = (
    "2112a44278ad3433c6ad72c029da412e"
    "001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"
    "001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39465354767936347341000000"
    "0014000b6578616d706c652e6f726700"
)
PRINTED_SHA256_REQUEST = bytes.fromhex(
    "0001009c" + _B1_START + "001c0020e4686c8f0edeb59013e07090010a93efccbccc544c0a45d9f830aa6d6f735a01"
)
SHA256_REQUEST = bytes.fromhex(
    "00010090" + _B1_START + "001d000400020000001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65"
)
USER = "マトリックス"
#: After OpaqueString, and after SASLprep, the password is this.
USER_KEY = hashlib.md5(f"{USER}:example.org:TheMatrIX".encode()).digest()
USER_KEY_SHA256 = hashlib.sha256(f"{USER}:example.org:TheMatrIX".encode()).digest()


def attribute(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    return number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + padding * (-len(value) % 4)


def message(body: bytes = b"", kind: int = 0x0001, transaction_id: bytes = TRANSACTION) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + COOKIE.to_bytes(4, "big") + transaction_id + body


def sign(data: bytes, key: bytes = KEY) -> bytes:
    """MESSAGE-INTEGRITY by the book, behind a message."""
    size = (len(data) - 20 + 24).to_bytes(2, "big")
    digest = hmac.new(key, data[:2] + size + data[4:], "sha1").digest()
    return append(data, attribute(0x0008, digest))


def sign_sha256(data: bytes, size: int = 32, key: bytes = KEY) -> bytes:
    body_size = (len(data) - 20 + 4 + size).to_bytes(2, "big")
    digest = hmac.new(key, data[:2] + body_size + data[4:], "sha256").digest()
    return append(data, attribute(0x001C, digest[:size]))


def fingerprint(data: bytes) -> bytes:
    sized = data[:2] + (len(data) - 20 + 8).to_bytes(2, "big") + data[4:]
    return append(data, attribute(0x8028, (crc32(sized) ^ 0x5354554E).to_bytes(4, "big")))


def unfingerprinted(data: bytes) -> bytes:
    return data[:2] + (len(data) - 28).to_bytes(2, "big") + data[4:-8]


def append(data: bytes, more: bytes) -> bytes:
    return data[:2] + (len(data) - 20 + len(more)).to_bytes(2, "big") + data[4:] + more


def refused(data: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        parse_message(data)
    return str(caught.value)
