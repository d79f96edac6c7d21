"""May we still send? Consent freshness of one component (RFC 7675)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Tunables

#: The time that a request is given to be answered before consent may expire, whatever the tunables are: RFC 8489
#: §6.2.1's first RTO.
TIME_TO_ANSWER = 0.5
#: No two requests leave in a shorter time, whatever the tunables are.
LEAST_INTERVAL = 0.05
#: Requests leave at multiples of this part of the interval, so that thousands of connections wake their process seldom.
#: Not more seldom than each 50 ms: those that leave together, and their answers, hold up all else on the loop.
GRID = 0.01
#: Consent requests whose answers are still waited for; more than the default time-out and interval can make.
MAX_OUTSTANDING = 16


class Consent:
    """When to ask, whether the answers still come, and when sending must end."""

    __slots__ = ("_random", "_tunables", "_answered", "_ask_at", "_unanswered_since", "outstanding")

    def __init__(self, now: float, random: Callable[[int], bytes], tunables: Tunables) -> None:
        self._random = random
        self._tunables = tunables
        self._answered = now
        self._unanswered_since: float | None = None
        #: Transaction ids of requests, each of which may still be answered (RFC 7675 §5.1), oldest first.
        self.outstanding: tuple[bytes, ...] = ()
        self._ask_at = self._next(now)

    def _next(self, now: float) -> float:
        """RFC 7675 §5.1: randomized between 0.8 and 1.2 of the basic period."""
        period = max(self._tunables.consent_interval, LEAST_INTERVAL / 0.8)
        factor = 0.8 + GRID + (0.4 - GRID) * int.from_bytes(self._random(2)) / 0xFFFF
        return (now + period * factor) // (period * GRID) * (period * GRID)

    def tune(self, tunables: Tunables) -> None:
        self._tunables = tunables

    def due(self, now: float) -> bool:
        return now >= self._ask_at

    def asked(self, now: float, transaction_id: bytes) -> None:
        """A request has left; the next one is counted from here, whether it is answered or not."""
        if self._unanswered_since is None:
            self._unanswered_since = now
        self.outstanding = (*self.outstanding, transaction_id)[-MAX_OUTSTANDING:]
        self._ask_at = self._next(now)

    def answered(self, now: float, transaction_id: bytes) -> None:
        """A valid answer to any outstanding request renews consent; those asked later may still be answered."""
        self._answered = now
        if transaction_id in self.outstanding:
            self.outstanding = self.outstanding[self.outstanding.index(transaction_id) + 1 :]
        self._unanswered_since = now if self.outstanding else None

    @property
    def lifetime(self) -> float:
        return self._tunables.consent_interval * self._tunables.consent_failures

    @property
    def time_to_answer(self) -> float:
        """How long an answer to a request counts."""
        return max(self.lifetime, TIME_TO_ANSWER)

    @property
    def last_answer(self) -> float:
        return self._answered

    def _passed(self, unanswered_since: float, part: float) -> float:
        """When this part of the lifetime has passed since the last answer, and a request had the time for one."""
        return max(self._answered + self.lifetime * part, unanswered_since + TIME_TO_ANSWER)

    def doubtful(self, now: float) -> bool:
        """The peer may be gone: half of the time has passed, and a request stands unanswered."""
        return self._unanswered_since is not None and now >= self._passed(self._unanswered_since, 0.5)

    def expired(self, now: float) -> bool:
        return self._unanswered_since is not None and now >= self._passed(self._unanswered_since, 1)

    def poll_timeout(self, doubted: bool) -> float:
        """The next thing to happen; ``doubted`` if :meth:`doubtful` was acted on already."""
        if self._unanswered_since is None:
            return self._ask_at
        return min(self._ask_at, self._passed(self._unanswered_since, 1 if doubted else 0.5))
