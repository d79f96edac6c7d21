"""Data of two connections on real sockets: both ways, before, after, too big and too much."""

from __future__ import annotations

import array
import asyncio
import errno
import hashlib
import math
import random
import socket
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import uvloop

from aioice import Connection, ice
from aioice.core.machine import Unroute
from aioice.core.message import Method
from aioice.net import linux, sender
from aioice.testing import Here
from tests.net.support import NoReaders

from .peers import (
    HOST,
    PATIENCE,
    check_data,
    close,
    connect,
    gather,
    host_candidate,
    pair,
    signal,
    turns,
    until,
    use_hosts,
)

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
    monkeypatch.setattr("aioice.data.RECEIVE_BUFFER", 10 * (72 + 128))
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
    transaction = Mock()
    protocol.transactions = {stun[8:20]: transaction}
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


# ----------------------------------------------------------------------------------------- the batch API, the callback


async def test_send_nowait_and_many() -> None:
    a, b = pair(components=2)
    await connect(a, b)
    assert a.send_nowait(b"one") is True
    assert a.send_nowait(b"two", 2) is True
    await a.send_many([b"three", bytearray(b"four"), memoryview(b"five")])
    await a.send_many(iter([b"six"]), component=2)
    await a.send_many([])
    received = [await asyncio.wait_for(b.recvfrom(), PATIENCE) for _ in range(6)]
    for component, expected in ((1, [b"one", b"three", b"four", b"five"]), (2, [b"two", b"six"])):
        assert [data for data, number in received if number == component] == expected
    await close(a, b)


async def test_recv_many() -> None:
    a, b = pair(components=2)
    await connect(a, b)
    waiting = asyncio.ensure_future(b.recv_many())
    await turns()
    sent = [bytes([number]) for number in range(100)]
    await a.send_many(sent)
    received = await asyncio.wait_for(waiting, PATIENCE)
    while len(received) < 100:
        more = await asyncio.wait_for(b.recv_many(7), PATIENCE)
        assert 1 <= len(more) <= 7
        received += more
    assert received == sent
    with pytest.raises(ValueError):
        await b.recv_many(0)
    for component in (2, 1, 2):
        await a.sendto(b"to %d" % component, component)
        await until(lambda: b._queue._items)
    assert await b.recv_many(1) == [b"to 2"]
    await until(lambda: len(b._queue._items or ()) == 2)
    assert await b.recv_many(9) == [b"to 1", b"to 2"]
    await close(a, b)
    with pytest.raises(ConnectionError):
        await b.recv_many()


async def test_receiver() -> None:
    a, b = pair(components=2)
    await connect(a, b)
    await a.send(b"before")
    await until(lambda: b._queue._items)
    got: list[tuple[bytes, int]] = []
    b.set_receiver(lambda data, component: got.append((data, component)))
    assert got == [(b"before", 1)]
    with pytest.raises(RuntimeError, match="set_receiver"):
        await b.recv()
    await a.sendto(b"two", 2)
    await a.send_many([b"%d" % number for number in range(200)])
    await until(lambda: len(got) == 202)
    assert [data for data, component in got[1:] if component == 1] == [b"%d" % number for number in range(200)]
    b.set_receiver(None)
    waiting = asyncio.ensure_future(b.recv())
    await turns()
    with pytest.raises(RuntimeError, match="waiting"):
        b.set_receiver(print)
    await a.send(b"after")
    assert await asyncio.wait_for(waiting, PATIENCE) == b"after"
    await close(a, b)


async def test_receiver_that_raises_or_goes() -> None:
    a, b = pair()
    await connect(a, b)
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context["message"]))
    got: list[bytes] = []

    def receiver(data: bytes, component: int) -> None:
        got.append(data)
        if data == b"go":
            b.set_receiver(None)
        raise RuntimeError(data)

    b.set_receiver(receiver)
    await a.send_many([b"a", b"b", b"go", b"c", b"d"])
    await until(lambda: len(heard) == 3)
    assert [await asyncio.wait_for(b.recv(), PATIENCE) for _ in range(2)] == [b"c", b"d"]
    assert got == [b"a", b"b", b"go"] and len(heard) == 3
    await close(a, b)
    asyncio.get_running_loop().set_exception_handler(None)


