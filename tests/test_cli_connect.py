"""``aioice connect``: two terminals, what is pasted between them, and what they say to each other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trustme

import aioice
from aioice import Connection
from aioice.__main__ import main
from aioice.cli.connect import apply, describe
from aioice.cli.rendezvous import Rendezvous, meet
from aioice.trace import diagnose
from tests import peers

SOURCES = Path(aioice.__file__).parents[1]


@pytest.fixture(autouse=True)
def loopback_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other Python processes use the loopback interface alone, and warnings are errors there."""
    (tmp_path / "sitecustomize.py").write_text(
        "from aioice import ice\nice.get_host_addresses = lambda use_ipv4, use_ipv6: ['127.0.0.1']\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(SOURCES)]))
    monkeypatch.setenv("PYTHONWARNINGS", "error")


async def terminal(*options: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aioice", "connect", *options, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


async def write(process: Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    await process.stdin.drain()


async def line_of(process: Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()


@asynccontextmanager
async def two(*left: str, right: tuple[str, ...] = ("--serve",)) -> AsyncIterator[tuple[Process, Process]]:
    """Two terminals that have been told of each other; they end by themselves, both with success."""
    a, b = await terminal(*left), await terminal(*right)
    try:
        first, second = await line_of(a), await line_of(b)
        await write(a, b"\n" + second)
        await write(b, first)
        yield a, b
        assert [await asyncio.wait_for(process.wait(), peers.PATIENCE) for process in (a, b)] == [0, 0]
    finally:
        for process in (a, b):
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def test_ping(tmp_path: Path) -> None:
    async with two("--ping", "--json", "--trace", str(tmp_path / "trace")) as (a, _):
        assert a.stdout is not None
        told = json.loads(await a.stdout.read())
    assert told["received"] == 10 and 0 < told["min"] <= told["mean"]
    assert any(entry["type"] == "candidate-pair" and entry["nominated"] for entry in told["stats"].values())
    assert diagnose(tmp_path / "trace") == []


async def test_throughput() -> None:
    async with two("--throughput", "0.1", "--json") as (a, _):
        assert a.stdout is not None
        told = json.loads(await a.stdout.read())
    assert 0 < told["received"] <= told["sent"] and told["bytes"] == 1200 * told["received"]


async def test_chat() -> None:
    """What one types the other reads, escaped; who ends the input ends the conversation."""
    async with two(right=()) as (a, b):
        await write(a, b"hello \x1b[2J\n")
        assert await line_of(b) == b"them  hello \\x1b[2J\n"
        await write(b, b"hi\n")
        assert await line_of(a) == b"them  hi\n"
        assert a.stdin is not None
        a.stdin.close()


@asynccontextmanager
async def rendezvous() -> AsyncIterator[str]:
    """The server as people run it, and the URL of a place at it; Ctrl-C ends it."""
    command = ("-m", "aioice", "rendezvous", "--port", "0", "--json")
    server = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, stderr=PIPE)
    try:
        assert server.stdout is not None
        told = json.loads(await server.stdout.readuntil(b"}"))
        yield f"ws://{told['host']}:{told['port']}/place"
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = await server.communicate()
    assert (server.returncode, errors) == (130, b"")


@pytest.mark.parametrize("options", [("--ping",), ("--throughput", "0.1")])
async def test_rendezvous(options: tuple[str, ...]) -> None:
    """Nothing is pasted, and nothing need be there to type at."""
    async with rendezvous() as url:
        command = (sys.executable, "-m", "aioice", "connect", "--rendezvous", url, "--json")
        pipes = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}
        asker = await asyncio.create_subprocess_exec(*command, *options, **pipes)
        server = await asyncio.create_subprocess_exec(*command, "--serve", **pipes)
        (told, errors), _ = await asyncio.wait_for(
            asyncio.gather(asker.communicate(), server.communicate()), peers.PATIENCE
        )
    assert (asker.returncode, server.returncode) == (0, 0), errors
    assert json.loads(told)["received"] > 0


async def test_chat_after_a_rendezvous() -> None:
    async with rendezvous() as url:
        a, b = await terminal("--rendezvous", url), await terminal("--rendezvous", url)
        await write(a, "grüße\nsecond\n".encode())
        assert await line_of(b) == b"them  gr\\xfc\\xdfe\n"
        assert await line_of(b) == b"them  second\n"
        await write(b, b"an answer\n")
        assert await line_of(a) == b"them  an answer\n"
        assert b.stdin is not None
        b.stdin.close()
        for process in (a, b):
            await asyncio.wait_for(process.communicate(), peers.PATIENCE)
        assert (a.returncode, b.returncode) == (0, 0)


async def test_rendezvous_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a proxy does: the clients check its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = await asyncio.start_server(Rendezvous(), "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"wss://localhost:{server.sockets[0].getsockname()[1]}/place"
        with pytest.raises(ConnectionError, match="certificate"):
            await meet(url, "nobody")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert await asyncio.gather(meet(url, "a"), meet(url, "b")) == ["b", "a"]


@pytest.mark.parametrize("url", ["nonsense", "http://example.org/", "ws://user@example.org/"])
def test_wrong_rendezvous(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "--rendezvous", url]) == 2
    assert capsys.readouterr().err.startswith("aioice: ")


def test_no_rendezvous_there(loopback: None, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        assert main(["rendezvous", "--port", str(port)]) == 1
    assert main(["connect", "--rendezvous", f"ws://127.0.0.1:{port}/"]) == 1
    assert main(["rendezvous", "--port", "99999"]) == 1
    assert capsys.readouterr().err.count("aioice: ") == 3


async def test_ctrl_c() -> None:
    process = await terminal()
    assert await line_of(process)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), peers.PATIENCE)
    assert process.returncode == 130 and b"Traceback" not in errors


@pytest.mark.parametrize("pasted", [b"", b"nonsense\n", b64encode(b"[1]") + b"\n"])
async def test_nonsense(pasted: bytes) -> None:
    process = await terminal()
    _, errors = await asyncio.wait_for(process.communicate(pasted), peers.PATIENCE)
    assert process.returncode == 1
    assert b"aioice: " in errors and b"Traceback" not in errors


async def test_descriptions(loopback: None) -> None:
    a, b = peers.pair()
    async with a, b:
        await peers.gather(a, b)
        word = describe(a)
        assert word.isascii() and len(word.split()) == 1
        await apply(b, word)
        assert (b.remote_username, b.remote_password) == (a.local_username, a.local_password)
        assert len(b.remote_candidates) == 1
        await apply(a, describe(b))
        await peers.meet(a, b)


@pytest.mark.parametrize(
    "values",
    [
        {"ufrag": "abcd", "pwd": "p" * 22},
        {"ufrag": "abcd", "pwd": "p" * 22, "candidates": ["nonsense"]},
        {"ufrag": "abcd", "pwd": "p" * 22, "candidates": [None]},
        {"ufrag": "a", "pwd": "p" * 22, "candidates": []},
        {"ufrag": 5, "pwd": "p" * 22, "candidates": []},
    ],
)
async def test_what_is_no_description(values: dict[str, object]) -> None:
    async with Connection(ice_controlling=True) as connection:
        with pytest.raises(ValueError, match="not the line"):
            await apply(connection, b64encode(json.dumps(values).encode()).decode())
        with pytest.raises(ValueError, match="too long"):
            await apply(connection, "x" * 100_000)


def test_wrong_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "--server", "nonsense"]) == 2
    (tmp_path / "there").write_text("precious")
    assert main(["connect", "--trace", str(tmp_path / "there")]) == 2
    assert capsys.readouterr().err.count("aioice: ") == 2
