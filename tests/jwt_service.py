"""A service that verifies JWTs, and the claims of a good one."""

from __future__ import annotations

from typing import Any

from clerk_m2m import Verifier
from harness import World


def service(world: World, **given: Any) -> Verifier:
    """A service that accepts JWTs of machines and of users, with a given graph."""
    graph = {world.caller.id: [world.callee.id]}
    return world.verifier(world.live_settings(**({"graph": graph} | given)))


def claims(world: World, **given: Any) -> dict[str, Any]:
    """The claims of a good M2M JWT of the caller's, with some of them given."""
    now = int(world.time.wall)
    token_id = "mt_" + "c" * 32
    times = {"iat": now, "nbf": now, "exp": now + 600}
    return {"iss": "x", "sub": world.caller.id, "jti": token_id, **times, **given}
