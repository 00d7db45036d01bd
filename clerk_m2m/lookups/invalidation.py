"""`Invalidation`: what must be asked again, as one process tells another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TokenKind(StrEnum):
    """What is known of a token that is invalidated by its text."""

    OPAQUE = "opaque"
    JWT = "jwt"  # a JWT whose signature was verified
    UNPROVEN = "unproven"  # a JWT that none of the keys at hand verifies: anybody can make it


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalidation:
    """A token, a token id, a machine, or the edges of a caller: exactly one of the four.

    A token is given by its `digests`, one for each key of the fleet; `ends_at` (Unix s) is when a
    verified JWT ends. `instant` (Unix s) is the time of the invalidation: a machine's JWTs that
    were issued until then are denied. `repeated` tells that it was told before, and lost.
    """

    digests: tuple[bytes, ...] = ()
    token_kind: TokenKind | None = None
    ends_at: float | None = None
    token_id: str | None = None
    machine_id: str | None = None
    caller: str | None = None
    instant: float
    repeated: bool = False

    @property
    def name(self) -> tuple[str, object]:
        """What is invalidated, for telling whether two are about the same."""
        if self.digests:
            return "token", self.digests
        if self.token_id is not None:
            return "token_id", self.token_id
        if self.machine_id is not None:
            return "machine_id", self.machine_id
        return "caller", self.caller
