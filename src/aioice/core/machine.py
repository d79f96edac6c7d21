"""The contract between a machine and whoever runs it.

A machine decides and does nothing: the runner (``aioice.net`` on sockets, ``aioice.sim`` on a virtual clock) hands it
datagrams, reports and the time, and after every call drains :meth:`Machine.poll_output`, then arms one timer for
:meth:`Machine.poll_timeout`.

* Every ``Open*`` command gets exactly one :class:`Opened` or :class:`OpenFailed`; every :class:`Opened` gets a
  :class:`Close`, also when it comes late, after the machine has closed.
* A link is a number that the machine chose in its ``Open*`` command; numbers are never used twice.
* Nothing that comes from the network makes a machine raise.
* After ``handle_timeout(now)``, ``poll_timeout()`` is later than ``now`` or ``None``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from .record import Record

if TYPE_CHECKING:
    from .candidate import Candidate

#: Host (an IP address in its canonical text form) and port.
Address = tuple[str, int]


class Reason(StrEnum):
    """Why an open, a look-up, a send or a link failed."""

    #: Nobody listens at the peer's address (ICMP port unreachable, TCP reset).
    REFUSED = "connection refused"
    #: No route, or ICMP host or network unreachable.
    UNREACHABLE = "unreachable"
    #: The local address cannot be bound.
    BIND = "cannot bind"
    NAME_NOT_FOUND = "name not found"
    TIMED_OUT = "timed out"
    #: The TLS handshake failed: certificate, host name or not TLS at all.
    TLS = "TLS handshake failed"
    #: The stream ended.
    CLOSED = "closed by the peer"
    #: What came over the stream is neither STUN nor ChannelData.
    NOT_STUN = "not a STUN server"
    #: The datagram is larger than the path takes (EMSGSIZE): says nothing about the peer.
    TOO_BIG = "datagram too big"
    OTHER = "other error"


# ---------------------------------------------------------------------------------------------- outputs: to the world


class Transmit(Record):
    """Send one datagram (on a stream link: one whole frame)."""

    link: int
    peer: Address
    data: bytes


class OpenUdp(Record):
    """Bind a UDP socket to an ephemeral port of ``host``, an address of this machine or a wildcard."""

    link: int
    host: str


class OpenStream(Record):
    """Connect a TCP stream, over TLS when ``server_name`` is not None (the name that the certificate must carry)."""

    link: int
    peer: Address
    server_name: str | None


class OpenRelay(Record):
    """A relayed transport address is there: ``link`` is a number for it; answered like the other opens.

    What is transmitted on it leaves, wrapped, through the link ``via``; the runner only keeps a name for it.
    """

    link: int
    relayed: Address
    mapped: Address
    via: int


class Close(Record):
    """Close a link, also one that is still being opened. No report follows."""

    link: int


class Resolve(Record):
    """Look a name up, over mDNS when it ends in ``.local``, else over DNS; answered by one :class:`Resolved`."""

    query: int
    name: str


class FetchCredentials(Record):
    """Ask the application for the credentials of a server, by its number; answered by one
    :class:`CredentialsFetched`.
    """

    query: int
    server: int


class Accept(Record):
    """Application data that comes from ``peer`` over ``link`` belongs to ``component``."""

    link: int
    peer: Address
    component: int


class Revoke(Record):
    """Application data from ``peer`` over ``link`` is no longer welcome."""

    link: int
    peer: Address


class Route(Record):
    """Application data of ``component`` leaves through ``link`` to ``peer`` from now on."""

    component: int
    link: int
    peer: Address
    remote: Candidate


class Unroute(Record):
    """Nothing of ``component`` may be sent any more, nor what waits to be sent."""

    component: int


class Deliver(Record):
    """A datagram that was unwrapped by the machine: treat it as application data received on ``link``."""

    link: int
    peer: Address
    data: bytes


class ChannelBound(Record):
    """Data between a relay's ``link`` and ``peer`` may pass without the machine until :class:`ChannelUnbound`.

    It travels as ChannelData (RFC 8656 §12.4) with this ``number``, over the link ``via`` to and from ``server``.
    """

    link: int
    peer: Address
    number: int
    via: int
    server: Address


class ChannelUnbound(Record):
    """Data between ``link`` and ``peer`` passes the machine again."""

    link: int
    peer: Address


class Notify(Record):
    """Something the application may want to know (:mod:`aioice.core.events`)."""

    event: object


class Done(Record):
    """The machine has ended: nothing but late ``Close`` outputs will follow."""

    reason: str


Output = (
    Transmit
    | OpenUdp
    | OpenStream
    | OpenRelay
    | Close
    | Resolve
    | FetchCredentials
    | Accept
    | Revoke
    | Route
    | Unroute
    | Deliver
    | ChannelBound
    | ChannelUnbound
    | Notify
    | Done
)


# ------------------------------------------------------------------------------------------- reports: from the world


class Opened(Record):
    link: int
    local: Address


class OpenFailed(Record):
    link: int
    reason: Reason
    detail: str


class Connected(Record):
    """The peer of a stream that is being opened has taken the connection, TLS is under way: a sign of life, no more."""

    link: int


class LinkClosed(Record):
    """An opened link has gone by itself (a stream ended, a socket died)."""

    link: int
    reason: Reason
    detail: str


class SendFailed(Record):
    """A datagram to ``peer`` did not arrive: the system or ICMP said so."""

    link: int
    peer: Address
    reason: Reason


class Resolved(Record):
    """The addresses of a name, in the order of preference; none if it has none."""

    query: int
    addresses: tuple[str, ...]


class CredentialsFetched(Record):
    """Credentials that are good until ``expires``, or for nobody knows how long; None if there are none, and ``detail``
    says why.
    """

    query: int
    username: str | None
    password: str | None
    expires: float | None = None
    detail: str = ""


class Tunables(Record):
    """What programs may change at run time. All times in seconds."""

    #: RFC 7675 §5.1: mean distance of two consent requests.
    consent_interval: float = 5
    #: Consent expires after ``consent_interval × consent_failures`` (RFC 7675 §5.1: 30 s).
    consent_failures: int = 6
    #: Retransmissions of a request, the first transmission not counted (RFC 8489 §6.2.1: Rc = 7).
    retry_max: int = 6
    #: First retransmission time-out (RFC 8489 §6.2.1, RFC 8445 §14.3).
    retry_rto: float = 0.5

    @property
    def transaction_timeout(self) -> float:
        """From the first transmission to giving up (RFC 8489 §6.2.1: 39.5 s at its values, with Rm = 16).

        Rm shrinks with Rc so that few retransmissions mean an early end: the last wait is that of a doubled RTO, 16 RTO
        at most.
        """
        waits = [1 << i for i in range(self.retry_max)]
        return self.retry_rto * (sum(waits) + min(16, 1 << self.retry_max))


Report = Opened | OpenFailed | Connected | LinkClosed | SendFailed | Resolved | CredentialsFetched | Tunables


class Machine(Protocol):
    """What every machine offers; each call's outputs must be drained before the next call."""

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """A datagram (or a whole frame of a stream) came from ``peer`` over ``link``."""

    def handle_report(self, now: float, report: Report) -> None:
        """A command was carried out, or the world changed."""

    def handle_timeout(self, now: float) -> None:
        """The time is ``now``; a call before :meth:`poll_timeout` does nothing."""

    def poll_output(self) -> Output | None:
        """The next output, in order; None when there is none."""

    def poll_timeout(self) -> float | None:
        """When to call :meth:`handle_timeout`; None for never."""
