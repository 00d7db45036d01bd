"""The example of three services, a -> b -> c: the caller and the claims that each one sees."""

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


async def test_c_sees_b_as_its_caller_and_nothing_of_a(chain: Any) -> None:
    answer = await chain.to_b.get("/relay")

    assert answer.json() == {"caller": chain.b.id, "claims": {}}
    assert chain.a.id not in answer.text


async def test_b_passes_its_caller_on_to_c_in_claims(chain: Any) -> None:
    answer = await chain.to_b.get("/for-me")

    assert answer.json() == {"caller": chain.b.id, "claims": {"on_behalf_of": chain.a.id}}


async def test_each_client_mints_one_token_however_often_it_is_used(chain: Any) -> None:
    for _ in range(3):
        await chain.to_b.get("/relay")
        await chain.to_b.get("/for-me")

    assert chain.emulator.calls["createM2MToken"] == 3


async def test_c_refuses_a_token_of_a(chain: Any) -> None:
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
