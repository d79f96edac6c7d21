"""Lists of servers against coturn: every way, short-lived credentials, restarts in mid-session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aioice import Connection, IceServer, TransportPolicy, ephemeral_credentials, ice
from tests.interop.coturn import PASSWORD, USERNAME, Coturn
from tests.peers import PATIENCE, connect


@pytest.fixture(scope="module")
def coturn() -> Iterator[Coturn]:
    with Coturn() as server:
        yield server


def urls(server: Coturn) -> list[str]:
    (host, port), (_, tls_port) = server.address, server.tls_address
    return [f"turns:{host}:{tls_port}", f"turn:{host}:{port}?transport=tcp", f"turn:{host}:{port}"]


def relayed(*servers: IceServer, controlling: bool = True, **options: Any) -> Connection:
    return Connection(controlling, ice_servers=servers, transport_policy=TransportPolicy.RELAY, **options)


async def talk(a: Connection, b: Connection) -> None:
    """Data goes both ways, sent again where it is lost."""

    async def hear(connection: Connection, text: bytes) -> None:
        while await connection.recv() != text:
            pass

    for sender, receiver in ((a, b), (b, a)):
        text = f"from {sender} {asyncio.get_running_loop().time()}".encode()
        hearing = asyncio.create_task(hear(receiver, text))
        while not hearing.done():
            await sender.send(text)
            await asyncio.wait([hearing], timeout=0.1)
        hearing.result()


async def test_every_way_and_one_relay(coturn: Coturn) -> None:
    server = IceServer(urls(coturn), USERNAME, PASSWORD, ssl_context=coturn.client_context())
    async with relayed(server) as connection:
        await connection.gather_candidates()
        assert [candidate.type for candidate in connection.local_candidates] == ["relay"]
        assert "answered" in [report.verdict for report in connection.server_reports]


@pytest.mark.parametrize("way", [0, 1, 2])
async def test_each_way_alone(coturn: Coturn, way: int) -> None:
    server = IceServer(urls(coturn)[way], USERNAME, PASSWORD)
    async with relayed(server, ssl_context=coturn.client_context()) as a, Connection(False) as b:
        await connect(a, b)
        await talk(a, b)
        (report,) = a.server_reports
        assert report.verdict == "answered" and report.rtt is not None
        assert report.candidates == tuple(a.local_candidates)


async def test_the_certificate_is_looked_at(coturn: Coturn) -> None:
    server = IceServer(urls(coturn)[0], USERNAME, PASSWORD)
    async with relayed(server) as connection:
        await connection.gather_candidates()
        (report,) = connection.server_reports
        assert report.verdict == "TLS failed" and "certificate" in report.detail


async def test_wrong_credentials(coturn: Coturn) -> None:
    async with relayed(IceServer(urls(coturn)[2], USERNAME, "wrong")) as connection:
        await connection.gather_candidates()
        (report,) = connection.server_reports
        assert (report.verdict, report.code) == ("wrong credentials", 401)


async def test_ephemeral_credentials_from_a_callback() -> None:
    """draft-uberti-behave-turn-rest: the first ones are those of another secret, and refused."""
    secrets = ["south", "north"]

    async def credential() -> tuple[str, str, float]:
        return *ephemeral_credentials(secrets.pop(0), "joe", 3600), 3600

    with Coturn("--use-auth-secret", "--static-auth-secret=north") as server:
        async with relayed(IceServer(urls(server)[2], credential=credential)) as a, Connection(False) as b:
            await connect(a, b)
            await talk(a, b)
            assert secrets == []


async def test_a_quota() -> None:
    with Coturn("--user-quota=1") as server:
        ice_server = IceServer(urls(server)[2], USERNAME, PASSWORD)
        async with relayed(ice_server) as first, relayed(ice_server) as second:
            await first.gather_candidates()
            await second.gather_candidates()
            assert len(first.local_candidates) == 1 and second.local_candidates == []
            (report,) = second.server_reports
            assert (report.verdict, report.code) == ("refused", 486)


async def test_an_alternate_server(coturn: Coturn) -> None:
    host, port = coturn.address
    with Coturn(f"--alternate-server={host}:{port}") as server:
        async with relayed(IceServer(urls(server)[2], USERNAME, PASSWORD)) as a, Connection(False) as b:
            await connect(a, b)
            await talk(a, b)
            report = a.server_reports[0]
            assert (report.verdict, report.address) == ("answered", coturn.address)


async def test_both_families() -> None:
    with Coturn(relay_ips=("127.0.0.1", "::1")) as server:
        async with relayed(IceServer(urls(server)[2], USERNAME, PASSWORD)) as connection:
            await connection.gather_candidates()
            assert sorted(candidate.host for candidate in connection.local_candidates) == ["127.0.0.1", "::1"]


async def test_two_servers_of_which_one_dies() -> None:
    with Coturn() as first, Coturn() as second:
        servers = [IceServer(urls(server)[1], USERNAME, PASSWORD) for server in (first, second)]
        async with relayed(*servers) as a, Connection(False) as b:
            await connect(a, b)
            await talk(a, b)
            await gathered(a, 2)
            used = a._nominated[1].local_candidate
            report = next(report for report in a.server_reports if used in report.candidates)
            (first if report.address == first.address else second).stop()
            async with asyncio.timeout(PATIENCE):
                while used in a.local_candidates or not a._nominated:
                    await asyncio.sleep(0.01)
                await talk(a, b)


@pytest.mark.parametrize("way, controlling", [(0, True), (1, True), (2, True), (2, False)])
async def test_a_restart_of_the_server(hasty: None, way: int, controlling: bool) -> None:
    """Data flows again by itself, also where it is the controlled side that loses its only relay."""
    with Coturn() as server:
        ice_server = IceServer(urls(server)[way], USERNAME, PASSWORD, ssl_context=server.client_context())
        async with relayed(ice_server, controlling=controlling) as a, Connection(not controlling) as b:
            await connect(a, b)
            await talk(a, b)
            await restarted(server, a, b)


async def test_another_short_lived_name_in_mid_session(hasty: None) -> None:
    """The next name comes before the first one ends: the allocation stays the first one's, whom the server would not
    take any more after its end, and the next allocation is the other's.
    """
    names: list[str] = []

    async def credential() -> tuple[str, str, float]:
        life = 3600 if names else 2
        username, password = ephemeral_credentials("secret", f"joe{len(names)}", life)
        names.append(username)
        return username, password, life

    with Coturn("--use-auth-secret", "--static-auth-secret=secret", "--stale-nonce=1") as server:
        async with relayed(IceServer(urls(server)[2], credential=credential)) as a, Connection(False) as b:
            await connect(a, b)
            async with asyncio.timeout(PATIENCE):
                while len(names) < 2 or time.time() < int(names[0].split(":")[0]) + 1:
                    await talk(a, b)
            (old,) = a.local_candidates
            link = a._nominated[1].protocol.link
            assert a._driver is not None and link is not None
            a._driver.do(a._agent._gatherer.probe, link)
            await talk(a, b)
            assert a.local_candidates == [old]
            await restarted(server, a, b)
        assert len(names) == 2


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consent is asked for each second, and for 12 s."""
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 1)
    monkeypatch.setattr(ice, "CONSENT_FAILURES", 12)


async def restarted(server: Coturn, a: Connection, b: Connection) -> None:
    """Data flows again over another relay of ``a``."""
    (old,) = a.local_candidates
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(PATIENCE):
        while a.local_candidates in ([], [old]) or not a._nominated:
            await asyncio.sleep(0.01)
        await talk(a, b)


async def gathered(connection: Connection, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(connection.local_candidates) < number:
            await asyncio.sleep(0.01)
