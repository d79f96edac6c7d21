from __future__ import annotations

import asyncio
import errno
import gc
import weakref
from typing import Any

import pytest

from aioice.core.candidate import Candidate
from aioice.core.demux import MAX_DATA
from aioice.core.machine import (
    Accept,
    ChannelBound,
    ChannelUnbound,
    Close,
    Deliver,
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
    Revoke,
    Route,
    SendFailed,
    Transmit,
    Tunables,
    Unroute,
)
from aioice.net.driver import Driver
from aioice.net.relay import RelayTransport
from tests.net.bench import PEER, Bench, Owner, Wire
from tests.net.support import Recorder, turns, until

CANDIDATE = Candidate.from_sdp("1 1 udp 2130706431 192.0.2.1 7 typ host")


# ---------------------------------------------------------------------------------------------------------- commands


async def test_open_udp_send_and_close_in_one_pump() -> None:
    bench = Bench()
    bench.machine.react = lambda report: bench.machine.say(0, Transmit(3, PEER, b"first"))
    bench.say(OpenUdp(3, "::"), Transmit(3, PEER, b"at once"))
    assert bench.machine.reports == [Opened(3, ("2001:db8::5", 5000))]
    assert bench.host.log == [("send", "::", b"at once", PEER), ("send", "::", b"first", PEER)]
    assert bench.driver.links[3] is bench.made[3].transport
    assert list(bench.driver.links) == [3]
    assert not bench.driver.idle
    bench.say(Close(3), Transmit(3, PEER, b"late"), Close(3), Close(99))
    assert bench.host.log[2:] == [("close", "::")]
    assert bench.driver.idle


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError(errno.EADDRNOTAVAIL, "not ours"), Reason.BIND),
        (OSError(errno.EAFNOSUPPORT, "no IPv6"), Reason.BIND),
    ],
)
async def test_open_udp_fails(failure: Exception, reason: Reason) -> None:
    bench = Bench()
    bench.host.failure = failure
    bench.say(OpenUdp(3, "::"))
    assert bench.machine.reports == [OpenFailed(3, reason, str(failure))]
    assert bench.driver.idle


@pytest.mark.parametrize("output", [OpenUdp(3, "::"), OpenStream(3, PEER, None), OpenRelay(3, PEER, PEER, 1)])
async def test_a_fault_of_the_program_while_opening_is_told_to_both(output: Output) -> None:
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context["exception"]))
    bench = Bench()

    def broken(link: int) -> Recorder:
        raise RuntimeError("factory")

    bench.make = broken
    bench.driver = Driver(bench.machine, bench.host, Owner(broken, bench.outputs.append))
    bench.say(output)
    assert bench.machine.reports == [OpenFailed(3, Reason.OTHER, "factory")]
    assert [type(exc) for exc in heard] == [RuntimeError]
    assert bench.driver.idle


@pytest.mark.parametrize("output", [OpenUdp(3, "::"), OpenStream(3, PEER, None)])
async def test_open_that_takes_time(output: Output) -> None:
    bench = Bench()
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.say(output)
    await turns()
    assert bench.machine.reports == []
    assert not bench.driver.idle
    bench.host.gate.set_result(None)
    await turns()
    assert bench.machine.reports == [Opened(3, ("2001:db8::5", 5000))]
    assert bench.driver.links[3] is bench.made[3].transport


@pytest.mark.parametrize(
    ("output", "failure", "reason"),
    [
        (OpenUdp(3, "::"), OSError(errno.EACCES, "no"), Reason.BIND),
        (OpenStream(3, PEER, None), ConnectionRefusedError(errno.ECONNREFUSED, "no"), Reason.REFUSED),
        (OpenStream(3, PEER, None), TimeoutError(), Reason.TIMED_OUT),
    ],
)
async def test_open_that_takes_time_fails(output: Output, failure: Exception, reason: Reason) -> None:
    bench = Bench()
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.say(output)
    bench.host.gate.set_result(failure)
    await turns()
    assert bench.machine.reports == [OpenFailed(3, reason, str(failure))]
    assert bench.driver.idle


