"""Tokens and keys as canaries: driven through every fault, they turn up nowhere that is read.

What is searched: every log record of every logger at every level, every answer, the `repr` of all
that can be reached from the settings, the verifier, the identities and the errors, and tracebacks.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args
from weakref import WeakKeyDictionary

import httpx
import pytest

from clerk_m2m import ClerkClient, ClerkM2MError, Settings, Verifier
from clerk_m2m._secret import Secret
from clerk_m2m.emulator._faults import FaultKind
from harness import API_URL, USER_ID, World, bearer, calling, protected, serve

WINDOW = 16  # a part of a secret this long is the secret's, not chance


def reachable(root: Any) -> Iterator[str]:
    """The `repr` of an object and of everything that can be reached from it within our package."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, Secret):
            if isinstance(each, Secret):
                yield f"{each!r} {each}"
            continue
        seen.add(id(each))
        yield repr(each)
        waiting.extend(_held(each))


def _held(value: Any) -> list[Any]:
    if isinstance(value, Mapping | WeakKeyDictionary):
        return [item for pair in value.items() for item in pair]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    held: list[Any] = []
    if type(value).__module__.startswith("clerk_m2m"):
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = [getattr(value, name) for name in names if hasattr(value, name)]
        held += vars(value).values() if hasattr(value, "__dict__") else ()
    if isinstance(value, BaseException):
        held += [value.__cause__, value.__context__, *value.args, str(value)]
    return held


@dataclass
class Aviary:
    """The canaries and all that was seen while they were driven through."""

    world: World
    log: pytest.LogCaptureFixture
    canaries: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def keep(self, secret: str) -> str:
        """Make a canary of a secret."""
        self.canaries.append(secret)
        return secret

    def look(self, *roots: Any) -> None:
        """Search all that can be reached from these."""
        for root in roots:
            self.seen.extend(reachable(root))

    async def ask(self, verifier: Verifier, token: str) -> httpx.Response | None:
        """Verify through the door and directly, and keep all that comes of it."""
        answer = None
        async with calling(protected(verifier)) as client:
            answer = await client.get("/", headers=bearer(token))
        self.seen += [answer.text, str(answer.headers.raw)]
        try:
            self.look(await verifier.verify(token))
        except ClerkM2MError as exc:
            self.look(exc)
            self.seen += traceback.format_exception(exc)
        self.look(verifier, verifier.settings, verifier.stats)
        return answer

    def assert_silent(self) -> None:
        """Fail where a part of a canary turned up."""
        for record in self.log.records:
            self.seen += [record.getMessage(), repr(record.args), record.exc_text or ""]
            if record.exc_info:
                self.seen += traceback.format_exception(*record.exc_info)
        text = "\n".join(dict.fromkeys(self.seen))
        for canary in self.canaries:
            for start in range(3, len(canary) - WINDOW + 1):
                assert canary[start : start + WINDOW] not in text, "a canary sang"


