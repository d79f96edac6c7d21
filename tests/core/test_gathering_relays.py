"""From TURN servers to relayed candidates (RFC 8445 §5.1.1.2), and what goes through them."""

from __future__ import annotations

import pytest

from aioice.core.bases import BaseLost, Found
from aioice.core.candidate import candidate_foundation
from aioice.core.gathering import Gathered
from aioice.core.machine import (
    Close,
    Deliver,
    LinkClosed,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Reason,
    Resolve,
    Resolved,
)
from aioice.core.message import Class, Message, Method, parse_message
from aioice.core.servers import RelayRefused
from tests.core.gather_scene import (
    HOST,
    MAPPED,
    RELAYED,
    RELAYED6,
    STUN,
    TURN,
    TURN_SERVER,
    Scene,
    turn_answer,
)

NAME = "stun.example.org"


class TestRelay:
    def test_an_allocation(self) -> None:
        scene = Scene(None, TURN_SERVER).gather(HOST)
        (relay,) = [candidate for candidate in scene.candidates if candidate.type == "relay"]
        assert (relay.host, relay.port, relay.component) == (*RELAYED, 1)
        assert (relay.related_address, relay.related_port) == MAPPED
        assert relay.priority == (65535 << 8) + 255
        assert relay.foundation == candidate_foundation("relay", "udp", RELAYED[0])
        (opened,) = scene.take(OpenRelay)
        assert opened == OpenRelay(3, RELAYED, MAPPED, 1)
        found = next(found for found in scene.take(Found) if found.candidate is relay)
        assert found.base.link == 3 and found.base.candidate is relay
        assert scene.ends == [(1, 0.0)]
        assert scene.gatherer.is_server_link(1)
        assert not scene.gatherer.is_server_link(2) and not scene.gatherer.is_server_link(3)

    def test_through_a_name(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(host="turn.example.org"))
        scene.names["turn.example.org"] = (TURN[0],)
        scene.gather()
        assert [candidate.type for candidate in scene.candidates] == ["relay"]

    def test_the_policy_hides_the_related_address(self) -> None:
        # RFC 9429 §3.5.3
        scene = Scene(STUN, TURN_SERVER, relay_only=True).gather()
        (relay,) = scene.candidates
        assert (relay.related_address, relay.related_port) == ("0.0.0.0", 9)
        assert scene.queries == []

    def test_the_policy_and_a_relayed_address_of_ipv6(self) -> None:
        scene = Scene(None, TURN_SERVER, relay_only=True, families=(6,))
        scene.turns[TURN] = lambda request, refuse: turn_answer(request, refuse, RELAYED6)
        scene.gather()
        (relay,) = scene.candidates
        assert (relay.host, relay.related_address, relay.related_port) == ("2001:db8::2", "::", 9)

    def test_no_family_no_allocation(self) -> None:
        scene = Scene(None, TURN_SERVER, families=()).gather()
        assert scene.outputs == [Gathered(1)]

    def test_a_relay_is_no_base_to_ask_from(self) -> None:
        scene = Scene((NAME, 3478), TURN_SERVER).gather(HOST)
        (resolve,) = scene.take(Resolve)
        scene.report(Resolved(resolve.query, (STUN[0],)))
        host, relay = sorted((found.base for found in scene.take(Found)), key=lambda base: base.candidate.type)
        assert [query.link for query in scene.queries] == [host.link]
        assert relay.preference == 65535

    def test_one_for_each_component(self) -> None:
        scene = Scene(None, TURN_SERVER).gather().gather(component=2)
        assert [(candidate.type, candidate.component) for candidate in scene.candidates] == [("relay", 1), ("relay", 2)]
        assert scene.ends == [(1, 0.0), (2, 0.0)]
        assert scene.close().open == {}

    def test_a_relay_of_a_gathering_that_was_begun_anew(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turn_answers = False
        scene.gather().gather()
        for link, transmit in [(transmit.link, transmit) for _, transmit in scene.sent]:
            challenge = turn_answer(parse_message(transmit.data))
            scene.gatherer.handle_datagram(scene.now, link, TURN, bytes(challenge))
            scene.turn_answers = True
            scene.drain()
            scene.turn_answers = False
        # One is enough, and late is not too late.
        assert [candidate.type for candidate in scene.candidates] == ["relay"]
        assert scene.verdicts == ["answered", "not needed"]
        assert scene.ends == [(1, 0.0)]

    def test_refused(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turn_refuses = 486
        scene.gather(HOST)
        assert [candidate.type for candidate in scene.candidates] == ["host"]
        assert scene.ends == [(1, 0.0)]
        assert scene.gatherer.idle
        assert not scene.gatherer.is_server_link(1)
        assert Close(1) in scene.outputs

    def test_a_silent_server_holds_it_for_a_second(self) -> None:
        scene = Scene(None, TURN_SERVER)
        # F11: that our own socket opens says nothing about the server.
        scene.turn_answers = False
        assert scene.gather(HOST).run(60.0).ends == [(1, 1.0)]
        assert scene.gatherer.idle

    def test_a_silent_server_over_a_stream_has_shown_life(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(transport="tcp"))
        scene.turn_answers = False
        assert scene.gather(timeout=3.0).run(60.0).ends == [(1, 3.0)]

    def test_a_stream_that_does_not_open_has_not(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(transport="tcp"))
        scene.opens = False
        assert scene.gather().run(60.0).ends == [(1, 1.0)]

    def test_a_server_that_takes_long_for_the_second_answer(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turn_answers = False
        scene.gather().run(0.6)
        challenge = turn_answer(parse_message(scene.sent[0][1].data))
        scene.gatherer.handle_datagram(scene.now, 1, TURN, bytes(challenge))
        scene.drain()
        scene.run(1.2)
        assert scene.ends == []
        answer = turn_answer(parse_message(scene.sent[-1][1].data))
        scene.gatherer.handle_datagram(scene.now, 1, TURN, bytes(answer))
        scene.drain()
        assert scene.ends == [(1, 1.8)]
        assert [candidate.type for candidate in scene.candidates] == ["relay"]

    def test_a_name_that_is_not_known(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(host="turn.example.org"))
        scene.names["turn.example.org"] = ()
        scene.gather(HOST)
        assert scene.ends == [(1, 0.0)]
        assert len(scene.take(OpenUdp)) == 1

    @pytest.mark.parametrize("tls, server_name", [(False, None), (True, TURN[0])])
    def test_over_a_stream(self, tls: bool, server_name: str | None) -> None:
        scene = Scene(None, TURN_SERVER._replace(transport="tcp", tls=tls)).gather()
        assert scene.take(OpenStream) == [OpenStream(1, TURN, server_name)]
        assert [candidate.type for candidate in scene.candidates] == ["relay"]

    def test_a_stream_that_is_refused(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(transport="tcp"))
        scene.opens = False
        scene.gather()
        scene.report(OpenFailed(1, Reason.REFUSED, "refused"))
        assert scene.ends == [(1, 0.0)]

    def test_sends_through_it_and_receives(self) -> None:
        scene = Scene(None, TURN_SERVER).gather()
        peer = ("203.0.113.77", 6000)
        scene.gatherer.relay(scene.now, 2, peer, b"payload")
        scene.drain()
        assert {transmit.peer for _, transmit in scene.sent} == {TURN}
        assert b"payload" in scene.sent[-1][1].data
        data = Message(Method.DATA, Class.INDICATION, bytes(12), {"XOR-PEER-ADDRESS": peer, "DATA": b"back"})
        scene.gatherer.handle_datagram(scene.now, 1, TURN, bytes(data))
        scene.drain()
        assert scene.take(Deliver) == [Deliver(2, peer, b"back")]

    def test_a_peer_that_the_server_refuses(self) -> None:
        scene = Scene(None, TURN_SERVER).gather()
        scene.turn_refuses = 403
        scene.gatherer.relay(scene.now, 2, ("203.0.113.77", 6000), b"\0\1" + bytes(18))
        scene.drain()
        assert scene.take(RelayRefused) == [RelayRefused(2, ("203.0.113.77", 6000), 403)]

    def test_a_server_that_is_gone(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(transport="tcp")).gather()
        scene.report(LinkClosed(1, Reason.CLOSED, "end of file"))
        (lost,) = scene.take(BaseLost)
        assert lost.link == 2 and "end of file" in lost.detail
        scene.gatherer.relay(scene.now, 2, ("203.0.113.77", 6000), b"payload")
        scene.drain()
        assert scene.open == {}

    def test_is_kept_fresh(self) -> None:
        scene = Scene(None, TURN_SERVER).gather()
        scene.run(1800.0)
        methods = {parse_message(transmit.data).message_method for _, transmit in scene.sent}
        assert Method.REFRESH in methods
        assert scene.take(BaseLost) == []
