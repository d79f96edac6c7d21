"""How long candidates are waited for, and how fast servers are asked (RFC 8445 §14, RFC 8838 §10)."""

from __future__ import annotations

import pytest

from aioice.core.machine import (
    Connected,
    CredentialsFetched,
    FetchCredentials,
    LinkClosed,
    OpenFailed,
    Reason,
    Resolve,
    Resolved,
    SendFailed,
)
from aioice.core.message import Method, parse_message
from aioice.core.servers import StunServer, TurnServer
from tests.core.gather_scene import HOST, HOST6, MAPPED, OTHER, STUN, STUN6, TURN, TURN_SERVER, Scene, turn_answer

NAME = "stun.example.org"
SECOND = StunServer("192.0.2.77", 3478)
TLS = TURN_SERVER._replace(transport="tcp", tls=True)


class TestOthers:
    """Who asks what is known is not waited for (F10)."""

    def test_another_address_asks_the_server_in_vain(self) -> None:
        scene = Scene(STUN).gather(HOST, OTHER).run(0.01)
        scene.answer(scene.queries[0])
        # 100 ms and three of its round trips.
        assert scene.run(5.0).ends == [(1, 0.14)]

    def test_but_it_gets_that_time_from_when_it_asks(self) -> None:
        scene = Scene(STUN)
        scene.opens = False
        scene.gather(HOST, OTHER)
        scene.open_late(1, (HOST, 5))
        scene.drain()
        scene.run(0.01)
        scene.answer(scene.queries[0])
        scene.run(0.29)
        scene.open_late(2, (OTHER, 6))
        scene.drain()
        assert scene.run(5.0).ends == [(1, 0.43)]

    def test_the_server_over_the_other_family(self) -> None:
        scene = Scene((NAME, 3478))
        scene.names[NAME] = (STUN6[0], STUN[0])
        scene.gather(HOST, HOST6).run(0.02)
        scene.answer(scene.queries[0])
        assert scene.run(5.0).ends == [(1, 0.18)]

    def test_a_second_server(self) -> None:
        scene = Scene(STUN, SECOND).gather(HOST).run(0.01)
        scene.answer(scene.queries[0])
        assert scene.run(5.0).ends == [(1, 0.14)]
        assert scene.verdicts == ["answered", "pending"]

    def test_a_second_server_whose_name_does_not_resolve(self) -> None:
        scene = Scene(STUN, StunServer(NAME, 3478)).gather(HOST, OTHER).run(0.01)
        scene.answer(scene.queries[0])
        scene.answer(scene.queries[1])
        assert scene.run(5.0).ends == [(1, 0.14)]

    def test_unless_a_base_knows_nothing_yet(self) -> None:
        scene = Scene(STUN, StunServer(NAME, 3478)).gather(HOST, OTHER).run(0.01)
        scene.answer(scene.queries[0])
        scene.report(SendFailed(2, STUN, Reason.UNREACHABLE))
        assert scene.run(5.0).ends == [(1, 1.0)]

    def test_late_answers_are_used(self) -> None:
        scene = Scene(STUN, SECOND).gather(HOST).run(0.01)
        scene.answer(scene.queries[0])
        scene.run(2.0)
        assert not scene.gatherer.idle
        scene.answer(scene.sent[1][1], (MAPPED[0], 40001))
        assert [candidate.type for candidate in scene.candidates] == ["host", "srflx", "srflx"]
        assert len({candidate.priority for candidate in scene.candidates}) == 3
        assert scene.gatherer.idle and scene.verdicts == ["answered", "answered"]


