"""Every link on the pages has a target, and the reference documents every public name."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
HOME: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"][
    "Homepage"
]
IN_REPOSITORY = re.compile(
    rf"(?:{re.escape(HOME)}/(?:blob|tree)"
    rf"|{re.escape(HOME.replace('//github.com', '//raw.githubusercontent.com'))})/main/([^)#\s]+)"
)
PUBLIC_MODULES = [
    "clerk_m2m",
    "clerk_m2m.backend_api",
    "clerk_m2m.observe",
    "clerk_m2m.emulator",
    "clerk_m2m.testing",
]
PUBLIC_NAMES = [
    (module, name) for module in PUBLIC_MODULES for name in importlib.import_module(module).__all__
]


def links_of(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))


def test_every_link_of_the_readme_works_on_a_package_index() -> None:
    """A package index shows the README without the files beside it, so links are absolute."""
    links = links_of(ROOT / "README.md")

    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    assert [link for link in links if "clerk_m2m" in link and not IN_REPOSITORY.match(link)] == []


def test_the_readme_fits_into_120_lines() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_link_into_the_repository_names_a_file_that_exists(page: Path) -> None:
    named = IN_REPOSITORY.findall(page.read_text("utf-8"))

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_links_only_to_pages_beside_it_and_to_absolute_urls(page: Path) -> None:
    """Such a link works on GitHub and in the site; the build of the site checks its anchor."""
    relative = [link for link in links_of(page) if not re.match(r"https?://|#", link)]

    assert [link for link in relative if not (DOCS / link.partition("#")[0]).is_file()] == []
    assert [link for link in relative if "/" in link] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_item_of_a_list_holds_no_other_block(page: Path) -> None:
    """GitHub shows a block that two spaces indent inside the item. The site ends the list there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)

    assert re.findall(r"^\n +\S.*|^ +[-*] .*|^ +```.*", text, re.MULTILINE) == []
    assert re.findall(r"^(?![-*|] |\s|\d+\. |#|$).*\n[-*] .*", text, re.MULTILINE) == []


def test_the_site_and_its_home_page_list_every_page() -> None:
    site = (ROOT / "zensical.toml").read_text("utf-8")
    tables = set(links_of(DOCS / "index.md"))

    assert sorted(re.findall(r'= "([\w-]+\.md)"', site)) == [page.name for page in PAGES]
    assert {page.name for page in PAGES} - {"index.md"} <= tables


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_an_install_line_works_inside_a_clone(page: Path) -> None:
    """There is no release on a package index, so a reader installs from a clone."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    installed = re.findall(r"pip install '\.\[([\w,]+)\]'", page.read_text("utf-8"))

    assert "./clerk_m2m[" not in page.read_text("utf-8")
    assert {name for each in installed for name in each.split(",")} <= set(
        extras["optional-dependencies"]
    )


def test_the_reference_holds_every_public_name_once() -> None:
    text = (DOCS / "reference.md").read_text("utf-8")
    listed = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    # Two names are in two modules; the reference has them under the second.
    twice = {"clerk_m2m.ClerkClient", "clerk_m2m.SyncClerkClient"}

    assert {f"{module}.{name}" for module, name in PUBLIC_NAMES} - twice - set(listed) == set()
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(("module", "name"), PUBLIC_NAMES, ids=lambda each: str(each))
def test_a_public_name_is_documented(module: str, name: str) -> None:
    value = getattr(importlib.import_module(module), name)
    own = getattr(value, "__doc__", None) or ""
    # A dataclass without a docstring of its own gets one that is its signature.
    found = documentation_of_assignment(name) or own.strip()

    assert found
    assert not found.startswith(f"{name}(")


def documentation_of_assignment(name: str) -> str | None:
    """Return the text below `NAME = …`, which documents an alias or a constant."""
    owner = {
        "Identity": "clerk_m2m/identity.py",
        "OnError": "clerk_m2m/asgi/middleware.py",
        "OnEvent": "clerk_m2m/observe/events.py",
        "UNSET": "clerk_m2m/backend_api/calls.py",
    }.get(name)
    if owner is None:
        return None
    body = ast.parse((ROOT / owner).read_text("utf-8")).body
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
            match following:
                case ast.Expr(ast.Constant(str(text))):
                    return text
    pytest.fail(f"{name} has no text below it in {owner}.")