async def test_a_subclass_that_takes_the_data_itself() -> None:
    class Taking(Connection):
        def data_received(self, data: bytes, component: int) -> None:
            super().data_received(data.upper(), component)

    a, b = Connection(ice_controlling=True), Taking(ice_controlling=False)
    await connect(a, b)
    b.datagrams_received([b"one", b"two"], 1)
    assert [await b.recv(), await b.recv()] == [b"ONE", b"TWO"]
    await close(a, b)


# ------------------------------------------------------------------------------------------------- many at a time


async def test_what_is_sent_in_one_turn_arrives_in_order() -> None:
    """Coalesced, cut again, and told from the checks that pass in between."""
    a, b = pair(receive_buffer=1 << 26)
    await connect(a, b)
    source = random.Random(7)
    sent, received = hashlib.sha256(), hashlib.sha256()
    count = 100_000
    arrived = 0
    number = 0
    while number < count:
        burst = min(source.choice([1, 3, 20]), count - number)
        size = source.randrange(1400)
        for _ in range(burst):
            data = source.randbytes(size if source.random() < 0.9 else source.randrange(1400))
            sent.update(len(data).to_bytes(2, "big") + data)
            await a.send(data)
        number += burst
        while arrived < number:
            for data in await b.recv_many(1000):
                received.update(len(data).to_bytes(2, "big") + data)
                arrived += 1
    assert received.digest() == sent.digest()
    assert a.dropped == b.dropped == {}
    await close(a, b)


async def test_stun_in_a_batch_is_no_data() -> None:
    """What was read together is cut before it is told apart."""
    a, b = pair()
    await connect(a, b)
    peer = b._nominated[1]
    protocol: Any = peer.protocol
    # Of one size: data, a success response to nothing, something malformed, data whose fifth byte is that of STUN.
    stun = bytes.fromhex("010100002112a442000102030405060708090a0b")
    batch = [b"a" * 20, stun, stun[:3] + b"\4" + stun[4:], b"b" * 4 + b"\x21" + b"b" * 15, b"\x80" + stun[1:], b"end"]
    protocol.batch_received(b"".join(batch), 20, peer.remote_addr)
    assert await b.recv_many() == [batch[0], batch[3], batch[4], batch[5]]
    assert b.dropped["malformed"] == 1
    protocol.batch_received(b"".join(batch[:1] * 3), 20, ("127.0.0.1", 9))
    assert b.dropped["data of a stranger"] == 3
    # asyncio's own transports give the addresses of IPv6 in another form.
    protocol.accepted["::1", 5] = 1
    protocol.batch_received(b"onetwo", 3, ("::1", 5, 0, 0))
    protocol.datagram_received(b"three", ("::1", 5, 0, 0))
    assert await b.recv_many() == [b"one", b"two", b"three"]
    await close(a, b)


async def test_a_batch_ends_with_its_connection() -> None:
    """A check in it may be what ends it; nothing of what follows is data."""
    a, b = pair()
    await connect(a, b)
    peer = b._nominated[1]
    received: list[bytes] = []

    def receive(data: bytes, component: int) -> None:
        received.append(data)
        peer.protocol.transport.close()

    b.set_receiver(receive)
    stun = bytes.fromhex("010100002112a442000102030405060708090a0b")
    peer.protocol.batch_received(b"a" * 20 + stun + b"b" * 20, 20, peer.remote_addr)
    assert received == [b"a" * 20]
    await close(a, b)


async def test_send_many_on_a_transport_that_closes() -> None:
    """It takes nothing, and does not say so for as long as it has something to send: that is no reason to spin."""
    a, b = pair()
    await connect(a, b)
    a._nominated[1].protocol.transport.close()
    await a.send_many([b"one", b"two"])
    await close(a, b)


