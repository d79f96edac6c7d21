"""Measures this package against aioice 0.13.0, in turns, each case in a process of its own.

    python benchmarks/run.py [--quick] [--only CASE …] [--json FILE] [--plots DIRECTORY] [--check]

Datagrams are also measured against bare sockets (``datagrams.py`` has the rows). The old release is installed into
``.cache/benchmarks`` once. ``--check`` ends with 1 when a row misses what it has to reach. Both sides can be replaced:
``--new PYTHON`` and ``--old PYTHON`` take interpreters that import what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import datagrams

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
OLD = "0.13.0"
OLD_VENV = ROOT / ".cache" / "benchmarks" / f"aioice-{OLD}"

#: The numbers of one side, by case and name.
Numbers = dict[str, dict[str, list[float]]]


class Case(NamedTuple):
    """What is run: a case of ``cases.py`` or a script of its own, ``runs`` times in each of ``rounds`` processes."""

    runs: int
    rounds: int
    quick_runs: int
    quick_rounds: int
    command: tuple[str, ...] = ()
    #: The old release has nothing like it.
    ours_alone: bool = False


#: Numbers of pairs of which a plot shows the growth.
GROWTH = (100, 300, 1000, 3000)

CASES = {
    "import": Case(5, 5, 3, 2),
    "connect-1": Case(50, 5, 20, 2),
    "connect-2": Case(50, 5, 20, 2),
    "connect-dead": Case(20, 5, 10, 2),
    "connect-rtt": Case(40, 5, 10, 2),
    "connect-loss": Case(100, 5, 30, 2),
    "connect-relay": Case(10, 5, 5, 1),
    "connect-relays": Case(10, 5, 5, 1),
    "connect-relay-far": Case(10, 5, 5, 1),
    "connect-relays-far": Case(10, 5, 5, 1),
    "gather-silent": Case(1, 3, 1, 2),
    "gather-refused": Case(1, 3, 1, 2),
    "many": Case(1, 3, 1, 1),
    "stun": Case(1, 5, 1, 2, (str(HERE / "stun_codec.py"), "--json")),
    **{f"crowd-{pairs}": Case(1, 2, 1, 1, (str(HERE / "many.py"), "crowd", str(pairs))) for pairs in GROWTH},
    "crowd-5000": Case(1, 2, 1, 1, (str(HERE / "many.py"), "crowd", "5000"), ours_alone=True),
    "crowd-relays": Case(1, 2, 1, 1, (str(HERE / "many.py"), "relays", "1000")),
    "first-byte": Case(1, 5, 1, 2, (str(HERE / "many.py"), "first-byte", "20")),
    "first-byte-far": Case(1, 5, 1, 2, (str(HERE / "many.py"), "first-byte-far", "20")),
    "packet": Case(1, 5, 1, 2, (str(HERE / "many.py"), "packet", "1")),
    "simulator": Case(5, 3, 3, 1, (str(HERE / "simulator.py"), "5"), ours_alone=True),
    "trace-off": Case(200, 3, 200, 1, (str(HERE / "trace_off.py"), "200"), ours_alone=True),
}


# ----------------------------------------------------------------------------------------------------- the table


def median(case: str, name: str) -> Callable[[Numbers], float]:
    return lambda numbers: statistics.median(numbers[case][name])


def mean(case: str, name: str) -> Callable[[Numbers], float]:
    return lambda numbers: statistics.fmean(numbers[case][name])


def p90(case: str, name: str) -> Callable[[Numbers], float]:
    return lambda numbers: sorted(numbers[case][name])[len(numbers[case][name]) * 9 // 10]


def beyond_asyncio(name: str) -> Callable[[Numbers], float]:
    def value(numbers: Numbers) -> float:
        times = numbers["import"]
        return statistics.median(ours - base for ours, base in zip(times[name], times["asyncio"], strict=True))

    return value


class Row(NamedTuple):
    label: str
    unit: str
    cases: tuple[str, ...]
    value: Callable[[Numbers], float]
    #: At most this ratio to the old release, or this value.
    ratio: float | None = None
    limit: float | None = None

    def reached(self, old: float | None, new: float) -> bool | None:
        if self.limit is not None:
            return new <= self.limit
        return None if self.ratio is None or old is None else new <= old * self.ratio

    @property
    def reach(self) -> str:
        if self.limit is not None:
            return f"≤ {self.limit:g} {self.unit}"
        return "" if self.ratio is None else f"≤ 1/{1 / self.ratio:.3g}"


ROWS = [
    Row("import aioice, beyond asyncio", "ms", ("import",), beyond_asyncio("aioice"), limit=15),
    Row("from aioice import Connection, beyond asyncio", "ms", ("import",), beyond_asyncio("connection")),
    Row("connect, 1 component", "ms", ("connect-1",), median("connect-1", "ms"), ratio=1 / 30),
    Row("connect, 2 components", "ms", ("connect-2",), median("connect-2", "ms"), ratio=1 / 30),
    Row("connect, 4 dead candidates", "ms", ("connect-dead",), median("connect-dead", "ms"), ratio=1 / 4),
    Row("connect, 50 ms RTT", "RTT", ("connect-rtt",), median("connect-rtt", "rtt"), limit=1.1),
    Row("connect, 50 ms RTT, 5 % loss: mean", "RTT", ("connect-loss",), mean("connect-loss", "rtt"), limit=1.6),
    Row("connect, 50 ms RTT, 5 % loss: p90", "RTT", ("connect-loss",), p90("connect-loss", "rtt"), limit=2.2),
    Row("connect, relay to host", "ms", ("connect-relay",), median("connect-relay", "ms"), ratio=1 / 100),
    Row("connect, relay to relay", "ms", ("connect-relays",), median("connect-relays", "ms")),
    Row("connect, relay to host, 50 ms to the server", "ms", ("connect-relay-far",), median("connect-relay-far", "ms")),
    Row(
        "connect, relay to relay, 50 ms to the server",
        "ms",
        ("connect-relays-far",),
        median("connect-relays-far", "ms"),
    ),
    Row("gather, silent STUN server", "ms", ("gather-silent",), median("gather-silent", "ms"), limit=1100),
    Row("gather, no TURN server at the port", "ms", ("gather-refused",), median("gather-refused", "ms"), limit=100),
    Row("1000 pairs at once: gather", "s", ("many",), median("many", "gather")),
    Row("1000 pairs at once: connect", "s", ("many",), median("many", "connect")),
    Row("1000 pairs at once: memory of a pair", "KiB", ("many",), median("many", "kib"), ratio=1 / 2),
    Row("1000 pairs at once: idle CPU", "%", ("many",), median("many", "cpu"), ratio=1 / 2),
    *(
        Row(f"{label}: {what}", unit, (case,), median(case, name), ratio, limit)
        for label, case in (("1000 pairs, ten at a time", "crowd-1000"), ("1000 relayed pairs", "crowd-relays"))
        for what, name, unit, ratio, limit in (
            ("connect all", "all", "s", 1 / 3 if case == "crowd-1000" else None, None),
            ("CPU to connect all", "connect", "s", None, None),
            ("memory of a pair", "kib", "KiB", None, 10 if case == "crowd-1000" else None),
            ("idle CPU", "cpu", "%", 1 / 3 if case == "crowd-1000" else None, None),
            ("loop lag, p99", "p99", "ms", None, None),
            ("close", "close", "s", None, None),
        )
    ),
    Row("10 000 agents: loop lag, p99", "ms", ("crowd-5000",), median("crowd-5000", "p99"), limit=20),
    Row("10 000 agents: idle CPU", "%", ("crowd-5000",), median("crowd-5000", "cpu")),
    Row("10 000 agents: close", "s", ("crowd-5000",), median("crowd-5000", "close")),
    *(
        Row(f"{what}, {path}", "ms", (case,), median(case, name))
        for path, case in (("0 ms RTT", "first-byte"), ("50 ms RTT", "first-byte-far"))
        for what, name in (("first data both ways", "data"), ("nomination", "nominated"))
    ),
    Row("CPU of a packet, request and response", "µs", ("packet",), median("packet", "us")),
    Row("simulator: CPU of 10 minutes", "s", ("simulator",), median("simulator", "seconds"), limit=0.3),
    Row("trace off: CPU of a session, to one without", "×", ("trace-off",), median("trace-off", "ratio"), limit=1.02),
]


def rows_of(numbers: Numbers) -> list[Row]:
    """The table's rows, and one for each of what the codec's script measures."""
    codec = [
        Row(f"STUN: {name}", "µs", ("stun",), median("stun", name), ratio=1 / 2 if "Message" in name else 0.3)
        for name in numbers.get("stun", {})
    ]
    return [row for row in [*ROWS, *codec] if all(case in numbers for case in row.cases)]


def results(old: Numbers, new: Numbers) -> list[dict[str, object]]:
    found = []
    for row in rows_of(new):
        before = row.value(old) if all(case in old for case in row.cases) else None
        now = row.value(new)
        found.append(
            {
                "case": row.label,
                "unit": row.unit,
                "old": before,
                "new": now,
                "ratio": before / now if now and before is not None else None,
                "reach": row.reach,
                "reached": row.reached(before, now),
            }
        )
    return found


def table(found: list[dict[str, object]]) -> str:
    lines = [f"| case | {OLD} | this | times better | to reach | |", "|---|---|---|---|---|---|"]
    marks = {True: "yes", False: "**no**", None: ""}
    for row in found:
        times = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        cells = [_amount(row["old"], row["unit"]), _amount(row["new"], row["unit"]), times, str(row["reach"])]
        reached = row["reached"]
        assert reached is None or isinstance(reached, bool)
        lines.append(f"| {row['case']} | {' | '.join(cells)} | {marks[reached]} |")
    return "\n".join(lines)


def _amount(value: object, unit: object) -> str:
    if not isinstance(value, float):
        return "–"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


# -------------------------------------------------------------------------------------------------------- running


class Side(NamedTuple):
    python: str
    path: str | None

    def version(self) -> str:
        return self._output("-c", "import aioice; print(aioice.__version__, aioice.__file__)")

    def run(self, name: str, runs: int, seed: int) -> dict[str, list[float]]:
        command = CASES[name].command or (str(HERE / "cases.py"), name, str(runs), str(seed))
        numbers: dict[str, list[float]] = json.loads(self._output(*command))
        return numbers

    def data(self, case: str, seconds: float) -> dict[str, list[float]]:
        numbers: dict[str, list[float]] = json.loads(self._output(str(HERE / "data.py"), case, str(seconds)))
        return numbers

    def _output(self, *arguments: str) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        if self.path is not None:
            environment["PYTHONPATH"] = self.path
        command = [self.python, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE).stdout


def old_python() -> str:
    python = OLD_VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(OLD_VENV, with_pip=True)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            f"aioice=={OLD}",
            "uvloop",
        ]
        subprocess.run(command, check=True)
    return str(python)


def measure(sides: tuple[Side, Side], names: list[str], quick: bool) -> tuple[Numbers, Numbers]:
    numbers: tuple[Numbers, Numbers] = ({}, {})
    for name in names:
        case = CASES[name]
        runs, rounds = (case.quick_runs, case.quick_rounds) if quick else (case.runs, case.rounds)
        print(f"{name}: {rounds} × {runs}", file=sys.stderr)
        for number in range(rounds):
            for side, found in list(zip(sides, numbers, strict=True))[case.ours_alone :]:
                for key, values in side.run(name, runs, number * runs).items():
                    found.setdefault(name, {}).setdefault(key, []).extend(values)
    return numbers


def measure_data(sides: tuple[Side, Side], groups: list[str], quick: bool) -> datagrams.Numbers:
    """Bare sockets run on the interpreter of the old release, as nothing but it is needed."""
    by_name = {datagrams.OLD: sides[0], datagrams.NEW: sides[1], datagrams.BARE: sides[0]}
    numbers: datagrams.Numbers = {}
    for group in groups:
        print(f"{group}: {', '.join(datagrams.cases_of(group))}", file=sys.stderr)
        numbers[group] = datagrams.measure(group, lambda side, case, time: by_name[side].data(case, time), quick)
    return numbers


def main() -> int:
    names = [*CASES, *datagrams.GROUPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, for a first look")
    parser.add_argument("--only", nargs="+", choices=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results and all numbers there")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw them there; needs matplotlib")
    parser.add_argument("--check", action="store_true", help="end with 1 when a row misses what it has to reach")
    parser.add_argument("--new", metavar="PYTHON", help="the interpreter that imports this package")
    parser.add_argument("--old", metavar="PYTHON", help=f"the interpreter that imports aioice {OLD}")
    options = parser.parse_args()
    old = Side(options.old or old_python(), None)
    # Without --new both sides are like each other but for the path: what else site-packages holds costs import time.
    new = Side(options.new, None) if options.new else Side(old.python, str(ROOT / "src"))
    for side in (old, new):
        print(side.version().strip(), file=sys.stderr)
    wanted = options.only or names
    numbers = measure((old, new), [name for name in wanted if name in CASES], options.quick)
    data = measure_data((old, new), [name for name in wanted if name in datagrams.GROUPS], options.quick)
    found = results(*numbers) + datagrams.results(data)
    print(table(found))
    content = {"results": found, "old": numbers[0], "new": numbers[1], "data": data}
    if options.plots:
        import plots

        plots.draw(content, options.plots)
    if options.json:
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return 1 if options.check and any(row["reached"] is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
