"""The example of three services in a row: who is whose caller, and what the last one learns."""

from __future__ import annotations

import runpy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from example_modules import EXAMPLES, example


@pytest_asyncio.fixture
async def chain() -> AsyncIterator[Any]:
    """The three services."""
    async with AsyncExitStack() as stack:
        yield example("chain").Chain(stack)


async def test_each_hop_has_its_own_identity_and_c_learns_nothing_of_a(chain: Any) -> None:
    answer = await chain.to_b.get("/relay")

    assert answer.json() == {"caller": chain.b.id, "claims": {}}
    assert chain.a.id not in answer.text


async def test_c_learns_of_a_what_b_passes_on_in_claims(chain: Any) -> None:
    answer = await chain.to_b.get("/for-me")

    assert answer.json() == {"caller": chain.b.id, "claims": {"on_behalf_of": chain.a.id}}


async def test_the_two_ways_of_b_have_a_token_each_however_often_they_are_used(chain: Any) -> None:
    for _ in range(3):
        await chain.to_b.get("/relay")
        await chain.to_b.get("/for-me")

    assert chain.emulator.calls["createM2MToken"] == 3


async def test_a_does_not_get_into_c_by_itself(chain: Any) -> None:
    answer = await chain.client(chain.app_c, chain.a).get("/whoami")

    assert answer.status_code == 401
    assert answer.json()["code"] == "token_invalid"


def test_the_example_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "chain.py"), run_name="__main__")

    told = capsys.readouterr().out
    assert "'claims': {}" in told
    assert "'claims': {'on_behalf_of': 'mch_" in told
    assert "401 token_invalid" in told
    assert "5 tokens" in told
