"""Remote candidates that stand by an mDNS name (draft-ietf-mmusic-mdns-ice-candidates), on real sockets."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aioice import Candidate, Connection, TransportPolicy, mdns

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


def hidden(candidate: Candidate, name: str) -> Candidate:
    """What a browser shows of it."""
    return Candidate(candidate.foundation, 1, "udp", candidate.priority, name, candidate.port, "host")


def replace_resolve(monkeypatch: pytest.MonkeyPatch, **result: Any) -> AsyncMock:
    mock = AsyncMock(**result)
    monkeypatch.setattr(mdns.MDnsProtocol, "resolve", mock)
    return mock


@pytest.mark.parametrize("spelling", [str, str.upper, lambda name: name + "."], ids=["as is", "upper", "with a dot"])
async def test_published_name(spelling: Any) -> None:
    """F46: one candidate, shown by its name, whose checks are not taken for a stranger's."""
    async with nothing_left() as connections:
        a, b = pair()
        connections += [a, b]
        publisher = await mdns.create_mdns_protocol()
        name = mdns.create_mdns_hostname()
        await publisher.publish(name, HOST)
        await gather(a, b)
        introduce(a, b)
        await a.add_remote_candidate(hidden(b.local_candidates[0], spelling(name)))
        await a.add_remote_candidate(None)
        await meet(a, b)
        await until(lambda: a._nominated[1].remote_candidate.type == "host")
        assert [known.host for known in a.remote_candidates] == [spelling(name)]
        assert a._nominated[1].remote_candidate.host == spelling(name)
        assert a._nominated[1].remote_addr == (HOST, b.local_candidates[0].port)
        await check_data(a, b)
        await close(a, b)
        await publisher.close()


@pytest.mark.parametrize("text", ["fe80::1%eth0", "junk", ""])
async def test_resolved_to_what_is_no_address(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced resolve() may say anything: the name is not resolved, and the others do."""
    asked = replace_resolve(monkeypatch, return_value=text)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    a, b = pair()
    await gather(a, b)
    await a.add_remote_candidate(host_candidate("one.local", 9))
    await signal(a, b)
    await meet(a, b)
    await until(lambda: not a._agent._generation.resolving)
    assert asked.await_count == 1 and failures == []
    assert [known.address for known in a.remote_candidates] == ["one.local", HOST]
    await close(a, b)


async def test_adding_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for one turn of the loop; the name is listed at once."""
    asked = replace_resolve(monkeypatch, return_value=None)
    connection = Connection(ice_controlling=True)
    await connection.gather_candidates()
    adding = connection.add_remote_candidate(host_candidate("one.local", 9))
    with pytest.raises(StopIteration):
        adding.send(None)
    assert [known.host for known in connection.remote_candidates] == ["one.local"]
    assert asked.await_count == 0
    await turns()
    assert asked.await_count == 1
    await connection.close()


async def test_unresolvable_name_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_resolve(monkeypatch, return_value=None)
    a, b = pair()
    await gather(a, b)
    await a.add_remote_candidate(host_candidate("nobody.local", 9))
    await signal(a, b)
    await meet(a, b)
    await check_data(a, b)
    await close(a, b)


async def test_only_unresolvable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """F17: the checks of the peer make up for it."""
    replace_resolve(monkeypatch, return_value=None)
    a, b = pair()
    await gather(a, b)
    introduce(a, b)
    await a.add_remote_candidate(host_candidate("nobody.local", 9))
    await a.add_remote_candidate(None)
    await b.add_remote_candidate(a.local_candidates[0])
    await b.add_remote_candidate(None)
    await meet(a, b)
    await check_data(a, b)
    await close(a, b)


async def test_a_look_up_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
    replace_resolve(monkeypatch, side_effect=OSError("no network"))
    a, b = pair(patience=0.0)
    await gather(a)
    introduce(a, b)
    await a.add_remote_candidate(host_candidate("nobody.local", 9))
    await a.add_remote_candidate(None)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(a.connect(), PATIENCE)
    assert [str(context["exception"]) for context in heard] == ["no network"]
    await close(a, b)


async def test_end_of_candidates_waits_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = asyncio.Event()

    async def resolve(self: mdns.MDnsProtocol, hostname: str, timeout: float | None = 1.0) -> str | None:
        await may_answer.wait()
        return HOST

    monkeypatch.setattr(mdns.MDnsProtocol, "resolve", resolve)
    a, b = pair(patience=0.0)
    await gather(a, b)
    introduce(a, b)
    await a.add_remote_candidate(hidden(b.local_candidates[0], "b.local"))
    await a.add_remote_candidate(None)
    connecting = asyncio.ensure_future(meet(a, b))
    await turns()
    assert a.state == "checking" and not connecting.done()
    may_answer.set()
    await connecting
    await check_data(a, b)
    await close(a, b)


async def test_names_of_what_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """S09: a TCP candidate by name is kept, and not looked up; nor is one that came after the end."""
    asked = replace_resolve(monkeypatch, return_value=HOST)
    connection = Connection(ice_controlling=True)
    await connection.gather_candidates()
    await connection.add_remote_candidate(host_candidate("tcp.local", 9, transport="tcp", tcptype="active"))
    assert [known.host for known in connection.remote_candidates] == ["tcp.local"]
    await connection.close()
    await connection.add_remote_candidate(host_candidate("late.local", 9))
    await turns()
    assert asked.await_count == 0


async def test_relay_policy_ignores_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """§3.3.2: a name is never shown to a TURN server."""
    asked = replace_resolve(monkeypatch, return_value=HOST)
    connection = Connection(ice_controlling=True, transport_policy=TransportPolicy.RELAY)
    await connection.gather_candidates()
    await connection.add_remote_candidate(host_candidate("hidden.local", 9))
    await turns()
    assert connection.remote_candidates == []
    assert asked.await_count == 0
    await connection.close()


async def test_host_without_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(mdns, "_open_socket", refuse)
    async with nothing_left() as connections:
        a, b = pair()
        connections += [a, b]
        await a.add_remote_candidate(host_candidate("nobody.local", 9))
        await connect(a, b)
        await check_data(a, b)
        await close(a, b)


async def test_names_before_gathering_and_after_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_resolve(monkeypatch, return_value=HOST)
    a, b = pair()
    await gather(b)
    await a.add_remote_candidate(hidden(b.local_candidates[0], "b.local"))
    await gather(a)
    introduce(a, b)
    await meet(a, b)
    a.restart()
    b.restart()
    introduce(a, b)
    await a.add_remote_candidate(hidden(b.local_candidates[0], "b.local"))
    await a.add_remote_candidate(None)
    await meet(a, b)
    assert [known.host for known in a.remote_candidates] == ["b.local"]
    await check_data(a, b)
    await close(a, b)
