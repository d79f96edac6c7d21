from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aioice.core.machine import Reason
from aioice.net import host as host_module
from aioice.net.host import AsyncioHost, reason_of
from aioice.net.udp import UdpTransport
from tests.net.support import NoReaders, Recorder, until

Run = Callable[..., None]


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (None, Reason.CLOSED),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), Reason.REFUSED),
        (ConnectionResetError(errno.ECONNRESET, ""), Reason.CLOSED),
        (ConnectionResetError("asyncio's"), Reason.CLOSED),
        (BrokenPipeError(errno.EPIPE, ""), Reason.CLOSED),
        (EOFError(), Reason.CLOSED),
        (ValueError("no frame"), Reason.NOT_STUN),
        (OSError(errno.EHOSTUNREACH, ""), Reason.UNREACHABLE),
        (OSError(errno.ENETUNREACH, ""), Reason.UNREACHABLE),
        (PermissionError(errno.EPERM, ""), Reason.UNREACHABLE),
        (OSError(errno.EADDRNOTAVAIL, ""), Reason.BIND),
        (OSError(errno.EADDRINUSE, ""), Reason.BIND),
        (OSError(errno.EMSGSIZE, ""), Reason.TOO_BIG),
        (TimeoutError(), Reason.TIMED_OUT),
        (OSError(errno.ETIMEDOUT, ""), Reason.TIMED_OUT),
        (socket.gaierror(socket.EAI_NONAME, ""), Reason.NAME_NOT_FOUND),
        (ssl.SSLError("handshake"), Reason.TLS),
        (ssl.SSLCertVerificationError("name"), Reason.TLS),
        (OSError(errno.EMFILE, ""), Reason.OTHER),
        (OSError("no number"), Reason.OTHER),
        (RuntimeError(), Reason.OTHER),
    ],
)
def test_reasons(exc: Exception | None, reason: Reason) -> None:
    assert reason_of(exc) is reason


def test_open_udp_at_once(run: Run) -> None:
    async def main() -> None:
        host = AsyncioHost(asyncio.get_running_loop())
        transport = host.open_udp(Recorder(), "127.0.0.1")
        assert isinstance(transport, UdpTransport)
        transport.close()

    run(main())


def test_open_udp_without_readers() -> None:
    async def main() -> None:
        host = AsyncioHost(asyncio.get_running_loop())
        for _ in range(2):
            protocol = Recorder()
            opening = host.open_udp(protocol, "127.0.0.1")
            assert not isinstance(opening, asyncio.DatagramTransport)
            transport = await opening
            assert protocol.transport is transport
            transport.close()
            await until(lambda protocol=protocol: protocol.lost)

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    ("name", "address"),
    [("192.0.2.1", "192.0.2.1"), ("::1", "::1"), ("2001:DB8:0:0::0001", "2001:db8::1")],
)
def test_addresses_resolve_to_themselves(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)

    async def main() -> None:
        assert await AsyncioHost(asyncio.get_running_loop()).resolve(name) == (address,)

    asyncio.run(main())


def answer(*addresses: str) -> list[Any]:
    return [(0, 0, 0, "", (address, 0)) for address in addresses]


def test_names_give_both_families_in_order_and_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Field case F15."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer("2001:db8::1", "192.0.2.1", "192.0.2.1"))

    async def main() -> None:
        assert await AsyncioHost(asyncio.get_running_loop()).resolve("stun.example") == ("2001:db8::1", "192.0.2.1")

    run(main())


@pytest.mark.parametrize("name", ["no.such.name.invalid", "a" * 70, "a\0b", "", "a..b"])
def test_names_that_give_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original = socket.getaddrinfo

    def getaddrinfo(asked: str, *args: Any, **kwargs: Any) -> Any:
        if asked == "no.such.name.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return original(asked, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        assert await AsyncioHost(asyncio.get_running_loop()).resolve(name) == ()

    run(main())


def test_mdns_names_go_to_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    asked: list[str] = []

    async def resolver(name: str) -> tuple[str, ...]:
        asked.append(name)
        return ("192.0.2.7",)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await AsyncioHost(loop, resolver=resolver).resolve("Some.LOCAL") == ("192.0.2.7",)
        assert await AsyncioHost(loop, resolver=resolver).resolve("some.local.") == ("192.0.2.7",)
        assert await AsyncioHost(loop).resolve("some.local") == ()
        assert asked == ["Some.LOCAL", "some.local."]

    asyncio.run(main())


