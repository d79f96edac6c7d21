"""Every test with an event loop is audited: a second after its end no descriptor, task or timer of it is left."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
from typing import Any

import pytest

from tests.conftest import TIME_LIMIT
from tests.peers import holdings

#: Seconds that the deletion of a relay may go on behind a closed connection, and a little for the machine.
LINGER = 1.1 + 0.4


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    gc.collect()
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(_audited(pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names}))
    # What was not closed warns when it is collected, and warnings are errors.
    gc.collect()
    return True


async def _audited(test: Any, arguments: dict[str, Any]) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    async with asyncio.timeout(TIME_LIMIT):
        before = holdings()
        await test(**arguments)
        until = time.monotonic() + LINGER
        while holdings() != before and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert holdings() == before, "left behind: descriptors, tasks, timers"
    assert not faults
