from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from aioice.core.demux import StreamFramer
from aioice.net import stream
from aioice.net.stream import open_stream
from tests.net.support import Recorder, closed_port, until

Run = Callable[..., None]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def message(size: int = 0, number: int = 0) -> bytes:
    return b"\x01\x01" + size.to_bytes(2, "big") + b"\x21\x12\xa4\x42" + number.to_bytes(12, "big") + bytes(size)


def channel_data(data: bytes) -> bytes:
    return b"\x40\x00" + len(data).to_bytes(2, "big") + data


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, int]]:
    """A server on loopback; every connection of it ends with the block."""
    writers: list[asyncio.StreamWriter] = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)


async def connect(protocol: Recorder, peer: tuple[str, int], *args: Any) -> stream.StreamTransport:
    return await open_stream(asyncio.get_running_loop(), protocol, peer, *args)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("turn.example").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_frames_there_and_back(run: Run) -> None:
    async def main() -> None:
        async with serving(echo) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer)
            assert protocol.transport is link
            assert link.get_protocol() is protocol
            assert link.get_extra_info("peername") == peer
            assert link.get_extra_info("sockname")[0] == "127.0.0.1"
            link.sendto(message(), peer)
            link.sendto(bytearray(channel_data(b"12345")))
            link.sendto(memoryview(message(4)))
            await until(lambda: len(protocol.received) == 3)
            assert protocol.received == [(message(), peer), (channel_data(b"12345"), peer), (message(4), peer)]
            link.close()
            await until(lambda: protocol.lost)
            assert protocol.lost == [None]

    run(main())


def test_channel_data_is_padded(run: Run) -> None:
    arrived = bytearray()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            arrived.extend(data)

    async def main() -> None:
        async with serving(read) as peer:
            link = await connect(Recorder(), peer)
            link.sendto(channel_data(b"12345"))
            link.sendto(message())
            link.close()
            link.close()
            link.sendto(message())
            await until(lambda: len(arrived) == 32)
        assert arrived == b"\x40\x00\x00\x0512345\0\0\0" + message()

    run(main())


