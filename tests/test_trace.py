"""Trace files: who may read them, what is in them, and that a recorded connection runs again."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from aioice import Connection, trace
from aioice.core.trace import END, SESSION
from aioice.trace import ReplayError, TraceFile, diagnose, read, replay
from tests import peers

EVENT = {"time": 0.0, "name": "aioice:output", "data": {"text": "x" * 100}}


async def recorded(target: Any, **options: Any) -> tuple[Connection, Connection]:
    """A conversation, recorded at the controlling side."""
    a, b = Connection(ice_controlling=True, trace=target, **options), Connection(ice_controlling=False)
    async with a, b:
        await peers.connect(a, b)
        await a.send(b"the secret of the application")
        assert await b.recv() == b"the secret of the application"
    return a, b


class TestFile:
    def test_for_its_owner_alone(self, tmp_path: Path) -> None:
        file = TraceFile(tmp_path / "trace")
        file.close()
        assert stat.S_IMODE((tmp_path / "trace").stat().st_mode) == 0o600

    def test_existing_files_and_links_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "there").write_text("precious")
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        for name in ("there", "link"):
            with pytest.raises(FileExistsError):
                TraceFile(tmp_path / name)
        assert (tmp_path / "there").read_text() == "precious" and not (tmp_path / "elsewhere").exists()

    def test_json_text_sequence(self, tmp_path: Path) -> None:
        """RFC 7464 §2.2: each text between a record separator and a line feed; the first is qlog's header."""
        file = TraceFile(tmp_path / "trace")
        file(EVENT)
        file.close()
        texts = (tmp_path / "trace").read_bytes().split(b"\x1e")
        assert texts[0] == b"" and all(text.endswith(b"\n") for text in texts[1:])
        header, event = map(json.loads, texts[1:])
        assert header["file_schema"] == "urn:ietf:params:qlog:file:sequential"
        assert header["trace"]["event_schemas"] == ["urn:x-aioice:events:1"]
        assert event == EVENT

    def test_bounded(self, tmp_path: Path) -> None:
        file = TraceFile(tmp_path / "trace", max_size=1000)
        for _ in range(100):
            file(EVENT)
        file.close()
        texts = (tmp_path / "trace").read_bytes().split(b"\x1e")
        assert json.loads(texts[-1])["name"] == "aioice:truncated"
        assert 5 < len(texts) < 12

    def test_closed_by_the_end(self, tmp_path: Path) -> None:
        file = TraceFile(tmp_path / "trace")
        file({"time": 0.0, "name": END, "data": {}})
        size = (tmp_path / "trace").stat().st_size
        file(EVENT)
        file.close()
        assert (tmp_path / "trace").stat().st_size == size > 0

    def test_written_when_it_is_forgotten(self, tmp_path: Path) -> None:
        TraceFile(tmp_path / "trace")(EVENT)
        assert b"aioice:output" in (tmp_path / "trace").read_bytes()

    def test_a_full_disk(self, caplog: pytest.LogCaptureFixture) -> None:
        """It ends the trace, not the session."""
        file = TraceFile.__new__(TraceFile)
        file._fd = os.open("/dev/full", os.O_WRONLY)
        file._left, file._waiting = 1 << 20, []
        for _ in range(200):
            file(EVENT)
        file.close()
        assert len(caplog.records) == 1 and "No space left" in caplog.text


