"""A credential with a cached verdict: its form is not checked again, but all other checks are made.

The middleware has two paths. If our `Verifier` has a cached verdict, `recall` finds it by the bytes
of the credential. Every other credential is extracted and verified with `verify`, and so is every
credential if the verifier is not our own class. These tests send each request through both paths
and require equal answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec
from itertools import product
from typing import Any, TypeAlias

import pytest
from asgi_messages import ask, http_scope
from httpx import MockTransport, Response
from hypothesis import example, given, settings, strategies
from starlette.types import ASGIApp, Receive, Scope, Send

from clerk_m2m import Identity, RefusalError, Settings, TokenInvalidError, Verifier
from clerk_m2m.credentials import MAX_CREDENTIAL_BYTES
from harness import USER_ID, World, bearer, calling, open_world, protected

Fields: TypeAlias = list[tuple[bytes, bytes]]

API_KEY_HEADER = b"x-api-key"
BEFORE = (b"", b" ", b"\t", b"\x00", b",")
WORDS = (b"Bearer", b"bearer", b"BEARER", b"Basic", b"")
SPACES = (b" ", b"  ", b"", b"\t", b"\xa0", b"\x00")
AFTER = (b"", b" ", b"\t", b"=", b"\x00", b"\n", b"\xc3\xa9", b",", b", Bearer mt_1", b"A")


class ByProtocol:
    """A verifier that has only the methods of `CredentialVerifier`."""

    def __init__(self, verifier: Verifier) -> None:
        self.settings, self.stats, self.reporter = verifier.settings, verifier.stats, None
        self.verify, self.aclose = verifier.verify, verifier.aclose


@dataclass
class Switch:
    """A graph with one answer for every edge: `known` in memory, or `fetched` if that is None."""

    known: bool | None = True
    fetched: bool = True

    def allows(self, caller: str, callee: str) -> bool | None:
        """Return the answer in memory."""
        return self.known

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        """Return the answer that is fetched when `allows` returns None."""
        return self.fetched


class BothWays:
    """Two equal verifiers behind a middleware each: ours, and one that has only the protocol."""

    def __init__(self, world: World, configured: Settings, **given: Any) -> None:
        self.verifiers = [world.verifier(configured) for _ in range(2)]
        recalling, other = self.verifiers
        self._apps: list[ASGIApp] = [
            protected(recalling, **given),
            protected(ByProtocol(other), **given),  # type: ignore[arg-type]
        ]

    async def ask(self, fields: Fields) -> tuple[int, dict[str, Any]]:
        """Return the answer to a request; fail if the two paths answer differently."""
        scope = http_scope()
        first, second = [await ask(app, {**scope, "headers": fields}) for app in self._apps]
        assert first == second, fields
        return first

    def counted(self) -> list[Any]:
        """Return the counters of each verifier: sources of verdicts, refusals, and sent calls."""
        return [
            (each.stats.verifications(), dict(each.stats.refusals), each.stats.sent)
            for each in self.verifiers
        ]


def credentials(world: World) -> list[str]:
    """Return credentials of each kind, of callers that may call and of some that may not."""
    emulator = world.emulator
    keys = [emulator.add_api_key(each, subject=each) for each in (USER_ID, world.caller.id)]
    return [
        world.token(world.stranger),
        *(world.jwt(machine) for machine in (world.caller, world.stranger)),
        *(key.secret for key in keys),
        emulator.add_oauth_token(subject=USER_ID).token,
        "mt_" + "n" * 32,
        "ak_" + "n" * (MAX_CREDENTIAL_BYTES - len("ak_")),
        "nobody's",
    ]


def spellings(token: bytes, key: bytes) -> list[Fields]:
    """Return headers with a known token and a known API key, well-formed and ill-formed."""
    right = b"Bearer " + token
    values = [word + space + token for word in WORDS for space in SPACES]
    values += [before + right for before in BEFORE] + [right + after for after in AFTER]
    values += [right.ljust(MAX_CREDENTIAL_BYTES + more) for more in (0, 1)]
    values += [b"Bearer ", b"", b"Bearer " + key, token]
    one = (b"authorization", right)
    return [
        *([(b"authorization", value)] for value in values),
        [one, one],
        [one, (b"authorization", b"Basic x")],
        *([one, (API_KEY_HEADER, value)] for value in (key, token, b"")),
        [(API_KEY_HEADER, key), one],
        *([(API_KEY_HEADER, value)] for value in (key, token, right, b"Bearer " + key, key + b" ")),
    ]


async def test_every_spelling_of_a_cached_credential_is_answered_as_if_uncached(
    world: World,
) -> None:
    both = BothWays(world, world.live_settings(api_key_header="X-API-Key", graph=Switch()))
    token, key = world.token(), world.emulator.add_api_key("reports", subject=USER_ID).secret
    long = world.jwt(claims={"pad": "x" * 5611})  # valid, but too long for a header
    assert 0 <= MAX_CREDENTIAL_BYTES - len(long) < len("Bearer ")
    for verifier in both.verifiers:
        for each in (token, key, long):
            await verifier.verify(each)

    seen = {(await both.ask(fields))[0] for fields in spellings(token.encode(), key.encode())}
    too_long = await both.ask([(b"authorization", b"Bearer " + long.encode())])

    assert seen == {200, 400, 401}
    assert too_long[1]["code"] == "token_malformed"
    for verifier in both.verifiers:  # a spelling adds no entry
        assert verifier.measure().cached["positive"] == 3
    assert both.counted()[0] == both.counted()[1]


def numbers(below: int) -> strategies.SearchStrategy[int]:
    return strategies.integers(0, below - 1)


usual = strategies.tuples(strategies.just(b"Bearer "), numbers(10), strategies.just(b""))
bare = strategies.tuples(strategies.just(b""), numbers(10), strategies.just(b""))
unusual = strategies.tuples(
    strategies.tuples(*map(strategies.sampled_from, (BEFORE, WORDS, SPACES))).map(b"".join),
    numbers(10),
    strategies.sampled_from(AFTER),
)
fields_sent = strategies.lists(
    strategies.tuples(
        strategies.sampled_from([b"authorization"] * 3 + [API_KEY_HEADER, b"host"]),
        usual | unusual | bare,
    ),
    max_size=3,
)
one_usual = usual.map(lambda value: [(b"authorization", value)])
events = strategies.lists(
    strategies.tuples(strategies.just("ask"), one_usual | fields_sent)
    | strategies.tuples(strategies.just("invalidate"), numbers(4))
    | strategies.tuples(
        strategies.just("edge"),
        strategies.tuples(strategies.sampled_from([True, False, None]), strategies.booleans()),
    )
    | strategies.tuples(
        strategies.sampled_from(["invalidate machine", "revoke", "wait"]), strategies.none()
    ),
    min_size=20,
    max_size=40,
)
KINDS = ["m2m_token", "api_key", "oauth_token"]
configured = strategies.fixed_dictionaries(
    {
        "accepts": strategies.sampled_from([KINDS[:1], KINDS]),
        "api_key_header": strategies.sampled_from([None, "X-API-Key"]),
        "has_graph": strategies.booleans(),
        "has_machine_key": strategies.booleans(),
    }
)
given_to_middleware = strategies.fixed_dictionaries(
    {
        "required": strategies.booleans(),
        "report_only": strategies.booleans(),
        "exclude": strategies.sampled_from([[], ["/"], ["/other"]]),
    }
)
EACH = [("ask", [(b"authorization", (b"Bearer ", number, b""))]) for number in range(10)]
SEQUENCE: list[tuple[str, Any]] = []
for each in [
    *[("edge", (False, True)), ("edge", (None, False)), ("edge", (True, True)), ("wait", None)],
    *[("invalidate", 0), ("revoke", None), ("invalidate machine", None), ("wait", None)],
    *[("wait", None), ("wait", None)],
]:
    SEQUENCE += [each, *EACH, *EACH]
PLAIN = {"required": True, "report_only": False, "exclude": []}
EVERYTHING = {"accepts": KINDS, "api_key_header": None, "has_machine_key": False}


@settings(derandomize=True, database=None, max_examples=30)
@given(events, configured, given_to_middleware)
@example(EACH, EVERYTHING | {"has_graph": False}, PLAIN)
@example(EACH, EVERYTHING | {"has_graph": False}, PLAIN | {"exclude": ["/"]})
@example(SEQUENCE, EVERYTHING | {"has_graph": True}, PLAIN)
def test_both_paths_answer_the_same_after_any_sequence_of_events(
    events: list[tuple[str, Any]], configured: dict[str, Any], given: dict[str, Any]
) -> None:
    asyncio.run(_play(events, configured, given))


async def _play(
    events: list[tuple[str, Any]], configured: dict[str, Any], given: dict[str, Any]
) -> None:
    options, graph = dict(configured), Switch()
    options["graph"] = graph if options.pop("has_graph") else None
    if not options.pop("has_machine_key"):
        options["machine_secret_key"] = None
    if "api_key" not in options["accepts"]:
        options["api_key_header"] = None
    async with open_world() as world:
        both = BothWays(world, world.live_settings(**options), **given)
        minted = world.emulator.mint_m2m_token(world.caller)
        known = [minted.token, *credentials(world)]
        for verifier, token in product(both.verifiers, known):
            with suppress(RefusalError):
                await verifier.verify(token)
        for event, about in events:
            match event:
                case "ask":
                    fields = [
                        (name, before + known[number].encode() + after)
                        for name, (before, number, after) in about
                    ]
                    await both.ask(fields)
                case "invalidate":
                    for each in both.verifiers:
                        each.invalidate(token=known[about])
                case "invalidate machine":
                    for each in both.verifiers:
                        each.invalidate(machine_id=world.caller.id)
                case "revoke":
                    world.emulator.revoke_m2m_token(minted)
                case "edge":
                    graph.known, graph.fetched = about
                case "wait":
                    # Lifetimes vary by up to 10 %. No multiple of 20 s is near such an end.
                    world.time.advance(20)
            recalled, other = both.counted()
            assert recalled == other, (event, about)


async def test_a_cached_verdict_is_refreshed_before_it_expires(world: World) -> None:
    verifier, token = world.verifier(), world.token()

    async with calling(protected(verifier)) as client:
        # A verdict with a `cache_ttl` of 60 s is due after 45 s at the latest, and expires after
        # 54 s at the earliest.
        for seconds in (0, 0, 50):
            world.time.advance(seconds)
            assert (await client.get("/", headers=bearer(token))).status_code == 200

    assert verifier.stats.refreshes == 1
    assert verifier.stats.hits == 2


async def deny(_token: str, **_given: Any) -> Identity:
    raise TokenInvalidError("Banned.")


class Stricter(Verifier):
    """Refuses every caller while `banned` is True."""

    banned = False

    async def verify(
        self, token: str, *, while_waiting: AbstractAsyncContextManager[None] | None = None
    ) -> Identity:
        if self.banned:
            raise TokenInvalidError("Banned.")
        return await super().verify(token, while_waiting=while_waiting)


def ban_in_subclass(_patch: pytest.MonkeyPatch, verifier: Verifier) -> None:
    assert isinstance(verifier, Stricter)
    verifier.banned = True


def ban_on_instance(patch: pytest.MonkeyPatch, verifier: Verifier) -> None:
    patch.setattr(verifier, "verify", deny)


def ban_on_class(patch: pytest.MonkeyPatch, _verifier: Verifier) -> None:
    patch.setattr(Verifier, "verify", lambda _self, token, **given: deny(token, **given))


class Wrapper:
    """Stands in place of a method and shows its attributes, as the wrappers of wrapt do."""

    def __init__(self, wrapped: Callable[..., Any]) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    async def __call__(self, token: str, **_given: Any) -> Identity:
        """Refuse everybody."""
        return await deny(token)


def ban_in_wrapper(patch: pytest.MonkeyPatch, verifier: Verifier) -> None:
    patch.setattr(verifier, "verify", Wrapper(verifier.verify))


def ban_in_another(patch: pytest.MonkeyPatch, verifier: Verifier) -> None:
    unknown = Response(404, json={"errors": [{"code": "resource_not_found", "message": "no"}]})
    another = Verifier(verifier.settings, transport=MockTransport(lambda _: unknown))
    patch.setattr(verifier, "verify", another.verify)


@pytest.mark.parametrize(
    ("kind", "ban"),
    [
        (Stricter, ban_in_subclass),
        (Verifier, ban_on_instance),
        (Verifier, ban_on_class),
        (Verifier, ban_in_wrapper),
        (Verifier, ban_in_another),
    ],
)
async def test_an_overridden_verify_is_called_for_cached_credentials_too(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Verifier],
    ban: Callable[[pytest.MonkeyPatch, Verifier], None],
) -> None:
    verifier = kind(world.settings(), transport=world.emulator.transport)
    world.verifiers.append(verifier)
    token = world.token()

    async with calling(protected(verifier)) as client:
        known = [(await client.get("/", headers=bearer(token))).status_code for _ in range(2)]
        ban(monkeypatch, verifier)
        banned = await client.get("/", headers=bearer(token))

    assert known == [200, 200]
    assert banned.json()["code"] == "token_invalid"


async def test_a_verify_that_was_replaced_before_the_middleware_was_imported_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, token = world.verifier(), world.token()
    await verifier.verify(token)
    ban_on_class(monkeypatch, verifier)

    spec = find_spec("clerk_m2m.asgi.middleware")
    assert spec is not None
    assert spec.loader is not None
    imported_late = module_from_spec(spec)
    spec.loader.exec_module(imported_late)

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pytest.fail("the request was accepted")

    guarded = imported_late.MachineAuthMiddleware(app, verifier=verifier)
    authorization = b"authorization", b"Bearer " + token.encode()
    status, problem = await ask(guarded, {**http_scope(), "headers": [authorization]})

    assert (status, problem["code"]) == (401, "token_invalid")
