"""The code blocks and tables of docs/emulator.md are true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clerk_m2m.emulator import Emulator

PAGE = Path(__file__).parents[2] / "docs" / "emulator.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def blocks(language: str) -> list[str]:
    return [code for found, code in BLOCKS if found == language]


def test_every_block_is_python_or_toml() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "toml"}


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block_runs(code: str) -> None:
    exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("code", blocks("toml"))
async def test_a_toml_block_is_a_valid_seed(code: str, client: Any) -> None:
    seed = tomllib.loads(code)
    emulator = Emulator(seed=seed)
    page = (await client(emulator.secret_key, emulator).get("/machines?limit=500")).json()
    emulator.close()
    assert seed["machines"].keys() <= {machine["name"] for machine in page["data"]}


def test_every_kind_of_fault_that_the_page_names_exists() -> None:
    emulator = Emulator()
    kinds = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", fault_table(), re.M)))
    assert len(kinds) == 13
    for kind in kinds:
        emulator.fail(kind=kind, status=500, body="x")
    assert [fault.kind for fault in emulator.faults] == kinds
    emulator.close()


def test_the_statuses_listed_on_the_page_can_be_scripted() -> None:
    table = (
        PAGE.read_text(encoding="utf-8")
        .partition("| `status` | `operation`")[2]
        .partition("\n\n")[0]
    )
    rows = re.findall(r"^\| ([0-9, ]+) \| (.*?) \|", table, re.M)
    assert len(rows) == 5
    emulator = Emulator()
    for statuses, operations in rows:
        for status in statuses.split(", "):
            for operation in re.findall(r"`(\w+)`", operations) or ["*"]:
                fault = emulator.fail(operation, status=int(status))
                assert (fault.operation, fault.status) == (operation, int(status))
    emulator.close()


def fault_table() -> str:
    return PAGE.read_text(encoding="utf-8").partition("| `kind` |")[2].partition("\n\n")[0]
