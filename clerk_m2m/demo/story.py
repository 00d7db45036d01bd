"""What happens in the demo, scene by scene, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clerk_m2m.demo import endings
from clerk_m2m.demo.outcomes import LET_IN, LET_IN_PAID, NO_EDGE, UNKNOWN, UNKNOWN_PAID, WRONG_TYPE
from clerk_m2m.demo.report import Expected
from clerk_m2m.demo.services import PERMISSION
from clerk_m2m.demo.stage import Stage

BURST: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The credentials that appear in more than one scene."""

    token: str
    jwt: str
    stranger_token: str
    stranger_jwt: str


async def tell(stage: Stage) -> None:
    """Play all scenes."""
    company = stage.company
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
    await _tokens(stage, known)
    await _jwts(stage, known)
    await _other_credentials(stage)
    await _websockets(stage, known)
    await _chain(stage, known)
    await endings.tell(stage, known.token)


async def _tokens(stage: Stage, known: Known) -> None:
    stage.scene("Tokens of machines, and who may call whom")
    call = stage.get("orders", known.token)
    await stage.step("shop", "orders", "a token", call, LET_IN_PAID)
    await stage.step("shop", "orders", "the same token again", call, LET_IN)
    burst = stage.at_once(BURST, stage.get("orders", await stage.company.token("shop")))
    await stage.step(
        "shop",
        "orders",
        f"a new token, {BURST} times at once",
        burst,
        LET_IN_PAID,
        note="They share one verification.",
    )
    await stage.step(
        "stranger",
        "stock",
        "its own, genuine token",
        stage.get("stock", known.stranger_token),
        Expected(status=403, code="scope_denied", paid=1),
    )
    await stage.step(
        "stranger",
        "orders",
        "the same token",
        stage.get("orders", known.stranger_token),
        UNKNOWN_PAID,
        note="With its machine's key, orders learns no more.",
    )
    await stage.step(
        "nobody",
        "orders",
        "nothing",
        stage.get("orders"),
        Expected(status=401, code="token_missing"),
        billed=False,
    )


async def _jwts(stage: Stage, known: Known) -> None:
    stage.scene("JWTs of machines: verified by the service itself, for free")
    await stage.step(
        "shop", "orders", "a JWT", stage.get("orders", known.jwt), LET_IN, billed=False
    )
    await stage.step(
        "stranger",
        "orders",
        "a JWT that grants itself orders, by a custom claim",
        stage.get("orders", known.stranger_jwt),
        NO_EDGE,
        note="A JWT's claims are the caller's own words.",
        billed=False,
    )
    await stage.step(
        "stranger",
        "orders",
        "its JWT with the signature of shop's",
        stage.get("orders", _with_signature_of(known.jwt, known.stranger_jwt)),
        UNKNOWN,
        billed=False,
    )


def _with_signature_of(signed: str, jwt: str) -> str:
    return f"{jwt.rpartition('.')[0]}.{signed.rpartition('.')[2]}"


async def _other_credentials(stage: Stage) -> None:
    stage.scene("API keys of people, and what is no machine's credential at all")
    company = stage.company
    permitted, bare = await company.api_key(PERMISSION), await company.api_key()
    session = company.emulator.mint_session_jwt()
    await stage.step(
        "ann",
        "shop",
        f"an API key with {PERMISSION}",
        stage.get("shop", permitted),
        LET_IN_PAID,
    )
    await stage.step(
        "ann",
        "shop",
        "an API key without it",
        stage.get("shop", bare),
        Expected(status=403, code="permission_denied", paid=1),
    )
    await stage.step("ann", "orders", "her API key", stage.get("orders", permitted), WRONG_TYPE)
    await stage.step("browser", "orders", "a session JWT", stage.get("orders", session), WRONG_TYPE)
    await stage.step("anybody", "orders", "garbage", stage.get("orders", "garbage"), UNKNOWN)
    await stage.step(
        "anybody",
        "orders",
        "two credentials at once",
        stage.get("orders", permitted, session),
        Expected(status=400, code="token_malformed"),
    )


async def _websockets(stage: Stage, known: Known) -> None:
    stage.scene("WebSockets: refused before they open")
    await stage.step(
        "shop",
        "orders",
        "its token, for a WebSocket",
        stage.connect("orders", known.token),
        Expected(status=101),
    )
    await stage.step(
        "stranger",
        "orders",
        "its JWT, for a WebSocket",
        stage.connect("orders", known.stranger_jwt),
        NO_EDGE,
        billed=False,
    )


async def _chain(stage: Stage, known: Known) -> None:
    stage.scene("A chain: shop calls orders, orders calls stock, each in its own name")
    call = stage.get("orders", known.token, path="/stock")
    await stage.step("shop", "orders", "its token; orders calls stock", call, LET_IN_PAID)
    await stage.step(
        "shop",
        "orders",
        "the same again",
        call,
        LET_IN,
        note="orders keeps its token, and both services their verdicts.",
    )
    await stage.step(
        "shop",
        "orders",
        "the same; orders names its caller in its claims",
        stage.get("orders", known.token, path="/stock/named"),
        LET_IN_PAID,
        note="That is orders' word, not Clerk's.",
    )