@pytest.mark.parametrize("many", [1, 5, 200])
async def test_close_sends_what_was_accepted(many: int) -> None:
    """DTLS and SCTP end so."""
    a, b = pair()
    await connect(a, b)
    for number in range(many):
        await a.send(b"%d" % number)
    await a.close()
    assert [await asyncio.wait_for(b.recv(), PATIENCE) for _ in range(many)] == [b"%d" % n for n in range(many)]
    await b.close()


async def test_expired_consent_discards_what_waits_and_a_restart_does_not() -> None:
    """RFC 7675 §5.1."""
    a, b = pair()
    await connect(a, b)
    for number in range(10):
        await a.send(b"%d" % number)
    a.restart()
    received = [await asyncio.wait_for(b.recv(), PATIENCE) for _ in range(10)]
    assert received == [b"%d" % number for number in range(10)]
    await turns()
    for number in range(10):
        await a.send(b"%d" % number)
    # As the agent says it when consent has expired.
    a._handle_output(Unroute(1))
    await a.close()
    await until(lambda: b._queue._items)
    await turns()
    assert len(b._queue._items or ()) < 10
    await b.close()


@pytest.mark.parametrize("silent", [False, True])
async def test_what_waits_when_the_pair_changes(silent: bool) -> None:
    """RFC 7675 §5.1: it leaves on the old pair, unless that one's consent is in doubt."""
    a, b = pair()
    await connect(a, b)
    await until(lambda: a.state == b.state == "completed")
    use = a._nominated[1]
    transport: Any = use.protocol.transport
    block(transport)
    await a.send(b"old")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HOST, 0))
        if silent:
            a._handle_output(Unroute(1))
        there = other.getsockname()
        a._use(1, use.protocol, host_candidate(*there), there)
        await a.send(b"new")
        unblock(transport)
        await until(lambda: not transport.get_write_buffer_size())
        assert other.recv(100) == b"new"
    await turns()
    assert b._queue.pop() == (None if silent else b"old")
    await close(a, b)


@pytest.mark.parametrize("data", [bytearray(b"data"), memoryview(b"xdata")[1:], array.array("I", [1, 2])])
async def test_whatever_holds_bytes(data: Any) -> None:
    """What the caller does with its buffer afterwards is of no matter."""
    a, b = pair()
    await connect(a, b)
    sent = bytes(data)
    for _ in range(4):
        await a.send(data)
    if isinstance(data, bytearray):
        data[:] = b"gone"
    assert [await asyncio.wait_for(b.recv(), PATIENCE) for _ in range(4)] == [sent] * 4
    for wrong in (5, "text", None):
        with pytest.raises(TypeError):
            await a.send(wrong)  # type: ignore[arg-type]
    await close(a, b)


# -------------------------------------------------------------------------------------------------- back-pressure


async def test_send_waits_while_the_socket_is_blocked() -> None:
    a, b = pair(send_buffer=1000)
    await connect(a, b)
    transport: Any = a._nominated[1].protocol.transport
    block(transport)
    sent = 0
    while a.send_nowait(bytes(100)):
        sent += 1
    assert 1000 // 100 < sent < 20
    assert not a.send_nowait(b"x", 1)
    sending = [asyncio.ensure_future(a.send(b"%d" % number)) for number in range(3)]
    many = asyncio.ensure_future(a.send_many([b"many"] * 3))
    cancelled = asyncio.ensure_future(a.send(b"never"))
    await turns()
    assert not any(task.done() for task in [*sending, many])
    cancelled.cancel()
    unblock(transport)
    await asyncio.wait_for(asyncio.gather(*sending, many), PATIENCE)
    received = [await asyncio.wait_for(b.recv(), PATIENCE) for _ in range(sent + 6)]
    assert received == [bytes(100)] * sent + [b"0", b"1", b"2"] + [b"many"] * 3
    await close(a, b)


