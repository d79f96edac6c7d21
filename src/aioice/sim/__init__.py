"""A small internet on a virtual clock: hosts, links, NATs and servers, to run machines on without sockets or waiting.

Same seed, same run: each delay, loss and port follows from the seed of the :class:`World` and from what is done in it.
"""

from .nat import Behaviour, Nat, Ports
from .network import Conditions, Fate, Host, Network, Packet
from .servers import StunServer, TurnServer
from .world import Node, World

__all__ = [
    "Behaviour",
    "Conditions",
    "Fate",
    "Host",
    "Nat",
    "Network",
    "Node",
    "Packet",
    "Ports",
    "StunServer",
    "TurnServer",
    "World",
]
