"""The key set: rotation, floods, and failed fetches, which never lose the good keys."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from forging import b64, jwk, jws, resigned, rs256, rsa_key, segment
from jwt_service import claims, service
from outcomes import code

from clerk_m2m import TokenInvalidError, VerificationUnavailableError, VerifierMisconfiguredError
from harness import World

FETCH = "GetJWKS"


def fetches(world: World) -> int:
    """How often the key set was requested, from the emulator or an `intercept`."""
    return sum(request.url.path.endswith("jwks") for request in world.upstream.requests)


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> Any:
    """An `intercept` that answers instead of the emulator."""

    async def intercept(request: httpx.Request) -> httpx.Response:
        return answer(request)

    return intercept


# Floods


async def test_ten_thousand_invented_kids_within_a_minute_cost_three_fetches(world: World) -> None:
    verifier = service(world)
    good = [world.jwt() for _ in range(100)]
    await verifier.verify(good[0])
    _, payload, signature = good[0].split(".")
    world.time.advance(30)
    before = fetches(world)

    for number in range(10_000):
        world.time.advance(60 / 10_000)
        invented = segment({"alg": "RS256", "kid": f"ins_{number}", "typ": "JWT"})
        assert await code(verifier, f"{invented}.{payload}.{signature}") == "token_invalid"
        if number % 100 == 0:
            assert await code(verifier, good[number // 100]) == "accepted"

    assert 1 <= fetches(world) - before <= 3
    assert sum(world.emulator.calls.values()) == fetches(world)


async def test_ten_thousand_bad_signatures_under_a_known_kid_cost_no_fetch(world: World) -> None:
    verifier = service(world)
    good = world.jwt()
    await verifier.verify(good)
    before = len(world.upstream.requests)

    for number in range(10_000):
        world.time.advance(60 / 10_000)
        forged = resigned(good, signature=b64(number.to_bytes(256, "big")))
        assert await code(verifier, forged) == "token_invalid"

    assert len(world.upstream.requests) == before
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_flood_of_invented_kids_at_once_shares_one_fetch(world: World) -> None:
    verifier = service(world)
    _, payload, signature = world.jwt().split(".")
    headers = [segment({"alg": "RS256", "kid": f"ins_{number}"}) for number in range(500)]

    codes = await asyncio.gather(
        *(code(verifier, f"{header}.{payload}.{signature}") for header in headers)
    )

    assert set(codes) == {"token_invalid"}
    assert fetches(world) == 1


async def test_the_first_requests_share_one_fetch(world: World) -> None:
    verifier = service(world)

    codes = await asyncio.gather(*(code(verifier, world.jwt()) for _ in range(50)))

    assert (set(codes), fetches(world)) == ({"accepted"}, 1)


async def test_with_jwt_key_no_key_set_is_fetched(world: World) -> None:
    verifier = service(world, jwt_key=world.emulator.public_key_pem(), secret_key=None,
                       accepts=["m2m_token"])  # fmt: skip

    assert await code(verifier, world.jwt()) == "accepted"
    assert await code(verifier, resigned(world.jwt(), signature=b64(bytes(256)))) == "token_invalid"
    assert world.upstream.requests == []


async def test_a_jwt_without_a_kid_is_refused_without_a_fetch(world: World) -> None:
    nameless = world.emulator.sign_jwt(claims(world), headers={"kid": None})
    fetching = service(world)
    fixed = service(world, jwt_key=world.emulator.public_key_pem())

    assert await code(fetching, nameless) == "token_invalid"
    assert fetches(world) == 0
    assert await code(fixed, nameless) == "accepted"  # it is the only key, so no kid is needed


async def test_a_fetched_key_without_a_kid_is_never_used(world: World) -> None:
    first, second = rsa_key("first"), rsa_key("second")
    keys = {"keys": [jwk(first, kid="first"), jwk(second, kid=None)]}
    world.upstream.intercept = answering(lambda _: httpx.Response(200, json=keys))
    verifier = service(world)

    for header in ({"alg": "RS256"}, {"alg": "RS256", "kid": "first"}):
        assert await code(verifier, jws(header, claims(world), rs256(second))) == "token_invalid"


# Rotation


async def test_a_new_key_is_accepted_within_thirty_seconds(world: World) -> None:
    verifier = service(world)
    await verifier.verify(world.jwt())  # the set was fetched just before the rotation
    world.emulator.rotate_signing_key()
    token = world.jwt()
    await code(verifier, token)  # too early: this attempt must not delay the next one

    world.time.advance(30)

    assert await code(verifier, token) == "accepted"


async def test_the_set_is_fetched_again_for_an_unknown_key_after_25_seconds(world: World) -> None:
    verifier = service(world)
    await verifier.verify(world.jwt())
    world.emulator.rotate_signing_key()

    world.time.advance(24.9)
    assert await code(verifier, world.jwt()) == "token_invalid"
    world.time.advance(0.1)
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_new_key_is_accepted_at_once_when_the_set_is_half_a_minute_old(
    world: World,
) -> None:
    verifier = service(world)
    await verifier.verify(world.jwt())
    world.time.advance(30)
    world.emulator.rotate_signing_key()

    assert await code(verifier, world.jwt()) == "accepted"


@pytest.mark.parametrize("cache_ttl", [60.0, 3600.0])
@pytest.mark.parametrize("seed", range(3))
async def test_a_removed_key_is_refused_within_three_hundred_seconds(
    world: World, cache_ttl: float, seed: int
) -> None:
    verifier = service(world, cache_ttl=cache_ttl)
    token = world.jwt()
    await verifier.verify(token)
    pauses = random.Random(seed)
    world.emulator.rotate_signing_key(keep_previous=False)
    left = 300.0
    while left > 0:
        # Steady use with pauses: the time counts, not the number of requests.
        pause = min(pauses.choice([0.2, 3.0, 50.0]), left)
        world.time.advance(pause)
        left -= pause
        await code(verifier, token)
        await asyncio.sleep(0)  # a refresh in the background continues

    assert await code(verifier, token) == "token_invalid"
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_key_removed_during_a_time_without_requests_is_refused(world: World) -> None:
    verifier, token = service(world), world.jwt()
    await verifier.verify(token)
    world.emulator.rotate_signing_key(keep_previous=False)
    world.time.advance(300)

    assert await code(verifier, token) == "token_invalid"


async def test_the_key_set_is_fetched_at_most_every_150_seconds(world: World) -> None:
    verifier = service(world)

    for _ in range(360):
        world.time.advance(10)
        assert await code(verifier, world.jwt()) == "accepted"

    assert fetches(world) <= 3600 / 150


# Fetches that fail


def _raise(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


ENCRYPTION_KEY = jwk(rsa_key("another"), use="enc")
FAILURES = [
    pytest.param(lambda _: httpx.Response(500), id="500"),
    pytest.param(lambda _: httpx.Response(503, headers={"Retry-After": "3600"}), id="503"),
    pytest.param(lambda _: httpx.Response(429, headers={"Retry-After": "5"}), id="429"),
    pytest.param(lambda _: httpx.Response(404, html="<h1>Not found</h1>"), id="404"),
    pytest.param(lambda _: httpx.Response(401, json={"errors": []}), id="401"),
    pytest.param(lambda _: httpx.Response(200, html="<h1>Maintenance</h1>"), id="HTML"),
    pytest.param(lambda _: httpx.Response(200), id="empty"),
    pytest.param(lambda _: httpx.Response(204), id="no content"),
    pytest.param(
        lambda _: httpx.Response(302, headers={"Location": "http://attacker.test/jwks"}),
        id="a redirect",
    ),
    pytest.param(lambda _: httpx.Response(200, text='{"keys": [{"kty"'), id="truncated"),
    pytest.param(lambda _: httpx.Response(200, json=[]), id="a list"),
    pytest.param(lambda _: httpx.Response(200, json={}), id="no keys member"),
    pytest.param(lambda _: httpx.Response(200, json={"keys": {}}), id="keys that are no list"),
    pytest.param(lambda _: httpx.Response(200, json={"keys": []}), id="no keys"),
    pytest.param(lambda _: httpx.Response(200, json={"keys": [None, 7, {}]}), id="no usable key"),
    pytest.param(lambda _: httpx.Response(200, json={"keys": [ENCRYPTION_KEY]}), id="another use"),
    pytest.param(lambda _: httpx.Response(200, text="[" * 100_000), id="endless nesting"),
    pytest.param(lambda _: httpx.Response(200, text=" " * 1_000_000), id="a megabyte"),
    pytest.param(
        lambda _: httpx.Response(200, content=b"x", headers={"Content-Encoding": "br"}),
        id="compressed",
    ),
    pytest.param(_raise, id="no connection"),
]  # fmt: skip


@pytest.mark.parametrize("answer", FAILURES)
async def test_a_failed_fetch_never_loses_the_good_keys(
    world: World, answer: Callable[[httpx.Request], httpx.Response]
) -> None:
    verifier = service(world)
    await verifier.verify(world.jwt())
    tokens = [world.jwt() for _ in range(4)]
    world.upstream.intercept = answering(answer)

    for token in tokens:
        world.time.advance(120)  # past the lifetime of the set, and over several attempts
        assert await code(verifier, token) == "accepted"

    assert fetches(world) > 1
    assert {request.url.host for request in world.upstream.requests} == {"clerk.test"}


@pytest.mark.parametrize("answer", FAILURES)
async def test_without_any_key_a_jwt_is_503_until_a_fetch_succeeds(
    world: World, answer: Callable[[httpx.Request], httpx.Response]
) -> None:
    verifier, token = service(world), world.jwt()
    world.upstream.intercept = answering(answer)

    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(token)

    assert refused.value.status == 503
    world.upstream.intercept = None
    world.time.advance(31)
    assert await code(verifier, token) == "accepted"


async def test_after_a_failed_first_fetch_the_next_one_comes_after_one_second(world: World) -> None:
    verifier, token = service(world), world.jwt()
    world.emulator.fail(FETCH, status=500)
    assert await code(verifier, token) == "verification_unavailable"
    world.emulator.clear_faults()
    failed = fetches(world)

    world.time.advance(0.9)
    assert await code(verifier, token) == "verification_unavailable"
    assert fetches(world) == failed
    world.time.advance(0.1)
    assert await code(verifier, token) == "accepted"
    assert verifier.stats.unavailable == 2


async def test_a_refusal_of_our_own_key_is_verifier_misconfigured(world: World) -> None:
    verifier = service(world, secret_key="sk_test_wrong")

    with pytest.raises(VerifierMisconfiguredError) as refused:
        await verifier.verify(world.jwt())

    assert refused.value.code == "verifier_misconfigured"


async def test_one_bad_key_among_three_does_not_affect_the_others(world: World) -> None:
    first, second = rsa_key("first"), rsa_key("second")
    bad = jwk(first, kid="bad", n="!")
    keys = {"keys": [jwk(first, kid="first"), bad, jwk(second, kid="second")]}
    world.upstream.intercept = answering(lambda _: httpx.Response(200, json=keys))
    verifier = service(world)

    codes = [
        await code(verifier, jws({"alg": "RS256", "kid": kid}, claims(world), rs256(key)))
        for kid, key in (("first", first), ("second", second), ("bad", first))
    ]

    assert codes == ["accepted", "accepted", "token_invalid"]


async def test_an_unknown_kid_is_503_while_the_key_set_cannot_be_fetched(world: World) -> None:
    verifier = service(world)
    await verifier.verify(world.jwt())
    world.emulator.rotate_signing_key()
    world.time.advance(30)
    world.upstream.intercept = answering(lambda _: httpx.Response(500))

    assert await code(verifier, world.jwt()) == "verification_unavailable"
    assert await code(verifier, world.jwt()) == "verification_unavailable"

    world.upstream.intercept = None
    world.time.advance(26)
    assert await code(verifier, world.jwt()) == "accepted"


async def test_a_flood_without_any_key_causes_one_fetch_a_second(world: World) -> None:
    verifier, token = service(world), world.jwt()
    world.upstream.intercept = answering(lambda _: httpx.Response(500))

    for _ in range(600):
        world.time.advance(0.01)
        assert await code(verifier, token) == "verification_unavailable"

    assert fetches(world) <= 7


async def test_a_hanging_fetch_does_not_delay_jwts_of_known_keys(world: World) -> None:
    verifier, known = service(world, timeout=0.5), [world.jwt(), world.jwt()]
    await verifier.verify(known[0])
    world.emulator.rotate_signing_key()
    world.time.advance(200)
    asked = asyncio.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.upstream.intercept = hang
    unknown = asyncio.create_task(code(verifier, world.jwt()))
    await asked.wait()

    assert await code(verifier, known[1]) == "accepted"
    assert not unknown.done()
    assert await unknown == "verification_unavailable"


async def test_closing_during_a_fetch_does_not_delay_the_next_fetch(
    world: World,
) -> None:
    verifier, token = service(world), world.jwt()
    asked = asyncio.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.upstream.intercept = hang
    waiting = asyncio.create_task(code(verifier, token))
    await asked.wait()
    await verifier.aclose()
    assert await waiting == "verification_unavailable"

    world.upstream.intercept = None
    assert await code(verifier, token) == "accepted"


# Instances


async def test_two_instances_with_one_kid_share_no_keys(world: World) -> None:
    keys = {"a.test": rsa_key("first"), "b.test": rsa_key("second")}

    def key_set(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"keys": [jwk(keys[request.url.host], kid="ins_same")]})

    world.upstream.intercept = answering(key_set)
    at_a, at_b = (service(world, api_url=f"http://{host}") for host in keys)
    of_a, of_b = (
        jws({"alg": "RS256", "kid": "ins_same"}, claims(world), rs256(key)) for key in keys.values()
    )

    codes = [await code(*pair) for pair in ((at_a, of_a), (at_b, of_b), (at_a, of_b), (at_b, of_a))]

    assert codes == ["accepted", "accepted", "token_invalid", "token_invalid"]


async def test_the_public_key_set_is_fetched_without_a_key(world: World) -> None:
    world.upstream.intercept = answering(lambda _: httpx.Response(200, json=world.emulator.jwks()))
    verifier = service(world, jwks_url="https://clerk.example.test/.well-known/jwks")

    await verifier.verify(world.jwt())

    (request,) = world.upstream.requests
    assert str(request.url) == "https://clerk.example.test/.well-known/jwks"
    assert "authorization" not in request.headers


async def test_a_failing_key_set_does_not_stop_opaque_tokens(world: World) -> None:
    verifier = service(world)
    world.emulator.fail(FETCH, status=500)
    for _ in range(10):
        world.time.advance(30)
        assert await code(verifier, world.jwt()) == "verification_unavailable"

    assert await code(verifier, world.token()) == "accepted"


async def test_a_forged_token_is_refused_with_its_code(world: World) -> None:
    with pytest.raises(TokenInvalidError) as refused:
        await service(world).verify(resigned(world.jwt(), signature=b64(bytes(256))))

    assert refused.value.code == "token_invalid"
