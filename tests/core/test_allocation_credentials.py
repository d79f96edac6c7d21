"""An allocation whose credentials come to an end (RFC 8489 §9.2.5; F43)."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.allocation import Allocated, AllocationFailed, AllocationLost, State, WantCredentials
from aioice.core.credentials import make_integrity_key
from aioice.core.machine import Deliver, Done
from aioice.core.message import Message, Method
from aioice.core.transactions import CREDENTIALS_TIME
from tests.core.allocation_scene import CHECK, MAPPED, PEER, RELAY, RELAYED, Scene, bound, ready

NEWER = make_integrity_key("user", "realm", "newer")


def give(scene: Scene, *user: Any) -> None:
    scene.allocation.set_credentials(scene.now, *user)
    scene.settle()


def changed(**config: Any) -> Scene:
    """A channel is bound, and then the user has another password."""
    scene = bound(renewable=True, **config)
    scene.run(490)
    scene.send(b"data")
    scene.seen.clear()
    scene.server.key = NEWER
    return scene


class TestAllocating:
    def test_with_others(self) -> None:
        scene = Scene(renewable=True, password="wrong").start()
        assert scene.take(WantCredentials) == [WantCredentials()]
        assert scene.allocation.state is State.ALLOCATING
        scene.run(1)
        give(scene, "user", "pass")
        assert scene.take(Allocated) == [Allocated(RELAY, RELAYED, MAPPED)]
        assert scene.methods() == ["ALLOCATE"] * 3

    def test_without_any(self) -> None:
        scene = Scene(renewable=True, username=None, password=None).start()
        assert scene.methods() == ["ALLOCATE"]
        give(scene, "user", "pass")
        assert scene.take(Allocated)

    @pytest.mark.parametrize("answered", [True, False])
    def test_there_are_none(self, answered: bool) -> None:
        scene = Scene(renewable=True, password="wrong").start()
        if answered:
            give(scene, None, None)
        else:
            scene.run(CREDENTIALS_TIME + 0.1)
        assert [failed.code for failed in scene.take(AllocationFailed)] == [401]
        assert scene.allocation.state is State.DONE
        give(scene, "user", "pass")
        assert scene.allocation.poll_timeout() is None

    def test_bad_characters_are_named(self) -> None:
        scene = Scene(password="tab\t").start()
        (failed,) = scene.take(AllocationFailed)
        assert failed.detail == r"the character '\t' is not allowed in user names and passwords"

    def test_closed_while_it_waits(self) -> None:
        scene = Scene(renewable=True, password="wrong").start()
        scene.close()
        assert scene.take(Done) == [Done("closed")]
        assert scene.allocation.poll_timeout() is None

    def test_expired_ones_are_renewed_by_the_way(self) -> None:
        scene = Scene(renewable=True, expires=0.0).start()
        assert scene.take(Allocated)
        scene.run(0.1)
        assert scene.take(WantCredentials) == [WantCredentials()]


class TestReady:
    def test_data_goes_on_while_new_ones_are_fetched(self) -> None:
        scene = changed()
        scene.run(11)
        assert scene.take(WantCredentials) == [WantCredentials()]
        scene.seen.clear()
        for _ in range(20):
            scene.run(0.5)
            scene.send(b"data")
            scene.receive(b"\x40\x00\x00\x01x")
        assert scene.methods().count("channel") == 20
        assert len(scene.take(Deliver)) == 20
        give(scene, "user", "newer")
        assert sorted(set(scene.methods())) == ["CHANNEL_BIND", "REFRESH"]
        scene.run(2000)
        assert scene.take(AllocationLost) == []
        assert scene.take(WantCredentials) == []

    def test_new_peers_meanwhile(self) -> None:
        scene = changed()
        scene.run(11)
        scene.seen.clear()
        other = ("198.51.100.9", 1)
        scene.send(b"data", other)
        # It leaves, though the server will drop it, and again when there is a permission.
        assert scene.methods() == ["SEND"]
        give(scene, "user", "newer")
        assert "SEND" in scene.methods() or scene.allocation.channel(scene.now, other)
        assert scene.allocation.channel(scene.now, other)

    def test_there_are_none(self) -> None:
        scene = changed()
        scene.run(11)
        give(scene, None, None)
        assert scene.take(AllocationLost) == []
        # The server is asked again, and so is whoever has credentials, until the lifetime is over.
        for _ in range(11):
            scene.run(10)
            if scene.take(WantCredentials):
                give(scene, None, None)
        assert [lost.detail for lost in scene.take(AllocationLost)] == ["the allocation has expired"]
        assert scene.methods().count("REFRESH") <= 8

    def test_nobody_answers(self) -> None:
        scene = changed()
        scene.run(121)
        assert [lost.detail for lost in scene.take(AllocationLost)] == ["the allocation has expired"]

    def test_late_ones(self) -> None:
        scene = changed()
        scene.run(70)
        give(scene, "user", "newer")
        scene.run(1000)
        assert scene.take(AllocationLost) == []

    def test_of_another_user(self) -> None:
        # RFC 8656 §7.3: a new allocation is needed, for which the parent has the credentials.
        scene = changed()
        scene.run(11)
        scene.server.key = make_integrity_key("other", "realm", "word")

        def override(request: Message) -> Message | None:
            return scene.server.error(request, 441)

        scene.server.override = override
        give(scene, "other", "word")
        assert [lost.code for lost in scene.take(AllocationLost)] == [441]

    def test_renewed_before_their_end(self) -> None:
        scene = ready(renewable=True, expires=400.0)
        scene.run(241)
        assert scene.take(WantCredentials) == [WantCredentials()]
        give(scene, "user", "newer", 4000.0)
        scene.server.key = NEWER
        scene.run(2000)
        assert scene.take(AllocationLost) == []
        assert set(scene.methods()) == {"REFRESH"}

    def test_deleted_with_what_there_is(self) -> None:
        scene = changed()
        scene.run(11)
        scene.seen.clear()
        scene.close()
        assert scene.methods() == ["REFRESH"]
        assert scene.take(Done) == [Done("closed")]

    def test_permission_is_refused_first(self) -> None:
        scene = ready(renewable=True)
        scene.server.key = NEWER
        scene.send(CHECK)
        scene.settle()
        assert scene.methods() == ["CREATE_PERMISSION", "SEND"]
        assert scene.take(WantCredentials) == [WantCredentials()]
        give(scene, "user", "newer")
        assert scene.peers._permissions[PEER[0]].until > scene.now
        assert scene.requests(Method.CREATE_PERMISSION)