class TestConnection:
    async def test_recorded_and_run_again(self, tmp_path: Path, loopback: None) -> None:
        path = tmp_path / "session.sqlog"
        a, b = await recorded(path)
        text = path.read_bytes()
        for secret in (a.local_password, b.local_password, a.local_username, b.local_username, "secret"):
            assert secret.encode() not in text and secret.encode().hex().encode() not in text
        told = read(path)
        assert told.complete and not told.broken and told.reason == "closed"
        again = replay(path)
        assert str(again.agent.state) == "closed" and again.inputs > 5
        assert diagnose(path) == []
        assert replay(text).outputs == told.replay().outputs == again.outputs

    async def test_hidden_addresses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        peers.use_hosts(monkeypatch, "127.0.0.1", "127.0.0.2")
        await recorded(tmp_path / "trace", trace_hide_addresses=True)
        assert read(tmp_path / "trace").events[0]["data"]["hidden_addresses"] is True
        replay(tmp_path / "trace")

    async def test_a_function_gets_the_events(self, loopback: None) -> None:
        events: list[dict[str, Any]] = []
        await recorded(events.append)
        assert events[0]["name"] == SESSION and events[-1]["name"] == END
        assert trace.Replay(json.loads(json.dumps(events))).run().agent.controlling is True

    async def test_a_failed_session_tells_why(self, tmp_path: Path, loopback: None) -> None:
        a = Connection(ice_controlling=True, trace=tmp_path / "trace", patience=0)
        async with a:
            await a.gather_candidates()
            a.remote_username, a.remote_password = "name", "p" * 22
            await a.add_remote_candidate(None)
            with pytest.raises(ConnectionError, match="the peer gave no candidates and sent no checks"):
                await a.connect()
            assert [finding.code for finding in a.diagnosis] == ["no-remote-candidates"]
        assert [finding.code for finding in diagnose(tmp_path / "trace")] == ["no-remote-candidates"]

    def test_a_file_that_cannot_be_made(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Connection(ice_controlling=True, trace=tmp_path / "missing" / "trace")

    async def test_a_blocked_loop(self, tmp_path: Path, loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """The timer of the check that nobody answers fires too late; the clock says so, nobody sleeps."""
        a = Connection(ice_controlling=True, trace=tmp_path / "trace")
        loop = asyncio.get_running_loop()
        async with a:
            await a.gather_candidates()
            driver = a._running_driver()
            assert driver.late == 0.0
            a.remote_username, a.remote_password = "name", "p" * 22
            connecting = asyncio.ensure_future(a.connect())
            await asyncio.sleep(0)
            real = loop.time
            monkeypatch.setattr(loop, "time", lambda: real() + 45)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert "stall" in [finding.code for finding in a.diagnosis]
            connecting.cancel()
        assert "stall" in [finding.code for finding in diagnose(tmp_path / "trace")]


class TestEnvironment:
    async def test_a_directory(self, tmp_path: Path, loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIOICE_TRACE", str(tmp_path))
        a, b = peers.pair()
        async with a, b:
            await peers.connect(a, b)
        files = list(tmp_path.iterdir())
        assert len(files) == 2 and all(file.suffix == ".sqlog" for file in files)
        for file in files:
            replay(file)

    async def test_a_pattern(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIOICE_TRACE", str(tmp_path / "{pid}-{id}.sqlog"))
        for _ in range(3):
            await Connection(ice_controlling=True).close()
        assert len(list(tmp_path.glob(f"{os.getpid()}-*.sqlog"))) == 3

    async def test_one_name_for_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "trace.sqlog").write_text("precious")
        monkeypatch.setenv("AIOICE_TRACE", str(tmp_path / "trace.sqlog"))
        for _ in range(3):
            await Connection(ice_controlling=True).close()
        assert len(list(tmp_path.glob("trace-*.sqlog"))) == 3
        assert (tmp_path / "trace.sqlog").read_text() == "precious"

    async def test_hidden_addresses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIOICE_TRACE", str(tmp_path))
        monkeypatch.setenv("AIOICE_TRACE_HIDE_ADDRESSES", "1")
        await Connection(ice_controlling=True).close()
        (file,) = tmp_path.iterdir()
        assert b'"hidden_addresses":true' in file.read_bytes()

    async def test_a_program_is_not_broken_by_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("AIOICE_TRACE", str(tmp_path / "missing" / "{id}"))
        with caplog.at_level(logging.WARNING):
            await Connection(ice_controlling=True).close()
        assert "No trace is written" in caplog.text

    async def test_the_argument_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIOICE_TRACE", str(tmp_path))
        events: list[Any] = []
        await Connection(ice_controlling=True, trace=events.append).close()
        assert events and not list(tmp_path.iterdir())


def sequence(*values: object) -> bytes:
    return b"".join(b"\x1e" + json.dumps(value).encode() + b"\n" for value in values)


SCHEMA = {"file_schema": "urn:ietf:params:qlog:file:sequential"}
SESSION_EVENT = {"time": 0, "name": SESSION, "data": {}}


class TestRead:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "RFC 7464"),
            (b"{}", "RFC 7464"),
            (b"\x1e", "no header"),
            (sequence({"no": "header"}), "no header"),
            (sequence(SCHEMA), "not the trace of an ICE session"),
            (sequence(SCHEMA, {"name": "x"}), "not the trace of an ICE session"),
            (b"\x1e" + b"[" * 100_000 + b"\n", "no header"),
        ],
    )
    def test_what_is_no_trace(self, data: bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read(data)

    def test_too_large(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(trace, "MAX_READ", 10)
        (tmp_path / "trace").write_bytes(sequence(SCHEMA, SESSION_EVENT))
        with pytest.raises(ValueError, match="too large"):
            read(tmp_path / "trace")

    def test_cut_off(self) -> None:
        """RFC 7464 §2.3: what cannot be read is passed over."""
        told = read(sequence(SCHEMA, SESSION_EVENT, 5) + b'\x1e{"time": 1, "na')
        assert told.broken == 2 and len(told.events) == 1 and not told.complete
        assert told.reason == "" and told.dropped == {}

    def test_odd_ends(self) -> None:
        for data in ({"dropped": []}, {"dropped": {"a": "b", "c": 3}}, []):
            told = read(sequence(SCHEMA, SESSION_EVENT, {"time": 0, "name": END, "data": data}))
            assert told.complete and told.dropped in ({}, {"c": 3})
        with pytest.raises(ReplayError):
            told.replay()
