"""What applications see."""

from __future__ import annotations

import pytest

from aioice.core.events import (
    ConnectionClosed,
    ConnectionEvent,
    ConnectionState,
    ConsentExpired,
    LocalCandidate,
    SelectedPair,
    StateChanged,
)
from tests.core.pairs import candidate

ONE, TWO = candidate(port=1), candidate(port=2)


class TestStates:
    def test_names_are_those_of_w3c(self) -> None:
        # https://www.w3.org/TR/webrtc/#rtcicetransportstate
        assert {str(state) for state in ConnectionState} == {
            "new",
            "checking",
            "connected",
            "completed",
            "disconnected",
            "failed",
            "closed",
        }

    def test_compare_with_text(self) -> None:
        assert ConnectionState.NEW == "new" and ConnectionState("failed") is ConnectionState.FAILED
        assert f"{ConnectionState.CLOSED}" == "closed"


class TestEvents:
    @pytest.mark.parametrize(
        "event, text",
        [
            (ConnectionEvent(), "ConnectionEvent()"),
            (ConnectionClosed(), "ConnectionClosed(reason='closed')"),
            (ConnectionClosed("lost"), "ConnectionClosed(reason='lost')"),
            (StateChanged(ConnectionState.NEW), "StateChanged(state=<ConnectionState.NEW: 'new'>, reason='')"),
            (LocalCandidate(None), "LocalCandidate(candidate=None)"),
            (LocalCandidate(ONE), f"LocalCandidate(candidate={ONE!r})"),
            (
                SelectedPair(2, ONE, TWO, True),
                f"SelectedPair(component=2, local={ONE!r}, remote={TWO!r}, nominated=True)",
            ),
            (ConsentExpired(1, "why"), "ConsentExpired(component=1, reason='why')"),
        ],
    )
    def test_text(self, event: ConnectionEvent, text: str) -> None:
        assert repr(event) == text
        assert isinstance(event, ConnectionEvent)

    def test_reasons(self) -> None:
        state = StateChanged(ConnectionState.FAILED, "no candidates")
        assert (state.state, state.reason) == (ConnectionState.FAILED, "no candidates")
        expired = ConsentExpired(3, "no answer")
        assert (expired.component, expired.reason) == (3, "no answer")

    def test_are_small(self) -> None:
        assert not hasattr(StateChanged(ConnectionState.NEW), "__dict__")
