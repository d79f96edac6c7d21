"""WebSockets as the command line speaks them: RFC 6455's own examples, its limits, and what does not keep to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.cli import websocket
from aioice.cli.rendezvous import Rendezvous, meet
from aioice.cli.websocket import MAX_MESSAGE, WebSocket, WebSocketError, accept_key, masking, parse_url
from tests.peers import PATIENCE

Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """Keeps what a WebSocket writes."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


def socket(data: bytes, *, client: bool = True) -> tuple[WebSocket, Wire]:
    """One to which this comes, and then the end."""
    reader, wire = asyncio.StreamReader(limit=8192), Wire()
    reader.feed_data(data)
    reader.feed_eof()
    return WebSocket(reader, wire, client=client), wire  # type: ignore[arg-type]


@asynccontextmanager
async def serving(serve: Streams) -> AsyncIterator[str]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=8192)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/room"


def authority(url: str) -> tuple[str, int]:
    parsed = parse_url(url)
    return parsed.host, parsed.port


class TestUrl:
    def test_good(self) -> None:
        assert parse_url("ws://example.org") == (False, "example.org", 80, "/")
        assert parse_url("wss://[2001:db8::1]:99/a/b?c=d") == (True, "2001:db8::1", 99, "/a/b?c=d")
        assert parse_url("wss://example.org/").authority == "example.org"
        assert parse_url("ws://[2001:db8::1]:99/").authority == "[2001:db8::1]:99"

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "http://a",
            "ws:///a",
            "ws://a/#b",
            "ws://u@a/",
            "ws://a/ b",
            "ws://a/\r\nX:y",
            "ws://a:b/",
            "ws://a:99999/",
        ],
    )
    def test_bad(self, url: str) -> None:
        with pytest.raises(ValueError):
            parse_url(url)


class TestFrames:
    def test_the_key_of_the_rfc(self) -> None:
        assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    @pytest.mark.parametrize(
        ("data", "client"),
        [
            ("810548656c6c6f", True),
            ("818537fa213d7f9f4d5158", False),
            ("010348656c80026c6f", True),
            ("0103" + "48656c" + "8900" + "80026c6f", True),
        ],
    )
    async def test_examples_of_the_rfc(self, data: str, client: bool) -> None:
        """§5.7: a single frame, a masked one, one in two pieces, and a ping between those."""
        one, wire = socket(bytes.fromhex(data), client=client)
        assert await one.receive() == "Hello"
        assert (wire.data[:1] == b"\x8a") is ("8900" in data), "a ping gets its pong"
        assert await one.receive() is None

    @given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
    def test_masking(self, data: bytes, mask: bytes) -> None:
        assert masking(data, mask) == bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

    @pytest.mark.parametrize("size", [0, 125, 126, 65535, MAX_MESSAGE])
    @pytest.mark.parametrize("client", [False, True])
    async def test_sizes(self, size: int, client: bool) -> None:
        one, wire = socket(b"", client=client)
        await one.send("x" * size)
        other, _ = socket(wire.data, client=not client)
        assert await other.receive() == "x" * size

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            ("8300", 1002),  # an unknown kind
            ("c100", 1002),  # a reserved bit
            ("818037fa213d", 1002),  # a server masks nothing
            ("8000", 1002),  # a continuation of nothing
            ("01008100", 1002),  # a text within another
            ("0900", 1002),  # a ping in pieces
            ("897e0080" + "00" * 128, 1002),  # a ping too long
            ("8200", 1003),  # binary
            ("8101ff", 1007),  # no UTF-8
            ("817f0000000000010001", 1009),
            ("817fffffffffffffffff", 1009),
            ("017effff" + "61" * 65535 + "80026161", 1009),
        ],
    )
    async def test_what_is_against_the_rules(self, data: str, code: int) -> None:
        one, wire = socket(bytes.fromhex(data))
        with pytest.raises(WebSocketError) as caught:
            await one.receive()
        assert caught.value.code == code
        assert wire.data[0] == 0x88 and masking(wire.data[6:8], wire.data[2:6]) == code.to_bytes(2)
        with pytest.raises(ConnectionError):
            await one.send("more")

    async def test_closing(self) -> None:
        one, wire = socket(bytes.fromhex("880c03e8") + b"\x1b good bye", client=True)
        assert await one.receive() is None
        assert (one.code, one.reason) == (1000, "\x1b good bye")
        await one.close()
        assert wire.data.count(b"\x88") == 1, "answered once"

    @given(st.binary(max_size=64))
    def test_nothing_raises_otherwise(self, data: bytes) -> None:
        async def receive() -> None:
            one, _ = socket(data, client=False)
            try:
                while await one.receive() is not None:
                    pass
            except WebSocketError:
                pass

        asyncio.run(receive())


