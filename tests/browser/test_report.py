"""The report of a trace in Chromium: it shows what happened, and a hostile trace runs nothing in it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aioice.__main__ import main
from aioice.core.trace import Recording
from aioice.sim import World
from aioice.trace import TraceFile
from tests.browser.chromium import dom_of, picture_of
from tests.scenarios import support
from tests.scenarios.support import pair, puppeteer

#: Each tries to run a script, to load something, or to leave the place where it stands.
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</style></svg></title><svg onload=document.title='owned'>",
    "<meta http-equiv=refresh content='0;url=data:text/html,owned'>",
    "&lt;b&gt; \x1b[2J‮ \u0000",
)

Recorder = Callable[..., Any]


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first agent of a scenario is recorded into this file."""
    path = tmp_path / "trace.sqlog"

    def make(config: Any, random: Any, username: str, password: str, tunables: Any = None) -> Any:
        sink: Any = (lambda event: None) if path.exists() else TraceFile(path)
        return Recording(sink, config, random, username, password, tunables)

    monkeypatch.setattr(support, "Agent", make)
    return path


def report(trace: Path) -> Path:
    page = trace.with_suffix(".html")
    main(["trace", str(trace), "--html", str(page)])
    assert page.stat().st_mode & 0o777 == 0o600
    return page


def colours_in(png: bytes) -> int:
    """How many different bytes the picture has: a blank one has few."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data, position = b"", 8
    while position < len(png):
        (length,) = struct.unpack_from("!I", png, position)
        if png[position + 4 : position + 8] == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += 12 + length
    return len(set(zlib.decompress(data)))


def test_a_lost_session(recorder: Path, tmp_path: Path) -> None:
    world = World(1)
    world.network(delay=0.04, jitter=0.01)
    p = pair(world)
    p.connect()
    p.until_complete()
    world.run(until=world.now + 60)
    p.right.close()
    world.run(until=world.now + 60)
    p.left.close()
    page = report(recorder)
    dom = dom_of(page, tmp_path / "profile")
    for part in ("consent expired: no answer from the peer", "consent-lost", "192.0.2.2:50000", "<svg", "nominated"):
        assert part in dom
    assert dom.count("<circle") > 30 and dom.count("<path") == 2
    picture_of(page, tmp_path / "page.png", tmp_path / "profile")
    assert colours_in((tmp_path / "page.png").read_bytes()) > 50


def test_a_hostile_peer(recorder: Path, tmp_path: Path) -> None:
    """Everything that the network can write into a trace."""
    world, peer, puppet = puppeteer()
    for number, text in enumerate(HOSTILE):
        words = "".join(text.split()) or "x"
        if words.isprintable():
            peer.add(f"f{number}{words} 1 udp {number + 7} 192.0.2.9 {1000 + number} typ host x {words}")
        puppet.check(peer, username=text)
    world.run(until=world.now + 3)
    peer.close()
    check_harmless(report(recorder), tmp_path)


def test_a_hostile_trace(recorder: Path, tmp_path: Path) -> None:
    """A file that somebody else has made: any text may stand anywhere in it."""
    puppeteer()[1].close()
    original = recorder.read_text()
    for number, text in enumerate(HOSTILE):
        escaped = text.encode("unicode_escape").decode().replace('"', '\\"').replace("\\x", "\\u00")
        for old in ("192.0.2.1", "new", "closed", "aioice 0", "gather", "udp", "Notify", "SelectedPair"):
            path = recorder.with_name(f"hostile-{number}-{old.replace(' ', '')}.sqlog")
            path.write_text(original.replace(old, escaped))
            if old in ("192.0.2.1", "closed") or number == 0:
                page = path.with_suffix(".html")
                main(["trace", str(path), "--html", str(page)])
                if page.exists():
                    check_source(page.read_text())
    check_harmless(page_of_all(recorder.parent), tmp_path)


def page_of_all(folder: Path) -> Path:
    """All of the pages in one, so that Chromium starts once."""
    pages = sorted(folder.glob("hostile-*.html"))
    assert len(pages) >= 8
    whole = folder / "all.html"
    whole.write_text("\n".join(page.read_text() for page in pages))
    return whole


def check_source(text: str) -> None:
    for part in ("<script", "<img", 'onerror="', "<meta http-equiv=refresh", "\x1b", "‮", "\x00"):
        assert part not in text
    assert "default-src 'none'" in text


def check_harmless(page: Path, tmp_path: Path) -> None:
    check_source(page.read_text())
    dom = dom_of(page, tmp_path / "profile")
    assert "<title>ICE session" in dom and "owned</title>" not in dom
    assert "<script" not in dom and "<img" not in dom and "onload=" not in dom.replace("onload=document.title=", "")
