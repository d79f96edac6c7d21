"""The example of a browser: Chromium talks to aiortc on this package. ``run_aiortc.py`` runs it where aiortc is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from .chromium import open_page

SERVER = Path(__file__).with_name("example") / "server.py"
#: Resolves when the page shows the text; the runner limits a test's time.
SHOWN = """new Promise(resolve => {
    const shown = () => document.querySelector("#log")?.textContent.includes(TEXT);
    const look = () => shown() ? resolve(true) : setTimeout(look, 20);
    look();
})"""


@pytest.fixture
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address, and the running example."""
    command = [sys.executable, "-W", "error", str(SERVER), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.terminate()


def test_data_channel(server: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    """Checks, DTLS and SCTP against a real browser, which shows mDNS names in place of its addresses."""
    url, process = server
    with open_page(tmp_path / "profile") as page:
        page.open(url)
        assert page.evaluate(SHOWN.replace("TEXT", "'you said: hello'"))
        page.evaluate("document.querySelector('input').value = 'Grüß Gott'; document.querySelector('button').click()")
        assert page.evaluate(SHOWN.replace("TEXT", "'you said: Grüß Gott'"))
        page.evaluate("location = 'about:blank'")
        assert process.stdout is not None
        states = [process.stdout.readline().strip() for _ in range(3)]
    assert states == ["connecting", "connected", "closed"]


@pytest.mark.parametrize("offer", [b"{}", b"[]", b"nothing", b'{"sdp": 1, "type": 2}'])
def test_no_offer(server: tuple[str, subprocess.Popen[str]], offer: bytes) -> None:
    with pytest.raises(HTTPError) as caught:
        urlopen(server[0] + "offer", data=offer)
    caught.value.close()
    assert caught.value.code == 400
