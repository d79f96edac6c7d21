"""Requests in flight (RFC 8489 §6.2)."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.machine import Tunables
from aioice.core.requests import Request, Requests

PEER = ("192.0.2.1", 3478)
#: When a request that is started at 0 is sent (RFC 8489 §6.2.1), and when it is given up.
SCHEDULE = [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
END = 39.5


def start(requests: Requests, now: float = 0.0, transaction_id: bytes = b"one", **more: Any) -> Request:
    return requests.start(now, transaction_id, b"data of " + transaction_id, 1, PEER, **more)


def run(requests: Requests, until: float = 1000.0) -> tuple[list[float], list[float]]:
    """When requests were sent again, and when they failed."""
    again: list[float] = []
    failed: list[float] = []
    while (deadline := requests.poll_timeout()) is not None and deadline <= until:
        now_again, now_failed = requests.handle_timeout(deadline)
        again += [deadline] * len(now_again)
        failed += [deadline] * len(now_failed)
        after = requests.poll_timeout()
        assert after is None or after > deadline
    return again, failed


@pytest.fixture
def requests() -> Requests:
    return Requests(Tunables())


class TestSchedule:
    def test_of_rfc_8489_section_6_2_1(self, requests: Requests) -> None:
        start(requests)
        assert run(requests) == (SCHEDULE, [END])
        assert len(requests) == 0

    def test_starts_when_the_request_does(self, requests: Requests) -> None:
        request = start(requests, 100.0)
        assert request.started == 100.0
        assert run(requests) == ([100 + time for time in SCHEDULE], [100 + END])

    def test_rto_of_the_caller(self, requests: Requests) -> None:
        start(requests, rto=1.0)
        assert run(requests) == ([2 * time for time in SCHEDULE], [2 * END])

    @pytest.mark.parametrize("retransmissions, end", [(0, 0.5), (1, 1.5), (3, 7.5), (5, 23.5)])
    def test_the_last_wait_is_a_doubled_one_but_16_rto_at_most(
        self, requests: Requests, retransmissions: int, end: float
    ) -> None:
        start(requests, retransmissions=retransmissions)
        assert run(requests) == (SCHEDULE[:retransmissions], [end])

    def test_a_request_with_a_timeout_is_sent_once(self, requests: Requests) -> None:
        request = start(requests, timeout=30.0)
        assert request.exhausted
        assert run(requests) == ([], [30.0])

    def test_tunables_count_for_requests_that_start_after_the_change(self, requests: Requests) -> None:
        start(requests)
        requests.tunables = Tunables(retry_max=1, retry_rto=0.1)
        start(requests, transaction_id=b"two")
        again, failed = run(requests)
        assert again == [0.1, *SCHEDULE]
        assert failed == [pytest.approx(0.3), END]

    def test_a_late_timer_shifts_what_follows(self, requests: Requests) -> None:
        request = start(requests)
        assert requests.handle_timeout(5.0) == ([request], [])
        assert requests.poll_timeout() == 6.0

    def test_a_spurious_call_does_nothing(self, requests: Requests) -> None:
        request = start(requests)
        assert requests.handle_timeout(0.4) == ([], [])
        assert (request.retransmitted, requests.poll_timeout()) == (False, 0.5)

    def test_with_an_rto_of_nothing_it_still_ends(self, requests: Requests) -> None:
        requests.tunables = Tunables(retry_rto=0.0)
        request = start(requests)
        assert requests.handle_timeout(0.0) == ([request] * 6, [request])
        assert requests.poll_timeout() is None


class TestLimit:
    @pytest.mark.parametrize("limit, end", [(0, 0.5), (2, 3.5), (6, END), (9, END)])
    def test_gives_up_after_so_many(self, requests: Requests, limit: int, end: float) -> None:
        start(requests).limit(limit)
        assert run(requests) == (SCHEDULE[:limit], [end])

    def test_or_after_those_that_were_made(self, requests: Requests) -> None:
        request = start(requests)
        assert run(requests, 4.0) == (SCHEDULE[:3], [])
        request.limit(1)
        assert run(requests) == ([], [7.5])


class TestKarn:
    def test_an_answer_tells_the_round_trip_time_until_the_request_is_sent_again(self, requests: Requests) -> None:
        request = start(requests)
        assert not request.retransmitted
        requests.handle_timeout(0.5)
        assert request.retransmitted


class TestStop:
    def test_not_sent_again_but_waited_for_as_long_as_before(self, requests: Requests) -> None:
        # RFC 8445 §7.3.1.4: wait the duration of the transaction timeout for a response.
        request = start(requests)
        request.stop()
        assert run(requests, 39.4) == ([], [])
        assert requests.match(b"one", 1, PEER) is request
        assert run(requests) == ([], [END])

    def test_after_some_transmissions(self, requests: Requests) -> None:
        request = start(requests)
        run(requests, 5.0)
        request.stop()
        assert request.exhausted
        assert run(requests) == ([], [END])

    def test_a_second_time_or_after_the_last_transmission_changes_nothing(self, requests: Requests) -> None:
        request = start(requests)
        request.stop()
        request.stop()
        last = start(requests, transaction_id=b"two", retransmissions=0)
        last.stop()
        assert run(requests) == ([], [0.5, END])

    def test_a_timer_that_is_later_than_all_of_it(self, requests: Requests) -> None:
        request = start(requests)
        request.stop()
        assert requests.handle_timeout(50.0) == ([], [request])
        assert requests.poll_timeout() is None


class TestMatch:
    def test_only_whom_we_asked_may_answer(self, requests: Requests) -> None:
        request = start(requests, context="why")
        assert requests.match(b"one", 1, PEER) is request
        assert request.context == "why"
        assert requests.match(b"one", 2, PEER) is None
        assert requests.match(b"one", 1, (PEER[0], 3479)) is None
        assert requests.match(b"one", 1, ("192.0.2.2", PEER[1])) is None
        assert requests.match(b"two", 1, PEER) is None

    def test_get_does_not_ask_who(self, requests: Requests) -> None:
        request = start(requests)
        assert requests.get(b"one") is request
        assert requests.get(b"two") is None
        assert requests.all() == [request]


class TestEnd:
    def test_of_an_answered_request(self, requests: Requests) -> None:
        requests.end(start(requests))
        assert (len(requests), requests.poll_timeout()) == (0, None)
        assert run(requests) == ([], [])

    def test_twice(self, requests: Requests) -> None:
        request = start(requests)
        requests.end(request)
        requests.end(request)
        assert len(requests) == 0

    def test_of_all(self, requests: Requests) -> None:
        start(requests)
        start(requests, transaction_id=b"two")
        requests.end_all()
        assert (len(requests), requests.poll_timeout(), requests.all()) == (0, None, [])

    def test_the_others_go_on(self, requests: Requests) -> None:
        one, two = start(requests), start(requests, 0.25, b"two")
        requests.end(one)
        assert requests.poll_timeout() == 0.75
        assert requests.handle_timeout(0.75) == ([two], [])

    def test_an_ended_request_behind_others_is_passed_over(self, requests: Requests) -> None:
        one, two, three = (start(requests, number / 10, bytes([number])) for number in range(3))
        requests.end(two)
        assert requests.handle_timeout(1.0) == ([one, three], [])

    def test_timers_of_one_moment(self, requests: Requests) -> None:
        started = [start(requests, transaction_id=bytes([number])) for number in range(5)]
        again, failed = requests.handle_timeout(0.5)
        assert (sorted(again, key=started.index), failed) == (started, [])

    def test_the_heap_is_cleaned_up(self, requests: Requests) -> None:
        staying = start(requests, transaction_id=b"stays")
        for number in range(10_000):
            requests.end(start(requests, transaction_id=number.to_bytes(12)))
            assert len(requests._timers) <= 2 * len(requests) + 17
        assert requests.poll_timeout() == staying.deadline
        assert run(requests) == (SCHEDULE, [END])
