"""Closing at any moment and from any state, cancelling any call: nothing is left (F50, F51)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from aioice import Candidate, Connection, ConnectionClosed, ice, stun

from .peers import (
    HOST,
    PATIENCE,
    TURNS,
    check_data,
    close,
    connect,
    gather,
    host_candidate,
    introduce,
    meet,
    nothing_left,
    pair,
    signal,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("loopback")

Step = Callable[[Connection, Connection], Awaitable[Any]]


# ----------------------------------------------------------------------------------------------- close in any state


async def new(a: Connection, b: Connection) -> None:
    pass


async def told_of_the_peer(a: Connection, b: Connection) -> None:
    await gather(b)
    await signal(b, a)


async def gathered(a: Connection, b: Connection) -> None:
    await gather(a, b)


async def signalled(a: Connection, b: Connection) -> None:
    await gather(a, b)
    await signal(a, b)


async def looking_up_a_name(a: Connection, b: Connection) -> None:
    await gather(a)
    await a.add_remote_candidate(host_candidate("3b0f8a6e-9d0c-4b1a-8d7e-000000000000.local", 9))
    await turns()


async def checking(a: Connection, b: Connection) -> None:
    await gather(a, b)
    introduce(a, b)
    await a.add_remote_candidate(host_candidate(HOST, 9))
    connecting = asyncio.ensure_future(a.connect())
    await until(lambda: a.state == "checking")
    connecting.cancel()


async def failed(a: Connection, b: Connection) -> None:
    a.get_component_candidates = no_candidates
    await gather(a)
    introduce(a, b)
    with pytest.raises(ConnectionError):
        await a.connect()
    assert a.state == "failed"


async def completed(a: Connection, b: Connection) -> None:
    await connect(a, b)
    await until(lambda: a.state == b.state == "completed")


async def with_data_unread(a: Connection, b: Connection) -> None:
    await connect(a, b)
    for _ in range(10):
        await b.send(b"data")
    await turns()


async def restarted(a: Connection, b: Connection) -> None:
    await connect(a, b)
    a.restart()
    introduce(a, b)
    connecting = asyncio.ensure_future(a.connect())
    await turns()
    connecting.cancel()


async def selected(a: Connection, b: Connection) -> None:
    await gather(a, b)
    await signal(a, b)
    a.set_selected_pair(1, a.local_candidates[0].foundation, a.remote_candidates[0].foundation)


async def closed(a: Connection, b: Connection) -> None:
    await connect(a, b)
    await close(a, b)


async def no_candidates(component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
    return []


STATES: list[Step] = [
    new,
    told_of_the_peer,
    gathered,
    signalled,
    looking_up_a_name,
    checking,
    failed,
    connect,
    completed,
    with_data_unread,
    restarted,
    selected,
    closed,
]


@pytest.mark.parametrize("reach", STATES)
async def test_close_in_every_state(reach: Step) -> None:
    async with nothing_left() as connections:
        a, b = pair()
        connections += [a, b]
        await reach(a, b)
        for connection in (a, b):
            await connection.close()
            assert connection.state == "closed"
            assert connection._driver is None or connection._driver.idle
        await a.close()
        with pytest.raises(ConnectionError):
            await a.send(b"data")
        with pytest.raises(ConnectionError):
            await a.recv()
        assert isinstance(await a.get_event(), ConnectionClosed)
        assert await a.get_event() is None


@pytest.mark.parametrize("reach", STATES)
async def test_close_many_times_at_once(reach: Step) -> None:
    async with nothing_left() as connections:
        a, b = pair()
        connections += [a, b]
        await reach(a, b)
        await close(a, a, b, a)


@pytest.mark.parametrize("reach", STATES)
@pytest.mark.parametrize("moment", range(4))
async def test_close_cancelled(reach: Step, moment: int) -> None:
    async with nothing_left() as connections:
        a, b = pair()
        connections += [a, b]
        await reach(a, b)
        for connection in (a, b):
            closing = asyncio.ensure_future(connection.close())
            await turns(moment)
            closing.cancel()
            await asyncio.wait([closing])
            # It had not even begun to run.
            assert connection.state == "closed" or moment == 0
        await close(a, b)


async def test_async_with() -> None:
    async with nothing_left() as connections:
        async with Connection(ice_controlling=True) as a, Connection(ice_controlling=False) as b:
            connections += [a, b]
            await connect(a, b)
            await check_data(a, b)
        with pytest.raises(ZeroDivisionError):
            async with Connection(ice_controlling=True) as c:
                connections.append(c)
                await c.gather_candidates()
                raise ZeroDivisionError


def test_made_before_any_loop() -> None:
    a, b = pair()
    a.ice_controlling = True
    protocol = ice.StunProtocol(a)
    assert protocol.receiver is a
    introduce(a, b)

    async def main() -> None:
        async with nothing_left() as connections:
            connections += [a, b]
            await connect(a, b)
            await check_data(a, b)
            await close(a, b)

    asyncio.run(main())


def test_closed_before_anything() -> None:
    connection = Connection(ice_controlling=True)
    asyncio.run(connection.close())
    assert connection.state == "closed"
    asyncio.run(connection.close())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("reach", STATES)
def test_close_after_the_loop(reach: Step, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The loop ended first, with a connection in any state; sockets are closed by a later one."""
    a, b = pair()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(reach(a, b))
    ports = [candidate.port for connection in (a, b) for candidate in connection.local_candidates]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(close(a, b))
    assert a.state == b.state == "closed"
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind((HOST, port))


