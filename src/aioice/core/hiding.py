"""Candidates that hide their address behind an mDNS name (draft-ietf-mmusic-mdns-ice-candidates §3.1).

Inside, a base and its candidate keep the real address: sockets and checks need it. What is told outside is
``base.shown``, and everything that stands on a hidden base names no address but the one that a server or a peer saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .candidate import Candidate
    from .checklist import Base
    from .inquiries import ServerReport
    from .machine import Address


def hidden(candidate: Candidate, name: str) -> Candidate:
    """A host candidate as it is shown, under ``name``.

    Its foundation has to come from the name as well: one that comes from an address gives it away to whoever tries all.
    """
    shown = candidate.copy()
    shown.host = name
    return shown


def is_hidden(base: Base) -> bool:
    return base.shown is not base.candidate


def related_address(base: Base) -> Address:
    """The related address of what is reflected from the base: of a hidden one, none (RFC 8839 §5.1)."""
    candidate = base.candidate
    return no_address(candidate.host) if is_hidden(base) else (candidate.host, candidate.port)


def shown_report(report: ServerReport, names: Mapping[str, str]) -> ServerReport:
    """A server's report that names no address of ours: a stream to a TURN server has one that nobody has chosen."""
    local = report.local
    if local is None or local[0] in names.values():
        return report
    return report._replace(local=(names[local[0]], local[1]) if local[0] in names else no_address(local[0]))


def no_address(host: str) -> Address:
    """In place of an address of this family that is not to be told (RFC 8839 §5.1)."""
    return ("::" if ":" in host else "0.0.0.0", 9)
