"""When a relayed address is renewed, and when it is over (RFC 8656 §7.3, §8)."""

from __future__ import annotations

import pytest

from aioice.core.lifetime import CEILING, GRACE, Relay
from aioice.core.peers import FLOOR, RETRY_LOST


def relay(lifetime: float = 600, now: float = 100.0, started: float = 100.0) -> Relay:
    found = Relay(2, 4)
    found.renewed(now, lifetime, started)
    return found


@pytest.mark.parametrize(
    ("lifetime", "renewal", "end"),
    [
        (600, 500, 600),
        (60, 50, 60),
        (1, FLOOR, 2 * FLOOR),
        (7200, CEILING, 7200),
        (0xFFFFFFFF, CEILING, 0xFFFFFFFF),
    ],
)
def test_renewed_before_its_end(lifetime: float, renewal: float, end: float) -> None:
    found = relay(lifetime)
    assert found.renew_at == 100 + renewal
    assert found.ends_at == 100 + end
    assert not found.is_over(99 + end)
    assert found.is_over(100 + end)


def test_counts_from_the_request_and_not_from_its_answer() -> None:
    assert relay(600, now=130.0).renew_at == 600
    assert relay(30, now=130.0).renew_at == 130 + FLOOR


def test_probes_are_no_storm() -> None:
    found = relay()
    assert found.may_probe(100)
    found.refresh(101)
    assert not found.may_probe(101 + RETRY_LOST)
    found.renewed(102, 600, 101)
    assert not found.may_probe(101 + RETRY_LOST - 0.1)
    assert found.may_probe(101 + RETRY_LOST)


def test_slept_through_its_end() -> None:
    found = relay()
    found.refresh(9000)
    assert not found.is_over(9000)
    assert found.ends_at == 9000 + GRACE
    assert found.is_over(9000 + GRACE)


def test_once() -> None:
    found = relay()
    for number in range(2):
        found.refresh(9000 + number)
        assert found.is_over(9000 + GRACE * number) is bool(number)
        found.refused(9000 + GRACE)
    found.renewed(9000, 600, 9000)
    found.refresh(20000)
    assert not found.is_over(20000)


def test_was_asked_in_time_and_in_vain() -> None:
    found = relay()
    found.refresh(600)
    assert found.renew_at is None
    assert found.is_over(700)
