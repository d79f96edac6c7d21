"""The contract's values: tunables, reasons, reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core import machine
from aioice.core.machine import Opened, OpenFailed, Reason, SendFailed, Transmit, Tunables
from aioice.core.requests import Requests


class TestTransactionTimeout:
    def test_at_the_values_of_rfc_8489_section_6_2_1(self) -> None:
        assert Tunables().transaction_timeout == 39.5
        assert Tunables() == (5, 6, 6, 0.5)

    @pytest.mark.parametrize(
        "retry_max, retry_rto, seconds",
        [(0, 0.5, 0.5), (1, 0.5, 1.5), (2, 0.1, 0.7), (4, 0.5, 15.5), (5, 1, 47), (7, 0.5, 71.5)],
    )
    def test_few_retransmissions_mean_an_early_end(self, retry_max: int, retry_rto: float, seconds: float) -> None:
        tunables = Tunables(retry_max=retry_max, retry_rto=retry_rto)
        assert tunables.transaction_timeout == pytest.approx(seconds)

    @given(retry_max=st.integers(0, 12), retry_rto=st.floats(0.001, 10))
    def test_is_when_a_request_is_given_up(self, retry_max: int, retry_rto: float) -> None:
        tunables = Tunables(retry_max=retry_max, retry_rto=retry_rto)
        requests = Requests(tunables)
        requests.start(0.0, b"id", b"data", 1, ("192.0.2.1", 1))
        now, sent = 0.0, 1
        while len(requests):
            deadline = requests.poll_timeout()
            assert deadline is not None and deadline > now
            now = deadline
            sent += len(requests.handle_timeout(now)[0])
        assert now == pytest.approx(tunables.transaction_timeout)
        assert sent == 1 + retry_max


def test_reasons_are_words_for_people() -> None:
    assert str(Reason.REFUSED) == "connection refused"
    assert len({str(reason) for reason in Reason}) == len(Reason)


def test_inputs_and_outputs_are_tuples_by_name() -> None:
    assert Transmit(1, ("192.0.2.1", 2), b"data") == (1, ("192.0.2.1", 2), b"data")
    assert Opened(link=1, local=("192.0.2.1", 2)).local == ("192.0.2.1", 2)
    assert OpenFailed(1, Reason.BIND, "in use") != SendFailed(1, ("192.0.2.1", 2), Reason.BIND)


def test_a_machine_has_five_methods() -> None:
    names = {name for name in vars(machine.Machine) if not name.startswith("_")}
    assert names == {"handle_datagram", "handle_report", "handle_timeout", "poll_output", "poll_timeout"}
