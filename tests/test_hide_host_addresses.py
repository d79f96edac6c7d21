"""``hide_host_addresses=True`` on real sockets and real multicast."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any

import pytest

from aioice import Candidate, Connection, mdns
from aioice.core import dnswire
from aioice.core.candidate import is_mdns_hostname
from aioice.ice import ConnectionEvent
from aioice.mdns import Publication

from .peers import (
    HOST,
    PATIENCE,
    check_data,
    close,
    connect,
    gather,
    introduce,
    nothing_left,
    turns,
    until,
    use_hosts,
)

pytestmark = pytest.mark.usefixtures("loopback")
OTHER = "127.0.0.2"


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that is logged."""
    caplog.set_level(logging.DEBUG)
    return caplog


def hiding(controlling: bool = True, **options: Any) -> Connection:
    return Connection(ice_controlling=controlling, hide_host_addresses=True, **options)


async def listen(connection: Connection, heard: list[ConnectionEvent]) -> None:
    async for event in connection.events():
        heard.append(event)


def sdp(connection: Connection) -> str:
    """What a program like aiortc writes."""
    lines = [f"a=candidate:{found.to_sdp()}" for found in connection.local_candidates]
    default = connection.get_default_candidate(1)
    return "\n".join([*lines, f"default {default.host} {default.port} {default.related_address}" if default else ""])


