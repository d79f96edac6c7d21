"""The check list (RFC 8445 §6.1.2, §6.1.4, RFC 8838 §12)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioice.core.candidate import Candidate
from aioice.core.checklist import TRANSITIONS, Base, CheckList, Pair, PairState, order
from tests.core.pairs import advance, base, candidate

FROZEN, WAITING, IN_PROGRESS, SUCCEEDED, FAILED = PairState


def check_list(controlling: bool = True, max_pairs: int = 100) -> CheckList:
    return CheckList(controlling, max_pairs)


def add(checks: CheckList, on: Base, remote: Candidate) -> Pair:
    pair = checks.add(on, remote)
    assert pair is not None
    return pair


def filled(*remotes: tuple[int, str], controlling: bool = True) -> tuple[CheckList, list[Pair]]:
    """Pairs of one base for each component, from (component, foundation), each of less priority than the one before."""
    checks = check_list(controlling)
    pairs = []
    for number, (component, foundation) in enumerate(remotes):
        on = base(component, component=component)
        remote = candidate(port=number + 1, component=component, priority=1000 - number, foundation=foundation)
        pairs.append(add(checks, on, remote))
    return checks, pairs


def states(pairs: list[Pair]) -> list[PairState]:
    return [pair.state for pair in pairs]


class TestPriority:
    @pytest.mark.parametrize(
        "controlling, local, remote, priority",
        [
            (True, 100, 200, (100 << 32) + 400),
            (False, 100, 200, (100 << 32) + 401),
            (True, 200, 100, (100 << 32) + 401),
            (False, 200, 100, (100 << 32) + 400),
            (True, 100, 100, (100 << 32) + 200),
        ],
    )
    def test_formula_of_section_6_1_2_3(self, controlling: bool, local: int, remote: int, priority: int) -> None:
        assert Pair(base(priority=local), candidate(priority=remote), controlling).priority == priority

    def test_both_sides_compute_the_same(self) -> None:
        ours = Pair(base(priority=300), candidate(priority=200), True)
        theirs = Pair(base(priority=200), candidate(priority=300), False)
        assert ours.priority == theirs.priority

    def test_highest_first(self) -> None:
        checks = check_list()
        priorities = list(range(1, 30))
        random.Random(1).shuffle(priorities)
        for priority in priorities:
            add(checks, base(), candidate(port=priority, priority=priority))
        assert [pair.remote.priority for pair in checks.pairs] == sorted(priorities, reverse=True)

    def test_among_equals_the_first_component_first(self) -> None:
        # §6.1.4.2
        checks = check_list()
        for component in (3, 1, 2):
            add(checks, base(component, component=component, priority=5), candidate(component=component, priority=7))
        assert [pair.component for pair in checks.pairs] == [1, 2, 3]
        assert [pair.component for pair in checks.of_component(2)] == [2]

    def test_a_change_of_role_forgets_what_was_to_be_nominated(self) -> None:
        """What the peer nominated is not ours to nominate, nor the other way round (§7.3.1.1)."""
        checks = check_list(controlling=False)
        pair = add(checks, base(1), candidate(port=1))
        pair.use_candidate = True
        checks.set_role(True)
        assert not pair.use_candidate

    def test_the_role_decides_and_changes_the_order(self) -> None:
        # §7.3.1.1; the role bit decides among pairs that are else equal.
        checks = check_list(controlling=True)
        low = add(checks, base(1, priority=100), candidate(port=1, priority=200))
        high = add(checks, base(2, priority=200), candidate(port=2, priority=100))
        assert checks.pairs == [high, low]
        checks.set_role(False)
        assert checks.pairs == [low, high]
        added = add(checks, base(3, priority=100), candidate(port=3, priority=201))
        assert checks.pairs == [added, low, high]
        assert added.priority == (100 << 32) + 403

    def test_a_remote_candidate_that_is_signalled_later(self) -> None:
        # F21, §7.3.1.3
        checks, (high, low) = filled((1, "a"), (1, "b"))
        low.remote = candidate(port=2, priority=2000)
        checks.remote_changed(low)
        assert checks.pairs == [low, high]
        assert checks.find(1, low.peer) is low


class TestPair:
    def test_what_it_tells(self) -> None:
        pair = Pair(base(foundation="here"), candidate(foundation="there"), True)
        assert pair.foundation == ("here", "there")
        assert pair.local is pair.base.candidate
        assert (pair.rtt, pair.request, pair.nominated, pair.state) == (None, None, False, FROZEN)
        assert (pair.use_candidate, pair.conflicts, pair.why_failed) == (False, 0, "")
        assert repr(pair) == "Pair(198.51.100.1:1001 -> 192.0.2.1:5000, frozen)"

    @pytest.mark.parametrize(
        "ours, theirs, relayed", [("host", "host", False), ("relay", "host", True), ("host", "relay", True)]
    )
    def test_relayed_on_either_side(self, ours: str, theirs: str, relayed: bool) -> None:
        assert Pair(base(type=ours), candidate(type=theirs), True).relayed is relayed


class TestPruning:
    def test_same_base_and_same_remote_address(self) -> None:
        # §6.1.2.4
        checks = check_list()
        on = base()
        pair = add(checks, on, candidate())
        assert checks.add(on, candidate(type="srflx", priority=1)) is None
        assert checks.pairs == [pair]
        assert checks.refused == 0

    def test_same_address_on_another_base_or_port_is_another_pair(self) -> None:
        checks = check_list()
        add(checks, base(1), candidate())
        add(checks, base(2), candidate())
        add(checks, base(1), candidate(port=5001))
        assert len(checks.pairs) == 3

    def test_components_on_one_port_do_not_meet(self) -> None:
        # F18
        checks = check_list()
        second = add(checks, base(2, component=2), candidate(component=2))
        first = add(checks, base(1, component=1), candidate(component=1))
        assert checks.find(1, first.peer) is first
        assert checks.find(2, first.peer) is second
        assert checks.find(3, first.peer) is None

    def test_any_spelling_of_an_address(self) -> None:
        checks = check_list()
        on = base(host="2001:db8::2")
        pair = add(checks, on, candidate("2001:DB8:0:0::1"))
        assert checks.add(on, candidate("2001:db8::1")) is None
        assert checks.find(1, ("2001:db8::1", 5000)) is pair

    def test_a_removed_pair_can_come_again(self) -> None:
        checks = check_list()
        on, remote = base(), candidate()
        pair = add(checks, on, remote)
        checks.trigger(pair)
        checks.remove(pair)
        assert checks.pairs == [] and checks.find(1, pair.peer) is None and not checks.has_work
        assert add(checks, on, remote) is not pair


class TestLimit:
    def test_the_best_are_kept(self) -> None:
        # §6.1.2.5
        checks = check_list(max_pairs=10)
        priorities = list(range(1, 51))
        random.Random(2).shuffle(priorities)
        for priority in priorities:
            checks.add(base(), candidate(port=priority, priority=priority))
        assert [pair.remote.priority for pair in checks.pairs] == list(range(50, 40, -1))
        assert checks.refused == 40
        assert checks.find(1, ("192.0.2.1", 40)) is None
        assert checks.find(1, ("192.0.2.1", 41)) is not None

    def test_equal_ones_do_not_drive_each_other_out(self) -> None:
        checks = check_list(max_pairs=1)
        pair = add(checks, base(), candidate(port=1, priority=5))
        assert checks.add(base(), candidate(port=2, priority=5)) is None
        assert checks.pairs == [pair]

    @pytest.mark.parametrize("state", [IN_PROGRESS, SUCCEEDED])
    def test_pairs_that_are_checked_or_work_stay(self, state: PairState) -> None:
        checks = check_list(max_pairs=2)
        waiting = add(checks, base(), candidate(port=2, priority=6, foundation="b"))
        busy = advance(checks, add(checks, base(), candidate(port=1, priority=5, foundation="a")), state)
        best = add(checks, base(), candidate(port=3, priority=7, foundation="c"))
        assert checks.pairs == [best, busy]
        assert waiting not in checks.pairs
        advance(checks, best, state)
        assert checks.add(base(), candidate(port=4, priority=8)) is None

    def test_failed_and_triggered_ones_go(self) -> None:
        checks = check_list(max_pairs=2)
        failed = add(checks, base(), candidate(port=1, priority=5))
        checks.fail(failed, "why")
        triggered = add(checks, base(), candidate(port=2, priority=6))
        checks.trigger(triggered)
        better = [add(checks, base(), candidate(port=port, priority=port)) for port in (11, 12)]
        assert checks.pairs == better[::-1]
        assert not checks.triggered

    def test_failed_ones_go_first(self) -> None:
        """RFC 8838 §10: whatever their priority."""
        checks = check_list(max_pairs=2)
        failed = add(checks, base(), candidate(port=1, priority=9))
        checks.fail(failed, "why")
        waiting = add(checks, base(), candidate(port=2, priority=6))
        worse = add(checks, base(), candidate(port=3, priority=1))
        assert checks.pairs == [waiting, worse]

    def test_no_room_at_all(self) -> None:
        checks = check_list(max_pairs=0)
        assert checks.add(base(), candidate()) is None
        assert checks.refused == 1


class TestInitialStates:
    def test_one_pair_of_each_foundation_starts(self) -> None:
        # §6.1.2.6: ordered by the lowest component and then the highest priority.
        checks, pairs = filled((2, "a"), (1, "a"), (1, "a"), (2, "b"), (2, "b"), (1, "c"))
        checks.freeze_anew()
        # The bases' foundations are the same, for their addresses are.
        assert states(pairs) == [FROZEN, WAITING, FROZEN, WAITING, FROZEN, WAITING]

    def test_what_is_being_checked_stays_as_it_is(self) -> None:
        checks, pairs = filled((1, "a"), (1, "a"), (2, "a"))
        advance(checks, pairs[0], IN_PROGRESS)
        checks.freeze_anew()
        assert states(pairs) == [IN_PROGRESS, FROZEN, FROZEN]

    def test_what_has_failed_is_tried_again(self) -> None:
        checks, pairs = filled((1, "a"), (2, "a"))
        for pair in pairs:
            checks.fail(pair, "no answer")
        checks.freeze_anew()
        assert states(pairs) == [WAITING, FROZEN]

    def test_a_foundation_that_has_succeeded(self) -> None:
        checks, pairs = filled((1, "a"), (1, "a"))
        advance(checks, pairs[0], SUCCEEDED)
        checks.freeze_anew()
        assert states(pairs) == [SUCCEEDED, WAITING]

    def test_of_an_empty_list(self) -> None:
        checks = check_list()
        checks.freeze_anew()
        assert not checks.has_work and checks.next_check() is None


class TestLaterPairs:
    """RFC 8838 §12."""

    @staticmethod
    def later(checks: CheckList, component: int, foundation: str, priority: int = 1) -> PairState:
        remote = candidate(port=99, component=component, priority=priority, foundation=foundation)
        return add(checks, base(component, component=component), remote).state

    def test_rule_1_alone_in_its_foundation(self) -> None:
        checks, _ = filled((1, "a"))
        assert self.later(checks, 2, "b") is WAITING

    @pytest.mark.parametrize("state", [WAITING, IN_PROGRESS])
    def test_rule_1_topmost_by_its_component(self, state: PairState) -> None:
        checks, pairs = filled((2, "a"))
        advance(checks, pairs[0], state)
        assert self.later(checks, 1, "a") is WAITING

    @pytest.mark.parametrize("priority, expected", [(2000, WAITING), (1, FROZEN)])
    def test_rule_1_topmost_by_its_priority(self, priority: int, expected: PairState) -> None:
        checks, pairs = filled((1, "a"))
        advance(checks, pairs[0], IN_PROGRESS)
        assert self.later(checks, 1, "a", priority) is expected

    def test_rule_2_the_foundation_has_succeeded(self) -> None:
        checks, pairs = filled((1, "a"))
        advance(checks, pairs[0], SUCCEEDED)
        assert self.later(checks, 2, "a") is WAITING

    @pytest.mark.parametrize("state", [WAITING, IN_PROGRESS])
    def test_rule_3_else_frozen(self, state: PairState) -> None:
        checks, pairs = filled((1, "a"))
        advance(checks, pairs[0], state)
        assert self.later(checks, 2, "a") is FROZEN

    def test_nothing_of_the_foundation_is_on_its_way(self) -> None:
        # Frozen by the letter, and unfrozen before anything else happens (RFC 8445 §6.1.4.2 step 2).
        checks, pairs = filled((1, "a"))
        checks.fail(pairs[0], "why")
        assert self.later(checks, 2, "a") is WAITING


class TestUnfreezing:
    def test_a_success_thaws_its_foundation_in_all_components(self) -> None:
        # §7.2.5.3.3
        checks, pairs = filled((1, "a"), (2, "a"), (3, "a"), (1, "b"), (2, "b"))
        checks.freeze_anew()
        advance(checks, pairs[0], SUCCEEDED)
        assert checks.unfreeze(pairs[0]) == [pairs[1], pairs[2]]
        assert states(pairs) == [SUCCEEDED, WAITING, WAITING, WAITING, FROZEN]
        assert checks.unfreeze(pairs[0]) == []


class TestScheduling:
    """§6.1.4.2."""

    def test_triggered_first_in_their_order_then_by_priority(self) -> None:
        checks, pairs = filled((1, "a"), (1, "b"), (1, "c"), (1, "d"))
        checks.trigger(pairs[3])
        checks.trigger(pairs[2])
        checks.trigger(pairs[3])
        picked = []
        while (pair := checks.next_check()) is not None:
            picked.append(advance(checks, pair, IN_PROGRESS))
        assert picked == [pairs[3], pairs[2], pairs[0], pairs[1]]

    def test_a_frozen_pair_waits_while_its_foundation_is_on_its_way(self) -> None:
        checks, pairs = filled((1, "a"), (2, "a"))
        checks.freeze_anew()
        assert checks.next_check() is pairs[0]
        advance(checks, pairs[0], IN_PROGRESS)
        assert not checks.has_work
        assert checks.next_check() is None
        checks.fail(pairs[0], "no answer")
        assert checks.has_work
        assert checks.next_check() is pairs[1]
        assert pairs[1].state is WAITING

    def test_waiting_before_frozen(self) -> None:
        checks, pairs = filled((1, "a"), (2, "a"), (2, "b"))
        checks.freeze_anew()
        checks.fail(pairs[0], "no answer")
        assert checks.next_check() is pairs[2]

    @pytest.mark.parametrize("state", [FROZEN, FAILED, IN_PROGRESS])
    def test_a_trigger_makes_it_wait(self, state: PairState) -> None:
        # §7.3.1.4
        checks, pairs = filled((1, "a"), (2, "a"))
        if state is FAILED:
            checks.fail(pairs[1], "why")
        else:
            advance(checks, pairs[1], state)
        checks.trigger(pairs[1])
        assert pairs[1].state is WAITING
        assert list(checks.triggered) == [pairs[1]]

    def test_a_trigger_of_a_succeeded_pair_leaves_its_state(self) -> None:
        checks, pairs = filled((1, "a"))
        advance(checks, pairs[0], SUCCEEDED)
        checks.trigger(pairs[0])
        assert (pairs[0].state, checks.next_check()) == (SUCCEEDED, pairs[0])

    def test_untrigger(self) -> None:
        checks, pairs = filled((1, "a"))
        checks.untrigger(pairs[0])
        checks.trigger(pairs[0])
        checks.untrigger(pairs[0])
        assert not checks.triggered

    def test_valid_pairs_of_a_component(self) -> None:
        checks, pairs = filled((1, "a"), (1, "b"), (1, "c"), (2, "d"))
        for pair in (pairs[0], pairs[2], pairs[3]):
            advance(checks, pair, SUCCEEDED)
        assert [checks.succeeded(component) for component in (1, 2, 3)] == [2, 1, 0]

    def test_unanswered_pairs_of_a_component(self) -> None:
        checks, pairs = filled((1, "a"), (2, "a"), (2, "b"))
        checks.fail(pairs[0], "no answer")
        advance(checks, pairs[2], SUCCEEDED)
        assert [checks.unanswered(component) for component in (1, 2, 3)] == [False, True, False]

    def test_a_failed_pair_is_not_checked(self) -> None:
        checks, pairs = filled((1, "a"))
        checks.trigger(pairs[0])
        checks.fail(pairs[0], "unreachable")
        assert (pairs[0].state, pairs[0].request, pairs[0].why_failed) == (FAILED, None, "unreachable")
        assert not checks.has_work and checks.next_check() is None
        assert checks.active == 0

    def test_active_counts_waiting_and_in_progress(self) -> None:
        # §14.3
        checks, pairs = filled((1, "a"), (1, "b"), (1, "c"), (1, "d"), (2, "a"))
        for pair, state in zip(pairs, (WAITING, IN_PROGRESS, SUCCEEDED), strict=False):
            advance(checks, pair, state)
        checks.fail(pairs[3], "why")
        assert states(pairs)[4] is FROZEN
        assert checks.active == 2


class TestTransitions:
    def test_the_table_names_all_states(self) -> None:
        assert TRANSITIONS.keys() == set(PairState)
        # §6.1.2.6, figure 6
        assert WAITING in TRANSITIONS[FROZEN]
        assert IN_PROGRESS in TRANSITIONS[WAITING]
        assert TRANSITIONS[IN_PROGRESS] >= {SUCCEEDED, FAILED}

    @pytest.mark.parametrize("before", PairState)
    @pytest.mark.parametrize("after", PairState)
    def test_no_others_are_made(self, before: PairState, after: PairState) -> None:
        checks, (pair,) = filled((1, "a"))
        pair.state = before
        if after is before or after in TRANSITIONS[before]:
            checks.set(pair, after)
            assert pair.state is after
        else:
            with pytest.raises(AssertionError):
                checks.set(pair, after)
            assert pair.state is before


class CheckListMachine(RuleBasedStateMachine):
    """What the checker does to a check list, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[Pair, PairState] = {}

    @initialize(controlling=st.booleans(), max_pairs=st.integers(0, 8))
    def start(self, controlling: bool, max_pairs: int) -> None:
        self.max_pairs = max_pairs
        self.checks = CheckList(controlling, max_pairs)
        self.bases = [base(link, f"198.51.100.{link % 2}", component=1 + link % 2) for link in range(4)]

    @rule(
        link=st.integers(0, 3),
        port=st.integers(1, 9),
        priority=st.integers(1, 5),
        foundation=st.sampled_from("abc"),
    )
    def add(self, link: int, port: int, priority: int, foundation: str) -> None:
        on = self.bases[link]
        remote = candidate(port=port, component=on.candidate.component, priority=priority, foundation=foundation)
        refused = self.checks.refused
        pair = self.checks.add(on, remote)
        known = self.checks.find(link, ("192.0.2.1", port))
        assert known is pair if pair is not None else known is not None or self.checks.refused == refused + 1

    def pair(self, data: Any, *wanted: PairState) -> Pair | None:
        pairs = [pair for pair in self.checks.pairs if not wanted or pair.state in wanted]
        return data.draw(st.sampled_from(pairs)) if pairs else None

    @precondition(lambda self: self.checks.pairs)
    @rule(data=st.data())
    def trigger(self, data: Any) -> None:
        pair = self.pair(data)
        assert pair is not None
        self.checks.trigger(pair)
        assert self.checks.has_work

    @rule(data=st.data())
    def succeed(self, data: Any) -> None:
        if (pair := self.pair(data, IN_PROGRESS)) is not None:
            self.checks.untrigger(pair)
            self.checks.set(pair, SUCCEEDED)
            self.checks.unfreeze(pair)
            assert not [
                other for other in self.checks.pairs if other.state is FROZEN and other.foundation == pair.foundation
            ]

    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        if (pair := self.pair(data)) is not None:
            self.checks.fail(pair, "why")
            assert pair.state is FAILED and pair not in self.checks.triggered

    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        if (pair := self.pair(data)) is not None:
            self.checks.remove(pair)
            assert self.checks.find(pair.base.link, pair.peer) is None

    @rule(data=st.data(), priority=st.integers(1, 9))
    def signal(self, data: Any, priority: int) -> None:
        if (pair := self.pair(data)) is not None:
            pair.remote = candidate(port=pair.peer[1], component=pair.component, priority=priority, foundation="z")
            self.checks.remote_changed(pair)

    @rule(controlling=st.booleans())
    def role(self, controlling: bool) -> None:
        self.checks.set_role(controlling)

    @rule()
    def check(self) -> None:
        expected = self.checks.has_work
        active = self.checks.active
        pair = self.checks.next_check()
        assert (pair is not None) is expected
        if pair is not None:
            assert pair in self.checks.pairs
            assert pair.state in (WAITING, SUCCEEDED)
            assert self.checks.active >= active
            if pair.state is WAITING:
                self.remember()
                self.checks.set(pair, IN_PROGRESS)

    def remember(self) -> None:
        for pair in self.checks.pairs:
            before = self.before.get(pair, FROZEN)
            assert pair.state is before or pair.state in TRANSITIONS[before]
        self.before = {pair: pair.state for pair in self.checks.pairs}

    @invariant()
    def holds(self) -> None:
        pairs = self.checks.pairs
        self.remember()
        assert len(pairs) <= self.max_pairs
        assert pairs == sorted(pairs, key=order)
        assert all(self.checks.find(pair.base.link, pair.peer) is pair for pair in pairs)
        assert set(self.checks.triggered) <= set(pairs)
        assert not [pair for pair in self.checks.triggered if pair.state not in (WAITING, SUCCEEDED)]


CheckListMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAnyOrder = CheckListMachine.TestCase
