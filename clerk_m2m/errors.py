"""Everything that this package raises, in one tree.

    ClerkM2MError
    ├── ConfigurationError                 a setting or an argument cannot work; the text says why
    ├── MiddlewareMissingError             a guard ran where no MachineAuthMiddleware did
    ├── RefusalError                       a request is refused; one class per row of the answers
    │   ├── TokenMissingError              401  token_missing
    │   ├── TokenMalformedError            400  token_malformed
    │   ├── TokenTypeNotAcceptedError      401  token_type_not_accepted
    │   ├── TokenInvalidError              401  token_invalid
    │   ├── ScopeDeniedError               403  scope_denied
    │   ├── PermissionDeniedError          403  permission_denied
    │   └── VerificationUnavailableError   503  verification_unavailable
    │       └── VerifierMisconfiguredError 503  verifier_misconfigured
    ├── BackendAPIError                    what Clerk's Backend API answered to a call of ours
    │   ├── InvalidRequestError            400 or 422, with the fields at fault
    │   ├── KeyRefusedError                401 or 403: our own key was refused
    │   ├── KeyUnavailableError            no key to send: its callable failed
    │   ├── NotFoundError                  404
    │   ├── ConflictError                  409
    │   ├── RateLimitedError               429, with `retry_after`
    │   ├── OverloadedError                not sent: more calls wait than Clerk answers in time
    │   └── BackendUnavailableError        timeout, unreachable, 5xx, or nonsense
    │       └── AnswerTooLargeError        the answer is over the size limit
    ├── FleetUnavailableError              the Redis of the fleet did not do what was asked
    └── TokenUnavailableError              the caller's side could not get a token to send

`code` is stable and fit for an alert; `status` is the HTTP status that the error means. No error
ever carries a token or a key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from clerk_m2m.decision import Decision
from clerk_m2m.identity import Identity, TokenClass
from clerk_m2m.secret import without_credentials

__all__ = [
    "AnswerTooLargeError",
    "BackendAPIError",
    "BackendUnavailableError",
    "ClerkM2MError",
    "ConfigurationError",
    "ConflictError",
    "FieldError",
    "FleetUnavailableError",
    "InvalidRequestError",
    "KeyRefusedError",
    "KeyUnavailableError",
    "MiddlewareMissingError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RefusalError",
    "ScopeDeniedError",
    "TokenInvalidError",
    "TokenMalformedError",
    "TokenMissingError",
    "TokenTypeNotAcceptedError",
    "TokenUnavailableError",
    "VerificationUnavailableError",
    "VerifierMisconfiguredError",
]


# RFC 6749 section 3.3: what may stand in a scope, and so inside the quotes of a challenge.
SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


class ClerkM2MError(Exception):
    """The root: catch this to catch everything that the package raises on purpose."""

    code: ClassVar[str] = "error"
    status: int = 500


class ConfigurationError(ClerkM2MError, ValueError):
    """A setting or an argument cannot work; the text says what to give instead.

    Settings are checked at construction, and arguments before anything is sent.

    The text may quote a value. One that has the form of a Clerk key or token is cut down to its
    beginning: a key is easily pasted into the wrong setting.
    """

    code = "configuration_invalid"

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(message))


class MiddlewareMissingError(ClerkM2MError, RuntimeError):
    """A guard was called on a connection that `MachineAuthMiddleware` has not seen."""

    code = "middleware_missing"


class RefusalError(ClerkM2MError):
    """A request is refused: `status` and `code` answer it, `detail` says why in a sentence.

    `bearer_error` is the `error` of the Bearer challenge (RFC 6750 section 3.1); None sends the
    challenge without one (section 3: no credential was presented). `token_class` is what the
    credential claimed to be, None where that is not known. `from_verifier` is True on what
    `Verifier.verify` raised. When a handler called it, the refusal is about another credential than
    the caller's, and the middleware does not answer the request with it. `holder` is whose
    credential it is, where that was found out (not admitted: for logs only), and `source` tells
    where that was known from.
    """

    from_verifier = False
    holder: Identity | None = None
    source: str | None = None
    bearer_error: ClassVar[str | None] = None
    challenged: ClassVar[bool] = True
    default_detail: ClassVar[str] = "The request was refused."

    def __init__(self, detail: str | None = None, *, token_class: TokenClass | None = None) -> None:
        self.detail = detail or self.default_detail
        self.token_class = token_class
        super().__init__(self.detail)


class TokenMissingError(RefusalError):
    """The request carries no machine credential, and one is required."""

    code = "token_missing"
    status = 401
    default_detail = "Send a machine credential in the header: Authorization: Bearer <token>."

    def __init__(self, detail: str | None = None, *, api_key_header: str | None = None) -> None:
        """Take the name of the header that may carry an API key instead, to tell the client."""
        if detail is None and api_key_header is not None:
            detail = f"{self.default_detail} An API key may be sent as {api_key_header}: <key>."
        super().__init__(detail)


class TokenMalformedError(RefusalError):
    """The credential is not of the form that RFC 6750 section 2.1 admits, or there are two."""

    code = "token_malformed"
    status = 400
    bearer_error = "invalid_request"
    default_detail = "Send exactly one credential: Authorization: Bearer <token>."


class TokenTypeNotAcceptedError(RefusalError):
    """The credential is of a type that this service does not accept."""

    code = "token_type_not_accepted"
    status = 401
    bearer_error = "invalid_token"
    default_detail = "This service does not accept a credential of this type."


class TokenInvalidError(RefusalError):
    """The credential is unknown, forged, expired, revoked or not yet valid."""

    code = "token_invalid"
    status = 401
    bearer_error = "invalid_token"
    default_detail = "The credential is unknown, expired or revoked."


class ScopeDeniedError(RefusalError):
    """The scope graph has no edge caller -> callee; `decision` says which was missing."""

    code = "scope_denied"
    status = 403
    bearer_error = "insufficient_scope"

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        super().__init__(str(decision))


class PermissionDeniedError(RefusalError):
    """A guard wants another caller, or a permission that the credential lacks.

    `required_scopes` are the permissions asked for, in the order to be shown in the challenge.
    Raises `ConfigurationError` for one string.
    """

    code = "permission_denied"
    status = 403
    bearer_error = "insufficient_scope"

    def __init__(self, detail: str, *, required_scopes: Sequence[str] = ()) -> None:
        if isinstance(required_scopes, str):
            raise ConfigurationError("required_scopes must be a list of scopes, not one string.")
        self.required_scopes = tuple(required_scopes)
        super().__init__(detail)


class VerificationUnavailableError(RefusalError):
    """It could not be found out whether the credential is good; try again in `retry_after` s."""

    code = "verification_unavailable"
    status = 503
    challenged = False
    default_detail = "The credential could not be verified just now. Try again."

    def __init__(self, detail: str | None = None, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class VerifierMisconfiguredError(VerificationUnavailableError):
    """Clerk refused this service's own key, so nothing can be verified until it is mended."""

    code = "verifier_misconfigured"
    default_detail = "This service cannot verify credentials just now. Its operator has been told."

    def __init__(self, detail: str | None = None, *, retry_after: float = 30.0) -> None:
        super().__init__(detail, retry_after=retry_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One entry of `errors` in an answer of Clerk's (schema `ClerkError`)."""

    code: str
    message: str
    field: str | None = None


class BackendAPIError(ClerkM2MError):
    """Clerk's Backend API did not do what was asked.

    `status` is the HTTP status of the answer (or the one that the error means, when there was no
    answer), `errors` is what Clerk said field by field, `clerk_trace_id` is what Clerk's support
    asks for; the text has it too, and the name of the operation in Clerk's OpenAPI document.
    """

    code = "backend_api_error"
    status = 502

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        errors: Sequence[FieldError] = (),
        clerk_trace_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status if status is not None else type(self).status
        self.errors = tuple(errors)
        self.clerk_trace_id = clerk_trace_id
        self.retry_after = retry_after


class InvalidRequestError(BackendAPIError):
    """Clerk refused the request's contents (400 or 422): see `errors`."""

    code = "invalid_request"
    status = 400


class KeyRefusedError(BackendAPIError):
    """Clerk refused the key that the call was made with (401 or 403).

    `retry_after` is how long such calls are not sent with this key, in seconds: 1 at the first
    refusal, and twice as long at each further one, up to 30.
    """

    code = "key_refused"
    status = 401


class KeyUnavailableError(BackendAPIError):
    """The callable that gives our own key has given none yet, so the call was not sent."""

    code = "key_unavailable"
    status = 503


class NotFoundError(BackendAPIError):
    """Clerk knows no such machine, token or key (404)."""

    code = "not_found"
    status = 404


class ConflictError(BackendAPIError):
    """What was to be created exists already (409)."""

    code = "conflict"
    status = 409


class RateLimitedError(BackendAPIError):
    """Clerk's rate limit was reached (429); `retry_after` is in seconds."""

    code = "rate_limited"
    status = 429


class OverloadedError(BackendAPIError):
    """The call was not sent, because more calls wait than Clerk answers in time.

    Clerk is not down: this process asks for more than its `max_inflight` calls and `unknown_rate`
    allow. `retry_after` is in seconds.
    """

    code = "overloaded"
    status = 503


class BackendUnavailableError(BackendAPIError):
    """Clerk timed out, could not be reached, answered 5xx, or answered nonsense.

    Also raised where the client was closed, or its certificates cannot be read: the text says so.
    """

    code = "backend_unavailable"
    status = 503


class AnswerTooLargeError(BackendUnavailableError):
    """Clerk's answer is over the size limit: ask for less at once."""

    code = "answer_too_large"


class FleetUnavailableError(ClerkM2MError):
    """The Redis that the fleet shares did not do what was asked. What was asked may be done."""

    code = "fleet_unavailable"


class TokenUnavailableError(ClerkM2MError):
    """No token could be had to send, so the request was not sent.

    `__cause__` is what Clerk's Backend API said; `retry_after` is in seconds, None when waiting
    does not help.
    """

    code = "token_unavailable"
    status = 503

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
