"""`Invalidation`: names the verdicts that become void, as one process sends it to another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TokenKind(StrEnum):
    """The kind of a token that is invalidated by its text."""

    OPAQUE = "opaque"
    JWT = "jwt"  # a JWT whose signature was verified
    UNPROVEN = "unproven"  # a JWT that no known key verifies: anybody can make such tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalidation:
    """A token, a token id, a machine, or the edges of a caller: exactly one of the four.

    A token is given by its `digests`, one for each key of the fleet; `ends_at` (Unix s) is the
    expiry of a verified JWT. `instant` (Unix s) is the time of the invalidation: a machine's JWTs
    issued until then are denied. `repeated` means that it was published before, and was lost.
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
        """The subject of the invalidation; invalidations of the same subject have equal names."""
        if self.digests:
            return "token", self.digests
        if self.token_id is not None:
            return "token_id", self.token_id
        if self.machine_id is not None:
            return "machine_id", self.machine_id
        return "caller", self.caller