@pytest.mark.parametrize("waited", [0, 3])
@pytest.mark.parametrize("output", [OpenUdp(3, "::"), OpenStream(3, PEER, None)])
async def test_close_while_opening(output: Output, waited: int) -> None:
    """Field case F50; a coroutine that never started must not complain either."""
    bench = Bench()
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.say(output)
    await turns(waited)
    bench.say(Close(3))
    await turns()
    assert bench.machine.reports == []
    assert bench.host.gate.cancelled() is (waited > 0)
    assert bench.driver.idle
    gc.collect()


async def test_close_at_the_last_step_of_an_opening() -> None:
    bench = Bench()
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.host.gate.set_result(None)
    bench.say(OpenStream(3, PEER, None))
    # The task has ended, its callback has not run.
    await turns(1)
    assert not bench.machine.reports
    bench.say(Close(3))
    await turns()
    assert bench.machine.reports == []
    assert bench.host.log == [("abort", (PEER, None))]
    assert bench.driver.idle


async def test_failure_after_close_is_not_told() -> None:
    bench = Bench()
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.host.gate.set_result(OSError(errno.EACCES, "no"))
    bench.say(OpenStream(3, PEER, None))
    await turns(1)
    bench.say(Close(3))
    await turns()
    assert bench.machine.reports == []


async def test_a_link_that_is_gone_when_it_opens() -> None:
    bench = Bench()

    class Gone(Wire):
        def is_closing(self) -> bool:
            return True

    async def open_stream(*args: Any) -> Wire:
        return Gone([], "gone")

    bench.host.open_stream = open_stream
    bench.say(OpenStream(3, PEER, None))
    await turns()
    ((report),) = bench.machine.reports
    assert isinstance(report, OpenFailed) and report.reason is Reason.CLOSED
    assert bench.driver.idle


async def test_send_failures_are_reported_after_the_outputs() -> None:
    bench = Bench()
    bench.say(OpenUdp(3, "::"))
    wire = bench.made[3].transport
    bench.machine.reports.clear()
    for failure, reason in (
        (OSError(errno.EMSGSIZE, "big"), Reason.TOO_BIG),
        (OSError(errno.ENETUNREACH, "far"), Reason.UNREACHABLE),
        (OverflowError("port"), Reason.OTHER),
    ):
        wire.failure = failure
        bench.say(Transmit(3, PEER, b"x"), Notify("seen"))
        assert bench.machine.reports.pop() == SendFailed(3, PEER, reason)
    bench.driver.unreachable(3, PEER, ConnectionRefusedError(errno.ECONNREFUSED, ""))
    assert bench.machine.reports == [SendFailed(3, PEER, Reason.REFUSED)]
    bench.driver.unreachable(4, PEER, ConnectionRefusedError(errno.ECONNREFUSED, ""))
    assert len(bench.machine.reports) == 1


async def test_resolve() -> None:
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context["exception"]))
    bench = Bench()
    bench.say(Resolve(1, "stun.example"), Resolve(2, "broken"))
    assert not bench.driver.idle
    await turns()
    assert bench.machine.reports == [Resolved(1, ("192.0.2.77",)), Resolved(2, ())]
    assert [type(exc) for exc in heard] == [RuntimeError]
    assert bench.driver.idle


async def test_datagrams_come_in_with_two_part_addresses() -> None:
    bench = Bench()
    bench.driver.receive(3, PEER, b"a")
    bench.driver.receive(3, ("2001:db8::1", 7, 0, 0), b"b")
    assert bench.machine.datagrams == [(3, PEER, b"a"), (3, ("2001:db8::1", 7), b"b")]


