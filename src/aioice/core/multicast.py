"""Multicast DNS for candidates that hide their address: asks for ``.local`` names and answers for one's own (RFC 6762).

A link is one interface in one address family, on which the group can be reached; the runner opens links and makes them
known. There are three departures from the RFC, for names that are random and were signalled to the one who asks:

* no probing and no announcements (§8): nobody can have such a name by chance, or ask for it before it is signalled;
* no random delay (§5.2) and two questions of one type each instead of one message (§5.3): an answer to the latter has
  to be delayed (§6.3), and somebody waits for it;
* the second interval between questions is no longer than the first (§5.2): a look-up lasts seconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from . import dnswire
from .address import IPV4, ipv4_text, ipv6_text, parse_host
from .candidate import is_mdns_hostname
from .dnswire import TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_NSEC, Question, Record
from .machine import Done, LinkClosed, Output, Transmit

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Address, Report

#: RFC 6762 §3.
PORT = 5353
GROUP_IPV4 = ("224.0.0.251", PORT)
GROUP_IPV6 = ("ff02::fb", PORT)

#: Names that are looked up at the same time; more are refused.
MAX_NAMES = 1024

#: Addresses that are taken for one name, and records that are put into one message (they fit in 1280 bytes).
MAX_ADDRESSES = 8
MAX_ANSWERS = 12

#: RFC 6762 §10: records that hold an address.
TTL = 120

#: RFC 6762 §6.7: what one who asks from another port can be told.
LEGACY_TTL = 10

#: RFC 6762 §6: a record is not multicast again on a link before this time; so answers are remembered as long.
QUIET = 1.0


class Answered(NamedTuple):
    """A look-up has ended. Without addresses, nobody has answered in time, or it was not possible to ask."""

    query: int
    addresses: tuple[str, ...]


class _Lookup:
    """One name that is asked for, and who wants to know."""

    __slots__ = ("name", "started", "asked", "next", "queries")

    def __init__(self, name: bytes, now: float) -> None:
        self.name = name
        #: The beginning of the series of questions at 0, 1, 2, 4, 8 … seconds.
        self.started = now
        self.asked = now
        self.next = now
        #: The deadline of each query.
        self.queries: dict[int, float | None] = {}

    def join(self, now: float, query: int, timeout: float | None) -> None:
        if self.queries:
            # One who comes late must not wait for the end of a long interval. One second apart is near enough.
            self.started = self.next = min(self.next, max(now, self.asked + 1))
        self.queries[query] = None if timeout is None else now + timeout

    def was_asked(self, now: float) -> None:
        self.asked = now
        step = 1.0
        while self.started + step <= now:
            step *= 2
        self.next = self.started + step

    def expired(self, now: float) -> list[int]:
        return [query for query, deadline in self.queries.items() if deadline is not None and deadline <= now]

    @property
    def wakeup(self) -> float:
        return min([self.next, *(deadline for deadline in self.queries.values() if deadline is not None)])


class Multicast:
    """Resolver and responder of one host."""

    def __init__(self) -> None:
        #: Datagrams that were not multicast DNS, and responses that cannot have come from a responder.
        self.dropped = 0
        self._links: dict[int, Address] = {}
        self._lookups: dict[bytes, _Lookup] = {}
        self._names: dict[int, bytes] = {}
        #: What was answered in the last second, and until when it is remembered.
        self._recent: dict[bytes, tuple[float, tuple[str, ...]]] = {}
        self._published: dict[bytes, dict[int, Record]] = {}
        #: When a record was multicast on a link for the last time, and when it is due again.
        self._sent: dict[tuple[int, Record], float] = {}
        self._late: dict[tuple[int, Record], float] = {}
        self._outputs: deque[Output | Answered] = deque()
        self._closed = False

    # ------------------------------------------------------------------------------------------------------- verbs

    def add_link(self, link: int, group: Address = GROUP_IPV4) -> None:
        """The group can be reached over ``link`` from now on."""
        if not self._closed:
            self._links[link] = group

    def remove_link(self, link: int) -> None:
        self._links.pop(link, None)
        self._forget(lambda number, _: number == link)

    def resolve(self, now: float, query: int, name: str, timeout: float | None) -> None:
        """Look a name up; ends in one :class:`Answered`, unless it is cancelled. ``None`` waits for ever."""
        key = dnswire.encode_name(name) if is_mdns_hostname(name) else None
        if self._closed or key is None:
            self._outputs.append(Answered(query, ()))
            return
        addresses = self._known(now, key)
        lookup = self._lookups.get(key)
        if addresses or not self._links or (lookup is None and len(self._lookups) >= MAX_NAMES):
            self._outputs.append(Answered(query, addresses))
            return
        if lookup is None:
            lookup = self._lookups[key] = _Lookup(key, now)
        lookup.join(now, query, timeout)
        self._names[query] = key
        self.handle_timeout(now)

    def cancel(self, query: int) -> None:
        """Nobody wants to know any more."""
        key = self._names.pop(query, None)
        if key is not None:
            lookup = self._lookups[key]
            del lookup.queries[query]
            if not lookup.queries:
                del self._lookups[key]

    def publish(self, name: str, address: str) -> None:
        """Answer for ``name`` from now on; an address that it had in this family is replaced."""
        if not is_mdns_hostname(name):
            raise ValueError(f"{name!r} is not a name of one label under .local")
        family, number = parse_host(address)
        key, type = dnswire.encode_name(name), TYPE_A if family == IPV4 else TYPE_AAAA
        records = self._published.setdefault(key, {})
        old = records.get(type)
        records[type] = Record(key, type, dnswire.CLASS_IN, TTL, number.to_bytes(4 if family == IPV4 else 16, "big"))
        if old != records[type]:
            self._forget(lambda _, record: record == old or (record.name == key and record.type == TYPE_NSEC))

    def unpublish(self, name: str) -> None:
        if is_mdns_hostname(name):
            key = dnswire.encode_name(name)
            self._published.pop(key, None)
            self._forget(lambda _, record: record.name == key)

    def close(self) -> None:
        """End all look-ups and answer nobody."""
        if not self._closed:
            self._closed = True
            self._outputs.clear()
            self._outputs.extend(Answered(query, ()) for query in self._names)
            self._outputs.append(Done("closed"))
            for state in (
                self._names,
                self._lookups,
                self._recent,
                self._published,
                self._sent,
                self._late,
                self._links,
            ):
                state.clear()

    # -------------------------------------------------------------------------------------------------- the machine

    def handle_datagram(self, now: float, link: int, peer: Address, data: bytes) -> None:
        packet = dnswire.parse(data)
        # RFC 6762 §6: responses that were not sent from the port of multicast DNS must be ignored.
        if packet is None or (packet.response and peer[1] != PORT):
            self.dropped += 1
        elif packet.response:
            self._handle_response(now, packet.records)
        elif link in self._links:
            self._handle_query(now, link, peer, packet)

    def handle_report(self, now: float, report: Report) -> None:
        if isinstance(report, LinkClosed):
            self.remove_link(report.link)

    def handle_timeout(self, now: float) -> None:
        for lookup in list(self._lookups.values()):
            for query in lookup.expired(now):
                self.cancel(query)
                self._outputs.append(Answered(query, ()))
            if lookup.queries and lookup.next <= now:
                self._ask(now, lookup)
        due = [entry for entry, time in self._late.items() if time <= now]
        for link, record in due:
            # It may have come along with the one before.
            if self._late.pop((link, record), None) is not None:
                self._multicast(now, link, [record])

    def poll_output(self) -> Output | Answered | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> float | None:
        times = [lookup.wakeup for lookup in self._lookups.values()]
        times += self._late.values()
        return min(times, default=None)

    # ---------------------------------------------------------------------------------------------------- resolver

    def _known(self, now: float, key: bytes) -> tuple[str, ...]:
        if key in self._published:
            return tuple(_address(record) for record in self._published[key].values())
        until, addresses = self._recent.get(key, (now, ()))
        return addresses if now < until else ()

    def _ask(self, now: float, lookup: _Lookup) -> None:
        lookup.was_asked(now)
        for link, group in self._links.items():
            for type in (TYPE_A, TYPE_AAAA):
                self._outputs.append(Transmit(link, group, dnswire.build_query(lookup.name, type)))

    def _handle_response(self, now: float, records: list[Record]) -> None:
        found: dict[bytes, list[str]] = {}
        for record in records:
            # RFC 6762 §10.1: a TTL of zero says good-bye.
            if record.name in self._lookups and _is_address(record) and record.ttl > 0:
                addresses = found.setdefault(record.name, [])
                address = _address(record)
                if address not in addresses and len(addresses) < MAX_ADDRESSES:
                    addresses.append(address)
        if found:
            self._recent = {key: value for key, value in self._recent.items() if now < value[0]}
        for key, addresses in found.items():
            answer = tuple(addresses)
            for query in self._lookups.pop(key).queries:
                del self._names[query]
                self._outputs.append(Answered(query, answer))
            if len(self._recent) < MAX_NAMES:
                self._recent[key] = (now + QUIET, answer)

    # --------------------------------------------------------------------------------------------------- responder

    def _handle_query(self, now: float, link: int, peer: Address, packet: dnswire.Packet) -> None:
        known = {record[:3] + record[4:]: record.ttl for record in packet.records}
        legacy = peer[1] != PORT
        multicast: list[Record] = []
        unicast: list[Record] = []
        answered: list[Question] = []
        for question in packet.questions:
            for record in self._answers(question):
                # RFC 6762 §7.1: who knows the record, and for at least half of its life, is not told.
                if known.get(record[:3] + record[4:], 0) >= TTL / 2 or record in multicast or record in unicast:
                    continue
                quiet_until = self._sent.get((link, record), now - QUIET) + QUIET
                if legacy or (question.unicast and now < quiet_until):
                    unicast.append(record)
                    answered.append(question)
                elif now < quiet_until:
                    self._late.setdefault((link, record), quiet_until)
                else:
                    multicast.append(record)
        if multicast:
            self._multicast(now, link, multicast[:MAX_ANSWERS])
        if unicast:
            more = self._additional(unicast)
            self._outputs.append(Transmit(link, peer, _unicast(packet.id, legacy, answered, unicast, more)))

    def _answers(self, question: Question) -> list[Record]:
        if question.cls not in (dnswire.CLASS_IN, dnswire.CLASS_ANY):
            return []
        records = self._published.get(question.name, {})
        found = [record for type, record in records.items() if question.type in (type, TYPE_ANY)]
        # RFC 6762 §6.1: who asks for what the name has not is told so; names are ours alone without probing for them.
        return found or [_nothing_else(records)] if records else []

    def _additional(self, records: list[Record]) -> list[Record]:
        """RFC 6762 §6.2: the addresses of the other family come along, or that there are none."""
        more: list[Record] = []
        for name in dict.fromkeys(record.name for record in records):
            known = self._published[name]
            rest = list(known.values()) if len(known) > 1 else [_nothing_else(known)]
            more += [record for record in rest if record not in records]
        return more[: max(0, MAX_ANSWERS - len(records))]

    def _multicast(self, now: float, link: int, records: list[Record]) -> None:
        more = [
            record for record in self._additional(records) if now >= self._sent.get((link, record), now - QUIET) + QUIET
        ]
        for record in records + more:
            self._sent[link, record] = now
            self._late.pop((link, record), None)
        self._outputs.append(Transmit(link, self._links[link], dnswire.build_response(records, additional=more)))

    def _forget(self, gone: Callable[[int, Record], bool]) -> None:
        for times in (self._sent, self._late):
            for entry in [entry for entry in times if gone(*entry)]:
                del times[entry]


def _nothing_else(records: dict[int, Record]) -> Record:
    """That a name has these records only."""
    return dnswire.nsec(next(iter(records.values())).name, records, TTL)


def _unicast(
    id: int, legacy: bool, questions: list[Question], records: list[Record], additional: list[Record]
) -> bytes:
    records = records[:MAX_ANSWERS]
    if not legacy:
        return dnswire.build_response(records, additional=additional)
    # RFC 6762 §6.7: as a conventional server answers, without the bit that makes others forget, and for a short time.
    questions = list(dict.fromkeys(questions))[:MAX_ANSWERS]
    records, additional = ([record._replace(ttl=LEGACY_TTL) for record in some] for some in (records, additional))
    return dnswire.build_response(records, id, questions, flush=0, additional=additional)


def _is_address(record: Record) -> bool:
    size = {TYPE_A: 4, TYPE_AAAA: 16}.get(record.type)
    return record.cls == dnswire.CLASS_IN and len(record.rdata) == size


def _address(record: Record) -> str:
    number = int.from_bytes(record.rdata, "big")
    return ipv4_text(number) if record.type == TYPE_A else ipv6_text(number)
