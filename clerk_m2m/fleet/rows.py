"""One row of the log: an invalidation as it is written to Redis, signed."""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Final

from clerk_m2m.lookups.invalidation import Invalidation, TokenKind

VERSION: Final = 1
# The largest body of a row, in bytes: an id has about 40, and there are at most two digests.
MAX_BODY: Final = 2048
# A denial takes so many bytes more when it is written again.
REPEATED: Final = len(',"repeated":true')
# Seconds. Only processes that follow the log, or just did, need a row about an opaque token.
OPAQUE_ROW: Final = 600.0
# `Row.ends_at` of a row that never expires, and of one that never expires but may be dropped.
NEVER: Final = 0
DISPENSABLE: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as it is in Redis. `ends_at` (Unix s) is when it is no longer needed; 0 means never.

    It is -1 for a row about a JWT whose signature nobody verified. Such a row never expires, but a
    full log drops it and does not record that (`Page.floor`), because anybody can cause any number
    of these rows. Redis sets `number` and `previous`, the nonce of the row before it.
    """

    nonce: str
    body: str
    signature: str
    ends_at: int = NEVER
    number: int = 0
    previous: str = ""


def needed_until(invalidation: Invalidation, now: float) -> float | None:
    """Return until when the log must keep an invalidation, in Unix s; None means for ever."""
    if invalidation.token_kind is TokenKind.JWT:
        return invalidation.ends_at
    if invalidation.token_kind is TokenKind.OPAQUE or invalidation.caller is not None:
        return now + OPAQUE_ROW
    return None


class RowFormat:
    """Signs rows with the first of the keys, and reads rows that any of the keys has signed."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    def write(self, invalidation: Invalidation, *, ends_at: float | None) -> Row:
        """Return the row of an invalidation; it is needed until `ends_at` (Unix s; None: for ever).

        Raises `ValueError` if the body, now or when it is written again, exceeds the 2,048 bytes
        that readers accept.
        """
        fields = {
            name: value
            for name, value in asdict(invalidation).items()
            if value is not None and value is not False and value != ()
        }
        if invalidation.digests:
            fields["digests"] = [digest.hex() for digest in invalidation.digests]
        body = json.dumps({"v": VERSION} | fields, sort_keys=True, separators=(",", ":"))
        if len(body) > MAX_BODY - (0 if invalidation.repeated else REPEATED):
            raise ValueError("The id of the token or machine is too long for the fleet's log.")
        end = NEVER if ends_at is None else int(ends_at) + 1
        if invalidation.token_kind is TokenKind.UNPROVEN:
            end = DISPENSABLE
        nonce = secrets.token_hex(16)
        return Row(
            nonce=nonce,
            body=body,
            signature=_signature(self._keys[0], nonce, body),
            ends_at=end,
        )

    def read(self, row: Row) -> Invalidation | None:
        """Return the invalidation of a row, or None if no holder of a key wrote it."""
        signature = row.signature.encode("utf-8", "replace")
        good = any(
            hmac.compare_digest(_signature(key, row.nonce, row.body).encode(), signature)
            for key in self._keys
        )
        if not good or len(row.body) > MAX_BODY:
            return None
        # The signature is valid, so one of our services wrote it, perhaps a later version with
        # other fields.
        try:
            return _invalidation(json.loads(row.body))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None


def _signature(key: bytes, nonce: str, body: str) -> str:
    return hmac.digest(key, f"{nonce}\n{body}".encode("utf-8", "replace"), "sha256").hex()


def _invalidation(fields: dict[str, Any]) -> Invalidation | None:
    if fields.pop("v") != VERSION:
        return None
    digests = tuple(bytes.fromhex(each) for each in fields.pop("digests", ()))
    kind = fields.pop("token_kind", None)
    invalidation = Invalidation(
        digests=digests, token_kind=None if kind is None else TokenKind(kind), **fields
    )
    ends_at = 0.0 if invalidation.ends_at is None else invalidation.ends_at
    ids = (invalidation.token_id, invalidation.machine_id, invalidation.caller)
    # A comparison with NaN is always false: a denial with such an instant would deny nothing.
    good = isfinite(invalidation.instant) and isfinite(ends_at)
    good = good and all(isinstance(each, str | None) for each in ids)
    return invalidation if good else None
