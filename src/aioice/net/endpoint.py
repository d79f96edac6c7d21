"""asyncio's own datagram endpoint, for loops that have no readers: Windows' Proactor loop."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

from .sender import MAX_SIZE_IPV4, MAX_SIZE_IPV6
from .udp import bind_udp

if TYPE_CHECKING:
    from .sender import Buffer


async def open_endpoint(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.DatagramProtocol, host: str, port: int | range = 0
) -> asyncio.DatagramTransport:
    """The same on asyncio's own transport, for loops without readers: slower, and blind to whom an ICMP error is from.

    No error queue, as nobody would drain it, and an undrained one keeps the loop awake.
    """
    sock = bind_udp(host, port)
    try:
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    endpoint = Endpoint(transport, MAX_SIZE_IPV6 if ":" in host else MAX_SIZE_IPV4)
    transport.set_protocol(protocol)
    protocol.connection_made(endpoint)
    return endpoint


class Endpoint(asyncio.DatagramTransport):
    """asyncio's own transport, but for the caller of a send that is too big: that one does not tell it."""

    __slots__ = ("_transport", "_max_size", "__weakref__")

    def __init__(self, transport: asyncio.DatagramTransport, max_size: int) -> None:
        super().__init__()
        self._transport = transport
        self._max_size = max_size

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        if len(data) > self._max_size:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self._transport.sendto(data, addr)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        set_limits = getattr(self._transport, "set_write_buffer_limits", None)
        if set_limits is not None:
            set_limits(high, low)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
