"""Adds the middleware and the guards to FastAPI's OpenAPI document.

FastAPI adds one security scheme per guard to the document. This file replaces it by the schemes
that the guard accepts, as alternatives with the permissions that the guard requires, and adds the
refusals as responses. For a middleware, it adds the same to the operations that the middleware
protects and that have no guard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from clerk_m2m.identity import TokenType

Alternative: TypeAlias = tuple[TokenType, Sequence[str]]
"""A type of credential, and the permissions that it must have."""

Security: TypeAlias = list[dict[str, list[str]]]
"""The security requirements of an operation; one is enough (OpenAPI 3.1 section 4.8.30)."""

_PROBLEM: Final = {
    "application/problem+json": {
        "schema": {
            "title": "Problem",
            "type": "object",
            "required": ["title", "status", "detail", "code"],
            "properties": {
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "code": {"type": "string"},
            },
        }
    }
}
_REFUSALS: Final = {
    "401": "No credential, or one that is invalid or of another type.",
    "403": "The caller may not call this service, or lacks a permission.",
    "503": "The credential could not be verified just now.",
}
# The other members of a Path Item Object are not operations (OpenAPI 3.1 section 4.8.9).
_METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_NAMES: Final = {
    TokenType.M2M_TOKEN: "ClerkM2MToken",
    TokenType.API_KEY: "ClerkApiKey",
    TokenType.OAUTH_TOKEN: "ClerkOAuthToken",
}
_DESCRIPTIONS: Final = {
    TokenType.M2M_TOKEN: "A Clerk M2M token, opaque or JWT.",
    TokenType.API_KEY: "A Clerk API key.",
    TokenType.OAUTH_TOKEN: "A Clerk OAuth access token.",
}
_KEY_HEADER: Final = "ClerkApiKeyHeader"
_OURS: Final = frozenset({*_NAMES.values(), _KEY_HEADER})
# The member for the alternatives in the model of a guard that is not one plain scheme.
_EXTENSION: Final = "x-clerk-alternatives"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """Which operations of its app a middleware protects, and which credentials it accepts.

    `protects` is called with an upper-case method and a path as written in the document.
    """

    accepts: frozenset[TokenType]
    api_key_header: str | None
    protects: Callable[[str, str], bool]


def scheme_of(alternatives: Sequence[Alternative]) -> tuple[str, dict[str, Any]]:
    """Return the name and the model of the security scheme by which FastAPI documents a guard.

    Guards with equal requirements have the same name. `describe` replaces this scheme by the
    alternatives.
    """
    types = dict.fromkeys(token_type for token_type, _ in alternatives)
    names = "-or-".join(
        ".".join([_NAMES[token_type], *map(_in_a_name, scopes)])
        for token_type, scopes in alternatives
    )
    model = _bearer(" Or: ".join(_DESCRIPTIONS[each] for each in types))
    if names not in _OURS:
        model[_EXTENSION] = [[each.value, list(scopes)] for each, scopes in alternatives]
    return names, model


def describe_refusals(app: Any) -> None:
    """Make `app.openapi()` show what guards accept, and 401, 403 and 503 on guarded operations.

    The middleware does this at the app's first event, and then also for the operations that it
    protects itself. Call this function if you export the document without starting the app. It may
    be called twice. An app that is not FastAPI's is not changed.
    """
    describe(app, None)


def describe(app: Any, protection: Protection | None) -> None:
    """Do what `describe_refusals` does, and also show the `protection` of a middleware."""
    generate = getattr(app, "openapi", None)
    if not callable(generate):
        return
    if hasattr(generate, "protections"):
        generate.protections.extend([protection] if protection else [])
        return
    protections = [protection] if protection else []

    def openapi() -> dict[str, Any]:
        document: dict[str, Any] = generate()
        _describe(document, protections)
        return document

    openapi.protections = protections  # type: ignore[attr-defined]  # for the next call
    app.openapi = openapi


def _describe(document: dict[str, Any], protections: Iterable[Protection]) -> None:
    schemes = document.get("components", {}).get("securitySchemes", {})
    combined = {
        name: scheme[_EXTENSION] for name, scheme in schemes.items() if _EXTENSION in scheme
    }
    header = next((each.api_key_header for each in protections if each.api_key_header), None)
    used: set[str] = set()
    for path, item in document.get("paths", {}).items():
        for method in _METHODS.intersection(item):
            operation = item[method]
            security: Security = _told_apart(operation.get("security", []), combined)
            for each in protections:
                if each.protects(method.upper(), path):
                    security = _protected(security, each.accepts)
            security = _with_header(security, header)
            if names := _OURS.intersection(name for one in security for name in one):
                operation["security"] = security
                _add_refusals(operation)
                used |= names
    for name in combined:
        del schemes[name]
    if used:
        components = document.setdefault("components", {})
        components.setdefault("securitySchemes", {}).update(
            {name: _scheme(name, header) for name in sorted(used)}
        )


def _told_apart(security: Security, combined: dict[str, list[Any]]) -> Security:
    """Replace the scheme of a guard by the schemes that the guard accepts."""
    apart: Security = []
    for one in security:
        ((name, more_scopes), *others) = one.items() or [("", [])]
        if others or name not in combined:
            apart.append(one)
            continue
        for token_type, scopes in combined[name]:
            # An M2M token has no permissions: if some are required, it is never accepted.
            if not (more_scopes and token_type == TokenType.M2M_TOKEN):
                apart.append({_NAMES[token_type]: list(dict.fromkeys([*scopes, *more_scopes]))})
    return _distinct(apart)


def _protected(security: Security, accepts: frozenset[TokenType]) -> Security:
    """Add the schemes that the middleware accepts, unless a guard has set its own.

    Schemes that are not ours are kept.
    """
    if any(_OURS.intersection(one) for one in security):
        return security
    ours = [_NAMES[token_type] for token_type in TokenType if token_type in accepts]
    return [one | {name: []} for one in security or [{}] for name in ours]


def _with_header(security: Security, header: str | None) -> Security:
    """Show that an API key may also be sent in its own header."""
    name = _NAMES[TokenType.API_KEY]
    in_header: Security = [
        {_KEY_HEADER if each == name else each: scopes for each, scopes in one.items()}
        for one in security
        if header and name in one
    ]
    return _distinct([*security, *in_header])


def _distinct(security: Security) -> Security:
    return [one for index, one in enumerate(security) if one not in security[:index]]


def _scheme(name: str, header: str | None) -> dict[str, Any]:
    if name == _KEY_HEADER:
        return {
            "type": "apiKey",
            "in": "header",
            "name": header,
            "description": _DESCRIPTIONS[TokenType.API_KEY],
        }
    return _bearer(next(_DESCRIPTIONS[each] for each in TokenType if _NAMES[each] == name))


def _bearer(description: str) -> dict[str, Any]:
    return {"type": "http", "scheme": "bearer", "description": description}


def _in_a_name(scope: str) -> str:
    # A component's name has letters, digits, ".", "-" and "_" (OpenAPI 3.1 section 4.8.7).
    return re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", scope)


def _add_refusals(operation: dict[str, Any]) -> None:
    for status, description in _REFUSALS.items():
        answer = {"description": description, "content": _PROBLEM}
        operation.setdefault("responses", {}).setdefault(status, answer)
