"""An allocation is kept, and its loss is noticed (RFC 8656 §8)."""

from __future__ import annotations

import pytest

from aioice.core.allocation import AllocationFailed, AllocationLost, State
from aioice.core.machine import Close, Done, LinkClosed, Opened, Reason, SendFailed
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
