"""The operations on M2M tokens."""

from __future__ import annotations

import math
import re
from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import EmulatedMachine, Emulator

UNKNOWN = "mch_" + "x" * 27


@pytest.fixture
def billing(emulator: Emulator) -> EmulatedMachine:
    return emulator.add_machine("billing")


@pytest.fixture
def orders(emulator: Emulator, billing: EmulatedMachine) -> EmulatedMachine:
    """May call billing; its tokens live ten minutes."""
    return emulator.add_machine("orders", may_call=[billing], default_token_ttl=600)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def mint(api: httpx.AsyncClient, machine: EmulatedMachine, **body: Any) -> dict[str, Any]:
    answer = await api.post("/m2m_tokens", json=body, headers=bearer(machine.secret_key))
    assert answer.status_code == 201, answer.text
    minted: dict[str, Any] = answer.json()
    return minted


async def verify(
    api: httpx.AsyncClient, token: str, key: str | None = None
) -> tuple[int, dict[str, Any]]:
    headers = {} if key is None else bearer(key)
    answer = await api.post("/m2m_tokens/verify", json={"token": token}, headers=headers)
    return answer.status_code, answer.json()


async def test_a_new_token_has_its_machine_as_subject_and_the_callees_as_scopes(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine, billing: EmulatedMachine
) -> None:
    minted = await mint(api, orders, claims={"tenant": "acme"})
    now = int(emulator.now() * 1000)
    assert re.fullmatch(r"mt_[0-9a-f]{32}", minted["id"])
    assert re.fullmatch(r"mt_[0-9A-Za-z]{48}", minted["token"])
    assert minted | {"id": "", "token": ""} == {
        "object": "machine_to_machine_token",
        "id": "",
        "token": "",
        "subject": orders.id,
        "claims": {"tenant": "acme"},
        "scopes": [billing.id],
        "revoked": False,
        "revocation_reason": None,
        "expired": False,
        "expiration": now + 600_000,
        "last_used_at": None,
        "created_at": now,
        "updated_at": now,
    }


