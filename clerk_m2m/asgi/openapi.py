"""The refusals in FastAPI's OpenAPI document, for the operations that a guard protects."""

from __future__ import annotations

from typing import Any, Final

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
_SCHEMES: Final = frozenset({"ClerkM2MToken", "ClerkApiKey", "ClerkOAuthToken", "ClerkCredential"})


def describe_refusals(app: Any) -> None:
    """Have `app.openapi()` show 401, 403 and 503 on each operation that a guard protects.

    The middleware does it by itself at the first event; call it where the document is exported
    without starting the app. Twice does no harm; an app that is not FastAPI's is left alone.
    """
    generate = getattr(app, "openapi", None)
    if not callable(generate) or hasattr(generate, "describes_refusals"):
        return

    def openapi() -> dict[str, Any]:
        document: dict[str, Any] = generate()
        for path in document.get("paths", {}).values():
            for name in _METHODS.intersection(path):
                _describe(path[name])
        return document

    openapi.describes_refusals = True  # type: ignore[attr-defined]  # a mark for the next call
    app.openapi = openapi


def _describe(operation: dict[str, Any]) -> None:
    if any(_SCHEMES.intersection(scheme) for scheme in operation.get("security", [])):
        for status, description in _REFUSALS.items():
            answer = {"description": description, "content": _PROBLEM}
            operation.setdefault("responses", {}).setdefault(status, answer)
