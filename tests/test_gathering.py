"""Gathering on real sockets: candidates as they are found, and what is told about servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioice import Candidate, Connection, IceServer, ServerReport, ice
from aioice.core.message import Class, Message, Method, parse_message
from tests.peers import HOST, PATIENCE, use_hosts

pytestmark = pytest.mark.usefixtures("one_host")


@pytest.fixture
def one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    use_hosts(monkeypatch, HOST)


class StunServer(asyncio.DatagramProtocol):
    """Sees everybody at 192.0.2.9; with a request to hold on, it answers when it is told to."""

    transport: asyncio.DatagramTransport

    def __init__(self, wait: bool = False) -> None:
        self._wait = wait
        self._asked: list[tuple[bytes, Any]] = []
        self.asked = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._asked.append((data, addr))
        self.asked.set()
        if not self._wait:
            self.answer()

    def answer(self) -> None:
        self._wait = False
        for data, addr in self._asked:
            request = parse_message(data)
            attributes = {"XOR-MAPPED-ADDRESS": ("192.0.2.9", addr[1])}
            self.transport.sendto(
                bytes(Message(Method.BINDING, Class.RESPONSE, request.transaction_id, attributes)), addr
            )
        self._asked.clear()

    @property
    def url(self) -> str:
        return f"stun:{HOST}:{self.transport.get_extra_info('sockname')[1]}"


@contextlib.asynccontextmanager
async def stun_server(wait: bool = False) -> AsyncIterator[StunServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: StunServer(wait), local_addr=(HOST, 0))
    try:
        yield server
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def tcp_server(answer: bytes) -> AsyncIterator[int]:
    """Says the same to everybody who says anything; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def closed_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


async def reports(*servers: IceServer | dict[str, Any], timeout: float = PATIENCE) -> list[ServerReport]:
    async with Connection(True, ice_servers=servers) as connection:
        await asyncio.wait_for(connection.gather_candidates(), timeout)
        return connection.server_reports


