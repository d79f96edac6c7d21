"""Random strings and transaction ids, from the operating system's randomness."""

import os
import secrets
import string

_LETTERS_AND_DIGITS = string.ascii_letters + string.digits


def random_string(length: int) -> str:
    """``length`` random letters and digits."""
    return "".join(secrets.choice(_LETTERS_AND_DIGITS) for _ in range(length))


def random_transaction_id() -> bytes:
    """12 random bytes (RFC 8489 §5)."""
    return os.urandom(12)
