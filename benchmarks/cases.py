"""The measured situations. Uses only what aioice 0.13.0 has too: the same script runs on both.

python benchmarks/cases.py CASE [RUNS [SEED]]      prints one JSON object: lists of numbers by name
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Result = dict[str, list[float]]

HOST = "127.0.0.1"
RTT = 0.05
PAIRS = 1000
IDLE_SECONDS = 20.0
USER, PASSWORD, REALM = "user", "password", "benchmark.test"


# ------------------------------------------------------------------------------------------------------ import

STATEMENTS = {
    "asyncio": "import asyncio",
    "aioice": "import aioice",
    "connection": "from aioice import Candidate, Connection",
}


def imports(runs: int, seed: int) -> Result:
    """Milliseconds of each statement in a new interpreter, in turns."""
    times: Result = {name: [] for name in STATEMENTS}
    for _ in range(runs):
        for name, statement in STATEMENTS.items():
            code = f"import time; started = time.perf_counter(); {statement}; print(time.perf_counter() - started)"
            output = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
            times[name].append(float(output.stdout) * 1000)
    return times


# ----------------------------------------------------------------------------------------------------- two peers


def one_address() -> None:
    """Both peers have loopback's address alone."""
    from aioice import ice

    ice.get_host_addresses = lambda use_ipv4, use_ipv6: [HOST]


async def gather(**options: Any) -> tuple[Any, Any]:
    """Two peers that have gathered and know each other's credentials."""
    from aioice import Connection

    relay = options.pop("relay", {})
    a = Connection(ice_controlling=True, **options, **relay)
    b = Connection(ice_controlling=False, **options)
    await asyncio.gather(a.gather_candidates(), b.gather_candidates())
    a.remote_username, a.remote_password = b.local_username, b.local_password
    b.remote_username, b.remote_password = a.local_username, a.local_password
    return a, b


async def exchange(a: Any, b: Any) -> None:
    for local, remote in ((a, b), (b, a)):
        for candidate in local.local_candidates:
            await remote.add_remote_candidate(candidate)
        await remote.add_remote_candidate(None)


async def connect(a: Any, b: Any) -> float:
    """Milliseconds until both are connected."""
    started = time.perf_counter()
    await asyncio.gather(a.connect(), b.connect())
    return (time.perf_counter() - started) * 1000


async def hosts(runs: int, components: int) -> Result:
    times = []
    for _ in range(runs):
        a, b = await gather(components=components)
        await exchange(a, b)
        times.append(await connect(a, b))
        await asyncio.gather(a.close(), b.close())
    return {"ms": times}


def connect_1(runs: int, seed: int) -> Result:
    one_address()
    return asyncio.run(hosts(runs, 1))


def connect_2(runs: int, seed: int) -> Result:
    one_address()
    return asyncio.run(hosts(runs, 2))


async def dead(runs: int) -> Result:
    from aioice import Candidate

    times = []
    # Bound and never read: nothing answers, not even ICMP.
    holes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    for hole in holes:
        hole.bind((HOST, 0))
    for _ in range(runs):
        a, b = await gather()
        for peer in (a, b):
            for number, hole in enumerate(holes):
                # Better than any host candidate: they come first.
                priority = 2130706431 + 65536 * (number + 1)
                port = hole.getsockname()[1]
                await peer.add_remote_candidate(Candidate(f"dead{number}", 1, "udp", priority, HOST, port, "host"))
        await exchange(a, b)
        times.append(await connect(a, b))
        await asyncio.gather(a.close(), b.close())
    for hole in holes:
        hole.close()
    return {"ms": times}


def connect_dead(runs: int, seed: int) -> Result:
    one_address()
    return asyncio.run(dead(runs))


# ------------------------------------------------------------------------------------------------- a longer path


