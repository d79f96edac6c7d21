"""Traces: a session written down, read, run again without a network, and explained.

A trace holds all that an agent was told, got and did, and neither a credential nor application data; see
``docs/trace.md``. Give ``trace=`` to :class:`aioice.Connection`, or set ``AIOICE_TRACE`` for programs that one cannot
change.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .core.diagnosis import Finding, examine
from .core.trace import END, OUTPUT, SESSION, TRUNCATED, VERSION, Recording, Replay, ReplayError, Step, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from .core.agent import Agent, AgentConfig
    from .core.machine import Tunables
    from .core.trace import Event

    Sink = Callable[[Event], object]
    Target = str | os.PathLike[str] | Sink

__all__ = [
    "MAX_SIZE",
    "Finding",
    "Recording",
    "Replay",
    "ReplayError",
    "Step",
    "Trace",
    "TraceFile",
    "diagnose",
    "read",
    "replay",
    "steps",
]

logger = logging.getLogger(__name__)

#: Bytes of a trace file; what would come after is not written.
MAX_SIZE = 64 << 20
#: Bytes of a trace that :func:`read` takes.
MAX_READ = 4 * MAX_SIZE
#: Events that wait to be written, at most: so many are lost when the process dies.
BUFFER = 64
#: Set to 1, hosts have pseudonyms in the traces that AIOICE_TRACE asks for.
VARIABLE_HIDE = "AIOICE_TRACE_HIDE_ADDRESSES"
#: RFC 7464 §2.2: each text begins with this.
RECORD_SEPARATOR = b"\x1e"

_number = itertools.count()


# ------------------------------------------------------------------------------------------------------------- writing


class TraceFile:
    """A new file, readable by its owner alone; an existing one and links are refused (FileExistsError).

    Called with an event, it writes it; after ``max_size`` bytes it writes no more, but says so.
    """

    def __init__(self, path: str | os.PathLike[str], max_size: int = MAX_SIZE) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        self.path = Path(path)
        self._left = max_size
        self._waiting: list[bytes] = [_text(header())]

    def __call__(self, event: Event) -> None:
        if self._fd < 0:
            return
        data = _text(event)
        self._left -= len(data)
        if self._left < 0:
            data = _text({"time": event["time"], "name": TRUNCATED, "data": {"max_size": True}})
        self._waiting.append(data)
        if len(self._waiting) >= BUFFER or self._left < 0 or event["name"] == END:
            self.flush()
        if self._left < 0 or event["name"] == END:
            self.close()

    def flush(self) -> None:
        """A disk that is full ends the trace, not the session."""
        data = b"".join(self._waiting)
        self._waiting.clear()
        try:
            while data and self._fd >= 0:
                data = data[os.write(self._fd, data) :]
        except OSError as exc:
            logger.warning("The trace cannot be written: %s", exc.strerror)
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        if self._fd >= 0:
            self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def header() -> dict[str, Any]:
    """What a file begins with: the header of a qlog sequence (draft-ietf-quic-qlog-main-schema §5)."""
    from . import __version__

    return {
        "file_schema": "urn:ietf:params:qlog:file:sequential",
        "serialization_format": "application/qlog+json-seq",
        "title": "ICE session",
        "trace": {
            "vantage_point": {"name": f"aioice {__version__}", "type": "unknown"},
            "event_schemas": [f"urn:x-aioice:events:{VERSION}"],
            "common_fields": {
                "time_format": "relative_to_epoch",
                "reference_time": {
                    "clock_type": "monotonic",
                    "epoch": "unknown",
                    "wall_clock_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                },
            },
        },
    }


def _text(value: dict[str, Any]) -> bytes:
    return RECORD_SEPARATOR + json.dumps(value, separators=(",", ":")).encode() + b"\n"


def record(
    target: Target,
    config: AgentConfig,
    local_username: str,
    local_password: str,
    tunables: Tunables,
    *,
    hide_addresses: bool = False,
    dropped: Callable[[], dict[str, int]] | None = None,
) -> Agent:
    """An agent whose session is recorded into a new file, or handed to a function event by event.

    :raises OSError: when the file cannot be made; :exc:`FileExistsError` when it is there.
    """
    sink: Sink = target if callable(target) else TraceFile(target)
    try:
        origin = asyncio.get_running_loop().time()
    except RuntimeError:
        origin = time.monotonic()
    # It is one to everybody who runs it.
    return cast(
        "Agent",
        Recording(
            sink,
            config,
            os.urandom,
            local_username,
            local_password,
            tunables,
            origin=origin,
            hide_addresses=hide_addresses,
            dropped=dropped,
        ),
    )


def record_as_told(
    where: str,
    config: AgentConfig,
    local_username: str,
    local_password: str,
    tunables: Tunables,
    *,
    dropped: Callable[[], dict[str, int]] | None = None,
) -> Agent | None:
    """As :func:`record`, to where the environment says; None, and a warning in the log, where that cannot be."""
    hide = os.environ.get(VARIABLE_HIDE, "") not in ("", "0")
    for _ in range(1000):
        path = _told_path(where)
        try:
            return record(path, config, local_username, local_password, tunables, hide_addresses=hide, dropped=dropped)
        except FileExistsError:
            continue
        except OSError as exc:
            logger.warning("No trace is written to %a: %s", str(path), exc.strerror)
            return None
    return None


def _told_path(where: str) -> Path:
    number = next(_number)
    if os.path.isdir(where):
        return Path(where) / f"aioice-{os.getpid()}-{number}.sqlog"
    path = Path(where.replace("{pid}", str(os.getpid())).replace("{id}", str(number)))
    if "{id}" in where or number == 0:
        return path
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


# ------------------------------------------------------------------------------------------------------------- reading


class Trace:
    """What stands in a trace file: its header and its events."""

    def __init__(self, header: dict[str, Any], events: list[Event], *, broken: int = 0) -> None:
        self.header = header
        self.events = events
        #: Texts that could not be read: the process died, or the disk was full.
        self.broken = broken

    @property
    def complete(self) -> bool:
        """Whether the end of the session stands in it."""
        return bool(self.events) and self.events[-1].get("name") == END

    @property
    def reason(self) -> str:
        """Why the state changed for the last time, where that was told."""
        for event in reversed(self.events):
            told = (
                event["data"].get("event") if event["name"] == OUTPUT and isinstance(event.get("data"), dict) else None
            )
            if isinstance(told, dict) and told.get("type") == "StateChanged":
                return str(told.get("reason", ""))
        return ""

    @property
    def dropped(self) -> dict[str, int]:
        """Datagrams that were dropped before the agent got them, by reason; known at the end only."""
        data = self.events[-1].get("data") if self.complete else None
        dropped = data.get("dropped") if isinstance(data, dict) else None
        if not isinstance(dropped, dict):
            return {}
        return {str(reason): number for reason, number in dropped.items() if isinstance(number, int)}

    def replay(self) -> Replay:
        """See :func:`replay`."""
        return Replay(self.events).run()


def read(source: str | os.PathLike[str] | bytes) -> Trace:
    """Read a trace, a file or its bytes; a text that was cut off is passed over (RFC 7464 §2.3).

    :raises ValueError: when it is no trace, or too large.
    :raises OSError: when the file cannot be read.
    """
    if isinstance(source, bytes):
        data = source
    else:
        with open(source, "rb") as file:
            data = file.read(MAX_READ + 1)
    if len(data) > MAX_READ:
        raise ValueError("the trace is too large")
    if not data.startswith(RECORD_SEPARATOR):
        raise ValueError("this is not a sequence of JSON texts (RFC 7464)")
    values: list[dict[str, Any]] = []
    broken = 0
    for text in data.split(RECORD_SEPARATOR)[1:]:
        # Without the line feed a text may have been cut off (RFC 7464 §2.4).
        value = _parse(text) if text.endswith(b"\n") else None
        if value is None:
            broken += 1
        else:
            values.append(value)
    if not values or "file_schema" not in values[0]:
        raise ValueError("this is not a trace: it has no header")
    events = [value for value in values[1:] if isinstance(value.get("name"), str)]
    if not events or events[0]["name"] != SESSION:
        raise ValueError("this is not the trace of an ICE session")
    return Trace(values[0], events, broken=broken)


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def replay(source: str | os.PathLike[str] | bytes | Trace) -> Replay:
    """Run the agent of a trace again, without a network: it must put out what it put out then.

    Returns the :class:`Replay` with the agent as it was at the end. To look at it on the way, iterate over
    ``Replay(trace.events)``, which yields each :class:`Step` when it was made.

    :raises ReplayError: (a :exc:`ValueError`) at the first difference.
    :raises ValueError: when it is no trace.
    :raises OSError: when the file cannot be read.
    """
    return (source if isinstance(source, Trace) else read(source)).replay()


def diagnose(source: str | os.PathLike[str] | bytes | Trace) -> list[Finding]:
    """Why the session of a trace failed, was lost or was slow, the weightiest finding first; empty if all was well.

    :raises ReplayError: when the agent of the trace cannot be brought to where it was.
    :raises ValueError: when it is no trace.
    :raises OSError: when the file cannot be read.
    """
    trace = source if isinstance(source, Trace) else read(source)
    replay = Replay(trace.events)
    stall = max((replay.late for _ in replay), default=0.0)
    return examine(replay.agent, reason=trace.reason, stall=stall, dropped=trace.dropped)