class TestLife:
    """A server that shows signs of life is waited for."""

    def test_that_has_taken_the_connection(self) -> None:
        scene = Scene(None, TLS)
        scene.opens = False
        scene.gather(timeout=3.0).run(0.5)
        scene.report(Connected(1))
        assert scene.run(60.0).ends == [(1, 3.0)]

    def test_whose_handshake_fails_then(self) -> None:
        scene = Scene(None, TLS)
        scene.opens = False
        scene.gather().run(0.5)
        scene.report(Connected(1))
        scene.run(1.0)
        scene.report(OpenFailed(1, Reason.TLS, "[SSL: WRONG_VERSION_NUMBER] wrong version number"))
        assert scene.ends == [(1, 1.5)]
        (report,) = scene.reports
        assert (report.verdict, report.transport) == ("TLS failed", "tls")
        assert "does not speak TLS" in report.detail

    def test_that_has_asked_for_credentials(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turn_answers = False
        scene.gather().run(0.6)
        challenge = turn_answer(parse_message(scene.sent[0][1].data))
        scene.gatherer.handle_datagram(scene.now, 1, TURN, bytes(challenge))
        scene.drain()
        assert scene.run(60.0).ends == [(1, 5.0)]

    def test_while_the_application_looks_for_the_credentials(self) -> None:
        scene = Scene(None, TurnServer(*TURN, source=3)).gather()
        (fetch,) = scene.take(FetchCredentials)
        assert fetch.server == 3
        scene.run(2.0)
        assert scene.ends == []
        scene.report(CredentialsFetched(fetch.query, "user", "pass"))
        assert scene.ends == [(1, 2.0)]
        assert [candidate.type for candidate in scene.candidates] == ["relay"]

    def test_but_not_while_its_name_is_looked_up(self) -> None:
        scene = Scene(None, TurnServer(NAME, 3478, source=0))
        scene.credentials = [CredentialsFetched(0, "user", "pass")]
        assert scene.gather().run(60.0).ends == [(1, 1.0)]

    def test_a_silent_server_does_not_wait_for_a_live_one(self) -> None:
        """Nor the other way round: each has its own time."""
        scene = Scene(None, TLS, TURN_SERVER._replace(host="192.0.2.99"))
        scene.turn_answers = False
        scene.gather(timeout=5.0)
        assert scene.run(60.0).ends == [(1, 5.0)]


class TestHopeless:
    @pytest.mark.parametrize("reason", [Reason.REFUSED, Reason.UNREACHABLE])
    def test_icmp_ends_it_in_milliseconds(self, reason: Reason) -> None:
        # F11
        scene = Scene(STUN, TURN_SERVER)
        scene.turn_answers = False
        scene.gather(HOST).run(0.002)
        for _, transmit in scene.sent[:]:
            scene.report(SendFailed(transmit.link, transmit.peer, reason))
        assert scene.ends == [(1, 0.002)]
        assert scene.verdicts == ["unreachable", "unreachable"]

    def test_a_name_that_is_not_found(self) -> None:
        scene = Scene((NAME, 3478), TurnServer(NAME, 3478))
        scene.gather(HOST).run(0.2)
        (resolve,) = scene.take(Resolve)
        scene.report(Resolved(resolve.query, ()))
        assert scene.ends == [(1, 0.2)]
        assert scene.verdicts == ["name not found"] * 2

    def test_stun_over_a_stream_is_not_asked(self) -> None:
        servers = [StunServer(*STUN, "tcp"), StunServer(*STUN, "tcp", True)]
        scene = Scene(None, *servers).gather(HOST)
        assert scene.sent == [] and scene.ends == [(1, 0.0)]
        assert scene.verdicts == ["not supported"] * 2
        assert [report.transport for report in scene.reports] == ["tcp", "tls"]
        assert all("UDP" in report.detail for report in scene.reports)

    def test_turn_over_dtls_is_not_asked(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(tls=True)).gather(HOST)
        assert scene.sent == [] and scene.ends == [(1, 0.0)]
        assert scene.verdicts == ["not supported"]


class TestPace:
    def test_transactions_begin_ta_apart(self) -> None:
        # RFC 8445 §14.2, appendix B.1
        scene = Scene(STUN, SECOND, ta=0.005).gather(HOST, OTHER).run(0.4)
        assert [(round(when - 100, 6), t.link, t.peer[0]) for when, t in scene.sent] == [
            (0.0, 1, STUN[0]),
            (0.005, 1, SECOND.host),
            (0.01, 2, STUN[0]),
            (0.015, 2, SECOND.host),
        ]

    def test_what_waits_for_its_turn_is_waited_for(self) -> None:
        scene = Scene(STUN, ta=2.0).gather(HOST, OTHER)
        assert scene.run(60.0).ends == [(1, 3.0)]

    def test_what_is_no_longer_wanted_takes_no_turn(self) -> None:
        scene = Scene(None, TURN_SERVER, TURN_SERVER._replace(transport="tcp"), ta=0.5)
        scene.gatherer.servers = [*scene.gatherer.servers, StunServer(*STUN)]
        scene.gather(HOST)
        scene.run(0.5)
        assert [t.peer for when, t in scene.sent if when == 100.5] == [STUN]
        assert scene.verdicts == ["answered", "not needed", "pending"]

    def test_nothing_starts_on_a_socket_that_is_gone(self) -> None:
        scene = Scene(STUN, ta=0.5).gather(HOST, OTHER)
        scene.report(LinkClosed(2, Reason.OTHER, "interface gone"))
        scene.run(5.0)
        assert {t.link for _, t in scene.sent} == {1}
        assert scene.verdicts == ["pending", "failed"]

    def test_nothing_starts_after_the_end(self) -> None:
        scene = Scene(STUN, ta=0.5).gather(HOST, OTHER)
        scene.close().run(5.0)
        assert len(scene.sent) == 1

    def test_relays_are_asked_first(self) -> None:
        """Theirs is the longest way."""
        scene = Scene(STUN, TURN_SERVER, ta=0.005).gather(HOST)
        assert scene.asked(Method.ALLOCATE)[0] == scene.sent[0][1]