# ----------------------------------------------------------------------------------------- close while something runs


async def test_close_in_the_turn_after_gathering_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """F50."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [f"127.0.0.{n}" for n in range(1, 6)])
    for moment in range(8):
        async with nothing_left() as connections:
            connection = Connection(ice_controlling=True, components=2)
            connections.append(connection)
            gathering = asyncio.ensure_future(connection.gather_candidates())
            await turns(moment)
            await connection.close()
            assert connection._driver is None or connection._driver.idle
            if moment:
                await gathering
            else:
                with pytest.raises(ConnectionError):
                    await gathering


@pytest.mark.parametrize("option", ["stun_server", "turn_server"])
async def test_close_while_a_server_is_asked(option: str) -> None:
    """F51: gathering ends at once, and no timer fires on what is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        async with nothing_left() as connections:
            servers: Any = {option: silent.getsockname()}
            connection = Connection(ice_controlling=True, turn_username="user", turn_password="pass", **servers)
            connections.append(connection)
            gathering = asyncio.ensure_future(connection.gather_candidates())
            await until(lambda: connection.local_candidates)
            assert not gathering.done()
            await connection.close()
            await gathering
            assert connection.local_candidates == []
            # A TURN server may still answer with an allocation, which has to be deleted.
            assert connection._driver is not None and connection._driver.idle is (option == "stun_server")
            await until(lambda: connection._driver.idle)


