"""Runs the tests of the newest aioice release before this one on this package.

They come from its source distribution. Left out are those that ``upstream_internal.txt`` names, each with the reason;
every other must pass, and every name in that list must exist. The TURN server of that suite is built on parts of its
own package: it keeps them, under another name.

    python tests/compat/run_upstream.py [pytest's arguments]
    python tests/compat/run_upstream.py --listed      run the left-out ones instead, to see which pass by now
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from suite import Environment, download, read_list

#: Releases before this package's first one.
REQUIREMENT = "aioice<0.20"
LIST = Path(__file__).with_name("upstream_internal.txt")
SERVER_PACKAGE = "aioice_upstream"


def lay_out(sdist: Path, directory: Path) -> None:
    shutil.copytree(sdist / "tests", directory / "tests")
    shutil.copytree(sdist / "src" / "aioice", directory / SERVER_PACKAGE)
    server = directory / "tests" / "turnserver.py"
    server.write_text(re.sub(r"^from aioice\b", f"from {SERVER_PACKAGE}", server.read_text(), flags=re.MULTILINE))


def main(arguments: list[str]) -> int:
    listed = read_list(LIST)
    sdist = download(REQUIREMENT)
    environment = Environment("upstream")
    environment.install(["cryptography", "dnspython", "pytest>=9", "pytest-timeout"])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lay_out(sdist, directory)
        tests = environment.collect(directory)
        if unknown := sorted(set(listed) - tests):
            print("\n".join(["not in the suite any more:", *unknown]))
            return 1
        print(f"tests of {sdist.name}: {len(tests)}, left out: {len(listed)}", flush=True)
        if "--listed" in arguments:
            arguments.remove("--listed")
            return environment.run_pytest(directory, [*listed, *arguments])
        return environment.run_pytest(directory, ["tests", *(f"--deselect={test}" for test in listed), *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
