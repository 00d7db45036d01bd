"""Scripted faults, in process and over a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import ConnectionDroppedError, EmulatedToken, Emulator


@pytest.fixture
def token(emulator: Emulator) -> EmulatedToken:
    return emulator.mint_m2m_token(emulator.add_machine("orders"))


async def verify(api: httpx.AsyncClient, token: EmulatedToken) -> httpx.Response:
    return await api.post("/m2m_tokens/verify", json={"token": token.token})


async def test_a_status_fault_applies_to_the_given_number_of_calls(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    fault = emulator.fail("verifyM2MToken", status=503, retry_after=2, times=2)
    assert emulator.faults == [fault]
    assert (await api.get("/machines")).status_code == 200
    for _ in range(2):
        answer = await verify(api, token)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["errors"][0]["code"] == "emulated_fault"
    assert (await verify(api, token)).status_code == 200
    assert emulator.faults == []
    assert emulator.calls["verifyM2MToken"] == 3


async def test_a_fault_on_every_operation_applies_until_it_is_cleared(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail(status=429)
    for _ in range(3):
        assert (await verify(api, token)).status_code == 429
        assert (await api.get("/machines")).status_code == 429
    assert emulator.clear_faults() == 1
    assert (await verify(api, token)).status_code == 200


async def test_faults_apply_in_the_order_in_which_they_were_scripted(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail("verifyM2MToken", status=500, times=1)
    second = emulator.fail("*", status=502, times=1)
    emulator.fail("verifyM2MToken", status=503, times=1)
    assert (await verify(api, token)).status_code == 500
    assert emulator.clear_faults(second.id) == 1
    assert (await verify(api, token)).status_code == 503


async def test_a_fault_prevents_the_operation_unless_performed_is_set(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    emulator.fail("CreateMachine", status=500, times=1)
    await api.post("/machines", json={"name": "lost before"})
    emulator.fail("CreateMachine", status=500, times=1, performed=True)
    answer = await api.post("/machines", json={"name": "lost after"})
    assert answer.status_code == 500
    names = [machine["name"] for machine in (await api.get("/machines")).json()["data"]]
    assert names == ["lost after"]


@pytest.mark.parametrize(
    ("kind", "status", "media_type", "start"),
    [
        ("malformed_json", 200, "application/json", '{"object": "machine_to'),
        ("wrong_shape", 200, "application/json", '{"object": 7'),
        ("html", 200, "text/html; charset=utf-8", "<!doctype html>"),
        ("inactive", 200, "application/json", '{"active": false}'),
        ("oversize", 200, "application/json", '{"padding":"xxx'),
    ],
)
async def test_a_fault_damages_or_replaces_the_body(
    api: httpx.AsyncClient,
    emulator: Emulator,
    token: EmulatedToken,
    kind: Any,
    status: int,
    media_type: str,
    start: str,
) -> None:
    emulator.fail("verifyM2MToken", kind=kind, times=1)
    answer = await verify(api, token)
    assert (answer.status_code, answer.headers["content-type"]) == (status, media_type)
    assert answer.text.startswith(start)
    emulator.fail("verifyM2MToken", kind=kind, status=502, times=1)
    assert (await verify(api, token)).status_code == 502


async def test_an_oversize_body_is_two_mebibytes_of_valid_json(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail(kind="oversize", times=1)
    answer = await verify(api, token)
    assert len(answer.json()["padding"]) == 2 * 1024 * 1024


async def test_a_fault_sends_the_given_body_and_headers(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail(body={"object": "odd"}, headers={"X-Odd": "yes"}, times=1)
    answer = await verify(api, token)
    assert (answer.status_code, answer.json()) == (200, {"object": "odd"})
    assert answer.headers["x-odd"] == "yes"
    emulator.fail(body="<p>", headers={"Content-Type": "text/html"}, times=1)
    assert (await verify(api, token)).headers.get_list("content-type") == ["text/html"]
    emulator.fail(status=418, body="short and stout", times=1)
    assert (await verify(api, token)).text == "short and stout"
    emulator.fail(status=307, body=b"", headers={"Location": "/elsewhere"}, times=1)
    assert (await verify(api, token)).headers["location"] == "/elsewhere"


@pytest.mark.parametrize("flag", ["revoked", "expired"])
async def test_a_fault_flags_the_token_as_revoked_or_expired_in_a_200(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken, flag: Any
) -> None:
    whole = (await verify(api, token)).json()
    emulator.fail("verifyM2MToken", kind=flag)
    answer = await verify(api, token)
    assert (answer.status_code, answer.json()) == (200, whole | {flag: True})
    unknown = await api.post("/m2m_tokens/verify", json={"token": "mt_unknown"})
    assert unknown.status_code == 404


async def test_a_delay_leaves_the_answer_unchanged(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail("verifyM2MToken", delay=0.001, times=1)
    assert (await verify(api, token)).status_code == 200
    assert emulator.faults == []


async def test_a_hang_in_process_ends_when_the_client_is_cancelled(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail("verifyM2MToken", kind="hang", times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await verify(api, token)
    assert (await verify(api, token)).status_code == 200


async def test_a_drop_in_process_raises_because_there_is_no_socket(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail("verifyM2MToken", kind="drop", times=1)
    with pytest.raises(ConnectionDroppedError):
        await verify(api, token)


async def test_clearing_the_faults_ends_hanging_calls(
    api: httpx.AsyncClient, emulator: Emulator, token: EmulatedToken
) -> None:
    emulator.fail("verifyM2MToken", kind="hang", times=1)
    call = asyncio.create_task(verify(api, token))
    while not emulator.calls:  # noqa: ASYNC110 - only the counter shows that the call has arrived
        await asyncio.sleep(0)
    emulator.clear_faults()
    with pytest.raises(ConnectionDroppedError):
        await call


@pytest.mark.parametrize(
    ("operation", "details"),
    [
        ("verifyM2MTokens", {"status": 500}),
        ("*", {}),
        ("*", {"kind": "flood"}),
        ("*", {"kind": "body"}),
        ("*", {"status": 99}),
        ("*", {"status": 600}),
        ("*", {"status": 500, "times": 0}),
        ("*", {"status": 500, "delay": -1}),
        ("*", {"kind": "drip", "pace": 0}),
        ("*", {"status": 500, "headers": {"X-Odd": "a\r\nb"}}),
        ("*", {"status": 500, "retry_after": "\u0663"}),
    ],
)
def test_a_fault_that_could_never_apply_is_rejected(
    emulator: Emulator, operation: str, details: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        emulator.fail(operation, **details)
    assert emulator.faults == []


def post(address: str, emulator: Emulator, timeout: float = 5.0) -> httpx.Response:
    return httpx.post(
        f"{address}/m2m_tokens/verify",
        json={"token": "mt_unknown"},
        headers={"Authorization": f"Bearer {emulator.secret_key}"},
        timeout=timeout,
    )


def test_a_drop_over_a_socket_closes_the_connection_without_an_answer(
    address: str, emulator: Emulator
) -> None:
    emulator.fail("verifyM2MToken", kind="drop", times=1)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        post(address, emulator)
    assert post(address, emulator).status_code == 404


def test_204_and_304_are_sent_without_a_body(address: str, emulator: Emulator) -> None:
    for status in (204, 304):
        emulator.fail("verifyM2MToken", status=status, times=1)
        answer = post(address, emulator)
        assert (answer.status_code, answer.content) == (status, b"")


def test_a_hang_over_a_socket_never_answers(address: str, emulator: Emulator) -> None:
    emulator.fail("verifyM2MToken", kind="hang", times=1)
    with pytest.raises(httpx.ReadTimeout):
        post(address, emulator, timeout=0.1)
    assert post(address, emulator).status_code == 404


def test_a_drip_over_a_socket_sends_one_byte_at_a_time(address: str, emulator: Emulator) -> None:
    emulator.fail("verifyM2MToken", kind="drip", pace=0.001, times=1)
    with httpx.stream(
        "POST",
        f"{address}/m2m_tokens/verify",
        json={"token": "mt_unknown"},
        headers={"Authorization": f"Bearer {emulator.secret_key}"},
    ) as answer:
        chunks = list(answer.iter_raw())
    assert json.loads(b"".join(chunks))["errors"]
    assert len(chunks) > 10


def test_a_drip_stops_when_the_client_disconnects(address: str, emulator: Emulator) -> None:
    emulator.fail("verifyM2MToken", kind="drip", pace=30, times=1)
    with pytest.raises(httpx.ReadTimeout):
        post(address, emulator, timeout=0.1)
    assert post(address, emulator).status_code == 404
