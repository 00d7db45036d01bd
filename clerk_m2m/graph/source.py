"""`GraphSource`: the protocol of all sources of a scope graph; and the source of a fixed graph."""

from __future__ import annotations

import inspect
from typing import Protocol, runtime_checkable

from clerk_m2m.errors import ConfigurationError, VerificationUnavailableError
from clerk_m2m.graph.scope_graph import ScopeGraph


@runtime_checkable
class GraphSource(Protocol):
    """Decides whether a machine may call another; `Settings(graph=…)` accepts any such object.

    A source may also have `forget(caller)`, which is called when the edges of `caller` have
    changed, and the coroutine function `aclose()`, which is called when the verifier is closed.
    """

    def allows(self, caller: str, callee: str) -> bool | None:
        """Return from memory whether `caller` may call `callee`; None if that must be fetched.

        This is called on every request, so it must not block. The request is accepted only for
        True, and `fetch` is called only for None.
        """

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        """Look up whether `caller` may call `callee`, within `timeout` seconds.

        Raises `VerificationUnavailableError` or a `BackendAPIError` if that fails: the request is
        then answered with 503. The request is accepted only for True.
        """


def checked_source(source: GraphSource) -> GraphSource:
    """Return the source; raises `ConfigurationError` if `allows` is async or `fetch` is not.

    Without this check, a forgotten `await` could accept a request.
    """
    if inspect.iscoroutinefunction(source.allows):
        raise ConfigurationError(
            "graph: allows() is a coroutine function. It is called on every request and must "
            "answer from memory. Make it a plain function, and wait in fetch()."
        )
    if not inspect.iscoroutinefunction(source.fetch):
        raise ConfigurationError("graph: fetch() must be a coroutine function (async def).")
    return source


def known_edge(edge: object) -> bool | None:
    """Return the result of `allows()`; raises like `fetched_edge` for a result of a wrong type."""
    if edge is True or edge is None:
        return edge
    return fetched_edge(edge)


def fetched_edge(edge: object) -> bool:
    """Return the result of `fetch()` if it is True or False.

    Any other result is an error of the source and raises `VerificationUnavailableError`, so the
    request is not accepted.
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

    @property
    def machines(self) -> frozenset[str]:
        """The machines of the graph."""
        return self._graph.machines

    def allows(self, caller: str, callee: str) -> bool:
        """Return whether the graph has the edge."""
        return self._graph.allows(caller, callee)

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        """Return whether the graph has the edge."""
        return self._graph.allows(caller, callee)
