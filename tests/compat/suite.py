"""What the runs of other projects' test suites share: a virtual environment with our wheel, their sources, pytest."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "compat"
#: No test of these suites takes a third of it, even on a slow machine.
TEST_TIME_LIMIT = 60


class Environment:
    """A virtual environment with this package, built and installed as a user would get it."""

    def __init__(self, name: str) -> None:
        self.directory = CACHE / name
        self.python = self.directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not self.python.exists():
            venv.create(self.directory, with_pip=True, clear=True)

    def install(self, requirements: Sequence[str]) -> None:
        """Install this package and ``requirements`` in one go, so that pip takes no other aioice for them."""
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "aioice")
            source.mkdir()
            for name in ("pyproject.toml", "LICENSE", "README.md"):
                if (ROOT / name).exists():
                    shutil.copy(ROOT / name, source)
            shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            # Without this pip takes the same version again for installed already.
            self.pip("uninstall", "-qq", "--yes", "aioice")
            self.pip("install", "--quiet", str(source), *requirements)
            self.check_package(source / "src" / "aioice")

    def pip(self, *arguments: str) -> None:
        run([str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments])

    def check_package(self, ours: Path) -> None:
        """What is imported there must be this package, file by file."""
        script = "import aioice, json; print(json.dumps([aioice.__version__, aioice.__path__[0]]))"
        command = [str(self.python), "-I", "-c", script]
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.directory)
        version, path = json.loads(output.stdout)
        if self.directory not in Path(path).parents:
            sys.exit(f"{self.python} imports aioice from {path}")
        names = [str(file.relative_to(ours)) for file in ours.rglob("*") if file.suffix in (".py", ".typed")]
        _, different, missing = filecmp.cmpfiles(ours, path, names, shallow=False)
        if different or missing:
            sys.exit(f"the installed package is not this one: {', '.join(different + missing)}")
        print(f"aioice {version} from {ROOT / 'src'}, {len(names)} files", flush=True)

    def run_pytest(self, directory: Path, arguments: Sequence[str], again: int = 0) -> int:
        """Run the tests in ``directory``; those that failed up to ``again`` times more, which the output shows."""
        cache = ["-o", f"cache_dir={directory / '.pytest_cache'}"]
        command = [str(self.python), "-m", "pytest", "-q", f"--timeout={TEST_TIME_LIMIT}", *cache, *arguments]
        code = subprocess.run(command, cwd=directory, env=environment()).returncode
        for _ in range(again):
            if code == 1:
                print("\nthe failed ones again, alone:", flush=True)
                command += ["--last-failed", "--last-failed-no-failures=none", "-rp"]
                code = subprocess.run(command, cwd=directory, env=environment()).returncode
        return code

    def collect(self, directory: Path) -> list[str]:
        """The ids of all tests below ``directory``, in their order."""
        command = [str(self.python), "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only", "tests"]
        output = subprocess.run(command, cwd=directory, env=environment(), capture_output=True, text=True)
        if output.returncode:
            sys.exit(output.stdout + output.stderr)
        return [line for line in output.stdout.splitlines() if "::" in line and " " not in line]


def environment() -> dict[str, str]:
    """Without what would put another aioice first."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COVERAGE"))}


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, env=environment())


def download(requirement: str) -> Path:
    """Unpack the newest source distribution that fits; return its directory, named after project and version."""
    name = hashlib.sha256(requirement.encode()).hexdigest()[:8]
    target = CACHE / "sdist" / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    run([*command, "--no-binary", ":all:", "--dest", str(target), requirement])
    (archive,) = target.glob("*.tar.gz")
    unpack(archive, target)
    return target / archive.name.removesuffix(".tar.gz")


def unpack(archive: Path, target: Path) -> None:
    """The files alone, and only below ``target``; Python 3.11.2 has no filter for that yet."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = (target / member.name).resolve()
            content = tar.extractfile(member) if member.isfile() and target.resolve() in path.parents else None
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())


def read_list(path: Path) -> dict[str, str]:
    """Lines ``id | reason``; empty ones and those that start with ``#`` do not count."""
    entries = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, reason = (part.strip() for part in line.partition("|"))
            if not reason or name in entries:
                sys.exit(f"{path.name}: {line!r} needs a reason and must not be there twice")
            entries[name] = reason
    return entries
