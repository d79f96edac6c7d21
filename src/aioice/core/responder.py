"""Judging Binding requests before anybody acts on them, and the error answers (RFC 8489 §9.1.3, RFC 8445 §7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .message import Class, Message

if TYPE_CHECKING:
    from .machine import Address

#: Unsigned errors for each source host: this many at once, then as many again each second.
BURST = 4
#: Source hosts remembered; beyond them, the one that was quiet for longest is forgotten.
MAX_SOURCES = 64
#: For all of them together, likewise.
TOTAL_BURST = 64


def error_answer(request: Message, code: int, key: bytes | None = None, unknown: tuple[int, ...] = ()) -> bytes:
    """An error answer, signed if there is a key; without a reason phrase, so that it is never long."""
    answer = Message(request.message_method, Class.ERROR, request.transaction_id, {"ERROR-CODE": (code, "")})
    if unknown:
        answer.attributes["UNKNOWN-ATTRIBUTES"] = list(unknown)
    if key is not None:
        answer.add_message_integrity(key)
    else:
        answer.add_fingerprint()
    return bytes(answer)


def is_for(request: Message, local_username: str, remote_username: str | None) -> bool:
    """Whether USERNAME is ours and, once we know it, the peer's (RFC 8445 §7.3)."""
    ours, colon, theirs = request.attributes["USERNAME"].partition(":")
    return bool(colon) and ours == local_username and (remote_username is None or theirs == remote_username)


class Strangers:
    """Unsigned answers for those who cannot show that they are our peer: no amplification, no flood."""

    __slots__ = ("_tokens", "_total")

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, float]] = {}
        self._total: tuple[float, float] | None = None

    def answer(self, now: float, request: Message, size: int, peer: Address, code: int) -> bytes | None:
        """The answer to an unauthenticated request of ``size`` bytes; None if it would be longer or there were many."""
        answer = error_answer(request, code)
        if len(answer) > size or not self._allowed(now, peer[0]):
            return None
        return answer

    def _allowed(self, now: float, host: str) -> bool:
        tokens = _refilled(self._tokens.pop(host, None), now, BURST)
        total = _refilled(self._total, now, TOTAL_BURST)
        allowed = tokens >= 1 and total >= 1
        self._tokens[host] = (tokens - allowed, now)
        self._total = (total - allowed, now)
        if len(self._tokens) > MAX_SOURCES:
            del self._tokens[next(iter(self._tokens))]
        return allowed


def _refilled(bucket: tuple[float, float] | None, now: float, burst: int) -> float:
    """What a bucket holds by now: it is full at first, and again after a second."""
    return float(burst) if bucket is None else min(float(burst), bucket[0] + (now - bucket[1]) * burst)
