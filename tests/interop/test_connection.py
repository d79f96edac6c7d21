"""Connections over relays of coturn: UDP, TCP and TLS to the server, relay to host and relay to relay."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from aioice import Connection, TransportPolicy
from aioice.core.demux import MAX_DATA
from aioice.ice import ConnectionEvent, LocalCandidate
from tests.interop.coturn import PASSWORD, USERNAME, Coturn
from tests.peers import PATIENCE, check_data, close, connect, gather, pair, until

pytestmark = pytest.mark.usefixtures("loopback")
WAYS = ["udp", "tcp", "tls"]


@pytest.fixture(scope="module")
def coturn() -> Iterator[Coturn]:
    with Coturn() as server:
        yield server


def relayed(coturn: Coturn, way: str, *, controlling: bool, components: int = 1) -> Connection:
    tls = way == "tls"
    return Connection(
        controlling,
        components=components,
        turn_server=coturn.tls_address if tls else coturn.address,
        turn_username=USERNAME,
        turn_password=PASSWORD,
        turn_ssl=tls,
        turn_transport="udp" if way == "udp" else "tcp",
        transport_policy=TransportPolicy.RELAY,
        ssl_context=coturn.client_context() if tls else None,
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("controlling", [True, False])
async def test_relay_to_host(coturn: Coturn, way: str, controlling: bool) -> None:
    a, b = relayed(coturn, way, controlling=controlling), Connection(not controlling)
    await connect(a, b)
    assert [candidate.type for candidate in a.local_candidates] == ["relay"]
    assert a._nominated[1].local_candidate.type == "relay"
    for _ in range(20):
        await check_data(a, b)
    await close(a, b)


@pytest.mark.parametrize("way", WAYS)
async def test_relay_to_relay(coturn: Coturn, way: str) -> None:
    a, b = relayed(coturn, way, controlling=True), relayed(coturn, "udp", controlling=False)
    await connect(a, b)
    for connection in (a, b):
        assert connection._nominated[1].protocol.transport.get_extra_info("sockname")[0] == "127.0.0.1"
    for _ in range(20):
        await check_data(a, b)
    await close(a, b)


@pytest.mark.parametrize("way", WAYS)
async def test_too_big(coturn: Coturn, way: str) -> None:
    """X07"""
    a, b = relayed(coturn, way, controlling=True), Connection(False)
    await connect(a, b)
    with pytest.raises(ConnectionError, match=f"Cannot send {MAX_DATA + 1} bytes: ") as caught:
        await a.send(bytes(MAX_DATA + 1))
    assert caught.value.errno == errno.EMSGSIZE
    if way != "udp":  # coturn takes less in one datagram
        await a.send(bytes(MAX_DATA))
        assert await asyncio.wait_for(b.recv(), PATIENCE) == bytes(MAX_DATA)
    await check_data(a, b)
    await close(a, b)


@pytest.mark.parametrize("way", ["tcp", "tls"])
async def test_the_server_goes_away(way: str) -> None:
    """A relay that is lost is no candidate any more."""
    with Coturn() as server:
        a = relayed(server, way, controlling=True)
        await gather(a)
        assert len(a.local_candidates) == len(a._protocols) == 1
        server.stop()
        await until(lambda: not a.local_candidates)
        assert a._protocols == [] and a._agent.local_candidates == []
        await close(a)


async def test_two_components(coturn: Coturn) -> None:
    a, b = relayed(coturn, "udp", controlling=True, components=2), Connection(False, components=2)
    await connect(a, b)
    await check_data(a, b, 1, 2)
    await close(a, b)


async def test_the_policy_hides_the_related_address(coturn: Coturn) -> None:
    """RFC 9429 §3.5.3"""
    a = relayed(coturn, "udp", controlling=True)
    await gather(a)
    (candidate,) = a.local_candidates
    assert (candidate.related_address, candidate.related_port) == ("0.0.0.0", 9)
    await close(a)


async def test_a_direct_path_is_preferred(coturn: Coturn) -> None:
    a = Connection(True, turn_server=coturn.address, turn_username=USERNAME, turn_password=PASSWORD)
    b = Connection(False)
    events = a.events()
    await connect(a, b)
    assert {candidate.type for candidate in a.local_candidates} == {"host", "relay"}
    assert a._nominated[1].local_candidate.type == "host"
    found = [event.candidate async for event in events_until_end(events)]
    assert {candidate.type for candidate in found if candidate is not None} == {"host", "relay"}
    await close(a, b)


async def events_until_end(events: AsyncIterator[ConnectionEvent]) -> AsyncIterator[LocalCandidate]:
    async for event in events:
        if isinstance(event, LocalCandidate):
            if event.candidate is None:
                return
            yield event


async def test_wrong_password(coturn: Coturn) -> None:
    """The refused relay does not hold the host candidate up."""
    a, b = pair()
    a.turn_server, a.turn_username, a.turn_password = coturn.address, USERNAME, "wrong"
    await connect(a, b)
    assert [candidate.type for candidate in a.local_candidates] == ["host"]
    await check_data(a, b)
    await close(a, b)


async def test_stun_server(coturn: Coturn) -> None:
    """coturn answers Binding requests; on the loopback the reflexive address is the host's, so it is redundant."""
    a, b = Connection(True, stun_server=coturn.address), Connection(False, stun_server=("localhost", coturn.address[1]))
    await connect(a, b)
    assert [candidate.type for candidate in [*a.local_candidates, *b.local_candidates]] == ["host", "host"]
    await close(a, b)


@pytest.mark.parametrize("way", WAYS)
async def test_data_does_not_pass_the_machine(coturn: Coturn, way: str) -> None:
    """Once a channel is bound: neither out nor in, by whatever verb."""
    a, b = relayed(coturn, way, controlling=True), Connection(False)
    await connect(a, b)
    protocol: Any = a._nominated[1].protocol
    async with asyncio.timeout(PATIENCE):
        while not protocol.transport._channels:
            await check_data(a, b)
    assert a._driver is not None
    passed: list[Any] = []
    a._driver.relay_send = lambda *args: passed.append(args)
    received_by_machine = a._stun_received

    def watched(link: int, peer: Any, data: bytes) -> None:
        if data[0] >= 0x40:
            passed.append(data)
        received_by_machine(link, peer, data)

    a._stun_received = watched  # type: ignore[method-assign]
    sent = [b"%d" % number * 100 for number in range(40)]
    for one, other in ((a, b), (b, a)):
        for data in sent[:20]:
            await one.send(data)
        await one.send_many(sent[20:])
        received: list[bytes] = []
        while len(received) < 40:
            received += await asyncio.wait_for(other.recv_many(), PATIENCE)
        assert received == sent
    assert passed == []
    # What is accepted is sent before the relay goes.
    await a.send(b"bye")
    await a.close()
    assert await asyncio.wait_for(b.recv(), PATIENCE) == b"bye"
    await b.close()
