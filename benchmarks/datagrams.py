"""Which cases of ``data.py`` are run, beside what, and what they have to reach; ``run.py`` measures them.

The cases of a group take turns within each round, so that whatever else the machine does meets all of them. All numbers
are microseconds of the processor for a datagram that arrived, of both peers together, but not of a relay.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

#: The numbers of a group by side and case.
Numbers = dict[str, dict[str, list[float]]]


class Row(NamedTuple):
    label: str
    group: str
    base: str
    measured: str
    #: So many times the base's speed.
    reach: float | None = None


OLD, NEW, BARE = "old", "new", "bare"
#: The numbers that 0.13.0 is compared by are those with a fresh heap, where it is not said otherwise.
ONE_WAY = f"{OLD} aioice-oneway-1200"

ROWS = [
    Row("1200 B, await send / await recv", "data", ONE_WAY, f"{NEW} aioice-oneway-1200", 15),
    Row("… 0.13.0 with a warm heap", "data", f"{ONE_WAY}+warm", f"{NEW} aioice-oneway-1200", 7),
    Row("… of a bare adaptive program", "data", f"{BARE} adaptive-oneway-1200", f"{NEW} aioice-oneway-1200", 0.6),
    Row("1200 B, send_many / recv_many", "data", ONE_WAY, f"{NEW} aioice-batch-1200", 25),
    Row("1200 B, send_many / callback", "data", ONE_WAY, f"{NEW} aioice-callback-1200", 25),
    Row("1200 B, GSO and GRO off", "data", ONE_WAY, f"{NEW} aioice-oneway-1200+plain", 6),
    Row("… of a bare reader callback", "data", f"{BARE} reader-oneway-1200", f"{NEW} aioice-oneway-1200+plain", 0.7),
    Row("64 B, await send / await recv", "data-64", f"{OLD} aioice-oneway-64", f"{NEW} aioice-oneway-64"),
    Row("64 B, send_many / recv_many", "data-64", f"{OLD} aioice-oneway-64", f"{NEW} aioice-batch-64"),
    Row("8000 B, await send / await recv", "data-8000", f"{OLD} aioice-oneway-8000", f"{NEW} aioice-oneway-8000"),
    Row("8000 B, send_many / recv_many", "data-8000", f"{OLD} aioice-oneway-8000", f"{NEW} aioice-batch-8000"),
    *(
        Row(
            f"1200 B on {count} connections, await send / await recv",
            "data-many",
            f"{OLD} aioice-oneway-1200+{count}",
            f"{NEW} aioice-oneway-1200+{count}",
        )
        for count in (10, 1000)
    ),
    Row(
        "1200 B, uvloop on both sides",
        "data-uvloop",
        f"{OLD} aioice-oneway-1200+uvloop",
        f"{NEW} aioice-oneway-1200+uvloop",
        4,
    ),
    Row("request–response", "ping-pong", f"{OLD} aioice-pingpong-64", f"{NEW} aioice-pingpong-64", 3),
    Row("… of bare reader callbacks", "ping-pong", f"{BARE} reader-pingpong-64", f"{NEW} aioice-pingpong-64", 1 / 1.5),
    Row(
        "request–response, uvloop",
        "ping-pong",
        f"{OLD} aioice-pingpong-64+uvloop",
        f"{NEW} aioice-pingpong-64+uvloop",
    ),
    Row("1200 B out through a relay", "relay-out", f"{OLD} aioice-relayout-1200", f"{NEW} aioice-relayout-1200", 3.5),
    Row("1200 B in through a relay", "relay-in", f"{OLD} aioice-relayin-1200", f"{NEW} aioice-relayin-1200", 3.5),
]

GROUPS = list(dict.fromkeys(row.group for row in ROWS))
ROUNDS, QUICK_ROUNDS = 11, 3
SECONDS, QUICK_SECONDS = 0.5, 0.2


def cases_of(group: str) -> list[str]:
    """Those of the group, each once."""
    return list(dict.fromkeys(case for row in ROWS if row.group == group for case in (row.base, row.measured)))


def measure(
    group: str, run: Callable[[str, str, float], dict[str, list[float]]], quick: bool
) -> dict[str, list[float]]:
    """``run(side, case, seconds)`` in turns."""
    found: dict[str, list[float]] = {}
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        for name in cases_of(group):
            side, case = name.split(" ")
            found.setdefault(name, []).extend(run(side, case, QUICK_SECONDS if quick else SECONDS)["us"])
    return found


def results(numbers: Numbers) -> list[dict[str, Any]]:
    """The rows whose groups were measured, in the form of those of ``run.py``."""
    found = []
    for row in ROWS:
        if row.group in numbers:
            base, value = (statistics.median(numbers[row.group][name]) for name in (row.base, row.measured))
            found.append(
                {
                    "case": row.label,
                    "unit": "µs",
                    "old": base,
                    "new": value,
                    "ratio": base / value,
                    "reach": "" if row.reach is None else f"≥ {row.reach:.3g} ×",
                    "reached": None if row.reach is None else base / value >= row.reach,
                }
            )
    return found
