"""The event loop on virtual time: clock, deadlocks, sockets, streams, names, interfaces, and what it replaces."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import ifaddr
import pytest

from aioice.sim import Deadlock, Host, Loop, World, current_host
from aioice.sim.patches import EPOCH

HERE, THERE = "192.0.2.1", "192.0.2.2"


def two(**conditions: Any) -> tuple[World, Host, Host]:
    world = World(1)
    world.network(**{"delay": 0.01, **conditions})
    return world, world.host(HERE, name="here"), world.host(THERE, name="there")


class Collector(asyncio.DatagramProtocol):
    """Remembers what it is told, with the times."""

    def __init__(self) -> None:
        self.told: list[tuple[float, Any]] = []
        self.hosts: list[Host] = []
        self.lost = asyncio.Event()

    def tell(self, what: Any) -> None:
        self.told.append((asyncio.get_running_loop().time(), what))
        self.hosts.append(current_host())

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.tell((data, addr))
        if data == b"fault":
            raise ValueError("a fault of the program")

    def error_received(self, exc: Exception) -> None:
        self.tell(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.tell("lost")
        self.lost.set()


async def endpoint(host: Host, **options: Any) -> tuple[Any, Collector]:
    with host:
        return await asyncio.get_running_loop().create_datagram_endpoint(Collector, **options)


class TestTime:
    def test_sleeping_takes_no_time(self) -> None:
        world = World()

        async def main() -> str:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop) and loop.world is world
            await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(0.1), asyncio.sleep(0.2))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await asyncio.sleep(60)
            return f"{loop.time()} {loop!r}"

        assert world.run(main()) == "3610.0 <Loop of a simulated world at 3610.0 s, running>"
        assert world.now == 3610.0

    def test_one_clock_for_coroutines_and_events(self) -> None:
        world = World()
        seen: list[str] = []
        for at in (0.5, 1.0, 1.5):
            world.at(at, seen.append, f"event {at}")

        async def main() -> None:
            await asyncio.sleep(1.0)
            seen.append("task 1.0")

        world.run(main())
        assert seen == ["event 0.5", "event 1.0", "task 1.0"]
        world.run(until=2)
        assert seen[-1] == "event 1.5"

    def test_runs_follow_each_other(self) -> None:
        world = World()
        late: list[int] = []

        async def main() -> None:
            asyncio.get_running_loop().call_later(5, late.append, 1)
            await asyncio.sleep(1)

        world.run(main())
        world.run(asyncio.sleep(10))
        assert (world.now, late) == (11, [])

    def test_cancelled_timers_do_not_hold_the_clock(self) -> None:
        world = World()

        async def main() -> None:
            asyncio.get_running_loop().call_later(100, print).cancel()
            async with asyncio.timeout(50):
                await asyncio.sleep(1)

        world.run(main())
        assert (world.now, world.next_time()) == (1, None)

    def test_what_is_replaced_while_it_runs(self) -> None:
        world = World(7)
        elsewhere: list[float] = []

        async def main() -> list[Any]:
            thread = threading.Thread(target=lambda: elsewhere.append(time.time()))
            thread.start()
            thread.join()
            await asyncio.sleep(5)
            time.sleep(2.5)
            return [time.time() - EPOCH, time.monotonic(), time.perf_counter(), time.time_ns() // 10**6, os.urandom(4)]

        before = time.time()
        first = world.run(main())
        assert first[:4] == [7.5, 7.5, 7.5, round(EPOCH * 1000) + 7500]
        assert first[4] == World(7).random_bytes(4)
        assert before <= elsewhere[0] <= time.time()
        assert os.urandom(16) != os.urandom(16)
        assert os.urandom.__name__ == "urandom"

    def test_blocking_makes_everything_late(self) -> None:
        world, here, there = two()

        async def main() -> list[tuple[float, Any]]:
            transport, _ = await endpoint(here, local_addr=(HERE, 5000))
            _, heard = await endpoint(there, local_addr=(THERE, 7000))
            transport.sendto(b"x", (THERE, 7000))
            time.sleep(3)
            with pytest.raises(ValueError, match="backwards"):
                time.sleep(-1)
            await asyncio.sleep(0.001)
            return heard.told

        assert world.run(main()) == [(3.0, (b"x", (HERE, 5000)))]


class TestRun:
    def test_results_and_exceptions(self) -> None:
        async def fails() -> None:
            raise KeyError("mine")

        assert World().run(asyncio.sleep(1, "result")) == "result"
        with pytest.raises(KeyError, match="mine"):
            World().run(fails())

    def test_time_limit(self) -> None:
        async def times_out() -> None:
            raise TimeoutError("its own")

        world = World()
        with pytest.raises(TimeoutError, match=r"not done within 60 virtual seconds: at 60 s.*\n.*: sleep at "):
            world.run(asyncio.sleep(61), timeout=60)
        assert world.now == 60
        with pytest.raises(TimeoutError, match="its own"):
            world.run(times_out(), timeout=60)
        assert world.run(asyncio.sleep(59, 1), timeout=60) == 1

    def test_tasks_that_are_left_are_cancelled(self) -> None:
        ended: list[float] = []

        async def lingers() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(2)
                ended.append(asyncio.get_running_loop().time())

        async def main() -> None:
            task = asyncio.create_task(lingers())
            await asyncio.sleep(1)
            assert not task.done()

        World().run(main())
        assert ended == [3]

    def test_not_within_a_loop(self) -> None:
        world = World()

        async def main() -> None:
            for run in (lambda: world.run(until=9), lambda: world.run(asyncio.sleep(1))):
                with pytest.raises(RuntimeError, match="runs already"):
                    run()
            with pytest.raises(RuntimeError, match="within a running event loop"):
                World().run(asyncio.sleep(1))

        world.run(main())
        with pytest.raises(RuntimeError, match="within a running event loop"):
            asyncio.run(_run_within(world))

    def test_one_loop_at_a_time(self) -> None:
        world = World()
        other = Loop(world)

        async def main() -> None:
            asyncio.events._set_running_loop(None)
            with pytest.raises(RuntimeError, match="another event loop"):
                other.run_forever()

        world.run(main())
        other.close()
        other.close()
        assert "closed" in repr(other)
        with pytest.raises(RuntimeError, match="closed"):
            other.call_later(1, print)

    def test_executors_run_at_once(self) -> None:
        def fails() -> None:
            raise KeyError("in the executor")

        async def main() -> int:
            loop = asyncio.get_running_loop()
            with pytest.raises(KeyError, match="in the executor"):
                await asyncio.to_thread(fails)
            return await loop.run_in_executor(None, threading.get_ident)

        world = World()
        assert world.run(main()) == threading.get_ident()
        assert world.now == 0

    def test_other_threads_may_call(self) -> None:
        async def main() -> int:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(future.set_result, 1))
            thread.start()
            thread.join()
            return await future

        assert World().run(main()) == 1

    def test_what_is_not_simulated(self) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            with pytest.raises(NotImplementedError):
                loop.add_reader(0, print)
            with pytest.raises(NotImplementedError):
                await asyncio.create_subprocess_exec("true")
            with pytest.raises(ValueError, match="operating system"), socket.socket(type=socket.SOCK_DGRAM) as sock:
                await loop.create_datagram_endpoint(Collector, sock=sock)

        World().run(main())


async def _run_within(world: World) -> None:
    world.run(asyncio.sleep(1))


class TestDeadlock:
    def test_says_who_waits_for_what(self) -> None:
        async def waits(event: asyncio.Event) -> None:
            await event.wait()

        async def main() -> None:
            await asyncio.sleep(2)
            task = asyncio.create_task(waits(asyncio.Event()), name="the waiter")
            await asyncio.shield(task)

        world = World(5)
        with pytest.raises(Deadlock) as caught:
            world.run(main())
        text = str(caught.value)
        assert text.startswith("nothing will ever happen after 2 s (seed 5), and these wait:")
        assert "  the waiter: TestDeadlock.test_says_who_waits_for_what.<locals>.waits > Event.wait at " in text
        assert f"main at {__file__}:" in text

    def test_is_no_deadlock_while_something_comes(self) -> None:
        world = World()

        async def main() -> float:
            event = asyncio.Event()
            world.at(1000, event.set)
            await event.wait()
            return world.now

        assert world.run(main()) == 1000

    def test_cleanup_runs(self) -> None:
        cleaned: list[str] = []

        async def main() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(1)
                cleaned.append("main")

        with pytest.raises(Deadlock):
            World().run(main())
        assert cleaned == ["main"]

    def test_within_a_time_limit(self) -> None:
        world = World()
        with pytest.raises(Deadlock):
            world.run(asyncio.Event().wait(), timeout=60)
        assert world.now == 0

    def test_cleanup_that_hangs(self) -> None:
        world = World()

        def again() -> None:
            world.after(1, again)

        async def main() -> None:
            again()
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.Event().wait()

        with pytest.raises(TimeoutError, match="within 60.0 virtual seconds") as caught:
            world.run(main(), timeout=5)
        assert "within 5 virtual seconds" in str(caught.value.__context__)
        assert world.now == 65

    def test_many_tasks(self) -> None:
        async def main() -> None:
            never = asyncio.get_running_loop().create_future()
            await asyncio.gather(*(asyncio.wait([never]) for _ in range(30)))

        with pytest.raises(Deadlock, match=r"\n  and 11 more$"):
            World().run(main())

    def test_polling_for_ever(self) -> None:
        async def main() -> None:
            while True:
                await asyncio.sleep(0)

        with pytest.raises(Deadlock, match="clock stands still at 0"):
            World().run(main())


class TestHosts:
    def test_tasks_inherit_their_host(self) -> None:
        world, here, there = two()

        async def where() -> Host:
            await asyncio.sleep(1)
            return current_host()

        async def main() -> None:
            with pytest.raises(RuntimeError, match="no simulated host"):
                current_host()
            with here:
                assert await asyncio.create_task(where()) is here
                with there:
                    assert current_host() is there
                assert await there.create_task(where(), name="x") is there
                assert current_host() is here
            with pytest.raises(RuntimeError, match="no simulated host"):
                await asyncio.get_running_loop().create_datagram_endpoint(Collector, local_addr=("0.0.0.0", 0))
            with World().host(HERE), pytest.raises(RuntimeError, match="another world"):
                await asyncio.get_running_loop().create_datagram_endpoint(Collector, local_addr=("0.0.0.0", 0))

        world.run(main())
        assert world.run(where(), host=there) is there

    def test_blocks_may_be_interleaved(self) -> None:
        world, here, there = two()

        async def stay(host: Host, begin: float, end: float) -> None:
            await asyncio.sleep(begin)
            with host:
                await asyncio.sleep(end - begin)
                assert current_host() is host
            with pytest.raises(RuntimeError):
                current_host()

        async def main() -> None:
            await asyncio.gather(stay(here, 0, 2), stay(there, 1, 3), stay(here, 1, 4))

        world.run(main())

    def test_of_a_world_that_does_not_run(self) -> None:
        async def main() -> None:
            with pytest.raises(RuntimeError, match="does not run now"):
                World().host(HERE).create_task(asyncio.sleep(1))

        World().run(main())
        with pytest.raises(RuntimeError, match="does not run now"):
            asyncio.run(main_on(World().host(HERE)))

    def test_interfaces(self) -> None:
        world, here, there = two()
        there.add_address("2001:db8::2")
        there.join(world.nat("203.0.113.1"), "10.0.0.2", name="wlan0")

        async def adapters() -> list[tuple[str, int, list[Any]]]:
            return [(a.nice_name, a.index, [ip.ip for ip in a.ips]) for a in ifaddr.get_adapters()]

        loopback = ("lo", 1, ["127.0.0.1", ("::1", 0, 0)])
        assert world.run(adapters(), host=here) == [loopback, ("eth0", 2, [HERE])]
        assert world.run(adapters(), host=there) == [
            loopback,
            ("eth0", 2, [THERE, ("2001:db8::2", 0, 0)]),
            ("wlan0", 3, ["10.0.0.2"]),
        ]
        there.interfaces[1].down()
        assert len(world.run(adapters(), host=there)) == 2
        assert ifaddr.get_adapters.__module__.startswith("ifaddr")


async def main_on(host: Host) -> None:
    host.create_task(asyncio.sleep(1))


class TestDatagrams:
    def test_there_and_back(self) -> None:
        world, here, there = two()

        async def main() -> None:
            client, answers = await endpoint(here, local_addr=("0.0.0.0", 5000))
            server, questions = await endpoint(there, local_addr=(THERE, 7000))
            assert (client.get_extra_info("sockname"), server.get_extra_info("sockname")) == (
                ("0.0.0.0", 5000),
                (THERE, 7000),
            )
            assert repr(server) == "<DatagramTransport ('192.0.2.2', 7000) of Host(there, 192.0.2.2)>"
            client.sendto(b"ping", (THERE, 7000))
            await asyncio.sleep(0.02)
            server.sendto(bytearray(b"pong"), questions.told[0][1][1])
            await asyncio.sleep(1)
            assert questions.told == [(0.01, (b"ping", (HERE, 5000)))]
            assert answers.told == [(0.03, (b"pong", (THERE, 7000)))]
            assert (questions.hosts, answers.hosts) == ([there], [here])
            client.close()
            client.close()
            assert client.is_closing()
            await answers.lost.wait()
            client.sendto(b"nothing", (THERE, 7000))
            server.sendto(b"nobody", (HERE, 5000))
            await asyncio.sleep(1)
            assert len(questions.told) == 1
            _, again = await endpoint(here, local_addr=(HERE, 5000))
            assert again.told == []

        world.run(main())
        assert not here.sockets and not there.sockets

    def test_connected_and_by_name(self) -> None:
        world, here, there = two()
        there.add_address("2001:db8::2")
        here.add_address("2001:db8::1")
        world.names.add("there.example", "2001:db8::2")

        async def main() -> None:
            server, questions = await endpoint(there, local_addr=("::", 7000))
            client, answers = await endpoint(here, remote_addr=("there.example", 7000))
            assert client.get_extra_info("peername") == ("2001:db8::2", 7000)
            client.sendto(b"hello")
            with pytest.raises(ValueError, match="Invalid address"):
                client.sendto(b"hello", (THERE, 1))
            with pytest.raises(ValueError, match="needs an address"):
                server.sendto(b"")
            await asyncio.sleep(1)
            ((_, (data, source)),) = questions.told
            assert (data, source) == (b"hello", ("2001:db8::1", 50000, 0, 0))
            stranger, _ = await endpoint(there, family=socket.AF_INET6)
            stranger.sendto(b"not from the peer", ("2001:db8::1", 50000))
            server.sendto(b"from the peer", source)
            await asyncio.sleep(1)
            assert [what[0] for _, what in answers.told] == [b"from the peer"]

        world.run(main())

    def test_errors(self) -> None:
        world, here, there = two()
        there.refuses = True

        async def main() -> None:
            transport, heard = await endpoint(here, local_addr=(HERE, 5000))
            transport.sendto(b"", (THERE, 9))
            transport.sendto(b"", ("2001:db8::9", 9))
            transport.sendto(bytes(65508), (THERE, 9))
            await asyncio.sleep(1)
            assert [(time, exc.errno) for time, exc in heard.told] == [
                (0.0, errno.ENETUNREACH),
                (0.0, errno.EMSGSIZE),
                (0.02, errno.ECONNREFUSED),
            ]
            for address, code in (((HERE, 5000), errno.EADDRINUSE), ((THERE, 1), errno.EADDRNOTAVAIL)):
                with pytest.raises(OSError) as caught:
                    await endpoint(here, local_addr=address)
                assert caught.value.errno == code

        world.run(main())

    def test_faults_of_the_program_are_reported(self) -> None:
        world, here, there = two()
        reports: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, report: reports.append(report))
            transport, heard = await endpoint(here, local_addr=("127.0.0.1", 5000))
            for data in (b"fault", b"next"):
                transport.sendto(data, ("127.0.0.1", 5000))
            await asyncio.sleep(1)
            assert len(heard.told) == 2

        world.run(main())
        assert [str(report["exception"]) for report in reports] == ["a fault of the program"]


class TestStreams:
    def talk(
        self, client: Callable[[], Coroutine[Any, Any, Any]], server: Callable[..., Any], world: World, **options: Any
    ) -> Any:
        async def main() -> Any:
            with world.hosts[1]:  # type: ignore[attr-defined]
                serving = await asyncio.start_server(server, **{"host": THERE, "port": 80, **options})
            with world.hosts[0]:  # type: ignore[attr-defined]
                result = await client()
            serving.close()
            await serving.wait_closed()
            return result

        return world.run(main())

    @pytest.fixture
    def world(self) -> World:
        world, *hosts = two()
        world.hosts = hosts  # type: ignore[attr-defined]
        return world

    def test_echo(self, world: World) -> None:
        peers: list[Any] = []

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peers.append((writer.get_extra_info("peername"), current_host().name))
            while line := await reader.readline():
                writer.write(line.upper())
                await writer.drain()
            writer.write(b"bye\n")
            writer.close()
            await writer.wait_closed()

        async def client() -> tuple[list[bytes], float]:
            reader, writer = await asyncio.open_connection(THERE, 80)
            assert asyncio.get_running_loop().time() == 0.02
            assert writer.get_extra_info("sockname") == (HERE, 50000)
            writer.writelines([b"one\n", b"two\n"])
            lines = [await reader.readline(), await reader.readline()]
            writer.write_eof()
            with pytest.raises(RuntimeError, match="after write_eof"):
                writer.write(b"more")
            lines.append(await reader.readline())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            return lines, asyncio.get_running_loop().time()

        assert self.talk(client, echo, world) == ([b"ONE\n", b"TWO\n", b"bye\n"], 0.06)
        assert peers == [((HERE, 50000), "there")]

    def test_tls(self, world: World) -> None:
        """Two round trips more, and the name counts at the simulator's own servers."""
        world.names.add("turn.example", "198.51.100.2")
        world.turn_server("198.51.100.2", username="u", password="p", certificate="turn.example")

        async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        async def client() -> tuple[bytes, float]:
            context = ssl.create_default_context()
            reader, writer = await asyncio.open_connection(THERE, 443, ssl=context)
            data, taken = await reader.read(), asyncio.get_running_loop().time()
            assert not writer.can_write_eof()
            writer.close()
            _, writer = await asyncio.open_connection("turn.example", 5349, ssl=context)
            writer.close()
            with pytest.raises(ssl.SSLError, match="verify"):
                await asyncio.open_connection("198.51.100.2", 5349, ssl=context)
            return data, taken

        assert self.talk(client, hello, world, port=443, ssl=ssl.create_default_context()) == (b"hello", 0.07)

    def test_failures(self, world: World) -> None:
        async def client() -> None:
            loop = asyncio.get_running_loop()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(THERE, 81)
            with pytest.raises(TimeoutError):
                await asyncio.open_connection("192.0.2.99", 80)
            with pytest.raises(OSError, match="unreachable"):
                await asyncio.open_connection("2001:db8::1", 80)
            with pytest.raises(socket.gaierror):
                await asyncio.open_connection("no.such.name", 80)
            started = loop.time()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.015):
                    await asyncio.open_connection(THERE, 80)
            assert loop.time() == started + 0.015
            await asyncio.sleep(1)
            for options in ({"host": THERE, "port": 5}, {"host": HERE, "port": 6}):
                with pytest.raises(OSError):
                    await asyncio.start_server(print, **options)
                    await asyncio.start_server(print, **options)
            with pytest.raises(ValueError):
                await loop.create_connection(asyncio.Protocol, sock=object())
            with pytest.raises(ValueError):
                await loop.create_server(asyncio.Protocol, sock=object())

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            raise AssertionError("nobody connects")

        self.talk(client, serve, world)

    def test_happy_second_address(self, world: World) -> None:
        world.names.add("there.example", "2001:db8::99", THERE)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async def client() -> bytes:
            reader, writer = await asyncio.open_connection("there.example", 80)
            data = await reader.read()
            writer.close()
            return data

        assert self.talk(client, serve, world) == b""

    def test_flow_and_buffers(self, world: World) -> None:
        class Buffered(asyncio.BufferedProtocol):
            def __init__(self) -> None:
                self.data, self.buffer, self.lost = b"", bytearray(3), asyncio.Event()

            def get_buffer(self, sizehint: int) -> bytearray:
                return self.buffer

            def buffer_updated(self, nbytes: int) -> None:
                self.data += self.buffer[:nbytes]

            def eof_received(self) -> bool:
                return False

            def connection_lost(self, exc: Exception | None) -> None:
                self.lost.set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"abcdefgh")
            writer.close()

        async def client() -> bytes:
            transport, protocol = await asyncio.get_running_loop().create_connection(Buffered, THERE, 80)
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            await asyncio.sleep(1)
            assert protocol.data == b""
            transport.resume_reading()
            assert transport.is_reading()
            await protocol.lost.wait()
            assert (transport.get_write_buffer_size(), transport.get_write_buffer_limits()) == (0, (0, 0))
            assert transport.get_protocol() is protocol
            return protocol.data

        assert self.talk(client, serve, world) == b"abcdefgh"

    def test_faults_of_the_program(self, world: World) -> None:
        """They are reported and end the stream."""
        reports: list[str] = []

        class Faulty(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                raise KeyError("mine")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"x")
            assert await reader.read() == b""
            writer.close()

        async def client() -> bool:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, report: reports.append(repr(report["exception"])))
            transport, _ = await loop.create_connection(Faulty, THERE, 80)
            await asyncio.sleep(1)
            return transport.is_closing()

        assert self.talk(client, serve, world)
        assert reports == ["KeyError('mine')"]

    def test_protocols_can_be_replaced(self, world: World) -> None:
        class Second(asyncio.Protocol):
            data = b""

            def data_received(self, data: bytes) -> None:
                self.data += data

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(1))
            writer.close()

        async def client() -> None:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(asyncio.Protocol, THERE, 80, local_addr=("0.0.0.0", 1234))
            assert transport.get_extra_info("sockname") == (HERE, 1234)
            assert transport.get_extra_info("cipher", "none") == "none"
            transport.set_write_buffer_limits(10)
            transport.set_protocol(second := Second())
            transport.write(b"x")
            await asyncio.sleep(1)
            assert second.data == b"x" and transport.is_closing()
            first, second = Collector(), Collector()
            datagrams, _ = await loop.create_datagram_endpoint(lambda: first, local_addr=("localhost", 5))
            assert (datagrams.get_protocol(), datagrams.get_extra_info("peername")) == (first, None)
            assert datagrams.get_write_buffer_size() == 0
            datagrams.sendto(b"1", ("127.0.0.1", 5))
            await asyncio.sleep(1)
            datagrams.set_protocol(second)
            datagrams.sendto(b"2", ("127.0.0.1", 5))
            await asyncio.sleep(1)
            assert [told[0][1][0] for told in (first.told, second.told)] == [b"1", b"2"]

        self.talk(client, serve, world)

    def test_server(self, world: World) -> None:
        async def main() -> None:
            with world.hosts[1]:  # type: ignore[attr-defined]
                async with await asyncio.start_server(print, port=0, start_serving=False) as server:
                    assert not server.is_serving()
                    assert [sock.getsockname() for sock in server.sockets] == [
                        ("0.0.0.0", 50000),
                        ("::", 50000, 0, 0),
                    ]
                    serving = asyncio.create_task(server.serve_forever())
                    await asyncio.sleep(1)
                    assert server.is_serving() and server.get_loop() is asyncio.get_running_loop()
                    serving.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await serving
                    assert not server.is_serving()

        world.run(main())

    def test_the_end_of_the_loop_closes_everything(self, world: World) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            here, there = world.hosts  # type: ignore[attr-defined]
            with there:
                await loop.create_server(asyncio.Protocol, THERE, 80)
            with here:
                await loop.create_connection(asyncio.Protocol, THERE, 80)
            await endpoint(here, local_addr=(HERE, 9))

        world.run(main())
        assert [(host.sockets, host.listeners) for host in world.hosts] == [({}, {})] * 2  # type: ignore[attr-defined]


