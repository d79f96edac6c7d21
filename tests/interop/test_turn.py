"""TURN endpoints on coturn."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from aioice import stun, turn
from tests.interop.coturn import PASSWORD, USERNAME, Coturn


class Way(NamedTuple):
    """How to talk to the server."""

    transport: str
    tls: bool = False

    def __str__(self) -> str:
        return "tls" if self.tls else self.transport


WAYS = [Way("udp"), Way("tcp"), Way("tcp", tls=True)]


@pytest.fixture(scope="module")
def coturn() -> Iterator[Coturn]:
    with Coturn() as server:
        yield server


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.transport: asyncio.BaseTransport | None = None
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Echo(asyncio.DatagramProtocol):
    """Sends everything back."""

    def __init__(self) -> None:
        self.senders: set[Any] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.senders.add(addr[:2])
        self.transport.sendto(data, addr)


@asynccontextmanager
async def echo(host: str = "127.0.0.1") -> AsyncIterator[tuple[Echo, tuple[str, int]]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Echo, local_addr=(host, 0))
    try:
        yield protocol, transport.get_extra_info("sockname")[:2]
    finally:
        transport.close()


async def create(coturn: Coturn, way: Way, **options: Any) -> tuple[turn.TurnTransport, Client]:
    fields: dict[str, Any] = {"username": USERNAME, "password": PASSWORD}
    return await turn.create_turn_endpoint(
        Client,
        coturn.tls_address if way.tls else coturn.address,
        transport=way.transport,
        ssl=coturn.client_context() if way.tls else None,
        **(fields | options),
    )


async def close(transport: turn.TurnTransport, client: Client) -> None:
    transport.close()
    assert await asyncio.wait_for(client.lost, 5) is None


async def test_echo(coturn: Coturn, way: Way) -> None:
    transport, client = await create(coturn, way)
    assert client.transport is transport
    relayed = transport.get_extra_info("sockname")
    assert relayed[0] == "127.0.0.1"
    assert transport.get_extra_info("related_address")[0] == "127.0.0.1"
    async with echo() as (server, address):
        for number in range(1, 50):
            # Of all lengths, so that frames with and without padding come.
            data = bytes([number]) * number
            transport.sendto(data, address)
            assert await client.received.get() == (data, address)
        assert server.senders == {relayed}
    await close(transport, client)
    assert client.errors.empty()


async def test_many_peers_at_once(coturn: Coturn, way: Way) -> None:
    transport, client = await create(coturn, way)
    async with echo() as (_, one), echo() as (_, two):
        sent = [(b"%d" % number, address) for number in range(20) for address in (one, two)]
        for data, address in sent:
            transport.sendto(data, address)
        got = [await client.received.get() for _ in sent]
        assert sorted(got) == sorted(sent)
    await close(transport, client)


async def test_from_another_port_of_a_known_host(coturn: Coturn, way: Way) -> None:
    transport, client = await create(coturn, way)
    async with echo() as (_, one), echo() as (other, two):
        transport.sendto(b"ping", one)
        assert await client.received.get() == (b"ping", one)
        other.transport.sendto(b"hello", transport.get_extra_info("sockname"))
        assert await client.received.get() == (b"hello", two)
    await close(transport, client)


async def test_relay_to_relay(coturn: Coturn, way: Way) -> None:
    one, one_client = await create(coturn, way)
    two, two_client = await create(coturn, Way("udp"))
    first, second = one.get_extra_info("sockname"), two.get_extra_info("sockname")
    # Nobody hears the first packet but the server: it opens the way back.
    one.sendto(b"open", second)
    two.sendto(b"ping", first)
    assert await one_client.received.get() == (b"ping", second)
    one.sendto(b"pong", second)
    while (received := await two_client.received.get())[0] == b"open":
        continue
    assert received == (b"pong", first)
    await close(one, one_client)
    await close(two, two_client)


@pytest.mark.parametrize("wrong", [{"username": "unknown"}, {"password": "wrong"}], ids=str)
async def test_wrong_credentials(coturn: Coturn, way: Way, wrong: dict[str, str]) -> None:
    with pytest.raises(stun.TransactionFailed, match="401") as failed:
        await create(coturn, way, **wrong)
    assert failed.value.response.error_code == 401


@pytest.mark.parametrize("missing", [{"username": None}, {"password": None}], ids=str)
async def test_no_credentials(coturn: Coturn, way: Way, missing: dict[str, None]) -> None:
    with pytest.raises(stun.TransactionFailed, match="401"):
        await create(coturn, way, **missing)


async def test_close_deletes(coturn: Coturn, way: Way) -> None:
    transport, client = await create(coturn, way)
    relayed = transport.get_extra_info("sockname")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(OSError):
            sock.bind(relayed)
    await close(transport, client)
    async with asyncio.timeout(5):
        while not _can_bind(relayed):
            await asyncio.sleep(0.01)


def _can_bind(address: tuple[str, int]) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(address)
        except OSError:
            return False
        return True


async def test_forbidden_peer(way: Way) -> None:
    with Coturn("--denied-peer-ip=127.0.0.2") as coturn:
        transport, client = await create(coturn, way)
        transport.sendto(b"ping", ("127.0.0.2", 9))
        error = await client.errors.get()
        assert isinstance(error, stun.TransactionFailed)
        assert error.response.error_code == 403
        async with echo() as (_, address):
            transport.sendto(b"ping", address)
            assert await client.received.get() == (b"ping", address)
        await close(transport, client)


async def test_ipv6_server(way: Way) -> None:
    with Coturn(ip="::1", relay_ips=("127.0.0.1", "::1")) as coturn:
        transport, client = await create(coturn, way)
        assert transport.get_extra_info("sockname")[0] == "127.0.0.1"
        assert transport.get_extra_info("related_address")[0] == "::1"
        await close(transport, client)


async def test_stale_nonces(coturn: Coturn, way: Way) -> None:
    with Coturn("--stale-nonce=1") as coturn:
        transport, client = await create(coturn, way, lifetime=600)
        async with echo() as (_, address):
            transport.sendto(b"ping", address)
            assert await client.received.get() == (b"ping", address)
            # Older than the nonce: the next request is challenged.
            await asyncio.sleep(1.5)
            transport.sendto(b"ping", ("127.0.0.2", 9))
            transport.sendto(b"pong", address)
            assert await client.received.get() == (b"pong", address)
        await close(transport, client)
        assert client.errors.empty()


async def test_server_that_asks_nobody(way: Way) -> None:
    with Coturn(users={}) as coturn:
        transport, client = await create(coturn, way, username=None, password=None)
        async with echo() as (_, address):
            transport.sendto(b"ping", address)
            assert await client.received.get() == (b"ping", address)
        await close(transport, client)


async def test_quota(way: Way) -> None:
    with Coturn("--user-quota=1") as coturn:
        transport, client = await create(coturn, way)
        with pytest.raises(stun.TransactionFailed, match="486"):
            await create(coturn, way)
        await close(transport, client)


async def test_dead_server(way: Way) -> None:
    # F40
    with Coturn() as coturn:
        transport, client = await create(coturn, way)
        coturn.stop()
        transport.close()
        assert await asyncio.wait_for(client.lost, 10) is None


async def test_restarted_server(way: Way) -> None:
    # F41: the allocation is gone, and that is told.
    with Coturn() as coturn:
        transport, client = await create(coturn, way)
        coturn.stop()
        coturn.start()
        transport.sendto(b"ping", ("127.0.0.1", 9))
        reason = await asyncio.wait_for(client.lost, 10)
        assert isinstance(reason, ConnectionError)
        assert transport.is_closing()


async def test_certificate_of_another_name(coturn: Coturn) -> None:
    with pytest.raises(ConnectionError, match="TLS"):
        await turn.create_turn_endpoint(
            Client, ("127.0.0.1", coturn.tls_address[1]), USERNAME, PASSWORD, ssl=True, transport="tcp"
        )


async def test_name_is_looked_up(coturn: Coturn) -> None:
    context = coturn.client_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    address = ("localhost", coturn.tls_address[1])
    transport, client = await turn.create_turn_endpoint(
        Client, address, USERNAME, PASSWORD, ssl=context, transport="tcp"
    )
    await close(transport, client)
