"""The range of ports that host candidates may have, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from aioice import Connection
from aioice.net import udp
from aioice.net.host import AsyncioHost
from aioice.net.udp import PortsInUse, bind_udp
from tests.peers import HOST, check_data, close, connect, gather, nothing_left, use_hosts

OTHER = "127.0.0.2"


@contextlib.contextmanager
def taken(*ports: int, host: str = HOST) -> Iterator[None]:
    """Somebody else has these ports."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(contextlib.closing(bind_udp(host, port)))
        yield


@pytest.fixture
def ports() -> range:
    """Four ports in a row that nobody uses."""
    for low in range(20000, 30000, 4):
        with contextlib.suppress(OSError), taken(*range(low, low + 4)), taken(*range(low, low + 4), host=OTHER):
            return range(low, low + 4)
    raise AssertionError("no ports are free")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports that are tried."""
    tried: list[int] = []

    def note(host: str, port: int) -> Any:
        tried.append(port)
        return (host, port)

    monkeypatch.setattr(udp, "_socket_address", note)
    return tried


class TestBind:
    def test_one_of_the_range(self, ports: range) -> None:
        with contextlib.closing(bind_udp(HOST, ports)) as sock:
            assert sock.getsockname()[1] in ports

    def test_all_of_it(self, ports: range) -> None:
        """Each port once, from a random one on; the error names the range and no address."""
        socks = [bind_udp(HOST, ports) for _ in ports]
        assert sorted(sock.getsockname()[1] for sock in socks) == list(ports)
        with pytest.raises(PortsInUse, match=f"no port from {ports[0]} to {ports[-1]} is free") as caught:
            bind_udp(HOST, ports)
        assert caught.value.errno == errno.EADDRINUSE
        assert HOST not in str(caught.value)
        with contextlib.closing(bind_udp(OTHER, ports)):  # another address has its own ports
            pass
        for sock in socks:
            sock.close()

    def test_random_start(self, ports: range, tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        for start in range(8):
            monkeypatch.setattr(udp.os, "urandom", lambda size, start=start: start.to_bytes(size))
            bind_udp(HOST, ports).close()
            assert tried.pop() == ports[start % 4]
        assert tried == []

    def test_wraps_around(self, ports: range, tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(udp.os, "urandom", lambda size: b"\0\0\0\2")
        with taken(ports[2], ports[3]):
            tried.clear()
            bind_udp(HOST, ports).close()
        assert tried == [ports[2], ports[3], ports[0]]

    def test_an_address_that_cannot_be_bound(self, tried: list[int]) -> None:
        """It is given up after one try."""
        host = "203.0.113.77"
        with pytest.raises(OSError, match="assign") as caught:
            bind_udp(host, range(20000, 60000))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert not isinstance(caught.value, PortsInUse)
        assert len(tried) == 1

    def test_ports_that_are_not_for_us(self, ports: range, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those below 1024 are passed over."""
        bind = socket.socket.bind

        def privileged(sock: socket.socket, address: tuple[str, int]) -> None:
            if address[1] < ports[3]:
                raise PermissionError(errno.EACCES, "Permission denied")
            bind(sock, address)

        monkeypatch.setattr(socket.socket, "bind", privileged)
        with contextlib.closing(bind_udp(HOST, ports)) as sock:
            assert sock.getsockname()[1] == ports[3]
            with pytest.raises(PortsInUse):
                bind_udp(HOST, ports)


class TestHost:
    @pytest.mark.parametrize("has_readers", [True, False])
    async def test_sockets_on_an_address(self, has_readers: bool, ports: range) -> None:
        host = AsyncioHost(asyncio.get_running_loop(), ports=ports[:1])
        host._has_readers = has_readers

        async def open_on(address: str, port: int = 0) -> asyncio.DatagramTransport:
            opening = host.open_udp(asyncio.DatagramProtocol(), address, port)
            return opening if isinstance(opening, asyncio.DatagramTransport) else await opening

        first = await open_on(HOST)
        assert first.get_extra_info("sockname") == (HOST, ports[0])
        assert host.ports_in_use is None
        with pytest.raises(PortsInUse) as caught:
            await open_on(HOST)
        assert host.ports_in_use is caught.value
        others = [await open_on("0.0.0.0"), await open_on("::"), await open_on(HOST, ports[3])]
        found = [transport.get_extra_info("sockname")[1] for transport in others]
        assert found[2] == ports[3] and not set(found[:2]) & set(ports[:1])
        for transport in (first, *others):
            transport.close()
        await asyncio.sleep(0)


