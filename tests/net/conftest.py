"""Each test that takes ``run`` runs on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine; an exception that only the loop's handler got to see fails the test as well, unless the test
    says how many of them it provokes."""

    def runner(main: Coroutine[Any, Any, None], complaints: int = 0) -> None:
        heard: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as loop_runner:
            loop_runner.get_loop().set_exception_handler(lambda loop, context: heard.append(context))
            loop_runner.run(asyncio.wait_for(main, 30))
        # What a server hears of a handshake that the client broke off is no fault.
        heard = [context for context in heard if "incoming connection" not in context["message"]]
        assert len(heard) == complaints, heard

    return runner
