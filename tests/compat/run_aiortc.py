"""Runs aiortc's own tests of ICE, DTLS, SCTP and peer connections on this package.

They come from the newest source distribution of aiortc; aiortc itself is installed as its users install it, with this
package in place of the aioice on the registry. Every test must pass; as some of them look after 100 ms whether a
DTLS handshake is over, which a busy machine may miss, a failed one runs again, alone, at most twice.

    python tests/compat/run_aiortc.py [pytest's arguments]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from suite import ROOT, Environment, download

HERE = Path(__file__).parent

#: Our own tests: two peer connections in the simulator, and the example of a browser.
OURS = {"simulated_aiortc.py": "test_simulated.py", "browser_aiortc.py": "test_browser.py"}

TESTS = (
    "test_rtcicetransport.py",
    "test_rtcpeerconnection.py",
    "test_rtcsctptransport.py",
    "test_rtcdtlstransport.py",
    "test_ortc.py",
    *OURS.values(),
)


def main(arguments: list[str]) -> int:
    sdist = download("aiortc")
    name, version = sdist.name.rsplit("-", 1)
    environment = Environment("aiortc")
    environment.install([f"{name}=={version}", "pytest>=8", "pytest-timeout"])
    print(f"{name} {version}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        tests = Path(directory, "tests")
        shutil.copytree(sdist / "tests", tests)
        for source, target in OURS.items():
            shutil.copy(HERE / source, tests / target)
        shutil.copy(HERE.parent / "browser" / "chromium.py", tests)
        shutil.copytree(ROOT / "examples" / "browser", tests / "example")
        return environment.run_pytest(Path(directory), [*(f"tests/{test}" for test in TESTS), *arguments], 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
