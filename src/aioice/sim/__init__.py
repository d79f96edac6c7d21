"""A small internet on a virtual clock: hosts, links, NATs, firewalls, names and servers, to run machines and whole
asyncio programs on without sockets or waiting.

Same seed, same run: each delay, loss and port follows from the seed of the :class:`World` and from what is done in it.
"""

from .context import current_host
from .gateways import Firewall, Gateway, Router
from .hosts import Host, Interface
from .links import Conditions, Fate, Oversize, Packet
from .loop import Deadlock, Loop
from .names import Names
from .nat import Behaviour, Nat, Ports
from .network import Network
from .node import Node
from .stun import StunServer
from .turn import TurnServer
from .world import World

__all__ = [
    "Behaviour",
    "Conditions",
    "Deadlock",
    "Fate",
    "Firewall",
    "Gateway",
    "Host",
    "Interface",
    "Loop",
    "Names",
    "Nat",
    "Network",
    "Node",
    "Oversize",
    "Packet",
    "Ports",
    "Router",
    "StunServer",
    "TurnServer",
    "World",
    "current_host",
]
