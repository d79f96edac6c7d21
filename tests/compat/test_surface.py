"""Every name of ``surface.md``, used the way programs use it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import socket
import uuid
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

import aioice
from aioice import Candidate, Connection, ConnectionClosed, candidate, ice, mdns, stun, turn, utils
from tests.interop.coturn import PASSWORD, USERNAME, Coturn
from tests.peers import HOST, PATIENCE, check_data, close, connect, gather, meet, pair, turns

pytestmark = pytest.mark.usefixtures("loopback")


# ------------------------------------------------------------------------------------------------------ the table


def test_table_is_complete() -> None:
    rows = re.findall(r"^\| `.*\| `(test_\w+)` \|$", Path(__file__).with_name("surface.md").read_text(), re.MULTILINE)
    tests = {name for name, value in globals().items() if name.startswith("test_") and callable(value)}
    assert len(rows) > 30
    assert set(rows) == tests - {"test_table_is_complete"}


# ------------------------------------------------------------------------------------------------- host addresses


async def test_get_host_addresses_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        asked.append((use_ipv4, use_ipv6))
        return ["127.0.0.2"]

    monkeypatch.setattr(ice, "get_host_addresses", addresses)
    connection = Connection(ice_controlling=True, use_ipv6=False)
    await connection.gather_candidates()
    assert [found.host for found in connection.local_candidates] == ["127.0.0.2"]
    assert asked == [(True, False)]
    await connection.close()


def test_get_adapters_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ips = [MagicMock(ip=ip) for ip in (HOST, "192.0.2.1", ("::1", 0, 0), ("2001:db8::1", 0, 0))]
    with patch("ifaddr.get_adapters", return_value=[MagicMock(ips=ips)]):
        assert ice.get_host_addresses(use_ipv4=True, use_ipv6=True) == ["192.0.2.1", "2001:db8::1"]
        assert ice.get_host_addresses(use_ipv4=True, use_ipv6=False) == ["192.0.2.1"]
        assert ice.get_host_addresses(use_ipv4=False, use_ipv6=True) == ["2001:db8::1"]


# ------------------------------------------------------------------------------------------------------ gathering


async def test_get_component_candidates_wrapped_on_class(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Connection.get_component_candidates
    assert list(inspect.signature(original).parameters) == ["self", "component", "addresses", "timeout"]
    seen = []

    async def wrapped(self: Connection, component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
        seen.append((component, addresses))
        return await original(self, component, ["127.0.0.3"], timeout=1)

    monkeypatch.setattr(Connection, "get_component_candidates", wrapped)
    connection = Connection(ice_controlling=True, components=2)
    await connection.gather_candidates()
    assert sorted(seen) == [(1, [HOST]), (2, [HOST])]
    assert [(found.host, found.component) for found in connection.local_candidates] == [
        ("127.0.0.3", 1),
        ("127.0.0.3", 2),
    ]
    await connection.close()


async def test_get_component_candidates_wrapped_on_instance() -> None:
    connection: Any = Connection(ice_controlling=True)
    original = connection.get_component_candidates

    async def wrapped(component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
        found: list[Candidate] = await original(component, [*addresses, "127.0.0.4"], timeout)
        return found

    connection.get_component_candidates = wrapped
    await connection.gather_candidates()
    assert {found.host for found in connection.local_candidates} == {HOST, "127.0.0.4"}
    await connection.close()


@pytest.mark.parametrize("components", [1, 2])
async def test_get_component_candidates_replaced_by_own_endpoint(components: int) -> None:
    a, b = pair(components=components)
    with contextlib.ExitStack() as probes:
        ports = [free_port(probes) for _ in range(components)]

    def use_ports(connection: Any) -> None:
        async def replacement(component: int, addresses: list[str], timeout: float = 5) -> list[Candidate]:
            loop = asyncio.get_running_loop()
            host, port = addresses[0], ports[component - 1]
            _, protocol = await loop.create_datagram_endpoint(
                lambda: ice.StunProtocol(connection), local_addr=(host, port)
            )
            protocol.local_candidate = Candidate(
                foundation=candidate.candidate_foundation("host", "udp", host),
                component=component,
                transport="udp",
                priority=candidate.candidate_priority(component, "host"),
                host=host,
                port=port,
                type="host",
            )
            connection._protocols.append(protocol)
            return [protocol.local_candidate]

        connection.get_component_candidates = replacement

    use_ports(a)
    await connect(a, b)
    numbers = range(1, components + 1)
    assert sorted((found.component, found.port) for found in a.local_candidates) == list(
        zip(numbers, ports, strict=True)
    )
    for number in numbers:
        address = (HOST, ports[number - 1])
        assert a._nominated[number].protocol.transport.get_extra_info("sockname") == address
        assert b._nominated[number].remote_addr == address
    await check_data(a, b, *numbers)
    await close(a, b)
    await turns()  # asyncio's transport closes its socket in the next one
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind((HOST, port))


def free_port(probes: contextlib.ExitStack) -> int:
    probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    probe.bind((HOST, 0))
    port: int = probe.getsockname()[1]
    return port


async def test_local_candidates_reassigned() -> None:
    connection: Any = Connection(ice_controlling=True, components=2)
    await connection.gather_candidates()
    assert len(connection._local_candidates) == 2
    connection._local_candidates = [found for found in connection._local_candidates if found.component == 1]
    assert [found.component for found in connection.local_candidates] == [1]
    assert connection.get_default_candidate(2) is None
    await connection.close()


# ------------------------------------------------------------------------------------------------ selected pairs


async def test_nominated_pair() -> None:
    a, b = pair()
    await connect(a, b)
    selected = a._nominated[1]
    (of_a,), (of_b,) = a.local_candidates, b.local_candidates
    assert (selected.local_candidate.host, selected.local_candidate.port) == (of_a.host, of_a.port)
    assert (selected.remote_candidate.host, selected.remote_candidate.port) == (of_b.host, of_b.port)
    assert selected.local_candidate.type == selected.remote_candidate.type == "host"
    assert selected.local_addr == (of_a.host, of_a.port)
    assert selected.remote_addr == (of_b.host, of_b.port)
    assert isinstance(selected, ice.CandidatePair)
    await close(a, b)
    assert not a._nominated


async def test_nominated_transport() -> None:
    a, b = pair()
    await connect(a, b)
    transport = a._nominated[1].protocol.transport
    assert transport.get_extra_info("sockname") == (HOST, a.local_candidates[0].port)
    sock = transport.get_extra_info("socket")
    assert sock.getsockname() == (HOST, a.local_candidates[0].port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    transport.sendto(b"past the connection", a._nominated[1].remote_addr)
    assert await asyncio.wait_for(b.recv(), PATIENCE) == b"past the connection"
    await close(a, b)


async def test_protocols() -> None:
    a, b = pair()
    await gather(a, b)
    (protocol,) = a._protocols
    assert isinstance(protocol, ice.StunProtocol)
    assert protocol.local_candidate.port == protocol.transport.get_extra_info("sockname")[1]
    await close(a, b)
    assert not a._protocols


# ------------------------------------------------------------------------------------------------------- tunables


async def test_consent_tunables_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ice.CONSENT_INTERVAL, ice.CONSENT_FAILURES) == (5, 6)
    monkeypatch.setattr(ice, "CONSENT_FAILURES", 1)
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.2)
    a, b = pair()
    await connect(a, b)
    await b.close()
    assert isinstance(await asyncio.wait_for(a.get_event(), PATIENCE), ConnectionClosed)
    with pytest.raises(ConnectionError):
        await a.send(b"nobody listens")
    await a.close()


class Sender:
    """What a transaction sends through."""

    def __init__(self) -> None:
        self.sent: list[tuple[stun.Message, tuple[str, int]]] = []

    def send_stun(self, message: stun.Message, addr: tuple[str, int]) -> None:
        self.sent.append((message, addr))


def binding_request() -> stun.Message:
    return stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)


async def test_retry_tunables_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (stun.RETRY_MAX, stun.RETRY_RTO) == (6, 0.5)
    monkeypatch.setattr(stun, "RETRY_MAX", 2)
    monkeypatch.setattr(stun, "RETRY_RTO", 0.01)
    sender = Sender()
    with pytest.raises(stun.TransactionTimeout):
        await stun.Transaction(binding_request(), (HOST, 3478), sender).run()
    assert len(sender.sent) == 3

    monkeypatch.setattr(stun, "RETRY_MAX", 1)
    connection = Connection(ice_controlling=True)
    await connection.gather_candidates()
    connection.remote_username, connection.remote_password = "user", "p" * 22
    await connection.add_remote_candidate(Candidate("x", 1, "udp", 1, HOST, 9, "host"))
    await connection.add_remote_candidate(None)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(connection.connect(), PATIENCE)
    await connection.close()


# ---------------------------------------------------------------------------------- assigned and overridden members


async def test_methods_assigned_on_instance() -> None:
    connection: Any = Connection(ice_controlling=True)

    async def nothing() -> None:
        return None

    connection.connect = nothing
    connection.get_event = nothing
    assert await connection.connect() is None
    assert await connection.get_event() is None
    await connection.close()


async def test_credentials_overridden_by_subclass() -> None:
    class Fixed(Connection):
        local_username = "fixedname"
        local_password = "fixedpasswordfixedpassword"

    a, b = Fixed(ice_controlling=True), Connection(ice_controlling=False)
    await connect(a, b)
    assert b.remote_username == "fixedname"
    await check_data(a, b)
    await close(a, b)


async def test_connection_event() -> None:
    assert issubclass(ConnectionClosed, ice.ConnectionEvent)
    assert ice.ConnectionClosed is aioice.ConnectionClosed
    a, b = pair()
    await connect(a, b)
    waiting = asyncio.ensure_future(a.get_event())
    await close(a, b)
    assert isinstance(await asyncio.wait_for(waiting, PATIENCE), ice.ConnectionEvent)
    assert await a.get_event() is None


# ------------------------------------------------------------------------------------------------- parts of ``ice``


class Answer(asyncio.DatagramProtocol):
    """A STUN server: answers, refuses what comes with a USERNAME, and ignores what comes with a REALM."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = stun.parse_message(data)
        if "REALM" in request.attributes:
            return
        refused = "USERNAME" in request.attributes
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.ERROR if refused else stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        if refused:
            response.attributes["ERROR-CODE"] = (401, "Unauthorized")
        else:
            response.attributes["XOR-MAPPED-ADDRESS"] = addr
        if "MESSAGE-INTEGRITY" in request.attributes and request.check_message_integrity(b"key"):
            response.add_message_integrity(b"key")
        self.transport.sendto(bytes(response), addr)


