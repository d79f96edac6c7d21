"""Allocations on TURN servers: which are asked, which are kept, and what follows when one is lost (RFC 8656 §7.4).

All transports and addresses of one server are asked side by side, and the URLs of one list that name the same host lead
to one server. The first relay from it is the one that is used: what would give the same over the same or a worse
transport is given up, while UDP that is slower than TCP or TLS is still waited for, and kept beside them. A server that
does not give both address families at once is asked for the other one over a second 5-tuple.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .allocation import (
    Allocated,
    Allocation,
    AllocationConfig,
    AllocationFailed,
    AllocationLost,
    FamilyMissing,
    PeerRefused,
    PeerUnreachable,
    Permitted,
    WantCredentials,
)
from .demux import is_channel_data, is_stun
from .inquiries import ServerVerdict, explain, verdict_of
from .machine import Connected, Done, LinkClosed, Opened, OpenRelay, OpenStream, OpenUdp
from .seats import Attempt, Seat, name_of, rank_of, user_of
from .servers import Asked, Ended, Relayed, RelayLost, RelayPermits, RelayRefused, RelayUnreachable
from .turn_errors import MAX_RETRIES, Step
from .turn_errors import verdict as next_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .machine import Address, OpenFailed, SendFailed, Tunables
    from .servers import TurnServer

#: Addresses of one name that are asked; a name with more has been chosen to flood us, or them.
MAX_ADDRESSES = 8
#: Redirections that are followed from one server (RFC 8489 §10 has no number).
MAX_REDIRECTIONS = 4
#: Seconds for which a family is not asked for that the server has no room for (RFC 8656 §7.4: a minute).
FAMILY_HOLD_OFF = 60.0
#: Seconds before a lost allocation is made anew that has not lived for :data:`STABLE`: doubled each time, up to the
#: ceiling. One that has is made anew at once.
FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
STABLE = 30.0


class Relays:
    """Asks TURN servers for the gatherer, which drains ``outputs``.

    ``pace`` starts a transaction when it is its turn, ``resolve`` looks a name up and ``credentials`` asks whoever has
    them; each calls back.
    """

    __slots__ = (
        "_random",
        "_next_link",
        "_tunables",
        "_outputs",
        "_pace",
        "_resolve",
        "_credentials",
        "_families",
        "_seats",
        "_attempts",
        "_by_link",
        "server_links",
        "_blocked",
        "_lacking",
        "_keeping",
        "_closed",
    )

    def __init__(
        self,
        random: Callable[[int], bytes],
        next_link: Callable[[], int],
        tunables: Tunables,
        outputs: list[Any],
        pace: Callable[[float, Callable[[float], bool]], None],
        resolve: Callable[[float, str, Callable[[float, tuple[str, ...]], None]], None],
        credentials: Callable[[float, int, Callable[[float, Any], None], bool], None],
        families: tuple[int, ...],
    ) -> None:
        self._random = random
        self._next_link = next_link
        self._tunables = tunables
        self._outputs = outputs
        self._pace = pace
        self._resolve = resolve
        self._credentials = credentials
        #: Of relayed addresses, the most wanted first.
        self._families = families
        self._seats: list[Seat] = []
        #: By their allocation, until that has ended.
        self._attempts: dict[Allocation, Attempt] = {}
        #: By each of the links of its allocation.
        self._by_link: dict[int, tuple[Attempt, Allocation]] = {}
        #: Links to servers, and whether they are streams: then it is a sign of life that they open.
        self.server_links: dict[int, bool] = {}
        #: Until when a server is not to be asked again by a user, whatever the way (RFC 8656 §7.4).
        self._blocked: dict[tuple[str, tuple[Any, ...]], float] = {}
        #: Families that a server does not have, or has no room for until then (RFC 8656 §7.4).
        self._lacking: dict[tuple[Any, int], float] = {}
        self._keeping = True
        self._closed = False

    # ----------------------------------------------------------------------------------------------------------- verbs

    def ask(self, now: float, component: int, servers: Iterable[TurnServer]) -> None:
        """Ask all of them for relays for ``component``; those of one host and user are one server."""
        seats: dict[Any, Seat] = {}
        for server in servers:
            seat = seats.setdefault((server.entry, name_of(server)), Seat(component))
            seat.servers.append(server)
        for seat in seats.values():
            seat.servers.sort(key=rank_of)
            self._seats.append(seat)
            self._begin(now, seat)

    def relay(self, now: float, link: int, peer: Address, data: bytes) -> None:
        """Send to ``peer`` from the relayed address behind ``link``."""
        owner = self._by_link.get(link)
        if owner is not None:
            attempt, allocation = owner
            allocation.send(now, peer, data)
            self._drain(now, allocation, attempt)

    def probe(self, now: float, link: int) -> None:
        """There are signs that the server has lost the allocation behind ``link``."""
        owner = self._by_link.get(link)
        if owner is not None:
            attempt, allocation = owner
            allocation.probe(now)
            self._drain(now, allocation, attempt)

    def keep(self, keeping: bool) -> None:
        """Whether further candidates may be of use: servers that gave none are asked again only while they may."""
        self._keeping = keeping

    def tune(self, tunables: Tunables) -> None:
        self._tunables = tunables
        for allocation in self._attempts:
            allocation.handle_report(0.0, tunables)

    def close(self, now: float) -> None:
        """Give everything up; allocations go on until their deletion is answered or a second has passed."""
        self._closed = True
        self._seats.clear()
        for allocation, attempt in list(self._attempts.items()):
            allocation.close(now)
            self._drain(now, allocation, attempt)

    # ----------------------------------------------------------------------------------------------------------- nouns

    def owns(self, link: int) -> bool:
        return link in self._by_link

    @property
    def busy(self) -> bool:
        """More relays may be found soon."""
        return any(attempt.inquiry.pending for seat in self._seats for attempt in seat.attempts)

    @property
    def hopeful(self) -> bool:
        """A relay that was lost is being made anew, now or later."""
        return any(seat.wanted and (seat.attempts or seat.retry_at is not None) for seat in self._seats)

    @property
    def done(self) -> bool:
        return not self._attempts

    # -------------------------------------------------------------------------------------------------------- asking

    def _begin(self, now: float, seat: Seat) -> None:
        seat.retry_at = None
        seat.again_at = float("inf")
        self._blocked = {key: until for key, until in self._blocked.items() if now < until}
        begun = [
            self._attempt(now, seat, server, self._families, server.host.removesuffix("."))  # no certificate has that
            for server in seat.servers
        ]
        for attempt in begun:
            server = attempt.server
            if server.tls and server.transport != "tcp":
                self._end(now, attempt, ServerVerdict.NOT_SUPPORTED, "TURN over DTLS is not spoken here")
                continue
            if server.source is not None:
                # It may take as long as the look-up: side by side.
                self._credentials(now, server.source, _ignore, False)
            self._resolve(now, server.host, partial(self._resolved, attempt))

    def _attempt(self, now: float, seat: Seat, server: TurnServer, families: tuple[int, ...], name: str) -> Attempt:
        attempt = Attempt(seat, server, now, families, name)
        seat.attempts.append(attempt)
        self._outputs.append(Asked(attempt.inquiry))
        return attempt

    def _resolved(self, attempt: Attempt, now: float, addresses: tuple[str, ...]) -> None:
        """Every address is asked, the first one by the attempt that had the name looked up."""
        seat, server = attempt.seat, attempt.server
        if self._closed or not attempt.inquiry.pending:
            return
        if not addresses:
            self._end(now, attempt, ServerVerdict.NAME_NOT_FOUND, "the name has no addresses")
            return
        for number, host in enumerate(addresses[:MAX_ADDRESSES]):
            if number:
                attempt = self._attempt(now, seat, server, attempt.families, attempt.name)
            attempt.inquiry.address = (host, server.port)
            self._ready(now, attempt)

    def _ready(self, now: float, attempt: Attempt) -> None:
        """The address is known: get the credentials, wait for the turn, ask."""
        server = attempt.server
        until = self._blocked.get((attempt.place[1][0], user_of(server)), 0.0)
        if now < until:
            wait = "" if until == float("inf") else f" for {until - now:.0f} s"
            self._end(now, attempt, ServerVerdict.REFUSED, f"not to be asked again{wait}", again=until)
        elif any(self._rivals(attempt)):
            self._end(now, attempt, ServerVerdict.NOT_NEEDED, "another URL leads to the same server")
        elif server.source is None:
            self._queue(now, attempt, (server.username, server.password, None))
        else:
            attempt.inquiry.alive = True
            self._credentials(now, server.source, partial(self._known, attempt), False)

    def _rivals(self, attempt: Attempt) -> Iterator[Attempt]:
        """Others that are asking the same of the same server, for the same component, or have got it."""
        for seat in self._seats:
            for other in (*seat.attempts, *seat.live) if seat.component == attempt.seat.component else ():
                if (
                    other is not attempt
                    and other.inquiry.address is not None
                    and other.place == attempt.place
                    and other.families == attempt.families
                    and user_of(other.server) == user_of(attempt.server)
                ):
                    yield other

    def _known(self, attempt: Attempt, now: float, credentials: tuple[str, str, float | None] | str) -> None:
        if self._closed or not attempt.inquiry.pending:
            return
        if isinstance(credentials, str):
            self._end(now, attempt, ServerVerdict.NO_CREDENTIALS, credentials)
        else:
            self._queue(now, attempt, credentials)

    def _queue(self, now: float, attempt: Attempt, credentials: tuple[str | None, str | None, float | None]) -> None:
        attempt.inquiry.started = float("inf")
        attempt.inquiry.alive = False
        self._pace(now, partial(self._start, attempt, credentials))

    def _start(self, attempt: Attempt, credentials: tuple[str | None, str | None, float | None], now: float) -> bool:
        inquiry = attempt.inquiry
        if self._closed or not inquiry.pending:
            return False
        inquiry.started = now
        server = attempt.server
        families = self._families_of(now, attempt)
        if families == (4,) != attempt.families:
            families = ()  # IPv4 (RFC 8656 §7.2), also from a server that knows no families
        elif not families:
            self._end(now, attempt, ServerVerdict.REFUSED, "it has said that it has no relays of this kind", 440)
            return False
        assert inquiry.address is not None
        username, password, expires = credentials
        config = AllocationConfig(
            server=inquiry.address,
            transport=server.transport,
            server_name=attempt.name if server.tls else None,
            username=username,
            password=password,
            families=families,
            renewable=server.source is not None,
            expires=expires,
        )
        allocation = attempt.allocation = Allocation(config, self._random, self._next_link, self._tunables)
        self._attempts[allocation] = attempt
        allocation.start(now)
        self._drain(now, allocation, attempt)
        return True

    # ------------------------------------------------------------------------------------------------------- the world

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        attempt, allocation = self._by_link[link]
        inquiry = attempt.inquiry
        if inquiry.pending and peer == inquiry.address:
            if is_stun(data):
                inquiry.alive = True
                if inquiry.rtt is None and attempt.opened is not None:
                    inquiry.rtt = now - attempt.opened
            elif not is_channel_data(data):
                # Whoever else lives on that port will not turn into a TURN server.
                self._give_up(now, attempt, ServerVerdict.NOT_STUN, f"it answers {data[:16]!a}")
                return
        allocation.handle_datagram(now, link, peer, data)
        self._drain(now, allocation, attempt)

    def handle_report(self, now: float, report: Opened | OpenFailed | Connected | LinkClosed | SendFailed) -> None:
        attempt, allocation = self._by_link[report.link]
        if isinstance(report, Connected):
            attempt.inquiry.alive = True
            return
        if isinstance(report, Opened) and report.link in self.server_links:
            attempt.opened = now
            attempt.inquiry.local = report.local
            attempt.inquiry.alive |= self.server_links[report.link]
        if isinstance(report, LinkClosed) and report.link in attempt.relays and not self._closed:
            self._released(attempt, report.link)
            allocation.release(now, report.link)
        allocation.handle_report(now, report)
        self._drain(now, allocation, attempt)

    def handle_timeout(self, now: float) -> None:
        for allocation, attempt in list(self._attempts.items()):
            allocation.handle_timeout(now)
            self._drain(now, allocation, attempt)
        for seat in list(self._seats):
            if seat.retry_at is not None and now >= seat.retry_at:
                if seat.wanted or self._needed(seat):
                    self._begin(now, seat)
                else:
                    seat.retry_at = None

    def poll_timeout(self) -> float | None:
        times = [allocation.poll_timeout() for allocation in self._attempts]
        times += [seat.retry_at for seat in self._seats]
        return min((time for time in times if time is not None), default=None)

    # ------------------------------------------------------------------------------------------- what allocations say

    def _drain(self, now: float, allocation: Allocation, attempt: Attempt) -> None:
        while (output := allocation.poll_output()) is not None:
            if isinstance(output, OpenUdp | OpenStream | OpenRelay):
                self._by_link[output.link] = (attempt, allocation)
                if not isinstance(output, OpenRelay):
                    self.server_links[output.link] = isinstance(output, OpenStream)
                self._outputs.append(output)
            elif isinstance(output, Allocated):
                self._allocated(now, attempt, output)
            elif isinstance(output, FamilyMissing):
                self._family_missing(now, attempt, output)
            elif isinstance(output, AllocationFailed):
                self._failed(now, attempt, output)
            elif isinstance(output, AllocationLost):
                self._outputs.append(RelayLost(output.relay_link, output.detail))
                attempt.lost.append(attempt.relays.pop(output.relay_link))
                attempt.inquiry.detail = f"lost: {output.detail}"
            elif isinstance(output, PeerRefused):
                self._outputs.append(RelayRefused(output.relay_link, output.peer, output.code))
            elif isinstance(output, PeerUnreachable):
                self._outputs.append(RelayUnreachable(*output))
            elif isinstance(output, Permitted):
                self._outputs.append(RelayPermits(*output))
            elif isinstance(output, WantCredentials):
                self._want_credentials(now, allocation, attempt)
            elif isinstance(output, Done):
                del self._attempts[allocation]
                for link in [link for link, owner in self._by_link.items() if owner[1] is allocation]:
                    del self._by_link[link]
                    self.server_links.pop(link, None)
            else:
                self._outputs.append(output)
        if attempt.lost:
            lost, attempt.lost = attempt.lost, []
            self._lost(now, attempt, lost)

    def _allocated(self, now: float, attempt: Attempt, allocated: Allocated) -> None:
        seat, inquiry = attempt.seat, attempt.inquiry
        if attempt not in seat.live:
            seat.live.append(attempt)
            seat.attempts = [other for other in seat.attempts if other is not attempt]
            if not seat.wanted:
                seat.wanted = True
                seat.failures, seat.retry_at = 0, None
            attempt.since = now
            attempt.tries = 0
        attempt.relays[allocated.relay_link] = 6 if ":" in allocated.relayed[0] else 4
        self._outputs.append(Relayed(allocated.relay_link, allocated.relayed, allocated.mapped, inquiry, attempt.rank))
        if inquiry.pending:
            self._end(now, attempt, ServerVerdict.ANSWERED)
        for other in list(self._attempts_of(attempt.server, seat.component)):
            worse = other.rank > attempt.rank or (other.rank == attempt.rank and other.seat is seat)
            if worse and other.families == attempt.families:
                self._give_up(now, other, ServerVerdict.NOT_NEEDED, f"there is a relay from {inquiry.report().url}")

    def _attempts_of(self, server: TurnServer, component: int) -> Iterator[Attempt]:
        """What has not given a relay yet and goes to the same server, also from another list of URLs."""
        for seat in self._seats:
            if seat.component == component and name_of(seat.servers[0]) == name_of(server):
                yield from seat.attempts

    def _family_missing(self, now: float, attempt: Attempt, missing: FamilyMissing) -> None:
        """A server before RFC 8656 passes the wish over: it is asked once more, over a second 5-tuple."""
        if missing.code:
            self._lacks(now, attempt, missing.family, missing.code)
        elif missing.family in self._families_of(now, attempt):
            self._ask_again(now, attempt, missing.family)

    def _lacks(self, now: float, attempt: Attempt, family: int, code: int) -> None:
        until = float("inf") if code == 440 else now + FAMILY_HOLD_OFF
        self._lacking[name_of(attempt.server), family] = until

    def _families_of(self, now: float, attempt: Attempt) -> tuple[int, ...]:
        """Those wanted that its server may have."""
        name = name_of(attempt.server)
        return tuple(family for family in attempt.families if now >= self._lacking.get((name, family), now))

    def _ask_again(self, now: float, attempt: Attempt, family: int) -> None:
        another = self._attempt(now, attempt.seat, attempt.server, (family,), attempt.name)
        another.inquiry.address = attempt.inquiry.address
        self._ready(now, another)

    def _failed(self, now: float, attempt: Attempt, failed: AllocationFailed) -> None:
        attempt.tries += 1
        if failed.code == 440:
            for family in attempt.families:
                self._lacks(now, attempt, family, failed.code)
        visited = (*attempt.visited, attempt.place[1])
        step = next_step(failed.code, failed.response, attempt=attempt.tries, visited=visited)
        if step.step is Step.NEW_TUPLE:
            self._ready(now, attempt)
        elif step.step is Step.REDIRECT and self._redirect(now, attempt, step.alternates, step.domain):
            pass
        else:
            final = step.step is Step.GIVE_UP and attempt.server.source is None
            again = float("inf") if final else now + step.hold_off
            if step.hold_off:
                self._blocked[attempt.place[1][0], user_of(attempt.server)] = again
            detail = explain(failed.reason, failed.detail)
            self._end(now, attempt, verdict_of(failed.reason, failed.code), detail, failed.code, again)

    def _redirect(self, now: float, attempt: Attempt, alternates: Sequence[Address], domain: str | None) -> bool:
        """RFC 8489 §10; over TLS the certificate is that of the name that we know, unless the server names another."""
        family = ":" in attempt.place[1][0]
        usable = [address for address in alternates if (":" in address[0]) is family]
        if not usable or len(attempt.visited) >= MAX_REDIRECTIONS:
            return False
        attempt.visited += (attempt.place[1],)
        attempt.tries = 0
        attempt.inquiry.address = usable[0]
        attempt.name = domain or attempt.name
        self._ready(now, attempt)
        return True

    def _want_credentials(self, now: float, allocation: Allocation, attempt: Attempt) -> None:
        def fetched(now: float, answer: tuple[str, str, float | None] | str) -> None:
            if allocation not in self._attempts:
                return
            if isinstance(answer, str):
                attempt.inquiry.detail = answer
                allocation.set_credentials(now, None, None)
            elif attempt.inquiry.pending and not attempt.tries:
                # Servers bind a 5-tuple to the user that it was first used by: coturn answers another one with an
                # unsigned 437, which nobody may believe.
                attempt.tries = 1
                allocation.close(now)
                self._queue(now, attempt, answer)
            else:
                allocation.set_credentials(now, *answer)
            self._drain(now, allocation, attempt)

        assert attempt.server.source is not None
        self._credentials(now, attempt.server.source, fetched, True)

    def _lost(self, now: float, attempt: Attempt, families: list[int]) -> None:
        seat = attempt.seat
        stable = now - attempt.since >= STABLE
        if not attempt.relays and attempt in seat.live:
            seat.live.remove(attempt)
        if attempt.relays or attempt.families != self._families:
            # The server still gives us the other family.
            for family in families if stable else ():
                self._ask_again(now, attempt, family)
        else:
            seat.failures = 0 if stable else seat.failures + 1
            self._retry(now, seat, now)

    def _released(self, attempt: Attempt, link: int) -> None:
        """The application has closed the transport of a relay: no other is made in its place."""
        del attempt.relays[link]
        attempt.inquiry.detail = "closed by the application"
        self._outputs.append(RelayLost(link, attempt.inquiry.detail))
        if not attempt.relays:
            attempt.seat.live.remove(attempt)
            attempt.seat.wanted = bool(attempt.seat.live)

    def _retry(self, now: float, seat: Seat, earliest: float) -> None:
        """Make a lost allocation anew, sooner or later; not if the server would only say the same again."""
        if self._closed or not seat.wanted or seat.attempts or any(a.families == self._families for a in seat.live):
            return
        if not seat.failures:
            self._begin(now, seat)
            return
        if earliest == float("inf"):
            seat.wanted = False
            return
        wait = min(FIRST_WAIT * 2 ** (seat.failures - 1), LONGEST_WAIT)
        # Clients of a server that restarts must not all come back at once.
        wait *= 0.75 + self._random(1)[0] / 512
        seat.retry_at = max(now + wait, earliest)

    def _needed(self, seat: Seat) -> bool:
        """Whether its component may still use a first relay."""
        return self._keeping and not any(other.live for other in self._seats if other.component == seat.component)

    def _come_back(self, now: float, seat: Seat, again: float) -> None:
        """A server that had no room for a first relay may have some later (RFC 8656 §7.4; RFC 8489 §6.3.4: it is asked
        again four times).
        """
        if self._closed or not now < again < float("inf"):
            return
        if seat.retry_at is None and seat.failures < MAX_RETRIES:
            seat.failures += 1
            # Clients of a server that is full must not all come back at once.
            seat.retry_at = again + self._random(1)[0] / 256 * FIRST_WAIT

    def _give_up(self, now: float, attempt: Attempt, verdict: ServerVerdict, detail: str) -> None:
        self._end(now, attempt, verdict, detail)
        allocation = attempt.allocation
        if allocation is not None and allocation in self._attempts:
            allocation.close(now)
            self._drain(now, allocation, attempt)

    def _end(
        self, now: float, attempt: Attempt, verdict: ServerVerdict, detail: str = "", code: int = 0, again: float = 0.0
    ) -> None:
        """Nobody need wait for it any more; it may be tried again at the time ``again``."""
        seat = attempt.seat
        attempt.inquiry.end(verdict, detail, code)
        if attempt in seat.attempts:
            seat.attempts.remove(attempt)
        self._outputs.append(Ended(attempt.inquiry))
        if verdict is not ServerVerdict.ANSWERED:
            seat.again_at = min(seat.again_at, again)
            if not seat.wanted:
                self._come_back(now, seat, again)
            elif not seat.attempts:
                seat.failures += 1
                self._retry(now, seat, seat.again_at)


def _ignore(now: float, answer: Any) -> None:
    """The answer is of interest to others."""
