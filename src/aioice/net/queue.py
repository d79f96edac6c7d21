"""The datagrams that wait for ``recv``: bounded, first come first served, nothing lost by a cancelled wait."""

from __future__ import annotations

import asyncio
from collections import deque

#: What a datagram costs beside its bytes, for the bound.
OVERHEAD = 128

Item = tuple[bytes, int]


class ReceiveQueue:
    """Datagrams with their components; ``max_bytes`` bounds them, the newest is dropped and counted."""

    __slots__ = ("_items", "_components", "_waiters", "_room", "_end", "dropped")

    def __init__(self, max_bytes: int) -> None:
        self._items: deque[bytes] | None = None
        #: Of each of the items; None as long as all of them are of the first.
        self._components: deque[int] | None = None
        self._waiters: deque[asyncio.Future[Item]] | None = None
        self._room = max_bytes
        self._end: str | None = None
        #: Datagrams that found no room.
        self.dropped = 0

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return any(not waiter.done() for waiter in self._waiters or ())

    def put(self, data: bytes, component: int) -> None:
        if self._waiters and self._serve((data, component)):
            return
        room = self._room - len(data) - OVERHEAD
        if room < 0:
            self.dropped += 1
            return
        self._room = room
        if self._items is None:
            self._items = deque()
        self._items.append(data)
        if component != 1 or self._components is not None:
            self._note(component, 1)

    def put_many(self, datagrams: list[bytes], component: int) -> None:
        """As :meth:`put` for each of them."""
        cost = sum(map(len, datagrams)) + OVERHEAD * len(datagrams)
        if self._waiters or cost > self._room:
            for data in datagrams:
                self.put(data, component)
            return
        self._room -= cost
        if self._items is None:
            self._items = deque()
        self._items.extend(datagrams)
        if component != 1 or self._components is not None:
            self._note(component, len(datagrams))

    def _note(self, component: int, count: int) -> None:
        """The component of the ``count`` datagrams that have just been put."""
        assert self._items is not None
        if self._components is None:
            self._components = deque([1] * (len(self._items) - count))
        self._components.extend([component] * count)

    def pop(self) -> bytes | None:
        """The next datagram, if there is one."""
        items = self._items
        if not items:
            return None
        data = items.popleft()
        self._room += len(data) + OVERHEAD
        if self._components is not None:
            self._components.popleft()
        return data

    def pop_many(self, count: int) -> list[bytes]:
        """The next datagrams, ``count`` at most; perhaps none."""
        items = self._items
        if not items:
            return []
        if count >= len(items):
            datagrams = list(items)
            items.clear()
        else:
            datagrams = [items.popleft() for _ in range(count)]
        self._room += sum(map(len, datagrams)) + OVERHEAD * len(datagrams)
        if self._components is not None:
            for _ in datagrams:
                self._components.popleft()
        return datagrams

    def get_nowait(self) -> Item | None:
        """As :meth:`pop`, with the component."""
        if not self._items:
            return None
        component = 1 if self._components is None else self._components[0]
        data = self.pop()
        assert data is not None
        return data, component

    async def get(self) -> Item:
        """The next datagram; raises :class:`ConnectionError` at the end."""
        item = self.get_nowait()
        if item is None:
            waiter = self.waiter()
            try:
                item = await waiter
            except asyncio.CancelledError:
                self.give_up(waiter)
                raise
        return item

    def waiter(self, loop: asyncio.AbstractEventLoop | None = None) -> asyncio.Future[Item]:
        """For the next datagram, when there is none; who is cancelled while it waits must :meth:`give_up`.

        ``loop`` is the running one, if it is known: asking for it costs a system call (getpid, up to Python 3.11).

        Raises :class:`ConnectionError` at the end, as the future does when that comes.
        """
        if self._end is not None:
            raise ConnectionError(self._end)
        waiter: asyncio.Future[Item] = asyncio.Future(loop=loop)
        if self._waiters is None:
            self._waiters = deque()
        self._waiters.append(waiter)
        return waiter

    def give_up(self, waiter: asyncio.Future[Item]) -> None:
        """Nobody waits with this one any more; the datagram that it may have got goes to the next."""
        if self._waiters and waiter in self._waiters:
            self._waiters.remove(waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._put_back(waiter.result())

    def _serve(self, item: Item) -> bool:
        """Hand it to who has waited longest; whether anybody did."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return True
        return False

    def _put_back(self, item: Item) -> None:
        """The waiter was cancelled with the datagram in its hand."""
        if self._serve(item):
            return
        data, component = item
        self._room -= len(data) + OVERHEAD
        if self._items is None:
            self._items = deque()
        self._items.appendleft(data)
        if self._components is not None:
            self._components.appendleft(component)
        elif component != 1:
            self._components = deque([component] + [1] * (len(self._items) - 1))

    def end(self, why: str, *, discard: bool) -> None:
        """No more will come: what is there may still be read, unless it is to be discarded."""
        self._end = why
        self._room = -(1 << 62)
        if discard and self._items:
            self._items.clear()
            self._components = None
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(ConnectionError(why))
