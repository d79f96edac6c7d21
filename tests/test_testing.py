"""The simulator's servers on real sockets."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from aioice import Connection, IceServer
from aioice.core.message import Method
from aioice.testing import Here


@pytest.mark.usefixtures("loopback")
class TestHere:
    async def test_stun(self) -> None:
        async with Here() as here:
            server = here.stun_server()
            assert server.address[0] == "127.0.0.1"
            async with Connection(True, stun_server=server.address) as connection:
                await connection.gather_candidates()
                (report,) = connection.server_reports
                assert report.verdict == "answered"
            assert server.count(Method.BINDING) == 1

    @pytest.mark.parametrize("way", ["udp", "tcp", "tls"])
    async def test_turn(self, way: str) -> None:
        authority = trustme.CA()
        theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(theirs)
        authority.configure_trust(ours)
        async with Here(ssl_context=theirs) as here:
            server = here.turn_server({"user": "password"})
            host, port = server.tls_address if way == "tls" else server.address
            url = f"turns:{host}:{port}" if way == "tls" else f"turn:{host}:{port}?transport={way}"
            servers = [IceServer(url, "user", "password", ssl_context=ours)]
            async with (
                Connection(True, ice_servers=servers, candidate_types={"relay"}) as a,
                Connection(False) as b,
            ):
                await asyncio.gather(a.gather_candidates(), b.gather_candidates())
                assert [candidate.type for candidate in a.local_candidates] == ["relay"]
                for one, other in ((a, b), (b, a)):
                    one.remote_username, one.remote_password = other.local_username, other.local_password
                    for candidate in other.local_candidates:
                        await one.add_remote_candidate(candidate)
                    await one.add_remote_candidate(None)
                await asyncio.gather(a.connect(), b.connect())
                await a.send(b"hello")
                assert await b.recv() == b"hello"
                await b.send(b"back")
                assert await a.recv() == b"back"

    async def test_told_to_refuse(self) -> None:
        async with Here() as here:
            server = here.turn_server({"user": "password"})
            server.quota = 0
            async with Connection(
                True, turn_server=server.address, turn_username="user", turn_password="password"
            ) as a:
                await a.gather_candidates()
                assert {report.code for report in a.server_reports} == {486}

    async def test_who_speaks_no_tls_harms_nobody(self) -> None:
        async with Here(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as here:
            server = here.turn_server({})
            reader, writer = await asyncio.open_connection(*server.tls_address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() is not None
            writer.close()

    async def test_stopped_it_is_gone(self) -> None:
        async with Here() as here:
            server = here.turn_server({})
            server.stop()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*server.address)
            server.start()
            _, writer = await asyncio.open_connection(*server.address)
            writer.close()


def test_needs_a_loop() -> None:
    with pytest.raises(RuntimeError):
        Here()
