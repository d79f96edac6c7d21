"""What a connection can beside connecting: restart, ICE-lite, a pair without checks, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from aioice import Candidate, Connection, stun

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
    nothing_left,
    pair,
    signal,
    turns,
    until,
)

pytestmark = pytest.mark.usefixtures("loopback")


async def completed(a: Connection, b: Connection) -> None:
    await until(lambda: a.state == b.state == "completed")


# -------------------------------------------------------------------------------------------------------------- restart


@pytest.mark.parametrize("components", [1, 2])
async def test_restart(components: int) -> None:
    """RFC 8445 §9: new credentials, the same sockets, and data all the while."""
    numbers = range(1, components + 1)
    async with nothing_left() as connections:
        a, b = pair(components=components)
        connections += [a, b]
        await connect(a, b)
        await completed(a, b)
        for _ in range(3):
            before = {c: (c.local_username, c.local_password, c.local_candidates) for c in (a, b)}
            for connection in (a, b):
                connection.restart()
                assert connection.local_username != before[connection][0]
                assert connection.local_password != before[connection][1]
                assert connection.local_candidates == before[connection][2]
                assert connection.remote_username is connection.remote_password is None
                assert connection.remote_candidates == []
                await check_data(a, b, *numbers)
            await signal(a, b)
            await check_data(a, b, *numbers)
            connecting = asyncio.ensure_future(meet(a, b))
            while not connecting.done():
                await check_data(a, b, *numbers)
            await connecting
            await completed(a, b)
            await check_data(a, b, *numbers)
        await close(a, b)


async def test_restart_of_one_side_first() -> None:
    """Both ufrags are answered: the old pair lives as long as the other side knows nothing."""
    a, b = pair()
    await connect(a, b)
    await completed(a, b)
    a.restart()
    b.remote_username, b.remote_password = a.local_username, a.local_password
    a.remote_username, a.remote_password = b.local_username, b.local_password
    connecting = asyncio.ensure_future(a.connect())
    await turns()
    await check_data(a, b)
    assert not connecting.done()
    b.restart()
    introduce(a, b)
    await check_data(a, b)
    connecting.cancel()
    a.restart()
    await signal(a, b)
    await meet(a, b)
    await completed(a, b)
    await check_data(a, b)
    await close(a, b)


async def test_fragments_and_passwords_are_random() -> None:
    """RFC 8839 §5.4: at the beginning and at each restart."""
    seen = set()
    connection = Connection(ice_controlling=True)
    for _ in range(3):
        connection.restart()
        for other in (connection, Connection(ice_controlling=True)):
            assert (len(other.local_username), len(other.local_password)) == (4, 22)
            seen.add(other.local_password)
    assert len(seen) == 6
    await connection.close()


async def test_restart_with_given_credentials() -> None:
    connection = Connection(ice_controlling=True, local_username="first", local_password="f" * 22)
    connection.restart("second", "s" * 22)
    assert (connection.local_username, connection.local_password) == ("second", "s" * 22)
    for username, password in (("no", "s" * 22), ("third", "short"), ("no good!", None)):
        with pytest.raises(ValueError):
            connection.restart(username, password)
    assert (connection.local_username, connection.local_password) == ("second", "s" * 22)
    await connection.close()


async def test_restart_sets_the_end_mark_anew() -> None:
    a, b = pair()
    await connect(a, b)
    with pytest.raises(ValueError):
        await a.add_remote_candidate(None)
    a.restart()
    await a.add_remote_candidate(None)
    with pytest.raises(ValueError):
        await a.add_remote_candidate(None)
    await close(a, b)


async def test_late_candidate_goes_to_the_generation_of_its_ufrag() -> None:
    a, b = pair()
    await connect(a, b)
    await completed(a, b)
    old = b.local_username
    a.restart()
    b.restart()
    introduce(a, b)
    line = "1 1 udp 2130706431 127.0.0.1 9 typ host ufrag "
    await a.add_remote_candidate(Candidate.from_sdp(line + old))
    assert a.remote_candidates == []
    await a.add_remote_candidate(Candidate.from_sdp(line + b.local_username))
    assert len(a.remote_candidates) == 1
    await signal(a, b)
    await meet(a, b)
    await check_data(a, b)
    await close(a, b)


async def test_restart_while_connecting() -> None:
    """The call that waits goes on waiting, for the new generation; meanwhile nothing spins."""
    a, b = pair()
    await gather(a, b)
    introduce(a, b)
    connecting = asyncio.ensure_future(a.connect())
    await turns()
    a.restart()
    await turns()
    driver = a._driver
    assert driver is not None
    deadline = driver.machine.poll_timeout()
    assert deadline is None or deadline > driver.now()
    await signal(a, b)
    await meet(a, b)
    await asyncio.wait_for(connecting, PATIENCE)
    await check_data(a, b)
    await close(a, b)


async def test_restart_after_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(patience=0.0)
    await gather(a, b)
    introduce(a, b)
    await a.add_remote_candidate(None)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(a.connect(), PATIENCE)
    a.restart()
    await signal(a, b)
    await meet(a, b)
    await check_data(a, b)
    await close(a, b)


async def test_failed_restart_leaves_the_old_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8445 §9: until a pair of the new generation is selected."""
    a, b = pair(patience=0.0)
    await connect(a, b)
    await completed(a, b)
    a.restart()
    a.remote_username, a.remote_password = "nobody", "n" * 22
    await a.add_remote_candidate(None)
    with pytest.raises(ConnectionError, match="the peer gave no candidates"):
        await asyncio.wait_for(a.connect(), PATIENCE)
    await check_data(a, b)
    await close(a, b)


