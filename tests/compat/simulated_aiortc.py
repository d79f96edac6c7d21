"""aiortc in a simulated network: a data channel through two NATs. ``run_aiortc.py`` runs it with aiortc installed."""

from __future__ import annotations

import asyncio

import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from aioice.sim import Host, World

STUN = RTCIceServer("stun:198.51.100.1:3478")
TURN = RTCIceServer("turn:198.51.100.2:3478?transport=tcp", username="user", credential="secret")


async def offer(servers: list[RTCIceServer]) -> tuple[RTCPeerConnection, RTCDataChannel]:
    connection = RTCPeerConnection(RTCConfiguration(servers))
    channel = connection.createDataChannel("chat")
    await connection.setLocalDescription(await connection.createOffer())
    return connection, channel


async def answer(servers: list[RTCIceServer], description: RTCSessionDescription) -> RTCPeerConnection:
    """Says everything that it hears once more."""
    connection = RTCPeerConnection(RTCConfiguration(servers))

    @connection.on("datachannel")
    def opened(channel: RTCDataChannel) -> None:
        channel.on("message", lambda message: channel.send(f"echo {message}"))

    await connection.setRemoteDescription(description)
    await connection.setLocalDescription(await connection.createAnswer())
    return connection


async def talk(left: Host, right: Host, servers: list[RTCIceServer]) -> float:
    """Returns the virtual time at which the echo was there."""
    loop = asyncio.get_running_loop()
    one, channel = await left.create_task(offer(servers))
    other = await right.create_task(answer(servers, one.localDescription))
    heard: asyncio.Future[str] = loop.create_future()
    channel.on("open", lambda: channel.send("hello"))
    channel.on("message", heard.set_result)
    await left.create_task(one.setRemoteDescription(other.localDescription))
    assert await heard == "echo hello"
    taken = loop.time()
    await asyncio.sleep(60)
    assert (one.connectionState, other.connectionState) == ("connected", "connected")
    await left.create_task(one.close())
    await right.create_task(other.close())
    return taken


def hosts(world: World, mapping: str) -> tuple[Host, Host]:
    world.stun_server("198.51.100.1")
    world.turn_server("198.51.100.2", username="user", password="secret")
    nats = [world.nat(f"203.0.113.{number}", mapping=mapping) for number in (1, 2)]
    return nats[0].host("10.0.1.2"), nats[1].host("10.0.2.2")


@pytest.mark.ice_world(timeout=120.0)
async def test_direct(ice_world: World) -> None:
    """Gathering 50 ms, checks, DTLS and SCTP: well below a second at 50 ms of round trip."""
    assert await talk(*hosts(ice_world, "endpoint-independent"), [STUN]) < 1


@pytest.mark.ice_world(timeout=120.0)
async def test_relayed(ice_world: World) -> None:
    """Where no direct path exists, by the relay, over TCP."""
    assert await talk(*hosts(ice_world, "address-and-port-dependent"), [STUN, TURN]) < 2


def test_same_packets_of_ice(ice_world: World) -> None:
    """What aiortc's ICE sends is the same in each run (what DTLS draws, is OpenSSL's)."""
    logs = []
    for world in (ice_world, World()):
        world.run(talk(*hosts(world, "endpoint-independent"), [STUN]), timeout=120)
        logs.append([packet.data for packet in world.packets if packet.data[4:8] == b"\x21\x12\xa4\x42"][:10])
    assert logs[0] == logs[1]
