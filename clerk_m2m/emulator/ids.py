"""Identifiers and secrets, in the forms that Clerk uses."""

from __future__ import annotations

import hashlib
import re
import secrets
import string

ALPHABET = string.ascii_letters + string.digits
SUBJECT_LENGTH = 27
SECRET_LENGTH = 48

MACHINE_ID = re.compile(r"mch_\w{27}", re.ASCII)
USER_ID = re.compile(r"user_\w{27}", re.ASCII)
SUBJECT = re.compile(r"(user|org|mch|scim)_\w{27}", re.ASCII)
KEY_SUBJECT = re.compile(r"(user|org|mch)_\w{27}", re.ASCII)
M2M_TOKEN_ID = re.compile(r"mt_[0-9A-Fa-f]{32}")
API_KEY_ID = re.compile(r"(ak|api_key)_[0-9A-Fa-f]{32}")


def random_word(prefix: str, length: int = SUBJECT_LENGTH) -> str:
    """A new random identifier or secret: the prefix and this many letters and digits."""
    return prefix + _letters(secrets.randbits(512), length)


def random_secret(prefix: str) -> str:
    """A new secret. It is longer than any id, so that the two cannot be confused."""
    return random_word(prefix, SECRET_LENGTH)


def random_hex(prefix: str) -> str:
    """A fresh token or key id: the prefix and 32 hexadecimal digits."""
    return prefix + secrets.token_hex(16)


def derived_word(prefix: str, *parts: str, length: int = SUBJECT_LENGTH) -> str:
    """A word derived from the parts: the same in every run and on every host."""
    return prefix + _letters(int.from_bytes(_digest(prefix, *parts), "big"), length)


def _letters(number: int, length: int) -> str:
    """The last `length` digits of the number, in the base of the alphabet."""
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[index])
    return "".join(letters)


def derived_hex(prefix: str, *parts: str) -> str:
    """The same token or key id for the same parts."""
    return prefix + _digest(prefix, *parts).hex()[:32]


def _digest(*parts: str) -> bytes:
    # 64 bytes: enough for the longest secret above without repeating digits.
    return hashlib.sha512("\0".join(parts).encode()).digest()
