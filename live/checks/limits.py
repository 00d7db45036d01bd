"""The rate limit, which is used up on purpose; only with `--rate-limit`."""

from __future__ import annotations

import asyncio

from clerk_m2m.transport.call import retry_after
from live.calls import MAX_WAIT
from live.finding import Finding, check, compare, lacking, unknown
from live.stage import Stage

MOST, BATCH = 150, 15


@check(
    "429 at the rate limit",
    assumed="429 in Clerk's error format after 100 calls in 10 s, with Retry-After in seconds; the "
    "key set is not limited",
    where=("clerk_m2m/backend_api/problems.py", "clerk_m2m/transport/http.py"),
)
async def rate_limit(stage: Stage) -> Finding:
    if not stage.options.rate_limit:
        return lacking("not tried: --rate-limit uses up the limit of the instance once")
    url, limited, sent = f"/v1/machines/{stage.caller.id}", None, 0
    with stage.calls.connection.unpaced():
        while limited is None and sent < MOST:
            answers = await asyncio.gather(*(stage.calls.get(url) for _ in range(BATCH)))
            sent += BATCH
            limited = next((each for each in answers if each.status == 429), None)
        keys = await stage.calls.get("/v1/jwks")
    if limited is None:
        return unknown(f"no 429 in {sent} calls")
    said = limited.headers.get("retry-after")
    await stage.sleep(min(retry_after(limited.headers), MAX_WAIT))
    again = await stage.calls.get(url)
    as_assumed = limited.is_error(429) and said is not None and said.isdigit()
    as_assumed = as_assumed and (keys.status, again.status) == (200, 200)
    seen = f"{limited} within {sent} calls; Retry-After: {said or 'none'}; after it: {again}"
    return compare(as_assumed, f"{seen}; the key set at the limit: {keys}")