class TestConnections:
    @pytest.mark.parametrize("both", [False, True])
    async def test_no_address_is_told(self, both: bool, everything: pytest.LogCaptureFixture) -> None:
        """Not in SDP, candidates, events, the pair in use, drops or logs; and data flows."""
        async with nothing_left() as connections:
            a, b = hiding(components=2), Connection(False, components=2, hide_host_addresses=both)
            connections += [a, b]
            heard: list[ConnectionEvent] = []
            listening = asyncio.create_task(listen(a, heard))
            await connect(a, b)
            await until(lambda: a.state == b.state == "completed")
            names = {found.host for found in a.local_candidates}
            assert len(names) == 1 and all(map(is_mdns_hostname, names))
            assert [found.component for found in a.local_candidates] == [1, 2]
            pairs = [a._nominated[component] for component in (1, 2)]
            shown = [sdp(a), a.local_candidates, [pair.local_candidate for pair in pairs]]
            shown += [[pair.local_addr for pair in pairs], a.dropped, a, everything.text]
            if both:
                shown += [sdp(b), pairs, b.remote_candidates[0].to_sdp()]
            assert {pair.local_addr[0] for pair in pairs} == names
            await check_data(a, b, 1, 2)
            await close(a, b)
            await listening
            local = [event.local for event in heard if hasattr(event, "local")]
            assert local and {candidate.host for candidate in local} == names
            shown += [local, [getattr(event, "candidate", None) or getattr(event, "reason", "") for event in heard]]
            assert HOST not in repr(shown)

    async def test_selected_by_hand(self) -> None:
        """The pair is judged by the address."""
        a, b = hiding(), Connection(False)
        await gather(a, b)
        introduce(a, b)
        for one, other in ((a, b), (b, a)):
            for found in other.local_candidates:
                await one.add_remote_candidate(found)
        await until(lambda: b.remote_candidates[0].address == HOST)
        for one in (a, b):
            one.set_selected_pair(1, one.local_candidates[0].foundation, one.remote_candidates[0].foundation)
        await check_data(a, b)
        await close(a, b)

    async def test_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One for each address of a connection, of UUIDs of version 4; another connection has others."""
        use_hosts(monkeypatch, HOST, OTHER)
        a, b = hiding(components=2), hiding()
        await gather(a, b)
        names = [[found.host for found in connection.local_candidates] for connection in (a, b)]
        assert names[0][:2] == names[0][2:] and len(set(names[0] + names[1])) == 4
        for name in names[0] + names[1]:
            assert name[14] == "4" and name[19] in "89ab" and name.endswith(".local") and len(name) == 42
        await close(a, b)

    async def test_wrapped_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program that wraps get_component_candidates changes what is hidden."""
        original = Connection.get_component_candidates

        async def wrapped(
            self: Connection, component: int, addresses: list[str], timeout: float = 5
        ) -> list[Candidate]:
            return await original(self, component, [OTHER], timeout)

        monkeypatch.setattr(Connection, "get_component_candidates", wrapped)
        a = hiding()
        await gather(a)
        (name,) = (found.host for found in a.local_candidates)
        assert await mdns.resolve(name) == (OTHER,)
        await a.close()

    async def test_what_is_no_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It cannot be hidden: better an error than a candidate that shows where it leads."""
        use_hosts(monkeypatch, "localhost")
        a = hiding()
        with pytest.raises(ValueError, match="localhost"):
            await gather(a)
        assert a.local_candidates == []
        await a.close()


class TestAnswers:
    async def test_until_close(self) -> None:
        """To another resolver of this host."""
        async with nothing_left() as connections:
            a = hiding()
            connections.append(a)
            querier = await mdns.create_mdns_protocol()
            await gather(a)
            (name,) = (found.host for found in a.local_candidates)
            assert await querier.resolve(name, timeout=3) == HOST
            await a.close()
            await asyncio.sleep(1)  # as long as a resolver remembers
            assert await querier.resolve(name, timeout=0.1) is None
            await querier.close()

    @pytest.mark.parametrize(
        ("host", "type", "expected"),
        [
            (HOST, dnswire.TYPE_A, [dnswire.TYPE_A, dnswire.TYPE_NSEC]),
            (HOST, dnswire.TYPE_AAAA, [dnswire.TYPE_NSEC]),
            ("::1", dnswire.TYPE_AAAA, [dnswire.TYPE_AAAA, dnswire.TYPE_NSEC]),
            ("::1", dnswire.TYPE_A, [dnswire.TYPE_NSEC]),
        ],
    )
    async def test_legacy_resolver(
        self, host: str, type: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """RFC 6762 §6.7: one that asks from a port of its own is told there, by unicast; §6.1: also what is not."""
        use_hosts(monkeypatch, host)
        a = hiding()
        await gather(a)
        (name,) = (found.host for found in a.local_candidates)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        question = b"\x12\x34" + dnswire.build_query(dnswire.encode_name(name), type)[2:]
        async with asyncio.timeout(PATIENCE):
            await loop.sock_sendto(sock, question, (mdns.MDNS_ADDRESS, mdns.MDNS_PORT))
            data = await loop.sock_recv(sock, 2048)
        sock.close()
        packet = dnswire.parse(data)
        assert packet is not None and packet.id == 0x1234
        assert [record.type for record in packet.records] == expected
        await a.close()

    async def test_shared_sockets(self) -> None:
        """Connections of one loop answer through the same ones; each takes its own names with it."""
        async with nothing_left() as connections:
            a, b = hiding(), hiding(False)
            connections += [a, b]
            await gather(a, b)
            assert a._publication is not None and b._publication is not None
            protocol = a._publication._protocol
            assert protocol is not None and protocol is b._publication._protocol
            names = [connection.local_candidates[0].host for connection in (a, b)]
            await a.close()
            assert await protocol.resolve(names[1]) == HOST
            assert await protocol.resolve(names[0], timeout=0.05) is None
            await b.close()
            assert not protocol._links

    async def test_interfaces_of_both_families(self) -> None:
        a = hiding()
        await gather(a)
        assert a._publication is not None and a._publication._protocol is not None
        assert {place[0] for place in a._publication._protocol._links} == {socket.AF_INET, socket.AF_INET6}
        await a.close()


class TestEnds:
    async def test_close_at_any_moment(self) -> None:
        """F50: of gathering, too."""
        for moment in range(1, 30):
            async with nothing_left() as connections:
                a = hiding()
                connections.append(a)
                gathering = asyncio.ensure_future(a.gather_candidates())
                await turns(moment)
                await a.close()
                await gathering

    async def test_connection_that_ends_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its names are no longer answered for, also if nobody calls close()."""
        async with nothing_left() as connections:
            a, b = hiding(), Connection(False)
            connections += [a, b]
            await connect(a, b)
            assert a._publication is not None
            protocol = a._publication._protocol
            assert protocol is not None
            a._do(a._agent.close, "lost")
            await turns()
            assert a.state == "closed" and not protocol._links and not protocol._machine._published
            await close(a, b)

    async def test_host_without_multicast(
        self, monkeypatch: pytest.MonkeyPatch, everything: pytest.LogCaptureFixture
    ) -> None:
        """The name is told all the same, never the address; the path is found by our own checks."""
        monkeypatch.setattr(mdns, "_open_socket", refuse)
        monkeypatch.setattr(mdns.MDnsProtocol, "lookup", _nothing)
        async with nothing_left() as connections:
            a, b = hiding(), Connection(False)
            connections += [a, b]
            await connect(a, b)
            assert is_mdns_hostname(a.local_candidates[0].host)
            assert b._nominated[1].remote_candidate.type == "prflx"
            assert HOST not in sdp(a) + everything.text
            await check_data(a, b)
            await close(a, b)

    def test_loop_that_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At once after close(); and before it, so that it is another one on which close() is called."""

        async def run(closing: bool) -> Connection:
            a = hiding()
            await a.gather_candidates()
            if closing:
                await a.close()
            return a

        asyncio.run(run(closing=True))
        monkeypatch.setattr(mdns, "_open_socket", refuse)
        left = asyncio.run(run(closing=False))
        asyncio.run(left.close())
        assert left.state == "closed" and left._publication is not None and left._publication._protocol is None
        asyncio.run(run(closing=True))

    async def test_publication_that_has_ended(self) -> None:
        """What comes later is named and not answered for."""
        async with nothing_left():
            publication = Publication()
            await publication.close()
            await publication.add([HOST])
            assert list(publication.names) == [HOST]
            assert not mdns._shared[asyncio.get_running_loop()].subscribers
            await publication.close()


def refuse(place: object) -> None:
    """As on a host without multicast."""
    raise OSError(errno.ENODEV, "No such device")


async def _nothing(self: mdns.MDnsProtocol, hostname: str, timeout: float | None = 1.0) -> tuple[str, ...]:
    return ()
