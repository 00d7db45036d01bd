"""CONTRIBUTING.md is true, and a new part has everything that the page requires."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from test_architecture import FOLDERS, LAYERS, internal, layer_of, unit
from test_docs import ROOT, blocks

from clerk_m2m import RefusalError, Stats, errors
from clerk_m2m.credentials import KINDS
from clerk_m2m.secret import without_credentials
from clerk_m2m.verification.offline import READERS
from harness import World

PAGE = ROOT / "CONTRIBUTING.md"
TEXT = PAGE.read_text("utf-8")
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))))
LAYER_ROWS = [
    [re.findall(r"`(\w+)`", cell) for cell in (cells[0], cells[-1])]
    for cells in re.findall(r"^\| (`.*?) \| (.*?) \|(.*?)\|$", TEXT, re.MULTILINE)
]


def commands() -> list[list[str]]:
    lines = [line for block in blocks(PAGE, "console") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]


def test_every_file_that_the_page_names_exists() -> None:
    files = [each for each in QUOTED if re.fullmatch(r"[\w./-]+(/|\.py|\.md|\.yml)", each)]
    missing = [each for each in files if "/" in each and not (ROOT / each).exists()]

    assert len(files) > 20
    assert missing == []


def test_every_test_that_the_page_names_exists() -> None:
    named = {each for each in QUOTED if each.startswith("test_")}
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }

    assert len(named) > 5
    assert named - defined == set()


@pytest.mark.parametrize(
    ("name", "file"),
    re.findall(r"`(\w+)`(?: and `\w+`)? (?:in|of) `(clerk_m2m/[\w/]+\.py)`", TEXT),
)
def test_a_name_is_in_the_file_that_the_page_gives(name: str, file: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / file).read_text("utf-8"))


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_page_exists(words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[0].endswith("pytest"):
        path, *selection = words[1:]
        assert (ROOT / path).exists()
        if selection:
            option, part = selection
            names = re.findall(
                r"^(?:async )?def (test_\w+)", (ROOT / path).read_text("utf-8"), re.M
            )
            assert option == "-k"
            assert any(part in name for name in names)
    else:  # the set-up, which made the environment that this test runs in
        assert Path(words[0]).name in ("python3", "pip")


def test_the_page_lists_the_layers_that_imports_are_checked_against() -> None:
    vocabulary, *rows = [units for units, _ in LAYER_ROWS]
    beside = {name for layer in LAYERS for name in layer} - {unit for row in rows for unit in row}

    assert set(vocabulary) == beside
    assert set(FOLDERS) <= {name for row in rows for name in row}
    order = [layer_of(f"clerk_m2m.{name}") if name != "__init__" else _public() for (name,) in rows]
    assert order == sorted(order)


def _public() -> int:
    return next(index for index, layer in enumerate(LAYERS) if "__init__" in layer)


def test_a_folder_imports_only_the_folders_that_the_page_lists() -> None:
    vocabulary = set(LAYER_ROWS[0][0])
    said = {name: set(uses) for (name, *_), uses in LAYER_ROWS[1:]}
    unsaid = {
        (unit(each.importer), unit(each.imported))
        for each in internal()
        if unit(each.importer) in said
        and unit(each.imported) not in said[unit(each.importer)] | vocabulary
        and unit(each.importer) != unit(each.imported)
    }

    assert unsaid == set()


async def test_the_shared_tier_of_the_page_wraps_the_verification(world: World) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks(PAGE, "python"):
        exec(compile(block, str(PAGE), "exec"), namespace)
    verifier = world.verifier(world.settings())
    verifier._ask = namespace["SharedTier"](verifier._ask)

    identity = await verifier.verify(world.token())

    assert identity.subject == world.caller.id
    assert verifier.stats.paid == 1


# Tests that fail until a new part is complete. The page names them; no other file has them.


@pytest.mark.parametrize("prefix", [each.prefix for each in KINDS.values() if each.prefix])
def test_a_credential_of_every_kind_is_removed_from_an_error_text(prefix: str) -> None:
    credential = f"{prefix}_{'x' * 40}"

    assert credential not in without_credentials(f"{credential!r} is not a machine id.")


def test_every_kind_of_jwt_has_its_reader() -> None:
    assert set(READERS) == {each for each, kind in KINDS.items() if kind.operation is None}


def test_the_page_about_metrics_names_every_counter() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")

    assert [name for name in Stats().as_dict() if f"`{name}`" not in text] == []


def test_the_page_about_answers_lists_every_refusal() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    refusals = [each for each in classes if issubclass(each, RefusalError) and "code" in vars(each)]
    rows = [f"| {each.status} | `{each.code}` |" for each in refusals]

    text = (ROOT / "docs" / "answers.md").read_text("utf-8")
    assert [row for row in rows if row not in text] == []


def test_every_error_is_in_the_list_of_its_module() -> None:
    defined = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, Exception)
    }

    assert defined <= set(errors.__all__)
