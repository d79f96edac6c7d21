"""An asyncio event loop on a world's clock: whole programs run in the simulated network, and never wait.

Timers fire when nothing else is left to do before them; sockets, streams and names are those of the host that a task
runs on. What cannot be simulated, file descriptors, subprocesses and signals, raises :exc:`NotImplementedError`.
"""

from __future__ import annotations

import asyncio
import itertools
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from .context import context_on
from .endpoints import Endpoints
from .patches import patched

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from typing import TypeVarTuple

    from .clock import Event
    from .hosts import Host
    from .world import World

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")

#: So many turns without the clock moving are a task that polls for ever.
MAX_TURNS = 100_000
#: Virtual seconds in which the tasks that are cancelled at the end of a run with a time limit must have ended.
CLEANUP_TIME = 60.0
#: As many tasks are named in the message of a deadlock.
MAX_TASKS_TOLD = 20


class Deadlock(RuntimeError):
    """Nothing will ever happen any more, and tasks still wait; the message says what for."""


class _Timer(asyncio.TimerHandle):
    """A timer whose time is kept by the world."""

    __slots__ = ("event",)

    event: Event

    def cancel(self) -> None:
        super().cancel()
        self.event.cancel()


class Loop(Endpoints):
    """The event loop that :meth:`World.run` makes. It may also be made by hand, for :class:`asyncio.Runner`.

    :meth:`time` is the world's. :meth:`run_in_executor` calls the function at once, in this thread, and takes no
    virtual time: threads would make runs differ.
    """

    # Of asyncio.BaseEventLoop, which has them in all versions.
    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self._turns = 0
        self._turned_at = -1.0
        self._allowed = 0.0
        #: When it is stopped; no event, since something that will happen would hide a deadlock.
        self._end = inf

    def __repr__(self) -> str:
        state = "closed" if self.is_closed() else "running" if self.is_running() else "stopped"
        return f"<Loop of a simulated world at {self.world.now} s, {state}>"

    # ------------------------------------------------------------------------------------------------------------ time

    def time(self) -> float:
        """The world's time in seconds."""
        return self.world.now

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, in virtual time."""
        # Whole nanoseconds: sums of delays are round numbers.
        return self.call_at(round(self.world.now + delay, 9), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, in virtual time."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = _Timer(when, callback, args, self, context)
        timer.event = self.world.at(when, self._due, timer)
        return timer

    def allow(self, seconds: float | None) -> None:
        """Let the loop run for so long from now on; then :meth:`run_forever` raises :exc:`TimeoutError`."""
        self._allowed = seconds or 0.0
        self._end = inf if seconds is None else self.world.now + seconds

    def _due(self, timer: _Timer) -> None:
        if not self.is_closed():
            self._ready.append(timer)

    # --------------------------------------------------------------------------------------------------------- the run

    def run_forever(self) -> None:
        """Run until :meth:`stop`; raises :exc:`Deadlock` when nothing will ever happen any more."""
        if self.world.loop is not None:
            raise RuntimeError("another event loop runs this world already")
        self.world.loop = self
        try:
            with patched():
                super().run_forever()
        finally:
            self.world.loop = None

    def _run_once(self) -> None:
        """One turn: the next event of the world, if nobody is ready before it, and all that are ready then."""
        ready = self._ready
        if not ready and not self._stopping:
            following = self.world.next_time()
            if following is None:
                raise Deadlock(f"nothing will ever happen after {self._explain()}")
            if following > self._end:
                self.world.advance(self._end)
                raise TimeoutError(f"it was not done within {self._allowed} virtual seconds: at {self._explain()}")
            self.world.step()
        if self.world.now != self._turned_at:
            self._turns, self._turned_at = 0, self.world.now
        self._turns += 1
        if self._turns > MAX_TURNS:
            raise Deadlock(f"the clock stands still at {self.world.now} s, yet there is always something to run")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _write_to_self(self) -> None:
        """Another thread has called: there is no selector to wake."""

    def _explain(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=_number)
        lines = [f"{self.world.now:.6g} s (seed {self.world.seed}), and these wait:"]
        lines += [f"  {task.get_name()}: {_where(task)}" for task in tasks[:MAX_TASKS_TOLD]]
        if len(tasks) > MAX_TASKS_TOLD:
            lines.append(f"  and {len(tasks) - MAX_TASKS_TOLD} more")
        return "\n".join(lines)

    def close(self) -> None:
        """Close the loop, and all sockets that were opened on it."""
        if not self.is_closed():
            self._close_endpoints()
        super().close()

    # --------------------------------------------------------------------------------------------------------- threads

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Call ``func`` now, in this thread, whatever the executor: the result is there at once."""
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:
            future.set_exception(exc)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""


def _number(task: asyncio.Task[Any]) -> tuple[int, str]:
    """Tasks are kept in a set; by their names they are in the order of their birth."""
    name = task.get_name()
    digits = name.rpartition("-")[2]
    return (int(digits), name) if digits.isdecimal() else (0, name)


def _where(task: asyncio.Task[Any]) -> str:
    """The innermost line of a task, with the way there from its outermost coroutine."""
    frames: list[str] = []
    place = ""
    awaited: Any = task.get_coro()
    for _ in itertools.repeat(None, 100):
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            break
        frames.append(frame.f_code.co_qualname)
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    if not frames:
        return "not started" if not task.done() else "done"
    return f"{' > '.join(frames)} at {place}"


def create_task(host: Host, coroutine: Coroutine[Any, Any, T], name: str | None) -> asyncio.Task[T]:
    """See :meth:`Host.create_task`."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, Loop) or loop.world is not host.world:
        coroutine.close()
        raise RuntimeError(f"{host!r} belongs to a world that does not run now: see World.run()")
    return loop.create_task(coroutine, name=name, context=context_on(host))


def run(world: World, main: Coroutine[Any, Any, T], host: Host | None, timeout: float | None) -> T:
    """See :meth:`World.run`."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        main.close()
        raise RuntimeError("World.run() cannot be called from within a running event loop")
    loop = Loop(world)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        loop.allow(timeout)
        try:
            return runner.run(main, context=None if host is None else context_on(host))
        finally:
            # What is cancelled now may need some time to end, but must not hang for ever.
            loop.allow(None if timeout is None else CLEANUP_TIME)
