"""A heap of deadlines that can be moved."""

from __future__ import annotations

from aioice.core.deadlines import PORTION, PORTION_DISTANCE, Deadlines, Timed


def test_earliest_first_and_in_the_order_of_arming() -> None:
    deadlines = Deadlines()
    first, second, third = Timed(), Timed(), Timed()
    deadlines.arm(third, 3.0)
    deadlines.arm(first, 1.0)
    deadlines.arm(second, 1.0)
    assert deadlines.poll_timeout() == 1.0
    assert list(deadlines.take(0.5)) == []
    assert list(deadlines.take(3.0)) == [first, second, third]
    assert [item.due for item in (first, second, third)] == [None] * 3
    assert deadlines.poll_timeout() is None


def test_moved_and_given_up() -> None:
    deadlines = Deadlines()
    moved, given_up = Timed(), Timed()
    deadlines.arm(moved, 1.0)
    deadlines.arm(given_up, 1.5)
    deadlines.arm(moved, 2.0)
    deadlines.arm(given_up, None)
    assert deadlines.poll_timeout() == 2.0
    assert list(deadlines.take(1.9)) == []
    assert list(deadlines.take(2.0)) == [moved]


def test_each_comes_once_though_armed_twice_for_one_time() -> None:
    deadlines = Deadlines()
    item = Timed()
    for due in (1.0, 2.0, 1.0):
        deadlines.arm(item, due)
    assert list(deadlines.take(5.0)) == [item]


def test_changes_while_they_are_taken() -> None:
    deadlines = Deadlines()
    items = [Timed() for _ in range(4)]
    for number, item in enumerate(items):
        deadlines.arm(item, float(number))
    taken = deadlines.take(10.0)
    assert next(taken) is items[0]
    deadlines.arm(items[0], 20.0)
    deadlines.arm(items[1], None)
    assert next(taken) is items[2]
    deadlines.clear()
    assert list(taken) == []
    assert deadlines.poll_timeout() is None
    assert [item.due for item in items] == [None] * 4


def test_portions() -> None:
    deadlines = Deadlines()
    for _ in range(2 * PORTION):
        deadlines.arm(Timed(), 1.0)
    assert len(list(deadlines.take(2.0))) == PORTION
    assert deadlines.poll_timeout() == 2.0 + PORTION_DISTANCE
    assert list(deadlines.take(2.0)) == []
    assert len(list(deadlines.take(2.0 + PORTION_DISTANCE))) == PORTION
    assert deadlines.poll_timeout() is None


def test_what_is_out_of_date_does_not_count_for_the_portion() -> None:
    deadlines = Deadlines()
    for _ in range(PORTION):
        item = Timed()
        deadlines.arm(item, 0.5)
        deadlines.arm(item, 1.0)
    assert len(list(deadlines.take(1.0))) == PORTION
    assert deadlines.poll_timeout() is None


def test_moving_one_for_ever_keeps_the_heap_small() -> None:
    deadlines = Deadlines()
    moved, kept = Timed(), Timed()
    deadlines.arm(kept, 1e6)
    for number in range(10000):
        deadlines.arm(moved, float(number))
    assert len(deadlines._heap) <= 73
    assert deadlines.poll_timeout() == 9999.0
    assert list(deadlines.take(1e6)) == [moved, kept]
