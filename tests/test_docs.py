"""README and the pages: their Python code runs, block after block, in a simulated network if it needs one; their links
lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from aioice.sim import World

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {
    path.name: found
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if (found := BLOCK.findall(path.read_text()))
}
LINK = re.compile(r"\]\(([^():#]+)[)#]")
#: Of one page, the block that is a test file.
TEST_FILE = "# test_"


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """As :func:`asyncio.run`, on a host behind a NAT; the pages' servers are there."""
    world = World()
    world.stun_server("198.51.100.1")
    world.turn_server("198.51.100.2", username="alice", password="password", tls_port=443)
    world.names.add("stun.example.org", "198.51.100.1")
    world.names.add("turn.example.org", "198.51.100.2")
    return world.run(main, host=world.nat("203.0.113.1", hairpinning=True).host("10.0.0.2"), timeout=600)


@pytest.mark.parametrize("page", BLOCKS)
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asyncio, "run", run)
    names: dict[str, Any] = {"__name__": "docs"}
    blocks = [
        compile(block, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for block in BLOCKS[page]
        if not block.startswith(TEST_FILE)
    ]

    async def run_all() -> None:
        for block in blocks:
            waiting = eval(block, names)
            if waiting is not None:
                await waiting

    if any(block.co_flags & inspect.CO_COROUTINE for block in blocks):
        run(run_all())
    else:
        for block in blocks:
            eval(block, names)


def test_test_file(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS["simulator.md"] if block.startswith(TEST_FILE)]
    (tmp_path / "test_calls.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "aioice.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert "1 passed" in done.stdout


def test_links() -> None:
    """Those to other files of the repository; Sphinx looks at them from the site's point of view."""
    pages = [
        page for folder in (".", "docs", "examples/browser", "tests/compat") for page in (ROOT / folder).glob("*.md")
    ]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
    broken = [(page.name, link) for page, link in links if not (page.parent / link).exists()]
    assert broken == []
