"""The protocols on a connection's transports, and what a connection makes of calls that are seldom made."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock, call

import pytest

from aioice import Candidate, Connection
from aioice.ice import StunProtocol
from aioice.net.stream import open_stream
from aioice.protocol import ServerProtocol
from tests.net.support import Recorder, closed_port, until
from tests.peers import connect, gather, meet, signal

pytestmark = pytest.mark.usefixtures("loopback")


class TestArguments:
    @pytest.mark.parametrize("components", [0, -1, 257])
    def test_components(self, components: int) -> None:
        # RFC 8839 §5.1
        with pytest.raises(ValueError, match="1 to 256 components"):
            Connection(ice_controlling=True, components=components)

    @pytest.mark.parametrize("transport", ["sctp", "UDP", ""])
    def test_turn_transport(self, transport: str) -> None:
        with pytest.raises(ValueError, match="turn_transport must be"):
            Connection(ice_controlling=True, turn_transport=transport)


class TestGathering:
    async def test_of_a_component_alone(self) -> None:
        """As programs do that gather themselves."""
        async with Connection(ice_controlling=True) as connection:
            candidates = await connection.get_component_candidates(1, ["127.0.0.1"])
            assert [(found.type, found.host) for found in candidates] == [("host", "127.0.0.1")]

    async def test_that_is_cancelled_from_within(self) -> None:
        class Cancelled(Connection):
            async def get_component_candidates(self, *args: Any, **more: Any) -> list[Candidate]:
                raise asyncio.CancelledError

        async with Cancelled(ice_controlling=True) as connection:
            for _ in range(2):
                with pytest.raises(asyncio.CancelledError):
                    await connection.gather_candidates()

    async def test_from_a_server_that_is_not_there(self) -> None:
        """What the system says about a TURN server's port ends the waiting."""
        options = {"turn_server": closed_port(), "turn_username": "user", "turn_password": "pass"}
        async with Connection(ice_controlling=True, **options) as connection:
            await connection.gather_candidates()
            assert [found.type for found in connection.local_candidates] == ["host"]


class TestProtocol:
    async def test_closed_by_two_at_once(self) -> None:
        async with Connection(ice_controlling=True) as connection:
            loop = asyncio.get_running_loop()
            address = ("127.0.0.1", 0)
            transport, protocol = await loop.create_datagram_endpoint(lambda: StunProtocol(connection), address)
            await asyncio.gather(protocol.close(), protocol.close())
            await protocol.close()
            assert transport.is_closing()

    async def test_name(self) -> None:
        one, other = (StunProtocol(Connection(ice_controlling=True)) for _ in range(2))
        assert repr(one) == f"protocol({one.id})" != repr(other)


class TestServerProtocol:
    """What comes over a channel goes to the protocol of the relay; all else to the machine."""

    SERVER, PEER = ("192.0.2.1", 3478), ("192.0.2.2", 7)

    def protocol(self) -> tuple[ServerProtocol, Mock, Mock]:
        connection, relay = Mock(spec=["_stun_received", "_link_lost", "_peer_unreachable"]), Mock()
        protocol = ServerProtocol(connection, 5)
        protocol.connection_made(Mock(spec=[]))
        return protocol, connection, relay

    def test_data(self) -> None:
        protocol, connection, relay = self.protocol()
        frame = b"\x40\x00\x00\x02hi\0\0"
        protocol.datagram_received(frame, self.SERVER)
        connection._stun_received.assert_called_once_with(5, self.SERVER, frame)
        protocol.bind_channel(0x4000, relay, self.PEER, self.SERVER)
        for address in (self.SERVER, (*self.SERVER, 0, 0)):
            protocol.datagram_received(frame, address)
        protocol.datagram_received(b"\x40\x00\x00\x00", self.SERVER)
        expected = [call(b"hi", self.PEER), call(b"hi", self.PEER), call(b"", self.PEER)]
        assert relay.datagram_received.mock_calls == expected
        connection.reset_mock()
        # Not from the server, not whole, of another channel, of one that is no more.
        protocol.datagram_received(frame, self.PEER)
        for odd in (b"", b"\x40", b"\x40\x00\x00", b"\x40\x00\x00\x03hi", b"\x40\x01\x00\x02hi"):
            protocol.datagram_received(odd, self.SERVER)
        protocol.unbind_channel(0x4000)
        protocol.unbind_channel(0x4000)
        protocol.datagram_received(frame, self.SERVER)
        assert len(connection._stun_received.mock_calls) == 7
        assert relay.datagram_received.mock_calls == expected

    def test_pauses(self) -> None:
        protocol, _, relay = self.protocol()
        protocol.pause_writing()
        protocol.resume_writing()
        protocol.add_relay(relay)
        assert relay.mock_calls == []
        protocol.pause_writing()
        protocol.resume_writing()
        protocol.pause_writing()
        protocol.remove_relay(relay)
        protocol.add_relay(relay)
        told = [name for name, _, _ in relay.mock_calls]
        assert told == ["pause_writing", "resume_writing", "pause_writing", "pause_writing"]
        protocol.remove_relay(relay)
        protocol.resume_writing()
        assert len(relay.mock_calls) == 4


async def test_the_peer_before_a_restart_is_a_stranger() -> None:
    """RFC 8445 §9: another device may have taken over; what the first sends is not for us any more."""
    a, b, c = (Connection(ice_controlling=role) for role in (True, False, False))
    async with a, b, c:
        await connect(a, b)
        a.restart()
        await b.send(b"still welcome")
        assert await a.recv() == b"still welcome"
        await gather(c)
        await signal(a, c)
        await meet(a, c)
        await b.send(b"no longer")
        await until(lambda: a.dropped.get("data of a stranger"))
        await c.send(b"hello")
        assert await a.recv() == b"hello"


async def test_a_tcp_connection_that_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TLS it is no fault of a handshake."""

    async def reset(*args: Any, **more: Any) -> None:
        raise ConnectionResetError("reset")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "create_connection", reset)
    with pytest.raises(ConnectionResetError):
        await open_stream(loop, Recorder(), ("127.0.0.1", 1))
