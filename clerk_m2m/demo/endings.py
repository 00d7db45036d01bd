"""The scenes about expired and revoked tokens, removed edges, and an outage of Clerk."""

from __future__ import annotations

from typing import Final

from clerk_m2m import ClerkClient
from clerk_m2m.demo.outcomes import LET_IN, LET_IN_PAID, NO_EDGE, NOT_FOUND_OUT, UNKNOWN_PAID
from clerk_m2m.demo.report import Expected
from clerk_m2m.demo.runner import StepRunner
from clerk_m2m.demo.services import STOCK_CACHE_TTL, STOCK_GRAPH_TTL
from clerk_m2m.demo.sharing import tell_sharing

# In seconds: extra time on a busy machine, in addition to the lifetime that is waited for.
TOLERANCE: Final = 1.5


async def tell_endings(runner: StepRunner, known_token: str) -> None:
    """Run these scenes; `known_token` is a token of shop's that orders has verified before."""
    await _ends(runner)
    await _cut_edges(runner)
    await tell_sharing(runner)
    await _outage(runner, known_token)


async def _ends(runner: StepRunner) -> None:
    runner.scene("Tokens expire or are revoked")
    await _expiry(runner)
    await _revocation(runner)
    await _invalidation(runner)


async def _expiry(runner: StepRunner) -> None:
    lifetime = 1
    short = await runner.company.mint("shop", seconds_until_expiration=lifetime)
    call = runner.get("orders", short.token.reveal())
    await runner.step("shop", "orders", f"a token with {lifetime} s to live", call, LET_IN_PAID)
    expected = Expected(status=401, code="token_invalid", paid=None, timeout=lifetime + TOLERANCE)
    await runner.step(
        "shop",
        "orders",
        "the same, until refused",
        runner.until(expected, call),
        expected,
        note="A cached verdict expires with its token.",
    )


async def _revocation(runner: StepRunner) -> None:
    token = await runner.company.mint("reports")
    call = runner.get("stock", token.token.reveal())
    await runner.step("reports", "stock", "a token", call, LET_IN_PAID)
    await runner.company.clerk.m2m_tokens.revoke(token.id)
    await runner.step(
        "reports",
        "stock",
        "the same, revoked a moment ago",
        call,
        LET_IN,
        note="Clerk does not notify services of a revocation.",
    )
    expected = Expected(
        status=401, code="token_invalid", paid=None, timeout=STOCK_CACHE_TTL + TOLERANCE
    )
    await runner.step(
        "reports",
        "stock",
        "the same, until refused",
        runner.until(expected, call),
        expected,
        note=f"(cache_ttl of stock: {STOCK_CACHE_TTL:g} s.)",
    )


async def _invalidation(runner: StepRunner) -> None:
    token = await runner.company.mint("reports")
    call = runner.get("stock", token.token.reveal())
    await runner.step("reports", "stock", "another token", call, LET_IN_PAID)
    await runner.company.clerk.m2m_tokens.revoke(token.id)
    runner.company.services["stock"].verifier.invalidate(token_id=token.id)
    await runner.step(
        "reports",
        "stock",
        "the same, revoked and invalidated",
        call,
        UNKNOWN_PAID,
        note="invalidate() removes the verdict at once.",
    )


async def _cut_edges(runner: StepRunner) -> None:
    runner.scene("An edge is removed while the token is live")
    await _cut_elsewhere(runner)
    await _cut_in_sight(runner)


async def _cut_elsewhere(runner: StepRunner) -> None:
    company, machines = runner.company, runner.company.machines
    call = runner.get("stock", await company.token("orders"))
    await runner.step("orders", "stock", "a token", call, LET_IN_PAID)
    await company.clerk.machines.delete_scope(machines["orders"].id, machines["stock"].id)
    expected = Expected(
        status=403, code="scope_denied", paid=None, timeout=STOCK_GRAPH_TTL + TOLERANCE
    )
    await runner.step(
        "orders",
        "stock",
        "the same, edge removed by another client, until refused",
        runner.until(expected, call),
        expected,
        note=f"(graph_ttl of stock: {STOCK_GRAPH_TTL:g} s.)",
    )


async def _cut_in_sight(runner: StepRunner) -> None:
    company, machines = runner.company, runner.company.machines
    call = runner.get("orders", await company.token("reports"))
    await runner.step("reports", "orders", "a token", call, LET_IN_PAID)
    async with ClerkClient(
        secret_key=company.emulator.secret_key, api_url=company.clerk_served.origin
    ) as watched:
        company.services["orders"].verifier.watch(watched)
        await watched.machines.delete_scope(machines["reports"].id, machines["orders"].id)
    await runner.step(
        "reports",
        "orders",
        "the same, edge removed by a client that orders watches",
        call,
        NO_EDGE,
        note="Refused at the next call.",
    )


async def _outage(runner: StepRunner, known_token: str) -> None:
    runner.scene("Clerk is down: cached tokens and JWTs are accepted, new tokens get 503")
    company = runner.company
    new_token, new_jwt = (
        await company.token("shop"),
        await company.token("shop", token_format="jwt"),
    )
    stranger_token = await company.token("stranger")
    await company.clerk_served.stop()
    new_call = runner.get("orders", new_token)
    stranger_call = runner.get("orders", stranger_token)
    await runner.step(
        "shop", "orders", "the token it has used before", runner.get("orders", known_token), LET_IN
    )
    await runner.step(
        "shop",
        "orders",
        "a JWT never seen before",
        runner.get("orders", new_jwt),
        LET_IN,
        billed=False,
    )
    await runner.step("shop", "orders", "a token never seen before", new_call, NOT_FOUND_OUT)
    await runner.step(
        "stranger", "orders", "a token never seen before", stranger_call, NOT_FOUND_OUT
    )
    await company.clerk_served.start()
    runner.scene("Clerk is back")
    back = Expected(status=200, paid=1, timeout=TOLERANCE)
    await runner.step(
        "shop",
        "orders",
        "the token that got no answer",
        runner.until(back, new_call),
        back,
    )
    await runner.step(
        "stranger", "orders", "the token that got no answer", stranger_call, UNKNOWN_PAID
    )
