"""From a refusal to the answer: RFC 9457 body, RFC 6750 challenge, never a secret."""

from __future__ import annotations

import math
from http import HTTPStatus

from starlette.responses import JSONResponse, Response

from clerk_m2m.errors import (
    SCOPE,
    PermissionDeniedError,
    RefusalError,
    VerificationUnavailableError,
)


class _ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


def answer(refusal: RefusalError) -> Response:
    """Give the HTTP answer to a refused request.

    `code` is the extension member to branch on; without `type`, RFC 9457 section 4.2.1 wants the
    status phrase as the title.
    """
    body = {
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
    }
    return _ProblemResponse(body, refusal.status, headers=_headers(refusal))


def challenge(refusal: RefusalError) -> str:
    """Give the value of `WWW-Authenticate` (RFC 6750 section 3)."""
    parts = [f'error="{refusal.bearer_error}"'] if refusal.bearer_error else []
    if isinstance(refusal, PermissionDeniedError):
        # An app may raise one itself, with anything in it.
        scopes = [scope for scope in refusal.required_scopes if SCOPE.fullmatch(scope)]
        parts += [f'scope="{" ".join(scopes)}"'] if scopes else []
    return " ".join(["Bearer", ", ".join(parts)]).rstrip()


def _headers(refusal: RefusalError) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if refusal.challenged:
        headers["WWW-Authenticate"] = challenge(refusal)
    if isinstance(refusal, VerificationUnavailableError):
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
    return headers
