from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core.allocation import (
    CHANNEL_COOL_DOWN,
    CHANNEL_LIFETIME,
    MAX_ADDRESSES,
    MAX_DATA,
    MAX_HOSTS,
    MAX_WAITING,
    PORTION,
    RETRY_REFUSED,
    Allocated,
    Allocation,
    AllocationConfig,
    AllocationFailed,
    AllocationLost,
    PeerRefused,
    State,
    describe,
)
from aioice.core.credentials import make_integrity_key
from aioice.core.demux import CHANNEL_MAX, CHANNEL_MIN, is_channel_data
from aioice.core.machine import (
    Address,
    Close,
    Deliver,
    Done,
    LinkClosed,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Reason,
    SendFailed,
    Transmit,
    Tunables,
)
from aioice.core.message import Class, Message, Method, parse_message

SERVER = ("192.0.2.1", 3478)
RELAYED = ("198.51.100.7", 50000)
MAPPED = ("203.0.113.9", 40000)
PEER = ("198.51.100.8", 6000)
KEY = make_integrity_key("user", "realm", "pass")
CHECK = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"check-number"

LINK, RELAY = 1, 2


class Seen(NamedTuple):
    """What the server received."""

    when: float
    message: Message | None
    data: bytes


class Server:
    """A TURN server of a few lines. ``override`` gets each authenticated request and may answer otherwise."""

    def __init__(self) -> None:
        self.nonce = b"nonce0"
        self.realm = "realm"
        self.key = KEY
        self.sign = True
        self.open = False
        self.lifetime: int | None = 600
        self.relayed = RELAYED
        self.refuse: dict[Method, int] = {}
        self.silent: set[Method] = set()
        self.override: Callable[[Message], Message | None] | None = None
        self.answers = 0

    def answer(self, request: Message) -> Message | None:
        method = Method(request.message_method)
        if method in self.silent:
            return None
        if not self.open and "MESSAGE-INTEGRITY" not in request.attributes:
            return self.error(request, 401)
        if not self.open and not request.check_message_integrity(self.key):
            return self.error(request, 401)
        if not self.open and request.attributes["NONCE"] != self.nonce:
            return self.error(request, 438)
        if self.override is not None and (answer := self.override(request)) is not None:
            return answer
        if method in self.refuse:
            return self.error(request, self.refuse[method])
        return self.success(request)

    def error(self, request: Message, code: int, phrase: str = "No", **more: Any) -> Message:
        attributes: dict[str, Any] = {"ERROR-CODE": (code, phrase)} | more
        if code in (401, 438):
            attributes |= {"REALM": self.realm, "NONCE": self.nonce}
        return self.finish(Message(request.message_method, Class.ERROR, request.transaction_id, attributes))

    def success(self, request: Message, **more: Any) -> Message:
        attributes: dict[str, Any] = {}
        if request.message_method == Method.ALLOCATE:
            attributes = {"XOR-RELAYED-ADDRESS": self.relayed, "XOR-MAPPED-ADDRESS": MAPPED}
        if request.message_method in (Method.ALLOCATE, Method.REFRESH) and self.lifetime is not None:
            attributes["LIFETIME"] = self.lifetime
        response = Message(request.message_method, Class.RESPONSE, request.transaction_id, attributes)
        response.attributes.update(more)
        return self.finish(response)

    def finish(self, response: Message) -> Message:
        challenge = response.message_class == Class.ERROR and response.error_code in (401, 438)
        if self.sign and not challenge and not self.open:
            response.add_message_integrity(self.key)
        return response


