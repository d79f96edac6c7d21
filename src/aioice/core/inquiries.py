"""What became of asking a STUN or TURN server; there is none of this before there is a server."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from .machine import Reason
from .record import Record
from .servers import StunServer, TurnServer

if TYPE_CHECKING:
    from .candidate import Candidate
    from .machine import Address


class ServerVerdict(StrEnum):
    """What became of asking a server."""

    PENDING = "pending"
    ANSWERED = "answered"
    #: By an error response: ``code`` and ``detail`` have it.
    REFUSED = "refused"
    WRONG_CREDENTIALS = "wrong credentials"
    #: The callback for the credentials gave none.
    NO_CREDENTIALS = "no credentials"
    #: Nobody listens there, or there is no way there (ICMP, TCP reset, no route).
    UNREACHABLE = "unreachable"
    NAME_NOT_FOUND = "name not found"
    TIMED_OUT = "timed out"
    TLS_FAILED = "TLS failed"
    NOT_STUN = "not a STUN server"
    #: What the URI asks for gives nothing here: STUN over TCP has no UDP address to tell, TURN over DTLS is not spoken.
    NOT_SUPPORTED = "not supported"
    #: Given up because another transport or address of the same server was faster.
    NOT_NEEDED = "not needed"
    FAILED = "failed"


class ServerReport(Record):
    """How one server answered at one of its addresses."""

    url: str
    component: int
    #: ``udp``, ``tcp`` or ``tls``.
    transport: str
    #: The server's address, None until (and unless) its name is resolved.
    address: Address | None
    #: The local address that asked, where it is one of ours by choice.
    local: Address | None
    verdict: ServerVerdict
    #: Of an error response, else 0.
    code: int
    #: For people: the reason; what a server wrote is escaped.
    detail: str
    #: Round-trip time in seconds, None where it is not known.
    rtt: float | None
    candidates: tuple[Candidate, ...]


class Inquiry:
    """One server being asked at one of its addresses: while it is pending, somebody may wait for it."""

    __slots__ = (
        "server",
        "component",
        "address",
        "local",
        "link",
        "started",
        "alive",
        "verdict",
        "code",
        "detail",
        "rtt",
        "candidates",
        "waited",
    )

    def __init__(
        self, server: StunServer | TurnServer, component: int, started: float, address: Address | None = None
    ) -> None:
        self.server = server
        self.component = component
        self.address = address
        self.local: Address | None = None
        #: Of the base that asks, 0 where none does.
        self.link = 0
        #: When it left, or the look-up of the name did; infinite while it waits for its turn.
        self.started = started
        #: The server has shown signs of life: it is worth waiting for.
        self.alive = False
        self.verdict = ServerVerdict.PENDING
        self.code = 0
        self.detail = ""
        self.rtt: float | None = None
        self.candidates: tuple[Candidate, ...] = ()
        #: From when until when gathering waited for nothing but this, in vain.
        self.waited: tuple[float, float] | None = None

    @property
    def pending(self) -> bool:
        return self.verdict is ServerVerdict.PENDING

    @property
    def asks_stun(self) -> bool:
        return isinstance(self.server, StunServer)

    @property
    def gave_something(self) -> bool:
        """Or is not needed, as another address of the server did."""
        return self.verdict in (ServerVerdict.ANSWERED, ServerVerdict.NOT_NEEDED)

    def waited_for(self, since: float, now: float) -> None:
        self.waited = (max(since, self.started), now)

    def end(self, verdict: ServerVerdict, detail: str = "", code: int = 0) -> None:
        self.verdict, self.detail, self.code = verdict, detail, code

    @property
    def url(self) -> str:
        return self.server.url or url_of(self.server)

    def report(self) -> ServerReport:
        server = self.server
        return ServerReport(
            self.url,
            self.component,
            "tls" if server.tls else server.transport,
            self.address,
            self.local,
            self.verdict,
            self.code,
            self.detail,
            self.rtt,
            self.candidates,
        )


def url_of(server: StunServer | TurnServer) -> str:
    """The URI of RFC 7064 or 7065."""
    scheme = ("turn" if isinstance(server, TurnServer) else "stun") + ("s" if server.tls else "")
    host = f"[{server.host}]" if ":" in server.host else server.host
    usual = "tcp" if server.tls else "udp"
    return f"{scheme}:{host}:{server.port}" + (f"?transport={server.transport}" if server.transport != usual else "")


_VERDICTS = {
    Reason.REFUSED: ServerVerdict.UNREACHABLE,
    Reason.UNREACHABLE: ServerVerdict.UNREACHABLE,
    Reason.NAME_NOT_FOUND: ServerVerdict.NAME_NOT_FOUND,
    Reason.TIMED_OUT: ServerVerdict.TIMED_OUT,
    Reason.TLS: ServerVerdict.TLS_FAILED,
    Reason.NOT_STUN: ServerVerdict.NOT_STUN,
}


def verdict_of(reason: Reason, code: int = 0) -> ServerVerdict:
    """What a failure says about the server; ``code`` is that of its error response, if there was one."""
    if code:
        return ServerVerdict.WRONG_CREDENTIALS if code in (401, 438, 441) else ServerVerdict.REFUSED
    return _VERDICTS.get(reason, ServerVerdict.FAILED)


def explain(reason: Reason, detail: str) -> str:
    """The detail of a failure, with its meaning in front where the system's words hide it."""
    if reason is Reason.TLS and any(
        word in detail for word in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER")
    ):
        return f"what answers there does not speak TLS ({detail})"
    return detail or str(reason)
