"""Seeding from a TOML file or a mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator, SeedError

BILLING = "mch_" + "b" * 27
ELSEWHERE = "mch_" + "e" * 27
USER = "user_" + "u" * 27

SEED = f"""
[machines.orders]
may_call = ["billing", "{ELSEWHERE}"]
default_token_ttl = 60

[machines.billing]
id = "{BILLING}"
secret_key = "ak_billing_secret"

[[api_keys]]
name = "reporting"
subject = "{USER}"
scopes = ["read"]
secret = "ak_reporting_secret"

[[api_keys]]
name = "batch"
subject = "orders"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "system.toml"
    file.write_text(SEED)
    return file


async def state(api: httpx.AsyncClient) -> dict[str, Any]:
    machines = (await api.get("/machines?order_by=name")).json()
    found: dict[str, Any] = {machine["name"]: machine for machine in machines["data"]}
    for subject in (USER, found["orders"]["id"]):
        found[subject] = (await api.get("/api_keys", params={"subject": subject})).json()
    return found


async def test_a_seed_file_adds_machines_edges_and_keys(client: Any, file: Path) -> None:
    emulator = Emulator(seed=file)
    api = client(emulator.secret_key, emulator)
    seeded = await state(api)
    assert seeded["billing"]["id"] == BILLING
    assert seeded["orders"]["default_token_ttl"] == 60
    assert {machine["id"] for machine in seeded["orders"]["scoped_machines"]} == {
        BILLING,
        ELSEWHERE,
    }
    assert emulator.machine(BILLING).secret_key == "ak_billing_secret"
    key = (await api.post("/api_keys/verify", json={"secret": "ak_reporting_secret"})).json()
    assert (key["subject"], key["scopes"]) == (USER, ["read"])
    assert seeded[seeded["orders"]["id"]]["data"][0]["name"] == "batch"
    emulator.close()


async def test_an_id_without_a_table_becomes_a_machine_named_by_its_id(
    client: Any, file: Path
) -> None:
    emulator = Emulator(seed=file)
    assert emulator.machine(ELSEWHERE).name == ELSEWHERE
    emulator.close()


async def test_seeding_twice_changes_nothing(client: Any, file: Path) -> None:
    emulator = Emulator(seed=file)
    api = client(emulator.secret_key, emulator)
    before = await state(api)
    emulator.travel(60)
    emulator.seed(file)
    assert await state(api) == before
    emulator.close()


async def test_a_changed_file_adds_and_updates_and_removes_nothing(client: Any) -> None:
    emulator = Emulator(seed={"machines": {"orders": {"may_call": ["orders"]}, "old": {}}})
    api = client(emulator.secret_key, emulator)
    orders = (await api.get("/machines?query=orders")).json()["data"][0]["id"]
    changed = {"default_token_ttl": 9, "secret_key": "ak_new_secret", "may_call": ["billing"]}
    keys = [{"name": "batch", "subject": "orders", "scopes": ["read"]}]
    emulator.seed({"machines": {"orders": changed, "billing": {}}, "api_keys": keys})
    keys[0] |= {"scopes": ["write"], "secret": "ak_batch_secret_long"}
    emulator.seed({"machines": {"orders": {}}, "api_keys": keys})
    found = await state(api)
    assert set(found) >= {"orders", "billing", "old"}
    assert found["orders"]["default_token_ttl"] == 9
    assert len(found["orders"]["scoped_machines"]) == 2
    assert emulator.machine(orders).secret_key == "ak_new_secret"
    (key,) = found[orders]["data"]
    assert key["scopes"] == ["write"]
    assert (await api.post("/api_keys/verify", json={"secret": "ak_batch_secret_long"})).is_success
    emulator.close()


async def test_derived_ids_and_secrets_are_the_same_in_every_emulator(
    client: Any, file: Path
) -> None:
    seen = set()
    for _ in range(2):
        emulator = Emulator(seed=file)
        api = client(emulator.secret_key, emulator)
        orders = (await api.get("/machines?query=orders")).json()["data"][0]["id"]
        listed = await api.get("/api_keys", params={"subject": orders})
        key_id = listed.json()["data"][0]["id"]
        secret = (await api.get(f"/api_keys/{key_id}/secret")).json()["secret"]
        seen.add((orders, emulator.machine(orders).secret_key, key_id, secret))
        emulator.close()
    ((orders, machine_secret, key_id, secret),) = seen
    assert len({orders, machine_secret, key_id, secret}) == 4


