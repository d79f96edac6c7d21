"""Headless Chromium, driven over the DevTools protocol's simplest part: what a page holds once it is loaded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

#: Seconds for Chromium to start, load and end.
PATIENCE = 60
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium(*arguments: str, profile: Path) -> str:
    """Run it without a window; returns what it prints."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert path is not None, "scripts/packages chromium installs it"
    command = [
        path,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def dom_of(page: Path, profile: Path) -> str:
    """The document as it is after everything in it has run."""
    return chromium("--virtual-time-budget=3000", "--dump-dom", page.as_uri(), profile=profile)


def picture_of(page: Path, target: Path, profile: Path) -> None:
    """A PNG of the page."""
    chromium("--window-size=1100,1500", f"--screenshot={target}", page.as_uri(), profile=profile)
