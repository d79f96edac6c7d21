"""Two connections on real sockets: how they connect, and why they do not."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, cast

import pytest

from aioice import Candidate, Connection, ice, stun
from aioice.ice import ConnectionState

from .peers import (
    HOST,
    PATIENCE,
    check_data,
    close,
    connect,
    gather,
    host_candidate,
    introduce,
    meet,
    pair,
    signal,
    turns,
    until,
    use_hosts,
)

pytestmark = pytest.mark.usefixtures("loopback")

LIVE = (ConnectionState.CONNECTED, ConnectionState.COMPLETED)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure is declared soon."""
    monkeypatch.setattr(stun, "RETRY_MAX", 1)
    monkeypatch.setattr(stun, "RETRY_RTO", 0.02)


# ------------------------------------------------------------------------------------------------------- connecting


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("::1",), ("127.0.0.1", "::1")])
async def test_connect(components: int, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    use_hosts(monkeypatch, *hosts)
    a, b = pair(components=components)
    assert (a.state, b.state) == ("new", "new")
    await connect(a, b)
    assert a.state in LIVE and b.state in LIVE
    for connection in (a, b):
        assert len(connection.local_candidates) == len(connection.remote_candidates) == components * len(hosts)
        assert {found.host for found in connection.local_candidates} == set(hosts)
        assert set(connection._nominated) == set(range(1, components + 1))
        assert connection.get_default_candidate(components) in connection.local_candidates
        assert connection.get_default_candidate(components + 1) is None
    await check_data(a, b, *range(1, components + 1))
    await until(lambda: a.state == b.state == "completed")
    await check_data(a, b, *range(1, components + 1))
    await close(a, b)
    assert (a.state, b.state) == ("closed", "closed")


async def test_drawn_credentials() -> None:
    """RFC 8445 §5.3: of 24 and 128 random bits at least; each character takes a byte."""
    connections = [Connection(ice_controlling=True) for _ in range(2)]
    usernames = {connection.local_username for connection in connections}
    passwords = {connection.local_password for connection in connections}
    assert len(usernames) == len(passwords) == 2
    assert min(map(len, usernames)) >= 24 / 8 and min(map(len, passwords)) >= 128 / 8
    await close(*connections)


@pytest.mark.parametrize(("ours", "theirs", "used"), [(0.005, 0.0, 0.005), (0.005, 0.05, 0.05), (0.05, 0.02, 0.05)])
async def test_the_higher_pacing_counts(ours: float, theirs: float, used: float) -> None:
    """RFC 8445 §14.2."""
    connection = Connection(ice_controlling=True, ta=ours, remote_ta=theirs)
    assert connection._agent.config.ta == used
    await connection.close()


@pytest.mark.parametrize("name", ["ta", "remote_ta", "nomination_patience", "relay_patience", "patience"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_that_cannot_be(name: str, value: float) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name} must be seconds, .*, not {value}$"):
        Connection(ice_controlling=True, **arguments)


def test_no_time_between_checks() -> None:
    with pytest.raises(ValueError, match="ta must be seconds, more than 0"):
        Connection(ice_controlling=True, ta=0.0)
    Connection(ice_controlling=True, remote_ta=0, nomination_patience=0, relay_patience=0, patience=0)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_no_room_for_a_pair(value: float) -> None:
    with pytest.raises(ValueError, match=f"^max_pairs must be 1 or more, .*, not {value}$"):
        Connection(ice_controlling=True, max_pairs=cast("int", value))


def test_a_wrong_number_is_no_other_connections() -> None:
    """What is equal to it is told to all alike."""
    with pytest.raises(TypeError):
        Connection(ice_controlling=True, components=cast("int", 1.0))
    Connection(ice_controlling=True)


async def test_connect_twice_at_once() -> None:
    a, b = pair()
    await gather(a, b)
    await signal(a, b)
    await asyncio.wait_for(asyncio.gather(a.connect(), b.connect(), a.connect(), b.connect()), PATIENCE)
    await asyncio.wait_for(a.connect(), PATIENCE)
    await check_data(a, b)
    await close(a, b)


async def test_connect_both_controlling() -> None:
    """RFC 8445 §7.3.1.1: one gives in."""
    a, b = Connection(ice_controlling=True), Connection(ice_controlling=True)
    await connect(a, b)
    await until(lambda: a.state == b.state == "completed")
    assert a.ice_controlling is not b.ice_controlling
    await check_data(a, b)
    await close(a, b)


async def test_role_is_writable_before_connect() -> None:
    a, b = Connection(ice_controlling=False), Connection(ice_controlling=False)
    a.ice_controlling = True
    await connect(a, b)
    await until(lambda: a.state == b.state == "completed")
    assert (a.ice_controlling, b.ice_controlling) == (True, False)
    a.ice_controlling = False
    assert a.ice_controlling
    await close(a, b)


async def test_connect_while_gathering_runs() -> None:
    a, b = pair(components=2)
    may_gather = asyncio.Event()
    original = a.get_component_candidates

    async def late(component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
        await may_gather.wait()
        return await original(component, addresses, timeout)

    a.get_component_candidates = late  # what programs do: see tests/compat
    introduce(a, b)
    gathering = asyncio.ensure_future(a.gather_candidates())
    await asyncio.sleep(0)
    connecting = asyncio.ensure_future(a.connect())
    await b.gather_candidates()
    for found in (*b.local_candidates, None):
        await a.add_remote_candidate(found)
    await turns()
    assert not gathering.done() and not connecting.done()
    may_gather.set()
    await gathering
    for found in (*a.local_candidates, None):
        await b.add_remote_candidate(found)
    await asyncio.wait_for(asyncio.gather(connecting, b.connect()), PATIENCE)
    await check_data(a, b, 1, 2)
    await close(a, b)


async def test_connect_right_after_gathering_has_started() -> None:
    a, b = pair()
    introduce(a, b)
    gathering = asyncio.ensure_future(gather(a, b))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connecting = asyncio.ensure_future(meet(a, b))
    await gathering
    await signal(a, b)
    await connecting
    await check_data(a, b)
    await close(a, b)


async def test_remote_candidates_trickle() -> None:
    """RFC 8838: they come while ``connect`` runs."""
    a, b = pair(components=2)
    await gather(a, b)
    introduce(a, b)
    connecting = asyncio.ensure_future(meet(a, b))
    for local, remote in ((a, b), (b, a)):
        for found in local.local_candidates:
            await turns(3)
            await remote.add_remote_candidate(found)
    await connecting
    await check_data(a, b, 1, 2)
    await close(a, b)


async def test_peer_reflexive_only() -> None:
    """F17: one side is told of no candidate at all, and the end mark; the checks of the other make up for it."""
    a, b = pair()
    await gather(a, b)
    introduce(a, b)
    await a.add_remote_candidate(None)
    for found in a.local_candidates:
        await b.add_remote_candidate(found)
    await meet(a, b)
    (seen,) = a.remote_candidates
    assert (seen.type, seen.host, seen.port) == ("prflx", HOST, b.local_candidates[0].port)
    await check_data(a, b)
    await b.add_remote_candidate(None)
    await close(a, b)


async def test_signalled_candidate_replaces_its_peer_reflexive_twin() -> None:
    """F21."""
    a, b = pair()
    await gather(a, b)
    introduce(a, b)
    await b.add_remote_candidate(a.local_candidates[0])
    await meet(a, b)
    assert [seen.type for seen in a.remote_candidates] == ["prflx"]
    await a.add_remote_candidate(b.local_candidates[0])
    assert a.remote_candidates[0].to_sdp() == b.local_candidates[0].to_sdp()
    assert a._nominated[1].remote_candidate.type == "host"
    await check_data(a, b)
    await close(a, b)


async def test_cancelled_connect_goes_on() -> None:
    a, b = pair()
    await gather(a, b)
    introduce(a, b)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await a.connect()
    assert a.state == "checking"
    await signal(a, b)
    await meet(a, b)
    await check_data(a, b)
    await close(a, b)


# ------------------------------------------------------------------------------------------------ remote candidates


async def test_end_of_candidates_twice() -> None:
    connection = Connection(ice_controlling=True)
    await connection.add_remote_candidate(None)
    for candidate in (None, host_candidate(HOST, 9)):
        with pytest.raises(ValueError, match="Cannot add remote candidate after end-of-candidates."):
            await connection.add_remote_candidate(candidate)
    assert connection.remote_candidates == []
    await connection.close()


def unusable() -> list[Candidate]:
    """X01 and its kind; attributes set later bypass every check of the constructor."""
    broken = []
    for field, value in (
        ("port", 70000),
        ("port", -1),
        ("port", "9"),
        ("component", 0),
        ("component", 257),
        ("priority", 0),
        ("priority", 1 << 31),
        ("priority", None),
        ("host", "300.0.0.1"),
        ("host", "evil\x1b[31m\n"),
        ("host", ""),
        ("host", None),
        ("foundation", "a b"),
        ("transport", "u\ndp"),
        ("type", "host\n"),
        ("type", "unheard-of"),
        ("type", "prflx"),
    ):
        candidate = host_candidate(HOST, 9)
        setattr(candidate, field, value)
        broken.append(candidate)
    return broken


async def test_unusable_candidates_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    a, b = pair()
    await gather(a, b)
    with caplog.at_level(logging.DEBUG, "aioice.ice"):
        for connection in (a, b):
            for broken in unusable():
                await connection.add_remote_candidate(broken)
            assert connection.remote_candidates == []
    told = {level: [r.getMessage() for r in caplog.records if r.levelno == level] for level in (20, 10)}
    # What the peer has written is for those who look closer.
    assert told[logging.INFO] == [f"{c} Remote candidate ignored" for c in (a, b) for _ in unusable()]
    assert sum("cannot be used: " in line for line in told[logging.DEBUG]) == 2 * len(unusable())
    assert all(line.isprintable() for line in told[logging.DEBUG])
    await signal(a, b)
    await meet(a, b)
    await check_data(a, b)
    assert len(a.remote_candidates) == len(b.remote_candidates) == 1
    await close(a, b)


async def test_unusable_candidates_are_ignored_by_both() -> None:
    a, b = pair()
    for connection in (a, b):
        for broken in unusable():
            await connection.add_remote_candidate(broken)
    await connect(a, b)
    for connection in (a, b):
        for broken in unusable():
            with pytest.raises(ValueError):
                await connection.add_remote_candidate(broken)
    await check_data(a, b)
    await close(a, b)


async def test_candidates_for_others_are_kept_and_not_used() -> None:
    """S08, S20: a further component, another transport."""
    a, b = pair()
    await gather(a, b)
    others = [host_candidate(HOST, 9, component=2), host_candidate(HOST, 9, transport="ssltcp")]
    for other in others:
        await a.add_remote_candidate(other)
    await signal(a, b)
    await meet(a, b)
    assert [known.to_sdp() for known in a.remote_candidates] == [
        known.to_sdp() for known in (*others, *b.local_candidates)
    ]
    assert list(a._nominated) == [1]
    await check_data(a, b)
    await close(a, b)


async def test_remote_candidate_is_copied() -> None:
    connection = Connection(ice_controlling=True)
    candidate = host_candidate(HOST, 9)
    await connection.add_remote_candidate(candidate)
    candidate.port = 10
    assert [known.port for known in connection.remote_candidates] == [9]
    connection.remote_candidates.clear()
    assert len(connection.remote_candidates) == 1
    await connection.close()


async def test_peer_without_a_component() -> None:
    """It multiplexes: component 2 is not used (RFC 8843, F18)."""
    a, b = Connection(ice_controlling=True, components=2), Connection(ice_controlling=False)
    await connect(a, b)
    assert list(a._nominated) == [1]
    await check_data(a, b)
    with pytest.raises(ConnectionError, match="not connected"):
        await a.sendto(b"data", 2)
    await close(a, b)


# --------------------------------------------------------------------------------------------------- connect errors


async def test_connect_before_gathering() -> None:
    a, b = pair()
    introduce(a, b)
    with pytest.raises(ConnectionError, match="^Local candidates gathering was not performed$"):
        await a.connect()
    await close(a, b)


@pytest.mark.parametrize("missing", ["remote_username", "remote_password"])
async def test_connect_without_credentials(missing: str) -> None:
    a, b = pair()
    await gather(a, b)
    await signal(a, b)
    setattr(a, missing, None)
    with pytest.raises(ConnectionError, match="^Remote username or password is missing$"):
        await a.connect()
    introduce(a, b)
    await meet(a, b)
    await close(a, b)


async def test_connect_without_local_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hopeless: fails at once, whatever the patience (RFC 8863 §4)."""
    use_hosts(monkeypatch)
    a, b = pair()
    await gather(a, b)
    await signal(a, b)
    for connection in (a, b):
        with pytest.raises(ConnectionError, match="^ICE negotiation failed: no local candidates$"):
            await asyncio.wait_for(connection.connect(), PATIENCE)
        assert connection.state == "failed"
    await close(a, b)


async def test_connect_to_a_peer_without_candidates(impatient: None) -> None:
    a, b = pair()
    await gather(a)
    introduce(a, b)
    await a.add_remote_candidate(None)
    with pytest.raises(
        ConnectionError, match="^ICE negotiation failed: the peer gave no candidates and sent no checks"
    ):
        await asyncio.wait_for(a.connect(), PATIENCE)
    with pytest.raises(ConnectionError, match="^Cannot send data, not connected: the peer gave no candidates"):
        await a.send(b"data")
    await close(a, b)


async def test_connect_to_silent_candidates(impatient: None) -> None:
    """One port is closed, on the other nobody answers."""
    a, b = pair()
    await gather(a)
    introduce(a, b)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        await a.add_remote_candidate(host_candidate(HOST, silent.getsockname()[1]))
        await a.add_remote_candidate(host_candidate(HOST, 9))
        await a.add_remote_candidate(None)
        with pytest.raises(ConnectionError) as caught:
            await asyncio.wait_for(a.connect(), PATIENCE)
    message = str(caught.value)
    assert message.startswith("ICE negotiation failed: all 2 pairs of component 1 failed: ")
    assert "1 × no answer" in message
    assert a.state == "failed"
    await close(a, b)


async def test_connect_again_after_failure(impatient: None) -> None:
    a, b = pair()
    await gather(a, b)
    await signal(a, b)
    a.remote_password = "wrong" * 5
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(a.connect(), PATIENCE)
    introduce(a, b)
    await meet(a, b)
    await check_data(a, b)
    await close(a, b)


class Refuser(asyncio.DatagramProtocol):
    """Knows the password, and says no to every check in words that would deface a terminal."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        request = stun.parse_message(data)
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.ERROR,
            transaction_id=request.transaction_id,
        )
        response.attributes["ERROR-CODE"] = (431, "no\x1b[2J\r\nICE negotiation succeeded")
        response.add_message_integrity(self.key)
        self.transport.sendto(bytes(response), addr)


async def test_text_from_the_network_is_escaped(impatient: None, caplog: pytest.LogCaptureFixture) -> None:
    a, b = pair()
    await gather(a)
    introduce(a, b)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Refuser(b.local_password.encode()), (HOST, 0))
    await a.add_remote_candidate(host_candidate(*transport.get_extra_info("sockname")))
    await a.add_remote_candidate(None)
    with caplog.at_level(logging.DEBUG, "aioice"), pytest.raises(ConnectionError) as caught:
        await asyncio.wait_for(a.connect(), PATIENCE)
    assert "1 × refused with error 431" in str(caught.value)
    assert str(caught.value).isprintable()
    assert caplog.records and all(record.getMessage().isprintable() for record in caplog.records)
    transport.close()
    await close(a, b)


async def test_close_while_connecting() -> None:
    a, b = pair()
    await gather(a)
    introduce(a, b)
    connecting = asyncio.ensure_future(a.connect())
    await turns()
    await close(a, b)
    with pytest.raises(ConnectionError, match="^ICE negotiation failed: closed$"):
        await connecting


# ------------------------------------------------------------------------------------------- sockets and attributes


async def test_lost_socket() -> None:
    """Its candidate and its protocol go; those of others stay."""
    connection = Connection(ice_controlling=True, components=2)
    await connection.gather_candidates()
    first, second = connection.local_candidates
    (lost,) = [protocol for protocol in connection._protocols if protocol.local_candidate is first]
    lost.dropped = {"something": 1}
    lost.transport.close()
    await turns()
    assert connection.local_candidates == [second]
    assert [protocol.local_candidate for protocol in connection._protocols] == [second]
    assert connection._agent.local_candidates == [second]
    assert connection.dropped == {"something": 1}
    await connection.close()


async def test_own_endpoint_sends_its_check_at_once() -> None:
    """It is taken over before the first check leaves, and no retransmission is needed."""
    connection: Any = Connection(ice_controlling=True)

    async def own(component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
        loop = asyncio.get_running_loop()
        connecting.append(asyncio.ensure_future(connection.connect()))
        await until(lambda: connection.state == "checking")
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: ice.StunProtocol(connection), local_addr=(HOST, 0)
        )
        protocol.local_candidate = host_candidate(*transport.get_extra_info("sockname"))
        connection._protocols.append(protocol)
        return [protocol.local_candidate]

    connecting: list[asyncio.Future[None]] = []
    connection.get_component_candidates = own
    connection.remote_username, connection.remote_password = "user", "p" * 22
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((HOST, 0))
        peer.setblocking(False)
        await connection.add_remote_candidate(host_candidate(*peer.getsockname()))
        await connection.gather_candidates()
        (pair,) = connection._agent.check_list
        await until(lambda: pair.state == "in-progress")
        assert peer.recv(1500)[:2] == b"\0\1"
    await connection.close()
    await asyncio.wait(connecting)
    assert isinstance(connecting[0].exception(), ConnectionError)


async def test_servers_set_after_a_remote_candidate() -> None:
    """They are read when gathering starts."""
    connection = Connection(ice_controlling=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        await connection.add_remote_candidate(host_candidate(HOST, 9))
        connection.stun_server = server.getsockname()
        gathering = asyncio.ensure_future(connection.gather_candidates())
        await until(lambda: connection.local_candidates)
        server.settimeout(PATIENCE)
        assert server.recv(1500)[:2] == b"\0\1"
    await connection.close()
    await gathering


async def test_overridden_credentials() -> None:
    """A subclass may have its own: they count before connect(), and after a restart."""

    class Named(Connection):
        @property
        def local_username(self) -> str:
            return "mine"

        @property
        def local_password(self) -> str:
            return "m" * 22

    connection = Named(ice_controlling=True)
    for begin in (connection.gather_candidates(), asyncio.to_thread(lambda: None)):
        await begin
        generation = connection._agent._generation
        assert (generation.local_username, generation.local_password) == ("mine", "m" * 22)
        connection.restart()
    generation = connection._agent._generation
    assert (generation.local_username, generation.local_password) == ("mine", "m" * 22)
    await connection.close()
