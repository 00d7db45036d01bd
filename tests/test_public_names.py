"""The public names: sorted, complete, importable, documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import clerk_m2m
from clerk_m2m import errors

PUBLIC_MODULES = [
    importlib.import_module(f"clerk_m2m.{each.name}")
    for each in pkgutil.iter_modules([str(Path(clerk_m2m.__file__).parent)])
    if not each.name.startswith("_")
]


def test_the_public_names_are_sorted_and_unique() -> None:
    assert clerk_m2m.__all__ == sorted(set(clerk_m2m.__all__))


def test_the_public_names_are_complete() -> None:
    """Every name that the package imports from its own modules is public, lazy ones too."""
    tree = ast.parse(Path(clerk_m2m.__file__).read_text("utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("clerk_m2m.")
        for alias in node.names
        if not (alias.asname or "").startswith("_")
    }

    assert imported == set(clerk_m2m.__all__)
    assert set(clerk_m2m._LAZY) <= imported


def test_every_error_is_a_public_name() -> None:
    assert set(errors.__all__) <= set(clerk_m2m.__all__)


@pytest.mark.parametrize("name", clerk_m2m.__all__)
def test_a_public_name_can_be_imported_and_has_a_docstring(name: str) -> None:
    value = getattr(clerk_m2m, name)

    # An alias has no docstring; the types that it stands for have one.
    if name == "Identity":
        assert [each.__name__ for each in get_args(value)] == [
            "MachineIdentity",
            "ApiKeyIdentity",
            "OAuthIdentity",
        ]
        return
    if name == "OnError":
        assert "HTTPConnection" in str(value)
        return
    first = (inspect.getdoc(value) or "").split("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "`")), f"{name} opens with no sentence"
    assert not first.startswith(f"{name}("), f"{name} has only a generated docstring"


@pytest.mark.parametrize("name", clerk_m2m._LAZY)
def test_a_name_that_is_imported_lazily_is_the_same_object_each_time(name: str) -> None:
    owner = importlib.import_module(clerk_m2m._LAZY[name])

    assert getattr(clerk_m2m, name) is getattr(clerk_m2m, name) is getattr(owner, name)


def test_every_public_name_can_be_imported_without_any_extra() -> None:
    script = """
import sys
for name in ("fastapi", "uvicorn", "websockets", "typer", "click", "rich", "pytest"):
    sys.modules[name] = None  # as if it were not installed
import clerk_m2m
print(len([getattr(clerk_m2m, name) for name in clerk_m2m.__all__]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout.strip() == str(len(clerk_m2m.__all__))


def test_dir_lists_every_public_name() -> None:
    assert set(clerk_m2m.__all__) <= set(dir(clerk_m2m))


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'clerk_m2m' has no attribute 'nothing'"):
        _ = clerk_m2m.nothing


@pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
def test_a_public_module_and_its_classes_and_functions_have_docstrings(module: ModuleType) -> None:
    undescribed = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
        and not (value.__doc__ or "").strip()
    ]

    assert module.__doc__
    assert undescribed == []


@pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
def test_public_methods_have_docstrings(module: ModuleType) -> None:
    undescribed = [
        f"{name}.{method}"
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and name[0] != "_"
        for method, function in vars(value).items()
        if not method.startswith("_")
        and (inspect.isfunction(function) or isinstance(function, property))
        and not (function.__doc__ or "").strip()
    ]

    assert undescribed == []
