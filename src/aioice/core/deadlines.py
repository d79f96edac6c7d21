"""What wants to be woken, and when: a heap of deadlines that can be moved, and that come in portions."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Deadlines that have passed together come in portions, so many seconds apart: each wake-up has a bounded work.
PORTION = 32
PORTION_DISTANCE = 0.02


class Timed:
    """Something that wants to be woken at ``due``, which :class:`Deadlines` sets."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due: float | None = None


class Deadlines:
    """The deadlines of one owner, at most one for each thing."""

    __slots__ = ("_heap", "_count", "_armed", "_resume_at")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        #: Numbers entries, so that those of one time come in their order.
        self._count = 0
        #: Things that have a deadline; all else in the heap is out of date.
        self._armed = 0
        self._resume_at = float("-inf")

    def arm(self, item: Timed, due: float | None) -> None:
        """Wake ``item`` at ``due`` and at no other time; never if that is None."""
        self._armed += (due is not None) - (item.due is not None)
        item.due = due
        if due is not None:
            self._count += 1
            heappush(self._heap, (due, self._count, item))
            if len(self._heap) > 4 * self._armed + 64:
                self._heap = [entry for entry in self._heap if entry[2].due == entry[0]]
                heapify(self._heap)

    def take(self, now: float) -> Iterator[Timed]:
        """What is due, one after the other; the heap may be changed meanwhile."""
        if now < self._resume_at:
            return
        portion = PORTION
        while self._heap and self._heap[0][0] <= now:
            due, _, item = self._heap[0]
            if item.due == due:
                if not portion:
                    self._resume_at = now + PORTION_DISTANCE
                    return
                portion -= 1
            heappop(self._heap)
            if item.due == due:
                item.due = None
                self._armed -= 1
                yield item

    def clear(self) -> None:
        for _, _, item in self._heap:
            item.due = None
        self._heap.clear()
        self._armed = 0

    def poll_timeout(self) -> float | None:
        """The next deadline."""
        while self._heap and self._heap[0][2].due != self._heap[0][0]:
            heappop(self._heap)
        return max(self._heap[0][0], self._resume_at) if self._heap else None
