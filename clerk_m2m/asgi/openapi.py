"""What FastAPI's OpenAPI document shows of the middleware and of the guards.

FastAPI puts the scheme of each guard into the document by itself, with a name and a model for each
guard. This file makes of them what OpenAPI has for it: the schemes that the guard accepts, as
alternatives, with the permissions that it wants, and the refusals as answers. Where a middleware
asks, it adds the same to the operations that it protects without a guard.
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
"""The alternatives of an operation, as OpenAPI has them (3.1, section 4.8.30)."""

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
# The other members of a Path Item Object are no operations (OpenAPI 3.1 section 4.8.9).
_METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_NAMES: Final = {
    TokenType.M2M_TOKEN: "ClerkM2MToken",
    TokenType.API_KEY: "ClerkApiKey",
    TokenType.OAUTH_TOKEN: "ClerkOAuthToken",
}
_DESCRIPTIONS: Final = {
    TokenType.M2M_TOKEN: "An M2M token of Clerk's, opaque or JWT.",
    TokenType.API_KEY: "An API key of Clerk's.",
    TokenType.OAUTH_TOKEN: "An OAuth access token of Clerk's.",
}
_KEY_HEADER: Final = "ClerkApiKeyHeader"
_OURS: Final = frozenset({*_NAMES.values(), _KEY_HEADER})
# In the model of a guard that is not one plain scheme: its alternatives.
_EXTENSION: Final = "x-clerk-alternatives"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What a middleware asks of the operations of its app.

    `protects` is called with a method in upper case and a path as the document has it.
    """

    accepts: frozenset[TokenType]
    api_key_header: str | None
    protects: Callable[[str, str], bool]


def scheme_of(alternatives: Sequence[Alternative]) -> tuple[str, dict[str, Any]]:
    """Give the name and the model of the security scheme that a guard is to FastAPI.

    Guards that want the same have the same name. `describe` puts the alternatives in its place.
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
    """Have `app.openapi()` show what guards accept, and 401, 403 and 503 where there is one.

    The middleware does it by itself at the first event, and then shows the same of the operations
    that it protects itself. Call it where the document is exported without starting the app. Twice
    does no harm; an app that is not FastAPI's is left alone.
    """
    describe(app, None)


def describe(app: Any, protection: Protection | None) -> None:
    """Do what `describe_refusals` does, and show the `protection` of a middleware."""
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
    """Put what a guard accepts in the place of its scheme."""
    apart: Security = []
    for one in security:
        ((name, more_scopes), *others) = one.items() or [("", [])]
        if others or name not in combined:
            apart.append(one)
            continue
        for token_type, scopes in combined[name]:
            # A machine's token has no permissions: with some wanted, it does not get in.
            if not (more_scopes and token_type == TokenType.M2M_TOKEN):
                apart.append({_NAMES[token_type]: list(dict.fromkeys([*scopes, *more_scopes]))})
    return _distinct(apart)


def _protected(security: Security, accepts: frozenset[TokenType]) -> Security:
    """Add what the middleware wants, where no guard of ours says more; other schemes stay."""
    if any(_OURS.intersection(one) for one in security):
        return security
    ours = [_NAMES[token_type] for token_type in TokenType if token_type in accepts]
    return [one | {name: []} for one in security or [{}] for name in ours]


def _with_header(security: Security, header: str | None) -> Security:
    """Show that an API key may come in a header of its own, too."""
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
