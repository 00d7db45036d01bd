"""The cost of the first request with a credential, and of every request in the official SDK."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from time import perf_counter

import httpx
import jwt
from clerk_backend_api.security.types import VerifyTokenOptions
from clerk_backend_api.security.verifytoken import verify_token_async
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bench.measure import Effort, Row, compared, seconds_each
from bench.upstream import Upstream
from clerk_m2m import Settings, Verifier


async def jwt_once(upstream: Upstream, effort: Effort) -> Row:
    """Measure an M2M JWT that was never seen before."""
    key = load_pem_public_key(upstream.public_key.encode())
    batches = _batches(upstream.jwts, effort.count(100))

    async def ours() -> float:
        # A new verifier has an empty cache, so the tokens can be used again.
        verifier, batch = Verifier(upstream.jwt_settings()), next(batches)
        began = perf_counter()
        for token in batch:
            await verifier.verify(token)
        seconds = perf_counter() - began
        await verifier.aclose()
        return seconds / len(batch)

    async def other() -> float:
        batch = next(batches)
        began = perf_counter()
        for token in batch:
            jwt.decode(token, key, algorithms=["RS256"])  # type: ignore[arg-type]
        return (perf_counter() - began) / len(batch)

    return Row(
        title="M2M JWT seen for the first time",
        ours="`Verifier.verify`: signature, claims, graph, cache",
        against="bare `jwt.decode`, `RS256`",
        pairs=await compared(effort.rounds, ours, other),
        aim=1.05,
    )


async def opaque_once(upstream: Upstream, effort: Effort) -> Row:
    """Measure an opaque token that was never seen before."""
    batches = _batches(upstream.opaque_tokens, effort.count(60))
    verifier = Verifier(upstream.settings())
    headers = {"Authorization": f"Bearer {upstream.callee_key}"}
    async with httpx.AsyncClient(base_url=upstream.origin, headers=headers) as client:

        async def ours() -> float:
            batch = next(batches)
            began = perf_counter()
            for token in batch:
                await verifier.verify(token)
            seconds = perf_counter() - began
            for token in batch:
                verifier.invalidate(token=token)
            return seconds / len(batch)

        async def other() -> float:
            batch = next(batches)
            began = perf_counter()
            for token in batch:
                answer = await client.post("/v1/m2m_tokens/verify", json={"token": token})
                assert answer.status_code == 200
            return (perf_counter() - began) / len(batch)

        pairs = await compared(effort.rounds, ours, other)
    await verifier.aclose()
    return Row(
        title="Opaque token seen for the first time",
        ours="`Verifier.verify`: one shared call, deadline, checks, cache",
        against="one bare POST on a pooled `httpx.AsyncClient`",
        pairs=pairs,
        aim=1.15,
    )


async def official_sdk(upstream: Upstream, effort: Effort) -> Row:
    """Measure an API key that is used again and again."""
    settings = Settings(
        machine_id=upstream.callee,
        secret_key=upstream.secret_key,
        api_url=upstream.origin,
        accepts=["api_key"],
        unknown_rate=1e6,
    )
    verifier = Verifier(settings)
    options = VerifyTokenOptions(secret_key=upstream.secret_key, api_url=upstream.origin)
    pairs = await compared(
        effort.some(11),
        partial(seconds_each, effort.count(4000), partial(verifier.verify, upstream.api_key)),
        partial(
            seconds_each,
            effort.count(5),
            lambda: verify_token_async(upstream.api_key, options),
        ),
    )
    await verifier.aclose()
    return Row(
        title="Opaque credential used again and again",
        ours="`Verifier.verify`, cached",
        against="`clerk_backend_api.security.verify_token_async`, which caches nothing",
        pairs=pairs,
        note=(
            "Measured with an API key, because the SDK sends an M2M token in the field `secret`, "
            "but Clerk's published contract accepts only the field `token`."
        ),
    )


def _batches(tokens: list[str], size: int) -> Iterator[list[str]]:
    """Yield batches of tokens without end; a token is repeated only after all the others."""
    begin = 0
    while True:
        batch = tokens[begin : begin + size]
        begin = begin + size if begin + 2 * size <= len(tokens) else 0
        yield batch
