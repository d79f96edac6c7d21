"""An allocation against the TURN server in the box, which refuses, delays, forgets and lies (RFC 8656, RFC 8489)."""

from __future__ import annotations

import hashlib
from itertools import count
from typing import Any

import pytest

from aioice.core.allocation import (
    Allocated,
    Allocation,
    AllocationConfig,
    AllocationFailed,
    AllocationLost,
    FamilyMissing,
    PeerRefused,
    PeerUnreachable,
    Permitted,
    WantCredentials,
)
from aioice.core.machine import Address, Deliver, Notify, Reason, Report
from aioice.core.message import Method
from aioice.core.turn_errors import Step, verdict
from aioice.sim import Node, TurnServer, World
from tests.scenarios.support import TURN

RELAY, RELAY6 = "198.51.100.3", "2001:db8::3"
PEER, PEER6 = ("198.51.100.9", 7000), ("2001:db8::9", 7000)
V4, V6 = 1, 2


class Machine:
    """An allocation on its own: what is meant for its parent becomes events."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.handle_datagram = allocation.handle_datagram
        self.handle_timeout = allocation.handle_timeout
        self.poll_timeout = allocation.poll_timeout

    def handle_report(self, now: float, report: Report) -> None:
        self.allocation.handle_report(now, report)

    def poll_output(self) -> Any:
        output = self.allocation.poll_output()
        return Notify(output) if isinstance(output, OWN) else output


OWN = (
    Allocated,
    AllocationFailed,
    AllocationLost,
    FamilyMissing,
    PeerRefused,
    PeerUnreachable,
    Permitted,
    WantCredentials,
)


class Scene:
    """A client, 20 ms from the server, and a peer of both families that echoes."""

    def __init__(self, *, user: tuple[str, str] = ("user", "secret"), port: int = 3478, **config: Any) -> None:
        self.world = World()
        self.world.network(delay=0.01)
        self.server: TurnServer = self.world.turn_server(
            TURN[0], username="user", password="secret", relay=(RELAY, RELAY6)
        )
        self.host = self.world.host("192.0.2.1")
        self.peer = self.world.host(PEER[0], PEER6[0])
        for address in (PEER, PEER6):
            self.echo(address)
        fields: dict[str, Any] = {"server": (TURN[0], port), "username": user[0], "password": user[1]} | config
        links = count(1).__next__
        self.allocation = Allocation(AllocationConfig(**fields), self.world.random_bytes, links)
        self.node: Node = self.host.run(Machine(self.allocation))

    def echo(self, address: Address) -> None:
        socket = self.peer.bind(*address)
        socket.on_datagram = lambda peer, data: socket.send(peer, data) and None

    def start(self) -> Scene:
        self.node.do(self.allocation.start)
        return self.wait(1)

    def wait(self, seconds: float) -> Scene:
        self.world.run(until=self.world.now + seconds)
        return self

    def all(self, kind: type[Any]) -> list[Any]:
        return [event for _, event in self.node.events if isinstance(event, kind)]

    def talk(self, peer: Address = PEER, data: bytes = b"payload", within: float = 0.05) -> None:
        """There and back, within one round trip over the server."""
        before = len(self.delivered)
        self.node.do(self.allocation.send, peer, data)
        self.wait(within)
        assert self.delivered[before:] == [data]

    @property
    def delivered(self) -> list[bytes]:
        return [output.data for _, output in self.node.outputs if isinstance(output, Deliver)]


class TestCredentials:
    @pytest.mark.parametrize("algorithms", [(), (2,), (2, 1), (1, 2), (1,), (77, 2)])
    @pytest.mark.parametrize("anonymity", [False, True])
    def test_of_all_kinds(self, algorithms: tuple[int, ...], anonymity: bool) -> None:
        scene = Scene()
        scene.server.password_algorithms, scene.server.anonymity = algorithms, anonymity
        scene.start()
        assert scene.all(Allocated)
        scene.talk()
        scene.server.expire_nonce()
        scene.wait(4000)
        scene.talk()
        assert scene.all(AllocationLost) == []

    @pytest.mark.parametrize(("algorithms", "works"), [((), False), ((1,), False), ((1, 2), True), ((2,), True)])
    def test_where_md5_is_forbidden(
        self, algorithms: tuple[int, ...], works: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def md5(*args: Any, **options: Any) -> Any:
            raise ValueError("disabled for FIPS")

        scene = Scene()
        scene.server.password_algorithms = algorithms
        monkeypatch.setattr(hashlib, "md5", md5)
        scene.start()
        assert bool(scene.all(Allocated)) is works
        assert ["MD5 is forbidden on this system" in failed.detail for failed in scene.all(AllocationFailed)] == (
            [] if works else [True]
        )

    def test_other_scripts(self) -> None:
        scene = Scene(user=("us\u00a0er", "e\u0301"))
        scene.server.users = {"us er": "\u00e9"}
        scene.server.realm = "b\u00fccher"
        assert scene.start().all(Allocated)

    def test_nonces_that_last_for_one_request(self) -> None:
        # F34
        scene = Scene()
        scene.server.nonce_uses = 1
        scene.start()
        # The permission is asked for again, and the data sent again.
        scene.talk(within=0.1)
        scene.wait(4000)
        scene.talk()
        assert scene.all(AllocationLost) == []

    def test_somebody_removes_the_algorithms(self) -> None:
        # RFC 8489 §9.2.1
        scene = Scene()
        scene.server.password_algorithms = (2, 1)
        scene.server.rewrite = lambda request, response: response.attributes.pop("PASSWORD-ALGORITHMS", None) and None
        (failed,) = scene.start().all(AllocationFailed)
        assert "removed the server's password algorithms" in failed.detail
        assert scene.server.count(Method.ALLOCATE) == 1

    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    def test_forged_answers(self, transport: str) -> None:
        scene = Scene(transport=transport)
        scene.server.forges = True
        scene.start().wait(40)
        (failed,) = scene.all(AllocationFailed)
        assert "not authentic" in failed.detail
        assert (failed.reason is Reason.TIMED_OUT) is (transport == "udp")

    @pytest.mark.parametrize("late", [False, True])
    def test_the_user_ends(self, late: bool) -> None:
        # F43
        scene = Scene(renewable=True).start()
        scene.talk()
        scene.server.users = {"user": "newer"}
        scene.wait(260)
        assert scene.all(WantCredentials) == [WantCredentials()]
        scene.talk()
        if not late:
            scene.node.do(scene.allocation.set_credentials, "user", "newer")
        scene.wait(35)
        scene.node.do(scene.allocation.set_credentials, "user", "newer")
        scene.wait(1000)
        scene.talk()
        assert scene.all(AllocationLost) == []

    def test_another_user_needs_another_allocation(self) -> None:
        scene = Scene(renewable=True).start()
        scene.server.users = {"other": "word"}
        scene.wait(501)
        scene.node.do(scene.allocation.set_credentials, "other", "word")
        scene.wait(1)
        (lost,) = scene.all(AllocationLost)
        assert lost.code == 441
        assert verdict(lost.code, lost.response, lost=True).step is Step.NEW_TUPLE


class TestFamilies:
    def test_both(self) -> None:
        scene = Scene(families=(4, 6)).start()
        assert [allocated.relayed[0] for allocated in scene.all(Allocated)] == [RELAY, RELAY6]
        assert scene.server.count(Method.ALLOCATE) == 2
        for peer in (PEER, PEER6):
            scene.talk(peer)
        scene.wait(4000)
        for peer in (PEER, PEER6):
            scene.talk(peer)
        scene.node.do(scene.allocation.close)
        scene.wait(1)
        assert scene.server.allocations == {}
        assert scene.node.done == "closed"

    @pytest.mark.parametrize("code", [440, 508])
    def test_one_is_refused(self, code: int) -> None:
        scene = Scene(families=(4, 6))
        scene.server.family_errors = {V6: code}
        scene.start()
        assert [allocated.relayed[0] for allocated in scene.all(Allocated)] == [RELAY]
        assert scene.all(FamilyMissing) == [FamilyMissing(6, code)]
        scene.talk()

    def test_old_server(self) -> None:
        scene = Scene(families=(4, 6))
        scene.server.ignorant_of = {0x8000, 0x0017}
        scene.start()
        assert scene.all(FamilyMissing) == [FamilyMissing(6, 0)]
        scene.talk()

    def test_server_with_ipv6_only(self) -> None:
        scene = Scene(families=(4, 6))
        del scene.server.relays[V4]
        scene.start()
        assert scene.all(FamilyMissing) == [FamilyMissing(4, 440)]
        scene.talk(PEER6)

    @pytest.mark.parametrize(("gone", "left"), [(V4, PEER6), (V6, PEER)])
    def test_one_is_lost(self, gone: int, left: Address) -> None:
        scene = Scene(families=(4, 6)).start()
        scene.server.drop_family(gone)
        scene.wait(501)
        (lost,) = scene.all(AllocationLost)
        assert (lost.relay_link, lost.code) == (scene.all(Allocated)[gone - 1].relay_link, 443)
        scene.talk(left)
        scene.wait(2000)
        scene.talk(left)


class TestErrors:
    @pytest.mark.parametrize("code", [300, 400, 403, 420, 437, 440, 442, 446, 486, 500, 508])
    def test_allocation_is_refused(self, code: int) -> None:
        scene = Scene()
        scene.server.refuse(code, Method.ALLOCATE)
        (failed,) = scene.start().all(AllocationFailed)
        assert failed.code == code
        assert scene.node.links == {}
        assert scene.server.count(Method.ALLOCATE) == 2

    def test_redirected(self) -> None:
        scene = Scene()
        attributes = {"ALTERNATE-SERVER": ("198.51.100.77", 3479), "ALTERNATE-DOMAIN": "turn.example.org"}
        scene.server.refuse(300, Method.ALLOCATE, attributes=attributes)
        (failed,) = scene.start().all(AllocationFailed)
        found = verdict(failed.code, failed.response)
        assert (found.step, found.alternates, found.domain) == (
            Step.REDIRECT,
            (("198.51.100.77", 3479),),
            "turn.example.org",
        )

    @pytest.mark.parametrize(("told", "refreshes"), [(0, 0), (1, 60), (0xFFFFFFFF, 0)])
    def test_lifetimes_that_are_lies(self, told: int, refreshes: int) -> None:
        # F35
        scene = Scene()
        scene.server.told_lifetime = told
        scene.start().wait(120)
        assert abs(scene.server.count(Method.REFRESH) - refreshes) <= 2

    @pytest.mark.parametrize("restart", ["forget", "stop"])
    def test_restart(self, restart: str) -> None:
        # F41
        scene = Scene().start()
        scene.talk()
        if restart == "stop":
            scene.server.stop()
            scene.server.start()
        else:
            scene.server.forget()
        scene.wait(241)
        assert [lost.code for lost in scene.all(AllocationLost)] == [437]

    def test_silence_and_slowness(self) -> None:
        scene = Scene()
        scene.server.delays = {Method.CHANNEL_BIND: 2.0, Method.CREATE_PERMISSION: 0.3}
        scene.start()
        for _ in range(100):
            scene.talk()
        scene.server.silence(Method.CHANNEL_BIND, Method.CREATE_PERMISSION)
        for _ in range(28):
            scene.wait(10)
            scene.talk()

    def test_trouble_with_refreshes(self) -> None:
        scene = Scene().start()
        scene.talk()
        scene.server.refuse(500, Method.REFRESH, times=10)
        scene.server.refuse(500, Method.CHANNEL_BIND, times=3)
        scene.server.silence(Method.CREATE_PERMISSION, times=2)
        for _ in range(120):
            scene.wait(10)
            scene.talk()
        assert scene.all(AllocationLost) == []


class TestPeers:
    def test_unreachable(self) -> None:
        # RFC 8656 §11.5, §11.6
        scene = Scene(families=(4, 6)).start()
        scene.peer.refuses = True
        links = [allocated.relay_link for allocated in scene.all(Allocated)]
        peers = [(PEER[0], 9), (PEER6[0], 9)]
        for peer in peers:
            scene.node.do(scene.allocation.send, peer, b"anybody?")
        scene.wait(0.1)
        assert scene.all(PeerUnreachable) == [
            PeerUnreachable(link, peer, Reason.REFUSED) for link, peer in zip(links, peers, strict=True)
        ]

    def test_too_big_says_nothing_of_the_peer(self) -> None:
        scene = Scene().start()
        scene.talk()
        (allocation,) = scene.server.allocations.values()
        allocation.icmp(PEER, 3, 4)
        scene.wait(0.1)
        assert scene.all(PeerUnreachable) == []

    def test_permissions_in_batches(self) -> None:
        scene = Scene().start()
        names = [f"198.51.100.{number}" for number in range(100, 164)]
        for name in names:
            scene.node.do(scene.allocation.permit, name)
        scene.wait(1)
        assert scene.server.count(Method.CREATE_PERMISSION) == 64
        assert len(scene.all(Permitted)) == 64
        scene.wait(240)
        assert scene.server.count(Method.CREATE_PERMISSION) == 66
        (allocation,) = scene.server.allocations.values()
        assert all(allocation.permitted(name) for name in names)
        # One may no longer be spoken to: the others are asked for one by one.
        scene.server.forbidden.add(names[7])
        scene.wait(240)
        assert scene.server.count(Method.CREATE_PERMISSION) == 66 + 2 + 32
        assert [name for name in names if not allocation.permitted(name)] == []
        scene.wait(60)
        assert [name for name in names if not allocation.permitted(name)] == [names[7]]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_closing_does_not_wait_for_the_server(transport: str) -> None:
    # F40
    scene = Scene(transport=transport).start()
    scene.server.silence()
    scene.node.do(scene.allocation.close)
    scene.wait(0.9)
    assert scene.node.done is None
    scene.wait(0.2)
    assert scene.node.done == "closed"
    assert scene.node.links == {}


@pytest.mark.parametrize("speed", [0.1, 0.3, 2.0])
def test_closed_before_the_answer(speed: float) -> None:
    """What the server has allocated by then is deleted, if it says so within a second."""
    scene = Scene()
    scene.server.delays = {Method.ALLOCATE: speed}
    scene.node.do(scene.allocation.start)
    scene.wait(speed + 0.04)
    scene.node.do(scene.allocation.close)
    scene.wait(3)
    assert scene.node.done == "closed"
    assert scene.node.links == {}
    assert bool(scene.server.allocations) is (speed > 1)