class TestHandshakes:
    @pytest.mark.parametrize(
        ("answer", "word"),
        [
            (b"SSH-2.0-x\r\n", "HTTP"),
            (b"HTTP/1.1 404 Not\x1b Found\r\n\r\n", "404 Not\\x1b Found"),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "6455"),
            (
                b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
                "6455",
            ),
            (b"HTTP/1.1 101 x\r\nA: " + bytes(20_000), "HTTP"),
            (b"", "HTTP"),
        ],
    )
    async def test_what_is_no_server(self, answer: bytes, word: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with serving(serve) as url:
            with pytest.raises(ConnectionError) as caught:
                await websocket.connect(url)
        assert word in str(caught.value) and str(caught.value).isprintable()

    async def test_nobody_there(self) -> None:
        async with serving(Rendezvous()) as url:
            pass
        with pytest.raises(ConnectionError, match="nobody listens"):
            await websocket.connect(url)

    async def test_no_such_name(self) -> None:
        with pytest.raises(ConnectionError, match="ws://name.invalid/"):
            await websocket.connect("ws://name.invalid/")

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"Upgrade": None}, b"426"),
            ({"Connection": "close"}, b"426"),
            ({"Sec-WebSocket-Version": "8"}, b"426"),
            ({"Sec-WebSocket-Key": "short"}, b"400"),
            ({"Sec-WebSocket-Key": None}, b"400"),
            ({"Origin": "https://example.org"}, b"403"),
            ({"Connection": "keep-alive, Upgrade"}, b"101"),
        ],
    )
    async def test_clients(self, changes: dict[str, str | None], status: bytes) -> None:
        fields: dict[str, str | None] = {
            "Host": "here",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
            **changes,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        assert (await self.answer(f"GET /room HTTP/1.1\r\n{head}\r\n".encode())).split(b" ")[1] == status

    @pytest.mark.parametrize("head", [b"\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET room HTTP/1.1\r\n\r\n"])
    async def test_no_clients(self, head: bytes) -> None:
        assert (await self.answer(head)).startswith(b"HTTP/1.1 400 ")

    @staticmethod
    async def answer(request: bytes) -> bytes:
        async with serving(Rendezvous()) as url:
            reader, writer = await asyncio.open_connection(*authority(url))
            writer.write(request)
            line = await reader.readline()
            writer.close()
            return line


class TestRendezvous:
    async def test_two_and_two(self) -> None:
        async with serving(Rendezvous()) as url, asyncio.timeout(PATIENCE):
            others = asyncio.gather(meet(f"{url}/other", "o1"), meet(f"{url}/other", "o2"))
            assert await asyncio.gather(meet(url, "a"), meet(url, "b")) == ["b", "a"]
            assert await others == ["o2", "o1"]
            assert await asyncio.gather(meet(url, "c"), meet(url, "d")) == ["d", "c"], "the room is free again"

    async def test_who_leaves_meets_nobody(self) -> None:
        rendezvous = Rendezvous()
        async with serving(rendezvous) as url, asyncio.timeout(PATIENCE):
            leaver = await websocket.connect(url)
            await leaver.send("left")
            while not rendezvous._waiting:
                await asyncio.sleep(0.001)
            await leaver.close()
            while rendezvous._waiting:
                await asyncio.sleep(0.001)
            assert await asyncio.gather(meet(url, "a"), meet(url, "b")) == ["b", "a"]

    async def test_nobody_comes(self) -> None:
        async with serving(Rendezvous(wait=0.0)) as url:
            with pytest.raises(ConnectionError, match="nobody else came"):
                await meet(url, "a")

    async def test_who_has_gone_without_a_word(self) -> None:
        """One that answers no ping is sent away."""
        rendezvous = Rendezvous(ping=0.01)
        async with serving(rendezvous) as url, asyncio.timeout(PATIENCE):
            silent = await websocket.connect(url)
            await silent.send("a")
            while not rendezvous._waiting:
                await asyncio.sleep(0.001)
            while rendezvous._waiting:
                await asyncio.sleep(0.001)
            await silent.close()

    async def test_who_answers_pings_stays(self) -> None:
        async with serving(Rendezvous(ping=0.02)) as url, asyncio.timeout(PATIENCE):
            first = asyncio.ensure_future(meet(url, "a"))
            await asyncio.sleep(0.2)
            assert await meet(url, "b") == "a" and await first == "b"

    async def test_too_many(self) -> None:
        rendezvous = Rendezvous(clients=1)
        async with serving(rendezvous) as url, asyncio.timeout(PATIENCE):
            first = asyncio.ensure_future(meet(url, "a"))
            while not rendezvous._waiting:
                await asyncio.sleep(0.001)
            with pytest.raises(ConnectionError):
                await meet(url, "b")
            first.cancel()

    async def test_too_much(self) -> None:
        async with serving(Rendezvous()) as url, asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionError, match="no reason given"):
                await meet(url, "x" * (MAX_MESSAGE + 1))

    async def test_noise(self) -> None:
        """Strangers talk nonsense; the others meet all the same."""
        async with serving(Rendezvous()) as url, asyncio.timeout(PATIENCE):
            for _ in range(5):
                _, writer = await asyncio.open_connection(*authority(url))
                writer.write(os.urandom(100) + b"\r\n\r\n")
                writer.close()
                stranger = await websocket.connect(url)
                stranger._writer.write(b"\xff\xff\xff\xff")
                await stranger.close()
            assert await asyncio.gather(meet(url, "a"), meet(url, "b")) == ["b", "a"]
