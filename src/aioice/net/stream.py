"""TCP and TLS links to STUN and TURN servers: whole frames in and out, with the face of a datagram transport."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, cast

from aioice.core.demux import StreamFramer, pad

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioice.core.machine import Address

    from .sender import Buffer

#: Bytes that may wait for a peer that does not read; what comes on top is dropped, whole frames only.
WRITE_BUFFER = 1 << 20

#: Bytes that are gathered within a turn of the loop at most.
GATHERED = 1 << 16

#: Seconds for the TLS handshake.
HANDSHAKE_TIMEOUT = 10.0

#: Seconds in which a closed link may still send what it accepted.
LINGER = 2.0

#: Seconds for which nothing of what we have sent need be acknowledged: so a stream whose path has gone (a NAT has
#: forgotten it, an address is ours no longer) ends before consent does, and not after a quarter of an hour.
SILENCE = 15.0


async def open_stream(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.DatagramProtocol,
    peer: Address,
    context: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> StreamTransport:
    """Connect to ``peer``; ``protocol`` gets whole frames as datagrams from it, and its ``stream_connected`` (if it has
    that) is called when TLS begins.

    Raises :exc:`OSError`; as :exc:`ssl.SSLError` whatever goes wrong in a TLS handshake.
    """
    stream = _Stream(loop, protocol, peer)
    options: dict[str, Any] = {}
    if context is not None:
        options = {
            "ssl": context,
            "server_hostname": server_name,
            "ssl_handshake_timeout": HANDSHAKE_TIMEOUT,
            "ssl_shutdown_timeout": LINGER,
        }
    try:
        if context is None:
            await loop.create_connection(lambda: stream, *peer)
        else:
            sock = await _connected(loop, peer)
            if sock is None:
                await loop.create_connection(lambda: stream, *peer, **options)
            else:
                getattr(protocol, "stream_connected", lambda: None)()
                await loop.create_connection(lambda: stream, sock=sock, **options)
    except asyncio.CancelledError:
        stream.give_up()
        raise
    except ConnectionRefusedError:
        raise
    except ConnectionError as exc:
        if context is None:
            raise
        # asyncio's word for a peer that hangs up, or says nothing, while it should shake hands.
        raise ssl.SSLError(f"TLS handshake: {exc or type(exc).__name__}") from exc
    _end_with_path(stream.link)
    return stream.link


def _end_with_path(link: StreamTransport) -> None:
    sock, option = link.get_extra_info("socket"), getattr(socket, "TCP_USER_TIMEOUT", None)
    if sock is not None and option is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, int(SILENCE * 1000))


async def _connected(loop: asyncio.AbstractEventLoop, peer: Address) -> socket.socket | None:
    """A TCP socket to ``peer``; None on loops that know no sockets."""
    sock = socket.socket(socket.AF_INET6 if ":" in peer[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, peer)
    except NotImplementedError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


class StreamTransport(asyncio.DatagramTransport):
    """Made by :func:`open_stream`."""

    __slots__ = (
        "_loop",
        "_stream",
        "_protocol",
        "_frames",
        "_waiting",
        "_closing",
        "_linger",
        "dropped",
        "__weakref__",
    )

    #: What :meth:`send_soon` gathers saves system calls, and records of TLS.
    gathers = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: asyncio.Transport,
        protocol: asyncio.DatagramProtocol,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._stream = stream
        self._protocol = protocol
        #: What leaves together at the end of the turn, and its size; None while nothing is gathered.
        self._frames: list[bytes] | None = None
        self._waiting = 0
        self._closing = False
        self._linger: asyncio.TimerHandle | None = None
        #: Frames that were not sent because the peer did not read.
        self.dropped = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._stream.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self._stream.get_write_buffer_size() + self._waiting

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """``high`` bytes may wait for a peer that does not read before the protocol is asked to pause."""
        self._stream.set_write_buffer_limits(high, low)

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        """Send one frame to the peer (``addr`` is of no interest: there is one peer)."""
        if self._waiting:
            self._flush()
        if self._has_room(data):
            self._stream.write(pad(bytes(data)))

    def send_soon(self, data: bytes, addr: Any = None) -> None:
        """As :meth:`sendto`, but from the second in a turn of the loop on they leave together at its end."""
        if self._frames is None:
            self.sendto(data)
            if not self._closing:
                self._frames = []
                self._loop.call_soon(self._turn_ends)
        elif self._has_room(data):
            frame = pad(data)
            self._frames.append(frame)
            self._waiting += len(frame)
            if self._waiting > GATHERED:
                self._flush()

    def send_many(self, datagrams: Sequence[bytes], addr: Any = None) -> int:
        """Send a frame for each; how many were taken."""
        for data in datagrams:
            self.send_soon(data)
        self._flush()
        return len(datagrams)

    def discard(self, addr: Any = None) -> None:
        """Forget what waits for the end of the turn: data, as all else leaves at once."""
        if self._frames:
            self._frames.clear()
            self._waiting = 0

    def _has_room(self, data: Buffer) -> bool:
        if self._closing:
            return False
        if self.get_write_buffer_size() + len(data) > WRITE_BUFFER:
            self.dropped += 1
            return False
        return True

    def _turn_ends(self) -> None:
        self._flush()
        self._frames = None

    def _flush(self) -> None:
        if self._waiting and self._frames:
            frames = b"".join(self._frames)
            self._frames.clear()
            self._waiting = 0
            self._stream.write(frames)

    def close(self) -> None:
        """Close after what was accepted has been sent, within a bounded time."""
        if self._closing:
            return
        self._flush()
        self._closing = True
        self._linger = self._loop.call_later(LINGER, self._stream.abort)
        self._stream.close()

    def abort(self) -> None:
        """Close now."""
        self._closing = True
        self._stream.abort()

    def _lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._protocol.connection_lost(exc)


class _Stream(asyncio.Protocol):
    """What asyncio calls: cuts the stream into frames."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.DatagramProtocol, peer: Address) -> None:
        self._loop = loop
        self._protocol = protocol
        self._peer = peer
        self._framer = StreamFramer()
        self._fault: Exception | None = None
        self._ended = False
        self.link: StreamTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not all loops derive theirs from asyncio's classes.
        self.link = StreamTransport(self._loop, cast("asyncio.Transport", transport), self._protocol)
        self._contained(self._protocol.connection_made, self.link)

    def data_received(self, data: bytes) -> None:
        if self._fault is not None:
            return
        try:
            frames = self._framer.feed(data)
        except ValueError as exc:
            self._fault = exc
            self.link.abort()
            return
        for frame in frames:
            if self.link.is_closing():
                return
            self._contained(self._protocol.datagram_received, frame, self._peer)

    def pause_writing(self) -> None:
        self._contained(self._protocol.pause_writing)

    def resume_writing(self) -> None:
        self._contained(self._protocol.resume_writing)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._contained(self.link._lost, self._fault or exc)

    def give_up(self) -> None:
        """The opening was cancelled; at its last step uvloop does not tell the protocol of the end."""
        if hasattr(self, "link"):
            self.link.abort()
            self._loop.call_soon(self.connection_lost, None)

    def _contained(self, callback: Callable[..., object], *args: object) -> None:
        try:
            callback(*args)
        except Exception as exc:
            self._loop.call_exception_handler(
                {
                    "message": "aioice: exception in a stream link's callback",
                    "exception": exc,
                    "protocol": self._protocol,
                }
            )
