"""An allocation is kept, and its loss is noticed (RFC 8656 §8)."""

from __future__ import annotations

import pytest

from aioice.core.allocation import AllocationFailed, AllocationLost, PeerRefused, Permitted, State
from aioice.core.lifetime import GRACE
from aioice.core.machine import Address, Close, Done, LinkClosed, Opened, Reason, SendFailed
from aioice.core.message import Class, Message, Method
from tests.core.allocation_scene import CHECK, LINK, PEER, RELAY, RELAYED, SERVER, Scene, bound, ready, stream


class TestRefresh:
    def test_at_five_sixths(self) -> None:
        scene = ready()
        scene.run(2000)
        assert [round(seen.when - 100) for seen in scene.requests(Method.REFRESH)] == [500, 1000, 1500, 2000]
        assert scene.take(AllocationLost) == []

    @pytest.mark.parametrize(("lifetime", "count"), [(1, 50), (60, 2), (0xFFFFFFFF, 0)])
    def test_odd_lifetimes(self, lifetime: int, count: int) -> None:
        # F35
        scene = Scene()
        scene.server.lifetime = lifetime
        scene.start()
        scene.run(100.5)
        assert len(scene.requests(Method.REFRESH)) == count
        assert scene.take(AllocationLost) == []

    def test_lifetime_zero(self) -> None:
        # F35
        scene = ready()
        scene.server.lifetime = 0
        scene.run(5000)
        assert scene.methods() == ["REFRESH"]
        assert scene.outputs == [
            AllocationLost(RELAY, "the server grants no lifetime"),
            Close(RELAY),
            Close(LINK),
            Done("the server grants no lifetime"),
        ]

    def test_refresh_answer_without_lifetime(self) -> None:
        scene = ready()
        scene.server.lifetime = None
        scene.run(1100)
        assert scene.methods() == ["REFRESH", "REFRESH"]

    def test_restarted_server(self) -> None:
        # F41: a fresh nonce first, then nobody knows the allocation.
        scene = ready()
        scene.server.nonce = b"fresh"
        scene.server.refuse = dict.fromkeys(Method, 437)
        scene.run(501)
        assert scene.methods() == ["REFRESH", "REFRESH"]
        (lost,) = scene.take(AllocationLost)
        assert (lost.relay_link, lost.code) == (RELAY, 437)
        assert lost.response.error_code == 437
        assert scene.outputs == [Close(RELAY), Close(LINK), Done(lost.detail)]

    @pytest.mark.parametrize("method", [Method.CREATE_PERMISSION, Method.CHANNEL_BIND])
    def test_any_request_may_tell(self, method: Method) -> None:
        scene = ready()
        scene.server.refuse = {method: 437}
        scene.send(b"data")
        scene.settle()
        assert [lost.code for lost in scene.take(AllocationLost)] == [437]

    def test_server_that_has_forgotten_but_says_400(self) -> None:
        # F41, as coturn 4.6 does it: 400 for permissions and channels, 437 for the allocation alone.
        scene = ready()
        scene.server.refuse = {Method.CREATE_PERMISSION: 400, Method.CHANNEL_BIND: 400, Method.REFRESH: 437}
        scene.send(CHECK)
        scene.settle()
        assert [lost.code for lost in scene.take(AllocationLost)] == [437]
        scene = bound()
        scene.send(b"data")
        scene.server.refuse = {Method.CHANNEL_BIND: 400, Method.REFRESH: 437}
        scene.run(501)
        assert [lost.code for lost in scene.take(AllocationLost)] == [437]

    def test_ended_credentials(self) -> None:
        # F43
        scene = ready()
        scene.server.key = b"another"
        scene.run(501)
        assert [lost.code for lost in scene.take(AllocationLost)] == [401]

    def test_refresh_is_lost(self) -> None:
        scene = ready()
        scene.run(499)
        scene.delay = None
        scene.run(60)
        assert scene.take(AllocationLost) == []
        scene.delay = 0.0
        scene.run(60)
        assert scene.take(AllocationLost) == []

    def test_server_dies(self) -> None:
        scene = ready()
        scene.run(499)
        scene.delay = None
        scene.run(102)
        assert [lost.detail for lost in scene.take(AllocationLost)] == ["the allocation has expired"]

    def test_passing_trouble(self) -> None:
        scene = ready()
        scene.server.refuse = {Method.REFRESH: 500}
        scene.run(503)
        assert scene.take(AllocationLost) == []
        scene.server.refuse = {}
        scene.run(200)
        assert scene.methods() == ["REFRESH"] * 2
        assert scene.allocation.state is State.READY

    @pytest.mark.parametrize("code", [438, 500, 508])
    def test_trouble_until_the_end(self, code: int) -> None:
        scene = ready()
        scene.server.override = lambda request: scene.server.error(request, code)
        scene.run(599)
        assert scene.take(AllocationLost) == []
        scene.run(12)
        assert [lost.detail for lost in scene.take(AllocationLost)] == ["the allocation has expired"]
        assert len({seen.when for seen in scene.requests(Method.REFRESH)}) <= 22

    @pytest.mark.parametrize("code", [300, 400, 403, 420, 441, 442, 486])
    def test_refused_for_good(self, code: int) -> None:
        scene = ready()
        scene.server.refuse = {Method.REFRESH: code}
        scene.run(501)
        (lost,) = scene.take(AllocationLost)
        assert (lost.code, lost.response.error_code) == (code, code)

    def test_unknown_attribute_in_an_answer(self) -> None:
        scene = Scene()
        scene.delay = None
        scene.start()
        request = scene.seen[0].message
        assert request is not None
        data = bytes(Message(Method.ALLOCATE, Class.RESPONSE, request.transaction_id, {}))
        scene.receive(data[:2] + b"\x00\x04" + data[4:] + b"\x7f\xff\x00\x00")
        (failed,) = scene.take(AllocationFailed)
        assert failed.detail == "the answer of the server has attributes that must be understood"

    def test_stream_breaks(self) -> None:
        scene = ready(**stream())
        scene.allocation.handle_report(scene.now, LinkClosed(LINK, Reason.CLOSED, ""))
        scene.drain()
        assert scene.outputs == [
            AllocationLost(RELAY, "closed by the peer"),
            Close(RELAY),
            Close(LINK),
            Done("closed by the peer"),
        ]

    def test_stream_breaks_with_a_reason(self) -> None:
        scene = ready(**stream())
        scene.allocation.handle_report(scene.now, LinkClosed(LINK, Reason.OTHER, "odd"))
        scene.drain()
        assert [lost.detail for lost in scene.take(AllocationLost)] == ["other error: odd"]

    def test_probe(self) -> None:
        scene = ready()
        for _ in range(3):
            scene.allocation.handle_report(scene.now, SendFailed(LINK, SERVER, Reason.REFUSED))
            scene.settle()
        assert scene.methods() == ["REFRESH"]
        scene.run(6)
        scene.delay = None
        scene.allocation.probe(scene.now)
        scene.run(6)
        scene.allocation.probe(scene.now)
        scene.drain()
        # The request is repeated, not started anew.
        assert len({seen.message.transaction_id for seen in scene.seen if seen.message}) == 1
        assert scene.allocation.state is State.READY

    def test_reports_of_no_interest(self) -> None:
        scene = ready()
        for report in (
            Opened(RELAY, RELAYED),
            Opened(LINK, ("0.0.0.0", 1)),
            LinkClosed(9, Reason.CLOSED, ""),
            SendFailed(LINK, SERVER, Reason.TOO_BIG),
        ):
            scene.allocation.handle_report(scene.now, report)
        scene.drain()
        assert scene.outputs == []
        assert scene.methods() == []

    def test_keepalive(self) -> None:
        scene = ready(keepalive=15)
        scene.run(46)
        assert scene.methods() == ["BINDING"] * 3
        scene.run(4)
        scene.allocation.permit(scene.now, PEER[0])
        scene.run(14)
        assert scene.methods() == ["CREATE_PERMISSION"]
        scene.run(2)
        assert scene.methods() == ["BINDING"]

    def test_streams_need_no_keepalive(self) -> None:
        scene = ready(**stream(keepalive=15))
        scene.run(100)
        assert scene.methods() == []

    def test_an_hour_of_500_peers(self) -> None:
        scene = ready()
        peers = [(f"10.0.{number >> 8}.{number & 255}", 5000) for number in range(500)]
        for peer in peers:
            scene.send(b"data", peer)
        for _ in range(6):
            scene.run(600)
            scene.seen.clear()
        assert scene.take(AllocationLost) == []
        assert all(permission.until > scene.now for permission in scene.peers._permissions.values())
        assert len(scene.peers._deadlines._heap) < 5 * 1000


