from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aioice.net.driver import Driver
from tests.net.bench import Bench, Desk, Owner, Script
from tests.net.support import until

Run = Callable[..., None]


class Clock:
    """A loop's time and timers, by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None], Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        clock = self

        class Handle:
            def cancel(self) -> None:
                clock.timers[:] = [timer for timer in clock.timers if timer[2] is not self]

        handle = Handle()
        self.timers.append((when, callback, handle))
        return handle

    @property
    def armed(self) -> list[float]:
        return [timer[0] for timer in self.timers]

    def fire(self, now: float) -> None:
        self.now = now
        self.timers.pop(0)[1]()


def timed() -> tuple[Driver, Script, Clock]:
    machine, clock = Script(), Clock()
    host: Any = Desk()
    driver = Driver(machine, host, Owner())
    loop: Any = clock
    driver.loop = loop
    return driver, machine, clock


async def test_timer_follows_an_earlier_deadline_and_lets_a_later_one_come() -> None:
    driver, machine, clock = timed()
    driver.do(machine.set_deadline, 5)
    assert clock.armed == [1005]
    (first,) = clock.timers
    driver.do(machine.set_deadline, 7)
    driver.pump()
    assert clock.timers == [first]
    driver.do(machine.set_deadline, 3)
    assert clock.armed == [1003]
    driver.do(machine.set_deadline, 9)
    clock.fire(1003)
    assert clock.armed == [1009]
    clock.fire(1009.0001)
    assert machine.timeouts == [1009.0001]
    assert clock.armed == []
    assert driver.idle


async def test_timer_of_no_deadline() -> None:
    driver, machine, clock = timed()
    driver.pump()
    assert clock.armed == []
    driver.do(machine.set_deadline, 5)
    driver.do(machine.set_deadline, None)
    assert clock.armed == []
    assert driver.idle


async def test_wake_up_just_before_the_deadline_does_not_spin() -> None:
    """uvloop's timers are rounded to milliseconds."""
    driver, machine, clock = timed()
    driver.do(machine.set_deadline, 5.0004)
    clock.fire(1005)
    assert machine.timeouts == []
    (again,) = clock.armed
    assert again == pytest.approx(1005.001)
    clock.fire(again)
    assert machine.timeouts == [again]


async def test_timer_fires_while_the_machine_has_nothing_to_wait_for() -> None:
    driver, machine, clock = timed()
    driver.do(machine.set_deadline, 5)
    machine.deadline = None
    clock.fire(1005)
    assert machine.timeouts == []
    assert driver.idle


async def test_a_failing_timeout_leaves_the_driver_usable() -> None:
    driver, machine, clock = timed()
    driver.do(machine.set_deadline, 5)

    def fail(now: float) -> None:
        machine.deadline = now + 1
        raise RuntimeError("machine")

    machine.handle_timeout = fail
    with pytest.raises(RuntimeError):
        clock.fire(1005)
    assert clock.armed == [1006]


def test_real_timer(run: Run) -> None:
    async def main() -> None:
        bench = Bench()
        for distance in (0.0, 0.0123, 0.0004):
            start = bench.driver.now()
            bench.driver.do(bench.machine.set_deadline, distance)
            await until(lambda: bench.machine.timeouts)
            assert bench.machine.timeouts.pop() >= start + distance
        assert bench.driver.idle

    run(main())
