"""Permissions and channels (RFC 8656 §9, §10, §12)."""

from __future__ import annotations

import pytest

from aioice.core.allocation import State
from aioice.core.deadlines import PORTION, Deadlines
from aioice.core.demux import CHANNEL_MAX, CHANNEL_MIN
from aioice.core.machine import ChannelBound, ChannelUnbound, Deliver
from aioice.core.message import Message, Method
from aioice.core.peers import (
    CHANNEL_COOL_DOWN,
    CHANNEL_LIFETIME,
    RETRY_REFUSED,
    Ask,
    Bound,
    PeerRefused,
    Peers,
    Permitted,
)
from tests.core.allocation_scene import CHECK, LINK, PEER, RELAY, SERVER, bound, hosts, ready
from tests.core.pairs import drain


class TestPermission:
    def test_refreshed(self) -> None:
        scene = ready()
        scene.allocation.permit(scene.now, PEER[0])
        scene.run(3600)
        times = [round(seen.when - 100) for seen in scene.requests(Method.CREATE_PERMISSION)]
        assert times == list(range(0, 3601, 240))

    def test_refused(self) -> None:
        # F38: 50 checks, one request, and the other peer goes on.
        scene = ready()
        scene.server.refuse = {Method.CREATE_PERMISSION: 403}
        scene.send(CHECK)
        scene.settle()
        (refused,) = scene.take(PeerRefused)
        assert (refused.relay_link, refused.peer, refused.code) == (RELAY, PEER, 403)
        assert refused.response.error_code == 403
        for _ in range(50):
            scene.send(CHECK)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]
        assert len(scene.take(PeerRefused)) == 50
        scene.indicate()
        assert scene.take(Deliver) == []
        scene.server.refuse = {}
        other = ("198.51.100.9", 1)
        scene.send(CHECK, other)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]
        scene.run(RETRY_REFUSED + 1)
        scene.seen.clear()
        scene.send(CHECK)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]

    def test_refused_without_a_packet(self) -> None:
        scene = ready()
        scene.server.refuse = {Method.CREATE_PERMISSION: 403}
        scene.allocation.permit(scene.now, PEER[0])
        scene.settle()
        scene.allocation.permit(scene.now, PEER[0])
        scene.settle()
        assert [refused.peer for refused in scene.take(PeerRefused)] == [(PEER[0], 0)] * 2
        assert scene.methods() == ["CREATE_PERMISSION"]

    def test_other_family(self) -> None:
        scene = ready()
        scene.send(CHECK, ("2001:db8::5", 1))
        assert scene.take(PeerRefused) == [PeerRefused(RELAY, ("2001:db8::5", 1), 443)]
        assert scene.methods() == []

    def test_unanswered(self) -> None:
        scene = ready()
        scene.server.silent = {Method.CREATE_PERMISSION}
        scene.send(CHECK)
        scene.run(40)
        # The server is asked whether it still knows us.
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"] + ["CREATE_PERMISSION"] * 6 + ["REFRESH"]
        assert scene.peers._permissions == {}
        scene.server.silent = set()
        scene.send(CHECK)
        scene.settle()
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]
        assert scene.take(Permitted) == [Permitted(RELAY, PEER[0])]

    @pytest.mark.parametrize("code", [403, 500])
    def test_refresh_is_refused_for_a_while(self, code: int) -> None:
        scene = ready()
        scene.allocation.permit(scene.now, PEER[0])
        scene.run(230)
        scene.server.refuse = {Method.CREATE_PERMISSION: code}
        scene.run(40)
        scene.indicate()
        assert scene.take(PeerRefused) == []
        assert len(scene.take(Deliver)) == 1
        scene.run(60)
        assert [refused.code for refused in scene.take(PeerRefused)] == [code]

    def test_refresh_is_lost(self) -> None:
        scene = ready()
        scene.allocation.permit(scene.now, PEER[0])
        scene.run(230)
        scene.server.silent = {Method.CREATE_PERMISSION}
        scene.run(60)
        scene.server.silent = set()
        scene.seen.clear()
        scene.run(8)
        assert scene.methods() == ["CREATE_PERMISSION"]
        assert scene.peers._permissions[PEER[0]].until > scene.now + 280

    def test_expired_permission_is_asked_for_at_once(self) -> None:
        scene = ready()
        scene.send(CHECK)
        scene.settle()
        permission = scene.peers._permissions[PEER[0]]
        # The computer slept.
        scene.now += 400
        assert scene.now > permission.until
        scene.seen.clear()
        scene.send(CHECK)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]

    def test_server_without_create_permission(self) -> None:
        scene = ready()
        scene.server.refuse = {Method.CREATE_PERMISSION: 400}
        scene.send(CHECK)
        scene.settle()
        assert scene.methods() == ["CREATE_PERMISSION", "SEND", "REFRESH", "CHANNEL_BIND"]
        assert scene.take(PeerRefused) == []
        assert scene.take(Permitted) == [Permitted(RELAY, PEER[0])]
        scene.run(250)
        scene.send(b"data")
        assert scene.methods() == ["CREATE_PERMISSION", "REFRESH", "channel"]

    def test_data_to_a_server_without_create_permission(self) -> None:
        scene = ready()
        scene.server.refuse = {Method.CREATE_PERMISSION: 400}
        scene.delay = 0.05
        scene.send(b"data")
        scene.run(1)
        # The server had to drop it: again over the channel that brings the permission.
        assert scene.methods() == ["CREATE_PERMISSION", "CHANNEL_BIND", "SEND", "REFRESH", "channel"]

    def test_server_with_neither(self) -> None:
        scene = ready()
        scene.delay = 0.05
        scene.server.refuse = {Method.CREATE_PERMISSION: 400, Method.CHANNEL_BIND: 400}
        scene.send(CHECK)
        scene.run(0.06)
        scene.send(CHECK)
        scene.run(1)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND", "REFRESH", "CHANNEL_BIND", "SEND"]
        assert [refused.code for refused in scene.take(PeerRefused)] == [400]
        # A second host, and no number is left.
        scene.peers._next_number = CHANNEL_MAX + 1
        scene.send(CHECK, ("198.51.100.9", 1))
        scene.run(1)
        assert [refused.code for refused in scene.take(PeerRefused)] == [400]

    def test_bind_that_comes_with_no_permission_is_lost(self) -> None:
        scene = ready()
        scene.server.refuse = {Method.CREATE_PERMISSION: 400}
        scene.server.silent = {Method.CHANNEL_BIND}
        scene.send(CHECK)
        scene.run(40)
        assert scene.take(PeerRefused) == [PeerRefused(RELAY, PEER, 400)]

    def test_many_are_renewed_in_portions(self) -> None:
        scene = ready()
        for number in range(200):
            scene.allocation.permit(scene.now, f"10.0.0.{number}")
        scene.settle()
        assert scene.methods() == ["CREATE_PERMISSION"] * 200
        assert len(scene.take(Permitted)) == 200
        scene.run(239.999)
        assert scene.methods() == []
        scene.now += 1
        scene.allocation.handle_timeout(scene.now)
        scene.drain()
        assert [len(hosts(seen)) for seen in scene.requests(Method.CREATE_PERMISSION)] == [PORTION]
        scene.allocation.handle_timeout(scene.now)
        scene.drain()
        assert scene.methods() == ["CREATE_PERMISSION"]
        scene.run(1)
        assert sum(len(hosts(seen)) for seen in scene.requests(Method.CREATE_PERMISSION)) == 200 - PORTION
        assert scene.methods() == ["CREATE_PERMISSION"] * 6
        # They were there already.
        assert scene.take(Permitted) == []

    def test_those_of_half_a_minute_are_renewed_together(self) -> None:
        scene = ready()
        for number in range(30):
            scene.allocation.permit(scene.now, f"10.0.0.{number}")
            scene.run(1)
        scene.seen.clear()
        scene.run(211)
        assert [(round(seen.when - 100), len(hosts(seen))) for seen in scene.seen] == [(240, 30)]

    def test_one_forbidden_host_does_not_cost_the_others(self) -> None:
        scene = ready()
        names = [f"10.0.0.{number}" for number in range(5)]
        for name in names:
            scene.allocation.permit(scene.now, name)
        scene.run(1)
        scene.seen.clear()

        def override(request: Message) -> Message | None:
            if (names[2], 0) in request.values("XOR-PEER-ADDRESS"):
                return scene.server.error(request, 403)
            return None

        scene.server.override = override
        scene.run(240)
        assert [hosts(seen) for seen in scene.seen] == [names] + [[name] for name in names]
        scene.run(60)
        # The forbidden one lasts until its five minutes are over.
        assert [refused.peer[0] for refused in scene.take(PeerRefused)] == [names[2]]
        assert all(scene.peers._permissions[name].until > scene.now + 200 for name in names if name != names[2])

    @pytest.mark.parametrize("code", [401, 441, 500, 508])
    def test_trouble_that_is_not_about_hosts_splits_no_batch(self, code: int) -> None:
        scene = ready()
        for number in range(5):
            scene.allocation.permit(scene.now, f"10.0.0.{number}")
        scene.run(239)
        scene.seen.clear()
        scene.server.refuse = {Method.CREATE_PERMISSION: code}
        scene.run(2)
        scene.server.refuse = {}
        scene.run(RETRY_REFUSED)
        assert [len(hosts(seen)) for seen in scene.seen] == [5, 5]
        assert scene.take(PeerRefused) == []

    def test_lost_batch(self) -> None:
        scene = ready()
        for number in range(5):
            scene.allocation.permit(scene.now, f"10.0.0.{number}")
        scene.run(239)
        scene.server.silent = {Method.CREATE_PERMISSION}
        scene.run(41)
        scene.server.silent = set()
        scene.seen.clear()
        scene.run(8)
        assert [len(hosts(seen)) for seen in scene.seen] == [5]
        assert all(permission.until > scene.now for permission in scene.peers._permissions.values())

    def test_computer_slept(self) -> None:
        # All is overdue: the allocation is asked for first, then the permissions, together.
        scene = ready()
        for number in range(40):
            scene.allocation.permit(scene.now, f"10.0.0.{number}")
        scene.settle()
        scene.seen.clear()
        scene.now += 4 * 3600
        scene.allocation.handle_timeout(scene.now)
        scene.drain()
        assert scene.methods() == ["REFRESH", "CREATE_PERMISSION"]
        scene.run(1)
        assert scene.methods() == ["CREATE_PERMISSION"]
        assert len(scene.take(Permitted)) == 80
        assert scene.allocation.state is State.READY


