"""Multicast DNS over the real interfaces of this host."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import ifaddr
import pytest
import uvloop

from aioice import mdns
from aioice.core import dnswire
from aioice.mdns import MDnsProtocol

NAME = "3b6c1f0e-aaaa-4bbb-8ccc-0123456789ab.local"


@asynccontextmanager
async def protocols(count: int = 2) -> AsyncIterator[list[MDnsProtocol]]:
    made = [await mdns.create_mdns_protocol() for _ in range(count)]
    try:
        yield made
    finally:
        for protocol in made:
            await protocol.close()


@pytest.fixture
def no_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining a group fails, as on a host without multicast."""
    setsockopt = socket.socket.setsockopt

    def failing(sock: socket.socket, level: int, option: int, value: Any) -> None:
        if (level, option) in (
            (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP),
            (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP),
        ):
            raise OSError(errno.ENODEV, "No such device")
        setsockopt(sock, level, option, value)

    monkeypatch.setattr(socket.socket, "setsockopt", failing)


def places(protocol: MDnsProtocol) -> set[socket.AddressFamily]:
    return {place[0] for place in protocol._links}


def open_sockets() -> list[socket.socket]:
    gc.collect()
    sockets = [thing for thing in gc.get_objects() if isinstance(thing, socket.socket) and thing.fileno() >= 0]
    return [sock for sock in sockets if sock.getsockname()[1:2] == (mdns.MDNS_PORT,)]


class TestNames:
    def test_create(self) -> None:
        name = mdns.create_mdns_hostname()
        assert mdns.is_mdns_hostname(name)
        assert len(name) == 36 + len(".local")
        assert name != mdns.create_mdns_hostname()

    def test_constants(self) -> None:
        assert (mdns.MDNS_ADDRESS, mdns.MDNS_PORT) == ("224.0.0.251", 5353)


