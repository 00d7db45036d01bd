"""`ClerkClient` and Clerk's own generated client agree on one emulator, over one real socket."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from clerk_backend_api import Clerk, models
from starlette.types import Receive, Scope, Send

from clerk_m2m import (
    BackendAPIError,
    ClerkClient,
    ConflictError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    Secret,
)
from clerk_m2m.emulator import Emulator
from clerk_m2m.testing import ClerkEmulator
from harness import USER_ID, Upstream, World, serve

CONTRACT = Path(__file__).parents[1] / "emulator" / "contract" / "backend-api.openapi.yml"
OTHER_USER_ID = "user_" + "v" * 27

MACHINES = {"ListMachines", "CreateMachine", "GetMachine", "UpdateMachine", "DeleteMachine"}
EDGES = {"CreateMachineScope", "DeleteMachineScope"}
SECRET_KEYS = {"GetMachineSecretKey", "RotateMachineSecretKey"}
M2M_TOKENS = {"createM2MToken", "getM2MTokens", "revokeM2MToken", "verifyM2MToken"}
API_KEYS = {
    "createApiKey",
    "getApiKeys",
    "getApiKey",
    "updateApiKey",
    "deleteApiKey",
    "getApiKeySecret",
    "revokeApiKey",
    "verifyApiKey",
}
OTHERS = {"verifyOAuthAccessToken", "RevokeOAuthApplicationToken", "GetJWKS"}

# The operations by their names in the contract.
THEIR_NAMES = {
    "expires_at": "expiration",
    "caller": "from_machine_id",
    "callee": "to_machine_id",
}


class Witness:
    """The emulator, and a record of which client called which operation; calls are sequential."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.performed: set[tuple[str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection and record who called which operation."""
        before = Counter(self._emulator.calls)
        await self._emulator(scope, receive, send)
        agent = dict(scope.get("headers", ())).get(b"user-agent", b"").decode()
        client = "ours" if agent == "clerk-m2m" else "theirs"
        self.performed |= {(client, each) for each in self._emulator.calls - before}


@dataclass(frozen=True)
class Both:
    """The two clients, each with the instance's key."""

    world: World
    witness: Witness
    origin: str
    ours: ClerkClient
    theirs: Clerk

    @asynccontextmanager
    async def with_key(self, key: str) -> AsyncIterator[tuple[ClerkClient, Clerk]]:
        """The two clients, each with a machine's key."""
        async with (
            ClerkClient(machine_secret_key=key, api_url=self.origin) as ours,
            generated(self.origin, key) as theirs,
        ):
            yield ours, theirs

    def assert_both_performed(self, operations: set[str]) -> None:
        """Each client has performed every one of these operations."""
        expected = {(client, each) for client in ("ours", "theirs") for each in operations}
        assert expected - self.witness.performed == set()


@asynccontextmanager
async def generated(origin: str, key: str) -> AsyncIterator[Clerk]:
    """The generated client, with our HTTP clients: it does not close those that it makes."""
    async with httpx.AsyncClient() as client:
        with httpx.Client() as unused:
            yield Clerk(
                bearer_auth=key,
                server_url=f"{origin}/v1",
                client=unused,
                async_client=client,
                retry_config=None,  # by default it retries a call that got a 500 for an hour
            )


@pytest_asyncio.fixture
async def both(world: World) -> AsyncIterator[Both]:
    """Both clients on the world's emulator, served."""
    key, witness = world.emulator.secret_key, Witness(world.emulator)
    async with (
        serve(witness) as origin,
        ClerkClient(secret_key=key, api_url=origin) as ours,
        generated(origin, key) as theirs,
    ):
        yield Both(world, witness, origin, ours, theirs)


def plain(value: Any) -> Any:
    """Return a value of ours as it is in the contract's JSON."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, Secret):
        return value.reveal()
    if dataclasses.is_dataclass(value):
        return {
            THEIR_NAMES.get(field.name, field.name): plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def as_we_say(ours: Any, theirs: Any) -> Any:
    """Return their value, reduced to the members that ours has."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours:
        return {name: as_we_say(ours[name], theirs.get(name)) for name in ours}
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [as_we_say(*pair) for pair in zip(ours, theirs, strict=True)]
    # Without claims, ours is an empty mapping and the contract's is null.
    return {} if ours == {} and theirs is None else theirs


def assert_agree(ours: Any, theirs: Any) -> None:
    """Assert that every field of our record has the same value in their model."""
    mine = plain(ours)
    assert mine == as_we_say(mine, theirs.model_dump(mode="json"))


