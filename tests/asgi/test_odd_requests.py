"""Odd requests at ASGI level, including some that no server would pass on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asgi_messages import http_scope, play
from hypothesis import given
from hypothesis import strategies as st
from odd_requests import FIELDS, GOOD
from starlette.types import Message, Scope

from clerk_m2m import MachineAuthMiddleware
from clerk_m2m.credentials import MAX_CREDENTIAL_BYTES
from harness import World, open_world, protected


async def ask(
    app: Any, headers: list[tuple[bytes, bytes]], path: str = "/"
) -> tuple[Message, dict[str, Any]]:
    """Call an ASGI app with these raw headers; return the start and the body of its answer."""
    request = {"type": "http.request", "body": b"", "more_body": False}
    start, *rest = await play(app, http_scope(path, headers=headers), request)
    return start, json.loads(b"".join(message.get("body", b"") for message in rest))


MALFORMED = [
    pytest.param(values, id=sentence)
    for sentence, values, may_count in FIELDS
    # These have no scheme that we know, so they are no credential.
    if sentence not in ("the token alone", "no space after the scheme")
    and (not may_count or sentence == "a fold after the scheme")
]


@pytest.mark.parametrize("values", MALFORMED)
async def test_an_odd_credential_is_malformed_and_costs_no_call(
    world: World, values: list[bytes]
) -> None:
    token = world.token().encode()
    headers = [(b"authorization", value.replace(GOOD, token)) for value in values]

    start, body = await ask(protected(world.verifier()), headers)

    assert (start["status"], body["code"]) == (400, "token_malformed")
    assert dict(start["headers"])[b"www-authenticate"] == b'Bearer error="invalid_request"'
    assert world.upstream.requests == []


async def test_a_token_is_verified_once_whatever_spaces_are_around_it(world: World) -> None:
    verifier, token = world.verifier(), world.token().encode()

    for value in (b"Bearer <good>", b"Bearer <good> ", b"\tBearer  <good>\t"):
        headers = [(b"authorization", value.replace(GOOD, token))]
        start, _ = await ask(protected(verifier), headers)
        assert start["status"] == 200

    assert verifier.stats.paid == 1


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("value", [b"<good>", b"Bearer<good>", b"Token <good>", b"Basic <good>"])
async def test_a_token_without_its_scheme_is_no_credential(
    world: World, value: bytes, required: bool
) -> None:
    headers = [(b"authorization", value.replace(GOOD, world.token().encode()))]

    start, body = await ask(protected(world.verifier(), required=required), headers)

    if required:
        assert (start["status"], body["code"]) == (401, "token_missing")
    else:
        assert (start["status"], body["subject"]) == (200, None)
    assert world.upstream.requests == []


@pytest.mark.parametrize("required", [True, False])
async def test_two_credentials_are_refused_even_where_none_is_required(
    world: World, required: bool
) -> None:
    good = (b"authorization", b"Bearer " + world.token().encode())

    start, body = await ask(protected(world.verifier(), required=required), [good, good])

    assert (start["status"], body["code"]) == (400, "token_malformed")


async def test_a_credential_of_8_kib_is_verified_and_one_byte_more_is_malformed(
    world: World,
) -> None:
    app = protected(world.verifier())
    longest = b"Bearer mt_" + b"x" * (MAX_CREDENTIAL_BYTES - len(b"Bearer mt_"))

    at_limit, body = await ask(app, [(b"authorization", longest)])
    assert (at_limit["status"], body["code"]) == (401, "token_invalid")
    calls = len(world.upstream.requests)
    over_limit, body = await ask(app, [(b"authorization", longest + b"x")])
    assert (over_limit["status"], body["code"]) == (400, "token_malformed")
    assert len(world.upstream.requests) == calls


class Unreadable:
    """A header value that has a length; reading anything else of it fails."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@pytest.mark.parametrize("header", [b"authorization", b"x-api-key"])
@pytest.mark.parametrize("size", [MAX_CREDENTIAL_BYTES + 1, 70_000, 2**20])
async def test_only_the_length_of_a_too_long_header_is_read(
    world: World, header: bytes, size: int
) -> None:
    verifier = world.verifier(world.live_settings(api_key_header="X-API-Key"))
    value: Any = Unreadable(size)

    start, body = await ask(MachineAuthMiddleware(_never, verifier=verifier), [(header, value)])

    assert (start["status"], body["code"]) == (400, "token_malformed")
    assert world.upstream.requests == []


async def _never(_scope: Scope, _receive: Any, _send: Any) -> None:
    raise AssertionError("the app was reached")


@pytest.mark.parametrize(
    "path", ["/open/", "//open", "/open/..", "/OPEN", "/open\0", "/open ", "open", "", "/open/x"]
)
async def test_only_the_exact_path_is_excluded(world: World, path: str) -> None:
    app = MachineAuthMiddleware(_never, verifier=world.verifier(), exclude=["/open"])

    start, body = await ask(app, [], path)

    assert (start["status"], body["code"]) == (401, "token_missing")


# Any header value


HEADER_VALUE = st.binary(max_size=200) | st.builds(
    lambda head, tail: head + tail,
    st.sampled_from([b"Bearer ", b"bearer mt_", b"Basic ", b"Bearer ak_", b"Bearer a.b.", b","]),
    st.binary(max_size=60),
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service() -> AsyncIterator[Any]:
    """One service for all examples of a property."""
    async with open_world() as world:
        yield protected(world.verifier())


@pytest.mark.asyncio(loop_scope="module")
@given(values=st.lists(HEADER_VALUE, min_size=1, max_size=3))
async def test_any_bytes_in_the_header_are_refused_with_400_or_401(
    service: Any, values: list[bytes]
) -> None:
    start, body = await ask(service, [(b"authorization", value) for value in values])

    assert start["status"] in (400, 401)
    assert body["code"].startswith("token_")
