"""What an application allows: which candidates are offered, and to whom checks are sent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .core.rewrites import AddressRewrite, check_rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    RemoteFilter = Callable[[str], bool] | Iterable[str]

__all__ = ["AddressRewrite"]

logger = logging.getLogger(__name__)

CANDIDATE_TYPES = frozenset(("host", "srflx", "relay"))


def candidate_types_of(types: Iterable[str] | None) -> frozenset[str] | None:
    """Raises :class:`ValueError` for types that are none."""
    if types is None:
        return None
    wanted = frozenset((types,) if isinstance(types, str) else types)
    if not wanted or not wanted <= CANDIDATE_TYPES:
        raise ValueError(f"candidate_types are of host, srflx and relay, not {ascii(sorted(map(str, wanted)))[:100]}")
    return wanted


def rewrites_of(rewrites: Iterable[AddressRewrite]) -> tuple[AddressRewrite, ...]:
    """Raises :class:`ValueError` for addresses that are none."""
    return tuple(check_rewrite(rewrite) for rewrite in rewrites)


def remote_filter_of(remote_filter: RemoteFilter | None) -> Callable[[str], bool] | None:
    """A predicate from a predicate, or from the networks that are forbidden.

    :raises ValueError: for networks that are none.
    """
    if remote_filter is None:
        return None
    if callable(remote_filter):
        ask = remote_filter

        def asked(host: str) -> bool:
            try:
                return bool(ask(host))
            except Exception:
                logger.exception("The remote_filter raised; the address counts as forbidden")
                return False

        return asked
    from functools import lru_cache
    from ipaddress import IPv6Address, ip_address, ip_network

    networks = [ip_network(text) for text in ((remote_filter,) if isinstance(remote_filter, str) else remote_filter)]

    @lru_cache(256)
    def allowed(host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return not any(address in network for network in networks)

    return allowed