@pytest.fixture
def aviary(world: World, caplog: pytest.LogCaptureFixture) -> Aviary:
    """A world whose keys are canaries, with every logger at its most talkative."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "clerk_m2m", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    found = Aviary(world, caplog)
    found.keep(world.callee.secret_key)
    found.keep(world.emulator.secret_key)
    return found


def credentials(aviary: Aviary) -> list[str]:
    """One good credential of each kind."""
    emulator, caller = aviary.world.emulator, aviary.world.caller
    minted = [
        emulator.mint_m2m_token(caller).token,
        emulator.mint_m2m_token(caller, token_format="jwt").token,
        emulator.add_api_key("key", subject=USER_ID).secret,
        emulator.add_oauth_token(subject=USER_ID).token,
        emulator.add_oauth_token(subject=USER_ID, token_format="jwt").token,
    ]
    return [aviary.keep(token) for token in minted]


def settings(world: World, **given: Any) -> Settings:
    """All credentials, both keys, a live graph, and a short deadline."""
    return world.live_settings(**({"timeout": 0.2} | given))


async def test_nothing_sings_while_all_is_well(aviary: Aviary) -> None:
    verifier = aviary.world.verifier(settings(aviary.world))

    for token in credentials(aviary):
        answer = await aviary.ask(verifier, token)
        assert answer is not None
        assert answer.status_code == 200

    assert any(record.name == "httpx" for record in aviary.log.records)
    aviary.assert_silent()


@pytest.mark.parametrize("kind", get_args(FaultKind))
async def test_nothing_sings_whatever_fault_strikes(aviary: Aviary, kind: FaultKind) -> None:
    emulator = aviary.world.emulator
    verifier = aviary.world.verifier(settings(aviary.world))
    tokens = credentials(aviary)
    statuses = [400, 401, 403, 404, 422, 429, 500, 503] if kind == "status" else [None]
    for status in statuses:
        body = "nonsense" if kind == "body" else None
        emulator.fail(kind=kind, status=status, body=body, delay=0.01 if kind == "delay" else 0)
        for token in tokens:
            await aviary.ask(verifier, token)
        emulator.clear_faults()
        aviary.world.time.advance(60)

    aviary.assert_silent()


def _error(**members: Any) -> dict[str, Any]:
    return {"errors": [{"message": "m", "long_message": "l", "code": "c", "meta": {}} | members]}


# What an upstream might answer with what it was sent.
ECHOES: dict[str, Callable[[int, str], httpx.Response]] = {
    "in the message": lambda status, said: httpx.Response(
        status, json=_error(message=f"bad: {said}", long_message="")
    ),
    "in the long message": lambda status, said: httpx.Response(
        status, json=_error(long_message=f"The secret {said} is unknown.")
    ),
    "in the code": lambda status, said: httpx.Response(status, json=_error(code=said)),
    "as the name of a field": lambda status, said: httpx.Response(
        status, json=_error(meta={"param_name": said})
    ),
    "as the trace id": lambda status, said: httpx.Response(
        status, json=_error() | {"clerk_trace_id": said}
    ),
    "cut short": lambda status, said: httpx.Response(
        status, json=_error(long_message=f"Unknown: {said[:24]}…")
    ),
    "cut in two": lambda status, said: httpx.Response(
        status, json=_error(message=said[:20], long_message=said[:20], code=said[20:])
    ),
    "as text": lambda status, said: httpx.Response(status, text=said),
    "as HTML": lambda status, said: httpx.Response(status, html=f"<pre>{said}</pre>"),
    "as a JSON string": lambda status, said: httpx.Response(status, json=said),
    "in the headers": lambda status, said: httpx.Response(
        status, headers={"Retry-After": said, "Location": said, "X-Echo": said, "Date": said}
    ),
    "as every member": lambda status, said: httpx.Response(
        status,
        json=dict.fromkeys(
            ("id", "subject", "scopes", "expiration", "revoked", "active", "keys", "errors"), said
        ),
    ),
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 500])
async def test_nothing_sings_when_the_upstream_repeats_what_it_was_sent(
    aviary: Aviary, status: int, echo: str
) -> None:
    async def repeat(request: httpx.Request) -> httpx.Response:
        said = request.headers.get("authorization", "") + request.content.decode()
        secrets = [canary for canary in aviary.canaries if canary in said]
        # The credential where there is one, else the key.
        return ECHOES[echo](status, secrets[-1] if secrets else "nothing")

    tokens = credentials(aviary)
    aviary.world.upstream.intercept = repeat
    verifier = aviary.world.verifier(settings(aviary.world))

    for token in tokens:
        answer = await aviary.ask(verifier, token)
        assert answer is not None
        assert answer.status_code in (401, 503)

    aviary.assert_silent()


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_our_own_key_repeated_by_the_upstream_is_withheld_too(
    aviary: Aviary, status: int
) -> None:
    async def repeat(request: httpx.Request) -> httpx.Response:
        key = request.headers.get("authorization", "")
        return httpx.Response(status, json=_error(long_message=f"What is {key}?"))

    tokens = credentials(aviary)
    aviary.world.upstream.intercept = repeat

    for token in tokens:
        await aviary.ask(aviary.world.verifier(settings(aviary.world)), token)

    aviary.assert_silent()


async def test_a_token_that_is_refused_for_its_form_is_not_shown(aviary: Aviary) -> None:
    verifier = aviary.world.verifier(settings(aviary.world, accepts=["m2m_token"]))
    good = credentials(aviary)
    session = aviary.keep(aviary.world.emulator.mint_session_jwt())
    header, payload, signature = session.split(".")
    odd = [session, good[2], good[3], f"{header}.{payload}", f"{payload}.{header}.{signature}"]
    odd += [f"{payload}.{payload}.{payload}", session + "=", "mt_" + payload, payload]

    for token in odd:
        answer = await aviary.ask(verifier, token)
        assert answer is not None
        assert answer.status_code == 401

    aviary.assert_silent()


async def test_the_cache_holds_no_token(aviary: Aviary) -> None:
    verifier = aviary.world.verifier(settings(aviary.world))
    for token in credentials(aviary):
        await aviary.ask(verifier, token)
    assert len(verifier._verdicts) == 5

    aviary.look(dict(verifier._verdicts._positive), dict(verifier._verdicts._negative))

    aviary.assert_silent()


async def test_a_client_shows_no_key(aviary: Aviary) -> None:
    world = aviary.world
    client = ClerkClient(
        secret_key=world.emulator.secret_key,
        machine_secret_key=world.callee.secret_key,
        api_url=API_URL,
        transport=world.upstream,
    )
    created = await client.machines.create("new")
    minted = await client.m2m_tokens.create()
    key = await client.api_keys.create(name="key", subject=USER_ID)
    for secret in (created.secret_key, minted.token, key.secret):
        aviary.keep(secret.reveal())

    aviary.look(client, created, minted, key)
    await client.aclose()

    aviary.assert_silent()


@asynccontextmanager
async def served(world: World) -> AsyncIterator[Verifier]:
    """A verifier that reaches the emulator over a socket, through all of httpx and httpcore."""
    async with serve(world.emulator) as origin:
        verifier = Verifier(settings(world, api_url=origin, timeout=1.0), clock=world.time.clock)
        try:
            yield verifier
        finally:
            await verifier.aclose()


async def test_the_network_layers_at_their_most_talkative_do_not_sing(aviary: Aviary) -> None:
    world = aviary.world
    async with served(world) as verifier:
        for token in credentials(aviary):
            answer = await aviary.ask(verifier, token)
            assert answer is not None
            assert answer.status_code == 200
        for kind in ("drop", "malformed_json", "oversize", "html"):
            world.emulator.fail(kind=kind)
            for token in credentials(aviary):
                await aviary.ask(verifier, token)
            world.emulator.clear_faults()
            world.time.advance(2)

    assert any(record.name.startswith("httpcore") for record in aviary.log.records)
    aviary.assert_silent()


def test_the_search_finds_what_it_is_meant_to_find(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    aviary = Aviary(world, caplog)
    canary = aviary.keep("ak_" + "0123456789abcdef" * 3)
    error = ClerkM2MError("outer")
    error.__cause__ = ValueError({"deep": [f"says {canary[5:25]}"]})

    aviary.look(error)

    with pytest.raises(AssertionError, match="sang"):
        aviary.assert_silent()
