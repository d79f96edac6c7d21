"""The datagrams that wait for ``recv``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioice.net.queue import OVERHEAD, ReceiveQueue


def queue(datagrams: int = 10) -> ReceiveQueue:
    """With room for so many datagrams of one byte."""
    return ReceiveQueue(datagrams * (OVERHEAD + 1))


async def reader(of: ReceiveQueue) -> asyncio.Task[tuple[bytes, int]]:
    """A task that waits in ``get``."""
    task = asyncio.create_task(of.get())
    await asyncio.sleep(0)
    return task


class TestBound:
    async def test_first_come_first_served(self) -> None:
        waiting = queue()
        for number in range(3):
            waiting.put(bytes([number]), number)
        assert [await waiting.get() for _ in range(3)] == [(b"\0", 0), (b"\1", 1), (b"\2", 2)]
        assert waiting.get_nowait() is None

    def test_the_newest_is_dropped_and_counted(self) -> None:
        waiting = queue(3)
        for number in range(5):
            waiting.put(bytes([number]), 1)
        assert waiting.dropped == 2
        assert waiting.get_nowait() == (b"\0", 1)
        waiting.put(b"\5", 1)
        assert [waiting.get_nowait() for _ in range(4)] == [(b"\1", 1), (b"\2", 1), (b"\5", 1), None]
        assert waiting.dropped == 2

    def test_it_is_bytes_that_count(self) -> None:
        waiting = queue(10)
        waiting.put(bytes(9 * (OVERHEAD + 1) + 1), 1)
        waiting.put(b"", 1)
        assert waiting.dropped == 1
        assert waiting.get_nowait() is not None
        waiting.put(b"", 1)
        assert waiting.get_nowait() == (b"", 1)

    def test_empty_datagrams_cost_too(self) -> None:
        waiting = queue(10)
        for _ in range(1000):
            waiting.put(b"", 1)
        assert waiting.dropped == 990

    async def test_no_room_is_needed_for_one_who_waits(self) -> None:
        waiting = queue(0)
        task = await reader(waiting)
        waiting.put(b"a", 1)
        waiting.put(b"b", 1)
        assert await task == (b"a", 1)
        assert waiting.dropped == 1


class TestWaiting:
    async def test_those_who_wait_are_served_in_their_order(self) -> None:
        waiting = queue()
        tasks = [await reader(waiting) for _ in range(3)]
        for number in range(4):
            waiting.put(bytes([number]), 1)
        assert [await task for task in tasks] == [(b"\0", 1), (b"\1", 1), (b"\2", 1)]
        assert waiting.get_nowait() == (b"\3", 1)


class TestCancellation:
    """Cancelling any call loses no data."""

    @staticmethod
    async def cancelled(task: asyncio.Task[Any]) -> None:
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_while_it_waits(self) -> None:
        waiting = queue()
        first, second = await reader(waiting), await reader(waiting)
        first.cancel()
        await self.cancelled(first)
        waiting.put(b"a", 1)
        assert await second == (b"a", 1)

    async def test_just_before_the_datagram_comes(self) -> None:
        waiting = queue()
        first, second = await reader(waiting), await reader(waiting)
        first.cancel()
        waiting.put(b"a", 1)
        assert await second == (b"a", 1)
        await self.cancelled(first)

    async def test_with_the_datagram_in_its_hand(self) -> None:
        waiting = queue()
        task = await reader(waiting)
        waiting.put(b"a", 1)
        waiting.put(b"b", 1)
        task.cancel()
        await self.cancelled(task)
        assert [await waiting.get(), await waiting.get()] == [(b"a", 1), (b"b", 1)]

    async def test_with_the_only_datagram_in_its_hand(self) -> None:
        waiting = queue(1)
        task = await reader(waiting)
        waiting.put(b"a", 1)
        task.cancel()
        await self.cancelled(task)
        waiting.put(b"b", 1)
        assert waiting.dropped == 1
        assert waiting.get_nowait() == (b"a", 1)
        waiting.put(b"c", 1)
        assert waiting.get_nowait() == (b"c", 1)

    async def test_the_next_who_waits_gets_it(self) -> None:
        waiting = queue()
        first, second, third = [await reader(waiting) for _ in range(3)]
        waiting.put(b"a", 1)
        first.cancel()
        second.cancel()
        await self.cancelled(first)
        await self.cancelled(second)
        assert await third == (b"a", 1)

    async def test_nobody_else_waits_any_more(self) -> None:
        waiting = queue()
        first, second = await reader(waiting), await reader(waiting)
        waiting.put(b"a", 1)
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert waiting.get_nowait() == (b"a", 1)

    async def test_after_the_end(self) -> None:
        waiting = queue()
        task = await reader(waiting)
        waiting.end("over", discard=False)
        task.cancel()
        await self.cancelled(task)
        with pytest.raises(ConnectionError, match="over"):
            await waiting.get()


class TestEnd:
    @pytest.mark.parametrize("readers", [0, 1, 3])
    async def test_wakes_everybody_with_the_reason(self, readers: int) -> None:
        waiting = queue()
        tasks = [await reader(waiting) for _ in range(readers)]
        waiting.end("why it ended", discard=False)
        for task in [*tasks, await reader(waiting)]:
            with pytest.raises(ConnectionError, match="^why it ended$"):
                await task

    async def test_also_one_that_was_just_cancelled(self) -> None:
        waiting = queue()
        task = await reader(waiting)
        task.cancel()
        waiting.end("over", discard=False)
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_what_is_there_may_still_be_read(self) -> None:
        waiting = queue()
        waiting.put(b"a", 1)
        waiting.end("over", discard=False)
        assert await waiting.get() == (b"a", 1)
        with pytest.raises(ConnectionError, match="over"):
            await waiting.get()

    @pytest.mark.parametrize("filled", [True, False])
    async def test_unless_it_is_discarded(self, filled: bool) -> None:
        waiting = queue()
        if filled:
            waiting.put(b"a", 1)
        waiting.end("over", discard=True)
        assert waiting.get_nowait() is None
        with pytest.raises(ConnectionError, match="over"):
            await waiting.get()

    async def test_nothing_comes_after_it(self) -> None:
        waiting = queue()
        waiting.end("over", discard=False)
        waiting.put(b"a", 1)
        assert waiting.dropped == 1
        assert waiting.get_nowait() is None


class TestMany:
    async def test_as_one_by_one(self) -> None:
        one, many = queue(10), queue(10)
        for data in (b"1", b"2", b"3"):
            one.put(data, 1)
        many.put_many([b"1", b"2", b"3"], 1)
        for waiting in (one, many):
            assert waiting.pop_many(2) == [b"1", b"2"]
            assert waiting.pop_many(5) == [b"3"]
            assert waiting.pop_many(5) == [] and waiting.pop() is None

    def test_what_finds_no_room_is_dropped_and_counted(self) -> None:
        waiting = queue(3)
        waiting.put_many([b"x"] * 5, 1)
        assert waiting.dropped == 2
        assert waiting.pop_many(9) == [b"x"] * 3
        waiting.put_many([b"y"] * 3, 1)
        assert waiting.dropped == 2
        waiting.end("over", discard=False)
        waiting.put_many([b"z"], 1)
        assert waiting.dropped == 3

    async def test_those_who_wait_get_the_first(self) -> None:
        waiting = queue()
        tasks = [await reader(waiting) for _ in range(2)]
        tasks.append(await reader(waiting))
        tasks[0].cancel()
        waiting.put_many([b"1", b"2", b"3"], 1)
        assert await asyncio.gather(*tasks[1:]) == [(b"1", 1), (b"2", 1)]
        assert waiting.pop_many(9) == [b"3"]

    def test_components(self) -> None:
        waiting = queue()
        waiting.put_many([b"1", b"2"], 1)
        waiting.put_many([b"3", b"4"], 2)
        waiting.put(b"5", 1)
        assert [waiting.get_nowait() for _ in range(2)] == [(b"1", 1), (b"2", 1)]
        assert waiting.pop_many(1) == [b"3"]
        assert [waiting.get_nowait() for _ in range(3)] == [(b"4", 2), (b"5", 1), None]

    @pytest.mark.parametrize("others", [[], [(b"0", 1)], [(b"0", 3)]])
    async def test_a_datagram_that_is_put_back_keeps_its_component(self, others: list[tuple[bytes, int]]) -> None:
        waiting = queue()
        task = await reader(waiting)
        waiting.put(b"a", 2)
        for data, component in others:
            waiting.put(data, component)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [await waiting.get() for _ in range(1 + len(others))] == [(b"a", 2), *others]
