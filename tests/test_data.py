"""Data of two connections on real sockets: both ways, before, after, too big and too much."""

from __future__ import annotations

import asyncio
import errno
import socket
from unittest.mock import Mock

import pytest

from aioice import Connection, ice

from .peers import HOST, PATIENCE, check_data, close, connect, gather, pair, signal, turns, until, use_hosts

pytestmark = pytest.mark.usefixtures("loopback")


async def test_empty_datagram() -> None:
    a, b = pair()
    await connect(a, b)
    for data in (b"", b"x", b""):
        await a.send(data)
        assert await asyncio.wait_for(b.recv(), PATIENCE) == data
    await close(a, b)


async def test_before_connect() -> None:
    a, b = pair()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="^Cannot send data, not connected$"):
            await a.send(b"data")
        with pytest.raises(ConnectionError, match="^Cannot send data, not connected$"):
            await a.sendto(b"data", 1)
        for receive in (a.recv, a.recvfrom):
            with pytest.raises(ConnectionError, match="^Cannot receive data, not connected$"):
                await receive()
        await gather(a)
    await connect(a, b)
    with pytest.raises(ConnectionError, match="not connected"):
        await a.sendto(b"data", 2)
    await close(a, b)


async def test_after_close() -> None:
    a, b = pair()
    await connect(a, b)
    await close(a, b)
    with pytest.raises(ConnectionError, match="^Cannot send data, not connected: closed$"):
        await a.send(b"data")
    with pytest.raises(ConnectionError, match="^Connection lost while receiving data: closed$"):
        await a.recv()
    with pytest.raises(ConnectionError, match="^Cannot connect, the connection is closed$"):
        await a.connect()
    with pytest.raises(ConnectionError, match="^Cannot gather candidates, the connection is closed$"):
        await a.gather_candidates()
    with pytest.raises(ConnectionError, match="^Cannot restart, the connection is closed$"):
        a.restart()


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", 65507), ("::1", 65527)])
async def test_too_big(host: str, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """X07."""
    use_hosts(monkeypatch, host)
    a, b = pair()
    await connect(a, b)
    for size in (largest + 1, 70000):
        with pytest.raises(ConnectionError, match=f"^.*Cannot send {size} bytes: ") as caught:
            await a.send(bytes(size))
        assert caught.value.errno == errno.EMSGSIZE
    await a.send(bytes(largest))
    assert await asyncio.wait_for(b.recv(), PATIENCE) == bytes(largest)
    await check_data(a, b)
    await close(a, b)


async def test_receive_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """F52: the newest are dropped and counted, and there is room again when some are read."""
    monkeypatch.setattr(ice, "RECEIVE_BUFFER", 10 * (72 + 128))
    a, b = pair()
    await connect(a, b)
    for number in range(25):
        await a.send(number.to_bytes(72))
    await until(lambda: b.dropped.get("receive queue full") == 15)
    for number in range(10):
        assert await b.recv() == number.to_bytes(72)
    await check_data(a, b)
    assert b.dropped["receive queue full"] == 15
    await close(a, b)


async def test_cancelled_recv_loses_nothing() -> None:
    a, b = pair()
    await connect(a, b)
    for data in (b"one", b"two"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await b.recv()
        await a.send(data)
        assert await asyncio.wait_for(b.recv(), PATIENCE) == data
    await close(a, b)


async def test_recv_cancelled_with_the_datagram_in_its_hand() -> None:
    a, b = pair()
    await connect(a, b)
    receiving = asyncio.ensure_future(b.recv())
    await asyncio.sleep(0)
    b.data_received(b"one", 1)
    b.data_received(b"two", 1)
    receiving.cancel()
    await turns()
    assert receiving.cancelled()
    assert [await b.recv(), await b.recv()] == [b"one", b"two"]
    # The next in the line gets it.
    first, second = asyncio.ensure_future(b.recv()), asyncio.ensure_future(b.recv())
    await asyncio.sleep(0)
    b.data_received(b"three", 1)
    first.cancel()
    assert await asyncio.wait_for(second, PATIENCE) == b"three"
    await close(a, b)


async def test_several_recv_are_served_in_turn() -> None:
    a, b = pair()
    await connect(a, b)
    receiving = [asyncio.ensure_future(b.recv()) for _ in range(3)]
    await asyncio.sleep(0)
    for data in (b"one", b"two", b"three", b"four"):
        await a.send(data)
    assert await asyncio.wait_for(asyncio.gather(*receiving), PATIENCE) == [b"one", b"two", b"three"]
    assert await asyncio.wait_for(b.recv(), PATIENCE) == b"four"
    last = [asyncio.ensure_future(b.recv()) for _ in range(3)]
    await asyncio.sleep(0)
    await close(a, b)
    for error in await asyncio.gather(*last, return_exceptions=True):
        assert isinstance(error, ConnectionError)


async def test_data_is_kept_until_recv() -> None:
    """Also what comes before the receiver knows that it is connected (RFC 8445 §12.2)."""
    a, b = pair()
    await gather(a, b)
    await signal(a, b)
    connecting = asyncio.ensure_future(b.connect())
    await asyncio.wait_for(a.connect(), PATIENCE)
    sent = [bytes([number]) for number in range(50)]
    for data in sent:
        await a.send(data)
    await asyncio.wait_for(connecting, PATIENCE)
    assert [await asyncio.wait_for(b.recv(), PATIENCE) for _ in sent] == sent
    await close(a, b)


async def test_recv_between_two_pairs() -> None:
    """A restart may leave none in use for a moment: that is no end, and what has come is not lost."""
    a, b = pair()
    await connect(a, b)
    await a.send(b"before")
    await until(lambda: b._queue._items)
    route = b._nominated.pop(1)
    assert await b.recv() == b"before"
    receiving = asyncio.ensure_future(b.recv())
    await turns()
    assert not receiving.done()
    b._nominated[1] = route
    await a.send(b"after")
    assert await asyncio.wait_for(receiving, PATIENCE) == b"after"
    await close(a, b)


@pytest.mark.parametrize("receiver", [None, object(), "connection"])
async def test_protocol_that_no_connection_has_taken_over(receiver: object) -> None:
    """Whatever comes is dropped and counted, also by the connection once it knows the protocol."""
    connection = Connection(ice_controlling=True)
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(
        lambda: ice.StunProtocol(connection if receiver == "connection" else receiver), local_addr=(HOST, 0)
    )
    stun = bytes.fromhex("010100002112a442000102030405060708090a0b")
    transaction = protocol.transactions[stun[8:20]] = Mock()
    for data in (b"data", b"data", stun[:-1], stun[:3] + b"\4" + stun[4:], b"\0" + stun[1:-1] + b"\0"):
        protocol.datagram_received(data, (HOST, 9))
    protocol.peer_unreachable((HOST, 9), OSError())
    dropped = {"data of a stranger": 2, "malformed": 1, "STUN before the socket was taken over": 2}
    assert protocol.dropped == dropped
    assert transaction.mock_calls == []
    connection._protocols.append(protocol)
    assert connection.dropped == dropped
    await connection.close()
    assert connection.dropped == dropped
    await protocol.close()


async def test_strangers() -> None:
    """F23, F05, F06, X02: what is not the peer's is no data, nor is anything that looks like STUN."""
    a, b = pair()
    await connect(a, b)
    address = (HOST, a.local_candidates[0].port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(1000):
            stranger.sendto(b"knock", address)
        await until(lambda: sum(a.dropped.values()) == 1000)
    assert a.dropped == {"data of a stranger": 1000}
    peer = b._nominated[1].protocol.transport
    for looks_like_stun in (
        "020000002112a442000102030405060708090a0b",
        "010100042112a442000102030405060708090a0b00200000",
        "000100002112a442000102030405060708090a",
    ):
        peer.sendto(bytes.fromhex(looks_like_stun), address)
    await check_data(a, b)
    assert sum(a.dropped.values()) == 1003
    await close(a, b)