def test_frames_in_pieces(run: Run) -> None:
    """Field case F48: partial reads."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in message(8) + channel_data(b"abcde") + b"\0\0\0" + message():
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        writer.write(message(4) * 2 + message(4)[:7])

    async def main() -> None:
        async with serving(drip) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer)
            await until(lambda: len(protocol.received) == 5)
            assert protocol.data == [message(8), channel_data(b"abcde"), message(), message(4), message(4)]
            link.abort()
            await until(lambda: protocol.lost)

    run(main())


def test_what_is_not_stun_ends_the_link(run: Run) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def main() -> None:
        async with serving(web) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer)
            await until(lambda: protocol.lost)
            assert [type(exc) for exc in protocol.lost] == [ValueError]
            assert protocol.received == []
            assert link.is_closing()

    run(main())


def test_nothing_is_read_after_the_end(run: Run) -> None:
    class Once(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.close()

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(message() * 2)

    async def main() -> None:
        async with serving(twice) as peer:
            protocol = Once()
            await connect(protocol, peer)
            await until(lambda: protocol.lost)
            assert protocol.data == [message()]

    run(main())


def test_data_after_garbage_is_not_looked_at() -> None:
    class Transport(asyncio.Transport):
        def abort(self) -> None:
            self.aborted = True

    loop = asyncio.new_event_loop()
    protocol = Recorder()
    side = stream._Stream(loop, protocol, ("192.0.2.1", 1))
    side.connection_made(Transport())
    side.data_received(b"GET / HTTP")
    side.data_received(message())
    assert protocol.received == []
    loop.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_path_that_has_gone_ends_the_link(
    run: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext, tls: bool
) -> None:
    """What is sent may be unacknowledged for 15 s, not for the quarter of an hour that is usual."""

    async def main() -> None:
        async with serving(nothing, server_context if tls else None) as peer:
            link = await connect(Recorder(), peer, *((client_context, "turn.example") if tls else ()))
            sock = link.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15000
            link.abort()

    run(main())


def test_the_servers_end_is_told(run: Run) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(message() + message()[:5])
        writer.close()

    async def main() -> None:
        async with serving(hang_up) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer)
            await until(lambda: protocol.lost)
            assert protocol.data == [message()]
            assert protocol.lost == [None]
            assert link.is_closing()

    run(main())


def test_a_peer_that_does_not_read_gets_whole_frames_only(run: Run) -> None:
    """Field cases F48, F49: the newest frames are dropped and counted."""
    reading = asyncio.Event()
    arrived = bytearray()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reading.wait()
        while data := await reader.read(1 << 20):
            arrived.extend(data)

    async def main() -> None:
        async with serving(slow) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer)
            sent = 0
            while link.dropped < 10:
                link.sendto(message(60000, sent))
                sent += 1
                assert link.get_write_buffer_size() <= stream.WRITE_BUFFER
                await asyncio.sleep(0)
            accepted = sent - 10
            reading.set()
            await until(lambda: not link.get_write_buffer_size())
            link.sendto(message(4, 12345))
            link.close()
            size = accepted * len(message(60000)) + len(message(4))
            await until(lambda: len(arrived) >= size)
            await until(lambda: protocol.lost)
            frames = StreamFramer().feed(bytes(arrived))
            assert len(frames) == accepted + 1
            assert frames[-1] == message(4, 12345)

    run(main())


def test_frames_of_one_turn_leave_together_and_in_order(run: Run) -> None:
    async def until_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await echo(reader, writer)

    async def main() -> None:
        async with serving(until_reset) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer)
            writes: list[int] = []
            under = link._stream

            class Counted:
                def write(self, data: bytes) -> None:
                    writes.append(len(data))
                    under.write(data)

                def __getattr__(self, name: str) -> Any:
                    return getattr(under, name)

            link._stream = Counted()  # type: ignore[assignment]
            frames = [message(4, number) for number in range(10)]
            for frame in frames[:6]:
                link.send_soon(frame, peer)
            assert writes == [24] and link.get_write_buffer_size() >= 5 * 24
            link.sendto(frames[6])  # overtakes nothing
            assert writes == [24, 5 * 24, 24]
            assert link.send_many(frames[7:], peer) == 3
            assert writes == [24, 5 * 24, 24, 3 * 24]
            await until(lambda: len(protocol.received) == 10)
            assert protocol.data == frames
            for frame in frames[:3]:
                link.send_soon(frame)
            link.discard()
            link.discard()
            writes.clear()
            big = [channel_data(bytes(30000)) for _ in range(8)]
            for frame in big:
                link.send_soon(frame)
            assert max(writes) < stream.GATHERED + 40000
            link.send_soon(channel_data(b"bye"))
            link.close()
            link.send_soon(b"late")
            await until(lambda: protocol.lost)
            assert sum(writes) == 8 * 30004 + 8

    run(main())


def test_a_peer_that_does_not_read_pauses_the_protocol(run: Run) -> None:
    reading = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reading.wait()
        while await reader.read(1 << 20):
            pass

    class Asked(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[str] = []

        def pause_writing(self) -> None:
            self.asked.append("pause")

        def resume_writing(self) -> None:
            self.asked.append("resume")

    async def main() -> None:
        async with serving(slow) as peer:
            protocol = Asked()
            link = await connect(protocol, peer)
            link.set_write_buffer_limits(high=100_000)
            while not protocol.asked:
                link.send_soon(message(60000))
                await asyncio.sleep(0)
            assert link.get_write_buffer_size() < 300_000 and link.dropped == 0
            while link.dropped < 3:
                link.send_many([message(60000)] * 10)
            reading.set()
            await until(lambda: protocol.asked == ["pause", "resume"])
            link.abort()
            await until(lambda: protocol.lost)

    run(main())


def test_close_does_not_wait_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LINGER", 0.02)

    async def sleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()

    async def main() -> None:
        async with serving(sleep) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer)
            while not link.dropped:
                link.sendto(message(60000))
                await asyncio.sleep(0)
            link.close()
            assert not protocol.lost
            await until(lambda: protocol.lost)

    run(main())


def test_nobody_listens(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await connect(Recorder(), closed_port(kind=socket.SOCK_STREAM))
        with pytest.raises(ConnectionRefusedError):
            await connect(
                Recorder(), closed_port(kind=socket.SOCK_STREAM), ssl.create_default_context(), "turn.example"
            )

    run(main())


def test_exceptions_of_callbacks_stop_nothing(run: Run) -> None:
    class Broken(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            raise RuntimeError("received")

    async def main() -> None:
        async with serving(echo) as peer:
            protocol = Broken()
            link = await connect(protocol, peer)
            link.sendto(message() * 2)
            await until(lambda: len(protocol.received) == 2)
            link.close()
            await until(lambda: protocol.lost)

    run(main(), complaints=2)


def test_tls(run: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        async with serving(echo, server_context) as peer:
            protocol = Recorder()
            link = await connect(protocol, peer, client_context, "turn.example")
            link.sendto(message(8))
            await until(lambda: protocol.received)
            assert protocol.received == [(message(8), peer)]
            assert link.get_extra_info("sockname")[0] == "127.0.0.1"
            link.close()
            await until(lambda: protocol.lost)

    run(main())


def test_tls_close_sends_what_was_accepted(
    run: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    arrived = bytearray()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            arrived.extend(data)

    async def main() -> None:
        async with serving(read, server_context) as peer:
            link = await connect(Recorder(), peer, client_context, "turn.example")
            for _ in range(10):
                link.sendto(message(40000))
            link.close()
            await until(lambda: len(arrived) == 10 * len(message(40000)))

    run(main())


@pytest.mark.parametrize("name", ["other.example", "127.0.0.1"])
def test_tls_for_another_name_fails(
    run: Run, server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str
) -> None:
    async def main() -> None:
        async with serving(nothing, server_context) as peer:
            protocol = Recorder()
            with pytest.raises(ssl.SSLError):
                await connect(protocol, peer, client_context, name)
            assert protocol.transport is None

    run(main())


def test_tls_of_an_unknown_authority_fails(run: Run, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        async with serving(nothing, server_context) as peer:
            with pytest.raises(ssl.SSLError):
                await connect(Recorder(), peer, ssl.create_default_context(), "turn.example")

    run(main())


def test_tls_where_there_is_none_fails(run: Run, client_context: ssl.SSLContext) -> None:
    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def main() -> None:
        for handler in (chatter, hang_up):
            async with serving(handler) as peer:
                with pytest.raises(ssl.SSLError):
                    await connect(Recorder(), peer, client_context, "turn.example")

    run(main())


def test_tls_with_a_silent_server_fails(
    run: Run, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HANDSHAKE_TIMEOUT", 0.05)

    async def main() -> None:
        async with serving(nothing) as peer:
            with pytest.raises(ssl.SSLError):
                await connect(Recorder(), peer, client_context, "turn.example")

    run(main())
