"""Statistics by the names of webrtc-stats."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.message import Class
from aioice.core.stats import Traffic, collect
from tests.scenarios.support import Pair, pair, puppeteer


def stats(peer: Any, traffic: dict[int, Traffic] | None = None, dropped: dict[str, int] | None = None) -> Any:
    return collect(peer.agent, 1000.0, traffic or {}, dropped or {})


def of(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry for entry in report.values() if entry["type"] == kind]


def connected(**options: Any) -> Pair:
    p = pair(**options)
    p.connect()
    p.until_complete()
    return p


def test_before_anything() -> None:
    p = pair(components=2)
    report = stats(p.left)
    assert list(report) == ["transport-1", "transport-2"]
    assert report["transport-1"] == {
        "id": "transport-1",
        "timestamp": 1000.0,
        "type": "transport",
        "iceRole": "controlling",
        "iceLocalUsernameFragment": "left",
        "iceState": "new",
        "droppedByReason": {},
        "packetsSent": 0,
        "bytesSent": 0,
        "packetsReceived": 0,
        "bytesReceived": 0,
    }


def test_a_connection() -> None:
    """One round trip of 50 ms for each answer (tests/scenarios/test_connect.py counts the checks)."""
    p = connected()
    report = stats(p.left)
    (transport,) = of(report, "transport")
    (checked,) = of(report, "candidate-pair")
    assert transport["selectedCandidatePairId"] == checked["id"] and transport["iceState"] == "completed"
    assert report[checked["localCandidateId"]]["type"] == "local-candidate"
    assert report[checked["remoteCandidateId"]]["type"] == "remote-candidate"
    assert checked["state"] == "succeeded" and checked["nominated"] is True
    assert (checked["requestsSent"], checked["responsesReceived"]) == (3, 3)
    assert (checked["requestsReceived"], checked["responsesSent"]) == (2, 2)
    assert checked["currentRoundTripTime"] == pytest.approx(0.05)
    assert checked["totalRoundTripTime"] == pytest.approx(0.15)
    assert checked["consentRequestsSent"] == 0
    (remote,) = of(report, "remote-candidate")
    assert (remote["usernameFragment"], remote["address"], remote["protocol"]) == ("righ" + "t", "192.0.2.2", "udp")


def test_consent_is_counted_apart() -> None:
    p = connected()
    p.world.run(until=p.world.now + 20)
    (before,) = of(stats(p.left), "candidate-pair")
    assert before["consentRequestsSent"] in (3, 4, 5) and before["requestsSent"] == 3
    assert before["responsesReceived"] == 3 + before["consentRequestsSent"]


def test_traffic_and_drops() -> None:
    p = connected()
    link = p.left.node.routes[1].link
    report = stats(p.left, {link: Traffic(1, None, None, 3, 30), 99: Traffic(1, 4, 40, 1, 10)}, {"malformed": 2})
    (checked,) = of(report, "candidate-pair")
    assert (checked["packetsReceived"], checked["bytesReceived"]) == (3, 30) and "packetsSent" not in checked
    (transport,) = of(report, "transport")
    assert (transport["packetsSent"], transport["bytesSent"]) == (4, 40)
    assert (transport["packetsReceived"], transport["bytesReceived"]) == (4, 40)
    assert transport["droppedByReason"] == {"malformed": 2}


def test_retransmissions_are_no_requests() -> None:
    world, peer, puppet = puppeteer(connect=False)
    puppet.answering = False
    peer.add(puppet.candidate)
    peer.connect(puppet)
    world.run(until=world.now + 4)
    (checked,) = of(stats(peer), "candidate-pair")
    assert (checked["requestsSent"], checked["responsesReceived"]) == (1, 0)
    assert checked["state"] == "in-progress" and "currentRoundTripTime" not in checked
    assert peer.agent.check_list[0].retransmissions == 3


def test_peer_reflexive_candidates() -> None:
    """Neither the peer nor we had listed them."""
    world, peer, puppet = puppeteer(controlling=False)
    puppet.answerer = lambda request, source: puppet.answer(request, source, XOR_MAPPED_ADDRESS=("203.0.113.5", 55))
    puppet.check(peer, nominate=True)
    world.run(until=world.now + 1)
    assert any(message.message_class is Class.RESPONSE for _, _, message in puppet.seen)
    report = stats(peer)
    (checked,) = of(report, "candidate-pair")
    assert report[checked["localCandidateId"]]["candidateType"] == "prflx"
    assert report[checked["localCandidateId"]]["relatedAddress"] == "192.0.2.1"
    assert report[checked["remoteCandidateId"]]["candidateType"] == "prflx"


def test_a_remote_candidate_that_is_no_longer_listed() -> None:
    p = connected()
    p.left.agent.remote_candidates.clear()
    report = stats(p.left)
    (checked,) = of(report, "candidate-pair")
    assert report[checked["remoteCandidateId"]]["address"] == "192.0.2.2"
