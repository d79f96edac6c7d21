"""The main cases on uvloop, and two loops in two threads at once."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from aioice import Candidate, Connection, mdns

from . import test_connection, test_data, test_events, test_lifecycle, test_session
from .peers import HOST, PATIENCE, check_data, close, connect, gather, host_candidate, introduce, meet, pair

pytestmark = pytest.mark.usefixtures("loopback")

Case = Callable[[], Coroutine[Any, Any, None]]

CASES: list[Case] = [
    test_connection.test_connect_twice_at_once,
    test_connection.test_connect_while_gathering_runs,
    test_connection.test_remote_candidates_trickle,
    test_connection.test_peer_reflexive_only,
    test_connection.test_unusable_candidates_are_ignored_by_both,
    test_data.test_empty_datagram,
    test_data.test_cancelled_recv_loses_nothing,
    test_data.test_recv_cancelled_with_the_datagram_in_its_hand,
    test_data.test_several_recv_are_served_in_turn,
    test_data.test_data_is_kept_until_recv,
    test_data.test_strangers,
    test_events.test_trickle_by_events_alone,
    test_events.test_get_event_cancelled,
    test_events.test_states_of_a_whole_life,
    test_lifecycle.test_async_with,
    test_lifecycle.test_close_while_all_kinds_of_waiters_wait,
    test_lifecycle.test_close_while_both_connect,
    test_lifecycle.test_close_while_own_endpoint_is_opened,
    test_session.test_restart_of_one_side_first,
    test_session.test_lite_peer_connects_first,
    test_session.test_selected_pair_of_a_plain_socket,
]


def run(main: Coroutine[Any, Any, None], factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    heard: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: heard.append(context))
        runner.run(asyncio.wait_for(main, 2 * PATIENCE))
    assert heard == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_on_uvloop(case: Case) -> None:
    run(case(), uvloop.new_event_loop)


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("::1",)])
def test_connect_on_uvloop(components: int, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    run(test_connection.test_connect(components, hosts, monkeypatch), uvloop.new_event_loop)


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", 65507), ("::1", 65527)])
def test_too_big_on_uvloop(host: str, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run(test_data.test_too_big(host, largest, monkeypatch), uvloop.new_event_loop)


@pytest.mark.parametrize("reach", test_lifecycle.STATES, ids=lambda reach: reach.__name__)
def test_close_on_uvloop(reach: test_lifecycle.Step) -> None:
    run(test_lifecycle.test_close_in_every_state(reach), uvloop.new_event_loop)


# ---------------------------------------------------------------------------------------------------- several loops


def in_threads(*mains: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Each on a loop of its own, all at once; fails as the first of them does."""
    errors: list[BaseException] = []

    def target(main: Case, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        try:
            run(main(), factory)
        except BaseException as exc:
            errors.append(exc)

    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    threads = [threading.Thread(target=target, args=(main, factories[number % 2])) for number, main in enumerate(mains)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_loops_in_threads_do_not_know_of_each_other() -> None:
    async def main() -> None:
        for _ in range(10):
            a, b = pair()
            await connect(a, b)
            await check_data(a, b)
            await close(a, b)

    in_threads(main, main, main, main)


def test_names_in_two_threads() -> None:
    """Each loop has an mDNS responder and resolver of its own."""

    async def main() -> None:
        publisher = await mdns.create_mdns_protocol()
        for _ in range(3):
            name = mdns.create_mdns_hostname()
            await publisher.publish(name, HOST)
            a, b = pair()
            await gather(a, b)
            introduce(a, b)
            await a.add_remote_candidate(host_candidate(name, b.local_candidates[0].port))
            await a.add_remote_candidate(None)
            await meet(a, b)
            await check_data(a, b)
            await close(a, b)
        await publisher.close()

    in_threads(main, main)


def test_from_one_loop_to_another() -> None:
    """A connection on each; what they tell each other are lines of text."""
    to_a: queue.Queue[list[str]] = queue.Queue()
    to_b: queue.Queue[list[str]] = queue.Queue()

    async def peer(controlling: bool, inbox: queue.Queue[list[str]], outbox: queue.Queue[list[str]]) -> None:
        async with Connection(ice_controlling=controlling, components=2) as connection:
            await connection.gather_candidates()
            lines = [found.to_sdp() for found in connection.local_candidates]
            outbox.put([connection.local_username, connection.local_password, *lines])
            username, password, *candidates = await asyncio.to_thread(inbox.get, timeout=PATIENCE)
            connection.remote_username, connection.remote_password = username, password
            for line in candidates:
                await connection.add_remote_candidate(Candidate.from_sdp(line))
            await connection.add_remote_candidate(None)
            await connection.connect()
            for component in (1, 2):
                for number in range(100):
                    await connection.sendto(bytes([number]), component)
            received = {(await connection.recvfrom()) for _ in range(200)}
            assert received == {(bytes([number]), component) for number in range(100) for component in (1, 2)}
            outbox.put(["done"])
            assert await asyncio.to_thread(inbox.get, timeout=PATIENCE) == ["done"]

    in_threads(lambda: peer(True, to_a, to_b), lambda: peer(False, to_b, to_a))
