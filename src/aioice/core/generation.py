"""All that a restart renews: credentials, remote candidates, check list and selection (RFC 8445 §9)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .checklist import UNANSWERED, CheckList
from .message import Message
from .record import NOTHING, Record
from .selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .candidate import Candidate
    from .checklist import Base, Pair
    from .machine import Address

#: Checks kept until the remote credentials are known; as many as pairs (RFC 8445 §6.1.2.5), the oldest goes first.
MAX_EARLY_CHECKS = 100
#: Kinds of faults remembered; the error codes of strangers make more.
MAX_BLAMED = 16
#: Remote candidates kept that were signalled.
MAX_REMOTE_CANDIDATES = 256
#: Remote candidates kept that were only seen: half of the check list, the other half is for those that were signalled.
MAX_PEER_REFLEXIVE = 50


class EarlyCheck(Record):
    """An authenticated check that came before the remote credentials."""

    base: Base
    peer: Address
    message: Message


class Generation:
    """One generation of a session."""

    __slots__ = (
        "components",
        "checks",
        "selection",
        "remote_candidates",
        "remote_end",
        "resolving",
        "early",
        "heard",
        "misdirected",
        "remote_is_lite",
        "checking",
        "interrupted",
        "patience_ends",
        "patience_over",
        "remote_username",
        "local_username",
        "local_password",
        "_remote_password",
        "blamed",
        "checking_since",
        "connected_at",
        "last_remote_at",
    )

    def __init__(
        self, local_username: str, local_password: str, components: int, checks: CheckList, selection: Selection
    ) -> None:
        self.components = tuple(range(1, components + 1))
        self.checks = checks
        self.selection = selection
        self.remote_candidates: list[Candidate] = []
        #: The peer has signalled its end-of-candidates (RFC 8838 §14).
        self.remote_end = False
        #: Names of remote candidates that are being looked up, by query.
        self.resolving: Mapping[int, Candidate] = NOTHING
        self.early: tuple[EarlyCheck, ...] = ()
        #: Components for which the peer has sent a check: it has our credentials and runs checks of its own.
        self.heard: tuple[int, ...] = ()
        #: Checks came from a paired address with credentials that are not ours: it is no peer of this session.
        self.misdirected = False
        #: The peer is an ICE-lite agent, which sends none.
        self.remote_is_lite = False
        #: ``connect`` was called: checks run.
        self.checking = False
        #: A pair was in use and is lost; if no other can be found, the connection is.
        self.interrupted = False
        #: Failure is not declared before (RFC 8863 §4).
        self.patience_ends = 0.0
        self.patience_over = False
        self.remote_username: str | None = None
        #: What was wrong with the credentials in messages on paired addresses, and how often.
        self.blamed: dict[str, int] | None = None
        #: When the checks began, when every component had a pair for the first time, and when the last remote
        #: candidate was signalled.
        self.checking_since: float | None = None
        self.connected_at: float | None = None
        self.last_remote_at: float | None = None
        self.set_local_credentials(local_username, local_password)

    def set_local_credentials(self, username: str, password: str) -> None:
        self.local_username = username
        self.local_password = password

    def set_remote_credentials(self, username: str, password: str) -> None:
        self.remote_username = username
        self._remote_password = password

    @property
    def local_key(self) -> bytes:
        return self.local_password.encode()

    @property
    def remote_key(self) -> bytes:
        return self._remote_password.encode()

    @property
    def username(self) -> bytes:
        """USERNAME of our checks (RFC 8445 §7.2.2)."""
        return f"{self.remote_username}:{self.local_username}".encode()

    def blame(self, what: str) -> None:
        if self.blamed is None:
            self.blamed = {}
        if what in self.blamed or len(self.blamed) < MAX_BLAMED:
            self.blamed[what] = self.blamed.get(what, 0) + 1

    def keep_early(self, check: EarlyCheck) -> None:
        """Keep a check until :attr:`checking`; of too many, the oldest goes."""
        self.early = (*self.early, check)[-MAX_EARLY_CHECKS:]

    def drop_foreign(self) -> int:
        """Now that the peer's ufrag is known: forget the candidates that name another; returns how many."""
        foreign = [c for c in self.remote_candidates if c.ufrag not in (None, self.remote_username)]
        for candidate in foreign:
            self.remote_candidates.remove(candidate)
        for pair in [pair for pair in self.checks.pairs if pair.remote in foreign]:
            self.checks.remove(pair)
        self.resolving = {query: c for query, c in self.resolving.items() if c not in foreign} or NOTHING
        return len(foreign)

    def has_room(self, kind: str) -> bool:
        """Whether one more remote candidate of this type may be kept."""
        seen = sum(candidate.type == "prflx" for candidate in self.remote_candidates)
        if kind == "prflx":
            return seen < MAX_PEER_REFLEXIVE
        return len(self.remote_candidates) - seen < MAX_REMOTE_CANDIDATES

    def find_remote(self, component: int, peer: Address, but: Candidate | None = None) -> Candidate | None:
        """The UDP candidate of this component at this address; components may share one (RFC 8445 §7.3.1.3)."""
        for candidate in self.remote_candidates:
            if candidate.component == component and candidate.port == peer[1] and candidate.address == peer[0]:
                if candidate is not but and candidate.transport.lower() == "udp":
                    return candidate
        return None

    def replace_remote(self, old: Candidate, new: Candidate) -> None:
        """The peer-reflexive candidate ``old`` is now signalled as ``new`` (RFC 8838 §11)."""
        if new in self.remote_candidates:
            self.remote_candidates.remove(old)
        else:
            self.remote_candidates[self.remote_candidates.index(old)] = new
        for pair in [pair for pair in self.checks.pairs if pair.remote is old]:
            pair.remote = new
            self.checks.remote_changed(pair)

    @property
    def connected(self) -> bool:
        """Every component has a valid pair, and the peer is there to use it: agents answer checks before they know
        whom they talk to.
        """
        silent = self.remote_is_lite or (self.patience_over and not self.misdirected)
        for component in self.components:
            pair = self.selection.pair_of(component)
            if pair is None or not (pair.nominated or component in self.heard or silent):
                return False
        return True

    @property
    def complete(self) -> bool:
        """Every component has a nominated pair."""
        for component in self.components:
            pair = self.selection.pair_of(component)
            if pair is None or not pair.nominated:
                return False
        return True

    def prune_components(self) -> None:
        """After the end mark: what the peer has no candidate for, it does not use, unless it has signalled none at all
        (RFC 8863 §4).
        """
        named = {candidate.component for candidate in self.remote_candidates}
        offered = tuple(component for component in self.components if component in named)
        signalled = any(c.type != "prflx" and c.component in offered for c in self.remote_candidates)
        if self.remote_end and not self.resolving and signalled:
            self.components = offered

    @property
    def hopeless(self) -> str:
        """Why some component will get no valid pair from the pairs that there are, or none of this peer; empty while
        each may.
        """
        for component in self.components:
            if self.selection.pair_of(component) is None:
                pairs = self.checks.of_component(component)
                if not any(pair.state in UNANSWERED for pair in pairs):
                    return self._why(component, pairs)
            elif self.misdirected and component not in self.heard and self.connected_at is None:
                return "the peer answers, but its checks are not for this session"
        return ""

    def _why(self, component: int, pairs: list[Pair]) -> str:
        if not self.remote_candidates:
            return "the peer gave no candidates and sent no checks"
        if not pairs:
            return f"no remote candidate can be paired with a local one for component {component}"
        reasons = Counter(pair.why_failed for pair in pairs).most_common()
        told = ", ".join(f"{number} × {reason}" for reason, number in reasons)
        return f"all {len(pairs)} pairs of component {component} failed: {told}"
