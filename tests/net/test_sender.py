"""What leaves when, in what order, in how many system calls, and what becomes of it when the system says no."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from aioice.net import sender, udp
from aioice.net.linux import HAS_OFFLOAD, SOL_UDP, UDP_SEGMENT
from aioice.net.udp import UdpTransport
from tests.net.support import Recorder, turns, until

Run = Callable[..., None]
Step = type[OSError] | OSError | None

pytestmark = pytest.mark.skipif(not HAS_OFFLOAD, reason="UDP_SEGMENT is of Linux")


class Seam(socket.socket):
    """Notes the system calls that send, and fails them as told; what they do not refuse arrives."""

    #: How many datagrams left by each call, and for whom.
    calls: list[tuple[int, Any]]
    #: What becomes of the next calls, of one datagram and of a batch.
    single: list[Step]
    batches: list[Step]
    knows_batches = True

    def getsockopt(self, level: int, option: int, *more: Any) -> Any:
        if option == UDP_SEGMENT and not self.knows_batches:
            raise OSError(errno.ENOPROTOOPT, "unknown")
        return super().getsockopt(level, option, *more)

    def sendto(self, data: Any, *args: Any) -> int:
        if self.single and (step := self.single.pop(0)) is not None:
            raise step
        self.calls.append((1, args[-1]))
        return super().sendto(data, *args)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:  # type: ignore[override]
        ((level, kind, size),) = ancdata
        assert (level, kind) == (SOL_UDP, UDP_SEGMENT)
        sizes = [len(data) for data in buffers]
        segment = int.from_bytes(size, "little")
        assert sizes[:-1] == [segment] * (len(sizes) - 1) and 0 < sizes[-1] <= segment
        assert len(sizes) <= 64 and sum(sizes) <= 65507
        if self.batches and (step := self.batches.pop(0)) is not None:
            raise step
        self.calls.append((len(sizes), address))
        return super().sendmsg(buffers, ancdata, flags, address)


class Slow(Recorder):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def pause_writing(self) -> None:
        self.asked.append("pause")

    def resume_writing(self) -> None:
        self.asked.append("resume")


class Scene:
    """A transport on such a socket, and peers that write down what they get."""

    def __init__(self, peers: int = 1, host: str = "127.0.0.1") -> None:
        loop = asyncio.get_running_loop()
        self.sock = Seam(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.calls, self.sock.single, self.sock.batches = [], [], []
        self.sock.setblocking(False)
        self.sock.bind((host, 0))
        self.protocol = Slow()
        self.transport = UdpTransport(loop, self.sock, self.protocol)
        self.received: list[tuple[int, bytes]] = []
        self.peers: list[UdpTransport] = []
        for number in range(peers):
            recorder = Recorder()
            recorder.datagram_received = (  # type: ignore[method-assign]
                lambda data, addr, number=number: self.received.append((number, data))
            )
            self.peers.append(udp.open_udp(loop, recorder, host))
        self.addresses = [peer.get_extra_info("sockname")[:2] for peer in self.peers]

    def send(self, *datagrams: bytes, to: int = 0) -> None:
        for data in datagrams:
            self.transport.send_soon(data, self.addresses[to])

    @property
    def calls(self) -> list[int]:
        """How many datagrams left by each call so far."""
        return [count for count, _ in self.sock.calls]

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.received]

    async def arrived(self, number: int) -> None:
        async with asyncio.timeout(10):
            await until(lambda: len(self.received) >= number)

    def close(self) -> None:
        for transport in [self.transport, *self.peers]:
            transport.abort()


def datagrams(number: int, size: int = 100) -> list[bytes]:
    return [index.to_bytes(4, "big") + bytes(size - 4) for index in range(number)]


class TestGathering:
    def test_first_at_once_the_others_together_at_the_end_of_the_turn(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            sent = datagrams(10)
            scene.send(*sent)
            assert scene.calls == [1] * sender.EAGER
            await scene.arrived(10)
            assert scene.calls == [1] * sender.EAGER + [10 - sender.EAGER]
            assert scene.data == sent
            scene.send(sent[0])
            assert scene.calls[-1] == 1  # a new turn
            scene.close()

        run(main())

    @pytest.mark.parametrize(("size", "most"), [(4, 64), (1200, 54), (32743, 2), (32744, 1), (65507, 1)])
    def test_a_full_batch_leaves_at_once(self, run: Run, size: int, most: int) -> None:
        async def main() -> None:
            scene = Scene()
            sent = datagrams(sender.EAGER + 2 * most, size)
            scene.send(*sent)
            assert scene.calls == [1] * sender.EAGER + [most] * 2
            if size < 30000:
                await scene.arrived(len(sent))
                assert scene.data == sent
            scene.close()

        run(main())

    def test_order_over_sizes_peers_and_methods(self, run: Run) -> None:
        """Nothing overtakes: not the shorter, not the longer, not the empty one, not a check, not to another."""

        async def main() -> None:
            scene = Scene(peers=2)
            source = random.Random(1)
            sent: list[tuple[int, bytes]] = []
            for number in range(400):
                peer = int(source.random() < 0.1)
                data = number.to_bytes(4, "big") + bytes(source.choice([0, 0, 0, 1, 96]))
                if source.random() < 0.05:
                    data = b""
                sent.append((peer, data))
                if source.random() < 0.1:
                    scene.transport.sendto(data, scene.addresses[peer])
                else:
                    scene.send(data, to=peer)
                if source.random() < 0.05:
                    await turns(2)
            await scene.arrived(400)
            for peer in (0, 1):
                assert [data for to, data in scene.received if to == peer] == [d for to, d in sent if to == peer]
            assert len(scene.calls) < 400
            # Across peers too: the calls are in the order of the sends.
            order = [scene.addresses.index(address) for count, address in scene.sock.calls for _ in range(count)]
            assert order == [peer for peer, _ in sent]
            scene.close()

        run(main())

    def test_a_shorter_one_is_the_last_of_its_batch(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            sent = [*datagrams(5), b"end", *datagrams(3)]
            scene.send(*sent)
            await scene.arrived(9)
            assert scene.calls == [1, 1, 4, 3]
            assert scene.data == sent
            scene.close()

        run(main())

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_random_sizes_arrive_unchanged(self, run: Run, host: str) -> None:
        async def main() -> None:
            scene = Scene(host=host)
            source = random.Random(2)
            sent = [source.randbytes(source.choice([4, 200, 1200, source.randrange(1, 9000)])) for _ in range(2000)]
            for start in range(0, len(sent), 20):
                scene.send(*sent[start : start + 20])
                await scene.arrived(start + 20)
            assert scene.data == sent
            scene.close()

        run(main())

    def test_a_system_that_knows_no_batches(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            scene.sock.knows_batches = False
            assert not scene.transport.gathers
            scene.send(*datagrams(10))
            assert scene.transport.send_many(datagrams(5), scene.addresses[0]) == 5
            assert scene.calls == [1] * 15
            scene.close()

        run(main())


class TestMany:
    def test_at_once_in_batches(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            first = datagrams(3)
            scene.send(*first)
            sent = [*datagrams(70), b"end", b"", bytes(9), bytes(200)]
            assert scene.transport.send_many(sent, scene.addresses[0]) == len(sent)
            assert scene.calls == [1, 1, 1, 64, 7, 1, 1, 1]
            await scene.arrived(len(sent) + 3)
            assert scene.data == first + sent
            scene.close()

        run(main())

    def test_too_big_raises_after_those_before_have_left(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            with pytest.raises(OSError) as caught:
                scene.transport.send_many([b"1", b"2", bytes(70000), b"3"], scene.addresses[0])
            assert caught.value.errno == errno.EMSGSIZE
            await scene.arrived(2)
            assert scene.data == [b"1", b"2"]
            scene.close()

        run(main())

    def test_takes_no_more_than_may_wait(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            scene.transport.set_write_buffer_limits(high=1000)
            scene.sock.batches = [BlockingIOError()]
            sent = datagrams(200)
            taken = scene.transport.send_many(sent, scene.addresses[0])
            assert taken == 64 and scene.protocol.asked == ["pause"]
            assert scene.transport.send_many(sent[taken:], scene.addresses[0]) == 0
            await scene.arrived(64)
            assert scene.protocol.asked == ["pause", "resume"]
            assert scene.transport.send_many(sent[taken:], scene.addresses[0]) == 136
            await scene.arrived(200)
            assert scene.data == sent
            scene.close()

        run(main())


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "again"),
        [
            (errno.EINVAL, "smaller"),
            (errno.EMSGSIZE, "smaller"),
            (errno.EIO, "never"),
            (errno.EOPNOTSUPP, "never"),
            (errno.ENOBUFS, "always"),
            (errno.ENOMEM, "always"),
        ],
    )
    @pytest.mark.parametrize("queued", [False, True])
    def test_a_batch_that_cannot_leave_leaves_one_by_one(self, run: Run, code: int, again: str, queued: bool) -> None:
        """A datagram over the path's MTU is fragmented so, which a batch is not."""

        async def main() -> None:
            scene = Scene()
            sent = datagrams(10)
            refusals = [OSError(code, "no batch")] * (1 if again == "always" else sender.RETRIES)
            scene.sock.batches = [*([BlockingIOError()] if queued else []), *refusals]
            scene.send(*sent)
            await scene.arrived(10)
            assert scene.data == sent
            assert scene.calls[:3] == [1, 1, 1]
            assert scene.transport.dropped == 0 and scene.protocol.errors == []
            for size, batches in ((100, again == "always"), (99, again != "never")):
                scene.sock.calls.clear()
                scene.transport.send_many(datagrams(5, size), scene.addresses[0])
                assert scene.calls == ([5] if batches else [1] * 5)
            scene.close()

        run(main())

    @pytest.mark.parametrize("queued", [False, True])
    @pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EMSGSIZE])
    def test_an_error_of_another_peer_delays_nothing(self, run: Run, queued: bool, code: int) -> None:
        """Nor does it end the batches: what ICMP says of another path's MTU comes in the same form."""

        async def main() -> None:
            scene = Scene()
            scene.sock.batches = [*([BlockingIOError()] if queued else []), OSError(code, "somebody else")]
            sent = datagrams(10)
            scene.send(*sent)
            await scene.arrived(10)
            assert scene.data == sent
            assert scene.protocol.errors == []
            assert scene.calls == [1, 1, 8]
            scene.close()

        run(main())

    def test_an_error_that_stays_is_told(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            unreachable = OSError(errno.ENETUNREACH, "no route")
            scene.send(*datagrams(2))
            scene.sock.batches = [unreachable] * 3
            scene.sock.single = [unreachable] * 8
            scene.send(*datagrams(2))
            await until(lambda: scene.protocol.errors)
            assert {peer for peer, _ in scene.protocol.unreachable} == {scene.addresses[0]}
            # One that the system has no room for is a loss, and one that is too big after all is its peer's.
            scene.send(*datagrams(2))
            scene.sock.batches = [OSError(errno.ENOBUFS, "")]
            scene.sock.single = [OSError(errno.ENOBUFS, "")] * 4 + [OSError(errno.EMSGSIZE, "")] * 4
            scene.send(*datagrams(2))
            await turns()
            assert scene.transport.dropped == 1
            assert scene.protocol.errors[-1].errno == errno.EMSGSIZE  # type: ignore[attr-defined]
            scene.close()

        run(main())


class TestBlocked:
    def test_pause_and_resume(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            scene.transport.set_write_buffer_limits(high=1000)
            scene.sock.single = [None, None, BlockingIOError()]
            scene.send(*datagrams(2))
            sent = datagrams(30)
            for data in sent:
                scene.transport.sendto(data, scene.addresses[0])
            assert scene.protocol.asked == ["pause"]
            assert scene.transport.get_write_buffer_size() == 3000
            scene.sock.calls.clear()
            await scene.arrived(32)
            assert scene.data[2:] == sent
            assert scene.protocol.asked == ["pause", "resume"]
            # The writer sends in batches too.
            assert scene.calls == [30]
            scene.transport.set_write_buffer_limits()
            scene.close()

        run(main())

    def test_small_datagrams_pause_by_their_number(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            scene.sock.single = [BlockingIOError()]
            for _ in range(sender.QUEUE_DATAGRAMS):
                scene.transport.sendto(b"x", scene.addresses[0])
            assert scene.protocol.asked == ["pause"] and scene.transport.dropped == 0
            await scene.arrived(sender.QUEUE_DATAGRAMS)
            assert scene.protocol.asked == ["pause", "resume"]
            scene.close()

        run(main())

    def test_an_exception_of_the_protocol_stops_nothing(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()

            def broken() -> None:
                raise RuntimeError("broken")

            scene.protocol.pause_writing = scene.protocol.resume_writing = broken  # type: ignore[method-assign]
            scene.transport.set_write_buffer_limits(high=10)
            scene.sock.single = [BlockingIOError()]
            scene.transport.sendto(bytes(100), scene.addresses[0])
            await scene.arrived(1)
            await turns()
            scene.close()

        run(main(), complaints=2)

    def test_discard(self, run: Run) -> None:
        """What waits for one peer goes, what waits for others does not."""

        async def main() -> None:
            scene = Scene(peers=2)
            for blocked in (False, True):
                scene.sock.batches = [BlockingIOError()] if blocked else []
                scene.send(*datagrams(5))  # of which the first leave at once
                if blocked:
                    scene.transport.set_write_buffer_limits(high=200)
                    scene.transport.sendto(b"for the other", scene.addresses[1])
                    assert scene.protocol.asked == ["pause"]
                scene.transport.discard(scene.addresses[0])
                await turns(3)
            await scene.arrived(2 * sender.EAGER + 1)
            assert scene.protocol.asked == ["pause", "resume"]
            assert [data for peer, data in scene.received if peer == 0] == datagrams(sender.EAGER) * 2
            assert [data for peer, data in scene.received if peer == 1] == [b"for the other"]
            scene.sock.single = [BlockingIOError()]
            scene.transport.sendto(b"x", scene.addresses[0])
            scene.transport.close()
            assert scene.sock.fileno() >= 0
            scene.transport.discard(scene.addresses[0])
            assert scene.sock.fileno() < 0
            scene.close()

        run(main())


class TestEnd:
    def test_close_sends_what_waits_for_the_end_of_the_turn(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            sent = datagrams(10)
            scene.send(*sent)
            scene.transport.close()
            assert sum(scene.calls) == 10
            scene.transport.send_soon(b"late", scene.addresses[0])
            scene.transport.send_many([b"late", b"late"], scene.addresses[0])
            await scene.arrived(10)
            await turns()
            assert scene.data == sent
            scene.close()

        run(main())

    def test_abort_does_not(self, run: Run) -> None:
        async def main() -> None:
            scene = Scene()
            scene.send(*datagrams(10))
            scene.transport.abort()
            await turns()
            assert sum(scene.calls) == sender.EAGER
            scene.close()

        run(main())

    def test_a_socket_that_stays_blocked_is_closed_all_the_same(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(udp, "LINGER", 0.01)

        async def main() -> None:
            scene = Scene()
            scene.sock.single = [BlockingIOError()] * 1_000_000
            scene.transport.sendto(b"x", scene.addresses[0])
            scene.transport.close()
            await until(lambda: scene.protocol.lost)
            assert scene.sock.fileno() < 0
            scene.close()

        run(main())
