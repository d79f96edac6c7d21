from __future__ import annotations

import pytest

from aioice.core.demux import StreamFramer, is_channel_data, is_stun, pad

#: A Binding request without attributes, and one with eight bytes of them.
EMPTY = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
LONGER = b"\x01\x01\x00\x08\x21\x12\xa4\x42" + bytes(12) + b"\x80\x22\x00\x04test"


def channel_data(number: int, payload: bytes) -> bytes:
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def greeted() -> StreamFramer:
    framer = StreamFramer()
    assert framer.feed(EMPTY) == [EMPTY]
    return framer


class TestClasses:
    @pytest.mark.parametrize("data", [EMPTY, LONGER, EMPTY[:8], EMPTY[:19], b"\x3f\xff\xff\xff\x21\x12\xa4\x42"])
    def test_stun(self, data: bytes) -> None:
        assert is_stun(data)

    @pytest.mark.parametrize("data", [b"", b"\x00", EMPTY[:7], b"\x40" + EMPTY[1:], b"\x80" + EMPTY[1:], bytes(20)])
    def test_not_stun(self, data: bytes) -> None:
        assert not is_stun(data)

    @pytest.mark.parametrize("first", [0x40, 0x4F])
    def test_channel_data(self, first: int) -> None:
        assert is_channel_data(bytes([first, 0, 0, 0]))
        assert is_channel_data(bytes([first]))

    @pytest.mark.parametrize("data", [b"", b"\x3f\0\0\0", b"\x50\0\0\0", b"\x80\0\0\0", EMPTY])
    def test_not_channel_data(self, data: bytes) -> None:
        assert not is_channel_data(data)

    @pytest.mark.parametrize(("size", "padded"), [(0, 0), (1, 4), (3, 4), (4, 4), (5, 8)])
    def test_pad(self, size: int, padded: int) -> None:
        assert pad(b"x" * size) == b"x" * size + bytes(padded - size)


class TestStreamFramer:
    def test_two_padded_channel_data_in_one_segment(self) -> None:
        # F42: five bytes of payload need three of padding, and both frames of the segment count.
        framer = greeted()
        one, two = channel_data(0x4000, b"hello"), channel_data(0x4001, b"world")
        assert framer.feed(pad(one) + pad(two)) == [one, two]
        assert framer.pending == 0

    def test_byte_by_byte(self) -> None:
        # F42, F48
        framer = StreamFramer()
        frames = [LONGER, channel_data(0x4FFF, b"hello"), EMPTY, channel_data(0x4000, b"")]
        got: list[bytes] = []
        for byte in b"".join(map(pad, frames)):
            got += framer.feed(bytes([byte]))
        assert got == frames
        assert framer.pending == 0

    def test_largest_frames(self) -> None:
        framer = greeted()
        frame = channel_data(0x4000, bytes(0xFFFF))
        assert framer.feed(pad(frame)[:-1]) == []
        assert framer.feed(b"\0") == [frame]

    def test_rest_is_kept(self) -> None:
        framer = greeted()
        assert framer.feed(LONGER + EMPTY[:6]) == [LONGER]
        assert framer.pending == 6
        assert framer.feed(EMPTY[6:]) == [EMPTY]
        assert framer.feed(b"") == []

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"H", b"HTTP"])
    def test_web_server(self, answer: bytes) -> None:
        with pytest.raises(ValueError, match="HTTP"):
            StreamFramer().feed(answer)

    @pytest.mark.parametrize(
        "answer", [b"SSH-2.0-x", b"\x16\x03\x01\x02\x00", b"\x80", channel_data(0x4000, b"early"), b"Hello"]
    )
    def test_something_else(self, answer: bytes) -> None:
        with pytest.raises(ValueError):
            StreamFramer().feed(answer)

    def test_wrong_cookie_is_seen_at_once(self) -> None:
        with pytest.raises(ValueError, match="cookie"):
            StreamFramer().feed(EMPTY[:4] + b"\x21\x13")

    def test_odd_length(self) -> None:
        with pytest.raises(ValueError, match="multiple of 4"):
            StreamFramer().feed(b"\x00\x01\x00\x03")

    @pytest.mark.parametrize("first", [0x50, 0x80, 0xFF])
    def test_reserved_classes(self, first: int) -> None:
        with pytest.raises(ValueError, match="ChannelData"):
            greeted().feed(bytes([first]))
