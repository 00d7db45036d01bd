"""Which secret key may call which operation."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27
MACHINE = "mch_" + "m" * 27
TOKEN = "mt_" + "0" * 32
KEY = "ak_" + "0" * 32

INSTANCE_ONLY: list[tuple[str, str, Any]] = [
    ("GET", "/jwks", None),
    ("GET", "/machines", None),
    ("POST", "/machines", {"name": "orders"}),
    ("GET", f"/machines/{MACHINE}", None),
    ("PATCH", f"/machines/{MACHINE}", {}),
    ("DELETE", f"/machines/{MACHINE}", None),
    ("GET", f"/machines/{MACHINE}/secret_key", None),
    ("POST", f"/machines/{MACHINE}/secret_key/rotate", {"previous_token_ttl": 0}),
    ("POST", f"/machines/{MACHINE}/scopes", {"to_machine_id": MACHINE}),
    ("DELETE", f"/machines/{MACHINE}/scopes/{MACHINE}", None),
    ("POST", "/api_keys", {"name": "reporting", "subject": USER}),
    ("GET", f"/api_keys?subject={USER}", None),
    ("GET", f"/api_keys/{KEY}", None),
    ("PATCH", f"/api_keys/{KEY}", {}),
    ("DELETE", f"/api_keys/{KEY}", None),
    ("GET", f"/api_keys/{KEY}/secret", None),
    ("POST", f"/api_keys/{KEY}/revoke", {}),
    ("POST", "/api_keys/verify", {"secret": "ak_1"}),
    ("POST", "/oauth_applications/access_tokens/verify", {"access_token": "oat_1"}),
]
EITHER: list[tuple[str, str, Any]] = [
    ("GET", f"/m2m_tokens?subject={MACHINE}", None),
    ("POST", f"/m2m_tokens/{TOKEN}/revoke", {}),
    ("POST", "/m2m_tokens/verify", {"token": "mt_1"}),
]
ALL = [*INSTANCE_ONLY, *EITHER, ("POST", "/m2m_tokens", {})]


async def status(api: httpx.AsyncClient, call: tuple[str, str, Any], key: str | None) -> int:
    method, path, body = call
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return (await api.request(method, path, json=body, headers=headers)).status_code


async def test_without_a_valid_key_every_operation_answers_401(client: Any) -> None:
    api = client(None)
    for call in ALL:
        for key in (None, "sk_test_wrong", "ak_wrong", KEY):
            assert await status(api, call, key) == 401, call


async def test_a_machine_key_is_refused_where_the_instance_key_is_required(
    client: Any, emulator: Emulator
) -> None:
    machine = emulator.add_machine("orders", id=MACHINE)
    for call in INSTANCE_ONLY:
        assert await status(client(None), call, machine.secret_key) == 401, call


async def test_m2m_token_operations_accept_either_key_but_minting_only_a_machine_key(
    client: Any, emulator: Emulator
) -> None:
    api = client(None)
    machine = emulator.add_machine("orders", id=MACHINE)
    for call in EITHER:
        assert await status(api, call, machine.secret_key) in (200, 404), call
        assert await status(api, call, emulator.secret_key) in (200, 404), call
    assert await status(api, ("POST", "/m2m_tokens", {}), machine.secret_key) == 201
    answer = await client().post("/m2m_tokens", json={})
    error = answer.json()["errors"][0]
    assert (answer.status_code, error["code"]) == (401, "machine_secret_key_invalid")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Basic {key}")],
        [("Authorization", "{key}")],
        [("Authorization", "Bearer {key}"), ("Authorization", "Bearer {key}")],
    ],
)
async def test_a_missing_repeated_or_non_bearer_authorization_header_is_refused(
    client: Any, emulator: Emulator, headers: list[tuple[str, str]]
) -> None:
    given = [(name, value.format(key=emulator.secret_key)) for name, value in headers]
    answer = await client(None).get("/machines", headers=given)
    assert answer.status_code == 401
    assert answer.json()["errors"][0]["code"] == "authorization_header_format_invalid"


async def test_the_scheme_is_case_insensitive(client: Any, emulator: Emulator) -> None:
    headers = {"Authorization": f"bEARER {emulator.secret_key}"}
    assert (await client(None).get("/machines", headers=headers)).status_code == 200


async def test_a_refused_key_is_never_echoed(client: Any) -> None:
    answer = await client("ak_leaked_secret").get("/machines")
    assert "leaked" not in answer.text
    assert "leaked" not in str(answer.headers)


def test_the_instance_key_is_a_test_key_unless_given() -> None:
    first, second = Emulator(), Emulator()
    assert first.secret_key.startswith("sk_test_")
    assert first.secret_key != second.secret_key
    first.close()
    second.close()
