"""Candidates: their SDP line, foundation and priority, and which of them can be paired (RFC 8445, 8839, 6544, 8421)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .address import IPV6, canonical_host, parse_host

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The longest line that is read; what browsers send has less than 300 characters.
MAX_LINE = 2048

#: RFC 8445 §5.1.2.2.
_TYPE_PREFERENCES = {"host": 126, "prflx": 110, "srflx": 100, "relay": 0}

#: RFC 8445 §5.1.2.1: the local preference is a 16-bit number.
_MAX_LOCAL_PREFERENCE = 65535

#: RFC 8421 §4: "a small sequence of IPv6 candidates"; its example has four.
_MAX_HEAD_START = 4

#: RFC 8839 §5.1 (component, port) and RFC 8445 §5.1.2 (priority).
_RANGES = {"component": (1, 256), "priority": (1, 2**31 - 1), "port": (0, 65535)}

#: Extension values that have to be numbers; outside of these ranges they are kept as text and mean nothing.
_EXTENSION_RANGES = {"rport": (0, 65535), "generation": (0, 2**32 - 1)}

#: RFC 6544 §6.2: whom a candidate with this tcptype can be paired with.
_TCP_PARTNERS = {"active": "passive", "passive": "active", "so": "so"}


class Candidate:
    """An ICE candidate.

    All attributes may be changed. The constructor takes everything; :meth:`validate` tells what cannot be used.
    """

    # The dictionary stays empty in the library; it is for programs that hang attributes of theirs on candidates.
    __slots__ = (
        "foundation",
        "component",
        "transport",
        "priority",
        "host",
        "port",
        "type",
        "related_address",
        "related_port",
        "tcptype",
        "generation",
        "extensions",
        "_address",
        "_received",
        "__dict__",
        "__weakref__",
    )

    def __init__(
        self,
        foundation: str,
        component: int,
        transport: str,
        priority: int,
        host: str,
        port: int,
        type: str,
        related_address: str | None = None,
        related_port: int | None = None,
        tcptype: str | None = None,
        generation: int | None = None,
        *,
        extensions: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.foundation = foundation
        self.component = component
        self.transport = transport
        self.priority = priority
        self.host = host
        self.port = port
        self.type = type
        self.related_address = related_address
        self.related_port = related_port
        self.tcptype = tcptype
        self.generation = generation
        #: The name and value of every further extension attribute, in order. A name without a value, which can only be
        #: the last one, has the value "".
        self.extensions = extensions
        self._address: str | None = None
        # The line that this candidate was read from and the fields that it stood for.
        self._received: tuple[str, tuple[Any, ...]] | None = None

    @classmethod
    def from_sdp(cls, sdp: str) -> Candidate:
        """Read a candidate line, with or without ``a=``, ``candidate:`` and a line end.

        Raises :class:`ValueError` with the reason when it cannot be used.
        """
        if is_end_of_candidates(sdp):
            raise ValueError("this is the end-of-candidates mark, not a candidate")
        foundation, fields, extras, line = _split_line(sdp)
        known, extensions = _read_extensions(extras)
        candidate = cls(
            foundation=foundation,
            component=_number("component", fields[0]),
            transport=fields[1],
            priority=_number("priority", fields[2]),
            host=fields[3],
            port=_number("port", fields[4]),
            type=fields[6],
            related_address=known.get("raddr"),
            related_port=known.get("rport"),
            tcptype=known.get("tcptype"),
            generation=known.get("generation"),
            extensions=extensions,
        )
        candidate._received = (line, candidate._fields())
        return candidate

    def to_sdp(self) -> str:
        """The candidate line, without ``candidate:``; one that was read and not changed comes back as it was."""
        fields = self._fields()
        if self._received is not None and self._received[1] == fields:
            return self._received[0]
        words = [*map(str, fields[:6]), "typ", self.type]
        for name, value in zip(("raddr", "rport", "tcptype", "generation"), fields[7:11], strict=True):
            if value is not None:
                words += name, str(value)
        for name, value in self.extensions:
            words += (name, value) if value else (name,)
        return " ".join(words)

    def _fields(self) -> tuple[Any, ...]:
        return (
            self.foundation,
            self.component,
            self.transport,
            self.priority,
            self.host,
            self.port,
            self.type,
            self.related_address,
            self.related_port,
            self.tcptype,
            self.generation,
            self.extensions,
        )

    def copy(self) -> Candidate:
        """Another candidate with the same values, without what a program has hung on this one."""
        other = Candidate.__new__(Candidate)
        for name in Candidate.__slots__[:-2]:
            setattr(other, name, getattr(self, name))
        return other

    @property
    def address(self) -> str:
        """Where the candidate is reached: the canonical text of its host, or what its ``.local`` name stands for.

        Before such a name is resolved, this is the name.
        """
        if self._address is not None:
            return self._address
        parsed = _parse_address(self.host)
        return self.host if parsed is None else parsed[0]

    @address.setter
    def address(self, value: str) -> None:
        parsed = _parse_address(value)
        if parsed is None:
            raise ValueError(f"{_quoted(value)} is not an IP address")
        self._address = parsed[0]

    @property
    def ufrag(self) -> str | None:
        """The user name fragment of the generation that the candidate belongs to (RFC 8838 §9), if it tells."""
        for name, value in self.extensions:
            if name == "ufrag":
                return value
        return None

    def can_pair_with(self, other: Candidate) -> bool:
        """Whether the two can be one pair (RFC 8445 §6.1.2.2, RFC 6544 §6.2).

        Names that are not resolved and addresses with a zone (RFC 4007 §6: it means nothing to another host) have no
        family to agree in. Link-local IPv6 addresses reach only their like.
        """
        transport = str(self.transport).lower()
        if self.component != other.component or transport != str(other.transport).lower():
            return False
        if transport == "tcp":
            partner = _TCP_PARTNERS.get(str(self.tcptype).lower())
            if partner != str(other.tcptype).lower():
                return False
        elif transport != "udp":
            return False
        mine, theirs = _parse_address(self.address), _parse_address(other.address)
        if mine is None or theirs is None or mine[1] != theirs[1]:
            return False
        return mine[1] != IPV6 or _is_link_local(mine[0]) == _is_link_local(theirs[0])

    def validate(self) -> None:
        """Raise :class:`ValueError` when a field has a value that cannot be used or printed as a candidate line."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"candidate {name} {_quoted(value)} is not a number from {low} to {high}")
        for name in ("foundation", "transport", "host", "type"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.isprintable() or " " in value:
                raise ValueError(f"candidate {name} {_quoted(value)} is not a word")
            if not value and name != "foundation":
                raise ValueError(f"candidate {name} is empty")

    def __repr__(self) -> str:
        text = self.to_sdp()
        if len(text) > 400:
            text = text[:400] + "..."
        return f"{type(self).__name__}({text.encode('unicode_escape').decode()})"


def is_end_of_candidates(text: str | None) -> bool:
    """Whether this is how a peer says that there are no more candidates (RFC 8838 §13).

    That is ``None`` or, from browsers, the empty string or a bare ``candidate:``; in SDP also ``end-of-candidates``.
    """
    return text is None or _strip_prefixes(text.strip()).strip() in ("", "end-of-candidates")


@lru_cache(256)
def candidate_foundation(candidate_type: str, candidate_transport: str, base_address: str, *, server: str = "") -> str:
    """The same text for candidates of one type, transport, base and STUN or TURN server (RFC 8445 §5.1.1.3)."""
    import hashlib

    key = f"{candidate_type}|{candidate_transport.lower()}|{base_address}|{server}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def candidate_priority(candidate_component: int, candidate_type: str, local_pref: int = _MAX_LOCAL_PREFERENCE) -> int:
    """RFC 8445 §5.1.2.1."""
    return (_TYPE_PREFERENCES.get(candidate_type, 0) << 24) + (local_pref << 8) + 256 - candidate_component


def pair_priority(controlling_priority: int, controlled_priority: int) -> int:
    """The priority of a pair, from those of the controlling and the controlled side's candidate (RFC 8445 §6.1.2.3)."""
    low, high = sorted((controlling_priority, controlled_priority))
    return (low << 32) + 2 * high + (controlling_priority > controlled_priority)


def local_preferences(hosts: Sequence[str]) -> list[int]:
    """The local preference of each of the addresses of a host, all different (RFC 8445 §5.1.2.1).

    In the order of preference, an IPv4 address follows after each few of IPv6 (RFC 8421 §4), and the addresses of one
    family stay in the order in which they are given.
    """
    if len(hosts) == 1:
        return [_MAX_LOCAL_PREFERENCE]
    ipv6 = [index for index, host in enumerate(hosts) if ":" in host]
    ipv4 = [index for index, host in enumerate(hosts) if ":" not in host]
    # RFC 8421 §4: Hi = (N_4 + N_6) / N_4; bounded, for a single IPv4 address would always be the last.
    head_start = min(len(hosts) // max(1, len(ipv4)), _MAX_HEAD_START)
    order: list[int] = []
    while ipv6 or ipv4:
        order += ipv6[:head_start] + ipv4[:1]
        del ipv6[:head_start], ipv4[:1]
    preferences = [0] * len(hosts)
    for rank, index in enumerate(order):
        preferences[index] = _MAX_LOCAL_PREFERENCE - rank
    return preferences


def is_mdns_hostname(name: str) -> bool:
    """Whether this is one label under ``.local`` (RFC 6762 §3), in upper or lower case, maybe with a final dot."""
    label, _, domain = name.removesuffix(".").partition(".")
    if not name.isascii() or domain.lower() != "local":
        return False
    return 0 < len(label) <= 63 and all(character.isalnum() or character == "-" for character in label)


# ------------------------------------------------------------------------------------------------------ reading a line


def _strip_prefixes(text: str) -> str:
    return text.removeprefix("a=").removeprefix("candidate:")


def _split_line(sdp: str) -> tuple[str, list[str], list[str], str]:
    """Foundation, the seven words from the component to the type, the words after it, and the line to print again."""
    text = sdp.rstrip("\r\n")
    if text.lstrip().startswith(("a=", "candidate:")):
        text = _strip_prefixes(text.lstrip())
    if len(text) > MAX_LINE:
        raise ValueError(f"candidate line of {len(text)} characters is too long")
    text = text.replace("\t", " ")
    if not text.isprintable():
        raise ValueError(f"candidate line {_quoted(text)} has control characters")
    words = text.split()
    line = " ".join(words)
    # Some servers leave the foundation empty, against RFC 8839 §5.1: "typ" then stands one place earlier.
    if len(words) >= 7 and words[5].lower() == "typ":
        return "", words[:7], words[7:], " " + line if text.startswith(" ") else line
    if len(words) < 8:
        raise ValueError(f"candidate line {_quoted(text)} has too few fields")
    if words[6].lower() != "typ":
        raise ValueError(f"candidate line {_quoted(text)} has no 'typ' in its place")
    return words[0], words[1:8], words[8:], line


def _read_extensions(words: list[str]) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
    """The values that have attributes of their own (the first of each), and everything else."""
    known: dict[str, Any] = {}
    others: list[tuple[str, str]] = []
    for name, value in zip(words[::2], [*words[1::2], ""], strict=False):
        if name in known or not value:
            others.append((name, value))
        elif name in ("raddr", "tcptype"):
            known[name] = value
        elif name in _EXTENSION_RANGES and (number := _parse_number(value, *_EXTENSION_RANGES[name])) is not None:
            known[name] = number
        else:
            others.append((name, value))
    return known, tuple(others)


def _number(name: str, text: str) -> int:
    low, high = _RANGES[name]
    number = _parse_number(text, low, high)
    if number is None:
        raise ValueError(f"candidate {name} {_quoted(text)} is not a number from {low} to {high}")
    return number


def _parse_number(text: str, low: int, high: int) -> int | None:
    # int() alone would also take signs, underscores and the digits of other scripts.
    if len(text) > 20 or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if low <= number <= high else None


def _is_link_local(ipv6: str) -> bool:
    return parse_host(ipv6)[1] >> 118 == 0xFE80 >> 6


def _parse_address(host: object) -> tuple[str, int] | None:
    return _parse_address_text(host) if isinstance(host, str) and "%" not in host else None


def _parse_address_text(host: str) -> tuple[str, int] | None:
    try:
        return canonical_host(host), parse_host(host)[0]
    except ValueError:
        return None


def _quoted(value: object) -> str:
    """What a peer wrote, for people: escaped and not too long."""
    text = ascii(value)
    return text if len(text) <= 100 else text[:100] + "..."
