"""Connectivity checks as they leave and arrive (RFC 8445 §7): a child machine of the agent.

It knows the check lists, the requests in flight, the role and how checks are paced, answered and judged. It does not
know what follows from a valid or a dead pair: that it tells the agent, as :class:`Valid`, :class:`Nominated`,
:class:`Dead` and the like.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .candidate import Candidate, candidate_priority
from .checklist import PairState
from .generation import EarlyCheck, Generation
from .machine import Transmit
from .message import Class, Method, binding_request, binding_response, parse_message
from .outcomes import ConsentAnswered, ConsentRefused, Dead, Heard, Nominated, PeerChecks, RoleChanged, Valid
from .record import Record
from .requests import Requests, duration
from .responder import Strangers, error_answer, is_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from .checklist import Base, Pair
    from .machine import Address, Reason, Tunables
    from .message import Message
    from .requests import Request

ICE_CONTROLLED = 0x8029
ICE_CONTROLLING = 0x802A
#: A pair whose checks draw a role conflict this often is given up: two honest agents need one (RFC 8445 §7.2.5.1).
MAX_CONFLICTS = 3
#: Cancelled checks of a pair whose answers are still waited for (RFC 8445 §7.3.1.4); a peer that repeats itself makes
#: more.
MAX_CANCELLED = 4
#: Retransmissions of a nomination while another valid pair could be nominated instead: 3.5 s at the RTO of RFC 8445
#: §14.3.
NOMINATION_RETRANSMISSIONS = 2
NEVER = float("inf")


class Check(Record):
    """What a request in flight was sent for."""

    generation: Generation
    pair: Pair
    controlling: bool
    #: The check nominates the pair.
    nominating: bool
    priority: int
    consent: bool


class Checker:
    """The checks of one agent; ``generations`` is set by the agent, the current one first."""

    __slots__ = (
        "_random",
        "_requests",
        "_lite",
        "_ta",
        "_next_check",
        "_repeat_at",
        "_strangers",
        "_outputs",
        "controlling",
        "generations",
        "_drops",
        "_tie_breaker",
    )

    def __init__(
        self,
        random: Callable[[int], bytes],
        tunables: Tunables,
        *,
        controlling: bool,
        lite: bool,
        ta: float,
        outputs: list[Any] | None = None,
    ) -> None:
        self._random = random
        self._requests = Requests(tunables)
        self._lite = lite
        self._ta = ta
        self._next_check = float("-inf")
        #: When the first triggered check may leave, though it is not the time for the next one.
        self._repeat_at = NEVER
        self._strangers: Strangers | None = None
        #: Where outputs go: a parent may drain one queue for all its children, so that they stay in order.
        self._outputs: list[Any] = [] if outputs is None else outputs
        self._draw_tie_breaker()
        self.controlling = controlling
        self.generations: list[Generation] = []
        self._drops: Counter[str] | None = None

    def _draw_tie_breaker(self) -> None:
        self._tie_breaker = int.from_bytes(self._random(8))

    @property
    def drops(self) -> Counter[str]:
        """Datagrams that were not acted on, by reason."""
        if self._drops is None:
            self._drops = Counter()
        return self._drops

    # ----------------------------------------------------------------------------------------------------------- verbs

    def use(self, generations: list[Generation]) -> None:
        """The current one first; what is in flight for others is forgotten."""
        self.generations = generations
        for request in self._requests.all():
            if request.context.generation not in generations:
                self._requests.end(request)

    def start(self, now: float, generation: Generation) -> None:
        """Check the pairs of the generation, first those that the peer has checked already."""
        kept, generation.early = generation.early, ()
        for early in kept:
            if is_for(early.message, generation.local_username, generation.remote_username):
                pair = generation.checks.find(early.base.link, early.peer)
                self._act_on(now, generation, pair, *early)
            else:
                self.drops["check of another session"] += 1
        self._pace(now)

    def go_on(self, now: float) -> None:
        """The check list has got more pairs; what is due at this very moment leaves by the timer."""
        if now != self._repeat_at:
            self._pace(now)

    def nominate(self, now: float, generation: Generation, pair: Pair) -> None:
        """Repeat the check of a valid pair with USE-CANDIDATE, at once (RFC 8445 §8.1.1)."""
        pair.use_candidate = True
        self._send_check(now, generation, pair)

    def hurry(self, pair: Pair) -> None:
        """The nomination of the pair is to be given up soon: another pair could be nominated."""
        if pair.request is not None:
            pair.request.limit(NOMINATION_RETRANSMISSIONS)

    def ask_consent(self, now: float, generation: Generation, pair: Pair, timeout: float) -> bytes:
        """One request, never repeated (RFC 7675 §5.1); returns its transaction id.

        USE-CANDIDATE is repeated on the nominated pair: some lite servers answer nothing else.
        """
        return self._request(now, generation, pair, self.controlling and pair.nominated, timeout).transaction_id

    def set_role(self, controlling: bool) -> None:
        if controlling != self.controlling:
            self.controlling = controlling
            for generation in self.generations:
                generation.checks.set_role(controlling)
                generation.selection.role_changed()
            self._outputs.append(RoleChanged(controlling))

    def tune(self, tunables: Tunables) -> None:
        self._requests.tunables = tunables

    def stop(self) -> None:
        """Forget every request, and what has been told but not been heard; others put into the same queue."""
        self._requests.end_all()
        self.generations = []
        told = (Valid, Nominated, Dead, Heard, PeerChecks, RoleChanged, ConsentAnswered, ConsentRefused)
        self._outputs[:] = [output for output in self._outputs if not isinstance(output, told)]

    def stop_repeating(self, pairs: list[Pair]) -> None:
        """Nominated: no more transmissions for these pairs, though answers still count (RFC 8445 §8.1.2)."""
        for pair in pairs:
            if pair.request is not None:
                pair.request.stop()

    def base_lost(self, link: int) -> None:
        """Nothing is sent on the link any more."""
        for request in self._requests.all():
            if request.link == link:
                self._requests.end(request)
        for generation in self.generations:
            generation.early = tuple(check for check in generation.early if check.base.link != link)

    def unreachable(self, now: float, link: int, peer: Address, reason: Reason) -> None:
        """The system says that checks to ``peer`` don't arrive; a check from there would revive the pair."""
        for generation in self.generations:
            pair = generation.checks.find(link, peer)
            if pair is not None and pair.state is PairState.IN_PROGRESS:
                self._fail(now, generation, pair, str(reason))

    def permitted(self, link: int, host: str) -> None:
        """The relay has begun to let checks to ``host`` through (RFC 8656 §9): those in flight are repeated now, once
        more than their timers would.
        """
        for generation in self.generations:
            for pair in generation.checks.pairs:
                if pair.state is PairState.IN_PROGRESS and pair.base.link == link and pair.peer[0] == host:
                    assert pair.request is not None
                    self._outputs.append(Transmit(link, pair.peer, pair.request.data))

    def give_up(self, now: float, generation: Generation, pair: Pair, why: str) -> None:
        """The peer's consent on the pair is lost."""
        pair.barred = True
        if pair.state is not PairState.FAILED:
            self._fail(now, generation, pair, why)

    def refused_by_relay(self, now: float, link: int, peer: Address, why: str) -> None:
        for generation in self.generations:
            pair = generation.checks.find(link, peer)
            if pair is not None and pair.state is not PairState.FAILED:
                self._fail(now, generation, pair, why)

    # -------------------------------------------------------------------------------------------------- sending checks

    def _pace(self, now: float) -> None:
        """The next check, unless the last one left less than Ta ago (RFC 8445 §6.1.4.2)."""
        generation = self.generations[0]
        if now < self._due(generation) or not generation.checking or self._lite:
            return
        pair = generation.checks.next_check()
        self._repeat_at = NEVER
        if pair is not None and now < pair.sent_at + self._ta:
            # The timer came for one behind it, or for one that has been answered meanwhile.
            generation.checks.trigger(pair)
            self._repeat_at = pair.sent_at + self._ta
            self._next_check = max(self._next_check, self._repeat_at)
        elif pair is not None:
            self._send_check(now, generation, pair)
            self._next_check = now + self._ta

    def _due(self, generation: Generation) -> float:
        return min(self._next_check, self._repeat_at) if generation.checks.triggered else self._next_check

    def _check_at_once(self, now: float, generation: Generation, pair: Pair) -> None:
        """Ahead of the pacing (docs/rfc.md), but no pair more often than that."""
        if now - pair.sent_at < self._ta:
            generation.checks.trigger(pair)
            return
        if pair.request is not None:
            # As soon as all is read that has come: the answer to the last check may wait behind the peer's.
            generation.checks.trigger(pair)
            self._repeat_at = now
            return
        if pair.state is not PairState.SUCCEEDED and pair.state is not PairState.WAITING:
            generation.checks.set(pair, PairState.WAITING)
        self._untrigger(generation, pair)
        self._send_check(now, generation, pair)
        self._next_check = max(self._next_check, now + self._ta)

    def _untrigger(self, generation: Generation, pair: Pair) -> None:
        generation.checks.untrigger(pair)
        if not generation.checks.triggered:
            self._repeat_at = NEVER

    def _send_check(self, now: float, generation: Generation, pair: Pair) -> None:
        if pair.request is not None:
            pair.request.stop()
            pair.cancelled += (pair.request,)
            for request in pair.cancelled[:-MAX_CANCELLED]:
                self._requests.end(request)
            pair.cancelled = pair.cancelled[-MAX_CANCELLED:]
        if pair.state is PairState.WAITING:
            generation.checks.set(pair, PairState.IN_PROGRESS)
        pair.sent_at = now
        pair.request = self._request(now, generation, pair, self.controlling and pair.use_candidate)

    def _request(
        self,
        now: float,
        generation: Generation,
        pair: Pair,
        use_candidate: bool,
        consent_timeout: float | None = None,
    ) -> Request:
        transaction_id = self._random(12)
        priority = candidate_priority(pair.component, "prflx", pair.base.preference)
        data = binding_request(
            transaction_id,
            generation.username,
            priority,
            ICE_CONTROLLING if self.controlling else ICE_CONTROLLED,
            self._tie_breaker,
            use_candidate,
            generation.remote_key,
        )
        check = Check(generation, pair, self.controlling, use_candidate, priority, consent_timeout is not None)
        rto = left = None
        if consent_timeout is None:
            pair.requests_sent += 1
            # RFC 8445 §14.3
            rto = max(self._requests.tunables.retry_rto, self._ta * generation.checks.active)
            left = max(0, self._retransmissions_left(now, pair, rto))
        else:
            pair.consent_requests_sent += 1
        self._outputs.append(Transmit(pair.base.link, pair.peer, data))
        return self._requests.start(
            now,
            transaction_id,
            data,
            pair.base.link,
            pair.peer,
            check,
            rto=rto,
            retransmissions=left,
            timeout=consent_timeout,
        )

    def _retransmissions_left(self, now: float, pair: Pair, rto: float) -> int:
        """A peer that checks us, but never answers, triggers check after check (RFC 8445 §7.3.1.4): all of them
        together last no longer than one, or there would be no end. Negative when that time is over.
        """
        number = self._requests.tunables.retry_max
        if pair.heard_at is not None and not pair.responses_received:
            left = pair.heard_at + duration(rto, number) - now
            while number >= 0 and duration(rto, number) > left:
                number -= 1
        return number

    # ---------------------------------------------------------------------------------------------- what the peer sends

    def handle_stun(self, now: float, base: Base, peer: Address, data: bytes) -> Message | None:
        """A STUN message came to ``base``; an answer to somebody else's request is returned."""
        try:
            message = parse_message(data)
        except ValueError:
            self.drops["malformed"] += 1
            return None
        if message.message_method is not Method.BINDING or message.message_class is Class.INDICATION:
            # Binding indications keep a NAT's mapping alive and want no answer (RFC 8445 §11); others are not for us.
            self.drops["not a check"] += 1
            return None
        if message.message_class is Class.REQUEST:
            self._handle_request(now, base, peer, message, len(data))
            return None
        request = self._requests.get(message.transaction_id)
        if request is None:
            return message
        self._handle_answer(now, base, peer, message, request)
        return None

    def _handle_answer(self, now: float, base: Base, peer: Address, message: Message, request: Request) -> None:
        check: Check = request.context
        generation, pair = check.generation, check.pair
        if not message.check_message_integrity(generation.remote_key):
            self.drops["answer not authentic"] += 1
            if (request.link, request.peer) == (base.link, peer):
                generation.blame(f"error {message.error_code}" if message.error_code else "answer")
            return
        if (request.link, request.peer) != (base.link, peer):
            # RFC 8445 §7.2.5.2.1: the path is not symmetric.
            self.drops["answer from elsewhere"] += 1
            if not check.consent and pair.request is request and pair.state is PairState.IN_PROGRESS:
                self._requests.end(request)
                self._fail(now, generation, pair, "answered from another address")
            return
        mapped = message.attributes.get("XOR-MAPPED-ADDRESS")
        if message.message_class is Class.RESPONSE and mapped is None:
            self.drops["malformed"] += 1
            return
        self._requests.end(request)
        if pair.cancelled:
            pair.cancelled = tuple(other for other in pair.cancelled if other is not request)
        pair.responses_received += 1
        if message.unknown_required:
            self._check_failed(now, check, request, "answer with unknown attributes")
        elif mapped is not None and message.message_class is Class.RESPONSE:
            if not request.retransmitted:
                pair.rtt = now - request.started
                pair.total_rtt += pair.rtt
            if check.consent:
                self._outputs.append(ConsentAnswered(pair, message.transaction_id))
            else:
                self._succeeded(now, check, request, mapped)
        elif message.error_code == 487:
            self._role_conflict(now, check, request)
        elif message.error_code == 403 and check.consent:
            self._outputs.append(ConsentRefused(pair))
        else:
            self._check_failed(now, check, request, f"refused with error {message.error_code}")

    def _succeeded(self, now: float, check: Check, request: Request, mapped: Address) -> None:
        generation, pair = check.generation, check.pair
        self._untrigger(generation, pair)
        if pair.barred:
            return
        if pair.state in (PairState.FROZEN, PairState.FAILED):
            # By another ``connect`` after a failure, or by an ICMP error that anybody may forge (§7.2.5.2.2).
            generation.checks.set(pair, PairState.WAITING)
        if pair.state is PairState.WAITING:  # its check was cancelled, but not its answer (RFC 8445 §7.3.1.4)
            generation.checks.set(pair, PairState.IN_PROGRESS)
        generation.checks.set(pair, PairState.SUCCEEDED)
        if pair.request is not None and (pair.request is request or not pair.request.context.nominating):
            pair.request.stop()
            pair.request = None
        thawed = generation.checks.unfreeze(pair)
        self._outputs.append(Valid(generation, pair, mapped, check.priority))
        if check.nominating if self.controlling else pair.use_candidate:
            self._outputs.append(Nominated(generation, pair))
        further = next((other for other in thawed if other.component != pair.component), None)
        if further is not None and generation.checking:
            self._check_at_once(now, generation, further)

    def _check_failed(self, now: float, check: Check, request: Request, why: str) -> None:
        if not check.consent and check.pair.request is request:
            self._fail(now, check.generation, check.pair, why)

    def _fail(self, now: float, generation: Generation, pair: Pair, why: str) -> None:
        pair.use_candidate = False
        if pair.request is not None:
            pair.request.stop()
        self._untrigger(generation, pair)
        generation.checks.fail(pair, why)
        self._outputs.append(Dead(generation, pair))

    def _role_conflict(self, now: float, check: Check, request: Request) -> None:
        """RFC 8445 §7.2.5.1: the opposite of the role in that request, a new tie-breaker, and the check again."""
        pair = check.pair
        if check.consent or pair.request is not request:
            return
        pair.conflicts += 1
        if pair.conflicts > MAX_CONFLICTS:
            self._fail(now, check.generation, pair, "role conflict without end")
            return
        self.set_role(not check.controlling)
        self._draw_tie_breaker()
        pair.use_candidate = False
        pair.request = None
        if pair.state is not PairState.SUCCEEDED:
            check.generation.checks.trigger(pair)
            self._pace(now)

    # ------------------------------------------------------------------------------------------------- answering checks

    def _handle_request(self, now: float, base: Base, peer: Address, message: Message, size: int) -> None:
        generation = self._authenticate(now, base, peer, message, size)
        if generation is None:
            return
        key = generation.local_key
        attributes = message.attributes
        if message.unknown_required:
            self._transmit(base, peer, error_answer(message, 420, key, message.unknown_required))
        elif not 0 < attributes.get("PRIORITY", 0) < 2**31 or (
            ("ICE-CONTROLLING" in attributes) == ("ICE-CONTROLLED" in attributes)
        ):
            # RFC 8445 §7.1: every check carries its priority (§5.1.2) and one role.
            self._transmit(base, peer, error_answer(message, 400, key))
        elif self._in_conflict(attributes):
            self._transmit(base, peer, error_answer(message, 487, key))
        else:
            self._transmit(base, peer, binding_response(message.transaction_id, peer, key))
            pair = generation.checks.find(base.link, peer)
            self._outputs.append(Heard(base, peer if pair is None else pair.peer))
            if generation is self.generations[0]:
                if generation.checking:
                    pair = self._act_on(now, generation, pair, base, peer, message)
                else:
                    generation.keep_early(EarlyCheck(base, peer, message))
            if pair is not None:
                pair.requests_received += 1

    def _act_on(
        self, now: float, generation: Generation, pair: Pair | None, base: Base, peer: Address, message: Message
    ) -> Pair | None:
        """What an authenticated check does to its pair, which is made if need be, and returned."""
        if pair is None:
            pair = self._new_pair(generation, base, peer, message)
        if pair is not None and self._lite:
            self._checked_lite(generation, pair, message)
        elif pair is not None and not pair.barred:
            self._checked(now, generation, pair, message)
        return pair

    def _authenticate(self, now: float, base: Base, peer: Address, message: Message, size: int) -> Generation | None:
        """Whose credentials the request carries (RFC 8489 §9.1.3); strangers get their error unsigned, and few of
        them.
        """
        code = 400
        if "USERNAME" in message.attributes and "MESSAGE-INTEGRITY" in message.attributes:
            code = 401
            for generation in self.generations:
                if is_for(message, generation.local_username, generation.remote_username) and (
                    message.check_message_integrity(generation.local_key)
                ):
                    return generation
        self.drops["request not authentic"] += 1
        for generation in self.generations:
            if generation.checks.find(base.link, peer) is not None:
                generation.misdirected = True
                # 401 says that the message was signed.
                names_us = code == 401 and is_for(message, generation.local_username, generation.remote_username)
                generation.blame("unsigned" if code == 400 else "password" if names_us else "username")
        if self._strangers is None:
            self._strangers = Strangers()
        answer = self._strangers.answer(now, message, size, peer, code)
        if answer is not None:
            self._transmit(base, peer, answer)
        return None

    def _in_conflict(self, attributes: dict[str, Any]) -> bool:
        """RFC 8445 §7.3.1.1; returns whether it is the peer that must give in."""
        theirs = attributes.get("ICE-CONTROLLING" if self.controlling else "ICE-CONTROLLED")
        if theirs is None:
            return False
        if self._lite:
            return True
        ours_larger: bool = self._tie_breaker >= theirs
        if ours_larger == self.controlling:
            return True
        self.set_role(not self.controlling)
        return False

    def _checked(self, now: float, generation: Generation, pair: Pair, message: Message) -> None:
        """RFC 8445 §7.3.1.4 and §7.3.1.5."""
        wants = not self.controlling and "USE-CANDIDATE" in message.attributes
        chosen = generation.selection.pair_of(pair.component)
        if not (wants or self.controlling):
            pair.deliberate = True
        better = chosen is None or pair.priority > chosen.priority or (pair.deliberate and not pair.nominated)
        if generation.selection.settled(pair.component) and not (wants and better):
            return
        if wants:
            pair.use_candidate = True
        if pair.component not in generation.heard:
            generation.heard += (pair.component,)
            self._outputs.append(PeerChecks(generation))
        if pair.heard_at is None:
            pair.heard_at = now
        if pair.state is not PairState.SUCCEEDED:
            if self._retransmissions_left(now, pair, self._requests.tunables.retry_rto) >= 0:
                self._check_at_once(now, generation, pair)
        elif wants:
            self._outputs.append(Nominated(generation, pair))

    def _checked_lite(self, generation: Generation, pair: Pair, message: Message) -> None:
        """A lite agent trusts the peer's choice and checks nothing (RFC 8445 §7.3.2)."""
        if "USE-CANDIDATE" not in message.attributes:
            pair.deliberate = True
        else:
            for state in (PairState.WAITING, PairState.IN_PROGRESS, PairState.SUCCEEDED):
                if pair.state is not PairState.SUCCEEDED:
                    generation.checks.set(pair, state)
            local = pair.base.candidate
            self._outputs.append(Valid(generation, pair, (local.host, local.port), local.priority))
            self._outputs.append(Nominated(generation, pair))

    def _new_pair(self, generation: Generation, base: Base, peer: Address, message: Message) -> Pair | None:
        """The pair that was checked, with a peer-reflexive candidate if need be (RFC 8445 §7.3.1.3)."""
        component = base.candidate.component
        if component not in generation.components:
            return None
        remote = generation.find_remote(component, peer)
        if remote is None:
            if not generation.has_room("prflx"):
                self.drops["too many peer-reflexive candidates"] += 1
                return None
            remote = Candidate(
                foundation=self._random(8).hex(),
                component=component,
                transport="udp",
                priority=message.attributes["PRIORITY"],
                host=peer[0],
                port=peer[1],
                type="prflx",
            )
            generation.remote_candidates.append(remote)
        pair = generation.checks.add(base, remote)
        if pair is None:
            self.drops["check list full"] += 1
        return pair

    def _transmit(self, base: Base, peer: Address, data: bytes) -> None:
        self._outputs.append(Transmit(base.link, peer, data))

    # ---------------------------------------------------------------------------------------------------- time, outputs

    def handle_timeout(self, now: float) -> None:
        again, failed = self._requests.handle_timeout(now)
        for request in again:
            request.context.pair.retransmissions += 1
            self._outputs.append(Transmit(request.link, request.peer, request.data))
        for request in failed:
            self._check_failed(now, request.context, request, "no answer")
        if self.generations:
            self._pace(now)

    def poll_output(self) -> Any:
        """As a machine's, with the agent's :class:`Valid`, :class:`Nominated`, :class:`Dead` … between them."""
        return self._outputs.pop(0) if self._outputs else None

    def poll_timeout(self) -> float | None:
        deadline = self._requests.poll_timeout()
        if not self.generations or self._lite:
            return deadline
        generation = self.generations[0]
        if not (generation.checking and generation.checks.has_work):
            return deadline
        due = self._due(generation)
        return due if deadline is None else min(deadline, due)
