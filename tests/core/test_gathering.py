"""From interfaces and servers to candidates (RFC 8445 §5.1.1)."""

from __future__ import annotations

import pytest

from aioice.core.bases import BaseLost, Found
from aioice.core.candidate import candidate_foundation
from aioice.core.machine import (
    Close,
    LinkClosed,
    Opened,
    OpenFailed,
    OpenUdp,
    Reason,
    Resolve,
    Resolved,
    SendFailed,
    Transmit,
    Tunables,
)
from aioice.core.message import Class, Message, Method, parse_message
from tests.core.gather_scene import (
    HOST,
    HOST6,
    MAPPED,
    OTHER,
    STUN,
    STUN6,
    TURN,
    TURN_SERVER,
    Scene,
    stun_answer,
    turn_answer,
)
from tests.core.pairs import base

NAME = "stun.example.org"


class TestHosts:
    def test_one_socket_and_one_candidate_for_each_address(self) -> None:
        scene = Scene().gather(HOST, HOST6)
        assert scene.take(OpenUdp) == [OpenUdp(1, HOST), OpenUdp(2, HOST6)]
        first, second = scene.candidates
        assert (first.host, first.port, first.type, first.component, first.transport) == (HOST, 1001, "host", 1, "udp")
        assert (second.host, second.port) == (HOST6, 1002)
        assert first.related_address is None and first.related_port is None
        assert first.foundation == candidate_foundation("host", "udp", HOST) != second.foundation
        assert all(found.base.candidate is found.candidate for found in scene.take(Found))
        assert scene.ends == [(1, 0.0)]
        assert scene.gatherer.idle
        assert scene.gatherer.poll_timeout() is None

    def test_preferences_are_unique_and_families_take_turns(self) -> None:
        # F13, RFC 8421 §4: with two of each, an IPv4 address follows after two of IPv6.
        scene = Scene().gather(HOST, OTHER, HOST6, "2001:db8:2::1")
        by_priority = sorted(scene.candidates, key=lambda candidate: -candidate.priority)
        assert [candidate.host for candidate in by_priority] == [HOST6, "2001:db8:2::1", HOST, OTHER]
        assert len({candidate.priority for candidate in by_priority}) == 4
        assert len({found.base.preference for found in scene.take(Found)}) == 4

    def test_priority_by_the_component(self) -> None:
        # RFC 8445 §5.1.2.1
        scene = Scene().gather(HOST).gather(HOST, component=2)
        first, second = scene.candidates
        assert first.priority == (126 << 24) + (65535 << 8) + 255
        assert second.priority == first.priority - 1
        assert first.foundation == second.foundation

    def test_the_address_that_was_bound_counts(self) -> None:
        scene = Scene()
        scene.opens = False
        scene.gather("0.0.0.0")
        scene.open_late(1, (HOST, 7))
        scene.drain()
        assert [(candidate.host, candidate.port) for candidate in scene.candidates] == [(HOST, 7)]

    def test_one_that_cannot_be_bound_is_skipped(self) -> None:
        scene = Scene()
        scene.refused_hosts.add(HOST)
        scene.gather(HOST, OTHER)
        assert [candidate.host for candidate in scene.candidates] == [OTHER]
        assert scene.ends == [(1, 0.0)]

    def test_none_at_all(self) -> None:
        scene = Scene(STUN).gather()
        assert scene.candidates == [] and scene.sent == []
        assert scene.ends == [(1, 0.0)]

    def test_sockets_that_take_long_to_open_hold_it_until_the_timeout(self) -> None:
        scene = Scene()
        scene.opens = False
        scene.gather(HOST, timeout=3.0).run(10.0)
        assert scene.ends == [(1, 3.0)]
        assert not scene.gatherer.idle
        scene.open_late(1, (HOST, 7))
        scene.drain()
        assert len(scene.candidates) == 1
        assert scene.gatherer.idle

    def test_a_socket_of_the_application(self) -> None:
        scene = Scene(STUN)
        adopted = base(77)
        scene.gatherer.adopt(adopted)
        scene.report(Opened(77, (HOST, 1)))
        assert scene.outputs == []
        scene.gather(HOST, component=2)
        assert [query.link for query in scene.queries] == [1]
        assert Close(77) in scene.close().outputs

    def test_a_socket_that_dies(self) -> None:
        scene = Scene(STUN).gather(HOST)
        scene.report(LinkClosed(1, Reason.OTHER, "interface gone"))
        (host,) = scene.candidates
        assert scene.outputs[-3:-1] == [BaseLost(1, "other error: interface gone", (host,)), Close(1)]
        # Its query ends with it.
        assert scene.ends == [(1, 0.0)]
        scene.run(100.0)
        assert len(scene.queries) == 1
        scene.report(LinkClosed(1, Reason.OTHER, "again"))
        assert len(scene.take(Close)) == 1
        assert len(scene.close().take(Close)) == 1


