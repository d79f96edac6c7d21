"""The plugin for pytest, as a user's test suite has it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

SUITE = """
import asyncio
import pytest
from aioice import Connection

@pytest.fixture
def hosts(ice_world):
    return ice_world.host("192.0.2.1"), ice_world.nat("203.0.113.1").host("10.0.0.2")

async def gather(host):
    with host:
        connection = Connection(ice_controlling=True)
        await connection.gather_candidates()
    return connection

async def test_virtual_time(ice_world, hosts):
    connection = await gather(hosts[1])
    assert [c.host for c in connection.local_candidates] == ["10.0.0.2"]
    await asyncio.sleep(1000)
    assert ice_world.now == 1000
    await connection.close()

def test_plain(ice_world):
    assert ice_world.seed == 0
    ice_world.run(asyncio.sleep(5))
    assert ice_world.now == 5

@pytest.mark.ice_world(seed=7)
def test_seed(ice_world):
    assert ice_world.seed == 7

@pytest.mark.usefixtures("ice_world")
class TestClass:
    @pytest.mark.parametrize("number", [1, 2])
    async def test_method(self, number):
        await asyncio.sleep(number)
        assert asyncio.get_running_loop().time() == number
"""

FAILURES = """
import asyncio
import pytest

async def test_fails(ice_world):
    ice_world.host("192.0.2.1").bind("0.0.0.0").send(("192.0.2.2", 9), b"data")
    await asyncio.sleep(1)
    assert False

@pytest.mark.ice_world(timeout=30.0)
async def test_too_long(ice_world):
    await asyncio.sleep(31)

async def test_deadlock(ice_world):
    await asyncio.Event().wait()

@pytest.mark.ice_world(sede=3)
def test_misspelt(ice_world):
    pass
"""


def run(directory: Path, suite: str, *arguments: str) -> str:
    """What pytest says of a suite; without other plugins, the configuration of this project, or its conftest."""
    (directory / "test_suite.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-p", "aioice.pytest_plugin", "-q", "--strict-markers", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment, check=False)
    return done.stdout


def test_suite(tmp_path: Path) -> None:
    assert "5 passed" in run(tmp_path, SUITE)


def test_seed_of_the_command_line(tmp_path: Path) -> None:
    output = run(tmp_path, SUITE, "--ice-seed=3")
    assert "2 failed, 3 passed" in output
    assert "assert 3 == 7" in output


def test_failures_tell_the_network(tmp_path: Path) -> None:
    output = run(tmp_path, FAILURES)
    assert "3 failed, 1 error" in output
    assert "Simulated network" in output
    assert "seed 0, 1 s\n1 packets: 1 nowhere\n" in output
    assert "0.000000 udp 192.0.2.1:50000 > 192.0.2.2:9: data, 4 bytes: nowhere" in output
    assert "TimeoutError: it was not done within 30.0 virtual seconds" in output
    assert "Task-" in output and "test_deadlock > Event.wait at" in output
    assert "takes seed=... and timeout=..." in output


def test_fewer_packets(tmp_path: Path) -> None:
    assert "data, 4 bytes" not in run(tmp_path, FAILURES, "--ice-packets=0", "-k", "fails")


def test_mark_is_documented(tmp_path: Path) -> None:
    assert "ice_world(seed=0, timeout=" in run(tmp_path, SUITE, "--markers")


def test_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"aioice.pytest_plugin": "aioice.pytest_plugin"}


def test_loading_it_does_not_load_the_simulator() -> None:
    code = "import sys, aioice.pytest_plugin; print([name for name in sys.modules if name.startswith('aioice.sim')])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
