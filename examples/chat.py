"""A chat between two terminals: each prints a line to paste into the other; then what is typed goes to the other side.

    python examples/chat.py [--server URI …] [--username NAME --password PASSWORD]

Two programs can be the terminals, too: what is to be pasted is the first line of the output, and of the input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from base64 import b64decode, b64encode

from aioice import Candidate, Connection, IceServer

#: An empty datagram ends the chat.
END = b""


def describe(connection: Connection) -> str:
    """What the other side has to know, as one word."""
    candidates = [candidate.to_sdp() for candidate in connection.local_candidates]
    return b64encode(json.dumps([connection.local_username, connection.local_password, candidates]).encode()).decode()


async def learn(connection: Connection, word: str) -> None:
    """What the other side says of itself; :class:`ValueError` if it is something else."""
    username, password, candidates = json.loads(b64decode(word, validate=True))
    connection.remote_username, connection.remote_password = username, password
    for candidate in candidates:
        await connection.add_remote_candidate(Candidate.from_sdp(candidate))
    await connection.add_remote_candidate(None)


async def speak(connection: Connection, typed: asyncio.StreamReader) -> None:
    while line := await typed.readline():
        # 1200 bytes fit every path; a line may get lost all the same, as datagrams do.
        await connection.send(line.strip()[:1200] or b" ")
    await connection.send(END)


async def listen(connection: Connection) -> None:
    while (data := await connection.recv()) != END:
        # What the peer says goes to our terminal: only what can be printed.
        print("".join(c if c.isprintable() else "?" for c in data.decode(errors="replace")), flush=True)


async def chat(servers: list[IceServer]) -> None:
    typed = asyncio.StreamReader()
    keyboard, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(typed), sys.stdin
    )
    # Both control: they settle it between themselves (RFC 8445 §7.3.1.1), and nobody has to be the first.
    async with Connection(ice_controlling=True, ice_servers=servers) as connection:
        await connection.gather_candidates()
        print("Paste this line into the other terminal, and its line here:", file=sys.stderr)
        print(describe(connection), flush=True)
        await learn(connection, (await typed.readline()).decode().strip())
        await connection.connect()
        print("Connected. Ctrl-D ends the chat.", file=sys.stderr)
        sides = [asyncio.create_task(speak(connection, typed)), asyncio.create_task(listen(connection))]
        done, pending = await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        for side in pending:
            side.cancel()
        for side in done:
            side.result()
    keyboard.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat between two terminals.")
    parser.add_argument("--server", action="append", default=[], metavar="URI", help="stun:host or turn:host")
    parser.add_argument("--username", help="for TURN")
    parser.add_argument("--password", help="for TURN")
    options = parser.parse_args()
    try:
        servers = [IceServer(url, options.username, options.password) for url in options.server]
        asyncio.run(chat(servers))
    except (ConnectionError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
