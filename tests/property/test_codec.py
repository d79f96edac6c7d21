"""The codec against everything that Hypothesis thinks of: bytes that are no message, messages, and changed ones."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aioice.core.address import canonical_host
from aioice.core.attributes import BY_NAME, BY_TYPE
from aioice.core.message import Class, Message, Method, binding_request, parse_message
from fuzz.fuzz_message import one_input
from tests.core.stun_bytes import KEY, attribute, fingerprint, message, unfingerprinted

#: What protects a message is not among the values, but added to them.
PROTECTION = {"MESSAGE-INTEGRITY", "MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"}

hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda address: canonical_host(str(address)))
addresses = st.tuples(hosts, st.integers(0, 0xFFFF))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
errors = st.tuples(st.integers(300, 699), texts)
algorithms = st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=9))
u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
values: dict[str, st.SearchStrategy[Any]] = {
    "MAPPED-ADDRESS": addresses,
    "CHANGE-REQUEST": u32,
    "SOURCE-ADDRESS": addresses,
    "CHANGED-ADDRESS": addresses,
    "USERNAME": texts,
    "ERROR-CODE": errors,
    "UNKNOWN-ATTRIBUTES": st.lists(u16, max_size=5),
    "CHANNEL-NUMBER": u16,
    "LIFETIME": u32,
    "XOR-PEER-ADDRESS": addresses,
    "DATA": st.binary(max_size=40),
    "REALM": texts,
    "NONCE": st.binary(max_size=20),
    "XOR-RELAYED-ADDRESS": addresses,
    "REQUESTED-ADDRESS-FAMILY": u32,
    "EVEN-PORT": u8,
    "REQUESTED-TRANSPORT": u32,
    "DONT-FRAGMENT": st.none(),
    "ACCESS-TOKEN": st.binary(max_size=20),
    "PASSWORD-ALGORITHM": algorithms,
    "USERHASH": st.binary(min_size=32, max_size=32),
    "XOR-MAPPED-ADDRESS": addresses,
    "RESERVATION-TOKEN": st.binary(min_size=8, max_size=8),
    "PRIORITY": u32,
    "USE-CANDIDATE": st.none(),
    "PADDING": st.binary(max_size=20),
    "RESPONSE-PORT": u16,
    "CONNECTION-ID": u32,
    "ADDITIONAL-ADDRESS-FAMILY": u32,
    "ADDRESS-ERROR-CODE": st.tuples(u8, st.integers(300, 699), texts),
    "DRAFT-ADDITIONAL-ADDRESS-FAMILY": u32,
    "DRAFT-ADDRESS-ERROR-CODE": st.tuples(u8, st.integers(300, 699), texts),
    "PASSWORD-ALGORITHMS": st.lists(algorithms, max_size=3),
    "ALTERNATE-DOMAIN": texts,
    "ICMP": st.binary(min_size=8, max_size=8),
    "SOFTWARE": texts,
    "ALTERNATE-SERVER": addresses,
    "CACHE-TIMEOUT": u32,
    "ICE-CONTROLLED": u64,
    "ICE-CONTROLLING": u64,
    "RESPONSE-ORIGIN": addresses,
    "OTHER-ADDRESS": addresses,
    "THIRD-PARTY-AUTHORIZATION": texts,
    "MOBILITY-TICKET": st.binary(max_size=20),
}


@st.composite
def messages(draw: st.DrawFn) -> Message:
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=8, unique=True))
    method, message_class = draw(st.sampled_from(Method)), draw(st.sampled_from(Class))
    if message_class is Class.REQUEST and "ICE-CONTROLLED" in names and "ICE-CONTROLLING" in names:
        names.remove("ICE-CONTROLLING")
    transaction_id = draw(st.binary(min_size=12, max_size=12))
    return Message(method, message_class, transaction_id, {name: draw(values[name]) for name in names})


checks = st.builds(
    binding_request,
    st.binary(min_size=12, max_size=12),
    texts.map(str.encode),
    u32,
    st.sampled_from([0x8029, 0x802A]),
    u64,
    st.booleans(),
    st.just(KEY),
)


def meaning(parsed: Message) -> tuple[Any, ...]:
    attributes = {name: value for name, value in parsed.attributes.items() if name != "FINGERPRINT"}
    return parsed.message_method, parsed.message_class, parsed.transaction_id, attributes, parsed.unknown_required


def test_every_attribute_is_here() -> None:
    assert values.keys() | PROTECTION == BY_NAME.keys()


@given(messages(), st.booleans(), st.booleans())
def test_round_trip(built: Message, sha1: bool, sha256: bool) -> None:
    if sha1:
        built.add_message_integrity(KEY)
    if sha256:
        built.add_message_integrity_sha256(KEY)
    data = bytes(built)
    parsed = parse_message(data)
    assert bytes(parsed) == data
    assert (parsed.message_method, parsed.message_class) == (built.message_method, built.message_class)
    assert parsed.transaction_id == built.transaction_id
    assert list(parsed.attributes.items()) == list(built.attributes.items())
    assert parsed.unknown_required == ()
    assert parsed.check_message_integrity(KEY) == built.check_message_integrity(KEY) == sha1
    assert parsed.check_message_integrity_sha256(KEY) == built.check_message_integrity_sha256(KEY) == sha256
    # Without the bytes it came from, too.
    again = Message(parsed.message_method, parsed.message_class, parsed.transaction_id, dict(parsed.attributes))
    assert bytes(again) == data


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    one_input(data)


@given(st.binary(max_size=120), st.integers(0, 0x3FFF))
def test_any_bytes_behind_a_header(body: bytes, kind: int) -> None:
    one_input(message(body[: len(body) & ~3], kind))


@given(
    st.lists(st.tuples(st.sampled_from(sorted(BY_TYPE)) | st.integers(0, 0xFFFF), st.binary(max_size=36))),
    st.integers(0, 0x3FFF),
)
def test_any_attributes(attributes: list[tuple[int, bytes]], kind: int) -> None:
    body = b"".join(attribute(number, value) for number, value in attributes)
    one_input(message(body, kind))
    one_input(fingerprint(message(body, kind)))


@given(checks, st.booleans(), st.integers(0, 1000), st.integers(1, 255))
def test_any_changed_byte_of_a_check(data: bytes, fingerprinted: bool, where: int, change: int) -> None:
    """It is no message any more, or not authentic, or means the same."""
    if not fingerprinted:
        data = unfingerprinted(data)
    changed = bytearray(data)
    changed[where % len(data)] ^= change
    try:
        parsed = parse_message(bytes(changed))
    except ValueError:
        return
    assert not parsed.check_message_integrity(KEY) or meaning(parsed) == meaning(parse_message(data))
