"""Network namespaces that live as long as this process wants them, cables between them, and what runs inside.

A namespace is held by a descriptor and by nothing else: it has no name, and whatever happens to the tests, it goes with
them. What is started ``with namespace:`` runs inside, what is opened there stays there.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_CLONE_NEWNET = 0x40000000
#: ``TUNSETIFF`` with ``IFF_TUN | IFF_NO_PI``: IP packets, no Ethernet, so neither ARP nor neighbour discovery.
_TUNSETIFF, _TUN = 0x400454CA, 0x1001
_TUN_DEVICE = os.makedev(10, 200)

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


class Namespace:
    """A network of its own, with loopback up."""

    def __init__(self) -> None:
        made: list[int | OSError] = []
        # Only a thread leaves this process's network, and ends.
        maker = threading.Thread(target=lambda: made.append(self._make()))
        maker.start()
        maker.join()
        if isinstance(made[0], OSError):
            raise made[0]
        self.fd = made[0]
        self._home: list[int] = []
        self.ip("link set lo up")

    @staticmethod
    def _make() -> int | OSError:
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return error

    def __enter__(self) -> Namespace:
        """This thread is inside until the end of the block."""
        self._home.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        _check(_libc.setns(self.fd, _CLONE_NEWNET), "setns")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        home = self._home.pop()
        _check(_libc.setns(home, _CLONE_NEWNET), "setns")
        os.close(home)

    def close(self) -> None:
        os.close(self.fd)

    def run(self, *command: str, text: str = "", fds: tuple[int, ...] = ()) -> None:
        """Run a command inside; it must succeed."""
        with self:
            done = subprocess.run(command, input=text, text=True, capture_output=True, pass_fds=fds)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}{text}")

    def ip(self, *lines: str, peers: tuple[Namespace, ...] = ()) -> None:
        """Commands of ``ip``; those that name a peer do so by :attr:`path`."""
        self.run("ip", "-batch", "-", text="\n".join(lines) + "\n", fds=tuple(peer.fd for peer in peers))

    def rules(self, text: str) -> None:
        """Rules of nftables."""
        self.run("nft", "-f", "-", text=text)

    def forward(self) -> None:
        """Be a router."""
        with self:
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    @property
    def path(self) -> str:
        """How the commands given to :meth:`ip` name this namespace."""
        return f"/proc/self/fd/{self.fd}"

    def tun(self, name: str) -> int:
        """A device whose packets are read from and written to the descriptor that is returned."""
        with self, _tun_device() as device:
            fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN))
        return fd


@contextlib.contextmanager
def _tun_device() -> Iterator[str]:
    """Where there is no ``/dev/net/tun``, as in many a container and chroot, one is made."""
    if Path("/dev/net/tun").exists():
        yield "/dev/net/tun"
        return
    with tempfile.TemporaryDirectory() as directory:
        device = f"{directory}/tun"
        os.mknod(device, stat.S_IFCHR | 0o600, _TUN_DEVICE)
        yield device


class Wires:
    """Cables that delay: one process carries the packets of all."""

    def __init__(self) -> None:
        self._ends: list[tuple[int, int, float]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self, delay: float, *ends: tuple[Namespace, str]) -> None:
        """Between two devices; packets into a cable with one end are lost. ``delay`` in seconds, each way."""
        fds = [namespace.tun(name) for namespace, name in ends]
        self._ends.append((fds[0], fds[-1] if len(fds) > 1 else -1, delay))

    def start(self) -> None:
        script = Path(__file__).with_name("wires.py")
        fds = [fd for left, right, _ in self._ends for fd in (left, right) if fd >= 0]
        arguments = [f"{left},{right},{delay}" for left, right, delay in self._ends]
        command = [sys.executable, "-S", "-E", str(script), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=fds)
        for fd in fds:
            os.close(fd)

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def missing() -> list[str]:
    """What this machine lacks for a network of namespaces; empty if nothing."""
    lacking = [f"the command {name}" for name in ("ip", "nft", "turnserver") if shutil.which(name) is None]
    try:
        if not lacking:
            namespace = Namespace()
            try:
                os.close(namespace.tun("probe"))
                namespace.rules("table ip probe { chain nat { type nat hook postrouting priority 100; masquerade; }\n}")
            finally:
                namespace.close()
    except (OSError, RuntimeError) as error:
        lacking.append(f"the right to make networks (root with CAP_SYS_ADMIN and CAP_NET_ADMIN): {error}")
    return lacking
