"""Who waits for the events of a connection: callers of ``get_event`` and readers of ``events``."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakSet

from .core.events import ConnectionClosed, ConnectionEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Events that wait for a slow reader; beyond them the oldest is dropped.
MAX_EVENTS = 1024


class Listeners:
    """The listeners of one connection; forgotten readers are no burden."""

    __slots__ = ("_waiters", "_readers", "_closed", "_told")

    def __init__(self) -> None:
        self._waiters: tuple[asyncio.Future[ConnectionEvent], ...] = ()
        self._readers: WeakSet[EventReader] | None = None
        #: The last event.
        self._closed: ConnectionClosed | None = None
        #: Somebody has got it from :meth:`get_event`.
        self._told = False

    def tell(self, event: ConnectionEvent) -> None:
        """An event has happened; nothing is told after :class:`ConnectionClosed`."""
        if self._closed is not None:
            return
        for reader in self._readers or ():
            reader.put(event)
        if isinstance(event, ConnectionClosed):
            self._closed = event
            self._readers = None
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(event)

    async def get_event(self) -> ConnectionEvent | None:
        """Wait for :class:`ConnectionClosed`; None once that was told. The loop runs at least once."""
        if self._closed is not None:
            await asyncio.sleep(0)
            if self._told:
                return None
            self._told = True
            return self._closed
        waiter: asyncio.Future[ConnectionEvent] = asyncio.get_running_loop().create_future()
        self._waiters += (waiter,)
        try:
            await asyncio.sleep(0)
            event = await waiter
        finally:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)
        self._told = True
        return event

    def reader(self) -> EventReader:
        """An iterator over the events from now on."""
        reader = EventReader()
        if self._closed is not None:
            reader.put(self._closed)
        else:
            if self._readers is None:
                self._readers = WeakSet()
            self._readers.add(reader)
        return reader


class EventReader:
    """An async iterator of events that ends with :class:`ConnectionClosed`."""

    def __init__(self) -> None:
        self._events: deque[ConnectionEvent] = deque(maxlen=MAX_EVENTS)
        self._waiters: set[asyncio.Future[None]] = set()
        self._over = False

    def put(self, event: ConnectionEvent) -> None:
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[ConnectionEvent]:
        return self

    async def __anext__(self) -> ConnectionEvent:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        event = self._events.popleft()
        if isinstance(event, ConnectionClosed):
            self._over = True
            self._wake()
        return event
