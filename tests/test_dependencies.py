"""The page about dependencies has a row for each that is declared, and names files that use it."""

from __future__ import annotations

import re
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement
from test_architecture import imports, within
from test_docs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DECLARED = {
    Requirement(line).name
    for line in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
} - {PROJECT["name"]}
ROWS = {
    name: re.findall(r"`([^`]+)`", files)
    for name, files in re.findall(
        r"^\| `([\w-]+)` \|.*\| ([^|]+) \|$",
        (ROOT / "docs/dependencies.md").read_text("utf-8"),
        re.MULTILINE,
    )
}
MODULES = {
    "PyJWT": "jwt",
    "opentelemetry-api": "opentelemetry",
    "clerk-backend-api": "clerk_backend_api",
}
MODULES |= {"python-json-logger": "pythonjsonlogger", "prometheus-client": "prometheus_client"}
MODULES |= {"uvicorn-worker": "uvicorn_worker", "pytest-asyncio": "pytest_asyncio"}
MODULES |= {"cosmic-ray": "cosmic_ray", "opentelemetry-sdk": "opentelemetry.sdk"}
MODULES |= {"opentelemetry-instrumentation-httpx": "opentelemetry.instrumentation.httpx"}


def test_every_declared_dependency_has_its_row_and_every_row_its_dependency() -> None:
    assert set(ROWS) == DECLARED


@pytest.mark.parametrize("name", ROWS)
def test_the_files_of_a_row_use_the_dependency(name: str) -> None:
    module = MODULES.get(name, name)
    imported = [each for each in imports() if each.imported.split(".")[0] == module]

    assert ROWS[name]
    for file in ROWS[name]:
        if file.startswith("clerk_m2m/"):
            place = file.removeprefix("clerk_m2m/").removesuffix(".py").removesuffix("/__init__")
            users = [each.importer for each in imported if not each.annotation_only]
            assert any(within(each, {place.replace("/", ".")}) for each in users), file
        else:
            assert module in (ROOT / file).read_text("utf-8"), file
