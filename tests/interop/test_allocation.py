"""An allocation's machine on a socket of its own, with coturn."""

from __future__ import annotations

import itertools
import os
import select
import socket
import time
from collections.abc import Callable
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
    Permitted,
    State,
    WantCredentials,
)
from aioice.core.machine import Address, Deliver, Opened, OpenUdp, Transmit
from aioice.core.message import Class, Method, parse_message
from aioice.core.turn_errors import Step, verdict
from tests.interop.coturn import PASSWORD, USERNAME, Coturn

BOTH = ("127.0.0.1", "::1")
PATIENCE = 10.0


class Session:
    """Runs until it is told otherwise; ``outputs`` holds what is meant for a parent."""

    def __init__(self, coturn: Coturn, **config: Any) -> None:
        fields = {"server": coturn.address, "username": USERNAME, "password": PASSWORD} | config
        self.allocation = Allocation(AllocationConfig(**fields), os.urandom, itertools.count(1).__next__)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.outputs: list[Any] = []
        self.asked: list[Method] = []

    def __enter__(self) -> Session:
        return self.do(self.allocation.start)

    def __exit__(self, *exc: object) -> None:
        self.do(self.allocation.close)
        self.until(lambda: self.allocation.state is State.DONE)
        self.socket.close()

    def do(self, verb: Callable[..., object], *args: Any) -> Session:
        verb(time.monotonic(), *args)
        while (output := self.allocation.poll_output()) is not None:
            if isinstance(output, OpenUdp):
                self.do(self.allocation.handle_report, Opened(output.link, self.socket.getsockname()))
            elif isinstance(output, Transmit):
                self.socket.sendto(output.data, output.peer)
                if output.data[0] < 4 and (message := parse_message(output.data)).message_class is Class.REQUEST:
                    self.asked.append(Method(message.message_method))
            else:
                self.outputs.append(output)
        return self

    def until(self, done: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            due = self.allocation.poll_timeout()
            wait = min(end, end if due is None else due) - time.monotonic()
            assert time.monotonic() < end, self.outputs
            if select.select([self.socket], [], [], max(wait, 0))[0]:
                data, peer = self.socket.recvfrom(65536)
                self.do(self.allocation.handle_datagram, 1, peer, data)
            if due is not None and due <= time.monotonic():
                self.do(self.allocation.handle_timeout)

    def wait_for(self, kind: type[Any], count: int = 1) -> list[Any]:
        self.until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)

    def all(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.outputs if isinstance(output, kind)]

    def talk(self, host: str) -> Address:
        """To a peer on ``host`` and back; returns where the peer sees us."""
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((host, 0))
            peer.settimeout(PATIENCE)
            address = peer.getsockname()[:2]
            before = len(self.all(Deliver))
            self.do(self.allocation.send, address, b"there")
            self.until(lambda: self.allocation.channel(time.monotonic(), address))
            data, source = peer.recvfrom(100)
            assert data == b"there"
            peer.sendto(b"back", source)
            assert [output.data for output in self.wait_for(Deliver, before + 1)[before:]] == [b"back"]
            seen: Address = source[:2]
            return seen


@pytest.mark.parametrize("families", [(4, 6), (4,), (6,), ()])
def test_families(families: tuple[int, ...]) -> None:
    with Coturn(relay_ips=BOTH) as coturn, Session(coturn, families=families) as session:
        found = session.wait_for(Allocated, len(families) or 1)
        expected = [BOTH[family == 6] for family in families] or [BOTH[0]]
        assert [allocated.relayed[0] for allocated in found] == expected
        assert session.asked == [Method.ALLOCATE] * 2
        for host, allocated in zip(expected, found, strict=True):
            assert session.talk(host) == allocated.relayed
        before = len(session.asked)
        session.do(session.allocation.probe)
        session.until(lambda: session.allocation._transactions.idle)
        assert session.asked[before:] == [Method.REFRESH] * len(expected)
        assert session.all(AllocationLost) == []


@pytest.mark.parametrize(("has", "missing"), [("127.0.0.1", 6), ("::1", 4)])
def test_server_with_one_family(has: str, missing: int) -> None:
    with Coturn(relay_ips=(has,)) as coturn, Session(coturn, families=(4, 6)) as session:
        (allocated,) = session.wait_for(Allocated)
        assert allocated.relayed[0] == has
        assert session.wait_for(FamilyMissing) == [FamilyMissing(missing, 440)]
        session.talk(has)


def test_permissions_of_both_families_in_one_request() -> None:
    names = [f"127.0.0.{number}" for number in range(1, 20)] + ["::1", "::2"]
    with Coturn(relay_ips=BOTH) as coturn, Session(coturn, families=(4, 6)) as session:
        session.wait_for(Allocated, 2)
        for name in names:
            session.do(session.allocation.permit, name)
        session.wait_for(Permitted, len(names))
        before = len(session.asked)
        peers = session.allocation._peers
        assert peers is not None
        started = min(permission.until for permission in peers._permissions.values())
        peers._due = list(peers._permissions.values())
        session.do(session.allocation.handle_timeout)
        session.until(lambda: session.allocation._transactions.idle)
        assert session.asked[before:] == [Method.CREATE_PERMISSION]
        assert min(permission.until for permission in peers._permissions.values()) > started
        assert session.all(PeerRefused) == []


def test_alternate_server() -> None:
    with Coturn("--alternate-server=127.0.0.9:3478") as coturn, Session(coturn) as session:
        (failed,) = session.wait_for(AllocationFailed)
        found = verdict(failed.code, failed.response)
        assert (found.step, found.alternates) == (Step.REDIRECT, (("127.0.0.9", 3478),))


def test_credentials_that_come_late() -> None:
    with Coturn() as coturn, Session(coturn, username=None, password=None, renewable=True) as session:
        session.wait_for(WantCredentials)
        session.do(session.allocation.set_credentials, USERNAME, PASSWORD)
        session.wait_for(Allocated)
        session.talk("127.0.0.1")
