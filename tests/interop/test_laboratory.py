"""Two processes behind every NAT and every other obstacle, with coturn in the middle: what they select, and how soon.

Needs root and nftables. Where networks may not be made the tests fail and say why; ``-m "not laboratory"`` leaves them
out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.laboratory import CASES, CLOSE_LIMIT, GATHER_LIMIT, LIMIT, Laboratory, Outcome
from tests.interop.netns import missing
from tests.interop.sites import Kind

pytestmark = pytest.mark.laboratory
#: What is late because of the machine is not late each time.
TRIES = 3


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Laboratory]:
    lacking = missing()
    if lacking:
        pytest.fail(f'The NAT laboratory lacks {"; ".join(lacking)}. Leave it out by: pytest -m "not laboratory"')
    with Laboratory() as made:
        yield made


def in_time(outcome: Outcome) -> bool:
    return outcome.gathered < GATHER_LIMIT and outcome.connected < LIMIT and outcome.closed < CLOSE_LIMIT


@pytest.mark.parametrize(
    "left, right", [pytest.param(*case, id="-".join(kind.name for kind in case)) for case in CASES]
)
def test_sites(laboratory: Laboratory, left: Kind, right: Kind) -> None:
    """Direct wherever mapping and filtering allow it, else relayed; 150 ms and three round trips after both sides know
    the candidates; nothing is left."""
    outcomes: list[Outcome] = []
    for _ in range(TRIES):
        outcome = laboratory.run(left, right)
        assert outcome.direct == left.reaches(right), outcome
        assert not outcome.left, outcome
        outcomes.append(outcome)
        if in_time(outcome):
            return
    pytest.fail(f"late: {outcomes}")