def assert_pages_agree(ours: Any, items: Any, total_count: int) -> None:
    """Assert that two pages hold the same items in the same order."""
    assert ours.total_count == total_count
    assert len(ours) == len(items)
    for mine, yours in zip(ours, items, strict=True):
        assert_agree(mine, yours)


def test_every_operation_of_the_contract_is_compared_here() -> None:
    contract = set(re.findall(r"operationId: (\w+)", CONTRACT.read_text("utf-8")))
    assert contract == MACHINES | EDGES | SECRET_KEYS | M2M_TOKENS | API_KEYS | OTHERS


async def test_they_agree_on_machines(both: Both) -> None:
    ours, theirs = both.ours.machines, both.theirs.machines
    callee = both.world.callee.id

    mine = await ours.create("mine", scoped_machines=[callee], default_token_ttl=600)
    yours = await theirs.create_async(request={"name": "yours", "scoped_machines": [callee]})
    assert_agree(await ours.get(mine.id), await theirs.get_async(machine_id=mine.id))
    assert_agree(await ours.get(yours.id), await theirs.get_async(machine_id=yours.id))

    for created, secret in ((mine.id, mine.secret_key.reveal()), (yours.id, yours.secret_key)):
        assert (await ours.get_secret_key(created)).reveal() == secret
        assert (await theirs.get_secret_key_async(machine_id=created)).secret == secret

    both.world.time.advance(1)  # from here on, updated_at is not created_at
    for query, limit, offset in ((None, 2, 1), ("your", 10, 0), (mine.id, 10, 0)):
        page = await ours.list(query=query, limit=limit, offset=offset, order_by="+name")
        listed = await theirs.list_async(query=query, limit=limit, offset=offset, order_by="+name")
        assert_pages_agree(page, listed.data, listed.total_count)

    assert_agree(
        await ours.update(yours.id, name="renamed", default_token_ttl=60),
        await theirs.get_async(machine_id=yours.id),
    )
    updated = await theirs.update_async(machine_id=mine.id, name="renamed too")
    assert_agree(await ours.get(mine.id), updated)

    await ours.delete(yours.id)
    await theirs.delete_async(machine_id=mine.id)
    for gone in (mine.id, yours.id):
        with pytest.raises(NotFoundError):
            await ours.get(gone)
        with pytest.raises(models.ClerkErrors):
            await theirs.get_async(machine_id=gone)
    both.assert_both_performed(MACHINES)


async def test_they_agree_on_edges(both: Both) -> None:
    ours, theirs, world = both.ours.machines, both.theirs.machines, both.world
    stranger, callee, caller = world.stranger.id, world.callee.id, world.caller.id

    mine = await ours.create_scope(stranger, callee)
    world.time.advance(1)
    yours = await theirs.create_scope_async(machine_id=stranger, to_machine_id=caller)
    assert (mine.caller, mine.callee) == (stranger, callee)
    assert (yours.from_machine_id, yours.to_machine_id) == (stranger, caller)
    assert mine.created_at is not None
    assert yours.created_at - plain(mine.created_at) == 1000
    machine = await ours.get(stranger)
    assert {each.id for each in machine.scoped_machines} == {callee, caller}
    assert_agree(machine, await theirs.get_async(machine_id=stranger))

    cut = await theirs.delete_scope_async(machine_id=stranger, other_machine_id=callee)
    left = await ours.get(stranger)
    assert [each.id for each in left.scoped_machines] == [caller]
    assert (await ours.delete_scope(stranger, caller)).caller == cut.from_machine_id
    assert (await theirs.get_async(machine_id=stranger)).scoped_machines == []
    both.assert_both_performed(EDGES)


async def test_they_agree_on_secret_keys(both: Both) -> None:
    ours, theirs, caller = both.ours.machines, both.theirs.machines, both.world.caller

    mine = await ours.get_secret_key(caller.id)
    assert mine.reveal() == caller.secret_key
    assert (await theirs.get_secret_key_async(machine_id=caller.id)).secret == caller.secret_key

    second = await ours.rotate_secret_key(caller.id, previous_token_ttl=60)
    assert (await theirs.get_secret_key_async(machine_id=caller.id)).secret == second.reveal()
    third = await theirs.rotate_secret_key_async(machine_id=caller.id, previous_token_ttl=0)
    assert (await ours.get_secret_key(caller.id)).reveal() == third.secret
    assert len({caller.secret_key, second.reveal(), third.secret}) == 3
    both.assert_both_performed(SECRET_KEYS)


