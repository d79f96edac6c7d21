"""What goes to peers and comes from them, and in what form (RFC 8656 §11, §12)."""

from __future__ import annotations

import pytest

from aioice.core.demux import MAX_DATA
from aioice.core.machine import Address, Deliver, Reason
from aioice.core.message import Class, Message, Method
from aioice.core.peers import MAX_ADDRESSES, MAX_HOSTS, MAX_WAITING, PeerUnreachable, Permitted
from tests.core.allocation_scene import CHECK, PEER, PEER6, RELAY, Scene, bound, dual, ready, stream


class TestSend:
    def test_check_leaves_behind_the_permission_and_its_owner_is_told_when_that_is_confirmed(self) -> None:
        scene = ready()
        scene.delay = 0.05
        scene.send(CHECK)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]
        scene.run(0.04)
        assert scene.take(Permitted) == []
        scene.run(0.02)
        assert scene.take(Permitted) == [Permitted(RELAY, PEER[0])]
        scene.send(CHECK)
        scene.send(CHECK, (PEER[0], 6001))
        scene.run(1)
        assert scene.methods() == ["SEND", "SEND"]
        assert scene.take(Permitted) == []

    def test_send_indication(self) -> None:
        scene = ready()
        scene.send(CHECK)
        message = scene.seen[-1].message
        assert message is not None
        assert message.message_class == Class.INDICATION
        assert message.attributes["DATA"] == CHECK
        assert message.attributes["XOR-PEER-ADDRESS"] == PEER

    def test_data_is_not_repeated(self) -> None:
        scene = ready()
        scene.delay = 0.05
        scene.send(b"one")
        scene.send(b"two")
        assert scene.methods() == ["CREATE_PERMISSION", "CHANNEL_BIND", "SEND", "SEND"]
        scene.run(0.06)
        scene.send(b"three")
        assert scene.methods() == ["channel"]

    def test_data_is_repeated_if_the_server_must_have_dropped_it(self) -> None:
        scene = ready()
        scene.server.nonce = b"fresh"
        scene.delay = 0.05
        scene.send(b"one")
        scene.seen.clear()
        scene.run(0.2)
        # The channel may be there before the permission is confirmed.
        assert [kind for kind in scene.methods() if kind in ("SEND", "channel")] in (["SEND"], ["channel"])

    def test_data_is_repeated_after_a_lost_request(self) -> None:
        scene = ready()
        scene.delay = None
        scene.server.silent = {Method.CHANNEL_BIND}
        scene.send(b"data")
        scene.send(CHECK)
        scene.seen.clear()
        scene.delay = 0.0
        scene.run(0.6)
        # Checks are repeated by whoever makes them.
        assert [seen.message.attributes.get("DATA") for seen in scene.seen if seen.message] == [None, None, b"data"]

    def test_what_waits_is_bounded(self) -> None:
        scene = ready()
        scene.delay = None
        for number in range(MAX_WAITING + 10):
            scene.send(b"%d" % number)
        permission = scene.peers._permissions[PEER[0]]
        assert len(permission.waiting) == MAX_WAITING

    def test_before_and_after(self) -> None:
        scene = Scene()
        scene.send(b"early")
        assert scene.methods() == []
        scene = ready()
        scene.close()
        scene.seen.clear()
        scene.send(b"late")
        scene.allocation.permit(scene.now, PEER[0])
        scene.drain()
        assert scene.methods() == []

    def test_too_large(self) -> None:
        scene = bound()
        for data, peer in ((bytes(MAX_DATA), PEER), (bytes(MAX_DATA), ("198.51.100.9", 1))):
            scene.send(data, peer)
        assert "channel" in scene.methods()
        scene.send(bytes(MAX_DATA + 1))
        assert scene.methods() == []

    def test_frames_of_a_stream_are_padded(self) -> None:
        # F42
        scene = bound(**stream())
        scene.send(b"hello")
        assert scene.seen[-1].data == b"\x40\x00\x00\x05hello\0\0\0"

    def test_hosts_are_bounded(self) -> None:
        scene = ready()
        scene.delay = None
        for number in range(MAX_HOSTS + 5):
            scene.allocation.permit(scene.now, f"10.0.{number >> 8}.{number & 255}")
        scene.drain()
        assert len(scene.seen) == MAX_HOSTS
        scene.send(CHECK)
        assert len(scene.seen) == MAX_HOSTS

    def test_addresses_are_bounded(self) -> None:
        scene = ready()
        for port in range(1, MAX_ADDRESSES + 10):
            scene.send(CHECK, (PEER[0], port))
        assert len(scene.peers._permissions[PEER[0]].addresses) == MAX_ADDRESSES


