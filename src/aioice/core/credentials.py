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


def make_integrity_key(username: str, realm: str, password: str, algorithm: int = MD5) -> bytes:
    """The key of a user's long-term credentials (RFC 8489 §9.2.2 and §18.5.1)."""
    text = f"{username}:{realm}:{password}".encode()
    if algorithm == SHA256:
        return hashlib.sha256(text).digest()
    # The protocol prescribes MD5; systems that forbid it as a protection still allow it so.
    return hashlib.md5(text, usedforsecurity=False).digest()


def make_userhash(username: str, realm: str) -> bytes:
    """The name of a user that does not show it (RFC 8489 §14.4)."""
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

    def __init__(self, username: str | None, password: str | None) -> None:
        self._username = username
        self._password = password
        self._realm: str | None = None
        self._nonce = b""
        #: PASSWORD-ALGORITHMS as the server sent it, to be echoed, and our choice.
        self._algorithms: Any = None
        self._algorithm = MD5
        self._key: bytes | None = None

    def update(self, username: str, password: str) -> None:
        """Other credentials from now on, for the realm that is known."""
        self._username = username
        self._password = password
        self._key = None

    def sign(self, message: Message, after: Signature | None = None) -> Signature | None:
        """Add what the server has asked for; this must be the last step before the message leaves.

        ``after`` is the signature of the attempt that this one repeats. The first request of all goes unsigned
        (RFC 8489 §9.2.3.1): then, and without credentials, the result is None.
        """
        if self._username is None or self._password is None or self._realm is None:
            return None
        if self._key is None:
            self._key = make_integrity_key(self._username, self._realm, self._password, self._algorithm)
        attributes = message.attributes
        if security_features(self._nonce) & _USERNAME_ANONYMITY:
            attributes["USERHASH"] = make_userhash(self._username, self._realm)
        else:
            attributes["USERNAME"] = self._username
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
        return Signature(self._username, self._password, self._realm, self._nonce, self._key, sha256, attempt)

    def challenge(self, response: Message, signature: Signature | None) -> bool:
        """Take in a 401 or 438 to a request that was signed with ``signature``; whether to repeat that request.

        Learns realm and nonce. Repeating makes sense unless the server has refused exactly what would be sent again,
        wants what we cannot do, or gets nowhere (RFC 8489 §9.2.5).
        """
        attributes = response.attributes
        nonce = attributes.get("NONCE")
        realm = attributes.get("REALM", self._realm)
        if nonce is None or realm is None or self._username is None or self._password is None:
            return False
        if not self._choose_algorithm(attributes.get("PASSWORD-ALGORITHMS"), nonce):
            return False
        if realm != self._realm:
            self._realm = realm
            self._key = None
        self._nonce = nonce
        if signature is None:
            return True
        if signature.attempt + 1 >= MAX_ATTEMPTS:
            return False
        return response.error_code == 438 or self._refused_another(signature)

    def verify(self, response: Message, signature: Signature | None) -> bool:
        """Whether a response may be believed: it must carry an integrity with the key of its request.

        A 401 or 438 may come unsigned (RFC 8489 §9.2.5), and everything may in answer to an unsigned request.
        """
        if signature is None:
            return True
        if response.message_class == Class.ERROR and response.error_code in (401, 438):
            return True
        if signature.sha256:
            return response.check_message_integrity_sha256(signature.key)
        return response.check_message_integrity(signature.key)

    def _refused_another(self, signature: Signature) -> bool:
        """The user, password, realm or algorithm has changed since that signature was made."""
        return (self._username, self._password, self._realm, self._algorithms is not None) != (
            signature.username,
            signature.password,
            signature.realm,
            signature.sha256,
        )

    def _choose_algorithm(self, offered: Any, nonce: bytes) -> bool:
        """Take the first algorithm that we know (RFC 8489 §9.2.5); False if there is none or if they were removed.

        Once there were any, there is no way back to the time before them.
        """
        if offered is None:
            return not security_features(nonce) & _PASSWORD_ALGORITHMS
        known = [number for number, _ in offered if number in (MD5, SHA256)]
        if not known:
            return False
        if known[0] != self._algorithm:
            self._algorithm = known[0]
            self._key = None
        self._algorithms = offered
        return True