class Scene:
    """An allocation, its server and the time."""

    def __init__(self, tunables: Tunables | None = None, **config: Any) -> None:
        fields: dict[str, Any] = {
            "server": SERVER,
            "username": "user",
            "password": "pass",
            "keepalive": 0,
        }
        self.now = 100.0
        self.server = Server()
        self.config = AllocationConfig(**(fields | config))
        counter = itertools.count()
        self.allocation = Allocation(
            self.config,
            lambda size: next(counter).to_bytes(size, "big"),
            itertools.count(LINK).__next__,
            tunables,
        )
        #: The server's answers come so many seconds later; None: not at all.
        self.delay: float | None = 0.0
        self.opens = True
        self.coming: list[tuple[float, bytes]] = []
        self.seen: list[Seen] = []
        self.outputs: list[Any] = []

    # -- what the runner does

    def drain(self) -> None:
        while (output := self.allocation.poll_output()) is not None:
            if isinstance(output, Transmit):
                assert output.link == LINK
                assert output.peer == self.config.server
                self.transmitted(output.data)
                continue
            self.outputs.append(output)
            if isinstance(output, OpenUdp | OpenStream) and self.opens:
                self.allocation.handle_report(self.now, Opened(output.link, ("0.0.0.0", 1234)))
        deadline = self.allocation.poll_timeout()
        assert deadline is None or self.allocation.state is not State.DONE

    def transmitted(self, data: bytes) -> None:
        if is_channel_data(data):
            self.seen.append(Seen(self.now, None, data))
            return
        message = parse_message(data)
        self.seen.append(Seen(self.now, message, data))
        if message.message_class == Class.REQUEST and self.delay is not None:
            answer = self.server.answer(message)
            if answer is not None:
                self.coming.append((self.now + self.delay, bytes(answer)))

    def receive(self, data: bytes, peer: Address = SERVER, link: int = LINK) -> None:
        self.allocation.handle_datagram(self.now, link, peer, data)
        self.drain()

    def settle(self) -> None:
        """Deliver what has arrived by now."""
        self.drain()
        while due := [entry for entry in self.coming if entry[0] <= self.now]:
            self.coming.remove(due[0])
            self.receive(due[0][1])

    def run(self, seconds: float) -> None:
        """Let the time pass."""
        end = self.now + seconds
        self.settle()
        while True:
            times = [when for when, _ in self.coming]
            if (deadline := self.allocation.poll_timeout()) is not None:
                times.append(deadline)
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            self.settle()
            self.allocation.handle_timeout(self.now)
            after = self.allocation.poll_timeout()
            assert after is None or after > self.now or self.allocation._outputs
            self.settle()
        self.now = end
        self.settle()

    # -- verbs

    def start(self) -> Scene:
        self.allocation.start(self.now)
        self.settle()
        return self

    def send(self, data: bytes, peer: Address = PEER) -> None:
        self.allocation.send(self.now, peer, data)
        self.drain()

    def close(self) -> None:
        self.allocation.close(self.now)
        self.settle()

    def indicate(self, data: bytes = b"data", peer: Address = PEER, **more: Any) -> None:
        attributes = {"XOR-PEER-ADDRESS": peer, "DATA": data} | more
        self.receive(bytes(Message(Method.DATA, Class.INDICATION, bytes(12), attributes)))

    # -- questions

    def methods(self) -> list[str]:
        """What was sent since the last question."""
        seen, self.seen = self.seen, []
        return [Method(entry.message.message_method).name if entry.message else "channel" for entry in seen]

    def requests(self, method: Method) -> list[Seen]:
        return [entry for entry in self.seen if entry.message is not None and entry.message.message_method == method]

    def take(self, kind: type[Any]) -> list[Any]:
        """The outputs of a kind since the last question."""
        taken = [output for output in self.outputs if isinstance(output, kind)]
        self.outputs = [output for output in self.outputs if not isinstance(output, kind)]
        return taken


def ready(tunables: Tunables | None = None, **config: Any) -> Scene:
    scene = Scene(tunables, **config).start()
    assert scene.take(Allocated) == [Allocated(RELAY, RELAYED, MAPPED)]
    scene.outputs.clear()
    scene.seen.clear()
    return scene


def bound(**config: Any) -> Scene:
    scene = ready(**config)
    scene.send(b"first")
    scene.settle()
    assert scene.allocation.channel(scene.now, PEER) == CHANNEL_MIN
    scene.seen.clear()
    return scene


def stream(**config: Any) -> dict[str, Any]:
    return {"transport": "tcp"} | config