async def test_verifying_returns_the_token_without_its_value_and_updates_last_used_at(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    minted = await mint(api, orders)
    emulator.travel(30)
    status, verified = await verify(api, minted.pop("token"))
    assert status == 200
    assert verified == minted | {"last_used_at": int(emulator.now() * 1000)}


async def test_a_given_lifetime_overrides_the_machines_default(
    api: httpx.AsyncClient, orders: EmulatedMachine
) -> None:
    for given, milliseconds in ((30, 30_000), (0.5, 500), (None, 600_000)):
        minted = await mint(api, orders, seconds_until_expiration=given)
        assert minted["expiration"] - minted["created_at"] == milliseconds


async def test_a_removed_edge_stays_in_the_scopes_of_tokens_minted_before(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine, billing: EmulatedMachine
) -> None:
    before = emulator.mint_m2m_token(orders)
    emulator.cut(orders, billing)
    after = emulator.mint_m2m_token(orders)
    assert (await verify(api, before.token))[1]["scopes"] == [billing.id]
    assert (await verify(api, after.token))[1]["scopes"] == []


async def test_a_machine_key_verifies_only_tokens_that_may_call_its_machine(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine, billing: EmulatedMachine
) -> None:
    stranger = emulator.add_machine("stranger")
    token = emulator.mint_m2m_token(orders).token
    assert (await verify(api, token, billing.secret_key))[0] == 200
    assert (await verify(api, token, stranger.secret_key))[0] == 404
    assert (await verify(api, token, orders.secret_key))[0] == 404
    assert (await verify(api, token))[0] == 200


async def test_a_token_without_the_scope_gets_the_same_error_as_an_unknown_one(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    stranger = emulator.add_machine("stranger")
    token = emulator.mint_m2m_token(orders).token
    _, unscoped = await verify(api, token, stranger.secret_key)
    _, unknown = await verify(api, "mt_" + "x" * 48, stranger.secret_key)
    assert unscoped["errors"] == unknown["errors"]


@pytest.mark.parametrize("token", ["", "mt_", "garbage", "a.b.c", "mt_" + "\u00e9" * 40])
async def test_an_unknown_token_is_not_found(api: httpx.AsyncClient, token: str) -> None:
    assert (await verify(api, token))[0] == 404


async def test_verifying_a_token_id_is_404(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    assert (await verify(api, emulator.mint_m2m_token(orders).id))[0] == 404


async def test_dead_tokens_are_not_found_by_default(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    revoked, expired = emulator.mint_m2m_token(orders), emulator.mint_m2m_token(orders)
    emulator.revoke_m2m_token(revoked.id)
    assert (await verify(api, revoked.token))[0] == 404
    emulator.travel(599)
    assert (await verify(api, expired.token))[0] == 200
    emulator.travel(1)
    assert (await verify(api, expired.token))[0] == 404


async def test_dead_tokens_are_answered_with_flags_when_dead_token_answer_is_flag(
    client: Any,
) -> None:
    emulator = Emulator(dead_token_answer="flag")
    api = client(emulator.secret_key, emulator)
    orders = emulator.add_machine("orders")
    revoked, expired = emulator.mint_m2m_token(orders), emulator.mint_m2m_token(orders)
    emulator.revoke_m2m_token(revoked.id, "leaked")
    status, body = await verify(api, revoked.token)
    assert (status, body["revoked"], body["revocation_reason"]) == (200, True, "leaked")
    assert body["last_used_at"] is None
    emulator.travel(3600)
    status, body = await verify(api, expired.token)
    assert (status, body["expired"]) == (200, True)
    emulator.close()


async def test_the_python_api_mints_opaque_tokens_that_never_expire(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    token = emulator.mint_m2m_token(orders, seconds_until_expiration=math.inf)
    emulator.travel(1e9)
    status, body = await verify(api, token.token)
    assert (status, body["expiration"], body["expired"]) == (200, None, False)
    with pytest.raises(ValueError, match="for ever"):
        emulator.mint_m2m_token(orders, seconds_until_expiration=math.inf, token_format="jwt")


@pytest.mark.parametrize(
    "body",
    [
        {"token_format": "paseto"},
        {"token_format": None},
        {"seconds_until_expiration": 0},
        {"seconds_until_expiration": -1},
        {"seconds_until_expiration": "60"},
        {"seconds_until_expiration": True},
        {"seconds_until_expiration": 1e300},
        {"min_remaining_ttl_seconds": -1},
        {"min_remaining_ttl_seconds": 1.5},
        {"min_remaining_ttl_seconds": None},
        {"scopes": []},
        {"subject": UNKNOWN},
        {"token_format": "jwt", "claims": "text"},
        {"token_format": "jwt", "claims": {"sub": UNKNOWN}},
        {"token_format": "jwt", "claims": {"exp": 9e9}},
    ],
)
async def test_minting_refuses_values_that_the_contract_does_not_allow(
    api: httpx.AsyncClient, orders: EmulatedMachine, body: dict[str, Any]
) -> None:
    answer = await api.post("/m2m_tokens", json=body, headers=bearer(orders.secret_key))
    assert answer.status_code == 400


@pytest.mark.parametrize("claims", [None, {}, {"a": [1, {"b": None}]}, [1, 2], "text", 7, False])
async def test_claims_of_an_opaque_token_are_any_json(
    api: httpx.AsyncClient, orders: EmulatedMachine, claims: object
) -> None:
    assert (await mint(api, orders, claims=claims))["claims"] == claims


async def test_a_live_token_with_enough_life_left_is_reused(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    first = await mint(api, orders, claims={"a": 1, "b": 2})
    emulator.travel(100)
    body = {"claims": {"b": 2, "a": 1}, "min_remaining_ttl_seconds": 500}
    assert await mint(api, orders, **body) == first
    emulator.travel(1)
    assert (await mint(api, orders, **body))["id"] != first["id"]


async def test_a_token_is_not_reused_across_claims_scopes_machines_or_revocation(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine, billing: EmulatedMachine
) -> None:
    first = await mint(api, orders)
    wanted = {"min_remaining_ttl_seconds": 1}
    seen = {first["id"]}

    async def is_new(machine: EmulatedMachine, **body: Any) -> bool:
        minted = await mint(api, machine, **wanted, **body)
        new = minted["id"] not in seen
        seen.add(minted["id"])
        return new

    assert not await is_new(orders)
    assert await is_new(orders, claims={"tenant": "acme"})
    assert await is_new(billing)
    emulator.allow(orders, orders)
    assert await is_new(orders)
    emulator.cut(orders, orders)
    assert not await is_new(orders)
    emulator.revoke_m2m_token(first["id"])
    assert await is_new(orders)


async def test_min_remaining_ttl_must_be_less_than_the_tokens_lifetime(
    api: httpx.AsyncClient, orders: EmulatedMachine
) -> None:
    for body in (
        {"min_remaining_ttl_seconds": 600},
        {"min_remaining_ttl_seconds": 60, "seconds_until_expiration": 60},
    ):
        answer = await api.post("/m2m_tokens", json=body, headers=bearer(orders.secret_key))
        assert answer.status_code == 400
    assert await mint(api, orders, min_remaining_ttl_seconds=599)


async def test_a_jwt_is_never_reused(api: httpx.AsyncClient, orders: EmulatedMachine) -> None:
    body = {"token_format": "jwt", "min_remaining_ttl_seconds": 9999}
    first, second = await mint(api, orders, **body), await mint(api, orders, **body)
    assert first["id"] != second["id"]


async def test_a_jwt_is_neither_listed_nor_revoked(
    api: httpx.AsyncClient, orders: EmulatedMachine
) -> None:
    minted = await mint(api, orders, token_format="jwt")
    listed = (await api.get("/m2m_tokens", params={"subject": orders.id})).json()
    assert listed == {"m2m_tokens": [], "total_count": 0}
    assert (await api.post(f"/m2m_tokens/{minted['id']}/revoke", json={})).status_code == 404


async def test_the_endpoint_verifies_a_jwt_but_returns_no_scopes(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine, billing: EmulatedMachine
) -> None:
    claims = {"aud": [billing.id], "scopes": [billing.id]}
    minted = await mint(api, orders, token_format="jwt", claims=claims)
    status, verified = await verify(api, minted["token"])
    assert (status, verified["id"], verified["subject"]) == (200, minted["id"], orders.id)
    assert (verified["scopes"], verified["claims"]) == ([], claims)
    assert (await verify(api, minted["token"], billing.secret_key))[0] == 404
    emulator.travel(601)
    assert (await verify(api, minted["token"]))[0] == 404


async def test_a_jwt_that_is_not_an_m2m_token_of_the_instance_is_404(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    now = int(emulator.now())
    good = {"sub": orders.id, "jti": "mt_" + "0" * 32, "exp": now + 60}
    assert (await verify(api, emulator.sign_jwt(good)))[0] == 200
    other = Emulator()
    for token in (
        emulator.mint_session_jwt(),
        emulator.mint_template_jwt(),
        emulator.sign_jwt(good, headers={"cat": "cl_B7d4PD111AAA"}),
        emulator.sign_jwt(good | {"sub": UNKNOWN}),
        emulator.sign_jwt(good | {"sub": 7}),
        emulator.sign_jwt(good | {"jti": "mt_1"}),
        emulator.sign_jwt(good | {"exp": "soon"}),
        emulator.sign_jwt(good | {"nbf": now + 5}),
        emulator.sign_jwt({"sub": orders.id, "exp": now + 60}),
        emulator.sign_jwt(good, algorithm="none"),
        emulator.sign_jwt(good, algorithm="HS256", secret=b"guessed"),
        emulator.sign_jwt(good, headers={"kid": None}),
        other.sign_jwt(good, headers={"kid": emulator.instance_id}),
    ):
        assert (await verify(api, token))[0] == 404, token
    other.close()


async def test_listing_pages_one_machines_tokens_newest_first(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine, billing: EmulatedMachine
) -> None:
    added = [emulator.mint_m2m_token(orders).id for _ in range(12)][::-1]
    emulator.mint_m2m_token(billing)

    async def listed(**params: str) -> list[str]:
        answer = await api.get("/m2m_tokens", params={"subject": orders.id, **params})
        assert answer.json()["total_count"] == 12
        return [token["id"] for token in answer.json()["m2m_tokens"]]

    assert await listed() == added[:10]
    assert await listed(limit="5", offset="5") == added[5:10]
    assert await listed(limit="100.0", offset="null") == added
    assert await listed(offset="1e3") == []


async def test_listing_omits_dead_tokens_unless_they_are_requested(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    expired = emulator.mint_m2m_token(orders, seconds_until_expiration=1).id
    revoked = emulator.mint_m2m_token(orders).id
    live = emulator.mint_m2m_token(orders).id
    emulator.revoke_m2m_token(revoked)
    emulator.travel(2)

    async def listed(**params: str) -> set[str]:
        answer = await api.get("/m2m_tokens", params={"subject": orders.id, **params})
        return {token["id"] for token in answer.json()["m2m_tokens"]}

    assert await listed() == {live}
    assert await listed(revoked="false", expired="null") == {live}
    assert await listed(revoked="true") == {live, revoked}
    assert await listed(expired="true") == {live, expired}
    assert await listed(revoked="true", expired="true") == {live, revoked, expired}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "subject=",
        "subject=orders",
        "subject=mch_" + "%C3%A9" * 27,
        f"subject={UNKNOWN}%0A",
        f"subject={UNKNOWN}&limit=0",
        f"subject={UNKNOWN}&limit=101",
        f"subject={UNKNOWN}&limit=null",
        f"subject={UNKNOWN}&offset=-1",
        f"subject={UNKNOWN}&revoked=yes",
        f"subject={UNKNOWN}&expired=1",
        f"subject={UNKNOWN}&expired=",
    ],
)
async def test_listing_refuses_parameters_out_of_bounds(api: httpx.AsyncClient, query: str) -> None:
    assert (await api.get(f"/m2m_tokens?{query}")).status_code == 400


async def test_a_machine_key_lists_and_revokes_its_own_tokens_only(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine, billing: EmulatedMachine
) -> None:
    token = emulator.mint_m2m_token(orders)
    params = {"subject": orders.id}
    revoke = f"/m2m_tokens/{token.id}/revoke"
    own, foreign = bearer(orders.secret_key), bearer(billing.secret_key)
    assert (await api.get("/m2m_tokens", params=params, headers=foreign)).status_code == 403
    assert (await api.post(revoke, json={}, headers=foreign)).status_code == 404
    assert (await api.get("/m2m_tokens", params=params, headers=own)).status_code == 200
    assert (await api.post(revoke, json={}, headers=own)).status_code == 200


async def test_listing_an_unknown_machine_is_not_found(api: httpx.AsyncClient) -> None:
    assert (await api.get("/m2m_tokens", params={"subject": UNKNOWN})).status_code == 404


async def test_revoking_again_keeps_the_first_reason(
    api: httpx.AsyncClient, emulator: Emulator, orders: EmulatedMachine
) -> None:
    token = emulator.mint_m2m_token(orders)
    emulator.travel(9)
    path = f"/m2m_tokens/{token.id}/revoke"
    first = (await api.post(path, json={"revocation_reason": "leaked"})).json()
    assert (first["revoked"], first["revocation_reason"]) == (True, "leaked")
    assert first["updated_at"] - first["created_at"] == 9000
    assert (await api.post(path, json={"revocation_reason": "again"})).json() == first


@pytest.mark.parametrize(
    ("token_id", "body", "status"),
    [
        ("mt_" + "0" * 32, {}, 404),
        ("mt_" + "g" * 32, {}, 400),
        ("mt_1", {}, 400),
        ("mt_" + "0" * 32, {"revocation_reason": 7}, 400),
        ("mt_" + "0" * 32, {"reason": "x"}, 400),
    ],
)
async def test_revoking_checks_the_id_and_the_body(
    api: httpx.AsyncClient, token_id: str, body: dict[str, Any], status: int
) -> None:
    assert (await api.post(f"/m2m_tokens/{token_id}/revoke", json=body)).status_code == status


def test_the_python_api_raises_lookup_error_for_unknown_machines_and_tokens(
    emulator: Emulator, orders: EmulatedMachine
) -> None:
    with pytest.raises(LookupError):
        emulator.mint_m2m_token(UNKNOWN)
    with pytest.raises(LookupError):
        emulator.revoke_m2m_token("mt_" + "0" * 32)
    with pytest.raises(ValueError, match="iss"):
        emulator.mint_m2m_token(orders, token_format="jwt", claims={"iss": "me"})
    assert "mt_" not in repr(emulator.mint_m2m_token(orders)).partition("id=")[0]
