"""``aioice demo``: two processes that exchange a few lines of text connect, and the story is told."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from ..ice import Candidate, Connection, LocalCandidate, SelectedPair, StateChanged
from .output import FAILURE, SUCCESS, print_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..ice import ConnectionEvent

#: Seconds that the whole demonstration may take.
TIME_LIMIT = 30
PINGS = 5


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the command line."""
    parser = commands.add_parser("demo", help="two peers connect, with the story told")
    parser.add_argument("--peer", action="store_true", help="be the second peer: speak over standard input and output")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration; returns the exit code."""
    story = Story(quiet=options.json)
    work = _second_peer() if options.peer else _first_peer(story)
    code = SUCCESS
    try:
        asyncio.run(asyncio.wait_for(work, TIME_LIMIT))
    except (ConnectionError, TimeoutError) as exc:
        print(f"The peers did not connect: {str(exc) or 'out of time'}", file=sys.stderr)
        code = FAILURE
    if options.json:
        print_json({"connected": code == SUCCESS, **story.told})
    return code


class Story:
    """What happens, told to people at once, or kept for programs."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        #: Times in seconds.
        self.told: dict[str, Any] = {"ours": [], "theirs": [], "events": [], "connect": None, "round_trips": []}

    def description(self, title: str, kind: str, lines: list[str]) -> None:
        self.told[kind] = lines
        self.say(f"\n{title}:")
        for line in lines:
            self.say(f"  {line}")

    def event(self, time: float, text: str) -> None:
        self.told["events"].append({"time": time, "text": text})
        self.say(f"  {1000 * time:7.1f} ms  {text}")

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text)


# --------------------------------------------------------------------- what the peers tell each other, as SDP has it


async def _description(connection: Connection) -> list[str]:
    await connection.gather_candidates()
    candidates = [f"a=candidate:{candidate.to_sdp()}" for candidate in connection.local_candidates]
    return [
        f"a=ice-ufrag:{connection.local_username}",
        f"a=ice-pwd:{connection.local_password}",
        *candidates,
        "a=end-of-candidates",
    ]


async def _apply(connection: Connection, lines: AsyncIterator[str]) -> list[str]:
    """Hand the peer's description to the connection; returns its lines."""
    seen = []
    async for line in lines:
        seen.append(line)
        name, _, value = line.partition(":")
        if name == "a=ice-ufrag":
            connection.remote_username = value
        elif name == "a=ice-pwd":
            connection.remote_password = value
        elif name == "a=candidate":
            await connection.add_remote_candidate(Candidate.from_sdp(value))
        elif line == "a=end-of-candidates":
            await connection.add_remote_candidate(None)
            return seen
    raise ConnectionError("the peer's description has no end")


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    while line := await reader.readline():
        yield line.decode().rstrip("\n")


# -------------------------------------------------------------------------------------------------------- the peers


async def _first_peer(told: Story) -> None:
    loop = asyncio.get_running_loop()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aioice",
        "demo",
        "--peer",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        async with Connection(ice_controlling=True) as connection:
            story = asyncio.create_task(_tell(told, connection.events(), loop.time()))
            ours = await _description(connection)
            process.stdin.write("".join(f"{line}\n" for line in ours).encode())
            told.description("We say to the other process", "ours", ours)
            theirs = await _apply(connection, _lines(process.stdout))
            told.description("It says to us", "theirs", theirs)
            told.say("\nBoth check the pairs of their addresses:")
            started = loop.time()
            await connection.connect()
            told.told["connect"] = loop.time() - started
            told.say(f"  connect() returned after {1000 * told.told['connect']:.1f} ms; now data flows")
            for number in range(1, PINGS + 1):
                started = loop.time()
                await connection.send(f"ping {number}".encode())
                answer = await connection.recv()
                told.told["round_trips"].append(loop.time() - started)
                told.say(f"  {answer.decode()!r} came back after {1000 * told.told['round_trips'][-1]:.2f} ms")
            await connection.send(b"bye")
        await story
    finally:
        process.stdin.close()
        await process.wait()


async def _second_peer() -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        async with Connection(ice_controlling=False) as connection:
            await _apply(connection, _lines(reader))
            for line in await _description(connection):
                print(line, flush=True)
            await connection.connect()
            while (data := await connection.recv()) != b"bye":
                await connection.send(b"pong" + data.removeprefix(b"ping"))
    finally:
        transport.close()


async def _tell(story: Story, events: AsyncIterator[ConnectionEvent], started: float) -> None:
    loop = asyncio.get_running_loop()
    async for event in events:
        if isinstance(event, StateChanged):
            told = f"state: {event.state}"
        elif isinstance(event, SelectedPair):
            rank = "nominated" if event.nominated else "first valid"
            told = f"{rank} pair: {event.local.host}:{event.local.port} → {event.remote.host}:{event.remote.port}"
        elif isinstance(event, LocalCandidate) and event.candidate is not None:
            told = f"found a {event.candidate.type} candidate: {event.candidate.host}:{event.candidate.port}"
        else:
            continue
        story.event(loop.time() - started, told)
