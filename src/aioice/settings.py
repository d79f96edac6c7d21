"""What an application asks of a connection, checked, and as the agent wants it told."""

from __future__ import annotations

import math
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .core.agent import AgentConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .net.interfaces import Addresses, HostFilter, Interfaces
    from .policy import AddressRewrite, RemoteFilter
    from .servers import IceServer

#: RFC 8839 §5.4.
_ICE_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


class TransportPolicy(Enum):
    """Which candidates are used."""

    #: All of them.
    ALL = 0
    #: Only relayed ones: no address of this machine is shown to the peer (RFC 9429 §3.5.3).
    RELAY = 1


def validate_username(value: str) -> None:
    """Raises :class:`ValueError` unless the value is 4 to 256 ice-chars (RFC 8839 §5.4)."""
    if not (4 <= len(value) <= 256 and _ICE_CHARS.issuperset(value)):
        raise ValueError("Username must satisfy 4*256ice-char")


def validate_password(value: str) -> None:
    """Raises :class:`ValueError` unless the value is 22 to 256 ice-chars (RFC 8839 §5.4)."""
    if not (22 <= len(value) <= 256 and _ICE_CHARS.issuperset(value)):
        raise ValueError("Password must satisfy 22*256ice-char")


def ports_of(port_range: tuple[int, int] | None) -> range | None:
    if port_range is None:
        return None
    try:
        low, high = port_range
        if not 1 <= low <= high <= 65535:
            raise ValueError
        return range(low, high + 1)
    except (TypeError, ValueError):
        raise ValueError(f"port_range must be two ports from 1 to 65535, the lower first, not {port_range!r}") from None


def pacing_of(ta: float, remote_ta: float) -> float:
    """RFC 8445 §14.2: the higher counts."""
    if not 0 < ta < math.inf:
        raise ValueError(f"ta must be seconds, more than 0: 0.005 if nothing speaks against it, not {ta!r}")
    _check_seconds("remote_ta", remote_ta)
    return max(ta, remote_ta)


def _check_seconds(name: str, value: float, default: str = "") -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be seconds, 0 or more and finite{default}, not {value!r}")


def check_bytes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and not 0 <= size < math.inf:
            raise ValueError(f"{name} must be a number of bytes, or None, not {size!r}")


def host_filter_of(
    interfaces: Interfaces | None, addresses: Addresses | None, include_loopback: bool
) -> HostFilter | None:
    """Which local addresses are wanted; None for all that are of use."""
    if interfaces is None and addresses is None and not include_loopback:
        return None
    from .net.interfaces import HostFilter

    return HostFilter(interfaces, addresses, include_loopback)


def agent_config(
    *,
    use_ipv4: bool,
    use_ipv6: bool,
    transport_policy: TransportPolicy,
    ice_servers: tuple[IceServer, ...],
    candidate_types: Iterable[str] | None,
    address_rewrites: Iterable[AddressRewrite],
    remote_filter: RemoteFilter | None,
    **settings: Any,
) -> AgentConfig:
    """The agent's view of a connection's parameters; what is seldom used is imported when it is."""
    if not 1 <= settings["components"] <= 256:
        raise ValueError("A stream has 1 to 256 components (RFC 8839 §5.1)")
    if not settings["max_pairs"] >= 1:
        raise ValueError(f"max_pairs must be 1 or more, 100 by default, not {settings['max_pairs']!r}")
    _check_seconds("nomination_patience", settings["direct_patience"])
    _check_seconds("relay_patience", settings["relay_patience"])
    if settings["patience"] is not None:
        _check_seconds("patience", settings["patience"], ", or None")
    if ice_servers:
        from .servers import servers_of

        settings["servers"] = servers_of(ice_servers)
    if candidate_types is not None or address_rewrites or remote_filter is not None:
        from .policy import candidate_types_of, remote_filter_of, rewrites_of

        settings["candidate_types"] = candidate_types_of(candidate_types)
        settings["address_rewrites"] = rewrites_of(address_rewrites)
        settings["remote_filter"] = remote_filter_of(remote_filter)
    if not (use_ipv4 and use_ipv6):
        settings["relay_families"] = (4,) * use_ipv4 + (6,) * use_ipv6
    settings["relay_only"] = transport_policy is TransportPolicy.RELAY
    return AgentConfig(**settings) if settings.keys() - _PLAIN else _shared_config(**settings)


#: Settings that are numbers, as most connections have no others.
_PLAIN = frozenset(
    ("controlling", "components", "lite", "ta", "max_pairs", "direct_patience", "relay_patience", "patience")
) | {"relay_only", "relay_families"}


@lru_cache(16, typed=True)
def _shared_config(**settings: Any) -> AgentConfig:
    """One for all connections that are told the same."""
    return AgentConfig(**settings)
