"""``Connection.get_stats()`` on real sockets: what the application sends and receives is counted in every way."""

from __future__ import annotations

from typing import Any

from aioice import Connection
from tests import peers


def transport_of(connection: Connection) -> dict[str, Any]:
    return connection.get_stats()["transport-1"]


async def test_bytes_and_packets(loopback: None) -> None:
    a, b = peers.pair()
    async with a, b:
        assert transport_of(a)["packetsSent"] == 0
        await peers.connect(a, b)
        for size in (1, 10, 100):
            await a.send(bytes(size))
        await a.send_many([bytes(1000)] * 20 + [bytes(7)])
        a.send_nowait(bytes(2))
        received = 0
        while received < 25:
            received += len(await b.recv_many())
        told = transport_of(a)
        assert (told["packetsSent"], told["bytesSent"]) == (25, 20120)
        assert (told["packetsReceived"], told["bytesReceived"]) == (0, 0)
        told = transport_of(b)
        assert (told["packetsReceived"], told["bytesReceived"]) == (25, 20120)
        report = a.get_stats()
        pair = report[report["transport-1"]["selectedCandidatePairId"]]
        assert pair["packetsSent"] == 25 and pair["timestamp"] > 1.7e12


async def test_drops(loopback: None) -> None:
    a, b = peers.pair()
    async with a, b:
        await peers.connect(a, b)
        a._protocols[0].datagram_received(b"\x80data", ("127.0.0.1", 9))
        assert transport_of(a)["droppedByReason"]["data of a stranger"] == 1
