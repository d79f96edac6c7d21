"""Queries to STUN servers, and the bindings that they keep (RFC 8445 §5.1.1.2, §5.1.1.4; RFC 8489 §10)."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.bases import BaseLost, Withdrawn
from aioice.core.machine import Address, LinkClosed, OpenUdp, Reason, SendFailed, Transmit, Tunables
from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.servers import StunServer
from tests.core.gather_scene import HOST, HOST6, MAPPED, OTHER, STUN, STUN6, Scene, stun_answer

SECOND = ("192.0.2.77", 3478)
ELSEWHERE = ("203.0.113.9", 50000)


def refuse(scene: Scene, query: Transmit, code: int, **more: Any) -> None:
    transaction_id = parse_message(query.data).transaction_id
    error = Message(Method.BINDING, Class.ERROR, transaction_id, {"ERROR-CODE": (code, "no\x1b[2J")} | more)
    scene.gatherer.handle_answer(scene.now, query.link, query.peer, parse_message(bytes(error)))
    scene.drain()


def to(scene: Scene, server: Address) -> list[Transmit]:
    return [transmit for _, transmit in scene.sent if transmit.peer == server]


def reflexive(scene: Scene) -> list[Address]:
    return [(c.host, c.port) for c in scene.candidates if c.type == "srflx"]


class TestAnswers:
    def test_a_base_asks_once_however_often_it_is_gathered_for(self) -> None:
        scene = Scene(STUN).gather(HOST).gather()
        assert len(scene.queries) == 1
        scene = Scene(STUN).gather(HOST).gather(OTHER)
        assert [query.link for query in scene.queries] == [1, 2]

    def test_the_report(self) -> None:
        scene = Scene(STUN).gather(HOST).run(0.02)
        scene.answer(scene.queries[0])
        (report,) = scene.reports
        assert (report.url, report.verdict, report.transport) == ("stun:192.0.2.1:3478", "answered", "udp")
        assert (report.address, report.local, report.component) == (STUN, (HOST, 1001), 1)
        assert report.rtt == pytest.approx(0.02)
        assert report.candidates == (scene.candidates[1],)

    def test_of_ipv6(self) -> None:
        scene = Scene(STUN6).gather(HOST6)
        scene.answer(scene.queries[0], ("2001:db8:9::9", 40000))
        (candidate,) = [c for c in scene.candidates if c.type == "srflx"]
        assert (candidate.host, candidate.related_address) == ("2001:db8:9::9", HOST6)

    def test_of_a_host_without_nat(self) -> None:
        # RFC 8445 §5.1.3
        scene = Scene(STUN6).gather(HOST6)
        scene.answer(scene.queries[0], (HOST6, 1001))
        assert reflexive(scene) == [] and scene.verdicts == ["answered"]
        assert scene.reports[0].candidates == ()

    def test_without_an_address(self) -> None:
        scene = Scene(STUN).gather(HOST)
        scene.answer(scene.queries[0], None)
        assert scene.verdicts == ["failed"]

    def test_two_servers_and_a_symmetric_nat(self) -> None:
        scene = Scene(STUN, StunServer(*SECOND)).gather(HOST, OTHER)
        for port, (_, query) in enumerate(scene.sent[:]):
            scene.answer(query, (MAPPED[0], 40000 + port))
        assert len(reflexive(scene)) == 4
        priorities = [candidate.priority for candidate in scene.candidates]
        assert len(set(priorities)) == len(priorities)

    def test_something_else_lives_at_the_address(self) -> None:
        scene = Scene(STUN).gather(HOST)
        link = scene.queries[0].link
        assert scene.gatherer.awaits_server(link, STUN)
        assert not scene.gatherer.awaits_server(link, SECOND) and not scene.gatherer.awaits_server(link + 1, STUN)
        scene.gatherer.not_stun(scene.now, link, SECOND, b"HTTP/1.1 400")
        assert scene.verdicts == ["pending"]
        scene.gatherer.not_stun(scene.now, link, STUN, b"HTTP/1.1 400 Bad Request")
        scene.drain()
        assert scene.verdicts == ["not a STUN server"] and scene.reports[0].detail == "it answers b'HTTP/1.1 400 Bad'"
        assert scene.ends == [(1, 0.0)] and not scene.gatherer.awaits_server(link, STUN)

    def test_somebody_else_pretends_that(self) -> None:
        """An address is forged easily: the answer still counts."""
        scene = Scene(STUN).gather(HOST)
        scene.gatherer.not_stun(scene.now, scene.queries[0].link, STUN, b"\xff")
        scene.answer(scene.queries[0])
        assert scene.verdicts == ["answered"] and reflexive(scene) == [MAPPED]

    def test_a_refusal(self) -> None:
        scene = Scene(STUN).gather(HOST)
        refuse(scene, scene.queries[0], 400)
        (report,) = scene.reports
        assert (report.verdict, report.code) == ("refused", 400)
        assert "\x1b" not in report.detail and r"\x1b" in report.detail
        assert scene.ends == [(1, 0.0)]


class TestRedirection:
    def test_is_followed(self) -> None:
        scene = Scene(STUN).gather(HOST)
        refuse(scene, scene.queries[0], 300, **{"ALTERNATE-SERVER": SECOND})
        assert scene.ends == []
        scene.answer(to(scene, SECOND)[0])
        (report,) = scene.reports
        assert (report.verdict, report.address) == ("answered", SECOND)
        assert reflexive(scene) == [MAPPED]

    @pytest.mark.parametrize("other", [STUN, STUN6])
    def test_in_a_circle_or_to_another_family_is_not(self, other: Address) -> None:
        scene = Scene(STUN).gather(HOST)
        refuse(scene, scene.queries[0], 300, **{"ALTERNATE-SERVER": other})
        assert len(scene.sent) == 1
        assert scene.verdicts == ["refused"] and scene.reports[0].code == 300

    def test_without_a_server_is_an_error(self) -> None:
        scene = Scene(STUN).gather(HOST)
        refuse(scene, scene.queries[0], 300)
        assert scene.verdicts == ["refused"]


class TestSilence:
    def test_the_report(self) -> None:
        scene = Scene(STUN).gather(HOST)
        assert scene.verdicts == ["pending"]
        scene.run(40.0)
        (report,) = scene.reports
        assert (report.verdict, report.rtt) == ("timed out", None)

    def test_tunables_that_change(self) -> None:
        scene = Scene(STUN).gather(HOST)
        scene.gatherer.tune(Tunables(retry_max=1, retry_rto=0.1))
        scene.gather(HOST, OTHER).run(1.0)
        assert [when - 100 for when, t in scene.sent if t.link == 3] == pytest.approx([0.0, 0.1])

    def test_nobody_is_there(self) -> None:
        scene = Scene(STUN).gather(HOST)
        scene.report(SendFailed(1, STUN, Reason.REFUSED))
        (report,) = scene.reports
        assert (report.verdict, report.detail) == ("unreachable", "connection refused")


class TestBindings:
    """Requests every 15 s while the candidates may be needed, by one timer."""

    def bound(self, *hosts: str) -> Scene:
        scene = Scene(STUN).gather(*(hosts or (HOST,)))
        for number, query in enumerate(scene.queries):
            scene.answer(query, (MAPPED[0], MAPPED[1] + number))
        return scene

    def test_are_kept(self) -> None:
        scene = self.bound(HOST, OTHER)
        assert scene.gatherer.idle
        scene.run(45.0)
        assert [when - 100 for when, _ in scene.sent[2:]] == [15.0, 15.0, 30.0, 30.0, 45.0, 45.0]
        assert {(t.link, t.peer) for _, t in scene.sent} == {(1, STUN), (2, STUN)}

    def test_until_a_pair_is_selected(self) -> None:
        # RFC 8445 §8.3
        scene = self.bound()
        scene.gatherer.keep(scene.now, False)
        assert scene.gatherer.poll_timeout() is None
        scene.run(100.0)
        assert len(scene.queries) == 1

    def test_and_from_a_restart_on(self) -> None:
        scene = self.bound()
        scene.gatherer.keep(scene.now, False)
        scene.run(100.0)
        scene.gatherer.keep(scene.now, True)
        scene.gatherer.keep(scene.now, True)
        # It may be a time-out that has led here: none may be left for now.
        assert (scene.gatherer.poll_timeout() or 0.0) > scene.now
        scene.drain()
        scene.run(15.0)
        assert [when - 100 for when, _ in scene.sent[1:]] == [100.0, 115.0]

    def test_nothing_is_kept_where_nothing_is(self) -> None:
        scene = Scene().gather(HOST)
        scene.gatherer.keep(scene.now, True)
        assert scene.gatherer.poll_timeout() is None
        scene = Scene(STUN).gather(HOST)
        scene.report(SendFailed(1, STUN, Reason.REFUSED))
        scene.gatherer.keep(scene.now, False)
        scene.gatherer.keep(scene.now, True)
        assert scene.gatherer.poll_timeout() is None

    def test_an_address_without_nat_too(self) -> None:
        """A firewall forgets as a NAT does."""
        scene = Scene(STUN).gather(HOST)
        scene.answer(scene.queries[0], (HOST, 1001))
        assert scene.run(15.0).queries[1].peer == STUN

    def test_by_one_server_for_each_mapping(self) -> None:
        scene = Scene(STUN, StunServer(*SECOND)).gather(HOST)
        for _, query in scene.sent[:]:
            scene.answer(query)
        scene.run(15.0)
        assert len(scene.sent) == 3

    def test_no_answer_changes_nothing(self) -> None:
        scene = self.bound().run(100.0)
        assert scene.verdicts == ["answered"] and scene.take(Withdrawn) == []
        scene.report(SendFailed(1, STUN, Reason.REFUSED))
        assert scene.verdicts == ["answered"]

    def test_the_same_answer_changes_nothing(self) -> None:
        scene = self.bound().run(15.0)
        scene.answer(scene.queries[-1])
        assert len(scene.candidates) == 2 and scene.take(Withdrawn) == []

    def test_an_error_changes_nothing(self) -> None:
        scene = self.bound().run(15.0)
        refuse(scene, scene.queries[-1], 300, **{"ALTERNATE-SERVER": SECOND})
        assert scene.verdicts == ["answered"] and to(scene, SECOND) == []

    def test_another_address_replaces_the_candidate(self) -> None:
        scene = self.bound().run(15.0)
        old = scene.candidates[1]
        scene.answer(scene.queries[-1], ELSEWHERE)
        assert reflexive(scene) == [MAPPED, ELSEWHERE]
        assert scene.take(Withdrawn) == [Withdrawn(old)]
        scene.report(LinkClosed(1, Reason.OTHER, ""))
        (lost,) = scene.take(BaseLost)
        assert [(c.host, c.port) for c in lost.candidates] == [(HOST, 1001), ELSEWHERE]

    def test_end_with_the_socket(self) -> None:
        scene = self.bound()
        scene.report(LinkClosed(1, Reason.OTHER, ""))
        assert scene.run(60.0).queries == scene.queries[:1]

    def test_end_with_the_agent(self) -> None:
        scene = self.bound().close()
        assert scene.gatherer.poll_timeout() is None

    def test_an_answer_after_the_socket_has_gone(self) -> None:
        scene = self.bound().run(15.0)
        query = scene.queries[-1]
        scene.report(LinkClosed(1, Reason.OTHER, ""))
        scene.answer(query, ELSEWHERE)
        assert reflexive(scene) == [MAPPED]


class TestHiddenHosts:
    """Where host candidates are not offered, a base shows itself by what others see of it."""

    def scene(self) -> Scene:
        return Scene(STUN, types=frozenset(("srflx", "relay"))).gather(HOST)

    def test_nothing_before_the_answer(self) -> None:
        scene = self.scene()
        assert scene.candidates == [] and len(scene.take(OpenUdp)) == 1

    def test_then_the_base_and_its_reflection(self) -> None:
        scene = self.scene()
        # The agent does not know the base, so that the answer comes as a datagram.
        (query,) = scene.queries
        scene.gatherer.handle_datagram(scene.now, 1, STUN, b"\0\1 nonsense")
        data = bytes(stun_answer(parse_message(query.data)))
        scene.gatherer.handle_datagram(scene.now, 1, STUN, data)
        scene.drain()
        host, candidate = scene.candidates
        assert (host.type, candidate.type) == ("host", "srflx")
        assert (candidate.related_address, candidate.related_port) == ("0.0.0.0", 9)

    def test_the_base_is_shown_once(self) -> None:
        scene = Scene(STUN, StunServer(*SECOND), types=frozenset(("srflx",))).gather(HOST)
        for port, (_, query) in enumerate(scene.sent[:]):
            scene.answer(query, (MAPPED[0], 40000 + port))
        assert [c.type for c in scene.candidates] == ["host", "srflx", "srflx"]

    def test_no_sockets_for_relays_alone(self) -> None:
        scene = Scene(STUN, types=frozenset(("relay",))).gather(HOST)
        assert scene.outputs[:-1] == [] and scene.ends == [(1, 0.0)]

    def test_no_queries_for_hosts_alone(self) -> None:
        scene = Scene(STUN, types=frozenset(("host",))).gather(HOST)
        assert scene.sent == [] and [c.type for c in scene.candidates] == ["host"]