class TestResolve:
    @pytest.mark.parametrize("address", ["192.0.2.55", "2001:db8::55", "::ffff:192.0.2.55"])
    async def test_what_another_publishes(self, address: str) -> None:
        """F45: also a name with an IPv6 address only."""
        async with protocols() as (responder, querier):
            await responder.publish(NAME, address)
            assert await querier.resolve(NAME) == address
            assert await querier.resolve(NAME.upper() + ".") == address

    @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
    async def test_over_one_family(self, family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch) -> None:
        """F45: questions and answers pass over 224.0.0.251 and over ff02::fb alike."""
        all_places = mdns._places
        monkeypatch.setattr(mdns, "_places", lambda: [place for place in all_places() if place[0] == family])
        async with protocols() as (responder, querier):
            await responder.publish(NAME, "192.0.2.55")
            assert await querier.resolve(NAME) == "192.0.2.55"
            assert places(responder) == places(querier) == {family}

    async def test_hops(self) -> None:
        """RFC 6762 §11: 255, for those who want to see that an answer comes from the link."""
        async with protocols(1) as (protocol,):
            await protocol.publish(NAME, "192.0.2.55")
            limits = {
                sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS)
                if sock.family == socket.AF_INET6
                else sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL)
                for sock in open_sockets()
            }
            assert limits == {255}

    async def test_all_interfaces_and_families(self) -> None:
        """F44"""
        async with protocols(1) as (protocol,):
            await protocol.publish(NAME, "192.0.2.55")
            wanted = set()
            for adapter in ifaddr.get_adapters():
                for ip in adapter.ips:
                    wanted.add((socket.AF_INET6, "", adapter.index) if ip.is_IPv6 else (socket.AF_INET, ip.ip, 0))
            assert wanted
            assert set(protocol._links) == wanted

    async def test_interfaces_are_those_of_ifaddr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Programs replace ifaddr.get_adapters to choose interfaces."""
        loopback = [adapter for adapter in ifaddr.get_adapters() if any(ip.ip == "127.0.0.1" for ip in adapter.ips)]
        monkeypatch.setattr(ifaddr, "get_adapters", lambda: loopback)
        async with protocols() as (responder, querier):
            await responder.publish(NAME, "192.0.2.55")
            assert await querier.resolve(NAME) == "192.0.2.55"
            assert (socket.AF_INET, "127.0.0.1", 0) in querier._links

    async def test_where_sockets_cannot_be_bound_to_the_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on other systems than Linux."""
        monkeypatch.setattr(mdns, "_BIND_TO_GROUP", False)
        async with protocols() as (responder, querier):
            await responder.publish(NAME, "192.0.2.55")
            assert await querier.resolve(NAME) == "192.0.2.55"
            hosts = {sock.getsockname()[0] for sock in open_sockets()}
            assert hosts and hosts <= {"0.0.0.0", "::"}

    def test_interfaces_without_a_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without one, nobody can say where the IPv6 group is to be joined; those without addresses do not count."""
        ips = [ifaddr.IP(("fe80::1", 0, 1), 64, "eth0"), ifaddr.IP("192.0.2.7", 24, "eth0")]
        adapters = [ifaddr.Adapter("eth0", "eth0", ips), ifaddr.Adapter("eth1", "eth1", [])]
        monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
        assert mdns._places() == [(socket.AF_INET, "192.0.2.7", 0)]

    async def test_no_interface_can_be_listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system knows an interface all the same."""

        def failing() -> None:
            raise OSError(errno.ENOMEM, "no memory")

        monkeypatch.setattr(ifaddr, "get_adapters", failing)
        async with protocols() as (responder, querier):
            await responder.publish(NAME, "192.0.2.55")
            assert await querier.resolve(NAME) == "192.0.2.55"
            assert set(querier._links) == {(socket.AF_INET, "0.0.0.0", 0)}

    async def test_interfaces_that_come_and_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mdns, "RESCAN_INTERVAL", 0)
        interfaces = mdns._places()
        shown = interfaces[:1]
        monkeypatch.setattr(mdns, "_places", lambda: shown)
        async with protocols(1) as (protocol,):
            await protocol.resolve(NAME, 0)
            assert list(protocol._links) == interfaces[:1]
            shown = interfaces
            await protocol.resolve(NAME, 0)
            assert list(protocol._links) == interfaces
            shown = interfaces[1:]
            await protocol.resolve(NAME, 0)
            assert list(protocol._links) == interfaces[1:]

    async def test_many_interfaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mdns, "MAX_LINKS", 1)
        async with protocols(1) as (protocol,):
            await protocol.resolve(NAME, 0)
            assert len(protocol._links) == 1

    async def test_nobody_answers(self) -> None:
        async with protocols(1) as (protocol,):
            assert await protocol.resolve(NAME, timeout=0.05) is None

    async def test_asks_again_after_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """F44, over real sockets: the responder answers the second question only."""
        async with protocols() as (responder, querier):
            heard = 0
            original = responder.datagram_received

            def second_only(data: bytes, addr: tuple[Any, ...], link: int = 0) -> None:
                nonlocal heard
                packet = dnswire.parse(data)
                if packet is not None and [q.name for q in packet.questions] == [dnswire.encode_name(NAME)]:
                    heard += 1
                    if heard <= 2 * len(querier._links):
                        return
                original(data, addr, link)

            monkeypatch.setattr(responder, "datagram_received", second_only)
            await responder.publish(NAME, "192.0.2.55")
            assert await querier.resolve(NAME, timeout=3) == "192.0.2.55"

    async def test_published_while_asked(self) -> None:
        async with protocols() as (responder, querier):
            task = asyncio.create_task(querier.resolve(NAME, timeout=None))
            await asyncio.sleep(0)
            await responder.publish(NAME, "192.0.2.55")
            assert await task == "192.0.2.55"

    async def test_at_the_same_time(self) -> None:
        async with protocols() as (responder, querier):
            await responder.publish(NAME, "192.0.2.55")
            assert await asyncio.gather(*[querier.resolve(NAME) for _ in range(5)]) == ["192.0.2.55"] * 5

    async def test_unpublished(self) -> None:
        async with protocols() as (responder, querier):
            await responder.publish(NAME, "192.0.2.55")
            responder.unpublish(NAME)
            assert await querier.resolve(NAME, 0.05) is None

    async def test_other_names(self) -> None:
        async with protocols(1) as (protocol,):
            assert await protocol.resolve("example.com", timeout=None) is None
            with pytest.raises(ValueError, match="example.com"):
                await protocol.publish("example.com", "192.0.2.1")

    async def test_lookup_gives_all(self) -> None:
        async with protocols(1) as (protocol,):
            await protocol.publish(NAME, "192.0.2.55")
            await protocol.publish(NAME, "2001:db8::55")
            assert await protocol.lookup(NAME) == ("192.0.2.55", "2001:db8::55")

    async def test_any_datagram(self) -> None:
        async with protocols(1) as (protocol,):
            protocol.datagram_received(b"junk", ("192.0.2.1", 5353))
            protocol.datagram_received(
                bytes.fromhex("0000840000000001000000000178056c6f63616c00000180010000007800037f0000"), ("", 5353)
            )


