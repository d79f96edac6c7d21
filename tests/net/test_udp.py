from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from aioice.net import endpoint, linux, sender, udp
from aioice.net.udp import UdpTransport, open_udp
from tests.net.support import NoReaders, Recorder, closed_port, turns, until

Run = Callable[..., None]

HOSTS = ["127.0.0.1", "::1"]


def opened(host: str = "127.0.0.1") -> tuple[UdpTransport, Recorder, tuple[str, int]]:
    protocol = Recorder()
    transport = open_udp(asyncio.get_running_loop(), protocol, host)
    return transport, protocol, transport.get_extra_info("sockname")[:2]


class Stuck(socket.socket):
    """A socket whose sends fail as told: an exception, or nothing to send really."""

    plan: list[type[OSError] | OSError | None]

    def sendto(self, data: Any, *args: Any) -> int:
        step = self.plan.pop(0) if self.plan else None
        if step is not None:
            raise step
        return super().sendto(data, *args)


def stuck(*plan: type[OSError] | OSError | None) -> tuple[UdpTransport, Recorder, Stuck]:
    sock = Stuck(socket.AF_INET, socket.SOCK_DGRAM)
    sock.plan = list(plan)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    protocol = Recorder()
    return UdpTransport(asyncio.get_running_loop(), sock, protocol), protocol, sock


@pytest.mark.parametrize("host", HOSTS)
def test_there_and_back(run: Run, host: str) -> None:
    async def main() -> None:
        one, one_protocol, one_address = opened(host)
        two, two_protocol, two_address = opened(host)
        assert one_protocol.transport is one
        one.sendto(b"ping", two_address)
        await until(lambda: two_protocol.received)
        assert two_protocol.received == [(b"ping", one_address)]
        two.sendto(bytearray(b"pong"), one_address)
        two.sendto(memoryview(b"pong")[1:3], one_address)
        two.sendto(b"", one_address)
        await until(lambda: len(one_protocol.received) == 3)
        assert one_protocol.received == [(b"pong", two_address), (b"on", two_address), (b"", two_address)]
        one.close()
        two.close()
        await turns()

    run(main())


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", 65507), ("::1", 65527)])
def test_largest_datagram_arrives_whole_and_one_more_byte_raises(run: Run, host: str, largest: int) -> None:
    """Field case X07."""

    async def main() -> None:
        transport, protocol, address = opened(host)
        transport.sendto(bytes(largest), address)
        for size in (largest + 1, 70000):
            with pytest.raises(OSError) as caught:
                transport.sendto(bytes(size), address)
            assert caught.value.errno == errno.EMSGSIZE
        await until(lambda: protocol.received)
        transport.sendto(b"goes on", address)
        await until(lambda: len(protocol.received) == 2)
        assert [len(data) for data in protocol.data] == [largest, 7]
        # The system has put its own word on the second one into the error queue; the caller knows already.
        assert not protocol.errors
        transport.close()

    run(main())


def test_extra_info_and_protocol(run: Run) -> None:
    async def main() -> None:
        transport, protocol, address = opened()
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("socket").getsockname() == address
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("peername", 1) == 1
        assert transport.get_protocol() is protocol
        assert str(address[1]) in repr(transport)
        second = Recorder()
        transport.set_protocol(second)
        transport.sendto(b"x", address)
        await until(lambda: second.received)
        with pytest.raises(TypeError):
            transport.set_protocol(asyncio.Protocol())
        transport.close()
        assert "closing" in repr(transport)

    run(main())


def test_bind_to_what_is_taken_or_not_ours_raises(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _, address = opened()
        with pytest.raises(OSError) as taken:
            open_udp(loop, Recorder(), *address)
        assert taken.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError) as foreign:
            open_udp(loop, Recorder(), "203.0.113.1")
        assert foreign.value.errno == errno.EADDRNOTAVAIL
        transport.close()

    run(main())


def test_scoped_address() -> None:
    with pytest.raises(OSError):
        udp.bind_udp("fe80::ffff%1")
    assert udp._socket_address("fe80::1%1", 5)[3] == 1


