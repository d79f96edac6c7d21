"""The datagrams that wait for ``recv``: bounded, first come first served, nothing lost by a cancelled wait."""

from __future__ import annotations

import asyncio
from collections import deque

#: What a datagram costs beside its bytes, for the bound.
OVERHEAD = 128


class ReceiveQueue:
    """Datagrams with their components; ``max_bytes`` bounds them, the newest is dropped and counted."""

    __slots__ = ("_items", "_waiters", "_room", "_end", "dropped")

    def __init__(self, max_bytes: int) -> None:
        self._items: deque[tuple[bytes, int]] | None = None
        self._waiters: deque[asyncio.Future[tuple[bytes, int] | None]] | None = None
        self._room = max_bytes
        self._end: str | None = None
        #: Datagrams that found no room.
        self.dropped = 0

    def put(self, data: bytes, component: int) -> None:
        if self._end is not None:
            self.dropped += 1
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result((data, component))
                return
        cost = len(data) + OVERHEAD
        if cost > self._room:
            self.dropped += 1
            return
        self._room -= cost
        if self._items is None:
            self._items = deque()
        self._items.append((data, component))

    def get_nowait(self) -> tuple[bytes, int] | None:
        if not self._items:
            return None
        item = self._items.popleft()
        self._room += len(item[0]) + OVERHEAD
        return item

    async def get(self) -> tuple[bytes, int]:
        """The next datagram; raises :class:`ConnectionError` at the end."""
        item = self.get_nowait()
        if item is None and self._end is None:
            item = await self._wait()
        if item is None:
            raise ConnectionError(self._end)
        return item

    async def _wait(self) -> tuple[bytes, int] | None:
        if self._waiters is None:
            self._waiters = deque()
        waiter: asyncio.Future[tuple[bytes, int] | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.done() and not waiter.cancelled() and (item := waiter.result()) is not None:
                self._put_back(item)
            raise

    def _put_back(self, item: tuple[bytes, int]) -> None:
        """The waiter was cancelled with the datagram in its hand."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return
        self._room -= len(item[0]) + OVERHEAD
        if self._items is None:
            self._items = deque()
        self._items.appendleft(item)

    def end(self, why: str, *, discard: bool) -> None:
        """No more will come: what is there may still be read, unless it is to be discarded."""
        self._end = why
        if discard and self._items:
            self._items.clear()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
