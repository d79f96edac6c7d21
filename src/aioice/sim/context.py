"""On which host does this code run? A context variable says it, which tasks inherit from who starts them."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextvars import Context

    from .hosts import Host

#: The host, and what was there before. No tokens: they would tie the end of a ``with`` block to one context.
_Place = tuple["Host", "_Place | None"]

_place: ContextVar[_Place | None] = ContextVar("aioice.sim host", default=None)


def host_or_none() -> Host | None:
    """The host of the running task, if it runs on one."""
    place = _place.get()
    return None if place is None else place[0]


def current_host() -> Host:
    """The host of the running task. Raises :exc:`RuntimeError` when it runs on none."""
    place = _place.get()
    if place is None:
        raise RuntimeError(
            "this task runs on no simulated host: use 'with host:', host.create_task(...) or world.run(..., host=host)"
        )
    return place[0]


def enter(host: Host) -> None:
    """The code that follows runs on ``host``."""
    _place.set((host, _place.get()))


def leave(host: Host) -> None:
    """It runs again where it ran before :func:`enter`."""
    place = _place.get()
    assert place is not None and place[0] is host, "with-blocks of hosts must be nested"
    _place.set(place[1])


def context_on(host: Host) -> Context:
    """A copy of the context in which code runs on ``host``."""
    context = copy_context()
    context.run(enter, host)
    return context
