"""The local candidates of a connection: how a program has them gathered, and which of them there are.

What it may have changed until then, and in :mod:`.ice`, is read there.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .core.address import canonical_host
from .core.bases import BaseLost, Found, Withdrawn
from .core.events import LocalCandidate
from .core.gathering import Gathered
from .core.record import NOTHING
from .net.host import AsyncioHost
from .running import RunningAgent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from .core.candidate import Candidate
    from .mdns import Publication

#: By the name that programs know.
logger = logging.getLogger("aioice.ice")


class Gathering(RunningAgent):
    """The part of a connection that gathers."""

    __slots__ = (
        "_hide_host_addresses",
        "_local_candidates",
        "_gather_started",
        "_gather_task",
        "_gathering",
        "_gathered",
        "_publication",
    )

    _hide_host_addresses: bool

    def __init__(self, receive_buffer: int | None, send_buffer: int | None) -> None:
        super().__init__(receive_buffer, send_buffer)
        self._local_candidates: list[Candidate] = []
        self._gather_started = False
        self._gather_task: asyncio.Future[None] | None = None
        #: What callers wait for: the gathering, or that the connection closes.
        self._gathering: asyncio.Future[None] | None = None
        self._gathered: Mapping[int, asyncio.Future[None]] = NOTHING
        #: What answers for the names that stand for our addresses.
        self._publication: Publication | None = None

    def _read_attributes(self, now: float) -> None:
        """The agent is told what may be set until gathering starts."""
        raise NotImplementedError

    def _host_addresses(self) -> list[str]:
        """Those to gather from."""
        raise NotImplementedError

    @property
    def local_candidates(self) -> list[Candidate]:
        """A copy of the list of local candidates, filled while they are gathered."""
        return self._local_candidates[:]

    def get_default_candidate(self, component: int) -> Candidate | None:
        """The local candidate to be named in the SDP's ``c=`` and ``m=`` lines: the most likely to work, a relayed one
        if there is one (RFC 8839 §4.2.1.2), or None.
        """
        candidates = [candidate for candidate in self._local_candidates if candidate.component == component]
        return min(candidates, key=lambda candidate: candidate.priority, default=None)

    async def gather_candidates(self) -> None:
        """Gather local candidates; they are in :attr:`local_candidates`, and told as events when they are found.

        Must have begun before :meth:`connect`, which need not wait for it; a task begins when its maker next awaits
        something that waits. A server that does not answer holds it for about a second; what is found later still
        becomes a candidate. A second call waits for the first.

        :raises ConnectionError: when the connection is closed; when there is no candidate at all because no port of
            ``port_range`` is free, which is only logged if there are others.
        """
        if self._closed:
            raise ConnectionError("Cannot gather candidates, the connection is closed")
        if not self._gather_started:
            self._gather_started = True
            self._gathering = asyncio.get_running_loop().create_future()
            self._gather_task = asyncio.ensure_future(self._gather())
            self._gather_task.add_done_callback(self._gather_done)
        if self._gathering is not None:
            await asyncio.shield(self._gathering)

    async def gather(self) -> AsyncIterator[Candidate]:
        """Gather like :meth:`gather_candidates`, and yield the candidates as they are found.

        Ends when nothing more will be found: that may be long after :meth:`gather_candidates` would have returned, for
        silent servers are given all the time of a transaction. Called again, it begins with those that are known.

        :raises ConnectionError: when the connection is closed before.
        """
        events, known = self._all_listeners().reader(), self.local_candidates
        if self._agent.gathering_ended:
            for candidate in known:
                yield candidate
            return
        gathering = asyncio.ensure_future(self.gather_candidates())
        gathering.add_done_callback(
            lambda task: events.put(LocalCandidate(None)) if task.cancelled() or task.exception() else None
        )
        try:
            for candidate in known:
                yield candidate
            async for event in events:
                if isinstance(event, LocalCandidate):
                    if event.candidate is None:
                        break
                    yield event.candidate
            else:
                await gathering
            if gathering.done():
                gathering.result()
        finally:
            gathering.cancel()

    def _gather_done(self, task: asyncio.Future[None]) -> None:
        """A failure is kept for further callers; the caller of the first may have been cancelled and not see it."""
        self._gather_task = None
        exc = asyncio.CancelledError() if task.cancelled() else task.exception()
        if exc is None or self._gathering is None:
            self._end_waiting_for_gathering()
        elif isinstance(exc, asyncio.CancelledError):
            self._gathering.cancel()
        else:
            self._gathering.set_exception(exc)
            self._gathering.exception()

    def _end_waiting_for_gathering(self) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is not None and not gathering.done():
            gathering.set_result(None)

    async def _gather(self) -> None:
        driver = self._running_driver()
        self._read_attributes(driver.now())
        addresses = self._host_addresses()
        try:
            components = range(1, self._agent.components + 1)
            gathering = [self._gather_component(component, addresses) for component in components]
            if len(gathering) == 1:
                await gathering[0]
            else:
                await asyncio.gather(*gathering)
        finally:
            if self._closed:
                self._close_unadopted()
            else:
                self._adopt_protocols()
                driver.do(self._agent.end_gathering)
        self._tell_ports_in_use()

    async def _hide_hosts(self, addresses: list[str]) -> bool:
        """Give them names before there is a candidate that could show them; False if we were closed meanwhile."""
        if self._publication is None:
            from .mdns import Publication

            self._publication = Publication()
        await self._publication.add([canonical_host(address.partition("%")[0]) for address in addresses])
        if self._closed:
            return False
        self._running_driver().do(self._agent.hide, self._publication.names)
        return True

    def _tell_ports_in_use(self) -> None:
        host = self._running_driver().host
        exc = host.ports_in_use if isinstance(host, AsyncioHost) else None
        if exc is None or self._closed:
            return
        logger.warning("%s A host candidate is missing: %s", self, exc.strerror)
        if not self._local_candidates:
            raise ConnectionError(exc.errno, f"Cannot gather candidates, {exc.strerror}")

    async def _gather_component(self, component: int, addresses: list[str]) -> None:
        told = await self.get_component_candidates(component=component, addresses=addresses)
        if not self._closed:
            # A program that has wrapped or replaced the method says with its result which candidates there are.
            candidates = [c for c in self._local_candidates if c.component != component or c in told]
            self._local_candidates = candidates + [c for c in told if c not in candidates]

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: float = 5
    ) -> list[Candidate]:
        """Gather the candidates of one component from the given addresses.

        Programs wrap this to change the addresses or the time (seconds), or replace it to open their own endpoints.
        """
        if self._closed:
            return []
        driver = self._running_driver()
        if not self._gather_started:
            self._read_attributes(driver.now())
        if self._hide_host_addresses and not await self._hide_hosts(addresses):
            return []
        gathered = driver.loop.create_future()
        self._gathered = {**self._gathered, component: gathered}
        driver.do(self._agent.gather, component, addresses, timeout)
        if not gathered.done():
            await gathered
        return [candidate for candidate in self._local_candidates if candidate.component == component]

    def _told(self, event: object) -> None:
        if isinstance(event, LocalCandidate):
            # An endpoint that the application opened itself may have been listed by it.
            if event.candidate is not None and event.candidate not in self._local_candidates:
                self._local_candidates.append(event.candidate)
        elif isinstance(event, Gathered):
            gathered = self._gathered.get(event.component)
            self._gathered = {n: other for n, other in self._gathered.items() if n != event.component} or NOTHING
            if gathered is not None and not gathered.done():
                gathered.set_result(None)
        elif isinstance(event, Found):
            self._base_found(event)
        elif isinstance(event, BaseLost):
            self._base_lost(event)
        elif isinstance(event, Withdrawn):
            self._local_candidates = [c for c in self._local_candidates if c is not event.candidate]
        super()._told(event)

    def _base_found(self, found: Found) -> None:
        protocol = self._protocol_of(found.base.link)
        if protocol is not None:
            protocol.local_candidate = found.base.shown
            if protocol not in self._protocols:
                self._protocols.append(protocol)

    def _base_lost(self, lost: BaseLost) -> None:
        """A socket or a relay has ended by itself: its candidates are no more."""
        self._local_candidates = [c for c in self._local_candidates if c not in lost.candidates]
        for protocol in [protocol for protocol in self._protocols if protocol.link == lost.link]:
            self._keep_drops(protocol)
            self._protocols.remove(protocol)

    def _end_gathering(self) -> None:
        self._local_candidates.clear()
        if self._publication is not None:
            self._publication.end()
        # A program's own way to gather is not cut short: what it opens is closed when it returns.
        self._end_waiting_for_gathering()
        for gathered in self._gathered.values():
            if not gathered.done():
                gathered.set_result(None)
