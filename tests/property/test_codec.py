from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aioice.core.address import canonical_host
from aioice.core.attributes import BY_TYPE
from aioice.core.message import Class, Message, Method, parse_message
from fuzz.fuzz_message import one_input
from tests.core.stun_bytes import (
    KEY,
    attribute,
    fingerprint,
    message,
)

hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda address: canonical_host(str(address)))
addresses = st.tuples(hosts, st.integers(0, 65535))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
errors = st.tuples(st.integers(300, 699), texts)
algorithms = st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=9))
u32 = st.integers(0, 0xFFFFFFFF)
values = st.fixed_dictionaries(
    {},
    optional={
        "USERNAME": texts,
        "ERROR-CODE": errors,
        "UNKNOWN-ATTRIBUTES": st.lists(st.integers(0, 0xFFFF)),
        "CHANNEL-NUMBER": st.integers(0, 0xFFFF),
        "LIFETIME": u32,
        "XOR-PEER-ADDRESS": addresses,
        "DATA": st.binary(),
        "NONCE": st.binary(max_size=20),
        "EVEN-PORT": st.integers(0, 255),
        "PASSWORD-ALGORITHM": algorithms,
        "XOR-MAPPED-ADDRESS": addresses,
        "MAPPED-ADDRESS": addresses,
        "USE-CANDIDATE": st.none(),
        "PASSWORD-ALGORITHMS": st.lists(algorithms),
        "ICE-CONTROLLED": st.integers(0, (1 << 64) - 1),
        "ADDRESS-ERROR-CODE": errors.map(lambda error: (1, *error)),
        "SOFTWARE": texts,
    },
)
messages = st.builds(
    Message, st.sampled_from(Method), st.sampled_from(Class), st.binary(min_size=12, max_size=12), values
)


@given(messages, st.booleans(), st.booleans())
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


@given(st.lists(st.tuples(st.sampled_from(sorted(BY_TYPE)) | st.integers(0, 0xFFFF), st.binary(max_size=36))))
def test_any_attributes(attributes: list[tuple[int, bytes]]) -> None:
    one_input(message(b"".join(attribute(number, value) for number, value in attributes)))


@given(messages, st.integers(0, 10_000), st.integers(1, 255))
def test_any_change_of_a_signed_message_is_noticed(built: Message, where: int, change: int) -> None:
    built.add_message_integrity(KEY)
    data = bytearray(bytes(built))
    position = where % len(data)
    data[position] ^= change
    try:
        # The change has made something else of FINGERPRINT: then it stands where nothing else counts.
        assert "FINGERPRINT" not in parse_message(bytes(data)).attributes
        assert position >= len(data) - 8
    except ValueError:
        pass
    # Whoever can make fingerprints still cannot sign.
    covered = data[:-8]
    covered[2:4] = (len(data) - 28).to_bytes(2, "big")
    if position in (2, 3) or position >= len(covered):
        return
    try:
        parsed = parse_message(fingerprint(bytes(covered)))
    except ValueError:
        return
    assert not parsed.check_message_integrity(KEY)
