"""One TURN allocation on one server (RFC 8656): a child machine of whoever wants a relayed address.

It opens its own link to the server, allocates, keeps the allocation fresh and deletes it. It makes all requests, for
itself and for its child (:mod:`aioice.core.peers`), which knows who may be spoken to and over which channel.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from .credentials import LongTermCredentials, Signature
from .deadlines import Deadlines, Timed
from .demux import MAX_DATA, is_channel_data, pad
from .machine import (
    Close,
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
from .peers import FLOOR, RETRY_LOST, Ask, Frame, Indicate, PeerRefused, Peers, Suspect
from .requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Address, Output, Report
    from .peers import Channel, Permission
    from .requests import Request

__all__ = [
    "MAX_DATA",
    "UDP_TRANSPORT",
    "Allocated",
    "Allocation",
    "AllocationConfig",
    "AllocationFailed",
    "AllocationLost",
    "PeerRefused",
    "State",
    "describe",
]

#: RFC 8656 §18.8: UDP, in the first of four bytes.
UDP_TRANSPORT = 0x11000000
#: RFC 8656 §18.6, likewise.
IPV4_FAMILY = 0x01000000
IPV6_FAMILY = 0x02000000
#: An allocation is renewed after this part of its lifetime, neither sooner than ``FLOOR`` nor later than ``CEILING``.
REFRESH_PART = 5 / 6
CEILING = 3600
#: RFC 8445 §11: silence towards a UDP server that a NAT may take for the end.
KEEPALIVE = 15
#: A deletion is waited for this long.
CLOSE_TIME = 1.0


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


# ------------------------------------------------------------------------------------------------------------- state


class State(Enum):
    NEW = "new"
    OPENING = "opening"
    ALLOCATING = "allocating"
    READY = "ready"
    CLOSING = "closing"
    DONE = "done"


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
        #: There as long as the allocation is.
        self._peers: Peers | None = None
        if not 0 < config.lifetime < 1 << 32:
            raise ValueError("the lifetime of an allocation must be from 1 to 4294967295 seconds")
        self._lifetime: float = config.lifetime
        self._keepalive = max(config.keepalive, FLOOR) if config.keepalive > 0 else 0.0
        self._refreshing = False
        self._refreshed = float("-inf")
        self._last_sent = float("-inf")
        self._deadlines = Deadlines()
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
        self._deadlines.arm(self._end, now + self._requests.tunables.transaction_timeout)

    def send(self, now: float, peer: Address, data: bytes) -> None:
        """Send to ``peer`` from the relayed address, at once."""
        peers = self._peers
        if peers is None or len(data) > MAX_DATA:
            self.dropped += 1
            return
        frame = peers.frame(now, peer, data)
        if frame is None and not peers.send(now, peer, data):
            self.dropped += 1
        self._drain(now, peers)
        if frame is not None:
            self._transmit(now, frame)

    def permit(self, now: float, host: str) -> None:
        """Let ``host`` send to us from any of its ports."""
        if self._peers is not None:
            self._peers.permit(now, host)
            self._drain(now, self._peers)

    def channel(self, now: float, peer: Address) -> int | None:
        """The number of the channel that is bound to ``peer``."""
        return self._peers.channel(now, peer) if self._peers is not None else None

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
            self._deadlines.clear()
            self._peers = None
            self._delete(now)
        if not waiting:
            self._finish("closed")
            return
        self._state = State.CLOSING
        self._deadlines.arm(self._end, now + CLOSE_TIME)

    # ----------------------------------------------------------------------------------------------------- the world

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Something came over the link to the server."""
        if link != self._link or self._state is State.DONE or not (self._stream or peer == self._config.server):
            self.dropped += 1
        elif is_channel_data(data):
            if self._peers is None or not self._peers.handle_channel_data(data):
                self.dropped += 1
            else:
                self._drain(now, self._peers)
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
                self._deadlines.arm(self._end, None)
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
        peers = self._peers
        for request in again:
            if self._state is State.CLOSING:
                continue
            if peers is not None and request.context.subject is not None:
                peers.handle_repetition(request.context.subject)
            self._transmit(now, request.data)
        for request in failed:
            self._unanswered(now, request)
        for item in self._deadlines.take(now):
            self._fire(now, item)

    def poll_output(self) -> Output | Allocated | AllocationFailed | AllocationLost | PeerRefused | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> float | None:
        deadline, due = self._requests.poll_timeout(), self._deadlines.poll_timeout()
        if deadline is None or due is None:
            return due if deadline is None else deadline
        return min(deadline, due)

    def _drain(self, now: float, peers: Peers) -> None:
        """Carry out what the child has put out."""
        while (output := peers.poll_output()) is not None:
            if isinstance(output, Frame):
                self._transmit(now, output.data)
            elif isinstance(output, Indicate):
                attributes = {"XOR-PEER-ADDRESS": output.peer, "DATA": output.data}
                self._transmit(now, bytes(Message(Method.SEND, Class.INDICATION, self._random(12), attributes)))
            elif isinstance(output, Ask):
                self._request(now, output.method, output.attributes, output.subject)
            elif isinstance(output, Suspect):
                self.probe(now)
            else:
                self._outputs.append(output)

    def _data_indication(self, now: float, message: Message) -> None:
        peer: Address | None = message.attributes.get("XOR-PEER-ADDRESS")
        data: bytes | None = message.attributes.get("DATA")
        if (
            self._peers is None
            or message.message_method != Method.DATA
            or message.message_class != Class.INDICATION
            or message.unknown_required
            or peer is None
            or data is None
            or not self._peers.handle_data(now, peer, data)
        ):
            self.dropped += 1
        else:
            self._drain(now, self._peers)

    def _fire(self, now: float, item: Timed) -> None:
        if item is self._renewal:
            self._refresh(now)
        elif item is self._quiet:
            if now >= self._last_sent + self._keepalive:
                self._transmit(now, bytes(Message(Method.BINDING, Class.INDICATION, self._random(12))))
            self._deadlines.arm(self._quiet, self._last_sent + self._keepalive)
        elif item is not self._end:
            assert self._peers is not None
            self._peers.handle_deadline(now, item)
            self._drain(now, self._peers)
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
            if self._peers is not None and asked.subject is not None:
                self._peers.handle_repetition(asked.subject)
            self._request(now, asked.method, asked.attributes, asked.subject, asked.signature)
        else:
            self._refused(now, asked, message.error_code or 0, describe(message), message)

    def _succeeded(self, now: float, request: Request, message: Message) -> None:
        asked: Asked = request.context
        peers = self._peers
        if self._state is State.CLOSING:
            if asked.method is Method.ALLOCATE:
                self._delete(now)
            else:
                self._finish("closed")
        elif peers is not None and asked.subject is not None:
            peers.handle_success(now, asked.subject, request.started)
            self._drain(now, peers)
        elif asked.method is Method.ALLOCATE:
            self._allocated(now, message, request.started)
        else:
            self._refreshing = False
            self._renewed(now, message.attributes.get("LIFETIME", self._lifetime), request.started)

    def _refused(self, now: float, asked: Asked, code: int, detail: str, message: Message) -> None:
        peers = self._peers
        if self._state is State.CLOSING:
            self._finish("closed")
        elif asked.method is Method.ALLOCATE:
            self._fail(Reason.OTHER, code, detail, message)
        elif code == 437:
            # RFC 8656 §8.3: the allocation is not there any more, whatever we have asked for.
            self._lost(detail, code, message)
        elif peers is not None and asked.subject is not None:
            peers.handle_refusal(now, asked.subject, code, message)
            self._drain(now, peers)
        elif code >= 500:
            self._refreshing = False
            self._deadlines.arm(self._renewal, now + RETRY_LOST)
        else:
            self._lost(detail, code, message)

    def _unanswered(self, now: float, request: Request) -> None:
        asked: Asked = request.context
        peers = self._peers
        if self._state is State.ALLOCATING:
            self._fail(Reason.TIMED_OUT, 0, "the server does not answer")
        elif peers is None:
            return
        elif asked.subject is not None:
            peers.handle_silence(now, asked.subject)
            self._drain(now, peers)
        else:
            self._refreshing = False
            self._deadlines.arm(self._renewal, now + FLOOR)

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
        ipv6 = ":" in relayed[0]
        self._peers = Peers(self.relay_link, ipv6, self._config.channel_refresh_time, self._deadlines)
        self._outputs.append(OpenRelay(self.relay_link, relayed, mapped))
        self._outputs.append(Allocated(self.relay_link, relayed, mapped))
        self._renewed(now, attributes["LIFETIME"], started)
        if self._keepalive and not self._stream:
            self._deadlines.arm(self._quiet, now + self._keepalive)

    def _renewed(self, now: float, lifetime: float, started: float) -> None:
        """The server keeps the allocation for ``lifetime`` seconds from now (RFC 8656 §7.3, §8.3)."""
        if lifetime <= 0:
            self._lost("the server grants no lifetime")
            return
        self._lifetime = lifetime
        renewal = max(started + min(max(lifetime * REFRESH_PART, FLOOR), CEILING), now + FLOOR)
        self._deadlines.arm(self._renewal, renewal)
        self._deadlines.arm(self._end, max(started + lifetime, renewal + FLOOR))

    def _refresh(self, now: float) -> None:
        self._deadlines.arm(self._renewal, None)
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
        self._deadlines.clear()
        self._peers = None
        if self._link_open:
            self._outputs.append(Close(self._link))
        self._outputs.append(Done(reason))


def describe(message: Message) -> str:
    """An error response for people: its code, and the reason phrase with everything odd in it escaped."""
    error = message.attributes.get("ERROR-CODE")
    if error is None:
        return "the server refused without an error code"
    code, phrase = error
    # coturn pads the phrase with zero bytes, and counts them.
    return f"the server refused: {code} ({phrase.rstrip(chr(0))[:128]!a})"
