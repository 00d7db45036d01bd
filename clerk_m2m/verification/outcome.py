"""What a verifier gives: the protocol that the middleware needs, and the outcome inside."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from clerk_m2m.errors import (
    BackendAPIError,
    KeyRefusedError,
    KeyUnavailableError,
    RefusalError,
    TokenInvalidError,
    VerificationUnavailableError,
    VerifierMisconfiguredError,
)
from clerk_m2m.identity import Identity
from clerk_m2m.settings import Settings
from clerk_m2m.transport.admission import spread
from clerk_m2m.transport.breaker import MAX_BACK_OFF


class CredentialVerifier(Protocol):
    """What `MachineAuthMiddleware` needs of a verifier; `Verifier` is one."""

    @property
    def settings(self) -> Settings:
        """What the service is configured with."""

    async def verify(
        self, token: str, *, while_waiting: AbstractAsyncContextManager[None] | None = None
    ) -> Identity:
        """Give the identity of a token's holder, or raise a `RefusalError`.

        A verifier that has to wait for an answer enters `while_waiting` for as long.
        """

    async def aclose(self) -> None:
        """Close what is open in this event loop."""


class Source(StrEnum):
    """Where a verdict came from."""

    CACHE = "cache"
    ONLINE = "online"  # Clerk was asked
    SHARED = "shared"  # another request had asked Clerk already, and this one waited too
    OFFLINE = "offline"  # a JWT, verified without a call
    STALE = "stale"  # past its lifetime, while Clerk is down


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a verification came to: whose credential it is, as far as known, and any refusal."""

    identity: Identity | None = None
    refusal: RefusalError | None = None
    source: Source | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The source and the outcome, as they are counted; "none" where there is no verdict."""
        source = "none" if self.source is None else self.source.value
        if self.identity is not None:
            return source, "accepted"
        down = isinstance(self.refusal, VerificationUnavailableError)
        return source, "unavailable" if down else "refused"


def refusal_of(exc: BackendAPIError) -> VerificationUnavailableError:
    """Give the refusal that a failed call means to the caller; the failure is its cause."""
    retry_after = spread(min(exc.retry_after or 1.0, MAX_BACK_OFF))
    is_misconfigured = isinstance(exc, KeyRefusedError | KeyUnavailableError)
    kind = VerifierMisconfiguredError if is_misconfigured else VerificationUnavailableError
    refusal = kind(retry_after=retry_after)
    refusal.__cause__ = exc
    return refusal


def source_of(refusal: RefusalError) -> Source | None:
    """Tell where a refusal came from; None where there was no verdict."""
    # Only the offline verification knows no class: it was told a JWT.
    if isinstance(refusal, TokenInvalidError) and refusal.token_class is None:
        refusal.source = Source.OFFLINE
    return None if refusal.source is None else Source(refusal.source)
