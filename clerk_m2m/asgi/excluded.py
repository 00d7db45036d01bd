"""The paths that `exclude` exempts from the check, compared with the path that the app routes by.

Rules of this file:

- An entry is a whole path, compared for equality, or a prefix: `"/static/*"` exempts everything
  below `/static/`.
- An ambiguous path is not exempt. A server, a middleware or an app may decode or normalize a path
  once more than the others do. So a prefix matches only a path that can be read in one way: no `.`,
  `..` or empty segment (with a `;` and parameters or without), no backslash, `%` or control
  character after decoding, and no slash that was sent encoded. Only `raw_path` shows an encoded
  slash, so without `raw_path` a prefix never matches.
- A whole path needs none of these checks, because no other spelling is equal to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPMethod
from typing import Final, TypeAlias
from urllib.parse import unquote

from starlette.types import Scope

from clerk_m2m.errors import ConfigurationError

# A path, or a method and a path.
ExcludedPath: TypeAlias = str | tuple[str, str]

_AMBIGUOUS: Final = re.compile(r"[\\%\x00-\x1f\x7f]")
_DOT_SEGMENTS: Final = frozenset({"", ".", ".."})
# An entry without a method exempts every method, and WebSockets, which have no method.
_ANY: Final = ""


class ExcludedPaths:
    """Decides whether a request is exempt; raises `ConfigurationError` for an impossible entry."""

    def __init__(self, exclude: Iterable[ExcludedPath]) -> None:
        given: object = exclude
        if isinstance(given, str) or not isinstance(given, Iterable):
            what = "one string" if isinstance(given, str) else type(given).__name__
            raise ConfigurationError(f"exclude must be a list of paths, not {what}.")
        self._whole: dict[str, set[str]] = {}
        self._prefixes: dict[str, set[str]] = {}
        for each in exclude:
            method, path = _entry(each)
            kind = self._prefixes if path.endswith("*") else self._whole
            kind.setdefault(path.removesuffix("*"), set()).add(method)
        self.is_empty = not (self._whole or self._prefixes)

    def exempt(self, scope: Scope) -> bool:
        """Return whether an HTTP request or a WebSocket needs no credential."""
        path = route_path(scope)
        methods = self._whole.get(path)
        if methods is not None and not methods.isdisjoint(_methods(scope)):
            return True
        return any(
            path.startswith(prefix) and not methods.isdisjoint(_methods(scope))
            for prefix, methods in self._prefixes.items()
        ) and _has_one_reading(path, scope)


def route_path(scope: Scope) -> str:
    """Return the path that the app routes by: `path` without the leading `root_path`.

    Same rule as `get_route_path` in starlette/_utils.py (private there), which Starlette's routes
    and mounts use. ASGI's `path` begins with `root_path`; if a server leaves it out, `path` is used
    as it is. `root_path` is removed only where a slash or the end follows.
    """
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    if not root_path or not path.startswith(root_path):
        return path
    rest = path[len(root_path) :]
    return rest if rest[:1] in ("", "/") else path


def _methods(scope: Scope) -> tuple[str, ...]:
    method: str = scope.get("method", _ANY)
    # HEAD is GET without the content (RFC 9110 section 9.3.2), so an entry for GET includes it.
    return (_ANY, method, "GET") if method == "HEAD" else (_ANY, method)


def _has_one_reading(path: str, scope: Scope) -> bool:
    whole: str = scope["path"]
    raw: bytes | None = scope.get("raw_path")
    if raw is None or _AMBIGUOUS.search(whole) or not _DOT_SEGMENTS.isdisjoint(_segments(path)):
        return False
    # Apps handle a path that is not below `root_path` in different ways.
    if scope.get("root_path") and path == whole:
        return False
    text = raw.decode("latin-1")
    return "%2f" not in text.lower() and unquote(text) == whole


def _segments(path: str) -> list[str]:
    return [segment.partition(";")[0] for segment in path.split("/")[1:]]


def _entry(given: ExcludedPath) -> tuple[str, str]:
    match given:
        case str():
            method, path = _ANY, given
        case (str(method), str(path)):
            method = _method(method)
        case _:
            raise ConfigurationError(
                f'exclude: {given!r} must be a path, or a method and a path: ("GET", "/healthz").'
            )
    if not path.startswith("/"):
        raise ConfigurationError(f"exclude: the path {path!r} must begin with a slash.")
    _refuse_unmatchable(path)
    return method, path


def _method(name: str) -> str:
    if name.upper() not in HTTPMethod.__members__:
        raise ConfigurationError(f"exclude: {name!r} is not an HTTP method.")
    return name.upper()


def _refuse_unmatchable(path: str) -> None:
    if "?" in path or "#" in path:
        raise ConfigurationError(f"exclude: {path!r} must be a path only, without ? or #.")
    if "*" not in path:
        return
    prefix = path.removesuffix("/*")
    if prefix == path or "*" in prefix:
        raise ConfigurationError(
            f"exclude: {path!r} has a * elsewhere than at its end, after a slash. Only a prefix "
            'such as "/static/*" is possible.'
        )
    if not prefix:
        raise ConfigurationError(
            'exclude: "/*" would exempt everything. To let guards decide, set required=False.'
        )
    if _AMBIGUOUS.search(prefix) or not _DOT_SEGMENTS.isdisjoint(_segments(prefix)):
        raise ConfigurationError(
            f"exclude: the prefix {path!r} can match nothing. Remove the segments that are empty, "
            ". or .. and any backslash, % or control character."
        )