@pytest.mark.parametrize("host", HOSTS)
def test_closed_port_is_told_with_its_address(run: Run, host: str) -> None:
    async def main() -> None:
        transport, protocol, address = opened(host)
        dead = closed_port(host)
        transport.sendto(b"anybody?", dead)
        await until(lambda: protocol.unreachable)
        ((peer, exc),) = protocol.unreachable
        assert peer == dead
        assert isinstance(exc, ConnectionRefusedError)
        assert protocol.errors == [exc]
        # Reading and sending go on.
        transport.sendto(b"still there", address)
        await until(lambda: protocol.received)
        assert len(protocol.errors) == 1
        transport.close()

    run(main())


@pytest.mark.parametrize("host", HOSTS)
def test_dead_peers_cost_the_living_one_nothing(run: Run, host: str) -> None:
    async def main() -> None:
        transport, protocol, _ = opened(host)
        other, other_protocol, other_address = opened(host)
        dead = [closed_port(host) for _ in range(5)]
        for round_ in range(10):
            for peer in dead:
                transport.sendto(b"x", peer)
                transport.sendto(b"%d" % round_, other_address)
            await asyncio.sleep(0)
        await until(lambda: len(other_protocol.received) == 50)
        await until(lambda: {peer for peer, _ in protocol.unreachable} == set(dead))
        transport.close()
        other.close()

    run(main())


