"""The command line: its exit codes, and the demonstration as people run it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aioice
from aioice.__main__ import main
from aioice.cli import demo
from aioice.ice import Connection

SOURCES = Path(aioice.__file__).parents[1]


@pytest.fixture
def loopback_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loopback: None) -> None:
    """Other Python processes use the loopback interface, too, and warnings are errors there."""
    (tmp_path / "sitecustomize.py").write_text(
        "from aioice import ice\nice.get_host_addresses = lambda use_ipv4, use_ipv6: ['127.0.0.1']\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(SOURCES)]))
    monkeypatch.setenv("PYTHONWARNINGS", "error")


def told(output: str) -> None:
    """What the demonstration says, with the times and ports taken out."""
    story = re.sub(r"\d+\.\d+ ms", "TIME", re.sub(r"127\.0\.0\.1[: ]\d+", "HERE", output))
    for part in (
        "We say to the other process:\n  a=ice-ufrag:",
        "It says to us:\n  a=ice-ufrag:",
        "found a host candidate: HERE",
        "state: checking",
        "nominated pair: HERE → HERE",
        "state: completed",
        "connect() returned after TIME; now data flows",
        *(f"'pong {number}' came back after TIME" for number in range(1, demo.PINGS + 1)),
        "state: closed",
    ):
        assert part in story
    assert story.count("a=ice-pwd:") == story.count("a=end-of-candidates") == 2


class TestDemo:
    def test_as_a_program(self, loopback_processes: None) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "aioice", "demo"], capture_output=True, timeout=60, encoding="utf-8"
        )
        assert done.stderr == "" and done.returncode == 0
        told(done.stdout)

    def test_the_first_peer(self, loopback_processes: None, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["demo"]) == 0
        told(capfd.readouterr().out)

    def test_for_programs(self, loopback_processes: None, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--json"]) == 0
        story = json.loads(capfd.readouterr().out)
        assert story["connected"] and story["connect"] > 0 and len(story["round_trips"]) == demo.PINGS
        assert story["ours"][-1] == story["theirs"][-1] == "a=end-of-candidates"
        assert story["events"][-1]["text"] == "state: closed"

    async def test_the_second_peer(self, loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
        (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
        with os.fdopen(in_write, "w") as to_peer, os.fdopen(out_read) as from_peer, os.fdopen(out_write, "w") as out:
            monkeypatch.setattr(sys, "stdin", os.fdopen(in_read))
            monkeypatch.setattr(sys, "stdout", out)
            second = asyncio.create_task(demo._second_peer())
            async with Connection(ice_controlling=True) as connection:
                for line in await demo._description(connection):
                    to_peer.write(f"{line}\n")
                to_peer.flush()
                reader = asyncio.StreamReader()
                transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                    lambda: asyncio.StreamReaderProtocol(reader), from_peer
                )
                seen = await demo._apply(connection, demo._lines(reader))
                assert seen[0].startswith("a=ice-ufrag:") and seen[-1] == "a=end-of-candidates"
                await connection.connect()
                await connection.send(b"ping 7")
                assert await connection.recv() == b"pong 7"
                await connection.send(b"bye")
                await second
                transport.close()

    async def test_a_description_that_breaks_off(self) -> None:
        async def lines() -> AsyncIterator[str]:
            yield "a=ice-ufrag:abcd"
            yield "a=ice-pwd:0123456789012345678901"
            yield "a=something-else:1"

        async with Connection(ice_controlling=True) as connection:
            with pytest.raises(ConnectionError, match="has no end"):
                await demo._apply(connection, lines())
            assert (connection.remote_username, connection.remote_password) == ("abcd", "0123456789012345678901")

    def test_the_other_process_dies(
        self, loopback: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        nothing = shutil.which("true")
        assert nothing is not None
        monkeypatch.setattr(sys, "executable", nothing)
        assert main(["demo"]) == 1
        assert capsys.readouterr().err == "The peers did not connect: the peer's description has no end\n"


class TestExitCodes:
    @pytest.mark.parametrize("arguments", [["demo"], ["demo", "--peer"]])
    @pytest.mark.parametrize(
        "exc, why", [(ConnectionError("nobody is there"), "nobody is there"), (TimeoutError(), "out of time")]
    )
    def test_failure(
        self,
        arguments: list[str],
        exc: Exception,
        why: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        async def fail(*story: demo.Story) -> None:
            raise exc

        async def other(*story: demo.Story) -> None:
            raise AssertionError("the other peer")

        first, second = (other, fail) if "--peer" in arguments else (fail, other)
        monkeypatch.setattr(demo, "_first_peer", first)
        monkeypatch.setattr(demo, "_second_peer", second)
        assert main(arguments) == 1
        assert capsys.readouterr() == ("", f"The peers did not connect: {why}\n")

    def test_control_c(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        async def interrupted(story: demo.Story) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "_first_peer", interrupted)
        assert main(["demo"]) == 130
        assert capsys.readouterr() == ("", "")

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"aioice {aioice.__version__}\n"

    @pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--nonsense"], ["demo", "more"]])
    def test_a_wrong_call(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("usage: aioice") and printed.out == ""

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0 and "demo" in capsys.readouterr().out

    def test_as_a_module(self) -> None:
        command = [sys.executable, "-m", "aioice", "--version"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0 and ran.stdout.startswith("aioice ")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
    def test_a_full_disk(self) -> None:
        with open("/dev/full", "w") as full:
            ran = subprocess.run(
                [sys.executable, "-m", "aioice", "nat", "name.invalid", "--json"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert ran.returncode == 1 and ran.stderr.startswith("aioice: ") and ran.stderr.count("\n") == 1

    def test_a_closed_pipe(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            ran = subprocess.run(
                [sys.executable, "-m", "aioice", "nat", "name.invalid"], stdout=pipe, stderr=subprocess.PIPE, text=True
            )
        assert (ran.returncode, ran.stderr) == (1, "")

    def test_a_terminal_without_arrows(self) -> None:
        ran = subprocess.run(
            [sys.executable, "-c", "from aioice.__main__ import main; main(['nat', 'x.invalid']); print('→')"],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0 and ran.stdout.endswith("\\u2192\n")