class TestReceive:
    def test_data_indication(self) -> None:
        scene = ready()
        scene.allocation.permit(scene.now, PEER[0])
        scene.settle()
        assert scene.take(Permitted)
        scene.indicate(b"data", (PEER[0], 9))
        assert scene.outputs == [Deliver(RELAY, (PEER[0], 9), b"data")]

    def test_while_the_channel_is_being_bound(self) -> None:
        # F39: relay to relay, both sides start at once.
        scene = ready()
        scene.delay = None
        scene.send(b"data")
        scene.indicate(CHECK)
        scene.receive(b"\x40\x00\x00\x02hi")
        assert scene.outputs == [Deliver(RELAY, PEER, CHECK), Deliver(RELAY, PEER, b"hi")]

    def test_from_strangers(self) -> None:
        scene = ready()
        scene.indicate()
        assert scene.outputs == []
        assert scene.allocation.dropped == 1

    def test_odd_indications(self) -> None:
        scene = ready()
        scene.allocation.permit(scene.now, PEER[0])
        scene.settle()
        whole = {"XOR-PEER-ADDRESS": PEER, "DATA": b"x"}
        for method, message_class, attributes in (
            (Method.SEND, Class.INDICATION, whole),
            (Method.DATA, Class.REQUEST, whole),
            (Method.DATA, Class.INDICATION, {"DATA": b"x"}),
            (Method.DATA, Class.INDICATION, {"XOR-PEER-ADDRESS": PEER}),
        ):
            scene.receive(bytes(Message(method, message_class, bytes(12), attributes)))
        unknown = bytes(Message(Method.DATA, Class.INDICATION, bytes(12), whole)) + b"\x7f\xff\x00\x00"
        scene.receive(unknown[:2] + (len(unknown) - 20).to_bytes(2, "big") + unknown[4:])
        assert scene.take(Permitted) and scene.outputs == []
        assert scene.allocation.dropped == 5

    def test_empty_datagram(self) -> None:
        scene = bound()
        scene.indicate(b"")
        scene.receive(b"\x40\x00\x00\x00")
        assert scene.outputs == [Deliver(RELAY, PEER, b"")] * 2

    @pytest.mark.parametrize("data", [b"\x40", b"\x40\x00\x00", b"\x40\x00\x00\x05four", b"\x40\x01\x00\x01x"])
    def test_odd_channel_data(self, data: bytes) -> None:
        scene = bound()
        scene.receive(data)
        assert scene.outputs == []
        assert scene.allocation.dropped == 1

    def test_padded_channel_data(self) -> None:
        scene = bound()
        scene.receive(b"\x40\x00\x00\x05hello\0\0\0")
        assert scene.outputs == [Deliver(RELAY, PEER, b"hello")]

    def test_speaking_peer_gets_a_channel(self) -> None:
        scene = ready()
        scene.send(CHECK)
        scene.settle()
        scene.seen.clear()
        scene.indicate(CHECK, (PEER[0], 1))
        assert scene.methods() == []
        scene.indicate(CHECK)
        assert scene.methods() == ["CHANNEL_BIND"]

    def test_nothing_before_the_allocation(self) -> None:
        scene = Scene()
        scene.delay = None
        scene.start()
        scene.indicate()
        scene.receive(b"\x40\x00\x00\x00")
        assert scene.take(Deliver) == []


class TestIcmp:
    """RFC 8656 §11.6."""

    @pytest.mark.parametrize(
        ("peer", "kind", "reason"),
        [
            (PEER, (3, 3), Reason.REFUSED),
            (PEER, (3, 0), Reason.UNREACHABLE),
            (PEER, (3, 1), Reason.UNREACHABLE),
            (PEER, (3, 13), Reason.UNREACHABLE),
            (PEER, (3, 4), None),
            (PEER, (11, 0), None),
            (PEER, (1, 4), None),
            (PEER6, (1, 4), Reason.REFUSED),
            (PEER6, (1, 3), Reason.UNREACHABLE),
            (PEER6, (2, 0), None),
            (PEER6, (3, 0), None),
        ],
    )
    def test_hard_errors_are_told(self, peer: Address, kind: tuple[int, int], reason: Reason | None) -> None:
        scene = dual()
        scene.send(CHECK, peer)
        scene.settle()
        scene.outputs.clear()
        scene.icmp(peer, *kind)
        link = RELAY if peer is PEER else RELAY + 1
        assert scene.outputs == ([] if reason is None else [PeerUnreachable(link, peer, reason)])
        assert scene.allocation.dropped == 0

    def test_server_that_does_not_know_the_port(self) -> None:
        scene = ready()
        for port in (7000, 6000):
            scene.send(CHECK, (PEER[0], port))
        scene.icmp((PEER[0], 0), 3, 3)
        assert [told.peer for told in scene.take(PeerUnreachable)] == [(PEER[0], 6000), (PEER[0], 7000)]

    def test_about_strangers(self) -> None:
        scene = ready()
        scene.icmp(PEER, 3, 3)
        scene.server.refuse = {Method.CREATE_PERMISSION: 403}
        scene.send(CHECK)
        scene.settle()
        scene.icmp(PEER, 3, 3)
        assert scene.take(PeerUnreachable) == []
        assert scene.allocation.dropped == 2

    def test_although_a_channel_is_bound(self) -> None:
        scene = bound()
        scene.icmp(PEER, 3, 3)
        assert len(scene.take(PeerUnreachable)) == 1
        scene.send(b"data")
        assert scene.methods() == ["channel"]