# ---------------------------------------------------------------------------------------------------------- allocating


class TestAllocate:
    def test_over_udp(self) -> None:
        scene = Scene().start()
        assert scene.outputs == [
            OpenUdp(LINK, "0.0.0.0"),
            OpenRelay(RELAY, RELAYED, MAPPED),
            Allocated(RELAY, RELAYED, MAPPED),
        ]
        first, second = scene.requests(Method.ALLOCATE)
        assert first.message is not None and second.message is not None
        assert set(first.message.attributes) == {"LIFETIME", "REQUESTED-TRANSPORT"}
        assert second.message.attributes["LIFETIME"] == 600
        assert second.message.attributes["USERNAME"] == "user"
        assert first.message.transaction_id != second.message.transaction_id
        assert scene.allocation.state is State.READY

    @pytest.mark.parametrize(("family", "code"), [(4, 0x01000000), (6, 0x02000000)])
    def test_family(self, family: int, code: int) -> None:
        scene = Scene(family=family).start()
        request = scene.seen[0].message
        assert request is not None
        assert request.attributes["REQUESTED-ADDRESS-FAMILY"] == code

    def test_over_ipv6(self) -> None:
        scene = Scene(server=("2001:db8::1", 3478))
        scene.opens = False
        scene.start()
        assert scene.outputs == [OpenUdp(LINK, "::")]

    @pytest.mark.parametrize("server_name", [None, "turn.example.org"])
    def test_over_a_stream(self, server_name: str | None) -> None:
        scene = Scene(**stream(server_name=server_name)).start()
        assert scene.outputs[0] == OpenStream(LINK, SERVER, server_name)
        assert scene.take(Allocated) == [Allocated(RELAY, RELAYED, MAPPED)]

    def test_server_without_authentication(self) -> None:
        scene = Scene(username=None, password=None)
        scene.server.open = True
        scene.start()
        assert scene.methods() == ["ALLOCATE"]
        assert scene.take(Allocated)

    def test_stale_nonce_before_the_first_success(self) -> None:
        # F34
        scene = Scene()
        nonces = iter([b"n2", b"n3", b"n4"])

        def override(request: Message) -> Message | None:
            nonce = next(nonces, None)
            if nonce is None:
                return None
            scene.server.nonce = nonce
            return scene.server.error(request, 438)

        scene.server.override = override
        scene.start()
        assert scene.methods() == ["ALLOCATE"] * 5
        assert scene.take(Allocated)

    def test_nonces_stale_without_end(self) -> None:
        scene = Scene()
        scene.server.override = lambda request: scene.server.error(request, 438)
        scene.start()
        assert [failed.code for failed in scene.take(AllocationFailed)] == [438]
        assert len(scene.methods()) == 11

    def test_wrong_password(self) -> None:
        scene = Scene(password="wrong").start()
        (failed,) = scene.take(AllocationFailed)
        assert (failed.reason, failed.code) == (Reason.OTHER, 401)
        assert failed.detail == "the server refused: 401 ('No')"
        assert failed.response.error_code == 401
        assert scene.outputs == [OpenUdp(LINK, "0.0.0.0"), Close(LINK), Done(failed.detail)]
        assert scene.methods() == ["ALLOCATE", "ALLOCATE"]

    @pytest.mark.parametrize("code", [300, 400, 403, 420, 437, 440, 442, 486, 500, 508])
    def test_refused(self, code: int) -> None:
        scene = Scene()
        scene.server.refuse = {Method.ALLOCATE: code}
        scene.start()
        assert [failed.code for failed in scene.take(AllocationFailed)] == [code]
        assert scene.outputs[-2] == Close(LINK)
        assert scene.allocation.state is State.DONE

    def test_silent_server(self) -> None:
        scene = Scene()
        scene.delay = None
        scene.start()
        scene.run(39.4)
        assert scene.take(AllocationFailed) == []
        scene.run(0.2)
        assert scene.take(AllocationFailed) == [AllocationFailed(Reason.TIMED_OUT, 0, "the server does not answer")]
        assert [round(seen.when - 100, 3) for seen in scene.seen] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]

    def test_silent_server_over_a_stream(self) -> None:
        scene = Scene(**stream())
        scene.delay = None
        scene.start()
        scene.run(39.6)
        assert scene.methods() == ["ALLOCATE"]
        assert [failed.reason for failed in scene.take(AllocationFailed)] == [Reason.TIMED_OUT]

    def test_connection_is_not_established(self) -> None:
        scene = Scene(**stream())
        scene.opens = False
        scene.start()
        scene.run(60)
        assert [failed.reason for failed in scene.take(AllocationFailed)] == [Reason.TIMED_OUT]
        assert Close(LINK) in scene.outputs
        # Late, after the end: it still gets its Close.
        scene.outputs.clear()
        scene.allocation.handle_report(scene.now, Opened(LINK, ("192.0.2.9", 1)))
        scene.drain()
        assert scene.outputs == [Close(LINK)]

    def test_open_fails(self) -> None:
        scene = Scene(**stream())
        scene.opens = False
        scene.start()
        scene.allocation.handle_report(scene.now, OpenFailed(LINK, Reason.TLS, "certificate has expired"))
        scene.drain()
        assert scene.outputs[1:] == [
            AllocationFailed(Reason.TLS, 0, "certificate has expired"),
            Done("certificate has expired"),
        ]

    @pytest.mark.parametrize(
        ("reason", "ends"), [(Reason.REFUSED, True), (Reason.UNREACHABLE, True), (Reason.TOO_BIG, False)]
    )
    def test_icmp(self, reason: Reason, ends: bool) -> None:
        scene = Scene()
        scene.delay = None
        scene.start()
        scene.allocation.handle_report(scene.now, SendFailed(LINK, SERVER, reason))
        scene.drain()
        assert [failed.reason for failed in scene.take(AllocationFailed)] == ([reason] if ends else [])

    def test_stream_ends(self) -> None:
        scene = Scene(**stream())
        scene.delay = None
        scene.start()
        scene.allocation.handle_report(scene.now, LinkClosed(LINK, Reason.NOT_STUN, "this is an HTTP server"))
        scene.drain()
        assert scene.outputs[1:] == [
            AllocationFailed(Reason.NOT_STUN, 0, "this is an HTTP server"),
            Close(LINK),
            Done("this is an HTTP server"),
        ]

    @pytest.mark.parametrize("missing", ["LIFETIME", "XOR-MAPPED-ADDRESS", "XOR-RELAYED-ADDRESS"])
    def test_incomplete_success(self, missing: str) -> None:
        scene = Scene()

        def override(request: Message) -> Message | None:
            if request.message_method != Method.ALLOCATE:
                return None
            response = scene.server.success(request)
            for name in (missing, "MESSAGE-INTEGRITY", "FINGERPRINT"):
                response.attributes.pop(name)
            return scene.server.finish(response)

        scene.server.override = override
        scene.start()
        (failed,) = scene.take(AllocationFailed)
        assert failed.detail == f"TURN allocation response is missing {missing}"
        assert scene.methods() == ["ALLOCATE", "ALLOCATE", "REFRESH"]

    def test_no_lifetime(self) -> None:
        # F35
        scene = Scene()
        scene.server.lifetime = 0
        scene.start()
        assert [failed.detail for failed in scene.take(AllocationFailed)] == ["the server grants no lifetime"]
        scene.run(1000)
        assert scene.methods() == ["ALLOCATE", "ALLOCATE"]

    def test_error_without_code(self) -> None:
        scene = Scene(username=None)

        def strip(request: Message) -> Message:
            return Message(request.message_method, Class.ERROR, request.transaction_id, {})

        scene.server.open = True
        scene.server.override = strip
        scene.start()
        (failed,) = scene.take(AllocationFailed)
        assert (failed.code, failed.detail) == (0, "the server refused without an error code")

    def test_forged_answers_over_udp_change_nothing(self) -> None:
        scene = Scene()
        scene.server.sign = False
        scene.start()
        assert scene.allocation.state is State.ALLOCATING
        assert scene.allocation.dropped == 1
        scene.server.sign = True
        scene.run(0.6)
        assert scene.take(Allocated)

    def test_answer_over_a_stream_that_is_not_authentic(self) -> None:
        scene = Scene(**stream())
        scene.server.sign = False
        scene.start()
        assert [failed.detail for failed in scene.take(AllocationFailed)] == [
            "the answer of the server is not authentic"
        ]

    def test_answers_of_others(self) -> None:
        scene = Scene()
        scene.delay = 1000.0
        scene.start()
        answer = scene.coming[0][1]
        for link, peer in ((LINK, ("192.0.2.1", 3479)), (7, SERVER)):
            scene.receive(answer, peer, link)
        wrong = parse_message(answer)
        scene.receive(bytes(Message(Method.REFRESH, Class.ERROR, wrong.transaction_id, {"ERROR-CODE": (400, "")})))
        scene.receive(bytes(Message(Method.ALLOCATE, Class.ERROR, b"unknown-one!", {"ERROR-CODE": (400, "")})))
        scene.receive(b"")
        scene.receive(b"\x00\x01\xff")
        assert scene.allocation.dropped == 6
        assert scene.methods() == ["ALLOCATE"]

    def test_start_twice(self) -> None:
        scene = Scene().start()
        with pytest.raises(ValueError):
            scene.allocation.start(scene.now)

    @pytest.mark.parametrize("lifetime", [0, -1, 1 << 32])
    def test_impossible_lifetime(self, lifetime: int) -> None:
        with pytest.raises(ValueError):
            Scene(lifetime=lifetime)

    def test_tunables(self) -> None:
        scene = Scene()
        scene.delay = None
        scene.allocation.handle_report(scene.now, Tunables(retry_max=1, retry_rto=0.1))
        scene.start()
        scene.run(1)
        assert len(scene.take(AllocationFailed)) == 1
        assert len(scene.methods()) == 2

    def test_description_is_escaped(self) -> None:
        message = Message(Method.ALLOCATE, Class.ERROR, bytes(12), {"ERROR-CODE": (400, "\x1b[31m\n☠")})
        assert describe(message) == r"the server refused: 400 ('\x1b[31m\n\u2620')"


