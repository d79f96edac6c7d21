"""How a driver winds up: what is begun is given up, what is open is waited for, within a bounded time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioice.core.machine import Close, OpenStream, OpenUdp, Resolve
from aioice.net import driver as driver_module
from tests.net.bench import PEER, Bench
from tests.net.support import turns

#: Seconds that no test reaches.
EVER = 1000.0


async def opened_stream(bench: Bench) -> None:
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.say(OpenStream(1, PEER, None))
    bench.host.gate.set_result(None)
    await turns()
    assert list(bench.driver.links) == [1]


async def test_nothing_to_wait_for() -> None:
    bench = Bench()
    await bench.driver.wind_up(EVER)
    assert bench.driver.idle


async def test_what_is_being_opened_is_given_up() -> None:
    bench = Bench()
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.say(OpenStream(1, PEER, None), OpenUdp(2, "::"))
    await turns()
    await bench.driver.wind_up(EVER)
    assert bench.driver.idle
    assert bench.host.gate.cancelled()
    assert bench.machine.reports == []


async def test_the_end_of_a_stream_is_waited_for() -> None:
    bench = Bench()
    await opened_stream(bench)
    winding_up = asyncio.ensure_future(bench.driver.wind_up(EVER))
    await turns()
    assert not winding_up.done()
    bench.say(Close(1))
    assert not bench.driver.idle
    await winding_up
    assert bench.driver.idle


async def test_the_timer_is_waited_for() -> None:
    bench = Bench()
    bench.driver.do(bench.machine.set_deadline, EVER)
    winding_up = asyncio.ensure_future(bench.driver.wind_up(EVER))
    await turns()
    assert not winding_up.done()
    bench.driver.do(bench.machine.set_deadline, None)
    await winding_up


async def test_not_for_ever() -> None:
    bench = Bench()
    bench.driver.do(bench.machine.set_deadline, EVER)
    await bench.driver.wind_up(0)
    assert not bench.driver.idle
    bench.driver.close()


async def test_a_stream_is_not_left_open() -> None:
    """The loop may end at once, and would warn."""
    bench = Bench()
    await opened_stream(bench)
    await bench.driver.wind_up(0)
    assert bench.driver.idle


async def test_a_second_time() -> None:
    bench = Bench()
    for _ in range(2):
        await opened_stream(bench)
        winding_up = asyncio.ensure_future(bench.driver.wind_up(EVER))
        await turns()
        assert not winding_up.done()
        bench.say(Close(1))
        await winding_up


async def test_a_look_up_that_does_not_heed_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answer: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()

    async def resolve(name: str) -> tuple[str, ...]:
        while True:
            try:
                return await asyncio.shield(answer)
            except asyncio.CancelledError:
                continue

    monkeypatch.setattr(driver_module, "CANCEL_TIME", 0)
    bench = Bench()
    bench.host.resolve = resolve
    bench.say(Resolve(1, "stubborn.example.org"))
    await turns()
    await bench.driver.wind_up(0)
    assert not bench.driver.idle
    # Its late end is noticed.
    winding_up: asyncio.Task[Any] = asyncio.ensure_future(bench.driver.wind_up(EVER))
    await turns()
    bench.driver.close()
    assert not winding_up.done()
    answer.set_result(())
    await winding_up
    assert bench.driver.idle