def test_an_error_does_not_keep_the_loop_awake(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wakes = 0
    original = UdpTransport._read_ready

    def counted(self: UdpTransport) -> None:
        nonlocal wakes
        wakes += 1
        original(self)

    monkeypatch.setattr(UdpTransport, "_read_ready", counted)

    async def main() -> None:
        transport, protocol, address = opened()
        transport.sendto(b"x", closed_port())
        await until(lambda: protocol.unreachable)
        with pytest.raises(OSError):
            transport.sendto(bytes(65508), address)
        await asyncio.sleep(0.05)
        assert wakes < 10
        transport.sendto(b"x", address)
        await until(lambda: protocol.received)
        transport.close()

    run(main())


def test_protocol_without_a_word_for_peers(run: Run) -> None:
    class Plain(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.errors: list[Exception] = []

        def error_received(self, exc: Exception) -> None:
            self.errors.append(exc)

    async def main() -> None:
        protocol = Plain()
        transport = open_udp(asyncio.get_running_loop(), protocol, "127.0.0.1")
        transport.sendto(b"x", closed_port())
        await until(lambda: protocol.errors)
        transport.close()

    run(main())


def test_exceptions_of_callbacks_stop_nothing(run: Run) -> None:
    class Broken(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raise RuntimeError("made")

        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            raise RuntimeError("received")

        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            raise RuntimeError("error")

    async def main() -> None:
        protocol = Broken()
        transport = open_udp(asyncio.get_running_loop(), protocol, "127.0.0.1")
        address = transport.get_extra_info("sockname")
        for _ in range(3):
            transport.sendto(b"x", address)
        await until(lambda: len(protocol.received) == 3)
        transport.sendto(b"x", closed_port())
        await until(lambda: protocol.errors)
        transport.sendto(b"x", address)
        await until(lambda: len(protocol.received) == 4)
        transport.close()

    run(main(), complaints=6)


def test_a_flood_leaves_turns_to_others(run: Run) -> None:
    async def main() -> None:
        transport, protocol, address = opened()
        for _ in range(3 * udp.READ_BATCH):
            transport.sendto(b"x", address)
        counts: list[int] = []
        while len(protocol.received) < 3 * udp.READ_BATCH:
            await asyncio.sleep(0)
            counts.append(len(protocol.received))
        assert all(after - before <= udp.READ_BATCH for before, after in zip([0, *counts], counts, strict=False))
        transport.close()

    run(main())


def test_close_in_a_callback_ends_the_batch(run: Run) -> None:
    class Once(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.close()

    async def main() -> None:
        protocol = Once()
        transport = open_udp(asyncio.get_running_loop(), protocol, "127.0.0.1")
        address = transport.get_extra_info("sockname")
        transport.sendto(b"1", address)
        transport.sendto(b"2", address)
        await until(lambda: protocol.lost)
        assert protocol.data == [b"1"]

    run(main())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_close_is_immediate_silent_and_idempotent(run: Run, end: str) -> None:
    async def main() -> None:
        transport, protocol, address = opened()
        other, other_protocol, other_address = opened()
        transport.sendto(b"bye", other_address)
        getattr(transport, end)()
        assert transport.is_closing()
        assert transport.get_extra_info("socket").fileno() == -1
        assert protocol.lost == []
        transport.close()
        transport.abort()
        transport.sendto(b"too late", other_address)
        other.sendto(b"to nobody", address)
        await until(lambda: protocol.lost)
        await until(lambda: other_protocol.unreachable and other_protocol.received)
        assert protocol.lost == [None]
        assert other_protocol.data == [b"bye"]
        assert protocol.received == []
        other.close()

    run(main())


def test_blocked_socket_queues_in_order_and_close_flushes(run: Run) -> None:
    async def main() -> None:
        receiver, received, address = opened()
        transport, protocol, sock = stuck(None, BlockingIOError, BlockingIOError)
        for n in range(4):
            transport.sendto(bytearray(b"%d" % n), address)
        assert transport.get_write_buffer_size() == 3
        transport.close()
        transport.sendto(b"too late", address)
        assert sock.fileno() >= 0
        assert protocol.lost == []
        await until(lambda: protocol.lost)
        await until(lambda: len(received.received) == 4)
        assert received.data == [b"0", b"1", b"2", b"3"]
        assert sock.fileno() == -1
        assert transport.get_write_buffer_size() == 0
        receiver.close()

    run(main())


def test_queue_flushes_and_sending_goes_on(run: Run) -> None:
    async def main() -> None:
        receiver, received, address = opened()
        transport, protocol, sock = stuck(BlockingIOError)
        transport.sendto(b"1", address)
        transport.sendto(b"2", address)
        await until(lambda: not transport.get_write_buffer_size())
        transport.sendto(b"3", address)
        await until(lambda: len(received.received) == 3)
        assert received.data == [b"1", b"2", b"3"]
        assert not protocol.lost
        transport.close()
        receiver.close()

    run(main())


def test_abort_drops_the_queue(run: Run) -> None:
    async def main() -> None:
        receiver, received, address = opened()
        for closing in (False, True):
            transport, protocol, sock = stuck(BlockingIOError)
            transport.sendto(b"1", address)
            if closing:
                transport.close()
            transport.abort()
            assert sock.fileno() == -1
            await until(lambda protocol=protocol: protocol.lost)
            assert protocol.lost == [None]
        await asyncio.sleep(0.01)
        assert received.received == []
        receiver.close()

    run(main())


def test_queue_is_bounded_in_datagrams_and_bytes(run: Run) -> None:
    async def main() -> None:
        transport, _, sock = stuck(BlockingIOError)
        address = ("127.0.0.1", 9)
        for _ in range(sender.QUEUE_DATAGRAMS + 7):
            transport.sendto(b"x", address)
        assert transport.dropped == 7
        transport.abort()

        transport, _, sock = stuck(BlockingIOError)
        for _ in range(40):
            transport.sendto(bytes(60000), address)
        assert transport.get_write_buffer_size() <= sender.QUEUE_BYTES
        assert transport.dropped == 40 - sender.QUEUE_BYTES // 60000
        with pytest.raises(OSError) as caught:
            transport.sendto(bytes(65508), address)
        assert caught.value.errno == errno.EMSGSIZE
        transport.abort()

    run(main())


def test_an_old_error_is_not_this_datagrams(run: Run) -> None:
    async def main() -> None:
        receiver, received, address = opened()
        transport, protocol, sock = stuck(ConnectionRefusedError(errno.ECONNREFUSED, ""), OSError(errno.EMSGSIZE, ""))
        transport.sendto(b"1", address)
        sock.plan = [ConnectionRefusedError(errno.ECONNREFUSED, ""), BlockingIOError()]
        transport.sendto(b"2", address)
        sock.plan = [ConnectionRefusedError(errno.ECONNREFUSED, ""), BlockingIOError()]
        await until(lambda: len(received.received) == 2)
        assert received.data == [b"1", b"2"]
        assert protocol.errors == []
        transport.close()
        receiver.close()

    run(main())


def test_an_error_that_stays_is_told(run: Run) -> None:
    async def main() -> None:
        transport, protocol, sock = stuck()
        peer = ("127.0.0.1", 9)
        for queued in (False, True):
            sock.plan = [*([BlockingIOError()] if queued else []), *[OSError(errno.ENETUNREACH, "no route")] * 4]
            transport.sendto(b"1", peer)
            await until(lambda: protocol.errors)
            ((told, exc),) = protocol.unreachable
            assert told == peer
            assert isinstance(exc, OSError) and exc.errno == errno.ENETUNREACH
            protocol.errors.clear()
            protocol.unreachable.clear()
        sock.plan = [OSError(errno.ENOBUFS, "no room")] * 4
        transport.sendto(b"1", peer)
        assert transport.dropped == 1
        assert protocol.errors == []
        transport.close()

    run(main())


def test_datagram_of_the_wrong_family_is_an_error_of_its_peer(run: Run) -> None:
    async def main() -> None:
        transport, protocol, address = opened()
        transport.sendto(b"x", ("::1", 9))
        assert protocol.unreachable[0][0] == ("::1", 9)
        transport.sendto(b"x", address)
        await until(lambda: protocol.received)
        transport.close()

    run(main())


def test_close_while_errors_wait_still_flushes(run: Run) -> None:
    async def main() -> None:
        receiver, received, address = opened()
        transport, protocol, sock = stuck(None, BlockingIOError)
        sock.setsockopt(socket.IPPROTO_IP, linux.IP_RECVERR, 1)
        transport.sendto(b"x", closed_port())
        transport.sendto(b"bye", address)
        transport.close()
        await until(lambda: protocol.lost)
        await until(lambda: received.received)
        assert protocol.errors == []
        receiver.close()

    run(main())


def test_a_receive_error_without_a_queue_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have no error queue."""
    monkeypatch.setattr(udp, "HAS_ERROR_QUEUE", False)

    class Sick(socket.socket):
        sick = True

        def recvfrom(self, *args: Any) -> Any:
            if self.sick:
                self.sick = False
                raise ConnectionResetError(errno.ECONNRESET, "reset")
            return super().recvfrom(*args)

    async def main() -> None:
        sock = Sick(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        protocol = Recorder()
        transport = UdpTransport(asyncio.get_running_loop(), sock, protocol)
        transport.sendto(b"x", sock.getsockname())
        await until(lambda: protocol.received)
        assert [type(exc) for exc in protocol.errors] == [ConnectionResetError]
        assert protocol.unreachable == []
        transport.close()

    run(main())


def test_loop_without_readers() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(NotImplementedError):
            open_udp(loop, Recorder(), "127.0.0.1")
        protocol = Recorder()
        transport = await endpoint.open_endpoint(loop, protocol, "127.0.0.1")
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await until(lambda: protocol.received)
        transport.sendto(b"x", closed_port())
        await asyncio.sleep(0.01)
        transport.sendto(b"y", transport.get_extra_info("sockname"))
        await until(lambda: len(protocol.received) == 2)
        # X07: the caller learns it.
        with pytest.raises(OSError) as caught:
            transport.sendto(bytes(sender.MAX_SIZE_IPV4 + 1), transport.get_extra_info("sockname"))
        assert caught.value.errno == errno.EMSGSIZE
        transport.sendto(bytes(sender.MAX_SIZE_IPV4), transport.get_extra_info("sockname"))
        await until(lambda: len(protocol.received) == 3)
        other = Recorder()
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()
        await until(lambda: other.lost)
        again = Recorder()
        transport = await endpoint.open_endpoint(loop, again, "::1")
        with pytest.raises(OSError):
            transport.sendto(bytes(sender.MAX_SIZE_IPV6 + 1), transport.get_extra_info("sockname"))
        transport.abort()
        await until(lambda: again.lost)

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        runner.run(main())


def test_endpoint_of_a_loop_that_has_none() -> None:
    class Nothing(NoReaders):
        async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    async def main() -> None:
        with pytest.raises(NotImplementedError):
            await endpoint.open_endpoint(asyncio.get_running_loop(), Recorder(), "127.0.0.1")

    with asyncio.Runner(loop_factory=Nothing) as runner:
        runner.run(main())


class Batches(Recorder):
    """Takes what came together."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def batch_received(self, data: bytes, size: int, addr: Any) -> None:
        self.sizes.append(size)
        self.received += [(data[start : start + size], addr) for start in range(0, len(data), size)]


@pytest.mark.skipif(not linux.HAS_OFFLOAD, reason="UDP_GRO is of Linux")
class TestBatches:
    @staticmethod
    def receiver(protocol: Recorder, host: str = "127.0.0.1") -> tuple[UdpTransport, tuple[str, int]]:
        transport = open_udp(asyncio.get_running_loop(), protocol, host)
        return transport, transport.get_extra_info("sockname")[:2]

    @staticmethod
    async def flood(sender: UdpTransport, address: Any, protocol: Recorder) -> None:
        """So much for a wake-up that the receiver reads in batches from then on."""
        while protocol.transport._gro is None:
            known = len(protocol.received)
            for _ in range(2 * udp.READ_BATCH):
                sender.sendto(b"flood", address)
            await until(lambda: len(protocol.received) >= known + 2 * udp.READ_BATCH)  # noqa: B023
        protocol.received.clear()

    @pytest.mark.parametrize("kind", [Batches, Recorder])
    @pytest.mark.parametrize("host", HOSTS)
    def test_what_came_together_is_read_together(self, run: Run, host: str, kind: type[Recorder]) -> None:
        async def main() -> None:
            protocol = kind()
            transport, address = self.receiver(protocol, host)
            sender, _, source = opened(host)
            await self.flood(sender, address, protocol)
            sent = [*(number.to_bytes(2, "big") * 100 for number in range(150)), b"end", b"", b"single"]
            sender.send_many(sent, address)
            await until(lambda: len(protocol.received) == len(sent))
            assert protocol.received == [(data, source) for data in sent]
            if isinstance(protocol, Batches):
                assert protocol.sizes == [200] * 3
            transport.close()
            sender.close()

        run(main())

    def test_few_for_a_wake_up_are_read_alone(self, run: Run) -> None:
        async def main() -> None:
            protocol = Batches()
            transport, address = self.receiver(protocol)
            sender, _, _ = opened()
            for number in range(100):
                sender.sendto(b"%d" % number, address)
                await until(lambda: len(protocol.received) > number)  # noqa: B023
            assert transport._gro is None and protocol.sizes == []
            transport.close()
            sender.close()

        run(main())

    def test_a_system_that_does_not_know_it(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(linux, "UDP_GRO", 0x7FFF)

        async def main() -> None:
            protocol = Batches()
            transport, address = self.receiver(protocol)
            sender, _, _ = opened()
            await self.flood(sender, address, protocol)
            assert transport._gro is False
            sender.send_many([b"abc"] * 30, address)
            await until(lambda: len(protocol.received) == 30)
            assert protocol.sizes == []
            transport.close()
            sender.close()

        run(main())

    def test_exceptions_and_close_within_a_batch(self, run: Run) -> None:
        class Choosy(Recorder):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                super().datagram_received(data, addr)
                if data == b"bad":
                    raise RuntimeError(data)
                if data == b"end":
                    self.transport.close()

        async def main() -> None:
            protocol = Choosy()
            transport, address = self.receiver(protocol)
            sender, _, _ = opened()
            await self.flood(sender, address, protocol)
            sender.send_many([b"one", b"bad", b"two", b"end", b"six"], address)
            await until(lambda: protocol.lost)
            assert protocol.data == [b"one", b"bad", b"two", b"end"]
            sender.close()

        run(main(), complaints=1)

    def test_batches_leave_turns_to_others(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bounded by time: here, after two reads."""
        monkeypatch.setattr(udp, "READ_TIME", 0)

        async def main() -> None:
            protocol = Batches()
            transport, address = self.receiver(protocol)
            sender, _, _ = opened()
            await self.flood(sender, address, protocol)
            counts = []
            read = UdpTransport._read_batches

            def counted(self: UdpTransport) -> None:
                before = len(protocol.received)
                read(self)
                counts.append(len(protocol.received) - before)

            monkeypatch.setattr(UdpTransport, "_read_batches", counted)
            sender.send_many([bytes(100)] * 640, address)
            await until(lambda: len(protocol.received) == 640)
            assert max(counts) <= 128
            transport.close()
            sender.close()

        run(main())

    def test_errors_while_reading_batches(self, run: Run) -> None:
        async def main() -> None:
            protocol = Batches()
            transport, address = self.receiver(protocol)
            sender, _, _ = opened()
            await self.flood(sender, address, protocol)
            dead = closed_port()
            for _ in range(3):
                transport.sendto(b"x", dead)
                await until(lambda: protocol.unreachable)
                protocol.unreachable.clear()
            sender.sendto(b"still there", address)
            await until(lambda: protocol.received)
            transport.close()
            sender.close()

        run(main())
