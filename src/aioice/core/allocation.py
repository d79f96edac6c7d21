"""One TURN allocation on one server (RFC 8656): a child machine of whoever wants a relayed address.

It opens its own link to the server, allocates, keeps allocation, permissions and channels fresh, wraps what is sent and
unwraps what comes. No packet waits for anything: what has no channel yet leaves as a Send indication, right behind the
request for its permission.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

from .credentials import LongTermCredentials, Signature
from .demux import CHANNEL_HEADER_SIZE, CHANNEL_MAX, CHANNEL_MIN, is_channel_data, is_stun, pad
from .machine import (
    Close,
    Deliver,
    Done,
    LinkClosed,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Reason,
    SendFailed,
    Transmit,
    Tunables,
)
from .message import Class, Message, Method, parse_message
from .requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Address, Output, Report
    from .requests import Request

#: RFC 8656 §18.8: UDP, in the first of four bytes.
UDP_TRANSPORT = 0x11000000
#: RFC 8656 §18.6, likewise.
IPV4_FAMILY = 0x01000000
IPV6_FAMILY = 0x02000000
#: RFC 8656 §9: how long a permission lasts, and when we renew it: time for a transaction and another try.
PERMISSION_LIFETIME = 300
PERMISSION_REFRESH = 240
#: RFC 8656 §12: how long a channel lasts, and how long its number and its peer then stay apart from others.
CHANNEL_LIFETIME = 600
CHANNEL_COOL_DOWN = 300
#: A channel is renewed this long before its end, whatever the configuration says.
CHANNEL_MARGIN = 60
#: An allocation is renewed after this part of its lifetime, neither sooner than ``FLOOR`` nor later than ``CEILING``.
REFRESH_PART = 5 / 6
FLOOR = 2
CEILING = 3600
#: A request that was lost, or met a passing trouble of the server, is tried again after so long; one that was refused
#: after so long.
RETRY_LOST = 5
RETRY_REFUSED = 60
#: RFC 8445 §11: silence towards a UDP server that a NAT may take for the end.
KEEPALIVE = 15
#: A deletion is waited for this long.
CLOSE_TIME = 1.0
#: Renewals that are due at once leave in portions.
PORTION = 32
PORTION_DISTANCE = 0.02
#: Bounds: hosts with a permission, known addresses of each, packets kept for a permission that is not there yet.
MAX_HOSTS = 8192
MAX_ADDRESSES = 4096
MAX_WAITING = 16
#: The largest payload that fits a Send indication to an IPv6 peer.
MAX_DATA = 0xFFFF - 24 - 4 - 3


class AllocationConfig(NamedTuple):
    #: The server's address, its host in canonical text form.
    server: Address
    #: ``udp`` or ``tcp``: how to talk to the server.
    transport: str = "udp"
    #: The name in the server's certificate: TLS over TCP.
    server_name: str | None = None
    username: str | None = None
    password: str | None = None
    #: Seconds to ask the server for.
    lifetime: int = 600
    #: Seconds after which a channel that is in use is bound again.
    channel_refresh_time: float = 500
    #: 4 or 6 to ask for a relayed address of that family; 0 to take what the server gives: IPv4 (RFC 8656 §7.2).
    family: int = 0
    #: Seconds of silence after which a UDP server is sent an empty indication; 0 for never.
    keepalive: float = KEEPALIVE


# --------------------------------------------------------------------------------------------- outputs: to the parent


class Allocated(NamedTuple):
    """The relayed address is there; ``relay_link`` is the number it has been opened under."""

    relay_link: int
    relayed: Address
    mapped: Address


class AllocationFailed(NamedTuple):
    """There will be no relayed address; ``code`` and ``response`` are the server's if it refused, else 0 and None.

    The next step is the parent's: RFC 8656 §7.4 says what each code means; a 300 has ALTERNATE-SERVER in its response.
    """

    reason: Reason
    code: int
    detail: str
    response: Message | None = None


class AllocationLost(NamedTuple):
    """The relayed address is no longer there."""

    relay_link: int
    detail: str
    code: int = 0
    response: Message | None = None


class PeerRefused(NamedTuple):
    """The server does not relay to this peer; its port is 0 if only its host has been mentioned."""

    relay_link: int
    peer: Address
    code: int
    response: Message | None = None


# ------------------------------------------------------------------------------------------------------------- state


class State(Enum):
    NEW = "new"
    OPENING = "opening"
    ALLOCATING = "allocating"
    READY = "ready"
    CLOSING = "closing"
    DONE = "done"


class Timed:
    """Something that wants to be woken at ``due``."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due: float | None = None


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


