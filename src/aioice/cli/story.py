"""What happened in a session, from its trace: the timeline, the pairs, round trips, losses and the findings."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..core.checklist import PairState
from ..core.diagnosis import STALL, examine
from ..core.trace import DATAGRAM, REPORT, VERB, Replay, ReplayError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..core.checklist import Pair
    from ..core.diagnosis import Finding
    from ..core.trace import Step
    from ..trace import Trace

T = TypeVar("T")

#: Lines of a story and points of a plot; a hostile trace has more.
MAX_LINES = 2000
MAX_POINTS = 5000


class Ends(Generic[T]):
    """The first and the last of many items."""

    def __init__(self, limit: int) -> None:
        self._limit = limit // 2
        self._first: list[T] = []
        self._last: deque[T] = deque(maxlen=self._limit)
        #: How many between them are not kept.
        self.omitted = 0

    def append(self, item: T) -> None:
        if len(self._first) < self._limit:
            self._first.append(item)
        else:
            self.omitted += len(self._last) == self._limit
            self._last.append(item)

    @property
    def last(self) -> T | None:
        return self._last[-1] if self._last else self._first[-1] if self._first else None

    def __iter__(self) -> Iterator[T]:
        yield from self._first
        yield from self._last


class Line:
    """Something that happened, ``time`` in milliseconds."""

    __slots__ = ("time", "kind", "text")

    def __init__(self, time: float, kind: str, text: str) -> None:
        self.time = time
        #: ``gathering``, ``checks``, ``selection``, ``consent``, ``state`` or ``trouble``.
        self.kind = kind
        self.text = text


class Story:
    """Made by running the trace again; what differs from it is told, not raised."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.lines: Ends[Line] = Ends(MAX_LINES)
        #: Milliseconds, pair and seconds.
        self.round_trips: Ends[tuple[float, str, float]] = Ends(MAX_POINTS)
        #: Milliseconds, requests without an answer so far.
        self.unanswered: Ends[tuple[float, int]] = Ends(MAX_POINTS)
        self.difference = ""
        self.stall = 0.0
        self.inputs = self.outputs = 0
        self.end = 0.0
        self._responses: dict[int, int] = {}
        self._states: dict[int, tuple[Any, ...]] = {}
        self._checked = 0
        self._consent: dict[int, int] = {}
        #: When the session had settled, in milliseconds; 0 if it never did.
        self.settled = 0.0
        self.replay: Replay | None = None
        self._run()

    def _run(self) -> None:
        try:
            replay = self.replay = Replay(self.trace.events)
            for step in replay:
                self._step(replay, step)
        except ReplayError as exc:
            self.difference = str(exc)
        if self.replay is not None:
            self.inputs, self.outputs = self.replay.inputs, self.replay.outputs

    def _tell(self, time: float, kind: str, text: str) -> None:
        self.lines.append(Line(time, kind, text))

    @property
    def findings(self) -> list[Finding]:
        if self.replay is None:
            return []
        return examine(self.replay.agent, reason=self.trace.reason, stall=self.stall, dropped=self.trace.dropped)

    # ----------------------------------------------------------------------------------------------------- step by step

    def _step(self, replay: Replay, step: Step) -> None:
        time = self.end = step.time
        if replay.late >= STALL:
            self.stall = max(self.stall, replay.late)
            self._tell(time, "trouble", f"the event loop was blocked for {1000 * replay.late:.0f} ms")
        if step.name == VERB:
            self._verb(time, step.data)
        elif step.name == REPORT:
            report = step.data.get("report") or {}
            if report.get("type") in ("OpenFailed", "LinkClosed", "SendFailed"):
                reason = f"{report.get('reason')} {report.get('detail') or ''}".strip()
                self._tell(time, "trouble", f"{report['type']} on link {report.get('link')}: {reason}")
        for output in step.outputs:
            if output.get("type") == "Notify":
                self._event(time, output.get("event") or {})
        self._pairs(time, replay.agent.check_list, step.name == DATAGRAM)

    def _verb(self, time: float, data: dict[str, Any]) -> None:
        verb, arguments = data.get("verb"), data.get("arguments") or {}
        if verb == "gather":
            hosts = ", ".join(map(str, arguments.get("hosts") or ())) or "no address"
            self._tell(time, "gathering", f"gathering for component {arguments.get('component')} from {hosts}")
        elif verb == "add_remote_candidate":
            candidate = arguments.get("candidate")
            told = (
                "no more remote candidates" if candidate is None else f"remote candidate {candidate.get('candidate')}"
            )
            self._tell(time, "gathering", told)
        elif verb == "connect":
            self._tell(time, "checks", "connect(): the checks begin")
        elif verb in ("restart", "close", "select"):
            self._tell(time, "state", f"{verb}()")

    def _event(self, time: float, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "LocalCandidate":
            candidate = event.get("candidate")
            told = "no more local candidates" if candidate is None else f"local candidate {candidate.get('candidate')}"
            self._tell(time, "gathering", told)
        elif kind == "StateChanged":
            reason = f": {event['reason']}" if event.get("reason") else ""
            self._tell(time, "state", f"{event.get('state')}{reason}")
            if event.get("state") in ("completed", "failed") and not self.settled:
                self.settled = time
        elif kind == "SelectedPair":
            rank = "nominated" if event.get("nominated") else "first valid"
            lines = [_ends(event.get(side)) for side in ("local", "remote")]
            self._tell(time, "selection", f"{rank} pair of component {event.get('component')}: {' → '.join(lines)}")
        elif kind == "ConsentExpired":
            self._tell(time, "consent", str(event.get("reason")))

    def _pairs(self, time: float, pairs: list[Pair], answered: bool) -> None:
        """What has changed with the pairs: after a datagram they may all be another state, else mostly none is."""
        requests = responses = 0
        for pair in pairs:
            requests += pair.requests_sent + pair.consent_requests_sent + pair.retransmissions
            responses += pair.responses_received
            key = id(pair)
            if answered and pair.responses_received != self._responses.get(key, 0):
                self._responses[key] = pair.responses_received
                if pair.rtt is not None:
                    self.round_trips.append((time, pair_text(pair), pair.rtt))
            if pair.consent_requests_sent != self._consent.get(key, 0):
                self._consent[key] = pair.consent_requests_sent
                self._tell(time, "consent", f"{pair_text(pair)} is asked for consent")
            state = (pair.state, pair.why_failed)
            if state != self._states.get(key):
                self._states[key] = state
                if pair.state in (PairState.SUCCEEDED, PairState.FAILED):
                    why = f": {pair.why_failed}" if pair.state is PairState.FAILED else ""
                    self._tell(time, "checks", f"{pair_text(pair)} {pair.state}{why}")
        if requests != self._checked or answered:
            self._checked = requests
            number = max(0, requests - responses)
            if self.unanswered.last is None or self.unanswered.last[1] != number:
                self.unanswered.append((time, number))

    # ------------------------------------------------------------------------------------------------------- the result

    @property
    def pair_rows(self) -> list[tuple[str, ...]]:
        """Pair, state, whether nominated, checks, consent requests, answers, the peer's checks, round trip, why."""
        if self.replay is None:
            return []
        return [
            (
                pair_text(pair),
                str(pair.state),
                "yes" if pair.nominated else "",
                f"{pair.requests_sent} + {pair.retransmissions}",
                str(pair.consent_requests_sent),
                str(pair.responses_received),
                str(pair.requests_received),
                "" if pair.rtt is None else f"{1000 * pair.rtt:.1f} ms",
                pair.why_failed,
            )
            for pair in self.replay.agent.check_list
        ]

    @property
    def state(self) -> str:
        return "" if self.replay is None else str(self.replay.agent.state)

    @property
    def drops(self) -> dict[str, int]:
        return {**self.trace.dropped, **({} if self.replay is None else self.replay.agent.drops)}


PAIR_HEADERS = ("pair", "state", "nominated", "checks", "consent", "answers", "heard", "round trip", "why it failed")


def pair_text(pair: Pair) -> str:
    local = pair.local
    return f"{local.type} {_end(local.host, local.port)} → {pair.remote.type} {_end(*pair.peer)}"


def _end(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ends(candidate: Any) -> str:
    """The address in a candidate as it stands in an event."""
    words = str((candidate or {}).get("candidate", "")).split()
    return f"{words[7]} {words[4]}:{words[5]}" if len(words) > 7 else "?"
