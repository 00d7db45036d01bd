"""The layers of the package and the owners of its dependencies: tables for every import.

A unit is a folder of the package, or a module beside the folders. A unit imports only from units
that the table lists before it. Within a folder, imports have no cycle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import clerk_m2m

LAYERS = [
    # the vocabulary: values and errors, no I/O
    {"secret", "clock", "tasks", "decision", "identity", "lazy"},
    {"background"},
    {"errors"},
    {"environment"},
    {"credentials"},
    # one folder per part of the work
    {"observe"},
    {"transport"},
    {"backend_api"},
    {"lookups"},
    {"graph"},
    {"fleet_settings"},
    {"settings"},
    {"outbound"},
    {"fleet"},
    {"verification"},
    {"asgi"},
    # the public names, and the parts that use the package as an application does
    {"__init__"},
    {"emulator"},
    {"testing"},
    {"demo"},
    {"cli"},
    {"__main__"},
]

FOLDERS = sorted(
    {"asgi", "backend_api", "cli", "demo", "emulator", "fleet", "graph", "lookups", "observe"}
    | {"outbound", "testing", "transport", "verification"}
)

# The modules or folders that import a library at run time. The parts that use the package as an
# application does (the plugin, the demo, the command line) may make HTTP calls themselves.
OWNERS = {
    "cryptography": {"emulator", "fleet.seal"},
    "fastapi": {"asgi.guards", "demo"},
    "httpcore": {"transport.sockets"},
    "httpx": {"transport", "outbound", "testing", "demo", "cli"},
    "httpx2": {"outbound.generations"},
    "opentelemetry": {"observe.otel"},
    "prometheus_client": {"observe.prometheus"},
    "jwt": {"verification.signature", "emulator"},
    "pydantic_core": {"identity", "secret"},  # only when pydantic asks for a schema
    "pytest": {"testing"},
    "redis": {"fleet.log"},
    "rich": {"demo", "cli"},
    "sqlite3": {"emulator", "cli"},
    "starlette": {"asgi", "testing", "cli", "emulator", "demo"},
    "tomlkit": {"cli"},
    "typer": {"cli"},
    "uvicorn": {"testing", "demo", "cli"},
    "websockets": {"demo"},
}

# The modules that may use a library's types in annotations without importing it at run time.
ANNOTATED = {
    "cryptography": {"verification.signature", "verification.key_set"},
    "httpx": {
        "backend_api.client",
        "backend_api.opening",
        "transport.body",
        "transport.http",
        "transport.sockets",
        "verification.parts",
        "verification.verifier",
    },
}

# Who reads or changes the environment. The demo only keeps its own calls off a proxy.
ENVIRONMENT = {"environment", "demo"}

MAX_LINES = 350
NOT_IMPORTED = ["jwt", "cryptography", "fastapi", "typer", "rich", "uvicorn", "pytest", "sqlite3"]
NOT_IMPORTED += ["redis"]
NOT_IMPORTED += ["prometheus_client", "opentelemetry"]

PACKAGE = Path(clerk_m2m.__file__).parent


@dataclass(frozen=True)
class Import:
    """One import: the module that has it, what it imports by its full name, and how."""

    importer: str
    imported: str
    annotation_only: bool


def within(module: str, places: set[str]) -> bool:
    """Return True if a module is one of the places, or in one of them."""
    name = module.removeprefix("clerk_m2m.")
    return any(name == place or name.startswith(f"{place}.") for place in places)


def name_of(path: Path) -> str:
    """Return the full name of a module, such as `clerk_m2m.emulator.app`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(("clerk_m2m", *parts))


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def unit(module: str) -> str:
    """Return the module's name in the table: the first part after the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def imports() -> tuple[Import, ...]:
    """Return every import of the package, lazy ones and those for type checkers included."""
    return tuple(each for module, path in MODULES.items() for each in _imports_of(module, path))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _imports_of(module: str, path: Path) -> Iterator[Import]:
    tree = _tree(path)
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        for imported in _imported(node, package):
            yield Import(module, imported, annotation_only=node in guarded)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            above = ".".join(package.split(".")[: len(package.split(".")) - level + 1])
            whole = ".".join(part for part in (above if level else "", module) if part)
            for alias in names:
                inner = f"{whole}.{alias.name}"
                yield inner if inner in MODULES else whole
        # A module that is imported lazily, by its name.
        case ast.Constant(value=str(text)) if text in MODULES and text != "clerk_m2m":
            yield text


def internal() -> list[Import]:
    return [each for each in imports() if each.imported.split(".")[0] == "clerk_m2m"]


def layer_of(module: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if unit(module) in layer)


def test_every_module_has_its_layer_and_every_layer_its_modules() -> None:
    listed = [module for layer in LAYERS for module in layer]

    assert sorted(listed) == sorted({unit(module) for module in MODULES} | {"__init__"})


def test_a_unit_imports_only_from_layers_listed_before_it() -> None:
    upward = [
        f"{each.importer} imports {each.imported}"
        for each in internal()
        if unit(each.importer) != unit(each.imported)
        and layer_of(each.imported) >= layer_of(each.importer)
    ]

    assert upward == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_within_a_folder_have_no_cycle(folder: str) -> None:
    graph: dict[str, set[str]] = {}
    for each in internal():
        if unit(each.importer) == unit(each.imported) == folder:
            graph.setdefault(each.importer, set()).add(each.imported)

    assert cycle_in(graph) == []


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        cycle: list[str] = exc.args[1]
        return cycle
    return []


def test_every_folder_has_a_docstring_that_explains_it() -> None:
    """The docstring of its `__init__` is the part's theory of operation."""
    found = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    silent = [name for name in found if len(_docstring(PACKAGE / name)) < 100]

    assert found == FOLDERS
    assert silent == []


