"""The code of docs/simulator.md runs: the blocks one after the other, the test file by pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "simulator.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "docs"}
    for block in BLOCKS:
        if not block.startswith("# test_"):
            exec(compile(block, "docs/simulator.md", "exec"), names)
    assert "Binding" in capsys.readouterr().out


def test_test_file(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if block.startswith("# test_")]
    (tmp_path / "test_calls.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "aioice.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert "1 passed" in done.stdout
