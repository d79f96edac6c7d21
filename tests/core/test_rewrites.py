"""1:1 NATs: what the peer is told in place of, or beside, local addresses."""

from __future__ import annotations

import pytest

from aioice.core.rewrites import AddressRewrite, check_rewrite, rewritten
from tests.core.agent_scene import Scene as AgentScene
from tests.core.gather_scene import HOST, HOST6, OTHER, STUN, Scene

OUT, OUT6 = "203.0.113.5", "2001:db8:5::5"


def rewrite(*rules: AddressRewrite, host: str = "10.0.0.5", interface: str | None = None) -> object:
    return rewritten([check_rewrite(rule) for rule in rules], host, interface)


class TestRules:
    @pytest.mark.parametrize(
        "rule, fits",
        [
            (AddressRewrite(OUT), True),
            (AddressRewrite(OUT6), False),
            (AddressRewrite(OUT, "10.0.0.5"), True),
            (AddressRewrite(OUT, "10.0.0.6"), False),
            (AddressRewrite(OUT, "10.0.0.0/8"), True),
            (AddressRewrite(OUT, "10.0.0.4/31"), True),
            (AddressRewrite(OUT, "10.0.0.6/31"), False),
            (AddressRewrite(OUT, "0.0.0.0/0"), True),
            (AddressRewrite(OUT, interface="eth0"), True),
            (AddressRewrite(OUT, interface="eth1"), False),
            (AddressRewrite(OUT, "10.0.0.6", "eth0"), False),
        ],
    )
    def test_for_whom(self, rule: AddressRewrite, fits: bool) -> None:
        assert rewrite(rule, interface="eth0") == (OUT if fits else None, [])

    def test_the_narrowest_counts(self) -> None:
        rules = [
            AddressRewrite("203.0.113.1"),
            AddressRewrite("203.0.113.2", interface="eth0"),
            AddressRewrite("203.0.113.3", "10.0.0.5"),
        ]
        assert rewrite(*rules, interface="eth0") == ("203.0.113.3", [])
        assert rewrite(*rules[:2], interface="eth0") == ("203.0.113.2", [])
        assert rewrite(*rules[:2], interface="eth1") == ("203.0.113.1", [])

    def test_replacing_and_adding(self) -> None:
        rules = [AddressRewrite(OUT), AddressRewrite("203.0.113.6", add=True), AddressRewrite("203.0.113.7", add=True)]
        assert rewrite(*rules) == (OUT, ["203.0.113.6", "203.0.113.7"])

    def test_ipv6(self) -> None:
        assert rewrite(AddressRewrite(OUT6, "2001:DB8::/32"), host=HOST6) == (OUT6, [])
        assert rewrite(AddressRewrite(OUT6, "2001:db9::/32"), host=HOST6) == (None, [])

    @pytest.mark.parametrize(
        "rule",
        [
            AddressRewrite("nonsense"),
            AddressRewrite(OUT, "nonsense"),
            AddressRewrite(OUT, HOST6),
            AddressRewrite(OUT, "10.0.0.0/33"),
            AddressRewrite(OUT, "10.0.0.0/-1"),
            AddressRewrite(OUT6, "2001:db8::/129"),
            AddressRewrite(OUT, "10.0.0.0/"),
        ],
    )
    def test_what_makes_no_sense(self, rule: AddressRewrite) -> None:
        with pytest.raises(ValueError, match="address rewrite"):
            check_rewrite(rule)


class TestCandidates:
    def test_in_place_of_the_host_address(self) -> None:
        scene = Scene(rewrites=[AddressRewrite(OUT, HOST)]).gather(HOST, OTHER)
        assert [(c.type, c.host, c.port) for c in scene.candidates] == [("host", OUT, 1001), ("host", OTHER, 1002)]

    def test_which_makes_the_reflexive_one_redundant(self) -> None:
        scene = Scene(STUN, rewrites=[AddressRewrite(OUT)]).gather(HOST)
        scene.answer(scene.queries[0], (OUT, 1001))
        assert len(scene.candidates) == 1

    def test_beside_the_host_address(self) -> None:
        scene = Scene(STUN, rewrites=[AddressRewrite(OUT, add=True)]).gather(HOST)
        host, added = scene.candidates
        assert (host.type, host.host) == ("host", HOST)
        assert (added.type, added.host, added.port) == ("srflx", OUT, 1001)
        assert (added.related_address, added.related_port) == (HOST, 1001)
        scene.answer(scene.queries[0], (OUT, 1001))
        assert len(scene.candidates) == 2

    def test_for_an_interface(self) -> None:
        scene = Scene(rewrites=[AddressRewrite(OUT, interface="wan")])
        scene.gatherer.interfaces = {HOST: "wan", OTHER: "lan"}
        scene.gather(HOST, OTHER)
        assert [c.host for c in scene.candidates] == [OUT, OTHER]

    def test_the_interfaces_are_those_of_the_call(self) -> None:
        """What the caller does to its own dictionary no trace could tell."""
        scene, interfaces = AgentScene(address_rewrites=(AddressRewrite(OUT, interface="wan"),)), {HOST: "wan"}
        scene.agent.set_interfaces(scene.now, interfaces)
        interfaces.clear()
        assert [c.host for c in scene.gather().agent.local_candidates] == [OUT]

    def test_not_where_such_candidates_are_not_wanted(self) -> None:
        scene = Scene(rewrites=[AddressRewrite(OUT, add=True)], types=frozenset(("host",))).gather(HOST)
        assert [c.type for c in scene.candidates] == ["host"]
