"""Statistics by the names and shapes of W3C's webrtc-stats: candidate pairs, candidates and transports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .agent import Agent
    from .candidate import Candidate
    from .checklist import Pair

    Stats = dict[str, Any]


class Traffic(Record):
    """The application's data on one base; what was sent is None where its transport does not count."""

    component: int
    packets_sent: int | None
    bytes_sent: int | None
    packets_received: int
    bytes_received: int

    def fields(self) -> Stats:
        names = ("packetsSent", "bytesSent", "packetsReceived", "bytesReceived")
        return {name: value for name, value in zip(names, self[1:], strict=True) if value is not None}


def collect(agent: Agent, timestamp: float, traffic: Mapping[int, Traffic], dropped: Mapping[str, int]) -> Stats:
    """All objects by their ids; ``timestamp`` in milliseconds since 1970, ``traffic`` by link."""
    generation = agent.generation
    result: dict[str, Stats] = {}

    def put(kind: str, identity: str, **fields: Any) -> str:
        values = {key: value for key, value in fields.items() if value is not None}
        result[identity] = {"id": identity, "timestamp": timestamp, "type": kind, **values}
        return identity

    for candidate in agent.local_candidates:
        put("local-candidate", _id("local", candidate), **_candidate(candidate, generation.local_username))
    for candidate in generation.remote_candidates:
        put("remote-candidate", _id("remote", candidate), **_candidate(candidate, generation.remote_username))
    selected: dict[int, str] = {}
    for pair in generation.checks.pairs:
        local, remote = _id("local", pair.local), _id("remote", pair.remote)
        if local not in result:
            put("local-candidate", local, **_candidate(pair.local, generation.local_username))
        if remote not in result:
            put("remote-candidate", remote, **_candidate(pair.remote, generation.remote_username))
        in_use = agent.pair_in_use(pair.component) is pair
        data = traffic.get(pair.base.link) if in_use else None
        identity = f"pair-{generation.local_username}-{pair.base.link}-{pair.remote.host}-{pair.remote.port}"
        fields = {**_pair(pair), **(data.fields() if data is not None else {})}
        put("candidate-pair", identity, localCandidateId=local, remoteCandidateId=remote, **fields)
        if in_use:
            selected[pair.component] = identity
    for component in range(1, agent.components + 1):
        put(
            "transport",
            f"transport-{component}",
            iceRole="controlling" if agent.controlling else "controlled",
            iceLocalUsernameFragment=generation.local_username,
            iceState=str(agent.state),
            selectedCandidatePairId=selected.get(component),
            droppedByReason=dict(dropped) if component == 1 else None,
            **_sum([data for data in traffic.values() if data.component == component]),
        )
    return result


def _sum(traffic: list[Traffic]) -> Stats:
    fields: Stats = {"packetsSent": 0, "bytesSent": 0, "packetsReceived": 0, "bytesReceived": 0}
    for data in traffic:
        for name, value in data.fields().items():
            fields[name] += value
    return fields


def _id(side: str, candidate: Candidate) -> str:
    return f"{side}-{candidate.component}-{candidate.type}-{candidate.transport}-{candidate.host}-{candidate.port}"


def _candidate(candidate: Candidate, username: str | None) -> Stats:
    return {
        "transportId": f"transport-{candidate.component}",
        "address": candidate.host,
        "port": candidate.port,
        "protocol": str(candidate.transport).lower(),
        "candidateType": candidate.type,
        "priority": candidate.priority,
        "foundation": candidate.foundation,
        "relatedAddress": candidate.related_address,
        "relatedPort": candidate.related_port,
        "usernameFragment": candidate.ufrag or username,
        "tcpType": candidate.tcptype,
    }


def _pair(pair: Pair) -> Stats:
    return {
        "transportId": f"transport-{pair.component}",
        "state": str(pair.state),
        "nominated": pair.nominated,
        "priority": pair.priority,
        "totalRoundTripTime": pair.total_rtt,
        "currentRoundTripTime": pair.rtt,
        "requestsSent": pair.requests_sent,
        "requestsReceived": pair.requests_received,
        "responsesSent": pair.requests_received,
        "responsesReceived": pair.responses_received,
        "consentRequestsSent": pair.consent_requests_sent,
    }
