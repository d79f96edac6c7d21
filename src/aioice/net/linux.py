"""What Linux knows of UDP sockets beyond others: errors with the peer they are of, and batches of datagrams."""

from __future__ import annotations

import socket
import struct
import sys

#: Of linux/in.h, in6.h, socket.h and udp.h; Python's socket module does not name them.
IP_RECVERR = 11
IPV6_RECVERR = 25
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

#: struct sock_extended_err of linux/errqueue.h: errno, origin, type, code, padding, info, data.
EXTENDED_ERROR = struct.Struct("=IBBBBII")
ORIGIN_ICMP = 2
ORIGIN_ICMP6 = 3

#: Room for one extended error; of the quoted packet only the destination is of interest, which comes as the address.
ERROR_ANCILLARY = 512

#: Room for the size of the datagrams in a batch.
GRO_ANCILLARY = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0

HAS_ERROR_QUEUE = sys.platform == "linux"

#: Whether many datagrams may pass by one system call, where the system knows how.
HAS_OFFLOAD = sys.platform == "linux"

Ancillary = list[tuple[int, int, bytes]]


def report_errors(sock: socket.socket, ipv6: bool) -> None:
    """Have ICMP errors put into the error queue."""
    sock.setsockopt(*((socket.IPPROTO_IPV6, IPV6_RECVERR) if ipv6 else (socket.IPPROTO_IP, IP_RECVERR)), 1)


def icmp_errno(ancillary: Ancillary) -> int:
    """The error of one entry of the error queue; 0 for what a send has already told its caller."""
    for level, kind, data in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
            code, origin, *_ = EXTENDED_ERROR.unpack_from(data)
            return int(code) if origin in (ORIGIN_ICMP, ORIGIN_ICMP6) else 0
    return 0


def batches_leave(sock: socket.socket) -> bool:
    """Whether UDP_SEGMENT is known; not found out by sending: older systems let a batch out as one datagram."""
    if not HAS_OFFLOAD:
        return False
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def batch_control(size: int) -> Ancillary:
    """For ``sendmsg``: what is sent are datagrams of ``size`` bytes, the last may be shorter."""
    return [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))]


def read_batches(sock: socket.socket) -> bool:
    """Turn UDP_GRO on, if it is known: what came together is read together."""
    if not HAS_OFFLOAD:
        return False
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def batch_size(ancillary: Ancillary) -> int:
    """The size of the datagrams in what was read; 0 if it is one."""
    for level, kind, data in ancillary:
        if level == SOL_UDP and kind == UDP_GRO:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0
