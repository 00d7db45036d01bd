"""All exceptions of this package, in one tree.

    ClerkM2MError
    ├── ConfigurationError                 a setting or an argument cannot work; the text says why
    ├── MiddlewareMissingError             a guard ran without MachineAuthMiddleware
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
    │   └── BackendUnavailableError        timeout, unreachable, 5xx, or unreadable
    │       └── AnswerTooLargeError        the answer is over the size limit
    ├── FleetUnavailableError              the Redis of the fleet did not do what was asked
    └── TokenUnavailableError              the caller's side could not get a token to send

`code` is stable and can be used in an alert; `status` is the HTTP status that belongs to the error.
No error contains a token or a key.
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


# RFC 6749 section 3.3: the characters of a scope, which are also safe in a quoted challenge.
SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


class ClerkM2MError(Exception):
    """The base class of all exceptions that this package raises on purpose."""

    code: ClassVar[str] = "error"
    status: int = 500


class ConfigurationError(ClerkM2MError, ValueError):
    """A setting or an argument is invalid; the text says what to set instead.

    Settings are checked at construction, and arguments before anything is sent.

    The text may quote a value. If that has the form of a Clerk key or token, only its beginning is
    quoted, because a key is easily pasted into the wrong setting.
    """

    code = "configuration_invalid"

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(message))


class MiddlewareMissingError(ClerkM2MError, RuntimeError):
    """A guard was called on a connection that did not pass `MachineAuthMiddleware`."""

    code = "middleware_missing"


class RefusalError(ClerkM2MError):
    """A request is refused with `status` and `code`; `detail` is the reason, as a sentence.

    `bearer_error` is the `error` of the Bearer challenge (RFC 6750 section 3.1); None sends the
    challenge without it (section 3: no credential was presented). `token_class` is the type that
    the credential claimed to have, None if unknown. `from_verifier` is True if `Verifier.verify`
    raised the error. If a handler called `verify`, the refusal is about another credential than the
    caller's, so the middleware does not answer the request with it. `holder` is the identity of the
    credential, if it was verified (refused anyway: for logs only), and `source` says where the
    verdict came from.
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
        """`api_key_header` is a header that may carry an API key instead; the text names it."""
        if detail is None and api_key_header is not None:
            detail = f"{self.default_detail} An API key may be sent as {api_key_header}: <key>."
        super().__init__(detail)


class TokenMalformedError(RefusalError):
    """The credential does not have the form of RFC 6750 section 2.1, or there are two."""

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
    """The scope graph has no edge caller -> callee; `decision` names the missing edge."""

    code = "scope_denied"
    status = 403
    bearer_error = "insufficient_scope"

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        super().__init__(str(decision))


class PermissionDeniedError(RefusalError):
    """A guard requires another caller, or a permission that the credential does not have.

    `required_scopes` are the required permissions, in the order of the challenge. Raises
    `ConfigurationError` for a single string.
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
    """The credential could not be verified; try again in `retry_after` seconds."""

    code = "verification_unavailable"
    status = 503
    challenged = False
    default_detail = "The credential could not be verified just now. Try again."

    def __init__(self, detail: str | None = None, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class VerifierMisconfiguredError(VerificationUnavailableError):
    """Clerk refused this service's own key, so it cannot verify credentials until that is fixed."""

    code = "verifier_misconfigured"
    default_detail = "This service cannot verify credentials just now. Its operator has been told."

    def __init__(self, detail: str | None = None, *, retry_after: float = 30.0) -> None:
        super().__init__(detail, retry_after=retry_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One entry of `errors` in Clerk's error answer (schema `ClerkError`)."""

    code: str
    message: str
    field: str | None = None


class BackendAPIError(ClerkM2MError):
    """A call of Clerk's Backend API failed.

    `status` is the HTTP status of the answer, or the one of the error's class if there was no
    answer. `errors` are Clerk's errors by field. `clerk_trace_id` is the id that Clerk's support
    asks for. The text contains it too, and the operation's name in Clerk's OpenAPI document.
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
    """Clerk rejected the content of the request (400 or 422): see `errors`."""

    code = "invalid_request"
    status = 400


class KeyRefusedError(BackendAPIError):
    """Clerk refused the key that the call was made with (401 or 403).

    `retry_after` is the pause in seconds during which such calls are not sent with this key: 1
    after the first refusal, doubled by each further one, up to 30.
    """

    code = "key_refused"
    status = 401


class KeyUnavailableError(BackendAPIError):
    """The call was not sent, because the source of our own key has not returned a key yet."""

    code = "key_unavailable"
    status = 503


class NotFoundError(BackendAPIError):
    """The machine, token or key does not exist at Clerk (404)."""

    code = "not_found"
    status = 404


class ConflictError(BackendAPIError):
    """The resource exists already (409)."""

    code = "conflict"
    status = 409


class RateLimitedError(BackendAPIError):
    """Clerk's rate limit was reached (429); `retry_after` is in seconds."""

    code = "rate_limited"
    status = 429


class OverloadedError(BackendAPIError):
    """The call was not sent, because more calls wait than Clerk answers in time.

    Clerk is not down: this process needs more calls than `max_inflight` and `unknown_rate` allow.
    `retry_after` is in seconds.
    """

    code = "overloaded"
    status = 503


class BackendUnavailableError(BackendAPIError):
    """Clerk timed out, was unreachable, answered 5xx, or sent an unreadable answer.

    Also raised if the client was closed, or if its certificates cannot be read: the text says so.
    """

    code = "backend_unavailable"
    status = 503


class AnswerTooLargeError(BackendUnavailableError):
    """Clerk's answer is over the size limit: request a smaller page."""

    code = "answer_too_large"


class FleetUnavailableError(ClerkM2MError):
    """A command to the fleet's Redis failed; Redis may have carried it out."""

    code = "fleet_unavailable"


class TokenUnavailableError(ClerkM2MError):
    """There was no token to send, so the request was not sent.

    `__cause__` is the error of the mint; `retry_after` is in seconds, None if waiting does not
    help.
    """

    code = "token_unavailable"
    status = 503

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