# ------------------------------------------------------------------------------------------------------------- sending


class TestSend:
    def test_check_leaves_behind_the_permission_and_again_when_that_is_confirmed(self) -> None:
        scene = ready()
        scene.delay = 0.05
        scene.send(CHECK)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]
        scene.run(0.06)
        assert scene.methods() == ["SEND"]
        scene.send(CHECK)
        scene.run(1)
        assert scene.methods() == ["SEND"]

    def test_send_indication(self) -> None:
        scene = ready()
        scene.send(CHECK)
        message = scene.seen[-1].message
        assert message is not None
        assert message.message_class == Class.INDICATION
        assert message.attributes["DATA"] == CHECK
        assert message.attributes["XOR-PEER-ADDRESS"] == PEER

    def test_only_the_last_check_is_kept(self) -> None:
        scene = ready()
        scene.delay = 0.05
        other = (PEER[0], 6001)
        for peer, data in ((PEER, CHECK), (other, CHECK + b"!"), (PEER, CHECK + b"?")):
            scene.send(data, peer)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND", "SEND", "SEND"]
        scene.run(0.06)
        again = [seen.message.attributes["DATA"] for seen in scene.seen if seen.message]
        assert again == [CHECK + b"!", CHECK + b"?"]

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
        scene.send(CHECK)
        scene.seen.clear()
        scene.delay = 0.0
        scene.run(0.6)
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]

    def test_what_waits_is_bounded(self) -> None:
        scene = ready()
        scene.delay = None
        for number in range(MAX_WAITING + 10):
            scene.send(b"%d" % number)
        permission = scene.allocation._permissions[PEER[0]]
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
        assert len(scene.allocation._permissions[PEER[0]].addresses) == MAX_ADDRESSES


