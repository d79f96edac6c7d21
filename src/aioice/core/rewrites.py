"""Addresses that a NAT translates one to one: what the peer is told in place of, or beside, those of the interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .address import canonical_host, parse_host
from .record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence


class AddressRewrite(Record):
    """``external`` is what the world sees of the local addresses that this is for: all of its family by default.

    The port is that of the local socket: this is for NATs and load balancers that translate the address alone.
    """

    #: IP address.
    external: str
    #: For this address only, or the addresses of this network (``10.0.0.0/8``).
    local: str | None = None
    #: For the addresses of the interface of this name only.
    interface: str | None = None
    #: False: the host candidate has the external address instead of its own. True: both are offered, the external one
    #: as a server-reflexive candidate.
    add: bool = False


def check_rewrite(rewrite: AddressRewrite) -> AddressRewrite:
    """The rewrite with its addresses in canonical form; raises :class:`ValueError` where they are none."""
    try:
        external = canonical_host(rewrite.external)
        local = rewrite.local
        if local is not None:
            host, slash, bits = local.partition("/")
            local = canonical_host(host) + slash + bits
            if slash and not (bits.isascii() and bits.isdigit() and int(bits) <= (128 if ":" in host else 32)):
                raise ValueError
            if (":" in host) != (":" in external):
                raise ValueError
    except ValueError:
        raise ValueError(f"an address rewrite needs addresses of one family: {ascii(rewrite)[:200]}") from None
    return rewrite._replace(external=external, local=local)


def rewritten(rewrites: Sequence[AddressRewrite], host: str, interface: str | None) -> tuple[str | None, list[str]]:
    """What stands for a local address, None if that is itself, and what is offered beside it; the first rule of each
    kind that names the address, then its network or interface, then all.
    """
    fitting = [rewrite for rewrite in rewrites if _fits(rewrite, host, interface)]
    if not fitting:
        return None, []
    fitting.sort(key=lambda rewrite: (rewrite.local is None) + (rewrite.interface is None) + (rewrite.local != host))
    replacement = next((rewrite.external for rewrite in fitting if not rewrite.add), None)
    return replacement, list(dict.fromkeys(rewrite.external for rewrite in fitting if rewrite.add))


def _fits(rewrite: AddressRewrite, host: str, interface: str | None) -> bool:
    if (":" in rewrite.external) != (":" in host):
        return False
    if rewrite.interface is not None and rewrite.interface != interface:
        return False
    if rewrite.local is None:
        return True
    network, slash, bits = rewrite.local.partition("/")
    if not slash:
        return network == host
    shift = (128 if ":" in host else 32) - int(bits)
    return parse_host(network)[1] >> shift == parse_host(host)[1] >> shift