class TestChannel:
    def test_bound_in_the_background(self) -> None:
        scene = ready()
        scene.delay = 0.05
        scene.send(b"one")
        assert scene.allocation.channel(scene.now, PEER) is None
        assert scene.methods() == ["CREATE_PERMISSION", "CHANNEL_BIND", "SEND"]
        for _ in range(200):
            scene.send(b"more")
        assert scene.methods() == ["SEND"] * 200
        scene.run(0.06)
        scene.send(b"two")
        assert scene.methods() == ["channel"]
        assert scene.allocation.channel(scene.now, PEER) == CHANNEL_MIN

    def test_brings_the_permission_back(self) -> None:
        scene = bound()
        scene.send(b"data")
        scene.run(200)
        scene.server.silent = {Method.CREATE_PERMISSION}
        scene.run(200)
        scene.indicate()
        assert scene.take(Deliver) == []
        scene.run(101)
        scene.indicate()
        assert len(scene.take(Deliver)) == 1

    def test_channel_data(self) -> None:
        scene = bound()
        scene.send(b"hello")
        assert scene.seen[-1].data == b"\x40\x00\x00\x05hello"

    def test_refresh_does_not_stall(self) -> None:
        # F36: 200 packets at once when the refresh is due, one ChannelBind, all over the old channel.
        scene = bound()
        scene.now += 501
        scene.delay = 0.1
        for _ in range(200):
            scene.send(b"data")
        assert scene.methods() == ["CHANNEL_BIND"] + ["channel"] * 200
        scene.run(0.2)
        for _ in range(200):
            scene.send(b"data")
        methods = scene.methods()
        assert methods.count("CHANNEL_BIND") == 0
        assert methods.count("channel") == 200

    def test_taken_back_after_a_long_sleep(self) -> None:
        """Renewal and end are overdue together: the runner must not go on with a number that means nobody."""
        deadlines = Deadlines()
        peers = Peers(0.0, {4: RELAY}, 500, deadlines)
        assert peers.send(0.0, PEER, b"data")
        asked = [output for output in drain(peers) if isinstance(output, Ask)]
        for ask in asked:
            peers.handle_success(0.1, ask.subject, 0.0)
        assert Bound(RELAY, PEER, CHANNEL_MIN) in drain(peers)
        later = float(CHANNEL_LIFETIME + CHANNEL_COOL_DOWN + 1)
        for item in deadlines.take(later):
            peers.handle_deadline(later, item)
        assert ChannelUnbound(RELAY, PEER) in drain(peers)

    @pytest.mark.parametrize("code", [403, None])
    def test_failed_refresh_keeps_the_channel(self, code: int | None) -> None:
        # F37
        scene = bound()
        scene.send(b"data")
        if code is None:
            scene.server.silent = {Method.CHANNEL_BIND}
        else:
            scene.server.refuse = {Method.CHANNEL_BIND: code}
        scene.run(550)
        assert len(scene.requests(Method.CHANNEL_BIND)) >= 1
        scene.seen.clear()
        scene.send(b"data")
        assert scene.methods() == ["channel"]
        scene.run(60)
        scene.seen.clear()
        scene.send(b"data")
        assert "SEND" in scene.methods()
        scene.server.refuse = {}
        scene.server.silent = set()
        scene.run(100)
        scene.send(b"data")
        scene.run(1)
        scene.seen.clear()
        scene.send(b"data")
        # The same number for the same peer.
        assert scene.seen[-1].data[:2] == b"\x40\x00"

    def test_refused_binding_is_no_storm(self) -> None:
        # F38
        scene = ready()
        scene.server.refuse = {Method.CHANNEL_BIND: 403}
        for _ in range(50):
            scene.send(b"data")
            scene.settle()
        methods = scene.methods()
        assert methods.count("CHANNEL_BIND") == 1
        assert methods.count("SEND") == 50
        scene.run(RETRY_REFUSED + 1)
        scene.send(b"data")
        assert scene.methods()[-2:] == ["CHANNEL_BIND", "SEND"]

    def test_idle_channel_is_let_go_and_its_number_used_again_after_the_cool_down(self) -> None:
        scene = bound()
        scene.run(CHANNEL_LIFETIME + CHANNEL_COOL_DOWN - 1)
        assert len(scene.requests(Method.CHANNEL_BIND)) == 0
        assert scene.peers._numbers
        scene.run(2)
        assert not scene.peers._numbers
        assert not scene.peers._channels
        scene.peers._next_number = CHANNEL_MAX + 1
        other = ("198.51.100.9", 1)
        scene.send(b"data", other)
        scene.settle()
        assert scene.allocation.channel(scene.now, other) == CHANNEL_MIN

    def test_used_channel_is_kept(self) -> None:
        scene = bound()
        for _ in range(100):
            scene.send(b"data")
            scene.run(60)
        times = [round(seen.when - 100, -1) for seen in scene.requests(Method.CHANNEL_BIND)]
        assert times == [500 * number for number in range(1, 13)]
        assert {seen.data[:2] for seen in scene.seen if seen.message is None} == {b"\x40\x00"}
        assert scene.methods().count("channel") == 100

    def test_receiving_keeps_a_channel(self) -> None:
        scene = bound()
        for _ in range(12):
            scene.run(60)
            scene.receive(b"\x40\x00\x00\x00")
        assert len(scene.requests(Method.CHANNEL_BIND)) == 1

    def test_idle_channel_wakes_up(self) -> None:
        scene = bound()
        scene.run(550)
        scene.seen.clear()
        scene.send(b"data")
        assert scene.methods() == ["CHANNEL_BIND", "channel"]

    def test_lapsed_channel_is_bound_again(self) -> None:
        scene = bound()
        scene.run(700)
        scene.seen.clear()
        scene.send(b"data")
        scene.settle()
        scene.send(b"data")
        assert scene.methods() == ["CHANNEL_BIND", "SEND", "channel"]
        assert scene.allocation.channel(scene.now, PEER) == CHANNEL_MIN

    def test_all_numbers_are_different_and_beyond_them_indications_go_on(self) -> None:
        scene = ready()
        peers = [(f"10.0.{number >> 8}.{number & 255}", 5000) for number in range(4200)]
        for peer in peers:
            scene.send(b"data", peer)
        scene.settle()
        numbers = [scene.allocation.channel(scene.now, peer) for peer in peers]
        assert numbers[:4096] == list(range(CHANNEL_MIN, CHANNEL_MAX + 1))
        assert numbers[4096:] == [None] * 104
        scene.seen.clear()
        for peer in peers:
            scene.send(b"data", peer)
        assert scene.methods() == ["channel"] * 4096 + ["SEND"] * 104

    @pytest.mark.parametrize(("wanted", "distance"), [(-5, 2), (0, 2), (5, 5), (1e9, 540)])
    def test_absurd_refresh_times(self, wanted: float, distance: float) -> None:
        scene = bound(channel_refresh_time=wanted)
        for _ in range(700):
            scene.send(b"data")
            scene.run(1)
        times = [seen.when for seen in scene.requests(Method.CHANNEL_BIND)]
        assert times[0] - 100 == pytest.approx(distance, abs=1)


