"""Relayed addresses of both families (RFC 8656 §7.1 to §7.3, §8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aioice.core.allocation import (
    Allocated,
    AllocationFailed,
    AllocationLost,
    FamilyMissing,
    Permitted,
    State,
)
from aioice.core.grants import FAMILIES
from aioice.core.machine import Address, ChannelUnbound, Close, Deliver, Done, OpenRelay
from aioice.core.message import Class, Message, Method
from aioice.core.peers import BATCH
from tests.core.allocation_scene import (
    CHECK,
    LINK,
    MAPPED,
    PEER,
    PEER6,
    RELAY,
    RELAYED,
    RELAYED6,
    Scene,
    dual,
    hosts,
)

RELAY6 = RELAY + 1
FAMILY = "REQUESTED-ADDRESS-FAMILY"
ADDITIONAL = "ADDITIONAL-ADDRESS-FAMILY"


def of_family(scene: Scene, family: int, code: int) -> Callable[[Message], Message | None]:
    """Requests about one family are refused."""

    def override(request: Message) -> Message | None:
        if request.attributes.get(FAMILY) == FAMILIES[family]:
            return scene.server.error(request, code)
        return None

    return override


class TestAllocate:
    @pytest.mark.parametrize("families", [(4, 6), (6, 4)])
    def test_both_from_one_request(self, families: tuple[int, ...]) -> None:
        scene = Scene(families=families)
        scene.server.relayed = (RELAYED6, RELAYED)
        scene.start()
        assert scene.outputs[1:] == [
            OpenRelay(RELAY, RELAYED, MAPPED, LINK),
            Allocated(RELAY, RELAYED, MAPPED),
            OpenRelay(RELAY6, RELAYED6, MAPPED, LINK),
            Allocated(RELAY6, RELAYED6, MAPPED),
        ]
        for seen in scene.requests(Method.ALLOCATE):
            assert seen.message is not None
            assert seen.message.attributes[ADDITIONAL] == seen.message.attributes[f"DRAFT-{ADDITIONAL}"] == FAMILIES[6]
            assert FAMILY not in seen.message.attributes

    @pytest.mark.parametrize("families", [(5,), (4, 5), (0,)])
    def test_no_others_than_those(self, families: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="4, 6 or both"):
            Scene(families=families)

    def test_server_that_knows_one_at_a_time(self) -> None:
        scene = Scene(families=(4, 6)).start()
        assert scene.outputs[2:] == [Allocated(RELAY, RELAYED, MAPPED), FamilyMissing(6, 0)]

    @pytest.mark.parametrize(("missing", "relayed"), [(6, RELAYED), (4, RELAYED6)])
    @pytest.mark.parametrize("code", [440, 508])
    def test_one_is_refused(self, missing: int, relayed: Address, code: int) -> None:
        scene = Scene(families=(4, 6))
        scene.server.relayed = (relayed,)
        scene.server.missing = (FAMILIES[missing] >> 24, code)
        scene.start()
        assert scene.outputs[2:] == [Allocated(RELAY, relayed, MAPPED), FamilyMissing(missing, code)]

    def test_server_without_ipv4(self) -> None:
        # RFC 8656 §7.2: without a family it is IPv4 that is asked for first of all.
        scene = Scene(families=(4, 6))
        scene.server.relayed = (RELAYED6,)
        scene.server.override = lambda request: (
            None if FAMILY in request.attributes else scene.server.error(request, 440)
        )
        scene.start()
        assert scene.outputs[1:] == [
            FamilyMissing(4, 440),
            OpenRelay(RELAY, RELAYED6, MAPPED, LINK),
            Allocated(RELAY, RELAYED6, MAPPED),
        ]

    def test_server_with_neither(self) -> None:
        scene = Scene(families=(4, 6))
        scene.server.refuse = {Method.ALLOCATE: 440}
        scene.start()
        assert scene.take(FamilyMissing) == [FamilyMissing(4, 440)]
        assert [failed.code for failed in scene.take(AllocationFailed)] == [440]

    @pytest.mark.parametrize(("families", "name"), [((4, 6), ADDITIONAL), ((4,), FAMILY)])
    def test_server_that_does_not_know_families(self, families: tuple[int, ...], name: str) -> None:
        number = {ADDITIONAL: 0x8000, FAMILY: 0x0017}[name]
        scene = Scene(families=families)
        scene.server.override = lambda request: (
            scene.server.error(request, 420, **{"UNKNOWN-ATTRIBUTES": [number]}) if name in request.attributes else None
        )
        scene.start()
        assert scene.take(Allocated) == [Allocated(RELAY, RELAYED, MAPPED)]
        assert scene.take(FamilyMissing) == ([FamilyMissing(6, 0)] if len(families) == 2 else [])

    def test_ipv6_from_a_server_that_does_not_know_it(self) -> None:
        scene = Scene(families=(6,))
        scene.server.override = lambda request: scene.server.error(request, 420, **{"UNKNOWN-ATTRIBUTES": [0x0017]})
        scene.start()
        assert [failed.code for failed in scene.take(AllocationFailed)] == [420]

    def test_server_that_gives_what_it_likes(self) -> None:
        scene = Scene(families=(6,)).start()
        assert [failed.detail for failed in scene.take(AllocationFailed)] == [
            "the server gives no address of the families that were asked for"
        ]
        # RFC 8656 §7.3: it is deleted.
        assert scene.methods() == ["ALLOCATE", "ALLOCATE", "REFRESH"]

    def test_address_that_is_none(self) -> None:
        # As coturn does it.
        scene = Scene(families=(4, 6))
        scene.server.relayed = (("0.0.0.0", 0), RELAYED6)
        scene.server.missing = (1, 440)
        scene.start()
        assert scene.take(Allocated) == [Allocated(RELAY, RELAYED6, MAPPED)]
        assert scene.take(FamilyMissing) == [FamilyMissing(4, 440)]

    def test_more_than_was_asked_for(self) -> None:
        scene = Scene(families=(4,))
        scene.server.relayed = (RELAYED, RELAYED6, ("198.51.100.99", 9))
        scene.start()
        assert scene.take(Allocated) == [Allocated(RELAY, RELAYED, MAPPED)]

    def test_whatever_comes(self) -> None:
        scene = Scene()
        scene.server.relayed = (RELAYED6,)
        scene.start()
        assert scene.take(Allocated) == [Allocated(RELAY, RELAYED6, MAPPED)]


class TestData:
    def test_leaves_by_the_family_of_the_peer(self) -> None:
        scene = dual()
        for peer in (PEER, PEER6):
            scene.send(b"data", peer)
        scene.settle()
        assert scene.take(Permitted) == [Permitted(RELAY, PEER[0]), Permitted(RELAY6, PEER6[0])]
        for peer in (PEER, PEER6):
            scene.indicate(b"data", peer)
        assert scene.take(Deliver) == [Deliver(RELAY, PEER, b"data"), Deliver(RELAY6, PEER6, b"data")]
        numbers = [scene.allocation.channel(scene.now, peer) for peer in (PEER, PEER6)]
        assert len(set(numbers)) == 2
        for number in numbers:
            assert number is not None
            scene.receive(number.to_bytes(2, "big") + b"\0\1x")
        assert scene.take(Deliver) == [Deliver(RELAY, PEER, b"x"), Deliver(RELAY6, PEER6, b"x")]

    def test_permissions_of_both_are_renewed_together(self) -> None:
        # RFC 8656 §10.1
        scene = dual()
        for peer in (PEER, PEER6):
            scene.allocation.permit(scene.now, peer[0])
        scene.settle()
        scene.seen.clear()
        scene.run(241)
        assert [hosts(seen) for seen in scene.seen] == [[PEER[0], PEER6[0]]]

    def test_a_full_batch_fits_into_an_ipv6_packet(self) -> None:
        # RFC 8489 §6.1: 1280 bytes with the headers of IPv6 and UDP.
        scene = dual()
        for number in range(BATCH):
            scene.allocation.permit(scene.now, f"2001:db8::{number:x}")
        scene.settle()
        scene.seen.clear()
        scene.run(241)
        (request,) = scene.requests(Method.CREATE_PERMISSION)
        assert len(hosts(request)) == BATCH and len(request.data) <= 1280 - 48


class TestRefresh:
    def test_each_with_its_own_request(self) -> None:
        scene = dual()
        scene.run(1001)
        asked = [seen.message.attributes[FAMILY] for seen in scene.requests(Method.REFRESH) if seen.message]
        assert asked == [FAMILIES[4], FAMILIES[6]] * 2
        assert scene.take(AllocationLost) == []

    @pytest.mark.parametrize("code", [437, 443])
    def test_one_is_lost(self, code: int) -> None:
        scene = dual()
        for peer in (PEER, PEER6):
            scene.send(b"data", peer)
        scene.settle()
        scene.seen.clear()
        scene.server.override = of_family(scene, 6, code)
        scene.run(501)
        assert [(lost.relay_link, lost.code) for lost in scene.take(AllocationLost)] == [(RELAY6, code)]
        assert scene.take(Close) == [Close(RELAY6)]
        # Nor does data pass by us there any more.
        assert scene.channels[-1] == ChannelUnbound(RELAY6, PEER6)
        assert scene.allocation.state is State.READY
        scene.seen.clear()
        scene.run(3600)
        # IPv4 goes on as if nothing had been, and nobody asks for the other.
        assert scene.take(AllocationLost) == []
        about = [seen.message.attributes[FAMILY] for seen in scene.requests(Method.REFRESH) if seen.message]
        assert set(about) == {FAMILIES[4]}
        assert {name for seen in scene.requests(Method.CREATE_PERMISSION) for name in hosts(seen)} == {PEER[0]}
        scene.seen.clear()
        scene.send(b"data", PEER6)
        assert scene.methods() == []
        scene.send(b"data")
        assert "SEND" in scene.methods()

    def test_the_second_goes_too(self) -> None:
        scene = dual()
        scene.server.refuse = {Method.REFRESH: 437}
        scene.run(501)
        assert [lost.relay_link for lost in scene.take(AllocationLost)] == [RELAY, RELAY6]
        assert scene.outputs[:3] == [Close(RELAY), Close(RELAY6), Close(LINK)]
        assert len(scene.take(Done)) == 1

    def test_lifetime_zero_for_one(self) -> None:
        scene = dual()
        scene.server.override = lambda request: (
            scene.server.success(request, LIFETIME=0) if request.attributes.get(FAMILY) == FAMILIES[4] else None
        )
        scene.run(501)
        assert [lost.relay_link for lost in scene.take(AllocationLost)] == [RELAY]
        assert scene.allocation.state is State.READY

    @pytest.mark.parametrize("code", [None, 437])
    def test_answered_after_its_end(self, code: int | None) -> None:
        scene = dual()
        late: list[Message] = []

        def override(request: Message) -> Message | None:
            if request.attributes.get(FAMILY) == FAMILIES[6]:
                late.append(scene.server.error(request, code) if code else scene.server.success(request))
                return Message(Method.REFRESH, Class.INDICATION, bytes(12))
            return None

        scene.server.override = override
        scene.run(610)
        assert [lost.detail for lost in scene.take(AllocationLost)] == ["the allocation has expired"]
        scene.receive(bytes(late[-1]))
        assert scene.take(AllocationLost) == []
        assert scene.allocation.state is State.READY

    def test_server_that_refreshes_only_all(self) -> None:
        scene = dual()
        scene.server.override = lambda request: (
            scene.server.error(request, 420, **{"UNKNOWN-ATTRIBUTES": [0x0017]})
            if FAMILY in request.attributes
            else None
        )
        scene.run(2000)
        assert scene.take(AllocationLost) == []

    def test_any_other_refusal_is_about_all(self) -> None:
        scene = dual()
        scene.server.refuse = {Method.REFRESH: 403}
        scene.run(501)
        assert [lost.relay_link for lost in scene.take(AllocationLost)] == [RELAY, RELAY6]

    @pytest.mark.parametrize("answer", ["success", "refusal", "silence"])
    def test_answers_about_peers_that_have_gone_meanwhile(self, answer: str) -> None:
        scene = dual()
        scene.delay = None
        scene.allocation.permit(scene.now, PEER6[0])
        scene.send(b"data", PEER6)
        # Together with one of the other family.
        scene.peers._ask_permissions(tuple(scene.peers._permissions.values()))
        scene.drain()
        asked = [seen.message for seen in scene.seen if seen.message and "XOR-PEER-ADDRESS" in seen.message.attributes]
        scene.delay = 0.0
        scene.server.override = of_family(scene, 6, 443)
        scene.allocation.probe(scene.now)
        scene.settle()
        assert [lost.relay_link for lost in scene.take(AllocationLost)] == [RELAY6]
        scene.server.override = None
        for request in asked:
            if answer == "silence" or request.message_method == Method.SEND:
                continue
            made = scene.server.success(request) if answer == "success" else scene.server.error(request, 403)
            scene.receive(bytes(made))
        scene.server.silent = {Method.CREATE_PERMISSION, Method.CHANNEL_BIND}
        scene.run(3600)
        assert scene.peers._permissions == {}
        assert scene.peers._channels == {}
        assert scene.allocation.state is State.READY


class TestRelease:
    """RFC 8656 §8.1: by a refresh without lifetime, of one family or of all."""

    def deletions(self, scene: Scene) -> list[int | None]:
        refreshes = [seen.message.attributes for seen in scene.requests(Method.REFRESH) if seen.message]
        return [attributes.get(FAMILY) for attributes in refreshes if attributes["LIFETIME"] == 0]

    def test_one_after_the_other(self) -> None:
        scene = dual()
        scene.send(b"data", PEER6)
        scene.settle()
        scene.outputs.clear()
        scene.allocation.release(scene.now, RELAY6)
        scene.settle()
        assert self.deletions(scene) == [FAMILIES[6]]
        assert scene.outputs == [Close(RELAY6)] and scene.channels[-1] == ChannelUnbound(RELAY6, PEER6)
        scene.seen.clear()
        scene.run(3600)
        about = [seen.message.attributes[FAMILY] for seen in scene.requests(Method.REFRESH) if seen.message]
        assert set(about) == {FAMILIES[4]}
        scene.allocation.release(scene.now, RELAY)
        scene.settle()
        assert self.deletions(scene) == [None]
        assert scene.outputs[1:] == [Close(RELAY), Close(LINK), Done("closed")]

    def test_one_that_is_not_there(self) -> None:
        scene = dual()
        scene.allocation.release(scene.now, LINK)
        scene.settle()
        assert scene.outputs == [] and scene.methods() == []


class TestClose:
    def test_one_deletion_for_both(self) -> None:
        scene = dual()
        scene.close()
        (request,) = scene.requests(Method.REFRESH)
        assert request.message is not None
        assert request.message.attributes["LIFETIME"] == 0
        assert FAMILY not in request.message.attributes
        assert scene.outputs == [Close(RELAY), Close(RELAY6), Close(LINK), Done("closed")]

    def test_after_one_has_gone(self) -> None:
        scene = dual()
        scene.server.override = of_family(scene, 6, 443)
        scene.run(501)
        scene.send(CHECK)
        scene.close()
        assert [output for output in scene.outputs if isinstance(output, Close)] == [
            Close(RELAY6),
            Close(RELAY),
            Close(LINK),
        ]
