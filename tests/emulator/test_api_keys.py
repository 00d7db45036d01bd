"""The operations on API keys."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27
ORG = "org_" + "o" * 27
UNKNOWN_KEY = "ak_" + "0" * 32
UNKNOWN_MACHINE = "mch_" + "x" * 27


async def create(api: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await api.post("/api_keys", json={"name": "reporting", "subject": USER} | body)
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def test_a_new_key_has_the_contracts_defaults_and_shows_its_secret_once(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    created = await create(api)
    now = int(emulator.now() * 1000)
    secret = created.pop("secret")
    assert re.fullmatch(r"ak_[0-9a-f]{32}", created["id"])
    assert re.fullmatch(r"ak_[0-9A-Za-z]{48}", secret)
    assert created | {"id": ""} == {
        "object": "api_key",
        "id": "",
        "type": "api_key",
        "subject": USER,
        "name": "reporting",
        "description": None,
        "claims": None,
        "scopes": [],
        "revoked": False,
        "revocation_reason": None,
        "expired": False,
        "expiration": None,
        "created_by": None,
        "last_used_at": None,
        "created_at": now,
        "updated_at": now,
    }
    assert (await api.get(f"/api_keys/{created['id']}")).json() == created
    assert (await api.get(f"/api_keys/{created['id']}/secret")).json() == {"secret": secret}


async def test_creating_stores_every_given_property(api: httpx.AsyncClient) -> None:
    given = {
        "type": "custom",
        "name": "nightly report",
        "description": "d" * 255,
        "subject": ORG,
        "claims": {"tier": [1, 2.5, None]},
        "scopes": ["read", "read", ""],
        "created_by": USER,
    }
    created = await create(api, **given, seconds_until_expiration=1.5)
    assert created | given == created
    assert created["expiration"] - created["created_at"] == 1500


@pytest.mark.parametrize(
    ("version", "status"),
    [("2026-05-12", 200), ("2025-11-10", 201), ("2021-02-05", 201), ("latest", 200), ("", 200)],
)
async def test_creating_returns_201_for_older_api_versions(
    api: httpx.AsyncClient, version: str, status: int
) -> None:
    body = {"name": "reporting", "subject": USER}
    answer = await api.post("/api_keys", json=body, headers={"Clerk-API-Version": version})
    assert answer.status_code == status


@pytest.mark.parametrize(
    "change",
    [
        {"name": "ab"},
        {"name": " reporting"},
        {"name": "reporting\n"},
        {"name": "re\u2028porting"},
        {"name": None},
        {"type": "ab"},
        {"type": "t" * 26},
        {"description": "d" * 256},
        {"subject": "user_short"},
        {"subject": USER + "\n"},
        {"subject": "user_" + "\u00e9" * 27},
        {"subject": "scim_" + "s" * 27},
        {"subject": UNKNOWN_MACHINE},
        {"scopes": "read"},
        {"scopes": [1]},
        {"scopes": None},
        {"created_by": ORG},
        {"seconds_until_expiration": 0},
        {"seconds_until_expiration": False},
        {"seconds_until_expiration": 1e18},
        {"secret": "mine"},
        {"id": UNKNOWN_KEY},
    ],
)
async def test_creating_refuses_values_that_the_contract_does_not_allow(
    api: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    body = {"name": "reporting", "subject": USER} | change
    answer = await api.post("/api_keys", json=body)
    assert answer.status_code == 400
    (name,) = change
    assert answer.json()["errors"][0]["meta"] == {"param_name": name}


async def test_creating_requires_a_name_and_a_subject(api: httpx.AsyncClient) -> None:
    for body in ({"name": "reporting"}, {"subject": USER}, {}):
        answer = await api.post("/api_keys", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (
            400,
            "form_param_missing",
        )


async def test_verifying_returns_the_key_without_its_secret_and_updates_last_used_at(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    created = await create(api, scopes=["read"])
    emulator.travel(60)
    answer = await api.post("/api_keys/verify", json={"secret": created.pop("secret")})
    assert answer.status_code == 200
    assert answer.json() == created | {"last_used_at": int(emulator.now() * 1000)}


async def test_verifying_an_unknown_secret_or_an_id_is_404(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    key = emulator.add_api_key("reporting", subject=USER)
    machine = emulator.add_machine("orders")
    for secret in ("", "ak_unknown", key.id, machine.secret_key):
        answer = await api.post("/api_keys/verify", json={"secret": secret})
        assert answer.status_code == 404


@pytest.mark.parametrize(("dead_token_answer", "status"), [("error", 404), ("flag", 200)])
async def test_dead_keys_are_refused_or_flagged_according_to_dead_token_answer(
    client: Any, dead_token_answer: Any, status: int
) -> None:
    emulator = Emulator(dead_token_answer=dead_token_answer)
    api = client(emulator.secret_key, emulator)
    revoked = emulator.add_api_key("revoked", subject=USER)
    expired = emulator.add_api_key("expired", subject=USER, seconds_until_expiration=10)
    emulator.revoke_api_key(revoked.id)
    emulator.travel(10)
    first = await api.post("/api_keys/verify", json={"secret": revoked.secret})
    second = await api.post("/api_keys/verify", json={"secret": expired.secret})
    assert (first.status_code, second.status_code) == (status, status)
    if status == 200:
        assert (first.json()["revoked"], first.json()["expired"]) == (True, False)
        assert (second.json()["revoked"], second.json()["expired"]) == (False, True)
    emulator.close()


async def test_updating_changes_only_the_given_properties(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    created = await create(api, scopes=["read"], seconds_until_expiration=60)
    created.pop("secret")
    path = f"/api_keys/{created['id']}"
    emulator.travel(5)
    now = int(emulator.now() * 1000)

    async def updated(**body: Any) -> dict[str, Any]:
        answer = await api.patch(path, json=body)
        assert answer.status_code == 200, answer.text
        assert (await api.get(path)).json() == answer.json()
        changed: dict[str, Any] = answer.json()
        return changed

    expected = created | {"updated_at": now}
    assert await updated() == expected
    expected |= {"scopes": ["write"], "claims": {"a": 1}, "description": "d", "subject": ORG}
    assert (
        await updated(scopes=["write"], claims={"a": 1}, description="d", subject=ORG) == expected
    )
    expected |= {"expiration": now + 90_000}
    assert await updated(seconds_until_expiration=90) == expected
    expected |= {"expiration": None, "description": None, "claims": None}
    assert await updated(seconds_until_expiration=None, description=None, claims=None) == expected


@pytest.mark.parametrize(
    "body",
    [{"name": "renamed"}, {"subject": "x"}, {"scopes": None}, {"seconds_until_expiration": 0}],
)
async def test_updating_refuses_values_that_the_contract_does_not_allow(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    created = await create(api)
    assert (await api.patch(f"/api_keys/{created['id']}", json=body)).status_code == 400


async def test_a_deleted_key_no_longer_verifies(api: httpx.AsyncClient) -> None:
    created = await create(api)
    path = f"/api_keys/{created['id']}"
    assert (await api.delete(path)).json() == {
        "id": created["id"],
        "object": "api_key",
        "deleted": True,
    }
    assert (await api.delete(path)).status_code == 404
    answer = await api.post("/api_keys/verify", json={"secret": created["secret"]})
    assert answer.status_code == 404


async def test_revoking_again_keeps_the_first_reason(api: httpx.AsyncClient) -> None:
    path = f"/api_keys/{(await create(api))['id']}/revoke"
    first = (await api.post(path, json={"revocation_reason": "leaked"})).json()
    assert (first["revoked"], first["revocation_reason"]) == (True, "leaked")
    assert (await api.post(path, json={})).json() == first


async def test_every_operation_answers_400_to_a_malformed_id_and_404_to_an_unknown_one(
    api: httpx.AsyncClient,
) -> None:
    for key_id, status in ((UNKNOWN_KEY, 404), ("api_key_" + "0" * 32, 404), ("ak_1", 400)):
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {}),
            ("DELETE", "", None),
            ("GET", "/secret", None),
            ("POST", "/revoke", {}),
        ):
            answer = await api.request(method, f"/api_keys/{key_id}{path}", json=body)
            assert answer.status_code == status


async def test_listing_returns_a_subjects_live_keys_newest_first(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    added = [emulator.add_api_key(f"key {n}", subject=USER).id for n in range(12)][::-1]
    emulator.add_api_key("foreign", subject=ORG)

    async def listed(**params: str) -> list[str]:
        answer = await api.get("/api_keys", params={"subject": USER, **params})
        return [key["id"] for key in answer.json()["data"]]

    assert await listed() == added[:10]
    assert await listed(limit="100", offset="10") == added[10:]
    assert await listed(query="EY 11") == added[:1]
    assert await listed(query=added[3]) == [added[3]]
    assert await listed(type="custom") == []
    emulator.revoke_api_key(added[0])
    assert added[0] not in await listed(limit="100")
    assert added[0] in await listed(limit="100", include_invalid="true")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "subject=orders",
        f"subject={USER}&limit=0",
        f"subject={USER}&limit=101",
        f"subject={USER}&offset=-1",
        f"subject={USER}&include_invalid=1",
        f"subject={USER}&include_invalid=True",
        f"subject={USER}&type=ab",
        f"subject={USER}&subject={USER}",
    ],
)
async def test_listing_refuses_parameters_out_of_bounds(api: httpx.AsyncClient, query: str) -> None:
    assert (await api.get(f"/api_keys?{query}")).status_code == 400


async def test_a_scim_subject_can_be_listed_and_has_no_keys(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api_keys", params={"subject": "scim_" + "s" * 27})
    assert answer.json() == {"data": [], "total_count": 0}


def test_the_python_api_raises_for_bad_subjects_and_unknown_keys(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="subject"):
        emulator.add_api_key("reporting", subject="orders")
    with pytest.raises(ValueError, match="scopes must be a list"):
        emulator.add_api_key("reporting", subject=USER, scopes="read")
    with pytest.raises(ValueError, match="scopes must be a list"):
        emulator.add_oauth_token(subject=USER, scopes="read")
    with pytest.raises(LookupError):
        emulator.add_api_key("reporting", subject=UNKNOWN_MACHINE)
    with pytest.raises(LookupError):
        emulator.revoke_api_key(UNKNOWN_KEY)
    key = emulator.add_api_key("reporting", subject=USER, secret="ak_mine_and_known")
    assert key.secret == "ak_mine_and_known"
    assert key.secret not in repr(key)
