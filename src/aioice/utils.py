"""Random strings and transaction ids, from the operating system's randomness."""

import os
import string

_LETTERS_AND_DIGITS = string.ascii_letters + string.digits


def random_string(length: int) -> str:
    """``length`` random letters and digits."""
    size = len(_LETTERS_AND_DIGITS)
    chosen = ""
    while len(chosen) < length:
        # Bytes from the last, incomplete round of letters would favour the first ones.
        fair = (byte for byte in os.urandom(2 * length) if byte < 256 - 256 % size)
        chosen += "".join(_LETTERS_AND_DIGITS[byte % size] for byte in fair)
    return chosen[:length]


def random_transaction_id() -> bytes:
    """12 random bytes (RFC 8489 §5)."""
    return os.urandom(12)