class TestReflexive:
    def test_from_a_literal_address(self) -> None:
        scene = Scene(STUN).gather(HOST)
        (query,) = scene.queries
        assert (query.link, query.peer) == (1, STUN)
        request = parse_message(query.data)
        assert (request.message_method, request.message_class) == (Method.BINDING, Class.REQUEST)
        assert list(request.attributes) == ["FINGERPRINT"]
        assert scene.ends == [] and not scene.gatherer.idle
        scene.answer(query)
        host, reflexive = scene.candidates
        assert (reflexive.type, reflexive.host, reflexive.port) == ("srflx", *MAPPED)
        assert (reflexive.related_address, reflexive.related_port) == (HOST, 1001)
        assert reflexive.priority == (100 << 24) + (65535 << 8) + 255
        assert reflexive.foundation == candidate_foundation("srflx", "udp", HOST, server=STUN[0])
        first, second = scene.take(Found)
        assert second.base is first.base and second.base.candidate is host
        assert scene.ends == [(1, 0.0)]
        assert scene.gatherer.idle

    def test_through_a_name(self) -> None:
        scene = Scene((NAME, 3478))
        scene.names[NAME] = (STUN[0],)
        scene.gather(HOST)
        scene.answer(scene.queries[0])
        assert [candidate.type for candidate in scene.candidates] == ["host", "srflx"]
        assert scene.ends == [(1, 0.0)]

    def test_through_a_name_that_takes_long(self) -> None:
        scene = Scene((NAME, 3478)).gather(HOST)
        (resolve,) = scene.take(Resolve)
        assert resolve.name == NAME
        scene.run(0.3)
        scene.report(Resolved(resolve.query, (STUN[0],)))
        scene.answer(scene.queries[0])
        assert scene.ends == [(1, 0.3)]

    def test_a_name_without_addresses(self) -> None:
        scene = Scene((NAME, 3478)).gather(HOST).run(0.5)
        (resolve,) = scene.take(Resolve)
        scene.report(Resolved(resolve.query, ()))
        assert scene.ends == [(1, 0.5)]
        scene.report(Resolved(resolve.query, (STUN[0],)))
        assert scene.queries == []
        # It is not looked up for each component.
        scene.gather(HOST, component=2)
        assert len(scene.take(Resolve)) == 1

    def test_one_query_for_each_base_in_its_family(self) -> None:
        # F15, RFC 8445 §5.1.1.2
        scene = Scene((NAME, 3478))
        scene.names[NAME] = (STUN6[0], STUN[0])
        scene.gather(HOST, HOST6, OTHER)
        assert [(query.link, query.peer) for query in scene.queries] == [(1, STUN), (2, STUN6), (3, STUN)]
        for port, query in enumerate(scene.queries):
            scene.answer(query, (MAPPED[0], 40000 + port))
        assert [candidate.related_address for candidate in scene.candidates[3:]] == [HOST, HOST6, OTHER]

    def test_no_address_of_the_family(self) -> None:
        scene = Scene(STUN).gather(HOST6)
        assert scene.queries == []
        assert scene.ends == [(1, 0.0)]

    @pytest.mark.parametrize("server", [STUN[0], NAME])
    def test_each_base_asks_once_however_many_components(self, server: str) -> None:
        scene = Scene((server, 3478))
        scene.gather(HOST).gather(HOST, component=2)
        for resolve in scene.take(Resolve):
            scene.report(Resolved(resolve.query, (STUN[0],)))
        assert len(scene.queries) == len({query.link for query in scene.queries}) == 2

    def test_a_base_that_opens_after_the_name_was_looked_up(self) -> None:
        scene = Scene((NAME, 3478))
        scene.opens = False
        scene.gather(HOST).gather(HOST, component=2)
        (resolve,) = scene.take(Resolve)
        scene.report(Resolved(resolve.query, (STUN[0],)))
        for output in scene.take(OpenUdp):
            scene.open_late(output.link, (HOST, output.link))
        scene.drain()
        assert len(scene.queries) == len({query.link for query in scene.queries}) == 2

    def test_a_host_without_nat_has_no_redundant_candidate(self) -> None:
        # RFC 8445 §5.1.3
        scene = Scene(STUN).gather(HOST)
        scene.answer(scene.queries[0], (HOST, 1001))
        assert [candidate.type for candidate in scene.candidates] == ["host"]
        assert scene.ends == [(1, 0.0)]

    def test_two_servers_that_see_the_same_give_one_candidate(self) -> None:
        scene = Scene((NAME, 3478))
        scene.names[NAME] = (STUN[0], "192.0.2.7")
        scene.gather(HOST)
        for transmit in [transmit for _, transmit in scene.sent]:
            scene.answer(transmit)
        assert len(scene.sent) == 2
        assert [candidate.type for candidate in scene.candidates] == ["host", "srflx"]

    def test_a_server_that_knows_mapped_address_only(self) -> None:
        # RFC 8489 §11
        scene = Scene(STUN).gather(HOST)
        scene.answer(scene.queries[0], MAPPED, "MAPPED-ADDRESS")
        assert (scene.candidates[1].host, scene.candidates[1].port) == MAPPED

    @pytest.mark.parametrize("mapped", [None, ("203.0.113.9", 0)])
    def test_an_answer_without_a_usable_address(self, mapped: tuple[str, int] | None) -> None:
        scene = Scene(STUN).gather(HOST)
        scene.answer(scene.queries[0], mapped)
        assert len(scene.candidates) == 1
        assert scene.ends == [(1, 0.0)]

    def test_an_answer_with_what_must_be_understood_and_is_not(self) -> None:
        # RFC 8489 §6.3.3
        scene = Scene(STUN).gather(HOST)
        answer = stun_answer(parse_message(scene.queries[0].data))
        answer.unknown_required = (0x7777,)
        scene.gatherer.handle_answer(scene.now, 1, STUN, answer)
        scene.drain()
        assert len(scene.candidates) == 1
        assert scene.ends == [(1, 0.0)]

    def test_an_error(self) -> None:
        scene = Scene(STUN).gather(HOST)
        transaction_id = parse_message(scene.queries[0].data).transaction_id
        error = Message(Method.BINDING, Class.ERROR, transaction_id, {"ERROR-CODE": (500, "")})
        scene.gatherer.handle_answer(scene.now, 1, STUN, error)
        scene.drain()
        assert len(scene.candidates) == 1
        assert scene.ends == [(1, 0.0)]

    def test_an_answer_from_elsewhere_is_ignored(self) -> None:
        scene = Scene(STUN).gather(HOST)
        (query,) = scene.queries
        scene.answer(query, peer=("192.0.2.66", 3478))
        scene.answer(query, peer=(STUN[0], 3479))
        scene.answer(Transmit(9, STUN, query.data))
        assert len(scene.candidates) == 1 and scene.ends == []
        scene.answer(query)
        assert len(scene.candidates) == 2

    def test_a_second_answer_is_ignored(self) -> None:
        scene = Scene(STUN).gather(HOST)
        scene.answer(scene.queries[0])
        scene.answer(scene.queries[0], ("203.0.113.10", 1))
        assert len(scene.candidates) == 2