@pytest.mark.parametrize("end", ["close", "unroute"])
async def test_who_waits_for_room_learns_of_the_end(end: str) -> None:
    a, b = pair(send_buffer=100)
    await connect(a, b)
    transport: Any = a._nominated[1].protocol.transport
    block(transport)
    while a.send_nowait(bytes(100)):
        pass
    sending = asyncio.ensure_future(a.send(b"x"))
    await turns()
    if end == "close":
        await a.close()
    else:
        a._handle_output(Unroute(1))
    with pytest.raises(ConnectionError, match="not connected"):
        await asyncio.wait_for(sending, PATIENCE)
    unblock(transport)
    await close(a, b)


async def test_drops_on_the_way_out_are_counted() -> None:
    a, b = pair(send_buffer=1 << 30)
    await connect(a, b)
    transport: Any = a._nominated[1].protocol.transport
    block(transport)
    for _ in range(40):
        await a.send(bytes(60000))
    assert a.dropped["send queue full"] == 40 - sender.QUEUE_BYTES // 60000
    transport.discard(a._nominated[1].remote_addr)
    unblock(transport)
    await check_data(a, b)
    await close(a, b)
    assert a.dropped["send queue full"] == 40 - sender.QUEUE_BYTES // 60000


async def test_send_waits_on_a_relay_without_a_channel() -> None:
    """Data leaves through the machine then, over the same socket to the server."""
    async with Here() as here:
        server = here.turn_server({"user": "password"})
        server.silence(Method.CHANNEL_BIND)
        turn = {"turn_server": server.address, "turn_username": "user", "turn_password": "password"}
        a = Connection(True, send_buffer=1000, candidate_types={"relay"}, **turn)  # type: ignore[arg-type]
        b = Connection(False)
        await connect(a, b)
        links = a._driver.links if a._driver is not None else {}
        (transport,) = [transport for link, transport in links.items() if a._agent.is_server_link(link)]
        block(transport)
        sent = 0
        while sent < 100 and a.send_nowait(bytes(100)):
            sent += 1
        assert 1 < sent < 1000 // 100
        sending = asyncio.ensure_future(a.send(b"waits"))
        await turns()
        assert not sending.done()
        unblock(transport)
        await asyncio.wait_for(sending, PATIENCE)
        assert [await asyncio.wait_for(b.recv(), PATIENCE) for _ in range(sent + 1)] == [bytes(100)] * sent + [b"waits"]
        await close(a, b)


def block(transport: Any) -> None:
    """As a full interface does it."""

    def blocked(*args: Any) -> int:
        raise BlockingIOError

    transport._send = blocked
    transport._batch_below = 0


def unblock(transport: Any) -> None:
    transport._send = transport._sock.sendto


# ------------------------------------------------------------------------------------- other loops, other transports


async def through_all_ways() -> None:
    """Every verb, on whatever transport is below."""
    a, b = pair()
    await connect(a, b)
    await check_data(a, b)
    sent = [bytes([number]) * 50 for number in range(30)]
    for data in sent[:10]:
        await a.send(data)
    await a.send_many(sent[10:20])
    assert all(a.send_nowait(data) for data in sent[20:])
    received: list[bytes] = []
    while len(received) < 30:
        received += await asyncio.wait_for(b.recv_many(), PATIENCE)
    assert received == sent
    with pytest.raises(ConnectionError) as caught:
        await a.send_many([bytes(70000)])
    assert caught.value.errno == errno.EMSGSIZE
    got: list[bytes] = []
    b.set_receiver(lambda data, component: got.append(data))
    await a.send(b"bye")
    await a.close()
    await until(lambda: got)
    assert got == [b"bye"]
    await b.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop, NoReaders])
def test_on_every_loop(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(through_all_ways(), 2 * PATIENCE))


def test_with_batches_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "HAS_OFFLOAD", False)
    asyncio.run(through_all_ways())


@pytest.mark.parametrize("size", [-1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["receive_buffer", "send_buffer"])
def test_a_buffer_has_a_size(name: str, size: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number of bytes"):
        Connection(True, **{name: size})  # type: ignore[arg-type]
