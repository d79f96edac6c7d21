"""WebSockets (RFC 6455), as much of them as signalling takes: texts of bounded size both ways, and no extensions."""

from __future__ import annotations

import asyncio
import contextlib
import os
from base64 import b64decode, b64encode
from hashlib import sha1
from typing import NamedTuple
from urllib.parse import urlsplit

from .output import shown

#: Bytes of a message, and of the head of a handshake.
MAX_MESSAGE = 65536
MAX_HEAD = 8192
#: Seconds for a handshake, and for a closing one.
HANDSHAKE, CLOSING = 10.0, 2.0
#: RFC 6455 §1.3.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: RFC 6455 §5.2.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
#: RFC 6455 §7.4.1.
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNACCEPTABLE, NOT_UTF8, TOO_BIG, LATER = 1000, 1001, 1002, 1003, 1007, 1009, 1013


class WebSocketError(ConnectionError):
    """The other side does not keep to RFC 6455, or is none; ``code`` is what it is closed with."""

    def __init__(self, text: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


class Url(NamedTuple):
    """RFC 6455 §3."""

    secure: bool
    host: str
    port: int
    resource: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> Url:
    """:raises ValueError: when it is no ``ws:`` or ``wss:`` URL."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError(f"{shown(url)} is no URL")
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{shown(url)} is not of the form ws://HOST[:PORT]/NAME or wss://HOST[:PORT]/NAME")
    port = (443 if secure else 80) if parts.port is None else parts.port
    return Url(secure, parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


class WebSocket:
    """An open WebSocket; clients mask what they send (RFC 6455 §5.3), servers don't."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._client = client
        self._closing = False
        #: How the other side has closed it.
        self.code = 0
        self.reason = ""
        #: When something last came, by the loop's clock.
        self.heard_at = asyncio.get_running_loop().time()

    # ------------------------------------------------------------------------------------------------------- verbs

    async def send(self, text: str) -> None:
        """:raises ConnectionError: when it is closed."""
        await self._send(TEXT, text.encode())

    async def ping(self) -> None:
        await self._send(PING, b"")

    async def receive(self) -> str | None:
        """The next text; None when the other side has closed. Pings are answered meanwhile.

        :raises WebSocketError: when something else came than a text; it has been told so.
        """
        try:
            return await self._receive()
        except WebSocketError as exc:
            await self._send_close(exc.code)
            raise
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """RFC 6455 §7.1.2, and the end of the connection below it."""
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await self._send_close(code, reason)
                    while self._client and not self.code and await self.receive() is not None:
                        pass
        finally:
            self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSING):
                await self._writer.wait_closed()

    # ------------------------------------------------------------------------------------------------------ frames

    async def _receive(self) -> str | None:
        message: bytearray | None = None
        while True:
            final, kind, data = await self._frame(MAX_MESSAGE - len(message or b""))
            self.heard_at = asyncio.get_running_loop().time()
            if kind == PING:
                await self._send(PONG, data)
            elif kind == CLOSE:
                self.code = int.from_bytes(data[:2]) if len(data) > 1 else 1005
                self.reason = data[2:].decode(errors="replace")
                await self._send_close(NORMAL)
                return None
            elif kind == BINARY:
                raise WebSocketError("binary messages are not for us", UNACCEPTABLE)
            elif kind in (TEXT, CONTINUATION):
                if (kind == TEXT) is (message is not None):
                    raise WebSocketError("a fragment out of place")
                message = bytearray(data) if message is None else message + data
                if final:
                    return _decoded(bytes(message))

    async def _frame(self, room: int) -> tuple[bool, int, bytes]:
        """RFC 6455 §5.2."""
        first, second = await self._reader.readexactly(2)
        final, kind, masked, size = bool(first & 0x80), first & 0x0F, bool(second & 0x80), second & 0x7F
        control = kind >= CLOSE
        if first & 0x70 or kind not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise WebSocketError("a frame of an unknown kind")
        if masked is self._client:
            raise WebSocketError("a frame of a server is masked" if masked else "a frame of a client is not masked")
        if control and (not final or size > 125):
            raise WebSocketError("a control frame that is too big, or in pieces")
        if size >= 126:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
        if size > room and not control:
            raise WebSocketError("a message is too big", TOO_BIG)
        mask = await self._reader.readexactly(4) if masked else bytes(4)
        return final, kind, masking(await self._reader.readexactly(size), mask)

    async def _send(self, kind: int, data: bytes) -> None:
        if self._closing:
            raise ConnectionError("the WebSocket is closed")
        flag = 0x80 if self._client else 0
        size = len(data)
        head = bytes([0x80 | kind])
        if size < 126:
            head += bytes([flag | size])
        elif size < 65536:
            head += bytes([flag | 126]) + size.to_bytes(2)
        else:
            head += bytes([flag | 127]) + size.to_bytes(8)
        if self._client:
            mask = os.urandom(4)
            head, data = head + mask, masking(data, mask)
        self._writer.write(head + data)
        await self._writer.drain()

    async def _send_close(self, code: int, reason: str = "") -> None:
        if not self._closing:
            with contextlib.suppress(OSError):
                await self._send(CLOSE, code.to_bytes(2) + reason.encode()[:100])
            self._closing = True


