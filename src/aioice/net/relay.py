"""A relayed address as a transport, and the channels by which data passes it without its machine."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

from aioice.core.demux import MAX_DATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioice.core.machine import Address

    from .driver import Driver
    from .sender import Buffer


class Channel:
    """A channel of a TURN server that is bound to a peer (RFC 8656 §12): four bytes in front, and off it goes.

    ``protocol``, that of the link to the server, may have ``bind_channel(number, relay, peer, server)``, with the
    protocol of the relayed address, and ``unbind_channel(number)``: it hands what comes over the channel to ``relay``.
    """

    __slots__ = ("number", "_head", "_transport", "_send_soon", "_server", "_protocol")

    def __init__(self, number: int, transport: Any, server: Address, protocol: Any) -> None:
        self.number = number
        self._head = number.to_bytes(2, "big")
        self._transport = transport
        self._send_soon = transport.send_soon if getattr(transport, "gathers", False) else transport.sendto
        self._server = server
        self._protocol = protocol

    def open(self, relay: asyncio.DatagramProtocol, peer: Address) -> None:
        bind = getattr(self._protocol, "bind_channel", None)
        if bind is not None:
            bind(self.number, relay, peer, self._server)

    def close(self) -> None:
        unbind = getattr(self._protocol, "unbind_channel", None)
        if unbind is not None:
            unbind(self.number)

    def send(self, data: Buffer) -> None:
        self._transport.sendto(self._head + len(data).to_bytes(2, "big") + data, self._server)

    def send_soon(self, data: bytes) -> None:
        self._send_soon(self._head + len(data).to_bytes(2, "big") + data, self._server)

    def send_many(self, datagrams: Sequence[bytes]) -> int:
        head = self._head
        frames = [head + len(data).to_bytes(2, "big") + data for data in datagrams]
        send_many = getattr(self._transport, "send_many", None)
        if send_many is not None:
            return int(send_many(frames, self._server))
        for frame in frames:
            self._transport.sendto(frame, self._server)
        return len(frames)

    def discard(self) -> None:
        discard = getattr(self._transport, "discard", None)
        if discard is not None:
            discard(self._server)


class RelayTransport(asyncio.DatagramTransport):
    """A relayed address as a transport: what is sent on it leaves through the machine that owns the allocation, or at
    once where the machine has said which channel the peer is bound to.

    ``server``, the protocol of the link to the server, may have ``add_relay(protocol)`` and ``remove_relay(protocol)``:
    it hands on when to pause.
    """

    __slots__ = (
        "_driver",
        "_link",
        "_relayed",
        "_mapped",
        "_protocol",
        "_server",
        "_channels",
        "_closing",
        "packets_sent",
        "bytes_sent",
        "__weakref__",
    )

    #: Sends to a peer with a channel may be gathered by the server's transport.
    gathers = True

    def __init__(
        self,
        driver: Driver,
        link: int,
        relayed: Address,
        mapped: Address,
        protocol: asyncio.DatagramProtocol,
        server: asyncio.BaseProtocol | None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._link = link
        self._relayed = relayed
        self._mapped = mapped
        self._protocol = protocol
        self._server = server
        getattr(server, "add_relay", _nobody)(protocol)
        self._channels: dict[Address, Channel] = {}
        self._closing = False
        self.packets_sent = 0
        self.bytes_sent = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return self._relayed
        if name == "related_address":
            return self._mapped
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    # ------------------------------------------------------------------------------------------------------- channels

    def bind(self, peer: Address, channel: Channel) -> None:
        """What goes to and comes from ``peer`` does not pass the machine from now on."""
        self.unbind(peer)
        self._channels[peer] = channel
        channel.open(self._protocol, peer)

    def unbind(self, peer: Address) -> None:
        channel = self._channels.pop(peer, None)
        if channel is not None:
            channel.close()

    # -------------------------------------------------------------------------------------------------------- sending

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        """A datagram that does not fit into one to the server raises :exc:`OSError` (EMSGSIZE)."""
        if len(data) > MAX_DATA:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self.packets_sent += 1
        self.bytes_sent += len(data)
        channel = self._channels.get(addr)
        if channel is not None:
            channel.send(data)
        else:
            self._through_machine(data, addr)

    def send_soon(self, data: bytes, addr: Any) -> None:
        """As :meth:`aioice.net.udp.UdpTransport.send_soon`."""
        channel = self._channels.get(addr)
        if channel is not None and len(data) <= MAX_DATA:
            self.packets_sent += 1
            self.bytes_sent += len(data)
            channel.send_soon(data)
        else:
            self.sendto(data, addr)

    def send_many(self, datagrams: Sequence[bytes], addr: Any) -> int:
        """As :meth:`aioice.net.udp.UdpTransport.send_many`."""
        channel = self._channels.get(addr)
        if channel is not None and max(map(len, datagrams)) <= MAX_DATA:
            taken = channel.send_many(datagrams)
            self.packets_sent += taken
            self.bytes_sent += sum(map(len, datagrams[:taken]))
            return taken
        self.sendto(datagrams[0], addr)
        return 1

    def _through_machine(self, data: Buffer, addr: Any) -> None:
        send = self._driver.relay_send
        if send is not None and not self._closing:
            self._driver.do(send, self._link, addr, bytes(data))

    def discard(self, addr: Any) -> None:
        """Forget what waits to be sent to ``addr``; it cannot be told from what else goes to the server."""
        channel = self._channels.get(addr)
        if channel is not None:
            channel.discard()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            for peer in list(self._channels):
                self.unbind(peer)
            getattr(self._server, "remove_relay", _nobody)(self._protocol)
            self._driver.loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


def _nobody(protocol: asyncio.DatagramProtocol) -> None:
    """The server's link does not care."""
