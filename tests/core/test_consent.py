"""Consent freshness (RFC 7675)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core.consent import LEAST_INTERVAL, MAX_OUTSTANDING, TIME_TO_ANSWER, Consent
from aioice.core.machine import Tunables
from tests.core.pairs import counter

MIDDLE = b"\x80\x00"
#: What a program may set; tests of applications set the second.
DEFAULT, SHORT = Tunables(), Tunables(consent_interval=1, consent_failures=1)


def fixed(value: bytes = MIDDLE) -> Callable[[int], bytes]:
    return lambda size: value


def consent(tunables: Tunables = DEFAULT, random: Callable[[int], bytes] | None = None, now: float = 0.0) -> Consent:
    return Consent(now, random or fixed(), tunables)


class Run:
    """A consent on a path with a round-trip time, run as an agent runs it."""

    def __init__(self, watched: Consent, rtt: float | None, now: float = 0.0) -> None:
        self.consent = watched
        self.rtt = rtt
        self.now = now
        self.coming: list[tuple[float, bytes]] = []
        self.asked: list[float] = []
        self.doubted: float | None = None
        self.expired: float | None = None
        self.ids = counter()

    def until(self, end: float) -> Run:
        while self.expired is None:
            times = [self.consent.poll_timeout(self.doubted is not None), *(when for when, _ in self.coming)]
            if min(times) > end:
                break
            self.now = min(times)
            if self.coming and self.coming[0][0] == self.now:
                self.consent.answered(self.now, self.coming.pop(0)[1])
                self.doubted = None
            self.act()
        return self

    def act(self) -> None:
        if self.consent.expired(self.now):
            self.expired = self.now
            return
        if self.consent.due(self.now):
            transaction_id = self.ids(12)
            self.consent.asked(self.now, transaction_id)
            self.asked.append(self.now)
            if self.rtt is not None:
                self.coming.append((self.now + self.rtt, transaction_id))
        if self.doubted is None and self.consent.doubtful(self.now):
            self.doubted = self.now
        assert self.consent.poll_timeout(self.doubted is not None) > self.now


class TestInterval:
    @pytest.mark.parametrize("drawn, factor", [(b"\0\0", 0.81), (b"\xff\xff", 1.19), (MIDDLE, 1.0)])
    def test_between_0_8_and_1_2_of_the_basic_one(self, drawn: bytes, factor: float) -> None:
        # RFC 7675 §5.1
        watched = consent(random=fixed(drawn), now=100.0)
        assert watched.poll_timeout(False) == pytest.approx(100 + 5 * factor, abs=0.051)
        assert not watched.due(watched.poll_timeout(False) - 0.001)
        assert watched.due(watched.poll_timeout(False))

    def test_on_a_grid(self) -> None:
        """Many connections of one process wake it together."""
        drawn = [bytes([high, low]) for high in range(256) for low in range(0, 256, 32)]
        times = {consent(random=fixed(value), now=100.0).poll_timeout(False) for value in drawn}
        assert 36 < len(times) < 42

    @given(drawn=st.binary(min_size=2, max_size=2), interval=st.floats(0.1, 100))
    def test_whatever_is_drawn(self, drawn: bytes, interval: float) -> None:
        watched = consent(Tunables(consent_interval=interval), fixed(drawn))
        assert (
            0.8 * interval <= watched.poll_timeout(False) * 1.000001 and watched.poll_timeout(False) <= 1.2 * interval
        )

    def test_each_time_anew(self) -> None:
        drawn = iter([b"\0\0", b"\xff\xff", MIDDLE])
        run = Run(consent(random=lambda size: next(drawn)), 0.01).until(10.1)
        assert run.asked == pytest.approx([4.05, 10.0], abs=0.101)

    @pytest.mark.parametrize("rtt", [0.01, 0.8, 3.0, 6.0, None])
    def test_counted_from_the_last_send_whether_it_is_answered_or_not(self, rtt: float | None) -> None:
        # F32
        assert Run(consent(), rtt).until(20.1).asked == pytest.approx([5.0, 10.0, 15.0, 20.0], abs=1e-3)

    @pytest.mark.parametrize("interval", [0.0, -1.0])
    def test_an_interval_of_nothing_is_no_storm(self, interval: float) -> None:
        run = Run(consent(Tunables(consent_interval=interval)), 0.01).until(1.001)
        assert 0.8 / LEAST_INTERVAL <= len(run.asked) <= 1 / LEAST_INTERVAL
        assert run.expired is None

    def test_changed_at_run_time(self) -> None:
        watched = consent()
        watched.tune(SHORT)
        assert Run(watched, 0.01).until(7.5).asked == pytest.approx([5.0, 6.0, 7.0], abs=1e-3)
        assert watched.lifetime == 1


class TestExpiry:
    def test_30_s_after_the_last_answer(self) -> None:
        # RFC 7675 §5.1
        run = Run(consent(), 0.01).until(11.0)
        run.rtt = None
        run.until(1000.0)
        assert run.expired == pytest.approx(40.01, abs=1e-3)
        assert run.consent.last_answer == pytest.approx(10.01, abs=1e-3)

    def test_30_s_after_it_started_without_any(self) -> None:
        assert Run(consent(), None).until(1000.0).expired == 30.0

    @pytest.mark.parametrize("rtt", [0.6, 0.8, 6.0, 24.0])
    def test_a_long_round_trip_does_not_hurt(self, rtt: float) -> None:
        # F32
        run = Run(consent(random=lambda size: b"\xff\xff"), rtt).until(3601.0)
        assert run.expired is None
        assert len(run.asked) == 600

    def test_an_answer_to_an_older_request_counts(self) -> None:
        watched = consent()
        for number in range(4):
            watched.asked(5.0 * number, bytes([number]))
        watched.answered(20.0, bytes([1]))
        assert watched.outstanding == (bytes([2]), bytes([3]))
        assert not watched.expired(49.9)
        assert watched.expired(50.0)

    def test_an_answer_out_of_order_counts_too(self) -> None:
        watched = consent()
        watched.asked(5.0, b"one")
        watched.asked(10.0, b"two")
        watched.answered(11.0, b"two")
        assert watched.outstanding == ()
        watched.answered(12.0, b"one")
        assert watched.last_answer == 12.0
        assert not watched.expired(1000.0)

    def test_single_losses_do_not_add_up(self) -> None:
        run = Run(consent(), 0.05)
        for second in range(0, 600, 10):
            run.rtt = None if second % 20 else 0.05
            run.until(second + 10.0)
        assert run.expired is None

    def test_never_while_nothing_is_unanswered(self) -> None:
        watched = consent()
        assert not watched.expired(1e9)
        assert not watched.doubtful(1e9)

    @given(drawn=st.binary(min_size=2, max_size=2))
    def test_values_of_tests_leave_a_request_the_time_to_be_answered(self, drawn: bytes) -> None:
        # 1 s × 1
        run = Run(consent(SHORT, fixed(drawn)), None).until(1000.0)
        (asked,) = run.asked
        assert run.expired == pytest.approx(asked + TIME_TO_ANSWER)
        answered = Run(consent(SHORT, fixed(drawn)), 0.4).until(1000.0)
        assert answered.expired is None

    @pytest.mark.parametrize(
        "tunables, seconds", [(DEFAULT, 30), (SHORT, 1), (Tunables(consent_interval=0), TIME_TO_ANSWER)]
    )
    def test_an_answer_counts_for_as_long(self, tunables: Tunables, seconds: float) -> None:
        assert consent(tunables).time_to_answer == seconds

    def test_outstanding_requests_are_bounded(self) -> None:
        run = Run(consent(Tunables(consent_failures=100)), None).until(400.0)
        assert len(run.asked) in (79, 80)
        assert len(run.consent.outstanding) == MAX_OUTSTANDING


class TestDoubt:
    def test_at_half_of_the_time(self) -> None:
        run = Run(consent(), None).until(29.0)
        assert run.doubted == 15.0
        assert run.expired is None

    def test_ends_with_an_answer(self) -> None:
        run = Run(consent(), None).until(16.0)
        run.rtt = 0.01
        run.until(25.0)
        assert run.doubted is None
        assert not run.consent.doubtful(25.0)

    def test_not_before_a_request_had_the_time_to_be_answered(self) -> None:
        run = Run(consent(SHORT), None).until(1000.0)
        assert run.doubted is None
        assert run.expired == pytest.approx(1.5, abs=1e-3)

    def test_wakes_once(self) -> None:
        watched = consent()
        watched.asked(5.0, b"one")
        watched.asked(12.0, b"two")
        assert watched.poll_timeout(False) == 15.0
        assert watched.poll_timeout(True) == pytest.approx(17.0, abs=1e-3)
        watched.asked(17.0, b"three")
        watched.asked(28.0, b"four")
        assert watched.poll_timeout(True) == 30.0


@given(
    rtt=st.none() | st.floats(0.001, 40),
    interval=st.floats(0, 10),
    failures=st.integers(0, 8),
    drawn=st.binary(min_size=2, max_size=2),
)
def test_whoever_has_acted_is_woken_later(rtt: float | None, interval: float, failures: int, drawn: bytes) -> None:
    # Checked after each step.
    tunables = Tunables(consent_interval=interval, consent_failures=failures)
    run = Run(consent(tunables, fixed(drawn)), rtt).until(60.0)
    assert run.asked or interval > 1
