"""Which valid pair carries data (RFC 8445 §8, §12.1)."""

from __future__ import annotations

import pytest

from aioice.core.checklist import CheckList, Pair, PairState
from aioice.core.selection import DIRECT_PATIENCE, RELAY_PATIENCE, Selection
from tests.core.pairs import advance, base, candidate


class Scene:
    """A selection and its check list."""

    def __init__(self, components: int = 1, **patience: float) -> None:
        self.checks = CheckList(True, 100)
        self.selection = Selection(**patience)
        self.components = range(1, components + 1)
        self.ports = iter(range(1, 1000))

    def pair(self, priority: int = 100, component: int = 1, type: str = "host") -> Pair:
        port = next(self.ports)
        remote = candidate(port=port, component=component, priority=priority, type=type, foundation=str(port))
        pair = self.checks.add(base(component, component=component), remote)
        assert pair is not None
        return pair

    def valid(self, now: float, pair: Pair, rtt: float | None = None) -> bool:
        advance(self.checks, pair, PairState.SUCCEEDED)
        pair.rtt = rtt
        return self.selection.valid(now, pair)

    def fail(self, pair: Pair) -> bool:
        self.checks.fail(pair, "why")
        return self.selection.failed(pair)

    def ask(self, now: float) -> list[Pair]:
        chosen = self.selection.to_nominate(now, self.checks, self.components)
        due = self.selection.due
        assert due is None or due > now
        return chosen


class TestFirstValid:
    def test_carries_data_at_once(self) -> None:
        # RFC 8445 §12.1
        scene = Scene()
        first, better = scene.pair(1), scene.pair(2)
        assert scene.valid(0.0, first) is True
        assert scene.valid(0.1, better) is False
        assert scene.selection.pairs == (first,)

    def test_for_each_component(self) -> None:
        scene = Scene(2)
        one, two = scene.pair(component=1), scene.pair(component=2)
        assert scene.valid(0.0, one) and scene.valid(0.0, two)
        assert scene.selection.pairs == (one, two)


class TestNomination:
    def test_at_once_when_no_better_one_is_unanswered(self) -> None:
        scene = Scene()
        worse, pair, failed = scene.pair(1), scene.pair(2), scene.pair(3)
        scene.checks.fail(failed, "no answer")
        scene.valid(0.0, pair)
        assert scene.ask(0.0) == [pair]
        assert scene.selection.due is None
        assert worse.state is PairState.WAITING

    def test_goes_out_once(self) -> None:
        scene = Scene()
        scene.valid(0.0, scene.pair())
        assert len(scene.ask(0.0)) == 1
        assert scene.ask(5.0) == []

    def test_nothing_is_valid(self) -> None:
        scene = Scene()
        scene.pair()
        assert scene.ask(100.0) == []
        assert scene.selection.due is None

    @pytest.mark.parametrize("state", [PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS])
    def test_a_better_one_is_waited_for(self, state: PairState) -> None:
        scene = Scene()
        better, pair = scene.pair(2), scene.pair(1)
        better.state = state
        scene.valid(10.0, pair)
        assert scene.ask(10.0) == []
        assert scene.selection.due == 10.0 + DIRECT_PATIENCE
        assert scene.ask(10.0 + DIRECT_PATIENCE) == [pair]

    @pytest.mark.parametrize(
        "rtt, patience", [(None, 0.1), (0.001, 0.1), (0.03, 0.1), (0.05, 0.15), (0.8, 2.4), (2.0, 6.0)]
    )
    def test_direct_patience_is_three_round_trips_and_100_ms_at_least(self, rtt: float | None, patience: float) -> None:
        scene = Scene()
        scene.pair(2)
        scene.valid(0.0, scene.pair(1), rtt)
        assert scene.ask(0.0) == []
        assert scene.selection.due == pytest.approx(patience)

    def test_relay_patience_is_a_second(self) -> None:
        scene = Scene()
        scene.pair(2)
        scene.valid(0.0, scene.pair(1, type="relay"), 5.0)
        assert scene.ask(0.0) == []
        assert scene.selection.due == RELAY_PATIENCE == 1.0

    def test_both_are_parameters(self) -> None:
        scene = Scene(direct_patience=0.0, relay_patience=0.0)
        scene.pair(3)
        pair = scene.pair(1, type="relay")
        scene.valid(0.0, pair, 0.1)
        assert scene.ask(0.0) == [pair]
        patient = Scene(direct_patience=7.0, relay_patience=9.0)
        patient.pair(3)
        direct = patient.pair(2)
        patient.valid(0.0, patient.pair(1, type="relay"), 0.1)
        assert patient.ask(0.0) == [] and patient.selection.due == 9.0
        patient.valid(1.0, direct, 0.1)
        # Counted from the first valid pair of the component.
        assert patient.ask(1.0) == [] and patient.selection.due == 7.0

    def test_the_better_one_answers_within_the_patience(self) -> None:
        scene = Scene()
        better, pair = scene.pair(2), scene.pair(1)
        scene.valid(0.0, pair)
        assert scene.ask(0.0) == []
        scene.valid(0.05, better)
        assert scene.selection.pairs == (pair,)
        assert scene.ask(0.05) == [better]
        assert scene.selection.nominate(better) is True
        assert scene.selection.pairs == (better,)
        assert scene.ask(1.0) == []

    def test_the_better_one_fails_within_the_patience(self) -> None:
        scene = Scene()
        better, pair = scene.pair(2), scene.pair(1)
        scene.valid(0.0, pair)
        assert scene.ask(0.0) == []
        assert scene.fail(better) is False
        assert scene.ask(0.01) == [pair]

    def test_the_next_deadline_of_two_components(self) -> None:
        scene = Scene(3)
        for component in (1, 2, 3):
            scene.pair(10 + component, component)
        scene.valid(0.0, scene.pair(1, 1), 0.2)
        scene.valid(0.0, scene.pair(2, 2))
        scene.valid(0.05, scene.pair(3, 3))
        assert scene.ask(0.06) == []
        assert scene.selection.due == 0.1
        assert [pair.component for pair in scene.ask(0.1)] == [2]
        assert scene.selection.due == pytest.approx(0.15)
        assert [pair.component for pair in scene.ask(0.1501)] == [3]
        assert scene.selection.due == pytest.approx(0.6)

    def test_a_better_pair_of_another_component_is_not_waited_for(self) -> None:
        scene = Scene(2)
        scene.pair(100, 2)
        pair = scene.pair(1, 1)
        scene.valid(0.0, pair)
        assert scene.ask(0.0) == [pair]


