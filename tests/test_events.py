"""What a connection tells: its events in order (F16), ``get_event`` (X06), consent that expires (RFC 7675)."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioice import Candidate, Connection, ConnectionClosed, ice, listeners
from aioice.ice import ConnectionEvent, ConsentExpired, LocalCandidate, SelectedPair, StateChanged

from .peers import (
    HOST,
    PATIENCE,
    check_data,
    close,
    connect,
    gather,
    host_candidate,
    introduce,
    meet,
    next_of,
    pair,
    signal,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("loopback")


async def collect(events: AsyncIterator[ConnectionEvent]) -> list[ConnectionEvent]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in events]


def described(event: ConnectionEvent) -> Any:
    """What tells one event from another, as a word."""
    if isinstance(event, StateChanged):
        return str(event.state)
    if isinstance(event, LocalCandidate):
        return event.candidate and event.candidate.component
    return type(event).__name__


# ----------------------------------------------------------------------------------------------------- local candidates


@pytest.mark.parametrize("components", [1, 2])
async def test_local_candidates_and_their_end(components: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """F16: each is told when it is found, then the end mark, once."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [HOST, "127.0.0.2"])
    connection = Connection(ice_controlling=True, components=components)
    events = connection.events()
    await connection.gather_candidates()
    await connection.gather_candidates()
    told = [(await next_of(events, LocalCandidate)).candidate for _ in range(2 * components + 1)]
    assert told == [*connection.local_candidates, None]
    await connection.close()
    assert [described(event) for event in await collect(events)] == ["closed", "ConnectionClosed"]


async def test_end_of_candidates_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    connection = Connection(ice_controlling=True, components=2)
    events = connection.events()
    await connection.gather_candidates()
    assert (await next_of(events, ConnectionEvent)).candidate is None
    await connection.close()


async def test_own_endpoints_are_told_too() -> None:
    """Those of a replaced ``get_component_candidates``, beside a component that is gathered as ever."""
    connection: Any = Connection(ice_controlling=True, components=3)
    original = connection.get_component_candidates

    async def own(component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
        if component == 3:
            return []
        if component == 2:
            found: list[Candidate] = await original(component, addresses, timeout)
            return found
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: ice.StunProtocol(connection), local_addr=(HOST, 0)
        )
        protocol.local_candidate = host_candidate(*transport.get_extra_info("sockname"), component=component)
        connection._protocols.append(protocol)
        return [protocol.local_candidate]

    connection.get_component_candidates = own
    events = connection.events()
    await connection.gather_candidates()
    told = [(await next_of(events, LocalCandidate)).candidate for _ in range(3)]
    assert sorted(candidate.component for candidate in told[:-1]) == [1, 2]
    assert told[-1] is None
    assert {id(candidate) for candidate in told[:-1]} == {id(found) for found in connection.local_candidates}
    await connection.close()


async def test_trickle_by_events_alone() -> None:
    """RFC 8838 in both directions: nothing is exchanged but what the events tell."""
    a, b = pair(components=2)
    introduce(a, b)

    async def forward(events: AsyncIterator[ConnectionEvent], to: Connection) -> None:
        async for event in events:
            if isinstance(event, LocalCandidate):
                await to.add_remote_candidate(event.candidate)
                if event.candidate is None:
                    return

    forwarding = [asyncio.ensure_future(forward(a.events(), b)), asyncio.ensure_future(forward(b.events(), a))]
    gathering = asyncio.ensure_future(gather(a, b))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await meet(a, b)
    await asyncio.gather(gathering, *forwarding)
    await check_data(a, b, 1, 2)
    await close(a, b)


# -------------------------------------------------------------------------------------------------- states and pairs


async def test_states_of_a_whole_life() -> None:
    a, b = pair()
    streams = a.events(), b.events()
    await connect(a, b)
    await until(lambda: a.state == b.state == "completed")
    await close(a, b)
    for events in streams:
        told = [event for event in await collect(events) if not isinstance(event, LocalCandidate)]
        states = [event.state for event in told if isinstance(event, StateChanged)]
        # Connected is passed over where the nomination comes with the first check.
        assert [state for state in states if state != "connected"] == ["checking", "completed", "closed"]
        assert states.count("connected") <= 1 and "connected" not in states[2:]
        assert isinstance(told[-1], ConnectionClosed) and told[-1].reason == "closed"
        assert sum(isinstance(event, ConnectionClosed) for event in told) == 1


