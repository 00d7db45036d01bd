"""Reads FastAPI's routes when the app starts: finds their guards, and mistakes around them.

FastAPI passes the scopes of `Security(…)` to a guard at a request only. And when pydantic asks an
identity class for its schema, the class cannot tell whether FastAPI will read it from the request
or use it as a response. So both mistakes are searched for here, at the start. On a route that is
added later, the error is raised at each request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.identity import ApiKeyIdentity, MachineIdentity, OAuthIdentity

if TYPE_CHECKING:
    from clerk_m2m.asgi.guards import Guard

_IDENTITIES = (MachineIdentity, ApiKeyIdentity, OAuthIdentity)


class GuardedRoute(NamedTuple):
    """A guard on a route, with the scopes of the `Security` around it."""

    path: str
    guard: Guard[Any]
    scopes: list[str]


def read_routes(app: Any) -> tuple[list[GuardedRoute], str | None]:
    """Return the guards on an app's routes, and the text of the first mistake found, or None."""
    try:
        found = list(_dependants(app, ""))
        guarded = list(_guards(found))
        return guarded, _mistake(found, guarded)
    except (ConfigurationError, TypeError) as exc:
        # FastAPI reads an included router only now, and rejects a guard without parentheses on it.
        return [], str(exc)


def _guards(dependants: Iterable[tuple[str, Any]]) -> Iterator[GuardedRoute]:
    for path, dependant in dependants:
        # Imported here, because `guards` imports FastAPI. An app with a dependant uses it already.
        from clerk_m2m.asgi.guards import Guard

        if isinstance(dependant.call, Guard):
            yield GuardedRoute(path, dependant.call, _scopes(dependant))


def _mistake(dependants: Iterable[tuple[str, Any]], guarded: Iterable[GuardedRoute]) -> str | None:
    for path, guard, scopes in guarded:
        if scopes and not guard.takes_scopes:
            return f"{path}: {guard.no_permissions(scopes)}"
    for path, dependant in dependants:
        if _is_identity(dependant.call):
            return (
                f"{path}: Depends({dependant.call.__name__}) would make an identity from what "
                f"the client sends, and accept everybody. Write Depends({dependant.call.guard}) "
                "for the verified identity of the caller."
            )
        for parameter in _parameters(dependant):
            identity = _identity_in(parameter.field_info.annotation, set())
            if identity is not None:
                return (
                    f"{path}: the parameter {parameter.name!r} would be read from the request. "
                    f"A {identity.__name__} is never made from input, so every call of this route "
                    f"would fail. Write Depends({identity.guard}) for the identity of the caller."
                )
    return None


def _dependants(app: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield each route's path with each node of its dependency tree; includes mounted apps."""
    routes = getattr(app, "routes", None)
    for route in routes if isinstance(routes, list) else ():
        # FastAPI from 0.14x on keeps an included router as one route with many.
        included = getattr(route, "effective_route_contexts", None)
        for each in [route] if included is None else included():
            path = f"{prefix}{getattr(each, 'path', None) or ''}"
            dependant = getattr(each, "dependant", None)
            if dependant is not None:
                yield from ((path, node) for node in _tree(dependant))
            yield from _dependants(each, path)


def _tree(dependant: Any) -> Iterator[Any]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _tree(inner)


def _scopes(dependant: Any) -> list[str]:
    """Return the scopes that FastAPI would pass to a dependency."""
    parts = (getattr(dependant, f"{whose}_oauth_scopes", None) for whose in ("parent", "own"))
    return list(dict.fromkeys(scope for part in parts for scope in part or ()))


def _parameters(dependant: Any) -> Iterator[Any]:
    """Yield the parameters that FastAPI reads from any part of the request for a dependency."""
    for part in ("path", "query", "header", "cookie", "body"):
        yield from getattr(dependant, f"{part}_params")


def _is_identity(value: Any) -> bool:
    # Subclasses too: if one redefines a field, FastAPI no longer sees the marker in `identity`
    # that rejects it.
    return isinstance(value, type) and issubclass(value, _IDENTITIES)


def _identity_in(annotation: Any, seen: set[Any]) -> Any:
    """Return an identity class inside a parameter's annotation (union, list, model), or None."""
    if _is_identity(annotation):
        return annotation
    inside = list(get_args(annotation))
    if isinstance(annotation, type) and annotation not in seen:
        seen.add(annotation)
        inside += _field_types(annotation)
    return next(filter(None, (_identity_in(each, seen) for each in inside)), None)


def _field_types(annotation: type) -> list[Any]:
    model = getattr(annotation, "model_fields", None)  # pydantic's
    if isinstance(model, dict):
        return [getattr(each, "annotation", None) for each in model.values()]
    if is_dataclass(annotation):
        try:
            hints = get_type_hints(annotation)
        except (NameError, TypeError, AttributeError):  # only a type checker can read it
            return []
        return [hints[each.name] for each in fields(annotation)]
    return []