async def test_restart_before_anything() -> None:
    a, b = pair()
    old = a.local_username
    a.restart()
    assert a.local_username != old
    await connect(a, b)
    await check_data(a, b)
    await close(a, b)


def test_restart_outside_of_a_loop() -> None:
    connection = Connection(ice_controlling=True)
    connection.restart()
    asyncio.run(connection.close())


# ------------------------------------------------------------------------------------------------------------- ICE-lite


def requests_to(connection: Any) -> list[stun.Message]:
    """The Binding requests that come to a connection from now on."""
    seen = []
    original = connection._stun_received

    def look(link: int, peer: tuple[str, int], data: bytes) -> None:
        message = stun.parse_message(data)
        if message.message_class is stun.Class.REQUEST:
            seen.append(message)
        original(link, peer, data)

    connection._stun_received = look
    return seen


@pytest.mark.parametrize("controlling", [True, False])
@pytest.mark.parametrize("components", [1, 2])
async def test_lite(controlling: bool, components: int) -> None:
    """RFC 8445 §2.5, F28: the full agent controls, whatever it was told; the lite one only answers."""
    async with nothing_left() as connections:
        full = Connection(ice_controlling=controlling, components=components)
        lite = Connection(ice_controlling=not controlling, components=components, ice_lite=True)
        connections += [full, lite]
        full.remote_is_lite = True
        asked = requests_to(full)
        await connect(full, lite)
        await completed(full, lite)
        assert (full.ice_controlling, lite.ice_controlling) == (True, False)
        await check_data(full, lite, *range(1, components + 1))
        assert asked == []
        await close(full, lite)


async def test_both_lite() -> None:
    """Nobody would ever send a check."""
    a, b = pair(ice_lite=True)
    await gather(a, b)
    await signal(a, b)
    for connection in (a, b):
        connection.remote_is_lite = True
        with pytest.raises(ConnectionError, match=r"set_selected_pair\(\)$"):
            await connection.connect()
        connection.set_selected_pair(
            1, connection.local_candidates[0].foundation, connection.remote_candidates[0].foundation
        )
        await connection.connect()
    await check_data(a, b)
    await close(a, b)


async def test_lite_peer_connects_first() -> None:
    full, lite = Connection(ice_controlling=True), Connection(ice_controlling=False, ice_lite=True)
    full.remote_is_lite = True
    await gather(full, lite)
    await signal(full, lite)
    connecting = asyncio.ensure_future(lite.connect())
    await turns()
    assert lite.state == "checking" and not connecting.done()
    await full.connect()
    await asyncio.wait_for(connecting, PATIENCE)
    await check_data(full, lite)
    await close(full, lite)


