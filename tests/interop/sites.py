"""Where a peer may live: each kind of site is a host with all that stands between it and the public network.

The NATs are Linux's own, told by nftables what RFC 4787 calls mapping and filtering:

* Linux keeps the source port (mapping does not depend on the endpoint) and lets in what answers (filtering by address
  and port); strangers are dropped before they make an entry that would cost a later packet its port.
* ``fully-random`` gives each new destination another port.
* What wider filtering lets in is in a set that outgoing packets fill: by port, or by address and port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.interop.netns import Namespace, Wires

SERVER, SERVER_6, PORT = "192.0.2.1", "2001:db8::1", 3478
LAN, HOME = "192.168.1", "100.64.0"
#: RFC 4787 §4.1 and §5, from the most open to the most closed.
ENDPOINT_INDEPENDENT, ADDRESS_DEPENDENT, ADDRESS_AND_PORT_DEPENDENT = range(3)


class Kind(NamedTuple):
    name: str
    build: Callable[[Builder], Namespace]
    mapping: int = ENDPOINT_INDEPENDENT
    filtering: int = ADDRESS_AND_PORT_DEPENDENT
    families: tuple[int, ...] = (4,)
    udp: bool = True

    def options(self) -> dict[str, Any]:
        """What its connections are told of the servers."""
        server = (SERVER if 4 in self.families else SERVER_6, PORT)
        transport = "udp" if self.udp else "tcp"
        return {"stun_server": server, "turn_server": server, "turn_transport": transport}

    def reaches(self, other: Kind) -> bool:
        """Whether a path without a relay exists (RFC 4787, and the table of RFC 5128 §3.4)."""
        if not (self.udp and other.udp):
            return False
        if 6 in self.families and 6 in other.families:
            return True
        if not (4 in self.families and 4 in other.families):
            return False
        # A port that the other side cannot know must be let in.
        return self._knows(other) and other._knows(self)

    def _knows(self, other: Kind) -> bool:
        return other.mapping == ENDPOINT_INDEPENDENT or (
            self.filtering < ADDRESS_AND_PORT_DEPENDENT and self.mapping == ENDPOINT_INDEPENDENT
        )


class Builder:
    """Builds one site at the end of a cable that delays by ``delay`` seconds each way."""

    def __init__(self, public: Namespace, wires: Wires, number: int, side: str, delay: float) -> None:
        self.public = public
        self.address = f"{'198.51.100' if side == 'a' else '203.0.113'}.{number}"
        self.prefix = f"2001:db8:{side}:{number}"
        self.namespaces: list[Namespace] = []
        # Two homes have the same network more often than not.
        self.host_address = f"{LAN}.{2 if side == 'a' else 3}"
        self._wires = wires
        self._delay = delay
        self._plug = f"{side}{number}"

    def namespace(self, router: bool = True) -> Namespace:
        made = Namespace()
        self.namespaces.append(made)
        if router:
            made.forward()
        return made

    def upstream(self, namespace: Namespace) -> None:
        """The namespace has the site's public addresses."""
        self._wires.connect(self._delay, (namespace, "wan"), (self.public, self._plug))
        namespace.ip(
            "link set wan up",
            f"addr add {self.address}/32 dev wan",
            "route add 0.0.0.0/0 dev wan",
            "route add ::/0 dev wan",
        )
        self.public.ip(
            f"link set {self._plug} up",
            f"route add {self.address}/32 dev {self._plug}",
            f"route add {self.prefix}::/64 dev {self._plug}",
        )

    def below(self, above: Namespace, address: str, gateway: str, device: str, router: bool = False) -> Namespace:
        """A namespace behind the router ``above``, as ``device`` calls the cable."""
        made = self.namespace(router)
        length = "64 nodad" if ":" in address else "24"
        above.ip(
            f"link add lan type veth peer name {device} netns {made.path}",
            f"addr add {gateway}/{length} dev lan",
            "link set lan up",
            peers=(made,),
        )
        made.ip(
            f"addr add {address}/{length} dev {device}",
            f"link set {device} up",
            f"route add default via {gateway}",
        )
        return made

    def behind(self, rules: str) -> Namespace:
        """A host behind one router that has these rules."""
        router = self.namespace()
        self.upstream(router)
        router.rules(rules)
        return self.below(router, self.host_address, f"{LAN}.1", "eth0")

    def hole(self, namespace: Namespace, device: str, address: str) -> None:
        """An interface that looks well and loses all packets."""
        self._wires.connect(0, (namespace, device))
        namespace.ip(f"addr add {address}/24 dev {device}", f"link set {device} up")


