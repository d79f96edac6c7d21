"""Recording an agent, and running it again from what was recorded: the trace of a session is the log of its inputs.

A trace is a list of events, each a dictionary with ``time`` (milliseconds since the first), ``name`` and ``data``;
``docs/trace.md`` lists them. Files are the shell's business (:mod:`aioice.trace`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .agent import Agent
from .machine import Done
from .plain import Coder
from .pseudonyms import Foundations, Names, Pseudonyms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .agent import AgentConfig
    from .machine import Address, Output, Report, Tunables

    Event = dict[str, Any]

#: The version of what stands in ``data``.
VERSION = 1
SESSION = "aioice:session"
VERB = "aioice:verb"
DATAGRAM = "aioice:datagram"
REPORT = "aioice:report"
TIMEOUT = "aioice:timeout"
RANDOM = "aioice:random"
FILTER = "aioice:filter"
RAISED = "aioice:raised"
OUTPUT = "aioice:output"
DROP = "aioice:drop"
TRUNCATED = "aioice:truncated"
END = "aioice:end"
#: What goes into the machine; everything else follows from these.
INPUTS = frozenset((VERB, DATAGRAM, REPORT, TIMEOUT))


class Recording:
    """An agent, and a note of all that goes in and comes out; to whoever runs it, the agent itself.

    ``sink`` gets each event when it happens. ``origin`` is the time from which ``time`` counts, that of the first input
    if it is None. With ``hide_addresses`` hosts have pseudonyms, too, as credentials always have. ``dropped`` tells at
    the end what was dropped before the agent got it, by reason.
    """

    def __init__(
        self,
        sink: Callable[[Event], object],
        config: AgentConfig,
        random: Callable[[int], bytes],
        local_username: str,
        local_password: str,
        tunables: Tunables | None = None,
        *,
        origin: float | None = None,
        hide_addresses: bool = False,
        dropped: Callable[[], dict[str, int]] | None = None,
    ) -> None:
        self._sink = sink
        self._dropped_outside = dropped
        self._draw = random
        self._coder = Coder(Pseudonyms(addresses=hide_addresses))
        self._origin = origin
        self._now = origin or 0.0
        self._drops: dict[str, int] = {}
        self._ended = False
        values = {
            "config": config._replace(remote_filter=None),
            "local_username": local_username,
            "local_password": local_password,
            "tunables": tunables,
        }
        session = self._coder.fields(values, "session")
        told = {"version": VERSION, "hidden_addresses": hide_addresses, "filtered": config.remote_filter is not None}
        self._note(SESSION, {**told, **session})
        if config.remote_filter is not None:
            self._allows = config.remote_filter
            config = config._replace(remote_filter=self._filter)
        self.machine = Agent(config, self._random, local_username, local_password, tunables)

    # -------------------------------------------------------------------------------------------------------- what goes

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        fields = self._coder.fields({"link": link, "peer": peer, "data": data}, "datagram")
        self._input(DATAGRAM, now, fields, self.machine.handle_datagram, link, peer, data)

    def handle_report(self, now: float, report: Report) -> None:
        self._input(REPORT, now, {"report": self._coder.encode(report)}, self.machine.handle_report, report)

    def handle_timeout(self, now: float) -> None:
        self._input(TIMEOUT, now, {}, self.machine.handle_timeout)

    def __getattr__(self, name: str) -> Any:
        """The agent's verbs (all that takes the time first) are inputs, its nouns are passed through."""
        value = getattr(self.machine, name)
        parameters = verb_parameters(value)
        if parameters is None:
            return value

        def verb(now: float, *args: Any, **named: Any) -> Any:
            values = {**dict(zip(parameters, args, strict=False)), **named}
            data = {"verb": name, "arguments": self._coder.fields(values, name)}
            return self._input(VERB, now, data, value, *args, **named)

        return verb

    def _input(
        self, kind: str, now: float, data: dict[str, Any], method: Callable[..., Any], *args: Any, **named: Any
    ) -> Any:
        if self._origin is None:
            self._origin = now
        self._now = now
        self._note(kind, {"at": now, **data})
        try:
            return method(now, *args, **named)
        except Exception as exc:
            self._note(RAISED, {"exception": type(exc).__name__})
            raise
        finally:
            self._note_drops()

    def _random(self, size: int) -> bytes:
        data = self._draw(size)
        self._note(RANDOM, {"bytes": data.hex()})
        return data

    def _filter(self, host: str) -> bool:
        """What the application says is an input, too."""
        allowed = self._allows(host)
        self._note(FILTER, {"host": self._coder.encode(host), "allowed": bool(allowed)})
        return allowed

    # -------------------------------------------------------------------------------------------------- what comes out

    def poll_output(self) -> Output | None:
        output = self.machine.poll_output()
        if output is not None:
            self._note(OUTPUT, self._coder.encode(output))
            if isinstance(output, Done):
                self.end()
        return output

    def poll_timeout(self) -> float | None:
        return self.machine.poll_timeout()

    def end(self) -> None:
        """Nothing more is recorded."""
        dropped = {} if self._dropped_outside is None else self._dropped_outside()
        self._note(END, {"dropped": dropped} if dropped else {})
        self._ended = True

    def _note(self, name: str, data: dict[str, Any]) -> None:
        if not self._ended:
            time = 0.0 if self._origin is None else max(0.0, round(1000 * (self._now - self._origin), 3))
            self._sink({"time": time, "name": name, "data": data})

    def _note_drops(self) -> None:
        drops = self.machine.drops
        if drops != self._drops:
            for reason, number in drops.items():
                if number != self._drops.get(reason, 0):
                    self._note(DROP, {"reason": reason, "number": number - self._drops.get(reason, 0)})
            self._drops = dict(drops)


