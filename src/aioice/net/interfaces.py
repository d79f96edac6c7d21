"""The addresses of this host: which there are, and which of them are of use as host candidates (RFC 8445 §5.1.1.1)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    IPAddress = IPv4Address | IPv6Address

#: ``interfaces=`` of a connection: names, which may be patterns of the shell, or a function of the name.
Interfaces = Iterable[str] | Callable[[str], bool]
#: ``addresses=`` of a connection: addresses and networks, or a function of the address.
Addresses = Iterable[str] | Callable[[str], bool]

#: Linux lists its IPv6 addresses there, with flags that no portable call tells.
IF_INET6 = "/proc/net/if_inet6"

#: Of linux/if_addr.h. An optimistic address may be used although it is tentative (RFC 4429 §3.3).
_TEMPORARY = 0x01
_OPTIMISTIC = 0x04
_DAD_FAILED = 0x08
_DEPRECATED = 0x20
_TENTATIVE = 0x40

#: Places to which a route is asked for; nothing is ever sent there (RFC 5737 §3, RFC 3849 §2).
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}

#: Nobody can be reached at them: "this host", multicast, IPv4-compatible (with the unspecified one), IPv4-mapped and
#: site-local addresses.
_USELESS = [
    ip_network(text)
    for text in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/96", "::ffff:0:0/96", "fec0::/10", "ff00::/8")
]

#: Those that come after others, in the order of RFC 6724 §2.1: 6to4, Teredo and unique local addresses, and those of
#: IPv4 that reach no further than the link (§3.2).
_LATER = [ip_network(text) for text in ("2002::/16", "2001::/32", "fc00::/7", "169.254.0.0/16")]


class LocalAddress(NamedTuple):
    """An address of this host, as the system tells it."""

    #: The name of its interface, "" if that is not known.
    interface: str
    address: IPAddress
    #: Of a link-local address: the number of its link (RFC 4007 §6).
    scope: int = 0
    #: Made for privacy (RFC 8981): it will be replaced by another one soon.
    temporary: bool = False
    #: Deprecated, or not known to be unique (RFC 4862 §5.4, §5.5.4).
    unfit: bool = False
    #: As whoever lists the addresses has spelled it; "" for its usual form.
    text: str = ""

    @property
    def link_local(self) -> bool:
        """Of IPv6: an IPv4 address of this kind needs no scope and is one like others."""
        return self.address.version == 6 and self.address.is_link_local

    @property
    def rank(self) -> tuple[bool, bool, int, bool]:
        """What comes first is better (RFC 6724 §5, rules 2, 6 and 7)."""
        place = next((place for place, network in enumerate(_LATER, 1) if self.address in network), 0)
        return (self.address.is_loopback, self.link_local, place, self.address.version == 6 and not self.temporary)

    def __str__(self) -> str:
        return f"{self.address}%{self.scope}" if self.link_local and self.scope else self.text or str(self.address)


class HostFilter:
    """Which of this host's addresses may be used.

    :raises ValueError: for what names no interface, address or network at all.
    """

    __slots__ = ("_interfaces", "_addresses", "include_loopback")

    def __init__(
        self,
        interfaces: Interfaces | None = None,
        addresses: Addresses | None = None,
        include_loopback: bool = False,
    ) -> None:
        self._interfaces = None if interfaces is None else _interface_test(interfaces)
        self._addresses = None if addresses is None else _address_test(addresses)
        self.include_loopback = include_loopback

    def admits(self, local: LocalAddress) -> bool:
        if local.address.is_loopback:
            if not self.include_loopback:
                return False
        elif any(local.address in network for network in _USELESS):
            return False
        if self._interfaces is not None and not self._interfaces(local.interface):
            return False
        return self._addresses is None or self._addresses(str(local.address))

    def among(self, hosts: Iterable[str]) -> list[str]:
        """Those of ``hosts``, which somebody else has chosen, that may be used, in their order.

        Loopback addresses and the like among them are meant.
        """
        names = {str(local): local.interface for local in list_addresses()} if self._interfaces is not None else {}
        chosen = []
        for host in hosts:
            if self._interfaces is not None and not self._interfaces(names.get(host, "")):
                continue
            if self._addresses is None or self._addresses(host.partition("%")[0]):
                chosen.append(host)
        return chosen


def _interface_test(interfaces: Interfaces) -> Callable[[str], bool]:
    if callable(interfaces):
        return interfaces
    names = _texts("interfaces", interfaces)
    return lambda name: bool(name) and any(fnmatchcase(name, pattern) for pattern in names)


def _address_test(addresses: Addresses) -> Callable[[str], bool]:
    if callable(addresses):
        return addresses
    networks: list[IPv4Network | IPv6Network] = []
    for text in _texts("addresses", addresses):
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            raise ValueError(f"addresses: {text!r} is neither an IP address nor a network") from None
    return lambda host: any(ip_address(host) in network for network in networks)


def _texts(parameter: str, values: Iterable[str]) -> list[str]:
    texts = [values] if isinstance(values, str) else list(values)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{parameter}: {texts!r} names nothing, no host candidate would be left")
    return texts


EVERYTHING = HostFilter()


def host_addresses(use_ipv4: bool, use_ipv6: bool, host_filter: HostFilter = EVERYTHING) -> list[str]:
    """The addresses to gather host candidates from, the best first.

    Where the system does not let us list them, or lists none, it is asked from which address of each family it would
    send to the Internet. Such an address belongs to no interface that is known, so a filter of interfaces refuses it.
    """
    locals = list_addresses() or list_default_routes()
    return choose(locals, use_ipv4, use_ipv6, host_filter)


def choose(
    locals: Iterable[LocalAddress], use_ipv4: bool = True, use_ipv6: bool = True, host_filter: HostFilter = EVERYTHING
) -> list[str]:
    """Those of the addresses that are of use, the best first (RFC 8445 §5.1.1.1, RFC 6724 §5).

    Beside a temporary address, the others of the same interface and prefix are left out. A link-local IPv6 address,
    which needs a peer on the same link, is only taken where there is nothing better; it has its link's number as zone.
    """
    wanted = {4: use_ipv4, 6: use_ipv6}
    usable = [
        local for local in locals if wanted[local.address.version] and not local.unfit and host_filter.admits(local)
    ]
    private = {_subnet(local) for local in usable if local.temporary}
    usable = [local for local in usable if local.temporary or _subnet(local) not in private]
    if any(not (local.link_local or local.address.is_loopback) for local in usable):
        usable = [local for local in usable if not local.link_local]
    return list(dict.fromkeys(str(local) for local in sorted(usable, key=lambda local: local.rank)))


def _subnet(local: LocalAddress) -> tuple[str, int, int]:
    """An IPv6 subnet has 64 bits (RFC 4291 §2.5.4), also where an address from DHCP has been given 128."""
    return (local.interface, local.address.version, int(local.address) >> (64 if local.address.version == 6 else 0))


# -------------------------------------------------------------------------------------------------- asking the system


def adapters() -> list[Any]:
    """The interfaces as ifaddr tells them; none where that is forbidden or cannot be."""
    try:
        import ifaddr  # slow to import, and needs what not every platform has

        return list(ifaddr.get_adapters())
    except (OSError, AttributeError, ImportError):
        return []


#: A program with many connections lists the same ones again and again.
_parse = lru_cache(256)(ip_address)


def list_addresses() -> list[LocalAddress]:
    """All addresses of this host, of whatever kind, in the system's order."""
    found: list[LocalAddress] = []
    flags: dict[int, int] | None = None
    for adapter in adapters():
        name = getattr(adapter, "nice_name", "")
        name = name if isinstance(name, str) else ""
        for ip in adapter.ips:
            text, scope = (ip.ip, 0) if isinstance(ip.ip, str) else (ip.ip[0], ip.ip[2])
            with contextlib.suppress(ValueError):
                address = _parse(text.partition("%")[0])
                if address.version == 6 and flags is None:
                    flags = read_flags()
                flag = flags.get(int(address), 0) if flags and address.version == 6 else 0
                unfit = bool(flag & (_DEPRECATED | _DAD_FAILED))
                unfit = unfit or flag & (_TENTATIVE | _OPTIMISTIC) == _TENTATIVE
                found.append(LocalAddress(name, address, scope, bool(flag & _TEMPORARY), unfit, text))
    return found


def read_flags() -> dict[int, int]:
    """The flags of the host's IPv6 addresses, where the system tells them."""
    flags = {}
    # Each line: address, number of the interface, length of the prefix, scope, flags (all hexadecimal), name.
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(IF_INET6, encoding="ascii", errors="replace") as lines,
    ):
        for line in lines:
            words = line.split()
            flags[int(words[0], 16)] = int(words[4], 16)
    return flags


def list_default_routes() -> list[LocalAddress]:
    """The addresses from which the system would send to the Internet, one for each family that has a route there."""
    found = []
    for family, elsewhere in _ELSEWHERE.items():
        with contextlib.suppress(OSError, ValueError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((elsewhere, 9))  # of a datagram socket: looks the route up and sends nothing
            host, _, *scope = sock.getsockname()
            found.append(LocalAddress("", ip_address(host.partition("%")[0]), scope[1] if scope else 0))
    return found
