"""Coverage-guided fuzzing of the candidate line: ``python fuzz/fuzz_candidate.py`` (needs atheris)."""

from __future__ import annotations

import sys

from aioice.core.candidate import Candidate, is_end_of_candidates

LOCAL = [
    Candidate("1", 1, "udp", 2130706431, "192.0.2.1", 5000, "host"),
    Candidate("2", 1, "UDP", 2130706431, "2001:db8::1", 5000, "host"),
    Candidate("3", 1, "tcp", 2130706431, "192.0.2.1", 9, "host", tcptype="active"),
]


def one_input(data: bytes) -> None:
    """Any text is a usable candidate that survives being printed, or a ValueError."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        candidate = Candidate.from_sdp(text)
    except ValueError:
        return
    assert not is_end_of_candidates(text)
    candidate.validate()
    line = candidate.to_sdp()
    assert Candidate.from_sdp("candidate:" + line).to_sdp() == line
    assert repr(candidate).isascii()
    for local in LOCAL:
        assert local.can_pair_with(candidate) == candidate.can_pair_with(local)
    # Printed from its fields, it has the same meaning.
    candidate.component = candidate.component % 256 + 1
    again = Candidate.from_sdp(candidate.to_sdp())
    assert again.extensions == candidate.extensions
    assert (again.host, again.port, again.component) == (candidate.host, candidate.port, candidate.component)


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
