"""Other names for what must not be written down: credentials, application data and, if asked for, addresses.

A message that somebody signed with credentials that we know is signed anew with their pseudonyms; the integrity of any
other is made wrong. So whoever reads the trace finds no secret, and an agent that is given the pseudonyms judges every
message as the first one did. Nothing changes its length.
"""

from __future__ import annotations

import re
from binascii import crc32
from hmac import compare_digest, digest
from typing import TYPE_CHECKING

from .address import IPV4, canonical_host, ipv4_text, ipv6_text, parse_host
from .attributes import BY_TYPE, encode_xor_address
from .credentials import MD5, SHA256, make_integrity_key, make_userhash
from .demux import CHANNEL_HEADER_SIZE, STUN_HEADER_SIZE, is_channel_data, is_stun
from .message import FINGERPRINT_XOR

if TYPE_CHECKING:
    from .candidate import Candidate
    from .machine import Address

#: Names (and addresses) that are told apart; the rest, which only a flood of strangers makes, share one pseudonym.
MAX_NAMES = 4096
#: Keys that a signature is held against; those used last are tried first.
MAX_KEYS = 32
#: Messages in messages: a relayed check is one. What is deeper is data.
MAX_DEPTH = 2
#: A secret of at least this length is also looked for in texts.
LEAST_IN_TEXT = 8

_USERNAME = 0x0006
_INTEGRITY = 0x0008
_DATA = 0x0013
_REALM = 0x0014
_INTEGRITY_SHA256 = 0x001C
_USERHASH = 0x001E
_FINGERPRINT = 0x8028
#: ACCESS-TOKEN (RFC 7635) and MOBILITY-TICKET (RFC 8016): whoever has them may use them.
_TOKENS = (0x001B, 0x8030)
#: ERROR-CODE, ADDRESS-ERROR-CODE, ALTERNATE-DOMAIN, SOFTWARE.
_TEXTS = (0x0009, 0x8001, 0x8003, 0x8022)
_ADDRESSES = {
    number for number, attribute in BY_TYPE.items() if attribute.encode in (encode_xor_address, BY_TYPE[0x0001].encode)
}

_NUMBERED = re.compile(r"f\d{1,4}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_IPV4_TEXT = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
_IPV6_TEXT = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:]+(?:\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])"
)

#: The kinds of IPv4 addresses that stay apart, each with the network that stands for it: prefix, its length, theirs.
_IPV4_KINDS = tuple(
    (parse_host(prefix)[1] >> (32 - bits), 32 - bits, parse_host(stands_for)[1])
    for prefix, bits, stands_for in (
        ("10.0.0.0", 8, "10.0.0.0"),
        ("172.16.0.0", 12, "172.16.0.0"),
        ("192.168.0.0", 16, "192.168.0.0"),
        ("100.64.0.0", 10, "100.64.0.0"),
        ("169.254.0.0", 16, "169.254.0.0"),
    )
)
#: RFC 2544: 198.18.0.0/15 stands for public addresses, RFC 3849: 2001:db8::/32 for those of IPv6.
_IPV4_PUBLIC = parse_host("198.18.0.0")[1]
_IPV6_PUBLIC = parse_host("2001:db8::")[1]
_IPV6_UNIQUE_LOCAL = parse_host("fd00::")[1]
_IPV6_LINK_LOCAL = parse_host("fe80::")[1]


class Names:
    """Leaves everything as it is: what a trace is read with."""

    def secret(self, text: str) -> str:
        return text

    def learn(self, key: str) -> None:
        """A password of ICE is in use."""

    def learn_user(self, username: str, password: str) -> None:
        """Long-term credentials are in use."""

    def text(self, text: str) -> str:
        return text

    def host(self, host: str) -> str:
        return host

    def network(self, network: str) -> str:
        """A network that addresses are held against, as ``10.0.0.0/8``."""
        return network

    def packet(self, data: bytes) -> bytes:
        return data

    def payload(self, data: bytes) -> bytes:
        return data

    def foundation(self, foundation: str) -> str:
        return foundation

    def address(self, address: Address) -> Address:
        return (self.host(address[0]), address[1])

    def candidate(self, candidate: Candidate) -> Candidate:
        return candidate


