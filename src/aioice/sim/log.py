"""The packets of a world as lines that a person can read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..core.demux import is_channel_data, is_stun
from ..core.message import Class, Method, parse_message
from .links import is_ipv6

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.machine import Address
    from .links import Packet

_CLASSES = {
    Class.REQUEST: "request",
    Class.INDICATION: "indication",
    Class.RESPONSE: "response",
    Class.ERROR: "error response",
}


def describe(packets: Sequence[Packet], last: int) -> str:
    """What became of all packets in one line, and a line for each of the last ones."""
    fates = Counter(str(packet.fate) for packet in packets)
    head = f"{len(packets)} packets: {', '.join(f'{count} {fate}' for fate, count in fates.most_common()) or 'none'}"
    return "\n".join([head, *(line(packet) for packet in packets[len(packets) - min(last, len(packets)) :])])


def line(packet: Packet) -> str:
    """When, from where to where, what, and its fate; the sender's mapped address where it has one."""
    seen = "" if packet.seen == packet.src else f" (as {_text(packet.seen)})"
    way = f"{packet.transport} {_text(packet.src)}{seen} > {_text(packet.dst)}"
    return f"{packet.time:12.6f} {way}: {_kind(packet.data)}, {len(packet.data)} bytes: {packet.fate}"


def _text(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if is_ipv6(address[0]) else f"{address[0]}:{address[1]}"


def _kind(data: bytes) -> str:
    if is_channel_data(data):
        return f"ChannelData {int.from_bytes(data[:2], 'big'):#06x}"
    if not is_stun(data):
        return "data"
    try:
        message = parse_message(data)
        name = Method(message.message_method).name.replace("_", " ").title()
    except ValueError:
        return "STUN that cannot be read"
    code = f" {message.attributes['ERROR-CODE'][0]}" if "ERROR-CODE" in message.attributes else ""
    nominates = ", nominates" if "USE-CANDIDATE" in message.attributes else ""
    return f"{name} {_CLASSES[message.message_class]}{code}{nominates}"
