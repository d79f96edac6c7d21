"""Carries IP packets between pairs of TUN devices, each late by the delay of its cable. Ends with its input.

python wires.py LEFT,RIGHT,DELAY …      two descriptors and seconds; with -1 as RIGHT all packets are lost
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import sys
import time


def main(cables: list[str]) -> None:
    ways: dict[int, tuple[int, float]] = {}
    for cable in cables:
        left, right, delay = cable.split(",")
        ways[int(left)] = (int(right), float(delay))
        if int(right) >= 0:
            ways[int(right)] = (int(left), float(delay))
    queue: list[tuple[float, int, int, bytes]] = []
    number = itertools.count()
    sources = [0, *ways]
    while True:
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        for fd in select.select(sources, [], [], wait)[0]:
            if fd == 0:
                return
            # A device that is down cannot be read.
            with contextlib.suppress(OSError):
                packet = os.read(fd, 65536)
                target, delay = ways[fd]
                if target >= 0:
                    heapq.heappush(queue, (time.monotonic() + delay, next(number), target, packet))
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, target, packet = heapq.heappop(queue)
            with contextlib.suppress(OSError):
                os.write(target, packet)


if __name__ == "__main__":
    with contextlib.suppress(PermissionError):
        # Late packets would be counted against those who send them.
        os.nice(-10)
    main(sys.argv[1:])
