"""Long-term credentials (RFC 8489 §9.2): what a client adds to its requests, and what it does about 401 and 438."""

from __future__ import annotations

import hashlib
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any, NamedTuple

from .message import Class

if TYPE_CHECKING:
    from .message import Message

#: A server may call nonces stale as often as it likes, but a request that got nowhere in so many attempts is given up.
MAX_ATTEMPTS = 10

#: RFC 8489 §9.2: what the nonces of servers with security features begin with, and how much base64 follows.
NONCE_COOKIE = b"obMatJos2"
_FEATURES_SIZE = 4
#: RFC 8489 §18.1 counts the bits from the left, the example in its appendix B.1 from the right: both are understood.
_PASSWORD_ALGORITHMS = 0x800001
_USERNAME_ANONYMITY = 0x400002

#: RFC 8489 §18.5.
MD5 = 1
SHA256 = 2


#: What the general categories of Unicode leave open: letters that the profile forbids (RFC 8264 §9.6, §9.9, §9.13), and
#: joiners, which it allows (§9.8).
_FORBIDDEN = (
    (0x034F, 0x034F),
    (0x0640, 0x0640),
    (0x07FA, 0x07FA),
    (0x1100, 0x11FF),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x302E, 0x302F),
    (0x3031, 0x3035),
    (0x303B, 0x303B),
    (0x3164, 0x3164),
    (0xA960, 0xA97C),
    (0xD7B0, 0xD7FB),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
_JOINERS = "\u200c\u200d"


def opaque_string(text: str) -> str:
    """A user name, password or realm as it is hashed and sent: the OpaqueString profile (RFC 8265 §4.2).

    Spaces of all kinds become ASCII's, and the text is composed (NFC). Raises :class:`ValueError` for characters that
    the profile forbids: controls, surrogates, what is not assigned, what cannot be seen. It does not look at the
    context of joiners, middle dots and digits (RFC 5892 appendix A), which changes no key.
    """
    if text.isascii() and text.isprintable():
        return text
    from unicodedata import category, normalize  # few need it

    text = normalize("NFC", "".join(" " if category(char) == "Zs" else char for char in text))
    for char in text:
        if category(char)[0] in "CZ" and char != " " and char not in _JOINERS:
            raise ValueError(f"the character {char!a} is not allowed in user names and passwords")
        if any(first <= ord(char) <= last for first, last in _FORBIDDEN):
            raise ValueError(f"the character {char!a} is not allowed in user names and passwords")
    return text


def _opaque_realm(realm: str) -> str:
    """The realm as it is hashed; one that cannot be prepared counts as the server has written it."""
    try:
        return opaque_string(realm.rstrip("\0"))
    except ValueError:
        return realm


def make_integrity_key(username: str, realm: str, password: str, algorithm: int = MD5) -> bytes:
    """The key of a user's long-term credentials, all three prepared (RFC 8489 §9.2.2 and §18.5.1).

    Raises :class:`ValueError` for MD5 where the system forbids it.
    """
    text = f"{username}:{realm}:{password}".encode()
    if algorithm == SHA256:
        return hashlib.sha256(text).digest()
    # The protocol prescribes MD5; most systems that forbid it as a protection still allow it so.
    return hashlib.md5(text, usedforsecurity=False).digest()


def md5_allowed() -> bool:
    try:
        hashlib.md5(usedforsecurity=False)
    except (ValueError, AttributeError):
        return False
    return True


def make_userhash(username: str, realm: str) -> bytes:
    """The name of a user that does not show it, both prepared (RFC 8489 §14.4)."""
    return hashlib.sha256(f"{username}:{realm}".encode()).digest()


def security_features(nonce: bytes) -> int:
    """The 24 feature bits in a nonce, 0 if it carries none (RFC 8489 §9.2)."""
    start = len(NONCE_COOKIE)
    if not nonce.startswith(NONCE_COOKIE):
        return 0
    try:
        return int.from_bytes(a2b_base64(nonce[start : start + _FEATURES_SIZE], strict_mode=True), "big")
    except ValueError:
        return 0


class Signature(NamedTuple):
    """What a request was signed with: its answer is held against that, whatever has been learnt meanwhile."""

    username: str
    password: str
    realm: str
    nonce: bytes
    key: bytes
    #: Sign, and expect, MESSAGE-INTEGRITY-SHA256 instead of MESSAGE-INTEGRITY.
    sha256: bool
    #: How many signed attempts of this request came before.
    attempt: int