async def test_lost_link_is_told_once_and_not_after_close() -> None:
    bench = Bench()
    bench.say(OpenUdp(3, "::"), OpenUdp(4, "::"))
    bench.machine.reports.clear()
    bench.driver.lost(3, ConnectionResetError("reset"))
    bench.driver.lost(3, None)
    assert bench.machine.reports == [LinkClosed(3, Reason.CLOSED, "reset")]
    bench.say(Close(4))
    bench.driver.lost(4, None)
    assert len(bench.machine.reports) == 1
    assert bench.driver.idle


async def test_adopted_link() -> None:
    bench = Bench()
    log: list[Any] = []
    bench.driver.adopt(5, Wire(log, "theirs"))
    assert bench.machine.reports == []
    assert list(bench.driver.links) == [5]
    bench.say(Transmit(5, PEER, b"x"), Close(5))
    assert log == [("send", "theirs", b"x", PEER), ("close", "theirs")]


async def test_relay() -> None:
    bench = Bench()
    relayed, mapped = ("192.0.2.9", 50000), ("198.51.100.1", 1)
    bench.say(OpenUdp(1, "::"), OpenRelay(2, relayed, mapped, 1))
    assert bench.machine.reports[1] == Opened(2, relayed)
    transport = bench.driver.links[2]
    assert isinstance(transport, RelayTransport)
    assert bench.made[2].transport is transport
    assert transport.get_protocol() is bench.made[2]
    assert transport.get_extra_info("sockname") == relayed
    assert transport.get_extra_info("related_address") == mapped
    assert transport.get_extra_info("socket", "none") == "none"
    transport.sendto(bytearray(b"data"), PEER)
    assert bench.machine.relayed == [(2, PEER, b"data")]
    # X07: the caller learns what does not fit.
    transport.sendto(bytes(MAX_DATA), PEER)
    assert bench.machine.relayed.pop()[2] == bytes(MAX_DATA)
    with pytest.raises(OSError) as caught:
        transport.sendto(bytes(MAX_DATA + 1), PEER)
    assert caught.value.errno == errno.EMSGSIZE
    bench.host.log.pop()
    # What the machine transmits on it goes the same way.
    bench.say(Transmit(2, PEER, b"check"))
    assert [entry[2] for entry in bench.host.log] == [b"wrapped data", b"wrapped check"]
    bench.say(Close(2))
    assert transport.is_closing()
    transport.close()
    transport.abort()
    transport.sendto(b"late", PEER)
    assert len(bench.machine.relayed) == 2
    await turns()
    assert bench.made[2].lost == [None]


