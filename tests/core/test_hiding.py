"""Host addresses behind mDNS names (draft-ietf-mmusic-mdns-ice-candidates §3.1): what is told, and what is done."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.bases import BaseLost, Found
from aioice.core.candidate import Candidate, candidate_foundation
from aioice.core.checklist import Base
from aioice.core.events import LocalCandidate, SelectedPair
from aioice.core.hiding import hidden, is_hidden, no_address, related_address, shown_report
from aioice.core.machine import LinkClosed, Reason
from tests.core.agent_scene import Scene as AgentScene
from tests.core.check_scene import PEER
from tests.core.gather_scene import HOST, HOST6, MAPPED, OTHER, RELAYED, STUN, STUN6, TURN_SERVER, Scene
from tests.core.pairs import candidate

NAME, NAME6 = "0a1b2c3d-0000-4000-8000-00000000000a.local", "0a1b2c3d-0000-4000-8000-00000000000b.local"
NAMES = {HOST: NAME, HOST6: NAME6}


def scene(*servers: Any, **options: Any) -> Scene:
    made = Scene(*servers, **options)
    made.gatherer.names = NAMES
    return made


def bases(made: Scene) -> list[Base]:
    return [output.base for output in made.outputs if isinstance(output, Found)]


def texts(things: list[Any]) -> str:
    return " ".join(map(repr, things))


class TestForms:
    def test_hidden(self) -> None:
        real = candidate(HOST, 1000)
        shown = hidden(real, NAME)
        assert (shown.host, shown.address, shown.port, shown.priority) == (NAME, NAME, 1000, real.priority)
        assert real.host == HOST

    @pytest.mark.parametrize(("host", "expected"), [(HOST, "0.0.0.0"), (HOST6, "::")])
    def test_related_address(self, host: str, expected: str) -> None:
        """RFC 8839 §5.1: with port 9."""
        real = candidate(host, 1000)
        assert related_address(Base(1, real, 5)) == (host, 1000)
        base = Base(1, real, 5, hidden(real, NAME))
        assert is_hidden(base) and not is_hidden(Base(1, real, 5))
        assert related_address(base) == no_address(host) == (expected, 9)


class TestGathering:
    def test_host_candidates(self) -> None:
        """One name for each address, shared by the components; inside, the base keeps its address."""
        made = scene().gather(HOST, HOST6).gather(HOST, HOST6, component=2)
        assert [found.host for found in made.candidates] == [NAME, NAME6, NAME, NAME6]
        assert {found.type for found in made.candidates} == {"host"}
        assert [base.candidate.host for base in bases(made)] == [HOST, HOST6, HOST, HOST6]
        assert all(base.shown is found for base, found in zip(bases(made), made.candidates, strict=True))
        assert [(base.candidate.port, base.candidate.priority) for base in bases(made)] == [
            (found.port, found.priority) for found in made.candidates
        ]

    def test_foundations(self) -> None:
        """Not of the address: it could be found by trying all. Of the name, so the same for all components."""
        made = scene(stun=STUN).gather(HOST).gather(HOST, component=2)
        for query in made.queries:
            made.answer(query)
        found = {(c.type, c.component): c.foundation for c in made.candidates}
        assert found["host", 1] == found["host", 2] == candidate_foundation("host", "udp", NAME)
        assert found["srflx", 1] == found["srflx", 2] == candidate_foundation("srflx", "udp", NAME, server=STUN[0])
        assert bases(made)[0].candidate.foundation == found["host", 1]

    @pytest.mark.parametrize(
        ("host", "server", "mapped", "expected"),
        [(HOST, STUN, MAPPED, "0.0.0.0"), (HOST6, STUN6, ("2001:db8:f::9", 40000), "::")],
    )
    def test_reflexive(self, host: str, server: Any, mapped: Any, expected: str) -> None:
        made = scene(stun=server).gather(host)
        made.answer(made.queries[0], mapped)
        found = made.candidates[1]
        assert (found.type, found.host, found.port) == ("srflx", *mapped)
        assert (found.related_address, found.related_port) == (expected, 9)
        assert host not in texts(made.candidates)

    def test_reflexive_one_is_not_redundant(self) -> None:
        """§3.1.2.2: without a NAT the server sees the base, whose own candidate shows but a name."""
        made = scene(stun=STUN).gather(HOST)
        query = made.queries[0]
        made.answer(query, made.open[query.link])
        assert [(c.type, c.host) for c in made.candidates] == [("host", NAME), ("srflx", HOST)]
        open_one = Scene(stun=STUN).gather(HOST)
        open_one.answer(open_one.queries[0], open_one.open[open_one.queries[0].link])
        assert [c.type for c in open_one.candidates] == ["host"]

    def test_relayed(self) -> None:
        """Its related address is what the server saw of us, which is the host's own address without a NAT."""
        made = scene(None, TURN_SERVER).gather(HOST)
        found = made.candidates[1]
        assert (found.type, found.host, found.port) == ("relay", *RELAYED)
        assert (found.related_address, found.related_port) == ("0.0.0.0", 9)

    def test_server_reports(self) -> None:
        """They name the base that asked as everything else does, and of a stream's address the family."""
        made = scene(STUN).gather(HOST)
        made.answer(made.queries[0])
        (report,) = made.gatherer.reports
        assert report.local == (NAME, made.open[made.queries[0].link][1])
        for local, shown in (((HOST, 5), (NAME, 5)), (("192.0.2.99", 5), ("0.0.0.0", 9)), (None, None)):
            assert shown_report(report._replace(local=local), NAMES).local == shown

    def test_relayed_alone(self) -> None:
        """Also when there is no host candidate."""
        made = Scene(None, TURN_SERVER)
        made.gatherer.names = {}
        assert [(c.type, c.related_address) for c in made.gather().candidates] == [("relay", "0.0.0.0")]


