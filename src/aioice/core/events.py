"""What applications see: the events of a connection, in the order in which they happened."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .candidate import Candidate


class ConnectionState(StrEnum):
    """The state of a connection, by the names of W3C's RTCIceTransportState."""

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"
    COMPLETED = "completed"
    DISCONNECTED = "disconnected"
    FAILED = "failed"
    CLOSED = "closed"


class ConnectionEvent:
    """Base of all events."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class ConnectionClosed(ConnectionEvent):
    """The connection is closed, by :meth:`close` or because it was lost; the last event."""

    __slots__ = ("reason",)

    def __init__(self, reason: str = "closed") -> None:
        self.reason = reason


class StateChanged(ConnectionEvent):
    """The state is now ``state``; ``reason`` says why where that is not obvious."""

    __slots__ = ("state", "reason")

    def __init__(self, state: ConnectionState, reason: str = "") -> None:
        self.state = state
        self.reason = reason


class LocalCandidate(ConnectionEvent):
    """A local candidate was found: signal it to the peer. ``None`` marks the end of gathering (RFC 8838 §13)."""

    __slots__ = ("candidate",)

    def __init__(self, candidate: Candidate | None) -> None:
        self.candidate = candidate


class SelectedPair(ConnectionEvent):
    """Data of ``component`` now flows between these two candidates; ``nominated`` once that is settled."""

    __slots__ = ("component", "local", "remote", "nominated")

    def __init__(self, component: int, local: Candidate, remote: Candidate, nominated: bool) -> None:
        self.component = component
        self.local = local
        self.remote = remote
        self.nominated = nominated


class ConsentExpired(ConnectionEvent):
    """The peer no longer wants data of ``component`` (RFC 7675): ``reason`` says how we know."""

    __slots__ = ("component", "reason")

    def __init__(self, component: int, reason: str) -> None:
        self.component = component
        self.reason = reason