class TestSilence:
    def test_a_silent_server_holds_it_for_a_second(self) -> None:
        # F10, F11
        scene = Scene(STUN).gather(HOST).run(60.0)
        assert scene.ends == [(1, 1.0)]
        assert [when - 100 for when, _ in scene.sent] == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
        assert {transmit for _, transmit in scene.sent} == {scene.queries[0]}
        assert scene.gatherer.idle

    def test_or_for_less_if_there_is_less_time(self) -> None:
        assert Scene(STUN).gather(HOST, timeout=0.2).run(60.0).ends == [(1, 0.2)]

    def test_a_name_that_is_never_resolved_too(self) -> None:
        scene = Scene((NAME, 3478)).gather(HOST).run(60.0)
        assert scene.ends == [(1, 1.0)]

    def test_a_late_answer_still_gives_a_candidate(self) -> None:
        # RFC 8838 §10
        scene = Scene(STUN).gather(HOST).run(20.0)
        assert len(scene.candidates) == 1 and not scene.gatherer.idle
        scene.answer(scene.queries[0])
        assert len(scene.candidates) == 2
        assert scene.ends == [(1, 1.0)]
        assert scene.gatherer.idle

    def test_the_system_says_that_nobody_is_there(self) -> None:
        # F11
        scene = Scene(STUN).gather(HOST, OTHER)
        scene.report(SendFailed(1, ("192.0.2.66", 3478), Reason.REFUSED))
        scene.report(SendFailed(9, STUN, Reason.REFUSED))
        scene.report(SendFailed(1, STUN, Reason.TOO_BIG))
        assert scene.ends == []
        for link in (1, 2):
            scene.report(SendFailed(link, STUN, Reason.REFUSED))
        assert scene.ends == [(1, 0.0)]
        scene.run(60.0)
        assert len(scene.sent) == 2

    def test_components_are_reported_each_on_its_own(self) -> None:
        scene = Scene(STUN).gather(HOST)
        scene.run(0.5).gather(HOST, component=2)
        scene.answer(scene.queries[-1])
        assert scene.run(5.0).ends == [(2, 0.5), (1, 1.0)]

    def test_tunables_that_a_program_has_set(self) -> None:
        scene = Scene(STUN, tunables=Tunables(retry_max=9))
        scene.gatherer.tune(Tunables(retry_max=1, retry_rto=0.1))
        scene.gather(HOST).run(60.0)
        assert [when - 100 for when, _ in scene.sent] == pytest.approx([0.0, 0.1])
        assert scene.ends == [(1, pytest.approx(0.3))]

    def test_a_wake_up_before_anything(self) -> None:
        scene = Scene()
        scene.gatherer.handle_timeout(scene.now)
        scene.drain()
        assert scene.outputs == [] and scene.gatherer.poll_timeout() is None

    def test_spurious_wake_ups_and_reports(self) -> None:
        scene = Scene(STUN).gather(HOST)
        before = list(scene.outputs)
        scene.gatherer.handle_timeout(scene.now)
        scene.report(OpenFailed(99, Reason.BIND, ""))
        scene.report(LinkClosed(99, Reason.OTHER, ""))
        scene.report(Resolved(99, ("192.0.2.66",)))
        scene.report(Tunables())
        scene.gatherer.handle_datagram(scene.now, 99, STUN, b"anything")
        scene.gatherer.relay(scene.now, 99, STUN, b"anything")
        scene.drain()
        assert scene.outputs == before