async def test_selected_pair() -> None:
    a, b = pair(components=2)
    streams = {a: a.events(), b: b.events()}
    await connect(a, b)
    await until(lambda: a.state == b.state == "completed")
    pairs = {connection: dict(connection._nominated) for connection in streams}
    await close(a, b)
    for connection, events in streams.items():
        told = [event for event in await collect(events) if isinstance(event, SelectedPair)]
        for component in (1, 2):
            own = [event for event in told if event.component == component]
            assert [event.nominated for event in own] in ([False, True], [True])
            assert own[-1].local is pairs[connection][component].local_candidate
            assert own[-1].remote is pairs[connection][component].remote_candidate


async def test_why_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair()
    events = a.events()
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    await gather(a)
    await signal(a, b)
    with pytest.raises(ConnectionError):
        await a.connect()
    assert (await next_of(events, StateChanged)).state == "checking"
    last = await next_of(events, StateChanged)
    assert (last.state, last.reason) == ("failed", "no local candidates")
    assert repr(last) == "StateChanged(state=<ConnectionState.FAILED: 'failed'>, reason='no local candidates')"
    await close(a, b)


# -------------------------------------------------------------------------------------------------------- the iterator


async def test_every_reader_gets_all_from_its_start() -> None:
    connection = Connection(ice_controlling=True)
    early = connection.events()
    await connection.gather_candidates()
    late = connection.events()
    await connection.close()
    after = connection.events()
    assert [described(event) for event in await collect(early)] == [1, None, "closed", "ConnectionClosed"]
    assert [described(event) for event in await collect(late)] == ["closed", "ConnectionClosed"]
    assert [described(event) for event in await collect(after)] == ["ConnectionClosed"]
    for events in (early, late, after):
        assert await collect(events) == []


async def test_cancelled_reader_loses_nothing() -> None:
    connection = Connection(ice_controlling=True)
    events = connection.events()
    for moment in range(3):
        reading = asyncio.ensure_future(anext(events))
        await turns(moment)
        reading.cancel()
        await asyncio.wait([reading])
    await connection.gather_candidates()
    assert [described(await anext(events)) for _ in range(2)] == [1, None]
    await connection.close()


async def test_two_tasks_on_one_iterator() -> None:
    connection = Connection(ice_controlling=True)
    events = connection.events()
    reading = [asyncio.ensure_future(collect(events)) for _ in range(2)]
    await turns()
    await connection.gather_candidates()
    await connection.close()
    first, second = await asyncio.gather(*reading)
    assert len(first) + len(second) == 4


async def test_slow_reader_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_EVENTS", 3)
    connection = Connection(ice_controlling=True)
    events = connection.events()
    await connection.gather_candidates()
    await connection.close()
    assert [described(event) for event in await collect(events)] == [None, "closed", "ConnectionClosed"]


async def test_forgotten_readers_are_not_kept() -> None:
    connection = Connection(ice_controlling=True)
    events = connection.events()
    gone = weakref.ref(events)
    await connection.gather_candidates()
    assert described(await anext(events)) == 1
    del events
    assert gone() is None
    await connection.close()


# ------------------------------------------------------------------------------------------------------------ get_event


async def test_get_event_tells_the_end_once() -> None:
    a, b = pair()
    await connect(a, b)
    asking = asyncio.ensure_future(a.get_event())
    await turns()
    assert not asking.done()
    await close(a, b)
    event = await asking
    assert isinstance(event, ConnectionClosed) and event.reason == "closed"
    assert [await a.get_event(), await a.get_event()] == [None, None]
    # Nobody had asked.
    assert isinstance(await b.get_event(), ConnectionClosed)
    assert await b.get_event() is None


