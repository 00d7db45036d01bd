"""`clerk-m2m graph`: the scope graph of an instance as a file, and what it allows."""

from __future__ import annotations

from clerk_m2m.cli.graph.commands import graph

__all__ = ["graph"]
