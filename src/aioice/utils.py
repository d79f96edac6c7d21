"""Random strings and transaction ids, from the operating system's randomness."""

import os
import string

_LETTERS_AND_DIGITS = (string.ascii_letters + string.digits).encode()
#: The character that each byte stands for; those of the last, incomplete round would favour the first characters.
_CHARACTERS = bytes(_LETTERS_AND_DIGITS[byte % len(_LETTERS_AND_DIGITS)] for byte in range(256))
_UNFAIR = bytes(range(256 - 256 % len(_LETTERS_AND_DIGITS), 256))


def random_string(length: int) -> str:
    """``length`` random letters and digits."""
    chosen = b""
    while len(chosen) < length:
        chosen += os.urandom(length + 4).translate(_CHARACTERS, _UNFAIR)
    return chosen[:length].decode()


def random_transaction_id() -> bytes:
    """12 random bytes (RFC 8489 §5)."""
    return os.urandom(12)
