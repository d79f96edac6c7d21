"""Two agents under a hostile network, and the promises that every machine makes (``aioice.core.machine``)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aioice.core.agent import Agent, AgentConfig
from aioice.core.candidate import Candidate
from aioice.core.events import ConnectionClosed
from aioice.core.gathering import StunServer, TurnServer
from aioice.core.machine import (
    Close,
    Done,
    LinkClosed,
    Notify,
    Opened,
    OpenFailed,
    OpenRelay,
    OpenStream,
    OpenUdp,
    Output,
    Reason,
    Resolve,
    Resolved,
    SendFailed,
    Tunables,
)
from aioice.core.message import Class, Message, Method
from aioice.sim import Behaviour, World
from tests.scenarios.support import PATIENCE, STUN, TURN, Pair, behind, pair

SEEDS = st.integers(0, 1 << 32)


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, float]:
    return {
        "delay": draw(st.sampled_from([0.0001, 0.01, 0.05, 0.3])),
        "loss": draw(st.sampled_from([0.0, 0.05, 0.2, 0.5])),
        "jitter": draw(st.sampled_from([0.0, 0.02])),
        "duplicate": draw(st.sampled_from([0.0, 0.2])),
        "reorder": draw(st.sampled_from([0.0, 0.2])),
    }


@st.composite
def worlds(draw: st.DrawFn) -> Pair:
    """Two agents, each perhaps behind a NAT, perhaps with servers, with roles that may be in conflict."""
    world = World(draw(SEEDS))
    world.network(**draw(conditions()))
    world.stun_server(STUN[0])
    world.turn_server(TURN[0], username="user", password="secret", relay="198.51.100.3")
    behaviours = st.sampled_from(list(Behaviour))
    hosts = []
    for number in (1, 2):
        if draw(st.booleans()):
            options = {"mapping": draw(behaviours), "filtering": draw(behaviours)}
            hosts.append(behind(world, f"203.0.113.{number}", f"10.0.{number}.2", **options)[1])
        else:
            hosts.append(world.host(f"192.0.2.{number}"))
    config: dict[str, Any] = {"components": draw(st.integers(1, 2))}
    if draw(st.booleans()):
        config["stun_server"] = StunServer(*STUN)
    if draw(st.booleans()):
        config["turn_server"] = TurnServer(*TURN, username="user", password="secret")
    roles = [{"controlling": draw(st.booleans())} for _ in hosts]
    return pair(world, hosts=(hosts[0], hosts[1]), left=roles[0], right=roles[1], **config)


def settle(p: Pair) -> float:
    """Until both are connected or have given up; returns when checks began."""
    begun = p.gather().exchange().start().world.now
    p.world.run_until(lambda: all(peer.live or peer.agent.state in ("failed", "closed") for peer in p), 400)
    return begun


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_connected_both_ways_or_failed_in_time(p: Pair) -> None:
    begun = settle(p)
    for peer in p:
        if peer.agent.state == "failed":
            assert peer.time_of("failed") >= begun + PATIENCE
    if all(peer.live for peer in p):
        p.world.network(delay=0.01)
        p.world.run(until=p.world.now + 60)
        if all(peer.live for peer in p):
            p.talk()
            for peer, other in p.both:
                assert peer.agent.controlling is not other.agent.controlling
                assert set(peer.routed) == set(other.routed)


@settings(max_examples=25, deadline=None)
@given(st.data(), SEEDS)
def test_a_direct_path_is_always_found(data: st.DataObject, seed: int) -> None:
    """Two public hosts and less than half of the packets lost: there is no excuse."""
    world = World(seed)
    world.network(**{**data.draw(conditions()), "loss": data.draw(st.sampled_from([0.0, 0.1, 0.3]))})
    p = pair(world, components=data.draw(st.integers(1, 3)))
    p.connect(PATIENCE)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_same_seed_same_outputs(seed: int) -> None:
    """Outputs depend on the configuration, the random bytes and the inputs alone."""

    def outputs() -> list[Any]:
        world = World(seed)
        world.network(delay=0.02, loss=0.2, reorder=0.1, duplicate=0.1)
        world.stun_server(STUN[0])
        hosts = [behind(world, f"203.0.113.{n}", f"10.0.{n}.2")[1] for n in (1, 2)]
        p = pair(world, hosts=(hosts[0], hosts[1]), stun_server=StunServer(*STUN))
        settle(p)
        world.run(until=world.now + 30)
        return [(time, repr(out)) for peer in p for time, out in peer.node.outputs if "object at" not in repr(out)]

    assert outputs() == outputs()


# ------------------------------------------------------------------------------------------------ one agent, any input


class Runner:
    """Feeds an agent and holds it to its promises after every step."""

    def __init__(self, seed: int, *, controlling: bool, lite: bool, servers: bool) -> None:
        self.now = 0.0
        self._random = World(seed).random_bytes
        config = AgentConfig(
            controlling,
            components=2,
            lite=lite,
            stun_server=StunServer("stun.example", 3478) if servers else None,
            turn_server=TurnServer(*TURN, username="user", password="secret") if servers else None,
        )
        self.agent = Agent(config, self._random, "locl", "localpasswordlocalpass")
        self.links: list[int] = []
        self.opening: list[tuple[int, str]] = []
        self.queries: list[int] = []
        self.outputs: list[Output] = []
        self.closes: list[int] = []
        self.done = 0

    def step(self, verb: Any, *args: object) -> None:
        verb(self.now, *args)
        self.drain()

    def drain(self) -> None:
        for _ in range(3000):
            output = self.agent.poll_output()
            if output is None:
                return
            self.see(output)
        raise AssertionError("outputs without end")

    def see(self, output: Output) -> None:
        assert not self.done or isinstance(output, Close)
        self.outputs.append(output)
        if isinstance(output, OpenUdp | OpenStream | OpenRelay):
            self.opening.append((output.link, "192.0.2.1"))
        elif isinstance(output, Resolve):
            self.queries.append(output.query)
        elif isinstance(output, Close):
            assert output.link not in self.closes
            self.closes.append(output.link)
            self.opening = [(link, host) for link, host in self.opening if link != output.link]
        elif isinstance(output, Done):
            self.done += 1

    def wake(self) -> None:
        """The time has come: what is due is due later afterwards."""
        deadline = self.agent.poll_timeout()
        if deadline is not None:
            self.now = max(self.now, deadline)
        self.step(self.agent.handle_timeout)
        deadline = self.agent.poll_timeout()
        assert deadline is None or deadline > self.now

    def spurious(self) -> None:
        """A call before the time changes nothing that can be seen."""
        deadline = self.agent.poll_timeout()
        if deadline is None or deadline > self.now:
            before = len(self.outputs)
            self.step(self.agent.handle_timeout)
            assert len(self.outputs) == before
            assert self.agent.poll_timeout() == deadline


PEERS = [("192.0.2.2", 7000), ("192.0.2.3", 7001), STUN, TURN, ("2001:db8::1", 9)]
CANDIDATES = [
    "1 1 udp 2130706431 192.0.2.2 7000 typ host",
    "2 2 udp 2130706430 192.0.2.2 7000 typ host",
    "3 1 udp 1694498815 192.0.2.3 7001 typ srflx raddr 0.0.0.0 rport 0 ufrag remo",
    "4 1 udp 2113937151 somebody.local 7000 typ host",
    "5 1 tcp 2105524479 192.0.2.3 9 typ host tcptype active",
    "6 1 udp 1 2001:DB8:0::1 9 typ relay ufrag othr",
]


def check(agent: Agent, draw: Any) -> bytes:
    """A Binding request or answer, signed with a good or a bad key, with any of the attributes that matter."""
    attributes: dict[str, Any] = {}
    if draw(st.booleans()):
        attributes["USERNAME"] = draw(st.sampled_from(["locl:remo", "locl:x", "remo:locl", "loc2:remo", ":", ""]))
    if draw(st.booleans()):
        attributes["PRIORITY"] = draw(st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1]))
    for name in ("ICE-CONTROLLING", "ICE-CONTROLLED"):
        if draw(st.booleans()):
            attributes[name] = draw(st.sampled_from([0, (1 << 64) - 1]))
    if draw(st.booleans()):
        attributes["USE-CANDIDATE"] = None
    if draw(st.booleans()):
        attributes["XOR-MAPPED-ADDRESS"] = draw(st.sampled_from(PEERS))
    if draw(st.booleans()):
        attributes["ERROR-CODE"] = (draw(st.sampled_from([400, 403, 420, 487, 500])), "no")
    kind = draw(st.sampled_from(list(Class)))
    message = Message(Method.BINDING, kind, draw(st.binary(min_size=12, max_size=12)), attributes)
    key = draw(st.sampled_from([b"localpasswordlocalpass", b"remotepasswordremote22", b"bad", None]))
    if key is not None:
        message.add_message_integrity(key)
    return bytes(message)


def act(runner: Runner, draw: Any) -> None:
    """One input of any kind."""
    agent, now = runner.agent, runner.now
    links = runner.links or [1]
    match draw(st.integers(0, 13)):
        case 0:
            runner.step(agent.gather, draw(st.integers(1, 2)), ["192.0.2.1", "2001:db8::5"], 5.0)
        case 1:
            line = draw(st.sampled_from([None, *CANDIDATES]))
            runner.step(agent.add_remote_candidate, line if line is None else Candidate.from_sdp(line))
        case 2:
            runner.step(agent.connect, "remo", "remotepasswordremote22", draw(st.booleans()))
        case 3:
            runner.step(agent.restart, draw(st.sampled_from(["locl", "loc2"])), "localpasswordlocalpass")
        case 4 if runner.opening:
            link, host = runner.opening.pop(draw(st.integers(0, len(runner.opening) - 1)))
            if draw(st.booleans()):
                runner.step(agent.handle_report, OpenFailed(link, draw(st.sampled_from(list(Reason))), "no"))
            else:
                runner.links.append(link)
                runner.step(agent.handle_report, Opened(link, (host, 5000 + link)))
        case 5 if runner.queries:
            query = runner.queries.pop()
            addresses = draw(st.sampled_from([(), ("192.0.2.2",), ("2001:db8::1", "192.0.2.2")]))
            runner.step(agent.handle_report, Resolved(query, addresses))
        case 6:
            link = draw(st.sampled_from(links))
            runner.step(agent.handle_report, SendFailed(link, draw(st.sampled_from(PEERS)), Reason.REFUSED))
        case 7 if runner.links and draw(st.booleans()):
            link = runner.links.pop()
            runner.step(agent.handle_report, LinkClosed(link, Reason.CLOSED, "gone"))
        case 8:
            data = draw(st.binary(max_size=60))
            runner.step(agent.handle_datagram, draw(st.sampled_from(links)), draw(st.sampled_from(PEERS)), data)
        case 9 | 10:
            data = check(agent, draw)
            runner.step(agent.handle_datagram, draw(st.sampled_from(links)), draw(st.sampled_from(PEERS)), data)
        case 11:
            runner.now = now + draw(st.sampled_from([0.0, 0.001, 0.3, 7.0]))
            runner.step(agent.handle_timeout)
        case 12:
            runner.wake()
        case 13:
            runner.step(agent.handle_report, Tunables(draw(st.sampled_from([0.1, 5])), 2, 1, 0.05))


@settings(max_examples=250, deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.booleans())
def test_any_inputs_in_any_order(data: st.DataObject, controlling: bool, lite: bool, servers: bool) -> None:
    runner = Runner(1, controlling=controlling, lite=lite, servers=servers)
    for _ in range(data.draw(st.integers(1, 40))):
        act(runner, data.draw)
        runner.spurious()
    # After close the queue drains, stays empty, and Done comes once.
    runner.step(runner.agent.close)
    for _ in range(20):
        if runner.done:
            break
        runner.wake()
    assert runner.done == 1
    assert runner.agent.poll_timeout() is None
    # What was still being opened has been closed, and no report of it follows.
    assert runner.opening == []
    after = len(runner.outputs)
    for _ in range(5):
        act(runner, data.draw)
    assert [out for out in runner.outputs[after:] if not isinstance(out, Close)] == []
    told = [out for out in runner.outputs if isinstance(out, Notify) and isinstance(out.event, ConnectionClosed)]
    assert len(told) == 1
    assert set(runner.links) <= set(runner.closes)
