"""What programs ask the operating system directly is answered by the world while its loop runs them.

Only code on a simulated loop gets the world's answers: everything else in the process, other threads and other loops,
gets those of the system, and once the last simulated loop has stopped nothing is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import ifaddr

from .context import current_host
from .endpoints import Endpoints
from .hosts import LOOPBACKS
from .links import is_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .world import World

#: What ``time.time()`` says at the world's time 0: 2025-01-01, 00:00 UTC.
EPOCH = 1735689600.0
#: Of the networks that interfaces say they are in.
IPV4_PREFIX, IPV6_PREFIX = 24, 64

_lock = threading.Lock()
_running = 0
_real: dict[tuple[Any, str], Callable[..., Any]] = {}


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """For as long as a simulated loop runs."""
    global _running
    with _lock:
        _running += 1
        if _running == 1:
            for (module, name), simulated in _SIMULATED.items():
                real = _real[module, name] = getattr(module, name)
                setattr(module, name, _choose(real, simulated))
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                for (module, name), real in _real.items():
                    setattr(module, name, real)


def _choose(real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
    """By the loop that runs in this thread."""

    def call(*args: Any, **kwargs: Any) -> Any:
        loop = asyncio._get_running_loop()
        return simulated(loop.world, *args, **kwargs) if isinstance(loop, Endpoints) else real(*args, **kwargs)

    return call


def _adapters(world: World, include_unconfigured: bool = False) -> list[ifaddr.Adapter]:
    """The interfaces of the host that the running task is on, loopback among them."""
    loopback = [ifaddr.IP(_ifaddr_form(address), 128 if is_ipv6(address) else 8, "lo") for address in LOOPBACKS]
    adapters = [ifaddr.Adapter("lo", "lo", loopback, 1)]
    for interface in current_host().interfaces:
        if interface.is_up or include_unconfigured:
            ips = [
                ifaddr.IP(_ifaddr_form(address), IPV6_PREFIX if is_ipv6(address) else IPV4_PREFIX, interface.name)
                for address in interface.addresses
                if interface.is_up
            ]
            adapters.append(ifaddr.Adapter(interface.name, interface.name, ips, interface.index))
    return adapters


def _ifaddr_form(address: str) -> str | tuple[str, int, int]:
    return (address, 0, 0) if is_ipv6(address) else address


_SIMULATED: dict[tuple[Any, str], Callable[..., Any]] = {
    (os, "urandom"): lambda world, size: world.random_bytes(size),
    (ifaddr, "get_adapters"): _adapters,
    (time, "sleep"): lambda world, seconds: world.skip(seconds),
    (time, "time"): lambda world: EPOCH + world.now,
    (time, "time_ns"): lambda world: round((EPOCH + world.now) * 1e9),
    (time, "monotonic"): lambda world: world.now,
    (time, "monotonic_ns"): lambda world: round(world.now * 1e9),
    (time, "perf_counter"): lambda world: world.now,
    (time, "perf_counter_ns"): lambda world: round(world.now * 1e9),
}
