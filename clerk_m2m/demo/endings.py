"""The scenes in which something ends: a token, an edge, Clerk itself for a while."""

from __future__ import annotations

from typing import Final

from clerk_m2m import ClerkClient
from clerk_m2m.demo.outcomes import LET_IN, LET_IN_PAID, NO_EDGE, NOT_FOUND_OUT, UNKNOWN_PAID
from clerk_m2m.demo.report import Expected
from clerk_m2m.demo.services import STOCK_CACHE_TTL, STOCK_GRAPH_TTL
from clerk_m2m.demo.stage import Stage

# Seconds that a busy machine may take beyond the life that is waited for.
GRACE: Final = 1.5


async def tell(stage: Stage, known_token: str) -> None:
    """Play these scenes; `known_token` is one of shop's that orders has verified before."""
    await _ends(stage)
    await _cut_edges(stage)
    await _outage(stage, known_token)


async def _ends(stage: Stage) -> None:
    stage.scene("Tokens end: by their expiry, or revoked")
    await _expiry(stage)
    await _revocation(stage)
    await _invalidation(stage)


async def _expiry(stage: Stage) -> None:
    life = 1
    short = await stage.company.mint("shop", seconds_until_expiration=life)
    call = stage.get("orders", short.token.reveal())
    await stage.step("shop", "orders", f"a token with {life} s to live", call, LET_IN_PAID)
    expected = Expected(status=401, code="token_invalid", paid=None, within=life + GRACE)
    await stage.step(
        "shop",
        "orders",
        "the same, until refused",
        stage.until(expected, call),
        expected,
        note="No verdict outlives its token.",
    )


async def _revocation(stage: Stage) -> None:
    token = await stage.company.mint("reports")
    call = stage.get("stock", token.token.reveal())
    await stage.step("reports", "stock", "a token", call, LET_IN_PAID)
    await stage.company.clerk.m2m_tokens.revoke(token.id)
    await stage.step(
        "reports",
        "stock",
        "the same, revoked a moment ago",
        call,
        LET_IN,
        note="Clerk tells no service of a revocation.",
    )
    expected = Expected(status=401, code="token_invalid", paid=None, within=STOCK_CACHE_TTL + GRACE)
    await stage.step(
        "reports",
        "stock",
        "the same, until refused",
        stage.until(expected, call),
        expected,
        note=f"(cache_ttl of stock: {STOCK_CACHE_TTL:g} s.)",
    )


async def _invalidation(stage: Stage) -> None:
    token = await stage.company.mint("reports")
    call = stage.get("stock", token.token.reveal())
    await stage.step("reports", "stock", "another token", call, LET_IN_PAID)
    await stage.company.clerk.m2m_tokens.revoke(token.id)
    stage.company.services["stock"].verifier.invalidate(token_id=token.id)
    await stage.step(
        "reports",
        "stock",
        "the same, revoked and invalidated",
        call,
        UNKNOWN_PAID,
        note="invalidate() ends it at once.",
    )


async def _cut_edges(stage: Stage) -> None:
    stage.scene("An edge is cut while the token is alive")
    await _cut_elsewhere(stage)
    await _cut_in_sight(stage)


async def _cut_elsewhere(stage: Stage) -> None:
    company, machines = stage.company, stage.company.machines
    call = stage.get("stock", await company.token("orders"))
    await stage.step("orders", "stock", "a token", call, LET_IN_PAID)
    await company.clerk.machines.delete_scope(machines["orders"].id, machines["stock"].id)
    expected = Expected(status=403, code="scope_denied", paid=None, within=STOCK_GRAPH_TTL + GRACE)
    await stage.step(
        "orders",
        "stock",
        "the same, the edge cut elsewhere, until refused",
        stage.until(expected, call),
        expected,
        note=f"(graph_ttl of stock: {STOCK_GRAPH_TTL:g} s.)",
    )


async def _cut_in_sight(stage: Stage) -> None:
    company, machines = stage.company, stage.company.machines
    call = stage.get("orders", await company.token("reports"))
    await stage.step("reports", "orders", "a token", call, LET_IN_PAID)
    async with ClerkClient(
        secret_key=company.emulator.secret_key, api_url=company.clerk_served.origin
    ) as watched:
        company.services["orders"].verifier.watch(watched)
        await watched.machines.delete_scope(machines["reports"].id, machines["orders"].id)
    await stage.step(
        "reports",
        "orders",
        "the same, the edge cut by a client that it watches",
        call,
        NO_EDGE,
        note="The very next call.",
    )


async def _outage(stage: Stage, known_token: str) -> None:
    stage.scene("Clerk is down: who is known goes on, and nobody else gets in")
    company = stage.company
    new_token, new_jwt = (
        await company.token("shop"),
        await company.token("shop", token_format="jwt"),
    )
    stranger_token = await company.token("stranger")
    await company.clerk_served.stop()
    new_call = stage.get("orders", new_token)
    stranger_call = stage.get("orders", stranger_token)
    await stage.step(
        "shop", "orders", "the token it has used before", stage.get("orders", known_token), LET_IN
    )
    await stage.step(
        "shop",
        "orders",
        "a JWT never seen before",
        stage.get("orders", new_jwt),
        LET_IN,
        billed=False,
    )
    await stage.step("shop", "orders", "a token never seen before", new_call, NOT_FOUND_OUT)
    await stage.step(
        "stranger", "orders", "a token never seen before", stranger_call, NOT_FOUND_OUT
    )
    await company.clerk_served.start()
    stage.scene("Clerk is back")
    back = Expected(status=200, paid=1, within=GRACE)
    await stage.step(
        "shop",
        "orders",
        "the token that got no answer",
        stage.until(back, new_call),
        back,
    )
    await stage.step(
        "stranger", "orders", "the token that got no answer", stranger_call, UNKNOWN_PAID
    )