async def test_stun_protocol_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ice.StunProtocol):
        pass

    monkeypatch.setattr(ice, "StunProtocol", Mine)
    a, b = pair()
    await gather(a, b)
    assert {type(protocol) for protocol in a._protocols} == {Mine}
    await close(a, b)


async def test_stun_protocol_as_client(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Answer, local_addr=(HOST, 0))
    server = transport.get_extra_info("sockname")
    client, protocol = await loop.create_datagram_endpoint(lambda: ice.StunProtocol(MagicMock()), local_addr=(HOST, 0))
    assert protocol.transport is client

    response, address = await protocol.request(binding_request(), server)
    assert response.message_class == stun.Class.RESPONSE
    assert response.attributes["XOR-MAPPED-ADDRESS"] == client.get_extra_info("sockname")
    assert address == server
    response, _ = await protocol.request(binding_request(), server, integrity_key=b"key")
    assert response.check_message_integrity(b"key")

    both = await asyncio.gather(*(protocol.request(binding_request(), server) for _ in range(2)))
    assert len({response.transaction_id for response, _ in both}) == 2

    refused = binding_request()
    refused.attributes["USERNAME"] = "somebody"
    with pytest.raises(stun.TransactionFailed) as caught:
        await protocol.request(refused, server)
    assert caught.value.response.error_code == 401

    monkeypatch.setattr(stun, "RETRY_RTO", 0.01)
    ignored = binding_request()
    ignored.attributes["REALM"] = "nowhere"
    with pytest.raises(stun.TransactionTimeout):
        await protocol.request(ignored, server, retransmissions=1)
    # An answer without integrity does not count for who signed the request (RFC 8489 §9.1.4).
    with pytest.raises(stun.TransactionTimeout):
        await protocol.request(binding_request(), server, integrity_key=b"other", retransmissions=0)
    assert protocol.transactions == {}
    await protocol.close()
    transport.close()


