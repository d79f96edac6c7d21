"""Which TURN servers are asked, which relays are kept, and what follows when one is lost (RFC 8656 §7.4)."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.bases import BaseLost, Found
from aioice.core.machine import (
    Address,
    Close,
    Connected,
    CredentialsFetched,
    FetchCredentials,
    LinkClosed,
    OpenFailed,
    OpenStream,
    OpenUdp,
    Reason,
    Resolve,
    Resolved,
    SendFailed,
    Tunables,
)
from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.servers import RelayPermits, RelayUnreachable, StunServer, TurnServer
from tests.core.gather_scene import HOST, RELAYED, RELAYED6, STUN, TURN, TURN_SERVER, Scene, turn_answer

NAME = "turn.example.org"
NAMED = TURN_SERVER._replace(host=NAME)
TCP = TURN_SERVER._replace(transport="tcp")
TLS = TURN_SERVER._replace(transport="tcp", tls=True, port=5349)
TLS_ADDRESS = (TURN[0], 5349)
OTHER_TURN = ("192.0.2.3", 3478)
OTHER_SERVER = TURN_SERVER._replace(host=OTHER_TURN[0])
TURN6 = ("2001:db8::2", 3478)
PEER = ("203.0.113.77", 6000)


def relays(scene: Scene) -> list[str]:
    return [candidate.host for candidate in scene.candidates if candidate.type == "relay"]


def refusing(code: int, more: dict[str, Any] | None = None) -> Any:
    return lambda request, refuse: turn_answer(request, code, more=more)


def silent_scene(*servers: StunServer | TurnServer, **options: Any) -> Scene:
    scene = Scene(None, *servers, **options)
    scene.turn_answers = False
    return scene


def answer(scene: Scene, link: int, server: Address = TURN, refuse: int = 0) -> None:
    """The server answers what was last sent over the link, twice: it wants credentials first."""
    for _ in range(2):
        request = parse_message([t.data for _, t in scene.sent if t.link == link][-1])
        scene.gatherer.handle_datagram(scene.now, link, server, bytes(turn_answer(request, refuse)))
        scene.drain()


class TestManyServers:
    """F12: every server of a list counts."""

    def test_all_are_asked_side_by_side(self) -> None:
        scene = silent_scene(TURN_SERVER, OTHER_SERVER, TLS._replace(host="192.0.2.4")).gather()
        assert [t.peer for _, t in scene.sent[:2]] == [TURN, OTHER_TURN]
        assert scene.take(OpenStream) == [OpenStream(3, ("192.0.2.4", 5349), "192.0.2.4")]

    def test_every_server_gives_a_relay(self) -> None:
        scene = Scene(None, TURN_SERVER, OTHER_SERVER)
        scene.turns[OTHER_TURN] = lambda request, refuse: turn_answer(request, 0, (OTHER_TURN[0], 50001))
        scene.gather()
        assert relays(scene) == [RELAYED[0], OTHER_TURN[0]]
        assert len({candidate.priority for candidate in scene.candidates}) == 2
        assert scene.verdicts == ["answered", "answered"]

    def test_the_first_is_dead(self) -> None:
        scene = Scene(None, OTHER_SERVER, TURN_SERVER).gather()
        assert relays(scene) == [RELAYED[0]]
        assert scene.run(60.0).ends == [(1, 1.0)]
        assert scene.verdicts == ["timed out", "answered"]

    def test_other_credentials_are_another_server(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(username="nobody"), TURN_SERVER)
        scene.turn_answers = False
        scene.gather()
        assert len(scene.take(OpenUdp)) == 2

    def test_two_urls_of_one_server(self) -> None:
        scene = Scene(None, TURN_SERVER, TURN_SERVER, NAMED)
        scene.names[NAME] = (TURN[0],)
        scene.gather()
        assert scene.verdicts == ["answered", "not needed", "not needed"]
        assert len(scene.take(OpenUdp)) == 1


class TestTransports:
    """The ways to one server: the best that works is used."""

    def test_udp_makes_the_others_redundant(self) -> None:
        scene = Scene(None, TLS, TCP, TURN_SERVER)
        scene.turn_answers = False
        scene.gather()
        udp, tcp, tls = 1, 2, 3
        answer(scene, udp)
        assert scene.verdicts == ["answered", "not needed", "not needed"]
        assert scene.ends == [(1, 0.0)]
        # A late answer would be an allocation to delete.
        scene.run(1.0)
        assert {tcp, tls}.isdisjoint(scene.open)
        assert "turn:192.0.2.2:3478" in scene.reports[1].detail

    def test_where_udp_is_blocked(self) -> None:
        scene = Scene(None, TURN_SERVER, TCP, TLS)
        scene.turn_answers = False
        scene.gather()
        answer(scene, 2)
        assert scene.verdicts == ["pending", "answered", "not needed"]
        assert relays(scene) == [RELAYED[0]]
        assert scene.run(60.0).ends == [(1, 1.0)]
        assert scene.verdicts[0] == "timed out"

    def test_lists_that_name_the_same_host(self) -> None:
        """Over another transport it is the same server; over the same at another port it may not be."""
        third = TURN_SERVER._replace(entry=1, port=3479)
        scene = silent_scene(TURN_SERVER._replace(entry=0), TCP._replace(entry=1), third).gather()
        answer(scene, 1)
        assert scene.verdicts == ["answered", "pending", "not needed"]
        answer(scene, 2, (TURN[0], 3479))
        assert len(relays(scene)) == 2

    def test_udp_that_comes_late_is_kept_beside(self) -> None:
        scene = silent_scene(TURN_SERVER, TCP).gather()
        answer(scene, 2)
        answer(scene, 1)
        assert scene.verdicts == ["answered", "answered"]
        tcp, udp = scene.candidates
        assert udp.priority > tcp.priority
        assert udp.foundation == tcp.foundation

    def test_one_address_of_a_name_is_enough(self) -> None:
        scene = Scene(None, NAMED)
        scene.names[NAME] = (TURN6[0], TURN[0])
        scene.gather()
        assert [t.peer for t in scene.asked(Method.ALLOCATE)] == [TURN6, TURN, TURN]
        assert scene.verdicts == ["not needed", "answered"]
        assert scene.take(OpenUdp) == [OpenUdp(2, "::"), OpenUdp(3, "0.0.0.0")]

    def test_a_name_with_very_many_addresses(self) -> None:
        scene = silent_scene(NAMED)
        scene.names[NAME] = tuple(f"192.0.2.{number}" for number in range(100))
        scene.gather()
        assert len(scene.sent) == 8

    @pytest.mark.parametrize("name", [NAME, NAME + "."])
    def test_the_name_in_the_certificate(self, name: str) -> None:
        scene = Scene(None, TLS._replace(host=name))
        scene.names[name] = (TURN[0],)
        scene.gather()
        assert scene.take(OpenStream) == [OpenStream(2, TLS_ADDRESS, NAME)]


class TestRefusals:
    @pytest.mark.parametrize(
        "code, verdict", [(400, "refused"), (403, "refused"), (442, "refused"), (441, "wrong credentials")]
    )
    def test_are_final(self, code: int, verdict: str) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turns[TURN] = refusing(code)
        scene.gather().run(600.0)
        (report,) = scene.reports
        assert (report.verdict, report.code) == (verdict, code)
        assert str(code) in report.detail
        assert scene.ends == [(1, 0.0)]
        assert len(scene.asked(Method.ALLOCATE)) == 2

    def test_wrong_credentials(self) -> None:
        def server(request: Message, refuse: int) -> Message:
            attributes = {"ERROR-CODE": (401, ""), "REALM": "realm", "NONCE": b"nonce"}
            return Message(request.message_method, Class.ERROR, request.transaction_id, attributes)

        scene = Scene(None, TURN_SERVER)
        scene.turns[TURN] = server
        scene.gather()
        assert scene.verdicts == ["wrong credentials"] and scene.ends == [(1, 0.0)]
        assert scene.reports[0].code == 401

    def test_437_three_ports_and_then_not_for_two_minutes(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turns[TURN] = refusing(437)
        scene.gather()
        assert len({t.link for t in scene.asked(Method.ALLOCATE)}) == 3
        assert scene.verdicts == ["refused"]
        assert scene.open == {}

    def test_437_once(self) -> None:
        scene = Scene(None, TURN_SERVER)
        codes = iter([437, 0])
        scene.turns[TURN] = lambda request, refuse: turn_answer(
            request, next(codes) if "MESSAGE-INTEGRITY" in request.attributes else 0
        )
        scene.gather()
        assert scene.verdicts == ["answered"]
        assert len(scene.reports) == 1 and list(scene.open) == [2, 3]

    def test_440_the_other_family_goes_on(self) -> None:
        scene = Scene(None, TURN_SERVER, families=(4, 6)).gather()
        assert relays(scene) == [RELAYED[0]]
        assert len(scene.reports) == 1


class TestRedirection:
    """RFC 8489 §10."""

    def to(self, address: Address, **more: Any) -> Any:
        return refusing(300, {"ALTERNATE-SERVER": address, **more})

    def test_is_followed(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turns[TURN] = self.to(OTHER_TURN)
        scene.turns[OTHER_TURN] = lambda request, refuse: turn_answer(request, 0, (OTHER_TURN[0], 50001))
        scene.gather()
        (report,) = scene.reports
        assert (report.verdict, report.address) == ("answered", OTHER_TURN)
        assert relays(scene) == [OTHER_TURN[0]]

    def test_in_a_circle_is_refused(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turns[TURN] = self.to(OTHER_TURN)
        scene.turns[OTHER_TURN] = self.to(TURN)
        scene.gather()
        assert scene.verdicts == ["refused"] and scene.reports[0].code == 300
        assert len(scene.asked(Method.ALLOCATE)) == 4

    def test_has_an_end(self) -> None:
        scene = Scene(None, TURN_SERVER)
        for number in range(2, 60):
            scene.turns[f"192.0.2.{number}", 3478] = self.to((f"192.0.2.{number + 1}", 3478))
        scene.gather()
        assert scene.verdicts == ["refused"]
        assert len({t.peer for _, t in scene.sent}) == 5

    def test_to_another_family_is_none(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turns[TURN] = self.to(TURN6)
        assert scene.gather().verdicts == ["refused"]

    @pytest.mark.parametrize("more, name", [({}, NAME), ({"ALTERNATE-DOMAIN": "b.example"}, "b.example")])
    def test_over_tls_the_certificate_counts(self, more: dict[str, str], name: str) -> None:
        scene = Scene(None, TLS._replace(host=NAME))
        scene.names[NAME] = (TURN[0],)
        scene.turns[TLS_ADDRESS] = self.to(OTHER_TURN, **more)
        scene.gather()
        assert scene.take(OpenStream)[1] == OpenStream(3, OTHER_TURN, name)


class TestNoTurnServer:
    def test_garbage_over_udp(self) -> None:
        scene = silent_scene(TURN_SERVER).gather()
        scene.gatherer.handle_datagram(scene.now, 1, ("192.0.2.66", 1), b"\xffgarbage")
        scene.drain()
        assert scene.ends == []
        scene.gatherer.handle_datagram(scene.now, 1, TURN, b"\xffgarbage")
        scene.drain()
        assert scene.ends == [(1, 0.0)] and scene.verdicts == ["not a STUN server"]
        assert scene.reports[0].detail == r"it answers b'\xffgarbage'"
        scene.run(5.0)
        assert scene.open == {}

    @pytest.mark.parametrize(
        "reason, verdict",
        [
            (Reason.NOT_STUN, "not a STUN server"),
            (Reason.CLOSED, "failed"),
        ],
    )
    def test_what_answers_over_tcp_is_something_else(self, reason: Reason, verdict: str) -> None:
        scene = silent_scene(TCP).gather()
        scene.report(LinkClosed(1, reason, "this is an HTTP server"))
        assert scene.verdicts == [verdict]
        assert "HTTP" in scene.reports[0].detail

    @pytest.mark.parametrize(
        "reason, verdict",
        [
            (Reason.REFUSED, "unreachable"),
            (Reason.TIMED_OUT, "timed out"),
            (Reason.TLS, "TLS failed"),
            (Reason.BIND, "failed"),
        ],
    )
    def test_a_stream_that_does_not_open(self, reason: Reason, verdict: str) -> None:
        scene = Scene(None, TLS)
        scene.opens = False
        scene.gather()
        scene.report(OpenFailed(1, reason, "certificate has expired"))
        (report,) = scene.reports
        assert (report.verdict, report.local, report.rtt) == (verdict, None, None)
        assert "certificate has expired" in report.detail


class TestReports:
    def test_what_they_say(self) -> None:
        scene = silent_scene(TURN_SERVER._replace(url="turn:my.server")).gather()
        scene.run(0.25)
        answer(scene, 1)
        (report,) = scene.reports
        assert (report.url, report.transport, report.component) == ("turn:my.server", "udp", 1)
        assert (report.address, report.local) == (TURN, ("0.0.0.0", 1001))
        assert report.rtt == pytest.approx(0.25)
        assert report.candidates == tuple(scene.candidates)
        assert (report.code, report.detail) == (0, "")

    def test_are_made_on_demand_and_bounded(self) -> None:
        assert Scene().gather(HOST).reports == []
        many = [StunServer(f"192.0.2.{number}", 3478, "tcp") for number in range(200)]
        scene = Scene(None, *many).gather(HOST)
        assert len(scene.reports) == 128


class TestCredentials:
    SERVER = TurnServer(*TURN, source=0)

    def test_are_fetched_once_for_all(self) -> None:
        scene = Scene(None, self.SERVER, self.SERVER._replace(transport="tcp"), self.SERVER._replace(host="192.0.2.9"))
        scene.gather().gather(component=2)
        (fetch,) = scene.take(FetchCredentials)
        assert scene.sent == []
        scene.report(CredentialsFetched(fetch.query, "user", "pass"))
        assert [c.component for c in scene.candidates] == [1, 2]
        scene.gather(component=3)
        assert len(scene.take(FetchCredentials)) == 1

    def test_but_not_used_near_their_end(self) -> None:
        scene = Scene(None, self.SERVER)
        scene.credentials = [CredentialsFetched(0, "user", "pass", 150.0), CredentialsFetched(0, "user", "pass")]
        scene.gather()
        scene.now = 121.0
        scene.gather(component=2)
        assert len(scene.take(FetchCredentials)) == 2

    def test_that_are_not_to_be_had(self) -> None:
        scene = Scene(None, self.SERVER)
        scene.credentials = [
            CredentialsFetched(0, None, None, None, "no such token"),
            CredentialsFetched(0, "user", "pass"),
        ]
        scene.gather()
        assert scene.verdicts == ["no credentials"] and scene.reports[0].detail == "no such token"
        assert scene.ends == [(1, 0.0)]
        scene.gather(component=2)
        assert relays(scene) == [RELAYED[0]]

    def test_that_the_server_refuses_are_fetched_again(self) -> None:
        scene = Scene(None, self.SERVER)
        scene.credentials = [CredentialsFetched(0, "user", "old"), CredentialsFetched(0, "user", "pass")]

        def server(request: Message, refuse: int) -> Message:
            try:
                return turn_answer(request, refuse)
            except AssertionError:
                attributes = {"ERROR-CODE": (401, ""), "REALM": "realm", "NONCE": b"nonce"}
                return Message(request.message_method, Class.ERROR, request.transaction_id, attributes)

        scene.turns[TURN] = server
        scene.gather()
        assert scene.verdicts == ["answered"] and len(scene.take(FetchCredentials)) == 2

    def test_new_ones_before_their_lifetime_is_over(self) -> None:
        # F43
        scene = Scene(None, self.SERVER)
        scene.credentials = [
            CredentialsFetched(0, "user", "pass", 1000.0),
            CredentialsFetched(0, "user", "pass", 2000.0),
        ]
        scene.gather().run(800.0)
        assert len(scene.take(FetchCredentials)) == 1
        scene.run(100.0)
        assert len(scene.take(FetchCredentials)) == 2
        assert scene.take(BaseLost) == []

    def test_that_cannot_be_renewed(self) -> None:
        scene = Scene(None, self.SERVER)
        scene.credentials = [CredentialsFetched(0, "user", "pass", 1000.0)]
        scene.gather().run(850.0)
        for fetch in scene.take(FetchCredentials)[1:]:
            scene.report(CredentialsFetched(fetch.query, None, None, None, "the token has expired"))
        assert scene.reports[0].detail == "the token has expired"

    def test_that_come_too_late(self) -> None:
        scene = Scene(None, self.SERVER).gather()
        (fetch,) = scene.take(FetchCredentials)
        scene.close()
        scene.report(CredentialsFetched(fetch.query, "user", "pass"))
        scene.report(CredentialsFetched(99, "user", "pass"))
        assert scene.sent == [] and scene.gatherer.done

    def test_that_come_when_the_allocation_is_gone(self) -> None:
        scene = Scene(None, self.SERVER)
        scene.credentials = [CredentialsFetched(0, "user", "pass", 200.0)]
        scene.gather().run(60.0)
        fetch = scene.take(FetchCredentials)[-1]
        scene.close().run(2.0)
        scene.report(CredentialsFetched(fetch.query, "user", "pass"))
        assert scene.gatherer.done

    def test_nobody_asked_for(self) -> None:
        scene = Scene(None, TURN_SERVER).gather()
        before = len(scene.outputs)
        scene.report(CredentialsFetched(99, "user", "pass"))
        assert len(scene.outputs) == before


class TestFamilies:
    """RFC 8656 §7.1: both from one request."""

    def test_both_at_once(self) -> None:
        scene = Scene(None, TURN_SERVER, families=(4, 6))
        scene.turns[TURN] = lambda request, refuse: turn_answer(request, refuse, RELAYED, RELAYED6)
        scene.gather()
        assert relays(scene) == [RELAYED[0], RELAYED6[0]]
        (report,) = scene.reports
        assert report.candidates == tuple(scene.candidates)
        assert len(scene.take(OpenUdp)) == 1

    def old(self, request: Message, refuse: int) -> Message:
        """A server before RFC 8656."""
        attributes = request.attributes
        relayed = RELAYED6 if "REQUESTED-ADDRESS-FAMILY" in attributes else RELAYED
        answer = turn_answer(request, refuse)
        if answer.message_class is Class.RESPONSE and request.message_method is Method.ALLOCATE:
            answer = turn_answer(request, refuse, relayed, relayed)
        return answer

    def test_an_old_server_is_asked_over_a_second_5_tuple(self) -> None:
        scene = Scene(None, TURN_SERVER, families=(4, 6))
        scene.turns[TURN] = self.old
        scene.gather()
        assert relays(scene) == [RELAYED[0], RELAYED6[0]]
        assert scene.verdicts == ["answered", "answered"]
        assert len(scene.take(OpenUdp)) == 2
        assert scene.ends == [(1, 0.0)]

    def test_an_old_server_without_the_other_family_is_asked_once(self) -> None:
        def server(request: Message, refuse: int) -> Message:
            missing = "REQUESTED-ADDRESS-FAMILY" in request.attributes
            return self.old(request, 440 if missing else refuse)

        scene = Scene(None, TURN_SERVER, families=(4, 6))
        scene.turns[TURN] = server
        scene.gather()
        assert scene.verdicts == ["answered", "refused"] and scene.reports[1].code == 440
        scene.gather(component=2)
        assert scene.verdicts == ["answered", "refused", "answered"]

    def test_a_family_that_the_server_has_said_it_lacks_is_not_asked_for_again(self) -> None:
        """RFC 8656 §7.4, also for another component."""
        scene = Scene(None, TURN_SERVER, families=(4, 6)).gather()
        assert "ADDITIONAL-ADDRESS-FAMILY" in parse_message(scene.asked(Method.ALLOCATE)[0].data).attributes
        known = len(scene.asked(Method.ALLOCATE))
        scene.gather(component=2)
        later = [parse_message(transmit.data).attributes for transmit in scene.asked(Method.ALLOCATE)[known:]]
        assert later and not any("ADDITIONAL-ADDRESS-FAMILY" in attributes for attributes in later)
        assert relays(scene) == [RELAYED[0], RELAYED[0]]

    def test_a_server_that_lacks_all_that_is_wanted(self) -> None:
        scene = Scene(None, TURN_SERVER, families=(6,))
        scene.turns[TURN] = refusing(440)
        scene.gather()
        asked = len(scene.asked(Method.ALLOCATE))
        scene.gather(component=2)
        assert scene.verdicts == ["refused", "refused"] and {report.code for report in scene.reports} == {440}
        assert len(scene.asked(Method.ALLOCATE)) == asked

    @pytest.mark.parametrize(("code", "after"), [(440, False), (508, True)])
    def test_a_family_that_the_server_has_no_room_for(self, code: int, after: bool) -> None:
        """RFC 8656 §7.4: unlike one that it lacks, it is asked for again after a minute."""
        scene = Scene(None, TURN_SERVER, families=(4, 6))
        more = {"ADDRESS-ERROR-CODE": (2, code, "")}
        scene.turns[TURN] = lambda request, refuse: turn_answer(request, refuse, RELAYED, more=more)
        asked = []
        for component, wait in enumerate((0.0, 59.0, 1.0), 1):
            scene.run(wait).gather(component=component)
            allocate = parse_message(scene.asked(Method.ALLOCATE)[-1].data)
            asked.append("ADDITIONAL-ADDRESS-FAMILY" in allocate.attributes)
        assert asked == [True, False, after]

    def test_one_of_the_two_is_lost(self) -> None:
        scene = Scene(None, TURN_SERVER, families=(4, 6))
        scene.turns[TURN] = self.old
        scene.gather().run(60.0)
        links = [t.link for t in scene.asked(Method.ALLOCATE)]
        scene.report(LinkClosed(links[-1], Reason.OTHER, "gone"))
        assert [lost.candidates[0].host for lost in scene.take(BaseLost)] == [RELAYED6[0]]
        assert relays(scene) == [RELAYED[0], RELAYED6[0], RELAYED6[0]]
        scene.report(LinkClosed(links[0], Reason.OTHER, "gone"))
        assert relays(scene)[3:] == [RELAYED[0]]

    def test_one_family_of_a_dual_allocation_is_lost(self) -> None:
        scene = Scene(None, TURN_SERVER, families=(4, 6))
        scene.turns[TURN] = lambda request, refuse: turn_answer(request, refuse, RELAYED, RELAYED6)
        scene.gather()

        def server(request: Message, refuse: int) -> Message:
            family = request.attributes.get("REQUESTED-ADDRESS-FAMILY")
            if request.message_method is Method.REFRESH and family == 0x02000000:
                return turn_answer(request, 437)
            return turn_answer(request, refuse, RELAYED6 if family == 0x02000000 else RELAYED)

        scene.turns[TURN] = server
        scene.run(550.0)
        assert [lost.candidates[0].host for lost in scene.take(BaseLost)] == [RELAYED6[0]]
        assert relays(scene) == [RELAYED[0], RELAYED6[0], RELAYED6[0]]


class TestClosedByTheApplication:
    """RFC 8656 §8.1: what nobody wants any more is deleted."""

    def deletions(self, scene: Scene) -> list[Any]:
        """The families of the refreshes without lifetime, None for all."""
        refreshes = [parse_message(t.data).attributes for t in scene.asked(Method.REFRESH)]
        return [a.get("REQUESTED-ADDRESS-FAMILY") for a in refreshes if a["LIFETIME"] == 0]

    def test_the_allocation_goes_with_its_only_relay(self) -> None:
        scene = Scene(None, TURN_SERVER).gather().run(60.0)
        (found,) = scene.take(Found)
        for _ in range(2):
            scene.report(LinkClosed(found.base.link, Reason.CLOSED, ""))
        assert scene.take(BaseLost) == [
            BaseLost(found.base.link, "closed by the application", (found.candidate,)),
        ]
        assert self.deletions(scene) == [None]
        assert not scene.open and not scene.gatherer.hopeful
        scene.run(3600.0)
        assert relays(scene) == [RELAYED[0]]

    def test_the_other_family_stays(self) -> None:
        scene = Scene(None, TURN_SERVER, families=(4, 6))
        scene.turns[TURN] = lambda request, refuse: turn_answer(request, refuse, RELAYED, RELAYED6)
        scene.gather().run(60.0)
        four, six = scene.take(Found)
        scene.report(LinkClosed(six.base.link, Reason.CLOSED, ""))
        assert [lost.candidates for lost in scene.take(BaseLost)] == [(six.candidate,)]
        assert self.deletions(scene) == [0x02000000]
        assert sorted(scene.open) == [1, four.base.link]
        scene.run(3600.0)
        assert len(relays(scene)) == 2
        scene.report(LinkClosed(four.base.link, Reason.CLOSED, ""))
        assert self.deletions(scene) == [0x02000000, None]
        assert not scene.open

    def test_after_the_end_it_is_no_news(self) -> None:
        scene = Scene(None, TURN_SERVER).gather()
        scene.turn_answers = False
        (found,) = scene.take(Found)
        scene.close().report(LinkClosed(found.base.link, Reason.CLOSED, ""))
        assert self.deletions(scene) == [None] and scene.take(BaseLost) == []


class TestLoss:
    """F41: a fresh allocation on another 5-tuple, a new candidate."""

    def test_another_at_once(self) -> None:
        scene = Scene(None, TCP).gather().run(60.0)
        (old,) = scene.candidates
        scene.report(LinkClosed(1, Reason.CLOSED, "end of file"))
        (lost,) = scene.take(BaseLost)
        assert lost.candidates == (old,)
        assert relays(scene) == [RELAYED[0]] * 2
        assert scene.verdicts == ["answered", "answered"]
        assert "lost" in scene.reports[0].detail
        assert not scene.gatherer.hopeful

    def test_over_every_way_to_the_server(self) -> None:
        """UDP may be blocked where we are by now."""
        scene = Scene(None, TURN_SERVER, TCP).gather().run(60.0)
        scene.turn_answers = False
        scene.report(LinkClosed(1, Reason.OTHER, "gone"))
        answer(scene, scene.take(OpenStream)[-1].link)
        assert scene.verdicts == ["answered", "not needed", "pending", "answered"]
        assert relays(scene) == [RELAYED[0]] * 2

    def test_one_that_is_lost_at_once_is_not_made_for_ever(self) -> None:
        scene = Scene(None, TCP).gather()
        scene.report(LinkClosed(1, Reason.CLOSED, "end of file"))
        times = []
        for _ in range(12):
            scene.run(0.0)
            assert scene.gatherer.hopeful and scene.gatherer.idle
            before = len(scene.take(OpenStream))
            start = scene.now
            while len(scene.take(OpenStream)) == before:
                due = scene.gatherer.poll_timeout()
                assert due is not None
                scene.run(due - scene.now)
            times.append(scene.now - start)
            scene.report(LinkClosed(scene.take(OpenStream)[-1].link, Reason.CLOSED, "end of file"))
        assert 0.75 <= times[0] <= 1.25 and 1.5 <= times[1] <= 2.5
        assert all(45 <= time <= 75 for time in times[7:])

    def test_while_the_server_is_down_it_is_asked_again(self) -> None:
        scene = Scene(None, TURN_SERVER).gather().run(60.0)
        scene.turn_answers = False
        scene.gatherer.handle_report(scene.now, LinkClosed(1, Reason.OTHER, "gone"))
        scene.drain()
        for _ in range(3):
            link = scene.sent[-1][1].link
            scene.report(SendFailed(link, TURN, Reason.REFUSED))
            assert scene.gatherer.idle and scene.gatherer.hopeful
            scene.run(10.0)
        scene.turn_answers = True
        scene.run(60.0)
        assert relays(scene) == [RELAYED[0]] * 2 and not scene.gatherer.hopeful

    def test_what_it_refuses_for_a_minute_is_not_asked_for_earlier(self) -> None:
        scene = Scene(None, TURN_SERVER).gather().run(60.0)
        scene.turns[TURN] = refusing(486)
        scene.report(LinkClosed(1, Reason.OTHER, "gone"))
        asked = len(scene.asked(Method.ALLOCATE))
        scene.run(59.0)
        assert len(scene.asked(Method.ALLOCATE)) == asked
        scene.turns[TURN] = turn_answer
        scene.run(20.0)
        assert relays(scene) == [RELAYED[0]] * 2

    @pytest.mark.parametrize("code, seconds", [(437, 120), (486, 60), (508, 60)])
    def test_nor_by_another_component_or_in_another_way(self, code: int, seconds: int) -> None:
        scene = Scene(None, TURN_SERVER, TCP)
        scene.turns[TURN] = refusing(code)
        scene.gather()
        scene.turns[TURN] = turn_answer
        scene.run(seconds - 1.0).gather(component=2)
        assert scene.candidates == []
        assert scene.reports[-1].detail == "not to be asked again for 1 s"
        scene.run(1.0).gather(component=3)
        assert relays(scene) == [RELAYED[0]]

    def test_a_server_that_refuses_for_good_is_left_alone(self) -> None:
        scene = Scene(None, TURN_SERVER).gather().run(60.0)
        scene.turns[TURN] = refusing(403)
        scene.report(LinkClosed(1, Reason.OTHER, "gone"))
        asked = len(scene.asked(Method.ALLOCATE))
        assert not scene.gatherer.hopeful
        scene.run(600.0)
        assert len(scene.asked(Method.ALLOCATE)) == asked

    def test_not_after_close(self) -> None:
        scene = Scene(None, TCP).gather().run(60.0)
        scene.turn_answers = False
        scene.close()
        scene.report(LinkClosed(1, Reason.CLOSED, "end of file"))
        scene.run(60.0)
        assert len(scene.take(OpenStream)) == 1 and scene.gatherer.done

    def test_a_server_that_never_gave_a_relay_is_not_asked_again(self) -> None:
        scene = Scene(None, TCP)
        scene.opens = False
        scene.gather()
        scene.report(OpenFailed(1, Reason.REFUSED, ""))
        scene.run(600.0)
        assert len(scene.take(OpenStream)) == 1

    @pytest.mark.parametrize("code, seconds", [(500, 5), (486, 60), (508, 60)])
    def test_a_server_that_had_no_room_is_asked_again(self, code: int, seconds: int) -> None:
        """It would be a first relay, which somebody may still need."""
        scene = Scene(None, TURN_SERVER, TCP)
        scene.turns[TURN] = refusing(code)
        scene.gather()
        asked = len(scene.asked(Method.ALLOCATE))
        assert scene.gatherer.idle and not scene.gatherer.hopeful
        scene.run(seconds - 0.1)
        assert len(scene.asked(Method.ALLOCATE)) == asked
        scene.turns[TURN] = turn_answer
        scene.run(1.1)
        assert relays(scene) == [RELAYED[0]]

    @pytest.mark.parametrize("servers", [1, 3])
    def test_but_not_for_ever(self, servers: int) -> None:
        """RFC 8489 §6.3.4."""
        scene = Scene(None, *(TURN_SERVER, TCP, TLS)[:servers])
        scene.turns[TURN] = scene.turns[TLS_ADDRESS] = refusing(508)
        scene.gather()
        asked = len(scene.asked(Method.ALLOCATE))
        scene.run(3600.0)
        assert asked < len(scene.asked(Method.ALLOCATE)) <= 5 * asked
        assert scene.gatherer.poll_timeout() is None

    def test_nor_when_another_has_given_one(self) -> None:
        scene = Scene(None, TURN_SERVER, OTHER_SERVER)
        scene.turns |= {TURN: refusing(508), OTHER_TURN: turn_answer}
        scene.gather()
        asked = [t for t in scene.asked(Method.ALLOCATE) if t.peer == TURN]
        scene.run(600.0)
        assert [t for t in scene.asked(Method.ALLOCATE) if t.peer == TURN] == asked

    def test_nor_when_a_pair_is_nominated(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turns[TURN] = refusing(508)
        scene.gather()
        asked = len(scene.asked(Method.ALLOCATE))
        scene.gatherer.keep(scene.now, False)
        scene.run(600.0)
        assert len(scene.asked(Method.ALLOCATE)) == asked

    def test_its_name_is_looked_up_anew(self) -> None:
        scene = Scene(None, NAMED)
        scene.names[NAME] = (TURN[0],)
        scene.turns[OTHER_TURN] = lambda request, refuse: turn_answer(request, refuse, (OTHER_TURN[0], 50001))
        scene.gather().run(120.0)
        scene.names[NAME] = (OTHER_TURN[0],)
        scene.report(LinkClosed(2, Reason.OTHER, "gone"))
        assert relays(scene) == [RELAYED[0], OTHER_TURN[0]]


class TestPeers:
    def test_what_the_server_tells_of_them(self) -> None:
        scene = Scene(None, TURN_SERVER).gather()
        scene.gatherer.relay(scene.now, 2, PEER, b"\0\1" + bytes(18))
        scene.drain()
        assert scene.take(RelayPermits) == [RelayPermits(2, PEER[0])]
        icmp = bytes([0, 0, 3, 3]) + bytes(4)
        told = Message(Method.DATA, Class.INDICATION, bytes(12), {"XOR-PEER-ADDRESS": PEER, "ICMP": icmp})
        scene.gatherer.handle_datagram(scene.now, 1, TURN, bytes(told))
        scene.drain()
        assert scene.take(RelayUnreachable) == [RelayUnreachable(2, PEER, Reason.REFUSED)]

    def test_a_relay_that_may_have_been_forgotten(self) -> None:
        scene = Scene(None, TURN_SERVER).gather().run(60.0)
        scene.gatherer.probe(scene.now, 99)
        scene.gatherer.probe(scene.now, 2)
        scene.drain()
        assert len(scene.asked(Method.REFRESH)) == 1
        before = len(scene.outputs)
        Scene().gather(HOST).gatherer.probe(scene.now, 1)
        assert len(scene.outputs) == before

    def test_data_before_there_is_a_relay(self) -> None:
        scene = silent_scene(TURN_SERVER).gather()
        scene.gatherer.handle_datagram(scene.now, 1, TURN, b"\x40\0\0\4data")
        scene.drain()
        assert scene.verdicts == ["pending"]

    def test_strange_links(self) -> None:
        scene = Scene(None, TURN_SERVER).gather()
        before = len(scene.outputs)
        scene.gatherer.relay(scene.now, 99, PEER, b"x")
        scene.gatherer.handle_datagram(scene.now, 99, TURN, b"x")
        scene.report(LinkClosed(99, Reason.OTHER, ""))
        scene.report(Connected(99))
        scene.report(SendFailed(99, TURN, Reason.REFUSED))
        scene.gatherer.handle_answer(scene.now, 99, TURN, Message(Method.BINDING, Class.RESPONSE, bytes(12)))
        assert len(scene.outputs) == before

    def test_tunables_reach_the_allocations(self) -> None:
        scene = silent_scene(TURN_SERVER)
        scene.gather()
        scene.gatherer.tune(Tunables(retry_max=1, retry_rto=0.1))
        scene.gather(component=2).run(60.0)
        second = [t for t in scene.asked(Method.ALLOCATE) if t.link == 2]
        assert len(second) == 2


class TestClose:
    def test_while_a_name_is_looked_up(self) -> None:
        scene = Scene(STUN, NAMED).gather()
        (resolve,) = scene.take(Resolve)
        scene.close()
        scene.report(Resolved(resolve.query, (TURN[0],)))
        assert scene.sent == [] and scene.gatherer.done

    def test_while_it_waits_for_its_turn(self) -> None:
        scene = silent_scene(TURN_SERVER, OTHER_SERVER, ta=0.5).gather().close().run(5.0)
        assert {t.peer for _, t in scene.sent} == {TURN}
        assert Close(1) in scene.outputs
