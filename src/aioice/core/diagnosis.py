"""Why did ICE fail, or why was it slow? Named causes, from what an agent knows at the end (``docs/diagnosis.md``)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .candidate import is_mdns_hostname
from .checklist import PairState
from .events import ConnectionState
from .record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .agent import Agent
    from .candidate import Candidate
    from .checklist import Pair

#: Seconds by which the loop may be late before it is worth a word: RFC 8445 §14.3's least RTO is 0.5.
STALL = 0.25
#: A connection within so many seconds is not slow: a lost check costs 0.5.
SLOW = 0.45
#: Round trips from here on explain that themselves.
FAR = 0.3
#: Retransmissions after which a check counts as unanswered, though it still runs.
UNANSWERED = 2
#: Datagrams of strangers that are worth a word; a few are left over from every earlier use of a port.
STRANGERS = 10

#: How each :class:`aioice.core.inquiries.ServerVerdict` is told: code, what it did, what to do about it.
_VERDICTS = {
    "timed out": (
        "server-silent",
        "does not answer",
        "check its address and port, and whether a firewall lets this protocol out",
    ),
    "refused": ("server-refused", "refuses", "look the error code up in the server's log"),
    "wrong credentials": (
        "server-credentials",
        "does not accept the credentials",
        "check the user name and the password, and whether they have expired",
    ),
    "no credentials": ("server-credentials", "has no credentials", "have the callback return a name and a password"),
    "unreachable": (
        "server-unreachable",
        "cannot be reached",
        "check its address and port: nobody listens there, or there is no way there",
    ),
    "name not found": ("server-name", "has a name that is not known", "check the spelling, and the resolver"),
    "TLS failed": (
        "server-tls",
        "fails the TLS handshake",
        "check the certificate and the name in it, and that the port speaks TLS",
    ),
    "not a STUN server": ("server-not-stun", "is not a STUN or TURN server", "check the port"),
    "not supported": ("server-not-supported", "is of a kind that is not spoken here", "use turn: over UDP, TCP or TLS"),
    "failed": ("server-failed", "failed", "see the detail"),
}


class Finding(Record):
    """One cause, for people and programs."""

    #: A stable name.
    code: str
    #: From 100 (this alone explains it) down to 1.
    weight: int
    #: One sentence, without a full stop.
    cause: str
    evidence: tuple[str, ...]
    #: What to do.
    advice: str

    def as_dict(self) -> dict[str, Any]:
        return {**dict(zip(self._fields, self, strict=True)), "evidence": list(self.evidence)}

    def __str__(self) -> str:
        return "\n".join([f"{self.cause[:1].upper()}{self.cause[1:]}.", *self.evidence, f"To do: {self.advice}."])


def examine(
    agent: Agent, *, reason: str = "", stall: float = 0.0, dropped: Mapping[str, int] | None = None
) -> list[Finding]:
    """The findings, the weightiest first; none for a healthy session.

    ``reason`` is that of the last change of state, ``stall`` by how many seconds the loop was late at worst,
    ``dropped`` what was dropped before the agent got it.
    """
    findings = list(_Examination(agent, reason, stall, dropped or {}).findings())
    return sorted(findings, key=lambda finding: -finding.weight)


class _Examination:
    def __init__(self, agent: Agent, reason: str, stall: float, dropped: Mapping[str, int]) -> None:
        self.agent = agent
        self.generation = agent.generation
        self.reason = reason
        self.stall = stall
        self.dropped = dropped
        self.pairs: list[Pair] = agent.check_list
        self.local = agent.local_candidates
        self.remote = agent.remote_candidates
        self.connected = self.generation.connected_at is not None
        #: The session has found no pair, or not yet.
        self.stuck = not self.connected and agent.state in (
            ConnectionState.CHECKING,
            ConnectionState.FAILED,
            ConnectionState.CLOSED,
        )
        self.ended = agent.state in (ConnectionState.FAILED, ConnectionState.CLOSED)
        #: It has given up; it may have been closed since.
        self.failed = self.ended and self.generation.checking_since is not None and not self.generation.checking

    def findings(self) -> Iterator[Finding]:
        if self.stuck:
            yield from self._candidates()
            yield from self._credentials()
            yield from self._paths()
        else:
            yield from self._consent()
            yield from self._waits()
            yield from self._slow()
        yield from self._relay_refuses()
        yield from self._servers()
        yield from self._strangers()
        yield from self._stalls()

    # ------------------------------------------------------------------------------------------------------ candidates

    def _candidates(self) -> Iterator[Finding]:
        failed = self.failed
        if failed and not self.local:
            relay = " but those of a relay were allowed" if self.agent.config.relay_only else ""
            yield Finding(
                "no-local-candidates",
                100,
                "no local candidates",
                (f"no interface and no server gave a candidate{relay}",),
                "check that this machine has an address, use_ipv4 and use_ipv6, and the TURN server if only relays may "
                "be used",
            )
        signalled = [candidate for candidate in self.remote if candidate.type != "prflx"]
        names = [candidate for candidate in signalled if is_mdns_hostname(candidate.address)]
        if failed and not self.remote:
            yield Finding(
                "no-remote-candidates",
                95,
                "the peer gave no candidates and sent no checks",
                (_number(len(self.remote), "remote candidate"),),
                "hand the peer's candidates to add_remote_candidate(), and look at the signalling",
            )
        elif (
            names
            and len(names) == len(signalled)
            and self.generation.checking_since is not None
            and (failed or not self.generation.resolving)
        ):
            yield Finding(
                "remote-names",
                94,
                "the peer gave only mDNS names, and they cannot be resolved",
                (", ".join(_shown(candidate.host) for candidate in names[:4]),),
                "names in .local are resolved on the same network only: configure a STUN server for the peer, or TURN",
            )
        elif failed and signalled and self.local and not self.pairs:
            yield Finding(
                "no-common-kind",
                93,
                "no remote candidate can be paired with a local one",
                (f"local: {_kinds(self.local)}", f"remote: {_kinds(self.remote)}"),
                "the peers need addresses of one family (IPv4 or IPv6) over UDP, or a relay that has them",
            )

    # ----------------------------------------------------------------------------------------------------- credentials

    def _credentials(self) -> Iterator[Finding]:
        blamed = self.generation.blamed or {}
        refusals = {code: blamed.get(code, 0) for code in ("error 401", "error 400", "error 430", "answer")}
        if any(refusals.values()) and not self._answered:
            shown = ", ".join(f"{number} × {code}" for code, number in refusals.items() if number)
            yield Finding(
                "remote-credentials",
                92,
                "the peer does not accept our credentials: remote_username or remote_password is not its own",
                (f"answers to our checks: {shown}",),
                "signal the user name and password of both peers anew; after a restart both change",
            )
        if blamed.get("password"):
            yield Finding(
                "local-password",
                91,
                "the peer signs its checks with another password than our local one",
                (f"{_number(blamed['password'], 'check')} with our user name and a wrong signature",),
                "signal local_password to the peer as it is now; after a restart it changes",
            )
        if blamed.get("username"):
            yield Finding(
                "local-username",
                91,
                "the peer's checks name another session: the user name in them is not ours",
                (f"{_number(blamed['username'], 'check')} with a USERNAME that is not of this session",),
                "signal local_username to the peer as it is now, and look whether it talks to an earlier session",
            )
        if any(pair.why_failed.startswith("role conflict") for pair in self.pairs):
            yield Finding(
                "role-conflict",
                90,
                "the role conflict does not end: the peer insists on the role that we have",
                (f"we are {'controlling' if self.agent.controlling else 'controlled'}",),
                "make one peer controlling and the other controlled; a peer that answers 487 without end is broken",
            )

    # ----------------------------------------------------------------------------------------------------------- paths

    @property
    def _answered(self) -> bool:
        return any(pair.responses_received for pair in self.pairs)

    def _paths(self) -> Iterator[Finding]:
        """Checks left, and nothing came of them."""
        silent = [pair for pair in self.pairs if _unanswered(pair)]
        closed = [pair for pair in self.pairs if pair.why_failed in ("connection refused", "unreachable")]
        if closed and len(closed) == len([pair for pair in self.pairs if pair.state is PairState.FAILED]):
            yield Finding(
                "peer-unreachable",
                75,
                "the peer's addresses cannot be reached",
                tuple(f"{_pair(pair)}: {pair.why_failed}" for pair in closed[:4]),
                "the peer's sockets are closed (has it ended?), or there is no route to it: a TURN server may help",
            )
        if not silent or self._answered or self.generation.blamed:
            return
        sent = sum(pair.requests_sent + pair.retransmissions for pair in silent)
        heard = sum(pair.requests_received for pair in self.pairs)
        if heard:
            yield Finding(
                "one-way",
                80,
                "the peer's checks arrive, but what we send is not answered: something lets one direction only pass",
                (f"{_number(heard, 'check')} of the peer came", f"{_number(sent, 'check')} of ours got no answer"),
                "look for a firewall that drops UDP on the way to the peer, or the answers on the way back",
            )
        if self._needs_relay:
            yield Finding(
                "no-path",
                82,
                "both peers are behind NATs or firewalls that let nothing in, and there is no relay",
                (
                    f"local: {_kinds(self.local)}; remote: {_kinds(self.remote)}",
                    f"{_number(sent, 'check')} on {_number(len(silent), 'pair')} got no answer",
                    f"{_number(heard, 'check')} of the peer came",
                ),
                "configure a TURN server for at least one of the peers",
            )
        elif not heard:
            yield Finding(
                "peer-silent",
                70,
                "the peer never sent a check and answered none",
                (f"{_number(sent, 'check')} on {_number(len(silent), 'pair')} got no answer",),
                "check that the peer has called connect() with our candidates, and that a firewall lets UDP pass",
            )

    @property
    def _needs_relay(self) -> bool:
        """Somebody is behind a NAT, and nobody has a relay."""
        kinds = {candidate.type for candidate in (*self.local, *self.remote)}
        return "relay" not in kinds and "srflx" in kinds

    def _relay_refuses(self) -> Iterator[Finding]:
        refused = [pair for pair in self.pairs if pair.why_failed.startswith("the relay refuses")]
        if not refused:
            return
        codes = sorted({pair.why_failed.rsplit(" ", 1)[-1] for pair in refused})
        advice = "allow the peer's address in the TURN server's configuration (coturn: allowed-peer-ip)"
        if codes == ["443"]:
            advice = "use a TURN server that relays the peer's address family, or give the peer one of the relay's"
        yield Finding(
            "relay-refuses",
            85 if self.stuck else 20,
            f"the TURN server does not relay to the peer (error {', '.join(codes)})",
            tuple(_pair(pair) for pair in refused[:4]),
            advice,
        )

    # --------------------------------------------------------------------------------------------------------- servers

    def _servers(self) -> Iterator[Finding]:
        """One finding for each server that gave nothing, whatever the number of components and addresses."""
        reports = self.agent.server_reports
        useful = {report.url for report in reports if str(report.verdict) == "answered"}
        told: set[tuple[str, str]] = set()
        for report in reports:
            verdict = _VERDICTS.get(str(report.verdict))
            if verdict is None or report.url in useful or (report.url, verdict[0]) in told:
                continue
            told.add((report.url, verdict[0]))
            code, did, advice = verdict
            relay = str(report.url).startswith("turn")
            kind = "relayed" if relay else "server-reflexive"
            where = f" at {report.address[0]}:{report.address[1]}" if report.address else ""
            answer = f" with error {report.code}" if report.code else ""
            lost = (
                "" if any(c.type == ("relay" if relay else "srflx") for c in self.local) else f": no {kind} candidates"
            )
            yield Finding(
                code,
                (84 if relay else 60) if self.stuck else 30,
                f"the {'TURN' if relay else 'STUN'} server {_shown(report.url)} {did}{answer}{lost}",
                (f"{report.transport}{where}: {report.verdict}{f', {report.detail}' if report.detail else ''}",),
                advice,
            )

    # ---------------------------------------------------------------------------------------------------- afterwards

    def _consent(self) -> Iterator[Finding]:
        if not self.reason.startswith(("consent expired", "the peer revoked")):
            return
        trend = [
            f"component {pair.component}: the last round trip took {1000 * pair.rtt:.0f} ms, the mean "
            f"{1000 * pair.total_rtt / max(1, pair.responses_received):.0f} ms"
            for pair in self.generation.selection.pairs
            if pair.rtt is not None
        ]
        revoked = self.reason.startswith("the peer revoked")
        yield Finding(
            "consent-revoked" if revoked else "consent-lost",
            100,
            self.reason,
            tuple(trend),
            "the peer has ended the session"
            if revoked
            else "the peer has gone, or its path has: restart() with new candidates finds another",
        )

    def _waits(self) -> Iterator[Finding]:
        """Gathering stood still for a dead server, and nothing was checked meanwhile."""
        began = self.generation.checking_since
        longest: dict[str, float] = {}
        for url, since, until in self.agent.server_waits:
            if began is None or until <= began:
                longest[url] = max(longest.get(url, 0.0), until - since)
        for url, seconds in longest.items():
            if seconds >= SLOW:
                yield Finding(
                    "slow-server",
                    38,
                    f"gathering was slow because it waited {seconds:.2f} s for {_shown(url)}, which gave nothing",
                    (f"nothing else was waited for during {seconds:.2f} s, and no check was sent",),
                    "remove the server, or trickle: connect() does not wait for servers when candidates are signalled "
                    "as they are found",
                )

    def _slow(self) -> Iterator[Finding]:
        generation = self.generation
        since, connected = generation.checking_since, generation.connected_at
        if since is None or connected is None or connected - since < SLOW:
            return
        took = f"it took {connected - since:.2f} s"
        late = None if generation.last_remote_at is None else generation.last_remote_at - since
        again = [pair for pair in generation.selection.pairs if pair.retransmissions]
        far = [pair for pair in generation.selection.pairs if pair.rtt is not None and pair.rtt >= FAR]
        if late is not None and SLOW / 2 < late <= connected - since:
            yield Finding(
                "slow-candidates",
                40,
                f"connecting was slow because candidates of the peer came late, {late:.2f} s after the start",
                (took,),
                "signal candidates as soon as they are found",
            )
        if far:
            yield Finding(
                "slow-path",
                35,
                f"connecting was slow because a round trip takes {max(pair.rtt or 0 for pair in far):.2f} s",
                (took, *(_pair(pair) for pair in far[:4])),
                "a path of fewer hops, or another relay, may be faster",
            )
        elif again:
            number = sum(pair.retransmissions for pair in again)
            yield Finding(
                "slow-loss",
                35,
                f"connecting was slow because checks were lost: {_number(number, 'retransmission')} on the pair in use",
                (took, *(_pair(pair) for pair in again[:4])),
                "the path loses packets, or lets the first ones through only when both sides have sent",
            )

    # ---------------------------------------------------------------------------------------------------------- around

    def _strangers(self) -> Iterator[Finding]:
        counts = Counter(self.dropped)
        blamed = self.generation.blamed or {}
        ours = sum(number for what, number in blamed.items() if what in ("password", "username", "unsigned"))
        counts["request not authentic"] = self.agent.drops["request not authentic"] - ours
        strange = {what: counts[what] for what in ("request not authentic", "data of a stranger") if counts[what] > 0}
        if sum(strange.values()) >= STRANGERS:
            yield Finding(
                "strangers",
                25,
                f"{sum(strange.values())} datagrams of strangers came",
                tuple(f"{number} × {what}" for what, number in strange.items()),
                "somebody scans these ports, or a peer of an earlier session still sends; they were dropped",
            )

    def _stalls(self) -> Iterator[Finding]:
        if self.stall < STALL:
            return
        expired = self.reason.startswith("consent expired")
        yield Finding(
            "stall",
            (99 if self.stall >= 10 and expired else 50) if self.ended else 45,
            f"the event loop was blocked for {1000 * self.stall:.0f} ms",
            ("a timer of the agent fired so much too late",),
            "do not block the loop: no time.sleep(), no long computations and no synchronous I/O in coroutines",
        )


def _unanswered(pair: Pair) -> bool:
    if pair.state is PairState.FAILED:
        return pair.why_failed == "no answer"
    return pair.state is PairState.IN_PROGRESS and pair.retransmissions >= UNANSWERED


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _kinds(candidates: Iterable[Candidate]) -> str:
    kinds = Counter(
        f"{candidate.type} {'IPv6' if ':' in candidate.address else 'IPv4'}"
        f"{'' if candidate.transport.lower() == 'udp' else '/' + _shown(candidate.transport)}"
        for candidate in candidates
    )
    return ", ".join(f"{number} × {kind}" for kind, number in kinds.items()) or "none"


def _pair(pair: Pair) -> str:
    local, remote = pair.base.shown, pair.remote  # neither an address of ours that is hidden nor one of the peer's
    return f"{local.type} {local.host}:{local.port} → {remote.type} {_shown(remote.host)}:{remote.port}"


def _shown(text: object) -> str:
    """What came from outside, escaped and not too long."""
    shown = ascii(str(text))[1:-1]
    return shown if len(shown) <= 100 else shown[:100] + "..."