class TestAgent:
    """From the name on to the selected pair."""

    @pytest.fixture
    def agent(self) -> AgentScene:
        made = AgentScene()
        made.agent.hide(made.now, NAMES)
        return made

    def selected(self, made: AgentScene) -> Candidate:
        return [event for event in made.log if isinstance(event, SelectedPair)][-1].local

    def told(self, made: AgentScene) -> str:
        return texts([thing for thing in made.log if isinstance(thing, LocalCandidate | SelectedPair)])

    def connect(self, made: AgentScene, mapped: Any) -> Candidate:
        if not made.agent.local_candidates:
            made.gather()
        made.add(candidate(*PEER)).add(None).connect()
        made.answer(made.checks[0], mapped=mapped).hear()
        return self.selected(made)

    def test_the_names_are_those_of_the_call(self) -> None:
        """What the caller does to its own dictionary no trace could tell."""
        made, names = AgentScene(), dict(NAMES)
        made.agent.hide(made.now, names)
        names[HOST] = NAME6
        (own,) = made.gather().agent.local_candidates
        assert own.host == NAME

    def test_selected_pair_shows_the_name(self, agent: AgentScene) -> None:
        (own,) = agent.gather().agent.local_candidates
        assert own.host == NAME
        assert self.connect(agent, (HOST, own.port)) is own
        assert HOST not in self.told(agent)

    def test_peer_reflexive(self, agent: AgentScene) -> None:
        """What the peer sees is told, and not from where it comes."""
        found = self.connect(agent, MAPPED)
        assert (found.type, found.host, found.port) == ("prflx", *MAPPED)
        assert (found.related_address, found.related_port) == ("0.0.0.0", 9)
        assert found.foundation == candidate_foundation("prflx", "udp", NAME)
        assert HOST not in self.told(agent)

    def test_peer_reflexive_with_our_address(self, agent: AgentScene) -> None:
        """A NAT on this host that changes the port alone."""
        found = self.connect(agent, (HOST, 7))
        assert (found.type, found.host, found.port) == ("prflx", NAME, 7)
        assert HOST not in self.told(agent)

    def test_pairs_are_formed_by_the_address(self, agent: AgentScene) -> None:
        (link,) = agent.gather().open
        assert agent.agent.can_pair(link, candidate(*PEER))
        assert not agent.agent.can_pair(link, candidate("2001:db8::9", 9))
        assert not agent.agent.can_pair(99, candidate(*PEER)) and not agent.agent.can_pair(None, candidate(*PEER))
        agent.add(candidate(*PEER)).connect()
        assert len(agent.agent.check_list) == 1 and HOST not in texts(agent.agent.check_list)

    def test_lost_base(self) -> None:
        """Its reflexive candidates go with it, though nothing in them tells whose they are."""
        made = scene(stun=STUN).gather(HOST, OTHER)
        for number, query in enumerate(made.queries):
            made.answer(query, (MAPPED[0], 1 + number))
        own, _, reflexive, _ = made.candidates
        made.report(LinkClosed(bases(made)[0].link, Reason.OTHER, "gone"))
        (lost,) = made.take(BaseLost)
        assert lost.candidates == (own, reflexive)