def masking(data: bytes, mask: bytes) -> bytes:
    """RFC 6455 §5.3; twice is nothing."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(size)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WebSocketError("a text that is not UTF-8", NOT_UTF8) from None


# ---------------------------------------------------------------------------------------------------------- handshakes


def accept_key(key: bytes) -> str:
    """RFC 6455 §4.2.2."""
    return b64encode(sha1(key + MAGIC, usedforsecurity=False).digest()).decode()


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """The first line of an HTTP message, and its fields by their names in lower case."""
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise WebSocketError("what answers there does not speak HTTP") from None
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            fields[key] = f"{fields[key]}, {value.strip()}" if key in fields else value.strip()
    return lines[0], fields


def _has(fields: dict[str, str], name: str, token: str) -> bool:
    return token in [word.strip().lower() for word in fields.get(name, "").split(",")]


async def connect(text: str) -> WebSocket:
    """Open a WebSocket as a client.

    :raises ValueError: when the URL is none.
    :raises ConnectionError: when there is no WebSocket there.
    """
    url = parse_url(text)
    writer = None
    try:
        async with asyncio.timeout(HANDSHAKE):
            reader, writer = await asyncio.open_connection(url.host, url.port, ssl=url.secure or None, limit=MAX_HEAD)
            await _ask(reader, writer, url)
    except BaseException as exc:
        if writer is not None:
            writer.close()
        if isinstance(exc, TimeoutError):
            raise ConnectionError(f"{shown(text)} does not answer") from None
        if isinstance(exc, ConnectionRefusedError):
            raise ConnectionError(f"{shown(text)}: nobody listens there") from None
        if isinstance(exc, OSError):
            raise ConnectionError(f"{shown(text)}: {exc.strerror or exc}") from None
        raise
    return WebSocket(reader, writer, client=True)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: Url) -> None:
    """RFC 6455 §4.1."""
    key = b64encode(os.urandom(16))
    writer.write(
        f"GET {url.resource} HTTP/1.1\r\nHost: {url.authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await writer.drain()
    line, fields = await _head(reader)
    if line.split(" ")[1:2] != ["101"]:
        raise WebSocketError(f"it answers {shown(line)}")
    if (
        not _has(fields, "upgrade", "websocket")
        or not _has(fields, "connection", "upgrade")
        or fields.get("sec-websocket-accept") != accept_key(key)
        or "sec-websocket-extensions" in fields
        or "sec-websocket-protocol" in fields
    ):
        raise WebSocketError("its handshake is not one of RFC 6455")


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[WebSocket, str]:
    """The server's side of a handshake (RFC 6455 §4.2); returns the WebSocket and the resource that was asked for.

    Browsers are refused, by the Origin that they all send: no page that somebody happens to open shall take part.

    :raises ConnectionError: when there is none; the client has been told.
    """
    async with asyncio.timeout(HANDSHAKE):
        line, fields = await _head(reader)
        try:
            method, resource, version = line.split(" ")
            key = fields.get("sec-websocket-key", "")
            status = ""
            if (method, version) != ("GET", "HTTP/1.1") or not resource.startswith("/"):
                status = "400 Bad Request"
            elif not _has(fields, "upgrade", "websocket") or not _has(fields, "connection", "upgrade"):
                status = "426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade"
            elif fields.get("sec-websocket-version") != "13":
                status = "426 Upgrade Required\r\nSec-WebSocket-Version: 13"
            elif "origin" in fields:
                status = "403 Forbidden"
            elif len(b64decode(key, validate=True)) != 16:
                status = "400 Bad Request"
        except ValueError:
            status = "400 Bad Request"
        if status:
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            raise WebSocketError(f"no handshake of a WebSocket: {status.splitlines()[0]}")
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key.encode())}\r\n\r\n".encode()
        )
        await writer.drain()
    return WebSocket(reader, writer, client=False), resource