async def test_they_agree_on_m2m_tokens(both: Both) -> None:
    world, subject = both.world, both.world.caller.id
    async with both.with_key(world.caller.secret_key) as (ours, theirs):
        mine = await ours.m2m_tokens.create(claims={"tenant": "acme"}, seconds_until_expiration=600)
        yours = await theirs.m2m.create_token_async(
            claims={"tenant": "acme"}, seconds_until_expiration=600, min_remaining_ttl_seconds=300
        )
        assert_agree(mine, yours)  # reused, so the very same token
        other = await theirs.m2m.create_token_async(seconds_until_expiration=60)
        assert other.token != mine.token.reveal()

    world.time.advance(1)  # so that last_used_at and updated_at are not created_at
    async with both.with_key(world.callee.secret_key) as (ours, theirs):
        for token in (mine.token.reveal(), other.token):
            assert_agree(
                await ours.m2m_tokens.verify(token),
                await theirs.m2m.verify_token_async(token=token),
            )
    listed = await both.theirs.m2m.list_tokens_async(subject=subject, limit=100)
    page = await both.ours.m2m_tokens.list(subject, limit=100)
    assert_pages_agree(page, listed.m2m_tokens, int(listed.total_count))
    assert {each.id for each in page} == {mine.id, other.id}

    revoked = await both.ours.m2m_tokens.revoke(mine.id, revocation_reason="leaked")
    yours_revoked = await both.theirs.m2m.revoke_token_async(m2m_token_id=other.id)
    assert (revoked.live, yours_revoked.revoked) == (False, True)
    dead = await both.theirs.m2m.list_tokens_async(subject=subject, revoked=True)
    dead_page = await both.ours.m2m_tokens.list(subject, revoked=True)
    assert_pages_agree(dead_page, dead.m2m_tokens, int(dead.total_count))
    assert {each.revocation_reason for each in dead_page} == {"leaked", None}
    both.assert_both_performed(M2M_TOKENS)


async def test_they_agree_on_api_keys(both: Both) -> None:
    ours, theirs = both.ours.api_keys, both.theirs.api_keys
    mine = await ours.create(
        "mine", subject=USER_ID, scopes=["orders:read"], claims={"tier": 1}, description="nightly"
    )
    yours = await theirs.create_api_key_async(
        name="yours", subject=USER_ID, scopes=["orders:write"], seconds_until_expiration=600
    )
    both.world.time.advance(1)  # so that last_used_at and updated_at are not created_at
    for key_id, secret in ((mine.id, mine.secret.reveal()), (yours.id, yours.secret)):
        assert_agree(await ours.get(key_id), await theirs.get_api_key_async(api_key_id=key_id))
        assert (await ours.get_secret(key_id)).reveal() == secret
        found = await theirs.get_api_key_secret_async(api_key_id=key_id)
        assert found.secret == secret
        verified = await theirs.verify_api_key_async(secret=secret)
        assert_agree(await ours.verify(secret), verified)

    page = await ours.list(USER_ID, query="m")
    listed = await theirs.get_api_keys_async(subject=USER_ID, query="m")
    assert_pages_agree(page, listed.data, int(listed.total_count))
    assert [each.id for each in page] == [mine.id]

    changed = await theirs.update_api_key_async(api_key_id=mine.id, subject=OTHER_USER_ID)
    assert_agree(await ours.get(mine.id), changed)
    cleared = await ours.update(yours.id, scopes=[], claims=None, seconds_until_expiration=60)
    assert_agree(cleared, await theirs.get_api_key_async(api_key_id=yours.id))

    assert_agree(
        await ours.revoke(yours.id, revocation_reason="leaked"),
        await theirs.get_api_key_async(api_key_id=yours.id),
    )
    revoked = await theirs.revoke_api_key_async(api_key_id=mine.id)
    assert_agree(await ours.get(mine.id), revoked)
    await theirs.delete_api_key_async(api_key_id=yours.id)
    await ours.delete(mine.id)
    for gone in (mine.id, yours.id):
        with pytest.raises(NotFoundError):
            await ours.get(gone)
    both.assert_both_performed(API_KEYS)


