"""Runs the tests of the newest aioice release before this one on this package.

They come from its source distribution. Left out are those that ``upstream_internal.txt`` names, each with the reason;
every other must pass, and every name in that list must exist. Three things are changed before they run: the suite's
TURN server is built on parts of its own package and keeps them, under another name; an error's message may say more
than the suite expects; and what it asserts of the private ``connection._components`` is taken out.

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
PRIVATE_ASSERTION = re.compile(r"^ +self\.assertEqual\(conn_\w\._components, .*\)\n", re.MULTILINE)
EXACT_MESSAGE = re.compile(r'assertEqual\(str\(cm\.exception\), ("[^"]+")\)')


def lay_out(sdist: Path, directory: Path) -> None:
    shutil.copytree(sdist / "tests", directory / "tests")
    shutil.copytree(sdist / "src" / "aioice", directory / SERVER_PACKAGE)
    server = directory / "tests" / "turnserver.py"
    server.write_text(re.sub(r"^from aioice\b", f"from {SERVER_PACKAGE}", server.read_text(), flags=re.MULTILINE))
    for test in (directory / "tests").glob("test_*.py"):
        text = PRIVATE_ASSERTION.sub("", test.read_text())
        test.write_text(EXACT_MESSAGE.sub(r"assertIn(\1, str(cm.exception))", text))


def main(arguments: list[str]) -> int:
    listed = read_list(LIST)
    sdist = download(REQUIREMENT)
    environment = Environment("upstream")
    environment.install(["cryptography", "dnspython", "pytest>=9", "pytest-timeout"])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lay_out(sdist, directory)
        tests = environment.collect(directory)
        if unknown := sorted(set(listed) - set(tests)):
            print("\n".join(["not in the suite any more:", *unknown]))
            return 1
        print(f"tests of {sdist.name}: {len(tests)}, left out: {len(listed)}", flush=True)
        chosen = [test for test in tests if (test in listed) == ("--listed" in arguments)]
        return environment.run_pytest(directory, [*chosen, *(option for option in arguments if option != "--listed")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
