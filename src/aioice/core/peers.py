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
from .machine import ChannelUnbound, Deliver, Reason
from .message import Method, Several

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .machine import Address
    from .message import Message

#: RFC 8656 §9: how long a permission lasts, and when we renew it: time for a transaction and another try.
PERMISSION_LIFETIME = 300
PERMISSION_REFRESH = 240
#: Renewals fall on common times, so many seconds apart, so that they share requests, each with so many hosts: below the
#: 1280 bytes that every IPv6 path takes.
PERMISSION_GRID = 30
BATCH = 32
#: RFC 8656 §12: how long a channel lasts, and how long its number and its peer then stay apart from others.
CHANNEL_LIFETIME = 600
CHANNEL_COOL_DOWN = 300
#: A channel is renewed this long before its end, whatever the configuration says.
CHANNEL_MARGIN = 60
#: Refusals of requests that say nothing about whom they name: the credentials are in question.
NOT_ABOUT_PEERS = (401, 438, 441)
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
    """Make this request; what becomes of it comes back with ``subject``, one channel or some permissions."""

    method: Method
    attributes: dict[str, Any]
    subject: Subject


class Frame(NamedTuple):
    """Send this ChannelData message to the server."""

    data: bytes


class Indicate(NamedTuple):
    """Send this as a Send indication."""

    peer: Address
    data: bytes


class Permitted(NamedTuple):
    """The server relays to this host from now on: what was sent there before may have been dropped."""

    relay_link: int
    host: str


class PeerUnreachable(NamedTuple):
    """What was relayed to this peer did not arrive: ICMP says so."""

    relay_link: int
    peer: Address
    reason: Reason


class Bound(NamedTuple):
    """The peer is bound to this channel: data may leave and come without us, which therefore do not hear of its use."""

    relay_link: int
    peer: Address
    number: int


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

    __slots__ = (
        "link",
        "host",
        "addresses",
        "waiting",
        "asked",
        "by_channel",
        "disturbed",
        "until",
        "refused",
        "response",
    )

    def __init__(self, link: int, host: str) -> None:
        super().__init__()
        self.link = link
        self.host = host
        #: Where we have sent to.
        self.addresses: set[Address] = set()
        #: Data that has left before the permission was confirmed.
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


class Channel(Timed):
    """A short name for a peer."""

    __slots__ = ("link", "number", "peer", "asked", "used", "told", "until", "lapses", "ask_at")

    def __init__(self, link: int, number: int, peer: Address) -> None:
        super().__init__()
        self.link = link
        self.number = number
        self.peer = peer
        self.asked = False
        #: Something went through it since we have last asked for it.
        self.used = False
        #: Data passes without us.
        self.told = False
        #: The server has it until then at least, and until ``lapses`` at most.
        self.until = float("-inf")
        self.lapses = float("-inf")
        #: Not to be asked for (again) sooner.
        self.ask_at = float("-inf")


Subject = tuple[Permission, ...] | Channel