async def test_they_agree_on_oauth_access_tokens_and_the_key_set(both: Both) -> None:
    emulator, ours, theirs = both.world.emulator, both.ours, both.theirs
    token = emulator.add_oauth_token(subject=USER_ID, scopes=["orders:read"])
    verified = await theirs.oauth_access_tokens.verify_async(access_token=token.token)
    mine, yours = plain(await ours.oauth_access_tokens.verify(token.token)), verified.model_dump()
    # Their model has neither, because the contract has neither.
    assert (mine.pop("audience"), mine.pop("actor")) == ([], None)
    for name in ("expiration", "created_at", "updated_at"):  # seconds, unlike all other instants
        yours[name] *= 1000
    assert mine == as_we_say(mine, yours)

    jwt = emulator.add_oauth_token(subject=USER_ID, token_format="jwt", seconds_until_expiration=60)
    both.world.time.advance(61)
    inactive = await theirs.oauth_access_tokens.verify_async(access_token=jwt.token)
    assert isinstance(inactive, models.ResponseBody2)
    assert await ours.oauth_access_tokens.verify(jwt.token) is None

    other = emulator.add_oauth_token(subject=USER_ID)
    await ours.oauth_access_tokens.revoke(token.token, oauth_application_id="oauthapp_emulator")
    await theirs.oauth_applications.revoke_token_async(
        oauth_application_id="oauthapp_emulator", token=other.token
    )
    for gone in (token.token, other.token):
        with pytest.raises(NotFoundError):
            await ours.oauth_access_tokens.verify(gone)

    our_keys, their_keys = await ours.jwks.get(), await theirs.jwks.get_jwks_async()
    assert [key["kid"] for key in our_keys["keys"]] == [key.kid for key in their_keys.keys or ()]
    both.assert_both_performed(OTHERS)


async def failure_of_theirs(call: Any) -> tuple[int, str, str | None]:
    """Status, code and trace id of what the generated client raises."""
    with pytest.raises(models.ClerkBaseError) as failed:
        await call
    body = failed.value.raw_response.json()
    return failed.value.status_code, body["errors"][0]["code"], body.get("clerk_trace_id")


async def failure_of_ours(call: Any, kind: type[BackendAPIError]) -> tuple[int, str, str | None]:
    """Status, code and trace id of what `ClerkClient` raises."""
    with pytest.raises(kind) as failed:
        await call
    return failed.value.status, failed.value.errors[0].code, failed.value.clerk_trace_id


async def test_they_agree_on_errors(both: Both) -> None:
    ours, theirs, world = both.ours, both.theirs, both.world
    unknown = "mch_" + "0" * 27
    caller, callee = world.caller.id, world.callee.id
    async with both.with_key("ak_of_nobody") as (our_stranger, their_stranger):
        refused = [
            await failure_of_ours(our_stranger.m2m_tokens.create(), KeyRefusedError),
            await failure_of_ours(ours.machines.get(unknown), NotFoundError),
            await failure_of_ours(ours.machines.create_scope(caller, callee), ConflictError),
            await failure_of_ours(ours.machines.create(""), InvalidRequestError),
            await failure_of_ours(ours.m2m_tokens.verify("mt_unknown"), NotFoundError),
        ]
        said = [
            await failure_of_theirs(their_stranger.m2m.create_token_async()),
            await failure_of_theirs(theirs.machines.get_async(machine_id=unknown)),
            await failure_of_theirs(
                theirs.machines.create_scope_async(machine_id=caller, to_machine_id=callee)
            ),
            await failure_of_theirs(theirs.machines.create_async(request={"name": ""})),
            await failure_of_theirs(theirs.m2m.verify_token_async(token="mt_unknown")),
        ]
    assert [each[:2] for each in refused] == [each[:2] for each in said]
    assert [each[0] for each in refused] == [401, 404, 409, 422, 404]
    assert all(trace_id for *_, trace_id in refused)


# Walking a long list


def system(machines: int, edges: int) -> dict[str, Any]:
    """A seed in which every machine may call the `edges` machines after it."""
    return {
        "machines": {
            f"service-{number}": {
                "may_call": [
                    f"service-{(number + step) % machines}" for step in range(1, edges + 1)
                ]
            }
            for number in range(machines)
        }
    }


async def walk_whole_list(machines: int, edges: int) -> list[int]:
    """Read all machines, check each and its edges; return the requested page sizes."""
    emulator = ClerkEmulator(seed=system(machines, edges))
    emulator.transport = upstream = Upstream(emulator.transport)
    walked: set[str] = set()
    async with emulator.client() as clerk:
        async for machine in clerk.machines.iter(order_by="+name"):
            assert machine.name not in walked
            assert len(machine.scoped_machines) == edges
            walked.add(machine.name)
        total_count = (await clerk.machines.list(limit=1)).total_count
    emulator.close()
    assert len(walked) == total_count == machines
    return [int(request.url.params["limit"]) for request in upstream.requests[:-1]]


async def test_machines_with_many_edges_are_read_in_pages_of_500() -> None:
    assert await walk_whole_list(machines=300, edges=150) == [500]


@pytest.mark.soak
async def test_ten_thousand_machines_with_150_edges_each_are_read() -> None:
    limits = await walk_whole_list(machines=10_000, edges=150)
    assert limits == [500] * 21  # the last one says that is all
