"""Connections as applications use them, on the simulated loop: what needs more than two hosts and a NAT."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Any

import pytest

from aioice import Candidate, Connection, ConnectionState, mdns
from aioice.core.events import ConnectionClosed
from aioice.core.message import Method
from aioice.sim import Fate, Host, World, current_host
from aioice.turn import create_turn_endpoint

from .simulated import close, connected, exchange, gathered, introduced, natted, servers, talk
from .support import STUN, TURN

pytestmark = pytest.mark.usefixtures("ice_world")


def public(world: World, **options: Any) -> tuple[Host, Host]:
    return world.host("192.0.2.1", **options), world.host("192.0.2.2", **options)


def types(connection: Connection) -> list[str]:
    return sorted(candidate.type for candidate in connection.local_candidates)


async def test_ten_minutes(ice_world: World) -> None:
    """Nothing happens but consent (RFC 7675 §5.1), every 4 to 6 seconds from both sides."""
    pair = await connected(*public(ice_world))
    await talk(*pair)
    await asyncio.sleep(1)
    begin = len(ice_world.packets)
    await asyncio.sleep(600)
    assert [connection.state for connection in pair] == [ConnectionState.COMPLETED] * 2
    assert 2 * 2 * 100 <= len(ice_world.packets) - begin <= 2 * 2 * 150
    await close(*pair)
    await asyncio.sleep(10)
    assert ice_world.next_time() is None


async def test_interfaces_of_both_families(ice_world: World) -> None:
    left = ice_world.host("192.0.2.1", "2001:db8::1")
    left.join(ice_world.nat("203.0.113.1"), "10.0.0.2")
    connection = await gathered(left, True)
    assert {c.host for c in connection.local_candidates} == {"192.0.2.1", "2001:db8::1", "10.0.0.2"}
    six = await gathered(left, True, use_ipv4=False)
    assert [c.host for c in six.local_candidates] == ["2001:db8::1"]
    right = await gathered(ice_world.host("2001:db8::2"), False)
    await exchange(connection, right)
    await asyncio.gather(connection.connect(), right.connect())
    await talk(connection, right)
    await close(connection, right, six)


@pytest.mark.parametrize("turn", [{"turn_transport": "tcp"}, {"turn_transport": "tcp", "turn_ssl": True}])
async def test_only_streams_get_out(ice_world: World, turn: dict[str, Any]) -> None:
    """A firewall that blocks UDP: everything goes through the relay, over TCP or TLS."""
    natted(ice_world)
    ice_world.names.add("turn.example", TURN[0])
    left, right = ice_world.firewall(udp=False).host("192.0.2.33"), ice_world.host("192.0.2.2")
    port = 5349 if "turn_ssl" in turn else 3478
    relayed = {**servers(), "turn_server": ("turn.example", port), "ssl_context": ssl.create_default_context(), **turn}
    one, other = await asyncio.gather(gathered(left, True, **relayed), gathered(right, False))
    assert types(one) == ["host", "relay"]
    await exchange(one, other)
    await asyncio.gather(one.connect(), other.connect())
    await talk(one, other)
    await asyncio.sleep(700)
    await talk(one, other)
    await close(one, other)
    sent = [packet for packet in ice_world.packets if packet.src[0] == "192.0.2.33"]
    assert {packet.transport for packet in sent} == {"udp", "tcp"}
    assert {packet.fate for packet in sent if packet.transport == "udp"} == {Fate.BLOCKED}


@pytest.mark.parametrize("others", [True, False])
async def test_a_relay_whose_transport_is_closed(ice_world: World, others: bool) -> None:
    """RFC 8656 §8.1: the server may forget it at once; the session goes on if it does not stand on it."""
    server = ice_world.turn_server(TURN[0], username="user", password="secret")
    kinds = {"candidate_types": {"host", "relay"} if others else {"relay"}}
    left, right = public(ice_world)
    one, other = await asyncio.gather(gathered(left, True, **servers(), **kinds), gathered(right, False))
    await exchange(one, other)
    await asyncio.gather(one.connect(), other.connect())
    await talk(one, other)
    assert len(server.allocations) == 1
    (relayed,) = [protocol for protocol in one._protocols if protocol.local_candidate.type == "relay"]
    assert others or one._nominated[1].protocol is relayed
    relayed.transport.close()
    await asyncio.sleep(1)
    assert server.allocations == {}
    assert types(one) == (["host"] if others else [])
    if others:
        await talk(one, other)
    else:
        with pytest.raises(ConnectionError, match="closed by the application"):
            await one.send(b"data")
    await close(one, other)


async def test_certificate_of_another(ice_world: World) -> None:
    ice_world.names.add("turn.example", TURN[0])
    ice_world.turn_server(TURN[0], username="user", password="secret", certificate="other.example")
    relayed = {**servers(), "turn_server": ("turn.example", 5349), "turn_transport": "tcp", "turn_ssl": True}
    connection = await gathered(ice_world.host("192.0.2.1"), True, **relayed)
    assert types(connection) == ["host"]
    await connection.close()


async def test_names_of_servers(ice_world: World) -> None:
    """A name that takes its time, one that is not there, and one whose server says nothing."""
    loop = asyncio.get_running_loop()
    host = natted(ice_world)[0]
    ice_world.names.add("slow.example", STUN[0], delay=0.4)
    ice_world.names.silence("dead.example")
    for name, expected, taken in (
        ("slow.example", ["host", "srflx"], 0.45),
        ("gone.example", ["host"], 0.01),
        ("dead.example", ["host"], 1.0),
    ):
        begun = loop.time()
        connection = await gathered(host, True, stun_server=(name, 3478))
        assert (types(connection), round(loop.time() - begun, 6)) == (expected, taken)
        await connection.close()


async def test_a_server_that_is_down(ice_world: World) -> None:
    server = ice_world.stun_server(STUN[0])
    server.silence(Method.BINDING, times=1)
    connection = await gathered(ice_world.nat("203.0.113.1").host("10.0.0.2"), True, stun_server=STUN)
    assert types(connection) == ["host", "srflx"]
    assert server.count(Method.BINDING) == 2
    await connection.close()


async def test_mdns_names_on_a_lan(ice_world: World) -> None:
    """draft-ietf-mmusic-mdns-ice-candidates: a name is published on one host and found from another, by multicast."""
    lan = ice_world.nat("203.0.113.1")
    left, right = lan.host("10.0.0.2", "2001:db8::2"), lan.host("10.0.0.3")
    stranger = ice_world.nat("203.0.113.2").host("10.0.0.4")
    name = "0b8a5e0e-7a5c-4d6e-9c59-1d8b6f3f0001.local"
    with right:
        publisher = await mdns.create_mdns_protocol()
        await publisher.publish(name, "10.0.0.3")

    async def look_up() -> str | None:
        resolver = await mdns.create_mdns_protocol()
        try:
            return await resolver.resolve(name)
        finally:
            await resolver.close()

    assert await left.create_task(look_up()) == "10.0.0.3"
    assert await stranger.create_task(look_up()) is None

    one, other = await asyncio.gather(gathered(left, True), gathered(right, False))
    await exchange(other, one)
    one.remote_username, one.remote_password = other.local_username, other.local_password
    (known,) = other.local_candidates
    hidden = Candidate(known.foundation, 1, "udp", known.priority, name, known.port, "host")
    await close(one)
    one = await gathered(left, True)
    one.remote_username, one.remote_password = other.local_username, other.local_password
    other.remote_username, other.remote_password = one.local_username, one.local_password
    await one.add_remote_candidate(hidden)
    await one.add_remote_candidate(None)
    await asyncio.gather(one.connect(), other.connect())
    await talk(one, other)
    await close(one, other)
    await publisher.close()


async def test_turn_endpoint(ice_world: World) -> None:
    """A relay as a transport of its own, and what the relay may not reach."""
    natted(ice_world)
    left, right = public(ice_world)
    received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            assert current_host() is left
            received.put_nowait((data, addr))

    peer = right.bind("192.0.2.2", 9000)
    peer.on_datagram = lambda source, data: peer.send(source, data.upper()) and None
    with left:
        relay, _ = await create_turn_endpoint(Protocol, TURN, username="user", password="secret")
    relay.sendto(b"hello", ("192.0.2.2", 9000))
    assert await received.get() == (b"HELLO", ("192.0.2.2", 9000))
    relay.close()


async def test_a_pulled_cable_ends_the_consent(ice_world: World) -> None:
    hosts = public(ice_world)
    left, right = await connected(*hosts)
    await asyncio.sleep(10)
    begun = ice_world.now
    hosts[1].interfaces[0].down()
    assert isinstance(await left.get_event(), ConnectionClosed)
    assert 20 < ice_world.now - begun <= 36.1
    await close(left, right)


async def test_data_that_is_too_big(ice_world: World) -> None:
    left, right = await connected(*public(ice_world))
    with pytest.raises(ConnectionError) as caught:
        await left.send(bytes(65508))
    assert caught.value.errno == errno.EMSGSIZE
    await left.send(bytes(65507))
    assert len(await right.recv()) == 65507
    await close(left, right)


async def test_refused_by_the_peer(ice_world: World) -> None:
    """ICMP "port unreachable" reaches the agent, which does not wait for that pair."""
    hosts = public(ice_world, refuses=True)
    left, right = await introduced(*hosts)
    await right.close()
    await asyncio.sleep(1)
    begun = len(ice_world.packets)
    with pytest.raises(ConnectionError):
        await left.connect()
    refused = [packet for packet in ice_world.packets[begun:] if packet.fate is Fate.REFUSED]
    assert refused
    await left.close()


async def test_a_thin_line(ice_world: World) -> None:
    """64 kbit/s and 50 KB to send: eight packets fit the queue, the rest is lost."""
    left_host, right_host = public(ice_world)
    left, right = await connected(left_host, right_host)
    await asyncio.sleep(2)
    left_host.shape("up", rate=64_000, queue=8 * 1028)
    begun = ice_world.now
    for _ in range(50):
        await left.send(bytes(1000))
    got = [await right.recv() for _ in range(8)]
    assert len(got) == 8
    assert round(ice_world.now - begun, 3) == round(8 * 1028 * 8 / 64_000 + 0.025, 3)
    await asyncio.sleep(5)
    assert sum(packet.fate is Fate.QUEUE_FULL for packet in ice_world.packets) >= 42
    await close(left, right)


def test_other_users_of_the_loop(ice_world: World) -> None:
    """A program's own sockets share the network with its connections."""
    hosts = public(ice_world)

    async def ask_the_time() -> bytes:
        reader, writer = await asyncio.open_connection("192.0.2.2", 13, family=socket.AF_INET)
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        return data

    async def tell_the_time(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{asyncio.get_running_loop().time():.3f}".encode())
        writer.close()

    async def main() -> bytes:
        with hosts[1]:
            await asyncio.start_server(tell_the_time, port=13)
        pair = await connected(*hosts)
        answer = await hosts[0].create_task(ask_the_time())
        await close(*pair)
        return answer

    assert ice_world.run(main()) == b"0.100"
