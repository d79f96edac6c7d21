"""Two agents under a hostile network, and the promises that every machine makes (``aioice.core.machine``)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aioice.core.gathering import StunServer, TurnServer
from aioice.sim import Behaviour, World
from fuzz.fuzz_agent import Runner, act, one_input
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
        "rate": draw(st.sampled_from([0.0, 100_000.0])),
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


class Drawn:
    """Choices by Hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def one_of(self, values: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(values))

    def blob(self, longest: int) -> bytes:
        return self._draw(st.binary(max_size=longest))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.booleans())
def test_any_inputs_in_any_order(data: st.DataObject, controlling: bool, lite: bool, servers: bool) -> None:
    """No exception, a later time-out after each wake-up, nothing from a wake-up that is too early, one end."""
    runner, choices = Runner(controlling=controlling, lite=lite, servers=servers), Drawn(data)
    for _ in range(data.draw(st.integers(1, 60))):
        act(runner, choices)
        runner.wake_too_early()
    runner.finish(choices)


def test_a_great_many_random_inputs() -> None:
    """The fuzz target on random bytes that are the same in each run."""
    random = Random(8445)
    for _ in range(400):
        one_input(random.randbytes(random.randrange(400)))