async def test_get_event_cancelled() -> None:
    """X06: at any moment, also when the end is already in its hand."""
    for moment in range(4):
        connection = Connection(ice_controlling=True)
        asking = asyncio.ensure_future(connection.get_event())
        await turns(moment)
        asking.cancel()
        await asyncio.wait([asking])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await connection.get_event()
        asking = asyncio.ensure_future(connection.get_event())
        await turns()
        closing = asyncio.ensure_future(connection.close())
        await turns(moment)
        asking.cancel()
        await asyncio.wait([asking, closing])
        last = await connection.get_event()
        assert isinstance(last, ConnectionClosed) or not asking.cancelled()
        assert await connection.get_event() is None


async def test_get_event_of_many() -> None:
    connection = Connection(ice_controlling=True)
    asking = [asyncio.ensure_future(connection.get_event()) for _ in range(5)]
    await turns()
    await connection.close()
    assert all(isinstance(event, ConnectionClosed) for event in await asyncio.gather(*asking))
    assert await asyncio.gather(*(connection.get_event() for _ in range(5))) == [None] * 5


async def test_get_event_lets_the_loop_run() -> None:
    """A loop around it must not stop everything else."""
    connection = Connection(ice_controlling=True)
    await connection.close()
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    running = asyncio.ensure_future(other())
    for _ in range(10):
        await connection.get_event()
    assert others >= 10
    running.cancel()


async def test_get_event_tells_nothing_else() -> None:
    a, b = pair()
    asking = asyncio.ensure_future(a.get_event())
    await connect(a, b)
    await until(lambda: a.state == b.state == "completed")
    await check_data(a, b)
    assert not asking.done()
    await close(a, b)
    assert isinstance(await asking, ConnectionClosed)


# -------------------------------------------------------------------------------------------------------------- consent


@pytest.fixture
def short_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.15)
    monkeypatch.setattr(ice, "CONSENT_FAILURES", 8)


async def test_consent_expires(short_consent: None) -> None:
    """RFC 7675 §5.1: sending ends, the connection closes and says why."""
    a, b = pair()
    await connect(a, b)
    await until(lambda: a.state == "completed")
    await b.send(b"the last words")
    events = a.events()
    asking = asyncio.ensure_future(a.get_event())
    await b.close()
    told = await collect(events)
    assert [described(event) for event in told] == ["disconnected", "ConsentExpired", "closed", "ConnectionClosed"]
    disconnected, expired, _, closed = told
    assert disconnected.reason == "consent checks are not answered"
    assert isinstance(expired, ConsentExpired) and expired.component == 1
    assert expired.reason == closed.reason
    assert (await asking).reason == closed.reason
    assert a.state == "closed" and not a._nominated and a._driver.idle
    # What came before is still there.
    assert await a.recv() == b"the last words"
    with pytest.raises(ConnectionError, match=f"^Connection lost while receiving data: {closed.reason}$"):
        await a.recv()
    with pytest.raises(ConnectionError, match=f"^Cannot send data, not connected: {closed.reason}$"):
        await a.send(b"data")
    await a.close()
    assert await a.get_event() is None


async def test_consent_of_one_component_is_enough(short_consent: None) -> None:
    """Each component has its own."""
    a, b = pair(components=2)
    await connect(a, b)
    await until(lambda: a.state == "completed")
    events = a.events()
    deaf: Any = b._nominated[2].protocol
    deaf.datagram_received = lambda data, addr: None
    expired = await next_of(events, ConsentExpired)
    assert expired.component == 2
    assert isinstance(await next_of(events, ConnectionClosed), ConnectionClosed)
    await close(a, b)


async def test_consent_is_renewed(short_consent: None) -> None:
    """Over more requests than make it expire."""
    a, b = pair()
    await connect(a, b)
    await until(lambda: a.state == "completed")
    asked = 0
    original = b._stun_received

    def count(*args: Any) -> None:
        nonlocal asked
        asked += 1
        original(*args)

    b._stun_received = count
    await until(lambda: asked >= 12)
    assert a.state == b.state == "completed"
    await check_data(a, b)
    await close(a, b)
