"""The asyncio face of an allocation, on a server of a few lines."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioice import stun, turn
from aioice.core import allocation
from aioice.core.demux import MAX_DATA
from aioice.core.machine import Done
from aioice.net.host import AsyncioHost

RELAYED = ("198.51.100.7", 50000)
MAPPED = ("203.0.113.9", 40000)
PEER = ("198.51.100.8", 6000)

Answer = Callable[[stun.Message], stun.Message | None]


class Server(asyncio.DatagramProtocol):
    """Asks nobody for a password and relays nothing, but answers."""

    def __init__(self) -> None:
        self.requests: list[stun.Message] = []
        self.data: asyncio.Queue[tuple[Any, bytes]] = asyncio.Queue()
        self.silent: set[stun.Method] = set()
        self.refuse: dict[stun.Method, int] = {}
        self.without: set[str] = set()
        self.client: Any = None
        self.address = ("", 0)
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.address = transport.get_extra_info("sockname")

    def methods(self) -> list[str]:
        return [stun.Method(request.message_method).name for request in self.requests]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.client = addr
        if turn.is_channel_data(data):
            self.data.put_nowait((data[:2], data[4:]))
            return
        message = stun.parse_message(data)
        if message.message_class == stun.Class.INDICATION:
            self.data.put_nowait((message.attributes["XOR-PEER-ADDRESS"], message.attributes["DATA"]))
            return
        self.requests.append(message)
        if message.message_method not in self.silent:
            self.transport.sendto(bytes(self.answer(message)), addr)

    def answer(self, request: stun.Message) -> stun.Message:
        method = stun.Method(request.message_method)
        if method in self.refuse:
            attributes: dict[str, Any] = {"ERROR-CODE": (self.refuse[method], "No")}
            return stun.Message(method, stun.Class.ERROR, request.transaction_id, attributes)
        attributes = {"LIFETIME": 600, "XOR-RELAYED-ADDRESS": RELAYED, "XOR-MAPPED-ADDRESS": MAPPED}
        if method not in (stun.Method.ALLOCATE, stun.Method.REFRESH):
            attributes = {}
        for name in self.without:
            attributes.pop(name, None)
        return stun.Message(method, stun.Class.RESPONSE, request.transaction_id, attributes)


@asynccontextmanager
async def running() -> AsyncIterator[Server]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.errors: list[Exception] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def create(address: tuple[str, int], **options: Any) -> tuple[turn.TurnTransport, Client]:
    return await turn.create_turn_endpoint(Client, address, "user", "pass", **options)


def others() -> set[asyncio.Task[Any]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Neither tasks nor unclosed sockets stay behind, a few seconds after the end at the latest."""
    before = others()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        while left := others() - before:
            ended, _ = await asyncio.wait(left, timeout=30)
            assert ended, f"they wait for ever: {left}"
        gc.collect()


# ------------------------------------------------------------------------------------------------------------ the names


def test_signature() -> None:
    signature = inspect.signature(turn.create_turn_endpoint)
    assert list(signature.parameters) == [
        "protocol_factory",
        "server_addr",
        "username",
        "password",
        "lifetime",
        "channel_refresh_time",
        "ssl",
        "transport",
    ]
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    assert defaults["lifetime"] == 600
    assert defaults["channel_refresh_time"] == 500
    assert defaults["ssl"] is None
    assert defaults["transport"] == "udp"


def test_names() -> None:
    assert turn.UDP_SOCKET_BUFFER_SIZE == 262144
    assert turn.make_integrity_key("user", "realm", "pass").hex() == "8493fbc53ba582fb4c044c456bdc40eb"
    assert turn.is_channel_data(b"\x40\x00\x00\x00")
    assert not turn.is_channel_data(b"\x00\x01\x00\x00")


# --------------------------------------------------------------------------------------------------------- the endpoint


