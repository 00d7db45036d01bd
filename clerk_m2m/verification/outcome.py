"""The protocol of a verifier, and the outcome of one verification."""

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
    """The members of a verifier that `MachineAuthMiddleware` uses; `Verifier` has them."""

    @property
    def settings(self) -> Settings:
        """The settings of the service."""

    async def verify(
        self, token: str, *, while_waiting: AbstractAsyncContextManager[None] | None = None
    ) -> Identity:
        """Return the identity of a token's holder, or raise a `RefusalError`.

        A verifier that waits for an answer does so inside the context `while_waiting`.
        """

    async def aclose(self) -> None:
        """Close the connections and tasks of this event loop."""


class Source(StrEnum):
    """Where a verdict came from."""

    CACHE = "cache"
    ONLINE = "online"  # Clerk was asked
    SHARED = "shared"  # this request waited for the call that another request had started
    OFFLINE = "offline"  # a JWT, verified without a call
    STALE = "stale"  # a cached verdict past its lifetime, used while Clerk is unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a verification: an identity if accepted, else the refusal; and the source."""

    identity: Identity | None = None
    refusal: RefusalError | None = None
    source: Source | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The source and the outcome as metric labels; the source is "none" without a verdict."""
        source = "none" if self.source is None else self.source.value
        if self.identity is not None:
            return source, "accepted"
        down = isinstance(self.refusal, VerificationUnavailableError)
        return source, "unavailable" if down else "refused"


def refusal_of(exc: BackendAPIError) -> VerificationUnavailableError:
    """Return the 503 refusal for a failed call; the failure is its `__cause__`."""
    retry_after = spread(min(exc.retry_after or 1.0, MAX_BACK_OFF))
    is_misconfigured = isinstance(exc, KeyRefusedError | KeyUnavailableError)
    kind = VerifierMisconfiguredError if is_misconfigured else VerificationUnavailableError
    refusal = kind(retry_after=retry_after)
    refusal.__cause__ = exc
    return refusal


def source_of(refusal: RefusalError) -> Source | None:
    """Return the source of the verdict behind a refusal; None if there was no verdict."""
    # Only the offline verification raises without a token class.
    if isinstance(refusal, TokenInvalidError) and refusal.token_class is None:
        refusal.source = Source.OFFLINE
    return None if refusal.source is None else Source(refusal.source)
