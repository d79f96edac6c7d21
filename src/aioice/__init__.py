"""Interactive Connectivity Establishment for asyncio (RFC 8445)."""

import logging

from . import candidate, ice, mdns, stun, turn, utils
from .ice import Candidate, Connection, ConnectionClosed, ConnectionState, TransportPolicy

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
    "turn",
    "utils",
]
__version__ = "0.20.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
