"""What is said once, when the service starts: settings that work, but not as they were meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from clerk_m2m.environment import nearest, unknown_variables
from clerk_m2m.errors import PermissionDeniedError, TokenTypeNotAcceptedError
from clerk_m2m.graph.scope_graph import ScopeGraph
from clerk_m2m.identity import (
    ApiKeyIdentity,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    TokenType,
)
from clerk_m2m.settings import ENVIRONMENT, Settings

# One identity of each type, to find out which types a guard is for.
_SAMPLES: Final[tuple[Identity, ...]] = (
    MachineIdentity(token_id="", subject="", token_format="opaque"),
    ApiKeyIdentity(token_id="", subject="", name=""),
    OAuthIdentity(token_id="", subject="", client_id=""),
)


def warnings(app: Any, settings: Settings, *, report_only: bool) -> Iterator[str]:
    """Give the lines to be logged, one for each thing that is wrong or easily forgotten.

    `app` is the application around or behind the middleware. Guards are found on the routes that
    FastAPI knows of; one that a handler calls by itself is not.
    """
    routes = list(_guarded(app, ""))
    if report_only:
        yield _only_reports(routes)
    for name, near in unknown_variables(ENVIRONMENT.values()).items():
        yield f"{name} is set in the environment, and nothing reads it.{_question(near)}"
    yield from _without_edges(settings)
    yield from _unreachable(routes, settings)


def _only_reports(routes: list[tuple[str, Any]]) -> str:
    found = ", ".join(sorted({path for path, _ in routes})) or "none that FastAPI knows of"
    return (
        "MachineAuthMiddleware only reports what it would refuse (report_only=True): every request "
        f"passes. Guards still refuse, on these routes: {found}. A guard that a handler calls by "
        "itself is not in this list."
    )


def _without_edges(settings: Settings) -> Iterator[str]:
    graph = _graph(settings)
    if graph is None or TokenType.M2M_TOKEN not in settings.accepts:
        return
    if settings.machine_id not in graph.machines:
        near = nearest(settings.machine_id, graph.machines)
        yield (
            f"machine_id {settings.machine_id} is neither caller nor callee of any edge of the "
            f"scope graph, so every machine is refused with 403.{_question(near)}"
        )


def _question(near: str | None) -> str:
    return "" if near is None else f" Was {near} meant?"


def _graph(settings: Settings) -> ScopeGraph | None:
    if isinstance(settings.graph, Path):
        try:
            return ScopeGraph.from_toml(settings.graph.read_text("utf-8"))
        except (OSError, ValueError):
            return None  # the verifier reads the file too, and says what is wrong with it
    return settings.graph if isinstance(settings.graph, ScopeGraph) else None


def _unreachable(routes: list[tuple[str, Any]], settings: Settings) -> Iterator[str]:
    closed: dict[str, set[str]] = {}
    for path, guard in routes:
        types = _token_types(guard)
        if types.isdisjoint(settings.accepts):
            closed.setdefault(" or ".join(sorted(types)), set()).add(path)
    for wanted, paths in closed.items():
        yield (
            f"Nobody can call {', '.join(sorted(paths))}: the guard there takes {wanted} only, and "
            f"accepts (CLERK_M2M_ACCEPTS) names {', '.join(sorted(settings.accepts))}."
        )


def _token_types(guard: Any) -> set[TokenType]:
    """Ask the guard about an identity of each type; one of another type gets this refusal."""
    types = set()
    for identity in _SAMPLES:
        try:
            guard.accept(identity)
        except TokenTypeNotAcceptedError:
            continue
        except PermissionDeniedError:
            pass
        types.add(identity.token_type)
    return types


def _guarded(app: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    routes = getattr(app, "routes", None)
    for route in routes if isinstance(routes, list) else ():
        # Newer versions of FastAPI keep an included router whole, and tell its routes by this.
        included = getattr(route, "effective_route_contexts", None)
        for each in [route] if included is None else included():
            path = f"{prefix}{getattr(each, 'path', None) or ''}"
            dependant = getattr(each, "dependant", None)
            if dependant is not None:
                yield from ((path, guard) for guard in _guards(dependant))
            yield from _guarded(each, path)


def _guards(dependant: Any) -> Iterator[Any]:
    # Imported here: the guards bring FastAPI, where it is installed.
    from clerk_m2m.asgi.guards import Guard

    if isinstance(dependant.call, Guard):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _guards(inner)
