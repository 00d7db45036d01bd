"""What the verifier needs of a scope graph, wherever its edges come from; and a fixed graph."""

from __future__ import annotations

import inspect
from typing import Protocol, runtime_checkable

from clerk_m2m.errors import ConfigurationError, VerificationUnavailableError
from clerk_m2m.graph.scope_graph import ScopeGraph


@runtime_checkable
class GraphSource(Protocol):
    """Tells whether a machine may call another. `Settings(graph=…)` takes any object that does.

    A source may also have `forget(caller)`, called when the edges of `caller` have changed, and the
    coroutine function `aclose()`, called when the verifier is closed.
    """

    def allows(self, caller: str, callee: str) -> bool | None:
        """Tell from memory whether `caller` may call `callee`; None where it must be fetched.

        Called on every request, so it must not block. Only True admits, and only None leads to
        `fetch`.
        """

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        """Find out whether `caller` may call `callee`, within `timeout` seconds.

        Raises `VerificationUnavailableError` or a `BackendAPIError` where that is not possible:
        the request is then answered with 503. Only True admits.
        """


def checked_source(source: GraphSource) -> GraphSource:
    """Give the source back; raises `ConfigurationError` where a forgotten `await` would admit."""
    if inspect.iscoroutinefunction(source.allows):
        raise ConfigurationError(
            "graph: allows() is a coroutine function. It is called on every request and must "
            "answer from memory; let fetch() do what takes time."
        )
    if not inspect.iscoroutinefunction(source.fetch):
        raise ConfigurationError("graph: fetch() must be a coroutine function (async def).")
    return source


def known_edge(edge: object) -> bool | None:
    """Give what `allows()` answered; raises like `fetched_edge` for what is not an answer."""
    return None if edge is None else fetched_edge(edge)


def fetched_edge(edge: object) -> bool:
    """Give what `fetch()` answered, if it is True or False.

    Anything else is a fault of the source, and lets nobody in: raises
    `VerificationUnavailableError`.
    """
    if edge is True or edge is False:
        return edge
    if inspect.iscoroutine(edge):
        edge.close()
    fault = TypeError(f"The scope graph answered {type(edge).__name__} instead of True or False.")
    raise VerificationUnavailableError from fault


class StaticSource:
    """A graph that never changes."""

    def __init__(self, graph: ScopeGraph) -> None:
        self._graph = graph

    def allows(self, caller: str, callee: str) -> bool:
        """Tell whether the graph has the edge."""
        return self._graph.allows(caller, callee)

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        """Tell whether the graph has the edge."""
        return self._graph.allows(caller, callee)
