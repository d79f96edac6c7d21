"""Connections whose servers refuse, send elsewhere, fall asleep, die or start anew; coturn plays them all."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
from typing import Any

import pytest

from aioice import Connection, TransportPolicy, ice
from aioice.servers import IceServer
from tests.interop.coturn import PASSWORD, USERNAME, Coturn
from tests.peers import PATIENCE, check_data, connect, gather, pair, signal, until

pytestmark = pytest.mark.usefixtures("loopback")
WAYS = ["udp", "tcp", "tls"]
#: Seconds that ``close`` may take; the promise is 0.1.
CLOSE_LIMIT = 0.25


def options(server: Coturn, way: str = "udp", **other: Any) -> dict[str, Any]:
    """For a connection that has this server's relay and nothing else."""
    tls = way == "tls"
    return {
        "turn_server": server.tls_address if tls else server.address,
        "turn_username": USERNAME,
        "turn_password": PASSWORD,
        "turn_ssl": tls,
        "turn_transport": "udp" if way == "udp" else "tcp",
        "transport_policy": TransportPolicy.RELAY,
        "ssl_context": server.client_context() if tls else None,
        **other,
    }


async def close(*connections: Connection) -> None:
    """In time, whatever the servers do."""
    started = time.monotonic()
    await asyncio.gather(*(connection.close() for connection in connections))
    assert time.monotonic() - started < CLOSE_LIMIT


def types(connection: Connection) -> set[str]:
    return {candidate.type for candidate in connection.local_candidates}


# ---------------------------------------------------------------------------------------------------- who may come in


@pytest.mark.parametrize("way", WAYS)
async def test_ephemeral_credentials(way: str) -> None:
    """The username is a time and a name, the password its signature by a secret that the servers share."""
    username = f"{int(time.time()) + 3600}:alice"
    password = base64.b64encode(hmac.digest(b"shared", username.encode(), hashlib.sha1)).decode()
    with Coturn("--use-auth-secret", "--static-auth-secret=shared") as server:
        a = Connection(True, **options(server, way, turn_username=username, turn_password=password))
        b = Connection(False)
        await connect(a, b)
        await check_data(a, b)
        await close(a, b)


async def test_ephemeral_credentials_that_have_ended() -> None:
    username = f"{int(time.time()) - 3600}:alice"
    password = base64.b64encode(hmac.digest(b"shared", username.encode(), hashlib.sha1)).decode()
    with Coturn("--use-auth-secret", "--static-auth-secret=shared") as server:
        a = Connection(True, **options(server, turn_username=username, turn_password=password))
        await gather(a)
        assert a.local_candidates == []
        await close(a)


@pytest.mark.parametrize("way", WAYS)
async def test_quota(way: str) -> None:
    """486 ends the query at once; the host candidate is there."""
    with Coturn("--user-quota=1") as server:
        first = Connection(True, **options(server, way))
        await gather(first)
        assert types(first) == {"relay"}
        a = Connection(True, **options(server, way, transport_policy=TransportPolicy.ALL))
        b = Connection(False)
        await connect(a, b)
        assert types(a) == {"host"}
        await close(first, a, b)


@pytest.mark.parametrize("way", WAYS)
async def test_alternate_server(way: str) -> None:
    """300: the relay is on the other server (RFC 8489 §10)."""
    with Coturn() as other:
        alternate = "{}:{}".format(*(other.tls_address if way == "tls" else other.address))
        with Coturn(f"--alternate-server={alternate}", f"--tls-alternate-server={alternate}") as server:
            context = server.client_context()
            other.trust(context)
            a = Connection(True, **options(server, way, ssl_context=context if way == "tls" else None))
            b = Connection(False)
            await connect(a, b)
            assert types(a) == {"relay"}
            assert "ALLOCATE processed, success" in other.log()
            assert "ALLOCATE processed, success" not in server.log()
            await check_data(a, b)
            await close(a, b)


async def test_two_servers_that_send_to_each_other() -> None:
    """300 and 300 and 300: it ends."""
    with Coturn() as one:
        with Coturn("--alternate-server={}:{}".format(*one.address)) as two:
            one.restart("--alternate-server={}:{}".format(*two.address))
            a = Connection(True, **options(one))
            await gather(a)
            assert a.local_candidates == []
            await close(a)


@pytest.mark.parametrize("way", WAYS)
async def test_stale_nonces(way: str) -> None:
    """438, again and again: data and the deletion go on (F34)."""
    with Coturn("--stale-nonce=1") as server:
        a, b = Connection(True, **options(server, way)), Connection(False)
        await gather(a, b)
        # The nonce is older than the server likes before the first permission is asked for.
        await asyncio.sleep(1.5)
        await signal(a, b)
        await asyncio.wait_for(asyncio.gather(a.connect(), b.connect()), PATIENCE)
        await check_data(a, b)
        await close(a, b)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("relay", ["127.0.0.1", "::1"])
