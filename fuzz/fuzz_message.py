"""Coverage-guided fuzzing of the STUN codec: ``python fuzz/fuzz_message.py`` (needs atheris)."""

from __future__ import annotations

import sys

from aioice.core.message import Message, parse_message

KEY = b"localpasswordlocalpass"


def one_input(data: bytes) -> None:
    """Any bytes are a message whose every attribute can be read and that survives being sent on, or a ValueError."""
    try:
        message = parse_message(data)
    except ValueError:
        return
    attributes = dict(message.attributes)
    assert list(attributes) == list(message.attributes)
    assert message.attributes == attributes
    assert "attributes=" in repr(message)
    assert message.error_code is None or 300 <= message.error_code <= 699
    message.check_message_integrity(KEY)
    message.check_message_integrity_sha256(KEY, minimum=16)
    assert bytes(parse_message(data)) == data
    if message.unknown_required:
        return
    # Built anew from its values it says the same, but for what protected the old bytes.
    for name in ("MESSAGE-INTEGRITY", "MESSAGE-INTEGRITY-SHA256", "FINGERPRINT"):
        attributes.pop(name, None)
    again = Message(message.message_method, message.message_class, message.transaction_id, attributes)
    again.add_message_integrity(KEY)
    again.add_message_integrity_sha256(KEY)
    parsed = parse_message(bytes(again))
    assert parsed.attributes == again.attributes
    assert parsed.check_message_integrity(KEY)
    assert parsed.check_message_integrity_sha256(KEY)


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
