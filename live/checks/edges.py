"""Edges between machines: which machine may call which."""

from __future__ import annotations

import asyncio

from clerk_m2m.backend_api.calls import MAX_ITEM
from live.checks.answers import listed
from live.finding import Finding, check, compare, lacking
from live.stage import Stage

MOST = 150
OPERATIONS = ("clerk_m2m/backend_api/machines.py", "clerk_m2m/emulator/machine_operations.py")


@check(
    "an edge that exists, one that does not, and unknown machines",
    assumed="created twice: 409; deleted twice: 404; to an unknown machine: 404; in Clerk's format",
    where=OPERATIONS,
)
async def twice(stage: Stage) -> Finding:
    url, calls = f"/v1/machines/{stage.stranger.id}/scopes", stage.calls
    to, unknown = {"to_machine_id": stage.callee.id}, {"to_machine_id": "mch_" + "0" * 27}
    first, again = await calls.post(url, to), await calls.post(url, to)
    cut = f"{url}/{stage.callee.id}"
    cuts = [await calls.raw("DELETE", cut, key=calls.secret_key) for _ in range(2)]
    answers = {
        "created": first,
        "again": again,
        "cut": cuts[0],
        "cut again": cuts[1],
        "unknown": await calls.post(url, unknown),
    }
    as_assumed = (
        (first.status, cuts[0].status, cuts[0].get("deleted")) == (200, 200, True)
        and again.is_error(409)
        and cuts[1].is_error(404)
        and answers["unknown"].is_error(404)
    )
    return compare(as_assumed, listed(answers))


@check(
    "a machine that may call itself",
    assumed="accepted",
    where="clerk_m2m/emulator/machine_operations.py",
)
async def itself(stage: Stage) -> Finding:
    machine = await stage.machine("itself")
    answer = await stage.calls.post(
        f"/v1/machines/{machine.id}/scopes", {"to_machine_id": machine.id}
    )
    return compare(answer.status == 200, str(answer))


@check(
    "a token whose edge is deleted after the mint",
    assumed="it keeps the scopes that it was minted with; one minted later does not have them",
    where=("clerk_m2m/verification/policy.py", "docs/security.md"),
)
async def cut_afterwards(stage: Stage) -> Finding:
    caller = await stage.machine("cut", may_call=[stage.callee.id])
    token = (await stage.token(caller)).token
    await stage.clerk.machines.delete_scope(caller.id, stage.callee.id)
    before = await stage.verify(token, key=stage.callee.secret_key)
    after = await stage.verify((await stage.token(caller)).token)
    kept, fresh = before.get("scopes"), after.get("scopes")
    as_assumed = before.status == 200 and kept == [stage.callee.id] and fresh == []
    count = {True: "one scope", False: "no scope"}
    seen = f"minted before: {before}, {count[bool(kept)]}; after: {after}, {count[bool(fresh)]}"
    return compare(as_assumed, seen)


@check(
    f"a machine with {MOST} edges",
    assumed=f"{MOST} are accepted and listed, one more is refused; fits in {MAX_ITEM // 1024} KiB",
    where=("clerk_m2m/backend_api/calls.py", *OPERATIONS),
)
async def many(stage: Stage) -> Finding:
    if not stage.options.many_edges:
        return lacking("not tried: --many-edges creates the machines that this needs")
    names = [f"edge-{number:03}" for number in range(MOST + 1)]
    callees: list[str] = []
    for start in range(0, len(names), 10):
        batch = [stage.machine(name) for name in names[start : start + 10]]
        callees += [machine.id for machine in await asyncio.gather(*batch)]
    caller = await stage.machine("hub", may_call=callees[:MOST])
    over = await stage.calls.post(
        f"/v1/machines/{caller.id}/scopes", {"to_machine_id": callees[MOST]}
    )
    page = await stage.calls.get("/v1/machines", query=caller.id, limit="500")
    alone = await stage.clerk.machines.get(caller.id)
    token = await stage.token(caller)
    data = page.get("data")
    item = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    in_list = len(item.get("scoped_machines") or [])
    as_assumed = (
        len(alone.scoped_machines) == in_list == len(token.scopes) == MOST
        and over.is_error(400, 403, 409, 422)
        and page.size <= MAX_ITEM
    )
    seen = (
        f"alone {len(alone.scoped_machines)}, in a list of 500 {in_list}, in a token "
        f"{len(token.scopes)}; {page.size / 1024:.0f} KiB; one more: {over}"
    )
    return compare(as_assumed, seen)