class Asked(NamedTuple):
    """What a request was about."""

    method: Method
    attributes: dict[str, Any]
    subject: Permission | Channel | None
    signature: Signature | None


class Allocation:
    """One allocation, from opening the link to its deletion."""

    def __init__(
        self,
        config: AllocationConfig,
        random: Callable[[int], bytes],
        next_link: Callable[[], int],
        tunables: Tunables | None = None,
    ) -> None:
        self._config = config
        self._stream = config.transport != "udp"
        self._random = random
        self._next_link = next_link
        self._credentials = LongTermCredentials(config.username, config.password)
        self._requests = Requests(tunables or Tunables())
        self._outputs: deque[Any] = deque()
        self._state = State.NEW
        self._link = -1
        self._link_open = False
        self.relay_link = -1
        self._permissions: dict[str, Permission] = {}
        self._channels: dict[Address, Channel] = {}
        self._numbers: dict[int, Channel] = {}
        self._next_number = CHANNEL_MIN
        self._free_numbers: deque[int] = deque()
        self._ipv6 = False
        if not 0 < config.lifetime < 1 << 32:
            raise ValueError("the lifetime of an allocation must be from 1 to 4294967295 seconds")
        self._lifetime: float = config.lifetime
        self._keepalive = max(config.keepalive, FLOOR) if config.keepalive > 0 else 0.0
        self._refreshing = False
        self._refreshed = float("-inf")
        self._last_sent = float("-inf")
        self._timers: list[tuple[float, int, Timed]] = []
        self._timers_armed = 0
        self._resume_at = float("-inf")
        #: When to give up: opening, the allocation itself, or its deletion.
        self._end = Timed()
        self._renewal = Timed()
        self._quiet = Timed()
        #: Packets that could not be sent or understood.
        self.dropped = 0

    # -------------------------------------------------------------------------------------------------------- verbs

    @property
    def state(self) -> State:
        return self._state

    def start(self, now: float) -> None:
        """Open a link to the server and allocate; ends in :class:`Allocated` or :class:`AllocationFailed`."""
        if self._state is not State.NEW:
            raise ValueError("an allocation can be started once")
        self._state = State.OPENING
        self._link = self._next_link()
        self._link_open = True
        if self._stream:
            self._outputs.append(OpenStream(self._link, self._config.server, self._config.server_name))
        else:
            self._outputs.append(OpenUdp(self._link, "::" if ":" in self._config.server[0] else "0.0.0.0"))
        self._arm(self._end, now + self._requests.tunables.transaction_timeout)

    def send(self, now: float, peer: Address, data: bytes) -> None:
        """Send to ``peer`` from the relayed address, at once."""
        if self._state is not State.READY or len(data) > MAX_DATA:
            self.dropped += 1
            return
        channel = self._channels.get(peer)
        if channel is not None and now < channel.until:
            self._send_on_channel(now, channel, data)
            return
        permission = self._permit(now, peer[0])
        if permission is None or permission.refused:
            self.dropped += 1
            if permission is not None:
                self._tell_refusal(permission, peer)
            return
        if len(permission.addresses) < MAX_ADDRESSES:
            permission.addresses.add(peer)
        stun = is_stun(data)
        if now >= permission.until:
            permission.keep(peer, data, stun)
        if not stun:
            self._bind(now, peer)
        self._indicate(now, peer, data)

    def permit(self, now: float, host: str) -> None:
        """Let ``host`` send to us from any of its ports."""
        if self._state is State.READY:
            permission = self._permit(now, host)
            if permission is not None and permission.refused:
                self._tell_refusal(permission, (host, 0))

    def channel(self, now: float, peer: Address) -> int | None:
        """The number of the channel that is bound to ``peer``."""
        channel = self._channels.get(peer)
        return channel.number if channel is not None and now < channel.until else None

    def probe(self, now: float) -> None:
        """There are signs that the server has lost the allocation: find out."""
        if self._state is State.READY and not self._refreshing and now >= self._refreshed + RETRY_LOST:
            self._refresh(now)

    def close(self, now: float) -> None:
        """Delete the allocation; the link is closed when that is answered or a second has passed."""
        if self._state in (State.CLOSING, State.DONE):
            return
        waiting = self._state in (State.ALLOCATING, State.READY)
        if self._state is State.READY:
            self._outputs.append(Close(self.relay_link))
            self._requests.end_all()
            self._timers.clear()
            self._delete(now)
        if not waiting:
            self._finish("closed")
            return
        self._state = State.CLOSING
        self._arm(self._end, now + CLOSE_TIME)

    # ----------------------------------------------------------------------------------------------------- the world

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Something came over the link to the server."""
        if link != self._link or self._state is State.DONE or not (self._stream or peer == self._config.server):
            self.dropped += 1
        elif is_channel_data(data):
            self._channel_data(now, data)
        else:
            try:
                message = parse_message(data)
            except ValueError:
                self.dropped += 1
                return
            if message.message_class in (Class.RESPONSE, Class.ERROR):
                self._response(now, message)
            else:
                self._data_indication(now, message)

    def handle_report(self, now: float, report: Report) -> None:
        """What became of the link; what is told of the relay link is not of interest."""
        if isinstance(report, Tunables):
            self._requests.tunables = report
        elif getattr(report, "link", None) != self._link:
            return
        elif isinstance(report, Opened):
            if self._state is State.OPENING:
                self._state = State.ALLOCATING
                self._arm(self._end, None)
                self._allocate(now)
            elif self._state is State.DONE:
                self._outputs.append(Close(report.link))
        elif isinstance(report, OpenFailed):
            self._link_open = False
            self._link_gone(now, report.reason, report.detail)
        elif isinstance(report, LinkClosed):
            self._link_gone(now, report.reason, report.detail)
        elif isinstance(report, SendFailed) and report.reason in (Reason.REFUSED, Reason.UNREACHABLE):
            if self._state is State.READY:
                # Whoever can forge ICMP must not be able to end an allocation; a server that restarts answers soon.
                self.probe(now)
            else:
                self._link_gone(now, report.reason, "the server cannot be reached")

    def handle_timeout(self, now: float) -> None:
        again, failed = self._requests.handle_timeout(now)
        for request in again:
            if self._state is State.CLOSING:
                continue
            if isinstance(request.context.subject, Permission):
                request.context.subject.disturbed = True
            self._transmit(now, request.data)
        for request in failed:
            self._unanswered(now, request)
        if now >= self._resume_at:
            self._wake(now)

    def poll_output(self) -> Output | Allocated | AllocationFailed | AllocationLost | PeerRefused | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> float | None:
        while self._timers and self._timers[0][2].due != self._timers[0][0]:
            heappop(self._timers)
        deadline = self._requests.poll_timeout()
        if not self._timers:
            return deadline
        due = max(self._timers[0][0], self._resume_at)
        return due if deadline is None or due < deadline else deadline

    # -------------------------------------------------------------------------------------------------------- timers

    def _arm(self, item: Timed, due: float | None) -> None:
        item.due = due
        if due is not None:
            self._timers_armed += 1
            heappush(self._timers, (due, self._timers_armed, item))
            if len(self._timers) > 4 * (len(self._permissions) + len(self._channels)) + 64:
                self._timers = [entry for entry in self._timers if entry[2].due == entry[0]]
                heapify(self._timers)

    def _wake(self, now: float) -> None:
        portion = PORTION
        while self._timers and self._timers[0][0] <= now:
            due, _, item = self._timers[0]
            if item.due == due:
                if not portion:
                    self._resume_at = now + PORTION_DISTANCE
                    return
                portion -= 1
            heappop(self._timers)
            if item.due == due:
                item.due = None
                self._fire(now, item)

    def _fire(self, now: float, item: Timed) -> None:
        if isinstance(item, Permission):
            if item.refused:
                del self._permissions[item.host]
            else:
                self._ask_permission(now, item)
        elif isinstance(item, Channel):
            self._channel_due(now, item)
        elif item is self._renewal:
            self._refresh(now)
        elif item is self._quiet:
            if now >= self._last_sent + self._keepalive:
                self._transmit(now, bytes(Message(Method.BINDING, Class.INDICATION, self._random(12))))
            self._arm(self._quiet, self._last_sent + self._keepalive)
        elif self._state is State.OPENING:
            self._fail(Reason.TIMED_OUT, 0, "the connection to the server was not established in time")
        elif self._state is State.READY:
            self._lost("the allocation has expired")
        else:
            self._finish("closed")

    # ------------------------------------------------------------------------------------------------------ requests

    def _transmit(self, now: float, data: bytes) -> None:
        self._last_sent = now
        self._outputs.append(Transmit(self._link, self._config.server, pad(data) if self._stream else data))

    def _request(
        self,
        now: float,
        method: Method,
        attributes: dict[str, Any],
        subject: Permission | Channel | None = None,
        after: Signature | None = None,
    ) -> None:
        message = Message(method, Class.REQUEST, self._random(12), dict(attributes))
        signature = self._credentials.sign(message, after)
        data = bytes(message)
        # RFC 8489 §6.2.2: over a reliable transport a request is sent once.
        timeout = self._requests.tunables.transaction_timeout if self._stream else None
        context = Asked(method, attributes, subject, signature)
        server = self._config.server
        self._requests.start(now, message.transaction_id, data, self._link, server, context, timeout=timeout)
        self._transmit(now, data)

    def _response(self, now: float, message: Message) -> None:
        request = self._requests.match(message.transaction_id, self._link, self._config.server)
        if request is None or message.message_method != request.context.method:
            self.dropped += 1
            return
        asked: Asked = request.context
        code = (message.error_code or 0) if message.message_class == Class.ERROR else None
        if not self._credentials.verify(message, asked.signature):
            # RFC 8489 §9.2.5: a forgery over UDP changes nothing, over a stream it can only be the server's.
            self.dropped += 1
            if self._stream:
                self._requests.end(request)
                self._refused(now, asked, 0, "the answer of the server is not authentic", message)
            return
        self._requests.end(request)
        if code in (401, 438):
            self._challenged(now, asked, message)
        elif code is not None:
            self._refused(now, asked, code, describe(message), message)
        elif message.unknown_required:
            self._refused(now, asked, 0, "the answer of the server has attributes that must be understood", message)
        else:
            self._succeeded(now, request, message)

    def _challenged(self, now: float, asked: Asked, message: Message) -> None:
        deleting = asked.method is Method.REFRESH and asked.attributes["LIFETIME"] == 0
        again = self._credentials.challenge(message, asked.signature)
        if again and (deleting or self._state is not State.CLOSING):
            if isinstance(asked.subject, Permission):
                asked.subject.disturbed = True
            self._request(now, asked.method, asked.attributes, asked.subject, asked.signature)
        else:
            self._refused(now, asked, message.error_code or 0, describe(message), message)

    def _succeeded(self, now: float, request: Request, message: Message) -> None:
        asked: Asked = request.context
        if self._state is State.CLOSING:
            if asked.method is Method.ALLOCATE:
                self._delete(now)
            else:
                self._finish("closed")
        elif isinstance(asked.subject, Permission):
            asked.subject.asked = False
            self._granted(now, asked.subject, request.started)
        elif isinstance(asked.subject, Channel):
            self._bound(now, asked.subject, request.started)
        elif asked.method is Method.ALLOCATE:
            self._allocated(now, message, request.started)
        else:
            self._refreshing = False
            self._renewed(now, message.attributes.get("LIFETIME", self._lifetime), request.started)

    def _refused(self, now: float, asked: Asked, code: int, detail: str, message: Message) -> None:
        if self._state is State.CLOSING:
            self._finish("closed")
        elif asked.method is Method.ALLOCATE:
            self._fail(Reason.OTHER, code, detail, message)
        elif code == 437:
            # RFC 8656 §8.3: the allocation is not there any more, whatever we have asked for.
            self._lost(detail, code, message)
        elif isinstance(asked.subject, Permission):
            self._permission_refused(now, asked.subject, code, message)
        elif isinstance(asked.subject, Channel):
            self._bind_failed(now, asked.subject, code, message)
        elif code >= 500:
            self._refreshing = False
            self._arm(self._renewal, now + RETRY_LOST)
        else:
            self._lost(detail, code, message)

    def _unanswered(self, now: float, request: Request) -> None:
        asked: Asked = request.context
        if self._state is State.ALLOCATING:
            self._fail(Reason.TIMED_OUT, 0, "the server does not answer")
        elif self._state is not State.READY:
            return
        elif isinstance(asked.subject, Permission):
            asked.subject.asked = False
            if now < asked.subject.until:
                self._arm(asked.subject, now + RETRY_LOST)
            else:
                del self._permissions[asked.subject.host]
            self.probe(now)
        elif isinstance(asked.subject, Channel):
            self._bind_failed(now, asked.subject, 0, None)
        else:
            self._refreshing = False
            self._arm(self._renewal, now + FLOOR)

    # --------------------------------------------------------------------------------------------------- allocation

    def _allocate(self, now: float) -> None:
        attributes = {"LIFETIME": self._config.lifetime, "REQUESTED-TRANSPORT": UDP_TRANSPORT}
        if self._config.family:
            attributes["REQUESTED-ADDRESS-FAMILY"] = IPV6_FAMILY if self._config.family == 6 else IPV4_FAMILY
        self._request(now, Method.ALLOCATE, attributes)

    def _allocated(self, now: float, message: Message, started: float) -> None:
        attributes = message.attributes
        for name in ("LIFETIME", "XOR-MAPPED-ADDRESS", "XOR-RELAYED-ADDRESS"):
            if name not in attributes:
                self._delete(now)
                self._fail(Reason.OTHER, 0, f"TURN allocation response is missing {name}")
                return
        if not attributes["LIFETIME"]:
            self._fail(Reason.OTHER, 0, "the server grants no lifetime")
            return
        self._state = State.READY
        self.relay_link = self._next_link()
        relayed, mapped = attributes["XOR-RELAYED-ADDRESS"], attributes["XOR-MAPPED-ADDRESS"]
        self._ipv6 = ":" in relayed[0]
        self._outputs.append(OpenRelay(self.relay_link, relayed, mapped))
        self._outputs.append(Allocated(self.relay_link, relayed, mapped))
        self._renewed(now, attributes["LIFETIME"], started)
        if self._keepalive and not self._stream:
            self._arm(self._quiet, now + self._keepalive)

    def _renewed(self, now: float, lifetime: float, started: float) -> None:
        """The server keeps the allocation for ``lifetime`` seconds from now (RFC 8656 §7.3, §8.3)."""
        if lifetime <= 0:
            self._lost("the server grants no lifetime")
            return
        self._lifetime = lifetime
        renewal = max(started + min(max(lifetime * REFRESH_PART, FLOOR), CEILING), now + FLOOR)
        self._arm(self._renewal, renewal)
        self._arm(self._end, max(started + lifetime, renewal + FLOOR))

    def _refresh(self, now: float) -> None:
        self._arm(self._renewal, None)
        self._refreshing = True
        self._refreshed = now
        self._request(now, Method.REFRESH, {"LIFETIME": self._config.lifetime})

    def _delete(self, now: float) -> None:
        self._request(now, Method.REFRESH, {"LIFETIME": 0})

    def _link_gone(self, now: float, reason: Reason, detail: str) -> None:
        if self._state in (State.OPENING, State.ALLOCATING):
            self._fail(reason, 0, detail)
        elif self._state is State.READY:
            self._lost(f"{reason}: {detail}" if detail else str(reason))
        elif self._state is State.CLOSING:
            self._finish("closed")

    def _fail(self, reason: Reason, code: int, detail: str, response: Message | None = None) -> None:
        self._outputs.append(AllocationFailed(reason, code, detail, response))
        self._finish(detail)

    def _lost(self, detail: str, code: int = 0, response: Message | None = None) -> None:
        self._outputs.append(AllocationLost(self.relay_link, detail, code, response))
        self._outputs.append(Close(self.relay_link))
        self._finish(detail)

    def _finish(self, reason: str) -> None:
        self._state = State.DONE
        self._requests.end_all()
        self._timers.clear()
        self._permissions.clear()
        self._channels.clear()
        self._numbers.clear()
        if self._link_open:
            self._outputs.append(Close(self._link))
        self._outputs.append(Done(reason))

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
                self._arm(permission, now + RETRY_REFUSED)
        if now >= permission.until and not (permission.asked or permission.by_channel or permission.refused):
            self._ask_permission(now, permission)
        return permission

    def _ask_permission(self, now: float, permission: Permission) -> None:
        self._arm(permission, None)
        permission.asked = True
        permission.disturbed = False
        self._request(now, Method.CREATE_PERMISSION, {"XOR-PEER-ADDRESS": (permission.host, 0)}, permission)

    def _granted(self, now: float, permission: Permission, started: float) -> None:
        permission.until = max(permission.until, started + PERMISSION_LIFETIME)
        permission.refused = 0
        permission.by_channel = False
        if not permission.asked:
            self._arm(permission, max(started + PERMISSION_REFRESH, now + FLOOR))
        waiting, permission.waiting = permission.waiting, []
        for peer, data in waiting:
            # A check may come twice and repairs a loss so; data is repeated only if the server had to drop it.
            if permission.disturbed or is_stun(data):
                self.send(now, peer, data)

    def _permission_refused(self, now: float, permission: Permission, code: int, response: Message) -> None:
        permission.asked = False
        if code == 400:
            # What coturn says of an allocation that it has lost.
            self.probe(now)
        if now < permission.until:
            self._arm(permission, now + RETRY_REFUSED)
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
        self._arm(permission, now + RETRY_REFUSED)

    def _tell_refusal(self, permission: Permission, peer: Address) -> None:
        self._outputs.append(PeerRefused(self.relay_link, peer, permission.refused, permission.response))

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
        self._arm(channel, None)
        channel.asked = True
        channel.used = False
        channel.lapses = now + CHANNEL_LIFETIME
        attributes = {"CHANNEL-NUMBER": channel.number, "XOR-PEER-ADDRESS": channel.peer}
        self._request(now, Method.CHANNEL_BIND, attributes, channel)

    def _bound(self, now: float, channel: Channel, started: float) -> None:
        channel.asked = False
        channel.until = started + CHANNEL_LIFETIME
        refresh = min(max(self._config.channel_refresh_time, FLOOR), CHANNEL_LIFETIME - CHANNEL_MARGIN)
        channel.ask_at = max(started + refresh, now + FLOOR)
        self._arm(channel, channel.ask_at)
        # RFC 8656 §12.3: the permission is renewed by the way; it may be there again after its own requests were lost.
        host = channel.peer[0]
        permission = self._permissions.setdefault(host, Permission(host))
        permission.addresses.add(channel.peer)
        self._granted(now, permission, started)

    def _bind_failed(self, now: float, channel: Channel, code: int, response: Message | None) -> None:
        """What is still bound stays in use until it ends; else Send indications go on (RFC 8656 §12)."""
        channel.asked = False
        if code == 400:
            self.probe(now)
        channel.ask_at = now + (RETRY_REFUSED if code else RETRY_LOST)
        channel.used = True
        self._arm(
            channel, channel.ask_at if now < channel.until else max(channel.lapses + CHANNEL_COOL_DOWN, now + FLOOR)
        )
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
            self._arm(channel, channel.lapses + CHANNEL_COOL_DOWN)

    # ---------------------------------------------------------------------------------------------------------- data

    def _send_on_channel(self, now: float, channel: Channel, data: bytes) -> None:
        channel.used = True
        if not channel.asked and now >= channel.ask_at:
            self._ask_channel(now, channel)
            channel.used = True
        self._transmit(now, channel.number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data)

    def _indicate(self, now: float, peer: Address, data: bytes) -> None:
        message = Message(Method.SEND, Class.INDICATION, self._random(12), {"XOR-PEER-ADDRESS": peer, "DATA": data})
        self._transmit(now, bytes(message))

    def _channel_data(self, now: float, data: bytes) -> None:
        channel = self._numbers.get(int.from_bytes(data[:2], "big"))
        end = CHANNEL_HEADER_SIZE + int.from_bytes(data[2:4], "big")
        if channel is None or len(data) < max(end, CHANNEL_HEADER_SIZE) or self._state is not State.READY:
            self.dropped += 1
            return
        channel.used = True
        self._outputs.append(Deliver(self.relay_link, channel.peer, data[CHANNEL_HEADER_SIZE:end]))

    def _data_indication(self, now: float, message: Message) -> None:
        peer: Address | None = message.attributes.get("XOR-PEER-ADDRESS")
        data: bytes | None = message.attributes.get("DATA")
        if (
            message.message_method != Method.DATA
            or message.message_class != Class.INDICATION
            or message.unknown_required
            or peer is None
            or data is None
            or self._state is not State.READY
        ):
            self.dropped += 1
            return
        permission = self._permissions.get(peer[0])
        if permission is None or permission.refused:
            # RFC 8656 §11.4: nobody we want to hear from.
            self.dropped += 1
            return
        if peer in permission.addresses:
            # Both sides speak: worth a channel.
            self._bind(now, peer)
        self._outputs.append(Deliver(self.relay_link, peer, data))


def describe(message: Message) -> str:
    """An error response for people: its code, and the reason phrase with everything odd in it escaped."""
    error = message.attributes.get("ERROR-CODE")
    if error is None:
        return "the server refused without an error code"
    code, phrase = error
    return f"the server refused: {code} ({str(phrase)[:128]!a})"
