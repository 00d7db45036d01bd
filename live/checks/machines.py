"""Machines: ids, instants, lists, secret keys, and the state after a deletion."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from live.finding import Finding, check, compare
from live.stage import DEFAULT_TTL, Stage

PARSING = "clerk_m2m/backend_api/parsing.py"
DAY = 86_400


def unit(instant: object) -> str:
    """Return the unit of an instant that is at most a day from now."""
    if isinstance(instant, bool) or not isinstance(instant, int | float):
        return "no number"
    if abs(instant - time.time()) < DAY:
        return "seconds"
    return "milliseconds" if abs(instant / 1000 - time.time()) < DAY else "an unknown unit"


@check(
    "a machine as it is created",
    assumed="the contract's fields; the secret key starts ak_; the instance's id starts ins_",
    where=(PARSING, "clerk_m2m/identity.py", "clerk_m2m/environment.py"),
)
async def created(stage: Stage) -> Finding:
    machine = stage.caller  # it exists, so the client could read its fields
    key = machine.secret_key.reveal().startswith("ak_")
    scoped = tuple(each.id for each in machine.scoped_machines)
    as_assumed = (
        key
        and machine.instance_id.startswith("ins_")
        and machine.default_token_ttl == DEFAULT_TTL
        and scoped == (stage.callee.id,)
    )
    seen = [
        "secret key ak_…" if key else "a secret key of another form",
        f"instance id {machine.instance_id[:4]}…",
        f"default_token_ttl {machine.default_token_ttl}",
        f"{len(scoped)} scoped machine",
    ]
    return compare(as_assumed, ", ".join(seen))


@check("instants of machines", assumed="milliseconds", where=PARSING)
async def instants(stage: Stage) -> Finding:
    machine = await stage.calls.get(f"/v1/machines/{stage.caller.id}")
    units = {name: unit(machine.get(name)) for name in ("created_at", "updated_at")}
    seen = ", ".join(f"{name}: {found}" for name, found in units.items())
    return compare(set(units.values()) == {"milliseconds"}, seen)


@check(
    "a machine's secret key, read again",
    assumed="the same as at its creation",
    where="clerk_m2m/backend_api/machines.py",
)
async def secret_key(stage: Stage) -> Finding:
    again = await stage.clerk.machines.get_secret_key(stage.caller.id)
    same = again == stage.caller.secret_key
    return compare(same, "the same" if same else "another")


@check(
    "pages of 500 machines",
    assumed="limit=500 is accepted, limit=501 is 422; the answer has a total_count",
    where=("clerk_m2m/backend_api/calls.py", "clerk_m2m/emulator/machine_operations.py"),
)
async def page_size(stage: Stage) -> Finding:
    most = await stage.calls.get("/v1/machines", limit="500")
    over = await stage.calls.get("/v1/machines", limit="501")
    total, data = most.get("total_count"), most.get("data")
    as_assumed = most.status == 200 and isinstance(total, int) and over.is_error(422)
    count = len(data) if isinstance(data, list) else "no"
    return compare(as_assumed, f"500: {most}, {count} of {total} machines; 501: {over}")


@check(
    "the order of a list, and its pages",
    assumed="order_by=+created_at gives the oldest first; pages neither repeat nor miss a machine",
    where=("clerk_m2m/backend_api/machines.py", "clerk_m2m/backend_api/calls.py"),
)
async def order(stage: Stage) -> Finding:
    made = await asyncio.gather(*(stage.machine(f"order-{number}") for number in range(6)))
    query = f"{stage.prefix}order-"
    walked = [
        machine
        async for machine in stage.clerk.machines.iter(
            page_size=2, query=query, order_by="+created_at"
        )
    ]
    born = [machine.created_at or datetime.min.replace(tzinfo=UTC) for machine in walked]
    ids = [machine.id for machine in walked]
    whole = sorted(ids) == sorted(machine.id for machine in made)
    seen = [
        f"{len(set(ids))} of {len(made)} machines in pages of 2, {len(ids) - len(set(ids))} twice",
        "oldest first" if born == sorted(born) else "not oldest first",
        f"{len(born) - len(set(born))} with the created_at of another",
    ]
    return compare(whole and born == sorted(born), "; ".join(seen))


@check(
    "the query of a list",
    assumed="a part of the name, or the whole id, finds a machine",
    where="clerk_m2m/backend_api/machines.py",
)
async def query(stage: Stage) -> Finding:
    by = {
        "part of the name": stage.prefix.removeprefix("clerk-")[:-1] + "-stranger",
        "id": stage.stranger.id,
    }
    found = {
        what: [each.id for each in await stage.clerk.machines.list(query=text)]
        for what, text in by.items()
    }
    seen = "; ".join(f"by {what}: {len(ids)} found" for what, ids in found.items())
    return compare(all(ids == [stage.stranger.id] for ids in found.values()), seen)


@check(
    "scoped_machines in a list",
    assumed="each machine of a list has them, as GetMachine gives them",
    where=(PARSING, "clerk_m2m/graph/live.py"),
)
async def scoped_in_list(stage: Stage) -> Finding:
    page = await stage.calls.get("/v1/machines", query=stage.caller.id)
    one = await stage.calls.get(f"/v1/machines/{stage.caller.id}")
    data = page.get("data")
    item = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    in_list, alone = _ids(item.get("scoped_machines")), _ids(one.get("scoped_machines"))
    as_assumed = in_list == alone == [stage.callee.id]
    return compare(as_assumed, f"in the list: {_count(in_list)}; alone: {_count(alone)}")


def _ids(machines: Any) -> list[Any] | None:
    if not isinstance(machines, list):
        return None
    return [each.get("id") for each in machines if isinstance(each, dict)]


def _count(ids: list[Any] | None) -> str:
    return "no scoped_machines" if ids is None else f"{len(ids)} scoped"


@check(
    "two machines of one name",
    assumed="accepted",
    where="clerk_m2m/emulator/machines.py",
)
async def twins(stage: Stage) -> Finding:
    answer = await stage.calls.post("/v1/machines", {"name": stage.stranger.name})
    return compare(answer.status == 200, str(answer))  # found by its name and deleted at the end


@check(
    "a secret key that is rotated",
    assumed="the old key works for previous_token_ttl seconds; with 0 it is 401 at once",
    where=("clerk_m2m/backend_api/machines.py", "clerk_m2m/outbound/minting.py"),
)
async def rotation(stage: Stage) -> Finding:
    machine = await stage.machine("rotated")
    first = machine.secret_key
    rotate = stage.clerk.machines.rotate_secret_key
    second = await rotate(machine.id, previous_token_ttl=600)
    graceful = {"old": await _lists(stage, machine.id, first)}
    graceful["new"] = await _lists(stage, machine.id, second)
    third = await rotate(machine.id, previous_token_ttl=0)
    sudden = {"old": await _lists(stage, machine.id, second)}
    sudden["new"] = await _lists(stage, machine.id, third)
    as_assumed = graceful == {"old": "200", "new": "200"} and (
        sudden["new"] == "200" and sudden["old"].startswith("401")
    )
    seen = [f"{key} key with 600 s: {said}" for key, said in graceful.items()]
    seen += [f"{key} key with 0 s: {said}" for key, said in sudden.items()]
    return compare(as_assumed, "; ".join(seen))


async def _lists(stage: Stage, machine_id: str, key: Any) -> str:
    """List the machine's own tokens, which is not billed, and return the answer as text."""
    query = {"subject": machine_id}
    return str(await stage.calls.raw("GET", "/v1/m2m_tokens", key=key, query=query))


@check(
    "a machine that is deleted",
    assumed="its token is 404 (or revoked) at once, its key is 401, a second deletion is 404",
    where=("docs/security.md", "clerk_m2m/graph/live.py"),
)
async def deletion(stage: Stage) -> Finding:
    machine = await stage.machine("deleted")
    token = (await stage.token(machine)).token
    url = f"/v1/machines/{machine.id}"
    first = await stage.calls.raw("DELETE", url, key=stage.calls.secret_key)
    verified = await stage.verify(token)
    key = await _lists(stage, machine.id, machine.secret_key)
    second = await stage.calls.raw("DELETE", url, key=stage.calls.secret_key)
    ended = verified.is_error(404) or verified.get("revoked") is True
    as_assumed = (
        first.get("deleted") is True and ended and key.startswith("401") and second.is_error(404)
    )
    revoked = ", revoked" if verified.get("revoked") is True else ""
    seen = f"deletion: {first}; its token: {verified}{revoked}; its key: {key}; again: {second}"
    return compare(as_assumed, seen)
