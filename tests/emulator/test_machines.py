"""The operations on machines and the edges between them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27
UNKNOWN = "mch_" + "x" * 27


def code(response: httpx.Response) -> str:
    """Check the shape of the error body and return the code of its only error."""
    body = response.json()
    assert body.keys() == {"errors", "clerk_trace_id"}
    (error,) = body["errors"]
    assert error.keys() - {"meta"} == {"message", "long_message", "code"}
    return str(error["code"])


def ids(machines: list[dict[str, Any]]) -> list[str]:
    return [machine["id"] for machine in machines]


async def test_only_the_answer_to_creating_a_machine_has_its_secret_key(
    api: httpx.AsyncClient,
) -> None:
    created = (await api.post("/machines", json={"name": "orders"})).json()
    assert created["object"] == "machine"
    assert created["secret_key"].startswith("ak_")
    assert created["default_token_ttl"] == 3600
    read = (await api.get(f"/machines/{created['id']}")).json()
    assert "secret_key" not in read
    assert read == {name: value for name, value in created.items() if name != "secret_key"}


async def test_the_secret_key_of_a_machine_can_be_read_later(api: httpx.AsyncClient) -> None:
    created = (await api.post("/machines", json={"name": "orders"})).json()
    answer = await api.get(f"/machines/{created['id']}/secret_key")
    assert answer.json() == {"object": "machine_secret_key", "secret": created["secret_key"]}


async def test_timestamps_of_machines_are_milliseconds(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    created = (await api.post("/machines", json={"name": "orders"})).json()
    assert created["created_at"] == created["updated_at"] == int(emulator.now() * 1000)


async def test_a_machine_is_created_with_the_machines_it_may_call(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    billing = emulator.add_machine("billing")
    body = {"name": "orders", "scoped_machines": [billing.id, billing.id]}
    created = (await api.post("/machines", json=body)).json()
    assert ids(created["scoped_machines"]) == [billing.id]
    assert "scoped_machines" not in created["scoped_machines"][0]


async def test_a_machine_cannot_be_created_with_an_edge_to_an_unknown_one(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.post("/machines", json={"name": "orders", "scoped_machines": [UNKNOWN]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["meta"] == {"param_name": "scoped_machines"}
    assert (await api.get("/machines")).json()["total_count"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "x" * 256},
        {"name": 7},
        {"name": None},
        {"name": "orders", "default_token_ttl": 0},
        {"name": "orders", "default_token_ttl": 315_360_001},
        {"name": "orders", "default_token_ttl": 1.5},
        {"name": "orders", "default_token_ttl": True},
        {"name": "orders", "default_token_ttl": "60"},
        {"name": "orders", "scoped_machines": "mch"},
        {"name": "orders", "scoped_machines": [1]},
        {"name": "orders", "scoped_machines": ["mch"] * 151},
    ],
)
async def test_creating_a_machine_refuses_values_that_the_contract_does_not_allow(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await api.post("/machines", json=body)).status_code == 422


async def test_bounds_of_a_machine_are_inclusive(api: httpx.AsyncClient) -> None:
    for body in (
        {"name": "x", "default_token_ttl": 1},
        {"name": "x" * 255, "default_token_ttl": 315_360_000},
        {"name": "whole", "default_token_ttl": 60.0, "not_in_the_contract": 1},
    ):
        assert (await api.post("/machines", json=body)).status_code == 200


async def test_updating_a_machine_changes_only_the_given_properties(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    machine = emulator.add_machine("orders", default_token_ttl=60)
    emulator.travel(5)
    renamed = (await api.patch(f"/machines/{machine.id}", json={"name": "sales"})).json()
    assert (renamed["name"], renamed["default_token_ttl"]) == ("sales", 60)
    assert renamed["updated_at"] - renamed["created_at"] == 5000
    timed = (await api.patch(f"/machines/{machine.id}", json={"default_token_ttl": 90})).json()
    assert (timed["name"], timed["default_token_ttl"]) == ("sales", 90)
    assert (await api.patch(f"/machines/{machine.id}")).json() == timed


async def test_every_operation_answers_404_for_an_unknown_machine(api: httpx.AsyncClient) -> None:
    for method, path, body in (
        ("GET", f"/machines/{UNKNOWN}", None),
        ("PATCH", f"/machines/{UNKNOWN}", {"name": "x"}),
        ("DELETE", f"/machines/{UNKNOWN}", None),
        ("GET", f"/machines/{UNKNOWN}/secret_key", None),
        ("POST", f"/machines/{UNKNOWN}/secret_key/rotate", {"previous_token_ttl": 0}),
        ("POST", f"/machines/{UNKNOWN}/scopes", {"to_machine_id": UNKNOWN}),
        ("DELETE", f"/machines/{UNKNOWN}/scopes/{UNKNOWN}", None),
    ):
        answer = await api.request(method, path, json=body)
        assert (answer.status_code, code(answer)) == (404, "resource_not_found"), path


async def test_deleting_a_machine_deletes_its_edges_tokens_and_keys(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    billing = emulator.add_machine("billing")
    orders = emulator.add_machine("orders", may_call=[billing])
    emulator.allow(billing, orders)
    token = emulator.mint_m2m_token(orders)
    key = emulator.add_api_key("reporting", subject=orders)

    deleted = (await api.delete(f"/machines/{orders.id}")).json()

    assert deleted == {"object": "machine", "id": orders.id, "deleted": True}
    assert (await api.get(f"/machines/{orders.id}")).status_code == 404
    assert (await api.get(f"/machines/{billing.id}")).json()["scoped_machines"] == []
    verified = await api.post("/m2m_tokens/verify", json={"token": token.token})
    assert verified.status_code == 404
    assert (await api.post("/api_keys/verify", json={"secret": key.secret})).status_code == 404
    listing = await api.get(
        "/m2m_tokens", params={"subject": billing.id}, headers=bearer(orders.secret_key)
    )
    assert listing.status_code == 401


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_the_list_is_newest_first_and_pages_without_gaps(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    added = [emulator.add_machine(f"machine {index}").id for index in range(25)]
    default = (await api.get("/machines")).json()
    assert ids(default["data"]) == added[::-1][:10]
    assert default["total_count"] == 25
    walked: list[str] = []
    for offset in (0, 10, 20, 30):
        page = (await api.get("/machines", params={"limit": 10, "offset": offset})).json()
        walked += ids(page["data"])
    assert walked == added[::-1]


@pytest.mark.parametrize(
    ("order_by", "names"),
    [
        ("name", "abc"),
        ("+name", "abc"),
        ("-name", "cba"),
        ("created_at", "bca"),
        ("+created_at", "bca"),
        ("-created_at", "acb"),
    ],
)
async def test_order_by_sorts_the_list(
    api: httpx.AsyncClient, emulator: Emulator, order_by: str, names: str
) -> None:
    for name in "bca":
        emulator.add_machine(name)
        emulator.travel(1)
    for query in (f"order_by={order_by}", str(httpx.QueryParams(order_by=order_by))):
        page = (await api.get(f"/machines?{query}")).json()
        assert "".join(machine["name"] for machine in page["data"]) == names


async def test_a_query_finds_an_exact_id_or_a_part_of_a_name(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    orders = emulator.add_machine("Orders service")
    emulator.add_machine("billing 100%")

    async def found(query: str) -> list[str]:
        page = (await api.get("/machines", params={"query": query})).json()
        assert page["total_count"] == len(page["data"])
        return [machine["name"] for machine in page["data"]]

    assert await found("ders") == ["Orders service"]
    assert await found("ORDERS") == ["Orders service"]
    assert await found("%") == ["billing 100%"]
    assert await found(orders.id) == ["Orders service"]
    assert await found(orders.id[:-1]) == []
    assert len(await found("")) == 2


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=1.5",
        "limit=ten",
        "limit=",
        "limit=1&limit=2",
        "limit=%EF%BC%91",
        "limit=" + "9" * 5000,
        "offset=-1",
        "offset=NaN",
        "offset=null",
        "order_by=id",
        "order_by=--name",
        "order_by=name%3BDROP%20TABLE%20machines",
    ],
)
async def test_the_list_refuses_parameters_out_of_bounds(
    api: httpx.AsyncClient, query: str
) -> None:
    assert (await api.get(f"/machines?{query}")).status_code == 422


async def test_an_offset_past_the_end_returns_an_empty_page(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    emulator.add_machine("orders")
    for offset in ("1", "99999999999999999999999999", "1e300"):
        page = (await api.get(f"/machines?limit=500&offset={offset}")).json()
        assert page == {"data": [], "total_count": 1}


async def test_rotation_returns_a_new_key_and_the_old_one_works_for_its_grace_period(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    machine = emulator.add_machine("orders")
    rotated = await api.post(
        f"/machines/{machine.id}/secret_key/rotate", json={"previous_token_ttl": 60}
    )
    new_key = rotated.json()["secret"]
    assert rotated.json() == {"object": "machine_secret_key", "secret": new_key}
    assert new_key != machine.secret_key
    assert emulator.machine(machine.id).secret_key == new_key

    async def mints(key: str) -> bool:
        answer = await api.post("/m2m_tokens", json={}, headers=bearer(key))
        return answer.status_code == 201

    assert await mints(new_key)
    emulator.travel(59)
    assert await mints(machine.secret_key)
    emulator.travel(1)
    assert not await mints(machine.secret_key)
    assert await mints(new_key)


async def test_rotation_without_a_grace_period_invalidates_the_old_key_at_once(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    machine = emulator.add_machine("orders")
    path = f"/machines/{machine.id}/secret_key/rotate"
    await api.post(path, json={"previous_token_ttl": 0})
    answer = await api.post("/m2m_tokens", json={}, headers=bearer(machine.secret_key))
    assert (answer.status_code, code(answer)) == (401, "machine_secret_key_invalid")


async def test_two_rotations_leave_two_old_keys_each_with_its_own_grace_period(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    machine = emulator.add_machine("orders")
    path = f"/machines/{machine.id}/secret_key/rotate"
    second = (await api.post(path, json={"previous_token_ttl": 100})).json()["secret"]
    await api.post(path, json={"previous_token_ttl": 10})
    emulator.travel(50)
    first = await api.post("/m2m_tokens", json={}, headers=bearer(machine.secret_key))
    assert first.status_code == 201
    assert (await api.post("/m2m_tokens", json={}, headers=bearer(second))).status_code == 401


@pytest.mark.parametrize("body", [{}, {"previous_token_ttl": -1}, {"previous_token_ttl": 28_801}])
async def test_rotation_refuses_a_grace_period_out_of_bounds(
    api: httpx.AsyncClient, emulator: Emulator, body: dict[str, Any]
) -> None:
    path = f"/machines/{emulator.add_machine('orders').id}/secret_key/rotate"
    assert (await api.post(path, json=body)).status_code == 422


async def test_an_edge_is_directed(api: httpx.AsyncClient, emulator: Emulator) -> None:
    orders, billing = emulator.add_machine("orders"), emulator.add_machine("billing")
    created = await api.post(f"/machines/{orders.id}/scopes", json={"to_machine_id": billing.id})
    assert created.json() == {
        "object": "machine_scope",
        "from_machine_id": orders.id,
        "to_machine_id": billing.id,
        "created_at": int(emulator.now() * 1000),
    }
    seen = (await api.get(f"/machines/{orders.id}")).json()["scoped_machines"]
    assert ids(seen) == [billing.id]
    assert (await api.get(f"/machines/{billing.id}")).json()["scoped_machines"] == []


async def test_the_same_edge_twice_is_a_conflict(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    billing = emulator.add_machine("billing")
    orders = emulator.add_machine("orders", may_call=[billing])
    path, body = f"/machines/{orders.id}/scopes", {"to_machine_id": billing.id}
    answer = await api.post(path, json=body)
    assert (answer.status_code, code(answer)) == (409, "duplicate_record")


async def test_a_machine_may_be_allowed_to_call_itself(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    orders = emulator.add_machine("orders")
    path, body = f"/machines/{orders.id}/scopes", {"to_machine_id": orders.id}
    assert (await api.post(path, json=body)).status_code == 200


async def test_an_edge_to_an_unknown_machine_is_not_found(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    path = f"/machines/{emulator.add_machine('orders').id}/scopes"
    assert (await api.post(path, json={"to_machine_id": UNKNOWN})).status_code == 404
    assert (await api.post(path)).status_code == 422


async def test_a_machine_has_at_most_150_edges(api: httpx.AsyncClient, emulator: Emulator) -> None:
    callees = [emulator.add_machine(f"callee {index}") for index in range(151)]
    orders = emulator.add_machine("orders", may_call=callees[:150])
    path, body = f"/machines/{orders.id}/scopes", {"to_machine_id": callees[150].id}
    answer = await api.post(path, json=body)
    assert (answer.status_code, code(answer)) == (422, "machine_scopes_limit_exceeded")
    assert len((await api.get(f"/machines/{orders.id}")).json()["scoped_machines"]) == 150


async def test_deleting_an_edge_removes_one_direction_and_is_404_the_second_time(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    orders, billing = emulator.add_machine("orders"), emulator.add_machine("billing")
    emulator.allow(orders, billing)
    emulator.allow(billing, orders)
    path = f"/machines/{orders.id}/scopes/{billing.id}"
    assert (await api.delete(path)).json() == {
        "object": "machine_scope",
        "from_machine_id": orders.id,
        "to_machine_id": billing.id,
        "deleted": True,
    }
    assert (await api.delete(path)).status_code == 404
    seen = (await api.get(f"/machines/{billing.id}")).json()["scoped_machines"]
    assert ids(seen) == [orders.id]


def test_the_python_api_raises_for_what_the_http_api_refuses(emulator: Emulator) -> None:
    orders = emulator.add_machine("orders", id="mch_" + "o" * 27)
    with pytest.raises(ValueError, match="already"):
        emulator.add_machine("again", id=orders.id)
    with pytest.raises(ValueError, match="27 word characters"):
        emulator.add_machine("odd", id="mch_short")
    with pytest.raises(ValueError, match="taken"):
        emulator.add_machine("thief", secret_key=orders.secret_key)
    with pytest.raises(LookupError):
        emulator.allow(orders, UNKNOWN)
    with pytest.raises(LookupError, match="there is no machine 'orders': give a machine"):
        emulator.add_machine("odd", may_call=["orders"])
    with pytest.raises(LookupError):
        emulator.delete_machine(UNKNOWN)
    callees = [emulator.add_machine(f"callee {index}") for index in range(151)]
    with pytest.raises(ValueError, match="at most 150"):
        emulator.add_machine("greedy", may_call=callees)
    emulator.cut(orders, orders)
    emulator.delete_machine(orders)
    with pytest.raises(LookupError):
        emulator.machine(orders.id)


def test_the_repr_of_a_machine_has_no_secret_key(emulator: Emulator) -> None:
    machine = emulator.add_machine("orders")
    assert machine.secret_key not in repr(machine)