class TestReceive:
    def test_data_indication(self) -> None:
        scene = ready()
        scene.allocation.permit(scene.now, PEER[0])
        scene.settle()
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
        assert scene.outputs == []
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


# --------------------------------------------------------------------------------------------------------- permissions


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
        assert scene.allocation._permissions == {}
        scene.server.silent = set()
        scene.send(CHECK)
        scene.settle()
        assert scene.methods() == ["CREATE_PERMISSION", "SEND", "SEND"]

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
        assert scene.allocation._permissions[PEER[0]].until > scene.now + 280

    def test_expired_permission_is_asked_for_at_once(self) -> None:
        scene = ready()
        scene.send(CHECK)
        scene.settle()
        permission = scene.allocation._permissions[PEER[0]]
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
        assert scene.methods() == ["CREATE_PERMISSION", "SEND", "REFRESH", "CHANNEL_BIND", "channel"]
        assert scene.take(PeerRefused) == []
        scene.run(250)
        scene.send(b"data")
        assert scene.methods() == ["CREATE_PERMISSION", "REFRESH", "channel"]

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
        scene.allocation._next_number = CHANNEL_MAX + 1
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
        scene.seen.clear()
        scene.run(239.999)
        assert scene.methods() == []
        scene.now += 1
        scene.allocation.handle_timeout(scene.now)
        scene.drain()
        assert len(scene.methods()) == PORTION
        scene.allocation.handle_timeout(scene.now)
        scene.drain()
        assert scene.methods() == []
        scene.run(1)
        assert len(scene.methods()) == 200 - PORTION


