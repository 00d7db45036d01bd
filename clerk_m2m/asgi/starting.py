"""Warnings at the start of the service, about settings that are valid but probably not intended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clerk_m2m.asgi.routes import GuardedRoute
from clerk_m2m.environment import misspelt_variables, nearest, unknown_variables
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.graph.source import GraphSource, StaticSource
from clerk_m2m.identity import TokenType
from clerk_m2m.settings import VARIABLES, Settings


def warnings(
    routes: Iterable[GuardedRoute],
    settings: Settings,
    graph: GraphSource | None,
    *,
    report_only: bool,
) -> Iterator[str]:
    """Yield one line to log for each setting that is probably wrong or easily forgotten.

    `routes` are the guarded routes that FastAPI knows of. They do not include guards that a handler
    calls itself. `graph` is the verifier's source of edges.
    """
    if report_only:
        yield _only_reports(routes)
    for name, near in unknown_variables(VARIABLES).items():
        yield f"{name} is set in the environment, but it is not a known setting.{_question(near)}"
    yield from _without_edges(settings, graph)
    yield from _unreachable(routes, settings)


def misspelt() -> str:
    """Return a text, to append to an error, with the set variables whose names look misspelt."""
    found = misspelt_variables(VARIABLES)
    return "".join(f" ({name} is set. Was {near} meant?)" for name, near in found.items())


def refuse_mix_ups(settings: object, verifier: object) -> None:
    """Raise `ConfigurationError` if both are given, or one as the argument of the other."""
    if settings is not None and verifier is not None:
        raise ConfigurationError("Give MachineAuthMiddleware settings or a verifier, not both.")
    if not isinstance(settings, Settings | None) or isinstance(verifier, Settings):
        raise ConfigurationError(
            "MachineAuthMiddleware takes Settings as settings=, and a Verifier as verifier=."
        )


def _only_reports(routes: Iterable[GuardedRoute]) -> str:
    found = ", ".join(sorted({route.path for route in routes})) or "none that FastAPI knows of"
    return (
        "MachineAuthMiddleware only reports what it would refuse (report_only=True): every request "
        f"passes. Guards still refuse, on these routes: {found}. A guard that a handler calls "
        "itself is not in this list."
    )


def _without_edges(settings: Settings, graph: GraphSource | None) -> Iterator[str]:
    if graph is None or TokenType.M2M_TOKEN not in settings.accepts:
        return
    from clerk_m2m.graph.file import FileSource  # imported only where there is a graph

    if not isinstance(graph, StaticSource | FileSource):
        return
    if settings.machine_id not in (machines := graph.machines):
        near = nearest(settings.machine_id, machines)
        yield (
            f"machine_id {settings.machine_id} is neither caller nor callee of any edge of the "
            f"scope graph, so every machine is refused with 403.{_question(near)}"
        )


def _question(near: str | None) -> str:
    return "" if near is None else f" Was {near} meant?"


def _unreachable(routes: Iterable[GuardedRoute], settings: Settings) -> Iterator[str]:
    closed: dict[str, set[str]] = {}
    for path, guard, _ in routes:
        if guard.token_types.isdisjoint(settings.accepts):
            closed.setdefault(" or ".join(sorted(guard.token_types)), set()).add(path)
    for wanted, paths in closed.items():
        yield (
            f"Nobody can call {', '.join(sorted(paths))}: the guard there takes {wanted} only, and "
            f"accepts (CLERK_M2M_ACCEPTS) names {', '.join(sorted(settings.accepts))}."
        )
