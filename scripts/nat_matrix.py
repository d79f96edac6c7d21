"""Prints which pair two agents select, and after how long, for every NAT with every other, as a Markdown table.

    python scripts/nat_matrix.py

One way takes 25 ms. h is a host candidate, s a server-reflexive one, p a peer-reflexive one, r a relayed one; the left
side's comes first. The time is that from ``connect()`` until data can flow both ways.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from aioice.sim import Behaviour, World  # noqa: E402
from tests.scenarios.simulated import meet  # noqa: E402

SHORT = {
    Behaviour.ENDPOINT_INDEPENDENT: "EI",
    Behaviour.ADDRESS_DEPENDENT: "AD",
    Behaviour.ADDRESS_AND_PORT_DEPENDENT: "APD",
}


def outcome(mapping: tuple[Behaviour, Behaviour], filtering: tuple[Behaviour, Behaviour], turn: bool) -> str:
    world = World(seed=1)
    world.network(delay=0.025)
    told = world.run(meet(world, mapping, filtering, turn))
    return "–" if told == "fail" else f"{told[:2]} {int(told[2:])} ms"


def main() -> None:
    print("| mapping | filtering | STUN alone | with TURN |\n|---|---|---|---|")
    for mapping, filtering in itertools.product(itertools.product(Behaviour, repeat=2), repeat=2):
        names = [" × ".join(SHORT[behaviour] for behaviour in pair) for pair in (mapping, filtering)]
        print(f"| {' | '.join([*names, *(outcome(mapping, filtering, turn) for turn in (False, True))])} |")


if __name__ == "__main__":
    main()
