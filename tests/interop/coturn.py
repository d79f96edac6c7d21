"""Debian's coturn on the loopback interface, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import trustme

USERNAME = "user"
PASSWORD = "secret"
REALM = "example.org"

#: A Binding request: whoever answers is awake.
_HELLO = b"\x00\x01\x00\x00\x21\x12\xa4\x42is anyone in"

#: Seconds for coturn to start and to end.
_PATIENCE = 15


class Coturn:
    """One server, from ``with`` to its end: UDP and TCP on one port, TLS on another.

    ``options`` are added to its command line (``--stale-nonce=…``); with ``users`` empty it asks nobody for a password.
    :meth:`stop` and :meth:`start` make a restart on the same ports.
    """

    def __init__(
        self,
        *options: str,
        ip: str = "127.0.0.1",
        relay_ips: tuple[str, ...] = (),
        users: dict[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.ip = ip
        self._relay_ips = relay_ips or (ip,)
        self._options = options
        self._users = {USERNAME: PASSWORD} if users is None else users
        self._directory = tempfile.TemporaryDirectory(prefix="coturn-")
        self._process: subprocess.Popen[bytes] | None = None
        self._ca = trustme.CA()
        certificate = self._ca.issue_cert("127.0.0.1", "127.0.0.2", "::1", "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(self._path("server.pem"))
        with _free_port(ip, port) as plain, _free_port(ip) as tls:
            self.address = (ip, plain)
            self.tls_address = (ip, tls)

    def __enter__(self) -> Coturn:
        try:
            self.start()
        except BaseException:
            self._directory.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._directory.cleanup()

    def client_context(self) -> ssl.SSLContext:
        """What a client needs to trust this server."""
        context = ssl.create_default_context()
        self.trust(context)
        return context

    def trust(self, context: ssl.SSLContext) -> None:
        self._ca.configure_trust(context)

    def log(self) -> str:
        """What the server said."""
        return self._path("log").read_text(errors="replace")

    def start(self) -> None:
        with self._path("log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server at once: allocations are not kept, nobody is told."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_PATIENCE)

    def restart(self, *options: str) -> None:
        """On the same ports, with more options."""
        self.stop()
        self._options += options
        self.start()

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """The server is there and does nothing until the end of the block."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Its threads go on until the last of them has stopped.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _path(self, name: str) -> Path:
        return Path(self._directory.name) / name

    def _command(self) -> list[str]:
        pem = self._path("server.pem")
        users = [f"--user={name}:{password}" for name, password in self._users.items()]
        return [
            "turnserver",
            "-n",
            "--no-cli",
            "--no-dtls",
            "--simple-log",
            "--verbose",
            "--log-file=stdout",
            "--allow-loopback-peers",
            f"--listening-ip={self.ip}",
            *[f"--relay-ip={ip}" for ip in self._relay_ips],
            f"--listening-port={self.address[1]}",
            f"--tls-listening-port={self.tls_address[1]}",
            f"--cert={pem}",
            f"--pkey={pem}",
            f"--pidfile={self._path('pid')}",
            f"--userdb={self._path('users.db')}",
            f"--realm={REALM}",
            *(["--lt-cred-mech", *users] if users else ["--no-auth"]),
            *self._options,
        ]

    def _wait(self) -> None:
        """Until it answers over UDP and takes connections on both ports."""
        until = time.monotonic() + _PATIENCE
        with socket.socket(_family(self.ip), socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.05)
            sock.connect(self.address)
            while not (self._answers(sock) and self._listens(self.address) and self._listens(self.tls_address)):
                if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"coturn does not start:\n{self.log()}")
                time.sleep(0.01)

    @staticmethod
    def _answers(sock: socket.socket) -> bool:
        with contextlib.suppress(OSError):
            sock.send(_HELLO)
            return sock.recv(2048)[8:20] == _HELLO[8:]
        return False

    @staticmethod
    def _listens(address: tuple[str, int]) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(address, 1):
            return True
        return False


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


@contextlib.contextmanager
def _free_port(ip: str, wanted: int = 0) -> Iterator[int]:
    """A port that is free for UDP and TCP; held until the end so that the next one is another."""
    while True:
        with (
            socket.socket(_family(ip), socket.SOCK_STREAM) as tcp,
            socket.socket(_family(ip), socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind((ip, wanted))
            port = tcp.getsockname()[1]
            try:
                udp.bind((ip, port))
            except OSError:
                continue
            yield port
            return