def test_stun_protocol_made_outside_of_a_loop() -> None:
    receiver = Connection(ice_controlling=True)
    assert ice.StunProtocol(receiver).receiver is receiver


async def test_candidate_pair() -> None:
    local = Candidate("a", 1, "udp", 2130706431, "192.0.2.1", 1000, "host")
    remote = Candidate("b", 1, "udp", 2130706431, "192.0.2.2", 2000, "host")
    protocol = ice.StunProtocol(Connection(ice_controlling=True))
    protocol.local_candidate = local
    made = ice.CandidatePair(protocol, remote)
    assert made.protocol is protocol
    assert made.component == 1
    assert (made.local_candidate, made.remote_candidate) == (local, remote)
    assert (made.local_addr, made.remote_addr) == (("192.0.2.1", 1000), ("192.0.2.2", 2000))
    assert "192.0.2.2" in repr(made)


def test_candidate_pair_priority() -> None:
    high = Candidate("a", 1, "udp", 200, "192.0.2.1", 1000, "host")
    low = Candidate("b", 1, "udp", 100, "192.0.2.2", 2000, "host")
    # RFC 8445 §6.1.2.3
    assert ice.candidate_pair_priority(high, low, ice_controlling=True) == (1 << 32) * 100 + 2 * 200 + 1
    assert ice.candidate_pair_priority(high, low, ice_controlling=False) == (1 << 32) * 100 + 2 * 200
    assert ice.candidate_pair_priority(low, high, ice_controlling=False) == (1 << 32) * 100 + 2 * 200 + 1