class Proxy:
    def __init__(self) -> None:
        script = Path(__file__).with_name("delay_proxy.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def path(self, a: Any, b: Any, loss: float, seed: int) -> tuple[tuple[str, int], tuple[str, int]]:
        """Between two candidates: under which addresses ``b`` sees ``a``, and ``a`` sees ``b``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        command = {"a": [a.host, a.port], "b": [b.host, b.port], "delay": RTT / 2, "loss": loss, "seed": seed}
        print(json.dumps(command), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return tuple(answer["a"]), tuple(answer["b"])

    def to_server(self, host: str, port: int) -> tuple[str, int]:
        """Under which address clients find the server."""
        assert self._process.stdin is not None and self._process.stdout is not None
        command = {"server": [host, port], "delay": RTT / 2, "loss": 0, "seed": 0}
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return tuple(json.loads(self._process.stdout.readline())["server"])

    def close(self) -> None:
        self._process.communicate()


async def path(runs: int, loss: float, first_seed: int) -> Result:
    from aioice import Candidate

    times = []
    proxy = Proxy()
    for seed in range(first_seed, first_seed + runs):
        a, b = await gather()
        (of_a,), (of_b,) = a.local_candidates, b.local_candidates
        seen_a, seen_b = proxy.path(of_a, of_b, loss, seed)
        for peer, candidate, (host, port) in ((b, of_a, seen_a), (a, of_b, seen_b)):
            moved = Candidate(candidate.foundation, 1, "udp", candidate.priority, host, port, "host")
            await peer.add_remote_candidate(moved)
            await peer.add_remote_candidate(None)
        times.append(await connect(a, b) / 1000 / RTT)
        await asyncio.gather(a.close(), b.close())
    proxy.close()
    return {"rtt": times}


def connect_rtt(runs: int, seed: int) -> Result:
    one_address()
    return asyncio.run(path(runs, 0, seed))


def connect_loss(runs: int, seed: int) -> Result:
    one_address()
    return asyncio.run(path(runs, 0.05, seed))


# -------------------------------------------------------------------------------------------------------- a relay


@contextlib.contextmanager
def turn_server() -> Iterator[int]:
    """A coturn on a free port of loopback."""
    program = shutil.which("turnserver")
    if program is None:
        sys.exit("turnserver is missing: install coturn")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "-n", "-L", HOST, "-E", HOST, "-p", str(port), "-u", f"{USER}:{PASSWORD}", "-r", REALM]
        command += ["--lt-cred-mech", "--allow-loopback-peers", "--no-cli", "--no-tls", "--no-dtls"]
        command += ["--log-file=stdout", "--simple-log", "--pidfile", f"{directory}/pid", "--userdb", f"{directory}/db"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory)
        try:
            wait_for_server(port)
            yield port
        finally:
            process.terminate()
            process.wait()


def wait_for_server(port: int) -> None:
    """Ask by an unsigned Binding request until it answers."""
    request = bytes.fromhex("000100002112a442") + bytes(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((HOST, port))
        sock.settimeout(0.1)
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                try:
                    sock.send(request)
                    sock.recv(2048)
                    return
                except ConnectionRefusedError:
                    time.sleep(0.1)
    sys.exit("turnserver does not answer")


def relay_only() -> Any:
    from aioice.ice import TransportPolicy

    return TransportPolicy.RELAY


async def relay(runs: int, server: tuple[str, int], both: bool) -> Result:
    """One peer, or both, have the server's relay and nothing else."""
    from aioice import TransportPolicy

    times = []
    options = {
        "turn_server": server,
        "turn_username": USER,
        "turn_password": PASSWORD,
        "transport_policy": TransportPolicy.RELAY,
    }
    for _ in range(runs):
        a, b = await (gather(**options) if both else gather(relay=options))
        assert [candidate.type for candidate in a.local_candidates] == ["relay"]
        await exchange(a, b)
        times.append(await connect(a, b))
        await asyncio.gather(a.close(), b.close())
    return {"ms": times}


def relayed(both: bool, far: bool) -> Callable[[int, int], Result]:
    def case(runs: int, seed: int) -> Result:
        one_address()
        with turn_server() as port, contextlib.ExitStack() as end:
            server = (HOST, port)
            if far:
                proxy = Proxy()
                end.callback(proxy.close)
                server = proxy.to_server(*server)
            return asyncio.run(relay(runs, server, both))

    return case


# ---------------------------------------------------------------------------------------------------- a dead server


async def gather_alone(runs: int, **options: Any) -> Result:
    from aioice import Connection

    times = []
    for _ in range(runs):
        connection = Connection(ice_controlling=True, **options)
        started = time.perf_counter()
        await connection.gather_candidates()
        times.append((time.perf_counter() - started) * 1000)
        await connection.close()
    return {"ms": times}


def gather_silent(runs: int, seed: int) -> Result:
    """The STUN server's port is bound and never read."""
    one_address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind((HOST, 0))
        return asyncio.run(gather_alone(runs, stun_server=hole.getsockname()))


def gather_refused(runs: int, seed: int) -> Result:
    """Nobody is at the port of the TURN server: ICMP says so."""
    one_address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind((HOST, 0))
        server = gone.getsockname()
    options = {"turn_server": server, "turn_username": USER, "turn_password": PASSWORD}
    return asyncio.run(gather_alone(runs, **options))


# ------------------------------------------------------------------------------------------------------ many pairs


def memory() -> float:
    """Resident KiB of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


async def many(pairs: int) -> Result:
    # What the first pair brings in for all is not the price of a pair.
    first = await gather()
    await exchange(*first)
    await connect(*first)
    before = memory()
    started = time.perf_counter()
    peers = await asyncio.gather(*(gather() for _ in range(pairs)))
    for a, b in peers:
        await exchange(a, b)
    gathered = time.perf_counter()
    await asyncio.gather(*(peer.connect() for pair in peers for peer in pair))
    connected = time.perf_counter()
    each = (memory() - before) / pairs
    await asyncio.sleep(1)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    idle = (time.process_time() - cpu) / (time.perf_counter() - wall)
    await asyncio.gather(*(peer.close() for pair in [*peers, first] for peer in pair))
    return {
        "gather": [gathered - started],
        "connect": [connected - gathered],
        "all": [connected - started],
        "kib": [each],
        "cpu": [idle * 100],
    }


def many_files() -> None:
    """As many sockets as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def many_pairs(runs: int, seed: int) -> Result:
    one_address()
    many_files()
    return asyncio.run(many(PAIRS))


CASES: dict[str, Callable[[int, int], Result]] = {
    "import": imports,
    "connect-1": connect_1,
    "connect-2": connect_2,
    "connect-dead": connect_dead,
    "connect-rtt": connect_rtt,
    "connect-loss": connect_loss,
    "connect-relay": relayed(both=False, far=False),
    "connect-relays": relayed(both=True, far=False),
    "connect-relay-far": relayed(both=False, far=True),
    "connect-relays-far": relayed(both=True, far=True),
    "gather-silent": gather_silent,
    "gather-refused": gather_refused,
    "many": many_pairs,
}


def main() -> None:
    case = sys.argv[1]
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    print(json.dumps(CASES[case](runs, seed)))


if __name__ == "__main__":
    main()