def verb_parameters(value: Any) -> tuple[str, ...] | None:
    """The parameters after the time of a method that takes the time first; None for everything else."""
    code = getattr(getattr(value, "__func__", None), "__code__", None)
    if code is None or code.co_varnames[1:2] != ("now",) or code.co_argcount < 2:
        return None
    parameters: tuple[str, ...] = code.co_varnames[2 : code.co_argcount + code.co_kwonlyargcount]
    return parameters


class ReplayError(ValueError):
    """The trace cannot be run, or the agent did something else than what was recorded."""


class Step:
    """One input, and what belongs to it."""

    __slots__ = ("time", "name", "data", "drawn", "allowed", "outputs", "raised")

    def __init__(self, event: Event) -> None:
        self.time: float = event["time"]
        self.name: str = event["name"]
        self.data: dict[str, Any] = event["data"]
        #: Random bytes.
        self.drawn: list[str] = []
        #: What the application's filter said of addresses of the peer.
        self.allowed: list[bool] = []
        #: Outputs that were taken before the next input, as they stand in the trace.
        self.outputs: list[dict[str, Any]] = []
        self.raised = False


def steps(events: Iterable[Event]) -> Iterator[Step]:
    """The inputs of a trace, that of the session first; ReplayError where it is not one."""
    step: Step | None = None
    for event in events:
        name, data = event.get("name"), event.get("data")
        if not isinstance(data, dict) or not isinstance(event.get("time"), int | float):
            raise ReplayError("this is not the trace of an agent")
        if name == SESSION or name in INPUTS:
            if (step is None) is not (name == SESSION):
                raise ReplayError("a trace begins with its one session")
            if step is not None:
                yield step
            step = Step(event)
        elif step is None:
            raise ReplayError("a trace begins with its session")
        elif name == RANDOM:
            step.drawn.append(data.get("bytes", ""))
        elif name == FILTER:
            step.allowed.append(data.get("allowed") is True)
        elif name == OUTPUT:
            step.outputs.append(data)
        elif name == RAISED:
            step.raised = True
    if step is None:
        raise ReplayError("the trace is empty")
    yield step


