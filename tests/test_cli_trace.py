"""``aioice trace``: explaining, replaying, and what it says of files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aioice.__main__ import main
from aioice.cli import output
from aioice.cli.story import MAX_LINES, Ends, Story
from aioice.core.gathering import StunServer
from aioice.core.trace import Recording
from aioice.sim import World
from aioice.trace import TraceFile, read
from tests.scenarios import support
from tests.scenarios.support import STUN, Pair, pair


def record(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Agents of scenarios are recorded into this folder."""

    def make(config: Any, random: Any, username: str, password: str, tunables: Any = None) -> Any:
        return Recording(TraceFile(folder / username), config, random, username, password, tunables)

    monkeypatch.setattr(support, "Agent", make)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Two agents that were connected and closed: the files ``left`` and ``right``."""
    record(monkeypatch, tmp_path)
    p = pair()
    p.connect()
    p.until_complete()
    p.world.run(until=p.world.now + 20)
    p.left.close()
    p.right.close()
    return p


def test_explain(session: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(tmp_path / "left")]) == 0
    told = capsys.readouterr().out
    for part in (
        "Findings\n  none\n",
        "gathering for component 1 from 192.0.2.1",
        "connect(): the checks begin",
        "nominated pair of component 1: host 192.0.2.1:50000 → host 192.0.2.2:50000",
        "is asked for consent",
        "succeeded",
        "close()",
        "round trip",
    ):
        assert part in told
    assert "\x1b" not in told


def test_replay(session: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--replay", str(tmp_path / "right")]) == 0
    assert capsys.readouterr().out.startswith("the same: ")


def test_a_difference(session: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and the story up to there."""
    data = (tmp_path / "left").read_bytes()
    (tmp_path / "other").write_bytes(data.replace(b'"max_pairs":100', b'"max_pairs":100,"x":1', 1))
    (tmp_path / "late").write_bytes(data.replace(b'"type":"Route"', b'"type":"Other"', 1))
    for name in ("other", "late"):
        assert main(["trace", "--replay", str(tmp_path / name)]) == 1
    told = capsys.readouterr().out
    assert "cannot be read" in told and "puts out" in told
    assert main(["trace", str(tmp_path / "late")]) == 1
    told = capsys.readouterr().out
    assert "connect(): the checks begin" in told and "The replay ended early" in told
    assert main(["trace", "--json", str(tmp_path / "other")]) == 1
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_json(session: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--json", str(tmp_path / "left")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "closed" and told["complete"] and told["difference"] is None
    assert {line["kind"] for line in told["timeline"]} == {"gathering", "checks", "selection", "consent", "state"}
    assert main(["trace", "--json", "--replay", str(tmp_path / "left")]) == 0
    assert "timeline" not in json.loads(capsys.readouterr().out)


def test_what_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("text")
    for name in ("text", "missing"):
        assert main(["trace", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("aioice: ") == 2


def test_html_overwrites_nothing(session: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("left", "link"):
        assert main(["trace", str(tmp_path / "left"), "--html", str(tmp_path / name)]) == 2
    assert not (tmp_path / "target").exists()
    assert main(["trace", str(tmp_path / "left"), "--html", str(tmp_path / "page")]) == 0
    assert "None: the session was healthy." in (tmp_path / "page").read_text()
    capsys.readouterr()


def test_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is not there, a peer that is silent, a malformed datagram, and a loop that was blocked."""
    record(monkeypatch, tmp_path)
    world = World()
    world.network(delay=0.025)
    p = pair(world, hosts=(world.host("192.0.2.1"), world.host("192.0.2.2")), stun_server=StunServer(*STUN))
    p.gather().exchange()
    world.drop(lambda packet: packet.dst[0] == "192.0.2.1")
    p.start()
    link = p.left.agent.check_list[0].base.link
    p.left.node._call(p.left.agent.handle_datagram, link, ("192.0.2.9", 9), bytes.fromhex("000100042112a442"))
    world.run(until=world.now + 70)
    p.left.agent.handle_timeout(world.now + 100)
    p.left.close()
    assert main(["trace", str(tmp_path / "left")]) == 0
    told = capsys.readouterr().out
    assert "peer-silent" in told and "malformed" in told and "to do: " in told and "no answer" in told
    assert main(["trace", str(tmp_path / "left"), "--html", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page").read_text()
    assert "peer-silent" in page and "Dropped datagrams" in page


def test_a_session_that_did_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    record(monkeypatch, tmp_path)
    p = pair(components=2)
    p.connect()
    for peer in p:
        peer.agent._sink.close()
    assert main(["trace", str(tmp_path / "left")]) == 0
    assert "none so far" in capsys.readouterr().out
    page = tmp_path / "page"
    assert main(["trace", str(tmp_path / "left"), "--html", str(page)]) == 0


def test_a_story_is_bounded(session: Pair, tmp_path: Path) -> None:
    """The first and the last of it are kept."""
    ends: Ends[int] = Ends(10)
    assert ends.last is None
    for number in range(100):
        ends.append(number)
        assert ends.last == number
    assert list(ends) == [0, 1, 2, 3, 4, 95, 96, 97, 98, 99] and ends.omitted == 90
    story = Story(read(tmp_path / "left"))
    for number in range(2 * MAX_LINES):
        story._tell(float(number), "state", "again")
    assert len(list(story.lines)) == MAX_LINES


class Terminal:
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class TestOutput:
    def test_colours_on_a_terminal_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream: Any = Terminal()
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert output.coloured("text", "good", stream) == "\x1b[32mtext\x1b[0m"
        assert output.coloured("text", "good") == "text"
        monkeypatch.setenv("NO_COLOR", "1")
        assert output.coloured("text", "good", stream) == "text"

    def test_what_comes_from_outside(self) -> None:
        assert output.shown("a\x1b[2Jb\nü‮→") == "a\\x1b[2Jb\\n\\xfc\\u202e→"
        assert output.shown("x" * 300) == "x" * 200 + "..." and output.shown(None) == ""

    def test_progress_is_for_people(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.progress("working")
        assert capsys.readouterr().err == ""