@pytest.mark.parametrize("text", ["fe80::1%eth0", "junk", "", "192.0.2.256", None])
async def test_what_is_no_address_is_not_found(text: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver may be the application's own."""

    async def resolver(name: str) -> tuple[Any, ...]:
        return (text, "2001:DB8:0::1", "2001:db8::1")

    host = AsyncioHost(asyncio.get_running_loop(), resolver=resolver)
    assert await host.resolve("some.local") == ("2001:db8::1",)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer(str(text), "192.0.2.1"))
    assert await host.resolve("stun.example") == ("192.0.2.1",)


def test_hosts_share_the_look_ups_of_their_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    asked: list[str] = []

    def getaddrinfo(name: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(name)
        gate.wait()
        return answer("192.0.2.1")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        names = [f"n{number}.example" for number in range(2 * host_module.MAX_LOOKUPS)]
        tasks = [asyncio.create_task(AsyncioHost(loop).resolve(name)) for name in names * 3]
        await until(lambda: len(asked) == host_module.MAX_LOOKUPS)
        assert [thread.name for thread in threading.enumerate()].count("aioice-dns") == host_module.MAX_LOOKUPS
        gate.set()
        assert set(await asyncio.gather(*tasks)) == {("192.0.2.1",)}
        # Each was looked up once for all that waited, and is looked up again afterwards.
        assert sorted(asked) == sorted(names)
        await AsyncioHost(loop).resolve(names[0])
        assert len(asked) == len(names) + 1

    run(main())


def test_look_ups_are_bounded_and_cancelled_ones_leave_the_queue(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    asked: list[str] = []

    def getaddrinfo(name: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(name)
        gate.wait()
        return answer("192.0.2.1")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        host = AsyncioHost(asyncio.get_running_loop())
        tasks = [asyncio.create_task(host.resolve(f"n{n}.example")) for n in range(host_module.MAX_LOOKUPS + 4)]
        await until(lambda: len(asked) == host_module.MAX_LOOKUPS)
        tasks[0].cancel()
        tasks[-1].cancel()
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results].count(asyncio.CancelledError) == 2
        assert results[1:-1] == [("192.0.2.1",)] * (host_module.MAX_LOOKUPS + 2)
        assert f"n{host_module.MAX_LOOKUPS + 3}.example" not in asked
        gate.clear()

    run(main())


def test_no_thread_is_no_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a limit of threads a name is not found now; later ones do not wait for it."""

    async def check() -> None:
        host = AsyncioHost(asyncio.get_running_loop())
        with monkeypatch.context() as patch:

            def refuse(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", refuse)
            names = [f"{number}.example" for number in range(2 * host_module.MAX_LOOKUPS)]
            assert set(await asyncio.gather(*map(host.resolve, names))) == {()}
        monkeypatch.setattr(host_module, "_getaddrinfo", lambda name: ("192.0.2.1",))
        assert await host.resolve("0.example") == ("192.0.2.1",)

    run(check())


def test_an_answer_after_the_loops_end_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def getaddrinfo(name: str, *args: Any, **kwargs: Any) -> Any:
        gate.wait()
        return answer("192.0.2.1")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        task = asyncio.create_task(AsyncioHost(asyncio.get_running_loop()).resolve("slow.example"))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "aioice-dns")
    gate.set()
    thread.join()


def test_a_name_that_never_answers_does_not_hold_up_the_end_of_the_program() -> None:
    program = """
import asyncio, socket, threading
socket.getaddrinfo = lambda *args, **kwargs: threading.Event().wait()
from aioice.net.host import AsyncioHost

async def main():
    try:
        await asyncio.wait_for(AsyncioHost(asyncio.get_running_loop()).resolve("never.example"), 0.05)
    except TimeoutError:
        print("gave up")

asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(host_module.__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, env=environment
    )
    assert result.stdout == "gave up\n", result.stderr


def test_streams(run: Run) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        peer = server.sockets[0].getsockname()
        host = AsyncioHost(asyncio.get_running_loop())
        protocol = Recorder()
        await host.open_stream(protocol, peer, None)
        await until(lambda: protocol.lost)
        # A default context is made where none was given; this server does not speak TLS.
        with pytest.raises(ssl.SSLError):
            await host.open_stream(Recorder(), peer, "turn.example")
        context = ssl.create_default_context()
        with pytest.raises(ssl.SSLError):
            await AsyncioHost(asyncio.get_running_loop(), ssl_context=context).open_stream(
                Recorder(), peer, "x.example"
            )
        server.close()
        await server.wait_closed()

    run(main())
