"""The virtual clock: a queue of events, and the two sources of chance."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from .links import Packet

Ts = TypeVarTuple("Ts")

#: So many events without the clock moving, or outputs after one input, are a loop that never ends.
LIVELOCK = 20_000


class Event:
    """Something that happens at a time, unless it is cancelled."""

    __slots__ = ("time", "_number", "run")

    def __init__(self, time: float, number: int, run: Callable[[], object]) -> None:
        self.time = time
        self._number = number
        self.run: Callable[[], object] | None = run

    def cancel(self) -> None:
        """It does not happen."""
        self.run = None

    def __lt__(self, other: Event) -> bool:
        return (self.time, self._number) < (other.time, other._number)


class Clock:
    """Time in seconds from 0, and what happens when. Two runs of the same seed are the same."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.now = 0.0
        #: Decides about packets and ports only, so that what machines draw does not change which packet is lost.
        self.random = Random(f"{seed} network")
        self._bytes = Random(f"{seed} bytes")
        #: Every packet that was sent, in order. It may be cleared at any time, which long runs should do.
        self.packets: list[Packet] = []
        self._queue: list[Event] = []
        self._events = 0
        self._instant = 0

    def random_bytes(self, size: int) -> bytes:
        """The source of random bytes for machines (and of ``os.urandom`` on the simulated loop)."""
        return self._bytes.randbytes(size)

    def at(self, time: float, callback: Callable[[*Ts], object], *args: *Ts) -> Event:
        """Call ``callback(*args)`` at ``time``, after what is already planned for the same time."""
        self._events += 1
        event = Event(max(time, self.now), self._events, lambda: callback(*args))
        heappush(self._queue, event)
        return event

    def after(self, delay: float, callback: Callable[[*Ts], object], *args: *Ts) -> Event:
        """As :meth:`at`, in ``delay`` seconds; in whole nanoseconds, so that sums of delays are round numbers."""
        return self.at(round(self.now + delay, 9), callback, *args)

    def advance(self, until: float) -> None:
        """Let everything happen up to the time ``until``."""
        while (following := self.next_time()) is not None and following <= until:
            self.step()
        self.now = max(self.now, until)

    def run_until(self, predicate: Callable[[], object], timeout: float = 60.0) -> float:
        """Run until ``predicate`` holds and return that time; raises TimeoutError if it never will."""
        deadline = self.now + timeout
        while not predicate():
            following = self.next_time()
            if following is None:
                raise TimeoutError(f"nothing will ever happen after {self.now:.3f} s (seed {self.seed})")
            if following > deadline:
                raise TimeoutError(f"it did not happen within {timeout} s (seed {self.seed})")
            self.step()
        return self.now

    def skip(self, seconds: float) -> None:
        """Let time pass in which nobody can do anything, as in a program that blocks: what was due is late."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self.now = round(self.now + seconds, 9)

    def next_time(self) -> float | None:
        """When the next event is; None if there is none."""
        queue = self._queue
        while queue and queue[0].run is None:
            heappop(queue)
        return queue[0].time if queue else None

    def step(self) -> None:
        """The next event happens; :meth:`next_time` must have said that there is one."""
        event = heappop(self._queue)
        self._instant = self._instant + 1 if event.time == self.now else 0
        if self._instant > LIVELOCK:
            raise AssertionError(f"the clock stands still at {self.now} s (seed {self.seed})")
        self.now = max(self.now, event.time)
        if event.run is not None:
            event.run()
