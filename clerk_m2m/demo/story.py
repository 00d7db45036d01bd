"""The scenes of the demo, with the expected outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clerk_m2m.demo.endings import tell_endings
from clerk_m2m.demo.outcomes import LET_IN, LET_IN_PAID, NO_EDGE, UNKNOWN, UNKNOWN_PAID, WRONG_TYPE
from clerk_m2m.demo.report import Expected
from clerk_m2m.demo.runner import StepRunner
from clerk_m2m.demo.services import PERMISSION

BURST: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The credentials that are used in more than one scene."""

    token: str
    jwt: str
    stranger_token: str
    stranger_jwt: str


async def tell_story(runner: StepRunner) -> None:
    """Play all scenes."""
    company = runner.company
    orders_id = company.machines["orders"].id
    claims = {"scopes": [orders_id], "aud": [orders_id]}
    known = Known(
        token=await company.token("shop"),
        jwt=await company.token("shop", token_format="jwt"),
        stranger_token=await company.token("stranger"),
        stranger_jwt=(
            await company.mint("stranger", token_format="jwt", claims=claims)
        ).token.reveal(),
    )
    await _tokens(runner, known)
    await _jwts(runner, known)
    await _other_credentials(runner)
    await _websockets(runner, known)
    await _chain(runner, known)
    await tell_endings(runner, known.token)


async def _tokens(runner: StepRunner, known: Known) -> None:
    runner.scene("Tokens of machines, and who may call whom")
    call = runner.get("orders", known.token)
    await runner.step("shop", "orders", "a token", call, LET_IN_PAID)
    await runner.step("shop", "orders", "the same token again", call, LET_IN)
    burst = runner.at_once(BURST, runner.get("orders", await runner.company.token("shop")))
    await runner.step(
        "shop",
        "orders",
        f"a new token, {BURST} times at once",
        burst,
        LET_IN_PAID,
        note="They share one verification.",
    )
    await runner.step(
        "stranger",
        "stock",
        "its own, genuine token",
        runner.get("stock", known.stranger_token),
        Expected(status=403, code="scope_denied", paid=1),
    )
    await runner.step(
        "stranger",
        "orders",
        "the same token",
        runner.get("orders", known.stranger_token),
        UNKNOWN_PAID,
        note="With its machine's key, orders cannot see why.",
    )
    await runner.step(
        "nobody",
        "orders",
        "nothing",
        runner.get("orders"),
        Expected(status=401, code="token_missing"),
        billed=False,
    )


async def _jwts(runner: StepRunner, known: Known) -> None:
    runner.scene("JWTs of machines: the service verifies them itself, for free")
    await runner.step(
        "shop", "orders", "a JWT", runner.get("orders", known.jwt), LET_IN, billed=False
    )
    await runner.step(
        "stranger",
        "orders",
        "a JWT that grants itself orders, by a custom claim",
        runner.get("orders", known.stranger_jwt),
        NO_EDGE,
        note="The caller chose these claims: they grant nothing.",
        billed=False,
    )
    await runner.step(
        "stranger",
        "orders",
        "its JWT with the signature of shop's",
        runner.get("orders", _with_signature_of(known.jwt, known.stranger_jwt)),
        UNKNOWN,
        billed=False,
    )


def _with_signature_of(signed: str, jwt: str) -> str:
    return f"{jwt.rpartition('.')[0]}.{signed.rpartition('.')[2]}"


async def _other_credentials(runner: StepRunner) -> None:
    runner.scene("API keys of users, and credentials that are not a machine's")
    company = runner.company
    permitted, bare = await company.api_key(PERMISSION), await company.api_key()
    session = company.emulator.mint_session_jwt()
    await runner.step(
        "ann",
        "shop",
        f"an API key with {PERMISSION}",
        runner.get("shop", permitted),
        LET_IN_PAID,
    )
    await runner.step(
        "ann",
        "shop",
        "an API key without it",
        runner.get("shop", bare),
        Expected(status=403, code="permission_denied", paid=1),
    )
    await runner.step("ann", "orders", "her API key", runner.get("orders", permitted), WRONG_TYPE)
    await runner.step(
        "browser", "orders", "a session JWT", runner.get("orders", session), WRONG_TYPE
    )
    await runner.step("anybody", "orders", "garbage", runner.get("orders", "garbage"), UNKNOWN)
    await runner.step(
        "anybody",
        "orders",
        "two credentials at once",
        runner.get("orders", permitted, session),
        Expected(status=400, code="token_malformed"),
    )


async def _websockets(runner: StepRunner, known: Known) -> None:
    runner.scene("WebSockets: an invalid credential is refused before the WebSocket opens")
    await runner.step(
        "shop",
        "orders",
        "its token, for a WebSocket",
        runner.connect("orders", known.token),
        Expected(status=101),
    )
    await runner.step(
        "stranger",
        "orders",
        "its JWT, for a WebSocket",
        runner.connect("orders", known.stranger_jwt),
        NO_EDGE,
        billed=False,
    )


async def _chain(runner: StepRunner, known: Known) -> None:
    runner.scene("A chain: shop calls orders, orders calls stock, each with its own token")
    call = runner.get("orders", known.token, path="/stock")
    await runner.step("shop", "orders", "its token; orders calls stock", call, LET_IN_PAID)
    await runner.step(
        "shop",
        "orders",
        "the same again",
        call,
        LET_IN,
        note="orders reuses its token, and both services use cached verdicts.",
    )
    await runner.step(
        "shop",
        "orders",
        "the same; orders names its caller in its claims",
        runner.get("orders", known.token, path="/stock/named"),
        LET_IN_PAID,
        note="orders chose these claims; Clerk does not attest them.",
    )