def test_validate_credentials() -> None:
    ice.validate_username("abcd")
    ice.validate_password("p" * 22)
    for username in ("abc", "a" * 257, "with space", "ümlaut"):
        with pytest.raises(ValueError):
            ice.validate_username(username)
    for password in ("p" * 21, "p" * 257, "p" * 22 + "!"):
        with pytest.raises(ValueError):
            ice.validate_password(password)


# --------------------------------------------------------------------------------------------- candidate and utils


def test_candidate_foundation() -> None:
    foundation = candidate.candidate_foundation("host", "udp", "192.0.2.1")
    assert foundation == candidate.candidate_foundation("host", "udp", "192.0.2.1")
    others = {
        candidate.candidate_foundation("srflx", "udp", "192.0.2.1"),
        candidate.candidate_foundation("host", "tcp", "192.0.2.1"),
        candidate.candidate_foundation("host", "udp", "192.0.2.2"),
    }
    assert len(others | {foundation}) == 4
    assert 1 <= len(foundation) <= 32


def test_candidate_priority() -> None:
    # RFC 8445 §5.1.2.1 with the recommended type preferences
    assert candidate.candidate_priority(1, "host") == (126 << 24) + (65535 << 8) + 255
    assert candidate.candidate_priority(2, "prflx") == (110 << 24) + (65535 << 8) + 254
    assert candidate.candidate_priority(1, "srflx", 10) == (100 << 24) + (10 << 8) + 255
    assert candidate.candidate_priority(1, "relay", local_pref=0) == 255


def test_random() -> None:
    assert re.fullmatch(r"[a-zA-Z0-9]{40}", utils.random_string(40))
    assert utils.random_string(22) != utils.random_string(22)
    assert len(utils.random_transaction_id()) == 12
    assert utils.random_transaction_id() != utils.random_transaction_id()


# ----------------------------------------------------------------------------------------------------------- stun


