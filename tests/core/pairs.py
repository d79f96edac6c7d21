"""Candidates, bases and random bytes for the tests of the check list and what rests on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from aioice.core.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.core.checklist import Base, CheckList, Pair, PairState


def candidate(
    host: str = "192.0.2.1",
    port: int = 5000,
    type: str = "host",
    component: int = 1,
    priority: int | None = None,
    foundation: str | None = None,
) -> Candidate:
    return Candidate(
        foundation=candidate_foundation(type, "udp", host) if foundation is None else foundation,
        component=component,
        transport="udp",
        priority=candidate_priority(component, type) if priority is None else priority,
        host=host,
        port=port,
        type=type,
    )


def base(link: int = 1, host: str = "198.51.100.1", type: str = "host", component: int = 1, **more: Any) -> Base:
    return Base(link, candidate(host, 1000 + link, type, component, **more), 65535)


def advance(checks: CheckList, pair: Pair, state: PairState) -> Pair:
    """Bring a pair to a state, by the way that a check takes."""
    for step in (PairState.WAITING, PairState.IN_PROGRESS, PairState.SUCCEEDED):
        if pair.state is state:
            break
        checks.set(pair, step)
    assert pair.state is state
    return pair


def counter() -> Callable[[int], bytes]:
    """Bytes that are different each time."""
    numbers = itertools.count()
    return lambda size: next(numbers).to_bytes(size, "big")


def drain(machine: Any) -> list[Any]:
    """All outputs of a machine."""
    return list(iter(machine.poll_output, None))