class TestFailure:
    def test_of_a_nomination_tries_the_next(self) -> None:
        # RFC 8445 §8.1.1
        scene = Scene()
        best, second, third = scene.pair(3), scene.pair(2), scene.pair(1)
        for pair in (third, second, best):
            scene.valid(0.0, pair)
        for chosen, left in ((best, second), (second, third)):
            assert scene.ask(0.0) == [chosen]
            assert scene.fail(chosen) is False
            assert scene.selection.pairs == (third,)
            assert left.state is PairState.SUCCEEDED
        assert scene.ask(0.0) == [third]
        assert scene.fail(third) is True
        assert scene.selection.pairs == ()
        assert scene.ask(0.0) == []

    def test_of_the_pair_in_use_that_no_check_list_knows_as_valid(self) -> None:
        scene = Scene()
        pair = scene.pair()
        scene.valid(0.0, pair)
        scene.checks.fail(pair, "why")
        assert scene.ask(0.0) == []

    def test_of_a_pair_that_nobody_uses(self) -> None:
        scene = Scene()
        used, other = scene.pair(2), scene.pair(1)
        scene.valid(0.0, used)
        assert scene.fail(other) is False
        assert scene.selection.pairs == (used,)

    def test_the_next_valid_one_takes_over(self) -> None:
        scene = Scene()
        used, other = scene.pair(2), scene.pair(1)
        scene.valid(0.0, used)
        scene.valid(0.0, other)
        assert scene.fail(used) is True
        assert scene.selection.valid(1.0, other) is True


class TestTwoNominations:
    """F27: a peer that nominates aggressively means the best of its nominations (RFC 5245 §8.1.1.2)."""

    def test_the_better_one_stays(self) -> None:
        scene = Scene()
        high, low = scene.pair(2), scene.pair(1)
        assert scene.selection.nominate(high) is True
        assert scene.selection.nominate(low) is False
        assert scene.selection.pairs == (high,)

    def test_the_better_one_comes_later(self) -> None:
        scene = Scene()
        high, low = scene.pair(2), scene.pair(1)
        assert scene.selection.nominate(low) is True
        assert scene.selection.nominate(high) is True
        assert scene.selection.pairs == (high,)
        assert low.nominated and high.nominated

    def test_among_equals_the_first(self) -> None:
        scene = Scene()
        first, second = scene.pair(1), scene.pair(1)
        assert scene.selection.nominate(first) is True
        assert scene.selection.nominate(second) is False

    def test_again_for_the_same_pair(self) -> None:
        scene = Scene()
        pair = scene.pair()
        scene.valid(0.0, pair)
        assert scene.selection.nominate(pair) is True
        assert scene.selection.nominate(pair) is False
        assert scene.selection.pairs == (pair,)

    def test_any_nomination_replaces_a_pair_that_was_only_valid(self) -> None:
        scene = Scene()
        high, low = scene.pair(2), scene.pair(1)
        scene.valid(0.0, high)
        assert scene.selection.nominate(low) is True
        assert scene.selection.pairs == (low,)


class TestRoleChange:
    def test_nominations_in_flight_are_void(self) -> None:
        # RFC 8445 §7.3.1.1
        scene = Scene()
        pair = scene.pair()
        scene.valid(0.0, pair)
        assert scene.ask(0.0) == [pair]
        scene.selection.role_changed()
        assert scene.selection.pairs == (pair,)
        assert scene.ask(0.0) == [pair]

    def test_no_deadline_is_left(self) -> None:
        scene = Scene()
        scene.pair(2)
        scene.valid(0.0, scene.pair(1))
        assert scene.ask(0.0) == [] and scene.selection.due is not None
        scene.selection.role_changed()
        assert scene.selection.due is None
