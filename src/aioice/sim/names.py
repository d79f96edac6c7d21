"""The name service of a simulated internet: addresses, delays, and every way not to answer."""

from __future__ import annotations

#: A look-up of a name takes this long, in seconds.
LOOKUP_DELAY = 0.01
#: Seconds after which a resolver gives up on a name server that is silent.
LOOKUP_TIMEOUT = 10.0


class Names(dict[str, tuple[str, ...]]):
    """Addresses by lower-case name. A name that is not there does not exist; one without addresses has none.

    Machines (:class:`Node`) look ``.local`` names up here too; programs on the simulated loop ask for those by
    multicast, as on a real host.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Seconds that a look-up takes, for all names that have no time of their own.
        self.delay = LOOKUP_DELAY
        self._delays: dict[str, float] = {}

    def add(self, name: str, *addresses: str, delay: float | None = None) -> None:
        """``name`` has these addresses, in the order of preference; its look-up takes ``delay`` seconds."""
        self[name.lower().rstrip(".")] = addresses
        if delay is not None:
            self._delays[name.lower().rstrip(".")] = delay

    def fail(self, name: str, *, delay: float | None = None) -> None:
        """``name`` does not exist (NXDOMAIN), which takes ``delay`` seconds to learn."""
        self.add(name, delay=delay)

    def silence(self, name: str) -> None:
        """The name server does not answer for ``name``: the look-up fails after ten seconds."""
        self.fail(name, delay=LOOKUP_TIMEOUT)

    def look_up(self, name: str) -> tuple[float, tuple[str, ...]]:
        """How long it takes, and what comes of it: no address if that fails."""
        key = name.lower().rstrip(".")
        return self._delays.get(key, self.delay), self.get(key, ())
