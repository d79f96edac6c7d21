"""What the TURN server in the box can be told to do, seen by a client that makes each request by hand."""

from __future__ import annotations

from typing import Any

import pytest

from aioice.core.credentials import NONCE_COOKIE, make_integrity_key, make_userhash
from aioice.core.message import Message, Method
from tests.scenarios.support import TURN
from tests.scenarios.test_sim import Turn, ask

IPV4, IPV6 = 1 << 24, 2 << 24
BOTH = [(2, b""), (1, b"")]


class Modern(Turn):
    """Knows RFC 8489."""

    def __init__(self, **options: Any) -> None:
        super().__init__(relay=(TURN[0], "2001:db8::2"))
        for name, value in options.items():
            setattr(self.server, name, value)

    def signed(self, *, sha256: bool = True, algorithm: int = 2, **attributes: Any) -> Message:
        self.number += 1
        fields = {"REALM": "sim", "NONCE": self.server.nonce.encode(), "REQUESTED_TRANSPORT": 17 << 24} | attributes
        message = ask(Method.ALLOCATE, self.number, **fields)
        key = make_integrity_key("u", "sim", "p", algorithm)
        if sha256:
            message.add_message_integrity_sha256(key)
        else:
            message.add_message_integrity(key)
        self.script.datagrams.clear()
        self.send(bytes(message))
        (answer,) = self.script.messages
        return answer


class TestCredentials:
    """RFC 8489 §9.2.4."""

    def test_challenge(self) -> None:
        turn = Modern(password_algorithms=(2, 1), anonymity=True)
        turn.send(bytes(ask(Method.ALLOCATE)))
        (challenge,) = turn.script.messages
        assert challenge.attributes["PASSWORD-ALGORITHMS"] == BOTH
        assert challenge.attributes["NONCE"].startswith(NONCE_COOKIE + b"wAAA")

    def test_sha256(self) -> None:
        turn = Modern(password_algorithms=(2, 1))
        answer = turn.signed(USERNAME="u", PASSWORD_ALGORITHMS=BOTH, PASSWORD_ALGORITHM=BOTH[0])
        assert answer.error_code is None
        assert answer.check_message_integrity_sha256(make_integrity_key("u", "sim", "p", 2))

    def test_user_hash(self) -> None:
        turn = Modern(anonymity=True)
        hashed = make_userhash("u", "sim")
        assert turn.signed(sha256=False, algorithm=1, USERHASH=hashed[::-1]).error_code == 401
        assert turn.signed(sha256=False, algorithm=1, USERHASH=hashed).error_code is None

    def test_client_of_before(self) -> None:
        turn = Modern(password_algorithms=(2, 1))
        answer = turn.signed(sha256=False, algorithm=1, USERNAME="u")
        assert answer.check_message_integrity(make_integrity_key("u", "sim", "p"))

    @pytest.mark.parametrize(
        "attributes",
        [
            {"PASSWORD_ALGORITHM": BOTH[0]},
            {"PASSWORD_ALGORITHMS": BOTH},
            {"PASSWORD_ALGORITHMS": BOTH[:1], "PASSWORD_ALGORITHM": BOTH[0]},
            {"PASSWORD_ALGORITHMS": BOTH, "PASSWORD_ALGORITHM": (77, b"")},
        ],
    )
    def test_choices_that_are_none(self, attributes: dict[str, Any]) -> None:
        assert Modern(password_algorithms=(2, 1)).signed(USERNAME="u", **attributes).error_code == 400

    def test_nobody(self) -> None:
        assert Modern().signed(sha256=False, algorithm=1).error_code == 400

    def test_nonces_wear_out(self) -> None:
        turn = Modern(nonce_uses=2)
        assert [turn.signed(sha256=False, algorithm=1, USERNAME="u").error_code for _ in range(2)] == [None, 437]
        before = turn.server.nonce
        assert turn.signed(sha256=False, algorithm=1, USERNAME="u").error_code == 438
        assert turn.server.nonce != before


class TestAllocations:
    @pytest.mark.parametrize(
        ("attributes", "code"),
        [
            ({"ADDITIONAL_ADDRESS_FAMILY": IPV4}, 400),
            ({"ADDITIONAL_ADDRESS_FAMILY": IPV6, "REQUESTED_ADDRESS_FAMILY": IPV4}, 400),
            ({"ADDITIONAL_ADDRESS_FAMILY": IPV6}, None),
        ],
    )
    def test_families(self, attributes: dict[str, int], code: int | None) -> None:
        # RFC 8656 §7.2
        answer = Modern().allocate(**attributes)
        assert answer.error_code == code
        assert len(answer.values("XOR-RELAYED-ADDRESS")) == (0 if code else 2)

    def test_neither(self) -> None:
        turn = Modern(family_errors={1: 508, 2: 508})
        assert turn.allocate(ADDITIONAL_ADDRESS_FAMILY=IPV6).error_code == 508
        assert turn.allocate().error_code is None

    def test_deletion_of_one_family(self) -> None:
        # RFC 8656 §8.1
        turn = Modern()
        turn.allocate(ADDITIONAL_ADDRESS_FAMILY=IPV6)
        for host in (turn.socket.local[0], "2001:db8::9"):
            turn.request(Method.CHANNEL_BIND, CHANNEL_NUMBER=0x4000 + len(host), XOR_PEER_ADDRESS=(host, 1))
        assert turn.request(Method.REFRESH, LIFETIME=0, REQUESTED_ADDRESS_FAMILY=IPV6).attributes["LIFETIME"] == 0
        (allocation,) = turn.server.allocations.values()
        assert list(allocation.permissions) == [turn.socket.local[0]]
        assert [peer for peer, _ in allocation.channels.values()] == [(turn.socket.local[0], 1)]
        assert turn.request(Method.REFRESH, REQUESTED_ADDRESS_FAMILY=IPV6).error_code == 443
        turn.server.drop_family(2)
        assert len(turn.server.allocations) == 1
        turn.server.drop_family(1)
        assert turn.server.allocations == {}

    def test_attributes_that_it_does_not_know(self) -> None:
        turn = Modern(ignorant_of={0x0017, 0x8000})
        refused = turn.allocate(REQUESTED_ADDRESS_FAMILY=IPV4)
        assert (refused.error_code, refused.attributes["UNKNOWN-ATTRIBUTES"]) == (420, [0x0017])
        assert len(turn.allocate(ADDITIONAL_ADDRESS_FAMILY=IPV6).values("XOR-RELAYED-ADDRESS")) == 1

    def test_lies(self) -> None:
        turn = Modern(told_lifetime=7)
        assert turn.allocate().attributes["LIFETIME"] == 7
        turn.server.forges = True
        answer = turn.request(Method.REFRESH)
        assert answer.attributes["LIFETIME"] == 7
        assert not answer.check_message_integrity(turn.key)