class TestClose:
    def test_every_socket(self) -> None:
        scene = Scene(STUN).gather(HOST, OTHER).close()
        assert scene.open == {}
        assert scene.ends == [(1, 0.0)]
        assert scene.gatherer.done and scene.gatherer.idle
        assert scene.gatherer.poll_timeout() is None
        scene.answer(scene.queries[0])
        assert len(scene.candidates) == 2

    def test_while_opening(self) -> None:
        # A late Opened gets its Close.
        scene = Scene()
        scene.opens = False
        scene.gather(HOST).close()
        assert scene.take(Close) == [Close(1)]
        assert scene.ends == [(1, 0.0)]
        scene.open_late(1, (HOST, 5))
        scene.drain()
        assert scene.open == {}
        assert scene.candidates == []

    def test_a_late_failure_to_open(self) -> None:
        scene = Scene()
        scene.opens = False
        scene.gather(HOST).close()
        scene.report(OpenFailed(1, Reason.BIND, ""))
        assert scene.take(Close) == [Close(1)]

    def test_a_socket_of_a_gathering_that_was_begun_anew(self) -> None:
        scene = Scene()
        scene.opens = False
        scene.gather(HOST).gather(HOST)
        scene.open_late(1, (HOST, 5))
        scene.open_late(2, (HOST, 6))
        scene.drain()
        assert scene.open == {2: (HOST, 6)}
        assert [candidate.port for candidate in scene.candidates] == [6]

    def test_while_a_name_is_looked_up(self) -> None:
        scene = Scene((NAME, 3478), TURN_SERVER._replace(host="turn.example.org")).gather(HOST).close()
        for resolve in scene.take(Resolve):
            scene.report(Resolved(resolve.query, (STUN[0],)))
        assert scene.sent == []
        assert scene.open == {}

    def test_deletes_the_allocation(self) -> None:
        scene = Scene(None, TURN_SERVER).gather(HOST)
        scene.turn_answers = False
        scene.close()
        request = parse_message(scene.sent[-1][1].data)
        assert (request.message_method, request.attributes["LIFETIME"]) == (Method.REFRESH, 0)
        assert not scene.gatherer.done
        scene.gatherer.handle_datagram(scene.now, 1, TURN, bytes(turn_answer(request)))
        scene.drain()
        assert scene.gatherer.done
        assert scene.open == {}

    def test_and_does_not_wait_for_it_for_longer_than_a_second(self) -> None:
        scene = Scene(None, TURN_SERVER).gather(HOST)
        scene.turn_answers = False
        scene.close().run(0.9)
        assert not scene.gatherer.done
        scene.run(0.1)
        assert scene.gatherer.done and scene.open == {}
        assert scene.gatherer.poll_timeout() is None

    def test_while_allocating(self) -> None:
        scene = Scene(None, TURN_SERVER)
        scene.turn_answers = False
        scene.gather().close()
        assert scene.ends == [(1, 0.0)]
        request = parse_message(scene.sent[-1][1].data)
        scene.gatherer.handle_datagram(scene.now, 1, TURN, bytes(turn_answer(request)))
        scene.drain()
        scene.run(5.0)
        assert scene.gatherer.done and scene.open == {}
        assert scene.candidates == []

    def test_while_a_stream_to_the_server_opens(self) -> None:
        scene = Scene(None, TURN_SERVER._replace(transport="tcp"))
        scene.opens = False
        scene.gather().close()
        assert scene.gatherer.done
        scene.open_late(1, (HOST, 5))
        scene.drain()
        assert scene.open == {}
