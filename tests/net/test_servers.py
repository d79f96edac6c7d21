"""What a driver and a host do for the sake of servers: signs of life, contexts and credentials of their own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from aioice.core.machine import Close, Connected, CredentialsFetched, FetchCredentials, OpenFailed, OpenStream, Reason
from aioice.net.driver import Driver
from aioice.net.host import AsyncioHost
from tests.net.bench import PEER, Bench, Owner
from tests.net.support import Recorder, turns, until

Run = Callable[..., None]


class SilentServer:
    """Takes connections and says nothing."""

    async def __aenter__(self) -> SilentServer:
        self.writers: list[asyncio.StreamWriter] = []
        self.server = await asyncio.start_server(lambda reader, writer: self.writers.append(writer), "127.0.0.1", 0)
        self.address: tuple[str, int] = self.server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: Any) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.server.close()
        await self.server.wait_closed()
        await asyncio.sleep(0.01)


def bench_on(**options: Any) -> Bench:
    bench = Bench(AsyncioHost(asyncio.get_running_loop(), **options))
    bench.driver = Driver(bench.machine, bench.host, Owner(lambda link: bench.made.setdefault(link, Recorder())))
    return bench


class TestStreams:
    def test_a_connection_is_told_before_tls_is_done(self, run: Run) -> None:
        async def main() -> None:
            async with SilentServer() as server:
                bench = bench_on()
                bench.say(OpenStream(1, server.address, "turn.example"))
                await until(lambda: bench.machine.reports)
                assert bench.machine.reports == [Connected(1)]
                bench.say(Close(1))
                await until(lambda: bench.driver.idle)
                assert len(bench.machine.reports) == 1

        run(main())

    def test_plain_ones_are_open_then(self, run: Run) -> None:
        async def main() -> None:
            async with SilentServer() as server:
                bench = bench_on()
                bench.say(OpenStream(1, server.address, None))
                await until(lambda: bench.machine.reports)
                assert not isinstance(bench.machine.reports[0], Connected)
                bench.say(Close(1))
                await until(lambda: bench.driver.idle)

        run(main())

    def test_nobody_is_there(self, run: Run) -> None:
        async def main() -> None:
            bench = bench_on()
            async with SilentServer() as server:
                address = server.address
            bench.say(OpenStream(1, address, "turn.example"))
            await until(lambda: bench.machine.reports)
            (failed,) = bench.machine.reports
            assert isinstance(failed, OpenFailed) and failed.reason is Reason.REFUSED

        run(main())

    def test_a_server_has_its_own_context(self, run: Run) -> None:
        used: list[ssl.SSLContext | None] = []

        async def main() -> None:
            usual, special = ssl.create_default_context(), ssl.create_default_context()

            async def note(loop: Any, protocol: Any, peer: Any, context: Any, name: Any) -> Any:
                used.append(context)
                raise ConnectionRefusedError

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("aioice.net.stream.open_stream", note)
                host = AsyncioHost(
                    asyncio.get_running_loop(), ssl_context=usual, ssl_contexts={("turn.example", 443): special}
                )
                for port, name in ((443, "turn.example"), (5349, "turn.example"), (443, None)):
                    with pytest.raises(ConnectionRefusedError):
                        await host.open_stream(Recorder(), ("192.0.2.1", port), name)
            assert used == [special, usual, None]

        run(main())


class TestCredentials:
    def test_are_fetched(self, run: Run) -> None:
        async def credentials(server: int) -> tuple[str, str, float | None]:
            return "user", f"password {server}", 7.0

        async def main() -> None:
            bench = bench_on(credentials=credentials)
            bench.say(FetchCredentials(5, 3))
            await until(lambda: bench.machine.reports)
            assert bench.machine.reports == [CredentialsFetched(5, "user", "password 3", 7.0)]
            assert bench.driver.idle

        run(main())

    @pytest.mark.parametrize("answer", [RuntimeError("\x1b[2J"), ("user",), None])
    def test_what_goes_wrong_is_told(self, run: Run, answer: Any) -> None:
        async def credentials(server: int) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def main() -> None:
            bench = bench_on(credentials=credentials)
            bench.say(FetchCredentials(5, 3))
            await until(lambda: bench.machine.reports)
            (report,) = bench.machine.reports
            assert report[:4] == (5, None, None, None)
            assert "callback" in report.detail and report.detail.isprintable()

        run(main())

    def test_nobody_has_them(self, run: Run) -> None:
        async def main() -> None:
            bench = bench_on()
            bench.say(FetchCredentials(5, 3))
            await until(lambda: bench.machine.reports)
            assert bench.machine.reports[0].username is None

        run(main())

    def test_after_the_end_nobody_is_told(self, run: Run) -> None:
        async def credentials(server: int) -> tuple[str, str, float | None]:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
            raise AssertionError(PEER)

        async def main() -> None:
            bench = bench_on(credentials=credentials)
            bench.say(FetchCredentials(5, 3))
            await turns(3)
            bench.driver.close()
            await until(lambda: bench.driver.idle)
            assert bench.machine.reports == []

        run(main())