class Foundations(Names):
    """What a trace with pseudonyms of addresses is read with, as it was written.

    Foundations are made from addresses and would tell them: they are numbered in the order in which they appear. When
    ``reading``, those that have their number come from the trace and keep it.
    """

    def __init__(self, *, reading: bool = True) -> None:
        self._reading = reading
        self._known: dict[str, str] = {}
        self._count = 0

    def text(self, text: str) -> str:
        text = _IPV4_TEXT.sub("[address]", text)
        return _IPV6_TEXT.sub("[address]", text) if ":" in text else text

    def foundation(self, foundation: str) -> str:
        if self._reading and _NUMBERED.fullmatch(foundation):
            self._count = max(self._count, int(foundation[1:]))
            return foundation
        known = self._known.get(foundation)
        if known is None:
            known = f"f{min(self._count + 1, MAX_NAMES)}"
            if self._count < MAX_NAMES:
                self._count += 1
                self._known[foundation] = known
        return known

    def candidate(self, candidate: Candidate) -> Candidate:
        other = candidate.copy()
        other.foundation = self.foundation(candidate.foundation)
        return other


class Pseudonyms(Names):
    """The pseudonyms of one trace; with ``addresses`` also those of hosts and their names."""

    def __init__(self, *, addresses: bool = False) -> None:
        self._names: dict[bytes, bytes] = {}
        self._taken: set[bytes] = set()
        self._in_text: dict[str, str] = {}
        #: Real key and pseudonym's, the last used first.
        self._keys: list[tuple[bytes, bytes]] = []
        self._users: list[tuple[str, str]] = []
        self._foundations = Foundations(reading=False) if addresses else None
        self._hosts: dict[str, str] = {}
        #: Networks whose hosts stay in them: family, prefix, bits behind it.
        self._networks: list[tuple[int, int, int]] = []

    # --------------------------------------------------------------------------------------------------------- secrets

    def secret(self, text: str) -> str:
        name = self._name(text.encode()).decode()
        if len(text) >= LEAST_IN_TEXT and len(self._in_text) < MAX_KEYS:
            self._in_text[text] = name
        return name

    def learn(self, key: str) -> None:
        self._remember(key.encode(), self.secret(key).encode())

    def learn_user(self, username: str, password: str) -> None:
        self.secret(username)
        self.secret(password)
        if (username, password) not in self._users:
            self._users.insert(0, (username, password))
            del self._users[MAX_KEYS:]

    def _remember(self, key: bytes, pseudonym: bytes) -> None:
        pair = (key, pseudonym)
        if pair in self._keys:
            self._keys.remove(pair)
        self._keys.insert(0, pair)
        del self._keys[MAX_KEYS:]

    def _name(self, name: bytes) -> bytes:
        """Equal names have equal pseudonyms, different ones different, as long as there are not too many."""
        known = self._names.get(name)
        if known is not None or not name:
            return known or b""
        size = len(name)
        if len(self._names) >= MAX_NAMES:
            return b"-" * size
        number = len(self._names)
        pseudonym = b"-" * size
        for attempt in range(number, number + MAX_NAMES):
            digits = _in_digits(attempt)
            if len(digits) > size:
                break
            pseudonym = digits.rjust(size, "0").encode()
            if pseudonym not in self._taken and pseudonym != name:
                break
        self._taken.add(pseudonym)
        self._names[name] = pseudonym
        return pseudonym

    def _username(self, name: bytes) -> bytes:
        """USERNAME of a check names both agents (RFC 8445 §7.2.2); that of TURN may have a colon of its own."""
        if any(name == username.encode() for username, _ in self._users):
            return self._name(name)
        first, colon, second = name.partition(b":")
        return self._name(first) + colon + self._name(second)

    # ------------------------------------------------------------------------------------------------ texts, addresses

    def text(self, text: str) -> str:
        for secret, name in self._in_text.items():
            if secret in text:
                text = text.replace(secret, name)
        return text if self._foundations is None else self._foundations.text(text)

    def host(self, host: str) -> str:
        if self._foundations is None:
            return host
        try:
            spelled = canonical_host(host)
        except ValueError:
            spelled = host
        known = self._hosts.get(spelled)
        if known is None:
            known = self._other_host(spelled, len(self._hosts) + 1)
            if len(self._hosts) < 16 * MAX_NAMES:
                self._hosts[spelled] = known
        return known

    def network(self, network: str) -> str:
        """It stays as it is, and the addresses in it stay in it: else nobody could tell which are."""
        host, _, bits = network.partition("/")
        try:
            family, value = parse_host(canonical_host(host))
            behind = (32 if family == IPV4 else 128) - int(bits)
            self._networks.append((family, value >> behind, behind))
        except ValueError:
            return self.text(network)
        return network

    def _other_host(self, host: str, number: int) -> str:
        try:
            family, value = parse_host(host)
        except ValueError:
            is_text = re.fullmatch(r"[\d.:]*", host) or host.lower().rstrip(".").endswith(".local")
            return host if is_text else f"host-{number}.invalid"
        for kind, prefix, behind in self._networks:
            if kind == family and value >> behind == prefix:
                other = (prefix << behind) + number % (1 << behind)
                return ipv4_text(other) if family == IPV4 else ipv6_text(other)
        if family == IPV4:
            return _other_ipv4(host, value, number)
        return host if value in (0, 1) else ipv6_text(_ipv6_network(value) + number)

    def foundation(self, foundation: str) -> str:
        return foundation if self._foundations is None else self._foundations.foundation(foundation)

    def candidate(self, candidate: Candidate) -> Candidate:
        other = candidate.copy()
        other.foundation = self.foundation(candidate.foundation)
        other.extensions = tuple(
            (name, self._name(value.encode()).decode() if name == "ufrag" else self.text(value))
            for name, value in candidate.extensions
        )
        if self._foundations is not None:
            other.host = self.host(candidate.host)
            if candidate._address is not None:
                other.address = self.host(candidate.address)
            if candidate.related_address is not None:
                other.related_address = self.host(candidate.related_address)
        return other

    # --------------------------------------------------------------------------------------------------------- packets

    def packet(self, data: bytes) -> bytes:
        """A datagram or frame as a machine gets or sends it."""
        if is_stun(data):
            return self._stun(data, 0)
        if is_channel_data(data) and len(data) >= CHANNEL_HEADER_SIZE:
            end = min(len(data), CHANNEL_HEADER_SIZE + int.from_bytes(data[2:4], "big"))
            payload = self._payload(data[CHANNEL_HEADER_SIZE:end], 0)
            return data[:CHANNEL_HEADER_SIZE] + payload + bytes(len(data) - end)
        return bytes(len(data))

    def payload(self, data: bytes) -> bytes:
        """What is sent through a relay."""
        return self._payload(data, 0)

    def _payload(self, data: bytes, depth: int) -> bytes:
        return self._stun(data, depth + 1) if is_stun(data) and depth < MAX_DEPTH else bytes(len(data))

    def _stun(self, data: bytes, depth: int) -> bytes:
        """Attribute by attribute, also where the message is malformed further on."""
        result = bytearray(data)
        realm = b""
        position = STUN_HEADER_SIZE
        while position + 4 <= len(data):
            number, length = (
                int.from_bytes(data[position : position + 2]),
                int.from_bytes(data[position + 2 : position + 4]),
            )
            start = position + 4
            end = start + length
            if end > len(data):
                # Nobody reads what is cut off, and nobody shall.
                result[start:] = bytes(len(data) - start)
                break
            value = data[start:end]
            if number == _REALM:
                realm = realm or value
                value = self._phrase(value)
            elif number in (_INTEGRITY, _INTEGRITY_SHA256):
                value = self._integrity(number, data, bytes(result), position, value, realm)
            elif number == _FINGERPRINT and length == 4:
                value = _fingerprint(data, bytes(result), position, value)
            else:
                value = self._value(number, data, start, value, depth)
            result[start:end] = value
            position = start + (length + 3 & -4)
            # Padding may be anything.
            result[end : min(position, len(data))] = bytes(min(position, len(data)) - end)
        return bytes(result)

    def _value(self, number: int, data: bytes, start: int, value: bytes, depth: int) -> bytes:
        if number == _USERNAME:
            return self._username(value)
        if number == _DATA:
            return self._payload(value, depth)
        if number in _TEXTS:
            return self._phrase(value)
        if number in _TOKENS:
            return bytes(len(value))
        if number == _USERHASH:
            return self._userhash(data, value)
        if number in _ADDRESSES and self._foundations is not None:
            attribute = BY_TYPE[number]
            if not attribute.valid(data, start, len(value)):
                return bytes(len(value))
            host, port = attribute.decode(data, start, len(value))
            return attribute.encode((self.host(host), port), data[8:20])
        return value

    def _phrase(self, value: bytes) -> bytes:
        return value if self._foundations is None else _without_addresses(value)

    def _userhash(self, data: bytes, value: bytes) -> bytes:
        realm = _find(data, _REALM).decode(errors="replace")
        for username, _ in self._users:
            if make_userhash(username, realm) == value:
                return make_userhash(self.secret(username), self._phrase(realm.encode()).decode())
        return bytes(len(value))

    # ------------------------------------------------------------------------------------------------------- integrity

    def _integrity(self, number: int, data: bytes, result: bytes, position: int, value: bytes, realm: bytes) -> bytes:
        """``data`` is the message as it was, ``result`` has what stands before the attribute already changed."""
        algorithm = "sha1" if number == _INTEGRITY else "sha256"
        size = (position + 4 + len(value) - STUN_HEADER_SIZE).to_bytes(2)
        text = data[:2] + size + data[4:position]
        changed = result[:2] + size + result[4:position]
        key = self._signed_with(text, value, algorithm, realm)
        if key is None:
            # With the bits of any digest turned over it can be nobody's: the pseudonyms of all whom we know sign it.
            wrong = digest(b"nobody", changed, algorithm)
            return bytes(byte ^ 0xFF for byte in wrong).ljust(len(value), b"\0")[: len(value)]
        return digest(key, changed, algorithm)[: len(value)]

    def _signed_with(self, text: bytes, value: bytes, algorithm: str, realm: bytes) -> bytes | None:
        """The pseudonym of the key that made this signature."""
        if not value:
            return None
        for pair in self._keys:
            if compare_digest(digest(pair[0], text, algorithm)[: len(value)], value):
                self._remember(*pair)
                return pair[1]
        if not realm:
            return None
        name = realm.decode(errors="replace")
        other = self._phrase(realm).decode(errors="replace")
        for username, password in self._users:
            for kind in (MD5, SHA256):
                key = make_integrity_key(username, name, password, kind)
                if compare_digest(digest(key, text, algorithm)[: len(value)], value):
                    pseudonym = make_integrity_key(self.secret(username), other, self.secret(password), kind)
                    self._remember(key, pseudonym)
                    return pseudonym
        return None


