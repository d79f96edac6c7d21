"""One TURN allocation on one server (RFC 8656): a child machine of whoever wants relayed addresses.

It opens its own link to the server, allocates, keeps each relayed address fresh and deletes what is left at the end.
Its children make the requests (:mod:`aioice.core.transactions`) and know who may be spoken to, and over which channel
(:mod:`aioice.core.peers`). What to do about a failure :func:`aioice.core.turn_errors.verdict` tells its owner.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from .credentials import LongTermCredentials
from .deadlines import Deadlines
from .demux import MAX_DATA, is_channel_data, pad
from .grants import FAMILIES, Allocated, AllocationFailed, AllocationLost, FamilyMissing, granted, wishes
from .lifetime import Relay
from .machine import (
    ChannelBound,
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
from .peers import (
    FLOOR,
    RETRY_LOST,
    Ask,
    Bound,
    Frame,
    Indicate,
    PeerRefused,
    Peers,
    PeerUnreachable,
    Permitted,
    Suspect,
)
from .transactions import CREDENTIALS_TIME, Answered, Refused, Sent, Silent, Transactions, WantCredentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Address, Output, Report
    from .transactions import Exchange

__all__ = [
    "Allocated",
    "Allocation",
    "AllocationConfig",
    "AllocationFailed",
    "AllocationLost",
    "FamilyMissing",
    "PeerRefused",
    "PeerUnreachable",
    "Permitted",
    "State",
    "WantCredentials",
]

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
    #: Families of the relayed addresses to ask for, 4, 6 or both; () for what the server gives: IPv4 (RFC 8656 §7.2).
    families: tuple[int, ...] = ()
    #: Seconds of silence after which a UDP server is sent an empty indication; 0 for never.
    keepalive: float = KEEPALIVE
    #: Whether :class:`WantCredentials` will be answered: then a server that refuses the credentials is no end.
    renewable: bool = False
    #: When the credentials end, in the machine's time; None if nobody knows.
    expires: float | None = None


#: What is meant for the parent, beside what :mod:`aioice.core.machine` has.
Told = (
    Allocated
    | FamilyMissing
    | AllocationFailed
    | AllocationLost
    | Permitted
    | PeerRefused
    | PeerUnreachable
    | WantCredentials
)


# ------------------------------------------------------------------------------------------------------------- state


class State(Enum):
    NEW = "new"
    OPENING = "opening"
    ALLOCATING = "allocating"
    READY = "ready"
    CLOSING = "closing"
    DONE = "done"


class Allocation:
    """One allocation, from opening the link to its deletion."""

    def __init__(
        self,
        config: AllocationConfig,
        random: Callable[[int], bytes],
        next_link: Callable[[], int],
        tunables: Tunables | None = None,
    ) -> None:
        if not 0 < config.lifetime < 1 << 32:
            raise ValueError("the lifetime of an allocation must be from 1 to 4294967295 seconds")
        if set(config.families) not in (set(), {4}, {6}, {4, 6}):
            raise ValueError("the families of an allocation are 4, 6 or both")
        self._config = config
        self._stream = config.transport != "udp"
        self._random = random
        self._next_link = next_link
        self._transactions = Transactions(
            LongTermCredentials(config.username, config.password),
            tunables or Tunables(),
            random,
            config.server,
            reliable=self._stream,
            renewable=config.renewable,
        )
        self._outputs: deque[Any] = deque()
        self._state = State.NEW
        self._link = -1
        self._link_open = False
        #: Families that we still hope for.
        self._families = tuple(sorted(set(config.families)))
        #: By family, and whether there have been two.
        self._relays: dict[int, Relay] = {}
        self._dual = False
        #: There as long as the allocation is.
        self._peers: Peers | None = None
        self._keepalive = max(config.keepalive, FLOOR) if config.keepalive > 0 else 0.0
        self._last_sent = float("-inf")
        self._deadlines = Deadlines()
        #: When to give up the opening or the deletion.
        self._end_at: float | None = None
        self._quiet_at: float | None = None
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
        self._end_at = now + self._transactions.tunables.transaction_timeout

    def send(self, now: float, peer: Address, data: bytes) -> None:
        """Send to ``peer`` from the relayed address of its family, at once."""
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

    def set_credentials(
        self, now: float, username: str | None, password: str | None, expires: float | None = None
    ) -> None:
        """The answer to :class:`WantCredentials`: others, good until ``expires``; None if there are none."""
        if self._state in (State.ALLOCATING, State.READY):
            self._transactions.set_credentials(now, username, password, expires)
            self._conclude(now)

    def probe(self, now: float) -> None:
        """There are signs that the server has lost the allocation: find out."""
        for relay in self._relays.values():
            if relay.may_probe(now):
                self._refresh(now, relay)
        self._conclude(now)

    def release(self, now: float, link: int) -> None:
        """Nobody wants the relayed address behind ``link`` any more: delete it, and with the last one all."""
        peers, relay = self._peers, next((relay for relay in self._relays.values() if relay.link == link), None)
        if peers is None or relay is None:
            return
        if len(self._relays) == 1:
            self.close(now)
            return
        self._drop(relay)
        self._drain(now, peers)
        # RFC 8656 §8.1
        family = {"LIFETIME": 0, "REQUESTED-ADDRESS-FAMILY": FAMILIES[relay.family]}
        self._transactions.ask(now, Method.REFRESH, family, relay)
        self._conclude(now)

    def close(self, now: float) -> None:
        """Delete the allocation; the link is closed when that is answered or a second has passed."""
        if self._state in (State.CLOSING, State.DONE):
            return
        before, self._state = self._state, State.CLOSING
        self._transactions.close()
        if before is State.READY:
            self._outputs += [Close(relay.link) for relay in self._relays.values()]
            self._transactions.end_all()
            self._forget()
            self._delete(now)
        elif before is not State.ALLOCATING or self._transactions.idle:
            self._finish("closed")
            return
        self._end_at = now + CLOSE_TIME

    # ----------------------------------------------------------------------------------------------------- the world

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Something came over the link to the server."""
        if link != self._link or self._state is State.DONE or not (self._stream or peer == self._config.server):
            self.dropped += 1
        elif is_channel_data(data):
            if self._peers is None or not self._peers.handle_channel_data(now, data):
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
                if not self._transactions.handle_answer(now, message):
                    self.dropped += 1
                self._conclude(now)
            else:
                self._data_indication(now, message)

    def handle_report(self, now: float, report: Report) -> None:
        """What became of the link; what is told of the relay links is not of interest."""
        if isinstance(report, Tunables):
            self._transactions.tune(report)
        elif getattr(report, "link", None) != self._link:
            return
        elif isinstance(report, Opened):
            if self._state is State.OPENING:
                self._state = State.ALLOCATING
                self._end_at = None
                self._transactions.start(now, self._link, self._config.expires)
                self._allocate(now)
            elif self._state is State.DONE:
                self._outputs.append(Close(report.link))
        elif isinstance(report, OpenFailed):
            self._link_open = False
            self._link_gone(report.reason, report.detail)
        elif isinstance(report, LinkClosed):
            self._link_gone(report.reason, report.detail)
        elif isinstance(report, SendFailed) and report.reason in (Reason.REFUSED, Reason.UNREACHABLE):
            if self._state is State.READY:
                # Whoever can forge ICMP must not be able to end an allocation; a server that restarts answers soon.
                self.probe(now)
            else:
                self._link_gone(report.reason, "the server cannot be reached")

    def handle_timeout(self, now: float) -> None:
        self._transactions.handle_timeout(now)
        self._conclude(now)
        # First of all: after a sleep thousands of permissions may be overdue.
        for relay in list(self._relays.values()):
            if relay.renew_at is not None and now >= relay.renew_at:
                self._refresh(now, relay)
            if relay.is_over(now):
                self._lost(relay, "the allocation has expired")
        self._conclude(now)
        peers = self._peers
        if peers is not None:
            for item in self._deadlines.take(now):
                peers.handle_deadline(now, item)
            peers.flush()
            self._drain(now, peers)
        if self._end_at is not None and now >= self._end_at:
            if self._state is State.OPENING:
                self._fail(Reason.TIMED_OUT, 0, "the connection to the server was not established in time")
            else:
                self._finish("closed")
        if self._quiet_at is not None and now >= self._quiet_at:
            if now >= self._last_sent + self._keepalive:
                self._transmit(now, bytes(Message(Method.BINDING, Class.INDICATION, self._random(12))))
            self._quiet_at = self._last_sent + self._keepalive

    def poll_output(self) -> Output | Told | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> float | None:
        earliest = self._end_at
        times = [self._transactions.poll_timeout(), self._deadlines.poll_timeout(), self._quiet_at]
        for relay in self._relays.values():
            times += (relay.renew_at, relay.ends_at)
        for time in times:
            if time is not None and (earliest is None or time < earliest):
                earliest = time
        return earliest

    # --------------------------------------------------------------------------------------------------- the children

    def _drain(self, now: float, peers: Peers) -> None:
        """Carry out what the peers have put out."""
        while self._peers is peers and (output := peers.poll_output()) is not None:
            if isinstance(output, Frame):
                self._transmit(now, output.data)
            elif isinstance(output, Indicate):
                attributes = {"XOR-PEER-ADDRESS": output.peer, "DATA": output.data}
                self._transmit(now, bytes(Message(Method.SEND, Class.INDICATION, self._random(12), attributes)))
            elif isinstance(output, Ask):
                self._transactions.ask(now, output.method, output.attributes, output.subject)
                self._conclude(now)
            elif isinstance(output, Suspect):
                self.probe(now)
            elif isinstance(output, Bound):
                self._outputs.append(ChannelBound(*output, self._link, self._config.server))
            else:
                self._outputs.append(output)

    def _conclude(self, now: float) -> None:
        """Carry out what the transactions have put out."""
        while (output := self._transactions.poll_output()) is not None:
            if self._state is State.DONE:
                continue
            if isinstance(output, Sent):
                if output.repeated and self._peers is not None and output.exchange.method not in _OWN:
                    self._peers.handle_repetition(output.exchange.subject)
                self._transmit(now, output.data)
            elif isinstance(output, Answered):
                self._answered(now, output.exchange, output.message)
            elif isinstance(output, Refused):
                self._refused(now, *output)
            elif isinstance(output, Silent):
                self._unanswered(now, output)
            else:
                self._outputs.append(output)

    def _transmit(self, now: float, data: bytes) -> None:
        self._last_sent = now
        self._outputs.append(Transmit(self._link, self._config.server, pad(data) if self._stream else data))

    def _data_indication(self, now: float, message: Message) -> None:
        peers, attributes = self._peers, message.attributes
        peer: Address | None = attributes.get("XOR-PEER-ADDRESS")
        taken = False
        if (
            peers is not None
            and peer is not None
            and message.message_method == Method.DATA
            and message.message_class == Class.INDICATION
            and not message.unknown_required
        ):
            if "DATA" in attributes:
                taken = peers.handle_data(now, peer, attributes["DATA"])
            elif "ICMP" in attributes:
                taken = peers.handle_icmp(peer, attributes["ICMP"])
            self._drain(now, peers)
        self.dropped += not taken

    # ---------------------------------------------------------------------------------------------------- the answers

    def _answered(self, now: float, exchange: Exchange, message: Message) -> None:
        peers = self._peers
        if self._state is State.CLOSING:
            if exchange.method is Method.ALLOCATE:
                self._delete(now)
            else:
                self._finish("closed")
        elif exchange.method is Method.ALLOCATE:
            self._allocated(now, message, exchange.started)
        elif exchange.method is Method.REFRESH:
            self._refreshed(now, exchange, message)
        else:
            assert peers is not None
            peers.handle_success(now, exchange.subject, exchange.started)
            self._drain(now, peers)

    def _refused(self, now: float, exchange: Exchange, code: int, detail: str, message: Message | None) -> None:
        peers = self._peers
        if self._state is State.CLOSING:
            self._finish("closed")
        elif exchange.method is Method.ALLOCATE:
            self._allocation_refused(now, code, detail, message)
        elif exchange.method is Method.REFRESH:
            self._refresh_refused(now, exchange.subject, code, detail, message)
        elif code == 437:
            # RFC 8656 §8.3: the allocation is not there any more, whatever we have asked for.
            self._all_lost(detail, code, message)
        else:
            assert peers is not None
            peers.handle_refusal(now, exchange.subject, code, message)
            self._drain(now, peers)

    def _unanswered(self, now: float, silent: Silent) -> None:
        peers, exchange = self._peers, silent.exchange
        if self._state is State.ALLOCATING:
            self._fail(Reason.TIMED_OUT, 0, silent.detail)
        elif exchange.method is Method.REFRESH and isinstance(exchange.subject, Relay):
            exchange.subject.refused(now + FLOOR)
        elif peers is not None:
            peers.handle_silence(now, exchange.subject)
            self._drain(now, peers)

    # ----------------------------------------------------------------------------------------------------- allocating

    def _allocate(self, now: float) -> None:
        attributes, optional = wishes(self._config.lifetime, self._families)
        self._transactions.ask(now, Method.ALLOCATE, attributes, None, optional)
        self._conclude(now)

    def _allocated(self, now: float, message: Message, started: float) -> None:
        grant = granted(message, self._families)
        if isinstance(grant, str):
            self._delete(now)
            self._fail(Reason.OTHER, 0, grant)
            return
        if not grant.lifetime:
            self._fail(Reason.OTHER, 0, "the server grants no lifetime")
            return
        self._state = State.READY
        for family, address in sorted(grant.relayed.items()):
            relay = self._relays[family] = Relay(self._next_link(), family)
            relay.renewed(now, grant.lifetime, started)
            self._outputs.append(OpenRelay(relay.link, address, grant.mapped, self._link))
            self._outputs.append(Allocated(relay.link, address, grant.mapped))
        self._dual = len(grant.relayed) > 1
        links = {family: relay.link for family, relay in self._relays.items()}
        self._peers = Peers(now, links, self._config.channel_refresh_time, self._deadlines)
        self._outputs += [FamilyMissing(family, code) for family, code in grant.missing.items()]
        if self._keepalive and not self._stream:
            self._quiet_at = now + self._keepalive

    def _allocation_refused(self, now: float, code: int, detail: str, message: Message | None) -> None:
        if code == 440 and len(self._families) == 2:
            # RFC 8656 §7.2: it is IPv4 that the server does not have, or it would have given that.
            self._families = (6,)
            self._outputs.append(FamilyMissing(4, 440))
            self._allocate(now)
        else:
            self._fail(Reason.OTHER, code, detail, message)

    # ------------------------------------------------------------------------------------------------ keeping, losing

    def _refresh(self, now: float, relay: Relay) -> None:
        relay.refresh(now)
        attributes = {"LIFETIME": self._config.lifetime}
        if self._dual:
            # RFC 8656 §8.1
            attributes["REQUESTED-ADDRESS-FAMILY"] = FAMILIES[relay.family]
        self._transactions.ask(now, Method.REFRESH, attributes, relay, ("LIFETIME", "REQUESTED-ADDRESS-FAMILY"))

    def _refreshed(self, now: float, exchange: Exchange, message: Message) -> None:
        relay: Relay = exchange.subject
        if self._relays.get(relay.family) is not relay:
            return
        lifetime = message.attributes.get("LIFETIME", relay.lifetime)
        if lifetime > 0:
            relay.renewed(now, lifetime, exchange.started)
        else:
            self._lost(relay, "the server grants no lifetime")

    def _refresh_refused(self, now: float, relay: Relay, code: int, detail: str, message: Message | None) -> None:
        if self._relays.get(relay.family) is not relay:
            return
        if code >= 500 or code == 438:
            relay.refused(now + RETRY_LOST)
        elif code == 401 and self._config.renewable:
            # There may be new credentials before the end.
            relay.refused(now + CREDENTIALS_TIME)
        elif code in (437, 443) and len(self._relays) > 1:
            # Perhaps it is this family only that has gone.
            self._lost(relay, detail, code, message)
            self.probe(now)
        else:
            self._all_lost(detail, code, message)

    def _lost(self, relay: Relay, detail: str, code: int = 0, response: Message | None = None) -> None:
        self._outputs.append(AllocationLost(relay.link, detail, code, response))
        self._drop(relay)
        if not self._relays:
            self._finish(detail)

    def _drop(self, relay: Relay) -> None:
        del self._relays[relay.family]
        self._outputs.append(Close(relay.link))
        if self._relays and self._peers is not None:
            self._peers.drop(relay.family)

    def _all_lost(self, detail: str, code: int = 0, response: Message | None = None) -> None:
        for relay in list(self._relays.values()):
            self._lost(relay, detail, code, response)

    # ------------------------------------------------------------------------------------------------------- the end

    def _delete(self, now: float) -> None:
        """RFC 8656 §8.1: without a family, all of the allocation."""
        self._transactions.ask(now, Method.REFRESH, {"LIFETIME": 0})
        self._conclude(now)

    def _link_gone(self, reason: Reason, detail: str) -> None:
        if self._state in (State.OPENING, State.ALLOCATING):
            self._fail(reason, 0, detail)
        elif self._state is State.READY:
            self._all_lost(f"{reason}: {detail}" if detail else str(reason))
        elif self._state is State.CLOSING:
            self._finish("closed")

    def _fail(self, reason: Reason, code: int, detail: str, response: Message | None = None) -> None:
        self._outputs.append(AllocationFailed(reason, code, detail, response))
        self._finish(detail)

    def _finish(self, reason: str) -> None:
        self._state = State.DONE
        self._transactions.end_all()
        self._forget()
        if self._link_open:
            self._outputs.append(Close(self._link))
        self._outputs.append(Done(reason))

    def _forget(self) -> None:
        self._deadlines.clear()
        self._relays.clear()
        self._peers = None
        self._end_at = self._quiet_at = None


#: Requests of the allocation itself: their subject is no peer's.
_OWN = (Method.ALLOCATE, Method.REFRESH)