def test_message_attributes() -> None:
    message = stun.Message(
        message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST, transaction_id=b"0123456789ab"
    )
    message.attributes["USERNAME"] = "remote:local"
    message.attributes["PRIORITY"] = 12345
    message.attributes["USE-CANDIDATE"] = None
    parsed = stun.parse_message(bytes(message))
    assert parsed.attributes["USERNAME"] == "remote:local"
    assert parsed.attributes.get("PRIORITY") == 12345
    assert "USE-CANDIDATE" in parsed.attributes
    assert "REALM" not in parsed.attributes
    assert list(parsed.attributes) == ["USERNAME", "PRIORITY", "USE-CANDIDATE"]
    assert parsed.attributes == {"USERNAME": "remote:local", "PRIORITY": 12345, "USE-CANDIDATE": None}
    assert dict(parsed.attributes.items())["PRIORITY"] == 12345
    assert parsed.attributes.pop("PRIORITY") == 12345
    assert "PRIORITY" not in parsed.attributes
    assert parsed.transaction_id == b"0123456789ab"
    with pytest.raises(KeyError):
        _ = parsed.attributes["REALM"]


def test_message_integrity() -> None:
    message = binding_request()
    message.add_message_integrity(b"key")
    parsed = stun.parse_message(bytes(message))
    assert {"MESSAGE-INTEGRITY", "FINGERPRINT"} <= set(parsed.attributes)
    assert parsed.check_message_integrity(b"key")
    assert not parsed.check_message_integrity(b"other")

    bare = binding_request()
    bare.add_fingerprint()
    parsed = stun.parse_message(bytes(bare))
    assert list(parsed.attributes) == ["FINGERPRINT"]
    assert not parsed.check_message_integrity(b"key")


def test_parse_message() -> None:
    message = binding_request()
    message.add_message_integrity(b"key")
    parsed = stun.parse_message(bytes(message), integrity_key=b"key")
    assert parsed.transaction_id == message.transaction_id
    with pytest.raises(ValueError):
        stun.parse_message(bytes(message), integrity_key=b"other")
    for data in (b"", b"short", bytes(message)[:-1], b"\xff" * 20):
        with pytest.raises(ValueError):
            stun.parse_message(data)


def test_message_error_code() -> None:
    message = stun.Message(message_method=stun.Method.ALLOCATE, message_class=stun.Class.ERROR)
    assert message.error_code is None
    message.attributes["ERROR-CODE"] = (438, "Stale Nonce")
    assert stun.parse_message(bytes(message)).error_code == 438


def test_class_and_method() -> None:
    assert [int(value) for value in stun.Class] == [0x000, 0x010, 0x100, 0x110]
    assert stun.Class.REQUEST == 0 and stun.Class.ERROR == 0x110
    names = ("BINDING", "SHARED_SECRET", "ALLOCATE", "REFRESH", "SEND", "DATA", "CREATE_PERMISSION", "CHANNEL_BIND")
    assert [int(stun.Method[name]) for name in names] == [1, 2, 3, 4, 6, 7, 8, 9]


async def test_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(stun.Transaction):
        received = 0

        def response_received(self, message: stun.Message, addr: tuple[str, int]) -> None:
            self.received += 1
            super().response_received(message, addr)

    parameters = list(inspect.signature(stun.Transaction).parameters)
    assert parameters[:4] == ["request", "addr", "protocol", "retransmissions"]
    request = binding_request()
    sender = Sender()
    transaction = Counted(request, (HOST, 3478), sender)
    running = asyncio.ensure_future(transaction.run())
    await asyncio.sleep(0)
    assert sender.sent == [(request, (HOST, 3478))]
    response = stun.Message(
        message_method=stun.Method.BINDING,
        message_class=stun.Class.RESPONSE,
        transaction_id=request.transaction_id,
    )
    transaction.response_received(response, (HOST, 3478))
    assert await running == (response, (HOST, 3478))
    assert transaction.received == 1

    monkeypatch.setattr(stun, "RETRY_RTO", 0.01)
    sender = Sender()
    with pytest.raises(stun.TransactionTimeout):
        await stun.Transaction(request, (HOST, 3478), sender, retransmissions=0).run()
    assert len(sender.sent) == 1


def test_transaction_errors() -> None:
    response = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.ERROR)
    response.attributes["ERROR-CODE"] = (487, "Role Conflict")
    failed = stun.TransactionFailed(response)
    assert isinstance(failed, stun.TransactionError)
    assert failed.response is response
    assert str(failed) == "STUN transaction failed (487 - Role Conflict)"
    timeout = stun.TransactionTimeout()
    assert isinstance(timeout, stun.TransactionError)
    assert timeout.response is None
    assert str(timeout) == "STUN transaction timed out"


