"""Interactive Connectivity Establishment for asyncio (RFC 8445)."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from . import candidate, ice, stun, utils
from .ice import Candidate, Connection, ConnectionClosed, ConnectionState, TransportPolicy

if TYPE_CHECKING:
    from types import ModuleType

    from . import mdns, trace, turn

__all__ = [
    "Candidate",
    "Connection",
    "ConnectionClosed",
    "ConnectionState",
    "TransportPolicy",
    "candidate",
    "ice",
    "mdns",
    "stun",
    "trace",
    "turn",
    "utils",
]
__version__ = "0.20.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> "ModuleType":
    """``aioice.mdns``, ``.trace`` and ``.turn`` are imported when they are asked for: many programs need none."""
    if name in ("mdns", "trace", "turn"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
