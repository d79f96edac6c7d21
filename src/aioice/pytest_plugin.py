"""A plugin for pytest: tests in a simulated network, on virtual time (:mod:`aioice.sim`).

A test that takes the fixture ``ice_world`` gets a new :class:`aioice.sim.World`. If it is a coroutine function, it runs
on that world's event loop, without any other plugin for asyncio. The mark of the same name sets what is not usual:

* ``@pytest.mark.ice_world(seed=7)``: another seed than 0;
* ``@pytest.mark.ice_world(timeout=60.0)``: the virtual seconds that a coroutine may take (an hour if not given).

When such a test fails, its report has the seed and the last packets of the network.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from aioice.sim import World

#: Virtual seconds; two connected agents have things to do for ever, and a test that hangs on them must end.
TIMEOUT = 3600.0

_SEED = "--ice-seed"
_PACKETS = "--ice-packets"
_world: pytest.StashKey[World] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("aioice", "simulated networks")
    group.addoption(_SEED, type=int, default=None, help="seed of all simulated networks, in place of the tests' own")
    group.addoption(_PACKETS, type=int, default=20, help="packets shown when a simulated test fails (default: 20)")


def pytest_configure(config: pytest.Config) -> None:
    """The mark is known."""
    config.addinivalue_line("markers", "ice_world(seed=0, timeout=3600.0): the simulated network of a test")


@pytest.fixture
def ice_world(request: pytest.FixtureRequest) -> World:
    """A new simulated network; coroutine tests that take it run on its virtual time."""
    from aioice.sim import World

    seed = request.config.getoption(_SEED)
    world = World(_options(request.node).get("seed", 0) if seed is None else seed)
    request.node.stash[_world] = world
    return world


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the coroutine functions among the tests that have a world."""
    world = pyfuncitem.stash.get(_world, None)
    if world is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    main = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names if name in pyfuncitem.funcargs})
    world.run(main, timeout=_options(pyfuncitem).get("timeout", TIMEOUT))
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """A failure tells what went through the network."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    world = item.stash.get(_world, None)
    if world is not None and report.when == "call" and report.failed:
        text = f"seed {world.seed}, {world.now:.6g} s\n{world.describe(item.config.getoption(_PACKETS))}"
        report.sections.append(("Simulated network", text))


def _options(item: pytest.Item) -> dict[str, Any]:
    """Those of the nearest mark."""
    mark = item.get_closest_marker("ice_world")
    options = dict(mark.kwargs) if mark is not None else {}
    if (mark is not None and mark.args) or not options.keys() <= {"seed", "timeout"}:
        raise pytest.UsageError("pytest.mark.ice_world() takes seed=... and timeout=...")
    return options