class TestSleep:
    """The machine hears nothing for hours: the computer slept, or the process was stopped."""

    def wake(self, hours: float) -> Scene:
        scene = bound()
        scene.now += hours * 3600
        return scene

    @pytest.mark.parametrize("hours", [0.15, 1, 100])
    def test_the_server_is_asked_at_once_and_decides(self, hours: float) -> None:
        scene = self.wake(hours)
        scene.run(0.1)
        assert scene.methods()[0] == "REFRESH"
        assert scene.allocation.state is State.READY
        scene.run(1200)
        assert scene.take(AllocationLost) == []

    def test_the_server_has_forgotten(self) -> None:
        scene = self.wake(2)
        scene.server.refuse = dict.fromkeys(Method, 437)
        scene.run(0.1)
        assert [lost.code for lost in scene.take(AllocationLost)] == [437]

    def test_the_server_has_gone(self) -> None:
        scene = self.wake(2)
        scene.delay = None
        scene.run(GRACE - 0.1)
        assert scene.take(AllocationLost) == []
        scene.run(0.2)
        assert [lost.detail for lost in scene.take(AllocationLost)] == ["the allocation has expired"]

    def test_before_thousands_of_others(self) -> None:
        scene = ready()
        for number in range(4000):
            scene.allocation.permit(scene.now, f"10.0.{number >> 8}.{number & 255}")
        scene.settle()
        scene.now += 7200
        scene.seen.clear()
        scene.allocation.handle_timeout(scene.now)
        scene.drain()
        assert scene.methods()[:2] == ["REFRESH", "CREATE_PERMISSION"]
        scene.run(5)
        assert all(permission.until > scene.now for permission in scene.peers._permissions.values())
        assert len(scene.requests(Method.CREATE_PERMISSION)) <= 4000 / 32


