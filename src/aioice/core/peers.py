"""The peers of one TURN allocation: who may send to it (RFC 8656 §9), and the channels they are bound to (§12).

A child machine of the allocation. It decides what to ask the server for and in what form a packet leaves; how a request
is made, and what it comes back with, the allocation knows. No packet waits for anything: what has no channel yet leaves
as a Send indication, right behind the request for its permission.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from .deadlines import Timed
from .demux import CHANNEL_HEADER_SIZE, CHANNEL_MAX, CHANNEL_MIN, is_stun
from .machine import Deliver
from .message import Method

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .machine import Address
    from .message import Message

#: RFC 8656 §9: how long a permission lasts, and when we renew it: time for a transaction and another try.
PERMISSION_LIFETIME = 300
PERMISSION_REFRESH = 240
#: RFC 8656 §12: how long a channel lasts, and how long its number and its peer then stay apart from others.
CHANNEL_LIFETIME = 600
CHANNEL_COOL_DOWN = 300
#: A channel is renewed this long before its end, whatever the configuration says.
CHANNEL_MARGIN = 60
#: Nothing is renewed sooner than so many seconds from now.
FLOOR = 2
#: A request that was lost, or met a passing trouble of the server, is tried again after so long; one that was refused
#: after so long.
RETRY_LOST = 5
RETRY_REFUSED = 60
#: Bounds: hosts with a permission, known addresses of each, packets kept for a permission that is not there yet.
MAX_HOSTS = 8192
MAX_ADDRESSES = 4096
MAX_WAITING = 16


# ----------------------------------------------------------------------------------------- outputs: to the allocation


class Ask(NamedTuple):
    """Make this request; what becomes of it comes back with ``subject``."""

    method: Method
    attributes: dict[str, Any]
    subject: Permission | Channel


class Frame(NamedTuple):
    """Send this ChannelData message to the server."""

    data: bytes


class Indicate(NamedTuple):
    """Send this as a Send indication."""

    peer: Address
    data: bytes


class Suspect(NamedTuple):
    """The server may have lost the allocation."""


class PeerRefused(NamedTuple):
    """The server does not relay to this peer; its port is 0 if only its host has been mentioned."""

    relay_link: int
    peer: Address
    code: int
    response: Message | None = None


# ------------------------------------------------------------------------------------------------------------- state


class Permission(Timed):
    """May this host send to us, and we to it?"""

    __slots__ = ("host", "addresses", "waiting", "asked", "by_channel", "disturbed", "until", "refused", "response")

    def __init__(self, host: str) -> None:
        super().__init__()
        self.host = host
        #: Where we have sent to.
        self.addresses: set[Address] = set()
        #: What has left before the permission was confirmed.
        self.waiting: list[tuple[Address, bytes]] = []
        self.asked = False
        #: The server does not give permissions, and we wait for one that comes with a channel.
        self.by_channel = False
        #: The server cannot have seen our request before what is waiting: that was lost for certain.
        self.disturbed = False
        #: The server has it until then at least.
        self.until = float("-inf")
        #: The code of the refusal, and the response if that came from the server.
        self.refused = 0
        self.response: Message | None = None

    def keep(self, peer: Address, data: bytes, stun: bool) -> None:
        """Remember a packet until the permission is confirmed: the last STUN message for each peer, some data."""
        if stun:
            self.waiting = [entry for entry in self.waiting if entry[0] != peer or not is_stun(entry[1])]
        if len(self.waiting) < MAX_WAITING:
            self.waiting.append((peer, data))


class Channel(Timed):
    """A short name for a peer."""

    __slots__ = ("number", "peer", "asked", "used", "until", "lapses", "ask_at")

    def __init__(self, number: int, peer: Address) -> None:
        super().__init__()
        self.number = number
        self.peer = peer
        self.asked = False
        #: Something went through it since we have last asked for it.
        self.used = False
        #: The server has it until then at least, and until ``lapses`` at most.
        self.until = float("-inf")
        self.lapses = float("-inf")
        #: Not to be asked for (again) sooner.
        self.ask_at = float("-inf")


class Peers:
    """All whom an allocation speaks to, from when it is there to its end."""

    __slots__ = (
        "_relay_link",
        "_ipv6",
        "_channel_refresh_time",
        "_permissions",
        "_channels",
        "_numbers",
        "_next_number",
        "_free_numbers",
        "_deadlines",
        "_outputs",
    )

    def __init__(self, relay_link: int, ipv6: bool, channel_refresh_time: float, deadlines: Deadlines) -> None:
        self._relay_link = relay_link
        #: The family of the relayed address, and so of all its peers.
        self._ipv6 = ipv6
        self._channel_refresh_time = min(max(channel_refresh_time, FLOOR), CHANNEL_LIFETIME - CHANNEL_MARGIN)
        self._permissions: dict[str, Permission] = {}
        self._channels: dict[Address, Channel] = {}
        self._numbers: dict[int, Channel] = {}
        self._next_number = CHANNEL_MIN
        self._free_numbers: deque[int] = deque()
        #: Those of the allocation, which brings ours back to :meth:`handle_deadline`.
        self._deadlines = deadlines
        self._outputs: deque[Ask | Frame | Indicate | Suspect | PeerRefused | Deliver] = deque()

    # -------------------------------------------------------------------------------------------------------- verbs

    def send(self, now: float, peer: Address, data: bytes) -> bool:
        """Send to ``peer``, at once; whether that may be."""
        frame = self.frame(now, peer, data)
        if frame is not None:
            self._outputs.append(Frame(frame))
            return True
        permission = self._permit(now, peer[0])
        if permission is None or permission.refused:
            if permission is not None:
                self._tell_refusal(permission, peer)
            return False
        if len(permission.addresses) < MAX_ADDRESSES:
            permission.addresses.add(peer)
        stun = is_stun(data)
        if now >= permission.until:
            permission.keep(peer, data, stun)
        if not stun:
            self._bind(now, peer)
        self._outputs.append(Indicate(peer, data))
        return True

    def frame(self, now: float, peer: Address, data: bytes) -> bytes | None:
        """The ChannelData message for a peer that is bound to a channel: the way without a detour over our outputs."""
        channel = self._channels.get(peer)
        if channel is None or now >= channel.until:
            return None
        if not channel.asked and now >= channel.ask_at:
            self._ask_channel(now, channel)
        channel.used = True
        return channel.number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data

    def permit(self, now: float, host: str) -> None:
        """Let ``host`` send to us from any of its ports."""
        permission = self._permit(now, host)
        if permission is not None and permission.refused:
            self._tell_refusal(permission, (host, 0))

    def channel(self, now: float, peer: Address) -> int | None:
        """The number of the channel that is bound to ``peer``."""
        channel = self._channels.get(peer)
        return channel.number if channel is not None and now < channel.until else None

    # ----------------------------------------------------------------------------------------------------- the world

    def handle_channel_data(self, data: bytes) -> bool:
        """A ChannelData message came; whether it is one that we understand."""
        channel = self._numbers.get(int.from_bytes(data[:2], "big"))
        end = CHANNEL_HEADER_SIZE + int.from_bytes(data[2:4], "big")
        if channel is None or len(data) < max(end, CHANNEL_HEADER_SIZE):
            return False
        channel.used = True
        self._outputs.append(Deliver(self._relay_link, channel.peer, data[CHANNEL_HEADER_SIZE:end]))
        return True

    def handle_data(self, now: float, peer: Address, data: bytes) -> bool:
        """A Data indication came; whether it is from somebody we want to hear from."""
        permission = self._permissions.get(peer[0])
        if permission is None or permission.refused:
            # RFC 8656 §11.4
            return False
        if peer in permission.addresses:
            # Both sides speak: worth a channel.
            self._bind(now, peer)
        self._outputs.append(Deliver(self._relay_link, peer, data))
        return True

    def handle_success(self, now: float, subject: Permission | Channel, started: float) -> None:
        """The server granted what was first asked for at ``started``."""
        if isinstance(subject, Channel):
            self._bound(now, subject, started)
        else:
            subject.asked = False
            self._granted(now, subject, started)

    def handle_refusal(self, now: float, subject: Permission | Channel, code: int, response: Message) -> None:
        if isinstance(subject, Channel):
            self._bind_failed(now, subject, code, response)
        else:
            self._permission_refused(now, subject, code, response)

    def handle_silence(self, now: float, subject: Permission | Channel) -> None:
        """The request was given up."""
        if isinstance(subject, Channel):
            self._bind_failed(now, subject, 0, None)
            return
        subject.asked = False
        if now < subject.until:
            self._deadlines.arm(subject, now + RETRY_LOST)
        else:
            del self._permissions[subject.host]
        self._outputs.append(Suspect())

    def handle_repetition(self, subject: Permission | Channel) -> None:
        """The request has to be made once more: the server did not get it, or did not take it."""
        if isinstance(subject, Permission):
            subject.disturbed = True

    def handle_deadline(self, now: float, item: Timed) -> None:
        """The time of a permission or a channel has come."""
        if isinstance(item, Channel):
            self._channel_due(now, item)
        else:
            assert isinstance(item, Permission)
            self._permission_due(now, item)

    def poll_output(self) -> Ask | Frame | Indicate | Suspect | PeerRefused | Deliver | None:
        return self._outputs.popleft() if self._outputs else None

    # --------------------------------------------------------------------------------------------------- permissions

    def _permit(self, now: float, host: str) -> Permission | None:
        """The permission of a host, asked for if there is none; None if there are too many."""
        permission = self._permissions.get(host)
        if permission is None:
            if len(self._permissions) >= MAX_HOSTS:
                return None
            permission = self._permissions[host] = Permission(host)
            if (":" in host) != self._ipv6:
                # RFC 8656 §10.2: what the server would answer.
                permission.refused = 443
                self._deadlines.arm(permission, now + RETRY_REFUSED)
        if now >= permission.until and not (permission.asked or permission.by_channel or permission.refused):
            self._ask_permission(permission)
        return permission

    def _ask_permission(self, permission: Permission) -> None:
        self._deadlines.arm(permission, None)
        permission.asked = True
        permission.disturbed = False
        self._outputs.append(Ask(Method.CREATE_PERMISSION, {"XOR-PEER-ADDRESS": (permission.host, 0)}, permission))

    def _permission_due(self, now: float, permission: Permission) -> None:
        if permission.refused:
            del self._permissions[permission.host]
        else:
            self._ask_permission(permission)

    def _granted(self, now: float, permission: Permission, started: float) -> None:
        permission.until = max(permission.until, started + PERMISSION_LIFETIME)
        permission.refused = 0
        permission.by_channel = False
        if not permission.asked:
            self._deadlines.arm(permission, max(started + PERMISSION_REFRESH, now + FLOOR))
        waiting, permission.waiting = permission.waiting, []
        for peer, data in waiting:
            # A check may come twice and repairs a loss so; data is repeated only if the server had to drop it.
            if permission.disturbed or is_stun(data):
                self.send(now, peer, data)

    def _permission_refused(self, now: float, permission: Permission, code: int, response: Message) -> None:
        permission.asked = False
        if code == 400:
            # What coturn says of an allocation that it has lost.
            self._outputs.append(Suspect())
        if now < permission.until:
            self._deadlines.arm(permission, now + RETRY_REFUSED)
        elif code == 400 and self._bind_all(now, permission):
            # A server of few words: a channel brings a permission with it (RFC 8656 §12.1).
            permission.by_channel = permission.disturbed = True
        else:
            self._refuse(now, permission, code, response)

    def _refuse(self, now: float, permission: Permission, code: int, response: Message | None) -> None:
        """No retry storm (RFC 8656 §10): who sends there is told so for a while without asking the server."""
        permission.refused = code or 400
        permission.response = response
        permission.by_channel = False
        permission.waiting.clear()
        for peer in sorted(permission.addresses) or [(permission.host, 0)]:
            self._tell_refusal(permission, peer)
        self._deadlines.arm(permission, now + RETRY_REFUSED)

    def _tell_refusal(self, permission: Permission, peer: Address) -> None:
        self._outputs.append(PeerRefused(self._relay_link, peer, permission.refused, permission.response))

    # ------------------------------------------------------------------------------------------------------ channels

    def _bind(self, now: float, peer: Address) -> bool:
        """Ask for a channel, unless it has just failed or there are no numbers left; whether that is under way."""
        channel = self._channels.get(peer)
        if channel is None:
            number = self._new_number()
            if number is None:
                return False
            channel = self._channels[peer] = self._numbers[number] = Channel(number, peer)
        if not channel.asked and now >= channel.ask_at:
            self._ask_channel(now, channel)
        return channel.asked

    def _bind_all(self, now: float, permission: Permission) -> bool:
        """Ask for channels to the peers that packets wait for."""
        return any([self._bind(now, peer) for peer in sorted({peer for peer, _ in permission.waiting})])

    def _new_number(self) -> int | None:
        if self._next_number <= CHANNEL_MAX:
            self._next_number += 1
            return self._next_number - 1
        return self._free_numbers.popleft() if self._free_numbers else None

    def _ask_channel(self, now: float, channel: Channel) -> None:
        self._deadlines.arm(channel, None)
        channel.asked = True
        channel.used = False
        channel.lapses = now + CHANNEL_LIFETIME
        attributes = {"CHANNEL-NUMBER": channel.number, "XOR-PEER-ADDRESS": channel.peer}
        self._outputs.append(Ask(Method.CHANNEL_BIND, attributes, channel))

    def _bound(self, now: float, channel: Channel, started: float) -> None:
        channel.asked = False
        channel.until = started + CHANNEL_LIFETIME
        channel.ask_at = max(started + self._channel_refresh_time, now + FLOOR)
        self._deadlines.arm(channel, channel.ask_at)
        # RFC 8656 §12.3: the permission is renewed by the way; it may be there again after its own requests were lost.
        host = channel.peer[0]
        permission = self._permissions.setdefault(host, Permission(host))
        permission.addresses.add(channel.peer)
        self._granted(now, permission, started)

    def _bind_failed(self, now: float, channel: Channel, code: int, response: Message | None) -> None:
        """What is still bound stays in use until it ends; else Send indications go on (RFC 8656 §12)."""
        channel.asked = False
        if code == 400:
            self._outputs.append(Suspect())
        channel.ask_at = now + (RETRY_REFUSED if code else RETRY_LOST)
        channel.used = True
        due = channel.ask_at if now < channel.until else max(channel.lapses + CHANNEL_COOL_DOWN, now + FLOOR)
        self._deadlines.arm(channel, due)
        permission = self._permissions.get(channel.peer[0])
        if permission is not None and permission.by_channel:
            self._refuse(now, permission, code, response)

    def _channel_due(self, now: float, channel: Channel) -> None:
        if now >= channel.lapses + CHANNEL_COOL_DOWN:
            del self._channels[channel.peer]
            del self._numbers[channel.number]
            self._free_numbers.append(channel.number)
        elif channel.used and now < channel.until:
            self._ask_channel(now, channel)
        else:
            self._deadlines.arm(channel, channel.lapses + CHANNEL_COOL_DOWN)
