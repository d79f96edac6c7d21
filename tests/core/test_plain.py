"""Values of a machine as JSON's, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioice.core.agent import AgentConfig
from aioice.core.candidate import Candidate
from aioice.core.events import ConnectionState, StateChanged
from aioice.core.gathering import StunServer, TurnServer
from aioice.core.machine import CredentialsFetched, Deliver, Notify, Opened, OpenFailed, Reason, Resolved, Transmit
from aioice.core.message import Class
from aioice.core.plain import Coder, pack, unpack
from aioice.core.pseudonyms import Names, Pseudonyms
from aioice.core.rewrites import AddressRewrite

INPUTS = [
    Opened(3, ("192.0.2.1", 5)),
    OpenFailed(3, Reason.BIND, "in use"),
    Resolved(7, ("192.0.2.1", "2001:db8::1")),
    StunServer("stun.example.org", 3478),
    TurnServer("turn.example.org", 3478, "tcp", True, "user", "password"),
    AgentConfig(True, candidate_types=frozenset({"relay", "host"}), address_rewrites=(AddressRewrite("192.0.2.1"),)),
    {"192.0.2.1": "abcd.local"},
    None,
    1.5,
    b"\x00\x01",
]


@pytest.mark.parametrize("value", INPUTS, ids=lambda value: type(value).__name__)
def test_there_and_back(value: Any) -> None:
    coder = Coder(Names())
    again = coder.decode(json.loads(json.dumps(coder.encode(value))))
    assert again == value and type(again) is type(value)


def test_a_candidate() -> None:
    coder = Coder(Names())
    candidate = Candidate.from_sdp("1 1 udp 1 abcd.local 1 typ host")
    candidate.address = "192.0.2.1"
    shown = coder.encode(candidate)
    assert shown == {"candidate": "1 1 udp 1 abcd.local 1 typ host", "address": "192.0.2.1"}
    assert coder.decode(shown).address == "192.0.2.1"
    assert "address" not in coder.encode(Candidate.from_sdp("1 1 udp 1 192.0.2.1 1 typ host"))


def test_an_event() -> None:
    shown = Coder(Names()).encode(Notify(StateChanged(ConnectionState.FAILED, "why")))
    assert shown == {"type": "Notify", "event": {"type": "StateChanged", "state": "failed", "reason": "why"}}


def test_numbers_of_an_enumeration() -> None:
    assert json.dumps(Coder(Names()).encode([Class.REQUEST, True])) == "[0, true]"


def test_secrets_and_data() -> None:
    names = Pseudonyms()
    coder = Coder(names)
    shown = coder.encode(TurnServer("192.0.2.1", 1, username="user", password="password"))
    assert (shown["username"], shown["password"]) == (names.secret("user"), names.secret("password"))
    assert coder.encode(Deliver(1, ("192.0.2.1", 1), b"\x40\x00\x00\x01x"))["data"] == {"bytes": "0000000000"}
    assert coder.encode(Transmit(1, ("192.0.2.1", 1), b"\x40\x00\x00\x01x"))["data"] == {"bytes": "4000000100"}
    assert coder.encode(b"token", "access_token") == {"bytes": "0000000000"}


def test_why_there_are_no_credentials() -> None:
    told = CredentialsFetched(1, None, None, None, "HTTPError 'https://turn.example/?key=of+ours'")
    coder = Coder(Pseudonyms())
    shown = coder.encode(told)
    assert "ours" not in repr(shown) and coder.encode(coder.decode(shown)) == shown
    assert coder.encode(CredentialsFetched(1, "user", "password"))["detail"] == ""


def test_hosts_and_texts() -> None:
    names = Pseudonyms(addresses=True)
    coder = Coder(names)
    assert coder.encode(StunServer("stun.example.org", 1))["host"] == names.host("stun.example.org")
    assert coder.encode("203.0.113.9") == names.host("203.0.113.9")
    assert coder.encode("at 203.0.113.9", "detail") == "at [address]"
    assert coder.encode("hash", "foundation") == "f1"
    assert coder.encode(AddressRewrite("203.0.113.9", "10.1.0.0/16"))["local"] == "10.1.0.0/16"


@pytest.mark.parametrize(
    "value",
    [
        {"type": "NoSuchThing"},
        {"type": "Opened"},
        {"type": "Opened", "link": 1, "local": [], "more": 1},
        {"type": "OpenFailed", "link": 1, "reason": "no reason", "detail": ""},
        {"bytes": "xy"},
        {"bytes": "(99999)(99999)"},
        {"candidate": "nonsense"},
        {},
    ],
)
def test_nonsense(value: Any) -> None:
    with pytest.raises(ValueError):
        Coder(Names()).decode(value)


@given(st.lists(st.binary(max_size=40) | st.integers(0, 100).map(bytes)).map(b"".join))
def test_packed(data: bytes) -> None:
    assert unpack(pack(data)) == data


def test_zeros_are_counted() -> None:
    assert pack(b"\x01" + bytes(1200) + b"\x02") == "01(1200)02"