async def test_ipv6(monkeypatch: pytest.MonkeyPatch, way: str, relay: str) -> None:
    """A server of IPv6, whose relay is of either family."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [relay])
    family = "--allocation-default-address-family=keep" if relay == "::1" else "--no-cli"
    with Coturn(family, ip="::1", relay_ips=("127.0.0.1", "::1")) as server:
        a, b = Connection(True, **options(server, way)), Connection(False)
        await connect(a, b)
        assert relay in {candidate.host for candidate in a.local_candidates}
        await check_data(a, b)
        await close(a, b)


# ----------------------------------------------------------------------------------------------- who falls asleep


@pytest.mark.parametrize("way", WAYS)
async def test_closing_while_the_server_sleeps(way: str) -> None:
    """F40"""
    with Coturn() as server:
        a, b = Connection(True, **options(server, way)), Connection(False)
        await connect(a, b)
        with server.asleep():
            await close(a, b)


@pytest.mark.parametrize("way", WAYS)
async def test_closing_while_a_sleeping_server_is_asked(way: str) -> None:
    with Coturn() as server:
        a = Connection(True, **options(server, way))
        with server.asleep():
            gathering = asyncio.ensure_future(a.gather_candidates())
            await asyncio.sleep(0.05)
            await close(a)
            await gathering


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_that_ends_at_once(way: str) -> None:
    """Nothing warns when nobody waits for the deletion."""

    async def scenario() -> None:
        a, b = Connection(True, **options(server, way)), Connection(False)
        await connect(a, b)
        sleep.enter_context(server.asleep())
        await close(a, b)

    with Coturn() as server, contextlib.ExitStack() as sleep:
        asyncio.run(scenario())


@pytest.mark.parametrize("way", WAYS)
async def test_a_sleeping_server_does_not_hold_a_direct_path_up(way: str) -> None:
    with Coturn() as server, server.asleep():
        a, b = pair(**options(server, way, transport_policy=TransportPolicy.ALL))
        await connect(a, b)
        assert types(a) == types(b) == {"host"}
        await check_data(a, b)
        await close(a, b)


# -------------------------------------------------------------------------------------------------------- who dies


@pytest.mark.parametrize("way", WAYS)
async def test_closing_when_the_server_has_died(way: str) -> None:
    with Coturn() as server:
        a, b = Connection(True, **options(server, way)), Connection(False)
        await connect(a, b)
        server.stop()
        await close(a, b)


@pytest.mark.parametrize("way", WAYS)
async def test_the_server_starts_anew_in_mid_session(way: str) -> None:
    """F41: another relay by itself, and data flows through it."""
    with Coturn() as server:
        a, b = Connection(True, **options(server, way)), Connection(False)
        await connect(a, b)
        (old,) = a.local_candidates
        server.stop()
        server.start()
        await flows(a, b)
        (new,) = a.local_candidates
        assert new.type == "relay" and new != old
        await check_data(a, b)
        await close(a, b)


async def flows(a: Connection, b: Connection) -> None:
    """Datagrams are sent until one has come through each way after what had come before."""
    for sender, receiver in ((a, b), (b, a)):
        while receiver._queue.get_nowait() is not None:
            pass
        received = asyncio.ensure_future(receiver.recv())
        async with asyncio.timeout(PATIENCE * 2):
            while not received.done():
                with contextlib.suppress(ConnectionError):
                    await sender.send(b"anyone there?")
                await asyncio.wait([received], timeout=0.05)
        assert received.result() == b"anyone there?"
    while b._queue.get_nowait() is not None:
        pass


async def test_a_lost_relay_beside_a_direct_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection does not notice."""
    with Coturn() as server:
        a = Connection(True, **options(server, "tcp", transport_policy=TransportPolicy.ALL))
        b = Connection(False)
        await connect(a, b)
        await until(lambda: a.state == "completed")
        server.stop()
        await until(lambda: types(a) == {"host"})
        await check_data(a, b)
        await close(a, b)


# ------------------------------------------------------------------------------------------------------ many servers


def ice_server(server: Coturn, *ways: str, **other: Any) -> IceServer:
    return IceServer(
        [url(server, way) for way in ways or WAYS],
        **{"username": USERNAME, "credential": PASSWORD, "ssl_context": server.client_context(), **other},
    )


def url(server: Coturn, way: str) -> str:
    host, port = server.tls_address if way == "tls" else server.address
    host = f"[{host}]" if ":" in host else host
    return f"turns:{host}:{port}" if way == "tls" else f"turn:{host}:{port}?transport={way}"