class TestNames:
    def test_getaddrinfo(self) -> None:
        world, here, _ = two()
        world.names.add("x.example", "2001:db8::7", THERE, delay=0.3)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            infos = await loop.getaddrinfo("X.example", 80, type=socket.SOCK_STREAM)
            assert [info[4] for info in infos] == [("2001:db8::7", 80, 0, 0), (THERE, 80)]
            assert loop.time() == 0.3
            infos = await loop.getaddrinfo(b"x.example", "80", family=socket.AF_INET)
            assert [info[:3] for info in infos] == [(socket.AF_INET, socket.SOCK_STREAM, 6), (socket.AF_INET, 2, 17)]
            infos = await loop.getaddrinfo("localhost", 0, type=socket.SOCK_DGRAM)
            assert [info[4][0] for info in infos] == ["127.0.0.1", "::1"]
            infos = await loop.getaddrinfo(None, 0, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
            assert [info[4][0] for info in infos] == ["0.0.0.0", "::"]
            assert await loop.getnameinfo((THERE, 80)) == ("x.example", "80")
            assert await loop.getnameinfo((THERE, 80), socket.NI_NUMERICHOST) == (THERE, "80")
            assert await loop.getnameinfo((HERE, 80)) == (HERE, "80")
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo("y.example", 80)

        world.run(main(), host=here)


DIGEST = """
import asyncio, hashlib, sys
sys.path.insert(0, {root!r})
from tests.scenarios.simulated import lossy_session
print(lossy_session({seed}))
"""


def digest(seed: int, hash_seed: str) -> str:
    """Of all packets of a session, in an interpreter of its own."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(root, "src"))}
    command = [sys.executable, "-c", DIGEST.format(root=root, seed=seed)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_same_seed_same_bytes() -> None:
    """Whatever else differs between two processes."""
    assert digest(1, "1") == digest(1, "2") != digest(2, "1")


def test_random_numbers_of_programs() -> None:
    async def draw() -> list[Any]:
        return [uuid.uuid4(), os.urandom(3)]

    assert World(1).run(draw()) == World(1).run(draw()) != World(2).run(draw())
    assert random.random() != random.random()
