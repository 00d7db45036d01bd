"""What `report_only` does not cover: the routes whose guards still refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def warning(app: Any) -> str:
    """Say at the start that the middleware only reports, and which routes still refuse."""
    found = ", ".join(sorted(set(_guarded(app, "")))) or "none that FastAPI knows of"
    return (
        "MachineAuthMiddleware only reports what it would refuse (report_only=True): every request "
        f"passes. Guards still refuse, on these routes: {found}. A guard that a handler calls by "
        "itself is not in this list."
    )


def _guarded(app: Any, prefix: str) -> Iterator[str]:
    for route in getattr(app, "routes", None) or ():
        path = f"{prefix}{getattr(route, 'path', '')}"
        dependant = getattr(route, "dependant", None)
        if dependant is not None and _has_guard(dependant):
            yield path
        yield from _guarded(route, path)


def _has_guard(dependant: Any) -> bool:
    # Imported here: the guards bring FastAPI, where it is installed.
    from clerk_m2m.asgi.guards import Guard

    return isinstance(dependant.call, Guard) or any(map(_has_guard, dependant.dependencies))
