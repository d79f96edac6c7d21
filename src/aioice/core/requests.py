"""Requests in flight: who was asked, what was sent, when it is sent again and when it is given up (RFC 8489 §6.2)."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .machine import Address, Tunables

#: RFC 8489 §6.2.1: the last transmission is waited for Rm = 16 times the first RTO.
LAST_WAIT = 16


def duration(rto: float, retransmissions: int) -> float:
    """From the first transmission to giving up."""
    last = 1 << retransmissions
    return rto * (last - 1 + min(LAST_WAIT, last))


class Request:
    """One request that waits for its answer."""

    __slots__ = (
        "transaction_id",
        "data",
        "link",
        "peer",
        "context",
        "started",
        "deadline",
        "_rto",
        "_sent",
        "_max",
        "_ends",
    )

    def __init__(
        self,
        transaction_id: bytes,
        data: bytes,
        link: int,
        peer: Address,
        context: Any,
        now: float,
        rto: float,
        sends: int,
    ) -> None:
        self.transaction_id = transaction_id
        self.data = data
        self.link = link
        self.peer = peer
        #: What the owner wants to remember with it.
        self.context = context
        self.started = now
        self._rto = rto
        self._max = sends
        self._sent = 1
        self.deadline = now + self._wait()
        #: Stopped early: when it would have been given up.
        self._ends = self.deadline

    def _wait(self) -> float:
        doublings: int = 1 << (self._sent - 1)
        return self._rto * (doublings if self._sent < self._max else min(LAST_WAIT, doublings))

    def sent_again(self, now: float) -> None:
        self._sent += 1
        self.deadline = now + self._wait()

    def limit(self, retransmissions: int) -> None:
        """Give up after so many retransmissions, or after those that have been made."""
        self._max = min(self._max, max(self._sent, 1 + retransmissions))

    def stop(self) -> None:
        """Not to be sent again, but an answer still counts as long as it would have (RFC 8445 §7.3.1.4)."""
        if not self.exhausted:
            self._ends = self.started + duration(self._rto, self._max - 1)
            self._max = self._sent

    def wait_on(self) -> bool:
        """Whether there is still time for an answer, though it is not to be sent again."""
        if self.deadline >= self._ends:
            return False
        self.deadline = self._ends
        return True

    @property
    def exhausted(self) -> bool:
        return self._sent >= self._max

    @property
    def retransmitted(self) -> bool:
        """Whether an answer's delay no longer tells the round-trip time (Karn)."""
        return self._sent > 1

    def __lt__(self, other: Request) -> bool:
        return self.deadline < other.deadline


class Requests:
    """The requests of one owner, by transaction id."""

    __slots__ = (
        "tunables",
        "_pending",
        "_timers",
    )

    def __init__(self, tunables: Tunables) -> None:
        self.tunables = tunables
        #: None as most of the time.
        self._pending: dict[bytes, Request] | None = None
        self._timers: list[tuple[float, Request]] | None = None

    def __len__(self) -> int:
        return len(self._pending or ())

    def start(
        self,
        now: float,
        transaction_id: bytes,
        data: bytes,
        link: int,
        peer: Address,
        context: Any = None,
        *,
        retransmissions: int | None = None,
        rto: float | None = None,
        timeout: float | None = None,
    ) -> Request:
        """Remember a request that the caller transmits now.

        ``timeout`` (seconds) is for requests that are sent once: consent, and everything over a reliable stream.
        """
        if timeout is not None:
            request = Request(transaction_id, data, link, peer, context, now, timeout, 1)
        else:
            sends = 1 + (self.tunables.retry_max if retransmissions is None else retransmissions)
            request = Request(transaction_id, data, link, peer, context, now, rto or self.tunables.retry_rto, sends)
        if self._pending is None or self._timers is None:
            self._pending, self._timers = {}, []
        self._pending[transaction_id] = request
        heappush(self._timers, (request.deadline, request))
        return request

    def get(self, transaction_id: bytes) -> Request | None:
        return None if self._pending is None else self._pending.get(transaction_id)

    def match(self, transaction_id: bytes, link: int, peer: Address) -> Request | None:
        """The request that an answer from ``peer`` over ``link`` belongs to: only whom we asked may answer."""
        request = self.get(transaction_id)
        if request is not None and request.link == link and request.peer == peer:
            return request
        return None

    def end(self, request: Request) -> None:
        """The request is answered or no longer of interest."""
        if self._pending is None or self._timers is None:
            return
        self._pending.pop(request.transaction_id, None)
        if not self._pending:
            self.end_all()
        elif len(self._timers) > 2 * len(self._pending) + 16:
            self._timers = [entry for entry in self._timers if self._current(entry)]
            heapify(self._timers)

    def end_all(self) -> None:
        self._pending = self._timers = None

    def all(self) -> list[Request]:
        return list((self._pending or {}).values())

    def _current(self, entry: tuple[float, Request]) -> bool:
        deadline, request = entry
        return request.deadline == deadline and self.get(request.transaction_id) is request

    def handle_timeout(self, now: float) -> tuple[list[Request], list[Request]]:
        """Returns the requests to transmit again now, and those that have failed (and are forgotten)."""
        again: list[Request] = []
        failed: list[Request] = []
        while self._timers and (self._timers[0][0] <= now or not self._current(self._timers[0])):
            entry = heappop(self._timers)
            if not self._current(entry):
                continue
            request = entry[1]
            if request.exhausted and request.wait_on():
                heappush(self._timers, (request.deadline, request))
            elif request.exhausted:
                self.end(request)
                failed.append(request)
            else:
                request.sent_again(now)
                heappush(self._timers, (request.deadline, request))
                again.append(request)
        return again, failed

    def poll_timeout(self) -> float | None:
        timers = self._timers
        if timers is None:
            return None
        while not self._current(timers[0]):
            heappop(timers)
        return timers[0][0]
