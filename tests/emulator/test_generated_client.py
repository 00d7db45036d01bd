"""Clerk's own generated Python client performs every operation over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import fields

import httpx
import jwt
import pytest
import pytest_asyncio
from clerk_backend_api import Clerk, models
from clerk_backend_api.security import (
    AuthenticateRequestOptions,
    TokenVerificationError,
    VerifyTokenOptions,
    authenticate_request,
    verify_token_async,
)

from clerk_m2m.emulator import Emulator
from harness import SIGNING_KEY, serve

USER = "user_" + "u" * 27


@contextmanager
def clerk(server_url: str, key: str) -> Iterator[Clerk]:
    # Without `async_client`, the client makes an asynchronous one and never closes it.
    with (
        httpx.Client(timeout=10) as sync_client,
        Clerk(
            bearer_auth=key,
            server_url=server_url,
            client=sync_client,
            async_client=httpx.AsyncClient(),
            retry_config=None,  # by default it retries a call that got a 500 for an hour
        ) as made,
    ):
        yield made


@pytest.fixture
def api(address: str, emulator: Emulator) -> Iterator[Clerk]:
    with clerk(f"{address}/v1", emulator.secret_key) as made:
        yield made


def test_the_client_creates_reads_changes_and_deletes_machines(api: Clerk) -> None:
    billing = api.machines.create(request={"name": "billing"})
    orders = api.machines.create(
        request={"name": "orders", "scoped_machines": [billing.id], "default_token_ttl": 600}
    )
    assert (orders.default_token_ttl, orders.scoped_machines[0].id) == (600, billing.id)
    assert api.machines.get(machine_id=orders.id).name == "orders"
    renamed = api.machines.update(machine_id=orders.id, name="sales")
    assert (renamed.name, renamed.default_token_ttl) == ("sales", 600)
    assert api.machines.get_secret_key(machine_id=orders.id).secret == orders.secret_key
    rotated = api.machines.rotate_secret_key(machine_id=orders.id, previous_token_ttl=60)
    assert rotated.secret != orders.secret_key
    listed = api.machines.list(limit=1, offset=1, query="i", order_by="-name")
    assert (listed.total_count, listed.data) == (1, [])
    assert [machine.name for machine in api.machines.list(order_by="+name").data] == [
        "billing",
        "sales",
    ]
    assert api.machines.delete(machine_id=orders.id).DELETED
    with pytest.raises(models.ClerkErrors):
        api.machines.get(machine_id=orders.id)


def test_the_client_creates_and_deletes_scopes(api: Clerk) -> None:
    orders = api.machines.create(request={"name": "orders"})
    billing = api.machines.create(request={"name": "billing"})
    scope = api.machines.create_scope(machine_id=orders.id, to_machine_id=billing.id)
    assert (scope.from_machine_id, scope.to_machine_id) == (orders.id, billing.id)
    with pytest.raises(models.ClerkErrors) as caught:
        api.machines.create_scope(machine_id=orders.id, to_machine_id=billing.id)
    assert caught.value.raw_response.status_code == 409
    deleted = api.machines.delete_scope(machine_id=orders.id, other_machine_id=billing.id)
    assert deleted.DELETED


@pytest.mark.parametrize("version", ["", "/v1"])
def test_the_client_mints_verifies_lists_and_revokes_m2m_tokens(
    address: str, emulator: Emulator, version: str
) -> None:
    billing = emulator.add_machine("billing")
    orders = emulator.add_machine("orders", may_call=[billing])
    with clerk(address + version, orders.secret_key) as own:
        minted = own.m2m.create_token(claims={"tenant": "acme"}, seconds_until_expiration=60)
        reused = own.m2m.create_token(
            claims={"tenant": "acme"}, seconds_until_expiration=60, min_remaining_ttl_seconds=30
        )
        signed = own.m2m.create_token(token_format=models.TokenFormat.JWT)
        listed = own.m2m.list_tokens(subject=orders.id, limit=5)
    assert reused.token == minted.token
    assert jwt.decode(signed.token, options={"verify_signature": False})["sub"] == orders.id
    assert [token.id for token in listed.m2m_tokens] == [minted.id]
    with clerk(address + version, billing.secret_key) as callee:
        verified = callee.m2m.verify_token(token=minted.token)
        assert (verified.subject, verified.scopes) == (orders.id, [billing.id])
        with pytest.raises(models.VerifyM2MTokenM2mResponseResponseBody) as caught:
            callee.m2m.verify_token(token="mt_unknown")
        assert caught.value.raw_response.status_code == 404
    with clerk(address + version, emulator.secret_key) as instance:
        revoked = instance.m2m.revoke_token(m2m_token_id=minted.id, revocation_reason="leaked")
        assert (revoked.revoked, revoked.revocation_reason) == (True, "leaked")
        with pytest.raises(models.SDKError) as refused:
            instance.m2m.create_token()
        assert refused.value.raw_response.status_code == 401


@pytest.mark.parametrize("version", ["", "/v1"])
def test_the_client_creates_changes_verifies_and_deletes_api_keys(
    address: str, emulator: Emulator, version: str
) -> None:
    with clerk(address + version, emulator.secret_key) as api:
        created = api.api_keys.create_api_key(
            name="reporting", subject=USER, scopes=["read"], claims={"tier": 1}
        )
        read = api.api_keys.get_api_key(api_key_id=created.id)
        assert (read.name, read.claims) == ("reporting", {"tier": 1})
        listed = api.api_keys.get_api_keys(subject=USER, query="report")
        assert [key.id for key in listed.data] == [created.id]
        updated = api.api_keys.update_api_key(
            api_key_id=created.id, scopes=["write"], seconds_until_expiration=60
        )
        assert (updated.scopes, updated.name) == (["write"], "reporting")
        secret = api.api_keys.get_api_key_secret(api_key_id=created.id).secret
        assert secret == created.secret
        assert api.api_keys.verify_api_key(secret=secret).subject == USER
        assert api.api_keys.revoke_api_key(api_key_id=created.id).revoked
        assert api.api_keys.delete_api_key(api_key_id=created.id).DELETED
        with pytest.raises(models.VerifyAPIKeyAPIKeysResponseResponseBody) as caught:
            api.api_keys.verify_api_key(secret=secret)
        assert caught.value.raw_response.status_code == 404


@pytest.mark.parametrize("version", ["", "/v1"])
def test_the_client_verifies_oauth_access_tokens(
    address: str, emulator: Emulator, version: str
) -> None:
    live = emulator.add_oauth_token(subject=USER, scopes=["read"])
    dead = emulator.add_oauth_token(subject=USER, token_format="jwt", seconds_until_expiration=1)
    emulator.travel(2)
    with clerk(address + version, emulator.secret_key) as api:
        verified = api.oauth_access_tokens.verify(access_token=live.token)
        assert isinstance(verified, models.ResponseBody1)
        assert verified.scopes == ["read"]
        meant = emulator.add_oauth_token(
            subject=USER, audience="https://a.test", actor={"sub": "x"}
        )
        verified = api.oauth_access_tokens.verify(access_token=meant.token)
        assert isinstance(
            verified, models.ResponseBody1
        )  # it ignores members that the contract lacks
        expired = api.oauth_access_tokens.verify(access_token=dead.token)
        assert isinstance(expired, models.ResponseBody2)
        assert expired.ACTIVE is False


def test_a_failed_call_is_not_retried(api: Clerk, emulator: Emulator) -> None:
    """`retry_config=None` works: a defect of the emulator fails a test at once."""
    emulator.fail("ListMachines", status=500, times=1)

    with pytest.raises(models.ClerkBaseError) as failed:
        api.machines.list()

    assert failed.value.status_code == 500
    assert emulator.calls["ListMachines"] == 1


def test_the_client_reads_the_key_set(api: Clerk, emulator: Emulator) -> None:
    found = api.jwks.get_jwks()
    assert found.keys
    (key,) = found.keys
    assert (key.kid, key.kty, key.alg) == (emulator.instance_id, "RSA", "RS256")


@pytest_asyncio.fixture
async def own() -> AsyncIterator[tuple[Emulator, VerifyTokenOptions]]:
    """A served emulator on the real clock, which Clerk's helper uses, and the helper's options."""
    emulator = Emulator(signing_key=SIGNING_KEY)
    async with serve(emulator) as address:
        yield emulator, VerifyTokenOptions(secret_key=emulator.secret_key, api_url=address)
    emulator.close()


async def test_clerks_helper_verifies_api_keys_oauth_tokens_and_jwts(
    own: tuple[Emulator, VerifyTokenOptions],
) -> None:
    emulator, options = own
    orders = emulator.add_machine("orders")
    key = emulator.add_api_key("reporting", subject=USER)
    oauth = emulator.add_oauth_token(subject=USER)
    signed = emulator.mint_m2m_token(orders, token_format="jwt")

    assert (await verify_token_async(key.secret, options))["id"] == key.id
    assert (await verify_token_async(oauth.token, options))["id"] == oauth.id
    assert (await verify_token_async(signed.token, options))["jti"] == signed.id


async def test_clerks_helper_sends_an_opaque_m2m_token_in_the_wrong_property_and_fails(
    own: tuple[Emulator, VerifyTokenOptions],
) -> None:
    emulator, options = own
    token = emulator.mint_m2m_token(emulator.add_machine("orders")).token

    with pytest.raises(TokenVerificationError):
        await verify_token_async(token, options)
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{options.api_url}/m2m_tokens/verify",
            json={"secret": token},
            headers={"Authorization": f"Bearer {emulator.secret_key}"},
        )
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "form_param_missing"


def test_clerks_authenticate_request_takes_no_api_url_but_verifies_a_jwt_offline() -> None:
    emulator = Emulator(signing_key=SIGNING_KEY)
    signed = emulator.mint_m2m_token(emulator.add_machine("orders"), token_format="jwt")
    request = httpx.Request("GET", "http://a.test", headers={"Authorization": signed.token})
    options = AuthenticateRequestOptions(jwt_key=emulator.public_key_pem())

    assert authenticate_request(request, options).is_signed_in
    assert "api_url" not in {field.name for field in fields(AuthenticateRequestOptions)}
    emulator.close()
