"""What is told about servers."""

from __future__ import annotations

import pytest

from aioice.core.inquiries import Inquiry, ServerVerdict, explain, url_of, verdict_of
from aioice.core.machine import Reason
from aioice.core.servers import StunServer, TurnServer


@pytest.mark.parametrize(
    "server, url",
    [
        (StunServer("stun.example.org", 3478), "stun:stun.example.org:3478"),
        (StunServer("192.0.2.1", 5349, "tcp", True), "stuns:192.0.2.1:5349"),
        (StunServer("192.0.2.1", 3478, "tcp"), "stun:192.0.2.1:3478?transport=tcp"),
        (TurnServer("2001:db8::1", 3478), "turn:[2001:db8::1]:3478"),
        (TurnServer("turn.example.org", 80, "tcp"), "turn:turn.example.org:80?transport=tcp"),
        (TurnServer("turn.example.org", 443, "tcp", True), "turns:turn.example.org:443"),
        (TurnServer("turn.example.org", 443, "udp", True), "turns:turn.example.org:443?transport=udp"),
    ],
)
def test_uris(server: StunServer | TurnServer, url: str) -> None:
    assert url_of(server) == url
    assert Inquiry(server, 1, 0.0).report().url == url


def test_the_uri_that_was_given() -> None:
    assert Inquiry(TurnServer("a", 1, url="turn:a:1"), 1, 0.0).report().url == "turn:a:1"


@pytest.mark.parametrize(
    "reason, code, verdict",
    [
        (Reason.REFUSED, 0, ServerVerdict.UNREACHABLE),
        (Reason.UNREACHABLE, 0, ServerVerdict.UNREACHABLE),
        (Reason.NAME_NOT_FOUND, 0, ServerVerdict.NAME_NOT_FOUND),
        (Reason.TIMED_OUT, 0, ServerVerdict.TIMED_OUT),
        (Reason.TLS, 0, ServerVerdict.TLS_FAILED),
        (Reason.NOT_STUN, 0, ServerVerdict.NOT_STUN),
        (Reason.CLOSED, 0, ServerVerdict.FAILED),
        (Reason.OTHER, 401, ServerVerdict.WRONG_CREDENTIALS),
        (Reason.OTHER, 441, ServerVerdict.WRONG_CREDENTIALS),
        (Reason.OTHER, 486, ServerVerdict.REFUSED),
    ],
)
def test_verdicts(reason: Reason, code: int, verdict: ServerVerdict) -> None:
    assert verdict_of(reason, code) is verdict


@pytest.mark.parametrize(
    "reason, detail, told",
    [
        (Reason.TLS, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:992)", "does not speak TLS"),
        (Reason.TLS, "certificate verify failed", "certificate verify failed"),
        (Reason.REFUSED, "", "connection refused"),
    ],
)
def test_explanations(reason: Reason, detail: str, told: str) -> None:
    assert told in explain(reason, detail)