# ------------------------------------------------------------------------------------------------------------ channels


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
        assert scene.allocation._numbers
        scene.run(2)
        assert not scene.allocation._numbers
        assert not scene.allocation._channels
        scene.allocation._next_number = CHANNEL_MAX + 1
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


# ------------------------------------------------------------------------------------------------------------ lifetime


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
        assert all(permission.until > scene.now for permission in scene.allocation._permissions.values())
        assert len(scene.allocation._timers) < 5 * 1000


# ------------------------------------------------------------------------------------------------------------- closing


class TestClose:
    def test_deletes(self) -> None:
        scene = bound()
        scene.close()
        assert scene.outputs == [Close(RELAY), Close(LINK), Done("closed")]
        (request,) = scene.requests(Method.REFRESH)
        assert request.message is not None
        assert request.message.attributes["LIFETIME"] == 0
        assert scene.allocation.poll_timeout() is None
        scene.outputs.clear()
        scene.close()
        scene.allocation.handle_timeout(scene.now + 1000)
        scene.run(1000)
        assert scene.outputs == []

    def test_dead_server(self) -> None:
        # F40
        scene = ready()
        scene.delay = None
        scene.close()
        assert scene.outputs == [Close(RELAY)]
        scene.close()
        scene.run(0.99)
        assert scene.outputs == [Close(RELAY)]
        scene.run(0.02)
        assert scene.methods() == ["REFRESH"]
        assert scene.outputs == [Close(RELAY), Close(LINK), Done("closed")]
        assert scene.allocation.state is State.DONE

    def test_stale_nonce(self) -> None:
        scene = ready()
        scene.server.nonce = b"fresh"
        scene.close()
        assert scene.methods() == ["REFRESH", "REFRESH"]
        assert scene.take(Done) == [Done("closed")]

    @pytest.mark.parametrize("code", [403, 437, 500])
    def test_refused(self, code: int) -> None:
        scene = ready()
        scene.server.refuse = {Method.REFRESH: code}
        scene.close()
        assert scene.methods() == ["REFRESH"]
        assert scene.take(Done) == [Done("closed")]

    def test_before_the_start(self) -> None:
        scene = Scene()
        scene.close()
        assert scene.outputs == [Done("closed")]

    def test_while_connecting(self) -> None:
        scene = Scene(**stream())
        scene.opens = False
        scene.start()
        scene.close()
        assert scene.outputs[1:] == [Close(LINK), Done("closed")]

    def test_late_allocation_is_deleted(self) -> None:
        scene = Scene()
        scene.delay = 0.4
        scene.allocation.start(scene.now)
        scene.run(0.5)
        scene.close()
        scene.run(0.9)
        assert scene.methods() == ["ALLOCATE", "ALLOCATE", "REFRESH"]
        assert scene.take(Allocated) == []
        assert scene.take(Done) == [Done("closed")]

    def test_late_challenge_is_not_met(self) -> None:
        scene = Scene()
        scene.delay = 0.4
        scene.allocation.start(scene.now)
        scene.drain()
        scene.close()
        scene.run(0.5)
        assert scene.methods() == ["ALLOCATE"]
        assert scene.take(Done) == [Done("closed")]

    def test_nothing_is_repeated(self) -> None:
        scene = Scene()
        scene.delay = None
        scene.start()
        scene.close()
        scene.run(2)
        assert scene.methods() == ["ALLOCATE"]

    @pytest.mark.parametrize("reason", [Reason.REFUSED, Reason.CLOSED])
    def test_link_goes_first(self, reason: Reason) -> None:
        scene = ready()
        scene.delay = None
        scene.close()
        report = SendFailed(LINK, SERVER, reason) if reason is Reason.REFUSED else LinkClosed(LINK, reason, "")
        scene.allocation.handle_report(scene.now, report)
        scene.drain()
        assert scene.take(Done) == [Done("closed")]
        scene.allocation.handle_report(scene.now, report)
        scene.receive(b"\x40\x00\x00\x00")
        assert scene.take(Done) == []

    def test_short_time_out(self) -> None:
        scene = ready(Tunables(retry_max=0, retry_rto=0.05))
        scene.delay = None
        scene.close()
        scene.run(2)
        assert scene.take(Done) == [Done("closed")]