def nat(masquerade: str = "masquerade", admit: str = "", learn: str = "", forward: str = "") -> str:
    """A router's rules: which port packets leave from, who is admitted and what is learnt for that; what passes."""
    return f"""
        table ip nat {{
            set ports {{ type inet_service; flags dynamic,timeout; timeout 5m; }}
            set friends {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; }}
            chain pre {{ type nat hook prerouting priority dstnat; {admit} }}
            chain post {{ type nat hook postrouting priority srcnat; oifname "wan" {masquerade}; }}
            chain learn {{ type filter hook forward priority filter - 1; {learn} }}
        }}
        {firewall(forward)}"""


def firewall(forward: str = "") -> str:
    """Nothing comes in that was not asked for or admitted by name."""
    return f"""
        table inet firewall {{
            chain in {{ type filter hook input priority filter; iifname "wan" ct state new drop; }}
            chain pass {{
                type filter hook forward priority filter;
                {forward}
                iifname "wan" ct state new ct status dnat accept;
                iifname "wan" ct state new drop;
            }}
        }}"""


def cone(inside: str) -> str:
    return nat(
        admit=f'iifname "wan" udp dport @ports dnat to {inside};',
        learn='oifname "wan" meta l4proto udp update @ports { udp sport };',
    )


def restricted(inside: str) -> str:
    return nat(
        admit=f'iifname "wan" ip saddr . udp dport @friends dnat to {inside};',
        learn='oifname "wan" meta l4proto udp update @friends { ip daddr . udp sport };',
    )


# ---------------------------------------------------------------------------------------------------- kinds of sites


def _open(site: Builder) -> Namespace:
    host = site.namespace(router=False)
    site.upstream(host)
    return host


def _carrier_grade(site: Builder) -> Namespace:
    """A home's router behind the carrier's, which lets in whatever its port is opened for (RFC 6888 §3)."""
    carrier = site.namespace()
    site.upstream(carrier)
    carrier.rules(cone(f"{HOME}.2"))
    home = site.below(carrier, f"{HOME}.2", f"{HOME}.1", "wan", router=True)
    home.rules(nat())
    return site.below(home, site.host_address, f"{LAN}.1", "eth0")


def _dead_vpn(site: Builder) -> Namespace:
    """What has the address of a tunnel that is down does not pass the router (RFC 2827)."""
    host = site.behind(nat(forward=f'iifname "lan" ip saddr != {LAN}.0/24 drop;'))
    site.hole(host, "vpn0", "10.8.0.2")
    return host


def _six(site: Builder) -> Namespace:
    """No NAT, and a firewall as RFC 6092 wants it."""
    router = site.namespace()
    site.upstream(router)
    router.rules(firewall())
    return site.below(router, f"{site.prefix}::2", f"{site.prefix}::1", "eth0")


def _dual_stack(site: Builder) -> Namespace:
    host = site.behind(nat())
    router = site.namespaces[0]
    router.ip(f"addr add {site.prefix}::1/64 dev lan nodad")
    host.ip(f"addr add {site.prefix}::2/64 dev eth0 nodad", f"route add ::/0 via {site.prefix}::1")
    return host


KINDS = [
    Kind("open", _open, filtering=ENDPOINT_INDEPENDENT),
    Kind("cone", lambda site: site.behind(cone(site.host_address)), filtering=ENDPOINT_INDEPENDENT),
    Kind("restricted", lambda site: site.behind(restricted(site.host_address)), filtering=ADDRESS_DEPENDENT),
    Kind("port-restricted", lambda site: site.behind(nat())),
    Kind("symmetric", lambda site: site.behind(nat("masquerade fully-random")), mapping=ADDRESS_AND_PORT_DEPENDENT),
    Kind("carrier-grade", _carrier_grade),
    Kind("dead-vpn", _dead_vpn),
    Kind("no-udp", lambda site: site.behind(nat(forward="meta l4proto udp drop;")), udp=False),
    Kind("ipv6-only", _six, families=(6,)),
]
DUAL = Kind("dual-stack", _dual_stack, families=(4, 6))