class Peers:
    """All whom an allocation speaks to, from when it is there to its end."""

    __slots__ = (
        "_links",
        "_started",
        "_channel_refresh_time",
        "_permissions",
        "_channels",
        "_numbers",
        "_next_number",
        "_free_numbers",
        "_due",
        "_deadlines",
        "_outputs",
    )

    def __init__(self, now: float, links: dict[int, int], channel_refresh_time: float, deadlines: Deadlines) -> None:
        #: The link of each relayed address by its family, 4 or 6: that of all its peers.
        self._links = dict(links)
        self._started = now
        self._channel_refresh_time = min(max(channel_refresh_time, FLOOR), CHANNEL_LIFETIME - CHANNEL_MARGIN)
        self._permissions: dict[str, Permission] = {}
        self._channels: dict[Address, Channel] = {}
        self._numbers: dict[int, Channel] = {}
        self._next_number = CHANNEL_MIN
        self._free_numbers: deque[int] = deque()
        #: Permissions whose time has come: :meth:`flush` asks for them together.
        self._due: list[Permission] = []
        #: Those of the allocation, which brings ours back to :meth:`handle_deadline`.
        self._deadlines = deadlines
        self._outputs: deque[PeersOutput] = deque()

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
        if not is_stun(data):
            if now >= permission.until and len(permission.waiting) < MAX_WAITING:
                permission.waiting.append((peer, data))
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

    def drop(self, family: int) -> None:
        """The relayed address of this family is no longer there, nor are its permissions and channels."""
        link = self._links.pop(family)
        for permission in [known for known in self._permissions.values() if known.link == link]:
            self._deadlines.arm(permission, None)
            del self._permissions[permission.host]
        for channel in [known for known in self._channels.values() if known.link == link]:
            self._deadlines.arm(channel, None)
            self._untell(channel)
            del self._channels[channel.peer]
            del self._numbers[channel.number]

    def channel(self, now: float, peer: Address) -> int | None:
        """The number of the channel that is bound to ``peer``."""
        channel = self._channels.get(peer)
        return channel.number if channel is not None and now < channel.until else None

    # ----------------------------------------------------------------------------------------------------- the world

    def handle_channel_data(self, now: float, data: bytes) -> bool:
        """A ChannelData message came; whether it is one that we understand."""
        channel = self._numbers.get(int.from_bytes(data[:2], "big"))
        end = CHANNEL_HEADER_SIZE + int.from_bytes(data[2:4], "big")
        if channel is None or len(data) < max(end, CHANNEL_HEADER_SIZE):
            return False
        if not channel.asked and channel.ask_at <= now < channel.until:
            self._ask_channel(now, channel)
        channel.used = True
        self._outputs.append(Deliver(channel.link, channel.peer, data[CHANNEL_HEADER_SIZE:end]))
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
        self._outputs.append(Deliver(permission.link, peer, data))
        return True

    def handle_icmp(self, peer: Address, icmp: bytes) -> bool:
        """A Data indication came that tells of an ICMP error (RFC 8656 §11.6); whether it is about a peer of ours."""
        permission = self._permissions.get(peer[0])
        if permission is None or permission.refused:
            return False
        reason = _icmp_reason(":" in peer[0], icmp[2], icmp[3])
        if reason is not None:
            # RFC 8656 §11.5: a server that does not know the port says 0.
            for address in [peer] if peer[1] else sorted(permission.addresses):
                self._outputs.append(PeerUnreachable(permission.link, address, reason))
        return True

    def handle_success(self, now: float, subject: Subject, started: float) -> None:
        """The server granted what was first asked for at ``started``."""
        if isinstance(subject, Channel):
            if subject.link in self._links.values():
                self._bound(now, subject, started)
            return
        for permission in self._living(subject):
            permission.asked = False
            self._granted(now, permission, started)

    def handle_refusal(self, now: float, subject: Subject, code: int, response: Message | None) -> None:
        if isinstance(subject, Channel):
            if subject.link in self._links.values():
                self._bind_failed(now, subject, code, response)
            return
        living = self._living(subject)
        for permission in living:
            if len(subject) > 1 and 400 <= code < 500 and code not in NOT_ABOUT_PEERS:
                # One host may have spoilt it for all (RFC 8656 §10.2).
                self._ask_permissions((permission,))
            else:
                self._permission_refused(now, permission, code, response)

    def handle_silence(self, now: float, subject: Subject) -> None:
        """The request was given up."""
        if isinstance(subject, Channel):
            if subject.link in self._links.values():
                self._bind_failed(now, subject, 0, None)
            return
        for permission in self._living(subject):
            permission.asked = False
            if now < permission.until:
                self._deadlines.arm(permission, now + RETRY_LOST)
            else:
                del self._permissions[permission.host]
        self._outputs.append(Suspect())

    def handle_repetition(self, subject: Subject) -> None:
        """The request has to be made once more: the server did not get it, or did not take it."""
        if not isinstance(subject, Channel):
            for permission in subject:
                permission.disturbed = True

    def handle_deadline(self, now: float, item: Timed) -> None:
        """The time of a permission or a channel has come."""
        if isinstance(item, Channel):
            self._channel_due(now, item)
        else:
            assert isinstance(item, Permission)
            self._permission_due(now, item)

    def flush(self) -> None:
        """Ask for the permissions whose time has come, many with each request (RFC 8656 §10.1)."""
        due, self._due = self._due, []
        for start in range(0, len(due), BATCH):
            self._ask_permissions(tuple(due[start : start + BATCH]))

    def poll_output(self) -> PeersOutput | None:
        return self._outputs.popleft() if self._outputs else None

    # --------------------------------------------------------------------------------------------------- permissions

    def _permit(self, now: float, host: str) -> Permission | None:
        """The permission of a host, asked for if there is none; None if there are too many."""
        permission = self._permissions.get(host)
        if permission is None:
            if len(self._permissions) >= MAX_HOSTS:
                return None
            link = self._link(host)
            if link is None:
                # RFC 8656 §10.2: what the server would answer.
                permission = self._permissions[host] = Permission(next(iter(self._links.values())), host)
                permission.refused = 443
                self._deadlines.arm(permission, now + RETRY_REFUSED)
            else:
                permission = self._permissions[host] = Permission(link, host)
        if now >= permission.until and not (permission.asked or permission.by_channel or permission.refused):
            self._ask_permissions((permission,))
        return permission

    def _link(self, host: str) -> int | None:
        return self._links.get(6 if ":" in host else 4)

    def _living(self, permissions: tuple[Permission, ...]) -> list[Permission]:
        """Those that have not gone with their relayed address."""
        return [permission for permission in permissions if self._permissions.get(permission.host) is permission]

    def _ask_permissions(self, permissions: tuple[Permission, ...]) -> None:
        for permission in permissions:
            self._deadlines.arm(permission, None)
            permission.asked = True
            permission.disturbed = False
        hosts = Several((permission.host, 0) for permission in permissions)
        self._outputs.append(Ask(Method.CREATE_PERMISSION, {"XOR-PEER-ADDRESS": hosts}, permissions))

    def _permission_due(self, now: float, permission: Permission) -> None:
        if permission.refused:
            del self._permissions[permission.host]
        else:
            self._due.append(permission)

    def _granted(self, now: float, permission: Permission, started: float) -> None:
        new = now >= permission.until
        permission.until = max(permission.until, started + PERMISSION_LIFETIME)
        permission.refused = 0
        permission.by_channel = False
        if not permission.asked:
            due = started + PERMISSION_REFRESH
            self._deadlines.arm(permission, max(due - (due - self._started) % PERMISSION_GRID, now + FLOOR))
        if new:
            self._outputs.append(Permitted(permission.link, permission.host))
        waiting, permission.waiting = permission.waiting, []
        if permission.disturbed:
            # The server had to drop it. Checks are not among it: those the parent repeats.
            for peer, data in waiting:
                self.send(now, peer, data)

    def _permission_refused(self, now: float, permission: Permission, code: int, response: Message | None) -> None:
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
        self._outputs.append(PeerRefused(permission.link, peer, permission.refused, permission.response))

    # ------------------------------------------------------------------------------------------------------ channels

    def _bind(self, now: float, peer: Address) -> bool:
        """Ask for a channel, unless it has just failed or there are no numbers left; whether that is under way."""
        channel = self._channels.get(peer)
        if channel is None:
            link = self._link(peer[0])
            if link is None or (number := self._new_number()) is None:
                return False
            channel = self._channels[peer] = self._numbers[number] = Channel(link, number, peer)
        if not channel.asked and now >= channel.ask_at:
            self._ask_channel(now, channel)
        return channel.asked

    def _bind_all(self, now: float, permission: Permission) -> bool:
        """Ask for channels to the peers that something was sent to."""
        return any([self._bind(now, peer) for peer in sorted(permission.addresses)[:MAX_WAITING]])

    def _new_number(self) -> int | None:
        if self._next_number <= CHANNEL_MAX:
            self._next_number += 1
            return self._next_number - 1
        return self._free_numbers.popleft() if self._free_numbers else None

    def _ask_channel(self, now: float, channel: Channel) -> None:
        self._deadlines.arm(channel, None)
        channel.asked = True
        channel.used = False
        self._untell(channel)
        channel.lapses = now + CHANNEL_LIFETIME
        attributes = {"CHANNEL-NUMBER": channel.number, "XOR-PEER-ADDRESS": channel.peer}
        self._outputs.append(Ask(Method.CHANNEL_BIND, attributes, channel))

    def _untell(self, channel: Channel) -> None:
        """We want to hear of the data again."""
        if channel.told:
            channel.told = False
            self._outputs.append(ChannelUnbound(channel.link, channel.peer))

    def _bound(self, now: float, channel: Channel, started: float) -> None:
        channel.asked = False
        channel.told = True
        self._outputs.append(Bound(channel.link, channel.peer, channel.number))
        channel.until = started + CHANNEL_LIFETIME
        channel.ask_at = max(started + self._channel_refresh_time, now + FLOOR)
        self._deadlines.arm(channel, channel.ask_at)
        # RFC 8656 §12.3: the permission is renewed by the way; it may be there again after its own requests were lost.
        host = channel.peer[0]
        permission = self._permissions.setdefault(host, Permission(channel.link, host))
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
            self._untell(channel)  # after a sleep: its renewal was overdue, too
            del self._channels[channel.peer]
            del self._numbers[channel.number]
            self._free_numbers.append(channel.number)
        elif channel.used and now < channel.until:
            self._ask_channel(now, channel)
        else:
            # The next packet that passes asks for it.
            self._untell(channel)
            self._deadlines.arm(channel, channel.lapses + CHANNEL_COOL_DOWN)


PeersOutput = (
    Ask | Bound | ChannelUnbound | Frame | Indicate | Suspect | Permitted | PeerRefused | PeerUnreachable | Deliver
)

_PORT_UNREACHABLE = {(False, 3, 3), (True, 1, 4)}
_TOO_BIG = (False, 3, 4)


def _icmp_reason(ipv6: bool, icmp_type: int, code: int) -> Reason | None:
    """Why an ICMP error ends the hope of reaching a peer; None if it does not (RFC 1122 §3.2.2, RFC 4443 §3).

    Destination unreachable does; a datagram that is too big, or has met too many routers on a path that may change, or
    was malformed, says nothing about the peer.
    """
    kind = (ipv6, icmp_type, code)
    if kind in _PORT_UNREACHABLE:
        return Reason.REFUSED
    if icmp_type == (1 if ipv6 else 3) and kind != _TOO_BIG:
        return Reason.UNREACHABLE
    return None