class LongTermCredentials:
    """The user's name and password, and what the server wants with them."""

    __slots__ = ("username", "password", "fault", "_realm", "_nonce", "_algorithms", "_algorithm", "_key")

    def __init__(self, username: str | None, password: str | None) -> None:
        self.username: str | None = None
        self.password: str | None = None
        #: Why requests cannot be signed as the server wants it, for people; empty if nothing is in the way.
        self.fault = ""
        self._realm: str | None = None
        self._nonce = b""
        #: PASSWORD-ALGORITHMS as the server sent it, to be echoed, and our choice.
        self._algorithms: Any = None
        self._algorithm = MD5
        self._key: bytes | None = None
        if username is not None and password is not None:
            self.update(username, password)

    def update(self, username: str, password: str) -> None:
        """Other credentials from now on, for the realm that is known; ``fault`` tells if they cannot be used."""
        self._key = None
        try:
            self.username, self.password = opaque_string(username), opaque_string(password)
            self.fault = ""
        except ValueError as exc:
            self.username = self.password = None
            self.fault = str(exc)

    def sign(self, message: Message, after: Signature | None = None) -> Signature | None:
        """Add what the server has asked for; this must be the last step before the message leaves.

        ``after`` is the signature of the attempt that this one repeats. The first request of all goes unsigned
        (RFC 8489 §9.2.3.1): then, and without credentials, the result is None.
        """
        if self.username is None or self.password is None or self._realm is None:
            return None
        realm = _opaque_realm(self._realm)
        if self._key is None:
            self._key = make_integrity_key(self.username, realm, self.password, self._algorithm)
        attributes = message.attributes
        if security_features(self._nonce) & _USERNAME_ANONYMITY:
            attributes["USERHASH"] = make_userhash(self.username, realm)
        else:
            attributes["USERNAME"] = self.username
        attributes["REALM"] = self._realm
        attributes["NONCE"] = self._nonce
        sha256 = self._algorithms is not None
        if sha256:
            attributes["PASSWORD-ALGORITHMS"] = self._algorithms
            attributes["PASSWORD-ALGORITHM"] = (self._algorithm, b"")
            message.add_message_integrity_sha256(self._key)
        else:
            message.add_message_integrity(self._key)
        attempt = 0 if after is None else after.attempt + 1
        return Signature(self.username, self.password, self._realm, self._nonce, self._key, sha256, attempt)

    def challenge(self, response: Message, signature: Signature | None) -> bool:
        """Take in a 401 or 438 to a request that was signed with ``signature``; whether to repeat that request.

        Learns realm and nonce. Repeating makes sense unless the server has refused exactly what would be sent again,
        wants what we cannot do, or gets nowhere (RFC 8489 §9.2.5).
        """
        attributes = response.attributes
        nonce = attributes.get("NONCE")
        realm = attributes.get("REALM", self._realm)
        if nonce is None or realm is None:
            return False
        if not self._choose_algorithm(attributes.get("PASSWORD-ALGORITHMS"), nonce):
            return False
        if realm != self._realm:
            self._realm = realm
            self._key = None
        self._nonce = nonce
        if self.username is None:
            return False
        self.fault = ""
        if signature is None:
            return True
        if signature.attempt + 1 >= MAX_ATTEMPTS:
            return False
        return response.error_code == 438 or self.refused_another(signature)

    def verify(self, response: Message, signature: Signature | None) -> bool:
        """Whether a response may be believed: it must carry an integrity with the key of its request.

        A 401 or 438 may come unsigned (RFC 8489 §9.2.5), and everything may in answer to an unsigned request. No other
        answer may carry a nonce that tells of algorithms which are not there: somebody has removed them.
        """
        if response.message_class == Class.ERROR and response.error_code in (401, 438):
            return True
        attributes = response.attributes
        if "PASSWORD-ALGORITHMS" not in attributes and _tells_algorithms(attributes.get("NONCE", b"")):
            return False
        if signature is None:
            return True
        if signature.sha256:
            return response.check_message_integrity_sha256(signature.key)
        return response.check_message_integrity(signature.key)

    def refused_another(self, signature: Signature) -> bool:
        """The user, password, realm or algorithm has changed since that signature was made."""
        return (self.username, self.password, self._realm, self._algorithms is not None) != (
            signature.username,
            signature.password,
            signature.realm,
            signature.sha256,
        )

    def _choose_algorithm(self, offered: Any, nonce: bytes) -> bool:
        """Take SHA-256 where it is offered (RFC 8656 §6), else MD5; False if there is neither or if they were removed
        (RFC 8489 §9.2.5).

        Once there were any, there is no way back to the time before them.
        """
        if offered is None and _tells_algorithms(nonce):
            self.fault = "somebody has removed the server's password algorithms from its answer (RFC 8489 §9.2.1)"
            return False
        if offered is None and self._algorithms is not None:
            return True
        usable = (SHA256, MD5) if md5_allowed() else (SHA256,)
        known = [number for number, _ in (offered or [(MD5, b"")]) if number in usable]
        if not known:
            self.fault = "the server has no password algorithm that can be used here: " + (
                "MD5 and SHA-256 are not among them" if len(usable) == 2 else "MD5 is forbidden on this system"
            )
            return False
        chosen = SHA256 if SHA256 in known else MD5
        if chosen != self._algorithm:
            self._algorithm = chosen
            self._key = None
        if offered is not None:
            self._algorithms = offered
        return True


def _tells_algorithms(nonce: bytes) -> bool:
    return bool(security_features(nonce) & _PASSWORD_ALGORITHMS)
