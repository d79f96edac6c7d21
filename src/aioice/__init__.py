"""Interactive Connectivity Establishment for asyncio (RFC 8445)."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import candidate, ice, stun, utils
from .ice import Candidate, Connection, ConnectionClosed, ConnectionState, TransportPolicy

if TYPE_CHECKING:
    from . import mdns, trace, turn
    from .core.inquiries import ServerReport, ServerVerdict
    from .policy import AddressRewrite
    from .servers import IceServer, ephemeral_credentials

__all__ = [
    "AddressRewrite",
    "Candidate",
    "Connection",
    "ConnectionClosed",
    "ConnectionState",
    "IceServer",
    "ServerReport",
    "ServerVerdict",
    "TransportPolicy",
    "candidate",
    "ephemeral_credentials",
    "ice",
    "mdns",
    "stun",
    "trace",
    "turn",
    "utils",
]
__version__ = "0.20.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())


#: Where the names are that many programs do not need: imported when they are asked for.
_LAZY = {
    "AddressRewrite": "policy",
    "IceServer": "servers",
    "ServerReport": "core.inquiries",
    "ServerVerdict": "core.inquiries",
    "ephemeral_credentials": "servers",
}


def __getattr__(name: str) -> Any:
    """``aioice.mdns``, ``aioice.trace``, ``aioice.turn`` and what stands in :data:`_LAZY`."""
    if name in ("mdns", "trace", "turn"):
        return import_module(f"{__name__}.{name}")
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
