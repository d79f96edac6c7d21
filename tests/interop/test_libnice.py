"""Against libnice, which is under GStreamer's webrtcbin, Janus and others: either role, data both ways."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from aioice import Candidate, Connection
from tests.peers import HOST, PATIENCE, use_hosts

#: Debian's own Python has the bindings.
COMMAND = ("/usr/bin/python3", str(Path(__file__).with_name("nice_agent.py")))


@pytest.mark.parametrize("controlling", [True, False])
async def test_libnice(monkeypatch: pytest.MonkeyPatch, controlling: bool) -> None:
    use_hosts(monkeypatch, HOST)
    role = "controlled" if controlling else "controlling"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*COMMAND, role, HOST, stdin=pipe, stdout=pipe, stderr=sys.stderr)
    assert process.stdin is not None and process.stdout is not None
    told, say = process.stdout, process.stdin.write

    async def hear(wanted: str) -> list[tuple[str, str]]:
        """What it says up to the line ``wanted``."""
        heard: list[tuple[str, str]] = []
        async with asyncio.timeout(PATIENCE):
            while not heard or " ".join(heard[-1]).rstrip() != wanted:
                line = (await told.readline()).decode()
                assert line, "libnice's process has ended"
                name, _, value = line.rstrip("\n").partition(" ")
                heard.append((name, value))
        return heard

    try:
        async with Connection(controlling) as connection:
            await connection.gather_candidates()
            for name, value in await hear("end"):
                if name == "candidate":
                    await connection.add_remote_candidate(Candidate.from_sdp(value))
                elif name in ("username", "password"):
                    setattr(connection, f"remote_{name}", value)
            await connection.add_remote_candidate(None)
            say(f"username {connection.local_username}\npassword {connection.local_password}\n".encode())
            for candidate in connection.local_candidates:
                say(f"candidate {candidate.to_sdp()}\n".encode())
            say(b"end\n")
            await asyncio.wait_for(connection.connect(), PATIENCE)
            await hear("state ready")
            say(b"send from libnice\n")
            assert await asyncio.wait_for(connection.recv(), PATIENCE) == b"from libnice"
            await connection.send(b"from us")
            await hear(f"received {b'from us'.hex()}")
            assert connection.state == "completed"
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), PATIENCE)
