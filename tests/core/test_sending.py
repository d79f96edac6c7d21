"""Through which pair the data leaves, and whether the peer consents (RFC 7675)."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.checklist import CheckList, Pair
from aioice.core.events import ConsentExpired, SelectedPair
from aioice.core.generation import Generation
from aioice.core.machine import Notify, Route, Tunables, Unroute
from aioice.core.selection import Selection
from aioice.core.sending import DoubtsChanged, Sending, SendingEnded, Silent
from tests.core.pairs import base, candidate, drain

TUNABLES = Tunables(consent_interval=5, consent_failures=6)


class Scene:
    """A sending whose random numbers are in the middle: it asks every 5 s, doubts after 15 s, ends after 30 s."""

    def __init__(self, *, lite: bool = False) -> None:
        self.sending = Sending(lambda size: b"\x80" + bytes(size - 1), TUNABLES, lite=lite)
        self.generation = Generation("ours", "our password", 2, CheckList(True, 100), Selection())

    def pair(self, component: int = 1, port: int = 5000) -> Pair:
        pair = self.generation.checks.add(
            base(component, component=component), candidate(port=port, component=component, foundation=str(port))
        )
        assert pair is not None
        return pair

    def used(self, component: int = 1, now: float = 0.0) -> Pair:
        pair = self.pair(component, 5000 + component)
        self.sending.use(now, self.generation, pair)
        self.drain()
        return pair

    def ask(self, now: float, transaction_id: bytes = b"transaction!") -> list[Pair]:
        """What is asked now, as the agent does it."""
        asking = self.sending.to_ask(now)
        for use, consent in asking:
            consent.asked(now, transaction_id + bytes([use.pair.component]))
        return [use.pair for use, _ in asking]

    def drain(self) -> list[Any]:
        """The outputs, events without what they are wrapped in."""
        outputs = drain(self.sending)
        return [output.event if isinstance(output, Notify) else output for output in outputs]


class TestRoutes:
    def test_of_a_pair(self) -> None:
        scene = Scene()
        pair = scene.pair()
        scene.sending.use(0.0, scene.generation, pair)
        route, told = scene.drain()
        assert route == Route(1, 1, pair.peer, pair.remote)
        assert isinstance(told, SelectedPair)
        assert (told.component, told.local, told.remote, told.nominated) == (1, pair.local, pair.remote, False)

    def test_of_the_same_pair_nominated(self) -> None:
        """The route stands and consent goes on; the application is told."""
        scene = Scene()
        pair = scene.used()
        consent = scene.sending.uses[0].consent
        pair.nominated = True
        scene.sending.use(3.0, scene.generation, pair)
        (told,) = scene.drain()
        assert isinstance(told, SelectedPair) and told.nominated
        assert scene.sending.uses[0].consent is consent
        assert scene.ask(5.1) == [pair]

    def test_of_another_pair(self) -> None:
        """Consent is counted anew: an answer to the old pair tells nothing about this one."""
        scene = Scene()
        old = scene.used()
        assert scene.ask(5.1) == [old]
        new = scene.pair(port=6000)
        scene.sending.use(6.0, scene.generation, new)
        assert [type(output) for output in scene.drain()] == [Route, SelectedPair]
        assert scene.ask(10.9) == [] and scene.ask(11.1) == [new]
        scene.sending.answered(12.0, old, b"transaction!\x01")
        assert scene.sending.uses[0].consent is not None
        assert scene.sending.uses[0].consent.outstanding == (b"transaction!\x01",)

    @pytest.mark.parametrize("answered", [True, False])
    def test_in_place_of_one_that_is_silent(self, answered: bool) -> None:
        """RFC 7675 §5.1: nobody asks the old pair any more, and what waits for it may not outlive its consent."""
        scene = Scene()
        old = scene.used()
        for now in (5.1, 10.2, 15.3):
            scene.ask(now)
        if answered:
            scene.sending.answered(16.0, old, b"transaction!\x01")
        scene.drain()
        scene.sending.use(16.0, scene.generation, scene.pair(port=6000))
        assert [type(output) for output in scene.drain()] == [Unroute] * (not answered) + [Route, SelectedPair]

    def test_in_place_of_one_that_is_dead(self) -> None:
        scene = Scene()
        scene.generation.checks.fail(scene.used(), "no consent")
        scene.sending.use(6.0, scene.generation, scene.pair(port=6000))
        assert [type(output) for output in scene.drain()] == [Unroute, Route, SelectedPair]

    def test_for_each_component(self) -> None:
        scene = Scene()
        one, two = scene.used(1), scene.used(2)
        assert scene.ask(5.1) == [one, two]
        scene.sending.close()
        assert scene.drain() == [Unroute(1), Unroute(2)]

    def test_a_candidate_that_is_signalled_later(self) -> None:
        # RFC 8838 §11
        scene = Scene()
        one, two = scene.used(1), scene.used(2)
        known = candidate(port=two.peer[1], component=2)
        two.remote = known
        scene.sending.rename(known)
        assert scene.drain() == [Route(2, 2, two.peer, known)]
        scene.sending.rename(candidate(port=9))
        assert scene.drain() == [] and one.remote is not known

    def test_a_pause(self) -> None:
        scene = Scene()
        scene.used()
        scene.sending.pause(1)
        assert scene.drain() == [Unroute(1)]
        assert scene.sending.uses == () and scene.ask(100.0) == []


class TestForced:
    def test_without_checks_and_consent(self) -> None:
        scene = Scene()
        remote = candidate(port=7)
        scene.sending.force(1, 4, remote)
        assert scene.drain() == [Route(1, 4, (remote.host, 7), remote)]
        assert scene.sending.forced == {1: (4, (remote.host, 7))}
        assert scene.ask(1000.0) == [] and scene.sending.poll_timeout() is None

    def test_in_place_of_a_pair_in_use(self) -> None:
        scene = Scene()
        scene.used()
        scene.sending.force(1, 4, candidate(port=7))
        assert scene.ask(1000.0) == []
        scene.drain()
        scene.sending.close()
        assert scene.drain() == [Unroute(1)]

    def test_closing(self) -> None:
        scene = Scene()
        scene.sending.force(2, 4, candidate(port=7, component=2))
        scene.used(1)
        scene.sending.close()
        assert scene.drain() == [Unroute(1), Unroute(2)]
        assert scene.sending.uses == () and scene.sending.forced == {}
        scene.sending.close()
        assert scene.drain() == []


class TestConsent:
    def test_asked_when_due(self) -> None:
        # RFC 7675 §5.1
        scene = Scene()
        pair = scene.used()
        due = scene.sending.poll_timeout()
        assert due == pytest.approx(5.0, abs=0.01)
        assert scene.ask(4.9) == []
        assert scene.ask(due) == [pair]
        assert scene.ask(due) == []
        assert scene.sending.poll_timeout() == pytest.approx(10.0, abs=0.02)

    @pytest.mark.parametrize("first, second", [(1, 2), (2, 1)])
    def test_the_earliest_of_two(self, first: int, second: int) -> None:
        scene = Scene()
        scene.used(first, now=2.0)
        scene.used(second, now=0.0)
        assert scene.sending.poll_timeout() == pytest.approx(5.0, abs=0.01)
        scene.sending.pause(second)
        assert scene.sending.poll_timeout() == pytest.approx(7.0, abs=0.01)
        scene.sending.use(10.0, scene.generation, scene.pair(second, 6000))
        assert scene.sending.poll_timeout() == pytest.approx(7.0, abs=0.01)

    def test_doubts_and_the_end(self) -> None:
        scene = Scene()
        scene.used().nominated = True
        times = []
        told: list[tuple[float, Any]] = []
        while (now := scene.sending.poll_timeout()) is not None:
            if scene.ask(now):
                times.append(round(now))
            after = scene.sending.poll_timeout()
            assert after is None or after > now
            told += [(now, output) for output in scene.drain()]
        assert times == [5, 10, 15, 20, 25]
        (doubt, changed), (end, expired), (_, unroute), (_, ended) = told
        assert unroute == Unroute(1)
        assert doubt == 15.0 and changed == DoubtsChanged(1)
        assert end == 30.0
        reason = "consent expired: no answer from the peer for 30.0 s"
        assert isinstance(expired, ConsentExpired) and (expired.component, expired.reason) == (1, reason)
        assert ended == SendingEnded(scene.generation, 1, reason)
        assert scene.sending.uses == () and not scene.sending.doubted

    def test_an_answer_ends_the_doubt(self) -> None:
        scene = Scene()
        pair = scene.used()
        pair.nominated = True
        scene.ask(5.1)
        scene.ask(15.1)
        assert scene.drain() == [DoubtsChanged(1)] and scene.sending.doubted
        scene.ask(15.2)
        assert scene.drain() == []
        scene.sending.answered(16.0, pair, b"transaction!\x01")
        assert scene.drain() == [DoubtsChanged(1)] and not scene.sending.doubted
        scene.sending.answered(16.1, pair, b"transaction!\x01")
        assert scene.drain() == []
        # RFC 7675 §5.1: counted from the answer.
        scene.ask(21.0)
        scene.ask(45.9)
        assert scene.sending.uses and scene.ask(46.1) == [] and not scene.sending.uses

    def test_silence_on_a_pair_that_is_not_nominated(self) -> None:
        """It is for the agent to say whether there is another."""
        scene = Scene()
        pair = scene.used()
        for now in (5.1, 15.1):
            scene.ask(now)
        scene.drain()
        scene.ask(30.1)
        reason = "consent expired: no answer from the peer for 30.1 s"
        assert scene.drain() == [Silent(scene.generation, pair, reason)]
        assert scene.sending.uses[0].pair is pair

    def test_no_pair_any_more(self) -> None:
        scene = Scene()
        scene.used()
        scene.sending.end(scene.sending.uses[0], "why")
        assert scene.drain() == [Unroute(1), SendingEnded(scene.generation, 1, "why")]

    def test_one_of_two_components_in_doubt(self) -> None:
        scene = Scene()
        one, _ = scene.used(1), scene.used(2)
        scene.ask(5.1)
        scene.sending.answered(5.2, one, b"transaction!\x01")
        scene.ask(15.1)
        assert scene.drain() == [DoubtsChanged(2)] and scene.sending.doubted

    def test_refused(self) -> None:
        # RFC 7675 §5.2
        scene = Scene()
        pair = scene.used()
        scene.sending.refused(pair)
        expired, unroute, ended = scene.drain()
        assert unroute == Unroute(1)
        assert isinstance(expired, ConsentExpired)
        assert expired.reason == ended.reason == "the peer revoked its consent"
        scene.sending.refused(pair)
        scene.sending.answered(1.0, pair, b"")
        assert scene.drain() == []

    def test_refused_for_a_pair_that_is_no_longer_in_use(self) -> None:
        scene = Scene()
        old = scene.used()
        scene.sending.use(0.0, scene.generation, scene.pair(port=6000))
        scene.drain()
        scene.sending.refused(old)
        assert scene.drain() == [] and scene.sending.uses

    def test_tunables_count_at_once(self) -> None:
        scene = Scene()
        scene.used().nominated = True
        scene.ask(5.1)
        scene.sending.tune(Tunables(consent_interval=1, consent_failures=8))
        scene.ask(8.1)
        assert Unroute(1) in scene.drain()

    def test_doubt_ends_with_an_answer_only(self) -> None:
        scene = Scene()
        scene.used()
        scene.ask(5.1)
        scene.ask(15.1)
        assert scene.drain() == [DoubtsChanged(1)]
        scene.sending.tune(Tunables(consent_interval=50))
        scene.ask(16.0)
        assert scene.drain() == [] and scene.sending.doubted

    def test_tunables_count_for_later_pairs(self) -> None:
        scene = Scene()
        scene.sending.tune(Tunables(consent_interval=1, consent_failures=8))
        scene.used()
        assert scene.sending.poll_timeout() == pytest.approx(1.0, abs=0.01)

    def test_a_lite_agent_does_not_ask(self) -> None:
        # RFC 7675 §4: it sends no checks, and so no consent requests.
        scene = Scene(lite=True)
        pair = scene.used()
        assert scene.sending.poll_timeout() is None
        scene.sending.tune(Tunables(consent_interval=1))
        assert scene.ask(1000.0) == []
        scene.sending.answered(1000.0, pair, b"")
        assert scene.drain() == [] and not scene.sending.doubted