async def test_lite_answers_before_it_connects() -> None:
    full, lite = Connection(ice_controlling=True), Connection(ice_controlling=False, ice_lite=True)
    full.remote_is_lite = True
    await gather(full, lite)
    await signal(full, lite)
    await asyncio.wait_for(full.connect(), PATIENCE)
    await until(lambda: full.state == "completed")
    await full.send(b"early")
    await asyncio.wait_for(lite.connect(), PATIENCE)
    assert await asyncio.wait_for(lite.recv(), PATIENCE) == b"early"
    await check_data(full, lite)
    await close(full, lite)


async def test_lite_asks_no_server() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        server.setblocking(False)
        lite = Connection(ice_controlling=False, ice_lite=True, stun_server=server.getsockname())
        await lite.gather_candidates()
        assert [found.type for found in lite.local_candidates] == ["host"]
        with pytest.raises(BlockingIOError):
            server.recv(1500)
        await lite.close()


# ---------------------------------------------------------------------------------------------------- set_selected_pair


@pytest.mark.parametrize("components", [1, 2])
async def test_selected_pair(components: int) -> None:
    """For a peer that does not speak ICE: no check, no consent."""
    async with nothing_left() as connections:
        a, b = pair(components=components)
        connections += [a, b]
        await gather(a, b)
        await signal(a, b)
        asked = requests_to(a) + requests_to(b)
        for connection in (a, b):
            for component in range(1, components + 1):
                assert connection.state == "new"
                (local,) = (c for c in connection.local_candidates if c.component == component)
                (remote,) = (c for c in connection.remote_candidates if c.component == component)
                connection.set_selected_pair(component, local.foundation, remote.foundation)
                assert connection._nominated[component].remote_addr == (remote.host, remote.port)
            assert connection.state == "completed"
        await check_data(a, b, *range(1, components + 1))
        assert asked == []
        await close(a, b)


async def test_selected_pair_of_a_plain_socket() -> None:
    connection = Connection(ice_controlling=True)
    await connection.gather_candidates()
    (local,) = connection.local_candidates
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        peer.bind((HOST, 0))
        peer.settimeout(PATIENCE)
        await connection.add_remote_candidate(host_candidate(*peer.getsockname(), foundation="peer"))
        connection.set_selected_pair(1, local.foundation, "peer")
        await connection.send(b"hello")
        data, address = peer.recvfrom(1500)
        assert (data, address) == (b"hello", (local.host, local.port))
        stranger.sendto(b"stranger", address)
        peer.sendto(b"peer", address)
        assert await asyncio.wait_for(connection.recv(), PATIENCE) == b"peer"
    await connection.close()


async def test_selected_pair_unknown() -> None:
    a, b = pair()
    await gather(a, b)
    await signal(a, b)
    local, remote = a.local_candidates[0].foundation, a.remote_candidates[0].foundation
    for component, ours, theirs, side in (
        (1, "unknown", remote, "local"),
        (1, local, "unknown", "remote"),
        (2, local, remote, "local"),
    ):
        with pytest.raises(ValueError, match=f"Component {component} has no {side} candidate with this foundation"):
            a.set_selected_pair(component, ours, theirs)
    assert a.state == "new" and not a._nominated
    await close(a, b)
    with pytest.raises(ValueError):
        a.set_selected_pair(1, local, remote)


@pytest.mark.parametrize(
    ("remote", "why"),
    [
        (host_candidate("name.local", 9), "the name of the remote candidate is not resolved"),
        (host_candidate(HOST, 9, transport="tcp", tcptype="active"), "the remote candidate is not of UDP"),
        (host_candidate("2001:db8::1", 9), "the two addresses do not go together"),
    ],
    ids=["name", "tcp", "family"],
)
async def test_selected_pair_that_cannot_be_one(remote: Candidate, why: str) -> None:
    connection = Connection(ice_controlling=True)
    await connection.gather_candidates()
    (local,) = connection.local_candidates
    await connection.add_remote_candidate(remote)
    with pytest.raises(ValueError, match=why):
        connection.set_selected_pair(1, local.foundation, remote.foundation)
    assert connection.state == "new" and not connection._nominated
    # Another of that foundation will do.
    await connection.add_remote_candidate(host_candidate(HOST, 9))
    connection.set_selected_pair(1, local.foundation, remote.foundation)
    assert connection._nominated[1].remote_addr == (HOST, 9)
    await connection.close()
