"""The behaviour that all graph sources share, and what a wrong source cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clerk_m2m import ConfigurationError, GraphSource, RefusalError, ScopeGraph
from clerk_m2m.graph.source import StaticSource
from harness import World


class OwnSource:
    """A user's source, which knows an edge after it was fetched."""

    def __init__(self, edges: set[tuple[str, str]]) -> None:
        self.edges = edges
        self.known: dict[tuple[str, str], bool] = {}

    def allows(self, caller: str, callee: str) -> bool | None:
        return self.known.get((caller, callee))

    async def fetch(self, caller: str, callee: str, *, timeout: float) -> bool:
        assert timeout > 0
        await asyncio.sleep(0)
        self.known[caller, callee] = (caller, callee) in self.edges
        return self.known[caller, callee]


def static(world: World, _folder: Path) -> Any:
    return ScopeGraph({world.caller.id: [world.callee.id]})


def file(world: World, folder: Path) -> Any:
    path = folder / "graph.toml"
    path.write_text(
        f'[machines.caller]\nid = "{world.caller.id}"\nmay_call = ["{world.callee.id}"]\n'
    )
    return path


def own(world: World, _folder: Path) -> Any:
    return OwnSource({(world.caller.id, world.callee.id)})


def live(_world: World, _folder: Path) -> Any:
    return "live"


@pytest.mark.parametrize("make", [static, file, own, live])
@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
async def test_only_a_caller_with_an_edge_is_accepted(
    world: World, tmp_path: Path, make: Callable[[World, Path], Any], token_format: str
) -> None:
    world.emulator.allow(world.stranger, world.callee)
    stranger = world.token(world.stranger, token_format=token_format)
    world.emulator.cut(
        world.stranger, world.callee
    )  # the token keeps the scope that it was minted with
    verifier = world.verifier(world.live_settings(graph=make(world, tmp_path)))
    caller = world.token(token_format=token_format)

    for _ in range(2):
        assert (await verifier.verify(caller)).subject == world.caller.id
        with pytest.raises(RefusalError) as refused:
            await verifier.verify(stranger)
        assert refused.value.code == "scope_denied"


@pytest.mark.parametrize(
    "answer",
    [1, "yes", object(), [True], "coroutine"],
    ids=["number", "text", "object", "list", "coroutine"],
)
@pytest.mark.parametrize("wrong", ["allows", "fetch"])
async def test_a_result_of_allows_other_than_true_or_false_is_503(
    world: World, answer: Any, wrong: str
) -> None:
    async def forgotten() -> bool:
        return True

    class Wrong(OwnSource):
        def allows(self, caller: str, callee: str) -> Any:
            if wrong == "fetch":
                return None
            return forgotten() if answer == "coroutine" else answer

        async def fetch(self, caller: str, callee: str, *, timeout: float) -> Any:
            return forgotten() if answer == "coroutine" else answer

    verifier = world.verifier(world.settings(graph=Wrong(set())))
    for _ in range(2):
        with pytest.raises(RefusalError) as refused:
            await verifier.verify(world.token())
        assert refused.value.code == "verification_unavailable"


async def test_a_fetch_that_returns_none_is_503(world: World) -> None:
    class Silent(OwnSource):
        async def fetch(self, caller: str, callee: str, *, timeout: float) -> Any:
            return None

    verifier = world.verifier(world.settings(graph=Silent(set())))
    with pytest.raises(RefusalError) as refused:
        await verifier.verify(world.token())
    assert refused.value.code == "verification_unavailable"


def test_a_source_with_async_allows_or_sync_fetch_is_rejected(world: World) -> None:
    class Awaited(OwnSource):
        async def allows(self, caller: str, callee: str) -> Any:  # type: ignore[override]
            return True

    class Blocking(OwnSource):
        def fetch(self, caller: str, callee: str, *, timeout: float) -> Any:
            return True

    assert isinstance(OwnSource(set()), GraphSource)
    for source, text in ((Awaited(set()), "allows\\(\\)"), (Blocking(set()), "fetch\\(\\)")):
        with pytest.raises(ConfigurationError, match=text):
            world.settings(graph=source)


async def test_forget_and_aclose_of_a_source_are_optional(world: World) -> None:
    verifier = world.verifier(world.settings(graph=OwnSource(set())))
    verifier.invalidate(machine_id=world.caller.id)

    with pytest.raises(RefusalError) as refused:
        await verifier.verify(world.token())
    assert refused.value.code == "scope_denied"
    await verifier.aclose()


async def test_a_fixed_graph_never_needs_fetch() -> None:
    orders, billing, audit = ("mch_" + letter * 27 for letter in "oba")
    source = StaticSource(ScopeGraph({orders: [billing]}))

    assert source.allows(orders, billing) is True
    assert source.allows(orders, audit) is False
    assert source.allows(audit, orders) is False
    assert await source.fetch(orders, billing, timeout=1) is True
    assert await source.fetch(orders, audit, timeout=1) is False