def _machines(**tables: Any) -> dict[str, Any]:
    return {"machines": tables}


def _keys(*tables: Any) -> dict[str, Any]:
    return {"api_keys": list(tables)}


@pytest.mark.parametrize(
    ("seed", "place"),
    [
        ({"machine": {}}, "machine"),
        ({"machines": []}, "machines"),
        ({"api_keys": {}}, "api_keys"),
        (_machines(orders=7), "machines.orders"),
        (_machines(**{"": {}}), "machines"),
        (_machines(**{"x" * 256: {}}), "machines"),
        (_machines(orders={"may-call": []}), "machines.orders.may-call"),
        (_machines(orders={"id": "mch_1"}), "machines.orders.id"),
        (_machines(orders={"id": 7}), "machines.orders.id"),
        (_machines(orders={"may_call": "billing"}), "machines.orders.may_call"),
        (_machines(orders={"may_call": ["billing"]}), "machines.orders.may_call"),
        (_machines(orders={"may_call": ["mch_1"]}), "machines.orders.may_call"),
        (
            _machines(orders={"may_call": [f"mch_{n:027}" for n in range(151)]}),
            "machines.orders.may_call",
        ),
        (_machines(orders={"secret_key": "sk_test_1"}), "machines.orders.secret_key"),
        (_machines(orders={"default_token_ttl": 0}), "machines.orders.default_token_ttl"),
        (_machines(orders={"default_token_ttl": True}), "machines.orders.default_token_ttl"),
        (_machines(a={"id": BILLING}, b={"id": BILLING}), "machines.b.id"),
        (
            _machines(a={"secret_key": "ak_12345678"}, b={"secret_key": "ak_12345678"}),
            "machines.b.secret_key",
        ),
        (_keys(7), "api_keys[0]"),
        (_keys({"subject": USER}), "api_keys[0]"),
        (_keys({"name": "reporting"}), "api_keys[0]"),
        (_keys({"name": "ab", "subject": USER}), "api_keys[0].name"),
        (_keys({"name": "abc ", "subject": USER}), "api_keys[0].name"),
        (_keys({"name": "abc", "subject": "orders"}), "api_keys[0].subject"),
        (_keys({"name": "abc", "subject": USER, "scope": []}), "api_keys[0].scope"),
        (_keys({"name": "abc", "subject": USER}, {"name": "abc", "subject": USER}), "api_keys[1]"),
        (
            _keys(
                {"name": "abc", "subject": USER, "secret": "ak_1234567890123456"},
                {"name": "def", "subject": USER, "secret": "ak_1234567890123456"},
            ),
            "api_keys[1].secret",
        ),
    ],
)
def test_the_error_for_a_bad_seed_names_the_place(seed: dict[str, Any], place: str) -> None:
    with pytest.raises(SeedError) as caught:
        Emulator(seed=seed)
    assert caught.value.place.startswith(place)
    assert str(caught.value).startswith(f"<mapping>: {place}")


def test_the_error_for_a_bad_file_names_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(SeedError, match=r"missing\.toml: file: cannot be read"):
        Emulator(seed=missing)
    broken = tmp_path / "broken.toml"
    broken.write_text("[machines.orders]\n[machines.orders]\n")
    with pytest.raises(SeedError, match=r"broken\.toml: file: is not TOML"):
        Emulator(seed=broken)
    broken.write_bytes(b"\xff")
    with pytest.raises(SeedError, match="is not TOML"):
        Emulator(seed=broken)


async def test_a_seed_that_fails_adds_nothing(api: httpx.AsyncClient, emulator: Emulator) -> None:
    taken = emulator.add_machine("taken", secret_key="ak_taken_already")
    with pytest.raises(SeedError, match="clashes"):
        emulator.seed(_machines(fine={}, orders={"secret_key": taken.secret_key}))
    assert (await api.get("/machines")).json()["total_count"] == 1


def test_existing_edges_count_towards_the_limit(emulator: Emulator) -> None:
    emulator.seed(_machines(orders={"may_call": [f"mch_{n:027}" for n in range(150)]}))
    with pytest.raises(SeedError, match=r"machines\.orders\.may_call"):
        emulator.seed(_machines(orders={"may_call": ["orders"]}))
