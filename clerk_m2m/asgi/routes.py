"""The routes that FastAPI knows of: their guards, and what on them can only be a mistake.

FastAPI shows a guard the scopes of `Security(…)` around it with a request, and not before; and a
parameter that is to be read from the request looks the same to a class as a response. So both are
looked for here, when the app starts. Routes that are added later fail at each request.
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
    """A guard on a route, and the scopes of `Security` around it."""

    path: str
    guard: Guard[Any]
    scopes: list[str]


def read_routes(app: Any) -> tuple[list[GuardedRoute], str | None]:
    """Give the guards on an app's routes, and what is wrong with a route, if anything is."""
    try:
        found = list(_dependants(app, ""))
        guarded = list(_guards(found))
        return guarded, _mistake(found, guarded)
    except (ConfigurationError, TypeError) as exc:
        # FastAPI reads an included router here, and there may be a guard without parentheses on it.
        return [], str(exc)


def _guards(dependants: Iterable[tuple[str, Any]]) -> Iterator[GuardedRoute]:
    for path, dependant in dependants:
        # Imported here: the guards bring FastAPI, which is in use where there is a dependant.
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
                f"{path}: Depends({dependant.call.__name__}) would make an identity of what "
                f"the client sends, and let anybody in. Write Depends({dependant.call.guard}) "
                "for the identity of the caller, verified."
            )
        for parameter in _parameters(dependant):
            identity = _identity_in(parameter.field_info.annotation, set())
            if identity is not None:
                return (
                    f"{path}: the parameter {parameter.name!r} would be read from the request. "
                    f"A {identity.__name__} is never made of input, so nobody could call the "
                    f"route. Write Depends({identity.guard}) for the identity of the caller."
                )
    return None


def _dependants(app: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Give the path and each node of the dependency tree of each route, mounted apps included."""
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
    """Give the scopes that FastAPI would show to a dependency."""
    parts = (getattr(dependant, f"{whose}_oauth_scopes", None) for whose in ("parent", "own"))
    return list(dict.fromkeys(scope for part in parts for scope in part or ()))


def _parameters(dependant: Any) -> Iterator[Any]:
    """Give what FastAPI reads from the request for a dependency, from every part of it."""
    for part in ("path", "query", "header", "cookie", "body"):
        yield from getattr(dependant, f"{part}_params")


def _is_identity(value: Any) -> bool:
    # A subclass too: FastAPI sees the marks of `identity` no more where it gives a field anew.
    return isinstance(value, type) and issubclass(value, _IDENTITIES)


def _identity_in(annotation: Any, seen: set[Any]) -> Any:
    """Find an identity in what a parameter is read as: a union, a list, the field of a model."""
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
