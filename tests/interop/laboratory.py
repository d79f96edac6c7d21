"""A small internet: sites of every kind on two sides, coturn in the middle, and a cable with a delay to each.

    python -m tests.interop.laboratory [--python PYTHON] [--only KIND KIND] …

runs every case once and prints what was selected and after how many milliseconds; with another interpreter the aioice
that it imports is measured, as with ``.cache/benchmarks/aioice-0.13.0/bin/python``, which ``benchmarks/run.py`` makes.
Needs root; see :func:`tests.interop.netns.missing`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.interop.coturn import PASSWORD, USERNAME, Coturn
from tests.interop.netns import Namespace, Wires, missing
from tests.interop.sites import DUAL, KINDS, PORT, SERVER, SERVER_6, Builder, Kind

ROOT = Path(__file__).parents[2]
#: Seconds from a site to the middle.
DELAY = 0.01
#: Milliseconds between two sites and back, directly or through the server.
RTT = 4 * DELAY * 1000
#: Milliseconds from the candidates to a connection.
LIMIT = 150 + 3 * RTT
#: Milliseconds that gathering may take: a silent server gets about a second.
GATHER_LIMIT = 2000
#: Milliseconds that closing may take.
CLOSE_LIMIT = 150

Answer = dict[str, Any]
#: Each with each, and two families beside one where they meet.
CASES = [
    *itertools.product(KINDS, KINDS),
    *((DUAL, kind) for kind in (*KINDS, DUAL)),
    *((kind, DUAL) for kind in KINDS),
]


class Outcome(NamedTuple):
    """What became of a case; times in milliseconds, the worse of both sides."""

    direct: bool
    pair: str
    gathered: float
    connected: float
    closed: float
    left: str


class Peer:
    """A process in its place that makes one connection after the other."""

    def __init__(self, place: Namespace, python: str) -> None:
        script = Path(__file__).with_name("lab_peer.py")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        if python == sys.executable:
            environment["PYTHONPATH"] = str(ROOT / "src")
        with place:
            self._process = subprocess.Popen(
                [python, "-W", "error", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )

    def ask(self, verb: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, arguments]).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: Answer = json.loads(line) if line else {"error": "the peer's process has ended"}
        if "error" in answer:
            raise ConnectionError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.communicate()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Laboratory:
    """From ``with`` to its end; :meth:`run` runs a case."""

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python
        self._open = contextlib.ExitStack()
        self._hosts: dict[tuple[str, str], Namespace] = {}
        self._peers: dict[tuple[str, str], Peer] = {}

    def __enter__(self) -> Laboratory:
        with self._open:
            public = Namespace()
            self._open.callback(public.close)
            public.forward()
            public.ip(f"addr add {SERVER}/32 dev lo", f"addr add {SERVER_6}/128 dev lo nodad")
            wires = Wires()
            self._open.callback(wires.close)
            # All the addresses that are not here are somewhere else: without a route coturn gives its sessions up.
            wires.connect(0, (public, "elsewhere"))
            public.ip("link set elsewhere up", "route add 0.0.0.0/0 dev elsewhere", "route add ::/0 dev elsewhere")
            for side in ("a", "b"):
                for number, kind in enumerate([*KINDS, DUAL], 1):
                    site = Builder(public, wires, number, side, DELAY)
                    self._hosts[side, kind.name] = kind.build(site)
                    for namespace in site.namespaces:
                        self._open.callback(namespace.close)
            wires.start()
            with public:
                self.coturn = self._open.enter_context(
                    Coturn(f"--listening-ip={SERVER_6}", ip=SERVER, relay_ips=(SERVER, SERVER_6), port=PORT)
                )
            self._open = self._open.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for peer in self._peers.values():
            peer.close()
        self._open.close()

    def run(self, left: Kind, right: Kind, **options: Any) -> Outcome:
        """The left peer is controlling. ``options`` are for both."""
        a, b = (self._peer(*where) for where in (("a", left), ("b", right)))
        credentials = {"turn_username": USERNAME, "turn_password": PASSWORD}
        try:
            for peer, kind in ((a, left), (b, right)):
                peer.ask("gather", controlling=peer is a, options={**kind.options(), **credentials, **options})
            gathered = [a.answer(), b.answer()]
            for peer, other in zip((a, b), reversed(gathered), strict=True):
                peer.ask("connect", ufrag=other["ufrag"], pwd=other["pwd"], candidates=other["candidates"])
            connected = [a.answer(), b.answer()]
            for sender, receiver in ((a, b), (b, a)):
                sender.ask("send", text="hello")
                sender.answer()
                receiver.ask("receive")
                assert receiver.answer() == {"text": "hello"}
        except BaseException:
            # What it has said until now answers no later question.
            for side, kind in (("a", left), ("b", right)):
                self._peers.pop((side, kind.name)).kill()
            raise
        a.ask("close")
        b.ask("close")
        closed = [a.answer(), b.answer()]
        return Outcome(
            direct=all("relay" not in (answer["local"], answer["remote"]) for answer in connected),
            pair=" / ".join(f"{answer['local']}-{answer['remote']}" for answer in connected),
            gathered=max(answer["ms"] for answer in gathered),
            connected=max(answer["ms"] for answer in connected),
            closed=max(answer["ms"] for answer in closed),
            left=" ".join(answer["left"] for answer in closed if answer["left"]),
        )

    def _peer(self, side: str, kind: Kind) -> Peer:
        where = (side, kind.name)
        if where not in self._peers:
            self._peers[where] = Peer(self._hosts[where], self._python)
        return self._peers[where]


def measure(python: str, cases: list[tuple[Kind, Kind]]) -> Iterator[str]:
    """A line for each case, and what they come to."""
    outcomes: list[Outcome] = []
    faults = dict.fromkeys(("failed", "relay", "late", "stalled", "left"), 0)
    with Laboratory(python) as laboratory:
        for left, right in cases:
            name = f"{left.name} × {right.name}"
            try:
                outcome = laboratory.run(left, right)
            except ConnectionError as error:
                faults["failed"] += 1
                yield f"{name:36} FAILED {error}"
                continue
            found = {
                "relay": left.reaches(right) and not outcome.direct,
                "late": outcome.connected > LIMIT,
                "stalled": outcome.gathered > GATHER_LIMIT,
                "left": bool(outcome.left),
            }
            for fault, true in found.items():
                faults[fault] += true
            outcomes.append(outcome)
            yield (
                f"{name:36} {outcome.pair:26} gather {outcome.gathered:5.0f} connect {outcome.connected:5.0f}"
                f" close {outcome.closed:5.0f}  {' '.join(fault for fault, true in found.items() if true)}"
            )
    yield f"{len(cases)} cases: " + ", ".join(f"{number} {fault}" for fault, number in faults.items())
    for field in ("gathered", "connected", "closed"):
        yield f"{field}: median {statistics.median(getattr(outcome, field) for outcome in outcomes):.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that imports what is measured")
    parser.add_argument(
        "--only", nargs=2, action="append", choices=[kind.name for kind in [*KINDS, DUAL]], metavar="KIND"
    )
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or [kind.name for kind in case] in options.only]
    if lacking := missing():
        sys.exit("Missing: " + "; ".join(lacking))
    for line in measure(options.python, cases):
        print(line, flush=True)


if __name__ == "__main__":
    main()