class TestConnection:
    @pytest.mark.parametrize("wrong", [(0, 10), (10, 9), (5, 65536), (5,), 5, "ab", (5.0, 6.0), (None, None)])
    def test_that_cannot_be(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match="port_range must be two ports from 1 to 65535"):
            Connection(ice_controlling=True, port_range=wrong)

    @pytest.mark.parametrize("wrong", [{"interfaces": []}, {"addresses": ["eth0"]}])
    def test_filters_that_cannot_be(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Connection(ice_controlling=True, **wrong)

    async def test_all_candidates(self, ports: range, monkeypatch: pytest.MonkeyPatch) -> None:
        use_hosts(monkeypatch, HOST, OTHER)
        async with nothing_left() as connections:
            a = Connection(ice_controlling=True, components=2, port_range=(ports[0], ports[-1]))
            b = Connection(ice_controlling=False, components=2)
            connections += [a, b]
            await connect(a, b)
            assert len(a.local_candidates) == 4
            assert {found.port for found in a.local_candidates} <= set(ports)
            await check_data(a, b, 1, 2)
            await close(a, b)

    async def test_used_up(
        self, ports: range, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing at all could be bound: that is an error, and a second caller sees it, too."""
        use_hosts(monkeypatch, HOST)
        async with nothing_left() as connections:
            connection = Connection(ice_controlling=True, port_range=(ports[0], ports[0]))
            connections.append(connection)
            with taken(ports[0]):
                for _ in range(2):
                    with pytest.raises(ConnectionError, match=f"no port from {ports[0]} to {ports[0]} is free"):
                        await connection.gather_candidates()
            assert HOST not in caplog.text
            connection.remote_username, connection.remote_password = "abcd", "abcdefghijklmnopqrstuv"
            with pytest.raises(ConnectionError, match="no local candidates"):
                await connection.connect()
            await connection.close()

    async def test_used_up_on_one_address(
        self, ports: range, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """There are others: it is only logged, and no address stands in the log."""
        use_hosts(monkeypatch, HOST, OTHER)
        caplog.set_level(logging.WARNING)
        connection = Connection(ice_controlling=True, port_range=(ports[0], ports[0]))
        with taken(ports[0]):
            await connection.gather_candidates()
        assert [(found.host, found.port) for found in connection.local_candidates] == [(OTHER, ports[0])]
        assert caplog.messages == [
            f"{connection} A host candidate is missing: no port from {ports[0]} to {ports[0]} is free"
        ]
        await connection.close()

    async def test_an_address_that_is_gone(self, ports: range, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not for want of ports: as without a range."""
        use_hosts(monkeypatch, "203.0.113.77")
        connection = Connection(ice_controlling=True, port_range=(ports[0], ports[-1]))
        await connection.gather_candidates()
        assert connection.local_candidates == []
        await connection.close()


class TestChoice:
    """interfaces=, addresses= and include_loopback= of a connection."""

    async def test_loopback(self) -> None:
        connection = Connection(
            ice_controlling=True, interfaces=["lo"], addresses=["127.0.0.0/8"], include_loopback=True
        )
        await connection.gather_candidates()
        assert [found.host for found in connection.local_candidates] == [HOST]
        await connection.close()

    async def test_of_what_a_program_has_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A replaced get_host_addresses decides what there is."""
        use_hosts(monkeypatch, HOST, OTHER)
        connection = Connection(ice_controlling=True, addresses=[OTHER])
        await gather(connection)
        assert [found.host for found in connection.local_candidates] == [OTHER]
        await connection.close()

    async def test_a_filter_that_raises(self) -> None:
        """The caller sees what is wrong with it."""

        def broken(name: str) -> bool:
            raise KeyError(name)

        connection = Connection(ice_controlling=True, interfaces=broken)
        with pytest.raises(KeyError):
            await connection.gather_candidates()
        await connection.close()