# ---------------------------------------------------------------------------------------------------------- properties


@given(st.data())
def test_no_bytes_and_no_order_of_events_raise(data: st.DataObject) -> None:
    scene = Scene(**data.draw(st.sampled_from([{}, stream()])))
    scene.delay = data.draw(st.sampled_from([0.0, 0.3, None]))
    scene.server.refuse = data.draw(
        st.dictionaries(
            st.sampled_from([Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND]),
            st.sampled_from([300, 400, 401, 403, 437, 438, 500, 508]),
        )
    )
    scene.allocation.start(scene.now)
    peers = [PEER, (PEER[0], 1), ("198.51.100.9", 5), ("2001:db8::9", 5)]
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.integers(0, 8)):
            case 0:
                scene.run(data.draw(st.sampled_from([0.0, 0.1, 1.0, 45.0, 250.0, 700.0, 4000.0])))
            case 1 | 2:
                scene.send(data.draw(st.sampled_from([CHECK, b"data", b""])), data.draw(st.sampled_from(peers)))
            case 3:
                scene.receive(data.draw(st.binary(max_size=64)))
            case 4:
                scene.indicate(peer=data.draw(st.sampled_from(peers)))
            case 5:
                reason = data.draw(st.sampled_from(Reason))
                scene.allocation.handle_report(scene.now, SendFailed(LINK, SERVER, reason))
            case 6:
                scene.delay = data.draw(st.sampled_from([0.0, 0.3, None]))
                scene.server.nonce = data.draw(st.binary(min_size=1, max_size=3))
            case 7:
                scene.allocation.permit(scene.now, data.draw(st.sampled_from(peers))[0])
            case _:
                number = data.draw(st.integers(CHANNEL_MIN, CHANNEL_MIN + 3))
                scene.receive(number.to_bytes(2, "big") + b"\x00\x01x")
        scene.drain()
    scene.close()
    scene.run(2)
    assert scene.allocation.state is State.DONE
    assert scene.allocation.poll_timeout() is None
    assert scene.allocation.poll_output() is None
    opened = [output.link for output in scene.outputs if isinstance(output, OpenUdp | OpenStream | OpenRelay)]
    # Twice if the answer to the open was late.
    assert set(opened) == {output.link for output in scene.take(Close)}
    assert len(scene.take(Done)) == 1
