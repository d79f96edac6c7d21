"""One allocation from the opening of its link to its deletion (RFC 8656 §7, §8)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core.allocation import Allocated, AllocationFailed, State
from aioice.core.demux import CHANNEL_MIN
from aioice.core.machine import (
    Close,
    Done,
    LinkClosed,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Reason,
    SendFailed,
    Tunables,
)
from aioice.core.message import Class, Message, Method, parse_message
from tests.core.allocation_scene import (
    CHECK,
    KEY,
    LINK,
    MAPPED,
    PEER,
    RELAY,
    RELAYED,
    RELAYED6,
    SERVER,
    Scene,
    bound,
    ready,
    stream,
)


class TestAllocate:
    def test_over_udp(self) -> None:
        scene = Scene().start()
        assert scene.outputs == [
            OpenUdp(LINK, "0.0.0.0"),
            OpenRelay(RELAY, RELAYED, MAPPED, LINK),
            Allocated(RELAY, RELAYED, MAPPED),
        ]
        first, second = scene.requests(Method.ALLOCATE)
        assert first.message is not None and second.message is not None
        assert set(first.message.attributes) == {"LIFETIME", "REQUESTED-TRANSPORT"}
        assert second.message.attributes["REQUESTED-TRANSPORT"] == 17 << 24  # RFC 8656 §18.8
        assert second.message.attributes["LIFETIME"] == 600
        assert second.message.attributes["USERNAME"] == "user"
        assert first.message.transaction_id != second.message.transaction_id
        assert scene.allocation.state is State.READY

    @pytest.mark.parametrize(("family", "code"), [(4, 0x01000000), (6, 0x02000000)])
    def test_family(self, family: int, code: int) -> None:
        scene = Scene(families=(family,)).start()
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
        assert failed.detail == "the server refused: 401 ('No'): check the user name and the password"
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


@given(st.data())
def test_no_bytes_and_no_order_of_events_raise(data: st.DataObject) -> None:
    kinds: list[dict[str, Any]] = [{}, stream(), {"families": (4, 6)}, {"renewable": True, "expires": 300.0}]
    scene = Scene(**data.draw(st.sampled_from(kinds)))
    scene.server.relayed = (RELAYED, RELAYED6)
    scene.delay = data.draw(st.sampled_from([0.0, 0.3, None]))
    scene.server.refuse = data.draw(
        st.dictionaries(
            st.sampled_from([Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND]),
            st.sampled_from([300, 400, 401, 403, 437, 438, 441, 443, 500, 508]),
        )
    )
    scene.allocation.start(scene.now)
    peers = [PEER, (PEER[0], 1), ("198.51.100.9", 5), ("2001:db8::9", 5)]
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.integers(0, 11)):
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
            case 8:
                scene.icmp(
                    data.draw(st.sampled_from(peers)), data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
                )
            case 9:
                scene.server.key = data.draw(st.sampled_from([KEY, b"other"]))
            case 10:
                user = data.draw(st.sampled_from([("user", "pass"), ("else", "word"), ("bad\n", ""), (None, None)]))
                scene.allocation.set_credentials(scene.now, *user, data.draw(st.sampled_from([None, 0.0, 5000.0])))
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
