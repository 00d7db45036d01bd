"""Where the edges of the scope graph come from: a value, a TOML file, or the Backend API."""

from __future__ import annotations

from typing import Protocol

from clerk_m2m.graph.scope_graph import ScopeGraph


class GraphSource(Protocol):
    """Who may be called by a machine, as far as is known now."""

    def callees(self, caller: str) -> frozenset[str] | None:
        """Give the machines that `caller` may call, or None where that must be `learn`ed first."""

    async def learn(self, caller: str, *, within: float) -> frozenset[str]:
        """Find out whom `caller` may call, within so many seconds.

        Raises `BackendAPIError` or `VerificationUnavailableError` where that cannot be found out.
        """

    def forget(self, machine_id: str) -> None:
        """Forget what is known of the edges that start at `machine_id`."""

    async def aclose(self) -> None:
        """End what is under way in this event loop."""


class StaticSource:
    """A graph that never changes."""

    def __init__(self, graph: ScopeGraph) -> None:
        self._graph = graph

    def callees(self, caller: str) -> frozenset[str] | None:
        """Give the machines that `caller` may call."""
        return self._graph.callees(caller)

    async def learn(self, caller: str, *, within: float) -> frozenset[str]:
        """Give the machines that `caller` may call."""
        return self._graph.callees(caller)

    def forget(self, machine_id: str) -> None:
        """Do nothing: the graph is not learned."""

    async def aclose(self) -> None:
        """Do nothing."""
