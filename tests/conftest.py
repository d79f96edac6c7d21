"""Runs tests that are coroutine functions, each in its own event loop and for a minute at most; fixtures for all."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from hypothesis import settings

from aioice import ice

pytest_plugins = ["aioice.pytest_plugin"]

# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

#: No test needs nearly as long: a hanging one fails with a traceback that shows where it waits.
TIME_LIMIT = 60


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "ice_world" in pyfuncitem.fixturenames:
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(_limited(pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names}))
    return True


async def _limited(test: Any, arguments: dict[str, Any]) -> None:
    async with asyncio.timeout(TIME_LIMIT):
        await test(**arguments)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections use the loopback interface, in IPv4."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"] if use_ipv4 else [])