class Forwarder(Recorder):
    """On the link to a server: is told what to do with the data of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: dict[int, Any] = {}

    def bind_channel(self, number: int, relay: Any, peer: Any, server: Any) -> None:
        self.channels[number] = (relay, peer, server)

    def unbind_channel(self, number: int) -> None:
        del self.channels[number]


SERVER = ("192.0.2.9", 3478)


async def test_data_over_a_channel_does_not_pass_the_machine() -> None:
    bench = Bench()
    forwarder: Any = Forwarder()
    bench.say(OpenUdp(1, "::"), OpenRelay(2, ("192.0.2.9", 50000), ("198.51.100.1", 1), 1))
    bench.say(ChannelBound(2, PEER, 0x4000, 1, SERVER))
    wire: Any = bench.driver.links[1]
    wire.protocol = forwarder
    bench.say(ChannelBound(2, PEER, 0x4001, 1, SERVER))
    assert forwarder.channels == {0x4001: (bench.made[2], PEER, SERVER)}
    relay: Any = bench.driver.links[2]
    relay.sendto(b"one", PEER)
    relay.send_soon(b"", PEER)
    assert relay.send_many([b"three", b"4"], PEER) == 2
    frames = [b"\x40\x01\x00\x03one", b"\x40\x01\x00\x00", b"\x40\x01\x00\x05three", b"\x40\x01\x00\x014"]
    assert bench.host.log == [("send", "::", frame, SERVER) for frame in frames]
    relay.discard(PEER)
    assert bench.machine.relayed == []
    other = ("192.0.2.1", 8)
    relay.send_soon(b"other", other)
    assert relay.send_many([b"another", b"later"], other) == 1
    relay.discard(other)
    assert [data for _, _, data in bench.machine.relayed] == [b"other", b"another"]
    for send in (relay.send_soon, lambda data, addr: relay.send_many([data], addr)):
        with pytest.raises(OSError):
            send(bytes(MAX_DATA + 1), PEER)
    bench.say(ChannelUnbound(2, PEER), ChannelUnbound(2, PEER), ChannelUnbound(7, PEER))
    assert forwarder.channels == {}
    relay.sendto(b"again", PEER)
    assert bench.machine.relayed[-1] == (2, PEER, b"again")
    bench.say(ChannelBound(2, PEER, 0x4000, 1, SERVER), ChannelBound(2, PEER, 0x4002, 9, SERVER))
    bench.say(ChannelBound(9, PEER, 0x4002, 1, SERVER))
    bench.say(Close(2))
    assert forwarder.channels == {}


async def test_a_channel_over_what_gathers() -> None:
    """Beside asyncio's own methods."""
    bench = Bench()
    bench.say(OpenUdp(1, "::"), OpenRelay(2, ("192.0.2.9", 50000), ("198.51.100.1", 1), 1))
    wire: Any = bench.driver.links[1]
    wire.gathers = True
    wire.send_soon = lambda data, addr: wire.log.append(("soon", data))
    wire.send_many = lambda frames, addr: wire.log.append(("many", frames)) or 1
    wire.discard = lambda addr: wire.log.append(("discard", addr))
    bench.say(ChannelBound(2, PEER, 0x4000, 1, SERVER))
    relay: Any = bench.driver.links[2]
    relay.send_soon(b"x", PEER)
    assert relay.send_many([b"y", b"z"], PEER) == 1
    relay.discard(PEER)
    frames = [b"\x40\x00\x00\x01y", b"\x40\x00\x00\x01z"]
    assert bench.host.log == [("soon", b"\x40\x00\x00\x01x"), ("many", frames), ("discard", SERVER)]


async def test_relay_of_a_machine_that_has_none() -> None:
    bench = Bench()
    bench.say(OpenRelay(2, PEER, PEER, 1))
    bench.driver.relay_send = None
    bench.say(Transmit(2, PEER, b"x"))
    assert bench.machine.relayed == []


# ------------------------------------------------------------------------------------------------- what is handed out


async def test_order_of_what_is_handed_out() -> None:
    bench = Bench()
    route = Route(1, 3, PEER, CANDIDATE)
    outputs = [
        Notify("one"),
        Accept(3, PEER, 1),
        Done("over"),
        route,
        Deliver(3, PEER, b"data"),
        Unroute(1),
        Revoke(3, PEER),
    ]
    armed: list[bool] = []

    def on_output(output: Output) -> None:
        bench.outputs.append(output)
        armed.append(bench.driver._timer is not None)

    bench.on_output = on_output
    bench.machine.deadline = bench.driver.now() + 100
    bench.say(*outputs, OpenUdp(3, "::"))
    assert bench.outputs == [*outputs[1:2], *outputs[3:], Notify("one"), Done("over")]
    # The last two come when the reports are in and the timer is set.
    assert armed == [False] * 5 + [True] * 2
    assert len(bench.machine.reports) == 1
    bench.driver.close()


async def test_callbacks_may_call_back() -> None:
    bench = Bench()
    order: list[str] = []

    def on_output(output: Output) -> None:
        match output:
            case Notify(event=event):
                order.append(f"{event} in")
                if event == "one":
                    assert bench.driver.do(bench.machine.say, Notify("three"), Unroute(2)) == 2
                    bench.driver.receive(3, PEER, b"x") if not bench.machine.outputs else None
                    bench.driver.report(Resolved(1, ()))
                order.append(f"{event} out")
            case _:
                order.append(type(output).__name__)

    bench.on_output = on_output
    bench.say(Notify("one"), Notify("two"))
    assert order == ["one in", "one out", "Unroute", "two in", "two out", "three in", "three out"]
    assert bench.machine.reports == [Resolved(1, ())]


