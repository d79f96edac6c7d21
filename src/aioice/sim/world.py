"""The simulated internet: everything in it, and the clock it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

from .clock import Clock
from .gateways import Firewall, Router
from .hosts import Host
from .links import Attached, Conditions
from .names import Names
from .nat import Nat
from .network import Network
from .node import Node
from .stun import StunServer
from .turn import TurnServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, Unpack

    from ..core.machine import Address, Machine
    from .gateways import FirewallOptions
    from .links import Packet, PathOptions
    from .loop import Loop
    from .nat import NatOptions

T = TypeVar("T")


class Drop:
    """A hook that swallows datagrams; see :meth:`World.drop`."""

    def __init__(self, predicate: Callable[[Packet], bool], count: int | None) -> None:
        self._predicate = predicate
        self._left = count
        #: What it has swallowed.
        self.packets: list[Packet] = []

    def takes(self, packet: Packet) -> bool:
        """Whether this packet is swallowed."""
        if self._left == 0 or not self._predicate(packet):
            return False
        if self._left is not None:
            self._left -= 1
        self.packets.append(packet)
        return True

    def cancel(self) -> None:
        """Swallow no more."""
        self._left = 0


class World(Clock):
    """A virtual clock, the public network, and everything in it.

    :param seed: decides about all chance: loss, jitter, ports and random bytes. The same seed and the same doings give
        the same run, byte for byte.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.public = Network(self, Conditions())
        #: What DNS knows.
        self.names = Names()
        self.nodes: list[Node] = []
        #: Addresses of servers that speak ChannelData.
        self.turn_addresses: set[Address] = set()
        self.overrides: dict[tuple[Attached, Attached], PathOptions] = {}
        #: The event loop that runs now.
        self.loop: Loop | None = None
        self._drops: list[Drop] = []

    # --------------------------------------------------------------------------------------------------- what is in it

    def network(self, **conditions: Unpack[PathOptions]) -> Network:
        """Set the conditions between any two hosts of the public network (:class:`Conditions`)."""
        self.public.conditions = Conditions(**conditions)
        return self.public

    def host(self, *addresses: str, refuses: bool = False, name: str = "") -> Host:
        """A host on the public network, with addresses of either family.

        :param refuses: whether it answers datagrams to closed ports by ICMP "port unreachable".
        :param name: what it is called in messages.
        """
        return Host(self, self.public, addresses, refuses, name)

    def nat(self, address: str, *, outside: Network | None = None, **options: Unpack[NatOptions]) -> Nat:
        """A NAT with this external address, on the public network if no other is given."""
        return Nat(self, outside or self.public, address, **options)

    def router(self) -> Router:
        """A LAN on the public network, whose hosts have public addresses; its hosts hear each other's multicast."""
        return Router(self, self.public)

    def firewall(self, **options: Unpack[FirewallOptions]) -> Firewall:
        """A LAN on the public network behind a firewall."""
        return Firewall(self, self.public, **options)

    def stun_server(self, address: str, port: int = 3478) -> StunServer:
        """A STUN server over UDP and TCP on a public address."""
        return StunServer(self._server_host(address), address, port)

    def turn_server(
        self,
        address: str,
        port: int = 3478,
        *,
        username: str,
        password: str,
        relay: str | tuple[str, ...] = (),
        tls_port: int = 5349,
        certificate: str = "*",
    ) -> TurnServer:
        """A TURN server over UDP and TCP on ``port``, over TLS on ``tls_port``; its relays are on ``relay``."""
        relays = (relay,) if isinstance(relay, str) else relay or (address,)
        host = self._server_host(address, *relays)
        self.turn_addresses.add((address, port))
        return TurnServer(host, address, port, {username: password}, relays, tls_port, certificate)

    def _server_host(self, *addresses: str) -> Host:
        known = self.public.attached.get(addresses[0])
        host = known if isinstance(known, Host) else self.host(addresses[0])
        for address in addresses:
            if address not in host.addresses:
                host.add_address(address)
        return host

    # ------------------------------------------------------------------------------------------ what happens to packets

    def path(self, a: Attached, b: Attached, *, both: bool = True, **changes: Unpack[PathOptions]) -> None:
        """Other conditions between two hosts (or the gateways before them), both ways unless told otherwise.

        What is not named stays as the network has it. A further call for the same two replaces this one.
        """
        for way in ((a, b), (b, a)) if both else ((a, b),):
            self.overrides[way] = changes

    def drop(self, predicate: Callable[[Packet], bool], count: int | None = None) -> Drop:
        """Swallow the datagrams for which ``predicate`` holds: all, or the first ``count``."""
        self._drops.append(Drop(predicate, count))
        return self._drops[-1]

    def dropped(self, packet: Packet) -> bool:
        """Whether a hook swallows this packet."""
        return any(drop.takes(packet) for drop in self._drops)

    def describe(self, last: int = 20) -> str:
        """What became of the packets, and the last of them, as lines of text."""
        from .log import describe

        return describe(self.packets, last)

    # ------------------------------------------------------------------------------------------------- what runs in it

    def run_machine(self, host: Host, machine: Machine) -> Node:
        """Run a machine of :mod:`aioice.core` on a host."""
        self.nodes.append(Node(self, host, machine))
        return self.nodes[-1]

    @overload
    def run(self, *, until: float) -> None: ...
    @overload
    def run(self, main: Coroutine[Any, Any, T], *, host: Host | None = None, timeout: float | None = None) -> T: ...
    def run(
        self,
        main: Coroutine[Any, Any, Any] | None = None,
        *,
        until: float | None = None,
        host: Host | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Let time pass: up to the time ``until``, or until the coroutine ``main`` has ended.

        The coroutine runs in an event loop of its own on this world's clock (:class:`Loop`); what it returns or raises
        is returned or raised here. Tasks that are left are cancelled, and sockets closed, as :func:`asyncio.run` does.

        :param host: where ``main`` runs; without one, it says where by ``with host:`` and ``host.create_task()``.
        :param timeout: seconds of virtual time after which it is given up; without one, agents that are connected and
            never closed keep it running for ever.
        :raises Deadlock: when nothing will ever happen any more, and ``main`` still waits; says what for.
        :raises TimeoutError: after ``timeout``; says what was waited for.
        :raises RuntimeError: within a running event loop; there, await :func:`asyncio.sleep` to let time pass.
        """
        if self.loop is not None:
            if main is not None:
                main.close()
            raise RuntimeError("this world runs already: within a coroutine, time passes by 'await asyncio.sleep()'")
        if main is None:
            assert until is not None, "either a coroutine or a time"
            self.advance(until)
            return None
        from .loop import run

        return run(self, main, host, timeout)