# ----------------------------------------------------------------------------------------------------------- turn


class Collect(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def test_turn_endpoint() -> None:
    parameters = inspect.signature(turn.create_turn_endpoint).parameters
    assert list(parameters)[:4] == ["protocol_factory", "server_addr", "username", "password"]
    defaults = {"lifetime": 600, "channel_refresh_time": 500, "ssl": None, "transport": "udp"}
    assert {name: parameters[name].default for name in defaults} == defaults

    loop = asyncio.get_running_loop()
    peer_transport, peer = await loop.create_datagram_endpoint(Collect, local_addr=(HOST, 0))
    peer_address = peer_transport.get_extra_info("sockname")
    with Coturn() as server:
        transport, protocol = await turn.create_turn_endpoint(
            Collect, server_addr=server.address, username=USERNAME, password=PASSWORD
        )
        assert isinstance(transport, turn.TurnTransport)
        assert protocol.transport is transport
        relayed = transport.get_extra_info("sockname")
        assert transport.get_extra_info("related_address")[0] == HOST
        transport.sendto(b"to the peer", peer_address)
        assert await asyncio.wait_for(peer.received.get(), PATIENCE) == (b"to the peer", relayed)
        peer_transport.sendto(b"to the client", relayed)
        assert await asyncio.wait_for(protocol.received.get(), PATIENCE) == (b"to the client", peer_address)
        transport.close()
        await asyncio.wait_for(protocol.lost, PATIENCE)
    peer_transport.close()


def test_is_channel_data() -> None:
    assert turn.is_channel_data(b"\x40\x00\x00\x04data")
    assert turn.is_channel_data(b"\x4f\xff\x00\x00")
    assert not turn.is_channel_data(bytes(binding_request()))


def test_make_integrity_key() -> None:
    # RFC 8489 §9.2.2
    assert turn.make_integrity_key("user", "realm", "pass") == bytes.fromhex("8493fbc53ba582fb4c044c456bdc40eb")


def test_udp_socket_buffer_size() -> None:
    assert turn.UDP_SOCKET_BUFFER_SIZE == 262144


# ----------------------------------------------------------------------------------------------------------- mDNS


async def test_mdns_protocol() -> None:
    parameters = inspect.signature(mdns.MDnsProtocol.resolve).parameters
    assert list(parameters) == ["self", "hostname", "timeout"]
    assert parameters["timeout"].default == 1.0
    one, two = await mdns.create_mdns_protocol(), await mdns.create_mdns_protocol()
    assert isinstance(one, mdns.MDnsProtocol)
    hostname = mdns.create_mdns_hostname()
    await one.publish(hostname, "192.0.2.7")
    assert await two.resolve(hostname, timeout=PATIENCE) == "192.0.2.7"
    assert await two.resolve(mdns.create_mdns_hostname(), timeout=0.01) is None
    await one.close()
    await two.close()


async def test_mdns_resolve_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def resolve(self: mdns.MDnsProtocol, hostname: str, timeout: float | None = 1.0) -> str | None:
        asked.append(hostname)
        return HOST

    monkeypatch.setattr(mdns.MDnsProtocol, "resolve", resolve)
    a, b = pair()
    await gather(a, b)
    names = []
    for local, remote in ((a, b), (b, a)):
        remote.remote_username, remote.remote_password = local.local_username, local.local_password
        (shown,) = local.local_candidates
        names.append(mdns.create_mdns_hostname())
        hidden = Candidate(shown.foundation, 1, "udp", shown.priority, names[-1], shown.port, "host")
        await remote.add_remote_candidate(hidden)
        await remote.add_remote_candidate(None)
    await meet(a, b)
    assert sorted(asked) == sorted(names)
    await check_data(a, b)
    await close(a, b)


def test_mdns_hostnames() -> None:
    hostname = mdns.create_mdns_hostname()
    assert hostname.endswith(".local")
    uuid.UUID(hostname.removesuffix(".local"))
    assert mdns.is_mdns_hostname(hostname)
    assert not mdns.is_mdns_hostname("example.org")
    assert not mdns.is_mdns_hostname("192.0.2.1")