class TestCrowd:
    """One allocation, many peers."""

    def test_200_first_sends_at_once(self) -> None:
        scene = ready()
        scene.delay = 0.05
        peers = [(f"10.0.0.{number}", 5000) for number in range(200)]
        for _ in range(3):
            for peer in peers:
                scene.send(b"data", peer)
        # Each data leaves behind its own permission, and nothing is asked for twice.
        assert scene.methods() == ["CREATE_PERMISSION", "CHANNEL_BIND", "SEND"] * 200 + ["SEND"] * 400
        scene.run(0.06)
        numbers = {scene.allocation.channel(scene.now, peer) for peer in peers}
        assert None not in numbers and len(numbers) == 200
        assert {permitted.host for permitted in scene.take(Permitted)} == {host for host, _ in peers}

    def test_200_first_sends_to_one_host(self) -> None:
        scene = ready()
        scene.delay = 0.05
        peers = [(PEER[0], port) for port in range(1, 201)]
        for peer in peers:
            scene.send(b"data", peer)
        methods = scene.methods()
        assert (methods.count("CREATE_PERMISSION"), methods.count("CHANNEL_BIND"), methods.count("SEND")) == (
            1,
            200,
            200,
        )

    def test_4200_peers_over_a_day(self) -> None:
        # On 300 hosts; each is spoken to every six hours, in another order each time.
        scene = ready()
        peers = [(f"10.0.{number >> 8}.{number & 255}", port) for number in range(300) for port in range(14)]
        owners: dict[int, tuple[Address, float]] = {}
        begun, frames = scene.now, 0
        for turn in range(4):
            for position in range(len(peers)):
                peer = peers[(position * 11 + turn * 997) % len(peers)]
                scene.send(b"data", peer)
                if position % 200 == 199:
                    scene.run(1)
                    scene.send(b"more", peer)
                    scene.run(86400 / 4 / 21 - 1)
            for seen in scene.requests(Method.CHANNEL_BIND):
                assert seen.message is not None
                number, peer = seen.message.attributes["CHANNEL-NUMBER"], seen.message.attributes["XOR-PEER-ADDRESS"]
                before, when = owners.get(number, (peer, 0.0))
                # RFC 8656 §12: another peer after the lifetime and five minutes more.
                assert before == peer or seen.when >= when + 600 + 300
                owners[number] = (peer, seen.when)
            frames += scene.methods().count("channel")
            assert scene.take(AllocationLost) == [] and scene.take(PeerRefused) == []
            scene.outputs.clear()
        assert scene.now - begun == pytest.approx(86400)
        assert frames
        assert len(scene.peers._permissions) == 300
        assert all(permission.until > scene.now for permission in scene.peers._permissions.values())
        assert len(scene.peers._channels) == len(scene.peers._numbers) <= 4096
        assert len(scene.peers._deadlines._heap) < 30000