async def test_close_twice_at_once_while_a_relay_is_deleted() -> None:
    """Both calls return when the server answers, and do not wait for the end of their patience."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        server.setblocking(False)
        async with nothing_left() as connections:
            connection = Connection(
                ice_controlling=True, turn_server=server.getsockname(), turn_username="user", turn_password="pass"
            )
            connections.append(connection)
            gathering = asyncio.ensure_future(connection.gather_candidates())
            await until(lambda: connection.local_candidates)
            request, address = await asyncio.get_running_loop().sock_recvfrom(server, 1500)
            closing = [asyncio.ensure_future(connection.close()) for _ in range(2)]
            await turns()
            assert not any(task.done() for task in closing)
            refusal = stun.Message(
                message_method=stun.Method.ALLOCATE,
                message_class=stun.Class.ERROR,
                transaction_id=stun.parse_message(request).transaction_id,
            )
            refusal.attributes["ERROR-CODE"] = (508, "Insufficient Capacity")
            server.sendto(bytes(refusal), address)
            await until(lambda: connection._driver is not None and connection._driver.idle)
            await turns()
            assert all(task.done() for task in closing)
            await gathering


async def test_close_while_own_endpoint_is_opened() -> None:
    """What a replaced ``get_component_candidates`` opens after the end is closed too, whenever that is."""
    for moment in range(1, 9):
        async with nothing_left() as connections:
            connection: Any = Connection(ice_controlling=True)
            connections.append(connection)

            async def own(
                component: int, addresses: list[str], timeout: float = 5, connection: Any = connection
            ) -> list[Candidate]:
                loop = asyncio.get_running_loop()
                transport, protocol = await loop.create_datagram_endpoint(
                    lambda: ice.StunProtocol(connection), local_addr=(HOST, 0)
                )
                protocol.local_candidate = host_candidate(*transport.get_extra_info("sockname"))
                connection._protocols.append(protocol)
                return [protocol.local_candidate]

            connection.get_component_candidates = own
            gathering = asyncio.ensure_future(connection.gather_candidates())
            await turns(moment)
            await connection.close()
            await asyncio.wait([gathering])
            await until(lambda connection=connection: connection._gather_task is None)


async def test_close_while_own_gathering_hangs() -> None:
    async with nothing_left() as connections:
        connection: Any = Connection(ice_controlling=True)
        connections.append(connection)
        hanging = asyncio.get_running_loop().create_future()
        connection.get_component_candidates = lambda component, addresses: hanging
        gathering = asyncio.ensure_future(connection.gather_candidates())
        await turns()
        await connection.close()
        await asyncio.wait_for(gathering, PATIENCE)
        hanging.set_exception(OSError("nobody hears of it"))


async def test_gathering_that_fails() -> None:
    async with nothing_left() as connections:
        connection: Any = Connection(ice_controlling=True, components=2)
        connections.append(connection)

        async def broken(component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
            raise OSError("no more ports")

        connection.get_component_candidates = broken
        for _ in range(2):
            with pytest.raises(OSError, match="no more ports"):
                await connection.gather_candidates()
        connection.remote_username, connection.remote_password = "user", "p" * 22
        with pytest.raises(ConnectionError, match="no local candidates"):
            await asyncio.wait_for(connection.connect(), PATIENCE)
        await connection.close()


async def test_close_while_all_kinds_of_waiters_wait() -> None:
    async with nothing_left() as connections:
        a, b = pair()
        connections += [a, b]
        await connect(a, b)
        events = a.events()
        receiving = [asyncio.ensure_future(a.recv()), asyncio.ensure_future(a.recvfrom())]
        asking = [asyncio.ensure_future(a.get_event()) for _ in range(3)]
        iterating = asyncio.ensure_future(collect(events))
        await turns()
        await close(a, b)
        for error in await asyncio.gather(*receiving, return_exceptions=True):
            assert isinstance(error, ConnectionError)
        assert all(isinstance(event, ConnectionClosed) for event in await asyncio.gather(*asking))
        assert isinstance((await iterating)[-1], ConnectionClosed)


async def collect(events: Any) -> list[Any]:
    return [event async for event in events]


async def test_close_while_both_connect() -> None:
    for moment in range(12):
        async with nothing_left() as connections:
            a, b = pair(components=2)
            connections += [a, b]
            await gather(a, b)
            await signal(a, b)
            connecting = [asyncio.ensure_future(a.connect()), asyncio.ensure_future(b.connect())]
            await turns(moment)
            await close(a, b)
            for error in await asyncio.gather(*connecting, return_exceptions=True):
                assert error is None or isinstance(error, ConnectionError)


async def test_close_from_a_waiter() -> None:
    """The end of the peer wakes a reader, which closes in its turn."""
    async with nothing_left() as connections:
        a, b = pair()
        connections += [a, b]
        await connect(a, b)

        async def read() -> None:
            try:
                while True:
                    await a.recv()
            except ConnectionError:
                await a.close()

        reading = asyncio.ensure_future(read())
        await turns()
        await close(a, b)
        await asyncio.wait_for(reading, PATIENCE)


# ------------------------------------------------------------------------------------------------------ cancelled calls


async def gathering(a: Connection, b: Connection) -> None:
    await a.gather_candidates()


async def connecting(a: Connection, b: Connection) -> None:
    await asyncio.gather(a.connect(), b.connect())


async def receiving(a: Connection, b: Connection) -> None:
    await a.recv()


async def waiting_for_events(a: Connection, b: Connection) -> None:
    await asyncio.gather(a.get_event(), anext(a.events()))


@pytest.mark.parametrize(
    ("reach", "call"),
    [(new, gathering), (signalled, connecting), (connect, receiving), (connect, waiting_for_events)],
)
@pytest.mark.parametrize("then_close", [True, False])
async def test_cancelled_at_any_moment(reach: Step, call: Step, then_close: bool) -> None:
    """And what was cancelled works when it is called again, or can be closed."""
    for moment in range(TURNS):
        async with nothing_left() as connections:
            a, b = pair()
            connections += [a, b]
            await reach(a, b)
            calling = asyncio.ensure_future(call(a, b))
            await turns(moment)
            calling.cancel()
            await asyncio.wait([calling])
            if not then_close:
                if call is gathering:
                    await gather(a, b)
                    await signal(a, b)
                await meet(a, b)
                await check_data(a, b)
            await close(a, b)


async def test_gather_cancelled_does_not_cancel_others() -> None:
    a, b = pair()
    first = asyncio.ensure_future(a.gather_candidates())
    second = asyncio.ensure_future(a.gather_candidates())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert len(a.local_candidates) == 1
    await close(a, b)


async def test_gather_cancelled_and_closed_in_one_turn() -> None:
    """It is the caller's cancellation that it hears of."""
    async with nothing_left() as connections:
        connection: Any = Connection(ice_controlling=True)
        connections.append(connection)
        hanging = asyncio.get_running_loop().create_future()
        connection.get_component_candidates = lambda component, addresses: hanging
        gathering = asyncio.ensure_future(connection.gather_candidates())
        await turns()
        closing = asyncio.ensure_future(connection.close())
        gathering.cancel()
        await asyncio.wait([gathering, closing])
        assert gathering.cancelled()
        hanging.cancel()


async def test_stun_request_cancelled() -> None:
    """No timer of a transaction outlives it (F53, F51)."""
    async with nothing_left():
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(
            lambda: ice.StunProtocol(Connection(ice_controlling=True)), local_addr=(HOST, 0)
        )
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        for moment in range(4):
            asking = asyncio.ensure_future(protocol.request(request, (HOST, 9)))
            await turns(moment)
            asking.cancel()
            await asyncio.wait([asking])
            assert protocol.transactions == {}
        await protocol.close()
        await protocol.close()


async def test_protocol_whose_transport_was_closed_before() -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: ice.StunProtocol(None), local_addr=(HOST, 0))
    transport.close()
    await turns()
    await asyncio.wait_for(protocol.close(), PATIENCE)
    await asyncio.wait_for(protocol.close(), PATIENCE)
