"""What a connectivity check costs its receiver: parse it, check its integrity, build the signed answer.

``python benchmarks/run.py --only stun`` measures this package and aioice 0.13.0 in turns. The script by itself prints
the medians of the one that is installed; with ``--json`` all its microseconds, which is how ``run.py`` calls it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

from aioice import stun

PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
PEERS = {"IPv4": ("192.0.2.1", 32853), "IPv6": ("2001:db8:1234:5678:11:2233:4455:6677", 32853)}
REPEAT = 400
SAMPLES = 25


def signed_check() -> bytes:
    """What browsers send, without what they add of their own."""
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, transaction_id=bytes(range(12)))
    request.attributes["USERNAME"] = "evtjh6vY:9uB6JkAd"
    request.attributes["PRIORITY"] = 1845501695
    request.attributes["ICE-CONTROLLING"] = 0x932FF9B151263B36
    request.attributes["USE-CANDIDATE"] = None
    request.add_message_integrity(PASSWORD)
    return bytes(request)


def look(message: stun.Message) -> bool:
    """What a receiver reads of a check; this package decodes attributes when they are asked for, 0.13.0 at once."""
    attributes = message.attributes
    return (
        attributes["USERNAME"].startswith("evtjh6vY:")
        and attributes["PRIORITY"] > 0
        and attributes.get("ICE-CONTROLLED") is None
        and "USE-CANDIDATE" in attributes
    )


def with_messages(check: bytes, peer: tuple[str, int]) -> bytes:
    """By the public names, that both packages have."""
    message = stun.parse_message(check)
    assert message.check_message_integrity(PASSWORD) and look(message)
    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction_id=message.transaction_id)
    answer.attributes["XOR-MAPPED-ADDRESS"] = peer
    answer.add_message_integrity(PASSWORD)
    return bytes(answer)


def as_the_agent() -> Callable[[bytes, tuple[str, int]], bytes]:
    """As the package itself does it: 0.13.0 with its messages, the agent with the answer's shape."""
    try:
        from aioice.core.message import binding_response, parse_message
    except ImportError:
        return with_messages

    def answered(check: bytes, peer: tuple[str, int]) -> bytes:
        message = parse_message(check)
        assert message.check_message_integrity(PASSWORD) and look(message)
        return binding_response(message.transaction_id, peer, PASSWORD)

    return answered


def microseconds(answered: Callable[[bytes, tuple[str, int]], bytes], peer: tuple[str, int]) -> list[float]:
    check = signed_check()
    assert answered(check, peer) == with_messages(check, peer)
    samples = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        for _ in range(REPEAT):
            answered(check, peer)
        samples.append((time.perf_counter() - start) / REPEAT * 1e6)
    return samples


def measured() -> dict[str, list[float]]:
    agent = as_the_agent()
    numbers = {f"check and answer, {family}": microseconds(agent, peer) for family, peer in PEERS.items()}
    numbers["check and answer, by Message"] = microseconds(with_messages, PEERS["IPv4"])
    return numbers


def main() -> None:
    numbers = measured()
    if "--json" in sys.argv[1:]:
        print(json.dumps(numbers))
        return
    for name, samples in numbers.items():
        print(f"{name}: {statistics.median(samples):.1f} µs")


if __name__ == "__main__":
    main()