def _docstring(folder: Path) -> str:
    return ast.get_docstring(_tree(folder / "__init__.py")) or ""


def test_the_emulator_imports_nothing_else_of_the_package() -> None:
    """It is the independent oracle that the rest is tested against."""
    assert {unit(each.imported) for each in internal() if unit(each.importer) == "emulator"} == {
        "emulator"
    }


def test_the_guards_import_nothing_that_does_io() -> None:
    """A guard does no I/O, so nothing that it imports, directly or not, does I/O."""
    reached, waiting = set[str](), ["clerk_m2m.asgi.guards"]
    while waiting:
        importer = waiting.pop()
        found = {each.imported for each in internal() if each.importer == importer}
        waiting += found - reached
        reached |= found

    assert {unit(module) for module in reached}.isdisjoint(
        {"verification", "backend_api", "transport", "lookups"}
    )


@pytest.mark.parametrize("library", OWNERS)
def test_only_the_owners_of_a_library_import_it(library: str) -> None:
    importers = {
        each.importer
        for each in imports()
        if each.imported.split(".")[0] == library and not each.annotation_only
    }

    assert [each for each in sorted(importers) if not within(each, OWNERS[library])] == []
    assert importers, "the table names a library that nobody imports"


@pytest.mark.parametrize("library", OWNERS)
def test_only_owners_and_listed_modules_annotate_with_a_librarys_types(library: str) -> None:
    annotated = {
        each.importer
        for each in imports()
        if each.imported.split(".")[0] == library and each.annotation_only
    }
    allowed = OWNERS[library] | ANNOTATED.get(library, set())

    assert [each for each in sorted(annotated) if not within(each, allowed)] == []


def test_every_library_has_an_owner() -> None:
    libraries = {each.imported.split(".")[0] for each in imports()}
    ours = {"clerk_m2m", *sys.stdlib_module_names} - {"sqlite3"}

    assert libraries - ours == set(OWNERS)


def test_only_the_configuration_reads_the_environment() -> None:
    readers = {
        unit(module)
        for module, path in MODULES.items()
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"))
        and ast.unparse(node.value) == "os"
    }
    importers = {
        unit(module)
        for module, path in MODULES.items()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ImportFrom) and node.module == "os"
    }

    assert "environment" in readers
    assert readers | importers <= ENVIRONMENT


def test_no_module_has_more_than_350_lines() -> None:
    lines = {module: len(path.read_text("utf-8").splitlines()) for module, path in MODULES.items()}

    assert {module: count for module, count in lines.items() if count > MAX_LINES} == {}


def test_importing_the_package_loads_no_optional_library() -> None:
    script = f"""
import sys, httpx, starlette.requests, starlette.responses
before = set(sys.modules)  # httpx itself loads rich where that is installed
import clerk_m2m
print([name for name in {NOT_IMPORTED} if name in sys.modules.keys() - before])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout.strip() == "[]"
