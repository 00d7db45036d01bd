"""The checks that every operation makes before it reads the properties of a request."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27
JSON = {"Content-Type": "application/json"}


async def create_key(api: httpx.AsyncClient, content: bytes, **headers: str) -> httpx.Response:
    return await api.post("/api_keys", content=content, headers=JSON | headers)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"name": NaN}',
        b'{"claims": Infinity}',
        b'{"claims": -Infinity}',
        b'{"claims": 1e999}',
        b'{"claims": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"claims": ' + b"9" * 5000 + b"}",
        b'{"claims": ' + b"[" * 65 + b"]" * 65 + b"}",
        b"[" * 200_000,
        b"{'name': 'single quotes'}",
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(
    api: httpx.AsyncClient, content: bytes
) -> None:
    answer = await create_key(api, content)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (
        400,
        "request_body_invalid",
    )


async def test_a_body_needs_the_json_content_type(api: httpx.AsyncClient) -> None:
    content = json.dumps({"name": "reporting", "subject": USER}).encode()
    for media_type, status in (
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 400),
        ("application/x-www-form-urlencoded", 400),
        ("application/jsonp", 400),
        ("", 400),
    ):
        answer = await create_key(api, content, **{"Content-Type": media_type})
        assert answer.status_code == status, media_type


async def test_a_body_over_one_mebibyte_is_refused(api: httpx.AsyncClient) -> None:
    def body(size: int) -> bytes:
        shell = json.dumps({"name": "reporting", "subject": USER, "claims": ""}).encode()
        return shell[:-2] + b"x" * (size - len(shell)) + shell[-2:]

    assert (await create_key(api, body(1024 * 1024))).status_code == 200
    answer = await create_key(api, body(1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (
        400,
        "request_body_too_large",
    )


async def test_the_body_of_a_get_is_ignored(api: httpx.AsyncClient) -> None:
    answer = await api.request("GET", "/machines", content=b"{", headers=JSON)
    assert answer.status_code == 200


async def test_non_ascii_text_is_stored_unchanged(api: httpx.AsyncClient) -> None:
    name = "cl\u00e9 \U0001f511 \x00 \u05de\u05e4\u05ea\u05d7"
    answer = await api.post("/api_keys", json={"name": name, "subject": USER})
    assert answer.json()["name"] == name


async def test_an_unknown_path_is_404_in_clerks_error_format(client: Any) -> None:
    for path in ("/nothing", "/machines/", "/machines/a/b", "/v1/v1/machines", "/"):
        answer = await client().get(f"http://emulator.test{path}")
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == "resource_not_found"
        assert answer.headers["x-clerk-trace-id"] == answer.json()["clerk_trace_id"]


async def test_a_wrong_method_is_405_in_clerks_error_format(api: httpx.AsyncClient) -> None:
    for method, path, allowed in (
        ("PUT", "/machines", "GET, POST"),
        ("GET", "/m2m_tokens/verify", "POST"),
        ("GET", "/api_keys/verify", "POST"),
        ("POST", "/jwks", "GET"),
        ("PUT", "/machines/mch_1", "DELETE, GET, PATCH"),
    ):
        answer = await api.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["errors"][0]["code"] == "method_not_allowed"


async def test_every_operation_answers_with_and_without_v1(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    machine = emulator.add_machine("orders")
    token = emulator.mint_m2m_token(machine)
    key = emulator.add_api_key("reporting", subject=USER)
    oauth = emulator.add_oauth_token(subject=USER)
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/jwks", None),
        ("GET", "/machines", None),
        ("GET", f"/machines/{machine.id}", None),
        ("GET", f"/m2m_tokens?subject={machine.id}", None),
        ("POST", "/m2m_tokens/verify", {"token": token.token}),
        ("POST", f"/m2m_tokens/{token.id}/revoke", {}),
        ("GET", f"/api_keys?subject={USER}", None),
        ("POST", "/api_keys/verify", {"secret": key.secret}),
        ("POST", f"/api_keys/{key.id}/revoke", {}),
        ("POST", "/oauth_applications/access_tokens/verify", {"access_token": oauth.token}),
    ]
    for method, path, body in calls:
        short = await api.request(method, f"http://emulator.test{path}", json=body)
        long = await api.request(method, f"http://emulator.test/v1{path}", json=body)
        if "verify" in path or method == "GET":
            assert (short.status_code, short.json()) == (200, long.json()), path
        else:
            assert (short.status_code, long.status_code) == (200, 200)


async def test_calls_are_counted_by_operation(api: httpx.AsyncClient, emulator: Emulator) -> None:
    await api.get("/machines")
    await api.get("http://emulator.test/machines")
    await api.get("/machines?limit=0")
    await api.get("/nothing")
    assert emulator.calls == {"ListMachines": 3}


async def test_websockets_are_closed_and_the_lifespan_is_answered(emulator: Emulator) -> None:
    async def talk(scope: dict[str, Any], *messages: str) -> list[str]:
        waiting, sent = list(messages), []

        async def receive() -> dict[str, Any]:
            return {"type": waiting.pop(0)}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await emulator(scope, receive, send)
        return sent

    assert await talk({"type": "websocket"}, "websocket.connect") == ["websocket.close"]
    assert await talk({"type": "lifespan"}, "lifespan.startup", "lifespan.shutdown") == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_every_answer_has_the_date_of_the_emulators_own_clock(
    api: httpx.AsyncClient, emulator: Emulator
) -> None:
    emulator.travel(86_400)

    for path in ("/machines", "/nothing", "/_emulator"):
        answer = await api.get(path)
        (date,) = answer.headers.get_list("date")
        assert parsedate_to_datetime(date).timestamp() == emulator.now()