def _fingerprint(data: bytes, result: bytes, position: int, value: bytes) -> bytes:
    right = crc32(result[:position]) ^ FINGERPRINT_XOR
    if crc32(data[:position]) ^ FINGERPRINT_XOR != int.from_bytes(value):
        right ^= 0xFFFFFFFF
    return right.to_bytes(4)


def _find(data: bytes, wanted: int) -> bytes:
    position = STUN_HEADER_SIZE
    while position + 4 <= len(data):
        number, length = (
            int.from_bytes(data[position : position + 2]),
            int.from_bytes(data[position + 2 : position + 4]),
        )
        if number == wanted:
            return data[position + 4 : position + 4 + length]
        position += 4 + (length + 3 & -4)
    return b""


def _in_digits(number: int) -> str:
    text = ""
    while True:
        number, rest = divmod(number, len(_DIGITS))
        text = _DIGITS[rest] + text
        if not number:
            return text


def _other_ipv4(host: str, value: int, number: int) -> str:
    if value in (0, 0xFFFFFFFF) or value >> 24 == 127:
        return host
    for prefix, shift, stands_for in _IPV4_KINDS:
        if value >> shift == prefix:
            return ipv4_text(stands_for + number % (1 << shift))
    return ipv4_text(_IPV4_PUBLIC + number % (1 << 17))


def _ipv6_network(value: int) -> int:
    if value >> 118 == _IPV6_LINK_LOCAL >> 118:
        return _IPV6_LINK_LOCAL
    return _IPV6_UNIQUE_LOCAL if value >> 121 == _IPV6_UNIQUE_LOCAL >> 121 else _IPV6_PUBLIC


def _without_addresses(value: bytes) -> bytes:
    """The text with addresses of the same length that mean nothing."""
    text = value.decode("latin-1")
    for pattern in (_IPV4_TEXT, _IPV6_TEXT):
        text = pattern.sub(lambda match: re.sub("[0-9A-Fa-f]", "1", match[0]), text)
    return text.encode("latin-1")
