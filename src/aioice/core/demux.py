"""What is this packet: the classes of RFC 7983, and the frames of a TURN stream."""

from __future__ import annotations

#: RFC 8489 §5, as it stands in bytes 4 to 7 of every message.
MAGIC_COOKIE = b"\x21\x12\xa4\x42"
STUN_HEADER_SIZE = 20
CHANNEL_HEADER_SIZE = 4
#: The largest payload of a Send indication that fits a UDP datagram of 65507 bytes: beside it stand XOR-PEER-ADDRESS
#: of an IPv6 peer (24), the head of DATA (4) and its padding (3).
MAX_DATA = 65507 - STUN_HEADER_SIZE - 24 - 4 - 3

#: RFC 8656 §12: the channel numbers; RFC 7983 §7: so the first byte of ChannelData is 64 to 79.
CHANNEL_MIN = 0x4000
CHANNEL_MAX = 0x4FFF

#: What a web server says to a STUN message. ``HT`` would pass for a channel number, and ``TP`` for 21 kB to wait for.
_HTTP = b"HTTP"


def is_stun(data: bytes) -> bool:
    """Two zero bits and the magic cookie: STUN, though perhaps a malformed message (RFC 8489 §5)."""
    return data[4:8] == MAGIC_COOKIE and data[0] < 0x40


def is_channel_data(data: bytes) -> bool:
    """A ChannelData message of TURN, by its first byte (RFC 8656 §12)."""
    return len(data) > 0 and 0x40 <= data[0] <= 0x4F


def pad(data: bytes) -> bytes:
    """Fill up to a multiple of four bytes, as every frame of a stream must be (RFC 8656 §12.5)."""
    rest = len(data) % 4
    return data + bytes(4 - rest) if rest else data


class StreamFramer:
    """Cuts what comes over a TCP or TLS connection to a STUN or TURN server into messages.

    The first frame must be a STUN message: nobody can have bound a channel before.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False

    @property
    def pending(self) -> int:
        """How many bytes of an incomplete frame there are."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now, without the padding of ChannelData; what remains waits for more.

        ValueError when this is neither STUN nor ChannelData: the stream cannot be read any further.
        """
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        while start < len(buffer):
            used, size = self._measure(buffer, start)
            if not used or len(buffer) - start < used:
                break
            frames.append(bytes(buffer[start : start + size]))
            start += used
            self._greeted = True
        del buffer[:start]
        return frames

    def _measure(self, buffer: bytearray, start: int) -> tuple[int, int]:
        """The size of the frame at ``start`` with and without padding; zeros if that cannot be told yet."""
        kind = buffer[start]
        if kind < 0x40:
            cookie = bytes(buffer[start + 4 : start + 8])
            if not MAGIC_COOKIE.startswith(cookie):
                raise ValueError("STUN message without the magic cookie")
            if len(buffer) - start < CHANNEL_HEADER_SIZE:
                return 0, 0
            size = STUN_HEADER_SIZE + int.from_bytes(buffer[start + 2 : start + 4], "big")
            if size % 4:
                raise ValueError("STUN message whose length is not a multiple of 4")
            return size, size
        if not self._greeted:
            if bytes(buffer[start : start + 4]) == _HTTP[: len(buffer) - start]:
                raise ValueError("this is an HTTP server")
            raise ValueError("neither STUN nor TURN")
        if kind > 0x4F:
            raise ValueError("neither a STUN message nor ChannelData")
        if len(buffer) - start < CHANNEL_HEADER_SIZE:
            return 0, 0
        size = CHANNEL_HEADER_SIZE + int.from_bytes(buffer[start + 2 : start + 4], "big")
        return (size + 3) & ~3, size