async def test_endpoint() -> None:
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        assert transport.get_extra_info("sockname") == RELAYED
        assert transport.get_extra_info("related_address") == MAPPED
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("peername", 1) == 1
        assert transport.get_protocol() is client
        assert not transport.is_closing()
        transport.sendto(bytearray(b"one"), PEER)
        assert await server.data.get() == (PEER, b"one")
        server.transport.sendto(b"\x40\x00\x00\x05hello", server.client)
        assert await client.received.get() == (b"hello", PEER)
        transport.sendto(memoryview(b"two"), PEER)
        assert await server.data.get() == (b"\x40\x00", b"two")
        assert server.methods() == ["ALLOCATE", "CREATE_PERMISSION", "CHANNEL_BIND"]
        transport.close()
        transport.close()
        assert transport.is_closing()
        transport.sendto(b"late", PEER)
        assert await client.lost is None
        assert server.methods()[3:] == ["REFRESH"]
        assert server.requests[3].attributes["LIFETIME"] == 0
        assert server.data.empty()
        assert client.errors == []


async def test_a_packet_over_a_channel_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task, no timer, no exception, and it does not pass the machine."""
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        transport.sendto(b"first", PEER)
        await server.data.get()
        while transport._allocation.channel(asyncio.get_running_loop().time(), PEER) is None:
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        made: list[str] = []
        for name in ("call_soon", "call_later", "call_at", "create_task", "create_future"):
            monkeypatch.setattr(loop, name, lambda *args, name=name, **options: made.append(name))
        for name in ("send", "handle_datagram"):
            monkeypatch.setattr(allocation.Allocation, name, lambda *args, name=name: made.append(name))
        for _ in range(100):
            transport.sendto(b"data", PEER)
            transport._links[0].datagram_received(b"\x40\x00\x00\x04back", server.address)
        monkeypatch.undo()
        assert made == []
        assert [await server.data.get() for _ in range(100)] == [(b"\x40\x00", b"data")] * 100
        assert [await client.received.get() for _ in range(100)] == [(b"back", PEER)] * 100
        transport.close()
        await client.lost


async def test_unreachable_peer() -> None:
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        transport.sendto(b"data", PEER)
        await server.data.get()
        icmp = {"XOR-PEER-ADDRESS": PEER, "ICMP": bytes((0, 0, 3, 3, 0, 0, 0, 0))}
        message = stun.Message(stun.Method.DATA, stun.Class.INDICATION, attributes=icmp)
        transport._links[0].datagram_received(bytes(message), server.address)
        assert [str(error) for error in client.errors] == [f"connection refused: {PEER[0]}"]
        transport.close()
        await client.lost


@pytest.mark.parametrize("remembered", [0, 2, 4096])
async def test_spellings_of_a_peer(monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    monkeypatch.setattr(turn, "_MAX_SPELLINGS", remembered)
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        transport._allocation._peers._links[6] = 0
        for spelling in ("2001:db8:0:0::1", "2001:DB8::1", "2001:db8::1", "2001:db8::1"):
            transport.sendto(b"data", (spelling, 1))
        assert server.methods().count("CHANNEL_BIND") <= 1
        assert len({(await server.data.get())[0] for _ in range(4)}) == 1
        transport.close()
        await client.lost


@pytest.mark.parametrize("addr", [None, ("example.org", 1), ("", 1), ("192.0.2.1", 0), ("192.0.2.1", 65536)])
async def test_addresses_that_are_none(addr: Any) -> None:
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        transport.sendto(b"data", addr)
        (error,) = client.errors
        assert isinstance(error, ValueError)
        transport.close()
        await client.lost


async def test_too_large() -> None:
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        transport.sendto(bytes(MAX_DATA + 1), PEER)
        (error,) = client.errors
        assert isinstance(error, OSError)
        transport.close()
        await client.lost


async def test_refused_peer() -> None:
    async with nothing_left(), running() as server:
        server.refuse = {stun.Method.CREATE_PERMISSION: 403}
        transport, client = await create(server.address)
        transport.sendto(b"data", PEER)
        transport.sendto(b"data", ("2001:db8::1", 1))
        await server.data.get()
        while len(client.errors) < 2:
            await asyncio.sleep(0)
        by_type = {type(error): error for error in client.errors}
        assert str(by_type[stun.TransactionFailed]) == "STUN transaction failed (403 - No)"
        assert "443" in str(by_type[ConnectionError])
        transport.close()
        await client.lost


async def test_another_protocol() -> None:
    async with nothing_left(), running() as server:
        transport, first = await create(server.address)
        second = Client()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        transport.sendto(b"data", None)
        assert second.errors and not first.errors
        transport.close()
        assert await second.lost is None


async def test_abort() -> None:
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        transport.abort()
        transport.abort()
        transport.close()
        transport._handle_output(Done("late"))
        assert await client.lost is None
        assert server.methods() == ["ALLOCATE"]


async def test_abort_while_closing() -> None:
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        server.silent = {stun.Method.REFRESH}
        transport.close()
        transport.abort()
        assert await client.lost is None


async def test_server_that_does_not_answer_the_deletion() -> None:
    # F40
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        server.silent = set(stun.Method)
        transport.close()
        assert await asyncio.wait_for(client.lost, 10) is None
        assert server.methods() == ["ALLOCATE", "REFRESH"]


async def test_lost_allocation() -> None:
    async with nothing_left(), running() as server:
        transport, client = await create(server.address)
        server.refuse = {stun.Method.CREATE_PERMISSION: 437}
        transport.sendto(b"data", PEER)
        reason = await client.lost
        assert isinstance(reason, ConnectionError)
        assert "437" in str(reason)
        assert transport.is_closing()
        transport.sendto(b"data", PEER)
        transport.close()


async def test_sending_from_connection_made() -> None:
    class Eager(Client):
        def connection_made(self, transport: Any) -> None:
            transport.sendto(b"first", PEER)

    async with nothing_left(), running() as server:
        transport, client = await turn.create_turn_endpoint(Eager, server.address, None, None)
        assert await server.data.get() == (PEER, b"first")
        transport.close()
        await client.lost


# ------------------------------------------------------------------------------------------------------------- failures


async def test_refused() -> None:
    async with nothing_left(), running() as server:
        server.refuse = {stun.Method.ALLOCATE: 403}
        with pytest.raises(stun.TransactionFailed, match=r"^STUN transaction failed \(403 - No\)$") as failed:
            await create(server.address)
        assert failed.value.response.error_code == 403


@pytest.mark.parametrize("missing", ["LIFETIME", "XOR-RELAYED-ADDRESS", "XOR-MAPPED-ADDRESS"])
async def test_incomplete_answer(missing: str) -> None:
    async with nothing_left(), running() as server:
        server.without = {missing}
        with pytest.raises(ConnectionError, match=f"^TURN allocation response is missing {missing}$"):
            await create(server.address)


async def test_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun, "RETRY_MAX", 1)
    monkeypatch.setattr(stun, "RETRY_RTO", 0.01)
    async with nothing_left(), running() as server:
        server.silent = set(stun.Method)
        with pytest.raises(stun.TransactionTimeout):
            await create(server.address)
        assert server.methods() == ["ALLOCATE"] * 2


async def test_patience_is_set_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun, "RETRY_RTO", 0.01)
    async with nothing_left(), running() as server:
        server.silent = set(stun.Method)
        creation = asyncio.ensure_future(create(server.address))
        while not server.requests:
            await asyncio.sleep(0)
        monkeypatch.setattr(stun, "RETRY_MAX", 0)
        server.silent = set()
        transport, client = await creation
        # Read when a timer fires, or at the next call, whichever comes first.
        transport.sendto(b"data", ("127.0.0.1", 9))
        assert transport._allocation._transactions.tunables.retry_max == 0
        transport.close()
        await client.lost


def closed_port(kind: socket.SocketKind) -> tuple[str, int]:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        address: tuple[str, int] = sock.getsockname()
        return address


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_nobody_listens(transport: str) -> None:
    async with nothing_left():
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        with pytest.raises(ConnectionError, match="connection refused"):
            await create(closed_port(kind), transport=transport)


async def test_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(self: AsyncioHost, name: str) -> tuple[str, ...]:
        return ()

    monkeypatch.setattr(AsyncioHost, "resolve", resolve)
    with pytest.raises(ConnectionError, match="'no.such.name'"):
        await create(("no.such.name", 3478))


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(self: AsyncioHost, name: str) -> tuple[str, ...]:
        return ("127.0.0.2", "127.0.0.1")

    monkeypatch.setattr(AsyncioHost, "resolve", resolve)
    async with nothing_left(), running() as server:
        transport, client = await create(("turn.example.org", server.address[1]))
        assert transport.get_extra_info("sockname") == RELAYED
        transport.close()
        await client.lost


async def test_web_server() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with nothing_left():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            with pytest.raises(ConnectionError, match="HTTP"):
                await create(server.sockets[0].getsockname(), transport="tcp")
        finally:
            server.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_cancelled_while_connecting(tls: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        async with nothing_left():
            creation = asyncio.ensure_future(create(listener.getsockname(), transport="tcp", ssl=tls))
            await asyncio.sleep(0.05)
            creation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creation


@pytest.mark.parametrize("steps", range(10))
async def test_cancelled_at_any_step(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(allocation, "CLOSE_TIME", 0.001)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        async with nothing_left():
            creation = asyncio.ensure_future(create(listener.getsockname(), transport="tcp"))
            for _ in range(steps):
                await asyncio.sleep(0)
            creation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creation


async def test_cancelled_while_allocating() -> None:
    async with nothing_left(), running() as server:
        server.silent = set(stun.Method)
        creation = asyncio.ensure_future(create(server.address))
        while not server.requests:
            await asyncio.sleep(0)
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation
        # An answer that comes now is an allocation that nobody wants.
        server.silent = set()
        server.transport.sendto(bytes(server.answer(server.requests[0])), server.client)
        while len(server.requests) < 2:
            await asyncio.sleep(0)
        assert server.requests[1].message_method == stun.Method.REFRESH
        assert server.requests[1].attributes["LIFETIME"] == 0


async def test_cancelled_at_the_last_moment() -> None:
    class Last(Client):
        def connection_made(self, transport: Any) -> None:
            asyncio.get_running_loop().call_soon(creation.cancel)
            creation.cancel()

    async with nothing_left(), running() as server:
        clients: list[Last] = []

        def factory() -> Last:
            clients.append(Last())
            return clients[-1]

        creation = asyncio.ensure_future(turn.create_turn_endpoint(factory, server.address, None, None))
        with pytest.raises(asyncio.CancelledError):
            await creation
        assert await clients[0].lost is None
        assert server.methods() == ["ALLOCATE", "REFRESH"]


@pytest.mark.parametrize("refused", [False, True])
async def test_cancelled_when_the_answer_comes(monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    received = turn._ServerLink.datagram_received

    def cancel_and_receive(self: Any, data: bytes, addr: Any) -> None:
        creation.cancel()
        received(self, data, addr)

    monkeypatch.setattr(turn._ServerLink, "datagram_received", cancel_and_receive)
    async with nothing_left(), running() as server:
        server.refuse = {stun.Method.ALLOCATE: 403} if refused else {}
        creation = asyncio.ensure_future(create(server.address))
        with pytest.raises(asyncio.CancelledError):
            await creation


async def test_protocol_that_raises() -> None:
    class Broken(Client):
        def connection_made(self, transport: Any) -> None:
            raise RuntimeError("no")

    async with nothing_left(), running() as server:
        with pytest.raises(RuntimeError, match="no"):
            await turn.create_turn_endpoint(Broken, server.address, None, None)


def test_loop_that_ends_at_once() -> None:
    async def run() -> None:
        async with running() as server:
            transport, _ = await create(server.address)
            server.silent = set(stun.Method)
            transport.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(run())
        gc.collect()


@pytest.mark.parametrize("server_addr", [("127.0.0.1", 1), ("127.0.0.1", 1, 0, 0)])
async def test_impossible_lifetime(server_addr: Any) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        await create(server_addr, lifetime=0)