class TestCancel:
    async def test_leaves_nothing(self) -> None:
        async with protocols(1) as (protocol,):
            await protocol.publish("other.local", "192.0.2.1")
            task = asyncio.create_task(protocol.resolve(NAME))
            await asyncio.sleep(0.01)
            assert protocol._waiting
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not protocol._waiting
            assert not protocol._machine._lookups
            assert protocol._timer is None

    async def test_at_any_moment(self) -> None:
        for turns in range(12):
            async with protocols(1) as (protocol,):
                task = asyncio.create_task(protocol.resolve(NAME))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        await asyncio.sleep(0)
        assert open_sockets() == []

    async def test_the_answer_of_another_still_comes(self) -> None:
        async with protocols() as (responder, querier):
            first = asyncio.create_task(querier.resolve(NAME, None))
            second = asyncio.create_task(querier.resolve(NAME, None))
            await asyncio.sleep(0.01)
            first.cancel()
            await responder.publish(NAME, "192.0.2.55")
            assert await second == "192.0.2.55"
            assert first.cancelled()

    async def test_cancelled_and_answered_in_one_turn(self) -> None:
        async with protocols(1) as (protocol,):
            task = asyncio.create_task(protocol.resolve(NAME, None))
            await asyncio.sleep(0.01)
            task.cancel()
            record = dnswire.Record(dnswire.encode_name(NAME), dnswire.TYPE_A, 1, 120, b"\xc0\0\2\1")
            protocol.datagram_received(dnswire.build_response([record]), ("192.0.2.1", 5353))
            with pytest.raises(asyncio.CancelledError):
                await task


class TestClose:
    async def test_answers_none_afterwards(self) -> None:
        protocol = await mdns.create_mdns_protocol()
        await protocol.close()
        assert await protocol.resolve(NAME, timeout=None) is None
        await protocol.publish(NAME, "192.0.2.1")
        protocol.unpublish(NAME)
        await protocol.close()
        assert open_sockets() == []

    async def test_ends_lookups(self) -> None:
        protocol = await mdns.create_mdns_protocol()
        task = asyncio.create_task(protocol.resolve(NAME, timeout=None))
        await asyncio.sleep(0.01)
        await protocol.close()
        assert await task is None
        assert protocol._timer is None
        assert open_sockets() == []

    async def test_while_opening(self) -> None:
        for turns in range(12):
            protocol = await mdns.create_mdns_protocol()
            task = asyncio.create_task(protocol.resolve(NAME, timeout=None))
            for _ in range(turns):
                await asyncio.sleep(0)
            await protocol.close()
            assert await task is None
        assert open_sockets() == []

    async def test_a_socket_that_dies(self) -> None:
        async with protocols() as (responder, querier):
            await querier.resolve(NAME, 0)
            link = next(iter(querier._links.values()))
            link.close()
            await link.gone.wait()
            assert link.place not in querier._links
            await responder.publish(NAME, "192.0.2.55")
            assert await querier.resolve(NAME) == "192.0.2.55"


@pytest.mark.usefixtures("no_multicast")
class TestWithoutMulticast:
    async def test_resolve(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "aioice.mdns")
        async with protocols(1) as (protocol,):
            assert await protocol.resolve(NAME, timeout=None) is None
        assert caplog.messages == ["Could not join the mDNS group: [Errno 19] No such device"]
        assert open_sockets() == []

    async def test_publish(self) -> None:
        async with protocols(1) as (protocol,):
            await protocol.publish(NAME, "192.0.2.1")
            assert await protocol.resolve(NAME, timeout=None) == "192.0.2.1"

    async def test_port_in_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(sock: socket.socket, address: Any) -> None:
            raise OSError(errno.EADDRINUSE, "Address in use")

        monkeypatch.setattr(socket.socket, "bind", failing)
        async with protocols(1) as (protocol,):
            assert await protocol.resolve(NAME, timeout=None) is None


