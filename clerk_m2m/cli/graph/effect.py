"""When a change of the graph takes effect, which depends on the graph source of a service."""

from __future__ import annotations

import inspect
from typing import Any

from clerk_m2m.settings import Settings


def takes_effect(longest_token_ttl: int | None) -> dict[str, Any]:
    """Return for each graph source when a service notices a change, as sentences.

    `longest_token_ttl` is the longest default lifetime of the callers' tokens, in seconds; None or
    0 if it is unknown.
    """
    graph_ttl = inspect.signature(Settings).parameters["graph_ttl"].default
    life = "" if not longest_token_ttl else f" ({longest_token_ttl} s by default)"
    return {
        "live_graph": f"within graph_ttl, {graph_ttl:g} s unless set",
        "graph_file": "when the new file is there, within graph_ttl",
        "no_graph": f"when the caller's older opaque tokens have expired{life}",
        "opaque_token": "an added edge needs a new token: scopes are fixed when it is minted",
    }


def effect_lines(longest_token_ttl: int | None) -> list[str]:
    """Return the result of `takes_effect` as lines for a person."""
    told = takes_effect(longest_token_ttl)
    return [
        "Takes effect, at services",
        f"  with the live graph: {told['live_graph']}",
        f"  with a graph file:   {told['graph_file']}",
        f"  without a graph:     {told['no_graph']}",
        f"For opaque M2M tokens {told['opaque_token']}.",
    ]