async def test_an_exception_of_the_application_stops_nothing() -> None:
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context["exception"]))
    bench = Bench()

    def on_output(output: Output) -> None:
        bench.outputs.append(output)
        raise RuntimeError("application")

    bench.on_output = on_output
    bench.machine.deadline = bench.driver.now() + 100
    bench.say(Accept(3, PEER, 1), Notify("one"), OpenUdp(3, "::"), Notify("two"))
    assert bench.outputs == [Accept(3, PEER, 1), Notify("one"), Notify("two")]
    assert len(heard) == 3
    assert len(bench.machine.reports) == 1
    assert not bench.driver.idle
    bench.driver.close()


async def test_a_verb_that_raises_has_its_outputs_carried_out() -> None:
    bench = Bench()

    def verb(now: float) -> None:
        bench.machine.say(now, Unroute(1))
        raise ValueError("wrong call")

    with pytest.raises(ValueError, match="wrong call"):
        bench.driver.do(verb)
    assert bench.outputs == [Unroute(1)]
    bench.say(Unroute(2))
    assert bench.outputs == [Unroute(1), Unroute(2)]


async def test_tunables_reach_the_machine_when_they_changed() -> None:
    bench = Bench()
    current = Tunables()
    driver = Driver(bench.machine, bench.host, Owner(bench.make, bench.outputs.append, lambda: current))
    driver.do(bench.machine.say)
    driver.do(bench.machine.say)
    assert bench.machine.reports == [Tunables()]
    current = Tunables(consent_interval=1)
    driver.do(bench.machine.set_deadline, 0)
    await until(lambda: bench.machine.timeouts)
    assert bench.machine.reports == [Tunables(), Tunables(consent_interval=1)]
    current = Tunables(retry_max=2)
    driver.do(bench.machine.set_deadline, 0.001)
    current = Tunables(retry_max=3)
    await until(lambda: len(bench.machine.timeouts) == 2)
    assert [report.retry_max for report in bench.machine.reports[2:] if isinstance(report, Tunables)] == [2, 3]


# ----------------------------------------------------------------------------------------------------------- the end


async def test_close_ends_everything() -> None:
    bench = Bench()
    bench.say(OpenUdp(1, "a"), OpenUdp(2, "b"))
    bench.host.gate = asyncio.get_running_loop().create_future()
    bench.machine.deadline = bench.driver.now() + 100
    bench.say(OpenUdp(3, "c"), OpenStream(4, PEER, None), Resolve(1, "stun.example"))
    before = len(bench.machine.reports)
    bench.driver.close()
    bench.driver.close()
    assert bench.host.log == [("abort", "a"), ("abort", "b")]
    await turns()
    assert bench.driver.idle
    assert bench.driver.links == {}
    assert len(bench.machine.reports) == before
    # What the machine still wants is thrown away.
    bench.host.gate = None
    bench.say(
        OpenUdp(5, "d"), Resolve(2, "stun.example"), OpenStream(6, PEER, None), Notify("x"), Transmit(1, PEER, b"")
    )
    await turns()
    assert bench.driver.idle
    assert bench.outputs == []


async def test_close_within_a_pump() -> None:
    bench = Bench()
    bench.on_output = lambda output: bench.driver.close()
    bench.machine.deadline = bench.driver.now() + 100
    bench.say(OpenUdp(1, "a"), Unroute(1), OpenUdp(2, "b"))
    assert bench.driver.idle
    assert bench.host.log == [("abort", "a")]


async def test_a_closed_driver_is_garbage() -> None:
    bench = Bench()
    bench.machine.deadline = bench.driver.now() + 100
    bench.say(OpenUdp(1, "a"), OpenRelay(2, PEER, PEER, 1))
    bench.driver.close()
    await turns()
    gone = weakref.ref(bench.driver)
    del bench
    gc.collect()
    assert gone() is None
