"""The lifetime of one relayed address: when to renew it, and when it is over (RFC 8656 §7.3, §8)."""

from __future__ import annotations

from .peers import FLOOR, RETRY_LOST

#: A relayed address is renewed after this part of its lifetime, neither sooner than ``FLOOR`` nor later than
#: ``CEILING``.
REFRESH_PART = 5 / 6
CEILING = 3600
#: After a sleep that was longer than the lifetime the server is asked all the same, and has so long to answer.
GRACE = 10


class Relay:
    """One relayed address; a dual allocation has two (RFC 8656 §8)."""

    __slots__ = ("link", "family", "lifetime", "renew_at", "ends_at", "refreshing", "_refreshed", "_graced")

    def __init__(self, link: int, family: int) -> None:
        self.link = link
        self.family = family
        #: As the server has told it last, in seconds.
        self.lifetime = 0.0
        #: When to ask for more; None while that is under way.
        self.renew_at: float | None = None
        self.ends_at = 0.0
        self.refreshing = False
        self._refreshed = float("-inf")
        #: It has outlived its end in hope of an answer.
        self._graced = False

    def renewed(self, now: float, lifetime: float, started: float) -> None:
        """The server keeps it for ``lifetime`` seconds from when it was asked, at ``started``."""
        self.lifetime = lifetime
        self.refreshing = self._graced = False
        self.renew_at = max(started + min(max(lifetime * REFRESH_PART, FLOOR), CEILING), now + FLOOR)
        self.ends_at = max(started + lifetime, self.renew_at + FLOOR)

    def refresh(self, now: float) -> None:
        """The server is being asked."""
        self.renew_at = None
        self.refreshing = True
        self._refreshed = now

    def refused(self, retry_at: float) -> None:
        """It was asked in vain, or did not hear us."""
        self.refreshing = False
        self.renew_at = retry_at

    def may_probe(self, now: float) -> bool:
        """Whether asking now, out of turn, is no storm."""
        return not self.refreshing and now >= self._refreshed + RETRY_LOST

    def is_over(self, now: float) -> bool:
        """Whether it has ended; if we have slept through the renewal, the server still has to say so."""
        if now < self.ends_at:
            return False
        if self.refreshing and not self._graced and now < self._refreshed + GRACE:
            self._graced = True
            self.ends_at = self._refreshed + GRACE
            return False
        return True