def verdicts(connection: Connection) -> set[str]:
    return {str(report.verdict) for report in connection.server_reports}


async def test_one_of_two_servers_dies_in_mid_session() -> None:
    """Whichever relay carries the data: when it has gone the other one does."""
    with Coturn() as one, Coturn(ip="127.0.0.2") as two:
        a = Connection(
            True, ice_servers=[ice_server(one, "tcp"), ice_server(two, "tcp")], transport_policy=TransportPolicy.RELAY
        )
        b = Connection(False)
        await connect(a, b)
        assert len(a.local_candidates) == 2
        await until(lambda: a.state == "completed")
        used = a._nominated[1].local_candidate
        (report,) = [report for report in a.server_reports if used in report.candidates]
        (one if report.address == one.address else two).stop()
        await until(lambda: used not in a.local_candidates)
        await flows(a, b)
        assert a._nominated[1].local_candidate.port != used.port
        await check_data(a, b)
        await close(a, b)


async def test_a_dead_server_beside_a_living_one() -> None:
    """ICMP ends the question to the dead one."""
    with Coturn() as dead, Coturn(ip="127.0.0.2") as living:
        dead.stop()
        a = Connection(True, ice_servers=[ice_server(dead), ice_server(living)], transport_policy=TransportPolicy.RELAY)
        b = Connection(False)
        await connect(a, b)
        assert types(a) == {"relay"}
        assert {str(r.verdict) for r in a.server_reports if r.address and r.address[1] == dead.address[1]} == {
            "unreachable"
        }
        await check_data(a, b)
        await close(a, b)


@pytest.mark.parametrize("way", WAYS)
async def test_both_families_at_once(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """ADDITIONAL-ADDRESS-FAMILY: one allocation, two relays; the peer of each family is reached over its own."""
    with Coturn(relay_ips=("127.0.0.1", "::1")) as server:
        for host in ("127.0.0.1", "::1"):
            a = Connection(True, ice_servers=[ice_server(server, way)], transport_policy=TransportPolicy.RELAY)
            b = Connection(False)
            monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1", "::1"])
            await gather(a)
            assert {candidate.host for candidate in a.local_candidates} == {"127.0.0.1", "::1"}
            monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6, host=host: [host])
            await gather(b)
            await signal(a, b)
            await asyncio.wait_for(asyncio.gather(a.connect(), b.connect()), PATIENCE)
            assert a._nominated[1].remote_candidate.host == host
            await check_data(a, b)
            await close(a, b)


async def test_all_ways_to_one_server() -> None:
    """Five URLs are common: the losers are closed, and nothing of them is left."""
    with Coturn(relay_ips=("127.0.0.1", "::1")) as server:
        a = Connection(True, ice_servers=[ice_server(server)], transport_policy=TransportPolicy.RELAY)
        b = Connection(False)
        await connect(a, b)
        assert types(a) == {"relay"} and "answered" in verdicts(a)
        assert verdicts(a) <= {"answered", "not needed"}
        await check_data(a, b)
        await close(a, b)


async def test_credentials_that_are_asked_for_again() -> None:
    """The first answer has ended already; the second one is taken."""
    names = iter([int(time.time()) - 3600, int(time.time()) + 3600])

    async def credential() -> tuple[str, str]:
        username = f"{next(names)}:alice"
        return username, base64.b64encode(hmac.digest(b"shared", username.encode(), hashlib.sha1)).decode()

    with Coturn("--use-auth-secret", "--static-auth-secret=shared") as server:
        servers = [ice_server(server, "udp", username=None, credential=credential)]
        a, b = Connection(True, ice_servers=servers, transport_policy=TransportPolicy.RELAY), Connection(False)
        await connect(a, b)
        await check_data(a, b)
        await close(a, b)


async def test_reports() -> None:
    """Every server's verdict."""
    with Coturn("--user-quota=1") as full, Coturn() as other:
        holder = Connection(True, **options(full))
        await gather(holder)
        a = Connection(
            True,
            ice_servers=[
                ice_server(full, "udp"),
                ice_server(other, "udp", credential="wrong"),
                ice_server(other, "tls", ssl_context=full.client_context()),
                IceServer("stun:{}:{}".format(*other.address)),
                IceServer("turn:name.invalid", "user", "secret"),
            ],
        )
        await gather(a)
        found = [(str(report.verdict), report.code) for report in a.server_reports]
        assert ("refused", 486) in found
        assert ("wrong credentials", 401) in found
        assert ("answered", 0) in found
        assert {"TLS failed", "name not found"} <= verdicts(a)
        await close(a, holder)
