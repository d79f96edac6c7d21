"""Headless Chromium: what a page holds once it is loaded, and, over a pipe of DevTools, what goes on in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Seconds for Chromium to start, load and end.
PATIENCE = 60
NAMES = ("chromium", "chromium-browser", "google-chrome")


def command(profile: Path, *arguments: str) -> list[str]:
    """To run it without a window."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert path is not None, "scripts/packages chromium installs it"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    return [path, *options, f"--user-data-dir={profile}", *arguments]


def chromium(*arguments: str, profile: Path) -> str:
    """Run it; returns what it prints."""
    return subprocess.run(
        command(profile, *arguments), capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout


def dom_of(page: Path, profile: Path) -> str:
    """The document as it is after everything in it has run."""
    return chromium("--virtual-time-budget=3000", "--dump-dom", page.as_uri(), profile=profile)


def picture_of(page: Path, target: Path, profile: Path) -> None:
    """A PNG of the page."""
    chromium("--window-size=1100,1500", f"--screenshot={target}", page.as_uri(), profile=profile)


class Page:
    """An open page; calls wait for what they ask for."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._rest = b""
        self._number = 0
        self._session: dict[str, str] = {}
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}

    def open(self, url: str) -> None:
        """Go there."""
        self._call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        result = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass  # an event
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._answers, 65536)
            assert data, "Chromium has ended"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """An empty page in a browser that ends with the block."""
    (commands, to_browser), (from_browser, answers) = os.pipe(), os.pipe()
    # Chromium speaks over the descriptors 3 and 4: out of their way, so that a shell can put the pipes there.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
    shell = ["bash", "-c", f'exec "$0" "$@" 3<&{theirs[0]} 4>&{theirs[1]}']
    process = subprocess.Popen(
        [*shell, *command(profile, "--remote-debugging-pipe")], pass_fds=theirs, stderr=subprocess.DEVNULL
    )
    for end in (commands, answers, *theirs):
        os.close(end)
    try:
        yield Page(to_browser, from_browser)
    finally:
        os.close(to_browser)  # which ends it
        os.close(from_browser)
        try:
            process.wait(PATIENCE / 6)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
