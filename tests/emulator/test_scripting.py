"""The endpoints under `/_emulator`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27


@pytest.fixture
async def script(client: Any) -> httpx.AsyncClient:
    """A client without any key."""
    made: httpx.AsyncClient = client(None)
    made.base_url = httpx.URL("http://emulator.test/_emulator/")
    return made


async def test_the_root_returns_the_instance_id_and_the_emulators_time(
    script: httpx.AsyncClient, emulator: Emulator
) -> None:
    answer = await script.get("http://emulator.test/_emulator")
    assert answer.json() == {"instance_id": emulator.instance_id, "now": emulator.now()}


async def test_faults_are_added_listed_and_cleared(
    script: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    body = {"operation": "ListMachines", "status": 429, "retry_after": 3, "times": 2}
    added = await script.post("faults", json=body)
    assert added.status_code == 201
    fault = added.json()
    assert fault | body == fault
    answer = await api.get("/machines")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert (await script.get("faults")).json() == {"faults": [fault | {"times": 1}]}
    assert (await script.delete(f"faults/{fault['id']}")).json() == {"cleared": 1}
    assert (await script.delete(f"faults/{fault['id']}")).status_code == 404
    assert (await api.get("/machines")).status_code == 200
    await script.post("faults", json={"status": 500})
    assert (await script.delete("faults")).json() == {"cleared": 1}


async def test_a_fault_takes_a_body_as_text_or_as_json_and_headers(
    script: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    await script.post("faults", json={"body": "not json", "times": 1, "headers": {"X-Odd": "1"}})
    answer = await api.get("/machines")
    assert (answer.text, answer.headers["x-odd"]) == ("not json", "1")
    await script.post("faults", json={"body": {"revoked": True}, "status": 200, "times": 1})
    assert (await api.get("/machines")).json() == {"revoked": True}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("faults", '{"operation": "nothing", "status": 500}'),
        ("faults", '{"kind": "flood"}'),
        ("faults", '{"status": "500"}'),
        ("faults", '{"status": 500, "headers": {"X": 1}}'),
        ("faults", '{"status": 500, "performed": 1}'),
        ("faults", '{"stauts": 500}'),
        ("faults", "{}"),
        ("faults", "["),
        ("travel", "{}"),
        ("travel", '{"seconds": "60"}'),
        ("travel", '{"seconds": 1e300}'),
        ("travel", '{"seconds": -1e10}'),
        ("oauth_tokens", "{}"),
        ("oauth_tokens", '{"subject": "user_1"}'),
        ("oauth_tokens", f'{{"subject": "{USER}", "audience": 7}}'),
        ("oauth_tokens", f'{{"subject": "{USER}", "actor": "a"}}'),
        ("signing_key", '{"keep_previous": 1}'),
    ],
)
async def test_an_invalid_request_is_refused(
    script: httpx.AsyncClient, path: str, content: str
) -> None:
    answer = await script.post(path, content=content)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"]


async def test_travel_moves_the_time_forward_and_back(
    script: httpx.AsyncClient, emulator: Emulator
) -> None:
    before = emulator.now()
    answer = await script.post("travel", json={"seconds": 90.5})
    assert answer.json() == {"now": before + 90.5} == {"now": emulator.now()}
    await script.post("travel", json={"seconds": -90.5})
    assert emulator.now() == before


async def test_call_counts_are_listed_and_cleared(
    script: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    await api.get("/machines")
    await api.get("/jwks")
    counted = {"ListMachines": 1, "GetJWKS": 1}
    assert (await script.get("calls")).json() == {"calls": counted, "total": 2}
    assert (await script.delete("calls")).json() == {"calls": {}, "total": 0}
    assert (await script.get("calls")).json() == {"calls": {}, "total": 0}


async def test_an_oauth_token_is_made_that_verifies(
    script: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    body = {
        "subject": USER,
        "scopes": ["read"],
        "token_format": "jwt",
        "client_id": "client_1",
        "audience": ["https://a.test"],
        "actor": {"sub": "client_1"},
    }
    made = (await script.post("oauth_tokens", json=body)).json()
    answer = await api.post(
        "/oauth_applications/access_tokens/verify", json={"access_token": made["access_token"]}
    )
    assert (answer.json()["id"], answer.json()["scopes"]) == (made["id"], ["read"])
    assert (answer.json()["aud"], answer.json()["act"]) == (["https://a.test"], {"sub": "client_1"})


async def test_the_signing_key_is_rotated(script: httpx.AsyncClient, emulator: Emulator) -> None:
    kid = (await script.post("signing_key", json={"keep_previous": False})).json()["kid"]
    assert [key["kid"] for key in emulator.jwks()["keys"]] == [kid]


async def test_reset_restores_the_seed_and_keeps_the_instances_keys(client: Any) -> None:
    emulator = Emulator(seed={"machines": {"orders": {}}})
    script, api = client(None, emulator), client(emulator.secret_key, emulator)
    seeded = (await api.get("/machines")).json()["data"]
    session, key_set = emulator.mint_session_jwt(), emulator.jwks()
    assert session
    emulator.add_machine("billing")
    emulator.travel(1e6)
    emulator.fail(status=500)
    answer = await script.post("http://emulator.test/_emulator/reset")
    assert answer.status_code == 200
    assert emulator.faults == []
    assert not emulator.calls
    again = (await api.get("/machines")).json()["data"]
    assert [machine["id"] for machine in again] == [machine["id"] for machine in seeded]
    assert emulator.jwks() == key_set
    emulator.close()


async def test_unknown_endpoints_and_methods_are_refused(script: httpx.AsyncClient) -> None:
    assert (await script.get("nothing")).status_code == 404
    answer = await script.get("reset")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await script.get("faults/1")).status_code == 404