class TestWayPastTheMachine:
    """Which channel a peer is bound to is told, so that data need not pass us; what we do not see we learn in time."""

    TOLD = ChannelBound(RELAY, PEER, CHANNEL_MIN, LINK, SERVER)
    TAKEN_BACK = ChannelUnbound(RELAY, PEER)

    def test_told_when_the_server_has_confirmed(self) -> None:
        scene = ready()
        scene.delay = 0.05
        scene.send(b"one")
        assert scene.channels == []
        scene.run(0.06)
        assert scene.channels == [self.TOLD]

    def test_taken_back_when_it_has_to_be_renewed_and_then_the_next_packet_out_renews_it(self) -> None:
        scene = bound()
        scene.run(499)
        assert scene.channels == [self.TOLD]
        scene.run(2)
        assert scene.channels == [self.TOLD, self.TAKEN_BACK]
        assert scene.requests(Method.CHANNEL_BIND) == []
        scene.send(b"data")
        assert scene.methods()[-2:] == ["CHANNEL_BIND", "channel"]
        scene.settle()
        assert scene.channels == [self.TOLD, self.TAKEN_BACK, self.TOLD]

    def test_and_so_does_the_next_one_in(self) -> None:
        scene = bound()
        scene.run(501)
        scene.receive(b"\x40\x00\x00\x02in")
        scene.settle()
        assert scene.take(Deliver) == [Deliver(RELAY, PEER, b"in")]
        assert len(scene.requests(Method.CHANNEL_BIND)) == 1
        assert scene.channels == [self.TOLD, self.TAKEN_BACK, self.TOLD]

    def test_not_after_the_channel_has_lapsed(self) -> None:
        scene = bound()
        scene.run(CHANNEL_LIFETIME + 1)
        scene.receive(b"\x40\x00\x00\x02in")
        assert scene.requests(Method.CHANNEL_BIND) == []
        assert scene.channels == [self.TOLD, self.TAKEN_BACK]

    def test_taken_back_while_it_is_renewed(self) -> None:
        scene = bound()
        scene.send(b"data")
        scene.delay = 0.05
        scene.run(500)
        assert scene.channels == [self.TOLD, self.TAKEN_BACK]
        scene.send(b"data")
        assert scene.methods()[-1] == "channel"
        scene.run(0.1)
        assert scene.channels == [self.TOLD, self.TAKEN_BACK, self.TOLD]

    def test_not_told_again_while_renewals_fail(self) -> None:
        scene = bound()
        scene.send(b"data")
        scene.server.refuse = {Method.CHANNEL_BIND: 403}
        scene.run(550)
        assert scene.channels == [self.TOLD, self.TAKEN_BACK]