async def test_multicast_comes_back() -> None:
    async with protocols() as (responder, querier):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mdns, "_open_socket", _fail)
            assert await querier.resolve(NAME, None) is None
        await responder.publish(NAME, "192.0.2.55")
        assert await querier.resolve(NAME) == "192.0.2.55"


def _fail(place: object) -> socket.socket:
    raise OSError(errno.ENODEV, "No such device")


class TestShared:
    async def test_one_for_each_loop(self) -> None:
        one, other = object(), object()
        protocol = await mdns.get_mdns_protocol(one)
        assert await mdns.get_mdns_protocol(other) is protocol
        assert await mdns.get_mdns_protocol(one) is protocol
        await protocol.publish(NAME, "192.0.2.55")
        await mdns.release_mdns_protocol(one)
        await mdns.release_mdns_protocol(one)
        assert await protocol.resolve(NAME) == "192.0.2.55"
        await mdns.release_mdns_protocol(other)
        assert await protocol.resolve(NAME) is None
        await mdns.release_mdns_protocol(other)
        assert open_sockets() == []

    async def test_another_after_the_last_has_gone(self) -> None:
        one = object()
        protocol = await mdns.get_mdns_protocol(one)
        await mdns.release_mdns_protocol(one)
        assert await mdns.get_mdns_protocol(one) is not protocol
        await mdns.release_mdns_protocol(one)

    async def test_resolve(self) -> None:
        async with protocols(1) as (responder,):
            await responder.publish(NAME, "192.0.2.55")
            assert await mdns.resolve(NAME) == ("192.0.2.55",)
            assert await mdns.resolve("other.local", 0.01) == ()
        assert open_sockets() == []

    async def test_all_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def lookup(self: MDnsProtocol, hostname: str, timeout: float | None = 1.0) -> tuple[str, ...]:
            return ("192.0.2.55", "2001:db8::55")

        monkeypatch.setattr(MDnsProtocol, "lookup", lookup)
        assert await mdns.resolve(NAME) == ("192.0.2.55", "2001:db8::55")

    async def test_cancelled_resolve_leaves_nothing(self) -> None:
        for turns in range(12):
            task = asyncio.create_task(mdns.resolve(NAME))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert open_sockets() == []

    async def test_replaced_resolve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fake(self: MDnsProtocol, hostname: str, timeout: float | None = 1.0) -> str | None:
            return {NAME: "192.0.2.66"}.get(hostname)

        monkeypatch.setattr(MDnsProtocol, "resolve", fake)
        assert await mdns.resolve(NAME) == ("192.0.2.66",)
        assert await mdns.resolve("other.local") == ()

    def test_loop_that_was_closed_too_early(self) -> None:
        async def forget() -> None:
            await mdns.get_mdns_protocol(self)

        async def use() -> None:
            await mdns.get_mdns_protocol(self)
            assert len(mdns._shared) == 1
            await mdns.release_mdns_protocol(self)

        asyncio.run(forget())
        asyncio.run(use())


@contextmanager
def runner(factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=factory) as made:
        yield made


class TestLoops:
    def test_uvloop(self) -> None:
        async def run() -> None:
            async with protocols() as (responder, querier):
                await responder.publish(NAME, "2001:db8::55")
                assert await querier.resolve(NAME) == "2001:db8::55"
                assert places(querier) == {socket.AF_INET, socket.AF_INET6}
                assert await mdns.resolve("other.local", 0.01) == ()

        with runner(uvloop.new_event_loop) as made:
            made.run(run())

    def test_two_threads_at_once(self) -> None:
        """Each loop has its own protocol, and they find each other's names."""
        barrier = threading.Barrier(2, timeout=20)
        found: dict[str, tuple[str, ...]] = {}

        async def serve(own: str, other: str, address: str) -> None:
            protocol = await mdns.get_mdns_protocol(own)
            try:
                await protocol.publish(own, address)
                await asyncio.to_thread(barrier.wait)
                found[other] = await mdns.resolve(other)
                await asyncio.to_thread(barrier.wait)
            finally:
                await mdns.release_mdns_protocol(own)

        names = ("one.local", "two.local")
        threads = [
            threading.Thread(target=asyncio.run, args=(serve("one.local", "two.local", "192.0.2.1"),)),
            threading.Thread(target=asyncio.run, args=(serve("two.local", "one.local", "192.0.2.2"),)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {name: found.get(name) for name in names} == {"one.local": ("192.0.2.1",), "two.local": ("192.0.2.2",)}