class TestAsTheyAreFound:
    async def test_each_once_and_then_the_end(self) -> None:
        async with stun_server() as server, Connection(True, ice_servers=[{"urls": server.url}]) as connection:
            found = [candidate async for candidate in connection.gather()]
            assert [candidate.type for candidate in found] == ["host", "srflx"]
            assert found == connection.local_candidates
            again = [candidate async for candidate in connection.gather()]
            assert again == found

    async def test_late_ones_too(self) -> None:
        async with stun_server(wait=True) as server, Connection(True, ice_servers=[{"urls": server.url}]) as connection:
            found = connection.gather()
            assert (await anext(found)).type == "host"
            await connection.gather_candidates()
            assert len(connection.local_candidates) == 1
            server.answer()
            assert (await asyncio.wait_for(anext(found), PATIENCE)).type == "srflx"
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(anext(found), PATIENCE)

    async def test_beginning_in_the_middle(self) -> None:
        async with stun_server(wait=True) as server, Connection(True, ice_servers=[{"urls": server.url}]) as connection:
            gathering = asyncio.create_task(connection.gather_candidates())
            await asyncio.wait_for(server.asked.wait(), PATIENCE)
            found = connection.gather()
            assert (await anext(found)).type == "host"
            server.answer()
            assert [candidate.type async for candidate in found] == ["srflx"]
            await gathering

    async def test_left_early(self) -> None:
        async with stun_server(wait=True) as server, Connection(True, ice_servers=[{"urls": server.url}]) as connection:
            async for candidate in connection.gather():
                assert isinstance(candidate, Candidate)
                break
            await connection.gather_candidates()

    async def test_of_a_closed_connection(self) -> None:
        connection = Connection(True)
        await connection.close()
        with pytest.raises(ConnectionError, match="closed"):
            await anext(connection.gather())

    async def test_closed_in_the_middle(self) -> None:
        async with stun_server(wait=True) as server:
            connection = Connection(True, ice_servers=[{"urls": server.url}])
            found = connection.gather()
            assert (await anext(found)).type == "host"
            await connection.close()
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(anext(found), PATIENCE)

    async def test_a_failure_of_gathering(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(use_ipv4: bool, use_ipv6: bool) -> list[str]:
            raise OSError("no interfaces")

        monkeypatch.setattr(ice, "get_host_addresses", fail)
        async with Connection(True) as connection:
            with pytest.raises(OSError, match="no interfaces"):
                await asyncio.wait_for(anext(connection.gather()), PATIENCE)


class TestReports:
    async def test_of_a_server_that_answers(self) -> None:
        async with stun_server() as server:
            (report,) = await reports({"urls": server.url})
            assert (report.url, report.verdict) == (server.url, "answered")
            assert report.rtt is not None and report.rtt < PATIENCE
            assert [candidate.host for candidate in report.candidates] == ["192.0.2.9"]

    async def test_of_ports_where_nobody_listens(self) -> None:
        """F11: ICMP and TCP's reset end it."""
        udp, tcp = closed_port(socket.SOCK_DGRAM), closed_port(socket.SOCK_STREAM)
        server = IceServer([f"turn:{HOST}:{udp}", f"turn:{HOST}:{tcp}?transport=tcp"], "user", "pass")
        told = await reports({"urls": f"stun:{HOST}:{udp}"}, server)
        assert [report.verdict for report in told] == ["unreachable"] * 3

    async def test_of_a_web_server(self) -> None:
        async with tcp_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            url = f"turn:{HOST}:{port}?transport=tcp"
            (report,) = await reports(IceServer(url, "user", "pass"))
            assert report.verdict == "not a STUN server" and "HTTP" in report.detail

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(range(0xD0, 0xF0))])
    async def test_of_what_answers_over_udp(self, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
        monkeypatch.setattr(StunServer, "answer", lambda server: server.transport.sendto(answer, server._asked[0][1]))
        async with stun_server() as server:
            (report,) = await reports({"urls": server.url}, timeout=0.9)
            assert report.verdict == "not a STUN server" and ascii(answer[:16]) in report.detail

    async def test_of_a_server_without_tls(self) -> None:
        async with tcp_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            (report,) = await reports(IceServer(f"turns:{HOST}:{port}", "user", "pass"))
            assert report.verdict == "TLS failed" and "does not speak TLS" in report.detail

    async def test_of_a_name_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aioice.net.host._getaddrinfo", lambda name: ())
        (report,) = await reports({"urls": "stun:nowhere.invalid"})
        assert report.verdict == "name not found" and report.address is None

    async def test_of_credentials_that_are_not_to_be_had(self) -> None:
        async def credential() -> tuple[str, str]:
            raise RuntimeError("the token service says \x1b[2J")

        port = closed_port(socket.SOCK_DGRAM)
        (report,) = await reports(IceServer(f"turn:{HOST}:{port}", credential=credential))
        assert report.verdict == "no credentials"
        assert "token service" in report.detail and "\x1b" not in report.detail

    async def test_of_credentials_that_never_come(self) -> None:
        async def credential() -> tuple[str, str]:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        port = closed_port(socket.SOCK_DGRAM)
        connection = Connection(True, ice_servers=[IceServer(f"turn:{HOST}:{port}", credential=credential)])
        candidates = await connection.get_component_candidates(1, [HOST], timeout=0.1)
        assert [candidate.type for candidate in candidates] == ["host"]
        assert [report.verdict for report in connection.server_reports] == ["pending"]
        await connection.close()

    async def test_without_servers_there_are_none(self) -> None:
        assert await reports() == []


class TestPolicy:
    async def test_rewriting_for_an_interface(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ice, "get_interface_names", lambda: {HOST: "wan"})
        rewrite = ice_rewrite("203.0.113.5", interface="wan")
        async with Connection(True, address_rewrites=[rewrite]) as connection:
            await connection.gather_candidates()
            assert [(c.type, c.host) for c in connection.local_candidates] == [("host", "203.0.113.5")]

    async def test_interfaces_have_names(self) -> None:
        assert ice.get_interface_names()[HOST] == "lo"

    async def test_reflexive_candidates_alone(self) -> None:
        async with stun_server() as server:
            options: dict[str, Any] = {"ice_servers": [{"urls": server.url}], "candidate_types": ["srflx"]}
            async with Connection(True, **options) as connection:
                await connection.gather_candidates()
                assert [c.type for c in connection.local_candidates] == ["srflx"]
                assert len(connection._protocols) == 1


def ice_rewrite(*args: Any, **options: Any) -> Any:
    from aioice import AddressRewrite

    return AddressRewrite(*args, **options)