class Replay:
    """An agent that lives a recorded session once more, without a network, input by input."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._steps = steps(events)
        self._drawn: deque[bytes] = deque()
        self._allowed: deque[bool] = deque()
        self._coder = Coder(Names())
        #: The inputs and outputs so far.
        self.inputs = 0
        self.outputs = 0
        #: The time of the last input, in seconds by the clock of the session.
        self.now = 0.0
        #: How late the last input came: by then, the agent's timer should have fired so many seconds before.
        self.late = 0.0
        session = next(self._steps)
        self.agent = self._begin(session)
        self._check(session)

    def _begin(self, session: Step) -> Agent:
        data = session.data
        if data.get("version") != VERSION:
            raise ReplayError(f"version {data.get('version')!a} of traces is not known")
        self._names = Foundations() if data.get("hidden_addresses") else Names()
        self._coder = Coder(self._names)
        self._take(session)
        try:
            config, tunables = self._coder.decode(data["config"]), self._coder.decode(data["tunables"])
            if data.get("filtered"):
                config = config._replace(remote_filter=self._filter)
            return Agent(config, self._random, data["local_username"], data["local_password"], tunables)
        except ReplayError:
            raise
        except Exception as exc:
            raise ReplayError(f"the session cannot be read: {exc}") from exc

    def __iter__(self) -> Iterator[Step]:
        """Run to the end; each step is yielded after it was made.

        :raises ReplayError: at the first difference.
        """
        for step in self._steps:
            self._make(step)
            yield step

    def run(self) -> Replay:
        """Run to the end, as iterating does."""
        for _ in self:
            pass
        return self

    def _make(self, step: Step) -> None:
        self._take(step)
        due = self.agent.poll_timeout()
        self.now = _number(step.data.get("at"))
        self.late = 0.0 if due is None else max(0.0, self.now - due)
        try:
            self._call(step)
        except ReplayError:
            raise
        except Exception as exc:
            if not step.raised:
                raise ReplayError(f"input {self.inputs} makes the agent raise {exc!a}") from exc
        self.inputs += 1
        self._check(step)

    def _call(self, step: Step) -> None:
        data = step.data
        decode = self._coder.decode
        if step.name == VERB:
            verb = getattr(self.agent, str(data["verb"]), None)
            if str(data["verb"]).startswith(("_", "handle", "poll")) or verb_parameters(verb) is None or verb is None:
                raise ReplayError(f"there is no verb {data['verb']!a}")
            arguments = {key: decode(value) for key, value in data["arguments"].items()}
            self._coder.fields(arguments, str(data["verb"]))
            verb(self.now, **arguments)
        elif step.name == DATAGRAM:
            self.agent.handle_datagram(self.now, data["link"], decode(data["peer"]), decode(data["data"]))
        elif step.name == REPORT:
            report = decode(data["report"])
            self._coder.encode(report)
            self.agent.handle_report(self.now, report)
        else:
            self.agent.handle_timeout(self.now)

    def _take(self, step: Step) -> None:
        self._allowed = deque(step.allowed)
        try:
            self._drawn.extend(bytes.fromhex(text) for text in step.drawn)
        except (TypeError, ValueError):
            raise ReplayError("random bytes that are none") from None

    def _random(self, size: int) -> bytes:
        if not self._drawn or len(self._drawn[0]) != size:
            raise ReplayError(
                f"after input {self.inputs} the agent draws {size} random bytes that it did not draw before"
            )
        return self._drawn.popleft()

    def _filter(self, host: str) -> bool:
        if not self._allowed:
            raise ReplayError(f"after input {self.inputs} the agent asks for an address that it did not ask for before")
        return self._allowed.popleft()

    def _check(self, step: Step) -> None:
        for recorded in step.outputs:
            output = self.agent.poll_output()
            shown = None if output is None else self._coder.encode(output)
            if shown != recorded:
                raise ReplayError(f"input {self.inputs}: the agent puts out {_short(shown)}, not {_short(recorded)}")
            self.outputs += 1
        if self._drawn:
            raise ReplayError(f"after input {self.inputs} the agent does not draw random bytes that it drew before")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReplayError("an input without a time")
    return float(value)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 400 else text[:400] + "..."
